from __future__ import annotations

import warnings

import numpy as np
import pytest
import xarray as xr

from xland.errors import GridError, OtherYearWarning, TimeError
from xland.geo.grid import Grid
from xland.geo.split import Part, divide
from xland.reading.variables import as_map
from xland.scores.baselines import baseline_maps, crosswalk, pick_year, simple_maps, sum_up

COARSE = Grid(5.0, 60.0, -180.0, 4, 6)


def test_differences_are_summed_up_by_area():
    difference = np.zeros((2, 4, 6))
    difference[0, 0], difference[1] = 0.1, np.nan
    difference[0, 1, 0] = -0.4
    coords = {"class": ["urban", "other"], "lat": COARSE.latitude, "lon": COARSE.longitude}
    all_of_it = xr.DataArray(difference, coords, ("class", "lat", "lon"))
    largest = abs(all_of_it).max("class").where(all_of_it["lat"] > 45)
    found = sum_up(xr.Dataset({"difference": all_of_it, "largest": largest, "pixels": largest * 25}))
    area = COARSE.cell_area()
    assert list(found.classes) == ["urban"]
    assert found.classes["urban"].mean == pytest.approx((0.6 * area[0] - 0.4 * area[1]) / (6 * area.sum()))
    assert found.classes["urban"].mean_absolute == pytest.approx((0.6 * area[0] + 0.4 * area[1]) / (6 * area.sum()))
    assert found.classes["urban"].largest == found.largest == pytest.approx(0.4)
    assert found.cells == 18
    assert found.within_a_pixel == pytest.approx(11 / 18)
    nothing = xr.Dataset({"difference": all_of_it, "largest": largest * np.nan, "pixels": largest})
    assert sum_up(nothing) is None


def test_a_single_row_column_or_cell_is_summed_up_as_well():
    difference = xr.DataArray(
        np.arange(24.0).reshape(1, 4, 6),
        {"class": ["urban"], "lat": COARSE.latitude, "lon": COARSE.longitude},
        ("class", "lat", "lon"),
    )
    largest = difference.max("class")
    agreement = xr.Dataset({"difference": difference, "largest": largest, "pixels": largest})
    assert sum_up(agreement.isel(lat=[1])).classes["urban"].mean == pytest.approx(8.5)
    expected = np.average(difference[0, :, 2], weights=COARSE.cell_area())
    assert sum_up(agreement.isel(lon=[2])).classes["urban"].mean == pytest.approx(expected)
    assert sum_up(agreement.isel(lat=[1], lon=[2])).classes["urban"].mean == pytest.approx(8)


def a_forcing(years, grid=COARSE):
    rng = np.random.default_rng(0)
    shares = rng.dirichlet(np.ones(3), (len(years), *grid.shape))
    coords = {"time": list(years), "lat": grid.latitude, "lon": grid.longitude}
    names = ("urban", "cropland", "forest")
    return xr.Dataset({name: (("time", "lat", "lon"), shares[..., i]) for i, name in enumerate(names)}, coords)


def test_the_year_of_the_map_is_taken():
    forcing = a_forcing((2000, 2001))
    assert pick_year(forcing, 2001)["time"].values.tolist() == [2001]
    with pytest.raises(TimeError, match="2 years, 2000 to 2001, but not 2019, of which the map is"):
        pick_year(forcing, 2019)
    with pytest.raises(TimeError, match="2 years, 2000 to 2001, but the map does not say its year"):
        pick_year(forcing, None)


def test_the_only_year_is_taken_and_told_where_it_is_another():
    forcing = a_forcing((2000,))
    with pytest.warns(OtherYearWarning, match="the forcing is of 2000 and the map of 2019"):
        assert pick_year(forcing, 2019)["time"].values.tolist() == [2000]
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert pick_year(forcing, None)["time"].values.tolist() == [2000]


def test_a_forcing_that_does_not_cover_the_map_is_refused_with_the_cells_that_are_missing():
    fine = Grid(1.0, 60.0, -180.0, 20, 30)
    observed = as_map(
        xr.DataArray(np.ones(fine.shape, np.uint8), {"lat": fine.latitude, "lon": fine.longitude}, ("lat", "lon")),
        what="map",
    )
    forcing = pick_year(a_forcing((2000,)), 2000)
    assert set(baseline_maps(forcing, observed, 5)) == {"crosswalk", "most frequent class", "mode of the observed cell"}
    with pytest.raises(GridError, match="9 of 24 coarse cells of the map lie outside the forcing"):
        baseline_maps(forcing.isel(lat=slice(1, 4), lon=slice(0, 5)), observed, 5)


def test_baselines_of_a_part_are_the_part_of_the_baselines():
    forcing = pick_year(a_forcing((2000,), Grid(5.0, 60.0, -180.0, 4, 72)), 2000)
    fine = Grid(1.0, 55.0, 175.0, 10, 20)  # passes the date line
    codes = np.random.default_rng(1).integers(1, 7, fine.shape).astype(np.uint8)
    observed = as_map(xr.DataArray(codes, {"lat": fine.latitude, "lon": fine.longitude}, ("lat", "lon")), what="map")
    found = baseline_maps(forcing, observed, 5)
    columns = np.array([71, 0, 1, 2])
    part = {name: forcing[name].values[0, 1:3][:, columns] for name in forcing.data_vars}
    np.testing.assert_array_equal(found["crosswalk"], crosswalk(part, 5))
    shares = xr.Dataset({name: (("time", "lat", "lon"), values[None]) for name, values in part.items()})
    shares = shares.assign_coords(time=[2000], lat=[52.5, 47.5], lon=[177.5, 182.5, 187.5, 192.5])
    training = divide(fine) == Part.TRAIN
    for name, expected in simple_maps(shares, observed.data, 5, training).items():
        xr.testing.assert_identical(found[name], expected)
    assert found["crosswalk"]["lon"].values.tolist() == fine.longitude.tolist()
    assert len(np.unique(found["most frequent class"])) == 1
