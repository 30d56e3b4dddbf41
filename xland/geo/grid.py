"""Regular latitude/longitude grids: nesting, places, areas, exact aggregation and expansion.

A :class:`Grid` always runs from north to south and from west to east; :mod:`xland.geo.orientation` brings other
orders to this one. Cell edges are ``north - i * resolution`` and ``west + j * resolution`` in degrees.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any, TypeVar

import numpy as np
from numpy.typing import ArrayLike, NDArray

from xland.arguments import is_count
from xland.errors import GridError, RegionError

EARTH_RADIUS = 6_371_007.181
"""Radius in metres of the sphere with the Earth's surface area (authalic, WGS 84)."""

LATTICE_TOLERANCE = 0.01  # share of a cell by which edges may be off the lattice that counts from 90 N and 180 W
_TOLERANCE = 1e-3  # share of a cell by which a coordinate may be off its place: float32 coordinates need about 1e-4
_SINGLE = 2e-5  # degrees by which the distance of two float32 coordinates near 180 may be off

T = TypeVar("T", bound=np.generic)


@dataclass(frozen=True)
class Grid:
    """A regular latitude/longitude grid.

    Parameters
    ----------
    resolution : float
        Size of a cell in degrees, the same in both directions.
    north, west : float
        Degrees of the northern and western edge.
    rows, columns : int
        Number of cells from north to south and from west to east.
    """

    resolution: float
    north: float
    west: float
    rows: int
    columns: int

    @classmethod
    def world(cls, resolution: float) -> Grid:
        """Return the global grid from 180 W, 90 N, with cells of ``resolution`` degrees."""
        rows = round(180 / resolution)
        return cls(180 / rows, 90.0, -180.0, rows, 2 * rows)

    @classmethod
    def from_centres(cls, latitude: ArrayLike, longitude: ArrayLike) -> Grid:
        """Return the grid of descending latitudes and ascending longitudes, given as cell centres.

        Raises
        ------
        GridError
            If there are fewer than two cells in a direction, or the spacing is not regular and equal in both.
        """
        lat, lon = np.asarray(latitude, dtype=np.float64), np.asarray(longitude, dtype=np.float64)
        step_lat, step_lon = -regular_step(lat, "latitude"), regular_step(lon, "longitude")
        if step_lat <= 0 or step_lon <= 0:
            raise GridError("a grid needs latitude from north to south and longitude from west to east")
        longest = max(lat.size, lon.size)
        rounding = _SINGLE / (lat.size - 1) + _SINGLE / (lon.size - 1)
        if abs(step_lat - step_lon) > 2 * _TOLERANCE * step_lat * 10 / longest + rounding:
            raise GridError(
                f"cells are {step_lat:g} degrees of latitude by {step_lon:g} of longitude; they must be square"
            )
        step = step_lon if lon.size >= lat.size else step_lat
        nearest = round(1 / step)
        off = abs(step * nearest - 1)
        resolution = 1 / nearest if off < 1e-5 or off * step * (longest - 1) < _SINGLE else step
        if lon.size * resolution > 360 + _TOLERANCE * resolution:
            raise GridError(f"longitude spans {lon.size * resolution:g} degrees, more than the globe")
        edges = []
        for edge, origin in ((lat[0] + resolution / 2, 90.0), (lon[0] - resolution / 2, -180.0)):
            cells = float(edge - origin) / resolution
            # an edge that is almost on the world's lattice is moved onto it
            edges.append(origin + round(cells) * resolution if abs(cells - round(cells)) < 0.02 else float(edge))
        return cls(resolution, edges[0], edges[1], lat.size, lon.size)

    @property
    def south(self) -> float:
        """Degrees of the southern edge."""
        return self.north - self.rows * self.resolution

    @property
    def east(self) -> float:
        """Degrees of the eastern edge."""
        return self.west + self.columns * self.resolution

    @property
    def shape(self) -> tuple[int, int]:
        """Rows and columns."""
        return self.rows, self.columns

    @property
    def is_global(self) -> bool:
        """Whether the columns go all the way round, so that windows may cross the date line."""
        return self.columns == round(360 / self.resolution)

    @property
    def latitude(self) -> NDArray[np.float64]:
        """Latitudes of the cell centres, degrees north, descending."""
        return np.round(self.north - (np.arange(self.rows) + 0.5) * self.resolution, 10)

    @property
    def longitude(self) -> NDArray[np.float64]:
        """Longitudes of the cell centres, degrees east, ascending."""
        return np.round(self.west + (np.arange(self.columns) + 0.5) * self.resolution, 10)

    @property
    def edges(self) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        """Latitudes of the edges of the rows, descending, and longitudes of those of the columns, ascending."""
        rows, columns = np.arange(self.rows + 1.0), np.arange(self.columns + 1.0)
        return self.north - rows * self.resolution, self.west + columns * self.resolution

    @property
    def centres(self) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        """Latitudes of the rows and longitudes of the columns."""
        return self.latitude, self.longitude

    @property
    def coordinates(self) -> dict[str, tuple[str, NDArray[np.float64], dict[str, str]]]:
        """Coordinates ``lat`` and ``lon`` for xarray, with their CF attributes."""
        return {
            "lat": ("lat", self.latitude, {"standard_name": "latitude", "units": "degrees_north", "axis": "Y"}),
            "lon": ("lon", self.longitude, {"standard_name": "longitude", "units": "degrees_east", "axis": "X"}),
        }

    @property
    def corner(self) -> tuple[int, int]:
        """Rows from 90 N and columns from 180 W to the first cell: the place of this grid on the world's lattice."""
        return round((90.0 - self.north) / self.resolution), round((self.west + 180.0) / self.resolution)

    def refine(self, factor: int) -> Grid:
        """Return the grid with ``factor`` x ``factor`` cells in each cell of this one."""
        if not is_count(factor):
            raise GridError(f"the factor between grids must be a whole number of at least 1, not {factor!r}")
        return Grid(self.resolution / factor, self.north, self.west, self.rows * factor, self.columns * factor)

    def coarsen(self, factor: int) -> Grid:
        """Return the grid whose cells each hold ``factor`` x ``factor`` cells of this one."""
        if not is_count(factor) or self.rows % factor or self.columns % factor:
            raise _not_grouped(self.rows, self.columns, factor)
        return Grid(self.resolution * factor, self.north, self.west, self.rows // factor, self.columns // factor)

    def cell_area(self) -> NDArray[np.float64]:
        """Area of a cell in each row, in square metres, on the authalic sphere; shape ``(rows,)``."""
        edges = np.deg2rad(self.edges[0])
        band = np.abs(np.diff(np.sin(np.clip(edges, -np.pi / 2, np.pi / 2))))
        return EARTH_RADIUS**2 * math.radians(self.resolution) * band

    def window(self, rows: slice, columns: slice) -> Grid:
        """Return the part of this grid with the given rows and columns."""
        r0, r1, _ = rows.indices(self.rows)
        c0, c1, _ = columns.indices(self.columns)
        if r1 <= r0 or c1 <= c0:
            raise RegionError(f"rows {r0}:{r1} and columns {c0}:{c1} hold no cell")
        step = self.resolution
        return Grid(step, self.north - r0 * step, self.west + c0 * step, r1 - r0, c1 - c0)

    def same_as(self, other: Grid) -> bool:
        """Whether both are the same grid, within a thousandth of a cell."""
        sides = ("north", "west", "south", "east")
        off = max(abs(getattr(self, side) - getattr(other, side)) for side in sides)
        return self.shape == other.shape and off <= _TOLERANCE * self.resolution

    def __str__(self) -> str:
        """Say resolution, extent and size in one line."""
        return (
            f"{self.resolution:g} degree, {self.rows} x {self.columns} cells, "
            f"{self.south:g} to {self.north:g} N, {self.west:g} to {self.east:g} E"
        )


def check_centres(centres: NDArray[np.float64], name: str) -> None:
    """Refuse cell centres that are too few, not finite or duplicate, in whatever order they are."""
    if not centres.size:
        raise RegionError(
            f"{name} has the shape {centres.shape}: the selection is empty; a slice has the order of the axis, as "
            "slice(50, 40) where latitude runs from north to south"
        )
    if centres.ndim != 1 or centres.size < 2:
        raise GridError(f"{name} has the shape {centres.shape}; a grid needs one dimension of at least two cells")
    if not np.isfinite(centres).all():
        raise GridError(f"{name} holds {int((~np.isfinite(centres)).sum())} values that are not finite")
    unique, counts = np.unique(np.round(centres, 6), return_counts=True)
    if unique.size < centres.size:
        repeated = unique[counts > 1]
        raise GridError(f"{name} holds {repeated.size} duplicate values, the first is {repeated[0]:g}; drop them")


def regular_step(centres: NDArray[np.float64], name: str) -> float:
    """Return the step of evenly spaced cell centres in degrees; :class:`GridError` if they are not that."""
    check_centres(centres, name)
    step = float(centres[-1] - centres[0]) / (centres.size - 1)
    if name == "latitude" and np.abs(centres[[0, -1]]).max() + abs(step) / 2 > 90 + 0.02 * abs(step):
        raise GridError(
            f"latitude reaches {centres[np.abs(centres).argmax()]:g}, with its cells beyond the poles; if the "
            "coordinates are projected, reproject to latitude and longitude first (obj.rio.reproject('EPSG:4326'))"
        )
    wrong = np.flatnonzero(np.diff(centres) * step < 0)
    if wrong.size:
        at = int(wrong[0])
        raise GridError(f"{name} is not sorted: {centres[at]:g} is beside {centres[at + 1]:g}; sort it (sortby)")
    off = np.abs(centres - (centres[0] + step * np.arange(centres.size)))
    if off.max() > max(_TOLERANCE * abs(step) * 10, _SINGLE):
        worst = int(off.argmax())
        raise GridError(
            f"{name} is not evenly spaced: value {centres[worst]:g} at position {worst} is {off[worst]:g} degrees "
            f"from a regular step of {step:g}; are coordinates missing?"
        )
    return step


def nesting_factor(fine: Grid, coarse: Grid) -> int:
    """Return how many fine cells are along one coarse cell, for a fine grid that covers the coarse one.

    Raises
    ------
    GridError
        If the resolutions are not an integer multiple of each other, or the edges do not meet.
    """
    factor = round(coarse.resolution / fine.resolution)
    if factor < 1 or abs(coarse.resolution / fine.resolution / factor - 1) > 1e-4:
        raise GridError(
            f"{fine.resolution:g} degree cells do not nest in {coarse.resolution:g} degree cells: "
            "the coarse resolution must be a whole multiple of the fine one"
        )
    if not coarse.refine(factor).same_as(fine):
        raise GridError(
            f"the fine grid ({fine}) does not nest in the coarse grid ({coarse}): their edges must meet; "
            "select the same region of both or regrid the fine fields"
        )
    return factor


def places(part: Grid, whole: Grid) -> tuple[NDArray[np.intp], NDArray[np.intp]]:
    """Rows and columns of ``whole`` at which the cells of ``part`` are; -1 outside it, or on another lattice."""
    rows, columns = np.full(part.rows, -1), np.full(part.columns, -1)
    cells = np.array([whole.north - part.north, part.west - whole.west]) / whole.resolution
    meet = (abs(cells - np.rint(cells)) < 2 * LATTICE_TOLERANCE).all()
    if meet and abs(part.resolution / whole.resolution - 1) < 1e-4:
        rows = np.arange(part.rows) + round(cells[0])
        columns = (np.arange(part.columns) + round(cells[1])) % round(360 / whole.resolution)
    return np.where((rows < 0) | (rows >= whole.rows), -1, rows), np.where(columns >= whole.columns, -1, columns)


def lay(values: NDArray[T], own: Grid, on: Grid, empty: Any) -> NDArray[T]:
    """Bring ``(rows, columns)`` values of a grid to another part of its lattice; ``empty`` is put outside it."""
    rows, columns = places(on, own)
    laid = np.full(on.shape, empty, dtype=values.dtype)
    laid[np.ix_(rows >= 0, columns >= 0)] = values[np.ix_(rows[rows >= 0], columns[columns >= 0])]
    return laid


def aggregate(values: NDArray[Any], factor: int, weights: NDArray[Any] | None = None) -> NDArray[np.float64]:
    """Weighted mean over blocks of ``factor`` x ``factor`` cells in the last two axes.

    Parameters
    ----------
    values : (..., rows, columns) array
    factor : int
    weights : (rows, 1), (rows, columns) or (..., rows, columns) array, optional
        Weights of the fine cells, normally their area; NaN values are an error of the caller.

    Returns
    -------
    (..., rows / factor, columns / factor) array of float64
    """
    values = np.asarray(values)
    if weights is None:
        return np.asarray(_blocks(values.astype(np.float64), factor).sum(axis=(-3, -1))) / factor**2
    weights = np.broadcast_to(np.asarray(weights, dtype=np.float64), values.shape)
    total = _blocks(weights, factor).sum(axis=(-3, -1))
    summed = _blocks(values * weights, factor).sum(axis=(-3, -1))
    return np.divide(summed, total, out=np.full(total.shape, np.nan), where=total > 0)


def class_shares(
    codes: NDArray[np.integer[Any]], factor: int, area: NDArray[np.float64], count: int
) -> NDArray[np.float64]:
    """Area share of each class code in blocks of ``factor`` x ``factor`` cells.

    Parameters
    ----------
    codes : (rows, columns) array of codes from 0 to ``count - 1``
    factor, count : int
    area : (rows,) array
        Area of a cell in each row.

    Returns
    -------
    (count, rows / factor, columns / factor) array of float64, summing to 1 over the first axis
    """
    return np.stack([aggregate(codes == code, factor, area[:, None]) for code in range(count)])


def count_classes(codes: NDArray[np.integer[Any]], factor: int, count: int) -> NDArray[np.int64]:
    """Cells of each code ``0 .. count - 1`` in blocks of ``factor`` x ``factor`` cells: (count, rows, columns)."""
    blocks = _blocks(codes, factor)
    return np.stack([(blocks == code).sum(axis=(1, 3), dtype=np.int64) for code in range(count)])


def expand(values: NDArray[Any], factor: int) -> NDArray[Any]:
    """Repeat every cell of the last two axes ``factor`` times in both directions."""
    return values.repeat(factor, axis=-2).repeat(factor, axis=-1)


def _blocks(values: NDArray[Any], factor: int) -> NDArray[Any]:
    rows, columns = values.shape[-2:]
    if rows % factor or columns % factor:
        raise _not_grouped(rows, columns, factor)
    return values.reshape(*values.shape[:-2], rows // factor, factor, columns // factor, factor)


def _not_grouped(rows: int, columns: int, factor: object) -> GridError:
    return GridError(f"{rows} x {columns} cells cannot be grouped by {factor} x {factor} without remainder")
