"""Compilation of loops over pixels by numba."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeVar, cast

from numba import njit  # type: ignore[import-untyped]

Function = TypeVar("Function", bound=Callable[..., Any])


def compiled(function: Function) -> Function:
    """Compile a function at its first call, and keep the result on disk where some folder can be written to."""
    try:
        return cast("Function", njit(nogil=True, error_model="numpy", cache=True)(function))
    except RuntimeError:  # no folder for the cache: a read-only installation without a home
        return cast("Function", njit(nogil=True, error_model="numpy")(function))
