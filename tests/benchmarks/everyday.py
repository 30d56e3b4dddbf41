"""How long people wait in a notebook and on a cluster, and what travels: one JSON object a line, one line a promise.

Run as ``python -m tests.benchmarks.everyday [--quick] [--only NAME ...] [--before FOLDER]``. Needs the reference data
(``make data``), the LUH2 file of 2015 in ``../shared/data`` or ``XLAND_TEST_DATA``, and for the line ``whole`` a
checkout of an earlier commit. Each run is a fresh process, and sides that are compared take turns. Linux only.
"""

from __future__ import annotations

import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from typing import Any

from tests.benchmarks import harness, inference, sides
from tests.benchmarks.harness import LUH2, Result, median, missing, ratio, show, side, skipped, take_turns

MODELS = ("luh2-0p05", "fractions-0p05")
SMALL = {"lat": slice(700, 800), "lon": slice(3800, 3900)}
"""100 x 100 pixels of France and Germany."""

PLACES: dict[str, tuple[dict[str, Any], str]] = {
    "point": ({"lat": 50.11, "lon": 8.68}, "<= 0.4"),
    "degree": ({"lat": slice(51, 50), "lon": slice(8, 9)}, "<= 0.5"),
    "ten_degrees": ({"lat": slice(55, 45), "lon": slice(5, 15)}, "<= 1.2"),
}


@dataclass(frozen=True)
class EverydayBench(inference.InferenceBench):
    """With a checkout of the commit that is compared with."""

    before: str = ""


def _maps(model: str = "luh2-0p05", **options: Any) -> Any:
    """Lazy maps of the globe, from a file that a shipped model reads."""
    import xarray as xr

    import xland

    if model == "fractions-0p05":
        return xland.datasets.class_fractions().ai4land.downscale(model=model, **options)
    return xr.open_dataset(LUH2, decode_times=False).ai4land.downscale(model=model, **options)


def _import() -> float:
    """Import what a write and a cluster need, and return the MB of this process."""
    harness.import_packages()
    for name in ("xland.downscaling.call", "xland.store.writing"):
        import_module(name)
    return harness.megabytes("VmRSS")


def use_cluster(folder: str) -> Result:
    """Write 100 x 100 pixels twice on a local cluster, and submit the globe: seconds, and MB that are sent."""
    imported = _import()
    import dask
    import distributed.client
    from distributed import Client

    sent: list[float] = []
    serialize: Callable[..., Any] = distributed.client.serialize

    def count(*given: Any, **options: Any) -> Any:
        header, frames = serialize(*given, **options)
        sent.append(sum(map(distributed.client.nbytes, frames)) / 1e6)
        return header, frames

    distributed.client.serialize = count
    with Client(n_workers=2, threads_per_worker=1, dashboard_address=None) as client:
        seconds = []
        for number in range(2):
            started = time.perf_counter()
            _maps().isel(SMALL).ai4land.to_zarr(f"{folder}/small-{number}.zarr", overwrite=True, progress=False)
            seconds.append(time.perf_counter() - started)
        small = max(sent)
        future = client.compute(dask.optimize(_maps()["land_use"].data)[0])
        future.cancel()
        peak = harness.megabytes("VmHWM") - imported
    return {"seconds": seconds[1], "first": seconds[0], "small_mb": small, "globe_mb": sent[-1], "client_mb": peak}


def select(model: str) -> Result:
    """Select from the lazy map of the globe: the first in this process after imports, and each place when warm."""
    _import()
    started = time.perf_counter()
    land_use = _maps(model)["land_use"]
    results: Result = {}
    for name, (place, _) in PLACES.items():
        nearest = {"method": "nearest"} if name == "point" else {}
        selected = land_use.sel(place, **nearest)
        selected.compute()
        results.setdefault("first", time.perf_counter() - started)
        started = time.perf_counter()
        land_use.sel(place, **nearest).compute()
        results[name] = time.perf_counter() - started
    return results


def interrupt(after: float) -> Result:
    """Interrupt the computation of the globe, and wait for one pixel."""
    import signal

    _import()
    land_use = _maps()["land_use"]
    pixel = land_use.sel(PLACES["point"][0], method="nearest")
    pixel.compute()
    threading.Timer(after, signal.pthread_kill, (threading.main_thread().ident, signal.SIGINT)).start()
    try:
        land_use.compute()
    except KeyboardInterrupt:
        interrupted = time.perf_counter()
    pixel.compute()
    return {"seconds": time.perf_counter() - interrupted}


def write_named(source: str, store: str, *, small: bool) -> Result:
    """Write maps from a file whose dimensions are called as they may be."""
    import shutil

    import xarray as xr

    _import()
    shutil.rmtree(store, ignore_errors=True)
    started = time.perf_counter()
    options = {"region": (-10, 35, 30, 70)} if small else {}
    xr.open_dataset(source, decode_times=False).ai4land.downscale(**options).ai4land.to_zarr(store, progress=False)
    return {"seconds": time.perf_counter() - started, "peak_mb": harness.megabytes("VmHWM")}


def cluster(bench: EverydayBench) -> Iterator[Result]:
    """What a write on a cluster costs the client, and what it sends."""
    results = take_turns({"cluster": side(use_cluster, folder=str(bench.folder))}, bench.runs)
    runs, common = results["cluster"], {"sizes": "100 x 100 pixels; lazy maps of the globe on 0.05 degree"}
    figure = max(median(runs, "small_mb"), median(runs, "globe_mb"))
    versus = "MB sent to the scheduler for 100 x 100 pixels or the globe, the larger"
    yield bench.line("cluster_bytes", figure, versus, "<= 1", results, "small_mb", "globe_mb", **common)
    versus = "peak MB of the client above imports"
    yield bench.line("cluster_memory", median(runs, "client_mb"), versus, "<= 300", results, "client_mb", **common)
    versus = "seconds to write 100 x 100 pixels on two workers that have written before"
    yield bench.line("cluster_seconds", median(runs, "seconds"), versus, "<= 3", results, "seconds", "first", **common)


def selections(bench: EverydayBench) -> Iterator[Result]:
    """Seconds of selections from the lazy map of the globe."""
    results = take_turns({model: side(select, model=model) for model in MODELS}, bench.runs)
    targets = {"first": "<= 1.5", **{name: target for name, (_, target) in PLACES.items()}}
    for name, target in targets.items():
        figure = max(median(runs, name) for runs in results.values())
        versus = "seconds to open, downscale and compute a point after imports" if name == "first" else "seconds, warm"
        yield bench.line(f"select_{name}", figure, f"{versus}; the slower model", target, results, name, sizes="globe")


def whole(bench: EverydayBench) -> Iterator[Result]:
    """The globe, or less, as fast as before; and windows that are computed twice."""
    place = inference.SMALL if bench.quick else inference.GLOBE
    sizes = f"{place.note}; one year"
    if bench.before:
        given = {"forcing": bench.forcing, "store": bench.store("maps"), "box": place.box, "years": inference.YEARS[:1]}
        compared = {
            "before": side(sides.run_xland, project=bench.before, **given),
            "now": side(sides.run_xland, **given),
        }
        results = take_turns(compared, bench.runs)
        figure = ratio(results, "now", "before", "seconds")
        yield bench.line("whole", figure, "seconds of a write now / before", "<= 1.02", results, "seconds", sizes=sizes)
    else:
        yield skipped("whole", "--before names no checkout of an earlier commit")
    (twice,) = inference.twice(bench)
    yield {**twice, "target": "<= 0.07", "met": twice["figure"] <= 0.07}


def interruption(bench: EverydayBench) -> Iterator[Result]:
    """The next answer after a cell that was interrupted."""
    results = take_turns({"interrupt": side(interrupt, after=4)}, bench.runs)
    figure = median(results["interrupt"], "seconds")
    versus = "seconds from the interruption of the globe to one pixel"
    yield bench.line("interrupt", figure, versus, "<= 1", results, "seconds", sizes="globe")


def names(bench: EverydayBench) -> Iterator[Result]:
    """The same from a file with ``latitude`` and ``longitude`` as with ``lat`` and ``lon``."""
    import numpy as np
    import xarray as xr

    given = {"lat/lon": ("lat", "lon"), "latitude/longitude": ("latitude", "longitude")}
    runs: dict[str, Callable[[], Result]] = {}
    for name, (lat, lon) in given.items():
        source = bench.folder / f"{lat}.nc"
        with xr.open_dataset(LUH2, decode_times=False) as ds:
            ds.rename({"lat": lat, "lon": lon} if lat != "lat" else {}).to_netcdf(source)
        runs[name] = side(write_named, source=str(source), store=bench.store(lat), small=bench.quick)
    results = take_turns(runs, bench.runs)
    stores = [xr.open_zarr(bench.store(lat), consolidated=False)["land_use"] for lat in ("lat", "latitude")]
    common = {
        "sizes": "40 x 35 degrees" if bench.quick else "globe",
        "equal": bool(np.array_equal(*(each.values for each in stores))),
        "chunks": [each.encoding["chunks"] for each in stores],
    }
    for name, entry in {"names_time": "seconds", "names_memory": "peak_mb"}.items():
        figure = ratio(results, "latitude/longitude", "lat/lon", entry)
        yield bench.line(name, figure, f"{entry}, latitude/longitude / lat/lon", "<= 1.05", results, entry, **common)


GROUPS: dict[str, Callable[[EverydayBench], Iterator[Result]]] = {
    "cluster": cluster,
    "select": selections,
    "whole": whole,
    "interrupt": interruption,
    "names": names,
}


def main() -> None:
    before = {"default": "", "help": "checkout of the commit that the globe is compared with"}
    options = harness.options(__doc__ or "", GROUPS, before=before)
    with tempfile.TemporaryDirectory(prefix="xland-benchmarks-") as folder:
        bench = EverydayBench(Path(folder), options.quick, options.before and str(Path(options.before).resolve()))
        for name in options.only:
            if not LUH2.exists():
                show(missing(name, LUH2))
                continue
            for result in GROUPS[name](bench):
                show(result)


if __name__ == "__main__":
    main()
