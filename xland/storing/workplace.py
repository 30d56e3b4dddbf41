"""Where a store grows and how it comes to stand under its own name: here, or behind a URL.

Below :mod:`xland.store`; nothing here is called by users. On this machine a store grows in the working
folder ``NAME.partial`` and is renamed when it is whole. Behind a URL nothing can be renamed: it grows
in its place, marked as incomplete, and the working folder ``URL.partial`` holds what goes with it.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import warnings
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path
from typing import Any, Protocol

from xland.addresses import address_of, is_url
from xland.errors import StoreError
from xland.storing.journal import journal_of
from xland.storing.locks import LOCK, lock_folder, lock_objects
from xland.storing.manifest import COMPLETE, FINGERPRINT, MANIFEST, count_blocks
from xland.storing.storage import Files, LocalFiles, RemoteFiles

SUFFIX = ".partial"
"""What the name of a working folder ends with."""

_OURS = re.compile(
    r"lock|journal|replaced|replacing|manifest\.json|(data|active|maps)-.*|\.(manifest\.json|active-.*)\..*|\.nfs.*|\.DS_Store"
)
"""Names of what stands in a working folder."""

_TORN = re.compile(r".*\.[0-9a-f]{32}\.partial")
"""Names of files that Zarr had not finished when its process was killed."""

_REPLACING = "replacing"
_ROOTS = ("zarr.json", ".zgroup", ".zattrs")


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

    def publish(self, manifest: dict[str, Any]) -> None:
        """Make the finished store stand at its address as complete, and remove the working folder."""


class LocalWorkplace:
    """A store on this machine, which grows beside its place and is renamed when it is whole."""

    def __init__(self, target: str) -> None:
        self._final = Path(target)
        self.target = target
        self.store = LocalFiles(self.target)
        self.files = LocalFiles(self.target + SUFFIX)

    def has_old(self) -> bool:
        """Whether there is anything at the address."""
        return self._final.exists()

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
        if replaced.exists() and not self._final.exists():
            replaced.rename(self._final)
        _empty(self.files)

    def make_way(self) -> None:
        """Do nothing: an old store stays until the new one is whole."""

    def publish(self, manifest: dict[str, Any]) -> None:
        """Mark the store as complete and rename it, in place of the one that it replaces."""
        data = self.files.path(manifest["data"])
        _remove_torn(data)
        _complete(LocalFiles(str(data)))
        if self._final.exists():
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

    def __init__(self, target: str) -> None:
        self.target = target
        self.store = RemoteFiles(self.target)
        self.files = RemoteFiles(self.target + SUFFIX)

    def has_old(self) -> bool:
        """Whether there is anything at the address that a former run had not begun to delete."""
        return self.store.exists() and not self.files.is_file(_REPLACING)

    def data(self, manifest: dict[str, Any]) -> str:  # noqa: ARG002
        """Address of the Zarr store that grows: its own."""
        return self.target

    def has_data(self, manifest: dict[str, Any]) -> bool:
        """Whether it is there, and not that of another run."""
        try:
            attributes = json.loads(self.store.read("zarr.json"))["attributes"]
        except (FileNotFoundError, ValueError, KeyError):
            return False
        return attributes.get(FINGERPRINT) == manifest["fingerprint"] and not attributes.get(COMPLETE, True)

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

    def publish(self, manifest: dict[str, Any]) -> None:  # noqa: ARG002
        """Mark the store as complete."""
        _complete(self.store)
        _empty(self.files)


def workplace(target: str | os.PathLike[str]) -> Workplace:
    """Workplace of a store, by its path or URL."""
    address = address_of(target)
    return RemoteWorkplace(address) if is_url(address) else LocalWorkplace(address)


def read_manifest(place: Workplace) -> dict[str, Any] | None:
    """Return the manifest of an unfinished store, or None if there is nothing to go on with."""
    try:
        manifest = json.loads(place.files.read(MANIFEST))
    except (FileNotFoundError, NotADirectoryError):
        return None
    except ValueError as error:
        raise StoreError(f"{place.files.address}/{MANIFEST} is damaged; begin anew with overwrite=True") from error
    return manifest if place.has_data(manifest) else None


def read_root(place: Workplace) -> dict[str, Any]:
    """Return the root metadata of a store, having checked that it is whole; empty for Zarr 2.

    Raises
    ------
    StoreError
        If there is no store, if it is damaged, or if its writing was not finished.
    """
    target = place.target
    try:
        root = json.loads(place.store.read("zarr.json"))
    except (FileNotFoundError, NotADirectoryError):
        if place.store.is_file(".zgroup"):
            return {}
        _refuse_unfinished(place)
        if place.store.exists():
            raise StoreError(f"{target} is no Zarr store: it holds neither zarr.json nor .zgroup") from None
        raise StoreError(f"there is no store at {target}") from None
    except ValueError as error:
        raise StoreError(f"{target}/zarr.json is damaged: {error}") from error
    if not isinstance(root, dict) or root.get("node_type") != "group":
        raise StoreError(f"{target} is no Zarr group of variables")
    if not root.get("attributes", {}).get(COMPLETE, True):
        _refuse_unfinished(place)
        raise StoreError(incomplete(target))
    return root


def incomplete(target: str) -> str:
    """Say that a store is not whole, where no more is known about it."""
    return f"{target} is incomplete: finish it by writing with resume=True, or begin anew with overwrite=True"


def refuse_strangers(place: Workplace) -> None:
    """Refuse a working folder that holds anything that no writer of stores put there: it would be deleted."""
    folder = place.files.address
    if place.files.is_file():
        raise StoreError(f"{folder} is in the way: the store grows in a folder of this name; move it away")
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


def _remove_torn(data: Path) -> None:
    """Remove what writers that were killed had not finished: readers never see it, but it would stay for ever."""
    for path in data.rglob("*.partial"):
        if _TORN.fullmatch(path.name):
            path.unlink(missing_ok=True)


def _complete(files: Files) -> None:
    """Put the metadata of a store in one place, and then, in one step, mark it as complete."""
    import zarr

    with quiet_zarr():
        zarr.consolidate_metadata(files.address)
    root = json.loads(files.read("zarr.json"))
    root["attributes"][COMPLETE] = True
    files.put("zarr.json", json.dumps(root).encode())


@contextmanager
def quiet_zarr() -> Iterator[None]:
    """Silence the notes that consolidated metadata and text coordinates are not in the Zarr 3 text yet.

    Readers that do not know them ignore the first, which web servers need; the second is how xarray
    writes class names.
    """
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="Consolidated metadata is currently not part")
        warnings.filterwarnings("ignore", message=".*does not have a Zarr V3 specification.*")
        yield


def refuse_existing(place: Workplace) -> None:
    """Refuse to begin where a store stands, or one that is unfinished; :class:`StoreError` says what to pass."""
    if read_manifest(place) is not None:
        raise StoreError(
            f"an unfinished store of {place.target} is in {place.files.address}; finish it with resume=True or begin "
            "anew with overwrite=True"
        )
    if place.has_old():
        raise StoreError(f"{place.target} exists; pass overwrite=True to replace it")
