"""The material of a training from whatever contains it: a training store, Datasets, or what the configuration names."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from xland.errors import StoreError
from xland.geo.split import divide
from xland.models.coverage import Coverage
from xland.training.configuration import Configuration
from xland.training.data.material import Material, differences, gather, open_data
from xland.training.data.prepare import comparable
from xland.training.data.stored import CACHE_BYTES, StoredArrays, open_training_store


def stored_material(
    configuration: Configuration, path: str | os.PathLike[str], *, cache: int = CACHE_BYTES
) -> tuple[Configuration, Material]:
    """Read what a training needs from a store, as :func:`xland.training.data.material.gather` does from Datasets.

    Parameters
    ----------
    configuration : Configuration
    path : path
        Store that ``xland prepare`` wrote for the same inputs, years and split.
    cache : int
        Bytes of decoded chunks that each process keeps.

    Returns
    -------
    configuration : Configuration
        The same with the mean and scale of every channel that the store was normalised with.
    material : Material

    Raises
    ------
    StoreError
        If there is no such store, if it is not whole, or if it was made for other inputs, years or
        another split; the message names the entries that differ.
    """
    source = open_training_store(path, cache=cache)
    _check_same(configuration, source)
    statistics = {name: (mean, scale) for name, (mean, scale) in source.contents["statistics"].items()}
    coarse = source.grid.coarsen(configuration.inputs.factor)
    material = Material(
        source=source,
        grid=source.grid,
        part=divide(coarse, configuration.split_seed, configuration.data.southern_limit),
        description=dict(source.contents["sources"]),
        coverage=Coverage.from_dict(source.contents["coverage"]),
    )
    return replace(configuration, inputs=configuration.inputs.normalised(statistics)), material


def _check_same(configuration: Configuration, source: StoredArrays) -> None:
    own = comparable(configuration)
    there = {name: source.contents["made_for"].get(name) for name in own}
    different = differences(own, there)
    if different:
        raise StoreError(
            f"{source.path} was made for another training; different: {', '.join(different)}. "
            "Prepare a store for this configuration, or train with the one that it was made for"
        )


def open_material(
    configuration: Configuration, given: Mapping[str, Any], store: str | Path | None
) -> tuple[Configuration, Material]:
    """Return the configuration with normalised inputs, and what it learns from.

    Parameters
    ----------
    configuration : Configuration
    given : mapping
        ``forcing``, ``target``, ``static`` and ``prior``, as :func:`xland.training.data.material.open_data` takes them.
    store : path or None
        Training store, in place of all of these.

    Raises
    ------
    XlandError
        As :func:`xland.training.data.material.gather`, :func:`xland.training.data.material.open_data` and
        :func:`xland.training.data.gathering.stored_material` say.
    """
    if store is not None:
        return stored_material(configuration, store)
    return gather(configuration, **open_data(configuration, given))
