"""The SHA-256 of each file of a store: taken when it is written, and compared when it is read.

A finished store has the digests of all its files in a table.
"""

from __future__ import annotations

import asyncio
import re
from collections.abc import AsyncIterator, Iterable, Mapping
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

from zarr.abc.store import ByteRequest, OffsetByteRequest, RangeByteRequest, Store, SuffixByteRequest
from zarr.core.buffer import Buffer, BufferPrototype
from zarr.storage import FsspecStore, LocalStore, WrapperStore

from xland.errors import StoreError
from xland.paths import is_url, without_password
from xland.untrusted.folders import Files, digests_in, files_at, sha256, table_name
from xland.untrusted.servers import MOST_METADATA, with_limits

ROOT = "zarr.json"  # metadata of a Zarr group or array
COMPLETE = "xland_complete"  # 0 while a store is being written, 1 once it is whole (NetCDF has no booleans)
FINGERPRINT = "xland_store_fingerprint"  # digest of the work that is written, compared when it is resumed
ATTRIBUTE = "xland_checksums"  # where the table of digests is
"""Attributes of the root group."""

MOST_BYTES = 64 * 2**20
"""Most bytes of a table that is read."""

_LINE = re.compile(r"([0-9a-f]{64})  ([^\n/][^\n]*)")
_SYSTEMS = re.compile(r"(.*/)?(\.nfs[^/]*|\.DS_Store|\._[^/]*)")


@dataclass(frozen=True)
class Table:
    """The files of a finished store at ``target``: the SHA-256 of each by its name.

    ``name`` is that of the table in the store, ``digest`` its own SHA-256 and so that of the whole store.
    """

    target: str
    name: str
    digest: str
    files: Mapping[str, str]

    def check(self, name: str, content: Any) -> None:
        """Compare what was read of a file, None if it is not there; :class:`StoreError` names it if it differs."""
        if content is None:
            raise damage(self.target, {name: "is missing"})
        if sha256(content) != self.files[name]:
            raise damage(self.target, {name: "was altered"})


def find_table(files: Files, root: Mapping[str, Any], content: bytes) -> Table | None:
    """Read the table of a finished store, and compare its root metadata, read as ``content``, with it.

    None for stores of other programs, and of releases that wrote no table. StoreError if either is missing or altered.
    """
    said, name = root.get("attributes", {}).get(ATTRIBUTE), table_name(root)
    if said not in (None, name):
        raise damage(files.address, {ROOT: "was altered"})
    if name is None or not files.is_file(name):
        if said is None:
            return None
        raise damage(files.address, {said: "is missing"})
    # where the attribute was damaged, the table is still there
    table = parse_table(files.address, name, files.read(name, most=MOST_BYTES))
    if ROOT not in table.files:
        raise damage(files.address, {name: "was altered"})
    table.check(ROOT, content)
    return table


@lru_cache(maxsize=8)
def parse_table(target: str, name: str, content: bytes) -> Table:
    """Return the table that was read of a store; once in each process as long as it stays the same."""
    lines = content.decode(errors="replace").split("\n")
    found = [_LINE.fullmatch(line) for line in lines[:-1]]
    if lines[-1] or not all(found):
        raise damage(target, {name: "was altered"})
    return Table(target, name, sha256(content), {each[2]: each[1] for each in found if each})


def refuse_damaged(files: Files, table: Table | None, *, metadata: bool = False) -> None:
    """Read all files of a store, or its metadata alone; refuse it if any is damaged."""
    if table is None:
        raise StoreError(
            f"{files.address} has no checksums: it was written by another program or an earlier version; write it "
            "again: xland.open_store(path).ai4land.to_zarr(new_path)"
        )
    there, faults = set(files.walk()), {}
    named = [name for name in sorted(table.files) if name in there and (name.endswith(ROOT) or not metadata)]
    if not metadata:
        faults = dict.fromkeys(sorted(table.files.keys() - there), "is missing")
        strange = there - table.files.keys() - {table.name}
        faults |= {name: "does not belong to it" for name in sorted(strange) if not _SYSTEMS.fullmatch(name)}
    found = digests_in(files, named, MOST_METADATA if metadata else None)
    faults |= {name: "was altered" for name, digest in found.items() if digest != table.files[name]}
    if faults:
        raise damage(files.address, faults, len(table.files))


def damage(target: str, faults: Mapping[str, str], count: int = 0) -> StoreError:
    """Error that names a few damaged files of a store, how many of all ``count`` files there are, and what to do."""
    shown = "; ".join(f"{name} {fault}" for name, fault in list(faults.items())[:3])
    more = f"; and {len(faults) - 3} more" if len(faults) > 3 else ""
    total = f" in {len(faults)} of {count} files" if count else ""
    return StoreError(
        f"{without_password(target)} is damaged{total}: {shown}{more}; copy the store again from where it is whole, "
        "or write it again with overwrite=True"
    )


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

    # each by way of `set`, not of the store within
    set_if_not_exists = Store.set_if_not_exists  # type: ignore[assignment]
    _set_many = Store._set_many  # type: ignore[assignment]  # noqa: SLF001

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

    async def delete(self, key: str) -> None:
        """Remove a file: chunks of nothing but the fill value are not kept."""
        await self._store.delete(key)
        self._digests.pop(key, None)


class CheckedStore(WrapperStore[Store]):
    """A finished store whose files are compared with its table as they are read.

    A file of several chunks (a shard) is read as a whole when a chunk of it is needed first, and once in each
    process. Copies in other processes read the table again.
    """

    # each by way of `get`, not of the store within
    _get_many = Store._get_many  # type: ignore[assignment]  # noqa: SLF001

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
        return isinstance(other, CheckedStore) and self.table == other.table

    def __hash__(self) -> int:
        return hash(self.table.digest)

    def with_read_only(self, read_only: bool = False) -> CheckedStore:
        """Return the store, which can only be read."""
        if not read_only:
            raise StoreError(f"{self.table.target} is complete and was opened for reading; write another store")
        return self

    async def get(self, key: str, prototype: BufferPrototype, byte_range: ByteRequest | None = None) -> Buffer | None:
        """Read a file or a part of it; :class:`StoreError` if it is not what was written."""
        if key not in self.table.files:
            # a chunk that was never written is not there; one that is there has lost its line in the table
            if await self._store.exists(key):
                raise damage(self.table.target, {key: "has no line in the table of digests"})
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

    async def exists(self, key: str) -> bool:
        """Whether the table has a file."""
        return key in self.table.files

    async def list_dir(self, prefix: str) -> AsyncIterator[str]:
        """Names in a folder, as the table has them: a variable that was deleted is missed."""
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
