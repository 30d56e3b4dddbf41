"""Fine class maps to coarse class shares, lazily and exactly."""

from __future__ import annotations

from typing import Any

import dask.array as da
import numpy as np
import xarray as xr
from numpy.typing import NDArray

from xland.geo.conventions import index_by
from xland.geo.grid import Grid, class_shares
from xland.geo.orientation import orient, restore
from xland.reading.variables import read_codes
from xland.vocabulary import CLASSES, check_codes


def aggregate_classes(maps: xr.DataArray, factor: int) -> xr.Dataset:
    """Area share of each class in cells of ``factor`` x ``factor`` fine cells.

    Parameters
    ----------
    maps : DataArray of class codes
        With latitude and longitude, and time if there are several; lazy arrays stay lazy.
    factor : int
        Fine cells along a coarse cell; the grid must hold whole coarse cells.

    Returns
    -------
    Dataset
        One float32 variable a class (time, lat, lon), in the caller's names and orientation. The
        shares of a cell sum to 1.

    Raises
    ------
    GridError
        If the fine cells cannot be grouped without remainder, or there are other dimensions than these.
    VocabularyError
        If the map says that its codes are those of another legend; when the shares are computed, if codes are
        unknown, fractions or NaN.
    """
    canonical, orientation = orient(read_codes(maps, what="map"), what="map")
    fine = Grid.from_centres(canonical["lat"].values, canonical["lon"].values)
    coarse = fine.coarsen(factor)
    whole = {
        dim: max(max(canonical.chunksizes.get(dim, (size,))) // factor, 1) * factor
        for dim, size in canonical.sizes.items()
        if dim in ("lat", "lon")
    }
    codes = canonical.chunk(whole).data
    leading = codes.ndim - 2
    along = (1,) * leading

    def rows(values: NDArray[np.float64]) -> da.Array:
        return da.from_array(values.reshape(*along, -1, 1), chunks=(*along, codes.chunks[-2], 1))

    values = da.map_blocks(
        _shares,
        codes,
        rows(fine.cell_area()),
        rows(fine.latitude),
        da.from_array(fine.longitude.reshape(*along, 1, -1), chunks=(*along, 1, codes.chunks[-1])),
        factor=factor,
        what="map" if maps.name is None else f"map {str(maps.name)!r}",
        dtype=np.float32,
        new_axis=0,
        chunks=(
            (len(CLASSES),),
            *codes.chunks[:leading],
            *(tuple(size // factor for size in sizes) for sizes in codes.chunks[leading:]),
        ),
        meta=np.empty((0,) * (codes.ndim + 1), np.float32),
    )
    dims = canonical.dims
    coordinates: dict[str, Any] = {
        str(name): canonical[name] for name in dims if name not in ("lat", "lon") and name in canonical.coords
    }
    coordinates |= {
        "lat": ("lat", coarse.latitude, canonical["lat"].attrs),
        "lon": ("lon", coarse.longitude, canonical["lon"].attrs),
    }
    variables = {
        each.name: (dims, values[each.code], {"long_name": f"share of {each.long_name}", "units": "1"})
        for each in CLASSES
    }
    shares = restore(xr.Dataset(variables, coordinates), orientation)
    if "time" not in orientation.names:
        return shares
    # years beside dates: what one can select the maps by
    along = [name for name in maps.coords if maps[name].dims == (orientation.names["time"].dimension,)]
    return index_by(shares.assign_coords({name: maps[name].variable for name in along}), *along)


def _shares(
    codes: NDArray[Any],
    area: NDArray[np.float64],
    latitude: NDArray[np.float64],
    longitude: NDArray[np.float64],
    *,
    factor: int,
    what: str,
) -> NDArray[np.float32]:
    known = check_codes(codes, what=what, latitude=latitude.ravel(), longitude=longitude.ravel())
    flat = known.reshape(-1, *known.shape[-2:])
    rows, columns = (size // factor for size in codes.shape[-2:])
    shares = np.empty((len(CLASSES), len(flat), rows, columns), np.float32)
    for number, each in enumerate(flat):
        shares[:, number] = class_shares(each, factor, area.ravel(), len(CLASSES))
    return shares.reshape(len(CLASSES), *codes.shape[:-2], rows, columns)
