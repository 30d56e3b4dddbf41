"""Fine class maps to coarse class shares, lazily and exactly."""

from __future__ import annotations

from typing import Any

import dask.array as da
import numpy as np
import xarray as xr
from numpy.typing import NDArray

from xland.errors import VocabularyError
from xland.grid import Grid, class_shares
from xland.orientation import orient, restore
from xland.vocabulary import CLASS_NAMES, CLASSES


def aggregate_classes(maps: xr.DataArray, factor: int) -> xr.Dataset:
    """Area share of each class in cells of ``factor`` x ``factor`` fine cells.

    Parameters
    ----------
    maps : DataArray of class codes 0..7
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
        If the fine cells cannot be grouped without remainder.
    """
    canonical, orientation = orient(maps, what="map")
    fine = Grid.from_centres(canonical["lat"].values, canonical["lon"].values)
    coarse = fine.coarsen(factor)
    codes = canonical.chunk(lat=_multiple(canonical, "lat", factor), lon=_multiple(canonical, "lon", factor)).data
    area = da.from_array(fine.cell_area()[:, None], chunks=(codes.chunks[-2], 1))
    leading = codes.ndim - 2
    shares = da.map_blocks(
        _shares,
        codes,
        area.reshape((1,) * leading + area.shape),
        factor=factor,
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
        each.name: (dims, shares[each.code], {"long_name": f"share of {each.long_name}", "units": "1"})
        for each in CLASSES
    }
    return restore(xr.Dataset(variables, coordinates), orientation)


def _shares(codes: NDArray[np.uint8], area: NDArray[np.float64], factor: int) -> NDArray[np.float32]:
    flat = codes.reshape(-1, *codes.shape[-2:])
    unknown = int((flat >= len(CLASS_NAMES)).sum())
    if unknown:
        raise VocabularyError(
            f"map: {unknown} cells hold no class code 0 to {len(CLASS_NAMES) - 1}; translate them first"
        )
    shares = np.stack([class_shares(each, factor, area.ravel(), len(CLASSES)) for each in flat], axis=1)
    return shares.reshape(len(CLASSES), *codes.shape[:-2], *shares.shape[-2:]).astype(np.float32)


def _multiple(maps: xr.DataArray, dim: str, factor: int) -> int:
    """Return a chunk size that holds whole coarse cells, close to the present one."""
    sizes = maps.chunksizes.get(dim, (maps.sizes[dim],))
    return max(max(sizes) // factor, 1) * factor
