"""What stands in files, as dataclasses that check their own entries by their annotations.

Model cards, training configurations and cluster profiles are read in the same way: :func:`read_record` makes a
dataclass of the plain values of a JSON or TOML file, and :func:`check_entries`, called from ``__post_init__``,
compares each entry with its annotation, whoever made the object. Limits stand in the annotation, too::

    depth: Annotated[int, Limits(1, 12)] = 4

Numbers are finite, true and false are not numbers, and a text is not a list.
"""

from __future__ import annotations

import json
import math
import os
import tomllib
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import MISSING, dataclass, fields, is_dataclass
from functools import lru_cache
from pathlib import Path
from types import NoneType, UnionType
from typing import (
    TYPE_CHECKING,
    Annotated,
    Any,
    BinaryIO,
    Literal,
    TypeVar,
    Union,
    get_args,
    get_origin,
    get_type_hints,
)

from xland.arguments import shown
from xland.errors import XlandError
from xland.untrusted import folders

if TYPE_CHECKING:
    from _typeshed import DataclassInstance

_Record = TypeVar("_Record", bound="DataclassInstance")

_MOST_DOTS = 250  # in a line of TOML


@dataclass(frozen=True)
class Limits:
    """Between what a number lies, or how long a text, list or table may be.

    Parameters
    ----------
    least, most : float
        Both are allowed.
    above, below : float
        Neither is allowed.
    """

    least: float = -math.inf
    most: float = math.inf
    above: float = -math.inf
    below: float = math.inf

    def __contains__(self, value: float) -> bool:
        return self.least <= value <= self.most and self.above < value < self.below

    def __str__(self) -> str:
        parts = (
            (self.least > -math.inf, f"of at least {self.least:.15g}"),
            (self.above > -math.inf, f"above {self.above:.15g}"),
            (self.most < math.inf, f"of at most {self.most:.15g}"),
            (self.below < math.inf, f"below {self.below:.15g}"),
        )
        return " and ".join(text for given, text in parts if given).replace(" and of ", " and ")


Share = Annotated[float, Limits(0, 1)]
Positive = Annotated[float, Limits(above=0)]


def check_entries(record: DataclassInstance, error: type[XlandError]) -> None:
    """Compare each entry of a dataclass with its annotation.

    Raises
    ------
    XlandError
        Of the class ``error``; it names the entry, what it must be, and what it is.
    """
    for name, hint in _hints(type(record)).items():
        value = getattr(record, name)
        if not _fits(value, hint):
            raise error(f"{name} must be {_described(hint)}, not {shown(value)}")


def read_record(kind: type[_Record], values: Any, where: str, error: type[XlandError]) -> _Record:
    """Make a dataclass of the plain values of a file: lists become tuples, tables dataclasses.

    Parameters
    ----------
    kind : type
        A dataclass that checks its entries.
    values : any
        What the file holds in its place.
    where : str
        Names the place in messages.
    error : type
        Of what is raised for entries that are unknown, missing or wrong.
    """
    if not isinstance(values, Mapping):
        raise error(f"{where} must be a table of entries, not {shown(values)}")
    hints = _hints(kind)
    unknown = sorted(str(name) for name in set(values) - set(hints))
    if unknown:
        raise error(f"{where}: unknown entries {', '.join(map(_brief, unknown[:5]))}; known are {', '.join(hints)}")
    required = [each.name for each in fields(kind) if each.default is MISSING and each.default_factory is MISSING]
    missing = [name for name in required if name not in values]
    if missing:
        raise error(f"{where} lacks {', '.join(missing)}")
    entries = {
        name: _made(value, hints[name], _place(where, name, hints[name]), error) for name, value in values.items()
    }
    try:
        return kind(**entries)
    except XlandError as wrong:
        raise error(f"{where}: {wrong}") from wrong


def read_json(path: Path, most: int, error: type[XlandError]) -> Any:
    """Read a JSON file of limited size whose numbers are finite.

    Raises
    ------
    XlandError
        Of the class ``error``: it cannot be read, is too large, nested too deep, or not JSON.
    """

    def refuse(text: str) -> Any:
        raise ValueError(f"{text} is not a finite number")

    def number(text: str) -> float:
        return value if math.isfinite(value := float(text)) else refuse(text[:40])

    return _parsed(path, most, error, "JSON", lambda text: json.loads(text, parse_constant=refuse, parse_float=number))


def read_toml(path: Path, most: int, error: type[XlandError]) -> dict[str, Any]:
    """Read a TOML file of limited size; errors as of :func:`read_json`."""
    values: dict[str, Any] = _parsed(path, most, error, "TOML", _toml)
    return values


def _toml(text: str) -> dict[str, Any]:
    # Python's parser takes the square of the parts of a key in time
    if any(line.count(".") > _MOST_DOTS for line in text.splitlines()):
        raise ValueError(f"a line has more than {_MOST_DOTS} points")
    return tomllib.loads(text)


@contextmanager
def open_plain(path: Path, error: type[XlandError]) -> Iterator[tuple[BinaryIO, int]]:
    """Open a file that is a plain file, and never wait for it; yield it and its size.

    Raises
    ------
    XlandError
        Of the class ``error``: it is not there, not a file (a folder, a pipe), or cannot be read.
    """
    try:
        with folders.open_plain(path) as file:
            yield file, os.fstat(file.fileno()).st_size
    except OSError as fault:
        raise error(f"{path} cannot be read: {fault.strerror or fault}") from fault


def _place(where: str, name: str, hint: Any) -> str:
    """Name an entry in a message; a section as TOML has it."""
    return f"{where}, [{name}]" if is_dataclass(_plain(hint)[0]) else f"{where}, {name}"


def _parsed(path: Path, most: int, error: type[XlandError], form: str, parse: Callable[[str], Any]) -> Any:
    with open_plain(path, error) as (file, size):
        content = file.read(most + 1)
    if len(content) > most:
        raise error(f"{path} has {max(size, len(content))} bytes, more than the {most} that are read")
    try:
        return parse(content.decode("utf-8"))
    except RecursionError as fault:
        raise error(f"{path} is damaged: its lists or tables lie too deep in each other") from fault
    except ValueError as fault:  # of JSON, TOML and UTF-8, and of numbers with thousands of digits
        raise error(f"{path} is damaged and cannot be read as {form}: {_brief(str(fault))}") from fault


def _brief(text: str) -> str:
    return text if len(text) <= 200 else f"{text[:200]}..."


@lru_cache(maxsize=64)
def _hints(kind: type) -> dict[str, Any]:
    hints = get_type_hints(kind, include_extras=True)
    return {each.name: hints[each.name] for each in fields(kind) if each.init}


def _plain(hint: Any) -> tuple[Any, Limits | None]:
    """Return an annotation without its limits, and these."""
    if get_origin(hint) is not Annotated:
        return hint, None
    base, *notes = get_args(hint)
    return base, next((each for each in notes if isinstance(each, Limits)), None)


def _fits(value: Any, hint: Any) -> bool:
    hint, limits = _plain(hint)
    origin, arguments = get_origin(hint), get_args(hint)
    if origin in (Union, UnionType):
        return any(_fits(value, each) for each in arguments)
    if hint in (int, float):
        kinds = int if hint is int else (int, float)
        sound = isinstance(value, kinds) and not isinstance(value, bool) and math.isfinite(_as_float(value))
        return sound and (limits is None or value in limits)
    if origin is tuple:
        if not isinstance(value, tuple):
            return False
        each = arguments[:1] * len(value) if arguments[1:] == (...,) else arguments
        sound = len(each) == len(value) and all(_fits(part, kind) for part, kind in zip(value, each, strict=True))
    elif origin is Literal:
        return any(value == each and type(value) is type(each) for each in arguments)
    elif isinstance(origin, type) and issubclass(origin, Mapping):
        sound = isinstance(value, Mapping) and all(
            _fits(name, arguments[0]) and _fits(part, arguments[1]) for name, part in value.items()
        )
    else:
        return hint is Any or (isinstance(value, hint) and (limits is None or len(value) in limits))
    return sound and (limits is None or len(value) in limits)


def _as_float(value: float) -> float:
    try:
        return float(value)
    except OverflowError:
        return math.inf


def _described(hint: Any) -> str:
    hint, limits = _plain(hint)
    origin, arguments = get_origin(hint), get_args(hint)
    if origin in (Union, UnionType):
        return " or ".join(dict.fromkeys(_described(each) for each in arguments))
    if origin is Literal:
        return f"one of {', '.join(map(repr, arguments))}"
    if origin is tuple:
        return _tuple_described(arguments, limits)
    what: Any
    if isinstance(origin, type) and issubclass(origin, Mapping):
        what = f"a table whose entries are each {_described(arguments[1])}"
    else:
        what = _WORDS.get(hint) or (
            "a table of entries" if is_dataclass(hint) else getattr(hint, "__name__", str(hint))
        )
    if limits is None:
        return str(what)
    if hint is str:
        return f"{what} of {limits.least:g} to {limits.most:g} characters"
    return f"{what} {limits}"


def _tuple_described(arguments: tuple[Any, ...], limits: Limits | None) -> str:
    if not arguments:
        return "an empty list"
    if arguments[1:] == (...,):
        return f"a list{'' if limits is None else f' {limits} entries'}, each {_described(arguments[0])}"
    return f"a list of {len(arguments)} entries: {', '.join(map(_described, arguments))}"


_WORDS = {
    int: "a whole number",
    float: "a finite number",
    bool: "true or false",
    str: "a text",
    NoneType: "nothing",
}


def _made(value: Any, hint: Any, where: str, error: type[XlandError]) -> Any:
    """Turn lists into tuples and tables into dataclasses where an annotation asks for them."""
    hint, _ = _plain(hint)
    origin, arguments = get_origin(hint), get_args(hint)
    if is_dataclass(hint):
        return read_record(hint, value, where, error)  # type: ignore[arg-type, type-var]
    if origin in (Union, UnionType):
        hint = next((each for each in arguments if get_origin(_plain(each)[0]) is tuple), Any)
        return _made(value, hint, where, error) if hint is not Any else value
    if origin is tuple and isinstance(value, list | tuple):
        kind = arguments[0] if arguments[1:] == (...,) else Any
        return tuple(_made(each, kind, f"{where} {number}", error) for number, each in enumerate(value, 1))
    return value
