"""Leaf area index of class maps, or of class shares, month by month: xarray and dask around plain arrays."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from itertools import pairwise
from os import PathLike
from pathlib import Path
from typing import Any

import dask.array as da
import numpy as np
import xarray as xr
from dask.base import tokenize
from numpy.typing import NDArray

from xland.arguments import checked, choose_names
from xland.biophysical.climate import Climate, Frame, check_climate, read_climate
from xland.biophysical.model import DEFAULT_MODEL, BiophysicalModel
from xland.biophysical.season import season_features
from xland.biophysical.specification import Target
from xland.errors import AllocationError, ModelError, TimeError
from xland.geo.conventions import index_by, listed
from xland.geo.grid import Grid
from xland.geo.orientation import Names, Orientation, bounds_name, orient, restore
from xland.reading.limits import Limits, ValueProblem, out_of_limits
from xland.reading.variables import map_years, read_codes, read_values
from xland.scores.frames import read_probability
from xland.store.provenance import describe_product, digest_of, identity_of, list_licences, read_publisher
from xland.vocabulary import CLASS_NAMES, LAND_CLASSES, check_codes

OUTPUTS: Mapping[str, Mapping[str, Any]] = {
    "spread": {"long_name": "standard deviation between the members of the model"},
    "outside": {
        "long_name": "whether the climate is outside of what the model has learned",
        "flag_values": np.array([0, 1], np.uint8),
        "flag_meanings": "inside outside",
    },
}
"""What can be computed beside the model's target, with CF attributes."""

_LARGEST = 1024  # cells along a block: twelve months of it take 50 MB
_SUM = 0.02  # by how much shares may miss 1: those that are stored in steps of 1/250 do
_AT_ONCE = 2**14  # cells whose season is computed together: 20 MB of predictors
_FRACTION = Limits(0.0, 1.0, fraction=True)
_DTYPES = {"outside": "uint8"}


@checked(ModelError)
def leaf_area_index(
    maps: xr.Dataset | xr.DataArray,
    *,
    model: str | Path | BiophysicalModel = DEFAULT_MODEL,
    climate: xr.Dataset | None = None,
    years: int | Sequence[int] | slice | None = None,
    outputs: str | Sequence[str] = (),
    publisher: str | PathLike[str] | None = None,
) -> xr.Dataset:
    """Turn class maps into the leaf area index of each month, lazily.

    The leaf area index of a pixel is the sum over classes of their share times the response of the class to the climate
    of the pixel's cell: see :mod:`xland.biophysical.climate`. So the index of a fine map, averaged over a cell, is that
    of the averaged shares. Nothing is read before values are asked for. The answer at a pixel does not depend on chunks
    or on the region.

    Parameters
    ----------
    maps : Dataset or DataArray
        Of a Dataset ``probability`` if it is there, else shares that have the names of the classes, as ``aggregate``
        gives them, else class codes, ``land_use``. A DataArray has shares if it has a dimension of classes, else codes.
    model : str, path or BiophysicalModel
        Name of a shipped model, or the folder of a trained one.
    climate : Dataset, optional
        Monthly ``tas`` and ``pr`` with units, see :func:`xland.biophysical.climate.read_climate`: the months of the
        years of the maps, or means of months for all maps. By default the climate of today.
    years : int, sequence of int or slice, optional
        Calendar years of the maps to take, by default all.
    outputs : str or sequence of str
        What is computed beside the leaf area index: ``spread``, the standard deviation between the members of the
        model; ``outside``, 1 where the climate is outside of what the model has learned.
    publisher : path, optional
        TOML file with the licence, institution, contact and DOI that the result states, see
        :func:`xland.store.provenance.read_publisher`.

    Returns
    -------
    Dataset
        ``lai`` (time, lat, lon), float32, in the caller's orientation: twelve months for each map, at the middle of the
        month, with the edges of the months in ``time_bnds``. ``spread`` and ``outside`` have the same dimensions.
        Water, ocean and places without vegetation are 0; NaN where all shares are. A map that does not say its year
        gives a climatology, with ``climatology_bnds`` from the first to the last year of the climate. A model with
        another target gives that, under its own name.

    Raises
    ------
    VocabularyError
        If the map says that its codes are those of another legend; when values are computed, if codes are unknown.
    AllocationError
        When values are computed, if shares are not fractions or do not sum to 1.
    ClimateError
        If units of the climate cannot be told, months are missing, or it does not cover the map; when values are
        computed, if it has no data or impossible values where there is vegetation.
    ModelError
        If there is no such model, it knows other classes, or it cannot give an output.
    TimeError
        If a year is not there, or maps or climate do not say their years.
    GridError
        If coordinates are not a grid.
    """
    trained = BiophysicalModel.load(model)
    chosen = choose_names(outputs, OUTPUTS, "outputs", ModelError) if len(outputs) else ()
    wanted = (trained.target.name, *chosen)
    if trained.classes != CLASS_NAMES:
        raise ModelError(
            f"the model {trained.name!r} knows the classes {', '.join(trained.classes)}: choose another one"
        )
    given, weather = _choose_years(read_shares(maps), years), read_climate(climate)
    if given.years == (None,) and weather.period is None:
        raise TimeError("neither map nor climate says its year: give the map one, maps.expand_dims(time=[2015])")
    about = {"map": identity_of(maps), "climate": identity_of(weather.given)}
    fingerprint = digest_of([trained.digest, about, wanted, given.years])
    arrays = _lazily(given, weather, trained, wanted, fingerprint)
    attributes = _attributes(trained.target, given.years)
    variables = {name: xr.Variable(("time", "lat", "lon"), arrays[name], attributes[name]) for name in wanted}
    coordinates = {
        "lat": ("lat", given.grid.latitude, {"standard_name": "latitude", "units": "degrees_north", "axis": "Y"}),
        "lon": ("lon", given.grid.longitude, {"standard_name": "longitude", "units": "degrees_east", "axis": "X"}),
    }
    result = _with_months(restore(xr.Dataset(variables, coordinates), given.orientation), given.years, weather)
    said = {"name": trained.name, "sha256": trained.digest, "licence": trained.licence}
    map_given = maps if isinstance(maps, xr.DataArray) else maps[[*given.names]]
    described = describe_product(
        result.assign_attrs(_origin(maps, weather)),
        title=f"{attributes[wanted[0]]['long_name'].capitalize()} on {round(given.grid.resolution, 6):g} degree",
        summary=f"{attributes[wanted[0]]['long_name'].capitalize()} of each month, computed from maps of land use and "
        f"monthly climate by the model {trained.name} of xland",
        source=str(maps.attrs.get("title") or "maps of land use"),
        model=said,
        inputs=about,
        licences=list_licences(said, {"map": map_given, "climate": weather.given}),
        publisher=read_publisher(publisher),
        extent=False,
    )
    return described.assign_attrs(xland_fingerprint=fingerprint)


@dataclass(frozen=True, eq=False)
class Shares:
    """Class codes (maps, rows, columns), or shares (maps, classes, rows, columns), in canonical order, lazily."""

    data: da.Array
    grid: Grid
    years: tuple[int | None, ...]
    orientation: Orientation
    names: tuple[str, ...]


def read_shares(maps: xr.Dataset | xr.DataArray) -> Shares:
    """Read what the class of each pixel is: codes, probabilities or shares; errors of :func:`leaf_area_index`."""
    if isinstance(maps, xr.Dataset):
        shares = [name for name in CLASS_NAMES if name in maps.data_vars]
        if "probability" in maps.data_vars:
            return _fractions(maps["probability"], ("probability",))
        if "land_use" not in maps.data_vars and shares:
            if len(shares) < len(CLASS_NAMES):
                lacks = ", ".join(name for name in CLASS_NAMES if name not in shares)
                raise AllocationError(
                    f"shares of the classes {lacks} are missing; add them, 0 where there is nothing of the class"
                )
            first = maps[shares[0]]
            layers = (read_values(maps[name], what=name, error=AllocationError) for name in CLASS_NAMES)
            # not in dask chunks, a stored variable would be read to be stacked
            stacked = xr.concat(
                [each.drop_attrs() if each.chunks else each.drop_attrs().chunk() for each in layers],
                dim="class",
                join="exact",
                coords="minimal",
                compat="override",
            )
            return _fractions(stacked.assign_attrs(first.attrs), tuple(shares))
    elif isinstance(maps, xr.DataArray) and any(str(dim) in ("class", "class_name") for dim in maps.dims):
        return _fractions(maps, (str(maps.name),))
    canonical, orientation = orient(read_codes(maps, what="map"), what="map")
    years = map_years(canonical, "map")
    if "time" not in canonical.dims:
        canonical = _in_chunks(canonical).expand_dims("time")
    data = _in_chunks(canonical).transpose("time", "lat", "lon").data
    return Shares(data, orientation.grid, years, _dated(orientation), ("land_use",))


def _fractions(shares: xr.DataArray, names: tuple[str, ...]) -> Shares:
    """Read shares along a dimension of classes."""
    frame = read_probability(shares, AllocationError)
    extra = [dim for dim in shares.dims if str(dim).startswith("class")]
    _, orientation = orient(shares.isel(dict.fromkeys(extra, 0), drop=True), what="shares")
    return Shares(frame.data.data, frame.grid, frame.years, _dated(orientation), names)


def _in_chunks(array: xr.DataArray) -> xr.DataArray:
    sizes = {dim: _LARGEST if dim in ("lat", "lon") else 1 for dim in array.dims}
    return array if array.chunks is not None else array.chunk(sizes)


def _dated(orientation: Orientation) -> Orientation:
    """Return the orientation of a result whose time is ``time``, and is the first dimension."""
    time = orientation.names.get("time")
    dims = [dim for dim in orientation.dimensions if time is None or dim != time.dimension]
    kept = {key: names for key, names in orientation.names.items() if key != "time"}
    return replace(orientation, names={"time": Names("time", "time"), **kept}, dimensions=("time", *dims))


def _choose_years(given: Shares, years: int | Sequence[int] | slice | None) -> Shares:
    """Take maps of some years; TimeError if one is not there, or maps of several steps do not say theirs."""
    known = [year for year in given.years if year is not None]
    if len(known) < len(given.years) and len(given.years) > 1:
        raise TimeError(f"the maps have {len(given.years)} time steps that do not say their years; select one")
    if years is None:
        return given
    if isinstance(years, slice):
        low, high = (default if end is None else end for end, default in ((years.start, -np.inf), (years.stop, np.inf)))
        wanted = [year for year in known if low <= year <= high]
    else:
        wanted = sorted({int(year) for year in np.atleast_1d(np.asarray(years, dtype=int))})
    missing = sorted(set(wanted) - set(known))
    if missing or not wanted:
        raise TimeError(f"there is no map of {listed(missing) or years}; the maps are of {listed(known) or 'no year'}")
    return replace(given, data=given.data[[known.index(year) for year in wanted]], years=tuple(wanted))


def _attributes(target: Target, years: tuple[int | None, ...]) -> dict[str, dict[str, Any]]:
    """Return the CF attributes of the target and the other outputs."""
    over = "time: mean within years time: mean over years" if None in years else "time: mean"
    own = {
        "standard_name": target.standard_name,
        "long_name": target.long_name or target.name,
        "units": target.units,
        "cell_methods": f"area: mean {over}",
        "valid_range": np.array([target.least, target.most], np.float32),
        "coverage_content_type": "modelResult",
    }
    about = {name: {**said, "coverage_content_type": "qualityInformation"} for name, said in OUTPUTS.items()}
    about["spread"]["units"] = target.units
    return {target.name: {key: value for key, value in own.items() if len(str(value))}, **about}


def _origin(maps: xr.Dataset | xr.DataArray, weather: Climate) -> dict[str, str]:
    """Return attributes that say from which maps and which climate a result was computed."""
    of_map = {str(key): maps.attrs[key] for key in maps.attrs if str(key) == "title" or str(key).startswith("xland_")}
    years = "" if weather.period is None else f" of {weather.period[0]} to {weather.period[1]}"
    found = {
        "keywords": "leaf area index, vegetation, land use, land cover",
        "comment": f"The climate is a mean{years}." if weather.is_mean else "The climate is that of each year.",
        "xland_map": json.dumps(of_map, default=str) if of_map else "",
        "history": str(maps.attrs.get("history", "")),
    }
    return {key: text for key, text in found.items() if text}


def _with_months(ds: xr.Dataset, years: tuple[int | None, ...], weather: Climate) -> xr.Dataset:
    """Give the months of maps their dates: the middle of each month, and its edges."""
    first, last = weather.period or (0, 0)
    spans = [(first, last) if year is None else (year, year) for year in years]
    months = np.arange(12).astype("timedelta64[M]")
    starts, ends = (
        np.concatenate([np.datetime64(f"{span[end]:04d}-01", "M") + months + end for span in spans]).astype("M8[s]")
        for end in (0, 1)
    )
    # of a climatology the middle of the months of the first year, as in the examples of CF
    edges = (starts.astype("M8[M]") + 1).astype("M8[s]")
    link = "climatology" if None in years else "bounds"
    bounds = "climatology_bnds" if None in years else bounds_name("time")
    date = {"standard_name": "time", "long_name": "time", "axis": "T"}
    of_year = np.repeat([span[0] for span in spans], 12).astype(np.int32)
    coordinates: dict[str, Any] = {
        "time": xr.Variable("time", starts + (edges - starts) // 2, date, {link: bounds}),
        bounds: xr.Variable(("time", "bnds"), np.stack([starts, ends], axis=1)),
        "month": ("time", np.tile(np.arange(1, 13, dtype=np.int32), len(spans)), {"long_name": "month of the year"}),
    }
    if None not in years:
        coordinates["year"] = ("time", of_year, {"long_name": "calendar year"})
    return index_by(ds.assign_coords(coordinates), "time", "year", "month")


# values


def _lazily(
    given: Shares, weather: Climate, model: BiophysicalModel, outputs: tuple[str, ...], fingerprint: str
) -> dict[str, da.Array]:
    """Return the outputs, (12 months of each map, rows, columns), block by block as the map has them."""
    frame, grid = weather.frame(given.grid), given.grid
    data = given.data.rechunk({0: 1, **({1: -1} if given.data.ndim == 4 else {})})
    rows, columns = (_at_most(sizes, _LARGEST) for sizes in data.chunks[-2:])
    data = data.rechunk({data.ndim - 2: rows, data.ndim - 1: columns})
    ends = [np.cumsum((0, *sizes)) for sizes in (rows, columns)]
    spans = [[slice(a, b) for a, b in pairwise(each)] for each in ends]
    down = [frame.cells(grid.latitude[span], grid.longitude[:1]).down.needed for span in spans[0]]
    across = [frame.cells(grid.latitude[:1], grid.longitude[span]).across.needed for span in spans[1]]
    # the climate that a block of the map needs is one block, also where it shares some with its neighbours
    climates = [weather.of_year(year) for year in ([None] if weather.is_mean else given.years)]
    around = da.stack(climates)[:, :, np.concatenate(down)][:, :, :, np.concatenate(across)]
    around = around.rechunk((1, 24, tuple(map(len, down)), tuple(map(len, across))))
    name = f"{model.target.name}-{tokenize(fingerprint, data.name, around.name, rows, columns)}"
    months = "t" if len(climates) == len(given.years) else "s"
    block = partial(block_outputs, frame=frame, model=model, outputs=outputs)
    arguments = [data, "tcyx" if data.ndim == 4 else "tyx", around, f"{months}myx"]
    arguments += [da.from_array(grid.latitude, (rows,)), "y", da.from_array(grid.longitude, (columns,)), "x"]
    everything = da.blockwise(
        block,
        "otyx",
        *arguments,
        name=name,
        new_axes={"o": len(outputs)},
        adjust_chunks={"t": 12},
        concatenate=True,
        align_arrays=False,
        dtype=np.float32,
        meta=np.empty((0, 0, 0, 0), np.float32),
    )
    return {each: everything[number].astype(_DTYPES.get(each, "float32")) for number, each in enumerate(outputs)}


def _at_most(sizes: Sequence[int], most: int) -> tuple[int, ...]:
    """Cut blocks along an axis that are larger into even parts."""
    found: list[int] = []
    for size in sizes:
        parts = -(-size // most)
        found += [size * (part + 1) // parts - size * part // parts for part in range(parts)]
    return tuple(found)


def block_outputs(
    shares: NDArray[Any],
    climate: NDArray[np.float32],
    latitude: NDArray[np.float64],
    longitude: NDArray[np.float64],
    *,
    frame: Frame,
    model: BiophysicalModel,
    outputs: Sequence[str],
) -> NDArray[np.float32]:
    """Compute a block of one map.

    Parameters
    ----------
    shares : (1, rows, columns) array of class codes, or (1, classes, rows, columns) array of shares
    climate : (1, 24, latitudes, longitudes) array
        At the positions of the climate that the block needs: twelve months of temperature (degrees Celsius), then of
        precipitation (mm).
    latitude, longitude : arrays
        Of the pixels, degrees, from north to south and from west to east.
    frame : Frame
    model : BiophysicalModel
    outputs : sequence of str
        The name of the model's target, and any of :data:`OUTPUTS`.

    Returns
    -------
    (outputs, 12, rows, columns) array of float32
    """
    place, cells, given = (latitude, longitude), frame.cells(latitude, longitude), shares[0]
    if given.ndim == 2:
        given = check_codes(given, what="map", latitude=latitude, longitude=longitude)
        vegetated = np.isin(given, LAND_CLASSES)
    else:
        given = checked_shares(given, place)
        vegetated = np.nan_to_num(given[[*LAND_CLASSES]]).max(axis=0) > 0
    found = np.zeros((len(outputs), 12, *vegetated.shape), dtype=np.float32)
    used = cells.any_of(vegetated)
    months = cells.interpolate(climate[0]) if used.any() else climate[0]
    if used.any():
        check_climate(months, used, cells.centres)
    height = max(1, _AT_ONCE // used.shape[1])
    for top in range(0, used.shape[0] if used.any() else 0, height):
        band = used[top : top + height]
        if not band.any():
            continue
        tas, pr = (each[:, top : top + height][:, band].T for each in (months[:12], months[12:]))
        lats = np.broadcast_to(cells.centres[0][top : top + height, None], band.shape)[band]
        features = season_features(tas, np.maximum(pr, 0), lats)
        rows = slice(*np.searchsorted(cells.rows, [top, top + len(band)]))
        # number of each pixel's cell among those of the band that are used; the last is none of them
        numbers = np.where(band, np.cumsum(band).reshape(band.shape) - 1, len(features))
        at = cells.rows[rows] - top, cells.columns
        members = model.members(features) if "spread" in outputs else model.responses(features)[None]
        for number, output in enumerate(outputs):
            if output == "outside":
                flags = model.dissimilarity(features) > model.reach.threshold
                found[number, :, rows] = np.append(flags, values=False)[numbers][np.ix_(*at)] & vegetated[rows]
            else:
                found[number, :, rows] = _of_pixels(
                    members, given[..., rows, :], numbers, at, spread=output == "spread"
                )
    if given.ndim == 3:
        found[:, :, np.isnan(given).all(axis=0)] = np.nan
    return found


def checked_shares(shares: NDArray[Any], place: tuple[NDArray[Any], NDArray[Any]]) -> NDArray[np.float32]:
    """Return shares (classes, rows, columns) that sum to 1, NaN where all are; AllocationError for others."""
    missing = np.isnan(shares)
    empty = missing.all(axis=0)
    total = shares.sum(axis=0, dtype=np.float64)
    remedy = "give shares of the whole pixel, with those of water and ocean"
    problems = [
        problem
        for name, values in zip(CLASS_NAMES, shares, strict=True)
        for problem in out_of_limits(f"share of {name}", values, _FRACTION, place)
    ]
    for bad, fault, what in (
        (missing.any(axis=0) & ~empty, "have no data for some classes", "give 0 where there is nothing of a class"),
        (np.abs(total - 1) > _SUM, f"have a sum that is not 1 (from {_ends(total)})", remedy),
    ):
        problems += [ValueProblem.at("shares", bad, place, fault, what)] if bad.any() else []
    if problems:
        raise AllocationError(problems[0].sentence)
    return np.clip(shares / np.where(empty, 1, total), 0, 1).astype(np.float32)


def _ends(values: NDArray[np.float64]) -> str:
    return f"{np.fmin.reduce(values, axis=None):g} to {np.fmax.reduce(values, axis=None):g}"


def _of_pixels(
    members: NDArray[np.float32],
    given: NDArray[Any],
    numbers: NDArray[np.intp],
    at: tuple[NDArray[np.intp], NDArray[np.intp]],
    *,
    spread: bool,
) -> NDArray[np.float32]:
    """Return the mean of the members' values (or their standard deviation) at pixels, (12, rows, columns).

    ``members`` (members, cells, 12, classes) are answers of each class; ``numbers`` (rows, columns) says which of the
    cells is where, and ``at`` the row and column that each row and column of pixels has there.
    """
    count, _, months, classes = members.shape
    table = np.concatenate([members, np.zeros((count, 1, months, classes), np.float32)], axis=1)
    rows, columns = at

    def sum_up(values: NDArray[np.float32]) -> NDArray[np.float32]:
        return np.asarray(values.std(axis=0) if spread else values.mean(axis=0))

    if given.ndim == 2:
        by_month = np.moveaxis(sum_up(table), 1, 0).reshape(months, -1)
        return np.take(by_month, numbers[np.ix_(rows, columns)] * classes + given, axis=1)
    found = np.empty((months, *given.shape[1:]), np.float32)
    shares = np.nan_to_num(given)
    for row in range(len(numbers)):
        part = slice(*np.searchsorted(rows, [row, row + 1]))
        found[:, part] = sum_up(np.einsum("acmk,krc->amrc", table[:, numbers[row, columns]], shares[:, part]))
    return found
