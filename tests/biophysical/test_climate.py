from __future__ import annotations

import numpy as np
import pytest
import xarray as xr

from tests.biophysical.worlds import PLACE, climate, months
from xland.biophysical.climate import check_climate, read_climate
from xland.errors import ClimateError, GridError, TimeError
from xland.geo.grid import Grid

DAYS = climate().time.dt.days_in_month


def at_cells(given: xr.Dataset, year: int | None = 2001, grid: Grid = PLACE) -> np.ndarray:
    """Climate at the centres of the cells of a map, (24, rows, columns), as a block of the map gets it."""
    read = read_climate(given)
    cells = read.frame(grid).cells(grid.latitude, grid.longitude)
    part = read.of_year(year)[:, cells.down.needed][:, :, cells.across.needed]
    return cells.interpolate(part.compute())


def changed(**units: str) -> xr.Dataset:
    """The same climate in other units."""
    ds = climate()
    factors = {"kg m-2 s-1": 1.0, "mm/day": 86_400.0, "mm d-1": 86_400.0, "mm month-1": 86_400.0 * DAYS}
    if "pr" in units:
        ds["pr"] = (ds.pr * factors.get(units["pr"], 86_400.0 * DAYS)).assign_attrs(units=units["pr"])
    if "tas" in units:
        ds["tas"] = (ds.tas - 273.15).assign_attrs(units=units["tas"])
    return ds


@pytest.mark.parametrize(
    "same",
    [
        lambda: changed(pr="mm/day"),
        lambda: changed(pr="mm d-1"),
        lambda: changed(pr="mm month-1", tas="degC"),
        lambda: changed(tas="Celsius"),
        lambda: changed(pr="mm").assign(pr=lambda ds: ds.pr.assign_attrs(cell_methods="time: sum")),
        lambda: climate().rename(tas="t2m", pr="rain"),
        lambda: climate().isel(lat=slice(None, None, -1)).transpose("lon", "time", "lat"),
        lambda: climate().assign_coords(lon=climate().lon - 360),
        lambda: climate().rename(lat="latitude", lon="longitude"),
        lambda: climate().assign_coords(height=2.0).expand_dims(member=["r1"]),
        lambda: climate().chunk(time=7, lat=2),
    ],
)
def test_what_says_the_same_is_read_the_same(same):
    np.testing.assert_allclose(at_cells(same()), at_cells(climate()), rtol=1e-5, atol=1e-4)


def test_the_climate_of_a_cell_is_interpolated_between_the_points_around_it():
    lat, lon = np.array([43.875, 44.625, 45.375]), np.array([7.625, 8.125, 8.625, 9.625])  # not evenly
    found = at_cells(climate(lat, lon))
    exact = months(lat[1:2], lon[1:2], 0.5)[..., 0, 0].reshape(24)
    np.testing.assert_allclose(found[:, 1, 0], exact, rtol=1e-5, atol=1e-4)
    between = months(lat[1:2], lon[1:3], 0.5).mean(axis=-1)[..., 0].reshape(24)
    np.testing.assert_allclose(found[:, 1, 1], between, rtol=1e-5, atol=1e-4)


def test_pixels_larger_than_a_quarter_degree_are_their_own_cells():
    grid = Grid(0.5, 45.3, 8.2, 2, 3)
    lat, lon = np.arange(43.05, 46.6, 0.5), np.arange(6.45, 11.1, 0.5)
    found = at_cells(climate(lat, lon), 2000, grid)
    np.testing.assert_allclose(found, months(grid.latitude, grid.longitude).reshape(24, 2, 3), rtol=1e-4, atol=1e-3)


@pytest.mark.parametrize("calendar", ["noleap", "360_day", "julian", "proleptic_gregorian"])
@pytest.mark.parametrize("decoded", [False, True])
def test_dates_of_any_calendar_say_their_months(calendar, decoded):
    ds = climate()
    days = {"360_day": 30}.get(calendar)
    time = xr.date_range("2000-01-01", periods=24, freq="MS", calendar=calendar, use_cftime=True)
    ds["pr"] = (ds.pr * (DAYS / (days or time.days_in_month))).assign_attrs(ds.pr.attrs)
    ds = ds.assign_coords(time=time)
    if not decoded:
        ds = _encoded(ds)
    np.testing.assert_allclose(at_cells(ds), at_cells(climate()), rtol=1e-5, atol=1e-4)


def _encoded(ds: xr.Dataset) -> xr.Dataset:
    """As it is in a file."""
    variables, attributes = xr.conventions.cf_encoder(ds.variables, ds.attrs)
    return xr.Dataset(variables, attrs=attributes)


def test_means_of_months_are_the_climate_of_all_years():
    mean = changed(pr="mm month-1").groupby("time.month").mean()
    mean.tas.attrs, mean.pr.attrs = {"units": "K"}, {"units": "mm month-1"}
    assert read_climate(mean).is_mean
    assert read_climate(mean).period is None
    np.testing.assert_allclose(at_cells(mean, 1850), at_cells(climate(), None), rtol=1e-4, atol=1e-3)
    np.testing.assert_allclose(at_cells(mean.isel(month=slice(None, None, -1)), 1850), at_cells(mean, 1850))


def test_a_cell_beside_places_without_data_has_the_climate_of_the_others():
    ds = climate()
    land = ds.where(ds.lon < 9)
    found, whole = at_cells(land), at_cells(ds)
    assert np.isnan(found[:, :, -1]).sum() == 0  # 9.375 E: between 8.5, which has data, and 9.5
    np.testing.assert_allclose(found[:, :, 0], whole[:, :, 0], rtol=1e-5)
    assert np.isnan(at_cells(ds.where(ds.lon > 11))).all()


def test_a_globe_has_no_seam():
    globe = climate(np.arange(-89.0, 90, 2.0), np.arange(0.0, 360, 2.0), (2000,))
    grid = Grid(0.25, 60.0, -180.0, 4, 1440)
    found = at_cells(globe, 2000, grid)
    assert np.isfinite(found).all()
    steps = np.abs(np.diff(found, axis=2, append=found[:, :, :1]))
    assert steps[:, :, -1].max() <= steps[:, :, :-1].max()
    other = globe.assign_coords(lon=(globe.lon + 180) % 360 - 180).sortby("lon")
    np.testing.assert_allclose(at_cells(other, 2000, grid), found, rtol=1e-5, atol=1e-4)


@pytest.mark.parametrize(
    ("wrong", "error", "said"),
    [
        (lambda: climate().tas, ClimateError, "must be a Dataset with tas and pr"),
        (lambda: climate().drop_vars("pr"), ClimateError, "climate has no pr .*it has tas: rename"),
        (lambda: changed(pr="mm"), ClimateError, "climate: pr: the units 'mm' are not understood"),
        (lambda: changed(tas="F"), ClimateError, "climate: tas: the units 'F' are not understood.*give K or degC"),
        (lambda: climate().drop_attrs(), ClimateError, "tas: it has no attribute `units`, so nobody can tell"),
        (lambda: climate().isel(time=slice(0, 23)), ClimateError, "lacks 1 months of 2001 .12.: the season needs"),
        (lambda: climate().isel(time=[0, 0]), ClimateError, "several steps in 1 months, the first is 2000-01"),
        (lambda: climate().assign_coords(time=range(24)), TimeError, "without units are not calendar years"),
        (lambda: climate().assign_coords(time=("time", range(1990, 2014))), TimeError, "does not say the months"),
        (lambda: climate().drop_vars("time"), TimeError, "has no coordinate: give the dates of its months"),
        (lambda: climate().isel(time=0, drop=True), ClimateError, "neither time nor a coordinate `month`"),
        (lambda: climate().rename(lat="rows").drop_attrs(deep=True), GridError, "no latitude found"),
        (lambda: climate(longitude=np.arange(0.0, 361)), GridError, "the same meridian"),
        (lambda: climate(longitude=np.array([8.25, 8.75])), ClimateError, "cells are outside its longitudes"),
        (lambda: climate().expand_dims(member=2), ClimateError, "has the dimensions member .2. beside"),
    ],
)
def test_a_climate_that_would_give_a_wrong_season_is_named(wrong, error, said):
    with pytest.raises(error, match=said):
        at_cells(wrong())


def test_impossible_and_missing_values_are_named_where_there_is_vegetation():
    good = at_cells(climate())
    place = (np.arange(4) + 44.0)[::-1], np.arange(6) + 8.0
    used = np.ones(good.shape[1:], dtype=bool)
    used[3, 5] = False
    check_climate(good, used, place)
    for value, month, said in (
        (290.0, 3, "climate: tas: 1 cells above 60 .highest 290.*look at units"),
        (-1.0, 12, "climate: pr: 1 cells below -0.01"),
        (np.nan, 5, "climate: 1 cells of the climate on land have no data in some month, the first at latitude 45"),
    ):
        bad = good.copy()
        bad[month, 2, 3] = value
        with pytest.raises(ClimateError, match=said):
            check_climate(bad, used, place)
        elsewhere = good.copy()
        elsewhere[month, 3, 5] = value
        check_climate(elsewhere, used, place)


def test_a_place_that_lacks_some_months_is_named():
    ds = climate()
    ds["pr"] = ds.pr.where((ds.time.dt.month != 7) | (ds.lon < 9))
    with pytest.raises(ClimateError, match="have data in some months and none in others"):
        at_cells(ds)
