"""Write a training store: everything that a training reads, laid out for reading patches."""

from __future__ import annotations

import hashlib
import json
import os
import uuid
from collections.abc import Iterator, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import dask.array as da
import numpy as np
import xarray as xr
from numpy.typing import DTypeLike

from xland.addresses import local_path
from xland.arguments import checked, is_count
from xland.atomic import explain
from xland.errors import ConfigurationError, StoreError
from xland.geo.grid import count_classes
from xland.models.inputs import MASKED, InputSpec
from xland.store.encoding import make_skeleton
from xland.store.identity import identity_of
from xland.store.journal import FINGERPRINT, MANIFEST, check_same, note, write_manifest
from xland.store.journal import FORMAT as MANIFEST_FORMAT
from xland.store.workplace import Workplace
from xland.store.writing import progress_bar
from xland.training.configuration import Configuration, read_configuration
from xland.training.data.chunks import hash_array, open_chunks
from xland.training.data.material import open_data
from xland.training.data.stored import CONTENTS, FORMAT, StoredArrays, open_training_store
from xland.training.data.survey import Sources, check_sources, count_steps, survey
from xland.vocabulary import flag_attributes

COARSE_CELLS = 64
"""Coarse cells along a chunk of the forcing."""

TILES = 64
"""Most tiles in one file: those beside each other in a row."""

_LATITUDE = {"standard_name": "latitude", "units": "degrees_north"}
_LONGITUDE = {"standard_name": "longitude", "units": "degrees_east"}
_YEAR = {"long_name": "calendar year"}


def empty_arrays(
    sources: Sources, map_years: Sequence[int], own_prior: bool, tile: int, fingerprint: str
) -> dict[str, bytes]:
    """Return the files of the group with its coordinates and empty arrays, by their names.

    Parameters
    ----------
    sources : Sources
    map_years : sequence of int
        Years of the array ``maps``.
    own_prior : bool
        Whether maps of the prior stand in an array of their own.
    tile : int
        Fine cells along a chunk.
    fingerprint : str
        Digest of what is written.
    """
    layout = _Layout(sources, tile)
    inputs, prior_years = sources.inputs, sources.prior_years if own_prior else []
    codes = {**flag_attributes(inputs.classes), "comment": "255: not known, or does not count"}
    layout.add("coarse", ("forcing_time", "variable", "coarse_lat", "coarse_lon"), np.float32, {"units": "1"})
    if inputs.static:
        layout.add("static", ("channel", "lat", "lon"), np.float16, {"long_name": "normalised static channels"})
    layout.add("counted", ("lat", "lon"), np.uint8, {"long_name": "1 where a class is learned, 0 elsewhere"})
    layout.coordinates["time"] = ("time", np.array(map_years, dtype=np.int64), _YEAR)
    layout.add("maps", ("time", "lat", "lon"), np.uint8, codes)
    if own_prior:
        layout.coordinates["prior_time"] = ("prior_time", np.array(prior_years, dtype=np.int64), _YEAR)
        layout.add("prior", ("prior_time", "lat", "lon"), np.uint8, codes)
    count = np.uint16 if inputs.factor**2 <= np.iinfo(np.uint16).max else np.uint32
    about = {"long_name": "fine cells of each class that count"}
    layout.add("class_counts", ("time", "class", "coarse_lat", "coarse_lon"), count, about)
    attributes = {
        "title": f"Training store of {sources.configuration.name}",
        "Conventions": "CF-1.11",
        FINGERPRINT: fingerprint,
    }
    return make_skeleton(xr.Dataset(layout.variables, layout.coordinates, attributes), layout.encoding)


class _Layout:
    """Variables, coordinates and Zarr encoding, as they are added."""

    def __init__(self, sources: Sources, tile: int) -> None:
        fine, coarse, inputs = sources.grid, sources.forcing.grid, sources.inputs
        self.coordinates: dict[str, Any] = {
            "lat": ("lat", fine.latitude, _LATITUDE),
            "lon": ("lon", fine.longitude, _LONGITUDE),
            "coarse_lat": ("coarse_lat", coarse.latitude, _LATITUDE),
            "coarse_lon": ("coarse_lon", coarse.longitude, _LONGITUDE),
            "forcing_time": ("forcing_time", np.array(sources.forcing_years, dtype=np.int64), _YEAR),
            "variable": ("variable", np.array(sources.variables)),
            "channel": ("channel", np.array([channel.name for channel in inputs.static], dtype=np.str_)),
            "class": ("class", np.array(inputs.classes)),
        }
        self.variables: dict[str, Any] = {}
        self.encoding: dict[str, Any] = {}
        self._cells = {"lat": tile, "lon": tile, "coarse_lat": COARSE_CELLS, "coarse_lon": COARSE_CELLS}

    def add(self, name: str, dims: tuple[str, ...], dtype: DTypeLike, attributes: dict[str, Any]) -> None:
        """Add an array without values."""
        from zarr.codecs import ZstdCodec

        shape = tuple(len(self.coordinates[dim][1]) for dim in dims)
        # class counts of a map are read as a whole
        cells = self._cells if name != "class_counts" else {}
        chunks = tuple(
            1 if dim.endswith("time") else min(cells.get(dim, length), length)
            for dim, length in zip(dims, shape, strict=True)
        )
        floats = np.dtype(dtype).kind == "f"
        codec = ZstdCodec(level=3 if floats else 5, checksum=True)  # the checksum finds damage when a chunk is read
        self.encoding[name] = {"chunks": chunks, "compressors": (codec,), "_FillValue": None}
        if name != "class_counts":
            self.encoding[name]["shards"] = self._shards(dims, shape, chunks)
        self.variables[name] = (dims, da.zeros(shape, dtype=dtype, chunks=-1), attributes)

    @staticmethod
    def _shards(dims: tuple[str, ...], shape: tuple[int, ...], chunks: tuple[int, ...]) -> tuple[int, ...]:
        """Put tiles beside each other into one file, and all chunks of a forcing year."""
        most = {"lon": TILES, "coarse_lat": None, "coarse_lon": None}
        result = []
        for dim, length, chunk in zip(dims, shape, chunks, strict=True):
            count = -(-length // chunk) if dim in most else 1
            result.append(chunk * min(count, most.get(dim) or count))
        return tuple(result)


@checked(StoreError)
def prepare(
    configuration: str | Path | Configuration,
    store: str | os.PathLike[str],
    *,
    forcing: str | Path | xr.Dataset | None = None,
    target: str | Path | xr.DataArray | None = None,
    static: str | Path | xr.Dataset | None = None,
    prior: str | Path | xr.DataArray | None = None,
    tile: int | None = None,
    resume: bool = False,
    overwrite: bool = False,
    progress: bool = True,
) -> StoredArrays:
    """Write a training store.

    Sources are read strip by strip of latitude: some rows of one map or of the static predictors are in
    memory at a time, as many as a tile or a chunk of the sources has.

    Parameters
    ----------
    configuration : str, path or Configuration
        Name of a shipped configuration, a TOML file, or a configuration.
    store : path
        Folder to write.
    forcing : path or Dataset, optional
        Coarse fractions in place of those that the configuration names.
    target, static : path, DataArray or Dataset, optional
        Maps and predictors in place of those that the configuration names.
    prior : path or DataArray, optional
        Maps of the adjacent years, for inputs that read one; by default those of the target.
    tile : int, optional
        Fine cells along a chunk; by default the patch of the configuration, as a multiple of the factor,
        so that no coarse cell lies in two tiles.
    resume : bool
        Go on with a store that was left unfinished; start one if there is none, and do nothing if the same
        store is complete.
    overwrite : bool
        Replace a store that exists; it stays until the new one is whole.
    progress : bool
        Show a progress bar.

    Returns
    -------
    StoredArrays
        The store, opened.

    Raises
    ------
    StoreError
        If the store exists and neither ``resume`` nor ``overwrite`` was asked for; if what is there is no
        store, or was made of other data or settings; if another process writes it; or if it cannot be written.
    ConfigurationError
        If the tile is no multiple of the factor, or no training cell is land.
    XlandError
        If the data do not fit, as :func:`xland.training.data.material.gather` says.
    """
    if overwrite and resume:
        raise StoreError("choose one of overwrite (start again) and resume (finish what was begun)")
    place = Workplace(local_path(store, what="a training store"))
    if not isinstance(configuration, Configuration):
        configuration = read_configuration(configuration)
    tile = _tile(configuration, tile)
    data = open_data(configuration, {"forcing": forcing, "target": target, "static": static, "prior": prior})
    try:
        place.refuse(overwrite=overwrite, resume=resume)
        sources = check_sources(configuration, **data)
        work = _describe_work(sources, tile)
        with place.exclusive() as run:
            place.refuse(overwrite=overwrite, resume=resume)
            manifest = _begin(sources, tile, work, place, overwrite=overwrite, resume=resume, progress=progress)
            if manifest is not None:
                skeleton = _skeleton(sources, tile, manifest)
                finished = place.take_stock(manifest, skeleton)
                # written last: from here on there is something to resume
                place.files.put(MANIFEST, write_manifest(manifest))
                _write(sources, tile, manifest, finished, place, run, progress=progress)
                _finish(sources, tile, manifest, place, skeleton)
    except OSError as error:
        if reason := explain(error, place.target):
            raise StoreError(reason) from error
        raise
    return open_training_store(place.target)


def comparable(configuration: Configuration) -> dict[str, Any]:
    """Return those entries of a configuration that fix the content of a store, without normalisation."""
    inputs = configuration.inputs
    plain = inputs.normalised({channel.name: (0.0, 1.0) for channel in (*inputs.coarse, *inputs.static)}).to_dict()
    chosen = ("forcing_years", "target_years", "train_years", "test_years", "southern_limit")
    entries = {
        "inputs": {name: value for name, value in plain.items() if name not in ("window", "stride")},
        "data": {name: getattr(configuration.data, name) for name in chosen},
        "split": {"seed": configuration.split_seed},
    }
    result: dict[str, Any] = json.loads(json.dumps(entries))
    return result


def _tile(configuration: Configuration, tile: int | None) -> int:
    factor = configuration.inputs.factor
    if tile is None:
        return -(-configuration.schedule.patch // factor) * factor
    if not is_count(tile) or tile % factor:
        raise ConfigurationError(f"tile {tile} must be a multiple of factor {factor}")
    return tile


def _describe_work(sources: Sources, tile: int) -> dict[str, Any]:
    """Describe what is written: two equal descriptions are the same work."""
    described = {
        **comparable(sources.configuration),
        "layout": {"format": FORMAT, "tile": tile},
        "grid": asdict(sources.grid),
        "years": {
            "forcing": sources.forcing_years,
            "target": sources.target_years,
            "prior": sources.prior_years,
            "pairs": sources.pairs,
        },
        "sources": sources.description,
        "prior": {"token": None if sources.prior is None else identity_of(sources.prior)},
    }
    plain: dict[str, Any] = json.loads(json.dumps(described, default=str))
    return plain


def _begin(
    sources: Sources,
    tile: int,
    work: dict[str, Any],
    place: Workplace,
    *,
    overwrite: bool,
    resume: bool,
    progress: bool,
) -> dict[str, Any] | None:
    """Return the manifest to work by, having set up what is missing; None when nothing is left to do."""
    manifest = place.manifest() if resume else None
    if manifest is not None:
        check_same(work, manifest["work"], place.target)
        return manifest
    fingerprint = hashlib.sha256(json.dumps(work, sort_keys=True).encode()).hexdigest()
    if resume and place.is_written(fingerprint):
        place.clear()
        return None
    place.clear()
    with progress_bar(count_steps(sources, tile), 0, ["measuring the sources"], shown=progress) as done:
        found = survey(sources, tile, done)
    return {
        "format": MANIFEST_FORMAT,
        "data": f"data-{uuid.uuid4().hex}.zarr",
        "replaces": overwrite,
        "fingerprint": fingerprint,
        "work": work,
        "survey": found,
        "groups": {"parts": [_parts(sources, tile, found)]},
    }


def _skeleton(sources: Sources, tile: int, manifest: dict[str, Any]) -> dict[str, bytes]:
    found = manifest["survey"]
    own = found["prior"] == "own"
    return empty_arrays(sources, _map_years(sources, found), own, tile, manifest["fingerprint"])


def _parts(sources: Sources, tile: int, found: dict[str, Any]) -> list[str]:
    """Names of the parts that are written one by one, in order: maps need to know which cells count."""
    return [
        *(f"coarse.{year}" for year in sources.forcing_years),
        *(f"static.{rows.start}.{rows.stop}" for rows in sources.strips(tile)),
        *(f"maps.{year}" for year in _map_years(sources, found)),
        *(f"prior.{year}" for year in sources.prior_years if found["prior"] == "own"),
    ]


def _map_years(sources: Sources, found: dict[str, Any]) -> list[int]:
    """Years of the array ``maps``: those of the targets, and of the priors unless these stand apart."""
    return sorted({*sources.target_years, *(sources.prior_years if found["prior"] == "target" else ())})


def _write(
    sources: Sources,
    tile: int,
    manifest: dict[str, Any],
    finished: set[str],
    place: Workplace,
    run: str,
    *,
    progress: bool,
) -> None:
    parts = manifest["groups"]["parts"][0]
    writer = _Writer(sources, tile, manifest, Path(place.data(manifest)))
    notes = ["writing the store"]
    with progress_bar(len(parts), len(finished), notes, shown=progress) as done:
        for part in parts:
            if part not in finished:
                note(place.files, part, run, writer.write(part))
                done()


class _Writer:
    """Writes single parts of a store."""

    def __init__(self, sources: Sources, tile: int, manifest: dict[str, Any], data: Path) -> None:
        import zarr

        from xland.store.checksums import RecordingStore, zarr_store

        self.sources = sources
        self.tile = tile
        self.recorder = RecordingStore(zarr_store(str(data)))
        self.group = zarr.open_group(self.recorder, mode="r+", use_consolidated=False)
        self.inputs = normalised(sources.inputs, manifest["survey"])
        self.years = {
            "maps": _map_years(sources, manifest["survey"]),
            "coarse": sources.forcing_years,
            "prior": sources.prior_years,
        }

    def write(self, part: str) -> dict[str, str]:
        """Write a part by its name; return the digests of its files."""
        import zarr

        name, *numbers = part.split(".")
        # every chunk is there, so that one that is missing can be told from one that holds nothing but 0
        with zarr.config.set({"array.write_empty_chunks": True}):
            self._write(name, numbers)
        return self.recorder.take()

    def _write(self, name: str, numbers: list[str]) -> None:
        if name == "static":
            self._static(slice(*map(int, numbers)))
        elif name == "coarse":
            values = self.sources.states(int(numbers[0]))
            stacked = np.stack([values[variable][0] for variable in self.sources.variables])
            self._array("coarse")[self.years["coarse"].index(int(numbers[0]))] = stacked
        else:
            self._map(name, int(numbers[0]))

    def _static(self, rows: slice) -> None:
        fields = self.sources.fields(rows)
        land = self.sources.land(fields, rows)
        if self.inputs.static:
            self._array("static")[:, rows] = self.inputs.static_array(fields)
        self._array("counted")[rows] = land.astype(np.uint8)

    def _map(self, name: str, year: int) -> None:
        at = self.years[name].index(year)
        what = "target" if name == "maps" and year in self.sources.target_years else "prior"
        counts = []
        for rows in self.sources.strips(self.tile):
            codes = self.sources.codes(what, year, rows)
            self._array(name)[at, rows] = codes
            if name == "maps":
                counted = np.where(self._array("counted")[rows], codes, np.uint8(MASKED))
                counts.append(count_classes(counted, self.inputs.factor, len(self.inputs.classes)))
        if counts:
            array = self._array("class_counts")
            array[at] = np.concatenate(counts, axis=1).astype(array.dtype)

    def _array(self, name: str) -> Any:
        return self.group[name]


def normalised(inputs: InputSpec, found: dict[str, Any]) -> InputSpec:
    """Return inputs with the statistics of a survey."""
    return inputs.normalised({name: tuple(values) for name, values in found["statistics"].items()})


def _finish(
    sources: Sources, tile: int, manifest: dict[str, Any], place: Workplace, skeleton: dict[str, bytes]
) -> None:
    """Put the table of contents into the store, and give the store its name."""
    data, found = Path(place.data(manifest)), manifest["survey"]
    arrays = {name: open_chunks(data / name) for name in _arrays(data)}
    contents = {
        "format": FORMAT,
        "pairs": manifest["work"]["years"]["pairs"],
        "years": {
            "maps": _map_years(sources, found),
            "prior": sources.prior_years if found["prior"] == "own" else [],
            "forcing": sources.forcing_years,
        },
        "variables": list(sources.variables),
        "channels": [channel.name for channel in (*sources.inputs.coarse, *sources.inputs.static)],
        "inputs": normalised(sources.inputs, found).to_dict(),
        "grid": asdict(sources.grid),
        "tile": tile,
        "made_for": comparable(sources.configuration),
        "cells": found["cells"],
        "statistics": found["statistics"],
        "coverage": found["coverage"],
        "sources": manifest["work"]["sources"],
        "shapes": {name: list(array.shape) for name, array in arrays.items()},
        "hashes": {name: hash_array(array) for name, array in arrays.items()},
    }
    place.publish(manifest, skeleton, {CONTENTS: contents})


def _arrays(data: Path) -> Iterator[str]:
    """Names of the arrays that are not coordinates."""
    for name in ("coarse", "static", "counted", "maps", "prior", "class_counts"):
        if (data / name).is_dir():
            yield name
