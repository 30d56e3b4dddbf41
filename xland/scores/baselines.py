"""Simple maps against which the skill of a model is measured."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

import dask.array as da
import numpy as np
import xarray as xr
from numpy.typing import NDArray

from xland.errors import MissingDependencyError, ModelError, TimeError
from xland.forcing.read import read_forcing, require_dataset
from xland.geo.grid import Grid, expand
from xland.geo.split import Part, divide
from xland.geo.years import years_of
from xland.models.inputs import InputSpec
from xland.reading.variables import ClassMap
from xland.scores.agreement import of_year, on_cells
from xland.scores.frames import as_dask
from xland.vocabulary import CLASS_NAMES, LAND_CLASSES, OCEAN, OTHER, STATE_CLASSES, class_code, flag_attributes

if TYPE_CHECKING:
    from sklearn.ensemble import HistGradientBoostingClassifier


_LARGEST = 1536
"""Cells along a block in which maps are made."""


def crosswalk(
    states: Mapping[str, NDArray[Any]], factor: int, classes: Mapping[str, str] = STATE_CLASSES
) -> NDArray[np.uint8]:
    """Give every fine pixel the largest class of its coarse cell.

    Parameters
    ----------
    states : mapping of str to (rows, columns) array
        Fractions of LUH states, or of classes by name; NaN where there are no data.
    factor : int
    classes : mapping of str to str
        Name of the class that each state belongs to.

    Returns
    -------
    (rows * factor, columns * factor) array of uint8
        Ocean where there are no data; ``other`` where all shares are 0, as under ice.
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
    """Give every fine pixel the most frequent land class of the observed map in its coarse cell.

    No model that sees only coarse fractions can know more about the cell as a whole; it is the
    baseline to beat within mixed cells. Ocean where a cell holds no land.
    """
    rows, columns = observed.shape
    blocks = observed.reshape(rows // factor, factor, columns // factor, factor)
    counts = np.stack([(blocks == code).sum(axis=(1, 3)) for code in LAND_CLASSES])
    largest = np.array(LAND_CLASSES, dtype=np.uint8)[counts.argmax(axis=0)]
    return expand(np.where(counts.any(axis=0), largest, np.uint8(OCEAN)), factor)


def most_frequent(observed: NDArray[np.uint8], shape: tuple[int, int] | None = None) -> NDArray[np.uint8]:
    """Give every pixel the most frequent land class of the observed map."""
    return np.full(shape or observed.shape, LAND_CLASSES[int(_count_land(observed).argmax())], dtype=np.uint8)


def _count_land(observed: NDArray[np.uint8]) -> NDArray[np.int64]:
    return np.array([np.count_nonzero(observed == code) for code in LAND_CLASSES])


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
        ``crosswalk``, ``most frequent class`` (ocean where the crosswalk is) and ``mode of the
        observed cell``.
    """
    require_dataset(forcing)
    names = [str(name) for name in forcing.data_vars if str(name) in classes or str(name) in CLASS_NAMES]
    data = read_forcing(forcing, variables=names).data
    return maps_of_states({name: data[name].isel(time=0).data for name in names}, observed, factor, training, classes)


def maps_of_states(
    states: Mapping[str, da.Array],
    observed: xr.DataArray,
    factor: int,
    training: da.Array | NDArray[np.bool_],
    classes: Mapping[str, str] = STATE_CLASSES,
) -> dict[str, xr.DataArray]:
    """Make the maps of :func:`simple_maps` from arrays that lie on the coarse cells of the observed map.

    Parameters
    ----------
    states : mapping of str to (R, C) array
        Fractions of LUH states or of classes.
    observed, factor, training, classes
        As for :func:`simple_maps`; ``training`` may be lazy.
    """
    codes = _in_whole_cells(observed.isel(time=0), factor)
    rows, columns = (tuple(size // factor for size in sizes) for sizes in codes.chunks)
    block = {"dtype": np.uint8, "meta": np.empty((0, 0), np.uint8)}
    largest = da.map_blocks(
        _crosswalk_block,
        da.stack(list(states.values())).rechunk((-1, rows, columns)),
        tuple(states),
        factor,
        dict(classes),
        drop_axis=0,
        chunks=codes.chunks,
        **block,
    )
    frequent = _lazily_most_frequent(codes, da.asarray(training).rechunk(codes.chunks))
    maps = {
        "crosswalk": largest,
        "most frequent class": da.where(largest == OCEAN, largest, frequent),
        "mode of the observed cell": codes.map_blocks(cell_mode, factor, **block),
    }
    return {name: as_map(values, observed, "land_use") for name, values in maps.items()}


def _in_whole_cells(codes: xr.DataArray, factor: int) -> da.Array:
    """Return a map as a dask array whose chunks hold whole coarse cells and are not large."""
    lazy = codes.chunk("auto") if codes.chunks is None else codes
    sizes = (min(max(each), _LARGEST) for each in lazy.data.chunks)
    return lazy.data.rechunk(tuple(max(size // factor, 1) * factor for size in sizes))


def _crosswalk_block(
    shares: NDArray[Any], names: tuple[str, ...], factor: int, classes: Mapping[str, str]
) -> NDArray[np.uint8]:
    return crosswalk(dict(zip(names, shares, strict=True)), factor, classes)


def _lazily_most_frequent(codes: da.Array, training: da.Array) -> da.Array:
    """Return the most frequent land class of the training cells, or of the others if they hold no land."""
    counts = da.blockwise(
        _count_block,
        "yxwc",
        codes,
        "yx",
        training,
        "yx",
        new_axes={"w": 2, "c": len(LAND_CLASSES)},
        adjust_chunks={"y": lambda _: 1, "x": lambda _: 1},
        dtype=np.int64,
        meta=np.empty((0, 0, 0, 0), np.int64),
    )
    total = counts.sum(axis=(0, 1))
    return total.map_blocks(_commonest, drop_axis=(0, 1), dtype=np.uint8, meta=np.empty((), np.uint8))


def _count_block(codes: NDArray[np.uint8], training: NDArray[np.bool_]) -> NDArray[np.int64]:
    return np.stack([_count_land(codes[training]), _count_land(codes[~training])])[None, None]


def _commonest(counts: NDArray[np.int64]) -> NDArray[np.uint8]:
    inside, outside = counts
    return np.array(LAND_CLASSES[int((inside if inside.any() else outside).argmax())], dtype=np.uint8)


def persistence(maps: xr.DataArray, year: int, step: int = -1) -> xr.DataArray:
    """Copy the map of the adjacent year: what any model with a prior has to beat.

    Parameters
    ----------
    maps : DataArray
        Class codes with a time dimension of calendar years.
    year : int
        Year that the copy stands for.
    step : int
        -1 copies the year before, 1 the year after.

    Raises
    ------
    TimeError
        If the maps lack the adjacent year.
    """
    there = years_of(maps, what="observed map") or ()
    if year + step not in there:
        raise TimeError(f"persistence: no map of {year + step} to copy; there are {list(there)}")
    return maps.isel(time=[there.index(year + step)]).drop_vars("year", errors="ignore").assign_coords(time=[year])


def as_map(codes: NDArray[np.uint8] | da.Array, like: xr.DataArray, name: str) -> xr.DataArray:
    """Put an array of class codes on the grid of a map, ``lat`` and ``lon`` only."""
    template = like.isel(time=0, drop=True) if "time" in like.dims else like
    return template.copy(data=codes).rename(name).assign_attrs(flag_attributes())


def pixel_features(
    inputs: InputSpec,
    coarse: NDArray[np.float32],
    static: NDArray[np.float16],
    rows: NDArray[np.intp],
    columns: NDArray[np.intp],
) -> NDArray[np.float32]:
    """Put together what a pixel-wise model sees: the same channels as the network, without neighbours.

    Parameters
    ----------
    inputs : InputSpec
    coarse : (coarse channels, rows / factor, columns / factor) array
    static : (static channels, rows, columns) array
    rows, columns : (pixels,) arrays of int

    Returns
    -------
    (pixels, channels) array of float32
    """
    low = coarse[:, rows // inputs.factor, columns // inputs.factor]
    return np.concatenate([low, static[:, rows, columns].astype(np.float32)]).T


def fit_trees(
    features: NDArray[np.float32], target: NDArray[np.uint8], samples: int = 400_000, seed: int = 0
) -> HistGradientBoostingClassifier:
    """Fit a pixel-wise HistGradientBoosting classifier: the strongest of the simple rivals.

    Parameters
    ----------
    features : (pixels, channels) array
    target : (pixels,) array of class codes
    samples : int
        Pixels drawn at random to learn from.
    seed : int
    """
    try:
        from sklearn.ensemble import HistGradientBoostingClassifier
    except ImportError as error:
        raise MissingDependencyError("the tree baseline needs scikit-learn: pip install 'xland[trees]'") from error
    chosen = np.random.default_rng(seed).permutation(len(target))[:samples]
    return HistGradientBoostingClassifier(random_state=seed).fit(features[chosen], target[chosen])


def predict_trees(
    trees: HistGradientBoostingClassifier, features: Sequence[Any] | NDArray[np.float32]
) -> NDArray[np.uint8]:
    """Classify pixels with fitted trees."""
    return trees.predict(features).astype(np.uint8)


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
    """Sum up what :func:`xland.scores.agreement.coarse_agreement` found; None where it found nothing to compare.

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
