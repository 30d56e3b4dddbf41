from __future__ import annotations

from itertools import combinations
from unittest import mock

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from scipy.spatial.distance import cdist

from xland.errors import GridError
from xland.geo.grid import Grid
from xland.training.data import patches as module
from xland.training.data.patches import (
    chunk_groups,
    count_in_patches,
    farthest_points,
    make_patches,
    sphere_points,
)


@st.composite
def cuts(draw):
    """A grid, a size that may end within a coarse cell, and a stride in multiples of a factor."""
    factor = draw(st.sampled_from([1, 4, 5]))
    size = draw(st.integers(1, 6))
    stride = draw(st.integers(1, size))
    rows, columns = draw(st.integers(size, 20)), draw(st.integers(size, 20))
    less = draw(st.integers(0, factor - 1))
    return Grid(0.1, 50.0, 0.0, rows * factor, columns * factor), size * factor - less, stride * factor, factor


@settings(max_examples=25, deadline=None)
@given(cuts())
def test_patches_lie_in_the_grid_begin_at_coarse_cells_and_cover_it_if_they_overlap(cut):
    grid, size, stride, factor = cut
    patches = make_patches(grid, size, stride, factor)
    assert patches.rows.min() == patches.columns.min() == 0
    assert (patches.rows % factor == 0).all()
    assert (patches.columns % factor == 0).all()
    assert patches.rows.max() + size <= grid.rows
    assert patches.columns.max() + size <= grid.columns
    assert len(set(zip(patches.rows, patches.columns, strict=True))) == len(patches)
    touched = -(-size // factor)
    seen = np.zeros((grid.rows // factor, grid.columns // factor), dtype=int)
    for row, column in zip(patches.rows // factor, patches.columns // factor, strict=True):
        seen[row : row + touched, column : column + touched] += 1
    if stride < touched * factor:
        assert seen.min() >= 1
    else:
        assert seen.max() == 1
        assert seen[: seen.shape[0] // touched * touched, : seen.shape[1] // touched * touched].min() == 1


@pytest.mark.parametrize(
    ("size", "stride", "message"),
    [
        (40, 10, "stride 10 must be a multiple of the factor 4"),
        (200, 20, "200 x 200 cells does not fit into 180 x 360 cells"),
        (40, 80, "stride 80 must be at least 1 and at most the patch size 40"),
        (40, 0, "stride 0 must be at least 1"),
    ],
)
def test_patches_that_do_not_fit_are_named(size, stride, message):
    with pytest.raises(GridError, match=message):
        make_patches(Grid.world(1), size, stride, 4)


@settings(max_examples=25, deadline=None)
@given(
    hnp.arrays(np.int64, (6, 8), elements=st.integers(0, 9)), st.integers(1, 5), st.integers(1, 4), st.integers(0, 1)
)
def test_what_coarse_cells_hold_is_added_up_in_every_patch(counts, size, stride, less):
    """On a fine grid of factor 2, where a patch may end in the middle of a cell, which counts whole."""
    patches = make_patches(Grid(1.0, 50.0, 0.0, 12, 16), 2 * size - less, 2 * min(stride, size), 2)
    corners = zip(patches.rows // 2, patches.columns // 2, strict=True)
    expected = [counts[row : row + size, column : column + size].sum() for row, column in corners]
    assert count_in_patches(counts, patches, 2).tolist() == expected


def test_points_of_the_sphere_are_as_far_apart_as_their_angle():
    points = sphere_points(np.array([0.0, 0.0, 90.0, 10.0, 10.0]), np.array([0.0, 90.0, 33.0, 179.5, -179.5]))
    np.testing.assert_allclose(np.linalg.norm(points, axis=1), 1)
    assert points[0] @ points[1] == pytest.approx(0, abs=1e-12)
    assert points[0] @ points[2] == pytest.approx(0, abs=1e-12)
    assert np.linalg.norm(points[3] - points[4]) == pytest.approx(np.deg2rad(1) * np.cos(np.deg2rad(10)), rel=1e-3)


CLOUDS = hnp.arrays(np.float64, st.tuples(st.integers(0, 60), st.integers(1, 3)), elements=st.floats(-1, 1))


def one_by_one(points, count, seed):
    """Farthest point sampling that looks at every point for every choice."""
    distance = np.full(len(points), np.inf)
    chosen = [int(np.random.default_rng(seed).integers(len(points)))]
    while len(chosen) < min(count, len(points)):
        distance = np.minimum(distance, ((points - points[chosen[-1]]) ** 2).sum(axis=1))
        distance[chosen[-1]] = -1
        chosen.append(int(distance.argmax()))
    return chosen


@settings(max_examples=25, deadline=None)
@given(CLOUDS.filter(len), st.integers(1, 60), st.integers(0, 5), st.integers(1, 8))
def test_buckets_leave_the_farthest_points_as_they_are(points, count, seed, bucket):
    with mock.patch.object(module, "_BUCKET", bucket):
        assert farthest_points(points, count, seed).tolist() == one_by_one(points, count, seed)


@pytest.mark.parametrize("count", [1, 700])
def test_many_places_as_far_as_each_other_on_a_lattice_are_taken_in_their_order(count):
    latitude, longitude = map(np.ravel, np.meshgrid(np.arange(80.0, -100, -5), np.arange(-180.0, 180, 4)))
    points = sphere_points(latitude, longitude)
    assert farthest_points(points, count, 3).tolist() == one_by_one(points, count, 3)


@settings(max_examples=25, deadline=None)
@given(
    hnp.arrays(np.float64, st.tuples(st.integers(3, 9), st.just(2)), elements=st.floats(-1, 1)),
    st.integers(1, 3),
    st.integers(0, 5),
)
def test_farthest_points_cover_at_least_half_as_well_as_the_best_choice(points, count, seed):
    distance = cdist(points, points)
    best = min(distance[list(some)].min(axis=0).max() for some in combinations(range(len(points)), count))
    reach = distance[farthest_points(points, count, seed)].min(axis=0).max()
    assert best - 1e-12 <= reach <= 2 * best + 1e-12


@pytest.mark.parametrize("wrong", [np.nan, np.inf])
def test_points_nowhere_are_named(wrong):
    with pytest.raises(GridError, match="1 of 3 points have NaN or infinite coordinates; leave them out"):
        farthest_points(np.array([[0.0, 0.0], [wrong, 1.0], [2.0, 2.0]]), 2)


@settings(max_examples=25, deadline=None)
@given(cuts(), st.integers(1, 30), st.integers(1, 30))
def test_patches_of_a_group_begin_in_the_same_chunk(cut, rows, columns):
    patches = make_patches(*cut)
    groups = chunk_groups(patches, (rows, columns))
    chunks = list(zip(patches.rows // rows, patches.columns // columns, strict=True))
    assert len(groups) == len(chunks)
    assert len(set(zip(groups.tolist(), chunks, strict=True))) == len(set(chunks)) == len(set(groups.tolist()))


@pytest.mark.parametrize("chunk", [(0, 4), (4, -1)])
def test_chunks_without_cells_are_named(chunk):
    patches = make_patches(Grid.world(1), 40, 20, 4)
    with pytest.raises(GridError, match=r"chunks of .* cells: at least 1 is needed"):
        chunk_groups(patches, chunk)
