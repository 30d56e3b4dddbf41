"""Files of a folder on this machine or behind a URL: read, put whole, list and remove.

Below :mod:`xland.store`; nothing here is called by users.
"""

from __future__ import annotations

import os
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from xland.addresses import address_of, is_url
from xland.atomic import replace_file
from xland.errors import StoreError


class Files(Protocol):
    """What a folder can do; names are relative to it, with ``/`` between folders."""

    @property
    def address(self) -> str:
        """Path or URL of the folder."""

    def read(self, name: str) -> bytes:
        """Content of a file; FileNotFoundError if there is none."""

    def put(self, name: str, content: bytes) -> None:
        """Write a file so that readers see the old one or the new one, never a part."""

    def exists(self, name: str = "") -> bool:
        """Whether there is a file or folder of this name."""

    def is_file(self, name: str = "") -> bool:
        """Whether there is a file of this name."""

    def names(self, folder: str = "") -> list[str]:
        """Names in a folder, sorted; none if it does not exist."""

    def remove(self, name: str = "") -> None:
        """Delete a file, or a folder with all that it holds, if it is there."""


@dataclass(frozen=True)
class LocalFiles:
    """A folder on this machine.

    Parameters
    ----------
    address : str
        Path of the folder.
    """

    address: str

    def path(self, name: str = "") -> Path:
        """Where a file lies."""
        return Path(self.address, name)

    def read(self, name: str) -> bytes:
        """Content of a file; FileNotFoundError if there is none."""
        return self.path(name).read_bytes()

    def put(self, name: str, content: bytes) -> None:
        """Write a file whole: :func:`xland.atomic.replace_file`."""
        replace_file(self.path(name), content)

    def exists(self, name: str = "") -> bool:
        """Whether there is a file or folder of this name."""
        return self.path(name).exists()

    def is_file(self, name: str = "") -> bool:
        """Whether there is something of this name that is no folder, be it a broken link."""
        path = self.path(name)
        return os.path.lexists(path) and not path.is_dir()

    def names(self, folder: str = "") -> list[str]:
        """Names in a folder, sorted; none if it does not exist."""
        try:
            return sorted(os.listdir(self.path(folder)))  # noqa: PTH208
        except FileNotFoundError:
            return []

    def remove(self, name: str = "") -> None:
        """Delete a file, or a folder with all that it holds, if it is there."""
        path = self.path(name)
        if path.is_dir() and not path.is_symlink():
            shutil.rmtree(path)
        else:
            path.unlink(missing_ok=True)


@dataclass(frozen=True)
class RemoteFiles:
    """A folder behind an fsspec URL, whose objects appear whole or not at all when they are put.

    Parameters
    ----------
    address : str
        URL of the folder.
    """

    address: str

    def _at(self, name: str) -> tuple[Any, str]:
        from fsspec.core import url_to_fs

        try:
            fs, root = url_to_fs(self.address)
        except (ImportError, ValueError) as error:  # no package or no such scheme
            raise StoreError(f"{self.address} cannot be reached: {error}") from error
        # what other workers wrote counts, not what was listed before
        fs.invalidate_cache()
        return fs, f"{root.rstrip('/')}/{name}".rstrip("/")

    def read(self, name: str) -> bytes:
        """Content of a file; FileNotFoundError if there is none."""
        fs, path = self._at(name)
        return bytes(fs.cat_file(path))

    def put(self, name: str, content: bytes) -> None:
        """Write an object."""
        fs, path = self._at(name)
        fs.makedirs(path.rpartition("/")[0], exist_ok=True)
        fs.pipe_file(path, content)

    def create(self, name: str, content: bytes) -> bool:
        """Write an object unless there is one, and say whether it was written.

        Where the service has no such promise, of two at the same moment the later one stays.
        """
        fs, path = self._at(name)
        if fs.exists(path):
            return False
        fs.makedirs(path.rpartition("/")[0], exist_ok=True)
        try:
            fs.pipe_file(path, content, mode="create")
        except FileExistsError:
            return False
        except (TypeError, NotImplementedError):
            fs.pipe_file(path, content)
        return True

    def exists(self, name: str = "") -> bool:
        """Whether there is an object or folder of this name."""
        fs, path = self._at(name)
        return bool(fs.exists(path))

    def is_file(self, name: str = "") -> bool:
        """Whether there is an object of this name."""
        fs, path = self._at(name)
        return bool(fs.isfile(path))

    def names(self, folder: str = "") -> list[str]:
        """Names in a folder, sorted; none if it does not exist."""
        fs, path = self._at(folder)
        try:
            found = fs.ls(path, detail=False)
        except FileNotFoundError:
            return []
        return sorted({each.rstrip("/").rpartition("/")[2] for each in found if each.rstrip("/") != path})

    def remove(self, name: str = "") -> None:
        """Delete an object, or a folder with all that it holds, if it is there."""
        fs, path = self._at(name)
        if fs.exists(path):
            fs.rm(path, recursive=True)


def files_at(address: str | os.PathLike[str]) -> Files:
    """Files of a folder, wherever it is."""
    place = address_of(address)
    return RemoteFiles(place) if is_url(place) else LocalFiles(place)
