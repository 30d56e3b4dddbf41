"""How a model does far from what it learned: other continents, other amounts of cropland, pre-industrial forcings.

Run as ``python -m tests.benchmarks.distant [--only PART ...] [--quick] [--minutes M] [--model MODEL]
[--write]``; parts are ``left-out`` (places left out of short trainings), ``preindustrial`` (a model with the land under
use scaled down) and ``applicability`` (its distance to the training inputs beside its errors). JSON lines.
Needs the reference data (``make data``) and the LUH2 file of 2015 in ``../shared/data`` or
``XLAND_TEST_DATA``.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch

from tests.benchmarks import harness, left_out, preindustrial
from tests.benchmarks.harness import LUH2, PROJECT, missing, show
from tests.benchmarks.short_training import STEPS_A_MINUTE, choose_patches
from tests.benchmarks.tables import write_between
from xland.models import find_model
from xland.sources.files import open_coarse
from xland.training.configuration import read_configuration
from xland.training.data.material import gather, open_data

PAGE = PROJECT / "docs" / "distant-periods.md"
RECIPE = "luh2-0p05"

QUICK_PLACES = ("africa", "most-cropland")
"""Places that ``--quick`` leaves out."""

QUICK_STEPS = 10

Lines = Sequence[Mapping[str, Any]]


@dataclass(frozen=True)
class Options:
    """What the parts of the protocol are run with."""

    steps: int
    quick: bool
    model: str


def leave_out_places(options: Options) -> Iterator[dict[str, Any]]:
    """Short trainings without some places, scored there."""
    configuration = read_configuration(RECIPE)
    opened = open_data(configuration, {"forcing": LUH2})
    configuration, material = gather(configuration, **opened)
    places = left_out.places_to_leave_out(material, left_out.cropland_of(opened["forcing"]))
    if options.quick:
        places = {name: places[name] for name in QUICK_PLACES}
    patches = choose_patches(configuration, material)
    return left_out.compare(configuration, material, patches, places, opened["forcing"], steps=options.steps)


def push_forcings(options: Options) -> Iterator[dict[str, Any]]:
    """The model with today's land under use scaled down, plain and with totals kept."""
    for way in preindustrial.WAYS:
        yield from preindustrial.respond(open_coarse(LUH2), options.model, _regions(options), way)


def measure_distance(options: Options) -> Iterator[dict[str, Any]]:
    """Distance to the training inputs: beside errors on the held-out cells, and under pushed forcings."""
    model = find_model(options.model)
    if model.applicability is None:
        yield {"skipped": f"the card of {model.name} holds no training inputs: give it some with xland calibrate"}
        return
    opened = open_data(read_configuration(RECIPE), {"forcing": LUH2})
    boxes = preindustrial.held_out_boxes(int(model.card["split"]["seed"]))[:: 6 if options.quick else 1]
    observed = opened["target"].isel(time=0, drop=True)
    found = preindustrial.distance_and_error(opened["forcing"], observed, model, boxes)
    yield {"held_out_places": len(boxes), **preindustrial.relate(*found)}
    yield from preindustrial.applicability_by_scale(opened["forcing"], model, _regions(options))


def _regions(options: Options) -> dict[str, tuple[float, float, float, float]]:
    return dict(list(preindustrial.REGIONS.items())[: 1 if options.quick else None])


PARTS: dict[str, tuple[Callable[[Options], Iterator[dict[str, Any]]], Callable[[Lines], str]]] = {
    "left-out": (leave_out_places, left_out.left_out_table),
    "preindustrial": (push_forcings, preindustrial.preindustrial_table),
    "applicability": (measure_distance, preindustrial.applicability_table),
}
"""Parts of the protocol, and the tables that are drawn of their lines."""


def main() -> None:
    given = harness.options(
        __doc__,
        PARTS,
        minutes={"type": float, "default": 2, "help": "of one core for each short training"},
        model={"default": RECIPE, "help": "name or folder of the model whose forcings are pushed"},
        write={"action": "store_true", "help": "draw the tables of docs/distant-periods.md"},
    )
    if not LUH2.exists():
        show(missing("distant", LUH2))
        return
    torch.set_num_threads(1)
    steps = QUICK_STEPS if given.quick else max(1, round(given.minutes * STEPS_A_MINUTE))
    options = Options(steps, given.quick, given.model)
    for name in given.only:
        run, draw = PARTS[name]
        lines = []
        for line in run(options):
            show({"part": name, **line})
            lines.append(line)
        if given.write and "skipped" not in lines[0]:
            write_between(PAGE, name, draw(lines))


if __name__ == "__main__":
    main()
