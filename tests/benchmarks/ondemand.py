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


def load(clients: int, requests: int, hostile: int) -> Result:
    """Latencies of mixed requests to a service on loopback, its memory, and what hostile requests get."""
    import random
    import threading
    from concurrent.futures import ThreadPoolExecutor
    from urllib.parse import quote

    import httpx
    import psutil
    import torch
    import uvicorn

    import xland
    from xland.coupling.service import make_service
    from xland.datasets import luh2_2015

    torch.set_num_threads(1)
    emulator = xland.Emulator(luh2_2015(), prefetch=False)
    server = uvicorn.Server(uvicorn.Config(make_service(emulator), port=0, log_level="critical"))
    thread = threading.Thread(target=server.run, daemon=True)
    thread.start()
    while not server.started:
        time.sleep(0.01)
    address = f"http://127.0.0.1:{server.servers[0].sockets[0].getsockname()[1]}"
    chosen = random.Random(0)  # noqa: S311

    def friendly(number: int) -> str:
        lon, lat = PLACES[number % len(PLACES)]
        x, y = lon + chosen.uniform(-4, 4), lat + chosen.uniform(-4, 4)
        if number % 3 == 0:
            return f"/datasets/land-use/edr/position?coords={quote(f'POINT({x:.3f} {y:.3f})')}&parameter-name=land_use"
        if number % 3 == 1:
            row, column = int((90 - y) / 0.05), int((x + 180) / 0.05)
            return f"/datasets/land-use/opendap.dods?land_use.land_use[0:0][{row}:{row + 19}][{column}:{column + 19}]"
        return f"/fields?time=2015&variables=shares&bbox={x:.2f},{y:.2f},{x + 1:.2f},{y + 1:.2f}"

    unfriendly = (
        "/datasets/land-use/opendap.dods", "/datasets/land-use/opendap.dods?land_use[0:1:0][0:1:3599][0:1:7199]",
        "/fields?time=2015&step=0.05", "/fields?time=2015&healpix=8192", "/fields?time=9999&bbox=0,0,1,1",
        "/fields?time=2015&bbox=0,0,1,nan", "/fields?time=2015&step=1e-300",
        "/fields?time=2015&variables=../../etc/passwd&bbox=0,0,1,1",
        "/datasets/land-use/edr/position?coords=POINT(1e400%200)", "/datasets/land-use/edr/area?coords=" + "(" * 4000,
        "/" + "a" * 9000, "/datasets/../../etc/passwd", "/datasets/land-use/opendap.dods?land_use[-1:a:;]",
        "/datasets/land-use/edr/cube?bbox=-180,-90,180,90",
        "/datasets/land-use/edr/area?coords=" + quote("POLYGON((-170 -80, 170 -80, 170 80, -170 -80))"),
    )  # fmt: skip

    def ask_all(paths: list[str]) -> list[tuple[int, float]]:
        with httpx.Client(base_url=address, timeout=120) as client:
            found = []
            for path in paths:
                started = time.perf_counter()
                try:
                    status = client.get(path).status_code
                except httpx.HTTPError:
                    status = 0
                found.append((status, time.perf_counter() - started))
            return found

    def run(paths: list[str]) -> list[tuple[int, float]]:
        with ThreadPoolExecutor(clients) as pool:
            return [each for part in pool.map(ask_all, (paths[n::clients] for n in range(clients))) for each in part]

    process, paths = psutil.Process(), [friendly(number) for number in range(requests)]
    run(paths[: requests // 4])  # the first of a place reads static fields
    before = process.memory_info().rss
    started = time.perf_counter()
    found = run(paths)
    seconds = time.perf_counter() - started
    after = process.memory_info().rss
    answers = run([unfriendly[number % len(unfriendly)] for number in range(hostile)])
    lives = ask_all(["/health", friendly(0)])
    times = sorted(each for _, each in found)
    return {
        "errors": sum(status != 200 for status, _ in found),
        "p95": times[int(0.95 * len(times))],
        "median": times[len(times) // 2],
        "per_second": len(found) / seconds,
        "memory_more": after / before - 1,
        "memory_hostile": process.memory_info().rss / after - 1,
        "hostile_failures": sum(not 400 <= status < 500 and status != 503 for status, _ in answers)
        + sum(status != 200 for status, _ in lives),
    }


def main() -> None:
    """Print a line for each figure."""
    given = options(__doc__ or "", ("latency", "prefetch", "load", "globe"))
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
    if "load" in given.only:
        sizes = {"clients": 16, "requests": 200 if given.quick else 2000, "hostile": 500 if given.quick else 10_000}
        found = fresh(here.load, **sizes)
        more = {"runs": 1, "sizes": sizes, **rounded(found)}
        show(line("load_errors", found["errors"], "answers that are not 200", "== 0", **more))
        show(line("load_p95", found["p95"], "seconds", "<= 1", runs=1, sizes=sizes))
        show(line("hostile_failures", found["hostile_failures"], "no named refusal", "== 0", runs=1, sizes=sizes))
    if "globe" in given.only:
        found = fresh(here.globe, nside=128)
        ratio = (found["downscale"] + found["healpix_again"]) / found["downscale"]
        more = rounded({name: value for name, value in found.items() if not name.endswith("residual")})
        show(line("healpix_ratio", ratio, "downscale of the globe", "<= 1.1", runs=1, sizes="nside 128", **more))
        off = {name: value for name, value in found.items() if name.endswith("residual")}
        show(line("conservation", max(off.values()), "area on the map", "<= 1e-6", runs=1, sizes="8 classes", off=off))


if __name__ == "__main__":
    main()
