"""Observed maps: HILDA+ as released, and any GeoTIFF of class codes, as class codes on our grids.

Nothing is read when a map is opened: every block of the result reads its own window of its file,
picks the nearest cells and translates their codes. A code that the table does not know is an error
of that block, which names the file.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import xarray as xr
from numpy.typing import NDArray

from xland import vocabulary
from xland.addresses import local_path
from xland.errors import GridError, StoreError, TimeError, VocabularyError
from xland.geo.conventions import attach_crs
from xland.geo.grid import Grid
from xland.geo.orientation import XarrayObject, find_names, grid_of
from xland.geo.years import with_years, years_along
from xland.reading.variables import check_array, declared_by, unreadable
from xland.sources.mapfiles import Layer, lazy_codes, nearest_cells, open_raster
from xland.untrusted.netcdf import check_file

HILDA_VARIABLE = "LULC_states"
HILDA_FIRST_YEAR = 1899
"""Year of step 0 in files that count their steps."""

HILDA_RESOLUTION = 0.01
"""Degrees; the released grid of 0.00998837 degree is brought here."""

_YEAR_IN_NAME = re.compile(r"(?<!\d)(1[89]\d\d|2[01]\d\d)(?!\d)")
_SOURCE = "HILDA+: Winkler et al. (2021), doi 10.1038/s41467-021-22702-2"


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
    if place.is_dir():
        found, lat, lon = _hilda_folder(place)
    elif place.suffix.lower() in {".tif", ".tiff"}:
        found, lat, lon = _hilda_tiffs([place])
    else:
        found, lat, lon = _hilda_netcdf(place)
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
    translate = partial(_hilda_classes, forest=forest)
    table = vocabulary.HILDA_FOREST if forest else vocabulary.HILDA_BASE
    data = lazy_codes([_without_known(found[year], table) for year in chosen], row, column, translate)
    comment = (
        f"{'Forest (-f)' if forest else 'Base'} product, brought to {HILDA_RESOLUTION:g} degree by nearest neighbour."
    )
    land_use = _land_use(data, grid, chosen)
    return with_crs(land_use.assign_attrs(source=_SOURCE, comment=comment))


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
    layer, lat, lon = open_raster(place)
    grid, ascending, descending, start = grid_of(lat, lon, place.name)
    row = np.arange(lat.size)[:: -1 if ascending else 1]
    column = np.roll(np.arange(lon.size)[:: -1 if descending else 1], -start)
    layer = _without_known(layer, table)
    data = lazy_codes([layer], row, column, partial(_table_classes, table=dict(table)))
    land_use = _land_use(data if year is not None else data[0], grid, None if year is None else [int(year)])
    return with_crs(land_use.assign_attrs(source=place.name))


def with_crs(obj: XarrayObject) -> XarrayObject:
    """Attach the reference system (EPSG:4326), as rioxarray and, once written, GDAL understand it.

    Parameters
    ----------
    obj : Dataset or DataArray
        With the dimensions ``lat`` and ``lon`` in degrees.

    Returns
    -------
    same type
        With a scalar coordinate ``spatial_ref`` that every map refers to as its grid mapping. No
        transform is stored with it: that would be wrong as soon as a region is selected.

    Raises
    ------
    GridError
        If there is no ``lat`` or ``lon``.
    """
    absent = [dim for dim in ("lat", "lon") if dim not in obj.coords]
    if absent:
        raise GridError(f"a reference system needs coordinates lat and lon; missing: {', '.join(absent)}")
    return attach_crs(obj.assign_coords(_coordinates(obj["lat"].values, obj["lon"].values)))


def _hilda_folder(folder: Path) -> tuple[dict[int, Layer], NDArray[np.float64], NDArray[np.float64]]:
    tiffs = sorted(p for p in folder.iterdir() if p.suffix.lower() in {".tif", ".tiff"})
    states = [p for p in tiffs if "transition" not in p.name.lower()]
    if not states:
        raise StoreError(f"{folder} holds no GeoTIFF of states: give the folder of one HILDA+ product")
    return _hilda_tiffs(states)


def _hilda_tiffs(paths: list[Path]) -> tuple[dict[int, Layer], NDArray[np.float64], NDArray[np.float64]]:
    found: dict[int, Layer] = {}
    first: tuple[NDArray[np.float64], NDArray[np.float64]] | None = None
    for path in paths:
        year = _year_of(path)
        if year in found:
            raise TimeError(
                f"{Path(found[year].path).name} and {path.name} both hold {year}: keep each product in its own folder"
            )
        layer, lat, lon = open_raster(path)
        if first is None:
            first = lat, lon
        elif (
            lat.shape != first[0].shape or lon.shape != first[1].shape or lat[0] != first[0][0] or lon[0] != first[1][0]
        ):
            raise GridError(f"{path.name} is on another grid than {paths[0].name}")
        found[year] = layer
    assert first is not None  # noqa: S101 - there is at least one path
    return found, *first


def _year_of(path: Path) -> int:
    years = set(_YEAR_IN_NAME.findall(path.stem))
    if len(years) != 1:
        listed = " and ".join(sorted(years)) or "none"
        raise TimeError(f"{path.name} should name one year between 1800 and 2199; found {listed}: rename it")
    return int(years.pop())


def _hilda_netcdf(path: Path) -> tuple[dict[int, Layer], NDArray[np.float64], NDArray[np.float64]]:
    options = check_file(path)
    try:
        opened = xr.open_dataset(path, decode_times=False, mask_and_scale=False, cache=False, **options)
    except Exception as error:  # each library has errors of its own for each kind of damage
        raise unreadable(path, "NetCDF", error) from error
    with opened as ds:
        name = HILDA_VARIABLE
        if name not in ds:
            raise VocabularyError(
                f"{path.name} holds no {name} but {', '.join(map(str, ds.data_vars)) or 'nothing'}: "
                "give the file of states of HILDA+"
            )
        array = ds[name]
        lat = find_names(array, "latitude", what=path.name)
        lon = find_names(array, "longitude", what=path.name)
        if lat is None or lon is None or lat.coordinate is None or lon.coordinate is None:
            raise GridError(f"{path.name}: {name} has no latitude and longitude")
        time = find_names(array, "time", what=path.name)
        if time is None:
            years: tuple[int, ...] = (_year_of(path),)
        else:
            years = _hilda_years(ds, time.dimension, time.coordinate)
        others = {dim: size for dim, size in array.sizes.items() if dim not in (lat.dimension, lon.dimension)}
        others.pop(time.dimension if time else None, None)
        if any(size > 1 for size in others.values()):
            raise GridError(f"{path.name}: {name} has more dimensions than time, latitude and longitude: {others}")
        check_array(array, f"{path.name}: {name}", VocabularyError)
        declared = declared_by(array.variable, f"{path.name}: {name}", VocabularyError)
        found = {}
        for step, year in enumerate(years):
            place = dict.fromkeys(others, 0) | ({time.dimension: step} if time else {})
            dims = (str(lat.dimension), str(lon.dimension))
            found[year] = Layer(str(path), name, dims, tuple(place.items()), declared, ds.variables[name])
        if len(found) != len(years):
            raise TimeError(f"{path.name} holds a year twice: {len(years)} steps, {len(found)} years")
        return found, np.asarray(ds[lat.coordinate].values), np.asarray(ds[lon.coordinate].values)


def _hilda_years(ds: xr.Dataset, dimension: Any, coordinate: Any) -> tuple[int, ...]:
    steps = ds.sizes[dimension]
    if coordinate is None:
        return tuple(range(HILDA_FIRST_YEAR, HILDA_FIRST_YEAR + steps))
    time = ds[coordinate]
    counts = time.dtype.kind in "iuf" and "since" not in str(time.attrs.get("units", ""))
    if counts and float(time.max()) < steps + 1:
        return tuple(HILDA_FIRST_YEAR + int(count) for count in time.values)
    return years_along(time)


def _without_known(layer: Layer, table: Mapping[int, str]) -> Layer:
    """Leave fill values to the table that knows them as codes."""
    fills = tuple(fill for fill in layer.declared.fills if fill not in table)
    return replace(layer, declared=replace(layer.declared, fills=fills))


def _table_classes(
    codes: NDArray[Any], empty: NDArray[np.bool_], layer: Layer, table: Mapping[int, str]
) -> NDArray[np.uint8]:
    if not empty.any():
        return vocabulary.translate(codes, table, what=Path(layer.path).name)
    # any code that the table knows will do where there is no data
    classes = vocabulary.translate(np.where(empty, next(iter(table)), codes), table, what=Path(layer.path).name)
    classes[empty] = vocabulary.OCEAN
    return classes


def _hilda_classes(codes: NDArray[Any], empty: NDArray[np.bool_], layer: Layer, forest: bool) -> NDArray[np.uint8]:
    table = vocabulary.HILDA_FOREST if forest else vocabulary.HILDA_BASE
    try:
        return _table_classes(codes, empty, layer, table)
    except VocabularyError as error:
        kinds = sorted(set(vocabulary.HILDA_FOREST) - set(vocabulary.HILDA_BASE))
        if not forest and np.isin(codes, kinds).any():
            raise VocabularyError(
                f"{error}; 40 to 45 are kinds of forest of a -f product: open it with forest=True"
            ) from None
        raise


def _coordinates(lat: NDArray[Any], lon: NDArray[Any]) -> dict[str, Any]:
    return {
        "lat": (
            "lat",
            lat,
            {"standard_name": "latitude", "long_name": "latitude", "units": "degrees_north", "axis": "Y"},
        ),
        "lon": (
            "lon",
            lon,
            {"standard_name": "longitude", "long_name": "longitude", "units": "degrees_east", "axis": "X"},
        ),
    }


def _land_use(data: Any, grid: Grid, years: list[int] | None) -> xr.DataArray:
    coords = _coordinates(grid.latitude, grid.longitude)
    dims = ("lat", "lon") if years is None else ("time", "lat", "lon")
    land_use = xr.DataArray(data, coords, dims, "land_use", vocabulary.flag_attributes())
    return land_use if years is None else with_years(land_use.to_dataset(), years)["land_use"]
