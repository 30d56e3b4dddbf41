"""The one reader of every variable that comes from outside: states, predictors, priors, maps, masks, regions.

It honours what a variable *declares*, or refuses it by name: the type of its values and of the array that holds them,
fill values, packing and valid ranges, dimensions of size one, the years of its time axis. No value is read. What values
may be (:mod:`xland.reading.limits`) is checked when blocks are computed. :class:`NamedReads`, around the array that
reads a file, names damage that shows only then.
"""

from __future__ import annotations

import asyncio
import math
import re
from collections.abc import Hashable, Iterable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, Literal

import dask.array as da
import numpy as np
import xarray as xr
from numpy.typing import NDArray
from xarray.backends import BackendArray
from xarray.core import indexing

from xland.arguments import shown
from xland.dask_internals import HighLevelGraph, MaterializedLayer
from xland.errors import GridError, StaticError, StoreError, TimeError, VocabularyError, XlandError
from xland.geo.conventions import listed, years_of
from xland.geo.grid import Grid
from xland.geo.orientation import check_reference, find_horizontal, find_names, orient, refuse_packed
from xland.paths import without_password
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
_HONOURED = ("scale_factor", "add_offset", "valid_min", "valid_max", "valid_range", "_Unsigned")
_BLOCK = 1200  # cells of a block along latitude and longitude, where a file is read to be decoded
_LAYERS = (indexing.ExplicitlyIndexed, indexing.ImplicitToExplicitIndexingAdapter)


# damage of files


def unreadable(path: str | Path, kind: str, error: Exception) -> StoreError:
    """Return the named error of a file that its library cannot read: one line, without that library's advice."""
    return StoreError(
        f"{path} cannot be read as {kind}: {_reason(error)}; is it damaged, unfinished or of another format?"
    )


def with_named_reads(array: xr.DataArray, what: str) -> xr.DataArray:
    """Return an array of which faults of its file, when values are read, are a :class:`StoreError`."""
    data = array.variable._data  # noqa: SLF001 - `.data` would read a file
    if not isinstance(data, da.Array):
        lazy = isinstance(data, indexing.ExplicitlyIndexed) and not array.variable._in_memory and not _is_named(data)  # noqa: SLF001
        return array.copy(deep=False, data=indexing.LazilyIndexedArray(NamedReads(data, what))) if lazy else array
    layers = data.dask.layers if isinstance(data.dask, HighLevelGraph) else {}
    named: dict[Hashable, Any] = {}
    for name, layer in layers.items():
        source = layer[name] if isinstance(layer, MaterializedLayer) and len(layer) == 1 and name in layer else None
        is_array = all(hasattr(source, each) for each in ("shape", "dtype", "ndim", "__getitem__"))
        if is_array and not isinstance(source, np.ndarray | da.Array) and not _is_named(source):
            named[name] = MaterializedLayer({name: NamedReads(source, what)}, annotations=layer.annotations)
    if not named:
        return array
    graph = HighLevelGraph({**layers, **named}, data.dask.dependencies)
    return array.copy(deep=False, data=da.Array(graph, data.name, data.chunks, meta=data._meta))  # noqa: SLF001


def name_reads(ds: xr.Dataset) -> xr.Dataset:
    """Do the same, in place, for all variables of a Dataset that was just opened."""
    for name, variable in ds.variables.items():
        named = with_named_reads(ds[name], f"variable {name!r}").variable
        if named is not variable:
            variable.data = named._data  # noqa: SLF001
    return ds


class NamedReads(BackendArray):
    """An array of xarray's that reads a file, or one that dask takes blocks of: reading it fails by name."""

    __slots__ = ("array", "dtype", "shape", "what")

    def __init__(self, array: Any, what: str) -> None:
        self.array, self.what = array, what
        self.shape, self.dtype = tuple(array.shape), array.dtype

    def __getitem__(self, key: Any) -> NDArray[Any]:
        """Read a part."""
        try:
            if not isinstance(key, indexing.ExplicitIndexer):
                return np.asarray(self.array[key])
            return indexing.explicit_indexing_adapter(key, self.shape, indexing.IndexingSupport.OUTER, self._read)
        except (XlandError, MemoryError):
            raise
        except Exception as error:  # each library has errors of its own for each kind of damage
            file = _file_of(self.array)
            reason = _reason(error) if file is None else without_password(_reason(error), of=file)
            raise StoreError(
                f"{self.what}: values cannot be read from {'its file' if file is None else without_password(file)}: "
                f"{reason}; if the file is damaged, copy or download it again; if it is behind a network, try again"
            ) from error

    async def async_getitem(self, key: Any) -> NDArray[Any]:
        """Read a part beside other work."""
        return await asyncio.to_thread(self.__getitem__, key)

    def _read(self, key: tuple[Any, ...]) -> NDArray[Any]:
        return np.asarray(self.array.oindex[indexing.OuterIndexer(key)].get_duck_array())


def _file_of(data: Any) -> str | None:
    """Path or URL of what an array of xarray's reads, if it says so."""
    while isinstance(data, _LAYERS) and hasattr(data, "array"):
        data = data.array
    store = getattr(data, "datastore", None)
    manager = getattr(store, "_manager", None)
    for found in (getattr(store, "_filename", None), *getattr(manager, "_args", ())[:1]):
        if isinstance(found, str | Path):
            return str(found)
    zarr: Any = getattr(getattr(data, "_array", data), "store", None)
    zarr = getattr(zarr, "_store", zarr)  # of a store around another
    with suppress(AttributeError):
        return str(zarr.root) if hasattr(zarr, "root") else str(zarr.fs.unstrip_protocol(zarr.path))
    return None


def _is_named(data: Any) -> bool:
    while isinstance(data, _LAYERS):
        if isinstance(data, NamedReads):
            return True
        data = getattr(data, "array", None)
    return False


def _reason(error: Exception) -> str:
    said = str(error.__cause__ or error).strip() or type(error).__name__
    return re.split(r"\.\s|\n", re.sub(r"https?://\S+", "", said))[0].strip().rstrip(".")


# what variables declare


@dataclass(frozen=True)
class Declared:
    """What a variable says about its own values, as far as xarray has not applied it.

    ``fills``, and numbers outside ``lowest`` to ``highest``, mean no data; ``dtype`` is what the bits mean. Only where
    there is a fill value at all (``masked``) may a map of codes hold NaN.
    """

    fills: tuple[float, ...] = ()
    lowest: float = -np.inf
    highest: float = np.inf
    dtype: np.dtype[Any] | None = None
    masked: bool = False


def decode(values: NDArray[Any], declared: Declared, empty: float = np.nan) -> NDArray[Any]:
    """Return values of the numbers in an array; ``empty``, which is NaN or a code, is put where there is no data."""
    if declared.dtype is not None:
        values = values.view(declared.dtype)
    missing = no_data(values, declared)
    dtype = values.dtype if values.dtype.kind == "f" else np.result_type(values.dtype, np.uint8)
    if math.isnan(empty):
        dtype = np.result_type(values.dtype, np.float32)
    return np.where(missing, dtype.type(empty), values.astype(dtype, copy=False))


def no_data(values: NDArray[Any], declared: Declared) -> NDArray[np.bool_]:
    """Where there is no data: fill values, numbers outside the valid range, and NaN if a fill value is declared."""
    floating = values.dtype.kind == "f"
    missing = np.isnan(values) if declared.masked and floating else np.zeros(values.shape, dtype=np.bool_)
    for fill in declared.fills:
        if abs(fill) >= FILL_LIMIT and floating:
            missing |= (np.abs(values) >= FILL_LIMIT) & np.isfinite(values)
        elif floating:
            missing |= values == values.dtype.type(fill)
        elif fill == np.trunc(fill):
            limits, number = np.iinfo(values.dtype), int(fill)
            if not limits.min <= number <= limits.max:  # -1 of unsigned bytes is 255
                number = number % 2 ** (8 * values.dtype.itemsize) + min(limits.min, 0)
            missing |= values == number
    low, high = declared.lowest, declared.highest
    if (low, high) != (-np.inf, np.inf):
        slack = ROUNDING * max([1.0, *(abs(each) for each in (low, high) if np.isfinite(each))]) if floating else 0.0
        missing |= ((values < low - slack) | (values > high + slack)) & np.isfinite(values)
    return missing


def declared_by(variable: xr.Variable, what: str, error: type[XlandError]) -> Declared:
    """Return what a variable declares in its attributes, and in its encoding if its values are in memory.

    What xarray decoded is in the encoding, and has been applied unless values were put there later. Attributes that
    are not numbers, and packed values, which xarray decodes, are refused with the error given.
    """
    attributes = {str(key): value for key, value in variable.attrs.items()}
    given, decoded = (
        [fill for key in said if is_fill_key(key) for fill in _numbers(said, str(key), what, error)]
        for said in (attributes, variable.encoding)
    )
    low, high = (
        _numbers(attributes, key, what, error, end)[0] for key, end in (("valid_min", -np.inf), ("valid_max", np.inf))
    )
    if "valid_range" in attributes:
        low, high = _numbers(attributes, "valid_range", what, error, low, high)
    packing = {"scale_factor": 1.0, "add_offset": 0.0}
    scaled = not packing.keys().isdisjoint(variable.encoding)
    if scaled:
        scale, offset = (_numbers(variable.encoding, key, what, error, none)[0] for key, none in packing.items())
        low, high = (
            end * scale + offset if counts_packed(attributes.get("valid_range", attributes.get(key, 0.0))) else end
            for key, end in (("valid_min", low), ("valid_max", high))
        )
    # arithmetic in xarray keeps attributes: nobody can tell whether numbers were unpacked by hand
    if any(_numbers(attributes, key, what, error, none) != [none] for key, none in packing.items()):
        refuse_packed(attributes, what, error)
    signed = {"true": "u", "false": "i"}.get(str(attributes.get("_Unsigned", "")).strip().lower())
    integers = signed is not None and variable.dtype.kind in "iu" and signed != variable.dtype.kind
    fills = given if scaled or is_lazy(variable) else [*given, *decoded]
    return Declared(
        fills=tuple(dict.fromkeys(fills)) if variable.dtype.kind in "iuf" else (),
        lowest=min(low, high),
        highest=max(low, high),
        dtype=np.dtype(f"{signed}{variable.dtype.itemsize}") if integers else None,
        # NaN is what xarray writes for floats by itself: in the encoding it declares nothing
        masked=bool(decoded) or any(is_fill_key(key) and value is not None for key, value in attributes.items()),
    )


def counts_packed(valid: Any) -> bool:
    """Whether a valid range of a packed variable counts in packed numbers: floats are values, as the NUG has it."""
    return np.asarray(valid).dtype.kind != "f"


def is_fill_key(key: object) -> bool:
    """Whether an attribute declares a fill value, however it is spelt."""
    return re.sub(r"[\W_]", "", str(key)).lower() in _FILL_KEYS


def _numbers(said: Mapping[Any, Any], key: str, what: str, error: type[XlandError], *default: float) -> list[float]:
    """Numbers of an attribute without NaN; where there are defaults, as many, and these in place of NaN."""
    value = said.get(key)
    if value is None:
        return list(default)
    try:
        found = [float(each) for each in np.ravel(np.asarray(value)) if each is not None]
    except (TypeError, ValueError, OverflowError):
        raise error(
            f"{what}: the attribute {key} is {shown(value)}, which is not a number; correct or remove it"
        ) from None
    if not default:
        return [each for each in found if not math.isnan(each)]
    if len(found) != len(default):
        raise error(f"{what}: the attribute {key} holds {len(found)} numbers, not {len(default)}; correct or remove it")
    return [other if math.isnan(each) else each for each, other in zip(found, default, strict=True)]


def is_lazy(variable: xr.Variable) -> bool:
    """Whether values would be read from a file by asking for them: neither in memory nor in dask chunks."""
    lazy = isinstance(variable._data, indexing.ExplicitlyIndexed)  # noqa: SLF001 - xarray has no public way to ask
    return lazy and not isinstance(variable, xr.IndexVariable)


def check_array(array: xr.DataArray, what: str, error: type[XlandError], holds: Holds = "values") -> None:
    """Refuse values of another type, and arrays that are neither NumPy's nor dask's."""
    data = array.variable._data  # noqa: SLF001 - `.data` would read a file
    inner = data._meta if isinstance(data, da.Array) else data  # noqa: SLF001
    if type(inner) is not np.ndarray and not isinstance(inner, indexing.ExplicitlyIndexed):
        raise error(
            f"{what}: its values are held by {type(inner).__module__.partition('.')[0]} ({type(inner).__name__}), "
            "which is not understood here; pass a NumPy or dask array, as array.as_numpy() or open_dataset(chunks={}) "
            "give it"
        )
    kinds, described = _KINDS[holds]
    if array.dtype.kind not in kinds:
        raise error(f"{what}: its values are {array.dtype}, not {described}; convert them")


def read_values(
    array: xr.DataArray, *, what: str, error: type[XlandError], holds: Holds = "values", empty: float = np.nan
) -> xr.DataArray:
    """Return a variable with what it declares applied, lazily, and without the attributes that have been honoured.

    ``empty`` is put where there is no data, see :func:`decode`. What is refused is an ``error`` that names it.
    """
    check_array(array, what, error, holds)
    array = with_named_reads(array, what)
    if array.dtype.kind in "bUO":
        return array
    declared = declared_by(array.variable, what, error)
    plain = array.assign_attrs()
    plain.attrs = {key: value for key, value in array.attrs.items() if not is_fill_key(key) and key not in _HONOURED}
    ranged = (declared.lowest, declared.highest) != (-np.inf, np.inf)
    nan_is_a_code = not math.isnan(empty) and declared.masked and array.dtype.kind == "f"
    if not (declared.fills or ranged or declared.dtype is not None or nan_is_a_code):
        return plain
    function = partial(decode, declared=declared, empty=empty)
    if is_lazy(array.variable):
        plain = plain.chunk({dim: 1 if dim not in array.dims[-2:] else _BLOCK for dim in array.dims})
    if isinstance(plain.data, da.Array):
        meta = function(np.zeros((0,) * array.ndim, array.dtype))
        data = plain.data.map_blocks(function, dtype=meta.dtype, meta=meta)
    else:
        data = function(plain.values)
    plain = plain.copy(data=data)
    plain.encoding = {}
    return plain


# static predictors and maps


def without_extra(array: xr.DataArray, kept: Iterable[Hashable], what: str, error: type[XlandError]) -> xr.DataArray:
    """Return an array without its dimensions of size one, but for those to keep; longer ones are refused."""
    extra = [dim for dim in array.dims if dim not in set(kept)]
    long = {dim: array.sizes[dim] for dim in extra if array.sizes[dim] != 1}
    if long:
        raise error(
            f"{what}: has the dimensions {', '.join(f'{dim} ({size})' for dim, size in long.items())} beside latitude "
            f"and longitude; select one of {', '.join(map(repr, long))} with isel or sel"
            + (", and pass class codes rather than probabilities" if "class" in extra else "")
        )
    return array.isel(dict.fromkeys(extra, 0), drop=True) if extra else array


def read_static(static: xr.Dataset, names: Iterable[str], domain: str) -> xr.Dataset:
    """Return static predictors by name, ``(latitude, longitude)`` each in the caller's order, lazily.

    ``domain`` is the one that is the share of land. :class:`StaticError` if one is missing, or is not a field of
    numbers in units that are understood; :class:`GridError` if its coordinates are not latitude and longitude.
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
        latitude, longitude = find_horizontal(array, what=what)
        check_array(array, what, StaticError)
        check_units(name, array.attrs.get("units"), StaticError, fraction=name == domain)
        if str(array.attrs.get("positive", "up")).lower() == "down":
            raise StaticError(f"{what}: counts downwards (positive: down); change its sign and drop the attribute")
        array = read_values(
            without_extra(array, (latitude.dimension, longitude.dimension), what, StaticError),
            what=what,
            error=StaticError,
        )
        # coordinates without a dimension say nothing of a predictor, and may differ between two of them
        scalars = [each for each, value in array.coords.items() if not value.ndim and each != "spatial_ref"]
        fields[name] = array.drop_vars(scalars)
    return xr.Dataset(fields, attrs=static.attrs)


@dataclass(frozen=True)
class ClassMap:
    """A map (time, lat, lon) in canonical order, lazy where the caller's was; ``what`` names it in messages.

    ``years`` has one for each time step, None where the map does not say it.
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

    Of a Dataset the variable ``land_use`` is taken. ``empty`` is the code where there is no data: declared fill values,
    and NaN in maps that declare one. What is refused is an ``error``, but :class:`VocabularyError` for codes of maps.
    """
    array = map_of(obj, what, error)
    wrong = VocabularyError if error is GridError and holds == "classes" else error
    time = find_names(array, "time", what=what)
    latitude, longitude = find_horizontal(array, what=what)
    kept = [names.dimension for names in (time, latitude, longitude) if names is not None]
    array = without_extra(array, kept, what, error)
    if holds == "classes":
        check_legend(array, what)
    code = empty if holds in ("classes", "numbers") else np.nan
    return read_values(array, what=f"the {what}", error=wrong, holds=holds, empty=code)


def as_map(
    obj: Any, *, what: str, error: type[XlandError] = GridError, holds: Holds = "classes", empty: int = OCEAN
) -> ClassMap:
    """Return a map in canonical order, without reading it; parameters and errors as of :func:`read_codes`.

    Also :class:`GridError` if its grid is not regular; :class:`TimeError` if its years cannot be decoded, or if one is
    there twice.
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

    :class:`TimeError` if the years cannot be decoded, or if one is there twice.
    """
    years = years_of(array, what=what)
    if years is None:
        time = find_names(array, "time", what=what)
        return (None,) * (1 if time is None else array.sizes[time.dimension])
    twice = sorted({year for year in years if years.count(year) > 1})
    if twice:
        raise TimeError(f"the {what} holds several maps of {listed(twice)}; select one of each year")
    return years


def check_legend(array: xr.DataArray, what: str) -> None:
    """Refuse codes that the map itself says are other classes than ours."""
    values, said = (array.attrs.get(f"flag_{key}") for key in ("values", "meanings"))
    if values is None or said is None:
        return
    words = said.replace(",", " ").split() if isinstance(said, str) else [str(each) for each in np.ravel(said)]
    try:
        found = re.findall(r"-?\d+", values) if isinstance(values, str) else np.ravel(np.asarray(values)).tolist()
        numbers = [int(float(each)) for each in found]
    except (TypeError, ValueError, OverflowError):
        numbers = []
    if len(numbers) != len(words):
        raise VocabularyError(
            f"the {what} has {len(numbers)} numbers in flag_values and {len(words)} words in flag_meanings, so its "
            "legend is not clear: correct them, or drop both if its codes are those of xland"
        )
    for number, word in zip(numbers, words, strict=True):
        if 0 <= number < len(CLASSES) and word != CLASS_NAMES[number]:
            raise VocabularyError(
                f"the {what} says in flag_meanings that {number} is {word!r}, where class {number} is "
                f"{CLASS_NAMES[number]!r}: translate its legend with xland.vocabulary.translate, or drop flag_values "
                "and flag_meanings if its codes are those of xland"
            )
