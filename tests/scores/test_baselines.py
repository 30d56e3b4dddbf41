from __future__ import annotations

import numpy as np
import pytest
import xarray as xr
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from tests.scores.maps import a_map
from tests.worlds import FACTOR, tiny_world
from xland.errors import GridError, ModelError
from xland.geo.grid import Grid, expand
from xland.geo.split import Part, divide
from xland.scores.baselines import baseline_maps, cell_mode, crosswalk, pick_year, simple_maps
from xland.vocabulary import (
    CROPLAND,
    FOREST,
    GRASS_SHRUB,
    LAND_CLASSES,
    LUH2_STATES,
    OCEAN,
    OTHER,
    PASTURE,
    URBAN,
    WATER,
)

COARSE = Grid(5.0, 60.0, -180.0, 4, 6)


def states(**given_shares):
    """One row of cells: shares by state, 0 for the others."""
    length = len(next(iter(given_shares.values())))
    return {name: np.array([given_shares.get(name, [0.0] * length)]) for name in LUH2_STATES}


def a_forcing(years, grid=COARSE):
    shares = np.random.default_rng(0).dirichlet(np.ones(3), (len(years), *grid.shape))
    coords = {"time": list(years), "lat": grid.latitude, "lon": grid.longitude}
    names = ("urban", "cropland", "forest")
    return xr.Dataset({name: (("time", "lat", "lon"), shares[..., i]) for i, name in enumerate(names)}, coords)


NOTHING = {name: [np.nan] for name in LUH2_STATES}


@pytest.mark.parametrize(
    ("cells", "expected"),
    [
        (states(primf=[0.4], c3ann=[0.3], c4ann=[0.3]), CROPLAND),  # the largest class, not the largest state
        (states(primn=[0.3], c3ann=[0.2], range=[0.1]), GRASS_SHRUB),
        (states(primf=[0.1], primn=[0.2], range=[0.5]), PASTURE),
        (states(urban=[0.9], range=[0.1]), URBAN),
        (states(primf=[0.0]), OTHER),  # cells without any use are ice or bare
        (states(**NOTHING), OCEAN),
        ({"pltns": np.array([[0.3]]), "primf": np.array([[0.2]]), "pastr": np.array([[0.4]])}, FOREST),
        ({"ocean": np.array([[0.2]]), "water": np.array([[0.5]]), "other": np.array([[0.3]])}, WATER),
        ({"secma": np.array([[80.0]]), "primn": np.array([[0.2]]), "elevation": np.array([[9.0]])}, GRASS_SHRUB),
    ],
)
def test_the_largest_class_fills_the_cell(cells, expected):
    assert crosswalk(cells, 3).tolist() == [[expected] * 3] * 3

    with pytest.raises(ModelError, match="none of secma, elevation is a LUH state or the name of a class"):
        crosswalk({"secma": np.array([[80.0]]), "elevation": np.array([[900.0]])}, 1)


@settings(max_examples=8)
@given(hnp.arrays(np.uint8, (6, 9), elements=st.integers(0, 7)))
def test_no_constant_of_a_cell_is_right_in_more_pixels_than_its_mode(observed):
    found = cell_mode(observed, 3)
    for row, column in np.ndindex(2, 3):
        block = np.s_[3 * row : 3 * row + 3, 3 * column : 3 * column + 3]
        cell, filled = observed[block], found[block]
        most = max((cell == code).sum() for code in LAND_CLASSES)
        assert len(np.unique(filled)) == 1
        assert (cell == filled).sum() == most if most else (filled == OCEAN).all()


def test_simple_maps_are_those_of_the_whole_map_whatever_its_chunks():
    coarse, _, maps = tiny_world((2000,))
    codes = maps.isel(time=0).values
    training = np.random.default_rng(0).random(codes.shape) < 0.3
    coarse["lat_bounds"] = ("lat", coarse["lat"].values)
    made = simple_maps(coarse.chunk(lat=7), maps.chunk(lat=50, lon=70), FACTOR, training)
    assert all(each.chunks is not None and each.dims == ("lat", "lon") for each in made.values())
    largest = crosswalk({name: coarse[name].values[0] for name in LUH2_STATES}, FACTOR)
    frequent = 1 + np.bincount(codes[training], minlength=8)[1:7].argmax()
    np.testing.assert_array_equal(made["crosswalk"], largest)
    np.testing.assert_array_equal(made["mode of the observed cell"], cell_mode(codes, FACTOR))
    np.testing.assert_array_equal(made["most frequent class"], np.where(largest == OCEAN, OCEAN, frequent))
    for code in (CROPLAND, FOREST, GRASS_SHRUB, PASTURE):
        pure = expand((codes.reshape(45, 4, 90, 4) == code).all(axis=(1, 3)), FACTOR)
        assert (largest[pure] == code).all()
    nowhere = simple_maps(coarse, maps, FACTOR, codes == OCEAN)["most frequent class"]
    assert np.unique(nowhere).tolist() == [OCEAN, 1 + int(np.bincount(codes.ravel(), minlength=8)[1:7].argmax())]


def test_a_forcing_that_does_not_cover_the_map_is_refused_with_the_cells_that_are_missing():
    observed = a_map(np.ones((20, 30), np.uint8), 1.0, 60.0, -180.0)
    forcing = pick_year(a_forcing((2000,)), 2000)
    with pytest.raises(GridError, match="9 of 24 coarse cells of the map lie outside the forcing"):
        baseline_maps(forcing.isel(lat=slice(1, 4), lon=slice(0, 5)), observed, 5)


def test_baselines_of_a_part_are_the_part_of_the_baselines():
    forcing = pick_year(a_forcing((2000,), Grid(5.0, 60.0, -180.0, 4, 72)), 2000)
    fine = Grid(1.0, 55.0, 175.0, 10, 20)  # passes the date line
    observed = a_map(np.random.default_rng(1).integers(1, 7, fine.shape).astype(np.uint8), 1.0, 55.0, 175.0)
    found = baseline_maps(forcing, observed, 5)
    part = {name: forcing[name].values[0, 1:3][:, [71, 0, 1, 2]] for name in forcing.data_vars}
    np.testing.assert_array_equal(found["crosswalk"], crosswalk(part, 5))
    shares = xr.Dataset({name: (("time", "lat", "lon"), values[None]) for name, values in part.items()})
    shares = shares.assign_coords(time=[2000], lat=[52.5, 47.5], lon=[177.5, 182.5, 187.5, 192.5])
    training = divide(fine) == Part.TRAIN
    for name, expected in simple_maps(shares, observed.data, 5, training).items():
        xr.testing.assert_identical(found[name], expected)
    assert found["crosswalk"]["lon"].values.tolist() == fine.longitude.tolist()
