"""Patches out of a training store: each chunk is decoded once for all patches that need it."""

from __future__ import annotations

import os
from collections import defaultdict
from collections.abc import Mapping, Sequence
from functools import cached_property, lru_cache
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from xland.addresses import local_path
from xland.arguments import checked
from xland.errors import StoreError
from xland.geo.grid import Grid
from xland.models.inputs import MASKED, InputSpec
from xland.store.checksums import Table, refuse_damaged
from xland.store.storage import files_at
from xland.store.workplace import read_finished
from xland.training.data.chunks import ChunkCache, ChunkedArray, Index, hash_array, open_chunks
from xland.training.data.loader import Place

CONTENTS = "xland_training_store"
"""Attribute of the group that holds the table of contents."""

FORMAT = 1
"""Number of the format that this release writes and reads."""

CACHE_BYTES = 256 * 2**20
"""Bytes of decoded chunks that are kept unless the caller says otherwise."""


@checked(StoreError)
def open_training_store(
    path: str | os.PathLike[str], *, cache: int = CACHE_BYTES, verify: bool = False
) -> StoredArrays:
    """Open a training store for reading patches.

    Parameters
    ----------
    path : path
        Folder that ``xland prepare`` wrote, on a disk or parallel file system.
    cache : int
        Bytes of decoded chunks that are kept in each process.
    verify : bool
        Read every array once and compare it with its SHA-256.

    Returns
    -------
    StoredArrays

    Raises
    ------
    StoreError
        If there is no store, it is unfinished, of another kind or format, or damaged; or if it lies behind
        a URL.
    """
    folder = str(local_path(path, what="a training store"))
    root, table = read_finished(folder)
    contents = root.get("attributes", {}).get(CONTENTS)
    if not isinstance(contents, dict):
        raise StoreError(f"{folder} is no training store: make one with `xland prepare`")
    if contents.get("format") != FORMAT:
        raise StoreError(
            f"{folder} is a training store of format {contents.get('format')}, and this release reads {FORMAT}: "
            "prepare it anew, or use the release that wrote it"
        )
    try:
        source = StoredArrays(folder, contents, cache, None if table is None else table.digest)
    except (KeyError, TypeError, ValueError) as error:
        if isinstance(error, StoreError):
            raise
        raise StoreError(f"the table of contents of {folder} is damaged: {error!r}") from error
    if verify:
        source.verify()
    return source


class StoredArrays:
    """All that a model learns from, in a training store; a :class:`~xland.training.data.loader.PatchSource`.

    Chunks are opened when they are first needed, so a copy in another process (pickled or forked) begins
    with none and keeps its own. One thread at a time may read.

    Parameters
    ----------
    path : str
        Folder of the store.
    contents : dict
        Its table of contents.
    cache : int
        Bytes of decoded chunks that are kept.
    digest : str, optional
        That of the store (:func:`xland.store.reading.store_digest`); its files are compared when they are read first.
    """

    def __init__(
        self, path: str, contents: Mapping[str, Any], cache: int = CACHE_BYTES, digest: str | None = None
    ) -> None:
        self.path = path
        self.contents = contents
        self.inputs = InputSpec.from_dict(contents["inputs"])
        self.grid = Grid(**contents["grid"])
        self.variables = tuple(contents["variables"])
        self.pairs = tuple((int(forcing), int(mapped)) for forcing, mapped in contents["pairs"])
        self.years = tuple(mapped for _, mapped in self.pairs)
        self.hashes: dict[str, str] = dict(contents["hashes"])
        self.cache = cache
        self.digest = digest
        self._positions = {name: {int(y): at for at, y in enumerate(ys)} for name, ys in contents["years"].items()}
        self._tile = int(contents["tile"])
        self._check()
        self._start()

    @property
    def shape(self) -> tuple[int, int]:
        """Fine rows and columns."""
        return self.grid.shape

    @property
    def chunk(self) -> tuple[int, int]:
        """Fine rows and columns of a chunk."""
        return self._tile, self._tile

    def read(self, places: Sequence[Place]) -> list[dict[str, NDArray[Any]]]:
        """Return the arrays of each place; see :meth:`xland.training.data.loader.PatchSource.read`.

        Places with the same window share one array of static channels.
        """
        copies = _Copies()
        windows: dict[Any, tuple[NDArray[Any], NDArray[Any]]] = {}
        samples = []
        for place in places:
            rows, columns = place.rows, place.columns
            shape = (rows.stop - rows.start, columns.stop - columns.start)
            window = (rows.start, rows.stop, columns.start, columns.stop)
            if window not in windows:
                windows[window] = self._fixed(copies, rows, columns, shape)
            static, _ = windows[window]
            sample = {"coarse": self._coarse(copies, place), "static": static}
            for name, (array, at) in self._maps(place.year).items():
                sample[name] = np.empty(shape, dtype=np.uint8)
                copies.add(array, (at,), (), self._tile, rows, columns, sample[name])
            samples.append(sample)
        copies.run(self._chunk)
        for place, sample in zip(places, samples, strict=True):
            hidden = windows[place.rows.start, place.rows.stop, place.columns.start, place.columns.stop][1]
            # 255 where a pixel does not count, 0 elsewhere
            sample["target"] |= hidden
        return samples

    def class_counts(self, year: int) -> NDArray[np.int64]:
        """Pixels of the target that count, in coarse cells; see :meth:`PatchSource.class_counts`."""
        at = self._positions["maps"][self.years[year]]
        return self._array("class_counts").read((at, 0, 0, 0))[0].astype(np.int64)

    def verify(self) -> None:
        """Compare all that is stored with its digests; :class:`StoreError` names what differs."""
        if self._table is not None:
            refuse_damaged(files_at(self.path), self._table)
            return
        damaged = [name for name, digest in self.hashes.items() if hash_array(self._array(name)) != digest]
        if damaged:
            raise StoreError(
                f"{self.path} is damaged: {', '.join(damaged)} no longer have the content that was written; "
                "copy it anew, or prepare it anew with overwrite=True"
            )

    def __getstate__(self) -> dict[str, Any]:
        """Leave open arrays and decoded chunks behind."""
        return {"path": self.path, "contents": self.contents, "cache": self.cache, "digest": self.digest}

    def __setstate__(self, state: dict[str, Any]) -> None:
        """Open the same store again."""
        self.__init__(**state)  # type: ignore[misc]

    def _start(self) -> None:
        self._arrays: dict[str, ChunkedArray] = {}
        self._chunks = ChunkCache(self.cache)

    @cached_property
    def _table(self) -> Table | None:
        """The table of the store as it was opened."""
        table = None if self.digest is None else read_finished(self.path)[1]
        if table is not None and table.digest != self.digest:
            raise StoreError(f"{self.path} was replaced after it had been opened; open it again")
        return table

    def _check(self) -> None:
        maps = self._positions["maps"]
        prior = self._positions["prior"]
        wanted = {forcing + step for forcing, _ in self.pairs for step in self.inputs.steps}
        if not wanted <= set(self._positions["forcing"]) or not set(self.years) <= set(maps):
            raise ValueError("years of pairs that the store does not hold")
        if self.inputs.prior != "none":
            before = {year + self.inputs.prior_step for year in self.years}
            if not before <= set(prior or maps):
                raise ValueError("years of priors that the store does not hold")

    def _fixed(
        self, copies: _Copies, rows: slice, columns: slice, shape: tuple[int, int]
    ) -> tuple[NDArray[Any], NDArray[Any]]:
        """Arrays to be filled with what does not change from year to year: static channels, hidden pixels."""
        static = np.empty((len(self.inputs.static), *shape), dtype=np.float16)
        hidden = np.empty(shape, dtype=np.uint8)
        if self.inputs.static:
            copies.add("static", (0,), (slice(None),), self._tile, rows, columns, static)
        copies.add("counted", (), (), self._tile, rows, columns, hidden)
        return static, hidden

    def _coarse(self, copies: _Copies, place: Place) -> NDArray[np.float32]:
        """Array to be filled with the coarse channels of all steps."""
        rows, columns = place.coarse(self.inputs.factor)
        shape = (rows.stop - rows.start, columns.stop - columns.start)
        result = np.empty((len(self.inputs.steps), len(self.inputs.coarse), *shape), dtype=np.float32)
        size = self._array("coarse").chunks[-1]
        for step, values in zip(self.inputs.steps, result, strict=True):
            at = self._positions["forcing"][self.pairs[place.year][0] + step]
            copies.add("coarse", (at, 0), (slice(None),), size, rows, columns, values)
        return result.reshape(-1, *shape)

    def _maps(self, year: int) -> dict[str, tuple[str, int]]:
        """Array and position of the target and of the prior of a map."""
        mapped = self.years[year]
        found = {"target": ("maps", self._positions["maps"][mapped])}
        if self.inputs.prior != "none":
            array = "prior" if self._positions["prior"] else "maps"
            found["prior"] = (array, self._positions[array][mapped + self.inputs.prior_step])
        return found

    def _chunk(self, name: str, index: Index) -> NDArray[Any]:
        """Chunk as samples need it, without axes of one cell."""
        return self._chunks.get((name, index), lambda: self._prepared(name, self._array(name).read(index)))

    def _prepared(self, name: str, values: NDArray[Any]) -> NDArray[Any]:
        if name == "coarse":
            return self.inputs.coarse_array(dict(zip(self.variables, np.moveaxis(values, 1, 0), strict=True)))
        if name == "counted":
            return np.where(values, np.uint8(0), np.uint8(MASKED))
        return values if name == "static" else values[0]

    def _array(self, name: str) -> ChunkedArray:
        if name not in self._arrays:
            array = open_chunks(Path(self.path, name), self._table)
            if list(array.shape) != self.contents["shapes"][name]:
                raise StoreError(
                    f"{array.folder} has the shape {array.shape}, not {self.contents['shapes'][name]}: it is damaged"
                )
            self._arrays[name] = array
        return self._arrays[name]


class _Copy(NamedTuple):
    out: NDArray[Any]
    to: tuple[slice, ...]
    source: tuple[slice, ...]


class _Copies:
    """What is to be copied out of each chunk, so that chunks can be read one after the other."""

    def __init__(self) -> None:
        self._by_chunk: dict[tuple[str, Index], list[_Copy]] = defaultdict(list)

    def add(
        self,
        name: str,
        leading: Index,
        axes: tuple[slice, ...],
        size: int,
        rows: slice,
        columns: slice,
        out: NDArray[Any],
    ) -> None:
        """Copy a window, ``out[axes, rows, columns]``, out of the chunks of ``size`` cells that hold it."""
        for row, row_to, row_from in _cut(rows.start, rows.stop, size):
            for column, column_to, column_from in _cut(columns.start, columns.stop, size):
                copy = _Copy(out, (*axes, row_to, column_to), (*axes, row_from, column_from))
                self._by_chunk[name, (*leading, row, column)].append(copy)

    def run(self, chunk: Any) -> None:
        """Read each chunk once, in the order of the arrays, and copy from it."""
        for (name, index), copies in sorted(self._by_chunk.items(), key=lambda item: item[0]):
            values = chunk(name, index)
            for copy in copies:
                copy.out[copy.to] = values[copy.source]


@lru_cache(maxsize=4096)
def _cut(start: int, stop: int, size: int) -> tuple[tuple[int, slice, slice], ...]:
    """Find the chunks along one axis that hold cells: number, place in the window, place in the chunk."""
    parts = []
    for number in range(start // size, -(-stop // size)):
        first, last = max(start, number * size), min(stop, (number + 1) * size)
        parts.append((number, slice(first - start, last - start), slice(first - number * size, last - number * size)))
    return tuple(parts)
