"""Fields on demand: latency by size of the request, HEALPix beside the downscaling, prefetching, conservation."""

from __future__ import annotations

import statistics
import time
from typing import Any

from tests.benchmarks.harness import Result, fresh, line, options, rounded, show, skipped, tell

PLACES = (
    (10.3, 48.2),
    (-93.4, 41.7),
    (77.2, 28.7),
    (-47.1, -22.9),
    (36.9, 0.4),
    (114.3, 30.5),
    (145.2, -36.2),
    (24.8, 60.3),
)
"""Longitude and latitude of requests, on land of all inhabited continents."""


def ask(sizes: dict[str, float]) -> Result:
    """Seconds of the first request of a process, of new windows where it is warm, and of one that is kept."""
    import torch

    import xland
    from xland.datasets import luh2_2015

    torch.set_num_threads(1)
    result: Result = {}
    started, spent = time.perf_counter(), time.process_time()
    emulator = xland.Emulator(luh2_2015(), prefetch=False)
    emulator.field(2015, (8.0, 46.0, 8.01, 46.01))
    result |= {"cold": time.perf_counter() - started, "cold_cpu": time.process_time() - spent}
    for lon, lat in PLACES:  # the static fields around are in memory then, and the windows that follow are new
        emulator.field(2015, (lon - 6, lat - 6, lon + 12, lat + 12))
    for name, size in sizes.items():
        seconds, cpu = [], []
        for lon, lat in PLACES:
            started, spent = time.perf_counter(), time.process_time()
            emulator.field(2015, (lon, lat, lon + size, lat + size))
            seconds.append(time.perf_counter() - started)
            cpu.append(time.process_time() - spent)
        result |= {name: statistics.median(seconds), f"{name}_cpu": statistics.median(cpu)}
    region = (PLACES[0][0], PLACES[0][1], PLACES[0][0] + 10, PLACES[0][1] + 10)
    emulator.field(2015, region)
    seconds = []
    for _ in range(50):
        started = time.perf_counter()
        emulator.field(2015, region)
        seconds.append(time.perf_counter() - started)
    return result | {"cached": statistics.median(seconds)}


def ahead() -> Result:
    """Seconds of the next year on ten degrees, once it was prefetched."""
    import xland
    from xland.datasets import luh2_2015
    from xland.geo.conventions import with_years

    forcing = luh2_2015()
    three = with_years(forcing.isel(time=[0, 0, 0]), [2015, 2016, 2017])
    found = []
    with xland.Emulator(three) as emulator:
        for year in (2015, 2016, 2017):
            started = time.perf_counter()
            emulator.field(year, (10, 45, 20, 55))
            found.append(time.perf_counter() - started)
            emulator.wait()
    return {"first": found[0], "next": max(found[1:])}


def globe(nside: int) -> Result:
    """Seconds of the map of the globe and of all shares on HEALPix from it, and how far areas differ."""
    import numpy as np

    import xland
    from xland.coupling.grids import Gaussian, HEALPix, Region, Regular
    from xland.datasets import luh2_2015

    emulator = xland.Emulator(luh2_2015(), prefetch=False)
    started = time.perf_counter()
    codes = emulator.field(2015, "globe")["land_use"].values
    result: Result = {"downscale": time.perf_counter() - started}
    area = emulator.window(Region(-180, -90, 180, 90)).cell_area()
    exact = np.bincount(codes.ravel(), np.repeat(area, codes.shape[1]), 8)[1:]
    for name, grid in {
        "healpix": HEALPix(nside), "ring": HEALPix(nside // 2, nested=False), "regular": Regular(0.8),
        "one_degree": Regular(1.0), "octahedral": Gaussian("O96"),
    }.items():  # fmt: skip
        for turn in ("first", "again"):
            emulator._kept._values.pop(
                next((k for k in emulator._kept._values if str(k).startswith("areas")), ""), None
            )
            started = time.perf_counter()
            field = emulator.field(2015, grid, ["shares", "land_fraction"])
            result[f"{name}_{turn}"] = time.perf_counter() - started
        dims = grid.dims
        found = (field["shares"] * field["land_fraction"] * field["cell_area"]).sum(dims).values
        result[f"{name}_residual"] = float(np.abs(found / exact - 1).max())
    return result


def main() -> None:
    """Print a line for each figure."""
    given = options(__doc__ or "", ("latency", "prefetch", "globe"))
    from tests.benchmarks import ondemand as here  # as fresh processes find it
    from xland import datasets

    if not datasets.is_prepared():
        show(skipped("ondemand", "reference data are not prepared: run make data"))
        return
    many = {"point": 0.01, "degree": 1.0, "ten_degrees": 10.0}
    if "latency" in given.only:
        runs = [fresh(here.ask, sizes=many) for _ in range(1 if given.quick else 3)]
        limits = {"cold": 1.5, "point": 0.15, "degree": 0.2, "ten_degrees": 0.8, "cached": 0.005}
        for name, limit in limits.items():
            title = {"cold": "point_cold", "cached": "cached"}.get(name, f"{name}_warm")
            figure = statistics.median(run[name] for run in runs)
            every: dict[str, Any] = {"every": [round(run[name], 4) for run in runs]}
            if f"{name}_cpu" in runs[0]:  # what it takes where other programs hold up the cores
                every["cpu_seconds"] = round(statistics.median(run[f"{name}_cpu"] for run in runs), 4)
            show(line(title, figure, "seconds", f"<= {limit}", runs=len(runs), sizes=many.get(name, "point"), **every))
    if "prefetch" in given.only:
        found = fresh(here.ahead)
        tell(str(found))
        show(line("prefetched", found["next"], "seconds", "<= 0.05", runs=1, sizes="10 x 10 degrees", **rounded(found)))
    if "globe" in given.only:
        found = fresh(here.globe, nside=128)
        ratio = (found["downscale"] + found["healpix_again"]) / found["downscale"]
        more = rounded({name: value for name, value in found.items() if not name.endswith("residual")})
        show(line("healpix_ratio", ratio, "downscale of the globe", "<= 1.1", runs=1, sizes="nside 128", **more))
        off = {name: value for name, value in found.items() if name.endswith("residual")}
        show(line("conservation", max(off.values()), "area on the map", "<= 1e-6", runs=1, sizes="8 classes", off=off))


if __name__ == "__main__":
    main()
