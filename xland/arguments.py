"""What callers may pass: a count, a flag, names out of a list; anything else is refused by name."""

from __future__ import annotations

from collections.abc import Collection
from numbers import Real
from typing import Any

from xland.errors import XlandError


def is_count(value: object) -> bool:
    """Say whether a value can be a number of cells, workers or chunks: a whole number from 1."""
    if not isinstance(value, Real) or isinstance(value, bool):
        return False
    try:
        number = float(value)
    except OverflowError:
        return False
    return number.is_integer() and 1 <= number < 2**53


def check_flags(error: type[XlandError], **flags: object) -> None:
    """Refuse flags that are neither true nor false: the text ``"no"`` would count as true."""
    for name, value in flags.items():
        if not isinstance(value, bool):
            raise error(f"{name} must be True or False, not {value!r:.80}")


def one_of(value: Any, known: Collection[str], name: str, error: type[XlandError]) -> str:
    """Return a name out of a list; refuse others."""
    if not isinstance(value, str) or value not in known:
        raise error(f"{name} must be one of {', '.join(map(repr, known))}, not {value!r:.80}")
    return value


def items_of(value: Any, name: str, error: type[XlandError]) -> tuple[Any, ...]:
    """Return what is in a sequence; refuse what is not one."""
    try:
        return tuple(value)
    except TypeError:
        raise error(f"{name} must be a list or a tuple, not {value!r:.80}") from None
