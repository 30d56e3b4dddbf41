"""YAML of strangers: only null, true and false, whole numbers, floats, text, lists and mappings, within limits.

What YAML offers beyond that costs a reader time, memory or worse: references can stand for terabytes,
tags name types, a number to the base 60 of a few megabytes takes minutes. Here the events of the
parser become plain data directly, and everything else is refused. Dates and long numbers are text.
"""

from __future__ import annotations

import itertools
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import yaml

from xland.errors import CatalogError
from xland.untrusted.folders import open_plain

MOST_BYTES = 16 * 2**20
"""Size of a file that is read at most."""

_DEEPEST = 20
_MOST_NODES = 500_000
_WORDS = {
    **dict.fromkeys(("", "~", "null", "Null", "NULL"), None),
    **dict.fromkeys(("true", "True", "TRUE"), True),
    **dict.fromkeys(("false", "False", "FALSE"), False),
    **dict.fromkeys((".inf", "+.inf", ".Inf", "+.Inf"), float("inf")),
    **dict.fromkeys(("-.inf", "-.Inf"), float("-inf")),
    **dict.fromkeys((".nan", ".NaN", ".NAN"), float("nan")),
}
_WHOLE = re.compile(r"[-+]?(0|[1-9][0-9]{0,17})")
_FLOAT = re.compile(r"[-+]?([0-9]{1,40}\.[0-9]{0,40}|\.[0-9]{1,40}|[0-9]{1,40}(?=[eE]))([eE][-+]?[0-9]{1,4})?")
_LOADER = getattr(yaml, "CSafeLoader", yaml.SafeLoader)


class _Dumper(getattr(yaml, "CSafeDumper", yaml.SafeDumper)):  # type: ignore[misc]
    """The safe writer, which repeats what occurs twice instead of referring to it."""

    def ignore_aliases(self, data: Any) -> bool:  # noqa: ARG002 -- the writer's signature
        return True


def read_yaml(path: Path) -> Any:
    """Return the content of a file; a :class:`CatalogError` if it is not a plain file, or not plain YAML."""
    try:
        with open_plain(path) as stream:
            text = stream.read(MOST_BYTES + 1).decode()
    except UnicodeDecodeError as error:
        raise CatalogError(f"the catalog {path} is unsafe or damaged: {error}") from error
    except (OSError, ValueError) as error:  # the second for paths that no file can have
        raise CatalogError(f"the catalog {path} cannot be read: {getattr(error, 'strerror', error)}") from error
    return parse(text, f"the catalog {path}")


def parse(text: str, what: str) -> Any:
    """Return what a YAML text says; a :class:`CatalogError`, which names ``what``, if it is large or not plain YAML."""
    if len(text) > MOST_BYTES or len(text.encode(errors="replace")) > MOST_BYTES:
        raise CatalogError(f"{what} is larger than a catalog may be ({MOST_BYTES // 2**20} MiB)")
    events = yaml.parse(text, Loader=_LOADER)
    try:
        next(events)  # the stream begins
        if isinstance(next(events), yaml.StreamEndEvent):
            return None
        found = _node(next(events), events, 0, itertools.count(1))
        next(events)  # the document ends
        if not isinstance(next(events), yaml.StreamEndEvent):
            raise yaml.YAMLError("it holds several documents")
    except (yaml.YAMLError, UnicodeError) as error:
        said = f"it is nested deeper than {_DEEPEST} levels" if "nesting depth" in str(error) else error
        raise CatalogError(f"{what} is unsafe or damaged: {said}") from error
    return found


def render(content: Any, what: str) -> str:
    """Return plain data as YAML; a :class:`CatalogError` if YAML cannot hold them."""
    try:
        return str(yaml.dump(content, Dumper=_Dumper, sort_keys=False, allow_unicode=True, width=100))
    except (yaml.YAMLError, UnicodeError, RecursionError) as error:
        raise CatalogError(f"{what} cannot be written as YAML: {error}") from error


def _node(event: Any, events: Iterator[Any], depth: int, number: Iterator[int]) -> Any:
    """Make plain data of the events from this one on."""
    where = f" in line {event.start_mark.line + 1}"
    if next(number) > _MOST_NODES:
        raise yaml.YAMLError(f"it holds more than {_MOST_NODES} values")
    if isinstance(event, yaml.AliasEvent) or event.anchor is not None:
        raise yaml.YAMLError(f"references (&name, *name) are not allowed in a catalog{where}")
    if event.tag is not None:
        raise yaml.YAMLError(f"types (such as {event.tag[:60]}) are not allowed in a catalog{where}")
    if isinstance(event, yaml.ScalarEvent):
        return _scalar(event.value) if event.implicit[0] else event.value
    if depth >= _DEEPEST:
        raise yaml.YAMLError(f"it is nested deeper than {_DEEPEST} levels{where}")
    if isinstance(event, yaml.SequenceStartEvent):
        items = []
        while not isinstance(event := next(events), yaml.SequenceEndEvent):
            items.append(_node(event, events, depth + 1, number))
        return items
    found: dict[str | int, Any] = {}
    while not isinstance(event := next(events), yaml.MappingEndEvent):
        key = _node(event, events, depth + 1, number)
        where = f" in line {event.start_mark.line + 1}"
        if isinstance(key, bool) or not isinstance(key, str | int):
            raise yaml.YAMLError(f"a key is neither text nor a whole number{where}")
        if key == "<<" and event.implicit[0]:
            raise yaml.YAMLError(f"merging (<<) is not allowed in a catalog{where}")
        if key in found:
            raise yaml.YAMLError(f"the key {key!r:.60} occurs twice{where}")
        found[key] = _node(next(events), events, depth + 1, number)
    return found


def _scalar(text: str) -> Any:
    """Return what plain (unquoted) text means."""
    if text in _WORDS:
        return _WORDS[text]
    if _WHOLE.fullmatch(text):
        return int(text)
    return float(text) if _FLOAT.fullmatch(text) else text
