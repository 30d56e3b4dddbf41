"""High-resolution land-use maps from coarse scenarios, inside xarray.

Importing xland registers the ``.ai4land`` accessor on xarray's Dataset and DataArray; torch and
other heavy packages are imported when they are first needed.
"""

from __future__ import annotations

from importlib import import_module
from importlib.metadata import version
from typing import Any

from xland.accessor import DataArrayAccessor, DatasetAccessor

__version__ = version("xland")

_LAZY = {
    "Catalog": "xland.catalogs",
    "Emulator": "xland.coupling.emulator",
    "assess_change": "xland.scores.change",
    "assess_landscape": "xland.scores.landscape",
    "calibrate": "xland.training.learn.calibrating",
    "check": "xland.forcing.check",
    "compare": "xland.scores.evaluation",
    "downscale": "xland.downscaling.call",
    "evaluate": "xland.scores.evaluation",
    "export": "xland.exports.export",
    "find_model": "xland.models",
    "leaf_area_index": "xland.biophysical.leaf_area",
    "list_models": "xland.models",
    "open_cluster": "xland.clusters",
    "open_entry": "xland.catalogs",
    "open_store": "xland.store.reading",
    "open_training_store": "xland.training.data.stored",
    "prepare": "xland.training.data.prepare",
    "publish": "xland.catalogs",
    "reconstruct": "xland.downscaling.reconstruct",
    "regrid": "xland.forcing.conversion",
    "to_luh2": "xland.forcing.conversion",
    "train": "xland.training.run",
}

__all__ = ["DataArrayAccessor", "DatasetAccessor", "__version__", *sorted(_LAZY)]  # noqa: PLE0604 - a list of str


def __getattr__(name: str) -> Any:
    """Import the public functions when they are first asked for."""
    if name in _LAZY:
        return getattr(import_module(_LAZY[name]), name)
    raise AttributeError(f"module 'xland' has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted([*globals(), *_LAZY])
