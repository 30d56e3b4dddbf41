"""What a Dataset may hold to be written: refused by name before anything is.

Below :mod:`xland.store`; nothing here is called by users.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from typing import Any

import numpy as np
import xarray as xr
from xarray.core.indexing import ExplicitlyIndexed

from xland.errors import StoreError

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
