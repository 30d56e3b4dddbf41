"""Single chunks of Zarr arrays on this machine, read by their bytes.

Zarr-python spends about a millisecond on every read, and reads the index of a shard anew each time;
decoding a map of 256 x 256 cells takes a tenth of that. The arrays of a training store are of the few
kinds that :func:`open_chunks` knows, so their chunks are found as the Zarr 3 specification says
(https://zarr-specs.readthedocs.io, core and ``sharding_indexed``), and the index of a shard is kept.
"""

from __future__ import annotations

import hashlib
import json
import math
import os
from collections import OrderedDict
from collections.abc import Callable, Hashable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from xland.errors import StoreError
from xland.store.checksums import ROOT, Table

Index = tuple[int, ...]

_ABSENT = 2**64 - 1  # what stands in the index of a shard for a chunk of nothing but the fill value
_CHECKSUM = 4  # bytes of the CRC-32C behind the index


@dataclass(frozen=True)
class ChunkedArray:
    """An array of a Zarr store, read chunk by chunk.

    Parameters
    ----------
    folder : Path
        Where the array lies.
    shape, chunks : tuple of int
        Cells of the array and of one chunk.
    shards : tuple of int or None
        Cells of one file, if files hold several chunks.
    dtype : dtype
    codec : str
        ``zstd`` or ``blosc``.
    table : Table, optional
        Of the store, with which each file is compared when a chunk of it is read first.
    """

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
        """Return a chunk, in full size at the edges of the array too; it cannot be written to.

        Raises
        ------
        StoreError
            If the chunk is damaged or cannot be read.
        """
        try:
            decoded = _decoder(self.codec)(self._bytes(index))
            return np.frombuffer(decoded, self.dtype).reshape(self.chunks)
        except StoreError:
            raise
        except (OSError, ValueError, RuntimeError) as error:
            raise StoreError(
                f"{self.folder}: chunk {'.'.join(map(str, index))} cannot be read ({error}): the store is damaged; "
                "copy it anew, or prepare it anew with overwrite=True"
            ) from error

    def _bytes(self, index: Index) -> bytes:
        """Return the encoded chunk; stores hold all of them, whatever their values."""
        if self.shards is None:
            self._compare(index)
            return self._file(index).read_bytes()
        per_shard = tuple(shard // chunk for shard, chunk in zip(self.shards, self.chunks, strict=True))
        shard = tuple(at // count for at, count in zip(index, per_shard, strict=True))
        inner = tuple(at % count for at, count in zip(index, per_shard, strict=True))
        self._compare(shard)
        if shard not in self._indices:
            self._indices[shard] = self._read_index(shard, per_shard)
        offset, length = map(int, self._indices[shard][inner])
        if offset == _ABSENT:
            raise OSError("it was not written")
        with self._file(shard).open("rb", buffering=0) as file:
            encoded = os.pread(file.fileno(), length, offset)
        if len(encoded) != length:
            raise OSError(f"{len(encoded)} of {length} bytes are there")
        return encoded

    def _read_index(self, shard: Index, per_shard: Index) -> NDArray[np.uint64]:
        """Offset and length of each chunk of a shard, from the end of its file."""
        size = 16 * math.prod(per_shard)
        with self._file(shard).open("rb", buffering=0) as file:
            end = os.fstat(file.fileno()).st_size
            content = os.pread(file.fileno(), size, max(0, end - size - _CHECKSUM))
        if len(content) != size:
            raise OSError(f"{self._file(shard)} has {end} bytes, fewer than its index")
        return np.frombuffer(content, "<u8").reshape(*per_shard, 2)

    def _compare(self, index: Index) -> None:
        """Compare a file with the table, once."""
        if self.table is None or index in self._compared:
            return
        file = self._file(index)
        name = f"{self.folder.name}/{file.relative_to(self.folder).as_posix()}"
        if name not in self.table.files:
            raise OSError("it was not written")
        self.table.check(name, file.read_bytes() if file.is_file() else None)
        self._compared.add(index)

    def _file(self, index: Index) -> Path:
        return self.folder / "c" / "/".join(map(str, index))


def open_chunks(folder: Path, table: Table | None = None) -> ChunkedArray:
    """Open an array of a Zarr 3 store for reading by chunks.

    Raises
    ------
    StoreError
        If there is no such array, or it is laid out or compressed in another way than xland does.
    """
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
        _expect(metadata["chunk_key_encoding"] == _KEYS, "keys of the default encoding")
        dtype = np.dtype(metadata["data_type"]).newbyteorder("<")
        return ChunkedArray(folder, tuple(metadata["shape"]), chunks, shards, dtype, codecs[1]["name"], table)
    except StoreError:
        raise
    except FileNotFoundError:
        raise StoreError(f"{folder.parent} lacks the array {folder.name}: it is damaged or no training store") from None
    except (KeyError, TypeError, ValueError, IndexError) as error:
        raise StoreError(f"{folder}/zarr.json is not that of a training store: {error}") from error


_KEYS = {"name": "default", "configuration": {"separator": "/"}}


def _expect(holds: bool, what: str) -> None:
    if not holds:
        raise ValueError(f"expected {what}")


def _decoder(codec: str) -> Callable[[bytes], bytes]:
    from numcodecs import blosc, zstd

    decode: Callable[[bytes], bytes] = {"blosc": blosc.decompress, "zstd": zstd.decompress}[codec]
    return decode


def hash_array(array: ChunkedArray) -> str:
    """SHA-256 of an array's content, whatever its chunks, as hexadecimal text.

    Each field over the last two axes has a digest of its cells in C order (little-endian); that of the array
    is the digest of theirs, in order. One row of chunks is held at a time.
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
    """Decoded chunks, the latest used, up to a number of bytes.

    Parameters
    ----------
    limit : int
        Most bytes that are kept; a chunk that alone is larger is not kept.
    """

    def __init__(self, limit: int) -> None:
        self.limit = limit
        self.used = 0
        self._kept: OrderedDict[Hashable, NDArray[Any]] = OrderedDict()

    def get(self, key: Hashable, load: Callable[[], NDArray[Any]]) -> NDArray[Any]:
        """Return what is kept under a key, or load and keep it, letting go of what was not used for longest."""
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
