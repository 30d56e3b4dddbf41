from __future__ import annotations

import sys

import numpy as np
import pytest
import xarray as xr
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from tests.worlds import FACTOR, tiny_inputs, tiny_world
from xland.errors import MissingDependencyError, ModelError, TimeError
from xland.geo.grid import expand
from xland.scores.baselines import (
    as_map,
    cell_mode,
    crosswalk,
    fit_trees,
    most_frequent,
    persistence,
    pixel_features,
    predict_trees,
    simple_maps,
)
from xland.vocabulary import (
    CLASS_NAMES,
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


def states(**given_shares):
    """One row of cells: shares by state, 0 for the others."""
    length = len(next(iter(given_shares.values())))
    return {name: np.array([given_shares.get(name, [0.0] * length)]) for name in LUH2_STATES}


def test_the_largest_class_and_not_the_largest_state_fills_the_cell():
    cells = states(
        primf=[0.4, 0.0, 0.1, 0.0], c3ann=[0.3, 0.2, 0.0, 0.0], c4ann=[0.3, 0.2, 0.0, 0.0],
        primn=[0.0, 0.3, 0.2, 0.0], urban=[0.0, 0.0, 0.0, 0.9], range=[0.0, 0.1, 0.5, 0.1],
    )  # fmt: skip
    assert crosswalk(cells, 1).tolist() == [[CROPLAND, CROPLAND, PASTURE, URBAN]]


def test_crosswalk_fills_whole_cells_and_leaves_ocean_where_there_are_no_data():
    nothing = np.nan
    cells = states(**{name: [0.0, nothing] for name in LUH2_STATES if name != "secdf"}, secdf=[0.6, nothing])
    fine = crosswalk(cells, 3)
    assert fine.dtype == np.uint8
    assert fine.tolist() == [[FOREST] * 3 + [OCEAN] * 3] * 3


def test_cells_without_any_use_are_ice_or_bare_and_not_a_town():
    assert crosswalk(states(primf=[0.0, 0.2]), 1).tolist() == [[OTHER, FOREST]]


def test_plantations_are_forest():
    cells = {"pltns": np.array([[0.3]]), "primf": np.array([[0.2]]), "pastr": np.array([[0.4]])}
    assert crosswalk(cells, 1).tolist() == [[FOREST]]


def test_class_fractions_are_their_own_crosswalk():
    shares = {"ocean": np.array([[0.2, 0.9]]), "water": np.array([[0.5, 0.0]]), "other": np.array([[0.3, 0.1]])}
    assert crosswalk(shares, 1).tolist() == [[WATER, OCEAN]]


def test_names_that_are_no_shares_are_left_out_and_alone_refused():
    cells = {"secma": np.array([[80.0]]), "primn": np.array([[0.2]]), "elevation": np.array([[900.0]])}
    assert crosswalk(cells, 1).tolist() == [[GRASS_SHRUB]]
    with pytest.raises(ModelError, match="none of secma, elevation is a LUH state or the name of a class"):
        crosswalk({"secma": cells["secma"], "elevation": cells["elevation"]}, 1)


def test_crosswalk_of_a_consistent_world_is_right_where_a_cell_is_pure():
    coarse, _, maps = tiny_world()
    cells = {name: coarse[name].isel(time=0).values for name in LUH2_STATES}
    found, observed = crosswalk(cells, FACTOR), maps.isel(time=0).values
    for code in (CROPLAND, FOREST, GRASS_SHRUB, PASTURE):
        pure = expand((observed.reshape(45, 4, 90, 4) == code).all(axis=(1, 3)), FACTOR)
        assert pure.any()
        assert (found[pure] == code).all(), CLASS_NAMES[code]
    assert (found == observed)[np.isin(observed, LAND_CLASSES)].mean() > 0.5


@settings(max_examples=40, deadline=None)
@given(hnp.arrays(np.uint8, (6, 9), elements=st.integers(0, 7)))
def test_no_constant_of_a_cell_is_right_in_more_pixels_than_its_mode(observed):
    found = cell_mode(observed, 3)
    for row in (0, 3):
        for column in (0, 3, 6):
            cell = observed[row : row + 3, column : column + 3]
            filled = found[row : row + 3, column : column + 3]
            assert len(np.unique(filled)) == 1
            counts = [(cell == code).sum() for code in LAND_CLASSES]
            if max(counts):
                assert (cell == filled).sum() == max(counts)
            else:
                assert (filled == OCEAN).all()


def test_the_most_frequent_class_is_one_of_land():
    observed = np.array([[OCEAN] * 5, [FOREST, FOREST, WATER, WATER, WATER]], dtype=np.uint8)
    assert (most_frequent(observed) == FOREST).all()
    assert most_frequent(observed).shape == observed.shape
    assert most_frequent(observed, (3, 4)).shape == (3, 4)


def test_a_baseline_becomes_a_map_like_the_observed_one():
    maps = tiny_world()[2]
    codes = most_frequent(maps.isel(time=0).values)
    found = as_map(codes, maps, "most_frequent")
    assert found.dims == ("lat", "lon")
    assert found.name == "most_frequent"
    assert found.attrs["flag_meanings"].split() == list(CLASS_NAMES)
    xr.testing.assert_equal(found["lat"], maps["lat"])
    np.testing.assert_array_equal(found.values, codes)


def test_pixels_see_the_channels_of_their_own_cell():
    coarse, static, _ = tiny_world()
    inputs = tiny_inputs()
    low = inputs.coarse_array({str(n): coarse[n].isel(time=[0]).values for n in coarse})
    high = inputs.static_array({str(n): static[n].values for n in static})
    rows, columns = np.array([0, 57, 103, 179]), np.array([0, 200, 33, 359])
    features = pixel_features(inputs, low, high, rows, columns)
    assert features.shape == (4, inputs.channels)
    assert features.dtype == np.float32
    whole = np.concatenate([expand(low, FACTOR), high.astype(np.float32)])
    np.testing.assert_array_equal(features, whole[:, rows, columns].T)


def test_trees_learn_what_is_there_to_learn_and_again_the_same():
    random = np.random.default_rng(0)
    features = random.normal(size=(3000, 4)).astype(np.float32)
    target = np.where(features[:, 1] > 0, FOREST, PASTURE).astype(np.uint8)
    trees = fit_trees(features, target, samples=1000)
    found = predict_trees(trees, features)
    assert found.dtype == np.uint8
    assert (found == target).mean() > 0.98
    np.testing.assert_array_equal(found, predict_trees(fit_trees(features, target, samples=1000), features))


def test_trees_without_scikit_learn_name_the_extra(monkeypatch):
    monkeypatch.setitem(sys.modules, "sklearn.ensemble", None)
    with pytest.raises(MissingDependencyError, match=r"pip install 'xland\[trees\]'"):
        fit_trees(np.zeros((2, 1), np.float32), np.zeros(2, np.uint8))


def test_simple_maps_lie_on_the_grid_of_the_observed_one_and_use_training_cells_only():
    coarse, _, maps = tiny_world((2000,))
    codes = maps.isel(time=0).values
    training = np.zeros(codes.shape, bool)
    training[:, :180] = True
    coarse["lat_bounds"] = ("lat", coarse["lat"].values)
    made = simple_maps(coarse, maps, 4, training)
    assert list(made) == ["crosswalk", "most frequent class", "mode of the observed cell"]
    for each in made.values():
        np.testing.assert_array_equal(each["lat"], maps["lat"])
        assert each.dims == ("lat", "lon")
    west = np.bincount(codes[:, :180].ravel(), minlength=8)
    assert np.unique(made["most frequent class"]).tolist() == [0, 1 + int(west[1:7].argmax())]
    assert (made["mode of the observed cell"].values == codes).mean() > (made["crosswalk"].values == codes).mean()


@pytest.mark.parametrize("chunks", [(180, 360), (50, 70), (1, 360)])
def test_simple_maps_are_those_of_the_whole_map_whatever_its_chunks(chunks):
    coarse, _, maps = tiny_world((2000,))
    codes = maps.isel(time=0).values
    training = np.random.default_rng(0).random(codes.shape) < 0.3
    lazy = maps.chunk(lat=chunks[0], lon=chunks[1])
    made = simple_maps(coarse.chunk(lat=7), lazy, 4, training)
    assert all(each.chunks is not None for each in made.values())
    states_of_year = {name: coarse[name].values[0] for name in LUH2_STATES}
    largest = crosswalk(states_of_year, 4)
    np.testing.assert_array_equal(made["crosswalk"], largest)
    np.testing.assert_array_equal(made["mode of the observed cell"], cell_mode(codes, 4))
    frequent = most_frequent(codes[training], codes.shape)
    np.testing.assert_array_equal(made["most frequent class"], np.where(largest == OCEAN, OCEAN, frequent))


def test_the_most_frequent_class_is_looked_up_elsewhere_where_training_cells_hold_no_land():
    coarse, _, maps = tiny_world((2000,))
    codes = maps.isel(time=0).values
    found = simple_maps(coarse, maps, 4, codes == OCEAN)["most frequent class"]
    assert np.unique(found).tolist() == [OCEAN, int(most_frequent(codes)[0, 0])]


def test_persistence_copies_the_adjacent_year():
    maps = tiny_world((2000, 2001, 2002))[2]
    after = persistence(maps, 2001)
    assert after["time"].values.tolist() == [2001]
    np.testing.assert_array_equal(after.sel(time=2001), maps.sel(time=2000))
    np.testing.assert_array_equal(persistence(maps, 2001, step=1).sel(time=2001), maps.sel(time=2002))
    with pytest.raises(TimeError, match="no map of 1999"):
        persistence(maps, 2000)
