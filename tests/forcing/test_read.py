from __future__ import annotations

import numpy as np
import pytest
import xarray as xr
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.raising_backend import raising_dataset
from tests.strategies import canonical_states, laid_out_pairs
from xland.errors import ForcingError, GridError, TimeError
from xland.forcing.read import check_coverage, check_lattice, check_values, read_forcing, require_years
from xland.geo.grid import Grid
from xland.vocabulary import CLASS_NAMES, LUH2_STATES

GRID = Grid(0.25, 50.0, 10.0, 3, 4)
STATES = canonical_states(GRID, (2014, 2015))


def years_of(ds: xr.Dataset) -> tuple[int, ...]:
    return read_forcing(ds).years


def with_time(values, **attributes) -> xr.Dataset:
    return STATES.assign_coords(time=("time", values, attributes))


# the canonical form


@settings(max_examples=6, deadline=None)
@given(laid_out_pairs(names=("primf", "urban")))
def test_states_in_any_layout_are_those_of_the_file_without_reading_a_value(pair):
    canonical, ds = pair
    forcing = read_forcing(raising_dataset(ds), variables=["urban", "primf"])
    assert forcing.years == (2014, 2015)
    assert list(forcing.data.data_vars) == ["urban", "primf"]
    for array in forcing.data.values():
        assert array.dims == ("time", "lat", "lon")
        assert array.chunks is not None
        assert array.dtype == np.float32
    np.testing.assert_array_equal(forcing.data["lat"], forcing.grid.latitude)
    xr.testing.assert_equal(read_forcing(ds, variables=["primf", "urban"]).data.compute(), canonical)


def test_a_file_without_chunks_gets_one_year_of_the_whole_grid_and_the_callers_chunks_are_kept():
    assert read_forcing(STATES).data.chunks == {"time": (1, 1), "lat": (3,), "lon": (4,)}
    assert read_forcing(STATES.chunk(time=2, lat=2, lon=2)).data.chunks["lat"] == (2, 1)


def test_values_in_memory_get_small_chunks_so_that_only_those_that_are_needed_travel(monkeypatch):
    monkeypatch.setattr("xland.forcing.read.IN_MEMORY", 2)
    assert read_forcing(STATES).data.chunks == {"time": (1, 1), "lat": (2, 1), "lon": (2, 2)}
    monkeypatch.setattr("xland.forcing.read._CHUNKS", 4)
    assert read_forcing(STATES).data.chunks == {"time": (1, 1), "lat": (3,), "lon": (4,)}, "not too many"


@pytest.mark.parametrize("names", [("lat", "lon"), ("latitude", "longitude")])
def test_a_file_without_dask_gets_the_chunks_that_it_has_whatever_its_dimensions_are_called(tmp_path, names):
    stored = STATES.rename(dict(zip(("lat", "lon"), names, strict=True)))
    sizes = tuple({"time": 2, names[0]: 2, names[1]: 3}[dim] for dim in stored["primf"].dims)
    stored.to_netcdf(tmp_path / "a.nc", encoding={name: {"chunksizes": sizes} for name in stored.data_vars})
    with xr.open_dataset(tmp_path / "a.nc", decode_times=False) as opened:
        assert read_forcing(opened).data.chunks == {"time": (1, 1), "lat": (2, 1), "lon": (3, 1)}


def test_variables_are_those_asked_for_and_the_optional_ones_that_are_known():
    fractions = canonical_states(GRID, (2019,), names=CLASS_NAMES)
    assert tuple(read_forcing(fractions, variables=CLASS_NAMES).data.data_vars) == CLASS_NAMES
    ds = STATES.assign(pltns=STATES["primf"] * 0, secma=STATES["primf"] * 50, fstnf=STATES["primf"])
    ds["urban"] = xr.zeros_like(STATES["urban"], dtype="int16") + 1
    found = read_forcing(ds).data
    assert set(found.data_vars) == {*LUH2_STATES, "pltns", "secma"}
    assert found["urban"].dtype == np.float32


# biofuel


def test_biofuel_areas_are_added_to_their_crop_or_are_that_and_shares_of_it_are_not_counted_twice():
    bare = STATES.assign(c4per=STATES["c4per"] * 0 + 0.1)
    ds = bare.assign(c4per_bf=bare["c4per"] * 2, c4per_biofuel_2nd_gen=bare["c4per"])
    forcing = read_forcing(ds)
    np.testing.assert_allclose(forcing.data["c4per"], ds["c4per"] * 4, rtol=1e-6)
    assert "c4per_bf" not in forcing.data
    np.testing.assert_array_equal(read_forcing(STATES.rename(c3per="c3per_bf")).data["c3per"], STATES["c3per"])
    shares = ("crpbf_c4per", "crpbf2_c4per", "cpbf1_c4per", "cpbf2_c4per", "c4per_to_c3ann")  # in the crop already
    counted = read_forcing(STATES.assign(dict.fromkeys(shares, STATES["c4per"] * 0 + 1))).data["c4per"]
    np.testing.assert_array_equal(counted, STATES["c4per"])


# time: every encoding is in tests/geo/test_conventions.py


def test_the_whole_record_from_850_to_2100_keeps_its_years():
    time = np.arange(0, 1251, dtype=np.float32)
    ds = raising_dataset(STATES.isel(time=np.zeros(1251, int)).assign_coords(time=time))
    ds["time"].attrs.update(units="years since 850-01-01 0:0:0", calendar="365_day")
    forcing = read_forcing(ds)
    assert forcing.years == tuple(range(850, 2101))
    assert forcing.data.sel(time=[850, 2100]).sizes["time"] == 2


@pytest.mark.parametrize(
    ("ds", "message"),
    [
        (with_time([0.0, 1.0]), "not calendar years from 850 to 2500; if they count from a year, say so"),
        (STATES.drop_vars("time"), "has 2 steps but no coordinate; assign the years"),
        (STATES.isel(time=0, drop=True), "does not say its year"),
        (STATES.isel(time=slice(0)), "without a single step"),
        (with_time([2014, 2014]), r"1 years are there more than once: 2014; were files .*drop_duplicates"),
        (with_time([2015, 2014]), r"not sorted: 2015 is followed by 2014 .* joined\? .*only if .*sortby"),
        # scenarios of a file that counts from 2015 land before 1100 if they are taken as since 850
        (with_time([1000, 1051]), r"no year between 1000 and 1051, more than 50 years; were files .*slice\(1\)"),
        (with_time([0, 1164], units="years since 2015-01-01"), "1 of 2 years lie outside 850 to 2500: 3179; is the"),
        (with_time([849, 850], units="years since 0-1-1"), "1 of 2 years lie outside 850 to 2500: 849"),
    ],
)
def test_a_time_axis_that_is_not_that_of_a_record_is_named(ds, message):
    with pytest.raises(TimeError, match=message):
        read_forcing(ds)


def test_early_years_may_be_fifty_apart_and_later_ones_any():
    assert years_of(with_time([1000, 1050])) == (1000, 1050)
    assert years_of(with_time([1850, 2015])) == (1850, 2015)


@pytest.mark.parametrize(
    ("names", "taken"),
    [({"lat": name}, name) for name in ("class_name", "bnds", "year", "time_bnds", "lon_bnds", "spatial_ref")]
    + [({"time": name}, name) for name in ("bnds", "lat_bnds", "land_use")],
)
def test_names_that_results_need_for_something_else_are_refused(names, taken):
    with pytest.raises(GridError, match=rf"a coordinate is called '{taken}', which is also a name in the result"):
        read_forcing(STATES.rename(names))


def test_files_with_different_reference_years_are_refused_until_each_is_decoded():
    parts = [with_time(first - begin + np.arange(2), units=f"years since {begin}-01-01 0:0:0")
             for begin, first in ((850, 2013), (2015, 2015))]  # fmt: skip
    for order in (parts, parts[::-1]):
        joined = xr.concat(order, "time", combine_attrs="override")
        with pytest.raises(TimeError, match=r"joined\? Then decode each file first"):
            read_forcing(joined)
    # what the message says
    assert years_of(xr.concat([read_forcing(each).data for each in parts], "time")) == (2013, 2014, 2015, 2016)


def test_gaps_are_accepted_until_one_of_their_years_is_asked_for():
    forcing = read_forcing(with_time([2010, 2015]))
    require_years(forcing, [2010, 2015])
    with pytest.raises(TimeError, match=r"2 of the years asked for .*: 2011-2012; .*2010 to 2015 without 2011-2014"):
        require_years(forcing, [2011, 2012, 2015])


def test_a_single_year_may_stand_in_a_scalar_coordinate_or_be_given():
    one = STATES.isel(time=1, drop=True)
    for name in ("time", "year"):
        forcing = read_forcing(one.assign_coords({name: 2015}))
        assert forcing.years == (2015,)
        assert forcing.data["primf"].dims == ("time", "lat", "lon")
    assert read_forcing(one, year=1855).years == (1855,)
    assert read_forcing(STATES.isel(time=[0]).drop_vars("time"), year=1855).years == (1855,)
    with pytest.raises(TimeError, match="1 of 1 years lie outside 850 to 2500: 0"):
        read_forcing(one, year=0)


# structure


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda ds: ds.drop_vars(["urban", "pastr"]), "2 of the variables needed are missing: pastr, urban; variables"),
        (lambda ds: ds.rename(urban="URBAN"), "rename URBAN for urban"),
        (lambda ds: ds["urban"], r"the forcing is a DataArray; pass a Dataset .*to_dataset\(name="),
        (lambda _: "states.nc", "the forcing is a str; pass a Dataset"),
        (lambda ds: ds.assign(urban=ds["urban"].assign_attrs(units="Percent")), "urban: the units are .*divide by 100"),
        (lambda ds: ds.assign(urban=ds["urban"].expand_dims(member=2)), r"urban: .*select one of 'member'"),
        (lambda ds: ds.assign(urban=ds["urban"].isel(time=0, drop=True)), "urban: has no time dimension, while other"),
        (lambda ds: ds.assign(urban=ds["urban"].isel(lat=0)), "urban: has the dimensions time, lon; states need"),
        (
            lambda ds: ds.assign(urban=ds["urban"].fillna(0).astype("int16").assign_attrs(scale_factor=0.01)),
            "urban: is packed .*decode_cf",
        ),
        (lambda ds: ds.assign(urban=ds["urban"].astype(str)), "urban: its values are .*not numbers"),
        (lambda ds: ds.assign_coords(lat=[50.0, 49.5, 48.0]), "forcing: latitude is not evenly spaced"),
    ],
)
def test_faults_of_structure_are_named_with_a_remedy(change, message):
    with pytest.raises((ForcingError, GridError), match=message):
        read_forcing(change(STATES))


# values


def block(seed: int = 0) -> dict[str, np.ndarray]:
    return {name: array[0].values.copy() for name, array in canonical_states(GRID, seed=seed).items()}


def check(states: dict[str, np.ndarray]) -> None:
    check_values(states, GRID.centres, 2015)


def test_valid_states_with_ocean_and_rounding_pass():
    check(block())
    zero = np.zeros(GRID.shape, dtype=np.float32)
    check(dict.fromkeys(LUH2_STATES, zero) | {"primf": zero + 1.000001, "urban": zero - 1e-7, "range": zero + 0.0005})


BAD = {
    np.inf: "infinite",
    -np.inf: "infinite",
    -0.01: "below 0",
    1.01: "above 1",
    55.0: "percent",
    1e20: "fill value that no attribute declares",
    np.nan: "NaN where other states have values",
}


@settings(max_examples=25, deadline=None)
@given(st.sampled_from([*BAD.items()]), st.sampled_from(LUH2_STATES), st.integers(0, 2), st.integers(0, 3))
def test_a_bad_value_or_sum_is_found_anywhere(bad, name, row, column):
    value, message = bad
    place = f"latitude {GRID.latitude[row]:g}, longitude {GRID.longitude[column]:g}"
    states = {key: np.full(GRID.shape, 0.05, dtype=np.float32) for key in LUH2_STATES}
    states[name][row, column] = value
    with pytest.raises(ForcingError, match=f"^{name}: 1 cells ") as error:
        check(states)
    assert all(each in str(error.value) for each in (place, message, "2015"))
    states[name][row, column] = 0.452
    with pytest.raises(ForcingError, match=rf"sum of states: 1 cells sum to more than 1 \(highest 1.002\) .*{place}"):
        check(states)


def test_cells_are_counted_and_other_faults_mentioned():
    states = {key: np.zeros(GRID.shape, dtype=np.float32) for key in LUH2_STATES}
    states["urban"][1:] = -0.5
    states["primf"][0, 0] = 2
    with pytest.raises(ForcingError, match=r"primf: 1 cells above 1 .*\(1 more kinds of fault: see check"):
        check(states)
    states["primf"][0, 0] = 0
    with pytest.raises(ForcingError, match=r"urban: 8 cells below 0 \(lowest -0.5\) in 2015, .* latitude 49.625"):
        check(states)


def test_age_and_biomass_may_exceed_one_but_not_be_negative_or_infinite():
    states = block() | {"secma": np.full(GRID.shape, 80.0), "secmb": np.full(GRID.shape, 9.0)}
    check(states)
    for value, message in ((-np.inf, "infinite"), (-4, "below 0")):
        states["secmb"][2, 3] = value
        with pytest.raises(ForcingError, match=f"secmb: 1 cells {message}"):
            check(states)


# coverage


EXPECTED = np.array([[True, True, False, False], [True] * 4, [False] * 4])


@pytest.mark.parametrize(("row", "column"), [(0, 1), (1, 3), (0, 2), (2, 0)])
def test_an_expected_cell_without_data_in_any_state_is_named_anywhere(row, column):
    states = {name: np.full(GRID.shape, 0.05) for name in LUH2_STATES} | {"secma": np.full(GRID.shape, 80.0)}
    for name in LUH2_STATES[1:]:
        states[name][row, column] = np.nan
    check_coverage(states, EXPECTED, GRID.centres, 2015)  # the rest is left to the check of values
    states[LUH2_STATES[0]][row, column] = np.nan
    if not EXPECTED[row, column]:
        check_coverage(states, EXPECTED, GRID.centres, 2015)
        return
    place = f"latitude {GRID.latitude[row]:g}, longitude {GRID.longitude[column]:g}"
    with pytest.raises(ForcingError, match=f"^all states: 1 cells .*NaN in 2015, the first at {place}; fill these"):
        check_coverage(states, EXPECTED, GRID.centres, 2015)


# the lattice


@settings(max_examples=15, deadline=None)
@given(
    st.sampled_from([0.05, 0.25, 0.5, 1.0, 1.40625]), st.integers(0, 60), st.integers(0, 250), st.floats(-0.009, 0.009)
)
def test_regions_of_the_worlds_grid_lie_on_its_lattice(resolution, row, column, off):
    check_lattice(Grid(resolution, 90 - (row + off) * resolution, -180 + (column - off) * resolution, 3, 4))


@pytest.mark.parametrize(
    ("north", "west", "message"),
    [
        (50.05, 10.0, r"its northern edge \(50.05\) lies 0.2 of a cell \(0.05 degree\) off; regrid"),
        (50.0, 9.98, r"its western edge \(9.98\) lies 0.08 of a cell \(0.02 degree\) off; regrid"),
        (50.05, 9.98, r"northern edge .* and its western edge"),
        (50.125, 10.125, r"0.5 of a cell .* if its coordinates are edges of cells, move them to the centres"),
    ],
)
def test_a_grid_between_the_cells_of_the_world_is_refused_with_what_it_is_off(north, west, message):
    with pytest.raises(GridError, match=message):
        check_lattice(Grid(0.25, north, west, 3, 4))
