"""Windows of map files: what a lazy block reads, from GeoTIFF and NetCDF, and which cells are nearest.

A block of the result opens its file, reads its own window, puts the rows and columns in order and
translates the codes; so that nothing but paths and numbers travels in a task graph.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import dask.array as da
import numpy as np
import xarray as xr
from dask.base import tokenize
from numpy.typing import NDArray

from xland.errors import GridError, StoreError, VocabularyError
from xland.geo.grid import Grid
from xland.reading.variables import Declared, check_array, declared_by, no_data, unreadable

_BLOCK = 1200  # cells of a block in each direction: 48 coarse cells of 0.25 degree on 0.01 degree


_PLAIN = Declared()

_DRIVER = "GTiff"
"""The one driver of GDAL that is used: others, such as that of virtual rasters, read what a file tells them to."""


@dataclass(frozen=True)
class Layer:
    """One map in a file.

    Parameters
    ----------
    path : str
    variable : str, optional
        Of a NetCDF file; None for the one band of a raster.
    values : Variable, optional
        Of a NetCDF file, lazily indexed. It was opened when the map was: opening NetCDF files in
        several threads at once crashes, while xarray locks every read of what is open.
    dims : tuple of str
        What the variable calls rows and columns.
    at : tuple of (dimension, position)
        Where the map lies along the variable's other dimensions.
    declared : Declared
        What the file says about cells without data, beside a mask.
    """

    path: str
    variable: str | None = None
    dims: tuple[str, str] = ("y", "x")
    at: tuple[tuple[Hashable, int], ...] = ()
    declared: Declared = _PLAIN
    values: xr.Variable | None = field(default=None, compare=False, repr=False)

    def read(self, rows: slice, columns: slice) -> tuple[NDArray[Any], NDArray[np.bool_]]:
        """Read the codes of a window and where there is no data, in the file's own order of rows and columns.

        Raises
        ------
        StoreError
            If the file cannot be read (any more).
        """
        try:
            return self._window(rows, columns)
        except (OSError, RuntimeError) as error:  # as rasterio and netCDF4 call it
            raise unreadable(self.path, "GeoTIFF" if self.values is None else "NetCDF", error) from error

    def _window(self, rows: slice, columns: slice) -> tuple[NDArray[Any], NDArray[np.bool_]]:
        if self.values is None:
            import rasterio
            from rasterio.enums import MaskFlags
            from rasterio.windows import Window

            window = Window(columns.start, rows.start, columns.stop - columns.start, rows.stop - rows.start)
            with rasterio.open(self.path, driver=_DRIVER) as source:
                codes = np.asarray(source.read(1, window=window))
                empty = no_data(codes, self.declared)
                if MaskFlags.per_dataset in source.mask_flag_enums[0]:  # a mask band or a .msk file
                    empty |= source.read_masks(1, window=window) == 0
                return codes, empty
        chosen = dict(self.at) | {self.dims[0]: rows, self.dims[1]: columns}
        codes = np.asarray(self.values.isel(chosen).transpose(*self.dims).values)
        if self.declared.dtype is not None:
            codes = codes.view(self.declared.dtype)
        return codes, no_data(codes, self.declared)


def open_raster(path: Path) -> tuple[Layer, NDArray[np.float64], NDArray[np.float64]]:
    """Look at a GeoTIFF of classes on latitude and longitude, without reading its values.

    Returns
    -------
    layer : Layer
    latitude, longitude : arrays
        Cell centres in the file's order, degrees.

    Raises
    ------
    StoreError
        If it does not exist or cannot be read.
    GridError
        If it is in a projection, rotated, without a reference system, counts longitude from another meridian, or has
        more than one band.
    VocabularyError
        If its values are scaled, or no whole numbers.
    """
    import rioxarray

    if not path.exists():
        raise StoreError(f"{path} does not exist")
    try:
        opened = rioxarray.open_rasterio(path, cache=False, driver=_DRIVER)
    except OSError as error:
        raise unreadable(path, "GeoTIFF", error) from error
    if not isinstance(opened, xr.DataArray):
        raise GridError(f"{path.name} holds several rasters; write the one of the classes to a file of its own")
    with opened as raster:
        if raster.sizes["band"] != 1:
            raise GridError(f"{path.name} holds {raster.sizes['band']} bands; a map of classes has one")
        crs, transform = raster.rio.crs, raster.rio.transform()
        if crs is None:
            raise GridError(f"{path.name} has no reference system: write EPSG:4326 into it if it is in degrees")
        if not crs.is_geographic:
            raise GridError(
                f"{path.name} is in the projection {crs.to_string()[:60]}: bring it to a regular grid of latitude and "
                "longitude first, for example with rio.reproject('EPSG:4326') and nearest neighbours"
            )
        if transform.b or transform.d:
            raise GridError(f"{path.name} is rotated: its rows must follow the parallels")
        said = crs.to_dict(projjson=False)
        if said.get("proj", "longlat") != "longlat" or said.get("pm", "greenwich") != "greenwich":
            raise GridError(
                f"{path.name} has the reference system {crs.to_string()[:60]}, with another pole or prime meridian: "
                "bring it to EPSG:4326 first, for example with rio.reproject and nearest neighbours"
            )
        check_array(raster, path.name, VocabularyError)
        declared = declared_by(raster.variable, path.name, VocabularyError)
        return Layer(str(path), declared=declared), np.asarray(raster["y"].values), np.asarray(raster["x"].values)


def lazy_codes(
    layers: Sequence[Layer],
    row: NDArray[np.intp],
    column: NDArray[np.intp],
    translate: Callable[[NDArray[Any], NDArray[np.bool_], Layer], NDArray[np.uint8]],
) -> da.Array:
    """Lay lazy blocks over layers of the same grid.

    Parameters
    ----------
    layers : sequence of Layer
        One for each time step.
    row, column : arrays of int
        The file's row and column for each row and column of the result.
    translate : callable
        From the codes of a window, where there is no data, and the layer to class codes; must be picklable.

    Returns
    -------
    (layers, rows, columns) dask array of uint8
    """
    return da.map_blocks(
        _read_block,
        layers=tuple(layers),
        row=row,
        column=column,
        translate=translate,
        chunks=((1,) * len(layers), _sizes(row.size), _sizes(column.size)),
        dtype=np.uint8,
        meta=np.empty((0, 0, 0), dtype=np.uint8),
        name=f"observed-{tokenize([str(layer) for layer in layers], row, column, translate, _stamps(layers))}",
    )


def _stamps(layers: Sequence[Layer]) -> list[int]:
    """When the files were written: a file that was replaced must not be taken for the old one."""
    return [Path(layer.path).stat().st_mtime_ns for layer in layers]


def _sizes(cells: int) -> tuple[int, ...]:
    return tuple(min(_BLOCK, cells - start) for start in range(0, cells, _BLOCK))


def _read_block(
    layers: tuple[Layer, ...],
    row: NDArray[np.intp],
    column: NDArray[np.intp],
    translate: Any,
    block_info: Any = None,
) -> NDArray[np.uint8]:
    (step, _), rows, columns = block_info[None]["array-location"]
    layer = layers[step]
    row, column = row[slice(*rows)], column[slice(*columns)]
    top, left = int(row.min()), int(column.min())
    codes, empty = layer.read(slice(top, int(row.max()) + 1), slice(left, int(column.max()) + 1))
    inside = np.ix_(row - top, column - left)
    return np.asarray(translate(codes[inside], empty[inside], layer))[None]


def nearest_cells(
    latitude: NDArray[np.floating[Any]], longitude: NDArray[np.floating[Any]], resolution: float, *, what: str
) -> tuple[Grid, NDArray[np.intp], NDArray[np.intp]]:
    """Find the cells of a slightly different grid that are nearest to those of the world's grid.

    Parameters
    ----------
    latitude, longitude : arrays
        Cell centres of the file, in either order of latitude; regular, with cells that differ from
        ``resolution`` by no more than half a percent.
    resolution : float
        Degrees of the cells wanted.
    what : str
        What the grid belongs to, for messages.

    Returns
    -------
    grid : Grid
        The world, or the part of its grid whose cell centres lie within the file's cells.
    rows, columns : arrays of int
        The file's row and column that is nearest to each row and column of the grid.

    Raises
    ------
    GridError
        If the file's grid is irregular, of another resolution or holds no such centre.
    """
    world = Grid.world(resolution)
    rows, north, row = _nearest(np.asarray(latitude, np.float64), world.latitude, resolution, f"{what}: latitude")
    columns, west, column = _nearest(
        np.asarray(longitude, np.float64), world.longitude, resolution, f"{what}: longitude"
    )
    return world.window(slice(north, north + rows), slice(west, west + columns)), row, column


def _nearest(
    centres: NDArray[np.float64], wanted: NDArray[np.float64], resolution: float, what: str
) -> tuple[int, int, NDArray[np.intp]]:
    if centres.size < 2 or not np.isfinite(centres).all():
        raise GridError(f"{what} needs at least two finite cell centres")
    step = (centres[-1] - centres[0]) / (centres.size - 1)
    off = np.abs(centres - (centres[0] + step * np.arange(centres.size)))
    if step == 0 or off.max() > 0.1 * abs(step):
        raise GridError(f"{what} is not evenly spaced (position {int(off.argmax())})")
    if abs(abs(step) / resolution - 1) > 5e-3:
        raise GridError(
            f"{what} has cells of {abs(step):g} degree; expected were about {resolution:g}: "
            "open other maps with open_map"
        )
    position = (wanted - centres[0]) / step
    # a global file may end a fraction of a cell inside or outside the globe
    slack = 0.5 if centres.size * abs(step) > wanted.size * resolution - 2 * resolution else 0.0
    inside = (position > -0.5 - slack) & (position < centres.size - 0.5 + slack)
    if not inside.any():
        raise GridError(
            f"{what} from {centres[0]:g} to {centres[-1]:g} holds no cell of the {resolution:g} degree grid"
        )
    first = int(inside.argmax())
    index = np.clip(np.rint(position[inside]), 0, centres.size - 1).astype(np.intp)
    return index.size, first, index
