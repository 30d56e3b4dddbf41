"""Where a store grows and how it comes to stand under its own name: here, or behind a URL.

Below :mod:`xland.store.writing`; nothing here is called by users. On this machine a store grows in the working
folder ``NAME.partial`` and is renamed when it is whole. Behind a URL nothing can be renamed: it grows
in its place, marked as incomplete, and the working folder ``URL.partial`` holds what goes with it.
"""

from __future__ import annotations

import json
import os
import re
import shutil
from collections.abc import Mapping
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any, Protocol

from xland.addresses import address_of, is_url
from xland.atomic import explain
from xland.errors import StoreError
from xland.store.checksums import (
    ATTRIBUTE,
    MOST_BYTES,
    ROOT,
    Table,
    damage,
    find_damage,
    find_metadata_damage,
    find_table,
    sha256,
    write_table,
)
from xland.store.journal import COMPLETE, FINGERPRINT, MANIFEST, count_blocks, journal_of, parse_manifest
from xland.store.locks import LOCK, lock_folder, lock_objects, refuse_planted
from xland.store.storage import Files, LocalFiles, RemoteFiles
from xland.untrusted.servers import MOST_METADATA, with_limits

SUFFIX = ".partial"
"""What the name of a working folder ends with."""

_OURS = re.compile(
    r"lock|journal|replaced|replacing|manifest\.json|(data|active|maps)-.*|\.(manifest\.json|active-.*)\..*|\.nfs.*|\.DS_Store"
)
"""Names of what stands in a working folder."""

_REPLACING = "replacing"
_ROOTS = (ROOT, ".zgroup", ".zattrs")


class Workplace(Protocol):
    """A store that is being written."""

    @property
    def target(self) -> str:
        """Path or URL of the store."""

    @property
    def store(self) -> Files:
        """What is at this address."""

    @property
    def files(self) -> Files:
        """The working folder."""

    def has_old(self) -> bool:
        """Whether there is anything at the address that has not been given up."""

    def data(self, manifest: dict[str, Any]) -> str:
        """Address of the Zarr store that grows."""

    def has_data(self, manifest: dict[str, Any]) -> bool:
        """Whether it is there."""

    def exclusive(self) -> AbstractContextManager[str]:
        """Keep others from writing; gives the identity of this write."""

    def clear(self) -> None:
        """Empty the working folder of what a former run left."""

    def make_way(self) -> None:
        """Prepare the address at which the store begins to grow."""

    def publish(self, manifest: dict[str, Any], digests: Mapping[str, str], root: dict[str, Any]) -> None:
        """Make the finished store stand at its address as complete, and remove the working folder.

        Parameters
        ----------
        manifest : dict
        digests : mapping
            SHA-256 of each of its files but the root metadata.
        root : dict
            Root metadata, to be marked as complete.
        """


class LocalWorkplace:
    """A store on this machine, which grows beside its place and is renamed when it is whole."""

    def __init__(self, target: str) -> None:
        self._final = Path(target)
        self.target = target
        self.store = LocalFiles(self.target)
        self.files = LocalFiles(self.target + SUFFIX)

    def has_old(self) -> bool:
        """Whether there is anything at the address, be it a broken link."""
        return os.path.lexists(self._final)

    def data(self, manifest: dict[str, Any]) -> str:
        """Address of the Zarr store that grows."""
        return str(self.files.path(manifest["data"]))

    def has_data(self, manifest: dict[str, Any]) -> bool:
        """Whether it is there."""
        return self.files.path(manifest["data"]).is_dir()

    def exclusive(self) -> AbstractContextManager[str]:
        """Keep others from writing; gives the identity of this write."""
        return lock_folder(self.files, self.target)

    def clear(self) -> None:
        """Empty the working folder; put back a store that a former run had moved aside."""
        replaced = self.files.path("replaced")
        if replaced.exists() and not self.has_old():
            replaced.rename(self._final)
        _empty(self.files)

    def make_way(self) -> None:
        """Do nothing: an old store stays until the new one is whole."""

    def publish(self, manifest: dict[str, Any], digests: Mapping[str, str], root: dict[str, Any]) -> None:
        """Mark the store as complete and rename it, in place of the one that it replaces."""
        data = self.files.path(manifest["data"])
        seal(LocalFiles(str(data)), digests, root)
        if self.has_old():
            if not manifest["replaces"]:
                raise StoreError(
                    f"{self.target} appeared while its store was written in {self.files.address}; move one of them away"
                )
            refuse_foreign(self)
            self._final.rename(self.files.path("replaced"))
        data.rename(self._final)
        shutil.rmtree(self.files.path(), ignore_errors=True)


class RemoteWorkplace:
    """A store behind an fsspec URL, which grows in its place and is marked as complete at the end."""

    def __init__(self, target: str, options: Mapping[str, Any]) -> None:
        self.target = target
        self.store = RemoteFiles(self.target, options)
        self.files = RemoteFiles(self.target + SUFFIX, options)

    def has_old(self) -> bool:
        """Whether there is anything at the address that a former run had not begun to delete."""
        return self.store.exists() and not self.files.is_file(_REPLACING)

    def data(self, manifest: dict[str, Any]) -> str:  # noqa: ARG002
        """Address of the Zarr store that grows: its own."""
        return self.target

    def has_data(self, manifest: dict[str, Any]) -> bool:
        """Whether it is there, and not that of another run."""
        try:
            content = self.store.read(ROOT)
        except FileNotFoundError:
            return True  # the manifest says that it was there: what is lost is written again
        try:
            attributes = json.loads(content)["attributes"]
            return attributes[FINGERPRINT] == manifest["fingerprint"] and not attributes[COMPLETE]
        except (ValueError, KeyError, TypeError):
            return True  # so is what is damaged

    def exclusive(self) -> AbstractContextManager[str]:
        """Keep others from writing; gives the identity of this write."""
        # blocks of a run that lost its lock stop when this is gone
        return lock_objects(self.files, self.target, lost=lambda run: self.files.remove(f"active-{run}"))

    def clear(self) -> None:
        """Empty the working folder, but for the note that the store was being removed."""
        _empty(self.files, _REPLACING)

    def make_way(self) -> None:
        """Delete the old store; a note lets a later run go on if this one is killed meanwhile."""
        self.files.put(_REPLACING, b"")
        self.store.remove()

    def publish(self, manifest: dict[str, Any], digests: Mapping[str, str], root: dict[str, Any]) -> None:  # noqa: ARG002
        """Mark the store as complete."""
        # otherwise a run that is killed now leaves a complete store that counts as one to be deleted
        self.files.remove(_REPLACING)
        seal(self.store, digests, root)
        _empty(self.files)


def workplace(target: str | os.PathLike[str], options: Mapping[str, Any] | None = None) -> Workplace:
    """Workplace of a store, by its path or URL; ``options`` are what fsspec needs to reach it."""
    address = address_of(target)
    return RemoteWorkplace(address, with_limits(address, options)) if is_url(address) else LocalWorkplace(address)


def read_manifest(place: Workplace) -> dict[str, Any] | None:
    """Return the manifest of an unfinished store, or None if there is nothing to go on with."""
    try:
        content = place.files.read(MANIFEST, most=MOST_BYTES)
    except (FileNotFoundError, NotADirectoryError):
        return None
    except IsADirectoryError:
        content = b""
    manifest = parse_manifest(content, f"{place.files.address}/{MANIFEST}")
    return manifest if place.has_data(manifest) else None


def read_root(place: Workplace) -> dict[str, Any]:
    """Return the root metadata of a store, having checked that it is whole; see :func:`read_finished`."""
    return read_finished(place)[0]


def read_finished(place: Workplace) -> tuple[dict[str, Any], Table | None]:
    """Return the root metadata and the table of a finished store.

    Returns
    -------
    dict
        Empty for Zarr 2.
    Table or None
        None for stores of others, and of releases that wrote no table.

    Raises
    ------
    StoreError
        If there is no store, if it is damaged, or if its writing was not finished.
    """
    target = place.target
    try:
        content = place.store.read(ROOT, most=MOST_METADATA)
    except (FileNotFoundError, NotADirectoryError):
        if place.store.is_file(".zgroup"):
            return {}, None
        _refuse_unfinished(place)
        if place.store.exists():
            raise StoreError(
                f"{target} is not a Zarr store: it holds neither zarr.json nor .zgroup; open NetCDF with "
                'xr.open_dataset(path, decode_coords="all")'
            ) from None
        if place.has_old():
            raise StoreError(f"{target} is a link that leads nowhere: remove it, or mend it") from None
        raise StoreError(f"there is no store at {target}") from None
    except OSError as error:
        raise StoreError(f"{target} cannot be read: {explain(error, target) or error}") from error
    try:
        root = json.loads(content)
        attributes = root.get("attributes", {}) if isinstance(root, dict) else None
    except (ValueError, RecursionError) as error:
        raise StoreError(f"{target}/{ROOT} is damaged: {error}; copy the store anew from where it is whole") from error
    if not isinstance(attributes, dict) or root.get("node_type") != "group":
        raise StoreError(f"{target} is no Zarr group of variables")
    if not attributes.get(COMPLETE, True):
        _refuse_unfinished(place)
        raise StoreError(incomplete(target))
    try:
        return root, find_table(place.store, root, content)
    except OSError as error:
        raise StoreError(f"{target} cannot be read: {explain(error, target) or error}") from error


def refuse_damaged(place: Workplace, table: Table | None, *, metadata: bool = False) -> str:
    """Read all files of a store, or its metadata alone; refuse it if any is damaged, and return the table's digest."""
    if table is None:
        raise StoreError(
            f"{place.target} holds no digests to compare its files with: others wrote it, or a former release did; "
            "write it again: xland.open_store(path).ai4land.to_zarr(new_path)"
        )
    faults = find_metadata_damage(place.store, table) if metadata else find_damage(place.store, table)
    if faults:
        raise StoreError(damage(place.target, faults, table.files))
    return table.digest


def incomplete(target: str) -> str:
    """Say that a store is not whole, where no more is known about it."""
    return f"{target} is incomplete: finish it by writing with resume=True, or begin anew with overwrite=True"


def refuse_strangers(place: Workplace) -> None:
    """Refuse a working folder that holds anything that no writer of stores put there: it would be deleted."""
    folder = place.files.address
    if place.files.is_file():
        raise StoreError(f"{folder} is in the way: the store grows in a folder of this name; move it away")
    refuse_planted(place.files)
    strangers = [name for name in place.files.names() if not _OURS.fullmatch(name)]
    if strangers:
        raise StoreError(
            f"{folder}, in which the store grows, holds {', '.join(strangers[:3])} of others; move that away"
        )


def refuse_foreign(place: Workplace) -> None:
    """Refuse to replace, and so to delete, what is no Zarr store."""
    target = place.target
    if place.store.is_file():
        raise StoreError(f"{target} is a file, not a Zarr store, and is left alone; choose another path")
    if place.has_old() and place.store.names() and not any(place.store.is_file(name) for name in _ROOTS):
        raise StoreError(
            f"{target} is a folder that holds no Zarr store, and is left alone; choose another path, "
            f"such as {target}/land_use.zarr"
        )


def _refuse_unfinished(place: Workplace) -> None:
    manifest = read_manifest(place)
    if manifest is None:
        return
    done, total = len(journal_of(place.files).finished()), count_blocks(manifest)
    raise StoreError(
        f"{place.target} is incomplete: {done} of {total} blocks are written; "
        "finish it by writing again with resume=True"
    )


def _empty(files: Files, *kept: str) -> None:
    for name in files.names():
        if name != LOCK and name not in kept:
            files.remove(name)


def seal(files: Files, digests: Mapping[str, str], root: dict[str, Any]) -> None:
    """Put the table into a store that holds all that was written, and then, in one step, mark it as complete.

    Parameters
    ----------
    files : Files
        The store.
    digests : mapping
        SHA-256 of each of its files but the root metadata.
    root : dict
        Root metadata, which say where the table belongs.
    """
    there = set(files.walk())
    lost = sorted(digests.keys() - there)
    if lost:
        raise StoreError(
            f"{len(lost)} files that were written are gone from {files.address}, such as {lost[0]}; "
            "write again with resume=True"
        )
    # what writers that were killed had not finished, and what is not of this store
    for name in there - digests.keys() - {ROOT}:
        files.remove(name)
    root["attributes"][COMPLETE] = 1
    content = json.dumps(root).encode()
    table = write_table({**digests, ROOT: sha256(content)})
    if len(table) > MOST_BYTES:
        raise StoreError(f"{files.address} has too many files ({len(digests)}): write it with shards=True")
    files.put(root["attributes"][ATTRIBUTE], table)
    files.put(ROOT, content)


def refuse_existing(place: Workplace) -> None:
    """Refuse to begin where a store stands, or one that is unfinished; :class:`StoreError` says what to pass."""
    if read_manifest(place) is not None:
        raise StoreError(
            f"an unfinished store of {place.target} is in {place.files.address}; finish it with resume=True or begin "
            "anew with overwrite=True"
        )
    if place.has_old():
        raise StoreError(f"{place.target} exists; pass overwrite=True to replace it")
