"""Entries of files as dataclasses that check themselves: model cards, training configurations, cluster profiles.

:func:`read_record` makes a dataclass of the plain values of a JSON or TOML file. :func:`check_entries`, called from
``__post_init__``, compares each entry with its annotation (:mod:`xland.arguments`), whoever made the object.
"""

from __future__ import annotations

import json
import math
import os
import tomllib
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import MISSING, fields, is_dataclass
from functools import lru_cache
from pathlib import Path
from types import UnionType
from typing import TYPE_CHECKING, Any, BinaryIO, TypeVar, Union, get_args, get_origin, get_type_hints

from xland.arguments import Limits as Limits
from xland.arguments import Positive as Positive
from xland.arguments import Share as Share
from xland.arguments import fits, plain, refusal, shown, unknown
from xland.errors import XlandError
from xland.untrusted import folders

if TYPE_CHECKING:
    from _typeshed import DataclassInstance

_Record = TypeVar("_Record", bound="DataclassInstance")

_MOST_DOTS = 250  # in a line of TOML


def check_entries(record: DataclassInstance, error: type[XlandError]) -> None:
    """Compare each entry of a dataclass with its annotation; the error names the entry, what it must be, and is."""
    for name, hint in _hints(type(record)).items():
        value = getattr(record, name)
        if not fits(value, hint):
            raise error(refusal(name, value, hint))


def read_record(kind: type[_Record], values: Any, where: str, error: type[XlandError]) -> _Record:
    """Make a dataclass of the plain values of a file: lists become tuples, tables dataclasses.

    ``where`` names the place in messages. The error is raised for entries that are unknown, missing or wrong.
    """
    if not isinstance(values, Mapping):
        raise error(f"{where} must be a table of entries, not {shown(values)}")
    hints = _hints(kind)
    strange = sorted(str(name) for name in set(values) - set(hints))
    if strange:
        raise error(f"{where}: {unknown('entries', strange, hints)}")
    required = [each.name for each in fields(kind) if each.default is MISSING and each.default_factory is MISSING]
    missing = [name for name in required if name not in values]
    if missing:
        raise error(f"{where} lacks {', '.join(missing)}")
    entries = dict(values)
    for name, value in values.items():
        is_list, part = _parts(hints[name])
        section = is_dataclass(hints[name])
        place = f"{where}, [{name}]" if section else f"{where}, {name}"  # as TOML has it
        if is_list and isinstance(value, list | tuple):
            items = list(value)
            for number, item in enumerate(items if part else (), 1):
                items[number - 1] = read_record(part, item, f"{place} {number}", error)
            entries[name] = tuple(items)
        elif part and not is_list and (section or value is not None):
            entries[name] = read_record(part, value, place, error)
    try:
        return kind(**entries)
    except XlandError as wrong:
        raise error(f"{where}: {wrong}") from wrong


@lru_cache(maxsize=256)
def _parts(hint: Any) -> tuple[bool, Any]:
    """Say whether an entry is a list, and which dataclass it is, or each of its items; None if they are plain."""
    hint = plain(hint)[0]
    if get_origin(hint) in (Union, UnionType):
        return max(map(_parts, get_args(hint)), key=lambda parts: parts != (False, None))
    first = get_args(hint)[0] if get_origin(hint) is tuple and get_args(hint) else hint
    return get_origin(hint) is tuple, first if is_dataclass(first) else None


def read_json(path: Path, most: int, error: type[XlandError]) -> Any:
    """Read a JSON file of limited size whose numbers are finite.

    The error says if it cannot be read, is too large, nested too deep, or not JSON.
    """

    def refuse(text: str) -> Any:
        raise ValueError(f"{text} is not a finite number")

    def number(text: str) -> float:
        return value if math.isfinite(value := float(text)) else refuse(text[:40])

    return _parsed(path, most, error, "JSON", lambda text: json.loads(text, parse_constant=refuse, parse_float=number))


def read_toml(path: Path, most: int, error: type[XlandError]) -> dict[str, Any]:
    """Read a TOML file of limited size; errors as of :func:`read_json`."""

    def parse(text: str) -> Any:
        # Python's parser takes the square of the parts of a key in time
        if any(line.count(".") > _MOST_DOTS for line in text.splitlines()):
            raise ValueError(f"a line has more than {_MOST_DOTS} dots")
        return tomllib.loads(text)

    values: dict[str, Any] = _parsed(path, most, error, "TOML", parse)
    return values


@contextmanager
def open_plain(path: Path, error: type[XlandError]) -> Iterator[tuple[BinaryIO, int]]:
    """Open a plain file, and never wait for it; yield it and its size.

    The error says if it is not there, not a file (a folder, a pipe), or cannot be read.
    """
    try:
        with folders.open_plain(path) as file:
            yield file, os.fstat(file.fileno()).st_size
    except OSError as fault:
        raise error(f"{path} cannot be read: {fault.strerror or fault}") from fault


def _parsed(path: Path, most: int, error: type[XlandError], form: str, parse: Callable[[str], Any]) -> Any:
    with open_plain(path, error) as (file, size):
        content = file.read(most + 1)
    if len(content) > most:
        raise error(f"{path} has {max(size, len(content))} bytes, more than the {most} that are read")
    try:
        return parse(content.decode("utf-8"))
    except RecursionError as fault:
        raise error(f"{path} is damaged: its lists or tables are nested too deep") from fault
    except ValueError as fault:  # of JSON, TOML and UTF-8, and of numbers with thousands of digits
        raise error(f"{path} is damaged and cannot be read as {form}: {str(fault)[:200]}") from fault


@lru_cache(maxsize=64)
def _hints(kind: type) -> dict[str, Any]:
    hints = get_type_hints(kind, include_extras=True)
    return {each.name: hints[each.name] for each in fields(kind) if each.init}
