"""Regular latitude/longitude grids: nesting, areas, exact aggregation and expansion.

A :class:`Grid` always runs from north to south and from west to east; other orders of the caller's
data are dealt with in :mod:`xland.geo.orientation`. Cell edges are ``north - i * resolution`` and
``west + j * resolution`` in degrees.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from xland.arguments import is_count
from xland.errors import GridError, RegionError

EARTH_RADIUS = 6_371_007.181
"""Radius in metres of the sphere with the Earth's surface area (authalic, WGS 84)."""

_TOLERANCE = 1e-3
"""Share of a cell by which a coordinate may be off its place: float32 coordinates need about 1e-4."""

_SINGLE = 2e-5
"""Degrees by which the distance of two float32 coordinates near 180 may be off."""


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
            If there are fewer than two cells in either direction, or the spacing is not regular
            and equal in both; the message says where.
        """
        lat = np.asarray(latitude, dtype=np.float64)
        lon = np.asarray(longitude, dtype=np.float64)
        step_lat = -_regular_step(lat, "latitude")
        step_lon = _regular_step(lon, "longitude")
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
        north = _snap(float(lat[0]) + resolution / 2, resolution, 90.0)
        west = _snap(float(lon[0]) - resolution / 2, resolution, -180.0)
        south = north - lat.size * resolution
        if north > 90 + _TOLERANCE * resolution or south < -90 - _TOLERANCE * resolution:
            raise GridError(f"latitude reaches from {south:g} to {north:g}, beyond the poles")
        if lon.size * resolution > 360 + _TOLERANCE * resolution:
            raise GridError(f"longitude spans {lon.size * resolution:g} degrees, more than the globe")
        return cls(resolution, north, west, lat.size, lon.size)

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
    def row_offset(self) -> int:
        """Rows between 90 N and the northern edge: where this grid lies on the world's lattice."""
        return round((90.0 - self.north) / self.resolution)

    @property
    def column_offset(self) -> int:
        """Columns between 180 W and the western edge."""
        return round((self.west + 180.0) / self.resolution)

    def refine(self, factor: int) -> Grid:
        """Return the grid with ``factor`` x ``factor`` cells in each cell of this one."""
        _check_factor(factor)
        return Grid(self.resolution / factor, self.north, self.west, self.rows * factor, self.columns * factor)

    def coarsen(self, factor: int) -> Grid:
        """Return the grid whose cells each hold ``factor`` x ``factor`` cells of this one."""
        _check_factor(factor)
        if self.rows % factor or self.columns % factor:
            raise GridError(
                f"{self.rows} x {self.columns} cells cannot be grouped by {factor} x {factor} without remainder"
            )
        return Grid(self.resolution * factor, self.north, self.west, self.rows // factor, self.columns // factor)

    def cell_area(self) -> NDArray[np.float64]:
        """Area of a cell in each row, in square metres, on the authalic sphere; shape ``(rows,)``."""
        edges = np.deg2rad(self.north - np.arange(self.rows + 1) * self.resolution)
        band = np.abs(np.diff(np.sin(np.clip(edges, -np.pi / 2, np.pi / 2))))
        return EARTH_RADIUS**2 * math.radians(self.resolution) * band

    def window(self, rows: slice, columns: slice) -> Grid:
        """Return the part of this grid with the given rows and columns."""
        r0, r1, _ = rows.indices(self.rows)
        c0, c1, _ = columns.indices(self.columns)
        if r1 <= r0 or c1 <= c0:
            raise RegionError(f"rows {r0}:{r1} and columns {c0}:{c1} hold no cell")
        return Grid(
            self.resolution, self.north - r0 * self.resolution, self.west + c0 * self.resolution, r1 - r0, c1 - c0
        )

    def same_as(self, other: Grid) -> bool:
        """Whether both are the same grid, within a thousandth of a cell."""
        tolerance = _TOLERANCE * self.resolution
        return (
            self.shape == other.shape
            and abs(self.north - other.north) <= tolerance
            and abs(self.west - other.west) <= tolerance
            and abs(self.south - other.south) <= tolerance
            and abs(self.east - other.east) <= tolerance
        )

    def __str__(self) -> str:
        """Say resolution, extent and size in one line."""
        return (
            f"{self.resolution:g} degree, {self.rows} x {self.columns} cells, "
            f"{self.south:g} to {self.north:g} N, {self.west:g} to {self.east:g} E"
        )


def nesting_factor(fine: Grid, coarse: Grid) -> int:
    """Return how many fine cells stand along one coarse cell, for a fine grid that covers the coarse one.

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
    rows, columns = values.shape[-2:]
    if rows % factor or columns % factor:
        raise GridError(f"{rows} x {columns} cells cannot be grouped by {factor} x {factor} without remainder")
    if weights is None:
        return _block_sum(values.astype(np.float64), factor) / factor**2
    weights = np.broadcast_to(np.asarray(weights, dtype=np.float64), values.shape)
    total = _block_sum(weights, factor)
    summed = _block_sum(values * weights, factor)
    return np.divide(summed, total, out=np.full(total.shape, np.nan), where=total > 0)


def class_shares(
    codes: NDArray[np.integer[Any]], factor: int, area: NDArray[np.float64], count: int
) -> NDArray[np.float64]:
    """Area share of each class code in blocks of ``factor`` x ``factor`` cells.

    Parameters
    ----------
    codes : (rows, columns) array of class codes
    factor : int
    area : (rows,) array
        Cell area per row.
    count : int
        Number of classes; codes are ``0 .. count - 1``.

    Returns
    -------
    (count, rows / factor, columns / factor) array of float64, summing to 1 over the first axis.
    """
    return np.stack([aggregate(codes == code, factor, area[:, None]) for code in range(count)])


def count_classes(codes: NDArray[np.integer[Any]], factor: int, count: int) -> NDArray[np.int64]:
    """Count the cells of each class code in blocks of ``factor`` x ``factor`` cells.

    Parameters
    ----------
    codes : (rows, columns) array of class codes
    factor : int
    count : int
        Number of classes; codes of ``count`` and above are not counted.

    Returns
    -------
    (count, rows / factor, columns / factor) array of int64
    """
    rows, columns = codes.shape
    if rows % factor or columns % factor:
        raise GridError(f"{rows} x {columns} cells cannot be grouped by {factor} x {factor} without remainder")
    blocks = codes.reshape(rows // factor, factor, columns // factor, factor)
    return np.stack([(blocks == code).sum(axis=(1, 3), dtype=np.int64) for code in range(count)])


def expand(values: NDArray[Any], factor: int) -> NDArray[Any]:
    """Repeat every cell of the last two axes ``factor`` times in both directions."""
    return values.repeat(factor, axis=-2).repeat(factor, axis=-1)


def _block_sum(values: NDArray[np.float64], factor: int) -> NDArray[np.float64]:
    rows, columns = values.shape[-2:]
    blocks = values.reshape(*values.shape[:-2], rows // factor, factor, columns // factor, factor)
    return np.asarray(blocks.sum(axis=(-3, -1)))


def _check_factor(factor: int) -> None:
    if not is_count(factor):
        raise GridError(f"the factor between grids must be a whole number of at least 1, not {factor!r}")


def _regular_step(centres: NDArray[np.float64], name: str) -> float:
    if centres.ndim != 1 or centres.size < 2:
        raise GridError(f"{name} needs one dimension and at least two cells, not shape {centres.shape}")
    if not np.isfinite(centres).all():
        raise GridError(f"{name} holds {int((~np.isfinite(centres)).sum())} values that are not finite")
    step = (centres[-1] - centres[0]) / (centres.size - 1)
    expected = centres[0] + step * np.arange(centres.size)
    off = np.abs(centres - expected)
    if step == 0 or off.max() > max(_TOLERANCE * abs(step) * 10, _SINGLE):
        worst = int(off.argmax())
        raise GridError(
            f"{name} is not evenly spaced: value {centres[worst]:g} at position {worst} is {off[worst]:g} degrees "
            f"from a regular step of {step:g}; duplicate, missing or unsorted coordinates?"
        )
    return float(step)


def _snap(edge: float, resolution: float, origin: float) -> float:
    """Move an edge that is a hair off the world's lattice onto it."""
    cells = (edge - origin) / resolution
    nearest = round(cells)
    return origin + nearest * resolution if abs(cells - nearest) < 20 * _TOLERANCE else edge
