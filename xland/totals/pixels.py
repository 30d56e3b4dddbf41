"""What the loops over coarse cells share: how they are compiled, and the pixels of a cell."""

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


@compiled
def list_pixels(valid: Flags, row: int, column: int, factor: int, rows: Integers, columns: Integers) -> int:
    """Write where the valid pixels of a coarse cell are, row by row; return how many they are."""
    count = 0
    for i in range(row * factor, (row + 1) * factor):
        for j in range(column * factor, (column + 1) * factor):
            if valid[i, j]:
                rows[count], columns[count] = i, j
                count += 1
    return count


@compiled
def group_classes(targets: Floats, group: Integers) -> int:
    """Give a number to each class that has a target, and one, the last, to all others together.

    Parameters
    ----------
    targets : (classes,) array
        NaN for classes without a target.
    group : (classes,) array
        Is written: the group of each class.

    Returns
    -------
    int
        Number of groups that have a target.
    """
    groups = 0
    for k in range(targets.size):
        if not np.isnan(targets[k]):
            group[k] = groups
            groups += 1
    for k in range(targets.size):
        if np.isnan(targets[k]):
            group[k] = groups
    return groups
