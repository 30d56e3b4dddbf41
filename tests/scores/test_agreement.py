from __future__ import annotations

import dask.array as da
import numpy as np
import pytest
import xarray as xr

from xland.errors import AllocationError, ForcingError, GridError, TimeError
from xland.geo.grid import Grid
from xland.scores.agreement import coarse_agreement
from xland.totals.crosswalk import Crosswalk
from xland.vocabulary import CLASS_NAMES, CROPLAND, FOREST, LUH2_STATES, STATE_CLASSES

FACTOR = 5
COARSE = Grid(0.25, 60.5, 10.0, 2, 3)
FINE = COARSE.refine(FACTOR)


def on_grid(values, grid, dims=("lat", "lon"), **coordinates):
    return xr.DataArray(values, {"lat": grid.latitude, "lon": grid.longitude, **coordinates}, dims)


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
    return on_grid(np.where(columns, FOREST, CROPLAND).astype(np.uint8) * np.ones(FINE.shape, np.uint8), FINE)


def test_a_map_that_has_the_shares_of_the_forcing_agrees():
    found = coarse_agreement(two_halves(), forcing_of((0.6, 0.4, 0.0)))
    assert found["largest"].shape == COARSE.shape
    assert float(found["largest"].max()) < 1e-6


def test_differences_are_the_map_minus_the_forcing():
    found = coarse_agreement(two_halves(), forcing_of((0.5, 0.3, 0.2)))
    difference = found["difference"].sel({"class": ["forest", "cropland", "grass_shrub"]})
    assert difference.values[:, 0, 0] == pytest.approx([0.1, 0.1, -0.2], abs=1e-6)
    assert float(found["largest"][0, 0]) == pytest.approx(0.2, abs=1e-6)
    # a pixel is 1/25 of a cell
    assert float(found["pixels"][0, 0]) == pytest.approx(5, abs=0.02)


def test_classes_that_the_forcing_does_not_know_have_no_difference():
    found = coarse_agreement(two_halves(), forcing_of((0.5, 0.3, 0.0)))
    unknown = found["difference"].sel({"class": ["ocean", "other", "water"]})
    assert bool(unknown.isnull().all())


def test_probabilities_are_averaged_by_area():
    generator = np.random.default_rng(0)
    values = generator.dirichlet(np.ones(8), FINE.shape).transpose(2, 0, 1)
    fine = on_grid(values, FINE, ("class", "lat", "lon"), **{"class": list(CLASS_NAMES)})
    area = np.broadcast_to(FINE.cell_area()[:, None], FINE.shape)
    cell = (slice(0, 5), slice(5, 10))
    expected = np.average(values[FOREST][cell], weights=area[cell])
    forcing = forcing_of((0.25, 0.25, 0.25))
    found = coarse_agreement(fine, forcing)
    assert float(found["difference"].sel({"class": "forest"})[0, 1]) == pytest.approx(expected - 0.25, abs=1e-6)
    shuffled = fine.isel({"class": list(reversed(range(8)))})
    assert np.allclose(coarse_agreement(shuffled, forcing)["largest"], found["largest"])


def test_probabilities_that_are_missing_do_not_count_as_nothing():
    values = np.full((8, *FINE.shape), 0.125)
    values[:, 0, 0] = np.nan
    fine = on_grid(values, FINE, ("class", "lat", "lon"), **{"class": list(CLASS_NAMES)})
    found = coarse_agreement(fine, forcing_of((0.25, 0.25, 0.25)))
    assert np.isnan(found["largest"].values).tolist() == [[True, False, False], [False] * 3]


def test_lazy_maps_stay_lazy_and_chunks_change_nothing():
    lazy = two_halves().copy(data=da.from_array(two_halves().values, chunks=(3, 7)))
    forcing = forcing_of((0.5, 0.3, 0.2))
    found = coarse_agreement(lazy, forcing.chunk(lat=1, lon=2))
    assert found["largest"].chunks is not None
    assert np.allclose(found["largest"], coarse_agreement(two_halves(), forcing)["largest"])


def test_orientation_and_names_do_not_matter():
    forcing = forcing_of((np.linspace(0, 0.5, 6).reshape(2, 3), 0.3, 0.2)).rename(lat="latitude", lon="longitude")
    fine = two_halves().isel(lat=slice(None, None, -1))
    expected = coarse_agreement(two_halves(), forcing)["largest"]
    found = coarse_agreement(fine, forcing.isel(latitude=slice(None, None, -1)))["largest"]
    assert (found.lat == expected.lat).all()
    assert np.allclose(found, expected)


def test_a_forcing_of_the_globe_and_one_that_is_too_small():
    forcing = forcing_of((np.linspace(0, 0.5, 6).reshape(2, 3), 0.3, 0.2))
    expected = coarse_agreement(two_halves(), forcing)["largest"]
    small = coarse_agreement(two_halves(), forcing.isel(lon=slice(0, 2)))["largest"]
    assert np.allclose(small[:, :2], expected[:, :2])
    assert bool(small[:, 2].isnull().all())
    shifted = forcing.assign_coords(lon=forcing["lon"] + 360)
    assert np.allclose(coarse_agreement(two_halves(), shifted)["largest"], expected)


def test_the_year_of_the_map_is_taken():
    forcing = forcing_of((np.array([0.6, 0.1])[:, None, None], 0.4, 0.0), years=(2015, 2016))
    fine = two_halves().expand_dims(time=[2015])
    assert float(coarse_agreement(fine, forcing)["largest"].max()) < 1e-6
    with pytest.raises(TimeError, match="2 years, 2015 to 2016, but the map does not say its year"):
        coarse_agreement(two_halves(), forcing)


def test_a_crosswalk_of_the_user_counts():
    moved = Crosswalk({**STATE_CLASSES, "secdn": "cropland"})
    forcing = forcing_of((0.6, 0.3, 0.1))
    assert float(coarse_agreement(two_halves(), forcing)["largest"].max()) == pytest.approx(0.1, abs=1e-6)
    assert float(coarse_agreement(two_halves(), forcing, crosswalk=moved)["largest"].max()) < 1e-6


def test_maps_that_are_no_whole_coarse_cells_are_refused():
    forcing = forcing_of((0.6, 0.4, 0.0))
    with pytest.raises(GridError, match="cannot be grouped"):
        coarse_agreement(two_halves().isel(lon=slice(0, 8)), forcing)
    with pytest.raises(GridError, match="does not begin at an edge of coarse cells"):
        coarse_agreement(two_halves().isel(lon=slice(1, 11)), forcing)
    with pytest.raises(GridError, match="do not nest"):
        coarse_agreement(two_halves(), forcing_of((0.6, 0.4, 0.0), grid=Grid(0.18, 60.48, 10.08, 2, 3)))


@pytest.mark.parametrize("factor", [0, 1, 2, 3, 10, 2.5, "5"])
def test_a_factor_that_is_not_that_of_the_resolutions_is_refused(factor):
    forcing = forcing_of((0.6, 0.4, 0.0))
    xr.testing.assert_equal(coarse_agreement(two_halves(), forcing, factor=5), coarse_agreement(two_halves(), forcing))
    with pytest.raises(GridError, match=r"but 5 cells of the map \(0.05 degrees\) stand along.*pass factor=5"):
        coarse_agreement(two_halves(), forcing, factor=factor)


def test_several_years_and_missing_classes_are_refused():
    forcing = forcing_of((0.6, 0.4, 0.0))
    with pytest.raises(GridError, match="the map has 2 years; select one"):
        coarse_agreement(two_halves().expand_dims(time=[2015, 2016]), forcing)
    three = xr.concat([two_halves()] * 3, "class")
    with pytest.raises(AllocationError, match="have 3 classes; 8 are needed"):
        coarse_agreement(three, forcing)
    for labels, said in (
        (list(range(1, 9)), "urban, cropland, pasture, .*, 8"),
        (["sea", *CLASS_NAMES[1:]], "sea, urban"),
    ):
        eight = xr.concat([two_halves() / 8] * 8, "class").assign_coords({"class": labels})
        with pytest.raises(AllocationError, match=f"are of the classes {said}.*not ocean, urban"):
            coarse_agreement(eight, forcing)


@pytest.mark.parametrize("given", [xr.DataArray(0.5), "states.nc"])
def test_a_forcing_that_is_no_dataset_is_refused(given):
    with pytest.raises(ForcingError, match=f"the forcing is a {type(given).__name__}; pass a Dataset"):
        coarse_agreement(two_halves(), given)


def test_a_dictionary_is_no_crosswalk():
    with pytest.raises(AllocationError, match=r"the crosswalk is of type dict; pass an .*Crosswalk, made from"):
        coarse_agreement(two_halves(), forcing_of((0.6, 0.4, 0.0)), crosswalk=dict(STATE_CLASSES))
