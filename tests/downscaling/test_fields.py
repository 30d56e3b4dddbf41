"""What blocks read, however the caller's arrays lie."""

from __future__ import annotations

import dask
import dask.array as da
import numpy as np
import pytest
import xarray as xr
from hypothesis import given, settings
from hypothesis import strategies as st
from xarray.backends import BackendArray
from xarray.core.indexing import IndexingSupport, LazilyIndexedArray, explicit_indexing_adapter

from tests.strategies import Layout
from xland.downscaling.fields import ChunkField, FileField, WithoutSea, field_of, placements
from xland.errors import StaticError
from xland.geo.grid import Grid

GRID = Grid.world(4)
NAMES = ("elevation", "abs_latitude", "land_share")


def numbered(grid: Grid = GRID) -> xr.Dataset:
    """Static fields that hold the number of each cell."""
    numbers = np.arange(grid.rows * grid.columns, dtype=np.float32).reshape(grid.shape)
    fields = {name: (("lat", "lon"), numbers + 10_000 * i) for i, name in enumerate(NAMES)}
    coords = {
        "lat": ("lat", grid.latitude, {"standard_name": "latitude", "units": "degrees_north"}),
        "lon": ("lon", grid.longitude, {"standard_name": "longitude", "units": "degrees_east"}),
    }
    return xr.Dataset(fields, coords)


def source_of(ds: xr.Dataset):
    return field_of([ds[name] for name in NAMES], "static predictors", GRID, StaticError, np.float32)


def read_span(source, rows: range, columns: range) -> np.ndarray:
    """Read a span of the world's lattice as a block does: only with the chunks that it asked for."""
    field, array = source
    graph = {} if array is None else array.__dask_graph__()
    keys = list(field.keys(rows, columns)) if isinstance(field, ChunkField) else []
    chunks = dict(zip(keys, dask.get(graph, keys), strict=True)) if keys else {}
    found = np.full((len(NAMES), len(rows), len(columns)), np.nan, np.float32)
    for place in placements(field.grid, rows, columns):
        for number, layer in enumerate(field.read(*place.source, chunks)):
            found[(number, *place.target)] = layer
    return found


def expected_span(rows: range, columns: range) -> np.ndarray:
    numbers = np.stack([numbered()[name].values for name in NAMES])
    row, column = np.arange(rows.start, rows.stop), np.arange(columns.start, columns.stop) % GRID.columns
    there = (row >= 0) & (row < GRID.rows)
    values = numbers[:, np.clip(row, 0, GRID.rows - 1)][:, :, column]
    return np.where(there[None, :, None], values, np.nan)


spans = st.tuples(st.integers(-6, 44), st.integers(1, 20)).map(lambda pair: range(pair[0], sum(pair)))
wide_spans = st.tuples(st.integers(-40, 95), st.integers(1, 130)).map(lambda pair: range(pair[0], sum(pair)))


@settings(deadline=None, max_examples=40)
@given(
    rows=spans,
    columns=wide_spans,
    ascending=st.booleans(),
    west=st.sampled_from([None, 0.0, -20.0]),
    turned=st.booleans(),
    chunks=st.one_of(st.none(), st.tuples(st.integers(7, 45), st.integers(7, 90))),
)
def test_any_order_of_rows_and_columns_gives_the_same_cells(rows, columns, ascending, west, turned, chunks):
    order = ("time", "lon", "lat") if turned else ("time", "lat", "lon")
    ds = Layout(latitude_ascending=ascending, west=west, order=order).apply(numbered().expand_dims("time")).isel(time=0)
    if chunks is not None:
        ds = ds.chunk(dict(zip(("lat", "lon"), chunks, strict=True)))
    source = source_of(ds)
    assert isinstance(source[0], FileField if chunks is None and not turned else ChunkField)
    np.testing.assert_array_equal(read_span(source, rows, columns), expected_span(rows, columns))


@settings(deadline=None, max_examples=40)
@given(rows=spans, columns=wide_spans, height=st.integers(4, 45), width=st.integers(4, 90))
def test_only_the_chunks_that_overlap_are_asked_for(rows, columns, height, width):
    source = source_of(numbered().chunk(lat=height, lon=width))
    wanted = {
        (row // height, column % GRID.columns // width)
        for row in range(max(rows.start, 0), min(rows.stop, GRID.rows))
        for column in range(columns.start, columns.stop)
    }
    keys = list(source[0].keys(rows, columns))
    assert {key[-2:] for key in keys} == wanted
    assert len(keys) == len(wanted), "each once"
    assert {key[0] for key in keys} <= {source[1].name}


class Counting(BackendArray):
    """An array on disk that notes how many cells each reading takes."""

    def __init__(self, values: np.ndarray) -> None:
        self.values, self.shape, self.dtype = values, values.shape, values.dtype
        self.taken: list[int] = []

    def __getitem__(self, key):
        return explicit_indexing_adapter(key, self.shape, IndexingSupport.BASIC, self._take)

    def _take(self, key):
        part = self.values[key]
        self.taken.append(part.size)
        return part


@pytest.mark.parametrize("west", [None, 0.0])
def test_of_a_file_only_the_cells_of_the_block_are_read(west):
    laid = Layout(latitude_ascending=True, west=west).apply(numbered().expand_dims("time")).isel(time=0)
    arrays = {name: Counting(laid[name].values) for name in NAMES}
    lazy = laid.assign({name: xr.Variable(("lat", "lon"), LazilyIndexedArray(array)) for name, array in arrays.items()})
    source = source_of(lazy)
    assert isinstance(source[0], FileField)
    assert source[1] is None
    assert not any(array.taken for array in arrays.values()), "nothing is read while building"
    rows, columns = range(4, 10), range(-5, 7)
    np.testing.assert_array_equal(read_span(source, rows, columns), expected_span(rows, columns))
    assert {name: sum(array.taken) for name, array in arrays.items()} == dict.fromkeys(NAMES, 6 * 12)


def test_each_year_is_a_chunk_of_its_own():
    array = da.zeros((3, 2, 8, 12), chunks=(1, 2, 4, 6))
    field = ChunkField(Grid(4.0, 90.0, -180.0, 8, 12), array.name, array.chunks)
    keys = list(field.keys(range(5, 6), range(12), year=2))
    assert keys == [(array.name, 2, 0, 1, 0), (array.name, 2, 0, 1, 1)]


@given(
    rows=st.integers(1, 7), columns=st.integers(1, 7), layers=st.integers(1, 3), years=st.booleans(),
    sea=st.floats(0, 1), seed=st.integers(0, 99), data=st.data(),
)  # fmt: skip
def test_cells_without_data_take_no_room_and_read_as_nan(rows, columns, layers, years, sea, seed, data):
    random = np.random.default_rng(seed)
    whole = random.random((layers, rows, columns)).astype(np.float32)
    whole[random.random(whole.shape) < sea / 2] = np.nan
    whole[:, random.random((rows, columns)) < sea] = np.nan
    packed = WithoutSea(whole[None] if years else whole)
    assert packed.values.shape[1] == np.count_nonzero(~np.isnan(whole).all(axis=0))
    first, left = data.draw(st.integers(0, rows - 1)), data.draw(st.integers(0, columns - 1))
    where = (data.draw(st.sampled_from([slice(None), slice(0, 1)])), slice(first, rows), slice(left, columns))
    np.testing.assert_array_equal(packed[where], whole[where])
    assert packed[where].dtype == np.float32
