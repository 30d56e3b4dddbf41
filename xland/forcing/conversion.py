"""A scenario with names and cells of its own, brought to the states and cells that a model reads.

Shares are brought to other cells by area (:mod:`xland.geo.regridding`). A class of the scenario becomes one state of
LUH2, or several: in fixed parts, or in the proportions that a reference, LUH2 of some year, has in the cell.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path
from types import MappingProxyType
from typing import Any, Literal

import dask.array as da
import numpy as np
import xarray as xr
from numpy.typing import NDArray

from xland.arguments import checked, shown, unknown
from xland.errors import ForcingError, GridError, VocabularyError
from xland.forcing.read import Forcing, check_values, read_forcing, require_dataset
from xland.geo.conventions import listed, with_years
from xland.geo.grid import Grid, places
from xland.geo.orientation import find_horizontal
from xland.geo.regridding import distribute, land_within, whole_cells
from xland.paths import local_path
from xland.records import read_toml
from xland.vocabulary import CLASS_NAMES, LUH2_STATES, LUH3_STATES, LUH_SECONDARY, STATE_CLASSES

_BY_CLASS = {name: tuple(each for each in LUH2_STATES if STATE_CLASSES[each] == name) for name in CLASS_NAMES}
GROUPS: Mapping[str, tuple[str, ...]] = MappingProxyType(
    {name: states for name, states in _BY_CLASS.items() if states}
    | {"natural": (*_BY_CLASS["forest"], *_BY_CLASS["grass_shrub"])}
)
"""LUH2 states that the name of a class stands for in a mapping, and those of natural land."""

Mapped = str | Sequence[str] | Mapping[str, float] | None
_LARGEST = 2**18  # bytes of a file with a mapping
_NEAR = 8  # share of a globe, one in so many, by which it is continued where the nearest cell is looked for


Parts = dict[str, dict[str, float | None]]
"""States of each variable of a scenario, and their shares of it where these are fixed, else None."""


@checked(ForcingError)
def regrid(ds: xr.Dataset, *, resolution: float = 0.25) -> xr.Dataset:
    """Bring fractions of grid cells to cells of another size, by area; lazily, one year a task.

    Parameters
    ----------
    ds : Dataset
        Fractions on a regular grid, for example of 0.5 or 0.1 degree. All variables with latitude and longitude are
        fractions of the cell; where there is no data, all are NaN.
    resolution : float
        Size of the new cells in degrees. They are those of the world's grid that lie wholly within the old grid.

    Returns
    -------
    Dataset
        The same variables, float32, in the canonical order: ``time``, ``lat`` from north to south, ``lon`` from west to
        east. The area of each is kept. NaN is left only where a cell has no data at all; the part of a cell without
        data counts as 0.

    Raises
    ------
    ForcingError
        If a variable cannot be read; when values are computed, also if they are not fractions, sum to more than 1, or
        are NaN in some variables of a cell only.
    GridError
        If coordinates are not a regular grid, or cells of the resolution do not divide the globe.
    RegionError
        If fewer than two by two cells lie in the grid.
    """
    require_dataset(ds)
    forcing = read_forcing(ds, variables=_maps(ds))
    parts: Parts = {str(name): {str(name): 1.0} for name in _maps(ds)}
    return _lazily(forcing, parts, tuple(parts), whole_cells(forcing.grid, resolution)).assign_attrs(ds.attrs)


@checked(ForcingError)
def to_luh2(
    ds: xr.Dataset,
    mapping: Mapping[str, Mapped] | None = None,
    *,
    reference: xr.Dataset | None = None,
    resolution: float = 0.25,
    shares_of: Literal["cell", "land"] = "cell",
    rest: str | None = None,
    fill: bool = False,
) -> xr.Dataset:
    """Bring a scenario with names and cells of its own to the states of LUH2; lazily, one year a task.

    Parameters
    ----------
    ds : Dataset
        Fractions on a regular grid, in any orientation, for one or several years.
    mapping : mapping of variable to states, optional
        For each variable of the scenario one of these:

        - a state of LUH2, such as ``"c3ann"``;
        - a mapping of states to their fixed shares, which sum to 1: ``{"pastr": 0.4, "range": 0.6}``;
        - a list of states, or the name of a class (``"cropland"``, ``"pasture"``, ``"forest"``, ``"grass_shrub"``) or
          ``"natural"``, for all its states: they share the class as the reference has them in the cell, or in the
          nearest cell that has any;
        - None or an empty list, which leaves the variable out.

        By default variables are called as the states of LUH2, and get cells of another size only.
    reference : Dataset, optional
        States of LUH2 in one year, on cells of ``resolution``. It is needed where classes are split. The
        shares of a cell are put on its land: what the states of the reference sum to.
    resolution : float
        Size of the new cells in degrees.
    shares_of : {"cell", "land"}
        Whether fractions are of the whole grid cell, as those of LUH2, or of the land in it. The land is then that of
        the reference.
    rest : str, optional
        Variable that has what the others leave of the reference's land, whatever its own values are: for a class
        such as ``other``, which has ice and water as well as natural land.
    fill : bool
        Whether cells of the reference in which the scenario has no data get the states of the reference.

    Returns
    -------
    Dataset
        The twelve states of LUH2 (and ``pltns`` if a variable is mapped to it), fractions of the cell, float32, in the
        canonical order: ``time``, ``lat`` from north to south, ``lon`` from west to east. The area of each
        class is kept, except with `rest` and ``shares_of="land"``. NaN where the scenario has no data.

    Raises
    ------
    VocabularyError
        If the mapping names unknown states, or shares that do not sum to 1.
    ForcingError
        If variables are missing or not in the mapping, or a reference is needed and not there; when values are
        computed, also if they are not fractions, sum to more than 1, or are NaN in some variables of a cell only.
    GridError
        If coordinates are not a regular grid, or the reference does not cover the scenario with cells of the
        resolution.
    RegionError
        If fewer than two by two cells lie in the grid.
    """
    require_dataset(ds)
    parts = _parts(ds, mapping, rest)
    used = {state for own in parts.values() for state in own}
    states = tuple(state for state in LUH3_STATES if state in LUH2_STATES or state in used)
    forcing = read_forcing(ds, variables=tuple(parts))
    target = whole_cells(forcing.grid, resolution)
    wanted = {
        "mapping to several states": bool(_split(parts)),
        "shares_of='land'": shares_of == "land",
        f"rest={rest!r}": rest is not None,
        "fill=True": fill,
    }
    if reference is None and any(wanted.values()):
        raise ForcingError(
            f"{next(name for name, asked in wanted.items() if asked)} needs the states of LUH2 in one year: pass them "
            "as reference="
        )
    known = None if reference is None else _reference(reference, states, _split(parts), target)
    found = _lazily(forcing, parts, states, target, known, of_land=shares_of == "land", rest=rest, fill=fill)
    return found.assign_attrs(ds.attrs | {"xland_mapping": json.dumps(parts)})


def read_mapping(path: str | Path) -> dict[str, Any]:
    """Read the mapping of :func:`to_luh2` from a TOML file; :class:`VocabularyError` if it cannot be read."""
    return read_toml(local_path(path, what="a mapping"), _LARGEST, VocabularyError)


def _maps(ds: xr.Dataset) -> list[Any]:
    """Names of the variables that have latitude and longitude."""
    horizontal = {names.dimension for names in find_horizontal(ds, what="forcing")}
    return [name for name, each in ds.data_vars.items() if horizontal <= set(each.dims)]


def _parts(ds: xr.Dataset, mapping: Mapping[str, Mapped] | None, rest: str | None) -> Parts:
    """Check a mapping and bring it to one form."""
    there = list(map(str, _maps(ds)))
    if mapping is None:
        mapping = {name: name for name in LUH3_STATES if name in there}
        if not mapping.keys() >= set(LUH2_STATES):
            example = ", ".join(f"{name!r}: ..." for name in there)
            raise ForcingError(
                f"the variables are not called as the states of LUH2: say which states each is, mapping={{{example}}}; "
                "a state, a class such as 'cropland' or 'natural', a table of shares, or None"
            )
    elif not isinstance(mapping, Mapping):
        raise VocabularyError(f"mapping must have the states of each variable, not be {shown(mapping)}")
    elif forgotten := [name for name in there if name not in mapping]:
        raise ForcingError(
            f"{', '.join(forgotten)}: not in the mapping; say which states they are, or leave them out with None"
        )
    if wrong := [name for name in mapping if name not in there]:
        raise ForcingError(unknown("variables in the mapping", wrong, there))
    parts = {name: _shares(name, value) for name, value in mapping.items() if value is not None and value != []}
    if rest is not None and rest not in parts:
        raise ForcingError(f"rest: {unknown('variable', rest, parts)}")
    if not parts:
        raise VocabularyError("the mapping leaves all variables out")
    return parts


def _shares(name: str, value: Any) -> dict[str, float | None]:
    """States of a variable with their fixed shares, or None where a reference says them."""
    if isinstance(value, str):
        value = GROUPS.get(value, (value,))
    if not isinstance(value, Mapping | list | tuple) or not value:
        raise VocabularyError(f"{name}: {shown(value)} is neither a state nor a class, list or table of states")
    wrong = [state for state in value if state not in LUH3_STATES]
    if wrong:
        raise VocabularyError(
            f"{name}: {unknown('state', wrong, [*LUH3_STATES, *(g for g in GROUPS if g != 'urban')])}"
        )
    if isinstance(value, Mapping):
        shares = [value[state] for state in value]
        sound = all(isinstance(each, int | float) and not isinstance(each, bool) and 0 <= each <= 1 for each in shares)
        if not sound or abs(sum(shares) - 1) > 1e-6:
            raise VocabularyError(f"{name}: the shares of its states are {shares}; they must be 0 to 1 and sum to 1")
        return {state: float(share) / sum(shares) for state, share in value.items()}
    return dict.fromkeys(value, 1.0 if len(value) == 1 else None)


def _split(parts: Parts) -> list[list[str]]:
    """States of each variable that a reference splits."""
    every = ([state for state, share in own.items() if share is None] for own in parts.values())
    return [states for states in every if states]


def _reference(reference: xr.Dataset, states: Sequence[str], split: Sequence[Sequence[str]], target: Grid) -> da.Array:
    """States of a reference on the target grid, and behind them the proportions of each split, all in one chunk."""
    known = read_forcing(reference)
    if len(known.years) > 1:
        raise ForcingError(f"the reference has the years {listed(known.years)}; select one: reference.isel(time=[-1])")
    if abs(known.grid.resolution / target.resolution - 1) > 1e-4:
        raise GridError(
            f"the reference has cells of {known.grid.resolution:g} degree, and those of the result are of "
            f"{target.resolution:g} degree; choose resolution={known.grid.resolution:g}, or regrid the reference"
        )
    rows, columns = places(target, known.grid)
    if min(rows.min(), columns.min()) < 0:
        raise GridError(f"the reference ({known.grid}) does not cover the scenario ({target}); give a larger one")
    there = [name for name in states if name in known.data]
    work = partial(
        _read_reference,
        there=there,
        states=states,
        split=split,
        grid=known.grid,
        cells=np.ix_(rows, columns),
        year=known.years[0],
    )
    layers = len(states) + sum(map(len, split))
    chunks = (layers,), (target.rows,), (target.columns,)
    return da.map_blocks(work, _stack(known, there)[0], chunks=chunks, dtype=np.float32)


def _read_reference(
    values: NDArray[np.float32],
    *,
    there: Sequence[str],
    states: Sequence[str],
    split: Sequence[Sequence[str]],
    grid: Grid,
    cells: Any,
    year: int,
) -> NDArray[np.float32]:
    """Return states, NaN where there is no data, and proportions, on some rows and columns."""
    known = dict(zip(there, values, strict=True))
    try:
        check_values(known, grid.centres, year)
    except ForcingError as error:
        raise ForcingError(f"reference: {error}") from error
    empty = np.where(np.isnan(values[0]), np.float32(np.nan), np.float32(0))
    layers = [known.get(name, empty) for name in states]
    for group in split:
        layers += [*proportions(np.stack([known.get(name, empty) for name in group]), grid, group)]
    return np.stack([layer[cells] for layer in layers]).astype(np.float32)


def proportions(amounts: NDArray[Any], grid: Grid, names: Sequence[str]) -> NDArray[np.float32]:
    """Share of each of some states in their sum; where there are none, that of the nearest cell with some.

    `amounts` is (states, rows, columns); "nearest" counts rows and columns, round the globe if the grid goes round.
    """
    from scipy.ndimage import distance_transform_edt

    amounts = np.maximum(np.nan_to_num(amounts), 0)
    total = amounts.sum(axis=0)
    if not (total > 0).any():
        raise ForcingError(f"the reference has no {', '.join(names)}: map to other states, or give fixed shares")
    beyond = grid.columns // _NEAR if grid.is_global else 0
    wide = np.pad(total, ((0, 0), (beyond, beyond)), mode="wrap")
    row, column = distance_transform_edt(wide <= 0, return_distances=False, return_indices=True)
    near = row[:, beyond : beyond + grid.columns], (column[:, beyond : beyond + grid.columns] - beyond) % grid.columns
    return (amounts[:, *near] / total[near]).astype(np.float32)


def _convert_year(
    values: NDArray[np.float32],
    reference: NDArray[np.float32] | None,
    *,
    parts: Parts,
    states: Sequence[str],
    source: Grid,
    target: Grid,
    of_land: bool = False,
    rest: str | None = None,
    fill: bool = False,
) -> NDArray[np.float64]:
    """States of one year, (states, rows, columns), from the variables of a scenario on its own grid."""
    count, land = len(states), None
    if reference is not None:
        land = np.clip(np.nan_to_num(reference[:count]).sum(axis=0, dtype=np.float64), 0, 1)
        if rest is not None:
            most, at = np.ones(source.shape) if of_land else land_within(land, source, target), list(parts).index(rest)
            values[at] = np.maximum(most - (values.sum(axis=0) - values[at]), 0)
    shares = distribute(values, source, target, land, of_land=of_land)
    known = ~np.isnan(shares[0])
    if reference is not None:
        known &= ~np.isnan(reference[0]) | (shares.sum(axis=0) > 0)
    split = [] if reference is None else list(reference[count:])
    found = dict(zip(states, np.zeros((count, *target.shape)), strict=True))
    for share, own in zip(shares, parts.values(), strict=True):
        for state, fixed in own.items():
            found[state] += share * (split.pop(0) if fixed is None else fixed)
    made = np.where(known, np.stack(list(found.values())), np.nan)
    if fill and reference is not None:
        return np.where(known | np.isnan(reference[0]), made, reference[:count])
    return made


def _stack(forcing: Forcing, names: Sequence[str]) -> da.Array:
    """Variables of a forcing as one array (years, variables, rows, columns), one year a chunk."""
    return da.stack([forcing.data[name].data for name in names], axis=1).rechunk({0: 1, 1: -1, 2: -1, 3: -1})


def _lazily(
    forcing: Forcing,
    parts: Parts,
    states: Sequence[str],
    target: Grid,
    reference: da.Array | None = None,
    **options: Any,
) -> xr.Dataset:
    """Convert each year of a forcing, once its fractions have been checked, and return the states as a Dataset."""
    if means := [name for name in parts if name in LUH_SECONDARY]:
        raise ForcingError(f"{', '.join(means)}: not fractions of the cell; leave them out: ds.drop_vars({means})")
    arrays: list[Any] = [_stack(forcing, tuple(parts)), "tnij", da.from_array(np.array(forcing.years), chunks=1), "t"]
    data = da.blockwise(
        partial(_checked_year, parts=parts, states=states, source=forcing.grid, target=target, **options),
        "tsyx",
        *(arrays if reference is None else [*arrays, reference, "uvw"]),
        new_axes={"s": len(states), "y": target.rows, "x": target.columns},
        concatenate=True,
        dtype=np.float32,
        meta=np.empty((0, 0, 0, 0), np.float32),
    )
    about = {"units": "1", "long_name": "fraction of the grid cell"}
    found = {name: (("time", "lat", "lon"), data[:, at], about) for at, name in enumerate(states)}
    coordinates = {"time": ("time", np.array(forcing.years)), **target.coordinates}
    return with_years(xr.Dataset(found, coordinates), forcing.years)


def _checked_year(
    values: NDArray[np.float32],
    years: NDArray[np.int64],
    reference: NDArray[np.float32] | None = None,
    **options: Any,
) -> NDArray[np.float32]:
    """Check the fractions of one year and convert them; all arrays begin with the year."""
    check_values(dict(zip(options["parts"], values[0], strict=True)), options["source"].centres, int(years[0]))
    return _convert_year(np.clip(values[0], 0, 1), reference, **options)[None].astype(np.float32)
