from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from xland.errors import GridError, RegionError
from xland.geo.grid import EARTH_RADIUS, Grid, aggregate, class_shares, expand, lay, nesting_factor

RESOLUTIONS = (0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.0, 6.0)


@st.composite
def grids(draw, resolutions=RESOLUTIONS, cells=60):
    """Grids on the lattice of the world, anywhere on it."""
    resolution = draw(st.sampled_from(resolutions))
    rows = draw(st.integers(2, min(cells, round(180 / resolution))))
    columns = draw(st.integers(2, min(cells, round(360 / resolution))))
    row = draw(st.integers(0, round(180 / resolution) - rows))
    column = draw(st.integers(0, round(360 / resolution) - 1))
    return Grid(resolution, 90 - row * resolution, -180 + column * resolution, rows, columns)


def found_again(grid, dtype=np.float32):
    return Grid.from_centres(grid.latitude.astype(dtype), grid.longitude.astype(dtype))


@settings(max_examples=20, deadline=None)
@given(grids(cells=400), st.sampled_from([np.float32, np.float64]))
def test_a_grid_is_found_again_from_its_centres_also_in_single_precision(grid, dtype):
    found = found_again(grid, dtype)
    assert found.resolution == pytest.approx(grid.resolution, rel=1e-9)
    assert found.same_as(grid)
    assert found.corner == grid.corner
    assert np.all(np.diff(grid.latitude) < 0)
    assert np.all(np.diff(grid.longitude) > 0)


def test_the_world_and_a_long_strip_are_found_again_and_the_odd_step_of_hilda_is_kept():
    for resolution in (0.05, 6.0):
        assert found_again(Grid.world(resolution)) == Grid.world(resolution)
    strip = Grid(0.01, 70.0, -20.0, 25, 3000)
    assert found_again(strip).same_as(strip)
    step = 0.00998837
    found = Grid.from_centres(60 - step * np.arange(500), 10 + step * np.arange(600))
    assert found.resolution == pytest.approx(step, rel=1e-6)


@pytest.mark.parametrize(
    ("latitude", "longitude", "message"),
    [
        ([10, 11, 12], [0, 1, 2], "north to south"),
        ([12, 11, 10], [2, 1, 0], "west to east"),
        ([12, 11, 10], [0, 2, 4], "must be square"),
        ([12, 11, 9], [0, 1, 2], r"latitude is not evenly spaced: .* at position \d+ is .*are coordinates missing"),
        ([[12, 11]], [0, 1], r"latitude has the shape \(1, 2\)"),
        (np.arange(89, -91, -2), np.arange(-180, 181, 2), "more than the globe"),
    ],
)
def test_coordinates_that_are_not_a_grid_are_named(latitude, longitude, message):
    with pytest.raises(GridError, match=message):
        Grid.from_centres(latitude, longitude)


def test_cell_areas_of_the_world_sum_to_the_surface_of_the_sphere():
    world = Grid.world(0.25)
    assert world.cell_area().sum() * world.columns == pytest.approx(4 * np.pi * EARTH_RADIUS**2, rel=1e-12)
    assert 4 * np.pi * EARTH_RADIUS**2 == pytest.approx(510.07e12, rel=1e-4)


@settings(max_examples=20, deadline=None)
@given(grids(cells=12), st.sampled_from([1, 2, 5, 25]))
def test_a_refined_grid_nests_with_its_factor_and_its_areas_sum_to_those_of_the_coarse_cells(grid, factor):
    fine = grid.refine(factor)
    assert nesting_factor(fine, grid) == factor
    assert fine.coarsen(factor).same_as(grid)
    areas = fine.cell_area().reshape(grid.rows, factor).sum(axis=1) * factor
    np.testing.assert_allclose(areas, grid.cell_area(), rtol=1e-9)


COARSE = Grid(0.25, 50.0, 0.0, 8, 8)


@pytest.mark.parametrize(
    ("fine", "coarse", "message"),
    [
        (Grid(0.1, 50.0, 0.0, 20, 20), COARSE, r"0\.1 degree cells do not nest in 0\.25 degree"),
        (COARSE, COARSE.refine(5), "coarse resolution must be a whole multiple"),
        (Grid(0.05, 49.95, 0.0, 40, 40), COARSE, "edges must meet"),
        (Grid(0.05, 50.0, 0.025, 40, 40), COARSE, "edges must meet"),
        (COARSE.refine(5).window(slice(0, 20), slice(None)), COARSE, "same region"),
    ],
)
def test_a_grid_that_does_not_nest_is_named(fine, coarse, message):
    with pytest.raises(GridError, match=message):
        nesting_factor(fine, coarse)


def test_global_and_regional_grids_know_what_they_are():
    band = Grid.world(1).window(slice(30, 60), slice(None))
    assert band.is_global
    assert (band.shape, band.north, band.south, band.corner) == ((30, 360), 60, 30, (30, 0))
    region = Grid.world(1).window(slice(30, 60), slice(170, 200))
    assert not region.is_global
    assert (region.west, region.east, region.corner) == (-10, 20, (30, 170))
    across = Grid.from_centres(np.arange(9.5, 0, -1), np.arange(175.5, 186))
    assert (across.west, across.east, across.corner[1], across.is_global) == (175, 186, 355, False)


@settings(max_examples=25, deadline=None)
@given(grids(resolutions=(6.0,), cells=30), grids(resolutions=(6.0,), cells=30))
def test_values_are_laid_where_both_grids_have_the_same_cell(own, on):
    """Longitude is a ring: cells are named by the place of their middle."""
    world = np.arange(1, 1801).reshape(30, 60)
    number = {grid: world[(90 - grid.latitude[:, None]).astype(int) // 6, (grid.longitude % 360).astype(int) // 6]
              for grid in (own, on)}  # fmt: skip
    laid = lay(number[own], own, on, 0)
    np.testing.assert_array_equal(laid, np.where(np.isin(number[on], number[own]), number[on], 0))


def test_nothing_is_laid_on_another_lattice():
    world = Grid.world(6)
    for other in (Grid.world(3), Grid(6.0, 87.0, 0.0, 4, 4), Grid(6.0, 90.0, 1.0, 4, 4)):
        assert (lay(np.ones(world.shape), world, other, 0) == 0).all()


def test_what_cannot_be_is_named():
    with pytest.raises(RegionError, match="rows 5:5 and columns 0:3 hold no cell"):
        Grid.world(6).window(slice(5, 5), slice(0, 3))
    for factor in (0, -2, 2.5):
        with pytest.raises(GridError, match="whole number"):
            Grid.world(6).refine(factor)
    with pytest.raises(GridError, match="30 x 60 cells cannot be grouped by 4 x 4"):
        Grid.world(6).coarsen(4)
    with pytest.raises(GridError, match="3 x 4 cells cannot be grouped by 2 x 2"):
        aggregate(np.zeros((3, 4)), 2)
    assert str(Grid.world(0.25)) == "0.25 degree, 720 x 1440 cells, -90 to 90 N, -180 to 180 E"


VALUES = st.floats(-1e6, 1e6, allow_subnormal=False)


@settings(max_examples=20, deadline=None)
@given(st.data(), st.sampled_from([1, 2, 3, 5]))
def test_aggregation_undoes_expansion_exactly(data, factor):
    shape = data.draw(hnp.array_shapes(min_dims=2, max_dims=3, max_side=5))
    values = data.draw(hnp.arrays(np.float64, shape, elements=VALUES))
    fine = expand(values, factor)
    assert fine.shape == (*shape[:-2], shape[-2] * factor, shape[-1] * factor)
    np.testing.assert_allclose(aggregate(fine, factor), values, rtol=1e-12, atol=1e-9)
    area = np.linspace(1, 2, fine.shape[-2])[:, None]
    np.testing.assert_allclose(aggregate(fine, factor, area), values, rtol=1e-12, atol=1e-9)


@settings(max_examples=15, deadline=None)
@given(st.data(), st.sampled_from([2, 3, 5]))
def test_aggregation_conserves_area_weighted_sums(data, factor):
    rows, columns = data.draw(st.integers(1, 4)), data.draw(st.integers(1, 4))
    coarse = Grid(2.0, 90 - 2.0 * data.draw(st.integers(0, 40)), 0.0, rows, columns)
    fine = coarse.refine(factor)
    values = data.draw(hnp.arrays(np.float64, fine.shape, elements=VALUES))
    weights = fine.cell_area()[:, None] * np.ones(fine.columns)
    low = aggregate(values, factor, weights)
    scale = (np.abs(values) * weights).sum()
    whole = pytest.approx((values * weights).sum(), rel=1e-9, abs=1e-9 * scale + 1e-9)
    assert (low * coarse.cell_area()[:, None]).sum() == whole
    assert values.min() - 1e-6 <= low.min() <= low.max() <= values.max() + 1e-6


def test_weights_of_a_row_count_for_all_its_cells_and_blocks_without_weight_have_no_mean():
    values = np.array([[1.0, 1.0], [4.0, 4.0]])
    assert aggregate(values, 2, np.array([[2.0], [1.0]]))[0, 0] == 2
    assert aggregate(values, 2)[0, 0] == 2.5
    low = aggregate(np.arange(8.0).reshape(2, 4), 2, np.array([[0, 0, 1, 0], [0, 0, 0, 1]]))
    np.testing.assert_array_equal(low, [[np.nan, 4.5]])


@settings(max_examples=10, deadline=None)
@given(hnp.arrays(np.uint8, (6, 9), elements=st.integers(0, 7)))
def test_class_shares_are_areas_and_sum_to_one(codes):
    fine = Grid(1.0, 83.0, 0.0, 6, 9)
    shares, area = class_shares(codes, 3, fine.cell_area(), 8), fine.cell_area()[:, None]
    assert shares.shape == (8, 2, 3)
    np.testing.assert_allclose(shares.sum(axis=0), 1, atol=1e-12)
    assert shares.min() >= 0
    fine_area = [((codes == code) * area).sum() for code in range(8)]
    np.testing.assert_allclose((shares * fine.coarsen(3).cell_area()[:, None]).sum(axis=(1, 2)), fine_area, atol=1)
