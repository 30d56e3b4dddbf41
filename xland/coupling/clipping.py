"""Overlaps of cells of any shape with the pixels of a regular grid, exactly, on the sphere.

On the equal-area cylinder (longitude, sine of latitude) a pixel is a rectangle, and the area of a cell in it is a line
integral along the cell's edges, ``sin(latitude) d(longitude)``. Each edge is cut where it crosses rows and columns.
Within a pixel its integral is taken by Simpson's rule, whose error there is far below rounding. Edges are great circles
or, where `parallels` is set, parallels and meridians.
"""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray

from xland.compiled import compiled

_POLE = math.pi / 2 - 1e-12
_LEAST = 1e-9  # share of a pixel below which an overlap is rounding

Lines = NDArray[np.float64]


@compiled
def outline(lon: Lines, lat: Lines, parallels: bool, out: Lines) -> int:
    """Write the corners of a cell in radians, longitude unwrapped and poles drawn as lines; return their number."""
    count = 0
    for k in range(lon.size):
        if not parallels and abs(lat[k]) >= _POLE:
            for side in (-1, 1):  # a pole has the longitudes of the corners beside it
                other = (k + side) % lon.size
                if abs(lat[other]) < _POLE:
                    out[0, count], out[1, count] = lon[other], math.copysign(math.pi / 2, lat[k])
                    count += 1
        else:
            out[0, count], out[1, count] = lon[k], lat[k]
            count += 1
    if parallels or count == 0:
        return count
    for k in range(1, count):
        step = out[0, k] - out[0, k - 1]
        out[0, k] = out[0, k - 1] + step - 2 * math.pi * math.floor(step / (2 * math.pi) + 0.5)
    last = out[0, 0] - out[0, count - 1]
    turn = round((last - 2 * math.pi * math.floor(last / (2 * math.pi) + 0.5) - last) / (2 * math.pi))
    if turn != 0:  # round a pole: along it to where the outline began
        pole = math.copysign(math.pi / 2, out[1, :count].mean())
        out[0, count], out[1, count] = out[0, 0] + 2 * math.pi * turn, out[1, 0]
        out[0, count + 1], out[1, count + 1] = out[0, count], pole
        out[0, count + 2], out[1, count + 2] = out[0, 0], pole
        count += 3
    return count


@compiled
def circle(lon0: float, lat0: float, lon1: float, lat1: float) -> tuple[float, float]:
    """Return the slope and the node of a great circle: ``tan(latitude) = slope * sin(longitude - node)``."""
    x0, y0, z0 = math.cos(lat0) * math.cos(lon0), math.cos(lat0) * math.sin(lon0), math.sin(lat0)
    x1, y1, z1 = math.cos(lat1) * math.cos(lon1), math.cos(lat1) * math.sin(lon1), math.sin(lat1)
    nx, ny, nz = y0 * z1 - z0 * y1, z0 * x1 - x0 * z1, x0 * y1 - y0 * x1
    return math.hypot(nx, ny) / abs(nz), math.atan2(nx / nz, -ny / nz)


@compiled
def next_turn(after: float, node: float) -> float:
    """Return the longitude after another one at which a great circle turns to the north or south."""
    return node + math.pi / 2 + math.pi * math.ceil((after - node - math.pi / 2) / math.pi + 1e-12)


@compiled
def crossing(lat: float, slope: float, node: float, start: float, stop: float) -> float:
    """Return the longitude at which a great circle, which does not turn between two longitudes, has a latitude."""
    w = math.asin(max(-1.0, min(1.0, math.tan(lat) / slope)))
    middle = (start + stop) / 2
    around = middle - node
    around -= 2 * math.pi * math.floor(around / (2 * math.pi) + 0.5)
    if abs(around) > math.pi / 2:
        w = math.copysign(math.pi, around) - w
    return min(max(middle - around + w, start), stop)


@compiled
def add_edge(
    lon0: float, lat0: float, lon1: float, lat1: float, level: bool, west: float, north: float, step: float,
    first_row: int, first_column: int, part: Lines, below: Lines,
) -> None:  # fmt: skip
    """Add one edge: to `part` the area under it in the pixels that it crosses, to `below` its width, by column."""
    sign = 1.0
    if lon1 < lon0:
        sign, lon0, lat0, lon1, lat1 = -1.0, lon1, lat1, lon0, lat0
    if lon1 - lon0 < 1e-14:
        return
    slope, node = 0.0, lon0
    if not level:
        slope, node = circle(lon0, lat0, lon1, lat1)
    a, lat_a = lon0, lat0
    while a < lon1:
        column = math.floor((a - west) / step + 1e-10)
        b = min(west + (column + 1) * step, lon1)
        if not level:
            b = min(b, next_turn(a, node))
        if lon1 - b < 1e-14:
            b = lon1
        lat_b = lat1 if b == lon1 else (lat0 if level else math.atan(slope * math.sin(b - node)))
        row, last = math.floor((north - lat_a) / step), math.floor((north - lat_b) / step)
        j = min(max(column - first_column, 0), part.shape[1] - 1)
        while True:
            stop, lat_stop = b, lat_b
            if row != last:
                lat_stop = north - (row + (1 if last > row else 0)) * step
                stop = crossing(lat_stop, slope, node, a, b)
            i = min(max(row - first_row, 0), part.shape[0] - 1)
            bottom = math.sin(max(north - (i + first_row + 1) * step, -math.pi / 2))
            height = math.sin(lat0)
            if not level:
                within = math.sin(math.atan(slope * math.sin((a + stop) / 2 - node)))
                height = (math.sin(lat_a) + 4 * within + math.sin(lat_stop)) / 6
            part[i, j] += sign * (stop - a) * (height - bottom)
            below[i, j] += sign * (stop - a)
            a, lat_a = stop, lat_stop
            if row == last:
                break
            row += 1 if last > row else -1


@compiled
def reach(points: Lines, count: int, parallels: bool) -> tuple[float, float]:
    """Return the highest and the lowest latitude of an outline; great circles bulge beyond its corners."""
    highest, lowest = points[1, :count].max(), points[1, :count].min()
    for k in range(0 if parallels else count):
        a, b = points[:, k], points[:, (k + 1) % count]
        if abs(a[0] - b[0]) > 1e-14 and abs(abs(a[1]) + abs(b[1]) - math.pi) > 1e-12:
            left, right = (a, b) if a[0] < b[0] else (b, a)
            slope, node = circle(left[0], left[1], right[0], right[1])
            turn = next_turn(left[0], node)
            if turn < right[0]:
                bulge = math.atan(slope * math.sin(turn - node))
                highest, lowest = max(highest, bulge), min(lowest, bulge)
    return highest, lowest


@compiled
def settle(part: Lines, below: Lines, north: float, first_row: int, step: float) -> float:
    """Add to each pixel what edges in the rows above have under them; return the area of the cell, with its sign."""
    total = 0.0
    for i in range(part.shape[0]):
        bottom = math.sin(max(north - (first_row + i + 1) * step, -math.pi / 2))
        height = math.sin(min(north - (first_row + i) * step, math.pi / 2)) - bottom
        for j in range(part.shape[1]):
            if i > 0:
                part[i, j] += below[i - 1, j] * height
                below[i, j] += below[i - 1, j]
            total += part[i, j]
    return total


@compiled
def clip(
    lon: Lines, lat: Lines, parallels: bool, north: float, west: float, step: float, rows: int, columns: int,
    around: int, pixels: NDArray[np.int32], cells: NDArray[np.int32], shares: NDArray[np.float32],
) -> tuple[int, int]:  # fmt: skip
    """Write pixel, cell and share of the pixel of all overlaps; return their number, and a cell that crosses itself.

    `lon` and `lat` (cells, corners), `north`, `west` and `step` are radians. The second number is -1 if there is none.
    Returns (-2, cell) where there is no room.
    """
    found, points = 0, np.empty((2, 2 * lon.shape[1] + 3))
    for cell in range(lon.shape[0]):
        count = outline(lon[cell], lat[cell], parallels, points)
        highest, lowest = reach(points, count, parallels)
        first_row = math.floor((north - highest) / step + 1e-9)
        last_row = math.ceil((north - lowest) / step - 1e-9)
        first_column = math.floor((points[0, :count].min() - west) / step + 1e-9)
        last_column = math.ceil((points[0, :count].max() - west) / step - 1e-9)
        shape = (max(last_row - first_row, 1), max(last_column - first_column, 1))
        part, below = np.zeros(shape), np.zeros(shape)
        for k in range(count):
            a, b = points[:, k], points[:, (k + 1) % count]
            level = parallels or abs(abs(a[1]) + abs(b[1]) - math.pi) < 1e-12
            add_edge(a[0], a[1], b[0], b[1], level, west, north, step, first_row, first_column, part, below)
        total = settle(part, below, north, first_row, step)
        direction = 1.0 if total >= 0 else -1.0
        for i in range(shape[0]):
            row = first_row + i
            bottom = math.sin(max(north - (row + 1) * step, -math.pi / 2))
            pixel_area = step * (math.sin(min(north - row * step, math.pi / 2)) - bottom)
            for j in range(shape[1]):
                share = direction * part[i, j] / pixel_area if pixel_area > 0 else 0.0
                column = (first_column + j) % around
                if share < -1e-6 or share > 1 + 1e-6:
                    return found, cell
                if share > _LEAST and 0 <= row < rows and column < columns:
                    if found == pixels.size:
                        return -2, cell
                    pixels[found], cells[found], shares[found] = row * columns + column, cell, min(share, 1.0)
                    found += 1
    return found, -1


@compiled
def add_up(
    codes: NDArray[np.uint8], whole: NDArray[np.int32], pixels: NDArray[np.int32], cells: NDArray[np.int32],
    shares: NDArray[np.float32], area: Lines, total: Lines,
) -> None:  # fmt: skip
    """Add the area of each code in each cell to `total` (cells, codes)."""
    columns = codes.shape[1]
    for i in range(codes.shape[0]):
        for j in range(columns):
            cell = whole[i * columns + j]
            if cell >= 0:
                total[cell, codes[i, j]] += area[i]
    for k in range(pixels.size):
        i = pixels[k] // columns
        total[cells[k], codes[i, pixels[k] - i * columns]] += shares[k] * area[i]
