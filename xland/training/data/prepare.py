"""Write a training store: everything that a training reads, laid out for reading patches."""

from __future__ import annotations

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

from xland.arguments import checked, is_count
from xland.errors import ConfigurationError, StoreError
from xland.geo.grid import count_classes
from xland.models.inputs import MASKED
from xland.paths import explain, local_path
from xland.store.encoding import check_same, make_skeleton
from xland.store.provenance import identity_of
from xland.store.reading import is_written
from xland.store.storage import FINGERPRINT, RecordingStore, zarr_store
from xland.store.workplace import FORMAT as MANIFEST_FORMAT
from xland.store.workplace import MANIFEST, note, write_manifest
from xland.store.writing import check_store_place, progress_bar
from xland.training.configuration import Configuration, read_configuration
from xland.training.data.material import Sources, comparable, describe_data, open_data, survey
from xland.training.data.stored import CONTENTS, FORMAT, StoredArrays, hash_array, open_chunks, open_training_store
from xland.untrusted.folders import sha256
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
    place = check_store_place(local_path(store, what="a training store"), overwrite=overwrite, resume=resume)[0]
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
        fingerprint = sha256(json.dumps(work, sort_keys=True).encode())
        with place.exclusive() as run:
            place.refuse(overwrite=overwrite, resume=resume)
            manifest = place.manifest() if resume else None
            if manifest is not None:
                check_same(work, manifest["work"], place.target)
            elif resume and is_written(place, fingerprint):
                place.clear()
            else:
                place.clear()
                found = _survey(sources, tile, progress=progress)
                manifest = {
                    "format": MANIFEST_FORMAT,
                    "data": f"data-{uuid.uuid4().hex}.zarr",
                    "replaces": overwrite,
                    "fingerprint": fingerprint,
                    "work": work,
                    "survey": found,
                    "groups": {"parts": [_Writer(sources, tile, found).parts]},
                }
            if manifest is not None:
                writer = _Writer(sources, tile, manifest["survey"])
                skeleton = writer.skeleton(manifest["fingerprint"])
                finished = place.take_stock(manifest, skeleton)
                # written last: from here on there is something to resume
                place.files.put(MANIFEST, write_manifest(manifest))
                writer.open(place.data(manifest))
                # those of the manifest: data opened in other chunks would be cut into other strips
                parts = manifest["groups"]["parts"][0]
                with progress_bar(len(parts), len(finished), ["writing the store"], shown=progress) as done:
                    for part in (part for part in parts if part not in finished):
                        note(place.files, part, run, writer.write(part))
                        done()
                contents = writer.contents(Path(place.data(manifest)), manifest["work"])
                place.publish(manifest, skeleton, {CONTENTS: contents})
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


def _survey(sources: Sources, tile: int, *, progress: bool) -> dict[str, Any]:
    """Measure normalisation, cells and coverage, and compare prior maps with targets; ready for JSON."""
    times = Counter(
        year for forcing, _, interval in sources.samples for year in sources.inputs.states_of(forcing, interval)
    )
    shared = [] if sources.prior is sources.target else sorted({*sources.target_years} & {*sources.prior_years})
    steps = len(sources.strips(tile)) + len(times) + len(shared)
    with progress_bar(steps, 0, ["measuring the sources"], shown=progress) as done:

        def counted(items: Any) -> Any:
            for item in items:
                yield item
                done()

        strips = ((rows, *sources.strip(rows)) for rows in sources.strips(tile))
        states = (([sources.states(year)], times[year]) for year in sources.forcing_years)
        statistics, cells, coverage = survey(sources, counted(strips), counted(states))
        if not cells["train"]:
            raise ConfigurationError(
                "no cell of the training part of the split is land: choose another split_seed or region"
            )
        agree = all(
            np.array_equal(sources.codes("target", year, rows), sources.codes("prior", year, rows))
            for year in counted(shared)
            for rows in sources.strips(tile)
        )
    return {
        "statistics": statistics,
        "cells": cells,
        "coverage": asdict(coverage),
        "prior": "none" if sources.prior is None else "target" if agree else "own",
    }


class _Writer:
    """What a store has in it once its sources are measured (``found``), and the writing of its parts one by one."""

    def __init__(self, sources: Sources, tile: int, found: dict[str, Any]) -> None:
        self.sources, self.tile, self.found = sources, tile, found
        self.inputs = sources.inputs.normalised(found["statistics"])
        # maps of targets and priors are together, unless those of the priors are their own
        beside = sources.prior_years if found["prior"] == "target" else ()
        self.years = {
            "maps": sorted({*sources.target_years, *beside}),
            "prior": sources.prior_years if found["prior"] == "own" else [],
            "forcing": sources.forcing_years,
        }
        self.parts = [  # in this order, as maps need to know which cells count
            *(f"coarse.{year}" for year in self.years["forcing"]),
            *(f"static.{rows.start}.{rows.stop}" for rows in sources.strips(tile)),
            *(f"{name}.{year}" for name in ("maps", "prior") for year in self.years[name]),
        ]

    def skeleton(self, fingerprint: str) -> dict[str, bytes]:
        """Return the files of the group with its coordinates and empty arrays, by their names."""
        from zarr.codecs import ZstdCodec

        inputs, fine, coarse = self.inputs, self.sources.grid, self.sources.forcing.grid
        latitude = {"standard_name": "latitude", "units": "degrees_north"}
        longitude = {"standard_name": "longitude", "units": "degrees_east"}
        labels: dict[str, tuple[Any, dict[str, str]]] = {
            "lat": (fine.latitude, latitude),
            "lon": (fine.longitude, longitude),
            "coarse_lat": (coarse.latitude, latitude),
            "coarse_lon": (coarse.longitude, longitude),
            "variable": (np.array(self.sources.variables), {}),
            "channel": (np.array([channel.name for channel in inputs.static], dtype=np.str_), {}),
            "class": (np.array(inputs.classes), {}),
        }
        for name, there in (("forcing_time", "forcing"), ("time", "maps"), ("prior_time", "prior")):
            if self.years[there]:
                labels[name] = np.array(self.years[there], dtype=np.int64), {"long_name": "calendar year"}
        codes = {**flag_attributes(inputs.classes), "comment": "255: not known, or does not count"}
        count = np.uint16 if inputs.factor**2 <= np.iinfo(np.uint16).max else np.uint32
        counts = {"long_name": "fine cells of each class that count"}
        arrays: dict[str, tuple[tuple[str, ...], Any, dict[str, Any]]] = {
            "coarse": (("forcing_time", "variable", "coarse_lat", "coarse_lon"), np.float32, {"units": "1"}),
            "static": (("channel", "lat", "lon"), np.float16, {"long_name": "normalised static channels"}),
            "counted": (("lat", "lon"), np.uint8, {"long_name": "1 where a class is learned, 0 elsewhere"}),
            "maps": (("time", "lat", "lon"), np.uint8, codes),
            "prior": (("prior_time", "lat", "lon"), np.uint8, codes),
            "class_counts": (("time", "class", "coarse_lat", "coarse_lon"), count, counts),
        }
        ds, encoding = xr.Dataset(coords={name: (name, *label) for name, label in labels.items()}), {}
        cells = {"lat": self.tile, "lon": self.tile, "coarse_lat": COARSE_CELLS, "coarse_lon": COARSE_CELLS}
        most = {"lon": TILES, "coarse_lat": coarse.rows, "coarse_lon": coarse.columns}
        for name, (dims, dtype, attributes) in arrays.items():
            if not set(dims) <= set(labels) or not all(ds.sizes[dim] for dim in dims):
                continue
            shape = tuple(ds.sizes[dim] for dim in dims)
            codec = ZstdCodec(level=3 if np.issubdtype(dtype, np.floating) else 5, checksum=True)
            # class counts of a map are read as a whole; one file holds tiles beside each other, or a year of forcing
            chunks = tuple(
                1 if dim.endswith("time") else length if name == "class_counts" else min(cells.get(dim, length), length)
                for dim, length in zip(dims, shape, strict=True)
            )
            encoding[name] = {"chunks": chunks, "compressors": (codec,), "_FillValue": None}
            if name != "class_counts":
                encoding[name]["shards"] = tuple(
                    chunk * min(-(-length // chunk), most.get(dim, 1))
                    for dim, length, chunk in zip(dims, shape, chunks, strict=True)
                )
            ds[name] = (dims, da.zeros(shape, dtype=dtype, chunks=-1), attributes)
        title = f"Training store of {self.sources.configuration.name}"
        ds.attrs = {"title": title, "Conventions": "CF-1.11", FINGERPRINT: fingerprint}
        return make_skeleton(ds, encoding)

    def open(self, data: str) -> None:
        """Open the growing store for its parts."""
        import zarr

        self.recorder = RecordingStore(zarr_store(data))
        self.group: Any = zarr.open_group(self.recorder, mode="r+", use_consolidated=False)

    def write(self, part: str) -> dict[str, str]:
        """Write a part by its name; return the digests of its files."""
        import zarr

        name, *numbers = part.split(".")
        first = int(numbers[0])
        # every chunk is there, so that one that is missing can be told from one that holds nothing but 0
        with zarr.config.set({"array.write_empty_chunks": True}):
            if name == "static":
                rows = slice(first, int(numbers[1]))
                fields, land = self.sources.strip(rows)
                if self.inputs.static:
                    self.group["static"][:, rows] = self.inputs.static_array(fields)
                self.group["counted"][rows] = land.astype(np.uint8)
            elif name == "coarse":
                values = self.sources.states(first)
                at = self.years["forcing"].index(first)
                self.group["coarse"][at] = np.stack([values[variable][0] for variable in self.sources.variables])
            else:
                self._map(name, first)
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

    def contents(self, data: Path, work: dict[str, Any]) -> dict[str, Any]:
        """Return the table of contents of the written store; every array is read once."""
        arrays = {name: open_chunks(data / name) for name in _ARRAYS if (data / name).is_dir()}
        return {
            "format": FORMAT,
            "pairs": work["years"]["pairs"],
            "years": self.years,
            "variables": list(self.sources.variables),
            "channels": [channel.name for channel in (*self.inputs.coarse, *self.inputs.static)],
            "inputs": asdict(self.inputs),
            "grid": asdict(self.sources.grid),
            "tile": self.tile,
            "made_for": comparable(self.sources.configuration),
            "cells": self.found["cells"],
            "statistics": self.found["statistics"],
            "coverage": self.found["coverage"],
            "sources": work["sources"],
            "shapes": {name: list(array.shape) for name, array in arrays.items()},
            "hashes": {name: hash_array(array) for name, array in arrays.items()},
        }
