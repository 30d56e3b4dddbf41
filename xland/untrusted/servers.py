"""Web servers of strangers: how long they may take, how much they may send, and where they may send us.

fsspec waits for minutes, reads whatever comes and follows every redirection. The session that is given
to it here does not: it is the same for all that xland reads over http.
"""

from __future__ import annotations

import functools
import ipaddress
import re
import socket
from collections.abc import Collection, Iterator, Mapping
from contextlib import contextmanager
from typing import Any
from urllib.parse import SplitResult, urljoin, urlsplit

from xland.errors import MissingDependencyError, StoreError, XlandError
from xland.paths import without_password

CONNECT_SECONDS = 5.0
SILENT_SECONDS = 10.0
TOTAL_SECONDS = 120.0
METADATA_SECONDS = 15.0
"""Time for the head of an answer, and for metadata and lists of names, which are small; also if bytes keep coming."""

MOST_BYTES = 2**30
"""Size of one answer at most."""

MOST_METADATA = 4 * 2**20
"""Size of an answer at most that is metadata of a Zarr store."""

_RANGE = re.compile(r"bytes=(\d{1,18})-(\d{1,18})")
_METADATA = ("zarr.json", ".zarray", ".zattrs", ".zgroup", ".zmetadata")


def http_options(url: str, allowed_schemes: Collection[str] = ("http", "https")) -> dict[str, Any]:
    """Options of fsspec's file system for a URL; none unless it is http or https.

    The server may redirect to the allowed schemes, but not into private networks, unless that is the URL's own host.
    """
    parts = urlsplit(url)
    if parts.scheme.lower() not in ("http", "https"):
        return {}
    schemes = tuple(sorted({scheme.lower() for scheme in allowed_schemes}))
    return {"get_client": functools.partial(_session, host=parts.hostname or "", schemes=schemes)}


def with_limits(url: str, options: Mapping[str, Any] | None = None) -> dict[str, Any]:
    """Options of fsspec's file system for a URL: :func:`http_options`, and those of the caller, which win."""
    return {**http_options(url), **(options or {})}


@contextmanager
def reaching(url: str, name: str | None = None) -> Iterator[None]:
    """Turn the errors of file systems behind URLs, of which each has its own, into a :class:`StoreError` that names it.

    With the name of a file in the folder, it remains a FileNotFoundError that this is not there.
    """
    shown = without_password(url)
    try:
        yield
    except XlandError:
        raise
    except ImportError as error:
        raise MissingDependencyError(
            f"{shown} needs a package that is missing ({error}): install it, or copy the file here"
        ) from error
    except Exception as error:
        if name is not None and isinstance(error, FileNotFoundError | IsADirectoryError | NotADirectoryError):
            raise
        said = without_password(f"{type(error).__name__}: {error}", of=url).strip().partition("\n")[0][:500]
        place = shown if name is None else f"{shown}/{name}"
        raise StoreError(
            f"{place} cannot be read: {said}; check the address, the network and your rights to read it"
        ) from (error if shown == url else None)  # the cause may hold the password


async def _session(*, host: str, schemes: tuple[str, ...], loop: Any = None, **kwargs: Any) -> Any:
    """Make a session with limits; fsspec calls this in its event loop."""
    import asyncio

    import aiohttp

    class Response(aiohttp.ClientResponse):
        """An answer that is given up when it grows too large or takes too long."""

        _body: bytes | None

        async def start(self, connection: Any) -> Any:
            async with asyncio.timeout(METADATA_SECONDS):
                return await super().start(connection)

        async def text(self, *args: Any, **kwargs: Any) -> str:  # as fsspec reads the list of a folder
            await self._take(MOST_METADATA, METADATA_SECONDS)
            return await super().text(*args, **kwargs)

        async def read(self) -> bytes:
            small = self.url.name in _METADATA
            part = _RANGE.fullmatch(self.request_info.headers.get("Range", "")) if self.status == 206 else None
            most = int(part[2]) - int(part[1]) + 1 if part else MOST_METADATA if small else MOST_BYTES
            return await self._take(most, METADATA_SECONDS if small else None)

        async def _take(self, most: int, seconds: float | None) -> bytes:
            if self._body is None:
                parts, size = [], 0
                try:
                    async with asyncio.timeout(seconds):
                        async for part in self.content.iter_any():
                            size += len(part)
                            if size > most:
                                raise StoreError(f"the answer of {self._shown} is larger than {most} bytes")
                            parts.append(part)
                except TimeoutError:
                    raise StoreError(f"{self._shown} did not send all of its answer in time") from None
                finally:
                    if not self.content.at_eof():
                        self.close()
                self._body = b"".join(parts)
            return self._body or b""

        @property
        def _shown(self) -> str:
            return without_password(str(self.url))

    async def redirected(_session: Any, _context: Any, params: Any) -> None:
        location = params.response.headers.get("Location") or params.response.headers.get("URI") or ""
        await _refuse_redirection(host, schemes, urlsplit(urljoin(str(params.url), location)))

    tracing = aiohttp.TraceConfig()
    tracing.on_request_redirect.append(redirected)
    timeout = aiohttp.ClientTimeout(total=TOTAL_SECONDS, sock_connect=CONNECT_SECONDS, sock_read=SILENT_SECONDS)
    return aiohttp.ClientSession(loop=loop, timeout=timeout, response_class=Response, trace_configs=[tracing], **kwargs)


async def _refuse_redirection(host: str, schemes: tuple[str, ...], target: SplitResult) -> None:
    if target.scheme.lower() not in schemes:
        raise StoreError(f"{host} redirects to {target.scheme}://, which was not allowed")
    if target.hostname != host and not await _is_public(target.hostname or ""):
        raise StoreError(f"{host} redirects to {target.hostname}, an address inside a private network")


async def _is_public(host: str) -> bool:
    """Whether all addresses of a host are on the open internet."""
    import asyncio

    try:
        found = await asyncio.get_running_loop().getaddrinfo(host, None, type=socket.SOCK_STREAM)
    except OSError:
        return False
    return all(ipaddress.ip_address(str(info[4][0]).partition("%")[0]).is_global for info in found)
