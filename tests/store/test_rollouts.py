from __future__ import annotations

import pickle
import re
from pathlib import Path

import dask
import numpy as np
import pytest
import xarray as xr
from hypothesis import example, given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from tests.killing import kill_this_process, run_until_killed
from tests.store.damage import flip
from tests.store.rollout import SIZE, computed, toy
from tests.store.test_workplace import content
from tests.store.test_writing import StopError, digest
from xland.errors import StoreError
from xland.store import rollouts
from xland.store.reading import open_store
from xland.store.rollouts import Keeper, cut_segments, find_rollouts
from xland.store.writing import write

YEARS = 3


@pytest.fixture(autouse=True, scope="module")
def short_segments():
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(rollouts, "BLOCKS", 1)
        patch.setattr(rollouts, "YEARS", YEARS)
        yield


class Break:
    def __init__(self, after: int):
        self.left = after

    def __call__(self, index) -> None:
        self.left -= 1
        if self.left < 0:
            raise StopError


def bomb(index) -> None:
    if index == (YEARS + 1, 1, 2):
        kill_this_process()


def write_and_die(log: Path, target: str) -> None:
    with dask.config.set(scheduler="threads", num_workers=2):
        write(toy(log, before=bomb), target, progress=False)


def put(ds: xr.Dataset, path: Path | str, **options) -> Path | str:
    with dask.config.set(scheduler="synchronous"):
        return write(ds, path, progress=False, **options)


@given(
    years=st.integers(1, 2 * YEARS + 1), rows=st.integers(1, 2), columns=st.integers(3, 4), backward=st.booleans(),
    region=st.booleans(), breaks=st.lists(st.integers(0, 40), min_size=1, max_size=2),
    scheme=st.sampled_from(["", "memory://"]),
)  # fmt: skip
@example(years=5, rows=2, columns=3, backward=False, region=False, breaks=[24], scheme="memory://")
@settings(max_examples=4, deadline=None)
def test_a_rollout_that_was_broken_off_goes_on_and_computes_no_map_twice(
    tmp_path_factory, years, rows, columns, backward, region, breaks, scheme
):
    folder = tmp_path_factory.mktemp("rollout")
    log, target = folder / "log", f"{scheme}{folder}/a.zarr"
    where = {"lat": slice(0, SIZE), "lon": slice(SIZE, 2 * SIZE)} if region else {}

    def build(before=None, log=log):
        return toy(log, years, rows, columns, backward=backward, before=before).isel(where)

    truth = build(log=folder / "other").compute(scheduler="synchronous")
    for after in breaks:
        try:
            put(build(Break(after)), target, resume=True)
        except StopError:
            continue
    put(build(), target, resume=True)
    put(build(log=folder / "third"), f"{scheme}{folder}/b.zarr")
    assert content(target) == content(f"{scheme}{folder}/b.zarr")
    xr.testing.assert_equal(open_store(target).load(), truth)
    maps = computed(log)
    assert len(maps) == len(set(maps))
    assert set(maps) == set(computed(folder / "other"))


def test_the_maps_of_a_segment_are_forgotten_when_it_is_written_and_damaged_ones_computed_again(tmp_path):
    truth = toy(tmp_path / "other").compute(scheduler="synchronous")
    with pytest.raises(StopError):
        put(toy(tmp_path / "log", before=Break(12 * (YEARS + 2))), tmp_path / "a.zarr")
    (maps,) = (tmp_path / "a.zarr.partial").glob("maps-*")
    kept = {index[0] for index in Keeper(str(maps)).listing()}
    assert min(kept) == YEARS - 1
    assert max(kept) <= YEARS + 2
    flip(maps / str(YEARS - 1) / "1.1", 30)
    put(toy(tmp_path / "log"), tmp_path / "a.zarr", resume=True)
    xr.testing.assert_equal(open_store(tmp_path / "a.zarr").load(), truth)
    assert sorted(each.name for each in tmp_path.iterdir()) == ["a.zarr", "log", "other"]


def test_years_that_are_picked_reversed_or_averaged_are_right(tmp_path):
    for number, pick in enumerate(
        (
            lambda ds: ds.isel(time=[6, 5]),
            lambda ds: ds.isel(time=[3, 7, 4]).chunk(time=2),
            lambda ds: ds.assign(mean=ds.land_use.astype("float64").mean("time")),
        )
    ):
        path = put(pick(toy(tmp_path / "log", rows=1)), tmp_path / f"{number}.zarr")
        truth = pick(toy(tmp_path / "other", rows=1)).compute(scheduler="synchronous")
        xr.testing.assert_allclose(open_store(path).load(), truth)


def test_two_rollouts_in_one_store_keep_their_maps_apart(tmp_path):
    def both(**options):
        there = toy(tmp_path / "log", rows=1, name="there", **options)
        back = toy(tmp_path / "log", rows=1, name="back", backward=True, **options)
        return there.assign(back=back.land_use)

    with pytest.raises(StopError):
        put(both(before=Break(30)), tmp_path / "a.zarr")
    put(both(), tmp_path / "a.zarr", resume=True)
    xr.testing.assert_equal(open_store(tmp_path / "a.zarr").load(), both().compute(scheduler="synchronous"))


def test_segments_follow_the_order_of_the_rollout(tmp_path):
    for backward in (False, True):
        ds = toy(tmp_path / "log", years=20, backward=backward)
        data = ds.land_use.data + 1
        keys = [[(data.name, year, row, 0) for row in range(3)] for year in range(20)]
        cut = cut_segments(data.dask, find_rollouts(data.dask), keys, years=8)
        first = [segment.keys[0][1] for segment in cut]
        assert [len(segment.keys) for segment in cut] == [24, 24, 12]
        assert first == ([4 + 8, 4, 0] if backward else [0, 8, 16])
        assert sorted(cut[0].ended[0]) == (list(range(13, 20)) if backward else list(range(7)))
        # what is written is not all: the other columns lead on
        assert {key[1] for key in cut[0].bridge} == {12 if backward else 7}
        assert len(cut[0].bridge) == 12
        assert cut[2].bridge == []


def test_a_rollout_killed_by_the_system_resumes_to_the_identical_store(tmp_path):
    log, path = tmp_path / "log", tmp_path / "a.zarr"
    run_until_killed(
        """
        from pathlib import Path
        from tests.store.test_rollouts import write_and_die
        write_and_die(Path(sys.argv[1]), sys.argv[2])
        """,
        log,
        path,
    )
    before = computed(log)
    put(toy(log), path, resume=True)
    # only what another thread was about to save when the process died may be computed again
    assert len(computed(log)) - len(set(computed(log))) <= 1
    assert not [each for each in computed(log)[len(before) :] if int(re.findall(r"\d+", each)[0]) < YEARS]
    assert digest(path) == digest(put(toy(tmp_path / "other"), tmp_path / "undisturbed.zarr"))


MAP = np.arange(12, dtype=np.uint8).reshape(3, 4)


@pytest.mark.parametrize("scheme", ["", "memory://"])
def test_maps_come_back_as_they_were_saved_in_another_process_too_until_they_are_forgotten(tmp_path, scheme):
    keeper = Keeper(f"{scheme}{tmp_path}/maps")
    assert keeper.listing() == frozenset()
    for year, values in ((3, MAP), (10, MAP.T), (1, MAP)):
        keeper.save((year, 0, 12), values)
    there = pickle.loads(pickle.dumps(keeper))
    assert there.listing() == {(1, 0, 12), (3, 0, 12), (10, 0, 12)}
    np.testing.assert_array_equal(there.load((3, 0, 12)), MAP)
    np.testing.assert_array_equal(there.load((10, 0, 12)), MAP.T)
    assert there.load((3, 0, 12)).flags.writeable
    keeper.forget([1, 3, 5])
    assert keeper.listing() == {(10, 0, 12)}
    with pytest.raises(StoreError, match=r"map \(1, 0, 12\) .* is gone or damaged.*resume=True"):
        keeper.load((1, 0, 12))


def test_a_map_that_cannot_be_reached_is_not_taken_for_one_that_is_gone(tmp_path, monkeypatch):
    keeper = Keeper(str(tmp_path))
    keeper.save((0, 0, 0), MAP)

    def refuse(*_, **__):
        raise StoreError("the server refuses it")

    monkeypatch.setattr("xland.untrusted.folders.LocalFiles.read", refuse)
    with pytest.raises(StoreError, match="the server refuses it"):
        keeper.listing()


def test_what_is_not_a_map_is_neither_listed_nor_kept(tmp_path):
    keeper = Keeper(str(tmp_path))
    keeper.save((0, 0, 0), MAP)
    (tmp_path / "0" / ".0.1.0123456789abcdef").write_bytes(b"half, as a crash left it")
    (tmp_path / "notes").mkdir()
    assert keeper.listing() == {(0, 0, 0)}
    for values in (MAP.astype(float), MAP[None]):
        with pytest.raises(StoreError, match="uint8 of rows and columns, not"):
            keeper.save((0, 0, 0), values)


@given(
    values=arrays(np.uint8, st.tuples(st.integers(0, 9), st.integers(0, 9))),
    at=st.integers(0, 10**6), change=st.integers(1, 255), cut=st.booleans(),
)  # fmt: skip
@settings(max_examples=15, deadline=None)
def test_a_damaged_map_is_never_taken_for_another(tmp_path_factory, values, at, change, cut):
    keeper = Keeper(str(tmp_path_factory.mktemp("maps")))
    keeper.save((7, 1, 2), values)
    np.testing.assert_array_equal(keeper.load((7, 1, 2)), values)
    file = Path(keeper.folder, "7", "1.2")
    content = bytearray(file.read_bytes())
    at %= len(content)
    content[at] ^= change
    file.write_bytes(content[:at] if cut else content)
    found = keeper.find((7, 1, 2))
    assert found is None or (not cut and np.array_equal(found, values))
