"""How well a model does where it learned nothing: whole continents, and cells with the most and the least cropland."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import xarray as xr
from numpy.typing import NDArray

from tests.benchmarks.harness import rounded
from tests.benchmarks.short_training import count_most_probable, difference, figures, judge, learn
from tests.benchmarks.tables import points, share, table
from xland.forcing.read import read_forcing
from xland.geo.grid import expand
from xland.geo.split import CONTINENTS, Part, find_cells
from xland.scores.baselines import MODE, cell_mode, crosswalk
from xland.scores.counts import confusion
from xland.training.configuration import Configuration
from xland.training.data.loader import TrainingArrays
from xland.training.data.material import Material
from xland.training.data.patches import Patches
from xland.vocabulary import CROP_STATES, LAND_CLASSES, STATE_CLASSES

_BASELINES = {"crosswalk": "crosswalk", MODE: "mode of the cell"}


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
    names = [name for name in STATE_CLASSES if name in forcing]
    data = read_forcing(forcing, variables=names).data.isel(time=0)
    states = {name: data[name].values for name in names}
    with_all, seconds = learn(configuration, material, patches, steps=steps)
    seen = count_most_probable(judge(with_all, configuration, material, test))
    yield {
        "name": "all places",
        "steps": steps,
        "seconds": round(seconds, 1),
        "pixels": int(seen.sum()),
        "with": rounded(figures(seen.sum(axis=0))),
        "baselines": _baselines(material, states, test),
    }
    for name, place in places.items():
        without = replace(material, part=leave_out(material.part, place))
        network, seconds = learn(configuration, without, patches, steps=steps)
        mine, seen = (
            count_most_probable(judge(each, configuration, material, test & place)) for each in (network, with_all)
        )
        gaps = difference(mine, seen)
        yield {
            "name": name,
            "steps": steps,
            "seconds": round(seconds, 1),
            "learned_from": round(float((without.part == Part.TRAIN).sum() / (material.part == Part.TRAIN).sum()), 3),
            "pixels": int(mine.sum()),
            "without": rounded(figures(mine.sum(axis=0))),
            "with": rounded(figures(seen.sum(axis=0))),
            "difference": {figure: [round(each, 4) for each in gaps[figure]] for figure in ("accuracy", "miou")},
            "baselines": _baselines(material, states, test & place),
        }


def _baselines(
    material: Material, states: dict[str, NDArray[Any]], cells: NDArray[np.bool_]
) -> dict[str, dict[str, float]]:
    """Accuracy and mean IoU of the maps that need no learning, on the land of some coarse cells."""
    source = material.source
    assert isinstance(source, TrainingArrays)
    target, factor = source.target[0], source.inputs.factor
    within = expand(cells, factor) & np.isin(target, LAND_CLASSES)
    maps = {"crosswalk": crosswalk(states, factor), MODE: cell_mode(target, factor)}
    found = {name: figures(confusion(target[within], codes[within])) for name, codes in maps.items()}
    return {name: rounded({key: each[key] for key in ("accuracy", "miou")}) for name, each in found.items()}


def cropland_of(forcing: xr.Dataset) -> NDArray[np.float32]:
    """Share of cropland in each coarse cell in the first year, from the north-west; NaN where there are no data."""
    data = read_forcing(forcing, variables=[name for name in CROP_STATES if name in forcing]).data
    return np.asarray(sum(data[name].isel(time=0).values for name in data.data_vars if name in CROP_STATES))


def left_out_table(lines: Sequence[Mapping[str, Any]]) -> str:
    """A row for each place: a model that did not see it beside one that did, and beside simple maps."""
    header = [
        "scored on the test cells of", "land and water pixels", "accuracy, not seen", "seen", "difference",
        "mIoU, not seen", "seen", "difference", *_BASELINES.values(),
    ]  # fmt: skip
    rows = []
    for line in lines:
        cells = [line["name"].replace("-", " "), f"{line['pixels']:,}"]
        for figure in ("accuracy", "miou"):
            cells += [
                share(line["without"][figure]) if "without" in line else "-",
                share(line["with"][figure]),
                points(line["difference"][figure]) if "difference" in line else "-",
            ]
        simple = [line["baselines"][name] for name in _BASELINES]
        rows.append([*cells, *(f"{share(each['accuracy'])}, {share(each['miou'])}" for each in simple)])
    return table(header, rows)
