from __future__ import annotations

import json

import numpy as np
import pytest
import xarray as xr
from hypothesis import given, settings
from hypothesis import strategies as st

import xland
from tests.raising_backend import raising_dataset
from tests.strategies import canonical_states, layouts
from xland.errors import ForcingError, GridError, VocabularyError
from xland.forcing.conversion import GROUPS, proportions, read_mapping
from xland.forcing.read import read_forcing
from xland.geo.grid import Grid
from xland.vocabulary import LUH2_STATES, LUH3_STATES

HALF, QUARTER, TENTH = Grid(0.5, 50, 10, 4, 5), Grid(0.25, 50, 10, 8, 10), Grid(0.1, 50, 10, 20, 25)
NAMES = ("cropland", "pasture", "urban", "forest", "other")
MAPPING = {
    "cropland": {"c3ann": 1},
    "pasture": {"pastr": 0.4, "range": 0.6},
    "urban": "urban",
    "forest": ["primf", "secdf"],
    "other": "grass_shrub",
}
STATES = {
    "cropland": ("c3ann",),
    "pasture": ("pastr", "range"),
    "urban": ("urban",),
    "forest": ("primf", "secdf"),
    "other": ("primn", "secdn"),
}


def hers(grid: Grid = HALF, years=(2020, 2050), seed: int = 3) -> xr.Dataset:
    return canonical_states(grid, years, seed=seed, names=NAMES)


def luh2(grid: Grid = QUARTER, seed: int = 5) -> xr.Dataset:
    return canonical_states(grid, (2015,), seed=seed)


def areas(ds: xr.Dataset, names, grid: Grid) -> xr.DataArray:
    area = xr.DataArray(grid.cell_area(), {"lat": grid.latitude}, "lat")
    return (sum(ds[name] for name in names).fillna(0).astype(float) * area).sum(("lat", "lon"))


@settings(max_examples=8)
@given(st.sampled_from([HALF, TENTH, QUARTER]), st.booleans(), st.integers(0, 2**32 - 1))
def test_the_area_of_each_class_is_kept_however_it_is_split(grid, split, seed):
    scenario = hers(grid, seed=seed)
    if split:
        found = scenario.ai4land.to_luh2(MAPPING, reference=luh2())
    else:
        found = scenario.ai4land.to_luh2(MAPPING | {"forest": "secdf", "other": "primn"})
    assert list(found.data_vars) == list(LUH2_STATES)
    assert found.year.values.tolist() == [2020, 2050]
    found = found.compute()
    for name, states in STATES.items():
        np.testing.assert_allclose(areas(found, states, QUARTER), areas(scenario, [name], grid), rtol=1e-5)
    assert float(found.to_dataarray().min()) >= 0
    assert float(found.to_dataarray().sum("variable").max()) <= 1 + 1e-5
    assert (found["c4ann"].fillna(0) == 0).all()


def test_a_class_is_split_as_the_reference_has_its_states_in_the_cell():
    reference = luh2().fillna(0.05)
    found = hers().ai4land.to_luh2(MAPPING, reference=reference).isel(time=0).compute()
    share = (reference["primf"] / (reference["primf"] + reference["secdf"])).isel(time=0, drop=True)
    forest = found["primf"] + found["secdf"]
    np.testing.assert_allclose(found["primf"], forest * share.values, atol=1e-6)
    np.testing.assert_allclose(found["range"], (found["pastr"] + found["range"]) * 0.6, atol=1e-6)


def test_states_made_coarser_come_back_on_the_land_of_the_reference():
    fine = luh2(Grid(0.25, 50, 10, 4, 4)).fillna(0.05)
    coarse = fine.ai4land.regrid(resolution=0.5)
    assert (coarse.sizes["lat"], coarse.sizes["lon"]) == (2, 2)
    found = coarse.ai4land.to_luh2({state: state for state in LUH2_STATES}, reference=fine)
    land = [each.to_dataarray().sum("variable").values for each in (found, fine)]
    np.testing.assert_allclose(land[0], land[1], atol=1e-5)


def test_where_the_reference_has_none_of_the_states_the_nearest_cell_says_the_proportions():
    grid = Grid.world(45)
    amounts = np.zeros((2, 4, 8))
    amounts[:, 1, 1], amounts[:, 1, 7] = (0.1, 0.3), (0.2, 0.2)
    amounts[0, 3, 3] = np.nan
    found = proportions(amounts, grid, ("primf", "secdf"))
    np.testing.assert_allclose(found.sum(axis=0), 1)
    np.testing.assert_allclose(found[0, 1], [0.5, 0.25, 0.25, 0.25, 0.25, 0.5, 0.5, 0.5], err_msg="round the globe")
    with pytest.raises(ForcingError, match="the reference has no primf, secdf"):
        proportions(np.zeros((2, 4, 8)), grid, ("primf", "secdf"))


@settings(max_examples=8)
@given(st.data())
def test_the_answer_does_not_depend_on_layout_or_chunks(data):
    scenario, reference = hers(), luh2()
    wanted = scenario.ai4land.to_luh2(MAPPING, reference=reference)
    turned = data.draw(layouts(HALF)).apply(scenario)
    found = turned.ai4land.to_luh2(MAPPING, reference=data.draw(layouts(QUARTER)).apply(reference))
    xr.testing.assert_allclose(found.compute(), wanted.compute(), atol=1e-6)


def test_the_rest_is_what_the_others_leave_of_the_land():
    scenario, reference = hers().fillna(0.02), luh2().fillna(0.02)
    land = reference.to_dataarray().sum("variable").values[0]
    found = scenario.ai4land.to_luh2(MAPPING, reference=reference, rest="other").compute()
    for name in NAMES[:-1]:
        np.testing.assert_allclose(areas(found, STATES[name], QUARTER), areas(scenario, [name], HALF), rtol=1e-5)
    few = (scenario * 0.01).ai4land.to_luh2(MAPPING, reference=reference, rest="other")
    np.testing.assert_allclose(few.to_dataarray().sum("variable")[0], land, atol=1e-5)


def test_shares_of_the_land_are_put_on_the_land_of_the_reference():
    scenario = hers(years=(2020,)).fillna(0.2)
    scenario = scenario / scenario.to_dataarray().sum("variable")
    reference = luh2().fillna(0.02)
    found = scenario.ai4land.to_luh2(MAPPING, reference=reference, shares_of="land")
    land = reference.to_dataarray().sum("variable")
    np.testing.assert_allclose(found.to_dataarray().sum("variable")[0], land[0], atol=1e-5)
    urban = scenario["urban"].values.repeat(2, 1).repeat(2, 2) * land.values
    np.testing.assert_allclose(found["urban"], urban, atol=1e-6)


def test_cells_without_data_stay_so_unless_they_are_filled_from_the_reference():
    scenario, reference = hers(years=(2020,)).fillna(0.1), luh2().fillna(0.02)
    hole = scenario.where(scenario["lon"] > 10.5).transpose("time", "lat", "lon")
    found = hole.ai4land.to_luh2(MAPPING, reference=reference)
    assert found["urban"].isnull().sum() == 2 * 8
    filled = hole.ai4land.to_luh2(MAPPING, reference=reference, fill=True)
    np.testing.assert_allclose(filled["primf"][0, :, :2], reference["primf"][0, :, :2])
    np.testing.assert_array_equal(filled["primf"][0, :, 2:], found["primf"][0, :, 2:])


def test_states_of_luh2_on_other_cells_need_no_mapping_and_pltns_is_kept():
    scenario = canonical_states(HALF, names=LUH3_STATES)
    found = scenario.ai4land.to_luh2()
    assert list(found.data_vars) == list(LUH3_STATES)
    np.testing.assert_array_equal(found["pltns"], scenario["pltns"].values.repeat(2, 1).repeat(2, 2))
    xr.testing.assert_equal(scenario.ai4land.regrid(resolution=0.25), found)


def test_regridding_keeps_names_years_and_attributes_of_any_fractions():
    scenario = hers(TENTH).assign_attrs(title="mine")
    found = xland.regrid(scenario, resolution=0.25)
    assert list(found.data_vars) == list(NAMES)
    assert found.attrs["title"] == "mine"
    assert read_forcing(found, variables=NAMES).years == (2020, 2050)
    np.testing.assert_allclose(areas(found, NAMES, QUARTER), areas(scenario, NAMES, TENTH), rtol=1e-5)


def test_ages_and_biomass_are_no_fractions_and_are_refused():
    scenario = canonical_states(HALF)
    aged = scenario.assign(secma=scenario["secdf"])
    assert "secma" not in aged.ai4land.to_luh2()
    with pytest.raises(ForcingError, match="secma: not fractions of the cell; leave them out"):
        aged.ai4land.regrid(resolution=0.25)


def test_building_reads_nothing_and_gives_the_same_graph_each_time():
    raising_dataset(hers()).ai4land.to_luh2(MAPPING, reference=raising_dataset(luh2()), rest="other", fill=True)
    raising_dataset(hers()).ai4land.regrid(resolution=0.25)
    built = [hers().ai4land.to_luh2(MAPPING, reference=luh2())["primf"].data.name for _ in range(2)]
    assert built[0] == built[1]


def test_the_mapping_is_in_the_attributes():
    said = json.loads(hers().ai4land.to_luh2(MAPPING, reference=luh2()).attrs["xland_mapping"])
    assert said["pasture"] == {"pastr": 0.4, "range": 0.6}
    assert said["forest"] == {"primf": None, "secdf": None}


def change(**entries):
    return {name: states for name, states in (MAPPING | entries).items() if states != "left out"}


@pytest.mark.parametrize(
    ("mapping", "error", "message"),
    [
        (None, ForcingError, r"not called as the states of LUH2: .*mapping=\{'cropland': ...,"),
        ([], VocabularyError, "mapping must have the states of each variable"),
        (change(forest="left out"), ForcingError, "forest: not in the mapping; say which states they are, or leave"),
        (change(forrest="secdf"), ForcingError, "variables in the mapping 'forrest': did you mean 'forest'"),
        (change(forest="seccdf"), VocabularyError, "forest: unknown state 'seccdf': did you mean 'secdf'"),
        (change(forest="naturl"), VocabularyError, "did you mean 'natural'"),
        (change(forest={"primf": 0.5}), VocabularyError, r"forest: the shares of its states are \[0.5\]; they must"),
        (change(forest={"primf": -1, "secdf": 2}), VocabularyError, "0 to 1 and sum to 1"),
        (change(forest={"primf": "all"}), VocabularyError, "0 to 1 and sum to 1"),
        (change(forest=3), VocabularyError, "forest: 3 is neither a state nor a class"),
        (dict.fromkeys(NAMES), VocabularyError, "leaves all variables out"),
    ],
)
def test_a_mapping_that_is_wrong_is_refused_by_name(mapping, error, message):
    with pytest.raises(error, match=message):
        hers().ai4land.to_luh2(mapping, reference=luh2())


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({}, ForcingError, "mapping to several states needs the states of LUH2 in one year: pass them as reference="),
        ({"mapping": {**dict.fromkeys(NAMES), "urban": "urban"}, "fill": True}, ForcingError, "fill=True needs"),
        ({"reference": luh2(Grid(0.5, 50, 10, 8, 10))}, GridError, r"cells of 0\.5 degree, .* resolution=0\.5"),
        ({"reference": luh2(Grid(0.25, 50, 10, 8, 9))}, GridError, "does not cover the scenario"),
        ({"reference": luh2().drop_vars("primf")}, ForcingError, "missing: primf"),
        ({"reference": canonical_states(QUARTER, (2014, 2015))}, ForcingError, "has the years 2014-2015; select one"),
        ({"reference": luh2(), "rest": "othr"}, ForcingError, "rest: unknown variable 'othr': did you mean 'other'"),
        ({"reference": luh2(), "shares_of": "cells"}, ForcingError, "shares_of must be one of 'cell', 'land'"),
        ({"reference": luh2(), "resolution": 0.7}, GridError, "must divide 180"),
    ],
)
def test_options_and_references_that_do_not_fit_are_refused(options, error, message):
    with pytest.raises(error, match=message):
        hers().ai4land.to_luh2(**{"mapping": MAPPING} | options)


@pytest.mark.parametrize(
    ("value", "message"),
    [
        (1.2, "urban: 1 cells in 2020 above 1|urban: 1 cells above 1"),
        (np.inf, "urban: 1 cells infinite"),
        (np.nan, "urban: 1 cells NaN where other states have values"),
        (0.99, "sum of states: 1 cells sum to more than 1"),
    ],
)
def test_values_that_are_not_fractions_are_refused_when_they_are_read(value, message):
    scenario = hers().fillna(0.1)
    scenario["urban"][0, 1, 2] = value
    lazy = scenario.ai4land.to_luh2(MAPPING, reference=luh2())
    with pytest.raises(ForcingError, match=message):
        lazy["primf"].compute()
    broken = luh2().fillna(0.02)
    broken["urban"][0, 1, 2] = value
    with pytest.raises(ForcingError, match=f"reference: ({message})"):
        hers().ai4land.to_luh2(MAPPING, reference=broken)["primf"].compute()


def test_a_mapping_is_read_from_a_file(tmp_path):
    path = tmp_path / "mapping.toml"
    path.write_text('cropland = "cropland"\nforest = ["primf", "secdf"]\nwater = []\npasture = {pastr = 1}\n')
    found = read_mapping(path)
    assert found == {"cropland": "cropland", "forest": ["primf", "secdf"], "water": [], "pasture": {"pastr": 1}}
    path.write_text("cropland =")
    with pytest.raises(VocabularyError, match="TOML"):
        read_mapping(path)


def test_groups_hold_the_states_of_the_classes():
    assert set(GROUPS) == {"urban", "cropland", "pasture", "forest", "grass_shrub", "natural"}
    assert GROUPS["natural"] == ("primf", "secdf", "primn", "secdn")
    assert sum(len(states) for name, states in GROUPS.items() if name != "natural") == len(LUH2_STATES)
