"""What inference costs beside the network alone: one JSON object a line, one line a promise.

Run as ``python -m tests.benchmarks.inference [--quick] [--only NAME ...] [--device cuda]``. Needs the
reference data (``make data``), the LUH2 file of 2015 in ``../shared/data`` or ``XLAND_TEST_DATA``, and for
the lines ``versus_monai_*`` the extra ``benchmarks``. Each run is a fresh process; sides that are
compared take turns; figures are of the medians. Clocks start when all modules are imported. Linux only.
Killed and resumed runs are counted by ``python -m tests.benchmarks.hostile kills``.
"""

from __future__ import annotations

import importlib.util
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import cached_property, partial
from pathlib import Path

from tests.benchmarks import cuda, graph, harness, sides
from tests.benchmarks.harness import (
    LUH2,
    Bench,
    Result,
    fresh,
    hardware,
    line,
    median,
    missing,
    ratio,
    show,
    side,
    skipped,
    take_turns,
    tell,
)

YEARS = (2014, 2015, 2016)


@dataclass(frozen=True)
class Place:
    """A region to map, in degrees (west, south, east, north), None for the globe, and what it is."""

    box: tuple[float, float, float, float] | None
    note: str


SQUARE = Place(
    (12.25, -26.0, 114.75, 76.5),
    "2050 x 2050 cells (2048 in whole coarse cells), rows 1350-3400, columns 3845-5895 of the 0.05 degree globe: the "
    "square of this size that holds most land, 63 %; 311 of its 361 windows touch land",
)
ALL_LAND = Place(
    (7.25, 28.25, 137.25, 68.25),
    "800 x 2600 cells, Europe to Manchuria: 182 of 184 windows touch land, so next to nothing can be skipped",
)
GLOBE = Place(None, "3600 x 7200 cells, the globe")
QUARTER = Place((-20.0, 0.0, 160.0, 90.0), "1800 x 3600 cells, a quarter of the globe with most of its land")
SMALL = Place((84.25, 42.75, 114.25, 72.75), "600 x 600 cells of Siberia, all land: a quick look")
TINY = Place((91.75, 50.25, 106.75, 65.25), "300 x 300 cells of Siberia, a quarter of the other: a quick look")


@dataclass(frozen=True)
class InferenceBench(Bench):
    """The forcing, and places for the stores, made when they are asked for."""

    @cached_property
    def forcing(self) -> str:
        """The states of LUH2 2015 as a Zarr store of three years, one chunk a variable and year."""
        import numpy as np
        import xarray as xr

        tell("writing the forcing")
        path = self.folder / "luh2.zarr"
        with xr.open_dataset(LUH2, decode_times=False) as opened:
            states = opened.drop_vars("time").load()
        years = xr.DataArray(np.array(YEARS), dims="time", attrs={"standard_name": "time"})
        states = states.drop_encoding().isel(time=[0] * len(YEARS)).assign_coords(time=years)
        states.chunk(time=1, lat=-1, lon=-1).to_zarr(path, zarr_format=3, consolidated=False)
        return str(path)

    def store(self, name: str) -> str:
        """Path of a store to write."""
        return str(self.folder / f"{name}.zarr")

    def ours(self, place: Place, years: tuple[int, ...]) -> Callable[[], Result]:
        """Whole runs of xland with the shipped model."""
        store = self.store("xland")
        return side(sides.run_xland, forcing=self.forcing, store=store, box=place.box, years=years)


def overhead(bench: InferenceBench) -> Iterator[Result]:
    """Bare network / whole run, twice: on whole windows, and without the sea pixels that xland skips."""
    place = SMALL if bench.quick else SQUARE
    common = {"forcing": bench.forcing, "box": place.box, "years": YEARS}
    bare = {
        "overhead": "from tensors in memory",
        "overhead_spared": "from tensors in memory, without the sea pixels that xland skips",
    }
    several = {name: side(sides.run_bare, spared=name != "overhead", **common) for name in bare}
    results = take_turns({**several, "xland": bench.ours(place, YEARS)}, bench.runs)
    for name, how in bare.items():
        figure = ratio(results, name, "xland", "seconds")
        versus = f"wall time of the bare network on the same windows, {how}, / of the whole run, Zarr to Zarr"
        both = {side: results[side] for side in (name, "xland")}
        more = {"sizes": f"{place.note}; {len(YEARS)} years", "windows": results[name][0]["windows"]}
        yield bench.line(name, figure, versus, ">= 0.90", both, "seconds", **more)


def versus_monai(bench: InferenceBench) -> Iterator[Result]:
    """Time, memory and classes beside MONAI's sliding windows."""
    if importlib.util.find_spec("monai") is None:
        yield skipped("versus_monai", "monai is not installed: pip install monai")
        return
    tell("looking for MONAI's best batch")
    best = fresh(sides.fastest_batch, forcing=bench.forcing, box=(TINY if bench.quick else SMALL).box, year=YEARS[0])
    places: tuple[tuple[str, Place, str], ...] = (
        ("land", SQUARE, "<= 1.0"),
        ("all_land", ALL_LAND, "<= 1.0"),
        ("global", GLOBE, "<= 0.45"),
    )
    if bench.quick:
        places = (("land", SMALL, "<= 1.0"), ("global", QUARTER, "<= 0.45"))
    for name, place, target in places:
        given = {"forcing": bench.forcing, "store": bench.store("monai"), "box": place.box, "year": YEARS[0]}
        monai = side(sides.run_monai, batch=best["batch"], **given)
        results = take_turns({"xland": bench.ours(place, YEARS[:1]), "monai": monai}, bench.runs)
        common: Result = {"sizes": f"{place.note}; one year", "monai": best}
        figure = ratio(results, "xland", "monai", "seconds")
        versus = "wall time of xland / of MONAI's SlidingWindowInferer on the whole array, both Zarr to Zarr"
        yield bench.line(f"versus_monai_{name}", figure, versus, target, results, "seconds", **common)
        if name == "global":
            figure = ratio(results, "xland", "monai", "peak_mb")
            versus = "peak resident memory of xland's process / of MONAI's"
            yield bench.line("versus_monai_memory", figure, versus, "<= 0.25", results, "peak_mb", **common)
            same = fresh(sides.compare_maps, ours=bench.store("xland"), theirs=bench.store("monai"), box=place.box)
            versus, common = "share of land pixels of one class with MONAI's", {**common, "runs": 1, "different": same}
            yield line("versus_monai_agreement", same["agreement"], versus, ">= 0.9999", **common)


def memory(bench: InferenceBench) -> Iterator[Result]:
    """Peak memory where the region, or the number of years, grows."""
    small, large = (TINY, SMALL) if bench.quick else (QUARTER, GLOBE)
    compared = {
        "memory": ("large", "small", "of a region of 4 times the area / of the smaller one"),
        "memory_years": ("three years", "small", "of three years / of one"),
    }
    several = {
        "small": bench.ours(small, YEARS[:1]),
        "large": bench.ours(large, YEARS[:1]),
        "three years": bench.ours(small, YEARS),
    }
    results = take_turns(several, bench.runs)
    for name, (more, less, versus) in compared.items():
        versus, both = (
            f"peak resident memory of the whole process {versus}",
            {each: results[each] for each in (less, more)},
        )
        sizes = f"{large.note} / {small.note}" if more == "large" else small.note
        yield bench.line(name, ratio(results, more, less, "peak_mb"), versus, "<= 1.10", both, "peak_mb", sizes=sizes)


def graph_lines(bench: InferenceBench) -> Iterator[Result]:
    """Time and memory to build a rollout over the globe, and what a selection of it needs."""
    folder = str(bench.folder)
    world = {"resolution": 0.01, "factor": 25, "window": 400, "stride": 300}
    years, note = [1850, 2100], "18000 x 36000 cells of 0.01 degree, 251 years, windows of 400, stride 300"
    if bench.quick:
        world, years = {"resolution": 0.05, "factor": 5, "window": 160, "stride": 120}, [1850, 1870]
        note = "3600 x 7200 cells of 0.05 degree, 21 years, windows of 160, stride 120"
    tell("writing a model and empty inputs")
    fresh(graph.prepare, folder=folder, years=years, **world)
    blocks = {"graph": None, "graph_1000": 1000}
    build = partial(side, graph.build, folder=folder, year=years[0] + 5)
    results = take_turns({name: build(chunks=chunks) for name, chunks in blocks.items()}, bench.runs)
    for name, built in results.items():
        one = built[0]
        size = f"{note}; {one['block_years']} block-years" + ("" if name == "graph" else " in blocks of 1000 cells")
        common: Result = {"runs": bench.runs, "sizes": size}
        yield line(f"{name}_seconds", median(built, "seconds"), "seconds to build the rollout", "<= 3", **common)
        grown = median(built, "grown_mb")
        yield line(f"{name}_memory", grown, "MiB of resident memory above what imports take", "<= 450", **common)
        figure = one["selected_block_years"] / one["needed_block_years"]
        versus = "block-years left after culling to 2 x 2 degrees of the sixth year / those that it depends on"
        common["tasks"], common["tasks_by_kind"] = one["tasks"], one["tasks_by_kind"]
        yield line(f"{name}_selection", figure, versus, "== 1", seconds=median(built, "select_seconds"), **common)
    chunks = results["graph"][0]["chunks"]
    figure = graph.twice(chunks, world["window"], world["stride"])
    versus = "windows that default blocks run again / all windows, of the chunks of the result, all land"
    common = {"runs": 1, "sizes": note, "blocks": [sorted(set(sizes)) for sizes in chunks]}
    yield line("twice_graph" if bench.quick else "twice_1km", figure, versus, "<= 0.15", **common)


def twice(bench: InferenceBench) -> Iterator[Result]:
    """Windows that the network really got, counted, beside those of the lattice."""
    place = SMALL if bench.quick else GLOBE
    common = {"forcing": bench.forcing, "box": place.box, "years": YEARS[:1]}
    run = fresh(sides.run_xland, store=bench.store("xland"), count=True, **common)
    distinct = fresh(sides.distinct_windows, box=place.box)["windows"]
    versus = "windows run again because several blocks need them / windows of the lattice that touch land"
    windows = {"windows_run": run["windows"], "windows_distinct": distinct, "blocks": run["chunks"]}
    sizes = f"{place.note}; one year, default blocks"
    yield line("twice", run["windows"] / distinct - 1, versus, "<= 0.15", runs=1, sizes=sizes, **windows)


GROUPS: dict[str, Callable[[InferenceBench], Iterator[Result]]] = {
    "overhead": overhead,
    "versus_monai": versus_monai,
    "memory": memory,
    "graph": graph_lines,
    "twice": twice,
}


def main() -> None:
    devices = {"choices": ["cpu", "cuda"], "default": "cpu", "help": "cuda: the lines for a GPU instead"}
    options = harness.options(__doc__, GROUPS, device=devices)
    with tempfile.TemporaryDirectory(prefix="xland-benchmarks-") as folder:
        bench = InferenceBench(Path(folder), options.quick)
        if options.device == "cuda":
            for result in cuda.lines(bench):
                show(result)
            return
        tell(hardware())
        for name in options.only:
            if name != "graph" and not LUH2.exists():
                show(missing(name, LUH2))
                continue
            tell(name)
            for result in GROUPS[name](bench):
                show(result)


if __name__ == "__main__":
    main()
