"""Zarr stores that take the digest of each file: when it is written, and again when it is read.

Below :mod:`xland.store`; nothing here is called by users. A module of its own, as it needs zarr.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator, Iterable, Mapping
from pathlib import Path
from typing import Any

from zarr.abc.store import ByteRequest, OffsetByteRequest, RangeByteRequest, Store, SuffixByteRequest
from zarr.core.buffer import Buffer, BufferPrototype
from zarr.storage import FsspecStore, LocalStore, WrapperStore

from xland.addresses import is_url
from xland.errors import StoreError
from xland.storing.checksums import MOST_BYTES, Table, damage, parse_table, sha256
from xland.storing.storage import files_at
from xland.strangers.servers import with_limits


def zarr_store(address: str, options: Mapping[str, Any] | None = None, *, read_only: bool = False) -> Store:
    """Zarr's own store at an address."""
    if is_url(address):
        return FsspecStore.from_url(address, storage_options=with_limits(address, options), read_only=read_only)
    return LocalStore(Path(address), read_only=read_only)


def store_to_read(target: str, table: Table | None, options: Mapping[str, Any] | None = None) -> Store:
    """Return what reads a finished store: if there is a table, each file is compared with it."""
    return zarr_store(target, options, read_only=True) if table is None else CheckedStore(table, options)


class RecordingStore(WrapperStore[Store]):
    """A store to write to, which keeps the digest of each file that was written until it is taken."""

    def __init__(self, store: Store) -> None:
        super().__init__(store)
        self._digests: dict[str, str] = {}

    def take(self, names: Iterable[str] | None = None) -> dict[str, str]:
        """Return the digests of those of the named files, or of all, that were written, and forget them."""
        chosen = list(self._digests) if names is None else [name for name in names if name in self._digests]
        return {name: self._digests.pop(name) for name in chosen}

    async def set(self, key: str, value: Buffer) -> None:
        """Write a file."""
        digest = await asyncio.to_thread(sha256, value.as_numpy_array())
        await self._store.set(key, value)
        self._digests[key] = digest

    async def set_if_not_exists(self, key: str, value: Buffer) -> None:
        """Write a file unless it is there."""
        if not await self.exists(key):
            await self.set(key, value)

    async def _set_many(self, values: Iterable[tuple[str, Buffer]]) -> None:
        await asyncio.gather(*(self.set(key, value) for key, value in values))

    async def delete(self, key: str) -> None:
        """Remove a file: chunks of nothing but the fill value are not kept."""
        await self._store.delete(key)
        self._digests.pop(key, None)


class CheckedStore(WrapperStore[Store]):
    """A finished store whose files are compared with its table as they are read.

    A file of several chunks (a shard) is read as a whole when a chunk of it is needed first, and once in each
    process. Copies in other processes read the table anew.

    Parameters
    ----------
    table : Table
    options : mapping, optional
        What fsspec needs to reach the store.
    """

    def __init__(self, table: Table, options: Mapping[str, Any] | None = None) -> None:
        super().__init__(zarr_store(table.target, options, read_only=True))
        self.table = table
        self._options = dict(options or {})
        self._whole: set[str] = set()

    def __reduce__(self) -> tuple[Any, ...]:
        """Give another process the address and the digest of the table, not the table."""
        return _reopen, (self.table.target, self.table.name, self.table.digest, self._options)

    def __dask_tokenize__(self) -> tuple[str, str, str]:
        """Name a store by its content."""
        return type(self).__name__, self.table.target, self.table.digest

    def __eq__(self, other: object) -> bool:
        """Whether two are the same store with the same content."""
        return isinstance(other, CheckedStore) and self.__dask_tokenize__() == other.__dask_tokenize__()

    def __hash__(self) -> int:
        """Hash as stores compare."""
        return hash(self.__dask_tokenize__())

    def __repr__(self) -> str:
        """Name the store."""
        return f"CheckedStore({self.table.target!r})"

    def with_read_only(self, read_only: bool = False) -> CheckedStore:
        """Return the store, which can only be read."""
        if not read_only:
            raise StoreError(f"{self.table.target} is whole and was opened for reading; write a store of your own")
        return self

    async def get(self, key: str, prototype: BufferPrototype, byte_range: ByteRequest | None = None) -> Buffer | None:
        """Read a file or a part of it; :class:`StoreError` if it is not what was written."""
        if key not in self.table.files:
            # a chunk that was never written is not there; one that is there has lost its line in the table
            if await self._store.exists(key):
                raise StoreError(damage(self.table.target, {key: "has no line in the table of digests"}))
            return None
        if byte_range is not None and key in self._whole:
            part = await self._store.get(key, prototype, byte_range)
            if part is None:
                self.table.check(key, None)
            return part
        content = await self._store.get(key, prototype)
        await asyncio.to_thread(self.table.check, key, None if content is None else content.as_numpy_array())
        if content is None or byte_range is None:
            return content
        self._whole.add(key)
        return content[_part(byte_range, len(content))]

    async def get_partial_values(
        self, prototype: BufferPrototype, key_ranges: Iterable[tuple[str, ByteRequest | None]]
    ) -> list[Buffer | None]:
        """Read parts of files."""
        return list(await asyncio.gather(*(self.get(key, prototype, part) for key, part in key_ranges)))

    async def _get_many(
        self, requests: Iterable[tuple[str, BufferPrototype, ByteRequest | None]]
    ) -> AsyncGenerator[tuple[str, Buffer | None], None]:
        for key, prototype, part in requests:
            yield key, await self.get(key, prototype, part)

    async def exists(self, key: str) -> bool:
        """Whether the table has a file."""
        return key in self.table.files

    async def is_empty(self, prefix: str) -> bool:
        """Whether the table has no file in a folder."""
        return not any(name.startswith(prefix) for name in self.table.files)

    async def list(self) -> AsyncIterator[str]:
        """Names of all files in the table."""
        for name in self.table.files:
            yield name

    async def list_prefix(self, prefix: str) -> AsyncIterator[str]:
        """Names that begin like this."""
        for name in self.table.files:
            if name.startswith(prefix):
                yield name

    async def list_dir(self, prefix: str) -> AsyncIterator[str]:
        """Names in a folder."""
        folder = f"{prefix.rstrip('/')}/".lstrip("/")
        for name in {n.removeprefix(folder).partition("/")[0] for n in self.table.files if n.startswith(folder)}:
            yield name


def _reopen(target: str, name: str, digest: str, options: Mapping[str, Any]) -> CheckedStore:
    table = parse_table(target, name, files_at(target, options).read(name, most=MOST_BYTES))
    if table.digest != digest:
        raise StoreError(f"{target} was replaced after it had been opened; open it again")
    return CheckedStore(table, options)


def _part(byte_range: ByteRequest, length: int) -> slice:
    if isinstance(byte_range, RangeByteRequest):
        return slice(byte_range.start, byte_range.end)
    if isinstance(byte_range, OffsetByteRequest):
        return slice(byte_range.offset, length)
    if isinstance(byte_range, SuffixByteRequest):
        return slice(max(0, length - byte_range.suffix), length)
    raise TypeError(f"unknown range of bytes: {byte_range}")
