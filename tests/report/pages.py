"""Pages read back: elements, attributes, texts, figures and pictures."""

from __future__ import annotations

import base64
import io
from html.parser import HTMLParser

import pytest

VOID = {"meta", "img", "input", "link", "br", "hr"}


class Page(HTMLParser):
    """Every element closed in order, with the attributes and texts seen on the way."""

    def __init__(self, text: str):
        super().__init__()
        self.open: list[str] = []
        self.tags: list[str] = []
        self.attributes: list[tuple[str, str, str]] = []
        self.texts: list[str] = []
        self.cells: list[str] = []
        self._all: list[tuple[str, list]] = []
        self.feed(text)
        self.close()

    def elements(self, tag):
        """Return the attributes of every element of a kind."""
        return [attributes for name, attributes in self._all if name == tag]

    def handle_starttag(self, tag, attrs):
        self.tags.append(tag)
        self._all.append((tag, attrs))
        self.attributes += [(tag, name, value or "") for name, value in attrs]
        if tag not in VOID:
            self.open.append(tag)

    def handle_endtag(self, tag):
        assert self.open, f"</{tag}> closes nothing"
        assert self.open.pop() == tag

    def handle_data(self, data):
        self.texts.append(data)
        if self.open and self.open[-1] == "td":
            self.cells.append(data.strip())


def image(source):
    """Return the picture of a data URL."""
    pillow = pytest.importorskip("PIL.Image")
    return pillow.open(io.BytesIO(base64.b64decode(source.split(",")[1]))).convert("RGBA")


def numbers(written):
    """Return every number in what was read from JSON."""
    if isinstance(written, dict):
        return [found for each in written.values() for found in numbers(each)]
    if isinstance(written, list):
        return [found for each in written for found in numbers(each)]
    return [written] if isinstance(written, (int, float)) and not isinstance(written, bool) else []
