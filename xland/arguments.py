"""What callers may pass: counts, flags, numbers, text, names out of a list; anything else is refused by name."""

from __future__ import annotations

import builtins
import inspect
import math
import reprlib
from collections.abc import Callable, Iterable
from difflib import get_close_matches
from functools import cache, wraps
from numbers import Real
from types import NoneType, UnionType
from typing import Any, Literal, ParamSpec, TypeVar, Union, get_args, get_origin, get_type_hints

import numpy as np

from xland.errors import XlandError

_Parameters = ParamSpec("_Parameters")
_Result = TypeVar("_Result")

_short = reprlib.Repr()
_short.maxstring = _short.maxother = _short.maxlong = 60

_WORDS = {bool: "True or False", int: "a whole number", float: "a finite number", str: "text", NoneType: "None"}


def checked(error: type[XlandError]) -> Callable[[Callable[_Parameters, _Result]], Callable[_Parameters, _Result]]:
    """Let a function compare its options with their annotations before it runs.

    Options are what is passed by name alone and annotated as flags, numbers, text, names out of a list (``Literal``),
    or several of these; data and paths are left to what reads them. Numbers of NumPy become those of Python.

    Parameters
    ----------
    error : type
        Of what is raised; it names the option, what it must be, and what it is.
    """

    def decorate(function: Callable[_Parameters, _Result]) -> Callable[_Parameters, _Result]:
        @cache
        def hints() -> dict[str, Any]:
            named = {n for n, p in inspect.signature(function).parameters.items() if p.kind is p.KEYWORD_ONLY}
            return {name: hint for name, hint in _hints_of(function).items() if name in named and _is_plain(hint)}

        @wraps(function)
        def run(*args: _Parameters.args, **options: _Parameters.kwargs) -> _Result:
            for name in options.keys() & hints():
                value = options[name]
                options[name] = value = value.item() if isinstance(value, np.generic) else value
                if not _fits(value, hints()[name]):
                    raise error(f"{name} must be {_described(hints()[name])}, not {shown(value)}")
            return function(*args, **options)

        return run

    return decorate


def unknown(what: str, names: object, known: Iterable[Any]) -> str:
    """Return the message for a name, or a list of names, that are not known: the nearest one, and all that are."""
    known = [str(each) for each in known]
    given = [*names][:5] if isinstance(names, list | tuple | set) else [names]
    near = [found for name in given for found in get_close_matches(str(name), known, 1)]
    question = f": did you mean {near[0]!r}?" if near else "."
    return f"unknown {what} {', '.join(map(shown, given))}{question} Known are {', '.join(known) or 'none'}"


def is_count(value: object) -> bool:
    """Say whether a value can be a number of cells, workers or chunks: a whole number from 1."""
    return _is_whole(value) and 1 <= float(value) < 2**53  # type: ignore[arg-type]


def items_of(value: Any, name: str, error: type[XlandError]) -> tuple[Any, ...]:
    """Return what is in a sequence; refuse what is not one."""
    try:
        return tuple(value)
    except TypeError:
        raise error(f"{name} must be a list or a tuple, not {shown(value)}") from None


def shown(value: Any) -> str:
    """Return a value as it may stand in a message: short, however large it is."""
    try:
        return " ".join(_short.repr(value).split())
    except ValueError:  # an integer of more digits than Python writes
        return f"a number of about {int(value.bit_length() * 0.30103)} digits"


def _hints_of(function: Callable[..., Any]) -> dict[str, Any]:
    """Return what annotations mean; what a module imports for type checkers alone may be anything."""
    function = inspect.unwrap(function)
    texts = [text for text in inspect.get_annotations(function).values() if isinstance(text, str)]
    names = {name for text in texts for name in compile(text, "annotation", "eval").co_names}
    return get_type_hints(
        function, localns=dict.fromkeys(names - function.__globals__.keys() - vars(builtins).keys(), Any)
    )


def _is_plain(hint: Any) -> bool:
    if get_origin(hint) in (Union, UnionType):
        return all(map(_is_plain, get_args(hint)))
    return hint in _WORDS or get_origin(hint) is Literal


def _fits(value: object, hint: Any) -> bool:
    if get_origin(hint) in (Union, UnionType):
        return any(_fits(value, each) for each in get_args(hint))
    if get_origin(hint) is Literal:
        return isinstance(value, str) and value in get_args(hint)
    if hint is int:
        return _is_whole(value)
    if hint is float:
        return _is_number(value)
    return isinstance(value, hint)


def _described(hint: Any) -> str:
    if get_origin(hint) in (Union, UnionType):
        return " or ".join(map(_described, get_args(hint)))
    return f"one of {', '.join(map(repr, get_args(hint)))}" if get_origin(hint) is Literal else _WORDS[hint]


def _is_number(value: object) -> bool:
    try:
        return isinstance(value, Real) and not isinstance(value, bool) and math.isfinite(value)
    except OverflowError:
        return False


def _is_whole(value: object) -> bool:
    return _is_number(value) and float(value).is_integer()  # type: ignore[arg-type]
