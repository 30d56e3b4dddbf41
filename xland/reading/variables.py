"""The one reader of every variable that comes from outside: states, predictors, priors, maps, masks, regions.

It sees to what a variable *declares*: the type of its values and of the array that holds them, fill
values, packing and valid ranges, dimensions of size one, the years of its time axis. What it declares
is honoured lazily, or refused by name; no value is read. What the values may be stands in
:mod:`xland.reading.limits`, and is looked at when blocks are computed.
"""

from __future__ import annotations

import math
import re
from collections.abc import Hashable, Iterable
from dataclasses import dataclass
from functools import partial
from typing import Any, Literal

import dask.array as da
import numpy as np
import xarray as xr
from numpy.typing import NDArray
from xarray.core.indexing import ExplicitlyIndexed

from xland.arguments import shown
from xland.errors import GridError, StaticError, TimeError, VocabularyError, XlandError
from xland.geo.coordinates import check_reference, find_names
from xland.geo.grid import Grid
from xland.geo.orientation import orient
from xland.geo.years import listed, years_of
from xland.reading.faults import with_named_reads
from xland.reading.limits import FILL_LIMIT, ROUNDING, check_units
from xland.vocabulary import CLASS_NAMES, CLASSES, OCEAN

Holds = Literal["classes", "numbers", "labels", "mask", "values"]

_KINDS: dict[Holds, tuple[str, str]] = {
    "classes": ("iuf", "whole class codes from 0 to 7"),
    "numbers": ("iufb", "whole numbers"),
    "labels": ("iufbUO", "whole numbers or names"),
    "mask": ("b", "true or false"),
    "values": ("iuf", "numbers"),
}
_FILL_KEYS = frozenset({"fillvalue", "missingvalue", "nodata", "nodatavalue", "nodatavals", "nodataval", "missing"})
_BLOCK = 1200  # cells of a block along latitude and longitude, where a file is read to be decoded


@dataclass(frozen=True)
class Declared:
    """What a variable says about its own values, as far as xarray has not seen to it.

    Parameters
    ----------
    fills : tuple of float
        Values that stand for no data, in the numbers of the array.
    lowest, highest : float
        Numbers outside are no data.
    dtype : dtype or None
        What the bits are to be taken for, where integers say that they are signed or unsigned.
    masked : bool
        Whether there is a fill value at all: only then NaN may stand in a map of codes.
    """

    fills: tuple[float, ...] = ()
    lowest: float = -np.inf
    highest: float = np.inf
    dtype: np.dtype[Any] | None = None
    masked: bool = False

    @property
    def plain(self) -> bool:
        """Whether the numbers are the values, all of them."""
        ranged = (self.lowest, self.highest) != (-np.inf, np.inf)
        return not (self.fills or ranged or self.dtype is not None)


def decode(values: NDArray[Any], declared: Declared, empty: float = np.nan) -> NDArray[Any]:
    """Return values of the numbers in an array.

    Parameters
    ----------
    values : array
    declared : Declared
    empty : float
        What stands where there is no data: NaN, and the result is floating; or a code, and it is whole
        numbers where the array holds such.
    """
    if declared.dtype is not None:
        values = values.view(declared.dtype)
    missing = no_data(values, declared)
    if math.isnan(empty):
        dtype = np.result_type(values.dtype, np.float32)
        return np.where(missing, dtype.type(np.nan), values.astype(dtype, copy=False))
    dtype = values.dtype if values.dtype.kind == "f" else np.result_type(values.dtype, np.uint8)
    return np.where(missing, dtype.type(empty), values.astype(dtype, copy=False))


def no_data(values: NDArray[Any], declared: Declared) -> NDArray[np.bool_]:
    """Where there is no data: fill values, numbers outside the valid range, and NaN if a fill value is declared."""
    missing = (
        np.isnan(values) if declared.masked and values.dtype.kind == "f" else np.zeros(values.shape, dtype=np.bool_)
    )
    for fill in declared.fills:
        if abs(fill) >= FILL_LIMIT and values.dtype.kind == "f":
            missing |= (np.abs(values) >= FILL_LIMIT) & np.isfinite(values)
        elif values.dtype.kind == "f":
            missing |= values == values.dtype.type(fill)
        elif fill == np.trunc(fill):
            missing |= values == _whole(fill, values.dtype)
    if (declared.lowest, declared.highest) != (-np.inf, np.inf):
        low, high = declared.lowest, declared.highest
        slack = ROUNDING * max([1.0, *(abs(each) for each in (low, high) if np.isfinite(each))])
        slack = slack if values.dtype.kind == "f" else 0.0
        missing |= ((values < low - slack) | (values > high + slack)) & np.isfinite(values)
    return missing


def _whole(fill: float, dtype: np.dtype[Any]) -> int:
    """Return a fill value as the integer that the array holds: -1 of unsigned bytes is 255."""
    limits = np.iinfo(dtype)
    number = int(fill)
    return number if limits.min <= number <= limits.max else number % 2 ** (8 * dtype.itemsize) + min(limits.min, 0)


def declared_by(variable: xr.Variable, what: str, error: type[XlandError]) -> Declared:
    """Return what a variable declares in its attributes, and in its encoding if its values are in memory.

    What xarray decoded stands in the encoding. It was seen to, unless values were put there later.

    Raises
    ------
    XlandError
        Of the class given, for attributes that are no numbers, and for packed values, which xarray decodes.
    """
    attributes = {str(key): value for key, value in variable.attrs.items()}
    scaled = "scale_factor" in variable.encoding or "add_offset" in variable.encoding
    fills = _fills(attributes, what, error)
    decoded = _fills({str(key): value for key, value in variable.encoding.items()}, what, error)
    # NaN is what xarray writes for floats by itself: in the encoding it declares nothing
    masked = bool(fills) or any(not math.isnan(fill) for fill in decoded)
    if not scaled and not is_lazy(variable):
        fills += decoded
    if variable.dtype.kind not in "iuf":
        fills = ()

    def number(key: str, default: float) -> float:
        found = _numbers(attributes.get(key, default), key, what, error)
        if len(found) > 1:
            raise error(f"{what}: the attribute {key} holds {len(found)} numbers, not one; correct or remove it")
        said = next(iter(found), default)
        return default if math.isnan(said) else said

    ends = {"valid_min": number("valid_min", -np.inf), "valid_max": number("valid_max", np.inf)}
    if "valid_range" in attributes:
        both = _numbers(attributes["valid_range"], "valid_range", what, error)
        if len(both) != 2:
            raise error(f"{what}: the attribute valid_range holds {len(both)} numbers, not two; correct or remove it")
        ends = {key: end if math.isnan(each) else each for (key, end), each in zip(ends.items(), both, strict=True)}
    if scaled:
        scale, offset = (
            next(iter(_numbers(variable.encoding.get(key, default), key, what, error)), default)
            for key, default in _PACKING
        )
        said = {key: attributes.get("valid_range", attributes.get(key, 0.0)) for key in ends}
        ends = {key: end * scale + offset if counts_packed(said[key]) else end for key, end in ends.items()}
    low, high = sorted(ends.values())
    # arithmetic in xarray keeps attributes: nobody can tell whether numbers were unpacked by hand
    if any(number(key, default) != default for key, default in _PACKING):
        raise error(
            f"{what}: is packed ({', '.join(key for key, _ in _PACKING if key in attributes)}) and was opened with "
            "mask_and_scale=False; open it without that, or use xr.decode_cf(ds, decode_times=False); if its values "
            "are unpacked already, drop these attributes"
        )
    return Declared(
        tuple(dict.fromkeys(fill for fill in fills if not math.isnan(fill))),
        low,
        high,
        _signedness(variable, attributes),
        masked,
    )


_PACKING = (("scale_factor", 1.0), ("add_offset", 0.0))


def counts_packed(valid: Any) -> bool:
    """Whether a valid range of a packed variable counts in packed numbers: floats are values, as the NUG has it."""
    return np.asarray(valid).dtype.kind != "f"


def _fills(attributes: dict[str, Any], what: str, error: type[XlandError]) -> tuple[float, ...]:
    return tuple(
        fill
        for key, value in attributes.items()
        if is_fill_key(key) and value is not None
        for fill in _numbers(value, key, what, error)
    )


def is_fill_key(key: object) -> bool:
    """Whether an attribute declares a fill value, however it is spelt."""
    return "".join(letter for letter in str(key).lower() if letter.isalnum()) in _FILL_KEYS


def _numbers(value: Any, key: str, what: str, error: type[XlandError]) -> list[float]:
    try:
        return [float(each) for each in np.ravel(np.asarray(value)) if each is not None]
    except (TypeError, ValueError, OverflowError):
        raise error(
            f"{what}: the attribute {key} is {shown(value)}, which is not a number; correct or remove it"
        ) from None


def _signedness(variable: xr.Variable, attributes: dict[str, Any]) -> np.dtype[Any] | None:
    said = str(attributes.get("_Unsigned", "")).strip().lower()
    if said not in ("true", "false") or variable.dtype.kind not in "iu":
        return None
    wanted = np.dtype(f"{'u' if said == 'true' else 'i'}{variable.dtype.itemsize}")
    return None if wanted == variable.dtype else wanted


def is_lazy(variable: xr.Variable) -> bool:
    """Whether values would be read from a file by asking for them: neither in memory nor in dask chunks."""
    # xarray has no public way to ask
    return isinstance(variable._data, ExplicitlyIndexed) and not isinstance(variable, xr.IndexVariable)  # noqa: SLF001


def check_array(array: xr.DataArray, what: str, error: type[XlandError], holds: Holds = "values") -> None:
    """Refuse values of another type, and arrays that are neither NumPy's nor dask's.

    Raises
    ------
    XlandError
        Of the class given: sparse, cubed, pint, masked and GPU arrays; dates, text, objects, complex numbers;
        booleans where numbers are meant.
    """
    data = array.variable._data  # noqa: SLF001 - `.data` would read a file
    inner = data._meta if isinstance(data, da.Array) else data  # noqa: SLF001
    if type(inner) is not np.ndarray and not isinstance(inner, ExplicitlyIndexed):
        raise error(
            f"{what}: its values are held by {type(inner).__module__.partition('.')[0]} ({type(inner).__name__}), "
            "which is not understood here; pass a NumPy or dask array, as array.as_numpy() or open_dataset(chunks={}) "
            "give it"
        )
    kinds, said = _KINDS[holds]
    if array.dtype.kind not in kinds:
        raise error(f"{what}: its values are {array.dtype}, not {said}; convert them")


def read_values(
    array: xr.DataArray, *, what: str, error: type[XlandError], holds: Holds = "values", empty: float = np.nan
) -> xr.DataArray:
    """Return a variable with what it declares seen to, lazily.

    Parameters
    ----------
    array : DataArray
    what : str
        What it is, for messages.
    error : type
        Raised for what is refused.
    holds : {"classes", "numbers", "labels", "mask", "values"}
    empty : float
        What stands where there is no data, see :func:`decode`.

    Returns
    -------
    DataArray
        As it was where nothing is declared; without the attributes that have been honoured. Faults of its
        file, when values are read, are a :class:`~xland.errors.StoreError`.
    """
    check_array(array, what, error, holds)
    array = with_named_reads(array, what)
    if array.dtype.kind in "bUO":
        return array
    declared = declared_by(array.variable, what, error)
    codes = not math.isnan(empty)
    spoken = [key for key in array.attrs if is_fill_key(key) or key in _SPOKEN]
    attributes = {key: value for key, value in array.attrs.items() if key not in spoken}
    plain = array.assign_attrs()
    plain.attrs = attributes
    if declared.plain and not (codes and declared.masked and array.dtype.kind == "f"):
        return plain
    shape = (0,) * array.ndim
    function = partial(decode, declared=declared, empty=empty)
    dtype = function(np.zeros(shape, array.dtype)).dtype
    if is_lazy(array.variable):
        plain = plain.chunk({dim: 1 if dim not in array.dims[-2:] else _BLOCK for dim in array.dims})
    if isinstance(plain.data, da.Array):
        data: Any = plain.data.map_blocks(function, dtype=dtype, meta=np.empty(shape, dtype))
    else:
        data = function(plain.values)
    plain = plain.copy(data=data)
    plain.encoding = {}
    return plain


_SPOKEN = ("scale_factor", "add_offset", "valid_min", "valid_max", "valid_range", "_Unsigned")


def without_extra(array: xr.DataArray, kept: Iterable[Hashable], what: str, error: type[XlandError]) -> xr.DataArray:
    """Return an array without its dimensions of size one, but for those to keep; longer ones are refused."""
    extra = [dim for dim in array.dims if dim not in set(kept)]
    long = [f"{dim} ({array.sizes[dim]})" for dim in extra if array.sizes[dim] != 1]
    if long:
        raise error(
            f"{what}: has the dimensions {', '.join(long)} beside latitude and longitude; select one of "
            f"{', '.join(repr(dim) for dim in extra if array.sizes[dim] != 1)} with isel or sel"
            + (", and pass class codes rather than probabilities" if "class" in extra else "")
        )
    return array.isel(dict.fromkeys(extra, 0), drop=True) if extra else array


def read_static(static: xr.Dataset, names: Iterable[str], domain: str) -> xr.Dataset:
    """Return static predictors by name, ``(latitude, longitude)`` each in the caller's order, lazily.

    Parameters
    ----------
    static : Dataset
    names : iterable of str
        Predictors that must be there.
    domain : str
        The one that is the share of land.

    Raises
    ------
    StaticError
        If one is missing, or is no field of numbers in units that are understood.
    GridError
        If its coordinates are not latitude and longitude in degrees.
    """
    if not isinstance(static, xr.Dataset):
        raise StaticError(f"static must be a Dataset of predictors, not {type(static).__name__}")
    names = list(names)
    missing = [name for name in names if name not in static.variables]
    if missing:
        found = ", ".join(map(str, static.data_vars)) or "none"
        raise StaticError(
            f"static predictors lack {', '.join(missing)}, which the model needs; variables found: {found}"
        )
    check_reference(static, "static predictors")
    fields = {}
    for name in names:
        what, array = f"static predictor {name!r}", static[name]
        array = array.drop_vars(name) if name in array.coords else array
        horizontal = horizontal_dims(array, what)
        check_array(array, what, StaticError)
        check_units(name, array.attrs.get("units"), StaticError, fraction=name == domain)
        if str(array.attrs.get("positive", "up")).lower() == "down":
            raise StaticError(f"{what}: counts downwards (positive: down); change its sign and drop the attribute")
        array = without_extra(array, horizontal, what, StaticError)
        fields[name] = read_values(array, what=what, error=StaticError)
    return xr.Dataset({name: array.drop_vars(_scalars(array)) for name, array in fields.items()}, attrs=static.attrs)


def _scalars(array: xr.DataArray) -> list[Hashable]:
    """Coordinates without a dimension: of a predictor they say nothing, and may differ between two of them."""
    return [name for name, each in array.coords.items() if not each.ndim and name != "spatial_ref"]


def horizontal_dims(obj: xr.DataArray | xr.Dataset, what: str) -> tuple[Hashable, Hashable]:
    """Return what the caller calls the dimensions of latitude and longitude."""
    latitude, longitude = (find_names(obj, kind, what=what) for kind in ("latitude", "longitude"))
    if latitude is None or longitude is None:  # find_names raises for these two
        raise GridError(f"{what}: needs latitude and longitude")
    return latitude.dimension, longitude.dimension


@dataclass(frozen=True)
class ClassMap:
    """A map in canonical order, with its grid and years.

    Parameters
    ----------
    data : DataArray with dimensions time, lat, lon
        Still lazy where the caller's array was.
    grid : Grid
    years : tuple of int or None
        One for each time step; None where the map does not say its year.
    what : str
        What the map is, for messages.
    """

    data: xr.DataArray
    grid: Grid
    years: tuple[int | None, ...]
    what: str


def map_of(obj: Any, what: str, error: type[XlandError] = GridError) -> xr.DataArray:
    """Return a map, or the one that a Dataset holds as ``land_use``."""
    if isinstance(obj, xr.Dataset):
        if "land_use" not in obj.variables:
            raise error(f"the {what} is a Dataset without `land_use`; pass the variable that holds class codes")
        check_reference(obj, what)
        obj = obj["land_use"]
    if not isinstance(obj, xr.DataArray):
        raise error(f"the {what} is of type {type(obj).__name__}; pass an xarray DataArray of class codes")
    return obj


def read_codes(
    obj: Any, *, what: str, error: type[XlandError] = GridError, holds: Holds = "classes", empty: int = OCEAN
) -> xr.DataArray:
    """Return a map as ``(time, latitude, longitude)`` or less, in the caller's order and names; lazily.

    Parameters
    ----------
    obj : DataArray or Dataset
        Of a Dataset the variable ``land_use`` is taken.
    what : str
        What the map is, for messages.
    error : type
        Raised for what is refused; instead of :class:`GridError`, codes have :class:`VocabularyError`.
    holds : {"classes", "numbers", "labels", "mask", "values"}
    empty : int
        The code where there is no data: declared fill values, and NaN in maps that declare one.
    """
    array = map_of(obj, what, error)
    wrong = VocabularyError if error is GridError and holds == "classes" else error
    time = find_names(array, "time", what=what)
    kept = [*horizontal_dims(array, what), *(() if time is None else (time.dimension,))]
    array = without_extra(array, kept, what, error)
    if holds == "classes":
        _check_legend(array, what)
    return read_values(
        array, what=f"the {what}", error=wrong, holds=holds, empty=empty if holds in ("classes", "numbers") else np.nan
    )


def as_map(
    obj: Any, *, what: str, error: type[XlandError] = GridError, holds: Holds = "classes", empty: int = OCEAN
) -> ClassMap:
    """Return a map in canonical order, without reading it; parameters as of :func:`read_codes`.

    Raises
    ------
    GridError
        If the map has other dimensions than time, latitude and longitude, or no regular grid.
    VocabularyError
        If its values are no codes, or codes of another legend.
    TimeError
        If its years cannot be decoded, or one stands twice.
    """
    data, orientation = orient(read_codes(obj, what=what, error=error, holds=holds, empty=empty), what=what)
    # of masks and regions the years do not matter
    years = map_years(data, what) if holds in ("classes", "values") else (None,) * data.sizes.get("time", 1)
    if "time" not in data.dims:
        if data.chunks is None and is_lazy(data.variable):
            data = data.chunk("auto")  # or else a stored map would be read for its new dimension
        data = data.drop_vars("time", errors="ignore").expand_dims("time")
    known = [year for year in years if year is not None]
    data = data.drop_vars("time", errors="ignore")
    if len(known) == len(years):
        data = data.assign_coords(time=("time", np.array(known, dtype=np.int64), {"long_name": "calendar year"}))
    return ClassMap(data.transpose("time", "lat", "lon"), orientation.grid, years, what)


def map_years(array: xr.DataArray, what: str) -> tuple[int | None, ...]:
    """Return the calendar year of each step of a map, whatever it calls its time; None where it does not say.

    Raises
    ------
    TimeError
        If the years cannot be decoded, or one stands twice: which of its maps is meant?
    """
    years = years_of(array, what=what)
    if years is None:
        time = find_names(array, "time", what=what)
        return (None,) * (1 if time is None else array.sizes[time.dimension])
    twice = sorted({year for year in years if years.count(year) > 1})
    if twice:
        raise TimeError(f"the {what} holds several maps of {listed(twice)}; select one of each year")
    return years


def _check_legend(array: xr.DataArray, what: str) -> None:
    """Refuse codes that the map itself says are other classes than ours."""
    values, said = (array.attrs.get(f"flag_{key}") for key in ("values", "meanings"))
    if values is None or said is None:
        return
    words = said.replace(",", " ").split() if isinstance(said, str) else [str(each) for each in np.ravel(said)]
    listed_values = re.findall(r"-?\d+", values) if isinstance(values, str) else np.ravel(np.asarray(values)).tolist()
    try:
        numbers = [int(float(each)) for each in listed_values]
    except (TypeError, ValueError, OverflowError):
        numbers = []
    if len(numbers) != len(words):
        raise VocabularyError(
            f"the {what} has {len(numbers)} numbers in flag_values and {len(words)} words in flag_meanings, so nobody "
            "can tell its legend: correct them, or drop both if its codes are those of xland"
        )
    other = [
        (n, word) for n, word in zip(numbers, words, strict=True) if 0 <= n < len(CLASSES) and word != CLASS_NAMES[n]
    ]
    if other:
        number, word = other[0]
        raise VocabularyError(
            f"the {what} says in flag_meanings that {number} is {word!r}, where class {number} is "
            f"{CLASS_NAMES[number]!r}: translate its legend with xland.vocabulary.translate, or drop flag_values and "
            "flag_meanings if its codes are those of xland"
        )
