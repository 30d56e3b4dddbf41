"""One way to write a file: readers see the old content or the new content, never a part of it.

The new content grows in a file of its own beside the old one. Its name cannot be guessed and it is made
only if nothing has that name, so that nobody can plant a link there which leads the writer elsewhere.
"""

from __future__ import annotations

import errno
import glob
import os
import secrets
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import BinaryIO

from xland.errors import StoreError, XlandError

_REASONS = {
    errno.EEXIST: "a file, or a link that leads nowhere, is in the way: move it away or choose another path",
    errno.ENAMETOOLONG: "its name is longer than the file system allows: choose a shorter one",
    errno.ENOTDIR: "a part of its path is a file, not a folder: choose another path",
    errno.EISDIR: "it is a folder: choose the name of a file, or move the folder away",
    errno.ELOOP: "it is a link, or its path goes through links that lead round in a circle: choose another path",
    errno.ENXIO: "it is a pipe, not a file: move it away",
    errno.EINVAL: "it is not a plain file: move it away",
    errno.EIO: "the disk reports an input/output error: choose another disk",
    errno.ESTALE: "the network file system lost the file: write again",
}


@contextmanager
def replacing(path: Path, *, keep: Path | None = None, error: type[XlandError] = StoreError) -> Iterator[Path]:
    """Yield an empty file to fill, which replaces the file at ``path`` in one step when it is whole.

    Folders are made. ``keep`` is where the old file goes, in the same folder; in the moment between the two renames it
    is the only one. If the body raises, the new file is removed and the old one stays. The error says if the disk is
    full, or the file cannot be written there.
    """
    part = path.with_name(f".{path.name[:80]}.{secrets.token_hex(16)}.partial")
    with naming_faults(path, error):
        path.parent.mkdir(parents=True, exist_ok=True)
        os.close(os.open(part, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o666))
        try:
            yield part
            _sync(part)
            if keep is not None and path.exists():
                path.replace(keep)
            part.replace(path)
        finally:
            with suppress(OSError):
                part.unlink(missing_ok=True)
        with suppress(OSError):  # some network file systems cannot do this for folders
            _sync(path.parent)


def replace_file(
    path: Path, content: bytes | str, *, keep: Path | None = None, error: type[XlandError] = StoreError
) -> Path:
    """Write bytes, or text as UTF-8, to a file; see :func:`replacing`."""
    with replacing(path, keep=keep, error=error) as part:
        part.write_bytes(content.encode() if isinstance(content, str) else content)
    return path


def make_folder(path: Path, error: type[XlandError]) -> None:
    """Make a folder and those above it; the error names what is in the way."""
    with naming_faults(path, error):
        path.mkdir(parents=True, exist_ok=True)


@contextmanager
def naming_faults(path: Path, error: type[XlandError] = StoreError) -> Iterator[None]:
    """Give errors of the operating system in the body the named class, if they are the fault of a path."""
    try:
        yield
    except OSError as fault:
        reason = explain(fault, str(path))
        if reason is None:
            raise
        raise error(f"{path} was not written: {reason}. What was there before is kept") from fault


def explain(error: OSError, target: str) -> str | None:
    """Say what an error of the operating system means for a path or URL that is written; None if it is not its own."""
    if error.errno in (errno.ENOSPC, errno.EDQUOT):
        return f"the disk of {target} is full: free space there"
    named = str(error.filename or target)
    is_url = "://" in target  # a file system behind a URL has paths of its own
    if not (is_url or named.startswith((target, str(Path(target).parent))) or target.startswith(named)):
        return None
    if isinstance(error, PermissionError) or error.errno == errno.EROFS:
        return f"{target} cannot be written ({error}): choose another place, or get the right to write there"
    if error.errno in _REASONS:
        return f"{named}: {_REASONS[error.errno]}"
    return None


def open_to_append(path: Path) -> BinaryIO:
    """Open a file to add to its end, a new one if need be; an OSError if it is a link, which may lead elsewhere."""
    return os.fdopen(os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_NOFOLLOW | os.O_NONBLOCK, 0o666), "ab")


def remove_parts(path: Path) -> None:
    """Remove what writers of a file that were killed had begun; for files that have one writer at a time."""
    for part in path.parent.glob(f".{glob.escape(path.name[:80])}.*.partial"):
        part.unlink(missing_ok=True)


def _sync(path: Path) -> None:
    """Bring a file or folder to the disk, so that a power failure does not take it away again."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
