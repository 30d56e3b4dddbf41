from __future__ import annotations

from unittest import mock

import dask.array as da
import numpy as np
import pytest
import xarray as xr
import xbatcher
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from tests.worlds import COARSE, FACTOR, FINE, tiny_world
from xland.errors import GridError
from xland.geo.grid import Grid
from xland.training.data import patches as module
from xland.training.data.patches import (
    chunk_groups,
    count_in_patches,
    farthest_points,
    make_patches,
    patches_from,
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


@settings(max_examples=15, deadline=None)
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


@settings(max_examples=15, deadline=None)
@given(
    hnp.arrays(np.int64, (6, 8), elements=st.integers(0, 9)), st.integers(1, 5), st.integers(1, 4), st.integers(0, 1)
)
def test_what_coarse_cells_hold_is_added_up_in_every_patch(counts, size, stride, less):
    """On a fine grid of factor 2, where a patch may end in the middle of a cell, which counts whole."""
    patches = make_patches(Grid(1.0, 50.0, 0.0, 12, 16), 2 * size - less, 2 * min(stride, size), 2)
    corners = zip(patches.rows // 2, patches.columns // 2, strict=True)
    expected = [counts[row : row + size, column : column + size].sum() for row, column in corners]
    assert count_in_patches(counts, patches, 2).tolist() == expected


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


@settings(max_examples=15, deadline=None)
@given(CLOUDS.filter(len), st.integers(1, 60), st.integers(0, 5), st.integers(1, 8))
def test_buckets_leave_the_farthest_points_as_they_are(points, count, seed, bucket):
    with mock.patch.object(module, "_BUCKET", bucket):
        assert farthest_points(points, count, seed).tolist() == one_by_one(points, count, seed)


@settings(max_examples=15, deadline=None)
@given(cuts(), st.integers(1, 30), st.integers(1, 30))
def test_patches_of_a_group_begin_in_the_same_chunk(cut, rows, columns):
    patches = make_patches(*cut)
    with pytest.raises(GridError, match=r"chunks of .* cells: at least 1 is needed"):
        chunk_groups(patches, (rows, -1))
    groups = chunk_groups(patches, (rows, columns))
    chunks = list(zip(patches.rows // rows, patches.columns // columns, strict=True))
    assert len(groups) == len(chunks)
    assert len(set(zip(groups.tolist(), chunks, strict=True))) == len(set(chunks)) == len(set(groups.tolist()))


PART = Grid(FINE.resolution, 50.0, -20.0, 80, 120)


def corners(patches):
    return list(zip(patches.rows.tolist(), patches.columns.tolist(), strict=True))


def generator(fields, size=40, overlap=20, **options):
    lat, lon = fields.dims[-2:]
    return xbatcher.BatchGenerator(fields, {lat: size, lon: size}, {lat: overlap, lon: overlap}, **options)


def numbered(grid=FINE):
    """A field whose cells tell their row and column on the grid."""
    rows, columns = np.meshgrid(np.arange(grid.rows), np.arange(grid.columns), indexing="ij")
    numbers = (rows * 1000 + columns).astype(np.int64)
    return xr.DataArray(numbers, {"lat": grid.latitude, "lon": grid.longitude}, ("lat", "lon"))


@given(
    st.booleans(),
    st.booleans(),
    st.booleans(),
    st.sampled_from([(0, 180), (3, 179), (60, 148)]),
    st.sampled_from([(0, 360), (13, 201), (180, 360)]),
    st.sampled_from([(24, 0), (36, 12), (40, 20)]),
)
@settings(max_examples=10, deadline=None)
def test_names_order_range_and_region_do_not_matter(ascending, eastwards, renamed, rows, columns, cut):
    """Cells that lie at the same place are the same, wherever the generator's data hold them."""
    size, overlap = cut
    top, left = rows[0] // FACTOR * FACTOR, columns[0] // FACTOR * FACTOR
    fields = numbered()[top : rows[1], left : columns[1]]
    fields = fields[: fields.shape[0] // FACTOR * FACTOR, : fields.shape[1] // FACTOR * FACTOR]
    if ascending:
        fields = fields[::-1]
    if eastwards and columns[0] == 180:
        fields = fields.assign_coords(lon=fields["lon"] + 360)
    if renamed:
        fields = fields.rename(lat="northing", lon="easting")
        fields["northing"].attrs["standard_name"], fields["easting"].attrs["standard_name"] = "latitude", "longitude"
    made = generator(fields, size, overlap)
    patches = patches_from(made, FINE, FACTOR)
    expected = [int(batch.min()) for batch in made]
    assert [row * 1000 + column for row, column in corners(patches)] == expected


def test_samples_may_cover_less_than_the_generator_and_more_and_patches_may_end_within_a_coarse_cell():
    patches = patches_from(generator(numbered(PART), 20, 0), FINE, FACTOR)
    assert corners(patches)[0] == (40, 160)
    smaller = patches_from(generator(numbered(PART)[:40, :40], 20, 0), PART, FACTOR)
    assert corners(smaller) == [(0, 0), (0, 20), (20, 0), (20, 20)]
    short = patches_from(generator(numbered(), 18, 2), FINE, FACTOR)
    assert (short.size, corners(short)[:2]) == (18, [(0, 0), (0, 16)])


def test_years_do_not_make_patches_of_their_own_and_nothing_is_read():
    def fail(*_):
        raise AssertionError("a value was read")

    years = da.zeros((2, *FINE.shape), chunks=60).map_blocks(fail, dtype=float, meta=np.empty((0, 0, 0)))
    maps = numbered().expand_dims(time=[2000, 2001]).copy(data=years)
    once = patches_from(generator(maps), FINE, FACTOR)
    assert once.size == 40
    assert corners(once) == corners(make_patches(FINE, 40, 20, FACTOR))
    yearly = generator(maps, batch_dims={"time": 1})
    assert len(yearly) == 2 * len(once)
    for other in (yearly, generator(maps.to_dataset(name="land_use").to_array())):
        assert corners(patches_from(other, FINE, FACTOR)) == corners(once)


def shifted():
    return numbered()[:-4].assign_coords(lat=FINE.latitude[:-4] - 0.5)


def across_the_date_line():
    return numbered().assign_coords(lon=FINE.longitude % 360).sortby("lon")


BAD_GENERATORS = {
    "not a generator": (numbered, r"from an xbatcher\.BatchGenerator, not from DataArray"),
    "coarse": (lambda: generator(numbered(COARSE), 10, 5), r"4 degree.*are not on the grid of the samples \(1 degree"),
    "shifted": (lambda: generator(shifted()), "are not on the grid of the samples"),
    "date line": (
        lambda: generator(across_the_date_line(), 40, 0),
        r"4 of 36 patches .* cross its eastern edge",
    ),
    "within a cell": (
        lambda: generator(numbered()[:80], 20, 2),
        r"\d+ of \d+ patches .* begin within a coarse cell, the first at row 0 and column 18",
    ),
    "all within a cell": (
        lambda: generator(numbered()[2:82], 20, 0),
        r"72 of 72 patches .*the first at row 2 and column 0 .* multiple of the factor 4, and so must",
    ),
    "strips": (lambda: xbatcher.BatchGenerator(numbered(), {"lon": 40}), "are 180 x 40 cells: patches are squares"),
    "joined": (
        lambda: generator(tiny_world()[2], batch_dims={"time": 1}, concat_input_dims=True),
        "made of 136 pieces: make it without concat_input_dims",
    ),
    "no coordinates": (
        lambda: generator(numbered().drop_vars(["lat", "lon"])),
        "the generator's data: dimension 'lat' has no coordinate",
    ),
}


@pytest.mark.parametrize("what", BAD_GENERATORS)
def test_what_is_wrong_with_a_generator_is_named(what):
    make, message = BAD_GENERATORS[what]
    with pytest.raises(GridError, match=message):
        patches_from(make(), FINE, FACTOR)
