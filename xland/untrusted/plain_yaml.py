"""YAML of strangers: only null, true and false, whole numbers, floats, text, lists and mappings, within limits.

What YAML offers beyond that costs a reader time, memory or worse: references can stand for terabytes,
tags name types, a number to the base 60 of a few megabytes takes minutes. Here the events of the
parser become plain data directly, and everything else is refused. Dates and long numbers are text.
"""

from __future__ import annotations

import itertools
import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml

from xland.errors import CatalogError
from xland.untrusted.folders import open_plain

MOST_BYTES = 16 * 2**20
"""Size of a file that is read at most."""

_DEEPEST = 20
MOST_NODES = 500_000
"""Values and keys in a file at most."""

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


@dataclass
class Places:
    """Where keys are in a text: those of the outer mapping and of the mappings in it, in their order.

    ``keys`` has depth (0 or 1), index of the first character, column, whether in braces, and the end of what is before.
    """

    keys: list[tuple[int, int, int, bool, int]] = field(default_factory=list)
    end: int = 0

    def watch(self, events: Iterator[Any]) -> Iterator[Any]:
        """Yield the events, and note where what has an extent ends: comments follow it."""
        for event in events:
            yield event
            if event.end_mark.index > event.start_mark.index and not isinstance(event, yaml.DocumentStartEvent):
                self.end = event.end_mark.index


def read_bytes(path: Path) -> bytes:
    """Return the bytes of a file; a :class:`CatalogError` if it is not a plain file, or too large to be a catalog."""
    try:
        with open_plain(path) as stream:
            return stream.read(MOST_BYTES + 1)
    except (OSError, ValueError) as error:  # the second for paths that no file can have
        raise CatalogError(f"the catalog {path} cannot be read: {getattr(error, 'strerror', error)}") from error


def decoded(content: bytes, what: str) -> str:
    """Return bytes as text; a :class:`CatalogError` if they are not UTF-8."""
    try:
        return content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise CatalogError(f"{what} is unsafe or damaged: {error}") from error


def parse(text: str, what: str, places: Places | None = None) -> Any:
    """Return what a YAML text says; a :class:`CatalogError`, which names ``what``, if it is large or not plain YAML."""
    if len(text) > MOST_BYTES or len(text.encode(errors="replace")) > MOST_BYTES:
        raise CatalogError(f"{what} is larger than a catalog may be ({MOST_BYTES // 2**20} MiB)")
    events = yaml.parse(text, Loader=_LOADER)
    if places is not None:
        events = places.watch(events)
    try:
        next(events)  # the stream begins
        if isinstance(next(events), yaml.StreamEndEvent):
            return None
        found = _node(next(events), events, 0, itertools.count(1), places)
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


def _node(event: Any, events: Iterator[Any], depth: int, number: Iterator[int], places: Places | None = None) -> Any:
    """Make plain data of the events from this one on."""
    if next(number) > MOST_NODES:
        raise yaml.YAMLError(f"it holds more than {MOST_NODES} values")
    if isinstance(event, yaml.AliasEvent) or event.anchor is not None:
        raise yaml.YAMLError(f"references (&name, *name) are not allowed in a catalog{_where(event)}")
    if event.tag is not None:
        raise yaml.YAMLError(f"types (such as {event.tag[:60]}) are not allowed in a catalog{_where(event)}")
    if isinstance(event, yaml.ScalarEvent):
        return _scalar(event.value) if event.implicit[0] else event.value
    if depth >= _DEEPEST:
        raise yaml.YAMLError(f"it is nested deeper than {_DEEPEST} levels{_where(event)}")
    if isinstance(event, yaml.SequenceStartEvent):
        items = []
        while not isinstance(event := next(events), yaml.SequenceEndEvent):
            items.append(_node(event, events, depth + 1, number))
        return items
    return _mapping(events, depth, number, places if depth < 2 else None, flow=event.flow_style)


def _mapping(
    events: Iterator[Any], depth: int, number: Iterator[int], places: Places | None, *, flow: bool
) -> dict[str | int, Any]:
    found: dict[str | int, Any] = {}
    while not isinstance(event := next(events), yaml.MappingEndEvent):
        if places is not None:
            mark = event.start_mark
            places.keys.append((depth, mark.index, mark.column, flow, places.end))
        key = _node(event, events, depth + 1, number)
        if isinstance(key, bool) or not isinstance(key, str | int):
            raise yaml.YAMLError(f"a key is neither text nor a whole number{_where(event)}")
        if key == "<<" and event.implicit[0]:
            raise yaml.YAMLError(f"merging (<<) is not allowed in a catalog{_where(event)}")
        if key in found:
            raise yaml.YAMLError(f"the key {key!r:.60} occurs twice{_where(event)}")
        found[key] = _node(next(events), events, depth + 1, number, places)
    return found


def _where(event: Any) -> str:
    return f" in line {event.start_mark.line + 1}"


def _scalar(text: str) -> Any:
    """Return what plain (unquoted) text means."""
    if text in _WORDS:
        return _WORDS[text]
    if _WHOLE.fullmatch(text):
        return int(text)
    return float(text) if _FLOAT.fullmatch(text) else text
