"""What the coarse forcing says about a fine map: baselines that need no learning, and coarse agreement."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

import dask.array as da
import numpy as np
import xarray as xr
from numpy.typing import NDArray

from xland.batches.split import Part, divide
from xland.evaluation.frames import as_dask
from xland.evaluation.placing import of_year, on_cells
from xland.forcing import read_forcing, require_dataset
from xland.grid import Grid
from xland.models.baselines import maps_of_states
from xland.reader import ClassMap
from xland.vocabulary import CLASS_NAMES, STATE_CLASSES


@dataclass(frozen=True)
class ClassAgreement:
    """How far the shares of a class in coarse cells are from those that the forcing asks for.

    Parameters
    ----------
    mean : float
        Area-weighted mean of the difference, map minus forcing: share of the area that is too much.
    mean_absolute : float
        Area-weighted mean of its absolute value.
    largest : float
        Its largest absolute value in any coarse cell.
    """

    mean: float
    mean_absolute: float
    largest: float


@dataclass(frozen=True)
class CoarseAgreement:
    """Coarse agreement of a map, summed up.

    Parameters
    ----------
    classes : dict of str to ClassAgreement
        Classes of which the forcing says how much there is.
    cells : int
        Coarse cells that were compared.
    within_a_pixel : float
        Share of them in which every class is within one fine pixel of what is asked for.
    largest : float
        Largest difference of any class in any cell, as a share of the cell.
    """

    classes: dict[str, ClassAgreement]
    cells: int
    within_a_pixel: float
    largest: float

    def to_dict(self) -> dict[str, Any]:
        """Return plain numbers for JSON."""
        return asdict(self)


def sum_up(agreement: xr.Dataset) -> CoarseAgreement | None:
    """Sum up what :func:`xland.evaluation.agreement.coarse_agreement` found; None where it found nothing to compare.

    Parameters
    ----------
    agreement : Dataset
        ``difference`` (class, lat, lon) in shares of the cell, ``largest`` and ``pixels`` (lat, lon); in memory.
    """
    largest = agreement["largest"].values
    known = np.isfinite(largest)
    if not known.any():
        return None
    area = np.broadcast_to(_area_by_row(agreement["lat"].values)[:, None], largest.shape)
    classes = {}
    for name in agreement["class"].values:
        difference = agreement["difference"].sel({"class": name}).values
        valid = np.isfinite(difference)
        if valid.any():
            values, weights = difference[valid], area[valid]
            classes[str(name)] = ClassAgreement(
                float(np.average(values, weights=weights)),
                float(np.average(np.abs(values), weights=weights)),
                float(np.abs(values).max()),
            )
    within = agreement["pixels"].values[known] <= 1 + 1e-6
    return CoarseAgreement(classes, int(known.sum()), float(within.mean()), float(largest[known].max()))


def _area_by_row(latitude: NDArray[np.float64]) -> NDArray[np.float64]:
    """Area of a cell of each row, as a multiple of any unit: the cells of a single row are all alike."""
    if latitude.size == 1:
        return np.ones(1)
    size = float(latitude[0] - latitude[-1]) / (latitude.size - 1)
    return Grid(size, float(latitude[0]) + 0.5 * size, 0.0, latitude.size, 1).cell_area()


def pick_year(forcing: xr.Dataset, year: int | None, classes: Mapping[str, str] = STATE_CLASSES) -> xr.Dataset:
    """Return the states or class shares of one year of a forcing, in canonical form.

    Parameters
    ----------
    forcing : Dataset
    year : int or None
    classes : mapping of str to str
        Name of the class that each state belongs to.

    Raises
    ------
    ForcingError
        If the forcing is no Dataset.
    TimeError
        If it holds several years, but not this one.

    Warns
    -----
    OtherYearWarning
        If it holds another year alone.
    """
    require_dataset(forcing)
    names = [str(name) for name in forcing.data_vars if str(name) in classes or str(name) in CLASS_NAMES]
    return of_year(read_forcing(forcing, variables=names), year)


def baseline_maps(
    forcing: xr.Dataset, observed: ClassMap, factor: int, classes: Mapping[str, str] = STATE_CLASSES
) -> Mapping[str, xr.DataArray]:
    """Make the maps that need no learning, on the cells of the observed map, lazily.

    Parameters
    ----------
    forcing : Dataset
        One year, from :func:`pick_year`; it may cover more than the observed map.
    observed : ClassMap
        Begins and ends at edges of coarse cells.
    factor : int
        Fine cells along a coarse cell.
    classes : mapping of str to str
        Name of the class that each state belongs to.

    Raises
    ------
    GridError
        If the observed map cannot be grouped into coarse cells, or some of them lie outside the forcing.
    """
    coarse = observed.grid.coarsen(factor)
    part = on_cells(forcing, coarse, whole=True)
    states = {str(name): part[name].isel(time=0).data for name in part.data_vars}
    codes = as_dask(observed.data)[0]
    training = da.map_blocks(_training_block, dtype=np.bool_, chunks=codes.chunks, grid=observed.grid)
    return maps_of_states(states, observed.data, factor, training, classes)


def _training_block(*, grid: Grid, block_info: Mapping[Any, Any]) -> NDArray[np.bool_]:
    rows, columns = (slice(*ends) for ends in block_info[None]["array-location"])
    return divide(grid.window(rows, columns)) == Part.TRAIN
