"""The grids on which a running model takes its fields: regions, regular and Gaussian grids, HEALPix, and any cells."""

from __future__ import annotations

import hashlib
from abc import abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any, Literal

import numpy as np
import xarray as xr
from numpy.typing import ArrayLike, NDArray

from xland.arguments import is_count, shown
from xland.errors import GridError, MissingDependencyError, RegionError

Corners = tuple[NDArray[np.float64], NDArray[np.float64]]
GLOBE = (-180.0, -90.0, 180.0, 90.0)

_LAT = {"standard_name": "latitude", "units": "degrees_north"}
_LON = {"standard_name": "longitude", "units": "degrees_east"}
_MOST_CELLS = 2**28


@dataclass(frozen=True)
class Region:
    """A region at the resolution of the model: its map as ``downscale(region=...)`` gives it.

    Parameters
    ----------
    west, south, east, north : float
        Degrees; grown to whole coarse cells. West may be greater than east: the region crosses the date line.
    """

    west: float
    south: float
    east: float
    north: float

    @property
    def bounds(self) -> tuple[float, float, float, float]:
        """West, south, east and north."""
        return self.west, self.south, self.east, self.north


class CellGrid:
    """A grid of cells with corners, to which maps are remapped by area.

    `shape` and `dims` are those of a field. Edges are great circles, or parallels and meridians with `parallels`.
    """

    parallels = False
    dims: tuple[str, ...] = ("cell",)

    @property
    @abstractmethod
    def shape(self) -> tuple[int, ...]:
        """Lengths of the dimensions."""

    @property
    @abstractmethod
    def key(self) -> str:
        """Text that differs between grids with other cells."""

    @abstractmethod
    def corners(self, first: int, stop: int) -> Corners:
        """Longitudes and latitudes of the corners of some cells in degrees, (cells, corners) each."""

    @abstractmethod
    def centres(self) -> Corners:
        """Longitudes and latitudes of the centres of all cells in degrees."""

    @property
    def count(self) -> int:
        """Number of cells."""
        return int(np.prod(self.shape))

    @cached_property
    def bounds(self) -> tuple[float, float, float, float]:
        """West, south, east and north of a region that has all cells; the globe unless a grid knows better."""
        return GLOBE

    def coordinates(self) -> dict[str, Any]:
        """Coordinates of a field on this grid."""
        lon, lat = self.centres()
        return {"lat": (self.dims, lat, _LAT), "lon": (self.dims, lon, _LON)}


@dataclass(frozen=True)
class Regular(CellGrid):
    """Regular latitude and longitude, from north to south and from west to east.

    Parameters
    ----------
    step : float
        Degrees; it must divide the region in both directions.
    region : (west, south, east, north)
        By default the globe from 180 W.
    """

    step: float
    region: tuple[float, float, float, float] = GLOBE
    parallels = True
    dims = ("lat", "lon")

    def __post_init__(self) -> None:
        west, south, east, north = self.bounds
        check_latitudes(np.array([south, north]), "the regular grid")
        if not np.isfinite([west, east, self.step]).all() or self.step <= 0:
            raise GridError(f"step={self.step!r}, region={self.region!r}: give finite degrees and a step above 0")
        if not (south < north and west < east <= west + 360 + 1e-9):
            raise RegionError(f"region={self.region!r}: the grid is empty, or goes round the globe more than once")
        counts = np.array([(north - south) / self.step, (east - west) / self.step])
        if (np.abs(counts - np.rint(counts)) > 1e-6).any():
            raise GridError(
                f"cells of {self.step:g} degree do not divide the region {self.region!r}: choose a step that does, "
                f"such as {(north - south) / max(round(counts[0]), 1):g}, or another region"
            )
        check_count(counts.prod())

    @cached_property
    def bounds(self) -> tuple[float, float, float, float]:
        """West, south, east and north, east beyond west."""
        west, south, east, north = self.region
        return west, south, east + 360 if east < west else east, north

    @property
    def shape(self) -> tuple[int, int]:
        """Rows and columns."""
        west, south, east, north = self.bounds
        return round((north - south) / self.step), round((east - west) / self.step)

    @property
    def key(self) -> str:
        """Text that differs between grids with other cells."""
        return f"regular {self.step!r} {self.bounds!r}"

    def edges(self) -> Corners:
        """Longitudes of the edges of the columns and latitudes of those of the rows, descending."""
        west, south, east, north = self.bounds
        return np.linspace(west, east, self.shape[1] + 1), np.linspace(north, south, self.shape[0] + 1)

    def corners(self, first: int, stop: int) -> Corners:
        """Longitudes and latitudes of the corners of some cells."""
        row, column = np.divmod(np.arange(first, stop), self.shape[1])
        lon, lat = self.edges()
        return rectangles(lon[column], lon[column + 1], lat[row], lat[row + 1])

    def centres(self) -> Corners:
        """Longitudes and latitudes of the centres."""
        lon, lat = self.edges()
        return np.round((lon[1:] + lon[:-1]) / 2, 10), np.round((lat[1:] + lat[:-1]) / 2, 10)

    def coordinates(self) -> dict[str, Any]:
        """Coordinates of a field on this grid."""
        lon, lat = self.centres()
        return {"lat": ("lat", lat, _LAT | {"axis": "Y"}), "lon": ("lon", lon, _LON | {"axis": "X"})}


@dataclass(frozen=True)
class Gaussian(CellGrid):
    """A reduced or full Gaussian grid, as the IFS has it: ``Gaussian("O320")``, ``Gaussian("F128")``.

    The rows are at the Gaussian latitudes. A cell reaches half-way to its neighbours, and the outer rows to the poles.
    The first cell of each row is centred at longitude 0.

    Parameters
    ----------
    name : str
        ``O`` (octahedral) or ``F`` (full) and the number of rows between pole and equator; ``N`` with `columns`.
    columns : sequence of int, optional
        Cells in each row from north to south, for grids whose numbers follow no rule (``N320``).
    """

    name: str
    columns: tuple[int, ...] = ()
    parallels = True

    def __post_init__(self) -> None:
        kind, number = str(self.name)[:1], str(self.name)[1:]
        if kind not in ("O", "F", "N") or not number.isdecimal() or not 1 <= int(number) <= 8000:
            raise GridError(f"name={shown(self.name)}: give O or F and a number, as O320 or F128, or N with columns=")
        object.__setattr__(self, "columns", tuple(int(each) for each in self.columns))
        if kind == "N" and not self.columns:
            raise GridError(f"{self.name}: the cells of its rows follow no rule; give them with columns=")
        if self.columns and (len(self.columns) != 2 * int(number) or min(self.columns) < 1):
            raise GridError(f"{self.name} has {2 * int(number)} rows, columns= has {len(self.columns)} numbers")
        check_count(sum(self.rows))

    @cached_property
    def rows(self) -> tuple[int, ...]:
        """Number of cells in each row."""
        half = int(self.name[1:])
        if self.columns:
            return self.columns
        north = [4 * half] * half if self.name[0] == "F" else [20 + 4 * row for row in range(half)]
        return (*north, *reversed(north))

    @property
    def shape(self) -> tuple[int]:
        """Number of cells."""
        return (sum(self.rows),)

    @property
    def key(self) -> str:
        """Text that differs between grids with other cells."""
        return f"gaussian {self.rows!r}"

    @cached_property
    def latitudes(self) -> NDArray[np.float64]:
        """Gaussian latitudes in degrees, descending: the roots of a Legendre polynomial."""
        return np.rad2deg(np.arcsin(np.polynomial.legendre.leggauss(len(self.rows))[0][::-1]))

    def _places(self, first: int, stop: int) -> tuple[NDArray[np.intp], NDArray[np.float64], NDArray[np.float64]]:
        """Row, longitude of the centre and half the width of some cells."""
        ends = np.cumsum(self.rows)
        cells = np.arange(first, stop)
        row = np.searchsorted(ends, cells, "right")
        width = 360 / np.array(self.rows)[row]
        return row, (cells - (ends - self.rows)[row]) * width, width / 2

    def corners(self, first: int, stop: int) -> Corners:
        """Longitudes and latitudes of the corners of some cells."""
        row, lon, half = self._places(first, stop)
        between = (self.latitudes[1:] + self.latitudes[:-1]) / 2
        edges = np.concatenate([[90.0], between, [-90.0]])
        return rectangles(lon - half, lon + half, edges[row], edges[row + 1])

    def centres(self) -> Corners:
        """Longitudes and latitudes of the centres."""
        row, lon, _ = self._places(0, self.count)
        return lon, self.latitudes[row]


@dataclass(frozen=True, eq=False)
class HEALPix(CellGrid):
    """HEALPix pixels, all or some; needs the extra ``healpix``.

    An edge is the great circle between two corners, as CDO and YAC have it. The areas of the pixels are then not all
    the same: those at the poles are 10 % smaller than the others.

    Parameters
    ----------
    nside : int
        A power of 2 for nested order.
    nested : bool
        Nested order (GRIB: ``orderingConvention=nested``) or ring order.
    cells : sequence of int, optional
        Numbers of the pixels, in any order; all by default.
    """

    nside: int
    nested: bool = True
    cells: Sequence[int] | NDArray[np.int64] | None = None

    def __post_init__(self) -> None:
        power = is_count(self.nside) and int(self.nside) & (int(self.nside) - 1) == 0
        if not is_count(self.nside) or self.nside > 2**13 or (self.nested and not power):
            raise GridError(f"nside={shown(self.nside)}: give a whole number up to 8192, in nested order a power of 2")
        if self.cells is not None:
            numbers = np.asarray(self.cells)
            if numbers.ndim != 1 or not numbers.size or numbers.dtype.kind not in "iu":
                raise GridError("cells: give the numbers of the pixels as a list of whole numbers")
            outside = (numbers < 0) | (numbers >= 12 * self.nside**2)
            if outside.any() or np.unique(numbers).size < numbers.size:
                raise GridError(
                    f"cells: {int(outside.sum())} numbers are not from 0 to {12 * self.nside**2 - 1}, and "
                    f"{numbers.size - np.unique(numbers).size} are there twice"
                )
        check_count(self.count)
        healpy()

    @cached_property
    def numbers(self) -> NDArray[np.int64]:
        """Numbers of the pixels."""
        return np.arange(12 * self.nside**2) if self.cells is None else np.asarray(self.cells, dtype=np.int64)

    @property
    def shape(self) -> tuple[int]:
        """Number of cells."""
        return (12 * self.nside**2 if self.cells is None else len(self.cells),)

    @property
    def key(self) -> str:
        """Text that differs between grids with other cells."""
        part = "" if self.cells is None else hashlib.sha256(self.numbers.tobytes()).hexdigest()
        return f"healpix {self.nside} {self.nested} {part}"

    @cached_property
    def bounds(self) -> tuple[float, float, float, float]:
        """West, south, east and north of a region that has all cells."""
        return GLOBE if self.cells is None else bounds_of(*self.corners(0, self.count))

    def corners(self, first: int, stop: int) -> Corners:
        """Longitudes and latitudes of the corners of some cells."""
        points = healpy().boundaries(int(self.nside), self.numbers[first:stop], step=1, nest=self.nested)
        lat = np.rad2deg(np.arctan2(points[:, 2], np.hypot(points[:, 0], points[:, 1])))
        lat = np.where(np.hypot(points[:, 0], points[:, 1]) < 1e-12, np.copysign(90.0, lat), lat)
        return np.rad2deg(np.arctan2(points[:, 1], points[:, 0])), lat

    def centres(self) -> Corners:
        """Longitudes and latitudes of the centres."""
        lon, lat = healpy().pix2ang(int(self.nside), self.numbers, nest=self.nested, lonlat=True)
        return np.asarray(lon), np.asarray(lat)

    def coordinates(self) -> dict[str, Any]:
        """Coordinates of a field on this grid."""
        about = {
            "grid_mapping_name": "healpix",
            "healpix_nside": int(self.nside),
            "healpix_order": "nested" if self.nested else "ring",
        }
        number = ("cell", self.numbers, {"long_name": "number of the HEALPix pixel"})
        return {**super().coordinates(), "cell": number, "crs": ((), np.int32(0), about)}


@dataclass(frozen=True, eq=False)
class Cells(CellGrid):
    """Cells of any shape, given by their corners: an unstructured mesh.

    Parameters
    ----------
    lon, lat : (cells, corners) array
        Degrees, in order round each cell. Cells with fewer corners repeat the last one, or end with NaN.
    centre_lon, centre_lat : (cells,) array, optional
        By default the means of the corners.
    """

    lon: ArrayLike
    lat: ArrayLike
    centre_lon: ArrayLike | None = field(default=None, repr=False)
    centre_lat: ArrayLike | None = field(default=None, repr=False)

    def __post_init__(self) -> None:
        lon, lat = np.array(self.lon, dtype=np.float64), np.array(self.lat, dtype=np.float64)
        if lon.shape != lat.shape or lon.ndim != 2 or lon.shape[0] < 1 or lon.shape[1] < 3:
            raise GridError(f"cells: corners have the shapes {lon.shape} and {lat.shape}; give (cells, 3 or more) both")
        gone = np.isnan(lon) | np.isnan(lat)
        few = (~gone).sum(axis=1) < 3
        if few.any() or gone[:, 0].any():
            raise GridError(f"cells: {int((few | gone[:, 0]).sum())} cells have fewer than three corners")
        for k in range(1, lon.shape[1]):  # what is missing repeats the corner before it
            lon[:, k], lat[:, k] = (np.where(gone[:, k], each[:, k - 1], each[:, k]) for each in (lon, lat))
        if not np.isfinite(lon).all() or np.abs(lon).max() > 720:
            raise GridError("cells: longitudes of corners must be finite degrees")
        check_latitudes(lat, "cells")
        check_count(len(lon))
        object.__setattr__(self, "lon", lon)
        object.__setattr__(self, "lat", lat)

    @classmethod
    def from_mesh(cls, ds: xr.Dataset) -> Cells:
        """Return the cells of a mesh in UGRID (``face_node_connectivity``) or SCRIP (``grid_corner_lat``) form.

        Raises
        ------
        GridError
            If the Dataset is neither.
        """
        if {"grid_corner_lat", "grid_corner_lon"} <= set(ds.variables):
            lon, lat = (degrees(ds[f"grid_corner_{axis}"]) for axis in ("lon", "lat"))
            return cls(lon, lat)
        for mesh in ds.variables.values():
            if mesh.attrs.get("cf_role") == "mesh_topology" and "face_node_connectivity" in mesh.attrs:
                x, y = sorted(str(mesh.attrs.get("node_coordinates", "")).split(), key=lambda n: "lat" in n.lower())
                return cls(*faces(ds[mesh.attrs["face_node_connectivity"]], degrees(ds[x]), degrees(ds[y])))
        raise GridError(
            "the Dataset is not a mesh: SCRIP has grid_corner_lat and grid_corner_lon, UGRID a variable with cf_role "
            "mesh_topology and face_node_connectivity"
        )

    @property
    def shape(self) -> tuple[int]:
        """Number of cells."""
        return (len(np.asarray(self.lon)),)

    @cached_property
    def key(self) -> str:
        """Text that differs between grids with other cells."""
        both = np.asarray(self.lon).tobytes() + np.asarray(self.lat).tobytes()
        return f"cells {self.shape[0]} {hashlib.sha256(both).hexdigest()}"

    @cached_property
    def bounds(self) -> tuple[float, float, float, float]:
        """West, south, east and north of a region that has all cells."""
        return bounds_of(np.asarray(self.lon), np.asarray(self.lat))

    def corners(self, first: int, stop: int) -> Corners:
        """Longitudes and latitudes of the corners of some cells."""
        return np.asarray(self.lon)[first:stop], np.asarray(self.lat)[first:stop]

    def centres(self) -> Corners:
        """Longitudes and latitudes of the centres."""
        if self.centre_lon is not None and self.centre_lat is not None:
            return np.asarray(self.centre_lon, np.float64), np.asarray(self.centre_lat, np.float64)
        lon, lat = (np.deg2rad(each) for each in self.corners(0, self.count))
        x, y, z = (np.cos(lat) * np.cos(lon)).mean(1), (np.cos(lat) * np.sin(lon)).mean(1), np.sin(lat).mean(1)
        return np.rad2deg(np.arctan2(y, x)), np.rad2deg(np.arctan2(z, np.hypot(x, y)))


AnyGrid = Region | CellGrid
GridLike = AnyGrid | tuple[float, float, float, float] | Literal["globe"]


def as_grid(grid: Any) -> AnyGrid:
    """Return a grid from what a caller gives: one of this module, or west, south, east and north of a region."""
    if isinstance(grid, Region | CellGrid):
        return grid
    if isinstance(grid, str) and grid == "globe":
        return Region(*GLOBE)
    if isinstance(grid, tuple | list) and len(grid) == 4:
        return Region(*grid)
    raise GridError(
        f"grid={shown(grid)}: give west, south, east and north of a region, or a grid of xland.coupling.grids: Region, "
        "Regular, Gaussian, HEALPix or Cells"
    )


def rectangles(west: Any, east: Any, north: Any, south: Any) -> Corners:
    """Corners of cells between meridians and parallels."""
    return np.stack([west, east, east, west], axis=1), np.stack([north, north, south, south], axis=1)


def check_latitudes(lat: NDArray[np.float64], what: str) -> None:
    """Refuse latitudes off the globe."""
    wrong = ~(np.abs(lat) <= 90 + 1e-9)
    if wrong.any():
        raise GridError(f"{what}: {int(wrong.sum())} latitudes are not degrees from -90 to 90, as {lat[wrong][0]:g}")


def check_count(count: float) -> None:
    """Refuse more cells than memory has room for."""
    if count > _MOST_CELLS:
        raise GridError(f"the grid has {count:.3g} cells, more than {_MOST_CELLS}: take a coarser one, or a part of it")


def bounds_of(lon: NDArray[np.float64], lat: NDArray[np.float64]) -> tuple[float, float, float, float]:
    """Return a region that has all cells, generously: edges bulge, and cells at a pole have all longitudes."""
    reach = 2 * np.abs((lon - lon[:, :1] + 180) % 360 - 180).max()
    reach = max(float(np.ptp(lat, axis=1).max()), float(reach), 0.1)
    south, north = max(float(lat.min()) - reach, -90.0), min(float(lat.max()) + reach, 90.0)
    places = np.sort(lon.ravel() % 360)
    gaps = np.diff(np.append(places, places[0] + 360))
    widest = int(gaps.argmax())
    if gaps[widest] <= 3 * reach or south == -90 or north == 90:
        return -180.0, south, 180.0, north
    west = float(places[(widest + 1) % places.size])
    return west - reach, south, west + 360 - float(gaps[widest]) + reach, north


def degrees(array: xr.DataArray) -> NDArray[np.float64]:
    """Return coordinates in degrees, by their units."""
    values = np.asarray(array.values, dtype=np.float64)
    return np.rad2deg(values) if str(array.attrs.get("units", "")).lower().startswith("rad") else values


def faces(nodes: xr.DataArray, lon: NDArray[np.float64], lat: NDArray[np.float64]) -> Corners:
    """Corners of the faces of a mesh from the numbers of their nodes; NaN where a face has fewer."""
    numbers = np.asarray(nodes.values, dtype=np.float64)
    fill = nodes.attrs.get("_FillValue", nodes.encoding.get("_FillValue"))
    numbers = np.where(numbers == fill, np.nan, numbers) if fill is not None else numbers
    numbers = numbers - float(nodes.attrs.get("start_index", 0))
    there = ~np.isnan(numbers)
    if (numbers[there] < 0).any() or (numbers[there] >= lon.size).any():
        raise GridError(f"the mesh has faces with nodes that are not among its {lon.size}: is start_index right?")
    at = np.where(there, numbers, 0).astype(np.int64)
    return np.where(there, lon[at], np.nan), np.where(there, lat[at], np.nan)


def healpy() -> Any:
    """Import healpy."""
    try:
        import healpy as package
    except ImportError as missing:
        raise MissingDependencyError("HEALPix needs healpy: pip install healpy") from missing
    return package
