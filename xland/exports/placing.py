"""Exports that are folders: a store in Zarr 2, and a pyramid in Zarr 3."""

from __future__ import annotations

import secrets
import shutil
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import xarray as xr

from xland.exports.pyramid import CHUNK, attributes_of, make_levels
from xland.paths import naming_faults
from xland.store.blocks import align
from xland.store.encoding import drop_encoding
from xland.store.provenance import for_storage
from xland.store.writing import compute


def write_zarr2(ds: xr.Dataset, folder: Path, *, progress: bool = True) -> Path:
    """Write maps as Zarr 2, which readers before zarr-python 3 and GDAL before 3.8 know."""
    with _growing(folder) as part:
        compute(_lay_out(ds, part, zarr_format=2, consolidated=True), progress=progress)
    return folder


def write_pyramid(ds: xr.Dataset, folder: Path, *, progress: bool = True) -> Path:
    """Write maps on each level of a pyramid, see :mod:`xland.exports.pyramid`."""
    import zarr
    from dask import delayed

    levels, made = make_levels(ds)
    with _growing(folder) as part, _quiet():
        zarr.create_group(str(part), attributes={**_plain(ds.attrs), **attributes_of(levels)}, zarr_format=3)
        chunks = {"lat": CHUNK, "lon": CHUNK}
        pending = [
            _lay_out(each, part, chunks, group=str(number), zarr_format=3, consolidated=False)
            for number, each in enumerate(made)
        ]
        compute(delayed(list)(pending), progress=progress)
        zarr.consolidate_metadata(str(part))
    return folder


def _lay_out(ds: xr.Dataset, folder: Path, chunks: dict[str, int] | None = None, **how: Any) -> Any:
    """Write all but the large arrays, and return what has to be computed to write these."""
    ds, chosen = align(for_storage(drop_encoding(ds)), chunks)
    for name, variable in ds.variables.items():
        variable.encoding |= {"_FillValue": None} if name in ds.coords else {}
        variable.encoding |= {key: each for key, each in chosen.get(str(name), {}).items() if _fits(key, how)}
    with _quiet():
        return ds.to_zarr(folder, mode="a", compute=False, **how)


def _fits(key: str, how: dict[str, Any]) -> bool:
    return key != "compressors" or how["zarr_format"] == 3  # the codecs of Zarr 3 are others


@contextmanager
def _growing(folder: Path) -> Iterator[Path]:
    """Yield a folder beside, which takes the place of ``folder`` when the body is done, and is removed if it fails."""
    part = folder.with_name(f".{folder.name[:80]}.{secrets.token_hex(8)}.partial")
    old = part.with_suffix(".replaced")
    with naming_faults(folder):
        part.mkdir(parents=True)
        try:
            yield part
            if folder.exists():
                folder.rename(old)
            part.rename(folder)
        finally:
            for each in (part, old):
                shutil.rmtree(each, ignore_errors=True)


@contextmanager
def _quiet() -> Iterator[None]:
    """Consolidated metadata and text of class names are not in the specification of Zarr 3 yet, but all read them."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="Consolidated metadata is currently not part")
        warnings.filterwarnings("ignore", message=".*does not have a Zarr V3 specification.*")
        yield


def _plain(attributes: Any) -> dict[str, Any]:
    """Return attributes as JSON knows them."""
    return {str(key): each.tolist() if hasattr(each, "tolist") else each for key, each in attributes.items()}
