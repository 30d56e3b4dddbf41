"""intake catalogs: publishing stores, keeping their versions, finding, checking and opening them.

A catalog is a YAML file. Its ``sources`` are what people and xland read. Its ``entries``, made from them, are what
intake 2 opens with the ``zarr`` and ``netcdf`` drivers of intake-xarray. Paths are relative to the file, so that a
folder with catalog and stores can be moved or served as it is.
"""

from __future__ import annotations

from importlib import import_module
from typing import Any

_PUBLIC = {
    "Catalog": "catalog",
    "Entry": "entry",
    "open_entry": "finding",
    "publish": "publishing",
    "read_catalog": "finding",
}

__all__ = sorted(_PUBLIC)  # noqa: PLE0605 - a list of str


def __getattr__(name: str) -> Any:
    """Import the public functions when they are first asked for."""
    if name in _PUBLIC:
        return getattr(import_module(f"{__name__}.{_PUBLIC[name]}"), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
