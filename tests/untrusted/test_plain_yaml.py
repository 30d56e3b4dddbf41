from __future__ import annotations

import math
import os

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from xland.errors import CatalogError
from xland.untrusted import plain_yaml
from xland.untrusted.plain_yaml import parse, read_bytes, render

PLAIN = st.recursive(
    st.none() | st.booleans() | st.integers(-(10**17), 10**17) | st.floats(allow_nan=False) | st.text(max_size=30),
    lambda inner: (
        st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=20) | st.integers(0, 99), inner, max_size=4)
    ),
    max_leaves=20,
)
PIECES = [
    *"a{}[],!'\"\\~#\n\t\0\ufeff>",
    *(": ", "- ", "  ", "&x ", "*x", "!!int ", "|\n", "? ", "<<", "1:59:59", "9" * 400, "2001-99-99"),
    *("---\n", "%YAML 1.1\n", "0x1f", ".inf"),
]


def kinds(value):
    if isinstance(value, dict):
        return {type(value)}.union(*(kinds(key) | kinds(item) for key, item in value.items()), set())
    if isinstance(value, list):
        return {type(value)}.union(*map(kinds, value), set())
    return {type(value)}


@given(PLAIN)
@settings(max_examples=40, deadline=None)
def test_what_is_written_is_read_back_or_refused(value):
    try:
        found = parse(render({"a": value}, "it"), "it")
    except CatalogError:  # control characters and the like
        assert any(not char.isprintable() for char in str(value)) or "\\" in repr(value)
        return
    assert found == {"a": value}


@given(st.lists(st.sampled_from(PIECES), max_size=30).map("".join) | st.text(max_size=60))
@settings(max_examples=80, deadline=None)
def test_any_text_ends_in_plain_data_or_a_named_error(text):
    try:
        found = parse(text, "it")
    except CatalogError:
        return
    assert kinds(found) <= {dict, list, str, int, float, bool, type(None)}


@pytest.mark.parametrize(
    ("text", "value"),
    [
        *((text, text) for text in ("1:59:59", "2001-01-01", "2001-99-99", "1_000", "0x1f", "017", "yes")),
        ("9" * 5000, "9" * 5000),
        ("123456789012345678", 123456789012345678),
        ("1.5e3", 1500.0),
        ("True", True),
        ("~", None),
        (".inf", math.inf),
        ("'1'", "1"),
    ],
)
def test_plain_text_stands_for_numbers_and_words_only(text, value):
    found = parse(f"a: {text}", "it")["a"]
    assert found == value
    assert type(found) is type(value)


@pytest.mark.parametrize(
    ("text", "named"),
    [
        *((f"a: !!{kind} x", "types") for kind in ("int", "timestamp", "binary")),
        ("a: &x 1", "references"),
        ("<<: {a: 1}", "merging"),
        ("a: 1\na: 2", "twice"),
        ("{[a]: b}", "key"),
        ("1.5: b", "key"),
        ("---\na: 1\n---\nb: 2", "several documents"),
        *((text, "unsafe or damaged") for text in ("a: \0", "a:\n\t- b")),
        *((text, "nested deeper") for text in ("[" * 3000, "- " * 3000)),
        ("[" + "1," * 1001 + "]", "more than 1000 values"),
        ("#" * 10_001, "larger"),
    ],
)
def test_what_costs_a_reader_more_than_it_is_worth_is_refused(monkeypatch, text, named):
    monkeypatch.setattr(plain_yaml, "MOST_NODES", 1000)
    monkeypatch.setattr(plain_yaml, "MOST_BYTES", 10_000)
    with pytest.raises(CatalogError, match=named):
        parse(text, "it")


def test_only_plain_files_are_read(tmp_path):
    os.mkfifo(tmp_path / "pipe.yaml")
    (tmp_path / "device.yaml").symlink_to("/dev/zero")
    (tmp_path / "circle.yaml").symlink_to("circle.yaml")
    for name in ("pipe.yaml", "device.yaml", "circle.yaml", ".", "none.yaml", "a" * 5000):
        with pytest.raises(CatalogError, match="cannot be read"):
            read_bytes(tmp_path / name)
