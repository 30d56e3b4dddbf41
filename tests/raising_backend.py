"""A Dataset that raises when a value of it is read: laziness is tested with it."""

from __future__ import annotations

from collections.abc import Hashable, Mapping
from typing import Any

import numpy as np
import xarray as xr
from xarray.backends import BackendArray
from xarray.core.indexing import LazilyIndexedArray


class ValueWasReadError(AssertionError):
    """A value of a variable was read although only its structure was needed."""


class RaisingArray(BackendArray):
    """An array on disk, as xarray sees it, that must not be read."""

    def __init__(self, name: Hashable, shape: tuple[int, ...], dtype: Any) -> None:
        self.name = name
        self.shape = shape
        self.dtype = np.dtype(dtype)

    def __getitem__(self, key: Any) -> np.ndarray:
        raise ValueWasReadError(f"values of {self.name} were read at {key}")


def raising_dataset(template: xr.Dataset) -> xr.Dataset:
    """Return the Dataset with every data variable replaced by one that raises when read.

    Coordinates stay as they are, as they do in a file that has been opened.
    """
    variables: Mapping[Hashable, xr.Variable] = {
        name: xr.Variable(
            array.dims, LazilyIndexedArray(RaisingArray(name, array.shape, array.dtype)), array.attrs, array.encoding
        )
        for name, array in template.data_vars.items()
    }
    return template.drop_vars(list(template.data_vars)).assign(variables)
