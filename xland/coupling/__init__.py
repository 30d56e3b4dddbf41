"""Land surface conditions on demand, for models that run: grids, remapping, the emulator, surface files."""

from __future__ import annotations

from importlib import import_module
from typing import Any

_LAZY = {"Bmi": "bmi", "Emulator": "emulator", "serve": "service"}


def __getattr__(name: str) -> Any:
    """Import what needs an optional package when it is first asked for."""
    if name in _LAZY:
        return getattr(import_module(f"xland.coupling.{_LAZY[name]}"), name)
    raise AttributeError(f"module 'xland.coupling' has no attribute {name!r}")
