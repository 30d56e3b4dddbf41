"""Land surface fields for models that run: any year, any grid, from a forcing and a model, computed when asked for."""

from __future__ import annotations

import hashlib
import threading
from collections.abc import Iterable, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass
from os import PathLike
from typing import Any, Literal

import numpy as np
import xarray as xr
from numpy.typing import NDArray

from xland.arguments import checked, choose_names, shown
from xland.coupling.grids import AnyGrid, CellGrid, GridLike, Region, as_grid
from xland.coupling.kept import Kept, bytes_of, frozen, made_once
from xland.coupling.offered import VARIABLES, Shares, Variable
from xland.coupling.remapping import Weights, residual, weights_of
from xland.coupling.windows import Windows
from xland.datasets.wheels import cache_dir
from xland.downscaling.call import Device, Direction, downscale, target_grid
from xland.errors import ModelError, TimeError, XlandError
from xland.forcing.read import read_forcing
from xland.geo.conventions import listed
from xland.geo.grid import Grid
from xland.geo.orientation import restore
from xland.models import DEFAULT_MODEL, Model, find_model
from xland.paths import local_path
from xland.totals.modes import Totals
from xland.vocabulary import CLASS_NAMES

MEMORY = 2**30
"""Bytes that an emulator keeps in memory by default: maps, fields, weights, and static fields."""

RESIDUAL = 1e-6
"""Largest relative error of the area of a class on another grid."""

_ON_DISK = 10_000  # cells of a grid whose weights are kept on disk
_WAITING = 4  # years that wait to be prefetched


@dataclass(frozen=True)
class Moment:
    """The years that a field of some time is made of, their weights, and from when until when it is the same."""

    years: tuple[int, ...]
    weights: tuple[float, ...]
    label: str
    start: int
    stop: int


class Emulator:
    """Land surface fields on demand.

    The emulator is safe to use from several threads. Equal requests at the same time are computed once, and what was
    computed is kept. A region is the map of ``downscale(region=...)``, bit for bit.

    Parameters
    ----------
    forcing : Dataset
        Coarse fractions, for example LUH2 states as released.
    model : str, path or Checkpoint; or a list of them
        As for :func:`xland.downscaling.call.downscale`. Models that read a prior compute all years before, for each
        region that is asked for.
    between : {"hold", "linear"}
        Whether a year's shares are held until the next year, or change linearly from one 1 January to the next. Classes
        of maps are always held.
    memory : int
        Bytes that are kept in memory.
    cache : path, optional
        Folder in which maps and areas are kept on disk. Several processes may share it. Without it they are in memory
        only.
    prefetch : bool
        Compute the next year in the background when a year was asked for.
    static, other_static, prior, direction, device, flips, totals
        As for :func:`xland.downscaling.call.downscale`.

    Raises
    ------
    XlandError
        What ``downscale`` refuses.

    Examples
    --------
    >>> emulator = xland.Emulator(luh2)  # doctest: +SKIP
    >>> emulator.field("2015-07-01", HEALPix(128), ["cvh", "cvl"])  # doctest: +SKIP
    """

    @checked(ModelError)
    def __init__(
        self,
        forcing: xr.Dataset,
        model: Model = DEFAULT_MODEL,
        *,
        between: Literal["hold", "linear"] = "hold",
        memory: int = MEMORY,
        cache: str | PathLike[str] | None = None,
        prefetch: bool = True,
        static: xr.Dataset | None = None,
        other_static: bool = False,
        prior: xr.DataArray | None = None,
        direction: Direction = "forward",
        device: Device = "auto",
        flips: bool = False,
        totals: str | Totals | None = None,
    ) -> None:
        self.model = find_model(model)
        self._options: dict[str, Any] = {
            "model": self.model, "static": static, "other_static": other_static, "prior": prior,
            "direction": direction, "device": device, "flips": flips, "totals": totals,
        }  # fmt: skip
        product = downscale(forcing, **self._options)
        read = read_forcing(forcing, variables=self.model.inputs.coarse_variables)
        self._orientation, self.grid = read.orientation, read.grid.refine(self.model.inputs.factor)
        self.years: tuple[int, ...] = tuple(sorted(int(year) for year in np.ravel(_years_of(product))))
        self.fingerprint = str(product.attrs["xland_fingerprint"])
        self.attributes = {name: product.attrs[name] for name in sorted(product.attrs) if name in _KEPT_ATTRIBUTES}
        self.between = between
        self._kept = Kept(memory)
        self._folder = None if cache is None else local_path(cache, what="the cache") / self.fingerprint[:32]
        self._prefetch = prefetch
        self._ahead: dict[Any, Future[Any]] = {}
        self._pool: ThreadPoolExecutor | None = None
        self._lock = threading.Lock()
        self._forcing = read.data  # from north to south, as windows are
        self._windows = Windows(product, self._kept) if self.model.inputs.prior == "none" else None

    def field(self, time: Any, grid: GridLike = "globe", variables: str | Sequence[str] = ("land_use",)) -> xr.Dataset:
        """Return fields of a time on a grid.

        Parameters
        ----------
        time : int, str, datetime, datetime64 or cftime date
            A calendar year, or any instant in one.
        grid : (west, south, east, north), Region, Regular, Gaussian, HEALPix or Cells
            A region at the resolution of the model, ``"globe"`` for all of it, or cells of another grid
            (:mod:`xland.coupling.grids`). Maps are remapped to those by area: `shares` and covers are of the land of
            the cell, and ``shares * land_fraction * cell_area`` adds up to the area of each class on the map.
        variables : str or sequence of str
            Names in :data:`xland.coupling.offered.VARIABLES`: ``land_use``, ``shares``, ``land_fraction``,
            ``fraclut``, ``cvh``, ``cvl``, ``cur``, ``cl``.

        Returns
        -------
        Dataset
            Values in memory that cannot be written to; take a copy to change them. The attribute ``valid_until`` says
            until when the fields are the same, ``time_interpolation`` how years are joined, and ``residual`` by which
            share the area of any class differs from that of the map (at most 1e-6). ``cell_area`` (m2) is the area of
            the cell in which the forcing has a grid.

        Raises
        ------
        TimeError
            If the forcing does not have the time.
        RegionError, GridError
            If the grid is not on the globe, not within the forcing, or overlaps itself.
        ModelError
            If there is no such variable.
        """
        names = choose_names(variables, VARIABLES, "variables", ModelError)
        target, moment = as_grid(grid), self._moment(time)
        chosen = [VARIABLES[name] for name in names]
        if isinstance(target, Region):
            found = self._region(target, moment, chosen)
        else:
            found = self._cells(target, moment, chosen)
        if self._prefetch:
            self._start_next(max(moment.years), target)
        return found.assign_attrs(self._about(moment)).assign_coords(year=np.int32(moment.years[0]))

    def window(self, region: Region) -> Grid:
        """Return the part of the model's grid that a region is grown to."""
        return target_grid(self.grid, region.bounds, self.model.inputs.factor)

    @property
    def statistics(self) -> dict[str, int]:
        """Requests of parts that were answered from memory, parts that were made, and bytes in memory."""
        return {"hits": self._kept.hits, "made": self._kept.made, "bytes": self._kept.used}

    def close(self) -> None:
        """End the computation of what is prefetched: what was begun is finished, the rest is dropped."""
        with self._lock:
            pool, self._pool, self._prefetch = self._pool, None, False
        if pool is not None:
            pool.shutdown(wait=True, cancel_futures=True)

    def __enter__(self) -> Emulator:
        """Return the emulator; it is closed at the end of the ``with``."""
        return self

    def __exit__(self, *_: object) -> None:
        """Close it."""
        self.close()

    # maps, areas and weights, each made once

    def codes(self, year: int, window: Grid) -> NDArray[np.uint8]:
        """Return class codes of a year on a window of :attr:`grid`, from north to south."""

        def compute() -> Mapping[str, NDArray[Any]]:
            if self._windows is not None:
                return {"codes": self._windows.map(year, window)}
            region = (window.west, window.south, window.east, window.north)
            maps = downscale(self._forcing, region=region, **self._options)
            return {"codes": maps["land_use"].sel(year=year).values}

        return self._made("map", year, repr(window), compute)["codes"]

    def _areas(self, year: int, grid: CellGrid) -> Mapping[str, NDArray[Any]]:
        """Areas of classes in the cells of a grid, (cells, classes) in m2, and their residual."""

        def compute() -> Mapping[str, NDArray[Any]]:
            window = self._window_of(grid)
            weights, codes, area = self._weights(grid, window), self.codes(year, window), window.cell_area()
            areas = weights.areas(codes, area, len(CLASS_NAMES))
            off = residual(areas, codes, weights, area)
            if off > RESIDUAL:
                raise XlandError(f"the area of a class differs by {off:.2g} on the grid, more than {RESIDUAL:g}")
            return {"areas": areas, "residual": np.array([off])}

        return self._made("areas", year, grid.key, compute)

    def _made(self, what: str, year: int, place: str, compute: Any) -> Mapping[str, NDArray[Any]]:
        name = f"{what}-{year}-{hashlib.sha256(place.encode()).hexdigest()[:32]}"
        path = None if self._folder is None else self._folder / f"{name}.safetensors"
        return self._kept.get(name, lambda: made_once(path, compute), bytes_of)

    def _weights(self, grid: CellGrid, window: Grid) -> Weights:
        folder = cache_dir() / "weights" if grid.count >= _ON_DISK else None
        return self._kept.get(
            ("weights", grid.key, window), lambda: weights_of(grid, window, folder), lambda weights: weights.nbytes
        )

    def _window_of(self, grid: CellGrid) -> Grid:
        west, south, east, north = grid.bounds
        return target_grid(self.grid, (west, south, min(east, west + 360), north), self.model.inputs.factor)

    # fields

    def _region(self, region: Region, moment: Moment, chosen: Sequence[Variable]) -> xr.Dataset:
        window = self.window(region)
        maps = [self.codes(year, window) for year in moment.years]
        variables: dict[str, Any] = {}
        shares: Shares | None = None
        for each in chosen:
            if each.name == "land_use":
                attributes = {key: text for key, text in each.attributes.items() if key != "comment"}
                variables[each.name] = (("lat", "lon"), maps[0], attributes)
                continue
            if shares is None:
                layers = np.arange(len(CLASS_NAMES))[:, None, None]
                parts = [weight * (codes == layers) for codes, weight in zip(maps, moment.weights, strict=True)]
                shares = Shares(np.asarray(sum(parts), dtype=np.float64))
            variables[each.name] = _variable(each, shares, ("lat", "lon"))
        return restore(xr.Dataset(variables, window.coordinates | _labels(chosen)), self._orientation)

    def _cells(self, grid: CellGrid, moment: Moment, chosen: Sequence[Variable]) -> xr.Dataset:
        found = [self._areas(year, grid) for year in moment.years]
        held = _shares(found[0]["areas"], grid.shape)[0]
        areas = sum(weight * each["areas"] for weight, each in zip(moment.weights, found, strict=True))
        shares, total = _shares(np.asarray(areas), grid.shape)
        variables: dict[str, Any] = {
            each.name: _variable(each, held if each.name == "land_use" else shares, grid.dims) for each in chosen
        }
        about = {
            "standard_name": "cell_area",
            "long_name": "area of the cell on the grid of the forcing",
            "units": "m2",
        }
        coordinates = grid.coordinates() | _labels(chosen) | {"cell_area": (grid.dims, frozen(total), about)}
        off = max(float(each["residual"][0]) for each in found)
        mapped = xr.Dataset(variables, coordinates, {"residual": off})
        for each in mapped.data_vars.values() if "crs" in coordinates else ():
            each.encoding["grid_mapping"] = "crs"
        return mapped

    def _about(self, moment: Moment) -> dict[str, Any]:
        linear = len(moment.years) > 1
        how = f"linear between {moment.years[0]} and {moment.years[1]}" if linear else f"{moment.years[0]} held"
        valid = moment.label if linear else f"{moment.start:04d}-01-01"
        until = moment.label if linear else f"{moment.stop:04d}-01-01"
        times = {"time_requested": moment.label, "valid_from": valid, "valid_until": until}
        return {**self.attributes, **times, "time_interpolation": how, "xland_fingerprint": self.fingerprint}

    # time

    def _moment(self, time: Any) -> Moment:
        year, share, label = _instant(time)
        if self.between == "linear" and self.years[0] <= year < self.years[-1]:
            before = max(each for each in self.years if each <= year)
            after = min(each for each in self.years if each > year)
            weight = (year + share - before) / (after - before)
            if weight > 0:
                return Moment((before, after), (1 - weight, weight), label, year, year)
        if year not in self.years:
            raise TimeError(
                f"time {label}: the forcing has maps of {listed(self.years)}; ask for a time in one of these years"
                + (", or join years with between='linear'" if self.years[0] < year < self.years[-1] else "")
            )
        return Moment((year,), (1.0,), label, year, year + 1)

    def _start_next(self, year: int, grid: AnyGrid) -> None:
        """Compute the year after one on a grid in the background, unless too many wait for that."""
        after = [each for each in self.years if each > year]
        if not after:
            return
        with self._lock:
            self._ahead = {key: each for key, each in self._ahead.items() if not each.done()}
            key = (after[0], grid.key if isinstance(grid, CellGrid) else grid)
            if not self._prefetch or len(self._ahead) >= _WAITING or key in self._ahead:
                return
            if self._pool is None:
                self._pool = ThreadPoolExecutor(1, "xland-prefetch")
            self._ahead[key] = self._pool.submit(self._make_ready, after[0], grid)

    def _make_ready(self, year: int, grid: AnyGrid) -> None:
        with suppress(XlandError):  # whoever asks for it gets the error
            if isinstance(grid, CellGrid):
                self._areas(year, grid)
            else:
                self.codes(year, self.window(grid))

    def wait(self) -> None:
        """Wait until all that is prefetched is ready."""
        with self._lock:
            pending = [*self._ahead.values()]
        for each in pending:
            each.result()


_KEPT_ATTRIBUTES = ("Conventions", "license", "source", "xland_model", "xland_model_sha256")


def _shares(areas: NDArray[np.float64], shape: tuple[int, ...]) -> tuple[Shares, NDArray[np.float64]]:
    """Shares of classes and the area of each cell from areas, (cells, classes); NaN where the map has no part of it."""
    total = areas.sum(axis=1)
    shares = np.divide(areas.T, total, out=np.full(areas.T.shape, np.nan), where=total > 0)
    return Shares(shares.reshape(-1, *shape)), total.reshape(shape)


def _variable(variable: Variable, shares: Shares, dims: tuple[str, ...]) -> tuple[Any, ...]:
    values = np.asarray(variable.compute(shares)).astype(variable.dtype, copy=False)
    own = (variable.dimension,) if variable.dimension else ()
    return (*own, *dims), frozen(values), dict(variable.attributes)


def _labels(chosen: Iterable[Variable]) -> dict[str, Any]:
    """Coordinates along the first dimensions of variables: names of classes and tiles."""
    found: dict[str, Any] = {each.dimension: list(each.labels) for each in chosen if each.dimension}
    return found


def _years_of(product: xr.Dataset) -> NDArray[np.int64]:
    years = product.coords.get("year")
    dates = product["land_use"].coords
    if years is not None and years.dtype.kind in "iu":
        return np.asarray(years.values)
    time = next(dates[name] for name in dates if dates[name].dtype.kind == "M" and dates[name].ndim == 1)
    return np.asarray(time.values.astype("datetime64[Y]").astype(int) + 1970)


def _instant(time: Any) -> tuple[int, float, str]:
    """Return the calendar year of a time, the share of it that has passed, and the time as text."""
    if isinstance(time, xr.DataArray):
        time = time.values
    if isinstance(time, np.ndarray) and time.ndim == 0:
        time = time[()]
    if isinstance(time, int | np.integer) and not isinstance(time, bool | np.timedelta64):
        return int(time), 0.0, str(int(time))
    if hasattr(time, "calendar") and hasattr(time, "replace"):  # a date of cftime
        first = time.replace(month=1, day=1, hour=0, minute=0, second=0, microsecond=0)
        length = (first.replace(year=time.year + 1) - first).total_seconds()
        return int(time.year), (time - first).total_seconds() / length, time.isoformat()
    try:
        date = np.datetime64(time.replace(tzinfo=None) if getattr(time, "tzinfo", None) else time, "s")
    except (TypeError, ValueError, OverflowError):
        date = np.datetime64("NaT")
    if np.isnat(date):
        raise TimeError(f"time={shown(time)} is neither a calendar year nor a date, such as 2015 or '2015-07-01'")
    year = date.astype("datetime64[Y]")
    first, after = (each.astype("datetime64[s]").astype(np.int64) for each in (year, year + 1))
    return int(year.astype(int)) + 1970, float(date.astype(np.int64) - first) / float(after - first), str(date)
