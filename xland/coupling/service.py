"""A service of maps over http: OPeNDAP and EDR by xpublish, fields on other grids, health and metrics.

All answers come from one :class:`Emulator`. The lazy map that xpublish sees is cut into tiles. The emulator
computes each of them once and keeps it. TLS, users and tokens are left to a proxy in front of the service.
"""

from __future__ import annotations

import asyncio
import json
import logging
import math
import re
import time
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from functools import partial
from os import PathLike
from typing import Annotated, Any
from urllib.parse import parse_qs, unquote

import dask
import dask.array as da
import numpy as np
import xarray as xr
from numpy.typing import NDArray

from xland.arguments import shown
from xland.coupling.emulator import MEMORY, Emulator
from xland.coupling.grids import GLOBE, GridLike, HEALPix, Region, Regular
from xland.errors import MissingDependencyError, RegionError, RequestError, XlandError
from xland.geo.grid import Grid
from xland.models import DEFAULT_MODEL, Model
from xland.records import Limits, check_entries
from xland.vocabulary import flag_attributes

DATASET = "land-use"
"""Name of the map among the datasets of the service."""

_TILE = 120  # rows and columns of a tile, or a little less: whole coarse cells
_TILES = "xland-tile"  # first part of the keys of tiles
_LONGEST = 8192  # bytes of path and query
_UNREADABLE = (ValueError, KeyError, IndexError, TypeError)  # what libraries raise where a request makes no sense

_SLICE = re.compile(r"\[(\d+)(?::(\d+))?(?::(\d+))?\]")  # of a DAP 2 constraint: first, (step,) last

logger = logging.getLogger(__name__)

Reply = tuple[int, list[tuple[bytes, bytes]], bytes]


@dataclass(frozen=True)
class ServiceLimits:
    """What clients may ask for.

    Parameters
    ----------
    cells : int
        Cells of the map, times years, that one request may read. A point reads a tile of 14,400.
    at_once : int
        Requests that are answered at the same time.
    waiting : int
        Requests that may wait for that. Others are refused with status 503.
    seconds : float
        After which a request is given up, with status 504.
    """

    cells: Annotated[int, Limits(1, 10**10)] = 1_000_000
    at_once: Annotated[int, Limits(1, 1024)] = 4
    waiting: Annotated[int, Limits(0, 100_000)] = 64
    seconds: Annotated[float, Limits(above=0, most=86_400)] = 60.0

    def __post_init__(self) -> None:
        check_entries(self, RequestError)


def serve(
    forcing: xr.Dataset,
    model: Model = DEFAULT_MODEL,
    *,
    host: str = "127.0.0.1",
    port: int = 8000,
    cells: int = 1_000_000,
    at_once: int = 4,
    waiting: int = 64,
    seconds: float = 60.0,
    memory: int = MEMORY,
    cache: str | PathLike[str] | None = None,
) -> None:
    """Serve maps of a forcing over http until the process is stopped.

    Parameters
    ----------
    forcing : Dataset
        Coarse fractions, as for :class:`xland.Emulator`.
    model : str, path or Checkpoint; or a list of them
    host, port : str, int
        Where the service listens. By default only programs of the same machine reach it.
    cells, at_once, waiting, seconds
        Limits, see :class:`ServiceLimits`.
    memory : int
        Bytes that are kept in memory.
    cache : path, optional
        Folder in which maps are kept on disk. Several services may share it.

    Raises
    ------
    RequestError
        If a limit is out of range.
    MissingDependencyError
        If the extra ``serve`` is not installed.
    XlandError
        What ``downscale`` refuses.
    """
    limits = ServiceLimits(cells, at_once, waiting, seconds)
    uvicorn = _needed("uvicorn")
    with Emulator(forcing, model, memory=memory, cache=cache, prefetch=False) as emulator:
        uvicorn.run(make_service(emulator, limits), host=host, port=port, log_level="warning")


def make_service(emulator: Emulator, limits: ServiceLimits | None = None) -> Any:
    """Return the service as an ASGI application.

    Parameters
    ----------
    emulator : Emulator
    limits : ServiceLimits, optional

    Returns
    -------
    FastAPI
        ``/datasets/land-use/opendap``, ``/datasets/land-use/edr/``, ``/fields``, ``/health`` and ``/metrics``.

    Raises
    ------
    MissingDependencyError
        If the extra ``serve`` is not installed.
    """
    limits = limits or ServiceLimits()
    xpublish = _needed("xpublish")
    plugins = {"opendap": _needed("xpublish_opendap").OpenDapPlugin(), "edr": _needed("xpublish_edr").CfEdrPlugin()}
    compute = partial(compute_tiles, most=limits.cells // _tile_of(emulator) ** 2)

    @asynccontextmanager
    async def lifespan(_: Any) -> AsyncIterator[None]:
        with dask.config.set({"scheduler": compute, "optimization.fuse.active": False}):
            yield

    about = {"title": "xland", "description": __doc__, "lifespan": lifespan}
    # what the plugins keep is graphs, a few kilobytes a map
    rest = xpublish.Rest(
        {DATASET: lazy_map(emulator)}, plugins=plugins, app_kws=about, cache_kws={"available_bytes": 1e8}
    )
    rest.app.add_api_route(
        "/fields", partial(_answer_field, emulator, limits), response_class=_needed("fastapi").Response
    )
    rest.app.add_middleware(Guard, emulator=emulator, limits=limits)
    return rest.app


def _needed(name: str) -> Any:
    import importlib

    try:
        return importlib.import_module(name)
    except ImportError as error:
        raise MissingDependencyError(
            f"the service needs {name} ({error}): install xland with the extra serve, pip install -e '.[serve]'"
        ) from None


# the map in tiles


def lazy_map(emulator: Emulator) -> xr.Dataset:
    """Return the map of all years, ``land_use`` (time, lat, lon); the emulator computes tiles when they are read."""
    grid, size = emulator.grid, _tile_of(emulator)
    chunks = ((1,) * len(emulator.years), *(_cut(length, size) for length in (grid.rows, grid.columns)))
    tile = partial(_tile, emulator, size)
    values = da.map_blocks(
        tile,
        name=f"{_TILES}-{emulator.fingerprint[:16]}",
        chunks=chunks,
        dtype=np.int16,
        meta=np.empty((0,) * 3, np.int16),
    )
    times = np.array([f"{year:04d}-01-01" for year in emulator.years], "datetime64[ns]")
    coordinates = {"time": ("time", times, {"standard_name": "time", "axis": "T"}), **grid.coordinates}
    # OPeNDAP's library knows no attributes of several numbers
    about = {
        name: value if isinstance(value, str) else " ".join(map(str, value))
        for name, value in flag_attributes().items()
    }
    # and does not pad single bytes to whole words, as DAP asks for: the codes are of 16 bits
    return xr.Dataset({"land_use": (("time", "lat", "lon"), values, about)}, coordinates, emulator.attributes)


def _tile_of(emulator: Emulator) -> int:
    factor = emulator.model.inputs.factor
    return int(factor * max(1, _TILE // factor))


def _cut(length: int, size: int) -> tuple[int, ...]:
    return tuple(min(size, length - start) for start in range(0, length, size))


def _tile(emulator: Emulator, size: int, block_id: tuple[int, int, int] = (0, 0, 0)) -> NDArray[np.int16]:
    year, row, column = block_id
    top, left = row * size, column * size
    window = emulator.grid.window(slice(top, top + size), slice(left, left + size))
    return emulator.codes(emulator.years[year], window)[None].astype(np.int16)


def compute_tiles(graph: Any, keys: Any, *, most: int, **_: Any) -> Any:
    """Compute what a request reads, in its thread; RequestError if that is more tiles than ``most``."""
    graph = graph.__dask_graph__() if hasattr(graph, "__dask_graph__") else graph  # dask gives an expression, or a dict
    tiles = sum(1 for key in graph if isinstance(key, tuple) and str(key[0]).startswith(_TILES))
    if tiles > most:
        raise RequestError(
            f"the request reads {tiles} tiles of the map, at most {most} are allowed: ask for a smaller area, or fewer "
            "years"
        )
    return dask.get(graph, keys)


# fields on other grids


def _answer_field(
    emulator: Emulator,
    limits: ServiceLimits,
    time: str,
    variables: str = "land_use",
    bbox: str = "",
    step: float | None = None,
    healpix: int | None = None,
) -> Any:
    """Return fields of a time as NetCDF.

    They are at the resolution of the model in ``bbox=west,south,east,north``, on a regular grid with ``step`` degrees,
    or on HEALPix pixels in nested order with nside ``healpix``. ``variables`` are joined by commas.
    """
    responses = _needed("starlette.responses")

    grid, region = _grid_of(bbox, step, healpix)
    window = emulator.window(region)
    if window.rows * window.columns > limits.cells:
        raise RequestError(
            f"the grid reads {window.rows * window.columns} cells of the map, at most {limits.cells} are allowed: ask "
            "for a smaller area"
        )
    when = int(time) if time.lstrip("-").isdigit() else time
    found = emulator.field(when, grid, variables.split(","))
    return responses.Response(bytes(found.to_netcdf(engine="h5netcdf")), media_type="application/x-netcdf")


def _grid_of(bbox: str, step: float | None, healpix: int | None) -> tuple[GridLike, Region]:
    """Return the grid of a request, and the region that it covers."""
    numbers = tuple(float(each) for each in bbox.split(",")) if bbox else GLOBE
    if len(numbers) != 4:
        raise RegionError(f"bbox={shown(bbox)}: give four numbers, west,south,east,north in degrees")
    if healpix is None:
        return Region(*numbers) if step is None else Regular(step, numbers), Region(*numbers)
    if bbox or step is not None:
        raise RegionError("healpix is all of the globe: leave out bbox and step")
    return HEALPix(healpix), Region(*GLOBE)


# what stands before every request


class Guard:
    """Bounds what is asked at the same time, turns errors into JSON, and counts.

    Whole answers are made before their first byte is sent, so that an error has a status of its own. Their size is
    bounded by the limits.
    """

    def __init__(self, app: Any, emulator: Emulator, limits: ServiceLimits) -> None:
        prometheus = _needed("prometheus_client")
        self.app, self.emulator, self.limits, self._prometheus = app, emulator, limits, prometheus
        self._free = asyncio.Semaphore(limits.at_once)
        self._present = 0
        self._shape = (len(emulator.years), emulator.grid.rows, emulator.grid.columns)
        self._registry = prometheus.CollectorRegistry()
        self._requests = prometheus.Counter("xland_requests", "requests by status", ["status"], registry=self._registry)
        self._latency = prometheus.Histogram(
            "xland_seconds", "seconds until a request is answered", registry=self._registry
        )
        for name, text in (
            ("hits", "parts answered from memory"),
            ("made", "parts computed"),
            ("bytes", "bytes in memory"),
        ):
            gauge = prometheus.Gauge(f"xland_cache_{name}", text, registry=self._registry)
            gauge.set_function(partial(self._statistic, name))
        prometheus.Gauge("xland_present", "requests in work or waiting", registry=self._registry).set_function(
            lambda: self._present
        )

    def _statistic(self, name: str) -> int:
        return self.emulator.statistics[name]

    async def __call__(self, scope: dict[str, Any], receive: Any, send: Any) -> None:
        """Answer a request."""
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        started = time.perf_counter()
        if scope["path"] == "/health":
            about = {"status": "ok", "years": self.emulator.years, "fingerprint": self.emulator.fingerprint}
            status, headers, body = _json(200, about)
        elif scope["path"] == "/metrics":
            text = self._prometheus.generate_latest(self._registry)
            status, headers, body = 200, [(b"content-type", b"text/plain; version=0.0.4")], text
        else:
            status, headers, body = await self._bounded(scope)
            self._requests.labels(str(status)).inc()
            self._latency.observe(time.perf_counter() - started)
        headers = [*(each for each in headers if each[0] != b"content-length"), (b"content-length", b"%d" % len(body))]
        await send({"type": "http.response.start", "status": status, "headers": headers})
        await send({"type": "http.response.body", "body": b"" if scope["method"] == "HEAD" else body})

    async def _bounded(self, scope: dict[str, Any]) -> Reply:
        limits = self.limits
        if len(scope.get("raw_path") or scope["path"]) + len(scope["query_string"]) > _LONGEST:
            return _refusal(414, f"the address is longer than {_LONGEST} bytes")
        if scope["method"] not in ("GET", "HEAD"):
            return _refusal(405, "the service answers GET and HEAD only", (b"allow", b"GET, HEAD"))
        try:
            scope = self._checked(scope)
        except XlandError as error:
            return _refused(error)
        except _UNREADABLE as error:
            return _refusal(400, f"the request cannot be read: {type(error).__name__}: {error}"[:1000])
        if self._present >= limits.at_once + limits.waiting:
            return _refusal(
                503, f"{self._present} requests are in work or waiting: try again later", (b"retry-after", b"1")
            )
        self._present += 1
        try:
            async with asyncio.timeout(limits.seconds), self._free:
                return await self._run(scope)
        except TimeoutError:
            return _refusal(504, f"there was no answer within {limits.seconds:g} s")
        finally:
            self._present -= 1

    def _checked(self, scope: dict[str, Any]) -> dict[str, Any]:
        """Refuse what the libraries would find out too late, and return what they understand."""
        path, query, most = scope["path"], scope["query_string"].decode("latin-1"), self.limits.cells
        if path.endswith(("opendap.dods", "opendap.dds")):
            asked, query = read_constraint(query, self._shape)
            if asked > most and path.endswith(".dods"):
                raise RequestError(f"the request asks for {asked} cells of the map, at most {most} are allowed")
            return {**scope, "query_string": query.encode("latin-1")}
        if "/edr/" in path:
            for coordinates in parse_qs(query).get("coords", []):
                check_coordinates(coordinates, self.emulator.grid, most)
        return scope

    async def _run(self, scope: dict[str, Any]) -> Reply:
        """Run the application, and return all of its answer."""
        status, headers, parts = 500, [], []
        asked: list[bool] = []

        async def receive() -> dict[str, Any]:
            if asked:
                await asyncio.Event().wait()  # the client is not heard until it has its answer
            asked.append(True)
            return {"type": "http.request", "body": b"", "more_body": False}

        async def send(message: dict[str, Any]) -> None:
            nonlocal status, headers
            if message["type"] == "http.response.start":
                status, headers = message["status"], list(message["headers"])
            else:
                parts.append(message.get("body", b""))

        try:
            await self.app(scope, receive, send)
        except XlandError as error:
            return _refused(error)
        except _UNREADABLE as error:
            return _refusal(400, f"the request cannot be read: {type(error).__name__}: {error}"[:1000])
        except Exception:
            logger.exception("a request failed")
            return _refusal(500, "the service failed, see its log", name="ServiceError")
        return status, headers, b"".join(parts)


def read_constraint(query: str, shape: Sequence[int]) -> tuple[int, str]:
    """Return how many cells of the map a constraint of DAP 2 asks for, and the constraint for opendap_protocol.

    That library takes ``[first:step:last]`` for ``[first:last:step]`` and drops the dimension of ``[number]``. It
    computes one tile after the other, so that it would find too late that they are too many.
    """
    asked, projections = 0, []
    for projection in unquote(query).split("&")[0].split(","):
        found = [[int(number) for number in each if number] for each in _SLICE.findall(projection)]
        parts = [(each[0], each[-1], each[1] if len(each) == 3 else 1) for each in found]
        if projection.startswith("land_use") or not projection:
            lengths = [
                len(range(length)[first : last + 1 : step])
                for (first, last, step), length in zip(parts, shape, strict=False)
            ]
            asked += math.prod([*lengths, *shape[len(lengths) :]])
        slices = "".join(f"[{first}:{last}:{step}]" for first, last, step in parts)
        projections.append(projection.partition("[")[0] + slices)
    return asked, ",".join(projections)


def check_coordinates(text: str, grid: Grid, most: int) -> None:
    """Refuse coordinates of EDR that are not on the globe, and areas that are too large.

    The library would answer with the nearest cell, or look at every cell of the area first.
    """
    shapely = _needed("shapely")

    found = shapely.from_wkt(text, on_invalid="ignore")
    if found is None or found.is_empty:
        raise RegionError(f"coords={shown(text)} cannot be read: give WKT, such as POINT(10.5 50.2)")
    west, south, east, north = found.bounds
    if not (-360 <= west <= east <= 360 and -90 <= south <= north <= 90):
        raise RegionError(f"coords={shown(text)}: give longitudes and latitudes in degrees that are on the globe")
    cells = int((east - west) * (north - south) / grid.resolution**2)
    if found.area and cells > most:
        raise RequestError(
            f"the area reads {cells} cells of the map, at most {most} are allowed: ask for a smaller one"
        )


def _json(status: int, content: Mapping[str, Any], *more: tuple[bytes, bytes]) -> Reply:
    return status, [(b"content-type", b"application/json"), *more], json.dumps(content, allow_nan=False).encode()


def _refused(error: XlandError) -> Reply:
    return _refusal(413 if isinstance(error, RequestError) else 400, str(error), name=type(error).__name__)


def _refusal(status: int, message: str, *more: tuple[bytes, bytes], name: str = "RequestError") -> Reply:
    return _json(status, {"error": name, "message": message}, *more)
