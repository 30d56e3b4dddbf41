"""Folders, on this machine or behind a URL: their files, which may be a stranger's, and the SHA-256 of each."""

from __future__ import annotations

import errno
import hashlib
import os
import re
import shutil
import stat
from collections.abc import Collection, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, BinaryIO

from xland.errors import StoreError
from xland.paths import address_of, is_url, replacing, without_password
from xland.untrusted.servers import reaching, with_limits

READERS = 16
"""Threads that read files at once."""

TABLE = "checksums.sha256"
"""Name of the table of digests of a store, in the folder of its first variable."""

_NAME = re.compile(r"(?!\.{1,2}$)[^/\0]+")


def open_plain(path: Path) -> BinaryIO:
    """Open a file to read; an OSError if it is not a plain one, without waiting for a pipe or device."""
    descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
    mode = os.fstat(descriptor).st_mode
    if stat.S_ISREG(mode):
        return os.fdopen(descriptor, "rb")
    os.close(descriptor)
    if stat.S_ISDIR(mode):
        raise IsADirectoryError(errno.EISDIR, "it is a folder", str(path))
    raise OSError(errno.EINVAL, "it is not a plain file", str(path))


@dataclass(frozen=True)
class LocalFiles:
    """A folder on this machine; names are relative to it, with ``/`` between folders."""

    address: str

    def read(self, name: str, *, most: int | None = None) -> bytes:
        """Content of a file; FileNotFoundError if there is none, StoreError if it has more bytes than ``most``."""
        path = Path(self.address, name)
        with open_plain(path) as file:
            content = file.read(-1 if most is None else most + 1)
        return content if most is None else _limited(content, most, str(path))

    def begins(self, names: Sequence[str], count: int) -> Iterator[bytes | None]:
        """Yield so many bytes of each file at most, from its begin; None for those that are not there."""
        for name in names:
            try:
                with open_plain(Path(self.address, name)) as file:
                    yield file.read(count)
            except (FileNotFoundError, IsADirectoryError, NotADirectoryError):
                yield None

    def put(self, name: str, content: bytes, *, hidden: bool = False) -> None:
        """Write a file so that readers see the old one or the new one, never a part.

        In a folder that is still ``hidden`` from readers, it may be incomplete if this process is killed.
        """
        path = Path(self.address, name)
        if hidden:
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(content)
        else:
            with replacing(path) as part:
                part.write_bytes(content)

    def exists(self, name: str = "") -> bool:
        """Whether there is a file or folder of this name."""
        return Path(self.address, name).exists()

    def is_file(self, name: str = "") -> bool:
        """Whether there is something of this name that is not a folder, such as a broken link."""
        path = Path(self.address, name)
        return os.path.lexists(path) and not path.is_dir()

    def names(self, folder: str = "") -> list[str]:
        """Names in a folder, sorted; none if it does not exist."""
        try:
            return sorted(os.listdir(Path(self.address, folder)))  # noqa: PTH208
        except (FileNotFoundError, NotADirectoryError):
            return []

    def walk(self) -> Iterator[str]:
        """Names of all files in it and in the folders below; links are files."""
        waiting = [""]  # paths as text: a store has thousands of folders
        while waiting:
            folder = waiting.pop()
            with suppress(FileNotFoundError, NotADirectoryError), os.scandir(Path(self.address, folder)) as entries:
                for entry in entries:
                    name = f"{folder}/{entry.name}" if folder else entry.name
                    if entry.is_dir(follow_symlinks=False):
                        waiting.append(name)
                    else:
                        yield name

    def remove(self, name: str = "") -> None:
        """Delete a file, or a folder with all that it contains, if it is there."""
        path = Path(self.address, name)
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
        return content if most is None else _limited(content, most, f"{without_password(self.address)}/{name}")

    def begins(self, names: Sequence[str], count: int) -> Iterator[bytes | None]:
        """Return so many bytes of each object at most, from its begin; None for those that cannot be read.

        They are asked for together. Some services refuse an object that is not there, where others say so.
        """
        with reaching(self.address, ""):
            fs, root = self._at("")
            paths = [f"{root}/{name}" for name in names]
            found = fs.cat_ranges(paths, [0] * len(paths), [count] * len(paths), on_error="return")
        return (None if isinstance(each, Exception) else bytes(each) for each in found)

    def put(self, name: str, content: bytes, *, hidden: bool = False, **options: Any) -> None:  # noqa: ARG002
        """Write an object; the options are those of ``pipe_file`` of fsspec."""
        fs, path = self._at(name)
        fs.makedirs(path.rpartition("/")[0], exist_ok=True)
        fs.pipe_file(path, content, **options)

    def create(self, name: str, content: bytes) -> bool:
        """Write an object unless there is one, and say whether it was written.

        Where the service cannot promise this, the later of two writers at the same moment wins.
        """
        if self.exists(name):
            return False
        try:
            self.put(name, content, mode="create")
        except FileExistsError:
            return False
        except (TypeError, NotImplementedError):
            self.put(name, content)
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
        with reaching(self.address, folder), suppress(FileNotFoundError, NotADirectoryError):
            fs, path = self._at(folder)
            found = fs.ls(path, detail=False)
            return sorted({each.rstrip("/").rpartition("/")[2] for each in found if each.rstrip("/") != path})
        return []

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


def sha256(content: Any) -> str:
    """SHA-256 of bytes, as hexadecimal text."""
    return hashlib.sha256(content).hexdigest()


def digests_in(files: Files, names: Collection[str], most: int | None = None) -> dict[str, str | None]:
    """SHA-256 of files as they are now; None for those that cannot be read or have more than ``most`` bytes."""

    def digest(name: str) -> str | None:
        try:
            return sha256(files.read(name, most=most))
        except StoreError:
            if most is None:
                raise
        except OSError:
            pass
        return None

    with ThreadPoolExecutor(READERS) as pool:
        return dict(zip(names, pool.map(digest, names), strict=True))


def table_name(root: Mapping[str, Any]) -> str | None:
    """Name of the table of a store with this root metadata; None without consolidated metadata."""
    consolidated = root.get("consolidated_metadata")
    found = consolidated.get("metadata") if isinstance(consolidated, dict) else None
    names = [name for name in found if _NAME.fullmatch(name)] if isinstance(found, dict) else []
    return f"{min(names)}/{TABLE}" if names else None


def _limited(content: bytes, most: int, shown: str) -> bytes:
    if len(content) > most:
        raise StoreError(f"{shown} has more than {most / 2**20:.0f} MiB, more than any such file: it is damaged")
    return content


_LIMITED = frozenset({TABLE, "zarr.json", ".zarray", ".zattrs", ".zgroup", ".zmetadata"})
"""Files of stores that have limits of their own: the table of :mod:`xland.store.storage`, and metadata."""


@dataclass
class Held:
    """What is below a folder: the number of files, and the bytes of the largest one without metadata."""

    files: int = 0
    largest: int = 0


def survey(target: Path) -> dict[str, Held]:
    """Return what is below a folder, by the names of the folders in it; its own files are under ``""``.

    A :class:`StoreError` names a link that leads out of it, and a pipe or device, reading which would never end.
    """
    root = target.resolve()
    found: dict[str, Held] = {}
    pending, seen = [(str(root), "")], {str(root)}
    if not root.is_dir():
        _refuse_special(target, target)
        pending = []
    while pending:
        folder, top = pending.pop()
        with suppress(FileNotFoundError), os.scandir(folder) as entries:  # a writer may replace the store meanwhile
            for entry in entries:
                path, linked = entry.path, entry.is_symlink()
                if linked:
                    path = str(_followed(Path(path), root, target))
                if entry.is_dir():
                    if path not in seen:  # links may lead round in a circle
                        seen.add(path)
                        pending.append((path, top or entry.name))
                    continue
                if linked or not entry.is_file(follow_symlinks=False):
                    _refuse_special(Path(path), target)
                held = found.setdefault(top, Held())
                held.files += 1
                with suppress(FileNotFoundError):
                    if entry.name not in _LIMITED:
                        held.largest = max(held.largest, entry.stat().st_size)
    return found


def _followed(link: Path, root: Path, target: Path) -> Path:
    try:
        path = link.resolve(strict=True)
    except (OSError, RuntimeError) as error:
        raise StoreError(f"{target} holds a link that leads nowhere: {link.relative_to(root)}") from error
    if not path.is_relative_to(root):
        raise StoreError(
            f"{target} holds a link that leads out of it: {link.relative_to(root)}; put the files themselves there"
        )
    return path


def _refuse_special(path: Path, target: Path) -> None:
    if os.path.lexists(path) and not stat.S_ISREG(path.stat().st_mode):
        raise StoreError(f"{target} holds a pipe, socket or device, not a plain file: {path.name}")
