"""Where a file or store is: a path, a ``Path``, a URL or an fsspec mapper, in one form.

Everything that reads or writes passes what it was given through :func:`address_of`, or through
:func:`local_path` where only a file on this machine will do. What is neither a path nor a URL is refused
by name: no file is ever called after an object.
"""

from __future__ import annotations

import os
import re
from pathlib import Path
from typing import Any
from urllib.parse import unquote

from xland.errors import AddressError

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
    if isinstance(target, str | os.PathLike):
        text = os.fspath(target)
        if isinstance(text, str):
            return _checked(text, is_path=not isinstance(target, str))
    found = _address_of_object(target)
    if found is None:
        shown = repr(target) if target is None else f"an object of type {type(target).__name__}"
        raise AddressError(
            f"{shown} is neither a path nor a URL; give a path such as 'maps.zarr' or a URL such as "
            "'s3://bucket/maps.zarr'"
        )
    return found


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


def _checked(text: str, *, is_path: bool) -> str:
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
            raise AddressError(f"{text!r} is a URL that leads nowhere; say what is there, as 's3://bucket/maps.zarr'")
        return text.rstrip("/")
    return _absolute(_path_in(text) if _SCHEME.match(text) else text)


def _path_in(url: str) -> str:
    """Path that a ``file://`` URL means, as :meth:`pathlib.Path.as_uri` writes it."""
    host, slash, path = url.partition("://")[2].partition("/")
    if not slash or host not in ("", "localhost"):
        raise AddressError(f"{url!r} is not the URL of an absolute path, which has three slashes: 'file:///data/a.nc'")
    return "/" + unquote(path, errors="surrogateescape")


def _absolute(text: str) -> str:
    path = os.path.expanduser(text)  # noqa: PTH111 - a file may be called ~0
    if path.startswith("~") and "/" in path:
        raise AddressError(f"{text!r} begins with the home folder of a user who does not exist; a folder is './{text}'")
    return str(Path(path).absolute())


def _address_of_object(target: Any) -> str | None:
    """Address of an fsspec mapper or a LocalStore of zarr; None if it is something else."""
    kind = type(target).__name__
    if kind == "LocalStore":
        return str(Path(target.root).absolute())
    if kind == "FsspecStore":
        url = without_password(str(target.fs.unstrip_protocol(target.path)))
        raise AddressError(f"a FsspecStore belongs to one process, and others write too; give its URL, {url!r}")
    if kind != "FSMap":
        return None
    fs = target.fs
    if {fs.protocol} & {*_LOCAL, ("file", "local")}:
        return _absolute(str(target.root))
    options = sorted({*getattr(fs, "storage_options", {})} - {"asynchronous", "auto_mkdir"})
    url = str(fs.unstrip_protocol(target.root))
    if options:
        raise AddressError(
            f"{without_password(url)}: the file system of this {kind} was made with {', '.join(options)}, which other "
            "processes would not have; put these into fsspec's configuration (fsspec.config.conf) and give the URL"
        )
    return _checked(url, is_path=False)
