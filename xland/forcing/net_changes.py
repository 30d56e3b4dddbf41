"""Coarse class shares from an observed map and the net changes after it."""

from __future__ import annotations

import numpy as np
import xarray as xr
from numpy.typing import NDArray

from xland.arguments import Share, checked
from xland.errors import ForcingError, GridError, TimeError
from xland.geo.conventions import with_years
from xland.geo.grid import Grid, class_shares, lay
from xland.geo.orientation import orient
from xland.reading.variables import as_map
from xland.vocabulary import CLASS_NAMES, OCEAN, check_codes


@checked(ForcingError)
def states_from_changes(
    start: xr.DataArray | xr.Dataset, changes: xr.DataArray, *, unplaced: Share = 0.05
) -> tuple[xr.Dataset, xr.DataArray]:
    """Turn an observed map and net changes in km2 into coarse class shares of the years after it.

    A class loses area in proportion to where it is, and others gain where area was lost. Land in coarse cells without
    changes, such as slivers of coast, takes part in the changes of the nearest cell that has some. The sum of all areas
    stays: if gains and losses of a cell differ, the larger side is lowered.

    Parameters
    ----------
    start : DataArray, or Dataset with ``land_use``
        Class codes of one year. It is read at once.
    changes : DataArray (time, class, lat, lon)
        Net changes in km2, as :func:`xland.sources.hilda_changes.open_changes` returns them. The first step begins with
        the year of the map.
    unplaced : float
        Largest share of all changes that may be left out: losses of classes that the map does not have there, and what
        does not balance.

    Returns
    -------
    Dataset
        Share of the cell of each class by its name, ``ocean`` among them, in the year of the map and after each step:
        a forcing for ``downscale(prior=..., totals="changes")``. The attribute ``unplaced`` is the share left out.
    DataArray
        The map with ocean around it up to the edges of whole coarse cells: the prior for it.

    Raises
    ------
    TimeError
        If the map does not say its year, or it is not the first year of the changes.
    GridError
        If cells of the map do not nest in those of the changes.
    ForcingError
        If more than `unplaced` of the changes cannot be made.
    """
    found = as_map(start, what="start map")
    first = changes.attrs.get("first_year")
    if first is None or found.years != (first,):
        raise TimeError(
            f"the changes begin in {first}, and the start map is of {found.years}: give the map of that year"
        )
    steps, orientation = orient(changes, what="changes")
    coarse, own = orientation.grid, found.grid
    factor = round(coarse.resolution / own.resolution)
    fine = _whole_cells(own, coarse.resolution, factor)
    off = [(coarse.north - fine.north) / coarse.resolution, (coarse.west - fine.west) / coarse.resolution]
    uneven = abs(coarse.resolution / own.resolution / factor - 1) > 1e-4
    if uneven or max(abs(each - round(each)) for each in off) > 0.01:
        raise GridError(f"cells of the start map ({own}) do not nest in those of the changes ({coarse})")
    codes = check_codes(found.data.values[0], what="start map", latitude=own.latitude, longitude=own.longitude)
    whole = lay(codes, own, fine, OCEAN)
    target = fine.coarsen(factor)
    shares = class_shares(whole, factor, fine.cell_area(), len(CLASS_NAMES))
    area = target.cell_area()[:, None] / 1e6 * np.ones(target.shape)
    km2 = np.stack([[lay(layer, coarse, target, np.nan) for layer in step] for step in steps.values.astype(np.float64)])
    series, lost, total = [shares * area], 0.0, 0.0
    for step in km2:
        after, missed = apply_changes(series[-1], step)
        series.append(after)
        lost, total = lost + missed, total + float(np.nansum(np.abs(step)))
    share = lost / total if total else 0.0
    if share > unplaced:
        raise ForcingError(
            f"{lost:.4g} of {total:.4g} km2 of changes cannot be made ({share:.1%}): the map lacks classes where they "
            "are lost, or gains and losses differ; check that they belong together, or pass a larger unplaced="
        )
    years = [int(first), *(int(year) for year in steps["time"].values)]
    dims, values = ("time", "lat", "lon"), np.stack(series) / area
    states = {name: (dims, values[:, code].astype(np.float32), {"units": "1"}) for code, name in enumerate(CLASS_NAMES)}
    ds = xr.Dataset(states, {"time": years, "lat": target.latitude, "lon": target.longitude}, {"unplaced": share})
    prior = xr.DataArray(
        whole[None], {"time": years[:1], "lat": fine.latitude, "lon": fine.longitude}, dims, "land_use"
    )
    return with_years(ds, years), prior


def apply_changes(before: NDArray[np.float64], change: NDArray[np.float64]) -> tuple[NDArray[np.float64], float]:
    """Return the areas of classes, (classes, rows, columns), after net changes; and how much of these was left out.

    Changes are NaN in cells without data, whose land changes as the nearest cell that has data.
    """
    from scipy.ndimage import distance_transform_edt

    known = ~np.isnan(change).any(axis=0)
    if not known.any():
        raise ForcingError("the changes have no data in the region of the start map: check their coordinates")
    row, column = distance_transform_edt(~known, return_distances=False, return_indices=True)
    nearest = (row * known.shape[1] + column).ravel()
    size, classes = known.size, len(before)
    areas = before.reshape(classes, -1)
    change = np.nan_to_num(change).reshape(classes, -1)
    change[OCEAN] = 0
    there = np.stack([np.bincount(nearest, each, size) for each in areas])
    losses = np.minimum(np.maximum(-change, 0), there)
    gains = np.maximum(change, 0)
    lost, gained = losses.sum(axis=0), gains.sum(axis=0)
    moved = np.minimum(lost, gained)
    losses *= np.divide(moved, lost, out=np.zeros_like(lost), where=lost > 0)
    gains *= np.divide(moved, gained, out=np.zeros_like(gained), where=gained > 0)
    missed = float(np.abs(change).sum() - losses.sum() - gains.sum())
    rate = np.divide(losses, there, out=np.zeros_like(losses), where=there > 0)
    taken = areas * rate[:, nearest]
    part = np.divide(taken.sum(axis=0), moved[nearest], out=np.zeros(size), where=moved[nearest] > 0)
    after: NDArray[np.float64] = areas - taken + gains[:, nearest] * part
    return np.maximum(after, 0).reshape(before.shape), missed


def _whole_cells(grid: Grid, resolution: float, factor: int) -> Grid:
    """Return a grid extended to edges of coarse cells, which are counted from 90 N and 180 W."""
    top, left = (int(np.floor(each / resolution + 1e-6)) for each in (90 - grid.north, grid.west + 180))
    bottom, right = (int(np.ceil(each / resolution - 1e-6)) for each in (90 - grid.south, grid.east + 180))
    shape = (bottom - top) * factor, (right - left) * factor
    return Grid(grid.resolution, 90 - top * resolution, left * resolution - 180, *shape)
