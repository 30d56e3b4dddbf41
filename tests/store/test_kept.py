from __future__ import annotations

import pickle
import uuid

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from xland.errors import StoreError
from xland.store.rollouts import Keeper


@pytest.fixture(params=["local", "memory"])
def folder(request, tmp_path):
    return str(tmp_path / "maps") if request.param == "local" else f"memory://{uuid.uuid4().hex}/maps"


MAP = np.arange(12, dtype=np.uint8).reshape(3, 4)


def test_a_map_comes_back_as_it_was_saved_in_another_process_too(folder):
    keeper = Keeper(folder)
    assert keeper.listing() == frozenset()
    keeper.save((3, 0, 12), MAP)
    keeper.save((10, 1, 2), MAP.T)
    there = pickle.loads(pickle.dumps(keeper))
    assert there.listing() == {(3, 0, 12), (10, 1, 2)}
    np.testing.assert_array_equal(there.load((3, 0, 12)), MAP)
    np.testing.assert_array_equal(there.load((10, 1, 2)), MAP.T)
    assert there.load((3, 0, 12)).flags.writeable


def test_years_that_are_forgotten_are_gone_and_others_stay(folder):
    keeper = Keeper(folder)
    for year in (1, 2, 11):
        keeper.save((year, 0, 0), MAP)
    keeper.forget([1, 2, 5])
    assert keeper.listing() == {(11, 0, 0)}
    with pytest.raises(StoreError, match=r"map \(1, 0, 0\) .* is gone or damaged.*resume=True"):
        keeper.load((1, 0, 0))


def test_saving_again_replaces(folder):
    keeper = Keeper(folder)
    keeper.save((0, 0, 0), MAP)
    keeper.save((0, 0, 0), MAP + 1)
    np.testing.assert_array_equal(keeper.load((0, 0, 0)), MAP + 1)


def test_what_a_crash_left_in_the_middle_of_saving_is_not_listed(tmp_path):
    keeper = Keeper(str(tmp_path))
    keeper.save((0, 0, 0), MAP)
    (tmp_path / "0" / ".0.1.0123456789abcdef").write_bytes(b"half")
    (tmp_path / "notes").mkdir()
    assert keeper.listing() == {(0, 0, 0)}
    assert [each.name for each in (tmp_path / "0").iterdir() if each.name == "0.0"] == ["0.0"]


def test_only_maps_of_codes_are_kept(tmp_path):
    with pytest.raises(StoreError, match="uint8 of rows and columns, not float64"):
        Keeper(str(tmp_path)).save((0, 0, 0), MAP.astype(float))
    with pytest.raises(StoreError, match="uint8 of rows and columns"):
        Keeper(str(tmp_path)).save((0, 0, 0), MAP[None])


@given(
    values=arrays(np.uint8, st.tuples(st.integers(0, 9), st.integers(0, 9))),
    at=st.integers(0, 10**6), change=st.integers(1, 255), cut=st.booleans(),
)  # fmt: skip
@settings(max_examples=50, deadline=None)
def test_a_damaged_map_counts_as_absent(tmp_path_factory, values, at, change, cut):
    folder = tmp_path_factory.mktemp("maps")
    keeper = Keeper(str(folder))
    keeper.save((7, 1, 2), values)
    np.testing.assert_array_equal(keeper.load((7, 1, 2)), values)
    file = folder / "7" / "1.2"
    content = bytearray(file.read_bytes())
    at %= len(content)
    if cut:
        content = content[:at]
    else:
        content[at] ^= change
    file.write_bytes(content)
    assert keeper.listing() == frozenset()
    with pytest.raises(StoreError, match=r"map \(7, 1, 2\) .*damaged"):
        keeper.load((7, 1, 2))
