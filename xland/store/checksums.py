"""The SHA-256 of each file of a store: taken when the file is written, and compared when it is read."""

from __future__ import annotations

import asyncio
import hashlib
import re
from collections.abc import AsyncGenerator, AsyncIterator, Collection, Iterable, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

from zarr.abc.store import ByteRequest, OffsetByteRequest, RangeByteRequest, Store, SuffixByteRequest
from zarr.core.buffer import Buffer, BufferPrototype
from zarr.storage import FsspecStore, LocalStore, WrapperStore

from xland.addresses import is_url, without_password
from xland.errors import StoreError
from xland.store.storage import Files, files_at
from xland.untrusted.servers import MOST_METADATA, with_limits

ATTRIBUTE = "xland_checksums"
"""Attribute of the root group that says where the table is."""

TABLE = "checksums.sha256"
"""Name of the table in the folder of the first variable."""

MOST_BYTES = 64 * 2**20
"""Most bytes of a table that is read."""

ROOT = "zarr.json"
"""Metadata of a Zarr group or array."""

_LINE = re.compile(r"([0-9a-f]{64})  ([^\n/][^\n]*)")
_NAME = re.compile(r"(?!\.{1,2}$)[^/\0]+")
_SYSTEMS = re.compile(r"(.*/)?(\.nfs[^/]*|\.DS_Store|\._[^/]*)")
_REMEDY = "copy the store anew from where it is whole, or write it anew with overwrite=True"
_READERS = 8


@dataclass(frozen=True)
class Table:
    """What a finished store holds.

    Parameters
    ----------
    target : str
        Path or URL of the store, for messages.
    name : str
        Name of the table itself in the store.
    digest : str
        SHA-256 of the table, and so of the whole store.
    files : mapping of str to str
        SHA-256 of each file, by its name.
    """

    target: str
    name: str
    digest: str
    files: Mapping[str, str]

    def check(self, name: str, content: Any) -> None:
        """Compare what was read of a file; :class:`StoreError` names it if it is missing or altered.

        Parameters
        ----------
        name : str
            Of a file that is in the table.
        content : bytes-like or None
            None if there is no such file.
        """
        if content is None:
            raise StoreError(damage(self.target, {name: "is missing"}))
        if sha256(content) != self.files[name]:
            raise StoreError(damage(self.target, {name: "was altered"}))


def sha256(content: Any) -> str:
    """SHA-256 of bytes, as hexadecimal text."""
    return hashlib.sha256(content).hexdigest()


def write_table(files: Mapping[str, str]) -> bytes:
    """Return the content of the table of these files."""
    return "".join(f"{digest}  {name}\n" for name, digest in sorted(files.items())).encode()


def table_name(root: Mapping[str, Any]) -> str | None:
    """Where the table of a store with this root metadata belongs; None without consolidated metadata."""
    consolidated = root.get("consolidated_metadata")
    found = consolidated.get("metadata") if isinstance(consolidated, dict) else None
    names = [name for name in found if _NAME.fullmatch(name)] if isinstance(found, dict) else []
    return f"{min(names)}/{TABLE}" if names else None


def find_table(files: Files, root: Mapping[str, Any], content: bytes) -> Table | None:
    """Read the table of a finished store, and compare the root metadata with it.

    Parameters
    ----------
    files : Files
        The store.
    root : mapping
        Its root metadata.
    content : bytes
        The same as it was read.

    Returns
    -------
    Table or None
        None for stores of others, and those of releases that wrote no table.

    Raises
    ------
    StoreError
        If the table or the root metadata is missing or altered.
    """
    attributes = root.get("attributes")
    said = attributes.get(ATTRIBUTE) if isinstance(attributes, dict) else None
    name = table_name(root)
    if said is None and name is None:
        return None
    if name is None or said not in (None, name):
        raise StoreError(damage(files.address, {ROOT: "was altered"}))
    if not files.is_file(name):
        if said is None:
            return None
        raise StoreError(damage(files.address, {name: "is missing"}))
    # where the attribute was damaged, the table is still there
    table = parse_table(files.address, name, files.read(name, most=MOST_BYTES))
    if ROOT not in table.files:
        raise StoreError(damage(files.address, {name: "was altered"}))
    table.check(ROOT, content)
    return table


@lru_cache(maxsize=8)
def parse_table(target: str, name: str, content: bytes) -> Table:
    """Return the table that was read of a store; once in each process as long as it stays the same."""
    files: dict[str, str] = {}
    try:
        lines = content.decode().split("\n")
    except UnicodeDecodeError:
        lines = [""]
    if lines.pop():
        raise StoreError(damage(target, {name: "was altered"}))
    for line in lines:
        found = _LINE.fullmatch(line)
        if found is None:
            raise StoreError(damage(target, {name: "was altered"}))
        files[found[2]] = found[1]
    return Table(target, name, sha256(content), files)


def find_damage(files: Files, table: Table) -> dict[str, str]:
    """Read every file of a store and say of each that is damaged what is wrong with it."""
    there = set(files.walk())
    faults = dict.fromkeys(sorted(table.files.keys() - there), "is missing")
    strange = there - table.files.keys() - {table.name}
    faults |= {name: "does not belong to it" for name in sorted(strange) if not _SYSTEMS.fullmatch(name)}
    with ThreadPoolExecutor(_READERS) as pool:
        found = sorted(table.files.keys() & there)
        same = pool.map(lambda name: _has(files, name, table.files[name]), found)
        faults |= {name: "was altered" for name, whole in zip(found, same, strict=True) if not whole}
    return faults


def find_metadata_damage(files: Files, table: Table) -> dict[str, str]:
    """Say of each file of metadata that has another content."""
    there = set(files.walk())
    named = {name: digest for name, digest in table.files.items() if name.endswith(ROOT) and name in there}
    return dict.fromkeys(altered(files, named, MOST_METADATA), "was altered")


def altered(files: Files, digests: Mapping[str, str], most: int | None = None) -> list[str]:
    """Names of the files that are gone, have another content, or more than ``most`` bytes."""
    return [name for name, digest in digests.items() if not _has(files, name, digest, most)]


def _has(files: Files, name: str, digest: str, most: int | None = None) -> bool:
    try:
        return sha256(files.read(name, most=most)) == digest
    except StoreError:
        if most is None:
            raise
        return False
    except OSError:
        return False


def damage(target: str, faults: Mapping[str, str], files: Collection[str] = ()) -> str:
    """Say which files of a store are damaged, a few of them by name, how many of all ``files``, and what to do."""
    shown = "; ".join(f"{name} {fault}" for name, fault in list(faults.items())[:3])
    more = f"; and {len(faults) - 3} more" if len(faults) > 3 else ""
    count = f" in {len(faults)} of {len(files)} files" if files else ""
    return f"{without_password(target)} is damaged{count}: {shown}{more}; {_REMEDY}"


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
