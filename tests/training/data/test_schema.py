"""Patches of users' own xbatcher generators."""

from __future__ import annotations

import dask.array as da
import numpy as np
import pytest
import xarray as xr
import xbatcher
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.worlds import COARSE, FACTOR, FINE, tiny_world
from xland.errors import GridError
from xland.geo.grid import Grid
from xland.training.data.patches import make_patches, patches_from


@pytest.fixture(scope="module")
def maps():
    return tiny_world((2000, 2001))[2]


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


def test_the_patches_of_a_generator_are_its_batches(maps):
    patches = patches_from(generator(maps), FINE, FACTOR)
    assert patches.size == 40
    assert corners(patches) == corners(make_patches(FINE, 40, 20, FACTOR))


@given(
    st.booleans(),
    st.booleans(),
    st.booleans(),
    st.sampled_from([(0, 180), (3, 179), (60, 148)]),
    st.sampled_from([(0, 360), (13, 201), (180, 360)]),
    st.sampled_from([(24, 0), (36, 12), (40, 20)]),
)
@settings(max_examples=20, deadline=None)
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


def test_samples_may_cover_less_than_the_generator_and_more(maps):
    part = Grid(FINE.resolution, 50.0, -20.0, 80, 120)
    patches = patches_from(generator(numbered(part), 20, 0), FINE, FACTOR)
    assert corners(patches)[0] == (40, 160)
    smaller = patches_from(generator(numbered(part)[:40, :40], 20, 0), part, FACTOR)
    assert corners(smaller) == [(0, 0), (0, 20), (20, 0), (20, 20)]


def test_years_do_not_make_patches_of_their_own(maps):
    once = corners(patches_from(generator(maps), FINE, FACTOR))
    yearly = generator(maps, batch_dims={"time": 1})
    assert len(yearly) == 2 * len(once)
    assert corners(patches_from(yearly, FINE, FACTOR)) == once
    assert corners(patches_from(generator(maps.to_dataset(name="land_use").to_array()), FINE, FACTOR)) == once


def test_patches_may_end_within_a_coarse_cell():
    patches = patches_from(generator(numbered(), 18, 2), FINE, FACTOR)
    assert patches.size == 18
    assert corners(patches)[:2] == [(0, 0), (0, 16)]


def test_nothing_is_read():
    def fail(*_):
        raise AssertionError("a value was read")

    empty = da.zeros(FINE.shape, chunks=60).map_blocks(fail, dtype=float, meta=np.empty((0, 0)))
    fields = numbered().copy(data=empty)
    assert len(patches_from(generator(fields), FINE, FACTOR)) == 136


def test_something_else_than_a_generator_is_refused(maps):
    with pytest.raises(GridError, match=r"from an xbatcher\.BatchGenerator, not from DataArray"):
        patches_from(maps, FINE, FACTOR)


def test_coarse_data_are_refused():
    with pytest.raises(GridError, match=r"4 degree.*are not on the grid of the samples \(1 degree"):
        patches_from(generator(numbered(COARSE), 10, 5), FINE, FACTOR)


def test_shifted_data_are_refused():
    fields = numbered()[:-4].assign_coords(lat=FINE.latitude[:-4] - 0.5)
    with pytest.raises(GridError, match="are not on the grid of the samples"):
        patches_from(generator(fields), FINE, FACTOR)


def test_patches_beyond_the_grid_are_counted():
    part = Grid(FINE.resolution, 50.0, -20.0, 80, 120)
    with pytest.raises(GridError, match="121 of 136 patches of the generator reach beyond the grid"):
        patches_from(generator(numbered()), part, FACTOR)


def test_patches_across_the_date_line_are_counted():
    fields = numbered()
    fields = fields.assign_coords(lon=fields["lon"] % 360).sortby("lon")
    with pytest.raises(GridError, match=r"4 of 36 patches .* torn apart by its eastern edge"):
        patches_from(generator(fields, 40, 0), FINE, FACTOR)


@pytest.mark.parametrize(
    ("first", "size", "overlap", "message"),
    [
        (0, 20, 2, r"\d+ of \d+ patches .* begin within a coarse cell, the first at row 0 and column 18"),
        (2, 20, 0, r"72 of 72 patches .*the first at row 2 and column 0 .* multiple of the factor 4, and so must"),
    ],
)
def test_patches_that_begin_within_a_coarse_cell_are_counted(first, size, overlap, message):
    fields = numbered()[first : first + 80]
    with pytest.raises(GridError, match=message):
        patches_from(generator(fields, size, overlap), FINE, FACTOR)


def test_patches_that_are_no_squares_are_refused(maps):
    with pytest.raises(GridError, match="batches of the generator are 20 x 40 cells: patches are squares"):
        patches_from(xbatcher.BatchGenerator(maps, {"lat": 20, "lon": 40}), FINE, FACTOR)
    with pytest.raises(GridError, match="batches of the generator are 180 x 40 cells"):
        patches_from(xbatcher.BatchGenerator(maps, {"lon": 40}), FINE, FACTOR)


def test_batches_of_several_patches_are_refused(maps):
    joined = generator(maps, batch_dims={"time": 1}, concat_input_dims=True)
    with pytest.raises(GridError, match="made of 136 pieces: make it without concat_input_dims"):
        patches_from(joined, FINE, FACTOR)


def test_data_without_coordinates_are_refused():
    with pytest.raises(GridError, match="the generator's data: dimension 'lat' has no coordinate"):
        patches_from(generator(numbered().drop_vars(["lat", "lon"])), FINE, FACTOR)
