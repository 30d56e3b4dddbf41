"""Prepared stores: built once into a Zarr in the cache, whole or not at all, then opened lazily.

They hold the digest of each file, as all stores do. What a cache lost is built again: scratch disks delete files
that were not read for long, one by one.
"""

from __future__ import annotations

import hashlib
import json
import shutil
import tempfile
import warnings
from collections.abc import Callable, Iterable, Mapping
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import xarray as xr

from xland import vocabulary
from xland.datasets.wheels import cache_dir, source
from xland.errors import DatasetError, StoreError
from xland.geo.grid import Grid
from xland.geo.years import with_years
from xland.store.checksums import ATTRIBUTE, ROOT, sha256, table_name
from xland.store.storage import files_at
from xland.store.workplace import read_finished, seal

if TYPE_CHECKING:
    import zarr

CHUNK = 600
"""Cells of a chunk in each direction, on disk and in dask."""

RECIPES: Mapping[str, tuple[int, tuple[str, ...]]] = {
    "land-mask": (2, ("land-mask",)),
    "static": (
        2,
        ("topography", "land-mask", "koppen", "temperature", "precipitation", "lakes", "settlements"),
    ),
    "land-use": (1, ("modis-2019", "land-mask")),
    "fractions": (1, ("modis-2019", "land-mask")),
}
"""Every store: the version of how it is made, to be raised with every change, and what it is made of."""


def store_path(recipe: str, variant: str = "") -> Path:
    """Path of a store; it changes with the way it is made, its sources and the table of classes."""
    version, names = RECIPES[recipe]
    parts = [source(name).sha256 for name in names]
    if "modis-2019" in names:
        parts.append(repr(sorted(vocabulary.IGBP.items())))
    key = hashlib.sha256("".join(parts).encode()).hexdigest()[:10]
    label = f"{recipe}-{variant}" if variant else recipe
    return cache_dir() / "prepared" / f"{label}-v{version}-{key}.zarr"


def is_prepared() -> bool:
    """Whether the cache holds the static predictors on 0.05 degree and the MODIS maps; fetches nothing."""
    return all(path.is_dir() for path in (store_path("static", "6"), store_path("land-use"), store_path("fractions")))


def prepare(path: Path, build: Callable[[zarr.Group], None]) -> Path:
    """Build a store unless it is there with all its files: beside its place, then moved there in one step.

    Parameters
    ----------
    path : pathlib.Path
        From :func:`store_path`.
    build : callable
        Fills an empty Zarr v3 group.

    Raises
    ------
    DatasetError
        If the cache cannot be written.
    """
    if _has_all(path):
        return path
    import zarr

    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        folder = Path(tempfile.mkdtemp(dir=path.parent, prefix=f".{path.stem}-"))
    except OSError as error:
        raise DatasetError(
            f"cannot write to the cache {path.parent} ({error}): name another folder in XLAND_CACHE"
        ) from error
    try:
        part = folder / "part.zarr"
        build(zarr.open_group(str(part), mode="w", zarr_format=3))
        if _has_all(path):  # another process was faster: its store is as good as ours
            return path
        _seal(part)
        with suppress(FileNotFoundError):
            path.rename(folder / "incomplete.zarr")
        try:
            part.rename(path)
        except OSError:
            if not path.is_dir():
                raise
    finally:
        shutil.rmtree(folder, ignore_errors=True)
    return path


def _seal(path: Path) -> None:
    """Give a store that was built the digests of its files."""
    import zarr

    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="Consolidated metadata is currently not part")
        zarr.consolidate_metadata(str(path))
    files = files_at(path)
    root = json.loads(files.read(ROOT))
    root["attributes"][ATTRIBUTE] = table_name(root)
    seal(files, {name: sha256(files.read(name)) for name in files.walk() if name != ROOT}, root)


def _has_all(path: Path) -> bool:
    """Whether a store has all the files that it was built of; looked at once in each process."""
    if path in _complete:
        return True
    if not path.is_dir():
        return False
    try:
        table = read_finished(path)[1]
    except StoreError:
        return False
    if table is None or not table.files.keys() <= set(files_at(path).walk()):
        return False
    _complete.add(path)
    return True


_complete: set[Path] = set()


def create(
    group: zarr.Group, name: str, dims: tuple[str, ...], shape: tuple[int, ...], dtype: str, attrs: Mapping[str, Any]
) -> zarr.Array:
    """Add an empty variable that xarray reads, in chunks of :data:`CHUNK` cells a side, wider on very fine grids."""
    # else a grid of 30 arc-seconds would end in thousands of files
    width = CHUNK if shape[-1] <= 20 * CHUNK else 6 * CHUNK
    chunks = (*(min(size, CHUNK) for size in shape[:-1]), min(shape[-1], width))
    return group.create_array(
        name, shape=shape, chunks=chunks, dtype=dtype, dimension_names=dims, fill_value=0, attributes=_plain(attrs)
    )


def create_coordinates(group: zarr.Group, grid: Grid, years: tuple[int, ...] = ()) -> None:
    """Add the coordinates of a grid, and of years where there are any."""
    axes: list[tuple[str, Any, dict[str, str]]] = [
        ("lat", grid.latitude, {"standard_name": "latitude", "units": "degrees_north", "axis": "Y"}),
        ("lon", grid.longitude, {"standard_name": "longitude", "units": "degrees_east", "axis": "X"}),
    ]
    if years:
        axes.append(("time", np.array(years, dtype=np.int64), {"long_name": "calendar year", "axis": "T"}))
    for name, values, attrs in axes:
        array = group.create_array(
            name,
            shape=values.shape,
            chunks=values.shape,
            dtype=str(values.dtype),
            dimension_names=(name,),
            attributes=_plain(attrs),
        )
        array[:] = values


def open_prepared(path: Path, *, chunked: bool = True) -> xr.Dataset:
    """Open a store lazily, one dask chunk for each chunk on disk or without dask, free of how it was encoded."""
    from xland.store.checksums import CheckedStore

    table = read_finished(path)[1]
    if table is None:
        raise DatasetError(f"{path} holds no digests: delete it, so that it is built again")
    ds = xr.open_zarr(CheckedStore(table), consolidated=True, chunks={} if chunked else None).drop_encoding()
    return with_years(ds, ds["time"].values.tolist()) if "time" in ds.coords else ds


def strips(rows: int, height: int, description: str) -> Iterable[slice]:
    """Yield slices of ``height`` rows from north to south, under a progress bar on standard error."""
    from rich.console import Console
    from rich.progress import track

    starts = range(0, rows, height)
    for start in track(starts, description=description, console=Console(stderr=True)):
        yield slice(start, min(start + height, rows))


def _plain(attrs: Mapping[str, Any]) -> dict[str, Any]:
    """Attributes as JSON knows them."""
    return {
        key: value.tolist() if isinstance(value, np.ndarray | np.generic) else value for key, value in attrs.items()
    }
