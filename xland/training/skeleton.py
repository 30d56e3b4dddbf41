"""Arrays of a training store before they are filled: shapes, chunks, coordinates and attributes."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import dask.array as da
import numpy as np
import xarray as xr
from numpy.typing import DTypeLike

from xland.storing.manifest import FINGERPRINT
from xland.storing.skeleton import make_skeleton
from xland.training.sources import Sources
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
