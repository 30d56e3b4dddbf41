"""Floats that are stored as whole numbers of a step, as CF has it (``scale_factor``, ``_FillValue``).

Below :mod:`xland.store`; nothing here is called by users.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import dask.array as da
import numpy as np
import xarray as xr
from numpy.typing import NDArray

from xland.errors import StoreError
from xland.reader import counts_packed

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
