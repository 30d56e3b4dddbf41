"""What a model learns about itself after its training: how sure it may be, what to decide, where it applies."""

from __future__ import annotations

import copy
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
import xarray as xr
from numpy.typing import NDArray
from scipy.spatial.distance import cdist
from torch import Tensor
from torch.nn import functional

from xland.arguments import checked
from xland.errors import CheckpointError, ConfigurationError, ModelError
from xland.geo.grid import Grid
from xland.geo.split import CELL_COLUMNS, Part, cell_of
from xland.models import DEFAULT_MODEL, find_model
from xland.models.applicability import Applicability, cell_features, static_means
from xland.models.calibration import BINS, Calibration, calibration_error
from xland.models.checkpoint import Checkpoint, update_card
from xland.models.inputs import MASKED
from xland.training.configuration import Configuration, parse_configuration
from xland.training.data.loader import Place
from xland.training.data.material import Material, open_material
from xland.training.data.patches import farthest_points
from xland.training.data.samples import make_dataset, take_census
from xland.training.learn.validation import ScoredPixels, collect_scores, score_pairs
from xland.training.objective import proven_offsets, tabulate_pairs
from xland.training.ranks.group import Device, Group, join_group
from xland.vocabulary import LAND_CLASSES

_PIXELS = 400_000
"""Pixels that a scaling is fitted on at most."""


@checked(ConfigurationError)
def calibrate(
    model: str | Path | Checkpoint = DEFAULT_MODEL,
    *,
    forcing: str | Path | xr.Dataset | None = None,
    target: str | Path | xr.DataArray | None = None,
    static: str | Path | xr.Dataset | None = None,
    prior: str | Path | xr.DataArray | None = None,
    store: str | Path | None = None,
    device: Device = "auto",
) -> Checkpoint:
    """Fit calibration, decision and applicability of a trained model, and enter them into its card.

    A training does this at its end. It needs the data of the training: by default those that the
    configuration in the card names.

    Parameters
    ----------
    model : str, path or Checkpoint
        Name of a shipped model, or the folder of a trained one; its card is replaced, its weights stay.
    forcing, target, static, prior : optional
        Data of the training in place of those that its configuration names; see
        :func:`xland.training.run.train`.
    store : path, optional
        Training store, in place of all of these.
    device : {"auto", "cpu", "cuda"}

    Returns
    -------
    Checkpoint

    Raises
    ------
    CheckpointError
        If the card does not say how the model was trained, or cannot be written.
    ConfigurationError
        If the data are not those of the training: their normalisation, or the classes on validation cells, differ.
    ModelError
        For several models at once.
    XlandError
        If data or store do not fit, as :func:`xland.training.run.train` says.
    """
    checkpoint = find_model(model)
    if not isinstance(checkpoint, Checkpoint):
        raise ModelError(f"models are calibrated one by one, not {len(checkpoint.members)} together: give one")
    configuration = _configuration_of(checkpoint)
    given = {"forcing": forcing, "target": target, "static": static, "prior": prior}
    configuration, material = open_material(configuration, given, store)
    _check_same_data(checkpoint, configuration)
    with join_group(device) as group:
        return fit_card(checkpoint, configuration, material, group)


def fit_card(checkpoint: Checkpoint, configuration: Configuration, material: Material, group: Group) -> Checkpoint:
    """Fit calibration, decision and applicability, and enter them into the card of a model.

    Parameters
    ----------
    checkpoint : Checkpoint
    configuration : Configuration
        With normalised inputs.
    material : Material
    group : Group
        This rank alone works, on its device.
    """
    schedule = configuration.schedule
    dataset = make_dataset(configuration, material, Part.VALIDATION, take_census(material.source))
    network = copy.deepcopy(checkpoint.network()).to(group.device)
    share = max(1, schedule.batch // (group.ranks * schedule.accumulate))
    pixels = collect_scores(network, dataset, share, group, workers=schedule.workers)
    place = _split_cell(material, pixels)
    area = material.grid.cell_area()[pixels.row]
    counts = np.bincount(pixels.target, minlength=len(checkpoint.inputs.classes)).tolist()
    _check_same_target(checkpoint, counts)
    every = slice(None, None, max(1, -(-len(pixels.target) // _PIXELS)))
    scaling = fit_scaling(pixels.scores[every], pixels.target[every], place[every], area[every])
    scores = _scaled(pixels.scores, scaling.calibration)
    land = np.isin(pixels.target, LAND_CLASSES)
    offsets = proven_offsets(scores[land], pixels.target[land], LAND_CLASSES)
    before = _error(pixels.scores, pixels.target, area, np.zeros_like(offsets))
    after = _error(scores, pixels.target, area, offsets)
    entries = {
        "calibration": {**_describe(scaling, before, after, len(np.unique(place))), "pixels_of_classes": counts},
        "decision": [round(float(value), 4) for value in offsets],
    }
    if "validation" not in checkpoint.card:  # models that were joined have none of their own
        classes = len(checkpoint.inputs.classes)
        found = score_pairs(tabulate_pairs(pixels.target, pixels.scores.argmax(axis=1), classes))
        entries["validation"] = {name: round(value, 4) for name, value in found.items()}
    return update_card(checkpoint.folder, entries, applicability=fit_applicability(material, schedule.seed))


def _describe(scaling: Scaling, before: float, after: float, cells: int) -> dict[str, Any]:
    return {
        **scaling.calibration.to_dict(),
        "method": scaling.method,
        "cells_of_the_split": cells,
        "cross_validated_loss": {name: round(value, 6) for name, value in scaling.losses.items()},
        "validation_calibration_error": {"before": round(before, 4), "after": round(after, 4), "bins": BINS},
    }


def _configuration_of(checkpoint: Checkpoint) -> Configuration:
    try:
        values = checkpoint.card["training"]["configuration"]
    except (KeyError, TypeError) as error:
        raise CheckpointError(
            f"the card of {checkpoint.name!r} ({checkpoint.folder}) does not say how the model was trained: "
            "a model of `xland train` can be calibrated, others cannot"
        ) from error
    return parse_configuration(values, f"the card of {checkpoint.name!r}")


def _check_same_data(checkpoint: Checkpoint, configuration: Configuration) -> None:
    """Refuse data that were not trained on: the split would be that of the training, the pixels others."""
    pairs = zip(
        (*checkpoint.inputs.coarse, *checkpoint.inputs.static),
        (*configuration.inputs.coarse, *configuration.inputs.static),
        strict=True,
    )
    different = [
        own.name for own, other in pairs if not np.allclose([own.mean, own.scale], [other.mean, other.scale], rtol=1e-3)
    ]
    if different:
        raise ConfigurationError(
            f"these are not the data that {checkpoint.name!r} was trained on: mean and scale of "
            f"{len(different)} channels differ: {', '.join(different[:5])}. Give those of the training"
        )


def _check_same_target(checkpoint: Checkpoint, counts: list[int]) -> None:
    """Refuse maps other than those of the calibration before, which may have been the one of the training."""
    before = checkpoint.card.get("calibration", {}).get("pixels_of_classes", counts)
    if counts != before:
        raise ConfigurationError(
            f"these are not the maps that {checkpoint.name!r} was trained on: its validation cells have {counts} "
            f"pixels of the classes in place of {before}. Give those of the training"
        )


def _split_cell(material: Material, pixels: ScoredPixels) -> NDArray[np.intp]:
    rows, columns = cell_of(material.grid.latitude[pixels.row], material.grid.longitude[pixels.column])
    return rows * CELL_COLUMNS + columns


def _scaled(scores: NDArray[np.float32], calibration: Calibration) -> NDArray[np.float32]:
    return np.asarray(calibration.apply(torch.from_numpy(scores)).numpy())


def _error(
    scores: NDArray[np.float32],
    target: NDArray[np.uint8],
    area: NDArray[np.float64],
    offsets: NDArray[np.float32],
) -> float:
    """Calibration error of the class that the map would show."""
    decided = (scores + offsets).argmax(axis=1)
    probability = torch.from_numpy(scores).softmax(dim=1).numpy()
    confidence = probability[np.arange(len(target)), decided]
    return calibration_error(confidence, decided == target, area)


FOLDS = 5
_RIDGE = 1e-4
"""Weight of what holds numbers back that the pixels say nothing about, those of a class without any."""


@dataclass(frozen=True)
class Scaling:
    """A fitted calibration, and what spoke for it.

    Parameters
    ----------
    calibration : Calibration
    method : {"none", "temperature", "vector"}
    losses : dict of str to float
        By method: mean negative log-likelihood of pixels in places that the fit did not see.
    """

    calibration: Calibration
    method: str
    losses: dict[str, float] = field(default_factory=dict)


def fit_scaling(
    scores: NDArray[np.float32],
    target: NDArray[np.uint8],
    place: NDArray[np.integer[Any]],
    weight: NDArray[np.float64],
) -> Scaling:
    """Fit both scalings and take the one that does better on other places; temperature scaling if they are equal.

    Parameters
    ----------
    scores : (pixels, classes) array
    target : (pixels,) array of class codes
    place : (pixels,) array of int
        Which pixels belong together: neighbours are alike, so that single pixels left out would prove nothing.
    weight : (pixels,) array
        Area of each pixel.

    Returns
    -------
    Scaling
        With pixels of fewer than two places, one that changes nothing.
    """
    fold = _folds(place)
    classes = scores.shape[1]
    if fold.max(initial=-1) < 1:
        return Scaling(Calibration.none(classes), "none")
    values, codes, area = (
        torch.from_numpy(scores).double(),
        torch.from_numpy(target.astype(np.int64)),
        _mean_one(weight),
    )
    losses = {"none": _loss(values, codes, area, Calibration.none(classes))}
    for method in ("temperature", "vector"):
        total = 0.0
        for number in range(int(fold.max()) + 1):
            out = torch.from_numpy(fold == number)
            fitted = _fit(values[~out], codes[~out], area[~out], vector=method == "vector")
            total += _loss(values[out], codes[out], area[out], fitted) * float(area[out].sum())
        losses[method] = total / float(area.sum())
    method = "vector" if losses["vector"] < losses["temperature"] else "temperature"
    return Scaling(_fit(values, codes, area, vector=method == "vector"), method, losses)


def _folds(place: NDArray[np.integer[Any]]) -> NDArray[np.intp]:
    """Deal the places out to folds, in random order, and return the fold of each pixel."""
    known, which = np.unique(place, return_inverse=True)
    order = np.random.default_rng(0).permutation(len(known))
    return np.asarray((order % min(FOLDS, max(len(known), 1)))[which])


def _fit(scores: Tensor, target: Tensor, weight: Tensor, *, vector: bool) -> Calibration:
    """Make the weighted likelihood largest, by L-BFGS from the scaling that changes nothing."""
    classes = scores.shape[1]
    logs = torch.zeros(classes if vector else 1, dtype=torch.float64, requires_grad=True)
    bias = torch.zeros(classes, dtype=torch.float64, requires_grad=vector)
    parameters = [logs, bias] if vector else [logs]
    optimizer = torch.optim.LBFGS(parameters, max_iter=50, line_search_fn="strong_wolfe", tolerance_change=1e-7)

    def closure() -> Tensor:
        optimizer.zero_grad()
        pixels = functional.cross_entropy(scores * logs.exp() + bias, target, reduction="none")
        # the mean scale is free: it is the temperature
        apart = (logs - logs.mean()).square().sum() + bias.square().sum()
        loss = (pixels * weight).mean() + _RIDGE * apart
        loss.backward()
        return loss

    optimizer.step(closure)
    scale = logs.detach().exp().expand(classes)
    return Calibration(tuple(scale.tolist()), tuple(bias.detach().tolist()))


def _loss(scores: Tensor, target: Tensor, weight: Tensor, calibration: Calibration) -> float:
    pixels = functional.cross_entropy(calibration.apply(scores), target, reduction="none")
    return float((pixels * weight).sum() / weight.sum())


def _mean_one(weight: NDArray[np.float64]) -> Tensor:
    return torch.from_numpy(np.asarray(weight, dtype=np.float64) / np.mean(weight))


PROTOTYPES = 2048
_CELLS = 40_000
"""Training cells from which prototypes are taken."""
_PROBES = 4000
"""Training cells whose distances are measured."""
_TILE = 32
"""Coarse cells along what is read at once."""
_WHISKER = 1.5
"""How many interquartile ranges above the upper quartile the threshold lies at most, as for outliers of a boxplot."""


def fit_applicability(material: Material, seed: int = 0) -> Applicability | None:
    """Choose prototypes of the training inputs, evenly from all that there are, and measure their distances.

    Parameters
    ----------
    material : Material
    seed : int

    Returns
    -------
    Applicability or None
        None where all training cells lie in one cell of the split, or are all the same.

    Notes
    -----
    Threshold and typical distance follow Meyer and Pebesma (2021), doi 10.1111/2041-210X.13650, with the cells
    of the split as folds: the threshold is the largest dissimilarity of a training input to those of other
    folds that is no outlier.
    """
    return choose_prototypes(*training_cells(material, seed), seed)


def choose_prototypes(
    features: NDArray[np.float32], fold: NDArray[np.intp], seed: int = 0, count: int = PROTOTYPES
) -> Applicability | None:
    """Choose prototypes; see :func:`fit_applicability`.

    Parameters
    ----------
    features : (cells, channels) array
    fold : (cells,) array of int
        Cell of the split in which each lies.
    seed : int
    count : int
        Prototypes to choose at most.
    """
    random = np.random.default_rng(seed)
    chosen = random.permutation(len(features))[:_CELLS]
    # as prototypes are kept in half precision, so are distances measured
    features, fold = features[chosen].astype(np.float16).astype(np.float32), fold[chosen]
    picked = farthest_points(features.astype(np.float64), count, seed)
    probes, others = features[:_PROBES], random.permutation(len(features))[:_PROBES]
    elsewhere = fold[:_PROBES, None] != fold[None, picked]
    apart = cdist(probes, features[others])[fold[:_PROBES, None] != fold[None, others]]
    if not elsewhere.any() or not apart.any():
        return None
    typical = float(apart.mean())
    index = np.where(elsewhere, cdist(probes, features[picked]), np.inf).min(axis=1) / typical
    return Applicability(features[picked], typical, _upper_whisker(index[np.isfinite(index)]))


def training_cells(material: Material, seed: int = 0) -> tuple[NDArray[np.float32], NDArray[np.intp]]:
    """Collect the inputs of the training cells with land, each place in one year drawn at random.

    Returns
    -------
    features : (cells, coarse and static channels) array
    fold : (cells,) array of int
        Cell of the split.
    """
    source, factor = material.source, material.source.inputs.factor
    random = np.random.default_rng(seed)
    fold = _split_cells(material.grid.coarsen(factor))
    inputs = source.inputs
    features = [np.zeros((0, inputs.coarse_channels + len(inputs.static)), np.float32)]
    folds = [np.zeros(0, np.intp)]
    for rows, columns in _tiles(material.grid, _TILE * factor):
        place = Place(int(random.integers(len(source.years))), rows, columns)
        cells = place.coarse(factor)
        wanted = material.part[cells] == Part.TRAIN
        if wanted.any():
            (values,) = source.read([place])
            static = static_means(values["static"], values["target"] != MASKED, factor)
            wanted &= np.isfinite(static).all(axis=0)
            features.append(cell_features(values["coarse"], static)[wanted.ravel()])
            folds.append(fold[cells][wanted])
    return np.concatenate(features), np.concatenate(folds)


def _split_cells(grid: Grid) -> NDArray[np.intp]:
    """Return the cell of the split that each coarse cell lies in, as a number."""
    rows, _ = cell_of(grid.latitude, np.zeros(grid.rows))
    _, columns = cell_of(np.zeros(grid.columns), grid.longitude)
    return rows[:, None] * CELL_COLUMNS + columns


def _tiles(grid: Grid, size: int) -> Iterator[tuple[slice, slice]]:
    for top in range(0, grid.rows, size):
        for left in range(0, grid.columns, size):
            yield slice(top, min(top + size, grid.rows)), slice(left, min(left + size, grid.columns))


def _upper_whisker(values: NDArray[Any]) -> float:
    """Largest value that is no outlier of a boxplot."""
    lower, upper = np.quantile(values, [0.25, 0.75])
    return float(values[values <= upper + _WHISKER * (upper - lower)].max())
