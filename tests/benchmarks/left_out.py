"""How well a model does where it learned nothing: whole continents, and cells with the most and the least cropland."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import numpy as np
import xarray as xr
from numpy.typing import NDArray

from tests.benchmarks.place_scores import count_most_probable, difference, figures
from tests.benchmarks.short_training import judge, learn
from xland.forcing.read import read_forcing
from xland.geo.grid import count_classes
from xland.geo.split import CONTINENTS, Part, find_cells
from xland.models.networks.unet import DownscalingNetwork
from xland.scores.baselines import cell_mode, crosswalk
from xland.training.configuration import Configuration
from xland.training.data.loader import TrainingArrays
from xland.training.data.material import Material
from xland.training.data.patches import Patches
from xland.vocabulary import CROP_STATES, LAND_CLASSES, STATE_CLASSES


def places_to_leave_out(material: Material, cropland: NDArray[np.floating[Any]]) -> dict[str, NDArray[np.bool_]]:
    """Coarse cells of each continent, and those in the first and the last tenth by their cropland."""
    factor = material.grid.rows // material.part.shape[0]
    coarse = material.grid.coarsen(factor)
    found = {name: find_cells(coarse, cells) for name, cells in CONTINENTS.items()}
    low, high = np.nanquantile(cropland[material.part != Part.NONE], [0.1, 0.9])
    return {**found, "least-cropland": cropland <= low, "most-cropland": cropland >= high}


def leave_out(part: NDArray[np.int8], places: NDArray[np.bool_]) -> NDArray[np.int8]:
    """Keep some places from the training: only their test cells stay what they are."""
    kept = np.where(places & (part != Part.TEST), np.int8(Part.NONE), part)
    assert {Part.TRAIN, Part.VALIDATION} <= set(np.unique(kept)), "leave out less"
    return kept


def compare(
    configuration: Configuration,
    material: Material,
    patches: Patches,
    places: dict[str, NDArray[np.bool_]],
    forcing: xr.Dataset,
    *,
    steps: int,
) -> Iterator[dict[str, Any]]:
    """Train once with all places and once without each, and score both on the test cells of the place.

    Both learn for as many steps from as many patches, so that the difference is that of having seen the
    place. The first line is that of the model with all of them, on all test cells.
    """
    test = material.part == Part.TEST
    with_all, seconds = learn(configuration, material, patches, steps=steps)
    yield {
        "name": "all places",
        "steps": steps,
        "seconds": round(seconds, 1),
        **_scores(with_all, configuration, material, test),
        "baselines": _baselines(material, forcing, test),
    }
    for name, place in places.items():
        without = replace(material, part=leave_out(material.part, place))
        network, seconds = learn(configuration, without, patches, steps=steps)
        yield {
            "name": name,
            "steps": steps,
            "seconds": round(seconds, 1),
            "learned_from": round(float((without.part == Part.TRAIN).sum() / (material.part == Part.TRAIN).sum()), 3),
            **_beside(network, with_all, configuration, material, test & place),
            "baselines": _baselines(without, forcing, test & place),
        }


def _scores(
    network: DownscalingNetwork, configuration: Configuration, material: Material, cells: NDArray[np.bool_]
) -> dict[str, Any]:
    matrices = count_most_probable(judge(network, configuration, material, cells))
    return {"pixels": int(matrices.sum()), "with": _rounded(figures(matrices.sum(axis=0)))}


def _beside(
    without: DownscalingNetwork,
    with_all: DownscalingNetwork,
    configuration: Configuration,
    material: Material,
    cells: NDArray[np.bool_],
) -> dict[str, Any]:
    """Scores of both networks on the same pixels, and their difference with its standard error."""
    mine, theirs = (count_most_probable(judge(each, configuration, material, cells)) for each in (without, with_all))
    found = difference(mine, theirs)
    return {
        "pixels": int(mine.sum()),
        "without": _rounded(figures(mine.sum(axis=0))),
        "with": _rounded(figures(theirs.sum(axis=0))),
        "difference": {name: [round(each, 4) for each in found[name]] for name in ("accuracy", "miou")},
    }


def _baselines(material: Material, forcing: xr.Dataset, cells: NDArray[np.bool_]) -> dict[str, dict[str, float]]:
    """Accuracy and mean IoU of the maps that need no learning, on the land of some coarse cells."""
    source = material.source
    target = _target(material)
    factor = source.inputs.factor
    names = [name for name in STATE_CLASSES if name in forcing]
    states = read_forcing(forcing, variables=names).data
    known = {name: states[name].isel(time=0).values for name in names}
    counts = count_classes(target, factor, len(source.inputs.classes))
    learned = (counts * (material.part == Part.TRAIN)).sum(axis=(1, 2))
    frequent = max(LAND_CLASSES, key=lambda code: learned[code])
    within = cells.repeat(factor, axis=0).repeat(factor, axis=1) & np.isin(target, LAND_CLASSES)
    maps = {
        "crosswalk": crosswalk(known, factor)[within],
        "most frequent class": np.full(int(within.sum()), frequent, dtype=np.uint8),
        "mode of the observed cell": cell_mode(target, factor)[within],
    }
    found = {}
    for name, predicted in maps.items():
        pairs = target[within].astype(np.intp) * len(counts) + predicted
        matrix = np.bincount(pairs, minlength=len(counts) ** 2).reshape(len(counts), -1)
        found[name] = _rounded({key: value for key, value in figures(matrix).items() if key in ("accuracy", "miou")})
    return found


def cropland_of(forcing: xr.Dataset) -> NDArray[np.float32]:
    """Share of cropland in each coarse cell in the first year, from the north-west; NaN where there are no data."""
    data = read_forcing(forcing, variables=[name for name in CROP_STATES if name in forcing]).data
    return np.asarray(sum(data[name].isel(time=0).values for name in data.data_vars if name in CROP_STATES))


def _target(material: Material) -> NDArray[np.uint8]:
    whole = material.source
    assert isinstance(whole, TrainingArrays)
    return whole.target[0]


def _rounded(values: dict[str, float]) -> dict[str, float]:
    return {name: round(value, 4) for name, value in values.items()}
