"""Changing entries in the text of a catalog: whatever else is in it, such as comments and order, stays as it is."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from xland.untrusted.plain_yaml import Places, render

Part = tuple[str, str]
"""Text of a key: blank lines and comments above it, and its own lines with its value."""


@dataclass(frozen=True)
class Section:
    """A key of the outer mapping. ``indent`` is that of the keys in its value, 0 if they cannot be changed singly."""

    head: Part
    indent: int
    parts: dict[Any, Part]


@dataclass(frozen=True)
class Layout:
    """A text in parts; ``after`` follows the last value."""

    sections: dict[Any, Section]
    after: str

    @property
    def text(self) -> str:
        """Put the parts together."""
        found: list[str] = []
        for section in self.sections.values():
            found += section.head
            for part in section.parts.values():
                found += part
        return "".join([*found, self.after])

    @property
    def lengths(self) -> list[Any]:
        """Lengths of the parts, which with text and content are the layout."""
        return [
            [[*map(len, section.head)], section.indent, [[*map(len, part)] for part in section.parts.values()]]
            for section in self.sections.values()
        ]


def layout_from(text: str, content: Mapping[Any, Any], lengths: list[Any]) -> Layout:
    """Return the layout of a text whose content and lengths are known."""
    sections, at = {}, 0

    def take(part: list[int]) -> Part:
        nonlocal at
        start, at = at, at + sum(part)
        return text[start : start + part[0]], text[start + part[0] : at]

    for (key, value), (head, indent, parts) in zip(content.items(), lengths, strict=True):
        taken = take(head)
        children = dict(zip(value, map(take, parts), strict=True)) if parts else {}
        sections[key] = Section(taken, indent, children)
    return Layout(sections, text[at:])


def lay_out(text: str, content: Mapping[Any, Any], places: Places) -> Layout | None:
    """Divide a text, whose content was read, at its keys; None if it is one in braces or otherwise unusual."""

    def line_after(end: int) -> int:
        if end == 0 or text[end - 1] == "\n":
            return end
        return text.find("\n", end) + 1 or len(text)

    cuts = []
    for depth, start, column, flow, end in places.keys:
        line = start - column
        cuts.append((depth, line_after(end), line, column, flow))
        if depth == 0 and (flow or column or not line_after(end) <= line):
            return None
    ends = [*(cut[1] for cut in cuts[1:]), line_after(places.end)]
    if "\r" in text or any(mark in text for mark in ("\n...", "\n---")) or not text.endswith("\n"):
        return None
    sections, number = {}, 0
    for key, value in content.items():
        _, top, line, *_ = cuts[number]
        last = number + (len(value) if isinstance(value, dict) else 0)
        children = range(number + 1, last + 1)
        columns = {cuts[each][3] for each in children}
        lines_apart = all(cuts[each][1] <= cuts[each][2] and not cuts[each][4] for each in children)
        if children and lines_apart and len(columns) == 1 and 0 not in columns:
            head = (text[top:line], text[line : ends[number]])
            parts = {
                child: (text[cuts[each][1] : cuts[each][2]], text[cuts[each][2] : ends[each]])
                for child, each in zip(value, children, strict=True)
            }
            sections[key] = Section(head, columns.pop(), parts)
        else:
            sections[key] = Section((text[top:line], text[line : ends[last]]), 0, {})
        number = last + 1
    return Layout(sections, text[ends[-1] :])


def changed(layout: Layout, old: Mapping[Any, Any], new: Mapping[Any, Any], renamed: Mapping[str, str]) -> Layout:
    """Return the layout of a text in which what differs between two contents is written again.

    ``renamed`` gives the old name of keys in the sections, whose comments stay.
    """
    sections = {}
    for key, value in new.items():
        section = layout.sections.get(key)
        if section is not None and (old[key] is value or old[key] == value):
            sections[key] = section
        elif section is not None and section.indent and isinstance(value, dict) and value:
            sections[key] = _changed_in(section, old[key], value, renamed)
        else:
            sections[key] = _section(key, value, "" if section is None else section.head[0])
    return Layout(sections, layout.after)


def _changed_in(
    section: Section, old: Mapping[Any, Any], new: Mapping[Any, Any], renamed: Mapping[str, str]
) -> Section:
    parts = {}
    for key, value in new.items():
        before = renamed.get(key, key)
        part = section.parts.get(before)
        if part is not None and before == key and (old[key] is value or old[key] == value):
            parts[key] = part
        else:
            parts[key] = ("" if part is None else part[0], _written(key, value, section.indent))
    return Section(section.head, section.indent, parts)


def _section(key: Any, value: Any, above: str) -> Section:
    if not isinstance(value, dict) or not value:
        return Section((above, _written(key, value, 0)), 0, {})
    parts = {child: ("", _written(child, each, 2)) for child, each in value.items()}
    return Section((above, _written(key, None, 0).replace(" null\n", "\n")), 2, parts)


def _written(key: Any, value: Any, indent: int) -> str:
    lines = render({key: value}, "the catalog").splitlines(keepends=True)
    return "".join(" " * indent + line if line.strip() else line for line in lines)
