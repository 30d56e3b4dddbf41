"""Observed maps: HILDA+ as released, and any GeoTIFF of class codes, as class codes on our grids.

Nothing is read when a map is opened: every block of the result reads its own window of its file,
picks the nearest cells and translates their codes. A code that the table does not know is an error
of that block, which names the file.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import dask.array as da
import numpy as np
import xarray as xr
from dask.base import tokenize
from numpy.typing import NDArray

from xland import vocabulary
from xland.errors import GridError, StoreError, TimeError, VocabularyError
from xland.geo.conventions import attach_crs, with_years, years_along
from xland.geo.grid import Grid, regular_step
from xland.geo.orientation import AXES, XarrayObject, find_horizontal, find_names, grid_of
from xland.paths import local_path
from xland.reading.variables import (
    Declared,
    check_array,
    declared_by,
    no_data,
    unreadable,
    with_named_reads,
    without_extra,
)
from xland.untrusted.netcdf import check_file

HILDA_VARIABLE = "LULC_states"
HILDA_FIRST_YEAR = 1899
"""Year of step 0 in files that count their steps."""

HILDA_RESOLUTION = 0.01
"""Degrees; the released grid of 0.00998837 degree is brought here."""

_YEAR_IN_NAME = re.compile(r"(?<!\d)(1[89]\d\d|2[01]\d\d)(?!\d)")
_SOURCE = "HILDA+: Winkler et al. (2021), doi 10.1038/s41467-021-22702-2"
_BLOCK = 1200  # cells of a block in each direction: 48 coarse cells of 0.25 degree on 0.01 degree

_TIFFS = {".tif", ".tiff"}
DRIVER = "GTiff"
"""The one driver of GDAL that is used: others, such as that of virtual rasters, read what a file tells them to."""


@dataclass(frozen=True)
class _Codes:
    """One map in a file: its codes, lazily indexed, ``(rows, columns)``, and what the file says about no data."""

    path: Path
    values: xr.Variable
    declared: Declared


_Axis = NDArray[np.float64]  # cell centres in the file's order, degrees


def open_hilda(path: str | Path, years: Iterable[int] | None = None, forest: bool = False) -> xr.DataArray:
    """Open HILDA+ land use as released: lazily, on 0.01 degree.

    Parameters
    ----------
    path : path
        The NetCDF file (``LULC_states``; time holds years, or counts steps since 1899), one GeoTIFF, or a
        folder of GeoTIFFs on latitude and longitude, one a year, with the year in their names. Files of
        transitions in the folder are left alone.
    years : iterable of int, optional
        The years wanted, in that order; by default all, ascending.
    forest : bool
        Whether this is a ``-f`` product, with six kinds of forest (40 to 45). In the base product 44 is
        all forest and the other five are unknown.

    Returns
    -------
    xarray.DataArray
        ``land_use``: uint8 class codes 0 to 7, dims (time, lat, lon) with years along time, on the
        world's 0.01 degree grid or the part of it that a regional file covers. Each cell has the class
        of the nearest cell of the file. Declared fill values are 0, as are ocean and no data.

    Raises
    ------
    StoreError
        If it does not exist or cannot be read.
    TimeError
        If a year is missing, given twice or not said by the files.
    GridError
        If the files are not on latitude and longitude, or on another resolution than HILDA+.
    VocabularyError
        When computed: codes that the product does not have, with the file's name.

    Notes
    -----
    Codes: Winkler et al. (2021), doi 10.1038/s41467-021-22702-2.
    """
    place = local_path(path, what="a HILDA+ product")
    if not place.exists():
        raise StoreError(f"{place} does not exist: give the HILDA+ NetCDF file or the folder of its GeoTIFFs")
    is_raster = place.is_dir() or place.suffix.lower() in _TIFFS
    found, lat, lon = _hilda_rasters(place) if is_raster else _hilda_netcdf(place)
    chosen = sorted(found) if years is None else [int(year) for year in years]
    missing = sorted(set(chosen) - set(found))
    if missing or not chosen:
        raise TimeError(
            f"{place.name}: no map of {', '.join(map(str, missing)) or 'any year'}; "
            f"it holds {len(found)} years from {min(found)} to {max(found)}"
        )
    if len(set(chosen)) != len(chosen):
        raise TimeError(f"years= names a year twice: {chosen}")
    grid, row, column = nearest_cells(lat, lon, HILDA_RESOLUTION, what=place.name)
    table = vocabulary.HILDA_FOREST if forest else vocabulary.HILDA_BASE
    data = _lazy([found[year] for year in chosen], row, column, table)
    product = "Forest (-f)" if forest else "Base"
    comment = f"{product} product, brought to {HILDA_RESOLUTION:g} degree by nearest neighbour."
    return _land_use(data, grid, chosen, source=_SOURCE, comment=comment)


def open_map(path: str | Path, table: Mapping[int, str] = vocabulary.IGBP, year: int | None = None) -> xr.DataArray:
    """Open a GeoTIFF of class codes on a regular latitude/longitude grid, lazily.

    Parameters
    ----------
    path : path
        A GeoTIFF with one band of integers.
    table : mapping of int to class name
        What the codes mean, for example :data:`xland.vocabulary.IGBP`.
    year : int, optional
        Calendar year of the map.

    Returns
    -------
    xarray.DataArray
        ``land_use``: uint8 class codes, dims (lat, lon), north first and on the file's own cells; with
        ``year`` dims (time, lat, lon). Cells of the declared no-data value are 0 unless the table knows it.

    Raises
    ------
    StoreError
        If it does not exist or cannot be read.
    GridError
        If the file is in a projection, rotated, without a reference system, has more than one band, or
        has cells that are not square in degrees.
    VocabularyError
        When computed: codes that the table does not know, with the file's name.
    """
    place = local_path(path, what="a raster")
    codes, lat, lon = _open_codes(place)
    grid, ascending, descending, start = grid_of(lat, lon, place.name)
    row = np.arange(lat.size)[:: -1 if ascending else 1]
    column = np.roll(np.arange(lon.size)[:: -1 if descending else 1], -start)
    data = _lazy([codes], row, column, table)
    years = None if year is None else [int(year)]
    return _land_use(data[0] if years is None else data, grid, years, source=place.name)


def with_crs(obj: XarrayObject) -> XarrayObject:
    """Attach the reference system (EPSG:4326), as rioxarray and, once written, GDAL understand it.

    The object has the dimensions ``lat`` and ``lon`` in degrees, or a :class:`GridError` is raised. It is returned with
    a scalar coordinate ``spatial_ref`` that every map refers to as its grid mapping. No transform is stored with it:
    that would be wrong as soon as a region is selected.
    """
    absent = [dim for dim in ("lat", "lon") if dim not in obj.coords]
    if absent:
        raise GridError(f"a reference system needs coordinates lat and lon; missing: {', '.join(absent)}")
    return attach_crs(obj.assign_coords({dim: (dim, obj[dim].values, AXES[dim]) for dim in ("lat", "lon")}))


def open_raster(path: Path, *, masked: bool | None = None) -> tuple[xr.DataArray, bool]:
    """Open a GeoTIFF on latitude and longitude lazily; say whether it is masked, by default where it has a mask."""
    import rasterio
    import rioxarray
    from rasterio.enums import MaskFlags

    if not path.exists():
        raise StoreError(f"{path} does not exist")
    try:
        if masked is None:
            with rasterio.open(path, driver=DRIVER) as source:
                masked = MaskFlags.per_dataset in source.mask_flag_enums[0]  # a mask band or a .msk file
        raster = rioxarray.open_rasterio(path, cache=False, driver=DRIVER, masked=masked)
    except OSError as error:
        raise unreadable(path, "GeoTIFF", error) from error
    if not isinstance(raster, xr.DataArray):
        raise GridError(f"{path.name} holds several rasters; write the one that is meant to a file of its own")
    _refuse_reference(raster, path.name)
    return raster, masked


def _open_codes(path: Path) -> tuple[_Codes, _Axis, _Axis]:
    raster, masked = open_raster(path)
    if raster.sizes["band"] != 1:
        raise GridError(f"{path.name} holds {raster.sizes['band']} bands; a map of classes has one")
    check_array(raster, path.name, VocabularyError)
    declared = declared_by(raster.variable, path.name, VocabularyError)
    values = with_named_reads(raster, path.name).variable.isel(band=0)
    codes = _Codes(path, values, replace(declared, masked=declared.masked or masked))
    return codes, raster["y"].values, raster["x"].values


def _refuse_reference(raster: xr.DataArray, name: str) -> None:
    """Refuse a raster that is not on latitude and longitude from Greenwich, north up; GridError says what to do."""
    crs, transform = raster.rio.crs, raster.rio.transform()
    if crs is None:
        raise GridError(f"{name} has no reference system: write EPSG:4326 into it if it is in degrees")
    if not crs.is_geographic:
        raise GridError(
            f"{name} is in the projection {crs.to_string()[:60]}: bring it to a regular grid of latitude and "
            "longitude first, for example with rio.reproject('EPSG:4326') and nearest neighbours"
        )
    if transform.b or transform.d:
        raise GridError(f"{name} is rotated: its rows must follow the parallels")
    said = crs.to_dict(projjson=False)
    if said.get("proj", "longlat") != "longlat" or said.get("pm", "greenwich") != "greenwich":
        raise GridError(
            f"{name} has the reference system {crs.to_string()[:60]}, with another pole or prime meridian: "
            "bring it to EPSG:4326 first, for example with rio.reproject and nearest neighbours"
        )


def _hilda_rasters(place: Path) -> tuple[dict[int, _Codes], _Axis, _Axis]:
    within = [each for each in place.iterdir() if "transition" not in each.name.lower()] if place.is_dir() else [place]
    paths = sorted(each for each in within if each.suffix.lower() in _TIFFS)
    if not paths:
        raise StoreError(f"{place} holds no GeoTIFF of states: give the folder of one HILDA+ product")
    found: dict[int, _Codes] = {}
    axes: list[tuple[_Axis, _Axis]] = []
    for path in paths:
        year = _year_of(path)
        if year in found:
            raise TimeError(
                f"{found[year].path.name} and {path.name} both hold {year}: keep each product in its own folder"
            )
        found[year], lat, lon = _open_codes(path)
        axes.append((lat, lon))
        if any(own.shape != first.shape or own[0] != first[0] for own, first in zip(axes[-1], axes[0], strict=True)):
            raise GridError(f"{path.name} is on another grid than {paths[0].name}")
    return found, *axes[0]


def _year_of(path: Path) -> int:
    years = set(_YEAR_IN_NAME.findall(path.stem))
    if len(years) != 1:
        listed = " and ".join(sorted(years)) or "none"
        raise TimeError(f"{path.name} should name one year between 1800 and 2199; found {listed}: rename it")
    return int(years.pop())


def _hilda_netcdf(path: Path) -> tuple[dict[int, _Codes], _Axis, _Axis]:
    options = check_file(path)
    try:
        ds = xr.open_dataset(path, decode_times=False, mask_and_scale=False, cache=False, **options)
    except Exception as error:  # each library has errors of its own for each kind of damage
        raise unreadable(path, "NetCDF", error) from error
    name = HILDA_VARIABLE
    if name not in ds:
        raise VocabularyError(
            f"{path.name} holds no {name} but {', '.join(map(str, ds.data_vars)) or 'nothing'}: "
            "give the file of states of HILDA+"
        )
    what, array = f"{path.name}: {name}", ds[name]
    time, (lat, lon) = find_names(array, "time", what=what), find_horizontal(array, what=what)
    years = (_year_of(path),) if time is None else _hilda_years(ds, time.dimension, time.coordinate)
    array = without_extra(array, [each.dimension for each in (time, lat, lon) if each], what, GridError)
    check_array(array, what, VocabularyError)
    declared = declared_by(array.variable, what, VocabularyError)
    values = with_named_reads(array, what).variable.transpose(..., lat.dimension, lon.dimension)
    steps = [values.isel({time.dimension: step}) if time else values for step in range(len(years))]
    found = {year: _Codes(path, each, declared) for year, each in zip(years, steps, strict=True)}
    if len(found) != len(years):
        raise TimeError(f"{path.name} holds a year twice: {len(years)} steps, {len(found)} years")
    return found, ds[lat.coordinate].values, ds[lon.coordinate].values


def _hilda_years(ds: xr.Dataset, dimension: Any, coordinate: Any) -> tuple[int, ...]:
    steps = ds.sizes[dimension]
    if coordinate is None:
        return tuple(range(HILDA_FIRST_YEAR, HILDA_FIRST_YEAR + steps))
    time = ds[coordinate]
    counts = time.dtype.kind in "iuf" and "since" not in str(time.attrs.get("units", ""))
    if counts and float(time.max()) < steps + 1:
        return tuple(HILDA_FIRST_YEAR + int(count) for count in time.values)
    return years_along(time)


def _lazy(
    maps: Sequence[_Codes], row: NDArray[np.intp], column: NDArray[np.intp], table: Mapping[int, str]
) -> da.Array:
    """Return the classes of maps on one grid, ``(maps, rows, columns)``, from these rows and columns of their files."""
    # fill values that the table knows as codes are codes
    fills = [tuple(fill for fill in each.declared.fills if fill not in table) for each in maps]
    maps = [replace(each, declared=replace(each.declared, fills=own)) for each, own in zip(maps, fills, strict=True)]
    # a file that was replaced must not be taken for the old one
    files = [(str(each.path), each.path.stat().st_mtime_ns, each.declared) for each in maps]
    sizes = (tuple(min(_BLOCK, n - start) for start in range(0, n, _BLOCK)) for n in (row.size, column.size))
    return da.map_blocks(
        _read_block,
        maps=tuple(maps),
        row=row,
        column=column,
        table=dict(table),
        chunks=((1,) * len(maps), *sizes),
        dtype=np.uint8,
        meta=np.empty((0, 0, 0), dtype=np.uint8),
        name=f"observed-{tokenize(files, len(maps), row, column, dict(table))}",
    )


def _read_block(
    maps: tuple[_Codes, ...],
    row: NDArray[np.intp],
    column: NDArray[np.intp],
    table: dict[int, str],
    block_info: Any = None,
) -> NDArray[np.uint8]:
    """Read the window of a block and translate its codes; there is ocean where the file has no data."""
    (step, _), rows, columns = block_info[None]["array-location"]
    row, column = row[slice(*rows)], column[slice(*columns)]
    window = [slice(int(each.min()), int(each.max()) + 1) for each in (row, column)]
    path, declared = maps[step].path, maps[step].declared
    codes = np.asarray(maps[step].values[*window].values)[np.ix_(row - window[0].start, column - window[1].start)]
    codes = codes if declared.dtype is None else codes.view(declared.dtype)
    empty = no_data(codes, declared)
    # any code that the table knows will do where there is no data
    codes = np.where(empty, next(iter(table)), codes)
    forests = set(vocabulary.HILDA_FOREST) - set(vocabulary.HILDA_BASE)
    try:
        classes = vocabulary.translate(codes, table, what=path.name)
    except VocabularyError as error:
        if table != vocabulary.HILDA_BASE or not np.isin(codes, sorted(forests)).any():
            raise
        raise VocabularyError(
            f"{error}; 40 to 45 are kinds of forest of a -f product: open it with forest=True"
        ) from None
    classes[empty] = vocabulary.OCEAN
    return classes[None]


def _land_use(data: Any, grid: Grid, years: list[int] | None, **attributes: str) -> xr.DataArray:
    dims = ("lat", "lon") if years is None else ("time", "lat", "lon")
    coords = {"lat": grid.latitude, "lon": grid.longitude}
    land_use = xr.DataArray(data, coords, dims, "land_use", {**vocabulary.flag_attributes(), **attributes})
    return with_crs(land_use if years is None else with_years(land_use.to_dataset(), years)["land_use"])


def nearest_cells(
    latitude: NDArray[Any], longitude: NDArray[Any], resolution: float, *, what: str
) -> tuple[Grid, NDArray[np.intp], NDArray[np.intp]]:
    """Find the part of the world's grid that lies within a file's cells, and the file's row and column nearest to each.

    The file's cell centres are regular, in either order, and half a percent off ``resolution`` (degrees) at most.
    """
    world = Grid.world(resolution)
    north, row = _nearest(latitude, world.latitude, resolution, f"{what}: latitude")
    west, column = _nearest(longitude, world.longitude, resolution, f"{what}: longitude")
    return world.window(slice(north, north + row.size), slice(west, west + column.size)), row, column


def _nearest(
    values: NDArray[Any], wanted: NDArray[np.float64], resolution: float, what: str
) -> tuple[int, NDArray[np.intp]]:
    centres = np.asarray(values, np.float64)
    step = regular_step(centres, what)
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
    return int(inside.argmax()), np.clip(np.rint(position[inside]), 0, centres.size - 1).astype(np.intp)
