"""Maps several years from their prior maps, earlier maps as inputs, and changes that totals do not show."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from tests.worlds import tiny_checkpoint, tiny_inputs, tiny_world
from xland.downscaling.call import downscale
from xland.errors import AllocationError, ModelError, PriorError, TimeError
from xland.models.inputs import MASKED
from xland.totals.modes import Totals

INPUTS = replace(tiny_inputs("one_hot", steps=(0, -1)), intervals=(1, 4), history=2)
REGION = (-60, -18, 60, 62)


@pytest.fixture(scope="module")
def world():
    return tiny_world((1999, 2000, 2001, 2002, 2005, 2006))


@pytest.fixture(scope="module")
def crossing(tmp_path_factory):
    return tiny_checkpoint(tmp_path_factory.mktemp("crossing"), INPUTS, kind="transition")


@pytest.fixture
def read(monkeypatch):
    """The maps that the blocks read, and the last coarse channel, in the order of their years."""
    found = []

    def note(engines, block, static, coarse, prior=None, **given):
        found.append((prior[(slice(None), *block.core)], float(coarse[-1, 0, 0])))
        return predict(engines, block, static, coarse, prior, **given)

    from xland.downscaling.block import predict_block as predict

    monkeypatch.setattr("xland.downscaling.block.predict_block", note)
    return found


def ask(world, model, years, prior, **options):
    coarse, static, maps = world
    chosen = None if prior is None else maps.sel(time=prior)
    return downscale(coarse, model=model, static=static, prior=chosen, years=years, chunks=360, **options)


def test_a_rollout_reads_given_maps_its_own_and_none_where_no_year_is_known(world, crossing, read):
    _, _, maps = world
    found = ask(world, crossing, [2001, 2002, 2006], [1999, 2000])["land_use"].compute(scheduler="sync")
    given = {int(year): maps.sel(time=year).values for year in (1999, 2000)}
    own = dict(zip((2001, 2002), found.values, strict=False))
    known = {**given, **own}
    unknown = np.full(given[2000].shape, MASKED)
    land = world[1]["land_share"].values > 0
    for (stack, interval), years in zip(
        read, [(2000, 1999, 1998), (2001, 2000, 1999), (2002, 2001, 2000)], strict=True
    ):
        for layer, year in zip(stack, years, strict=True):
            np.testing.assert_array_equal(layer[land], known.get(year, unknown)[land], err_msg=f"{years}, {year}")
        assert interval == (1.0 if years[0] == 2002 else 0.25)


def test_the_nearest_map_that_the_model_can_cross_from_is_taken(world, crossing, read):
    ask(world, crossing, [2006], [2000, 2002]).compute()
    ((stack, interval),) = read
    assert interval == 1.0
    np.testing.assert_array_equal(stack[0], world[2].sel(time=2002).values)
    np.testing.assert_array_equal(stack[2], world[2].sel(time=2000).values)
    assert (stack[1] == MASKED).all()


def test_the_answer_depends_neither_on_blocks_nor_on_the_region(world, crossing):
    coarse, static, maps = world
    whole = ask(world, crossing, [2001, 2002], [1999, 2000])["land_use"].compute()
    options = {"model": crossing, "static": static, "prior": maps.sel(time=[1999, 2000]), "years": [2001, 2002]}
    part = downscale(coarse, chunks=60, region=REGION, **options)["land_use"].compute()
    same = part == whole.sel(lat=part["lat"], lon=part["lon"])
    assert same.mean() > 0.9999


@pytest.mark.parametrize(
    ("years", "prior", "error", "message"),
    [
        ([2005], [2002], PriorError, "prior map is of 2002, but the model crosses 1, 4 years: the map of 2005 needs"),
        ([2001, 2005, 2002], [2000], TimeError, "1 steps are others: 2002 to 2005"),
        ([2003], [2002], TimeError, "2003"),
    ],
)
def test_steps_that_were_not_learned_are_refused(world, crossing, years, prior, error, message):
    with pytest.raises(error, match=message):
        ask(world, crossing, years, prior)


def test_without_years_all_that_some_interval_reaches_are_mapped(world, crossing):
    coarse, static, maps = world
    lazy = downscale(coarse.sel(time=[2002, 2006]), model=crossing, static=static, prior=maps.sel(time=[2002]))
    assert lazy["year"].values.tolist() == [2006]


def test_exchange_shows_more_change_with_the_same_totals(world, crossing):
    maps, counts = {}, []
    start = world[2].sel(time=2002).values
    for exchange in (1, 5, 100):
        found = ask(world, crossing, [2006], [2002], totals=Totals("map", exchange=exchange), outputs=["unmet"])
        assert float(found["unmet"].fillna(0).max()) < 0.99
        maps[exchange] = ask(world, crossing, [2006], [2002], totals=Totals("map", exchange=exchange))["land_use"]
        counts.append(int((maps[exchange].values[0] != start).sum()))
    assert counts == sorted(set(counts))


@pytest.mark.parametrize(
    ("mode", "exchange", "message"),
    [("map", 0.5, "from 1 to 1000, not 0.5"), ("changes", 2, "'changes' has no exchange"), ("map", True, "not True")],
)
def test_exchange_that_cannot_be_is_refused(mode, exchange, message):
    with pytest.raises(AllocationError, match=message):
        Totals(mode, exchange=exchange)


def test_exchange_needs_a_model_that_reads_a_prior_map(world, tmp_path):
    model = tiny_checkpoint(tmp_path, tiny_inputs())
    with pytest.raises(ModelError, match="exchange is of change"):
        ask(world, model, [2002], None, totals=Totals("map", exchange=2))
