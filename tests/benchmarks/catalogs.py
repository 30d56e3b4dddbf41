"""Catalogs of 10,000 entries, publishers at the same time and killed ones, and tiles for map viewers.

Run as ``python -m tests.benchmarks.catalogs``; one JSON line a figure. The catalog has sub-catalogs of 500 entries, and
each entry a store of its own: a folder whose files are links to those of a single one. Tiles are read by rio-tiler, as
titiler reads them; ``tile`` is skipped where that is not installed.
"""

from __future__ import annotations

import json
import os
import random
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import xarray as xr

from tests.benchmarks.harness import PROJECT, Result, fresh, line, options, show, skipped, tell
from xland import Catalog
from xland.catalogs import publish
from xland.catalogs.finding import read_products
from xland.catalogs.rules import product_source
from xland.catalogs.yaml_files import change_file, read_file
from xland.exports.export import export
from xland.geo.grid import Grid
from xland.store.reading import open_store
from xland.store.writing import write

PER_PRODUCT = 500
RUNS = 5


def make_store(path: Path) -> Path:
    """Write a store of one small map."""
    codes = (np.arange(48, dtype=np.uint8) % 8).reshape(1, 6, 8)
    coords = {"time": [2015], "lat": 3 - np.arange(6.0), "lon": np.arange(8.0)}
    ds = xr.Dataset({"land_use": (("time", "lat", "lon"), codes)}, coords, {"title": "Land use", "license": "MIT"})
    write(ds.chunk(), path, progress=False)
    return path


def make_catalog(folder: Path, entries: int) -> Path:
    """Write a catalog of many entries: one is published, the others are written as it is."""
    store = make_store(folder / "store.zarr")
    path = publish(folder / "catalog.yaml", name="first", store=store)
    entry = Catalog(path).show("first")
    source = {"description": "Land use", "driver": "zarr", "args": {"urlpath": "", "consolidated": True}}
    files: dict[str, str] = {}
    for start in range(0, entries, PER_PRODUCT):
        product, sources = f"product-{start // PER_PRODUCT:03d}", {}
        for number in range(start, min(start + PER_PRODUCT, entries)):
            shutil.copytree(store, folder / product / f"{number}.zarr", copy_function=os.link)
            args = {**source["args"], "urlpath": f"{product}/{number}.zarr"}  # type: ignore[dict-item]
            sources[f"entry-{number:05d}"] = {**source, "args": args, "metadata": dict(entry.metadata)}
        files[product] = f"catalog.{product}.yaml"
        change_file(folder / files[product], lambda _, sources=sources: sources, new={"title": product})
    change_file(path, lambda old: {**old, **{each: product_source(file, each) for each, file in files.items()}})
    return path


def open_and_list(path: str) -> Result:
    """Open a catalog and show an entry, and list all of it, in a process that has read nothing of it before."""
    catalog = Catalog(path)
    started = time.perf_counter()
    names = [name for _, file in read_products(read_file(catalog.address)) for name in file.names]
    opened = time.perf_counter() - started
    started = time.perf_counter()
    listed = len(catalog.list())
    return {"open": opened, "names": len(names), "list": time.perf_counter() - started, "entries": listed}


def publish_one(path: str, store: str, name: str) -> Result:
    """Publish one more store into a sub-catalog, in a process that has opened a store but nothing of the catalog."""
    open_store(store).close()  # which imports what opening stores needs
    started = time.perf_counter()
    publish(path, name=name, store=store, product="product-000")
    return {"publish": time.perf_counter() - started}


def check_all(path: str) -> Result:
    """Compare a catalog with its stores."""
    started = time.perf_counter()
    found = Catalog(path).check(progress=False)
    return {"check": time.perf_counter() - started, "entries": len(found.findings), "faults": len(found.faults)}


def publish_many(path: str, store: str, number: int, count: int) -> Result:
    """Publish a store under many names."""
    for each in range(count):
        publish(path, name=f"of-{number}-{each}", store=store)
    return {"published": count}


def process(function: Any, *arguments: object) -> subprocess.Popen[bytes]:
    """Start a process that calls a function of this module."""
    code = "import json, sys; from tests.benchmarks import catalogs; "
    code += f"catalogs.{function.__name__}(*json.loads(sys.argv[1]))"
    return subprocess.Popen([sys.executable, "-c", code, json.dumps(arguments)], cwd=PROJECT)


def sizes(folder: Path, *, quick: bool) -> Iterator[Result]:
    """Opening, listing, publishing into and checking a large catalog."""
    entries = 1000 if quick else 10_000
    tell(f"making a catalog of {entries} entries")
    path = str(make_catalog(folder, entries))
    store = str(make_store(folder / "more.zarr"))
    runs = [fresh(open_and_list, path=path) for _ in range(RUNS)]
    assert all(run["entries"] == entries + 1 for run in runs)
    stated: Any = partial(line, runs=RUNS, sizes={"entries": entries, "in_a_file": PER_PRODUCT})
    for name, limit in (("open", 0.3), ("list", 0.5)):
        values = sorted(run[name] for run in runs)
        yield stated(name, values[RUNS // 2], "a limit, in seconds", f"<= {limit}", every=values)
    values = sorted(fresh(publish_one, path=path, store=store, name=f"new-{n}")["publish"] for n in range(RUNS))
    yield stated("publish", values[RUNS // 2], "a limit, in seconds", "<= 0.5", every=values)
    Catalog(path).page()
    Catalog(path).stac()
    values = sorted(fresh(publish_one, path=path, store=store, name=f"more-{n}")["publish"] for n in range(RUNS))
    yield stated("publish_with_page_and_twin", values[RUNS // 2], "a limit, in seconds", "<= 0.5", every=values)
    found = fresh(check_all, path=path)
    yield stated("check", found["check"], "a limit, in seconds", "<= 10", faults=found["faults"])


def concurrent(folder: Path, *, quick: bool) -> Result:
    """Count what 8 processes publish at the same time."""
    path, store = folder / "concurrent.yaml", make_store(folder / "concurrent.zarr")
    count = 5 if quick else 50
    started = time.perf_counter()
    running = [process(publish_many, str(path), str(store), number, count) for number in range(8)]
    failed = sum(each.wait() != 0 for each in running)
    seconds, found = round(time.perf_counter() - started, 1), len(Catalog(path).list())
    sized = {"processes": 8, "each": count}
    return line("concurrent", found, "entries", f"== {8 * count}", runs=1, sizes=sized, failed=failed, seconds=seconds)


def kills(folder: Path, *, quick: bool) -> Result:
    """Count the catalogs that are unreadable, or have an entry without its store, after a publisher was killed."""
    path, store = folder / "killed.yaml", make_store(folder / "killed.zarr")
    rng, broken, count = random.Random(0), 0, 5 if quick else 50  # noqa: S311 -- no secret
    publish(path, name="first", store=store)
    for number in range(count):
        before = len(Catalog(path).list())
        running = process(publish_many, str(path), str(store), number, 10_000)
        while len(Catalog(path).list()) == before:  # until it has begun to publish
            time.sleep(0.01)
        time.sleep(rng.uniform(0, 0.3))
        running.kill()
        running.wait()
        try:
            broken += not Catalog(path).check(progress=False).ok
        except Exception as error:  # noqa: BLE001 -- counted
            broken += 1
            tell(f"after kill {number}: {error}")
    entries = len(Catalog(path).list())
    return line("kills_broken", broken, "catalogs", "== 0", runs=count, sizes={"kills": count, "entries": entries})


def read_tiles(store: str, zooms: list[int], count: int) -> Result:
    """Read tiles of 256 x 256 pixels at random places of a pyramid, each zoom after one tile for the imports."""
    import zarr
    from rio_tiler.experimental.zarr import GroupReader

    rng, found = random.Random(0), {}  # noqa: S311 -- no secret
    with GroupReader(zarr.open_group(store, mode="r")) as reader:
        for zoom in zooms:
            seconds = []
            for _ in range(count + 1):
                x, y = rng.randrange(2**zoom), rng.randrange(2**zoom // 4, 2**zoom - 2**zoom // 4)
                started = time.perf_counter()
                image = reader.tile(x, y, zoom, variables=["land_use"], bidx=[1])
                seconds.append(time.perf_counter() - started)
                assert image.data.shape[-2:] == (256, 256)
            found[str(zoom)] = sorted(seconds[1:])
    return found


def tile(folder: Path, *, quick: bool) -> Result:
    """Time tiles of a global class map, from the whole globe to single cells."""
    try:
        import rio_tiler.experimental.zarr  # noqa: F401
    except ImportError as error:
        return skipped("tile", f"rio-tiler cannot be imported: {error}")
    grid = Grid.world(0.25 if quick else 0.05)
    codes = np.random.default_rng(0).integers(0, 8, (1, *grid.shape), np.uint8)
    coords = {"time": [2015], "lat": grid.latitude, "lon": grid.longitude}
    maps = xr.Dataset({"land_use": (("time", "lat", "lon"), codes)}, coords)
    (store,) = export(maps, folder / "pyramid.zarr", form="pyramid", progress=False)
    found = fresh(read_tiles, store=str(store), zooms=[2, 4, 6, 8], count=5 if quick else 20)
    every = {zoom: [round(1000 * each) for each in values] for zoom, values in found.items()}
    slowest = max(values[len(values) // 2] for values in found.values())
    sized = {"rows": grid.rows, "columns": grid.columns}
    return line("tile", 1000 * slowest, "a limit, in ms", "<= 100", runs=len(found["2"]), sizes=sized, every=every)


def main() -> None:
    """Print one line a figure."""
    given = options(__doc__ or "", ("sizes", "concurrent", "kills", "tile"))
    with tempfile.TemporaryDirectory() as made:
        folder = Path(made)
        for name in given.only:
            if name == "sizes":
                for result in sizes(folder, quick=given.quick):
                    show(result)
            else:
                show({"concurrent": concurrent, "kills": kills, "tile": tile}[name](folder, quick=given.quick))


if __name__ == "__main__":
    from tests.benchmarks import catalogs  # fresh processes find functions by the name of this module

    catalogs.main()
