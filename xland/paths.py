"""Paths and URLs: one form for what a caller gives, and one way to write a file.

Everything that reads or writes passes what it was given through :func:`address_of`, or through :func:`local_path` where
only a file on this machine will do. What is neither a path nor a URL is refused by name: no file is ever called after
an object.

A file is written by :func:`replacing`: readers see the old content or the new content, never a part of it. The new
content grows in a file of its own beside the old one. Its name cannot be guessed and it is made only if nothing has
that name, so that nobody can plant a link there which leads the writer elsewhere.
"""

from __future__ import annotations

import errno
import glob
import os
import re
import secrets
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, BinaryIO
from urllib.parse import unquote

from xland.errors import AddressError, StoreError, XlandError

_SCHEME = re.compile(r"[A-Za-z][A-Za-z0-9+.-]+(::[A-Za-z][A-Za-z0-9+.-]+)*://")
_EATEN = re.compile(r"([A-Za-z][A-Za-z0-9+.-]+):/(?!/)")
_CHAIN = re.compile(r"[A-Za-z][A-Za-z0-9+.-]+::")
_SECRETS = re.compile(r"(?:[^:]*://)?([^/?#]*@)?[^?#]*(\?[^#]*)?.*", re.DOTALL)
_LOCAL = ("file", "local")


def address_of(target: Any) -> str:
    """Return the address of what a caller gave: an absolute path, or a URL without a slash at its end.

    A caller gives text, a path, an fsspec mapper or a LocalStore of zarr. ``~`` is the user's home folder; ``file://``
    and ``local://`` are paths. AddressError if it is none of these, is empty, or if its address alone does not lead to
    it.
    """
    is_path = isinstance(target, os.PathLike)
    text = os.fspath(target) if isinstance(target, str | os.PathLike) else _address_of_object(target)
    if not isinstance(text, str):
        shown = repr(target) if target is None else f"an object of type {type(target).__name__}"
        raise AddressError(
            f"{shown} is neither a path nor a URL; give a path such as 'maps.zarr' or a URL such as "
            "'s3://bucket/maps.zarr'"
        )
    try:
        nameable = bool(text.strip()) and b"\0" not in os.fsencode(text)
    except UnicodeEncodeError:
        nameable = False
    if not nameable:
        raise AddressError(f"{text!r} is not a path; give the name of a file or folder")
    eaten = _EATEN.match(text)
    if eaten and is_path:
        raise AddressError(
            f"{text!r} was a URL before it became a Path, which keeps only one slash: give it as text, "
            f"'{eaten[1]}://...'"
        )
    if eaten:
        raise AddressError(f"{text!r} has one slash, a URL has two: '{eaten[1]}://...'; a folder is './{eaten[1]}:'")
    if not is_path and _CHAIN.match(text) and not _SCHEME.match(text):
        raise AddressError(f"{text!r} is a chained address that does not end in a URL; a file or folder is './{text}'")
    if is_url(text):
        if not text.partition("://")[2].strip("/"):
            raise AddressError(f"{text!r} is a URL without a path; give one such as 's3://bucket/maps.zarr'")
        return text.rstrip("/")
    path = os.path.expanduser(_path_in(text) if _SCHEME.match(text) else text)  # noqa: PTH111 - a file may be called ~0
    if path.startswith("~") and "/" in path:
        raise AddressError(f"{text!r} begins with the home folder of a user who does not exist; a folder is './{text}'")
    return str(Path(path).absolute())


def is_url(target: Any) -> bool:
    """Whether an address is a URL rather than a path on this machine; ``file://`` and ``local://`` are paths."""
    text = os.fspath(target) if isinstance(target, os.PathLike) else target
    return isinstance(text, str) and _SCHEME.match(text) is not None and text.partition("://")[0].lower() not in _LOCAL


def local_path(target: Any, *, what: str = "the file") -> Path:
    """Return the absolute path of a file that has to be on this machine; AddressError if it is not."""
    address = address_of(target)
    if is_url(address):
        raise AddressError(
            f"{without_password(address)}: {what} has to be on this machine; copy it here, or write it here first"
        )
    return Path(address)


def without_password(text: str, *, of: str | None = None) -> str:
    """Return a URL for a message: without user, password and query; or a text that is about the URL ``of``."""
    for secret in _SECRETS.fullmatch(text if of is None else of).groups():  # type: ignore[union-attr]
        text = text.replace(secret, "") if secret else text
    return text


def _path_in(url: str) -> str:
    """Path that a ``file://`` URL means, as :meth:`pathlib.Path.as_uri` writes it."""
    host, slash, path = url.partition("://")[2].partition("/")
    if not slash or host not in ("", "localhost"):
        raise AddressError(f"{url!r} is not the URL of an absolute path, which has three slashes: 'file:///data/a.nc'")
    return "/" + unquote(path, errors="surrogateescape")


def _address_of_object(target: Any) -> str | None:
    """Address of an fsspec mapper or a LocalStore of zarr; None if it is something else."""
    kind = type(target).__name__
    if kind == "LocalStore":
        return str(target.root)
    if kind == "FsspecStore":
        url = without_password(str(target.fs.unstrip_protocol(target.path)))
        raise AddressError(
            f"an FsspecStore works in one process only, but other processes also write; give its URL, {url!r}"
        )
    if kind != "FSMap":
        return None
    fs = target.fs
    if {fs.protocol} & {*_LOCAL, ("file", "local")}:
        return str(target.root)
    options = sorted({*getattr(fs, "storage_options", {})} - {"asynchronous", "auto_mkdir"})
    url = str(fs.unstrip_protocol(target.root))
    if options:
        raise AddressError(
            f"{without_password(url)}: the file system of this {kind} was made with {', '.join(options)}, which other "
            "processes would not have; put these into fsspec's configuration (fsspec.config.conf) and give the URL"
        )
    return url


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


_ENDINGS = {
    **dict.fromkeys((".nc", ".nc4", ".cdf"), "a NetCDF file"),
    **dict.fromkeys((".tif", ".tiff"), "a GeoTIFF"),
    **dict.fromkeys((".h5", ".hdf", ".hdf5"), "an HDF file"),
    **dict.fromkeys((".grb", ".grib", ".grib2"), "a GRIB file"),
    **dict.fromkeys((".png", ".jpg", ".jpeg", ".pdf", ".svg"), "a picture"),
    **dict.fromkeys((".yaml", ".yml"), "a catalog"),
    **dict.fromkeys((".htm", ".html"), "a web page"),
    **dict.fromkeys((".zip", ".gz", ".tar"), "an archive"),
    ".zarr": "a Zarr store",
    ".json": "a JSON file",
    ".toml": "a TOML file",
    ".csv": "a table",
    ".txt": "a text",
}


def check_ending(target: Any, what: str, *endings: str, error: type[XlandError] = StoreError) -> None:
    """Refuse a name that ends as those of another format: what is written is `what`, whose names have these endings."""
    name = address_of(target).rpartition("/")[2]
    ending = os.path.splitext(name)[1].lower()  # noqa: PTH122 - of a URL, too
    if ending in _ENDINGS and ending not in endings:
        raise error(
            f"{name} is the name of {_ENDINGS[ending]}, but {what} is written: choose a name that ends with "
            f"{' or '.join(endings)}"
        )


def check_place(path: Path, error: type[XlandError] = StoreError) -> None:
    """Refuse a path that cannot be written, before anything is computed for it; nothing is made or changed."""
    there = next(each for each in (path, *path.parents) if os.path.lexists(each))
    folder = there if there.is_dir() else there.parent
    reason = ""
    if there != path and not there.is_dir():
        reason = f"{there}: {_REASONS[errno.ENOTDIR]}"
    elif not os.access(folder, os.W_OK | os.X_OK):
        reason = f"the folder {folder} is not writable: choose another place, or get the right to write there"
    if reason:
        raise error(f"{path} cannot be written: {reason}")


def check_file_place(path: Path, error: type[XlandError] = StoreError) -> None:
    """Refuse a path at which a file cannot be written; see :func:`check_place`."""
    if path.is_dir():
        raise error(f"{path} cannot be written: {_REASONS[errno.EISDIR]}")
    check_place(path, error)


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
