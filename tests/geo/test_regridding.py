from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from xland.errors import GridError, RegionError
from xland.geo.grid import Grid
from xland.geo.regridding import area_mean, distribute, land_within, whole_cells

PAIRS = [
    (Grid.world(30), Grid.world(15)),
    (Grid.world(15), Grid.world(30)),
    (Grid.world(20), Grid.world(45)),
    (Grid(30, 90, -165, 6, 12), Grid.world(20)),  # global, but not from 180 W
    (Grid(0.5, 50, 10, 4, 6), Grid(0.25, 50, 10, 8, 12)),
    (Grid(0.1, 50, 179, 20, 30), Grid(0.25, 50, 179, 8, 12)),
    (Grid(0.1, 49.9, 10.1, 20, 30), Grid(0.25, 49.75, 10.25, 7, 11)),
    (Grid(1 / 3, -89, 0, 3, 3), Grid(0.25, -89, 0, 4, 4)),
]
by_pair = pytest.mark.parametrize(("source", "target"), PAIRS, ids=str)
SEEDS = st.integers(0, 2**32 - 1)


def shares_of(grid: Grid, seed: int, *, holes: float = 0.3) -> np.ndarray:
    random = np.random.default_rng(seed)
    shares = random.dirichlet([0.3, 0.3, 0.3], grid.shape).transpose(2, 0, 1)
    shares[:, random.random(grid.shape) < holes] = np.nan
    return shares[:2]


@by_pair
@given(seed=SEEDS)
def test_the_area_of_each_share_is_kept(source, target, seed):
    shares, land = shares_of(source, seed), np.random.default_rng(seed).random(target.shape).round(1)
    covered = area_mean(np.ones(target.shape), target, source) * source.cell_area()[:, None]
    wanted = np.nansum(shares * covered, axis=(1, 2))
    for placed in (distribute(shares, source, target), distribute(shares, source, target, land)):
        np.testing.assert_allclose(np.nansum(placed * target.cell_area()[:, None], axis=(1, 2)), wanted, rtol=1e-9)
        total = placed.sum(axis=0)
        assert np.nanmin(placed, initial=0) >= 0
        assert np.nanmax(total, initial=0) <= 1 + 1e-9


def test_a_whole_source_is_covered_by_the_cells_of_a_target_round_it():
    for source, target in PAIRS[:6]:
        np.testing.assert_allclose(area_mean(np.ones(target.shape), target, source), 1, rtol=1e-9)
        np.testing.assert_allclose(area_mean(np.ones(source.shape), source, target), 1, rtol=1e-9)


def test_halves_of_a_cell_count_by_their_area_on_the_sphere():
    source, target = Grid(30, 90, 0, 2, 2), Grid(45, 90, 0, 1, 1)
    north, south = (np.sin(np.deg2rad(edge)) for edge in (60, 45))
    share = (1 - north) / (1 - south)
    placed = distribute(np.array([[[1.0, 1.0], [0.0, 0.0]]]), source, target)
    np.testing.assert_allclose(placed, [[[share]]])


def test_cells_that_nest_repeat_a_share_and_average_smaller_ones():
    coarse, fine = Grid(0.5, 50, 10, 2, 2), Grid(0.25, 50, 10, 4, 4)
    shares = np.array([[[0.1, 0.2], [0.3, np.nan]]])
    np.testing.assert_allclose(distribute(shares, coarse, fine)[0], shares[0].repeat(2, 0).repeat(2, 1))
    back = distribute(distribute(shares, coarse, fine), fine, coarse)
    np.testing.assert_allclose(back, shares)


def test_shares_lie_on_the_land_of_their_cell_and_what_is_left_beside_it():
    source, target = Grid(60, 30, 0, 1, 1), Grid(30, 30, 0, 2, 2)
    land = np.array([[1.0, 0.5], [0.5, 0.0]])
    assert land_within(land, source, target) == pytest.approx(0.5)
    for total, wanted in ((0.5, land), (0.25, land / 2), (0.75, land + (1 - land) / 2), (1.0, np.ones((2, 2)))):
        np.testing.assert_allclose(distribute(np.full((1, 1, 1), total), source, target, land)[0], wanted)


def test_shares_of_land_are_means_over_the_land_that_has_data():
    source, target = Grid(0.25, 50, 10, 2, 2), Grid(0.5, 50, 10, 1, 1)
    shares = np.array([[[0.4, np.nan], [0.4, np.nan]]])
    assert distribute(shares, source, target)[0, 0, 0] == pytest.approx(0.2)
    assert distribute(shares, source, target, np.full((1, 1), 0.8), of_land=True)[0, 0, 0] == pytest.approx(0.32)


def test_where_no_source_cell_has_data_there_is_none():
    source, target = PAIRS[6]
    shares = np.full((1, *source.shape), 0.5)
    shares[:, :10] = np.nan  # down to 48.9 N, within the fourth row
    placed = distribute(shares, source, target)[0]
    np.testing.assert_array_equal(np.isnan(placed), np.arange(7)[:, None] < np.full(11, 3))
    assert np.all((placed[3] > 0) & (placed[3] < 0.5))
    np.testing.assert_allclose(placed[4:], 0.5)


@pytest.mark.parametrize(
    ("source", "resolution", "wanted"),
    [
        (Grid.world(0.5), 0.25, Grid.world(0.25)),
        (Grid(0.5, 90.0, -180.25, 360, 720), 0.25, Grid.world(0.25)),
        (Grid(0.1, 49.9, 10.1, 20, 30), 0.25, Grid(0.25, 49.75, 10.25, 7, 11)),
        (Grid(0.5, 10.0, 179.0, 4, 4), 0.25, Grid(0.25, 10.0, 179.0, 8, 8)),
        (Grid(1.0, 84.0, -180.0, 140, 360), 0.25, Grid(0.25, 84.0, -180.0, 560, 1440)),
    ],
    ids=str,
)
def test_the_target_is_what_lies_wholly_within_the_source(source, resolution, wanted):
    assert whole_cells(source, resolution) == wanted


def test_resolutions_that_do_not_divide_the_globe_and_too_small_grids_are_refused():
    for resolution in (0.7, 0, -1, 1e-9, np.nan, 200):
        with pytest.raises(GridError, match="must divide 180 degrees"):
            whole_cells(Grid.world(0.5), resolution)
    with pytest.raises(RegionError, match="fewer than two by two cells of 0\\.5 degree"):
        whole_cells(Grid(0.25, 50, 10, 3, 30), 0.5)
