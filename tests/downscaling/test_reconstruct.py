"""One product through time: its parts are downscalings, the record stays as it is, and nothing is lost."""

from __future__ import annotations

import json

import numpy as np
import pytest
import xarray as xr

from tests.killing import kill_this_process, run_until_killed
from tests.raising_backend import raising_dataset
from tests.worlds import tiny_world
from xland.downscaling.call import downscale
from xland.downscaling.reconstruct import choose_scenario, reconstruct
from xland.errors import ForcingError, GridError, ModelError, PriorError, TimeError, VocabularyError
from xland.models import find_model
from xland.store import blocks
from xland.store.reading import open_store, store_digest
from xland.store.writing import write

YEARS = range(2000, 2006)
FIRST, LAST = 2001, 2003
REGION = (-60, -30, 60, 30)


@pytest.fixture(scope="module")
def parts():
    coarse, static, maps = tiny_world(tuple(YEARS))
    return {"history": coarse, "observed": maps.sel(time=slice(FIRST, LAST)), "futures": coarse, "static": static}


def years_of(product):
    return dict(zip(product["year"].values.tolist(), product["source"].values.tolist(), strict=True))


def test_the_record_stays_as_it_is_and_the_parts_are_what_downscale_gives(parts, model):
    product = reconstruct(model=model, region=REGION, **parts)
    assert years_of(product) == {2000: 0, 2001: 1, 2002: 1, 2003: 1, 2004: 2, 2005: 2}
    assert product["source"].attrs["flag_meanings"] == "reconstructed observed projected"
    observed, coarse = parts["observed"], parts["history"]
    found = product["land_use"].load()
    np.testing.assert_array_equal(found[1:4], observed.sel(lat=found["lat"], lon=found["lon"]))
    how = {"static": parts["static"], "totals": "changes", "region": REGION, "direction": "backward"}
    for year, base in ((2000, FIRST), (2005, LAST)):
        alone = downscale(coarse, model=model, prior=observed.sel(time=[base]), years=year, **how)
        np.testing.assert_array_equal(found.sel(year=year), alone["land_use"][0])
    listing = json.loads(product.attrs["xland_parts"])
    assert [(each["source"], each["years"]) for each in listing] == [
        ("reconstructed", "2000"),
        ("observed", "2001-2003"),
        ("projected", "2004-2005"),
    ]
    assert listing[0]["model_sha256"] == model.digest
    assert listing[0]["totals"] == "changes"


@pytest.mark.parametrize("missing", ["history", "futures", "observed"])
def test_any_part_may_be_missing(parts, model, missing):
    given = {name: each for name, each in parts.items() if name != missing}
    found = years_of(reconstruct(model=model, totals=None if missing == "observed" else "changes", **given))
    expected = {
        "history": {2001: 1, 2002: 1, 2003: 1, 2004: 2, 2005: 2},
        "futures": {2000: 0, 2001: 1, 2002: 1, 2003: 1},
        "observed": dict.fromkeys(YEARS, 0),
    }
    assert found == expected[missing]


def test_a_future_goes_on_from_reconstructed_maps_where_nothing_was_observed(parts, rolling_model, past_model):
    coarse, static = parts["history"], parts["static"]
    how = {"static": static, "totals": None}
    product = reconstruct(
        history=coarse.sel(time=slice(None, 2001)),
        futures=coarse.sel(time=slice(2001, 2002)),
        model=rolling_model,
        past_model=past_model,
        **how,
    )
    assert [*years_of(product).values()] == [0, 0, 2]
    last = product["land_use"].sel(year=[2001]).load()
    after = downscale(coarse, model=rolling_model, prior=last, years=2002, **how)
    np.testing.assert_array_equal(product["land_use"][2:], after["land_use"])


def test_scenarios_share_the_past_and_differ_after_it(parts, model):
    other = parts["futures"].copy(deep=True)
    for state, by in (("primf", 0.5), ("c3ann", 1.0)):
        moved = 0.5 * parts["futures"]["primf"].sel(time=slice(2004, None))
        other[state].loc[{"time": slice(2004, None)}] += (-1 if by == 0.5 else 1) * moved
    scenarios = {"green": parts["futures"], "fields": other}
    product = reconstruct(model=model, region=REGION, **{**parts, "futures": scenarios}).load()
    green, fields = (choose_scenario(product, name)["land_use"] for name in ("green", "fields"))
    np.testing.assert_array_equal(green[:4], fields[:4])
    assert (fields[4:] == 2).sum() > (green[4:] == 2).sum() + 100
    np.testing.assert_array_equal(green, reconstruct(model=model, region=REGION, **parts)["land_use"])
    np.testing.assert_array_equal(product.sel(scenario_name="fields")["land_use"], fields)
    with pytest.raises(VocabularyError, match=r"unknown scenario 'fild'.*did you mean 'fields'"):
        choose_scenario(product, "fild")


def test_the_callers_order_and_names_come_back(parts, model):
    straight = reconstruct(model=model, region=REGION, **parts)["land_use"]
    turned = {
        name: parts[name].isel(lat=slice(None, None, -1)).rename(lat="latitude", time="t")
        for name in ("history", "futures")
    }
    product = reconstruct(model=model, **{**parts, **turned}, region=REGION)["land_use"]
    assert product.dims == ("t", "latitude", "lon")
    assert product["latitude"][0] < product["latitude"][-1]
    expected = straight.sel(lat=product["latitude"].values, lon=product["lon"].values)
    np.testing.assert_array_equal(product, expected)


def test_building_reads_nothing(parts, model):
    lazy = {name: raising_dataset(parts[name]) for name in ("history", "futures")}
    record = raising_dataset(parts["observed"].to_dataset())["land_use"]
    assert reconstruct(model=model, static=parts["static"], observed=record, **lazy)["land_use"].shape[0] == len(YEARS)


def product_of_rollouts(forward, backward):
    coarse, static, maps = tiny_world((2000, 2001, 2002, 2003))
    return reconstruct(
        history=coarse,
        observed=maps.sel(time=slice(2001, 2002)),
        futures={"a": coarse, "b": coarse},
        static=static,
        model=find_model(forward),
        past_model=find_model(backward),
        chunks=120,
    )


def write_until(count, path, forward, backward):
    """Write, and die after so many blocks."""
    note, written = blocks.note, []

    def count_and_note(*given):
        note(*given)
        written.append(given)
        if len(written) == count:
            kill_this_process()

    blocks.note = count_and_note
    write(product_of_rollouts(forward, backward), path, resume=True, progress=False)


def test_a_product_whose_writer_is_killed_twice_resumes_to_the_same_store(tmp_path, rolling_model, past_model):
    models = rolling_model.folder, past_model.folder
    for count in (4, 12):
        run_until_killed(
            """
            from tests.downscaling.test_reconstruct import write_until
            write_until(int(sys.argv[1]), *sys.argv[2:])
            """,
            count,
            tmp_path / "killed.zarr",
            *models,
        )
    for name in ("killed", "whole"):
        write(product_of_rollouts(*models), tmp_path / f"{name}.zarr", resume=True, progress=False)
    killed, whole = (open_store(tmp_path / f"{name}.zarr", verify=True) for name in ("killed", "whole"))
    xr.testing.assert_equal(killed.load(), whole.load())
    assert killed["source"].values.tolist() == [0, 1, 1, 2]
    assert store_digest(tmp_path / "killed.zarr") is not None


# ---------------------------------------------------------------- what is refused


def test_observed_years_that_disagree_on_land_are_counted(parts, model):
    record = parts["observed"].copy(deep=True)
    row, column = (int(each[0]) for each in np.nonzero(record[0].values > 0))
    record[2, row, column : column + 2] = 0
    product = reconstruct(model=model, **{**parts, "observed": record})
    with pytest.raises(
        PriorError, match=r"observed record: 2 cells of 2003 are ocean .* where the map of 2001 has land"
    ):
        product["land_use"].load()


def test_land_is_where_the_record_has_it_in_all_years(parts, model):
    record = parts["observed"].copy(deep=True)
    record[:, :30] = 0
    sea = tuple(each[0] for each in np.nonzero(parts["observed"][0, 60:120].values == 0))
    record[:, 60 + sea[0], sea[1]] = 4
    product = reconstruct(model=model, **{**parts, "observed": record}, years=[2000, 2005])["land_use"].load()
    assert not product[:, :30].any()
    assert (product[:, 60 + sea[0], sea[1]] == 4).all()


def test_scenarios_with_another_past_are_counted_when_they_are_computed(parts, model):
    other = parts["futures"].sel(time=slice(LAST, None)).copy(deep=True)
    other["primf"][0, 20, 40:43] = other["primf"][0, 20, 40:43].fillna(0) + 0.01
    product = reconstruct(model=model, **{**parts, "futures": {"mine": other}}, region=REGION)
    with pytest.raises(ForcingError, match=r"primf: [123] cells not those of .* before the scenario 'mine' in 2003"):
        product["land_use"].load()


def without(parts, **changed):
    return {name: each for name, each in {**parts, **changed}.items() if each is not None}


@pytest.mark.parametrize(
    ("change", "error", "message"),
    [
        (lambda p: without(p, history=None, futures=None), ForcingError, "nothing to reconstruct: give the forcing"),
        (lambda p: without(p, observed=None), ModelError, "applies changes to an observed map: give observed="),
        (lambda p: without(p, observed=p["observed"].drop_vars("time")), PriorError, "does not say its years"),
        (
            lambda p: without(p, observed=p["observed"].isel(time=[0, 2])),
            PriorError,
            r"observed record has no map of 2002; add .* or give the part that is whole",
        ),
        (
            lambda p: without(p, observed=p["observed"].isel(time=[2, 1, 0])),
            PriorError,
            "not in the order of its years: 2003, 2002, 2001",
        ),
        (
            lambda p: without(p, history=None, futures=p["futures"].isel(time=[3, 5])),
            TimeError,
            "the parts do not follow each other: no forcing or map has 2004",
        ),
        (lambda p: without(p, years=[1999, 2003]), TimeError, "no part of the product has 1999; there are 2000-2005"),
        (
            lambda p: without(p, futures={"a": p["futures"], "b": p["futures"].isel(time=slice(-1))}, history=None),
            TimeError,
            "scenarios .* need the same years, and these have a 2004-2005; b 2004: choose",
        ),
        (
            lambda p: without(p, futures=p["futures"].isel(lat=slice(2, None))),
            GridError,
            "the future is on other cells .* than the forcing before it",
        ),
        (lambda p: without(p, futures=p["futures"].drop_vars("secmb")), None, ""),
        (
            lambda p: without(p, futures=p["futures"].drop_vars("secma")),
            ForcingError,
            "secma: only in one of the future and the forcing before it",
        ),
        (lambda p: without(p, futures=[p["futures"]]), ForcingError, "futures must be a Dataset, or a mapping"),
        (
            lambda p: without(p, observed=p["observed"].isel(lat=slice(0, 100))),
            PriorError,
            "does not cover the region to be mapped",
        ),
    ],
)
def test_parts_that_do_not_fit_are_named(parts, model, change, error, message):
    if error is None:
        assert reconstruct(model=model, **change(parts))
        return
    with pytest.raises(error, match=message):
        reconstruct(model=model, **change(parts))


def test_a_model_of_the_future_is_not_taken_for_history(parts, rolling_model):
    with pytest.raises(ModelError, match="has learned to go forward: give one that goes backward as past_model="):
        reconstruct(model=rolling_model, **parts)
