"""What a Dataset may contain to be written, how floats are packed, and the metadata of a store."""

from __future__ import annotations

import json
import re
import warnings
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from typing import Any

import dask.array as da
import numpy as np
import xarray as xr
from dask.base import tokenize
from numpy.typing import NDArray
from xarray.core.indexing import ExplicitlyIndexed

from xland.errors import StoreError
from xland.geo.conventions import PERIODS
from xland.reading.variables import counts_packed
from xland.store.provenance import PUBLISHED
from xland.store.storage import ATTRIBUTE, COMPLETE, FINGERPRINT, ROOT
from xland.untrusted.folders import table_name
from xland.untrusted.servers import MOST_METADATA
from xland.untrusted.stores import check_arrays

STORED = np.dtype(np.uint8)
"""Type of packed values."""

_PACKING = ("dtype", "scale_factor", "add_offset", "_FillValue")
# may differ between runs
_VOLATILE = frozenset({COMPLETE, FINGERPRINT, "history", "date_created", "date_modified", "xland_licences", *PUBLISHED})
_INPUTS = "xland_inputs"  # an attribute of maps
_VALUES = "values"
_NEW_EACH_TIME = (
    "values drawn at random, and results of functions that dask cannot tell apart, are new each time: "
    "write them to a file first"
)
_LINKS = ("grid_mapping", *PERIODS)


@dataclass(frozen=True)
class Packing:
    """How a variable is packed: a value is the stored number times ``scale`` plus ``offset``; ``fill`` is missing."""

    name: str
    scale: float
    offset: float
    fill: int

    def __call__(self, values: NDArray[np.floating]) -> NDArray[np.uint8]:
        """Turn values into the nearest stored numbers; StoreError for values that would come back as others."""
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


def take_encoding(
    ds: xr.Dataset, encoding: Mapping[str, Mapping[str, Any]], known: Collection[str]
) -> tuple[xr.Dataset, dict[str, dict[str, Any]]]:
    """Divide the encoding that a caller asks for into packing, which the Dataset gets, and what the file gets.

    ``known`` are the other entries that a variable may have. StoreError names unknown variables and entries.
    """
    others: dict[str, dict[str, Any]] = {}
    if not isinstance(encoding, Mapping):
        raise StoreError(f"encoding must be a mapping of variables to their encoding, not {encoding!r:.80}")
    ds = ds.copy()
    for name, entries in encoding.items():
        if name not in ds.data_vars or not isinstance(entries, Mapping):
            names = ", ".join(map(str, ds.data_vars))
            raise StoreError(f"encoding: {name!r:.80} must be a variable ({names}) with a mapping of entries")
        unknown = sorted(map(str, entries.keys() - {*_PACKING, *known}))
        if unknown:
            raise StoreError(
                f"encoding of {name}: {', '.join(unknown)} cannot be chosen; known are {', '.join([*_PACKING, *known])}"
                "; chunks are chosen for all variables with chunks="
            )
        packing = {key: value for key, value in entries.items() if key in _PACKING}
        ds[name].encoding = packing
        if packing and find_packing(str(name), ds[name].variable) is None:
            raise StoreError(
                f"encoding of {name}: floats are packed with dtype 'uint8', scale_factor, _FillValue (0 to 255) "
                f"and, if need be, add_offset, not with {packing}"
            )
        others[str(name)] = {key: value for key, value in entries.items() if key in known}
    return ds, others


def drop_encoding(ds: xr.Dataset) -> xr.Dataset:
    """Drop what files of the inputs had as encoding, but keep links to bounds and reference system; pack floats.

    xarray keeps these links in the encoding, and would otherwise list them among the coordinates.
    """
    plain = ds.drop_encoding().copy()
    for name, variable in ds.variables.items():
        linked = {**variable.encoding, **variable.attrs}
        plain[name].attrs = {key: value for key, value in variable.attrs.items() if key not in _LINKS}
        plain[name].encoding = {key: linked[key] for key in _LINKS if linked.get(key) in ds.variables}
        packing = find_packing(str(name), variable) if name in ds.data_vars else None
        if packing:
            plain = plain.assign({name: pack(plain[name], packing)})
    return plain


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


_NAME = re.compile(r"[A-Za-z0-9_\u0080-\U0010ffff][^\x00-\x1f\x7f/]*(?<! )")  # Zarr and NetCDF keep these as they are


def check_kinds(ds: xr.Dataset, *, netcdf: bool = False) -> None:
    """Refuse names, arrays, indices, dates and attributes that a file cannot store; StoreError names them.

    NetCDF stores fewer kinds of attributes than Zarr.
    """
    if not isinstance(ds, xr.Dataset):
        raise StoreError(f"only a Dataset can be written, not a {type(ds).__name__}; of a DataArray array.to_dataset()")
    for name in [*ds.dims, *ds.variables]:
        if not isinstance(name, str) or not _NAME.fullmatch(name) or name.casefold() == "zarr.json":
            raise StoreError(
                f"{name!r:.120} cannot be the name of a variable or dimension in a file: names are text, begin with a "
                "letter, digit or '_', and contain neither '/' nor line breaks; rename it"
            )
    split = [str(name) for name in ds.coords if re.search(r"\s", str(name)) and name not in ds.dims]
    if split:
        raise StoreError(f"the coordinate {split[0]!r} contains a blank, which divides names in files; rename it")
    several = [str(name) for name, index in ds.xindexes.items() if isinstance(index, xr.indexes.PandasMultiIndex)]
    if several:
        raise StoreError(f"{', '.join(several)} form an index of several levels: call reset_index or unstack first")
    for name, variable in ds.variables.items():
        data = variable._data  # noqa: SLF001 - asking for values would read a file
        data = getattr(data, "_meta", data)
        if not isinstance(data, np.ndarray | np.generic | ExplicitlyIndexed):
            kind = f"{type(data).__module__.partition('.')[0]}.{type(data).__name__}"
            raise StoreError(f"{name} has arrays of the type {kind}: make them plain with as_numpy() first")
        if variable.dtype.kind in "mM" and name in ds.coords and bool(variable.isnull().any()):
            raise StoreError(f"{name} has dates that are missing (NaT): give each map its date, or drop these maps")
    for owner, attributes in [("the Dataset", ds.attrs), *((name, each.attrs) for name, each in ds.variables.items())]:
        for key, value in attributes.items():
            if not (isinstance(key, str) and key and _can_store(value, netcdf=netcdf)):
                raise StoreError(
                    f"the attribute {key!r} of {owner} is of the type {type(value).__name__}, which a file cannot "
                    "store: make it text or numbers, or delete it"
                )


def _can_store(value: Any, *, netcdf: bool) -> bool:
    try:
        if netcdf:
            kinds = str | int | float | bool | list | tuple | np.ndarray | np.generic
            return isinstance(value, kinds) and np.asarray(value).dtype.kind in "USbiuf"
        json.dumps(value, default=lambda each: each.tolist())
    except (TypeError, ValueError, AttributeError, RecursionError):  # such as lists of several lengths
        return False
    return True


def make_skeleton(template: xr.Dataset, encoding: Mapping[str, Mapping[str, Any]]) -> dict[str, bytes]:
    """Return the files of a store whose large arrays are empty, by their names.

    ``template`` has dask arrays of any values for the variables that are written block by block, ``encoding`` is the
    Zarr encoding of these, and of others where it matters. The root metadata say that the store is not complete.
    StoreError if Zarr cannot store a variable, or the store could not be opened again.
    """
    import zarr
    from zarr.codecs import ZstdCodec
    from zarr.storage import MemoryStore

    checked = {"compressors": (ZstdCodec(level=5, checksum=True),)}
    template = template.assign_attrs({COMPLETE: 0})
    for name, variable in template.variables.items():
        # beside what it has: how dates are counted, and the links to bounds and to the reference system
        fill = {"_FillValue": None} if name in template.coords else {}
        variable.encoding = {**variable.encoding, **checked, **fill, **encoding.get(str(name), {})}
    kept: dict[str, Any] = {}
    try:
        with warnings.catch_warnings():
            # readers that do not know consolidated metadata ignore them, and web servers need them; class names are
            # written as xarray writes text
            warnings.filterwarnings("ignore", message="Consolidated metadata is currently not part")
            warnings.filterwarnings("ignore", message=".*does not have a Zarr V3 specification.*")
            template.to_zarr(MemoryStore(kept), mode="w", compute=False, consolidated=False, zarr_format=3)
            zarr.consolidate_metadata(MemoryStore(kept))
    except (TypeError, ValueError, NotImplementedError, OverflowError) as error:
        raise StoreError(f"this Dataset cannot be stored as Zarr: {error}") from error
    files: dict[str, bytes] = {name: content.to_bytes() for name, content in kept.items()}
    root = json.loads(files[ROOT])
    root["attributes"][ATTRIBUTE] = table_name(root)
    files[ROOT] = json.dumps(root).encode()
    large = [name for name, content in files.items() if len(content) > MOST_METADATA and name.endswith(ROOT)]
    if large:
        raise StoreError(f"{large[0]} is larger than metadata can be: shorten the attributes")
    structured = [name for name, variable in template.variables.items() if variable.dtype.kind == "V"]
    if structured:
        raise StoreError(f"{structured[0]} has records as values: write each of their fields as a variable")
    arrays = root["consolidated_metadata"]["metadata"]
    check_arrays("what is to be written", {name: {**array, "zarr_format": 3} for name, array in arrays.items()})
    return files


def check_same(asked: dict[str, Any], begun: dict[str, Any], target: str) -> None:
    """Refuse to resume a store that was begun as other work; the error says what differs."""
    parts, values = [], []
    for key in sorted(asked.keys() | begun.keys()):
        one, two = asked.get(key, {}), begun.get(key, {})
        # compared as text, in which NaN equals itself
        inner = {k for k in one.keys() | two.keys() if json.dumps(one.get(k)) != json.dumps(two.get(k))}
        inner -= _VOLATILE if key == "attributes" else frozenset()  # of stores that earlier versions began
        if inner == {_VALUES}:
            values.append(key)
        elif inner:
            parts.append(f"{key} ({', '.join(sorted(inner - {_VALUES}))})")
    if not parts and not values:
        return
    inputs = [json.loads(work.get("attributes", {}).get(_INPUTS) or "{}") for work in (asked, begun)]
    others = sorted(name for name in inputs[0].keys() | inputs[1].keys() if inputs[0].get(name) != inputs[1].get(name))
    if others:
        parts.append(f"of the inputs, {', '.join(others)} ({_NEW_EACH_TIME})")
    elif not parts:  # values differ with all else that differs
        parts.append(f"values of {', '.join(values)} ({_NEW_EACH_TIME})")
    raise StoreError(
        f"the unfinished store of {target} was begun with other inputs or settings; different: {'; '.join(parts)}. "
        "Resume with the same inputs and settings, or start again with overwrite=True"
    )


def describe_work(ds: xr.Dataset, encoding: Mapping[str, Any]) -> dict[str, Any]:
    """Describe what is written, without computing it: two equal descriptions are the same work.

    The Dataset is one of :func:`xland.store.blocks.align`, ``encoding`` that of its lazy variables. The result is ready
    for JSON: attributes, digests of the coordinates, and of each variable its dimensions, shape, type, blocks, chunks,
    attributes and the name of its dask array.
    """
    described: dict[str, Any] = {"attributes": {k: v for k, v in ds.attrs.items() if k not in _VOLATILE}}
    for name, variable in ds.variables.items():
        entry: dict[str, Any] = {
            "dims": list(variable.dims),
            "shape": list(variable.shape),
            "dtype": str(variable.dtype),
            "attributes": variable.attrs,
        }
        if str(name) in encoding:
            entry[_VALUES] = str(variable.data.name)  # which dask derives from what they are computed from
            entry["blocks"] = [list(sizes) for sizes in ds[name].chunks or ()]
            entry |= {key: list(encoding[str(name)][key]) for key in ("chunks", "shards") if key in encoding[str(name)]}
        else:
            entry["digest"] = tokenize(np.asarray(variable.values).tolist())
        described[f"variable {name}"] = entry
    plain: dict[str, Any] = json.loads(json.dumps(described, default=lambda value: value.tolist()))
    return plain
