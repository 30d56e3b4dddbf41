"""The material of a training from whatever holds it: a store, Datasets, or what the configuration names."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import xarray as xr

from xland.training.configuration import Configuration
from xland.training.material import Material, gather, open_data
from xland.training.stored import stored_material


def open_material(
    configuration: Configuration, given: Mapping[str, Any], store: str | Path | None
) -> tuple[Configuration, Material]:
    """Return the configuration with normalised inputs, and what it learns from.

    Parameters
    ----------
    configuration : Configuration
    given : mapping
        ``forcing`` (a path or a Dataset), ``target``, ``static`` and ``prior``; None, and all that is left
        out, is opened as the configuration says.
    store : path or None
        Training store, in place of all of these.

    Raises
    ------
    XlandError
        As :func:`xland.training.material.gather`, :func:`xland.training.material.open_data` and
        :func:`xland.training.stored.stored_material` say.
    """
    if store is not None:
        return stored_material(configuration, store)
    data: dict[str, Any] = {
        name: value for name, value in given.items() if isinstance(value, xr.Dataset | xr.DataArray)
    }
    path = given["forcing"] if isinstance(given.get("forcing"), str | Path) else None
    if not {"forcing", "target", "static"} <= set(data):
        data = {**open_data(configuration, path, skip=tuple(data)), **data}
    return gather(configuration, **data)
