"""The graph of a rollout over the globe on 0.01 degree and 251 years, from lazy inputs that hold nothing."""

from __future__ import annotations

import itertools
import time
from collections import Counter
from dataclasses import replace
from pathlib import Path
from typing import Any

from tests.benchmarks.harness import Result, megabytes

WEST, SOUTH, EAST, NORTH = 10.0, 48.0, 12.0, 50.0
"""The 2 x 2 degrees that are selected."""


def prepare(folder: str, resolution: float, factor: int, window: int, stride: int, years: list[int]) -> Result:
    """Write the model, and forcing, static fields and prior as Zarr stores without a single chunk."""
    from tests.worlds import tiny_checkpoint, tiny_inputs
    from xland.geo.grid import Grid

    inputs = replace(tiny_inputs(prior="one_hot"), factor=factor, resolution=resolution, window=window, stride=stride)
    tiny_checkpoint(Path(folder, "model"), inputs)
    fine = Grid.world(resolution)
    coarse = fine.coarsen(factor)
    names = dict.fromkeys((*inputs.coarse_variables, *inputs.optional_coarse_variables), "float32")
    write_empty(Path(folder, "forcing.zarr"), coarse, names, years=list(range(years[0], years[1] + 1)))
    write_empty(Path(folder, "static.zarr"), fine, dict.fromkeys(inputs.static_variables, "float32"))
    write_empty(Path(folder, "prior.zarr"), fine, {"land_use": "uint8"})
    return {}


def write_empty(path: Path, grid: Any, variables: dict[str, str], years: list[int] | None = None) -> None:
    """Write the metadata and coordinates of a Zarr store, and no chunk: all values are read as 0."""
    import dask.array as da
    import xarray as xr

    dims, lead = (("lat", "lon"), ()) if years is None else (("time", "lat", "lon"), (len(years),))
    shape = (*lead, *grid.shape)
    chunks = (*(1 for _ in lead), min(1200, grid.rows), min(1200, grid.columns))
    place = {"lat": grid.latitude, "lon": grid.longitude} | ({} if years is None else {"time": years})
    lazy = {name: (dims, da.zeros(shape, dtype, chunks=chunks)) for name, dtype in variables.items()}
    xr.Dataset(lazy, place).to_zarr(path, zarr_format=3, consolidated=False, compute=False)


def build(folder: str, chunks: int | None, year: int) -> Result:
    """Build the lazy result, and say what it took and what a selection of 2 x 2 degrees of one year needs."""
    import dask
    import torch  # noqa: F401 - imported before memory is measured
    import xarray as xr
    import zarr.codecs  # noqa: F401 - imported before memory is measured

    from xland.downscaling.call import downscale
    from xland.store.reading import open_store

    imported = megabytes("VmRSS")
    forcing = open_store(f"{folder}/forcing.zarr")
    static, prior = (
        xr.open_zarr(f"{folder}/{name}.zarr", chunks=None, consolidated=False) for name in ("static", "prior")
    )
    started = time.perf_counter()
    fine = downscale(forcing, model=f"{folder}/model", static=static, prior=prior["land_use"], chunks=chunks)
    seconds = time.perf_counter() - started
    grown = megabytes("VmHWM") - imported
    blocks = fine["land_use"].data.chunks
    result: Result = {
        "seconds": seconds,
        "grown_mb": grown,
        "imports_mb": imported,
        "block_years": len(blocks[0]) * len(blocks[1]) * len(blocks[2]),
        "chunks": [list(each) for each in blocks[1:]],
    }
    started = time.perf_counter()
    selected = fine["land_use"].sel(year=year, lat=slice(NORTH, SOUTH), lon=slice(WEST, EAST))
    keys = set(dask.core.flatten(selected.data.__dask_keys__()))
    tasks = dict(selected.data.__dask_graph__().cull(keys))
    kinds = Counter(dask.utils.key_split(key) for key in tasks)
    # keys of block-years are (name, year, row, column)
    found = [key for key in tasks if isinstance(key, tuple) and len(key) == 4 and key[0].startswith("land_use-")]
    return result | {
        "select_seconds": time.perf_counter() - started,
        "tasks": len(tasks),
        "tasks_by_kind": dict(kinds),
        "selected_block_years": len(found),
        "needed_block_years": _needed(fine, Path(folder, "model"), year),
        "grown_mb_after_selection": megabytes("VmHWM") - imported,
    }


def _needed(fine: Any, model: Path, year: int) -> int:
    """Block-years that the selection depends on: its blocks, those in their halos the year before, and so on."""
    from xland.models import find_model

    inputs = find_model(model).inputs
    globe = round(360 / inputs.resolution)
    rows_of, columns_of = (_spans(sizes) for sizes in fine["land_use"].data.chunks[1:])
    top, bottom, left, right = (
        round(edge / inputs.resolution) for edge in (90 - NORTH, 90 - SOUTH, WEST + 180, EAST + 180)
    )
    rows = {n for n, (a, b) in enumerate(rows_of) if a < bottom and b > top}
    columns = {n for n, (a, b) in enumerate(columns_of) if a < right and b > left}
    total = 0
    for _ in range(int(fine["year"][0]), year + 1):
        total += len(rows) * len(columns)
        read_rows = [_halo(*rows_of[n], inputs) for n in rows]
        read_columns = [_halo(*columns_of[n], inputs) for n in columns]
        rows = {n for n, (a, b) in enumerate(rows_of) for first, last in read_rows if a < last and b > first}
        columns = {
            n
            for n, (a, b) in enumerate(columns_of)
            for first, last in read_columns
            for turn in (-globe, 0, globe)
            if a + turn < last and b + turn > first
        }
    return total


def _halo(first: int, last: int, inputs: Any) -> tuple[int, int]:
    size, stride = inputs.window, inputs.stride
    return ((first - size) // stride + 1) * stride, (-(-last // stride) - 1) * stride + size


def _spans(sizes: tuple[int, ...]) -> list[tuple[int, int]]:
    edges = [sum(sizes[:n]) for n in range(len(sizes) + 1)]
    return list(itertools.pairwise(edges))


def twice(chunks: list[list[int]], window: int, stride: int) -> float:
    """Windows that blocks of a whole globe of land run again, as a share of all windows; of the chunks alone."""
    computed = distinct = 1
    for axis, sizes in enumerate(chunks):
        spans = [_starts(a, b, window, stride) for a, b in _spans(tuple(sizes))]
        computed *= sum(map(len, spans))
        globe = sum(sizes)
        distinct *= len({start % globe if axis else start for each in spans for start in each})
    return computed / distinct - 1


def _starts(first: int, last: int, window: int, stride: int) -> range:
    return range(((first - window) // stride + 1) * stride, last, stride)
