from __future__ import annotations

import dask.array as da
import numpy as np
import pytest
import xarray as xr

from tests.scores.maps import on_grid
from xland.errors import AllocationError, ForcingError, GridError, TimeError
from xland.geo.grid import Grid
from xland.scores.agreement import coarse_agreement, sum_up
from xland.totals.crosswalk import Crosswalk
from xland.vocabulary import CLASS_NAMES, CROPLAND, FOREST, LUH2_STATES, STATE_CLASSES

FACTOR = 5
COARSE = Grid(0.25, 60.5, 10.0, 2, 3)
FINE = COARSE.refine(FACTOR)


def on_fine(values):
    return on_grid(values, FINE.resolution, FINE.north, FINE.west)


def forcing_of(shares, years=(2015,), grid=COARSE):
    """LUH2 states: forest is primf, cropland c3ann, grass secdn."""
    states = {name: np.zeros((len(years), *grid.shape), np.float32) for name in LUH2_STATES}
    states["primf"][:], states["c3ann"][:], states["secdn"][:] = shares
    return xr.Dataset(
        {name: (("time", "lat", "lon"), values) for name, values in states.items()},
        {"time": list(years), "lat": grid.latitude, "lon": grid.longitude},
    )


def two_halves():
    """Forest in the three western columns of each cell, cropland in the others."""
    columns = np.arange(FINE.columns) % FACTOR < 3
    return on_fine(np.where(columns, FOREST, CROPLAND).astype(np.uint8) * np.ones(FINE.shape, np.uint8))


VARIED = forcing_of((np.linspace(0, 0.5, 6).reshape(2, 3), 0.3, 0.2))


def test_differences_are_the_map_minus_the_forcing_where_the_forcing_has_the_class():
    assert float(coarse_agreement(two_halves(), forcing_of((0.6, 0.4, 0.0)))["largest"].max()) < 1e-6
    found = coarse_agreement(two_halves(), forcing_of((0.5, 0.3, 0.2)))
    difference = found["difference"].sel({"class": ["forest", "cropland", "grass_shrub"]})
    assert difference.values[:, 0, 0] == pytest.approx([0.1, 0.1, -0.2], abs=1e-6)
    assert bool(found["difference"].sel({"class": ["ocean", "other", "water"]}).isnull().all())
    assert float(found["largest"][0, 0]) == pytest.approx(0.2, abs=1e-6)
    assert float(found["pixels"][0, 0]) == pytest.approx(5, abs=0.02)  # a pixel is 1/25 of a cell
    np.testing.assert_array_equal(found["area"], COARSE.cell_area())
    moved = Crosswalk({**STATE_CLASSES, "secdn": "cropland"})
    forcing = forcing_of((0.6, 0.3, 0.1))
    assert float(coarse_agreement(two_halves(), forcing)["largest"].max()) == pytest.approx(0.1, abs=1e-6)
    assert float(coarse_agreement(two_halves(), forcing, crosswalk=moved)["largest"].max()) < 1e-6


def test_probabilities_are_averaged_by_area_and_missing_ones_do_not_count_as_nothing():
    values = np.random.default_rng(0).dirichlet(np.ones(8), FINE.shape).transpose(2, 0, 1)
    fine = on_fine(values).assign_coords({"class": list(CLASS_NAMES)})
    area = np.broadcast_to(FINE.cell_area()[:, None], FINE.shape)
    cell = (slice(0, 5), slice(5, 10))
    forcing = forcing_of((0.25, 0.25, 0.25))
    found = coarse_agreement(fine, forcing)
    expected = np.average(values[FOREST][cell], weights=area[cell]) - 0.25
    assert float(found["difference"].sel({"class": "forest"})[0, 1]) == pytest.approx(expected, abs=1e-6)
    shuffled = fine.isel({"class": list(reversed(range(8)))})
    assert np.allclose(coarse_agreement(shuffled, forcing)["largest"], found["largest"])
    values[:, 0, 0] = np.nan
    missing = coarse_agreement(fine.copy(data=values), forcing)["largest"]
    assert np.isnan(missing.values).tolist() == [[True, False, False], [False] * 3]


def test_chunks_orientation_and_names_change_nothing_and_lazy_maps_stay_lazy():
    expected = coarse_agreement(two_halves(), VARIED)["largest"]
    lazy = two_halves().copy(data=da.from_array(two_halves().values, chunks=(3, 7)))
    turned = VARIED.rename(lat="latitude", lon="longitude").isel(latitude=slice(None, None, -1))
    found = coarse_agreement(lazy.isel(lat=slice(None, None, -1)), turned.chunk(latitude=1, longitude=2))["largest"]
    assert found.chunks is not None
    xr.testing.assert_allclose(found.compute(), expected)
    moved = VARIED.assign_coords(lon=VARIED["lon"] + 360)
    xr.testing.assert_allclose(coarse_agreement(two_halves(), moved)["largest"], expected)

    small = coarse_agreement(two_halves(), VARIED.isel(lon=slice(0, 2)))["largest"]
    assert np.allclose(small[:, :2], expected[:, :2])
    assert bool(small[:, 2].isnull().all())


def test_the_year_of_the_map_is_taken():
    forcing = forcing_of((np.array([0.6, 0.1])[:, None, None], 0.4, 0.0), years=(2015, 2016))
    fine = two_halves().expand_dims(time=[2015])
    assert float(coarse_agreement(fine, forcing)["largest"].max()) < 1e-6
    with pytest.raises(TimeError, match="2 years, 2015 to 2016, but the map does not say its year"):
        coarse_agreement(two_halves(), forcing)


def test_differences_are_summed_up_by_area():
    grid = Grid(5.0, 60.0, -180.0, 4, 6)
    area = grid.cell_area()
    difference = np.zeros((2, 4, 6))
    difference[0, 0], difference[1] = 0.1, np.nan
    difference[0, 1, 0] = -0.4
    coords = {"class": ["urban", "other"], "lat": grid.latitude, "lon": grid.longitude}
    layers = xr.Dataset({"difference": (("class", "lat", "lon"), difference), "area": ("lat", area)}, coords)
    largest = abs(layers["difference"]).max("class").where(layers["lat"] > 45)
    found = sum_up(layers.assign(largest=largest, pixels=largest * 25))
    assert list(found.classes) == ["urban"]
    assert found.classes["urban"]["mean"] == pytest.approx((0.6 * area[0] - 0.4 * area[1]) / (6 * area.sum()))
    assert found.classes["urban"]["mean_absolute"] == pytest.approx((0.6 * area[0] + 0.4 * area[1]) / (6 * area.sum()))
    assert found.classes["urban"]["largest"] == found.largest == pytest.approx(0.4)
    assert (found.cells, found.within_a_pixel) == (18, pytest.approx(11 / 18))
    assert sum_up(layers.assign(largest=largest * np.nan, pixels=largest)) is None


def eight(labels):
    return xr.concat([two_halves() / 8] * 8, "class").assign_coords({"class": labels})


AGREEING = forcing_of((0.6, 0.4, 0.0))


@pytest.mark.parametrize(
    ("fine", "forcing", "error", "message"),
    [
        (two_halves().isel(lon=slice(0, 8)), AGREEING, GridError, "cannot be grouped"),
        (two_halves().isel(lon=slice(1, 11)), AGREEING, GridError, "does not start at an edge of coarse cells"),
        (two_halves(), forcing_of((0.6, 0.4, 0.0), grid=Grid(0.18, 60.48, 10.08, 2, 3)), GridError, "do not nest"),
        (
            two_halves().expand_dims(time=[2015, 2016]),
            AGREEING,
            TimeError,
            "the map has 2 time steps, 2015 to 2016; select",
        ),
        (xr.concat([two_halves()] * 3, "class"), AGREEING, AllocationError, "the 3 classes of the probability"),
        (eight(list(range(1, 9))), AGREEING, AllocationError, "must be ocean, urban.*not urban, .*, 8;"),
        (eight(["sea", *CLASS_NAMES[1:]]), AGREEING, AllocationError, "must be ocean, urban.*not sea, urban"),
        (two_halves(), xr.DataArray(0.5), ForcingError, "the forcing is a DataArray; pass a Dataset"),
        (two_halves(), "states.nc", ForcingError, "the forcing is a str; pass a Dataset"),
    ],
)
def test_maps_and_forcings_that_do_not_fit_are_refused(fine, forcing, error, message):
    with pytest.raises(error, match=message):
        coarse_agreement(fine, forcing)
    with pytest.raises(GridError, match=r"but 5 cells of the map \(0.05 degrees\) lie along.*pass factor=5"):
        coarse_agreement(two_halves(), AGREEING, factor=10)
    with pytest.raises(AllocationError, match=r"the crosswalk is of type dict; pass an .*Crosswalk, made from"):
        coarse_agreement(two_halves(), AGREEING, crosswalk=dict(STATE_CLASSES))
