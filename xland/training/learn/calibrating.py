"""What a model learns about itself after its training: how sure it may be, what to decide, where it applies."""

from __future__ import annotations

import copy
from dataclasses import asdict
from itertools import product
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
from xland.scores.counts import confusion
from xland.training.configuration import Configuration, parse_configuration
from xland.training.data.batches import make_dataset, take_census
from xland.training.data.loader import Place
from xland.training.data.material import Material, open_material
from xland.training.data.patches import farthest_points
from xland.training.learn.grain import fit_grain, make_tiles
from xland.training.learn.group import Device, join_group
from xland.training.learn.validation import MOST_PIXELS, collect_scores, count_pixels, score_pairs
from xland.vocabulary import LAND_CLASSES

_PIXELS = 400_000  # that a scaling is fitted on at most
_FOLDS = 5
_RIDGE = 1e-4  # weight of the term that keeps scale and bias of a class without pixels near those of the others

# of applicability
PROTOTYPES = 2048
_CELLS = 40_000  # training cells from which prototypes are taken
_PROBES = 4000  # training cells whose distances are measured
_TILE = 32  # coarse cells along what is read at once
_WHISKER = 1.5  # interquartile ranges above the upper quartile to which the threshold may go, as in a boxplot


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
    """Fit calibration, decision, draws and applicability of a trained model, and enter them into its card.

    A training does this at its end. It needs the data of the training: by default those that the
    configuration in the card names.

    Parameters
    ----------
    model : str, path or Checkpoint
        Name of a shipped model, or the folder of a trained one; its card is replaced, its weights stay.
    forcing, target, static, prior : optional
        Data of the training in place of those that its configuration names; see :func:`xland.training.run.train`.
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
        If several models are given at once.
    """
    checkpoint = find_model(model)
    if not isinstance(checkpoint, Checkpoint):
        raise ModelError(f"models are calibrated one by one, not {len(checkpoint.members)} together: give one")
    try:
        values = checkpoint.card["training"]["configuration"]
    except (KeyError, TypeError) as error:
        raise CheckpointError(
            f"the card of {checkpoint.name!r} ({checkpoint.folder}) does not say how the model was trained: "
            "a model of `xland train` can be calibrated, others cannot"
        ) from error
    configuration = parse_configuration(values, f"the card of {checkpoint.name!r}")
    given = {"forcing": forcing, "target": target, "static": static, "prior": prior}
    configuration, material = open_material(configuration, given, store)
    own, others = ((*inputs.coarse, *inputs.static) for inputs in (checkpoint.inputs, configuration.inputs))
    different = [
        channel.name
        for channel, other in zip(own, others, strict=True)
        if not np.allclose([channel.mean, channel.scale], [other.mean, other.scale], rtol=1e-3)
    ]
    if different:
        raise ConfigurationError(
            f"these are not the data that {checkpoint.name!r} was trained on: mean and scale of "
            f"{len(different)} channels differ: {', '.join(different[:5])}. Give those of the training"
        )
    with join_group(device) as group:
        share = max(1, configuration.schedule.batch // configuration.schedule.accumulate)
        return fit_card(checkpoint, configuration, material, batch=share, device=group.device)


def fit_card(
    checkpoint: Checkpoint, configuration: Configuration, material: Material, *, batch: int, device: torch.device
) -> Checkpoint:
    """Fit calibration, decision, draws and applicability in this process, and enter them into the card of a model."""
    schedule = configuration.schedule
    dataset = make_dataset(configuration, material, Part.VALIDATION, take_census(material.source))
    network = copy.deepcopy(checkpoint.network()).to(device)
    scores, target, row, column = collect_scores(network, dataset, batch, device, workers=schedule.workers)
    counts = np.bincount(target, minlength=len(checkpoint.inputs.classes)).tolist()
    before = checkpoint.card.get("calibration", {}).get("pixels_of_classes", counts)
    if counts != before:
        raise ConfigurationError(
            f"these are not the maps that {checkpoint.name!r} was trained on: its validation cells have {counts} "
            f"pixels of the classes in place of {before}. Give those of the training"
        )
    place = _split_cell(material.grid.latitude[row], material.grid.longitude[column])
    area = material.grid.cell_area()[row]
    every = slice(None, None, max(1, -(-len(target) // _PIXELS)))
    calibration, method, losses = fit_scaling(scores[every], target[every], place[every], area[every])
    scaled = np.asarray(calibration.apply(torch.from_numpy(scores)).numpy())
    land = np.isin(target, LAND_CLASSES)
    offsets = proven_offsets(scaled[land], target[land])
    errors: dict[str, float] = {}  # of the class that the map would show
    for name, values, added in (("before", scores, 0 * offsets), ("after", scaled, offsets)):
        shown = (values + added).argmax(axis=1)
        probability = torch.from_numpy(values).softmax(dim=1).numpy()[np.arange(len(target)), shown]
        errors[name] = round(calibration_error(probability, shown == target, area), 4)
    entries = {
        "calibration": {
            **asdict(calibration),
            "method": method,
            "cells_of_the_split": len(np.unique(place)),
            "cross_validated_loss": {name: round(value, 6) for name, value in losses.items()},
            "validation_calibration_error": {**errors, "bins": BINS},
            "pixels_of_classes": counts,
        },
        "decision": [round(float(value), 4) for value in offsets],
    }
    if checkpoint.inputs.prior == "none":
        pixels: tuple[NDArray[Any], ...] = (scores, target, row, column)
        if count_pixels(dataset) > MOST_PIXELS:
            pixels = collect_scores(network, dataset, batch, device, workers=schedule.workers, whole=True)
        entries |= fit_draws(calibration, *pixels, grid=material.grid, factor=checkpoint.inputs.factor)
    if "validation" not in checkpoint.card:  # models that were joined have none of their own
        found = score_pairs(confusion(target, scores.argmax(axis=1), classes=scores.shape[1]))
        entries["validation"] = {name: round(value, 4) for name, value in found.items()}
    prototypes = choose_prototypes(*training_cells(material, schedule.seed), schedule.seed)
    return update_card(checkpoint.folder, entries, applicability=prototypes)


def fit_draws(
    calibration: Calibration,
    scores: NDArray[np.float32],
    target: NDArray[np.uint8],
    row: NDArray[np.intp],
    column: NDArray[np.intp],
    *,
    grid: Grid,
    factor: int,
) -> dict[str, Any]:
    """Return the entry ``draws`` of a card from whole samples; none where there are too few boundaries of classes."""
    land = np.isin(target, LAND_CLASSES)
    scores, target, row, column = scores[land], target[land], row[land], column[land]
    probability = calibration.apply(torch.from_numpy(scores)).softmax(dim=1).numpy()
    number = _split_cell(grid.latitude[row], grid.longitude[column])
    around = round(360 / grid.resolution)
    found = fit_grain(make_tiles(probability, target, row, column, number, around), factor)
    if found is None:
        return {}
    grain, errors = found
    return {"draws": {**asdict(grain), "validation_boundary_error": errors}}


def _split_cell(latitude: NDArray[np.float64], longitude: NDArray[np.float64]) -> NDArray[np.intp]:
    """Return the number of the cell of the split in which each place lies."""
    rows, columns = cell_of(latitude, longitude)
    return rows * CELL_COLUMNS + columns


def fit_scaling(
    scores: NDArray[np.float32],
    target: NDArray[np.uint8],
    place: NDArray[np.integer[Any]],
    weight: NDArray[np.float64],
) -> tuple[Calibration, str, dict[str, float]]:
    """Fit temperature and vector scaling and take the one with the smaller loss in other places; temperature if equal.

    Scores are (pixels, classes). Pixels of one ``place`` are left out together, because neighbours are alike. Returned
    are the calibration (none for a single place), its method, and by method the mean negative log-likelihood in unseen
    places.
    """
    known, which = np.unique(place, return_inverse=True)
    folds = min(_FOLDS, len(known))
    unscaled = Calibration.none(scores.shape[1])
    if folds < 2:
        return unscaled, "none", {}
    fold = (np.random.default_rng(0).permutation(len(known)) % folds)[which]
    values, codes = torch.from_numpy(scores).double(), torch.from_numpy(target.astype(np.int64))
    area = torch.from_numpy(np.asarray(weight, dtype=np.float64) / np.mean(weight))
    losses = {"none": _loss(values, codes, area, unscaled)}
    for method in ("temperature", "vector"):
        total = 0.0
        for number in range(folds):
            out = torch.from_numpy(fold == number)
            fitted = _fit(values[~out], codes[~out], area[~out], vector=method == "vector")
            total += _loss(values[out], codes[out], area[out], fitted) * float(area[out].sum())
        losses[method] = total / float(area.sum())
    method = "vector" if losses["vector"] < losses["temperature"] else "temperature"
    return _fit(values, codes, area, vector=method == "vector"), method, losses


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


def fit_class_offsets(scores: NDArray[np.float32], target: NDArray[np.uint8]) -> NDArray[np.float32]:
    """Offsets (classes,) of the scores (pixels, classes) that make accuracy plus mean IoU over land classes largest.

    A network trained on cross-entropy neglects rare classes in the most probable class; coordinate ascent corrects
    this.
    """
    offsets = np.zeros(scores.shape[1], dtype=np.float32)
    present = [code for code in LAND_CLASSES if (target == code).any()]
    best = _merit(scores, target, offsets)
    for step in (0.4, 0.4, 0.2, 0.2, 0.1, 0.1):
        for code, change in product(present, (step, -step)):
            while True:
                trial = offsets.copy()
                trial[code] += change
                merit = _merit(scores, target, trial)
                if merit <= best + 1e-6 or abs(trial[code]) > 4:
                    break
                offsets, best = trial, merit
    return offsets


def proven_offsets(
    scores: NDArray[np.float32], target: NDArray[np.uint8], stretch: int = 20_000
) -> NDArray[np.float32]:
    """Fit offsets, or return zeros if those of every other ``stretch`` of pixels do not help the rest."""
    none = np.zeros(scores.shape[1], np.float32)
    half = (np.arange(len(target)) // stretch) % 2 == 0
    gain = 0.0
    for fitted, judged in ((half, ~half), (~half, half)):
        if judged.any() and fitted.any():
            offsets = fit_class_offsets(scores[fitted], target[fitted])
            gain += _merit(scores[judged], target[judged], offsets) - _merit(scores[judged], target[judged], none)
    return fit_class_offsets(scores, target) if gain > 0 else none


def _merit(scores: NDArray[np.float32], target: NDArray[np.uint8], offsets: NDArray[np.float32]) -> float:
    found = score_pairs(confusion(target, (scores + offsets).argmax(axis=1), classes=scores.shape[1]))
    return found["accuracy"] + found["miou"]


def choose_prototypes(
    features: NDArray[np.float32], fold: NDArray[np.intp], seed: int = 0, count: int = PROTOTYPES
) -> Applicability | None:
    """Choose prototypes evenly from features (cells, channels), and measure the distances of cells to them.

    Threshold and typical distance follow Meyer and Pebesma (2021), doi 10.1111/2041-210X.13650, with the cells of the
    split as folds.
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
    index = index[np.isfinite(index)]
    lower, upper = np.quantile(index, [0.25, 0.75])
    threshold = float(index[index <= upper + _WHISKER * (upper - lower)].max())
    return Applicability(features[picked], typical, threshold)


def training_cells(material: Material, seed: int = 0) -> tuple[NDArray[np.float32], NDArray[np.intp]]:
    """Return the inputs (cells, channels) of the training cells with land in a year drawn, and their split cells."""
    source, grid, factor = material.source, material.grid, material.source.inputs.factor
    random = np.random.default_rng(seed)
    coarse = grid.coarsen(factor)
    fold = _split_cell(*np.meshgrid(coarse.latitude, coarse.longitude, indexing="ij"))
    features = [np.zeros((0, source.inputs.coarse_channels + len(source.inputs.static)), np.float32)]
    folds = [np.zeros(0, np.intp)]
    size = _TILE * factor
    for top, left in product(range(0, grid.rows, size), range(0, grid.columns, size)):
        rows, columns = slice(top, min(top + size, grid.rows)), slice(left, min(left + size, grid.columns))
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
