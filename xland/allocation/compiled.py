"""Compile the loops over pixels with numba: a cell at a time, without the lock of the interpreter."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeVar, cast

import numpy as np
from numba import njit  # type: ignore[import-untyped]
from numpy.typing import NDArray

Floats = NDArray[np.float64]
Integers = NDArray[np.int64]
Flags = NDArray[np.bool_]
Function = TypeVar("Function", bound=Callable[..., Any])


def compiled(function: Function) -> Function:
    """Compile a function at its first call, and keep the result on disk where some folder can be written to."""
    try:
        return cast("Function", njit(nogil=True, error_model="numpy", cache=True)(function))
    except RuntimeError:  # no folder for the cache: a read-only installation without a home
        return cast("Function", njit(nogil=True, error_model="numpy")(function))
