"""What a Dataset may contain to be written, how floats are packed, and the metadata of a store."""

from __future__ import annotations

import json
import re
import warnings
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import dask.array as da
import numpy as np
import xarray as xr
from numpy.typing import NDArray
from xarray.core.indexing import ExplicitlyIndexed

from xland.errors import StoreError, StoreWarning
from xland.reading.variables import counts_packed
from xland.store.checksums import ATTRIBUTE, ROOT, sha256, table_name
from xland.store.journal import COMPLETE, find_whole, journal_of
from xland.store.storage import Files
from xland.untrusted.stores import check_metadata

STORED = np.dtype(np.uint8)
"""Type of packed values."""

_LINKS = ("grid_mapping", "bounds")


@dataclass(frozen=True)
class Packing:
    """How one variable is packed.

    Parameters
    ----------
    name : str
        Of the variable.
    scale : float
        Step: the value is the stored number times it.
    offset : float
        Value of the stored number zero.
    fill : int
        Stored number of a missing value.
    """

    name: str
    scale: float
    offset: float
    fill: int

    def __call__(self, values: NDArray[np.floating]) -> NDArray[np.uint8]:
        """Turn values into the nearest stored numbers.

        Raises
        ------
        StoreError
            If a value is infinite or outside what can be stored: it would come back as another.
        """
        numbers = np.rint((values.astype(np.float64) - self.offset) / self.scale)
        missing = np.isnan(numbers)
        outside = ~missing & ((numbers < 0) | (numbers > np.iinfo(STORED).max) | (numbers == self.fill))
        if outside.any():
            most = np.iinfo(STORED).max - (self.fill == np.iinfo(STORED).max)
            worst = values[outside]
            raise StoreError(
                f"{self.name}: {int(outside.sum())} values from {worst.min():g} to {worst.max():g} cannot be packed; "
                f"with scale_factor {self.scale:g} only {self.offset:g} to {self.offset + most * self.scale:g} can"
                f"{f', without {self.offset + self.fill * self.scale:g}' if self.fill <= most else ''}. "
                "Correct the values, or drop the variable's encoding to store floats"
            )
        return np.where(missing, self.fill, numbers).astype(STORED)


def drop_encoding(ds: xr.Dataset) -> xr.Dataset:
    """Drop what files of the inputs had as encoding, having done what has to outlast it.

    Those are the links to the coordinate system and to bounds, which xarray keeps there and would otherwise
    list among the coordinates, and the packing of floats into bytes.
    """
    links = {name: _links(variable, ds) for name, variable in ds.variables.items()}
    packings = {name: find_packing(str(name), ds[name].variable) for name in ds.data_vars}
    ds = ds.drop_encoding().copy()
    for name, found in links.items():
        ds[name].attrs = {key: value for key, value in ds[name].attrs.items() if key not in _LINKS}
        ds[name].encoding = found
    return ds.assign({name: pack(ds[name], packing) for name, packing in packings.items() if packing})


def _links(variable: xr.Variable, ds: xr.Dataset) -> dict[str, Any]:
    known = {**variable.encoding, **variable.attrs}
    return {key: known[key] for key in _LINKS if known.get(key) in ds.variables}


def find_packing(name: str, variable: xr.Variable) -> Packing | None:
    """Packing that the encoding of a float variable asks for, if it does."""
    encoding: Mapping[Any, Any] = variable.encoding
    if variable.dtype.kind != "f" or not {"dtype", "scale_factor", "_FillValue"} <= encoding.keys():
        return None
    if np.dtype(encoding["dtype"]) != STORED:
        return None
    return Packing(
        name, float(encoding["scale_factor"]), float(encoding.get("add_offset", 0)), int(encoding["_FillValue"])
    )


def pack(array: xr.DataArray, packing: Packing) -> xr.DataArray:
    """Turn a variable lazily into the numbers that are stored, with the attributes that tell how to read them."""
    data = array.data
    if isinstance(data, da.Array):
        stored: Any = data.map_blocks(packing, dtype=STORED, meta=np.empty((0,) * data.ndim, STORED))
    else:
        stored = packing(np.asarray(data))
    packed = array.copy(data=stored)
    packed.attrs["scale_factor"] = packing.scale
    if packing.offset:
        packed.attrs["add_offset"] = packing.offset
    packed.attrs["_FillValue"] = STORED.type(packing.fill)
    if "valid_range" in packed.attrs:
        # CF wants it in the units of what is stored, where xarray leaves that of a file
        valid = np.asarray(packed.attrs["valid_range"])
        packed.attrs["valid_range"] = valid.astype(STORED) if counts_packed(valid) else packing(valid)
    return packed


def unpacked(array: xr.DataArray) -> xr.DataArray:
    """Give a packed variable that was read single precision, and its valid range in the units of its values.

    xarray has already turned the stored numbers into values, in double precision.
    """
    scale = array.encoding.get("scale_factor")
    if scale is None or array.encoding.get("dtype") != STORED:
        return array
    encoding = array.encoding
    if array.chunks is not None:
        array = array.astype(np.float32)
    if counts_packed(array.attrs.get("valid_range", 0.0)):
        numbers = np.asarray(array.attrs["valid_range"], np.float64)
        array.attrs["valid_range"] = (numbers * scale + encoding.get("add_offset", 0)).tolist()
    array.encoding = encoding
    return array


_NAME = re.compile(r"[A-Za-z0-9_\u0080-\U0010ffff][^\x00-\x1f\x7f/]*(?<! )")
"""Names that both Zarr and NetCDF keep as they are."""


def check_kinds(ds: xr.Dataset, *, netcdf: bool = False) -> None:
    """Refuse names, arrays, indices, dates and attributes that neither Zarr nor NetCDF can hold.

    Parameters
    ----------
    ds : Dataset
    netcdf : bool
        Whether it goes to NetCDF, which holds fewer kinds of attributes.

    Raises
    ------
    StoreError
        With the name of the variable or attribute, and what to do.
    """
    if not isinstance(ds, xr.Dataset):
        raise StoreError(f"only a Dataset can be written, not a {type(ds).__name__}; of a DataArray array.to_dataset()")
    for name in [*ds.dims, *ds.variables]:
        if not isinstance(name, str) or not _NAME.fullmatch(name) or name.casefold() == "zarr.json":
            raise StoreError(
                f"{name!r:.120} cannot be the name of a variable or dimension in a file: names are text, begin with a "
                "letter, digit or '_', and hold neither '/' nor line breaks; rename it"
            )
    split = [str(name) for name in ds.coords if re.search(r"\s", str(name)) and name not in ds.dims]
    if split:
        raise StoreError(f"the coordinate {split[0]!r} holds a blank, which divides names in files; rename it")
    several = [str(name) for name, index in ds.xindexes.items() if isinstance(index, xr.indexes.PandasMultiIndex)]
    if several:
        raise StoreError(f"{', '.join(several)} form an index of several levels: call reset_index or unstack first")
    for name, variable in ds.variables.items():
        data = variable._data  # noqa: SLF001 - asking for values would read a file
        data = getattr(data, "_meta", data)
        if not isinstance(data, np.ndarray | np.generic | ExplicitlyIndexed):
            kind = f"{type(data).__module__.partition('.')[0]}.{type(data).__name__}"
            raise StoreError(f"{name} holds arrays of the type {kind}: make them plain with as_numpy() first")
        if variable.dtype.kind in "mM" and name in ds.coords and bool(variable.isnull().any()):
            raise StoreError(f"{name} has dates that are missing (NaT): give each map its date, or drop these maps")
    fits = _fits_netcdf if netcdf else _fits_json
    _check_attributes("the Dataset", ds.attrs, fits)
    for name, variable in ds.variables.items():
        _check_attributes(str(name), variable.attrs, fits)


def _check_attributes(owner: str, attributes: dict[Any, Any], fits: Callable[[Any], bool]) -> None:
    for key, value in attributes.items():
        if not (isinstance(key, str) and key and fits(value)):
            raise StoreError(
                f"the attribute {key!r} of {owner} is of the type {type(value).__name__}, which a file cannot hold: "
                "make it text or numbers, or delete it"
            )


def _fits_json(value: Any) -> bool:
    try:
        json.dumps(value, default=_plain)
    except (TypeError, ValueError, RecursionError):
        return False
    return True


def _plain(value: Any) -> Any:
    if isinstance(value, np.ndarray | np.generic):
        return value.tolist()
    raise TypeError


def _fits_netcdf(value: Any) -> bool:
    if not isinstance(value, str | int | float | bool | list | tuple | np.ndarray | np.generic):
        return False
    try:
        return np.asarray(value).dtype.kind in "USbiuf"
    except ValueError:  # lists of several lengths
        return False


def make_skeleton(template: xr.Dataset, encoding: Mapping[str, Mapping[str, Any]]) -> dict[str, bytes]:
    """Return the files of a store whose large arrays are empty.

    Parameters
    ----------
    template : Dataset
        With dask arrays of any values for the variables that are written block by block.
    encoding : mapping
        Zarr encoding of these, and of others where it matters.

    Returns
    -------
    dict
        Content of each file by its name; the root metadata say that the store is not complete.

    Raises
    ------
    StoreError
        If a variable or attribute is of a kind that Zarr cannot hold, or the store could not be opened again.
    """
    import zarr
    from zarr.codecs import ZstdCodec
    from zarr.storage import MemoryStore

    checked = {"compressors": (ZstdCodec(level=5, checksum=True),)}
    template = template.copy()
    for name, variable in template.variables.items():
        # beside what it has: how dates are counted, and the links to bounds and to the reference system
        fill = {"_FillValue": None} if name in template.coords else {}
        variable.encoding |= {**checked, **fill, **encoding.get(str(name), {})}
    held: dict[str, Any] = {}
    template = template.assign_attrs({COMPLETE: 0})
    try:
        with _quiet_zarr():
            template.to_zarr(MemoryStore(held), mode="w", compute=False, consolidated=False, zarr_format=3)
            zarr.consolidate_metadata(MemoryStore(held))
    except (TypeError, ValueError, NotImplementedError, OverflowError) as error:
        raise StoreError(f"this Dataset cannot be stored as Zarr: {error}") from error
    files: dict[str, bytes] = {name: content.to_bytes() for name, content in held.items()}
    root = json.loads(files[ROOT])
    root["attributes"][ATTRIBUTE] = table_name(root)
    files[ROOT] = json.dumps(root).encode()
    check_metadata("what is to be written", files.get, list)
    return files


def lay(files: Files, skeleton: Mapping[str, bytes]) -> None:
    """Write the files of a skeleton that are not there as they should be, the root metadata last."""
    for name, content in sorted(skeleton.items(), key=lambda item: item[0] == ROOT):
        try:
            same = files.read(name) == content
        except FileNotFoundError:
            same = False
        except OSError:
            files.remove(name)
            same = False
        if not same:
            files.fill(name, content)


def take_stock(files: Files, data: Files, skeleton: Mapping[str, bytes]) -> set[str]:
    """Say which blocks of a growing store are finished and whole, and bring the rest of it into order.

    Every finished block is read. The files of others are removed, and what is damaged of the skeleton is put back.

    Parameters
    ----------
    files, data : Files
        The working folder, and the growing store.
    skeleton : mapping
        Of the store.

    Returns
    -------
    set of str
        Names of the blocks in the journal.
    """
    noted = journal_of(files).notes()
    whole = find_whole(noted, data)
    if len(whole) < len(noted):
        warnings.warn(
            f"{len(noted) - len(whole)} of {len(noted)} finished blocks in {files.address} were lost or damaged since, "
            "and are written again: look after the disk",
            StoreWarning,
            stacklevel=4,
        )
    # a shard is read before a part of it is written, which would fail on what is damaged
    for name in set(data.walk()) - {name for each in whole.values() for name in each} - skeleton.keys():
        data.remove(name)
    lay(data, skeleton)
    return set(whole)


def digests_of(skeleton: Mapping[str, bytes]) -> dict[str, str]:
    """SHA-256 of each file of a skeleton but the root metadata, which say at the end that the store is complete."""
    return {name: sha256(content) for name, content in skeleton.items() if name != ROOT}


@contextmanager
def _quiet_zarr() -> Iterator[None]:
    """Silence the notes that consolidated metadata and text coordinates are not in the Zarr 3 text yet.

    Readers that do not know them ignore the first, which web servers need; the second is how xarray
    writes class names.
    """
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="Consolidated metadata is currently not part")
        warnings.filterwarnings("ignore", message=".*does not have a Zarr V3 specification.*")
        yield
