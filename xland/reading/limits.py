"""What values may be: one table for all variables that come from outside, and the checks of plain arrays that use it.

:mod:`xland.reading.variables` has applied what a variable *declares* (fill values, packing): here NaN is no data.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any

import numpy as np
from numpy.typing import NDArray

from xland.errors import StaticError, XlandError
from xland.vocabulary import CLASS_NAMES, LUH3_STATES, LUH_SECONDARY

FILL_LIMIT = 1e19  # finite values at least this large are the 1e20 that LUH files put where there is no data
ROUNDING = 1e-5  # by how much a single fraction may lie outside 0..1: rounding of float32 sums
PERCENT = 1.5  # what a fraction beyond 1 reaches at most if it is wrong by less than a unit
LATITUDE_TOLERANCE = 0.5  # degrees by which the distance from the equator may differ from the latitude of the row

FILLS = (-999.0, -9999.0, -99999.0, -999999.0, -32767.0, -32768.0, -2147483648.0)
"""Numbers that stand for no data in many files: no predictor has exactly such a lowest value."""


@dataclass(frozen=True)
class Limits:
    """What the values of a variable may be where they count; of a ``fraction`` of the cell, percent is refused.

    Only ``units`` are understood, or any but ``other_units`` if there are none: right ones are spelt in many ways.
    """

    lowest: float = -FILL_LIMIT
    highest: float = FILL_LIMIT
    fraction: bool = False
    units: tuple[str, ...] = ()
    other_units: tuple[str, ...] = ()


_PERCENT_UNITS = ("%", "percent", "per cent", "pct", "percentage", "0-100")
_AREAS = (
    "m2", "m^2", "m**2", "km2", "km^2", "km**2", "ha", "hectare", "hectares", "mha", "mkm2", "acre", "acres",
    "square metres", "square kilometres", "permille", "per mille", "ppm",
)  # fmt: skip
_LENGTHS = (
    "km", "cm", "mm", "dm", "hm", "dam", "ft", "feet", "foot", "inch", "inches", "in", "yd", "yard", "mi", "mile",
    *(f"{many}met{er}" for many in ("kilo", "hecto", "deca", "deci", "centi", "milli") for er in ("re", "er")),
)  # fmt: skip
_FRACTION = Limits(0.0, 1.0, fraction=True, other_units=_AREAS)
_POSITIVE = Limits(lowest=0.0)
_SOIL = Limits(0.0, 1000.0)  # percent, or g/kg as SoilGrids has it
_TEMPERATURE = Limits(-100.0, 70.0)  # degrees Celsius

LIMITS: Mapping[str, Limits] = MappingProxyType({
    **dict.fromkeys(LUH3_STATES, _FRACTION),
    **dict.fromkeys(CLASS_NAMES, _FRACTION),
    "secma": Limits(0.0, 1e4, units=("years", "year", "yr", "yrs", "a")),
    "secmb": Limits(0.0, 1e3, units=("kg m-2", "kg/m2", "kg/m^2", "kg m^-2", "kg m**-2", "kg c m-2", "kgc m-2",
                                     "kg c/m^2", "kgc/m2")),
    "elevation": Limits(-500.0, 9e3, other_units=_LENGTHS),
    "slope": Limits(0.0, 90.0), "cos_aspect": Limits(-1.0, 1.0), "sin_aspect": Limits(-1.0, 1.0),
    "ruggedness": Limits(0.0, 2e4), "relative_elevation": Limits(-2e4, 2e4),
    "land_share": _FRACTION, "lake_share": _FRACTION,
    "abs_latitude": Limits(0.0, 90.0, other_units=("radian", "radians", "rad")),
    "coast_distance": Limits(0.0, 2.1e7), "town_distance": _POSITIVE,
    "clay": _SOIL, "sand": _SOIL, "silt": _SOIL, "organic_matter": _SOIL,
    "coldest_month": _TEMPERATURE, "warmest_month": _TEMPERATURE,
    "precipitation": Limits(0.0, 3e4), "driest_month": Limits(0.0, 3e4), "warm_precipitation": Limits(0.0, 3e4),
})  # fmt: skip
"""What the variables that xland names may be: states are fractions, heights and lengths are in metres (distances
from the coast also in kilometres), temperatures in degrees Celsius, precipitation in mm. Elevation is that of the
surface, so nothing on land lies below the shore of the Dead Sea or above Mount Everest."""

_FAMILIES = {"koppen_": _FRACTION, "population_": _POSITIVE, "settlements_": _POSITIVE}


def limits_of(name: str, *, fraction: bool = False) -> Limits:
    """Return the limits of a variable, or those of a fraction whatever it is called; of others, of any number."""
    if fraction:
        return _FRACTION
    if name in LIMITS:
        return LIMITS[name]
    family = next((limits for begin, limits in _FAMILIES.items() if name.startswith(begin)), None)
    return family or (_FRACTION if name.endswith("_share") else Limits())


def check_units(name: str, units: object, error: type[XlandError], *, fraction: bool = False) -> None:
    """Refuse units that would give another map: percent or areas for fractions, kilometres for heights."""
    limits, said = limits_of(name, fraction=fraction), str(units if units is not None else "").strip()
    if units is not None and not isinstance(units, str | bytes) and said not in ("1", "1.0"):
        raise error(f"{name}: its attribute `units` is {units!r}, not text; correct or remove it")
    known = said.lower()
    first = known.split()[0] if known else ""  # of "km above sea level"
    if limits.fraction and (known in _PERCENT_UNITS or first in _PERCENT_UNITS):
        raise error(
            f"{name}: the units are {said!r}, but it is a fraction of the cell from 0 to 1; divide by 100 and set the "
            f"attribute: ds[{name!r}] = (ds[{name!r}] / 100).assign_attrs(units='1')"
        )
    other = known in limits.other_units or (
        not limits.fraction and not {first, first.removesuffix("s")}.isdisjoint(limits.other_units)
    )
    if other or (limits.units and known not in ("", "1", *limits.units)):
        wanted = "a fraction of the cell" if limits.fraction else limits.units[0] if limits.units else "another unit"
        wanted = {"elevation": "metres", "abs_latitude": "degrees"}.get(name, wanted)
        raise error(
            f"{name}: the units are {said!r}, but it is read as {wanted}; convert it, and set its attribute `units`"
        )


Place = tuple[NDArray[Any], NDArray[Any]]  # latitudes of the rows and longitudes of the columns, in degrees


@dataclass(frozen=True)
class ValueProblem:
    """Values of one variable that would give a wrong map, with the degrees of the first cell from the north-west.

    ``fault`` follows the number of cells: ``"below 0 (lowest -0.2)"``.
    """

    variable: str
    fault: str
    count: int
    latitude: float
    longitude: float
    remedy: str

    @classmethod
    def at(cls, variable: str, bad: NDArray[np.bool_], place: Place, fault: str, remedy: str) -> ValueProblem:
        """Describe the (rows, columns) cells that are at fault."""
        row, column = np.unravel_index(int(bad.argmax()), bad.shape)
        return cls(variable, fault, int(np.count_nonzero(bad)), float(place[0][row]), float(place[1][column]), remedy)

    @property
    def where(self) -> str:
        """Place of the first cell."""
        return f"latitude {self.latitude:g}, longitude {self.longitude:g}"

    @property
    def sentence(self) -> str:
        """Variable, number of cells, fault, place and remedy in one line."""
        return f"{self.variable}: {self.count} cells {self.fault}, the first at {self.where}; {self.remedy}"


def out_of_limits(
    variable: str,
    values: NDArray[Any],
    limits: Limits,
    place: Place,
    cells: NDArray[np.bool_] | None = None,
    of: str = "",
) -> Iterator[ValueProblem]:
    """Values above and below their limits, in all finite cells or in those given, which messages call ``of``."""
    counted = np.isfinite(values) if cells is None else cells
    for beyond, limit, side, worst in (
        (values > limits.highest + ROUNDING, limits.highest, "above", np.max),
        (values < limits.lowest - ROUNDING, limits.lowest, "below", np.min),
    ):
        bad = beyond & counted
        if bad.any():
            value = float(worst(values[bad]))
            fault = f"{of}{side} {limit:g} ({'highest' if side == 'above' else 'lowest'} {value:g})"
            yield ValueProblem.at(variable, bad, place, fault, _remedy(value, limits))


def _remedy(value: float, limits: Limits) -> str:
    """Say what a value outside its limits looks like, and what to do about it."""
    if abs(value) >= FILL_LIMIT:
        return "this looks like a fill value that no attribute declares; mask it: ds.where(abs(ds) < 1e19)"
    if value in FILLS:
        return f"this looks like a fill value that no attribute declares; mask it: ds.where(ds != {value:g})"
    if limits.fraction and value > PERCENT:
        return "this looks like percent or an area; it is a fraction of the cell: divide by 100 or by the cell area"
    if limits.fraction and value > 1:
        return "it is a fraction of the cell from 0 to 1; correct the source or rescale"
    if value < 0 and limits.lowest == 0:
        return "it cannot be negative; correct the source"
    return "look at units, packing and fill values, and correct the source"


def checked_predictor(name: str, values: NDArray[Any], land: NDArray[np.bool_], place: Place) -> NDArray[Any]:
    """Return a static predictor (rows, columns); values outside :data:`LIMITS` in the sea become NaN, no data.

    :class:`StaticError` for NaN, infinity and values outside the limits on land.
    """
    limits = limits_of(name)
    if name == "abs_latitude":
        rows = np.abs(np.asarray(place[0], dtype=np.float64))[:, None]
        bad = (np.abs(values - rows) > LATITUDE_TOLERANCE) & land  # NaN is looked at with the limits
        if bad.any():
            fault = f"of land are not the latitude of their row to within {LATITUDE_TOLERANCE:g} degree"
            remedy = "is it in degrees, and do latitudes and values run the same way? look at the other predictors, too"
            raise StaticError(ValueProblem.at(name, bad, place, fault, remedy).sentence)
    lowest, highest = limits.lowest - ROUNDING, limits.highest + ROUNDING

    def good(low: Any, high: Any) -> bool:
        return lowest <= float(low) and float(high) <= highest and float(low) not in FILLS

    # two passes are cheaper than masks, and most blocks are good
    if not values.size or good(values.min(), values.max()):
        return values
    if (
        good(np.fmin.reduce(values, axis=None), np.fmax.reduce(values, axis=None))
        and not (np.isnan(values) & land).any()
    ):
        return values
    counted = values[land]
    if counted.size and not good(counted.min(), counted.max()):
        infinite, low = ~np.isfinite(values) & land, counted.min()
        fault, remedy = "of land are NaN or infinite", "fill them, or set the share of land to 0 there"
        problem = ValueProblem.at(name, infinite, place, fault, remedy)
        if not infinite.any():
            fill = ValueProblem.at(
                name, (values == low) & land, place, f"of land are {low:g}", _remedy(float(low), limits)
            )
            problem = next(out_of_limits(name, values, limits, place, land, "of land "), fill)
        raise StaticError(problem.sentence)
    sea = ~land & ~((values >= lowest) & (values <= highest) & ~np.isin(values, FILLS))
    return np.where(sea, values.dtype.type(np.nan), values) if values.dtype.kind == "f" else values


def check_share(name: str, share: NDArray[Any], place: Place) -> None:
    """Refuse a share of land (rows, columns) outside 0 to 1; NaN is left to :func:`check_unknown_land`."""
    if np.fmin.reduce(share, axis=None) < -ROUNDING or np.fmax.reduce(share, axis=None) > 1 + ROUNDING:
        problem = next(out_of_limits(name, share, _FRACTION, place, ~np.isnan(share)))
        raise StaticError(problem.sentence)


def check_unknown_land(name: str, unknown: NDArray[np.bool_], states: Mapping[str, NDArray[Any]], place: Place) -> None:
    """Refuse a share of land that is NaN although the forcing has data.

    ``unknown`` are the coarse cells with NaN in some fine cell; ``states`` are fractions of them, NaN without data.
    """
    there = [np.isfinite(values) for state, values in states.items() if state not in LUH_SECONDARY]
    bad = unknown & np.logical_or.reduce(there)
    if bad.any():
        fault = "of the forcing have data, but NaN for the share of land"
        remedy = f"where that is the sea, say so: static[{name!r}] = static[{name!r}].fillna(0)"
        raise StaticError(ValueProblem.at(name, bad, place, fault, remedy).sentence)
