from __future__ import annotations

import numpy as np
import pytest
import xarray as xr
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.strategies import Layout, canonical_states
from xland.errors import ForcingError, GridError
from xland.forcing.check import check
from xland.forcing.findings import CheckTable, Finding
from xland.geo.grid import Grid
from xland.vocabulary import CLASS_NAMES, LUH2_STATES

GRID = Grid(0.25, 50.0, 10.0, 3, 4)


def states(years=(2014, 2015), seed=1) -> xr.Dataset:
    ds = canonical_states(GRID, years, seed=seed).fillna(0)
    return ds.assign(primf=1 - (ds.to_dataarray().sum("variable") - ds["primf"]))


def found(table: CheckTable, severity: str) -> list[Finding]:
    return [finding for finding in table.findings if finding.severity == severity]


def test_good_states_are_fit():
    table = check(states())
    assert table.ok
    assert found(table, "error") == found(table, "warning") == []
    assert table.verdict == "fit for downscaling"
    assert table.facts["years"] == "2014-2015 (2)"
    assert table.facts["cells with data"] == "12 of 12 (100.0%)"
    assert table.facts["sum of states"].startswith("1 in 100.0%")


def test_areas_of_the_first_and_the_last_year_are_those_of_the_cells():
    table = check(states((2000, 2001, 2002)))
    assert list(table.areas.columns) == ["2000", "2002"]
    whole = GRID.cell_area().sum() * GRID.columns / 1e12
    np.testing.assert_allclose(table.areas.sum(), whole, rtol=1e-6)


def test_the_answer_does_not_depend_on_layout_or_chunks():
    ds = states()
    ds["urban"][1, 2, 3] = -0.5
    other = Layout(("y", "x", "year"), latitude_ascending=True, order=("lon", "time", "lat"), chunks=(1, 1, 2))
    plain, turned = check(ds), check(other.apply(ds))
    assert plain.findings == turned.findings
    assert plain.areas.equals(turned.areas)
    assert "latitude from south to north" in turned.facts["order"]


@pytest.mark.parametrize(
    ("value", "message"),
    [(np.inf, "infinite"), (-0.5, "below 0"), (1.2, "above 1"), (np.nan, "NaN where other states have values")],
)
def test_bad_values_are_errors_with_place_count_and_remedy(value, message):
    ds = states()
    ds["range"][:, 1, 2] = value
    table = check(ds)
    (error,) = found(table, "error")
    assert not table.ok
    assert error.variable == "range"
    assert error.message.startswith(message)
    assert error.count == 2  # the same cell in both years
    assert error.place == f"latitude {GRID.latitude[1]:g}, longitude {GRID.longitude[2]:g} in 2014"
    assert error.remedy


def test_states_that_sum_to_more_than_one_are_an_error():
    ds = states()
    ds["primf"][1, 0, 0] += 0.01
    ds["primf"][1, 0, 0] = min(float(ds["primf"][1, 0, 0]), 1.0)
    ds["urban"][1, 0, 0] += 0.01
    (error,) = found(check(ds), "error")
    assert (error.variable, error.count) == ("sum of states", 1)
    assert error.place.endswith("in 2015")


def test_percent_is_an_error_by_units_and_by_values():
    ds = states()
    ds["urban"] = (ds["urban"] * 100).assign_attrs(units="%")
    by_units, *by_values = found(check(ds), "error")
    assert (by_units.variable, by_units.remedy[:13]) == ("urban", "divide by 100")
    assert any("percent" in error.remedy for error in by_values)


def test_missing_states_are_an_error_and_the_others_are_looked_at():
    ds = states().drop_vars(["pastr", "range"])
    ds["urban"][0, 0, 0] = np.inf
    missing, infinite = found(check(ds), "error")
    assert missing.variable == "pastr, range"
    assert infinite.variable == "urban"


def test_a_dataset_without_states_says_what_is_missing():
    table = check(xr.Dataset({"temperature": states()["urban"]}))
    assert found(table, "error")[0].variable == ", ".join(LUH2_STATES)
    assert table.facts["left aside"] == "temperature"


def test_what_is_no_dataset_is_refused_as_it_has_no_variables_to_look_at():
    with pytest.raises(ForcingError, match="the forcing is a DataArray; pass a Dataset"):
        check(states()["urban"])


def test_a_grid_that_is_none_is_an_error():
    (error,) = found(check(states().assign_coords(lat=[50.0, 49.5, 48.0])), "error")
    assert error.variable == "grid"
    assert "not evenly spaced" in error.message


def test_a_further_dimension_is_an_error():
    ds = states()
    ds["urban"] = ds["urban"].expand_dims(member=2)
    (error,) = found(check(ds), "error")
    assert error.variable == "urban"
    assert error.remedy == "select one of 'member' with isel or sel"


@pytest.mark.parametrize(
    ("years", "message"),
    [
        ([2014, 2014], "stand more than once: 2014"),
        ([2015, 2014], "not sorted: 2015 is followed by 2014"),
        ([852, 2013], "no year between 852 and 2013, more than 50 years"),
        (("time", [0, 1200], {"units": "years since 2015-01-01"}), "1 of 2 years lie outside 850 to 2500: 3215"),
        ([1.0, 2.0], "not calendar years"),
    ],
)
def test_bad_years_are_an_error_and_values_are_looked_at_all_the_same(years, message):
    ds = states().assign_coords(time=years)
    ds["urban"][0, 0, 0] = np.inf
    time, urban = found(check(ds), "error")
    assert time.variable == "time"
    assert message in time.message
    assert urban.variable == "urban"
    assert found(check(ds), "warning") == []  # what is missing between years that are wrong says nothing


def test_gaps_between_years_are_a_warning_that_names_them():
    table = check(states().assign_coords(time=[2010, 2014]))
    (warning,) = found(table, "warning")
    assert table.ok
    assert warning.message == "3 years are missing between the first and the last: 2011-2013"


def test_no_time_step_is_an_error():
    assert found(check(states().isel(time=slice(0))), "error")[0].message == "no time step"


def test_a_land_mask_that_moves_is_a_warning():
    ds = states()
    ds = ds.where((ds["time"] == 2014) | (ds["lon"] > ds["lon"][0])).transpose("time", "lat", "lon")
    (warning,) = found(check(ds), "warning")
    assert (warning.count, warning.place) == (3, "year 2015")


def test_data_nowhere_are_an_error():
    (error,) = found(check(states() * np.nan), "error")
    assert error.message == "no cell has data"


def test_states_that_hardly_ever_sum_to_one_are_a_warning():
    warnings = found(check(states() * 0.01), "warning")
    assert [w.variable for w in warnings] == ["sum of states"]
    assert warnings[0].count == 12


def test_crops_that_are_not_separated_are_a_note_and_an_empty_state_a_warning():
    ds = states()
    for name in ("c3per", "c4per", "pastr"):
        ds["primf"] = ds["primf"] + ds[name]
        ds[name] = ds[name] * 0
    table = check(ds)
    assert found(table, "note")[0].variable == "c3per, c4per"
    assert found(table, "warning")[0].variable == "pastr"


def test_class_shares_are_known_too():
    ds = canonical_states(GRID, (2019,), names=CLASS_NAMES)
    assert check(ds).facts["variables"] == ", ".join(CLASS_NAMES)


def test_biofuel_variables_are_explained():
    ds = states()
    half = ds["c4per"] / 2
    ds = ds.assign(c4per=half, c4per_bf=half, cpbf1_c4per=half * 0 + 1)
    notes = {note.variable: note.message for note in found(check(ds), "note")}
    assert notes["c4per"] == "made of c4per + c4per_bf"
    assert "hold them already" in notes["cpbf1_c4per"]


@pytest.mark.parametrize("grid", [Grid(0.25, 50.05, 10.0, 3, 4), Grid(0.25, 50.0, 10.1, 3, 4)])
def test_a_grid_between_the_cells_of_the_world_is_an_error(grid):
    ds = states().assign_coords(lat=grid.latitude, lon=grid.longitude)
    table = check(ds, coverage=(Grid.world(0.25), np.ones((720, 1440), dtype=bool)))
    (error,) = found(table, "error")
    assert error.variable == "grid"
    assert "is not part of the world's 0.25 degree grid" in error.message
    assert error.remedy.startswith("regrid")


# cells without land use


def test_cells_of_ice_are_a_note_with_their_number():
    ds = states()
    table = check(ds.where((ds["lat"] < 49.8) | (ds["lon"] > 10.2), 0))
    (note,) = found(table, "note")
    assert table.ok
    assert (note.count, note.message) == (2, "all 0: cells of ice or water, in LUH2")
    assert note.place == "latitude 49.875, longitude 10.125 in 2014"


def test_a_year_without_any_land_use_is_an_error():
    ds = states()
    table = check(ds.where(ds["time"] == 2014, 0).where(ds["lat"] < 49.8))
    (error,) = found(table, "error")
    assert (error.variable, error.message, error.count) == ("all states", "0 in all cells that have data", 8)
    assert error.place == "latitude 49.625, longitude 10.125 in 2015"
    assert not found(check(ds * 0), "note")


# against the cells that the model relies on


WORLD = Grid.world(0.25)


def holed(row: int, column: int) -> xr.Dataset:
    ds = states()
    hole = (ds["lat"] == GRID.latitude[row]) & (ds["lon"] == GRID.longitude[column])
    return ds.where(~hole).transpose("time", "lat", "lon")


def test_land_that_lost_its_data_is_an_error_with_place_count_and_remedy():
    mask = np.zeros(WORLD.shape, dtype=bool)
    mask[GRID.row_offset + 1, GRID.column_offset + 2] = True
    table = check(holed(1, 2), coverage=(WORLD, mask))
    (error,) = found(table, "error")
    assert (error.variable, error.count) == ("all states", 2)  # in both years
    assert error.message == "no data in cells that had some when the model was trained"
    assert error.place == "latitude 49.625, longitude 10.625 in 2014"
    assert error.remedy.startswith("fill them, set land_share")
    for other in (holed(1, 1), holed(2, 2), states()):
        assert check(other, coverage=(WORLD, mask)).ok
    assert check(holed(1, 2)).ok


@settings(max_examples=20, deadline=None)
@given(st.integers(0, 42), st.integers(0, 89), st.integers(3, 90), st.booleans(), st.booleans(), st.integers(0, 2**31))
def test_the_cells_compared_are_those_of_the_same_place(row, column, columns, ascending, eastern, seed):
    world = Grid.world(4)
    random = np.random.default_rng(seed)
    mask = random.random(world.shape) < 0.5
    grid = Grid(4.0, 90 - 4.0 * row, -180 + 4.0 * column, 3, columns)
    values = canonical_states(grid, (2015,), seed=seed).fillna(0.05).clip(max=1 / 12)
    empty = random.random(grid.shape) < 0.5
    values = values.where(~xr.DataArray(empty, dims=("lat", "lon"))).transpose("time", "lat", "lon")
    places = np.rint((grid.longitude + 178) / 4).astype(int) % 90
    lost = empty & mask[row : row + 3][:, places]
    if ascending:
        values = values.isel(lat=slice(None, None, -1))
    if eastern:
        values = values.assign_coords(lon=values["lon"] % 360)
        if columns == 90:
            values = values.sortby("lon")
    errors = [e for e in found(check(values, coverage=(world, mask)), "error") if "trained" in e.message]
    assert sum(error.count or 0 for error in errors) == int(lost.sum())


def test_cells_outside_the_coverage_are_not_looked_at():
    part = GRID.window(slice(1, 3), slice(1, 3))
    everywhere = (part, np.ones(part.shape, dtype=bool))
    assert not check(holed(1, 2), coverage=everywhere).ok
    assert check(holed(0, 2), coverage=everywhere).ok
    assert check(holed(1, 3), coverage=everywhere).ok
    far = Grid(0.25, -20.0, 100.0, 3, 4)
    assert check(holed(1, 2), coverage=(far, np.ones(far.shape, dtype=bool))).ok


@pytest.mark.parametrize("known", [Grid.world(0.5), Grid(0.25, 50.1, 10.0, 3, 4)])
def test_coverage_on_another_lattice_says_nothing(known):
    assert check(holed(1, 2), coverage=(known, np.ones(known.shape, dtype=bool))).ok


def test_a_mask_of_another_shape_than_its_grid_is_refused():
    with pytest.raises(GridError, match=r"coverage: a mask of shape \(2, 2\) does not belong"):
        check(states(), coverage=(WORLD, np.ones((2, 2), dtype=bool)))


# against the land of the fine grid


def static(share, factor=2, grid=GRID) -> xr.Dataset:
    fine = grid.refine(factor)
    land = xr.DataArray(
        np.full(fine.shape, share, dtype=np.float32),
        coords={"lat": fine.latitude, "lon": fine.longitude},
        dims=("lat", "lon"),
    )
    return land.to_dataset(name="land_share")


def with_holes() -> xr.Dataset:
    ds = states()
    return ds.where(ds["lat"] < GRID.latitude[0])


def test_land_without_data_is_counted():
    (warning,) = found(check(with_holes(), static=static(1.0)), "warning")
    assert warning.count == 4
    assert warning.place == "latitude 49.875, longitude 10.125"
    assert found(check(with_holes(), static=static(0.4)), "warning") == []
    assert found(check(states(), static=static(1.0)), "warning") == []


def test_the_land_mask_may_cover_more_than_the_forcing():
    world = static(0.0, factor=1, grid=Grid.world(0.25))
    world["land_share"].loc[{"lat": 49.875, "lon": 10.375}] = 1.0
    (warning,) = found(check(with_holes(), static=world), "warning")
    assert (warning.count, warning.place) == (1, "latitude 49.875, longitude 10.375")


@pytest.mark.parametrize(
    ("other", "message"),
    [
        (xr.Dataset(), "has no land_share"),
        (static(1.0, grid=Grid(0.2, 50.0, 10.0, 3, 4), factor=1), "do not nest"),
        (static(1.0, grid=Grid(0.25, 50.0, 10.0, 2, 4)), "does not cover the forcing"),
        (static(1.0).drop_vars("lat"), "no coordinate"),
    ],
)
def test_a_land_mask_that_does_not_fit_is_an_error(other, message):
    (error,) = found(check(states(), static=other), "error")
    assert error.variable == "static"
    assert message in error.message


# the table itself


def test_the_table_reads_as_text_as_html_and_as_a_dataframe():
    ds = states()
    ds["urban"][0, 0, 0] = np.inf
    ds["range"].attrs["_Fillvalue"] = np.float32(1e20)
    table = check(ds)
    text = str(table)
    assert "error  urban  infinite, 1 cells, first at latitude 49.875, longitude 10.125 in 2014; find where" in text
    assert "note   range  fill value under the misspelt attribute _Fillvalue" in text
    assert text.endswith("not fit for downscaling: 1 error, 1 note")
    frame = table.to_dataframe()
    assert frame["severity"].tolist() == ["error", "note"]
    assert frame["count"].tolist()[0] == 1
    assert "<td>infinite</td>" in table._repr_html_()


def test_text_from_a_file_cannot_break_out_of_the_html():
    ds = states().assign({"<script>": states()["urban"]})
    assert "<script>" not in check(ds)._repr_html_()


def test_every_year_is_looked_at():
    ds = states(tuple(range(2000, 2006)))
    ds["urban"][4:, 0, 0] = np.inf
    quiet, shown = check(ds, progress=False), check(ds, progress=True)
    assert quiet.facts["years"] == "2000-2005 (6)"
    assert quiet.findings == shown.findings
    assert (quiet.findings[0].count, quiet.findings[0].place[-4:]) == (2, "2004")


@pytest.mark.shared_data
@pytest.mark.parametrize("mask_and_scale", [True, False])
def test_the_released_file_is_understood(luh2_path, mask_and_scale):
    with xr.open_dataset(luh2_path, decode_times=False, mask_and_scale=mask_and_scale) as ds:
        table = check(ds)
    assert table.ok
    assert table.facts["years"] == "2015 (1)"
    notes = "\n".join(note.sentence for note in found(table, "note"))
    assert "cannot be decoded by xarray; read as year 2015" in notes
    assert "misspelt attribute _Fillvalue" in notes
    assert "crop types are not separated" in notes
    # Hurtt et al. (2020): about 16 million km2 of cropland and 33 of grazing land
    cropland, grazing = table.areas.loc["c3ann", "2015"], table.areas.loc[["pastr", "range"], "2015"].sum()
    assert cropland == pytest.approx(15.9, abs=0.3)
    assert grazing == pytest.approx(32.8, abs=0.5)
