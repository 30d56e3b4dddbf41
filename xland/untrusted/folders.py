"""What lies in the folder of a stranger: plain files and folders, and links that stay inside."""

from __future__ import annotations

import errno
import os
import stat
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

from xland.errors import StoreError


def open_plain(path: Path) -> BinaryIO:
    """Open a file to read; an OSError if it is not a plain one, without waiting for a pipe or device."""
    descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
    if stat.S_ISREG(os.fstat(descriptor).st_mode):
        return os.fdopen(descriptor, "rb")
    os.close(descriptor)
    raise OSError(errno.EINVAL, "it is not a plain file", str(path))


_LIMITED = frozenset({"checksums.sha256", "zarr.json", ".zarray", ".zattrs", ".zgroup", ".zmetadata"})
"""Files of stores that have limits of their own: the table of :mod:`xland.store.storage`, and metadata."""


@dataclass
class Held:
    """What a folder holds, with all that is below it: the number of files, and the bytes of the largest one.

    Metadata are not counted in ``largest``.
    """

    files: int = 0
    largest: int = 0


def survey(target: Path) -> dict[str, Held]:
    """Return what is below a folder, by the names of the folders in it; files of the folder itself are under ``""``.

    A :class:`StoreError` names a link that leads out of the folder, and a pipe, socket or device, reading which would
    never end.
    """
    root = target.resolve()
    found: dict[str, Held] = {}
    pending, seen = [(root, "")], {root}
    if not root.is_dir():
        _refuse_special(target, target)
        pending = []
    while pending:
        folder, top = pending.pop()
        with suppress(FileNotFoundError), os.scandir(folder) as entries:  # a writer may replace the store meanwhile
            for entry in entries:
                path, linked = Path(entry.path), entry.is_symlink()
                if linked:
                    path = _followed(path, root, target)
                if path.is_dir() if linked else entry.is_dir(follow_symlinks=False):
                    if path not in seen:  # links may lead round in a circle
                        seen.add(path)
                        pending.append((path, top or entry.name))
                    continue
                if linked or not entry.is_file(follow_symlinks=False):
                    _refuse_special(path, target)
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
