"""The material of a training from whatever holds it: a store, Datasets, or what the configuration names."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

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
        ``forcing``, ``target``, ``static`` and ``prior``, as :func:`xland.training.material.open_data` takes them.
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
    return gather(configuration, **open_data(configuration, given))
