"""What callers and files may pass, checked against annotations: one mechanism, one set of messages.

An annotation is a type, a ``Literal``, a union, a tuple, a mapping, or one of these with :class:`Limits`::

    workers: Annotated[int, Limits(1)] | None = None

Numbers are finite, true and false are not numbers, and a text is not a list.
"""

from __future__ import annotations

import builtins
import inspect
import math
import reprlib
import sys
from collections.abc import Callable, Collection, Iterable, Mapping
from dataclasses import dataclass, is_dataclass
from difflib import get_close_matches
from functools import cache, wraps
from itertools import repeat
from numbers import Real
from os import PathLike
from types import NoneType, UnionType
from typing import Annotated, Any, Literal, ParamSpec, TypeVar, Union, get_args, get_origin, get_type_hints

import numpy as np

from xland.errors import KeywordError, XlandError

_Parameters = ParamSpec("_Parameters")
_Result = TypeVar("_Result")

_short = reprlib.Repr()
_short.maxstring = _short.maxother = _short.maxlong = 60

_LONGEST_NAME = 1000  # to look for others that are like it takes the square of that
_TYPES = {bool: "true or false", int: "a whole number", float: "a finite number", str: "a text", NoneType: "None"}


@dataclass(frozen=True)
class Limits:
    """Limits of a number, or of the length of a text, list or table: `least` and `most` are allowed, others not."""

    least: float = -math.inf
    most: float = math.inf
    above: float = -math.inf
    below: float = math.inf

    def __str__(self) -> str:
        parts = (
            (self.least > -math.inf, f"of at least {self.least:.15g}"),
            (self.above > -math.inf, f"above {self.above:.15g}"),
            (self.most < math.inf, f"of at most {self.most:.15g}"),
            (self.below < math.inf, f"below {self.below:.15g}"),
        )
        return " and ".join(text for given, text in parts if given).replace(" and of ", " and ")


OTHER_NAMES = {"bbox": "region"}
"""Second names of keywords, and so of options: for whoever knows them from another package."""

_UNLIMITED = Limits()
Count = Annotated[int, Limits(1)]
Share = Annotated[float, Limits(0, 1)]
Positive = Annotated[float, Limits(above=0)]


def checked(error: type[XlandError]) -> Callable[[Callable[_Parameters, _Result]], Callable[_Parameters, _Result]]:
    """Let a function compare its options with their annotations before it runs.

    Options are passed by name alone, and annotated as flags, numbers, text or ``Literal``. Data and paths are left to
    the code that reads them. A wrong option raises `error`, an unknown one a KeywordError.
    """

    def decorate(function: Callable[_Parameters, _Result]) -> Callable[_Parameters, _Result]:
        parameters = inspect.signature(function).parameters
        takes_more = any(each.kind is each.VAR_KEYWORD for each in parameters.values())

        @cache
        def hints() -> dict[str, Any]:
            every = hints_of(function)
            named = [name for name, each in parameters.items() if each.kind is each.KEYWORD_ONLY]
            return {name: every[name] for name in named if name in every and _is_plain(every[name])}

        @wraps(function)
        def run(*args: _Parameters.args, **options: _Parameters.kwargs) -> _Result:
            options = by_first_names(options, parameters)  # type: ignore[assignment]
            for name, value in list(options.items()):
                if name not in parameters and not takes_more:
                    raise KeywordError(f"{function.__name__}: {unknown('keyword', name, parameters)}")
                if name not in hints():
                    continue
                hint = hints()[name]
                given = value.item() if isinstance(value, np.generic) else value
                whole = int(given) if isinstance(given, float) and given.is_integer() else given
                if not fits(given, hint) and not fits(whole, hint):
                    raise error(refusal(name, given, hint))
                options[name] = given if fits(given, hint) else whole
            return function(*args, **options)

        return run

    return decorate


def by_first_names(options: Mapping[str, Any], known: Collection[str]) -> dict[str, Any]:
    """Return keywords under their first names, see :data:`OTHER_NAMES`; KeywordError if one is there under both."""
    found: dict[str, Any] = {}
    for given, value in options.items():
        name = OTHER_NAMES.get(given, given)
        name = name if name in known else given
        if name in found:
            raise KeywordError(f"{given} is another name of {OTHER_NAMES.get(given, name)}: give one of the two")
        found[name] = value
    return found


def unknown(what: str, names: object, known: Iterable[Any]) -> str:
    """Return the message for a name, or a list of names, that are not known: the nearest one, and all that are."""
    known = [str(each) for each in known]
    given = [*names][:5] if isinstance(names, list | tuple | set) else [names]
    question = next(filter(None, (guess(name, known) for name in given)), ".")
    return f"unknown {what} {', '.join(map(shown, given))}{question} Known are {', '.join(known) or 'none'}"


def guess(name: object, known: Iterable[str]) -> str:
    """Return ``: did you mean 'NAME'?`` for the known name that is nearest to another one; empty if none is near."""
    text = str(name) if isinstance(name, str | PathLike) else ""
    near = get_close_matches(text, list(known), 1) if 0 < len(text) <= _LONGEST_NAME else []
    return f": did you mean {near[0]!r}?" if near else ""


def refusal(name: str, value: object, hint: Any) -> str:
    """Return the message for a value that an annotation does not allow."""
    choices = [each for part in (get_args(hint) or ()) for each in (part, *get_args(part)) if isinstance(each, str)]
    return f"{name} must be {described(hint)}, not {shown(value)}{guess(value, choices)}"


def fits(value: Any, hint: Any) -> bool:
    """Say whether a value is what an annotation allows."""
    pending = [(value, hint)]
    while pending:
        value, hint = pending.pop()
        hint, limits = (hint.__origin__, hint.__metadata__[0]) if get_origin(hint) is Annotated else (hint, _UNLIMITED)
        origin, arguments = get_origin(hint), get_args(hint)
        if origin in (Union, UnionType):
            sound = any(map(fits, repeat(value), arguments))
        elif origin is Literal:
            sound = type(value) in map(type, arguments) and value in arguments
        elif hint in (int, float):
            kind: Any = int if hint is int else Real
            # as finite numbers are; integers may be larger
            sound = isinstance(value, kind) and not isinstance(value, bool) and abs(value) <= sys.float_info.max
        elif origin is tuple:
            each = arguments[:1] * len(value) if isinstance(value, tuple) and arguments[1:] == (...,) else arguments
            sound = isinstance(value, tuple) and len(each) == len(value)
            pending += zip(value, each, strict=True) if sound else ()
        elif isinstance(origin, type) and issubclass(origin, Mapping):
            sound = isinstance(value, Mapping)
            for name, part in value.items() if sound else ():
                pending += [(name, arguments[0]), (part, arguments[1])]
        else:
            sound = hint is Any or isinstance(value, hint)
        if not sound:
            return False
        if limits is not _UNLIMITED:
            size = value if hint in (int, float) else len(value)
            if not (limits.least <= size <= limits.most and limits.above < size < limits.below):
                return False
    return True


def described(hint: Any) -> str:
    """Say what an annotation allows."""
    hint, limits = plain(hint)
    origin, arguments = get_origin(hint), get_args(hint)
    bounds = "" if limits is _UNLIMITED else f" {limits}"
    if origin in (Union, UnionType):
        return " or ".join(dict.fromkeys(map(described, arguments)))
    if origin is Literal:
        return f"one of {', '.join(map(repr, arguments))}"
    if origin is tuple and arguments[1:] == (...,):
        return f"a list{bounds and f'{bounds} entries'}, each {described(arguments[0])}"
    if origin is tuple:
        entries = f"a list of {len(arguments)} entries: {', '.join(map(described, arguments))}"
        return entries if arguments else "an empty list"
    if isinstance(origin, type) and issubclass(origin, Mapping):
        return f"a table whose entries are each {described(arguments[1])}{bounds}"
    if hint is str and bounds:
        return f"a text of {limits.least:g} to {limits.most:g} characters"
    other = "a table of entries" if is_dataclass(hint) else getattr(hint, "__name__", str(hint))
    return f"{_TYPES.get(hint, other)}{bounds}"


def plain(hint: Any) -> tuple[Any, Limits]:
    """Return an annotation without its limits, and these."""
    return (hint.__origin__, hint.__metadata__[0]) if get_origin(hint) is Annotated else (hint, _UNLIMITED)


def hints_of(function: Callable[..., Any]) -> dict[str, Any]:
    """Return the annotations of a function; names that only type checkers import may be anything."""
    function = inspect.unwrap(function)
    texts = [text for text in inspect.get_annotations(function).values() if isinstance(text, str)]
    names = {name for text in texts for name in compile(text, "annotation", "eval").co_names}
    missing = names - function.__globals__.keys() - vars(builtins).keys()
    return get_type_hints(function, localns=dict.fromkeys(missing, Any), include_extras=True)


def is_count(value: Any) -> bool:
    """Say whether a value can be a number of cells, workers or chunks: a whole number from 1."""
    return fits(value, float) and 1 <= value < 2**53 and value % 1 == 0


def items_of(value: Any, name: str, error: type[XlandError]) -> tuple[Any, ...]:
    """Return the items of a sequence; refuse anything else."""
    try:
        return tuple(value)
    except TypeError:
        raise error(f"{name} must be a list or a tuple, not {shown(value)}") from None


def choose_names(names: Any, known: Iterable[str], what: str, error: type[XlandError]) -> tuple[str, ...]:
    """Return the names, one or several, that a caller chooses from those of a table, each once; refuse others."""
    wanted, known = (names,) if isinstance(names, str) else items_of(names, what, error), tuple(known)
    wrong = [name for name in wanted if not isinstance(name, str) or name not in known]
    if wrong:
        raise error(unknown(what, wrong, known))
    if not wanted:
        raise error(f"{what} is empty: choose from {', '.join(known)}")
    return tuple(dict.fromkeys(wanted))


def shown(value: Any) -> str:
    """Return a value for a message: short, however large it is."""
    try:
        return " ".join(_short.repr(value).split())
    except ValueError:  # an integer of more digits than Python writes
        return f"a number of about {int(value.bit_length() * 0.30103)} digits"


def _is_plain(hint: Any) -> bool:
    hint = plain(hint)[0]
    if get_origin(hint) in (Union, UnionType):
        return all(map(_is_plain, get_args(hint)))
    return hint in _TYPES or get_origin(hint) is Literal
