"""Write a training store: everything that a training reads, laid out for reading patches."""

from __future__ import annotations

import hashlib
import json
import os
import uuid
from collections import Counter
from dataclasses import asdict
from pathlib import Path
from typing import Any

import dask.array as da
import numpy as np
import xarray as xr

from xland.addresses import local_path
from xland.arguments import checked, is_count
from xland.atomic import explain
from xland.errors import ConfigurationError, StoreError
from xland.geo.grid import count_classes
from xland.models.inputs import MASKED
from xland.store.encoding import check_same, make_skeleton
from xland.store.provenance import identity_of
from xland.store.reading import is_written
from xland.store.storage import FINGERPRINT
from xland.store.workplace import FORMAT as MANIFEST_FORMAT
from xland.store.workplace import MANIFEST, Workplace, note, write_manifest
from xland.store.writing import progress_bar
from xland.training.configuration import Configuration, read_configuration
from xland.training.data.material import comparable, describe_data, open_data
from xland.training.data.stored import CONTENTS, FORMAT, StoredArrays, hash_array, open_chunks, open_training_store
from xland.training.data.survey import Sources, compare_prior, survey
from xland.vocabulary import flag_attributes

COARSE_CELLS = 64
"""Coarse cells along a chunk of the forcing."""

TILES = 64
"""Most tiles in one file: those beside each other in a row."""

_ARRAYS = ("coarse", "static", "counted", "maps", "prior", "class_counts")


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
        Continue a store that was left unfinished; start one if there is none, and do nothing if the same
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
        If the store exists and neither ``resume`` nor ``overwrite`` was asked for; if what is there is not a
        store, or was made of other data or settings; if another process writes it; or if it cannot be written.
    ConfigurationError
        If the tile is not a multiple of the factor, or no training cell is land.
    XlandError
        If the data do not fit, as :func:`xland.training.data.material.gather` says.
    """
    if overwrite and resume:
        raise StoreError("choose one of overwrite (start again) and resume (finish what was started)")
    place = Workplace(local_path(store, what="a training store"))
    if not isinstance(configuration, Configuration):
        configuration = read_configuration(configuration)
    factor = configuration.inputs.factor
    tile = -(-configuration.schedule.patch // factor) * factor if tile is None else tile
    if not is_count(tile) or tile % factor:
        raise ConfigurationError(f"tile {tile} must be a multiple of factor {factor}")
    data = open_data(configuration, {"forcing": forcing, "target": target, "static": static, "prior": prior})
    try:
        place.refuse(overwrite=overwrite, resume=resume)
        sources = Sources(configuration, **data)
        data.pop("prior", None)
        work = _describe_work(sources, tile, describe_data(sources.pairs, **data))
        with place.exclusive() as run:
            place.refuse(overwrite=overwrite, resume=resume)
            manifest = _begin(sources, tile, work, place, overwrite=overwrite, resume=resume, progress=progress)
            if manifest is not None:
                skeleton = _empty_arrays(sources, manifest, tile)
                finished = place.take_stock(manifest, skeleton)
                # written last: from here on there is something to resume
                place.files.put(MANIFEST, write_manifest(manifest))
                parts = manifest["groups"]["parts"][0]
                writer = _Writer(sources, tile, manifest, place.data(manifest))
                with progress_bar(len(parts), len(finished), ["writing the store"], shown=progress) as done:
                    for part in (part for part in parts if part not in finished):
                        note(place.files, part, run, writer.write(part))
                        done()
                _finish(sources, tile, manifest, place, skeleton)
    except OSError as error:
        if reason := explain(error, place.target):
            raise StoreError(reason) from error
        raise
    return open_training_store(place.target)


def _describe_work(sources: Sources, tile: int, description: dict[str, Any]) -> dict[str, Any]:
    """Describe what is written: two equal descriptions are the same work."""
    years = {name: getattr(sources, f"{name}_years") for name in ("forcing", "target", "prior")}
    described = {
        **comparable(sources.configuration),
        "layout": {"format": FORMAT, "tile": tile},
        "grid": asdict(sources.grid),
        "years": {**years, "pairs": sources.pairs},
        "sources": description,
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
    """Return the manifest to work by, having measured the sources; None when nothing is left to do."""
    manifest = place.manifest() if resume else None
    if manifest is not None:
        check_same(work, manifest["work"], place.target)
        return manifest
    fingerprint = hashlib.sha256(json.dumps(work, sort_keys=True).encode()).hexdigest()
    if resume and is_written(place, fingerprint):
        place.clear()
        return None
    place.clear()
    found = _survey(sources, tile, progress=progress)
    years = _years(sources, found["prior"])
    parts = [  # in this order, as maps need to know which cells count
        *(f"coarse.{year}" for year in years["forcing"]),
        *(f"static.{rows.start}.{rows.stop}" for rows in sources.strips(tile)),
        *(f"{name}.{year}" for name in ("maps", "prior") for year in years[name]),
    ]
    return {
        "format": MANIFEST_FORMAT,
        "data": f"data-{uuid.uuid4().hex}.zarr",
        "replaces": overwrite,
        "fingerprint": fingerprint,
        "work": work,
        "survey": found,
        "groups": {"parts": [parts]},
    }


def _years(sources: Sources, prior: str) -> dict[str, list[int]]:
    """Years of each array: of targets and priors together, unless the maps of the priors are ``own`` ones."""
    return {
        "maps": sorted({*sources.target_years, *(sources.prior_years if prior == "target" else ())}),
        "prior": sources.prior_years if prior == "own" else [],
        "forcing": sources.forcing_years,
    }


def _survey(sources: Sources, tile: int, *, progress: bool) -> dict[str, Any]:
    """Measure normalisation, cells and coverage, and compare prior maps with targets; JSON-ready."""
    times = Counter(year + step for year, _ in sources.pairs for step in sources.inputs.steps)
    shared = set(sources.target_years) & set(sources.prior_years) if sources.prior is not sources.target else ()
    steps = len(sources.strips(tile)) + len(times) + len(shared)
    with progress_bar(steps, 0, ["measuring the sources"], shown=progress) as done:

        def counted(items: Any) -> Any:
            for item in items:
                yield item
                done()

        strips = ((rows, *sources.strip(rows)) for rows in sources.strips(tile))
        states = (([sources.states(year)], times[year]) for year in sources.forcing_years)
        found = survey(sources, counted(strips), counted(states))
        if not found.cells["train"]:
            raise ConfigurationError(
                "no cell of the training part of the split is land: choose another split_seed or region"
            )
        agree = all(list(counted(compare_prior(sources, tile))))
    return {
        "statistics": found.statistics,
        "cells": found.cells,
        "coverage": asdict(found.coverage),
        "prior": "none" if sources.prior is None else "target" if agree else "own",
    }


def _empty_arrays(sources: Sources, manifest: dict[str, Any], tile: int) -> dict[str, bytes]:
    """Return the files of the group with its coordinates and empty arrays, by their names."""
    from zarr.codecs import ZstdCodec

    inputs, fine, coarse = sources.inputs, sources.grid, sources.forcing.grid
    years = _years(sources, manifest["survey"]["prior"])
    latitude = {"standard_name": "latitude", "units": "degrees_north"}
    longitude = {"standard_name": "longitude", "units": "degrees_east"}
    labels: dict[str, tuple[Any, dict[str, str]]] = {
        "lat": (fine.latitude, latitude),
        "lon": (fine.longitude, longitude),
        "coarse_lat": (coarse.latitude, latitude),
        "coarse_lon": (coarse.longitude, longitude),
        "variable": (np.array(sources.variables), {}),
        "channel": (np.array([channel.name for channel in inputs.static], dtype=np.str_), {}),
        "class": (np.array(inputs.classes), {}),
    }
    for name, there in (("forcing_time", years["forcing"]), ("time", years["maps"]), ("prior_time", years["prior"])):
        if there:
            labels[name] = np.array(there, dtype=np.int64), {"long_name": "calendar year"}
    codes = {**flag_attributes(inputs.classes), "comment": "255: not known, or does not count"}
    count = np.uint16 if inputs.factor**2 <= np.iinfo(np.uint16).max else np.uint32
    arrays: dict[str, tuple[tuple[str, ...], Any, dict[str, Any]]] = {
        "coarse": (("forcing_time", "variable", "coarse_lat", "coarse_lon"), np.float32, {"units": "1"}),
        "static": (("channel", "lat", "lon"), np.float16, {"long_name": "normalised static channels"}),
        "counted": (("lat", "lon"), np.uint8, {"long_name": "1 where a class is learned, 0 elsewhere"}),
        "maps": (("time", "lat", "lon"), np.uint8, codes),
        "prior": (("prior_time", "lat", "lon"), np.uint8, codes),
        "class_counts": (
            ("time", "class", "coarse_lat", "coarse_lon"),
            count,
            {"long_name": "fine cells of each class that count"},
        ),
    }
    ds, encoding = xr.Dataset(coords={name: (name, *label) for name, label in labels.items()}), {}
    cells = {"lat": tile, "lon": tile, "coarse_lat": COARSE_CELLS, "coarse_lon": COARSE_CELLS}
    for name, (dims, dtype, attributes) in arrays.items():
        if not set(dims) <= set(labels) or not all(ds.sizes[dim] for dim in dims):
            continue
        shape = tuple(ds.sizes[dim] for dim in dims)
        codec = ZstdCodec(level=3 if dtype is np.float32 or dtype is np.float16 else 5, checksum=True)
        # class counts of a map are read as a whole; one file holds tiles beside each other, or a year of forcing
        chunks = tuple(
            1 if dim.endswith("time") else length if name == "class_counts" else min(cells.get(dim, length), length)
            for dim, length in zip(dims, shape, strict=True)
        )
        encoding[name] = {"chunks": chunks, "compressors": (codec,), "_FillValue": None}
        if name != "class_counts":
            most = {"lon": TILES, "coarse_lat": coarse.rows, "coarse_lon": coarse.columns}
            encoding[name]["shards"] = tuple(
                chunk * min(-(-length // chunk), most.get(dim, 1))
                for dim, length, chunk in zip(dims, shape, chunks, strict=True)
            )
        ds[name] = (dims, da.zeros(shape, dtype=dtype, chunks=-1), attributes)
    ds.attrs = {
        "title": f"Training store of {sources.configuration.name}",
        "Conventions": "CF-1.11",
        FINGERPRINT: manifest["fingerprint"],
    }
    return make_skeleton(ds, encoding)


class _Writer:
    """Writes single parts of a store."""

    def __init__(self, sources: Sources, tile: int, manifest: dict[str, Any], data: str) -> None:
        import zarr

        from xland.store.storage import RecordingStore, zarr_store

        self.sources = sources
        self.tile = tile
        self.recorder = RecordingStore(zarr_store(data))
        self.group: Any = zarr.open_group(self.recorder, mode="r+", use_consolidated=False)
        self.inputs = sources.inputs.normalised(manifest["survey"]["statistics"])
        self.years = _years(sources, manifest["survey"]["prior"])

    def write(self, part: str) -> dict[str, str]:
        """Write a part by its name; return the digests of its files."""
        import zarr

        name, *numbers = part.split(".")
        # every chunk is there, so that one that is missing can be told from one that holds nothing but 0
        with zarr.config.set({"array.write_empty_chunks": True}):
            if name == "static":
                rows = slice(*map(int, numbers))
                fields, land = self.sources.strip(rows)
                if self.inputs.static:
                    self.group["static"][:, rows] = self.inputs.static_array(fields)
                self.group["counted"][rows] = land.astype(np.uint8)
            elif name == "coarse":
                values = self.sources.states(int(numbers[0]))
                at = self.years["forcing"].index(int(numbers[0]))
                self.group["coarse"][at] = np.stack([values[variable][0] for variable in self.sources.variables])
            else:
                self._map(name, int(numbers[0]))
        return self.recorder.take()

    def _map(self, name: str, year: int) -> None:
        at = self.years[name].index(year)
        what = "target" if name == "maps" and year in self.sources.target_years else "prior"
        counts = []
        for rows in self.sources.strips(self.tile):
            codes = self.sources.codes(what, year, rows)
            self.group[name][at, rows] = codes
            if name == "maps":
                counted = np.where(self.group["counted"][rows], codes, np.uint8(MASKED))
                counts.append(count_classes(counted, self.inputs.factor, len(self.inputs.classes)))
        if counts:
            array = self.group["class_counts"]
            array[at] = np.concatenate(counts, axis=1).astype(array.dtype)


def _finish(
    sources: Sources, tile: int, manifest: dict[str, Any], place: Workplace, skeleton: dict[str, bytes]
) -> None:
    """Put the table of contents into the store, and give the store its name."""
    data, found = Path(place.data(manifest)), manifest["survey"]
    arrays = {name: open_chunks(data / name) for name in _ARRAYS if (data / name).is_dir()}
    contents = {
        "format": FORMAT,
        "pairs": manifest["work"]["years"]["pairs"],
        "years": _years(sources, found["prior"]),
        "variables": list(sources.variables),
        "channels": [channel.name for channel in (*sources.inputs.coarse, *sources.inputs.static)],
        "inputs": asdict(sources.inputs.normalised(found["statistics"])),
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
