from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from xland.datasets import predictors
from xland.errors import GridError, StaticError
from xland.geo.grid import EARTH_RADIUS, Grid

SOILGRIDS_TOPS = [0, 0.05, 0.15, 0.3, 0.6, 1.0]
SOILGRIDS_BOTTOMS = [0.05, 0.15, 0.3, 0.6, 1.0, 2.0]


def tilted(grid: Grid, towards: tuple[float, float, float]) -> np.ndarray:
    """Height along a direction in space: a surface whose gradient is known everywhere on the sphere."""
    lat, lon = np.deg2rad(grid.latitude)[:, None], np.deg2rad(grid.longitude)[None, :]
    x, y, z = towards
    return EARTH_RADIUS * (x * np.cos(lat) * np.cos(lon) + y * np.cos(lat) * np.sin(lon) + z * np.sin(lat))


def gradient(grid: Grid, towards: tuple[float, float, float]) -> tuple[np.ndarray, np.ndarray]:
    lat, lon = np.deg2rad(grid.latitude)[:, None], np.deg2rad(grid.longitude)[None, :]
    x, y, z = towards
    east = -x * np.sin(lon) + y * np.cos(lon)
    north = -x * np.sin(lat) * np.cos(lon) - y * np.sin(lat) * np.sin(lon) + z * np.cos(lat)
    return np.broadcast_to(east, grid.shape), north


@settings(max_examples=10, deadline=None)
@given(st.tuples(*[st.floats(-1, 1)] * 3).filter(lambda t: math.hypot(*t) > 0.1))
def test_slope_and_aspect_are_true_over_the_whole_globe_poles_and_date_line_included(towards):
    grid = Grid.world(2.0)
    slope, aspect = predictors.slope_aspect(tilted(grid, towards), grid)
    east, north = gradient(grid, towards)
    np.testing.assert_allclose(slope, np.hypot(east, north), atol=3e-3)
    steep = slope > 0.05
    downhill = np.deg2rad(aspect[steep])
    np.testing.assert_allclose(np.sin(downhill) * slope[steep], -east[steep], atol=5e-3)
    np.testing.assert_allclose(np.cos(downhill) * slope[steep], -north[steep], atol=5e-3)


@pytest.mark.parametrize(("drop", "expected"), [("north", 0), ("east", 90), ("south", 180), ("west", 270)])
def test_aspect_is_the_downhill_direction_clockwise_from_north(drop, expected):
    grid = Grid(0.1, 0.3, 10.0, 6, 6)
    rows, columns = np.mgrid[0:6, 0:6].astype(float)
    height = {"north": rows, "south": -rows, "east": -columns, "west": columns}[drop] * 100
    slope, aspect = predictors.slope_aspect(height, grid)
    np.testing.assert_allclose(aspect, expected, atol=1e-6)
    # 100 m over a tenth of a degree of 111.2 km, right up to the edges of a regional grid
    np.testing.assert_allclose(slope, 100 / 11119.5, rtol=1e-4)


def test_flat_ground_has_no_aspect_and_cosine_0_and_unknown_ground_stays_unknown():
    height = np.zeros((5, 5))
    height[4, 4] = np.nan
    slope, aspect = predictors.slope_aspect(height, Grid(1, 50, 0, 5, 5))
    cosine = predictors.cos_aspect(slope, aspect)
    assert slope[0, 0] == 0
    assert np.isnan(aspect[0, 0])
    assert cosine[0, 0] == 0
    assert np.isnan(slope[4, 4])
    assert np.isnan(cosine[4, 4])
    np.testing.assert_allclose(predictors.cos_aspect([1, 1, 1], [0, 180, 90]), [1, -1, 0], atol=1e-12)


def test_ruggedness_is_the_standard_deviation_in_the_square_across_the_date_line():
    rng = np.random.default_rng(0)
    grid = Grid.world(10)
    height = rng.normal(2000, 300, grid.shape)
    rugged, relative = predictors.ruggedness(height, grid, 1)
    square = np.take(height[4:7], [-1, 0, 1], axis=1)
    assert rugged[5, 0] == pytest.approx(square.std())
    assert relative[5, 0] == pytest.approx(height[5, 0] - square.mean())
    over_the_pole = np.roll(height[0], 18)[[16, 17, 18]]
    top = np.concatenate([over_the_pole[None], height[:2, 16:19]])
    assert rugged[0, 17] == pytest.approx(top.std())
    plateau, above = predictors.ruggedness(np.full((6, 8), 5000.1), Grid(0.05, 30, 80, 6, 8), 2)
    assert max(plateau.max(), np.abs(above).max()) < 1e-6, "no digits are lost high up"


def test_root_weights_of_soilgrids_are_those_documented():
    weights = predictors.root_weights(SOILGRIDS_TOPS, SOILGRIDS_BOTTOMS)
    np.testing.assert_allclose(weights, [0.14, 0.23, 0.23, 0.24, 0.11, 0.05], atol=0.006)
    assert weights.sum() == pytest.approx(1)


@settings(max_examples=15, deadline=None)
@given(st.lists(st.floats(0.01, 1), min_size=1, max_size=6), st.floats(0.8, 0.99))
def test_root_weights_do_not_depend_on_the_order_of_layers_and_favour_shallow_soil(thickness, decay):
    bottoms = np.cumsum(thickness)
    tops = bottoms - thickness
    weights = predictors.root_weights(tops, bottoms, decay)
    assert weights.sum() == pytest.approx(1)
    np.testing.assert_allclose(predictors.root_weights(tops[::-1], bottoms[::-1], decay), weights[::-1])
    density = weights / np.array(thickness)
    assert (np.diff(density) <= 1e-12).all()


def test_depth_weighted_soil_lies_within_its_layers_and_leaves_missing_layers_out():
    soil = np.array([[[10.0, 10.0, np.nan]], [[30.0, np.nan, np.nan]]])
    mean = predictors.depth_weighted(soil, [0, 0.3], [0.3, 1.0])
    upper = (1 - 0.97**30) / (1 - 0.97**100)
    assert mean[0, 0] == pytest.approx(10 * upper + 30 * (1 - upper))
    assert mean[0, 1] == 10
    assert np.isnan(mean[0, 2])


@settings(max_examples=15, deadline=None)
@given(st.integers(1, 20), st.integers(0, 2**32 - 1))
def test_zone_shares_count_cells_and_sum_to_the_share_with_a_zone(factor, seed):
    codes = np.random.default_rng(seed).integers(0, 4, (2 * factor, 3 * factor), dtype=np.uint8)
    shares = predictors.zone_shares(codes, factor, 3)
    assert shares.shape == (3, 2, 3)
    assert shares[1, 1, 2] == pytest.approx((codes[factor:, 2 * factor :] == 2).mean())
    np.testing.assert_allclose(shares.sum(0), predictors.land_share(codes > 0, factor), atol=1e-6)
    assert predictors.land_share(np.ones((300, 600), bool), 300).tolist() == [[1.0, 1.0]], "no count overflows"


@settings(max_examples=15, deadline=None)
@given(st.tuples(*[st.floats(-1, 1)] * 3))
def test_bilinear_is_smooth_across_the_date_line_and_the_poles_and_the_same_in_a_strip(towards):
    source, target = Grid.world(2.0), Grid.world(0.5)
    found = predictors.bilinear(tilted(source, towards), source, target)
    # linear interpolation over h is off by at most h^2 / 8 of the second derivative, in each direction
    bound = 2 * np.deg2rad(source.resolution) ** 2 / 8 * np.linalg.norm(towards)
    np.testing.assert_allclose(found / EARTH_RADIUS, tilted(target, towards) / EARTH_RADIUS, atol=bound + 1e-12, rtol=0)
    strip = predictors.bilinear(tilted(source, towards), source, target.window(slice(100, 140), slice(None)))
    np.testing.assert_array_equal(strip, found[100:140])


def great_circle(a: tuple[float, float], b: tuple[float, float]) -> float:
    (la, oa), (lb, ob) = np.deg2rad(a), np.deg2rad(b)
    chord = math.sin((la - lb) / 2) ** 2 + math.cos(la) * math.cos(lb) * math.sin((oa - ob) / 2) ** 2
    return 2 * EARTH_RADIUS / 1000 * math.asin(math.sqrt(chord))


@settings(max_examples=15, deadline=None)
@given(st.integers(0, 2**32 - 1), st.booleans())
def test_coast_distance_is_the_great_circle_to_the_nearest_sea_cell(seed, whole):
    grid = Grid.world(10.0) if whole else Grid(2.0, 70.0, 20.0, 18, 20)
    land = np.random.default_rng(seed).random(grid.shape) < 0.9
    cap = 1500.0
    found = predictors.coast_distance(land, grid, cap)
    sea = [(grid.latitude[r], grid.longitude[c]) for r, c in zip(*np.nonzero(~land), strict=True)]
    picks = np.random.default_rng(seed).integers(0, grid.shape, (25, 2))
    assert (predictors.coast_distance(np.ones(grid.shape, bool), grid, cap) == cap).all()
    for r, c in picks:
        place = grid.latitude[r], grid.longitude[c]
        expected = min([cap, *(great_circle(place, other) for other in sea)]) if land[r, c] else 0
        assert found[r, c] == pytest.approx(expected, rel=1e-4, abs=0.01)


SMALL = Grid(1.0, 3.0, 0.0, 3, 4)
FIELD = np.zeros((3, 4))


@pytest.mark.parametrize(
    ("call", "error", "message"),
    [
        (lambda: predictors.slope_aspect(FIELD, Grid(1, 30, 80, 6, 8)), GridError, r"elevation of shape \(3, 4\)"),
        (lambda: predictors.ruggedness(FIELD, SMALL, 3), GridError, "radius 3 cells does not fit"),
        (lambda: predictors.zone_shares(np.array([[0, 7]]), 1, 5), StaticError, r"from 0 to 5; found int64, 0\.\.7"),
        (lambda: predictors.land_share(np.ones((4, 5), bool), 2), GridError, "4 x 5 cells cannot be grouped by 2 x 2"),
        (lambda: predictors.bilinear(FIELD, SMALL, Grid(1.0, 4.0, 0.0, 2, 2)), GridError, "beyond .* in latitude"),
        (lambda: predictors.bilinear(FIELD, SMALL, Grid(1.0, 3.0, 2.0, 2, 4)), GridError, "in longitude"),
        (lambda: predictors.coast_distance(np.ones((5, 12), bool), SMALL, 400), GridError, "does not fit the grid"),
        (lambda: predictors.depth_weighted(FIELD, [0, 0.3], [0.3, 1.0]), StaticError, "does not fit 2 layer bounds"),
        (lambda: predictors.root_weights([0, 0.2], [0.3, 1.0]), StaticError, "overlap above 0.3 m"),
        (lambda: predictors.root_weights([-1, 0.3], [0.3, 1.0]), StaticError, "positive down"),
        (lambda: predictors.root_weights([0], [0.3, 1.0]), StaticError, "one top and one bottom each"),
        (lambda: predictors.root_weights([0], [1], decay=1.5), StaticError, "between 0 and 1"),
    ],
)
def test_what_does_not_fit_is_named(call, error, message):
    with pytest.raises(error, match=message):
        call()


def test_days_are_as_long_as_the_almanac_says():
    hours = predictors.day_length([0, 51.5, -33.9, 80])
    np.testing.assert_allclose(hours[:, 0], 12, atol=1e-6)
    # London, sunrise to sunset in mid-January and mid-June without refraction; Cape Town in mid-December
    np.testing.assert_allclose(hours[[0, 5], 1], [8.2, 16.4], atol=0.2)
    np.testing.assert_allclose(hours[11, 2], 14.3, atol=0.2)
    assert hours[5, 3] == 24
    assert hours[11, 3] == 0


def test_potential_evaporation_is_that_of_thornthwaites_worked_station():
    # a month of 30 days with days of 12 hours, all at 20 degC: 16 (200 / I)^a with I = 12 x 4^1.514
    tas = np.full((12, 1, 1), 20.0)
    index = 12 * 4**1.514
    power = 6.75e-7 * index**3 - 7.71e-5 * index**2 + 1.792e-2 * index + 0.49239
    expected = 16 * (200 / index) ** power
    assert predictors.potential_evaporation(tas, [0.0])[3, 0, 0] == pytest.approx(expected)
    assert predictors.potential_evaporation(-tas, [0.0]).max() == 0
    hotter = [predictors.potential_evaporation(np.full((12, 1, 1), t), [0.0])[3, 0, 0] for t in (20, 26, 27, 37, 50)]
    assert hotter == sorted(hotter)


def test_growing_conditions_are_those_of_three_worked_climates():
    warm = np.broadcast_to(np.array([25.0, 25.0, -10.0])[None, None], (12, 1, 3))
    rain = np.zeros((12, 1, 3))
    rain[:, 0, 0], rain[:6, 0, 1] = 200, 100
    found = predictors.growing_conditions(warm, rain, [0.0])
    demand = predictors.potential_evaporation(warm, [0.0])[:, 0, 0]
    np.testing.assert_allclose(found["growing_degree_days"], [[7300, 7300, 0]])
    np.testing.assert_allclose(found["growing_months"], [[12, 6, 0]])
    np.testing.assert_allclose(found["water_deficit"], [[0, np.maximum(demand - rain[:, 0, 1], 0).sum(), 0]])
    np.testing.assert_allclose(found["moisture"], [[2400 / demand.sum(), 600 / demand.sum(), 0]])
    np.testing.assert_allclose(found["rain_variation"], [[0, 1, 0]])
