"""What a model learns about itself after its training: how sure it may be, what to decide, where it applies.

All of it is fitted on the training and validation cells of the split; the test cells stay unseen.
"""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import numpy as np
import torch
import xarray as xr
from numpy.typing import NDArray

from xland.arguments import checked
from xland.batches.split import CELL_COLUMNS, Part, cell_of
from xland.errors import CheckpointError, ConfigurationError, ModelError
from xland.models import DEFAULT_MODEL, find_model
from xland.models.calibration import BINS, Calibration, calibration_error
from xland.models.checkpoint import Checkpoint, update_card
from xland.training.applicability import fit_applicability
from xland.training.configuration import Configuration, parse_configuration
from xland.training.group import Device, Group, join_group
from xland.training.material import Material
from xland.training.objective import proven_offsets, tabulate_pairs
from xland.training.opening import open_material
from xland.training.samples import make_dataset, take_census
from xland.training.scaling import Scaling, fit_scaling
from xland.training.validation import ScoredPixels, collect_scores, score_pairs
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
