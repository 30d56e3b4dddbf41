"""Files of a folder on this machine or behind a URL: read, put whole, list and remove."""

from __future__ import annotations

import os
import shutil
import stat
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from xland.addresses import address_of, is_url, without_password
from xland.atomic import replace_file
from xland.errors import StoreError
from xland.untrusted.servers import reaching, with_limits


@dataclass(frozen=True)
class LocalFiles:
    """A folder on this machine; names are relative to it, with ``/`` between folders."""

    address: str

    def path(self, name: str = "") -> Path:
        """Path of a file."""
        return Path(self.address, name)

    def read(self, name: str, *, most: int | None = None) -> bytes:
        """Content of a file; FileNotFoundError if there is none, StoreError if it has more bytes than ``most``."""
        path = self.path(name)
        found = path.stat()
        if not stat.S_ISREG(found.st_mode) and not path.is_dir():
            raise StoreError(f"{path} is a device or a pipe, not a file: move it away")
        if most is not None and found.st_size > most:
            raise _too_large(str(path), most)
        return path.read_bytes()

    def put(self, name: str, content: bytes) -> None:
        """Write a file so that readers see the old one or the new one, never a part."""
        replace_file(self.path(name), content)

    def fill(self, name: str, content: bytes) -> None:
        """Write a file into a folder that nobody reads yet: it may be incomplete if this process is killed."""
        path = self.path(name)
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content)

    def exists(self, name: str = "") -> bool:
        """Whether there is a file or folder of this name."""
        return self.path(name).exists()

    def is_file(self, name: str = "") -> bool:
        """Whether there is something of this name that is not a folder, such as a broken link."""
        path = self.path(name)
        return os.path.lexists(path) and not path.is_dir()

    def names(self, folder: str = "") -> list[str]:
        """Names in a folder, sorted; none if it does not exist."""
        try:
            return sorted(os.listdir(self.path(folder)))  # noqa: PTH208
        except (FileNotFoundError, NotADirectoryError):
            return []

    def walk(self) -> Iterator[str]:
        """Names of all files in it and in the folders below; links are files."""
        for folder, folders, names in os.walk(self.address):
            at = Path(folder).relative_to(self.address)
            for name in [*names, *(each for each in folders if Path(folder, each).is_symlink())]:
                yield (at / name).as_posix()

    def remove(self, name: str = "") -> None:
        """Delete a file, or a folder with all that it contains, if it is there."""
        path = self.path(name)
        if path.is_dir() and not path.is_symlink():
            shutil.rmtree(path)
        else:
            path.unlink(missing_ok=True)


@dataclass(frozen=True)
class RemoteFiles:
    """The same behind an fsspec URL, where objects appear whole; ``options`` are what fsspec needs to reach it."""

    address: str
    options: Mapping[str, Any] = field(default_factory=dict)

    def _at(self, name: str) -> tuple[Any, str]:
        from fsspec.core import url_to_fs

        try:
            fs, root = url_to_fs(self.address, **self.options)
        except Exception as error:  # a missing package, an unknown scheme, what a file system needs
            raise StoreError(f"{without_password(self.address)} cannot be reached: {error}") from error
        fs.invalidate_cache()  # other workers write, too
        return fs, f"{root.rstrip('/')}/{name}".rstrip("/")

    def read(self, name: str, *, most: int | None = None) -> bytes:
        """Content of an object; FileNotFoundError if there is none, StoreError if it has more bytes than ``most``."""
        with reaching(self.address, name):
            fs, path = self._at(name)
            content = bytes(fs.cat_file(path) if most is None else fs.cat_file(path, end=most + 1))
        if most is not None and len(content) > most:
            raise _too_large(f"{without_password(self.address)}/{name}", most)
        return content

    def put(self, name: str, content: bytes) -> None:
        """Write an object."""
        fs, path = self._at(name)
        fs.makedirs(path.rpartition("/")[0], exist_ok=True)
        fs.pipe_file(path, content)

    fill = put

    def create(self, name: str, content: bytes) -> bool:
        """Write an object unless there is one, and say whether it was written.

        Where the service cannot promise this, the later of two writers at the same moment wins.
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

    def walk(self) -> Iterator[str]:
        """Names of all objects in it and in the folders below."""
        fs, root = self._at("")
        for found in fs.find(root):
            yield found[found.index(root) + len(root) :].lstrip("/")

    def remove(self, name: str = "") -> None:
        """Delete an object, or a folder with all that it contains, if it is there."""
        fs, path = self._at(name)
        if fs.exists(path):
            fs.rm(path, recursive=True)


Files = LocalFiles | RemoteFiles


def files_at(address: str | os.PathLike[str], options: Mapping[str, Any] | None = None) -> Files:
    """Files of a folder, wherever it is; ``options`` are what fsspec needs to reach it."""
    place = address_of(address)
    return RemoteFiles(place, with_limits(place, options)) if is_url(place) else LocalFiles(place)


def _too_large(name: str, most: int) -> StoreError:
    return StoreError(f"{name} has more than {most / 2**20:.0f} MiB, more than any such file: it is damaged")
