"""Maps of a rollout that are kept on disk while its store grows, so that it goes on from where it was.

In a rollout each year's map is the prior of the next. A layer of a dask graph that can take its maps
from a :class:`Keeper` is :class:`Restartable`; :mod:`xland.store` writes such graphs in segments of a
few years, and each segment begins with the maps that the one before has kept.
"""

from __future__ import annotations

import re
import struct
import zlib
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any, Protocol, runtime_checkable

import numpy as np
from numpy.typing import NDArray

from xland.errors import StoreError
from xland.storing.storage import Files, files_at

Index = tuple[int, int, int]
"""Time position, block row, block column."""

_NAME = re.compile(r"(\d+)\.(\d+)")
_HEAD = struct.Struct("<4sIII")  # mark, checksum of what follows it, rows, columns
_MARK = b"map1"
_READERS = 8


@dataclass(frozen=True)
class Keeper:
    """Class maps of single block-years of a rollout, each in its own small file.

    Parameters
    ----------
    folder : str
        Path or fsspec URL; made when the first map is saved.
    """

    folder: str

    @property
    def _files(self) -> Files:
        return files_at(self.folder)

    def listing(self) -> frozenset[Index]:
        """Which maps are there and whole: each is read and its checksum compared."""
        found = [
            (int(year), int(name[1]), int(name[2]))
            for year in self._files.names()
            if year.isdecimal()
            for name in map(_NAME.fullmatch, self._files.names(year))
            if name
        ]
        with ThreadPoolExecutor(_READERS) as pool:
            maps = zip(found, pool.map(self.find, found), strict=True)
            return frozenset(index for index, values in maps if values is not None)

    def load(self, index: Index) -> NDArray[np.uint8]:
        """Read a map.

        Parameters
        ----------
        index : (int, int, int)
            Time position, block row and block column.

        Returns
        -------
        ndarray of uint8
            Shape ``(rows, columns)``.

        Raises
        ------
        StoreError
            If it is not there or damaged.
        """
        values = self.find(index)
        if values is None:
            raise StoreError(f"the map {index} in {self.folder} is gone or damaged; write again with resume=True")
        return values

    def find(self, index: Index) -> NDArray[np.uint8] | None:
        """Read a map as :meth:`load` does, or return None if it is not there or damaged."""
        try:
            return _unpack(self._files.read(_name(index)))
        except FileNotFoundError:
            return None

    def save(self, index: Index, values: NDArray[np.uint8]) -> None:
        """Keep a map: it is there whole or not at all.

        Parameters
        ----------
        index : (int, int, int)
            Time position, block row and block column.
        values : ndarray of uint8
            Shape ``(rows, columns)``.
        """
        self._files.put(_name(index), _pack(values))

    def forget(self, positions: Iterable[int]) -> None:
        """Delete all maps of these time positions."""
        there = set(self._files.names())
        for position in positions:
            if str(position) in there:
                self._files.remove(str(position))


@runtime_checkable
class Restartable(Protocol):
    """A layer of a dask graph (:class:`dask.highlevelgraph.Layer`) that computes a rollout.

    The second element of each of its keys is a time position: ``(name, position, ...)``. If a
    rollout can depend on the one of an earlier process, as it does when a store of several
    rollouts is resumed, the layer's name has to be the same in both.

    Attributes
    ----------
    order : tuple of int
        Time positions in the order in which they have to be computed: ascending forward,
        descending backward.
    """

    order: tuple[int, ...]

    def kept(self, keeper: Keeper) -> Any:
        """Return a copy of the layer, with the same name and keys, that works with kept maps.

        What ``keeper.listing()`` has is loaded by tasks without any dependencies. All others save
        their map with ``keeper.save`` before they return; and as a task runs again if the worker
        that held its result is lost, they begin with ``keeper.find``, and compute only if that
        gives nothing.
        """


def _name(index: Index) -> str:
    position, row, column = (int(number) for number in index)
    return f"{position}/{row}.{column}"


def _pack(values: NDArray[np.uint8]) -> bytes:
    from numcodecs.zstd import compress  # type: ignore[import-untyped]

    if values.dtype != np.uint8 or values.ndim != 2:
        raise StoreError(f"a map that is kept has to be uint8 of rows and columns, not {values.dtype} {values.shape}")
    body = bytes(compress(np.ascontiguousarray(values).tobytes(), 1))
    rows, columns = values.shape
    return _HEAD.pack(_MARK, zlib.crc32(struct.pack("<II", rows, columns) + body), rows, columns) + body


def _unpack(content: bytes) -> NDArray[np.uint8] | None:
    """Return a map, or None if the bytes are damaged."""
    from numcodecs.zstd import decompress  # type: ignore[import-untyped]

    if len(content) < _HEAD.size:
        return None
    mark, checksum, rows, columns = _HEAD.unpack_from(content)
    if mark != _MARK or zlib.crc32(content[_HEAD.size - 8 :]) != checksum:
        return None
    cells = bytes(decompress(content[_HEAD.size :])) if rows and columns else b""
    return np.frombuffer(cells, np.uint8).reshape(rows, columns).copy()
