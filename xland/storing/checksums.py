"""The table of a store: the SHA-256 of each of its files, by which damage is noticed when they are read.

A finished store holds it in ``VARIABLE/checksums.sha256``, in the folder of its first variable, where no
reader of Zarr looks. Its lines are those of ``sha256sum``, so that ``sha256sum -c`` in the folder of the store
verifies it without xland. A chunk that is not in the table was never written: it holds nothing but the fill value.

Below :mod:`xland.store`; nothing here is called by users.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Collection, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

from xland.addresses import without_password
from xland.errors import StoreError
from xland.storing.storage import Files
from xland.strangers.servers import MOST_METADATA

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
