"""Simple maps against which the skill of a model is measured."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import dask.array as da
import numpy as np
import xarray as xr
from numpy.typing import NDArray

from xland.errors import ModelError
from xland.forcing.read import Forcing, read_forcing, require_dataset
from xland.geo.grid import expand
from xland.geo.split import Part, divide
from xland.reading.variables import ClassMap
from xland.scores.agreement import of_year, on_cells
from xland.scores.counts import BLANK, mode
from xland.scores.frames import as_dask
from xland.vocabulary import CLASS_NAMES, LAND_CLASSES, OCEAN, OTHER, STATE_CLASSES, class_code, flag_attributes

MODE = "mode of the observed cell"
"""The baseline that knows the observed map."""

_LARGEST = 1536  # cells along a block in which maps are made


def simple_maps(
    forcing: xr.Dataset,
    observed: xr.DataArray,
    factor: int,
    training: NDArray[np.bool_],
    classes: Mapping[str, str] = STATE_CLASSES,
) -> dict[str, xr.DataArray]:
    """Make the maps that need no learning, on the grid of the observed map, lazily and block by block.

    Parameters
    ----------
    forcing : Dataset
        Coarse fractions of LUH states or of classes; the first year is used.
    observed : DataArray
        Class codes (time, lat, lon) on the refined grid of the forcing; the first year is used.
    factor : int
        Fine cells along a coarse cell.
    training : (rows, columns) array of bool
        Where the most frequent class may be looked up, as long as there is land.
    classes : mapping of str to str
        Name of the class that each state belongs to.

    Returns
    -------
    dict of str to DataArray
        ``crosswalk``, the largest class of the forcing in each coarse cell; ``most frequent class`` (ocean where the
        crosswalk is); and ``mode of the observed cell``.
    """
    return _maps(_shares(forcing, classes).data, observed, factor, training, classes)


def _maps(
    shares: xr.Dataset,
    observed: xr.DataArray,
    factor: int,
    training: da.Array | NDArray[np.bool_],
    classes: Mapping[str, str],
) -> dict[str, xr.DataArray]:
    """Make the maps from the first year of fractions that lie on the coarse cells of the observed map."""
    codes = observed.isel(time=0)
    codes = codes.chunk("auto") if codes.chunks is None else codes
    sizes = (min(max(each), _LARGEST) for each in codes.data.chunks)
    codes = codes.data.rechunk(tuple(max(size // factor, 1) * factor for size in sizes))
    rows, columns = (tuple(size // factor for size in sizes) for sizes in codes.chunks)
    block = {"dtype": np.uint8, "meta": np.empty((0, 0), np.uint8)}
    names = [str(name) for name in shares.data_vars]
    largest = da.map_blocks(
        lambda values: crosswalk(dict(zip(names, values, strict=True)), factor, classes),
        da.stack([shares[name].isel(time=0).data for name in names]).rechunk((-1, rows, columns)),
        drop_axis=0,
        chunks=codes.chunks,
        **block,
    )
    frequent = _most_frequent(codes, da.asarray(training).rechunk(codes.chunks))
    maps = {
        "crosswalk": largest,
        "most frequent class": da.where(largest == OCEAN, largest, frequent),
        MODE: codes.map_blocks(cell_mode, factor, **block),
    }
    return {name: as_map(values, observed, "land_use") for name, values in maps.items()}


def baseline_maps(
    forcing: xr.Dataset, observed: ClassMap, factor: int, classes: Mapping[str, str] = STATE_CLASSES
) -> dict[str, xr.DataArray]:
    """Make :func:`simple_maps` from a forcing that may cover more than the observed map; lazily.

    ``forcing`` is one year, from :func:`pick_year`; the observed map contains whole coarse cells. Training cells are
    those of the split. Raises :class:`GridError` if coarse cells lie outside the forcing.
    """
    part, grid = on_cells(forcing, observed.grid.coarsen(factor), whole=True), observed.grid

    def training_cells(block_info: Mapping[Any, Any]) -> NDArray[np.bool_]:
        rows, columns = (slice(*ends) for ends in block_info[None]["array-location"])
        return divide(grid.window(rows, columns)) == Part.TRAIN

    training = da.map_blocks(training_cells, dtype=np.bool_, chunks=as_dask(observed.data).chunks[1:])
    return _maps(part, observed.data, factor, training, classes)


def pick_year(forcing: xr.Dataset, year: int | None, classes: Mapping[str, str] = STATE_CLASSES) -> xr.Dataset:
    """Return the states or class shares of the year of a map, in canonical form; errors as of :func:`of_year`."""
    return of_year(_shares(forcing, classes), year)


def _shares(forcing: xr.Dataset, classes: Mapping[str, str]) -> Forcing:
    require_dataset(forcing)
    return read_forcing(forcing, variables=[str(n) for n in forcing.data_vars if str(n) in {*classes, *CLASS_NAMES}])


def crosswalk(
    states: Mapping[str, NDArray[Any]], factor: int, classes: Mapping[str, str] = STATE_CLASSES
) -> NDArray[np.uint8]:
    """Give every fine pixel the largest class of its coarse cell, (rows * factor, columns * factor).

    ``states`` are fractions of LUH states, or of classes by name, NaN where there are no data. Ocean where there are no
    data; ``other`` where all shares are 0, as under ice.
    """
    shares: dict[int, NDArray[np.float64]] = {}
    for name, values in states.items():
        target = classes.get(name, name if name in CLASS_NAMES else None)
        if target is not None:
            code = class_code(target)
            shares[code] = shares.get(code, np.float64(0)) + np.asarray(values, dtype=np.float64)
    if not shares:
        raise ModelError(f"crosswalk: none of {', '.join(states)} is a LUH state or the name of a class")
    codes = np.array(sorted(shares), dtype=np.uint8)
    stacked = np.stack([shares[code] for code in codes])
    largest = codes[np.nan_to_num(stacked, nan=-1.0).argmax(axis=0)]
    # LUH2 has no share for ice and bare ground: without this they would be the first class, urban
    largest = np.where((np.nan_to_num(stacked) > 0).any(axis=0), largest, np.uint8(OTHER))
    return expand(np.where(np.isfinite(stacked).any(axis=0), largest, np.uint8(OCEAN)), factor)


def cell_mode(observed: NDArray[np.uint8], factor: int) -> NDArray[np.uint8]:
    """Give every fine pixel the most frequent land class of the observed map in its coarse cell; ocean without land.

    No model that sees only coarse fractions can know more about the cell as a whole: it is the baseline to beat within
    mixed cells.
    """
    largest = mode(np.where(np.isin(observed, LAND_CLASSES), observed, np.uint8(BLANK)), factor)
    return expand(np.where(largest == BLANK, np.uint8(OCEAN), largest), factor)


def as_map(codes: NDArray[np.uint8] | da.Array, like: xr.DataArray, name: str) -> xr.DataArray:
    """Put an array of class codes on the grid of a map, ``lat`` and ``lon`` only."""
    template = like.isel(time=0, drop=True) if "time" in like.dims else like
    return template.copy(data=codes).rename(name).assign_attrs(flag_attributes())


def _most_frequent(codes: da.Array, training: da.Array) -> da.Array:
    """Return the most frequent land class of the training cells, or of the others if they contain no land."""

    def count(block: NDArray[np.uint8], inside: NDArray[np.bool_]) -> NDArray[np.int64]:
        counts = [np.bincount(block[where], minlength=len(CLASS_NAMES)) for where in (inside, ~inside)]
        return np.stack(counts)[None, None][..., list(LAND_CLASSES)]

    def commonest(counts: NDArray[np.int64]) -> NDArray[np.uint8]:
        inside, outside = counts
        return np.array(LAND_CLASSES[int((inside if inside.any() else outside).argmax())], dtype=np.uint8)

    counts = da.blockwise(
        count,
        "yxwc",
        *(codes, "yx", training, "yx"),
        new_axes={"w": 2, "c": len(LAND_CLASSES)},
        adjust_chunks={"y": lambda _: 1, "x": lambda _: 1},
        dtype=np.int64,
        meta=np.empty((0, 0, 0, 0), np.int64),
    )
    return counts.sum(axis=(0, 1)).map_blocks(commonest, drop_axis=(0, 1), dtype=np.uint8, meta=np.empty((), np.uint8))
