"""Stores: writing lazy maps so that nothing is lost, and reading only what is whole."""

from __future__ import annotations

from importlib import import_module
from typing import Any

_PUBLIC = {
    "is_complete": "reading",
    "open_store": "reading",
    "store_digest": "reading",
    "verify": "reading",
    "write": "writing",
    "write_netcdf": "writing",
}

__all__ = sorted(_PUBLIC)  # noqa: PLE0605 - a list of str


def __getattr__(name: str) -> Any:
    """Import the public functions when they are first asked for."""
    if name in _PUBLIC:
        return getattr(import_module(f"{__name__}.{_PUBLIC[name]}"), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
