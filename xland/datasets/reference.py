"""The sources as lazy arrays, and the observed map of 2019 that models learn from and are scored against."""

from __future__ import annotations

import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import dask.array as da
import numpy as np
import xarray as xr
from numpy.typing import NDArray

from xland import vocabulary
from xland.datasets.prepared import CHUNK, create, create_coordinates, open_prepared, prepare, store_path, strips
from xland.datasets.wheels import fetch, source
from xland.errors import DatasetError
from xland.geo.grid import Grid, class_shares, nesting_factor
from xland.sources import predictors

if TYPE_CHECKING:
    import zarr

KOPPEN_ZONES: tuple[str, ...] = ("tropical", "arid", "temperate", "cold", "polar")
"""Main zones A to E of Koeppen and Geiger, codes 1 to 5."""

YEAR = 2019
"""Year of the MODIS map."""

FRACTION_FACTOR = 5
"""Fine cells along one coarse cell of :func:`class_fractions`: 0.05 to 0.25 degree."""

_PADDING = 2  # cells of padding around the topography


def elevation() -> xr.DataArray:
    """Return the height of the land surface on 5 arc-minutes, metres above sea level; 0 over sea. Dims (lat, lon)."""
    grid = Grid.world(180 / source("topography").rows)
    path = fetch("topography")
    block = da.from_delayed(_delayed(_read_topography, path, grid.shape), grid.shape, np.float32)
    return _on_world("elevation", block, "topography", {
        "standard_name": "surface_altitude", "long_name": "height of the surface above sea level", "units": "m",
    })  # fmt: skip


def land_mask() -> xr.DataArray:
    """Return land (True) and ocean (False) on 30 arc-seconds; lakes count as land. Dims (lat, lon)."""
    path = prepare(store_path("land-mask"), _build_land_mask)
    return open_prepared(path)["land"].astype(bool)


def koppen() -> xr.DataArray:
    """Return the main climate zones of Koeppen and Geiger on 30 arc-seconds: 1 to 5, 0 over sea. Dims (lat, lon)."""
    return _on_world("koppen", _open_tiff("koppen"), "koppen", {
        "long_name": "main climate zone after Koeppen and Geiger",
        "flag_values": np.arange(6, dtype=np.uint8),
        "flag_meanings": " ".join(("none", *KOPPEN_ZONES)),
    })  # fmt: skip


def modis_igbp() -> xr.DataArray:
    """Return MODIS land cover of 2019 in IGBP codes 0 to 16 on 0.05 degree. Dims (lat, lon)."""
    names = (vocabulary.IGBP_NAMES[code].replace(",", "").replace(" ", "_") for code in range(17))
    return _on_world("igbp", _open_tiff("modis-2019"), "modis-2019", {
        "long_name": "IGBP land cover class of 2019",
        "flag_values": np.arange(17, dtype=np.uint8),
        "flag_meanings": " ".join(names),
    })  # fmt: skip


def land_use_modis() -> xr.DataArray:
    """Observed land use of 2019: the eight classes on 0.05 degree, from MODIS.

    IGBP codes are translated by :data:`xland.vocabulary.IGBP`. MODIS does not tell sea from lakes: its
    water becomes ocean where less than half of a cell is land in the land mask, else inland water.

    Returns
    -------
    xarray.DataArray
        ``land_use``, uint8 class codes, dims (time, lat, lon) with the one year 2019; lazy.

    Raises
    ------
    DatasetError
        If a source cannot be fetched or fails verification.
    """
    path = prepare(store_path("land-use"), _build_land_use)
    land_use = open_prepared(path)["land_use"]
    # JSON keeps no integer types, CF wants the flags in the type of the map
    return land_use.assign_attrs(vocabulary.flag_attributes())


def class_fractions() -> xr.Dataset:
    """Shares of the eight classes in each 0.25 degree cell, from :func:`land_use_modis`.

    A coarse input made from the fine map itself: what downscaling it shows is where within a coarse
    cell each class lies, not how well coarse land-use data agree with MODIS.

    Returns
    -------
    xarray.Dataset
        One float32 variable for each name in :data:`xland.vocabulary.CLASS_NAMES`: area-weighted shares
        of the whole cell that sum to 1; dims (time, lat, lon) with the one year 2019; lazy.

    Raises
    ------
    DatasetError
        If a source cannot be fetched or fails verification.
    """
    path = prepare(store_path("fractions"), _build_fractions)
    return open_prepared(path)[list(vocabulary.CLASS_NAMES)]


def _on_world(name: str, data: Any, dataset: str, attrs: dict[str, Any]) -> xr.DataArray:
    wanted = source(dataset)
    grid = Grid.world(180 / wanted.rows)
    if data.shape != grid.shape:
        raise DatasetError(f"{wanted.members[0]} holds {data.shape} cells instead of {grid.shape}")
    coords = {
        "lat": ("lat", grid.latitude, {"standard_name": "latitude", "units": "degrees_north", "axis": "Y"}),
        "lon": ("lon", grid.longitude, {"standard_name": "longitude", "units": "degrees_east", "axis": "X"}),
    }
    return xr.DataArray(data, coords, ("lat", "lon"), name, {**attrs, **wanted.attributes})


def _delayed(function: Any, *arguments: Any) -> Any:
    from dask import delayed

    return delayed(function, pure=True)(*arguments)


def _open_tiff(dataset: str) -> Any:
    """Open the one band of a GeoTIFF as a dask array in full-width strips, as the file stores its rows."""
    import rioxarray

    wanted = source(dataset)
    height = max(1, min(CHUNK, 2**24 // (2 * wanted.rows)))
    opened = rioxarray.open_rasterio(fetch(dataset), chunks={"x": -1, "y": height})
    return opened.squeeze("band", drop=True).data


def _read_topography(path: Path, shape: tuple[int, int]) -> NDArray[np.float32]:
    with np.load(path) as archive:
        padded = archive["arr_0"]
    inner = padded[_PADDING:-_PADDING, _PADDING:-_PADDING]
    if inner.shape != shape:
        raise DatasetError(f"{path.name} holds {padded.shape} cells; {shape} and {_PADDING} around them were expected")
    return np.asarray(inner, dtype=np.float32)


def _rows_of_mask(path: Path, shape: tuple[int, int], blocks: Any) -> Iterator[tuple[slice, NDArray[np.bool_]]]:
    """Read the ocean mask block by block: unpacked it takes a gigabyte."""
    with zipfile.ZipFile(path) as archive, archive.open("mask.npy") as stream:
        np.lib.format.read_magic(stream)
        found, fortran, dtype = np.lib.format.read_array_header_1_0(stream)
        if found != shape or fortran or dtype != np.dtype(bool):
            raise DatasetError(f"{path.name} holds {found} cells of {dtype}; {shape} truth values were expected")
        for rows in blocks:
            size = (rows.stop - rows.start) * shape[1]
            content = stream.read(size)
            if len(content) != size:
                raise DatasetError(f"{path.name} ends before row {rows.stop}")
            yield rows, np.frombuffer(content, dtype=bool).reshape(-1, shape[1])


def _build_land_mask(group: zarr.Group) -> None:
    wanted = source("land-mask")
    grid = Grid.world(180 / wanted.rows)
    attrs = {"long_name": "land", "standard_name": "land_binary_mask", **wanted.attributes}
    array = create(group, "land", ("lat", "lon"), grid.shape, "uint8", attrs)
    create_coordinates(group, grid)
    path = fetch("land-mask")
    for rows, ocean in _rows_of_mask(path, grid.shape, strips(grid.rows, CHUNK, "Unpacking the land mask")):
        array[rows] = (~ocean).view(np.uint8)


def _build_land_use(group: zarr.Group) -> None:
    igbp, land = modis_igbp(), land_mask()
    grid = Grid.world(180 / source("modis-2019").rows)
    factor = nesting_factor(Grid.world(180 / source("land-mask").rows), grid)
    attrs = {
        **vocabulary.flag_attributes(),
        **source("modis-2019").attributes,
        "comment": f"Observed in {YEAR}. IGBP classes translated by the table of xland.vocabulary; water is ocean "
        "where less than half of the cell is land in the land mask, else inland water.",
    }
    array = create(group, "land_use", ("time", "lat", "lon"), (1, *grid.shape), "uint8", attrs)
    create_coordinates(group, grid, (YEAR,))
    for rows in strips(grid.rows, CHUNK, "Translating MODIS land cover"):
        codes = igbp[rows].to_numpy()
        classes = vocabulary.translate(codes, vocabulary.IGBP, what=f"MODIS land cover {YEAR}")
        share = predictors.land_share(land[rows.start * factor : rows.stop * factor].to_numpy(), factor)
        classes[(classes == vocabulary.WATER) & (share < 0.5)] = vocabulary.OCEAN
        array[0, rows] = classes


def _build_fractions(group: zarr.Group) -> None:
    fine = Grid.world(180 / source("modis-2019").rows)
    coarse = fine.coarsen(FRACTION_FACTOR)
    land_use = land_use_modis()
    arrays = {}
    for chosen in vocabulary.CLASSES:
        attrs = {
            "long_name": f"share of {chosen.long_name}",
            "units": "1",
            "cell_methods": "area: mean",
            **source("modis-2019").attributes,
            "comment": f"Observed in {YEAR}: area-weighted share of the class in the 0.05 degree map of land use.",
        }
        arrays[chosen.name] = create(group, chosen.name, ("time", "lat", "lon"), (1, *coarse.shape), "float32", attrs)
    create_coordinates(group, coarse, (YEAR,))
    for rows in strips(coarse.rows, CHUNK // FRACTION_FACTOR, "Aggregating class fractions"):
        inner = slice(rows.start * FRACTION_FACTOR, rows.stop * FRACTION_FACTOR)
        codes = land_use[0, inner].to_numpy()
        area = fine.window(inner, slice(None)).cell_area()
        shares = class_shares(codes, FRACTION_FACTOR, area, len(vocabulary.CLASSES))
        for share, name in zip(shares, vocabulary.CLASS_NAMES, strict=True):
            arrays[name][0, rows] = share.astype(np.float32)
