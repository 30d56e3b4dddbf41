from __future__ import annotations

from types import SimpleNamespace

import numpy as np
import pytest
import xarray as xr

import xland
from tests.strategies import Layout, canonical_states
from xland.errors import ForcingError, ModelError
from xland.forcing.check import CheckTable, Finding, check, examine
from xland.geo.grid import Grid
from xland.models.applicability import Coverage
from xland.models.inputs import published_inputs
from xland.vocabulary import CLASS_NAMES, LUH2_STATES

GRID = Grid(0.25, 50.0, 10.0, 3, 4)


def states(years=(2014, 2015), seed=1) -> xr.Dataset:
    ds = canonical_states(GRID, years, seed=seed).fillna(0)
    return ds.assign(primf=1 - (ds.to_dataarray().sum("variable") - ds["primf"]))


def found(table: CheckTable, severity: str) -> list[Finding]:
    return [finding for finding in table.findings if finding.severity == severity]


def test_good_states_are_fit_and_their_areas_are_those_of_the_cells():
    table = check(states((2013, 2014, 2015)))
    assert table.ok
    assert found(table, "error") == found(table, "warning") == []
    assert table.verdict == "fit for downscaling"
    assert table.facts["years"] == "2013-2015 (3)"
    assert table.facts["cells with data"] == "12 of 12 (100.0%)"
    assert table.facts["sum of states"].startswith("1 in 100.0%")
    assert list(table.areas.columns) == ["2013", "2015"]
    np.testing.assert_allclose(table.areas.sum(), GRID.cell_area().sum() * GRID.columns / 1e12, rtol=1e-6)


def test_the_answer_does_not_depend_on_layout_or_chunks():
    ds = states()
    ds["urban"][1, 2, 3] = -0.5
    other = Layout(("y", "x", "year"), latitude_ascending=True, order=("lon", "time", "lat"), chunks=(1, 1, 2))
    ds = ds.where(ds["lon"] > GRID.longitude[0]).transpose("time", "lat", "lon")
    coverage = Coverage.of(GRID, np.eye(3, 4, dtype=bool))
    plain, turned = examine(ds, coverage=coverage), examine(other.apply(ds), coverage=coverage)
    assert [error.count for error in found(plain, "error")] == [2, 1], "no data in both years, and a value below 0"
    assert plain.findings == turned.findings
    assert plain.areas.equals(turned.areas)
    assert "latitude from south to north" in turned.facts["order"]


@pytest.mark.parametrize(("value", "message"), [(-0.5, "below 0"), (np.nan, "NaN where other states have values")])
def test_bad_values_are_errors_with_place_count_and_remedy(value, message):
    ds = states()
    ds["range"][:, 1, 2] = value
    table = examine(ds)
    (error,) = found(table, "error")
    assert not table.ok
    assert error.variable == "range"
    assert error.message.startswith(message)
    assert error.count == 2  # the same cell in both years
    assert error.place == f"latitude {GRID.latitude[1]:g}, longitude {GRID.longitude[2]:g} in 2014"
    assert error.remedy


def test_missing_states_are_an_error_and_the_others_are_looked_at():
    ds = states().drop_vars(["pastr", "range"]).rename(primn="temperature")
    ds["urban"][0, 0, 0] = np.inf
    table = check(ds, model=None)
    missing, infinite = found(table, "error")
    assert (missing.variable, infinite.variable) == ("primn, pastr, range", "urban")
    assert table.facts["left aside"] == "temperature"
    assert found(check(ds[["temperature"]]), "error")[0].variable == ", ".join(LUH2_STATES)
    with pytest.raises(ForcingError, match="the forcing is a DataArray; pass a Dataset"):
        check(states()["urban"])


def member(ds: xr.Dataset) -> xr.Dataset:
    return ds.assign(urban=ds["urban"].expand_dims(member=2))


@pytest.mark.parametrize(
    ("change", "variable", "message"),
    [
        (member, "urban", "has the dimensions member (2) beside latitude and longitude; select one of 'member'"),
        (lambda ds: ds.isel(time=slice(0)), "time", "no time step"),
        (lambda ds: ds * np.nan, "all states", "no cell has data"),
        (lambda ds: ds.assign(urban=ds["urban"] * 0 + 0.5), "sum of states", "sum to more than 1"),
        (lambda ds: ds.assign_coords(lon=ds["lon"] + 0.1), "grid", "is not part of the world's 0.25 degree grid"),
    ],
)
def test_faults_of_structure_are_one_error_with_a_remedy(change, variable, message):
    nowhere = Coverage.of(GRID, np.zeros(GRID.shape, dtype=bool))
    (error,) = found(examine(change(states()), coverage=nowhere), "error")
    assert error.variable == variable
    assert message in error.sentence
    assert error.remedy


@pytest.mark.parametrize(("years", "message"), [([2014, 2014], "more than once"), ([1.0, 2.0], "not calendar years")])
def test_bad_years_are_an_error_and_values_are_checked_all_the_same(years, message):
    ds = states().assign_coords(time=years)
    ds["urban"][0, 0, 0] = np.inf
    table = examine(ds)
    time, urban = found(table, "error")
    assert (time.variable, urban.variable) == ("time", "urban")
    assert message in time.message
    assert found(table, "warning") == []  # what is missing between years that are wrong says nothing


def moved_mask(ds):
    return ds.where((ds["time"] == 2014) | (ds["lon"] > ds["lon"][0])).transpose("time", "lat", "lon")


def ice_in_a_corner(ds):
    return ds.where((ds["lat"] < 49.8) | (ds["lon"] > 10.2), 0)


def without_crop_types(ds):
    none = ds["c3per"] * 0
    return ds.assign(c3per=none, c4per=none, primf=ds["primf"] + ds["c3per"] + ds["c4per"])


def with_biofuel(ds):
    half = ds["c4per"] / 2
    return ds.assign(c4per=half, c4per_bf=half, cpbf1_c4per=half * 0 + 1)


@pytest.mark.parametrize(
    ("change", "severity", "variable", "sentence"),
    [
        (
            lambda ds: ds.assign_coords(time=[2010, 2014]),
            "warning",
            "time",
            "3 years are missing between the first and",
        ),
        (moved_mask, "warning", "all states", "in 1 years as in the first, 3 cells, first at year 2015; look"),
        (lambda ds: ds * 0.01, "warning", "sum of states", "only 0.0% of the cells with data sum to 1, 12 cells; "),
        (lambda ds: ds.assign(pastr=ds["pastr"] * 0), "warning", "pastr", "0 everywhere; look"),
        (without_crop_types, "note", "c3per, c4per", "0 everywhere: crop types are not separated in this file"),
        (with_biofuel, "note", "c4per", "made of c4per + c4per_bf"),
        (with_biofuel, "note", "cpbf1_c4per", "1 shares of a crop grown as biofuel: the crop states hold them already"),
        (ice_in_a_corner, "note", "all states", "of LUH2, 2 cells, first at latitude 49.875, longitude 10.125"),
    ],
)
def test_what_may_be_meant_is_a_warning_or_a_note(change, severity, variable, sentence):
    table = examine(change(states()))
    assert table.ok
    assert any(each.variable == variable and sentence in each.sentence for each in found(table, severity))


def test_a_year_without_any_land_use_is_an_error():
    ds = states()
    (error,) = found(examine(ds.where(ds["time"] == 2014, 0).where(ds["lat"] < 49.8)), "error")
    assert (error.variable, error.message, error.count) == ("all states", "0 in all cells that have data", 8)
    assert error.place == "latitude 49.625, longitude 10.125 in 2015"


# against the cells that the model relies on


def holed(row: int, column: int) -> xr.Dataset:
    ds = states()
    hole = (ds["lat"] == GRID.latitude[row]) & (ds["lon"] == GRID.longitude[column])
    return ds.where(~hole).transpose("time", "lat", "lon")


def test_function_and_method_know_the_default_model_and_any_other():
    ds = holed(1, 2)
    for table in (xland.check(ds), ds.ai4land.check(), ds.ai4land.check(model="luh2-0p05")):
        (error,) = found(table, "error")
        assert error.message == "no data in cells that had some when the model was trained"
    assert ds.ai4land.check(model=None).ok
    assert check(canonical_states(GRID, (2019,), names=CLASS_NAMES)).facts["variables"] == ", ".join(CLASS_NAMES)
    with pytest.raises(ModelError, match="there is no model 'none-such'"):
        check(ds, model="none-such")


def test_a_model_that_does_not_take_the_forcing_is_an_error_that_says_why_and_what_to_do():
    shares = canonical_states(GRID, (2019,), names=CLASS_NAMES).fillna(0.05)
    (error,) = found(check(shares), "error")
    assert set(error.variable.split(", ")) == set(LUH2_STATES) - {"urban"}
    assert error.message == "missing, and luh2-0p05 reads them"
    assert error.remedy == "choose a model that reads what is there: model='fractions-0p05'"
    table = check(shares, model="fractions-0p05")
    assert table.ok
    assert table.facts["model"] == "fractions-0p05, for cells of 0.25 degree"
    hers = canonical_states(Grid(0.5, 50.0, 10.0, 3, 4), names=("cropland", "pasture", "urban", "forest", "other"))
    missing, cells = found(hers.ai4land.check(), "error")
    assert "ds.ai4land.to_luh2(mapping)" in missing.remedy
    assert cells.variable == "grid"
    assert "cells of 0.5 degree; choose another model, or bring" in cells.sentence
    assert "ds.ai4land.regrid(resolution=0.25)" in cells.remedy


def test_a_model_that_reads_other_years_as_well_does_not_take_a_single_year():
    model = SimpleNamespace(name="two-steps", inputs=published_inputs())
    assert examine(states((2014, 2015)), model=model).ok
    (error,) = found(examine(states((2015,)), model=model), "error")
    assert error.message == "two-steps reads the years +0, -1 of a map, and no year has them all"


def test_land_that_lost_its_data_is_an_error_with_place_count_and_remedy():
    mask = np.zeros(GRID.shape, dtype=bool)
    mask[1, 2] = True
    coverage = Coverage.of(GRID, mask)
    (error,) = found(examine(holed(1, 2), coverage=coverage), "error")
    assert (error.variable, error.count) == ("all states", 2)  # in both years
    assert error.place == "latitude 49.625, longitude 10.625 in 2014"
    assert error.remedy.startswith("fill them, set land_share")
    assert examine(holed(1, 1), coverage=coverage).ok
    assert examine(holed(1, 2), coverage=Coverage.of(Grid.world(0.5), np.ones((360, 720), dtype=bool))).ok


# against the land of the fine grid


def static(share, factor=2, grid=GRID) -> xr.Dataset:
    fine = grid.refine(factor)
    land = np.full(fine.shape, share, dtype=np.float32)
    return xr.Dataset({"land_share": (("lat", "lon"), land)}, {"lat": fine.latitude, "lon": fine.longitude})


def test_land_without_data_is_counted_on_a_mask_that_may_cover_more_than_the_forcing():
    ds = states()
    holes = ds.where(ds["lat"] < GRID.latitude[0])
    (warning,) = found(examine(holes, static=static(1.0)), "warning")
    assert (warning.count, warning.place) == (4, "latitude 49.875, longitude 10.125")
    assert found(examine(holes, static=static(0.4)), "warning") == []
    assert found(examine(ds, static=static(1.0)), "warning") == []
    more = static(0.0, factor=1, grid=Grid(0.25, 60.0, 0.0, 80, 80))
    more["land_share"].loc[{"lat": 49.875, "lon": 10.375}] = 1.0
    (warning,) = found(examine(holes, static=more), "warning")
    assert (warning.count, warning.place) == (1, "latitude 49.875, longitude 10.375")


@pytest.mark.parametrize(
    ("other", "variable", "message"),
    [
        (xr.Dataset(), "static", "has no land_share"),
        (static(1.0, grid=Grid(0.2, 50.0, 10.0, 3, 4), factor=1), "static", "do not nest"),
        (static(1.0, grid=Grid(0.25, 50.0, 10.0, 2, 4)), "static", "does not cover the forcing"),
        (static(1.0).drop_vars("lat"), "static", "no coordinate"),
        (static(2.0), "land_share", "above 1"),
        (static(np.nan), "land_share", "NaN for the share of land"),
        (static(1.0).assign(elevation=static(1e30).land_share), "elevation", "above 9000"),
    ],
)
def test_predictors_that_do_not_fit_are_an_error(other, variable, message):
    (error,) = found(examine(states(), static=other), "error")
    assert error.variable == variable
    assert message in error.message


# the table itself


def test_the_table_reads_as_text_as_html_and_as_a_dataframe():
    ds = states().assign({"<script>": states()["urban"]})
    ds["urban"][0, 0, 0] = np.inf
    ds["range"].attrs["_Fillvalue"] = np.float32(1e20)
    table = examine(ds)
    text = str(table)
    assert "error  urban  infinite, 1 cell, first at latitude 49.875, longitude 10.125 in" in text
    assert max(map(len, text.splitlines())) <= 80
    assert "note   range  fill value under the misspelt attribute _Fillvalue" in text
    assert text.endswith("not fit for downscaling: 1 error, 1 note")
    frame = table.to_dataframe()
    assert frame["severity"].tolist() == ["error", "note"]
    assert frame["count"].tolist()[0] == 1
    assert "<td>infinite</td>" in table._repr_html_()
    assert "<script>" not in table._repr_html_()


@pytest.mark.shared_data
def test_the_released_file_is_understood(luh2_path):
    with xr.open_dataset(luh2_path, decode_times=False) as ds:
        table = check(ds)
    assert table.ok
    assert table.facts["years"] == "2015 (1)"
    notes = "\n".join(note.sentence for note in found(table, "note"))
    assert "cannot be decoded by xarray; read as year 2015" in notes
    assert "misspelt attribute _Fillvalue" in notes
    assert "crop types are not separated" in notes
