"""What inference costs beside the network alone: one JSON object a line, one line a promise.

Run as ``python -m tests.benchmarks.inference [--quick] [--only NAME ...] [--device cuda]``. Needs the
reference data (``make data``), the LUH2 file of 2015 in ``../shared/data`` or ``XLAND_TEST_DATA``, and for
the lines ``versus_monai_*`` the extra ``benchmarks``. Each run is a fresh process; sides that are
compared take turns; figures are of the medians. Clocks start when all modules are imported. Linux only.
"""

from __future__ import annotations

import argparse
import importlib.util
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from tests.benchmarks import cuda, graph, material, sides
from tests.benchmarks.harness import (
    Bench,
    Result,
    all_of,
    fresh,
    hardware,
    line,
    median,
    show,
    side,
    skipped,
    take_turns,
    tell,
)
from tests.benchmarks.hostile import kills
from tests.benchmarks.material import ALL_LAND, GLOBE, QUARTER, SMALL, SQUARE, TINY, YEARS, Place

SEED = 3


@dataclass(frozen=True)
class InferenceBench(Bench):
    """The forcing, and places for the stores, made when they are asked for."""

    @cached_property
    def forcing(self) -> str:
        """LUH2 as a Zarr store."""
        tell("writing the forcing")
        return str(material.write_forcing(self.folder / "luh2.zarr"))

    def store(self, name: str) -> str:
        """Path of a store to write."""
        return str(self.folder / f"{name}.zarr")

    def ours(self, place: Place, years: tuple[int, ...], name: str = "xland") -> Callable[[], Result]:
        """Whole runs of xland with the shipped model."""
        common = {"forcing": self.forcing, "box": place.box, "years": years}
        return side(sides.run_xland, store=self.store(name), **common)

    def made(self, name: str) -> Path:
        """Return a new folder for the inputs of one benchmark."""
        path = self.folder / name
        path.mkdir()
        return path


def overhead(bench: InferenceBench) -> Iterator[Result]:
    """Bare network / whole run, twice: the network on whole windows, and spared the pixels that xland spares it."""
    place = SMALL if bench.quick else SQUARE
    common = {"forcing": bench.forcing, "box": place.box, "years": YEARS}
    bare = {
        "overhead": "from tensors in memory",
        "overhead_spared": "from tensors in memory, spared the sea pixels that xland spares it",
    }
    several = {name: side(sides.run_bare, spared=name != "overhead", **common) for name in bare}
    results = take_turns({**several, "xland": bench.ours(place, YEARS)}, bench.runs)
    for name, how in bare.items():
        yield line(
            name,
            median(results[name], "seconds") / median(results["xland"], "seconds"),
            f"wall time of the bare network on the same windows, {how}, / of the whole run, Zarr to Zarr",
            ">= 0.90",
            runs=bench.runs,
            sizes=f"{place.note}; {len(YEARS)} years",
            windows=results[name][0]["windows"],
            seconds=all_of({side: results[side] for side in (name, "xland")}, "seconds"),
        )


def versus_monai(bench: InferenceBench) -> Iterator[Result]:
    """Time, memory and classes beside MONAI's sliding windows."""
    if importlib.util.find_spec("monai") is None:
        yield skipped("versus_monai", "monai is not installed: pip install 'xland[benchmarks]'")
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
        monai = {
            "forcing": bench.forcing,
            "store": bench.store("monai"),
            "box": place.box,
            "year": YEARS[0],
            "batch": best["batch"],
        }
        both = {"xland": bench.ours(place, YEARS[:1]), "monai": side(sides.run_monai, **monai)}
        results = take_turns(both, bench.runs)
        common: dict[str, Any] = {"runs": bench.runs, "sizes": f"{place.note}; one year", "monai": best}
        yield line(
            f"versus_monai_{name}",
            median(results["xland"], "seconds") / median(results["monai"], "seconds"),
            "wall time of xland / of MONAI's SlidingWindowInferer on the whole array, both Zarr to Zarr",
            target,
            seconds=all_of(results, "seconds"),
            **common,
        )
        if name == "global":
            yield line(
                "versus_monai_memory",
                median(results["xland"], "peak_mb") / median(results["monai"], "peak_mb"),
                "peak resident memory of xland's process / of MONAI's",
                "<= 0.25",
                peak_mb=all_of(results, "peak_mb"),
                **common,
            )
            stores = {"ours": bench.store("xland"), "theirs": bench.store("monai"), "box": place.box}
            same = fresh(sides.compare_maps, **stores)
            yield line(
                "versus_monai_agreement",
                same["agreement"],
                "share of land pixels of one class with MONAI's",
                ">= 0.9999",
                different=same,
                **{**common, "runs": 1},
            )


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
        yield line(
            name,
            median(results[more], "peak_mb") / median(results[less], "peak_mb"),
            f"peak resident memory of the whole process {versus}",
            "<= 1.10",
            runs=bench.runs,
            sizes=f"{large.note} / {small.note}" if more == "large" else small.note,
            peak_mb=all_of({side: results[side] for side in (less, more)}, "peak_mb"),
        )


def graph_lines(bench: InferenceBench) -> Iterator[Result]:
    """Time and memory to build a rollout over the globe, and what a selection of it needs."""
    folder = str(bench.made("graph"))
    world = {"resolution": 0.01, "factor": 25, "window": 400, "stride": 300}
    years, note = [1850, 2100], "18000 x 36000 cells of 0.01 degree, 251 years, windows of 400, stride 300"
    if bench.quick:
        world, years = {"resolution": 0.05, "factor": 5, "window": 160, "stride": 120}, [1850, 1870]
        note = "3600 x 7200 cells of 0.05 degree, 21 years, windows of 160, stride 120"
    tell("writing a model and empty inputs")
    fresh(graph.prepare, folder=folder, years=years, **world)
    blocks = {"graph": None, "graph_1000": 1000}
    builds = {
        name: side(graph.build, folder=folder, chunks=chunks, year=years[0] + 5) for name, chunks in blocks.items()
    }
    results = take_turns(builds, bench.runs)
    for name, built in results.items():
        one = built[0]
        size = f"{note}; {one['block_years']} block-years" + ("" if name == "graph" else " in blocks of 1000 cells")
        common = {"runs": bench.runs, "sizes": size}
        yield line(f"{name}_seconds", median(built, "seconds"), "seconds to build the rollout", "<= 3", **common)
        grown = median(built, "grown_mb")
        yield line(f"{name}_memory", grown, "MiB of resident memory above what imports take", "<= 450", **common)
        yield line(
            f"{name}_selection",
            one["selected_block_years"] / one["needed_block_years"],
            "block-years left after culling to 2 x 2 degrees of the sixth year / those that it depends on",
            "== 1",
            tasks=one["tasks"],
            tasks_by_kind=one["tasks_by_kind"],
            block_years=one["selected_block_years"],
            seconds=median(built, "select_seconds"),
            **common,
        )
    yield line(
        "twice_1km" if not bench.quick else "twice_graph",
        graph.twice(results["graph"][0]["chunks"], world["window"], world["stride"]),
        "windows that default blocks run again / all windows, of the chunks of the result, all land",
        "<= 0.15",
        runs=1,
        sizes=note,
        blocks=[sorted(set(sizes)) for sizes in results["graph"][0]["chunks"]],
    )


def twice(bench: InferenceBench) -> Iterator[Result]:
    """Windows that the network really got, counted, beside those of the lattice."""
    place = SMALL if bench.quick else GLOBE
    common = {"forcing": bench.forcing, "box": place.box, "years": YEARS[:1]}
    run = fresh(sides.run_xland, store=bench.store("xland"), count=True, **common)
    distinct = fresh(sides.distinct_windows, box=place.box)["windows"]
    yield line(
        "twice",
        run["windows"] / distinct - 1,
        "windows run again because several blocks need them / windows of the lattice that touch land",
        "<= 0.15",
        runs=1,
        sizes=f"{place.note}; one year, default blocks",
        windows_run=run["windows"],
        windows_distinct=distinct,
        blocks=run["chunks"],
    )


def resume_lines(bench: InferenceBench) -> Iterator[Result]:
    """Runs killed and finished: what came out, and what was computed twice."""
    folder, count = bench.made("resume"), 2 if bench.quick else 20
    fresh(kills.prepare, folder=str(folder))
    for kind in ("independent", "rollout"):
        found = kills.trials(folder, kind, count, SEED)
        common = {"runs": count, "sizes": f"180 x 360 cells, {len(kills.YEARS)} years, blocks of 40 cells, {kind}"}
        differ = {name: value for name, value in found.items() if name not in ("differ", "refused")}
        versus = "stores of killed and resumed runs that differ from that of an undisturbed run"
        yield line(f"resume_{kind}_digest", found["different"], versus, "== 0", seed=SEED, **differ, **common)
        versus = "block-years finished when a run was killed that were computed again afterwards"
        yield line(f"resume_{kind}_again", found["computed_again"], versus, "== 0", kills=found["kills"], **common)


GROUPS: dict[str, Callable[[InferenceBench], Iterator[Result]]] = {
    "overhead": overhead,
    "versus_monai": versus_monai,
    "memory": memory,
    "graph": graph_lines,
    "twice": twice,
    "resume": resume_lines,
}
NEED_LUH2 = ("overhead", "versus_monai", "memory", "twice")


def on_gpu(bench: InferenceBench, device: str = "cuda") -> Iterator[Result]:
    """Speed of the whole way beside the bare network, share of the peak, global years, a cluster."""
    folder, years = str(bench.made("globe")), 2 if bench.quick else 6
    world: dict[str, Any] = {"resolution": 0.01, "factor": 25, "window": 400, "stride": 300}
    if device == "cpu":
        world = {"resolution": 0.5, "factor": 5, "window": 40, "stride": 30}
    tell("writing a synthetic globe")
    windows = fresh(cuda.prepare, folder=folder, years=list(range(1850, 1850 + years)), **world)["land_windows"]
    runs, seconds = (1, 1.0) if bench.quick else (5, 5.0)
    store = bench.store("globe")
    found = fresh(cuda.measure, folder=folder, store=store, device=device, years=years, runs=runs, seconds=seconds)
    yield from gpu_lines(found, windows, years, world, runs)
    try:
        clustered = fresh(
            cuda.run_whole, folder=folder, store=bench.store("cluster"), device=device, cluster=device_cluster(device)
        )
    except RuntimeError as error:
        yield skipped("cuda_cluster", f"{error}: see standard error")
        return
    yield line(
        "cuda_cluster",
        int(clustered["digest"] != fresh(cuda.digest_of, store=store)["digest"]),
        "whether the maps of one dask-cuda worker a GPU differ from those of threads",
        "== 0",
        runs=1,
        sizes=str(world),
        seconds=clustered["seconds"],
    )


def device_cluster(device: str) -> str:
    """Kind of cluster for a device."""
    return "cuda" if device == "cuda" else "local"


def gpu_lines(found: Result, windows: int, years: int, world: dict[str, Any], runs: int) -> Iterator[Result]:
    """Lines of one measurement."""
    whole = windows * years / found["seconds"]
    pixels = world["stride"] ** 2
    common = {"runs": runs, "sizes": f"{world}, {windows} windows a year with land, {years} years", "measured": found}
    bare = found["bare_windows_per_second"]
    yield line(
        "cuda_overhead",
        whole / bare,
        "pixels a second of the whole run, each window of the lattice counted once, / of the bare network",
        ">= 0.85",
        pixels_per_second={"whole": whole * pixels, "bare": bare * pixels},
        **common,
    )
    yield line(
        "cuda_251_years",
        found["seconds"] / years * 251 / 60,
        "minutes for 251 years of the globe, from the years that were run",
        "<= 15",
        **common,
    )
    if found["peak_flop_per_second"] is not None:
        share = found["flop_per_window"] * whole / found["peak_flop_per_second"]
        yield line("cuda_flop", share, "share of the dense bfloat16 peak, whole run", ">= 0", **common)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="smaller sizes and fewer runs, for a look")
    parser.add_argument("--only", nargs="+", choices=list(GROUPS), help="some of the benchmarks")
    parser.add_argument("--device", choices=["cpu", "cuda"], default="cpu", help="cuda: the lines for a GPU instead")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="xland-benchmarks-") as folder:
        bench = InferenceBench(Path(folder), options.quick)
        for result in lines(bench, options.only or list(GROUPS), options.device):
            show(result)


def lines(bench: InferenceBench, names: list[str], device: str) -> Iterator[Result]:
    """Run some benchmarks, or those for a GPU."""
    if device == "cuda":
        if fresh(cuda.available)["gpu"]:
            yield from on_gpu(bench)
        else:
            yield skipped("cuda", "no CUDA device")
        return
    tell(hardware())
    for name in names:
        if name in NEED_LUH2 and not material.LUH2.exists():
            yield skipped(name, f"{material.LUH2.name} is not at hand: set XLAND_TEST_DATA")
            continue
        tell(name)
        yield from GROUPS[name](bench)


if __name__ == "__main__":
    main()
