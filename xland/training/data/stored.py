"""Patches out of a training store: each chunk is decoded once for all patches that need it.

Zarr-python spends about a millisecond on every read, and reads the index of a shard again each time; decoding a map of
256 x 256 cells takes a tenth of that (zarrs needs half of zarr-python's time, tensorstore 1.5 to 3 times what is done
here). The arrays of a training store are of the few kinds that :func:`open_chunks` knows, so their chunks are found as
the Zarr 3 specification says (https://zarr-specs.readthedocs.io, core and ``sharding_indexed``), and the index of a
shard is kept.
"""

from __future__ import annotations

import hashlib
import json
import math
import os
from collections import OrderedDict, defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property, lru_cache, partial
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from xland.arguments import checked
from xland.errors import ModelError, StoreError
from xland.geo.grid import Grid
from xland.models.inputs import MASKED, InputSpec
from xland.paths import local_path
from xland.records import read_record
from xland.store.reading import read_finished
from xland.store.storage import ROOT, Table, refuse_damaged
from xland.training.data.loader import Place, list_samples
from xland.untrusted.folders import files_at

CONTENTS = "xland_training_store"
"""Attribute of the group that holds the table of contents."""

FORMAT = 1
"""Number of the format that this release writes and reads."""

CACHE_BYTES = 256 * 2**20
"""Bytes of decoded chunks that are kept unless the caller says otherwise."""

Index = tuple[int, ...]

_ABSENT = 2**64 - 1  # in the index of a shard, for a chunk of nothing but the fill value
_CHECKSUM = 4  # bytes of the CRC-32C behind the index


@dataclass(frozen=True)
class ChunkedArray:
    """An array of a Zarr store on this machine, read chunk by chunk; each file is compared with the ``table`` once."""

    folder: Path
    shape: Index
    chunks: Index
    shards: Index | None
    dtype: np.dtype[Any]
    codec: str
    table: Table | None = None
    _compared: set[Index] = field(default_factory=set, repr=False, compare=False)
    _indices: dict[Index, NDArray[np.uint64]] = field(default_factory=dict, repr=False, compare=False)

    def read(self, index: Index) -> NDArray[Any]:
        """Return a chunk, read-only and in full size at the edges too; StoreError if it is damaged or missing."""
        from numcodecs import blosc, zstd

        try:
            decoded = (blosc if self.codec == "blosc" else zstd).decompress(self._bytes(index))
            return np.frombuffer(decoded, self.dtype).reshape(self.chunks)
        except StoreError:
            raise
        except (OSError, ValueError, RuntimeError, OverflowError) as error:
            raise StoreError(
                f"{self.folder}: chunk {'.'.join(map(str, index))} cannot be read ({error}): the store is damaged; "
                "copy it again, or prepare it again with overwrite=True"
            ) from error

    def _bytes(self, index: Index) -> bytes:
        """Return the encoded chunk; stores hold all of them, whatever their values."""
        if self.shards is None:
            return self._file(index).read_bytes()
        per_shard = tuple(shard // chunk for shard, chunk in zip(self.shards, self.chunks, strict=True))
        shard = tuple(at // count for at, count in zip(index, per_shard, strict=True))
        inner = tuple(at % count for at, count in zip(index, per_shard, strict=True))
        with self._file(shard).open("rb", buffering=0) as file:
            if shard not in self._indices:  # offset and length of each chunk, at the end of the file
                end, size = os.fstat(file.fileno()).st_size, 16 * math.prod(per_shard)
                if end < size + _CHECKSUM:
                    raise OSError(f"{file.name} has {end} bytes, fewer than its index")
                content = os.pread(file.fileno(), size, end - size - _CHECKSUM)
                self._indices[shard] = np.frombuffer(content, "<u8").reshape(*per_shard, 2)
            offset, length = map(int, self._indices[shard][inner])
            if offset == _ABSENT:
                raise OSError("it was not written")
            encoded = os.pread(file.fileno(), length, offset)
        if len(encoded) != length:
            raise OSError(f"{len(encoded)} of {length} bytes are there")
        return encoded

    def _file(self, index: Index) -> Path:
        """Return a file, having compared it with the table once."""
        file = self.folder / "c" / "/".join(map(str, index))
        if self.table is not None and index not in self._compared:
            name = f"{self.folder.name}/{file.relative_to(self.folder).as_posix()}"
            if name not in self.table.files:
                raise OSError("it was not written")
            self.table.check(name, file.read_bytes() if file.is_file() else None)
            self._compared.add(index)
        return file


def open_chunks(folder: Path, table: Table | None = None) -> ChunkedArray:
    """Open an array of a Zarr 3 store; StoreError if it is missing, or laid out in another way than xland does."""
    try:
        content = (folder / ROOT).read_bytes()
        if table is not None:
            table.check(f"{folder.name}/{ROOT}", content)
        metadata = json.loads(content)
        outer = tuple(metadata["chunk_grid"]["configuration"]["chunk_shape"])
        codecs, chunks, shards = metadata["codecs"], outer, None
        if codecs[0]["name"] == "sharding_indexed":
            sharding = codecs[0]["configuration"]
            codecs, chunks, shards = sharding["codecs"], tuple(sharding["chunk_shape"]), outer
            _expect(sharding.get("index_location", "end") == "end", "an index at the end of each shard")
        _expect([each["name"] for each in codecs[:1]] == ["bytes"] and len(codecs) == 2, "bytes and one compressor")
        _expect(codecs[1]["name"] in ("zstd", "blosc"), "zstd or blosc")
        _expect(codecs[0].get("configuration", {}).get("endian", "little") == "little", "little-endian numbers")
        keys = {"name": "default", "configuration": {"separator": "/"}}
        _expect(metadata["chunk_key_encoding"] == keys, "keys of the default encoding")
        dtype = np.dtype(metadata["data_type"]).newbyteorder("<")
        return ChunkedArray(folder, tuple(metadata["shape"]), chunks, shards, dtype, codecs[1]["name"], table)
    except StoreError:
        raise
    except FileNotFoundError:
        raise StoreError(
            f"{folder.parent} lacks the array {folder.name}: it is damaged or not a training store"
        ) from None
    except (KeyError, TypeError, ValueError, IndexError) as error:
        raise StoreError(f"{folder}/zarr.json is not that of a training store: {error}") from error


def _expect(holds: bool, what: str) -> None:
    if not holds:
        raise ValueError(f"expected {what}")


def hash_array(array: ChunkedArray) -> str:
    """SHA-256 of an array's content, whatever its chunks, reading one row of chunks at a time.

    It is that of the digests of each field over the last two axes (cells in C order, little-endian).
    """
    *leading, rows, columns = array.shape
    *blocks, height, width = array.chunks
    digest = hashlib.sha256()
    for first in np.ndindex(*(-(-length // size) for length, size in zip(leading, blocks, strict=True))):
        fields: list[Any] = []
        for row in range(-(-rows // height)):
            across = [array.read((*first, row, column)) for column in range(-(-columns // width))]
            strip = np.concatenate(across, axis=-1)[..., : rows - row * height, :columns]
            layers = strip.reshape(-1, *strip.shape[-2:])
            fields = fields or [hashlib.sha256() for _ in layers]
            for field_digest, layer in zip(fields, layers, strict=True):
                field_digest.update(np.ascontiguousarray(layer).data)
        for field_digest in fields:
            digest.update(field_digest.digest())
    return digest.hexdigest()


class ChunkCache:
    """Decoded chunks, the latest used, up to a number of bytes; a chunk that alone is larger is not kept."""

    def __init__(self, limit: int) -> None:
        self.limit = limit
        self.used = 0
        self._kept: OrderedDict[Any, NDArray[Any]] = OrderedDict()

    def get(self, key: Any, load: Callable[[], NDArray[Any]]) -> NDArray[Any]:
        """Return what is kept under a key, or load and keep it in place of what was not used for longest."""
        if key in self._kept:
            self._kept.move_to_end(key)
            return self._kept[key]
        value = load()
        if value.nbytes <= self.limit:
            self._kept[key] = value
            self.used += value.nbytes
            while self.used > self.limit:
                self.used -= self._kept.popitem(last=False)[1].nbytes
        return value


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

    Raises
    ------
    StoreError
        If there is no store, it is unfinished, of another kind or format, damaged, or behind a URL.
    """
    folder = str(local_path(path, what="a training store"))
    root, table = read_finished(folder)
    contents = root.get("attributes", {}).get(CONTENTS)
    if not isinstance(contents, dict):
        raise StoreError(f"{folder} is not a training store: make one with `xland prepare`")
    if contents.get("format") != FORMAT:
        raise StoreError(
            f"{folder} is a training store of format {contents.get('format')}, and this release reads {FORMAT}: "
            "prepare it again, or use the release that wrote it"
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

    ``contents`` is the table of contents of the store in the folder ``path``, ``cache`` the bytes of decoded chunks
    that are kept; with a ``digest`` (:func:`xland.store.reading.store_digest`) files are compared when read first.
    """

    def __init__(
        self, path: str, contents: Mapping[str, Any], cache: int = CACHE_BYTES, digest: str | None = None
    ) -> None:
        self.path, self.contents, self.cache, self.digest = path, contents, cache, digest
        self.inputs = read_record(InputSpec, contents["inputs"], "input specification", ModelError)
        self.grid = Grid(**contents["grid"])
        self.shape = self.grid.shape
        self.chunk: tuple[int, int] | None = (int(contents["tile"]), int(contents["tile"]))
        self.variables = tuple(contents["variables"])
        self.pairs = tuple((int(forcing), int(mapped)) for forcing, mapped in contents["pairs"])
        self.hashes: dict[str, str] = dict(contents["hashes"])
        self._positions = {name: {int(y): at for at, y in enumerate(ys)} for name, ys in contents["years"].items()}
        self._priors = "prior" if self._positions["prior"] else "maps"
        there = self._positions["forcing"], self._positions[self._priors]
        self._samples = list_samples(self.inputs, self.pairs, *there)
        self.years = tuple(sample.mapped for sample in self._samples)
        self.intervals = tuple(sample.interval for sample in self._samples)
        lacking = {mapped for _, mapped in self.pairs} - {*self.years} if self.inputs.intervals == (1,) else ()
        if lacking or not self.years or not {*self.years} <= {*self._positions["maps"]}:
            raise ValueError("years of pairs or priors that the store does not hold")
        self._arrays: dict[str, ChunkedArray] = {}
        self._chunks = ChunkCache(cache)

    def __getstate__(self) -> dict[str, Any]:
        """Leave open arrays and decoded chunks behind."""
        return {"path": self.path, "contents": self.contents, "cache": self.cache, "digest": self.digest}

    def __setstate__(self, state: dict[str, Any]) -> None:
        """Open the same store again."""
        self.__init__(**state)  # type: ignore[misc]

    def read(self, places: Sequence[Place]) -> list[dict[str, NDArray[Any]]]:
        """Return the arrays of each place; see :meth:`xland.training.data.loader.PatchSource.read`.

        Places with the same window share one array of static channels.
        """
        # by chunk, so that each is read once: where to copy which part of it
        copies: dict[tuple[str, Index], list[tuple[Any, Any, Any]]] = defaultdict(list)

        def fill(out: Any, name: str, leading: Index, rows: slice, columns: slice, size: int) -> None:
            for down, across in product(_cut(rows.start, rows.stop, size), _cut(columns.start, columns.stop, size)):
                copy = (out, (..., down[1], across[1]), (..., down[2], across[2]))
                copies[name, (*leading, down[0], across[0])].append(copy)

        tile, inputs = int(self.contents["tile"]), self.inputs
        windows: dict[Any, tuple[NDArray[Any], NDArray[Any]]] = {}
        samples, hidden = [], []
        for place in places:
            rows, columns = place.rows, place.columns
            shape = (rows.stop - rows.start, columns.stop - columns.start)
            window = (rows.start, rows.stop, columns.start, columns.stop)
            if window not in windows:
                windows[window] = np.empty((len(inputs.static), *shape), np.float16), np.empty(shape, np.uint8)
                if inputs.static:
                    fill(windows[window][0], "static", (0,), rows, columns, tile)
                fill(windows[window][1], "counted", (), rows, columns, tile)
            hidden.append(windows[window][1])
            forced, mapped, interval = self._samples[place.year]
            low = place.coarse(inputs.factor)
            low_shape = tuple(cells.stop - cells.start for cells in low)
            coarse = np.empty((len(inputs.steps), len(inputs.coarse), *low_shape), dtype=np.float32)
            for year, values in zip(inputs.states_of(forced, interval), coarse, strict=True):
                at = self._positions["forcing"][year]
                fill(values, "coarse", (at, 0), *low, self._array("coarse").chunks[-1])
            sample = {"coarse": coarse, "static": windows[window][0]}
            sample["target"] = np.empty(shape, dtype=np.uint8)
            fill(sample["target"], "maps", (self._positions["maps"][mapped],), rows, columns, tile)
            if inputs.prior != "none":
                maps = np.full((inputs.history + 1, *shape), MASKED, dtype=np.uint8)
                for at, values in self._known_maps(inputs.maps_of(mapped, interval), maps):
                    fill(values, self._priors, (at,), rows, columns, tile)
                sample["prior"] = maps if inputs.history else maps[0]
            samples.append(sample)
        for (name, index), parts in sorted(copies.items(), key=lambda item: item[0]):
            values = self._chunks.get((name, index), partial(self._chunk, name, index))
            for out, to, source in parts:
                out[to] = values[source]
        for place, sample, where in zip(places, samples, hidden, strict=True):
            sample["target"] |= where  # 255 where a pixel does not count, 0 elsewhere
            sample["coarse"] = inputs.with_interval(sample["coarse"], self.intervals[place.year])
        return samples

    def _known_maps(self, years: tuple[int, ...], maps: NDArray[np.uint8]) -> Iterator[tuple[int, NDArray[np.uint8]]]:
        """Yield the position in the store of each year that it has, and where its map belongs."""
        there = self._positions[self._priors]
        return ((there[year], values) for year, values in zip(years, maps, strict=True) if year in there)

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
                "copy it again, or prepare it again with overwrite=True"
            )

    @cached_property
    def _table(self) -> Table | None:
        """The table of the store as it was opened."""
        table = None if self.digest is None else read_finished(self.path)[1]
        if table is not None and table.digest != self.digest:
            raise StoreError(f"{self.path} was replaced after it had been opened; open it again")
        return table

    def _chunk(self, name: str, index: Index) -> NDArray[Any]:
        """Chunk as samples need it, without axes of one cell."""
        values = self._array(name).read(index)
        if name == "coarse":
            return self.inputs.state_array(dict(zip(self.variables, np.moveaxis(values, 1, 0), strict=True)))
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


@lru_cache(maxsize=4096)
def _cut(start: int, stop: int, size: int) -> tuple[tuple[int, slice, slice], ...]:
    """Find the chunks along one axis that hold cells: number, place in the window, place in the chunk."""
    parts = []
    for number in range(start // size, -(-stop // size)):
        first, last = max(start, number * size), min(stop, (number + 1) * size)
        parts.append((number, slice(first - start, last - start), slice(first - number * size, last - number * size)))
    return tuple(parts)
