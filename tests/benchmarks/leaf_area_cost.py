"""What the leaf area index of a globe costs beside the map that it is computed from: one JSON object a line.

Run as ``python -m tests.benchmarks.leaf_area_cost [--quick] [--model FOLDER]``. Needs the reference data (``make
data``) and the LUH2 file of 2015. Each run is a fresh process, and the two sides take turns. Linux only.
"""

from __future__ import annotations

import tempfile
from pathlib import Path

from tests.benchmarks import harness, sides
from tests.benchmarks.harness import Result, hardware, line, show, side, take_turns, tell
from tests.benchmarks.inference import GLOBE, SMALL, YEARS, InferenceBench


def main() -> None:
    options = harness.options(__doc__, model={"default": "leaf-area", "help": "a shipped model, or the folder of one"})
    with tempfile.TemporaryDirectory(prefix="xland-benchmarks-") as folder:
        bench, place = InferenceBench(Path(folder), options.quick), SMALL if options.quick else GLOBE
        tell(hardware())
        maps = bench.store("maps")
        several = {
            "map": side(sides.run_xland, forcing=bench.forcing, store=maps, box=place.box, years=YEARS[:1]),
            "leaf area": side(sides.run_leaf_area, maps=maps, store=bench.store("lai"), model=options.model),
        }
        runs = 1 if options.quick else 2
        results = take_turns(several, runs)
        common: Result = {"runs": runs, "sizes": f"{place.note}; twelve months of one year"}
        every = {entry: harness.all_of(results, entry) for entry in ("seconds", "peak_mb")}
        figure = harness.ratio(results, "leaf area", "map", "seconds")
        versus = "wall time of twelve months of leaf area index, from a stored map / of the map of one year"
        show(line("globe_time", figure, versus, "<= 0.5", **common, **every))
        figure = harness.median(results["leaf area"], "peak_mb") / 1000
        show(line("globe_memory", figure, "GB of peak resident memory of the process", "<= 1.5", **common, **every))


if __name__ == "__main__":
    main()
