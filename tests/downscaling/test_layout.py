"""The lattice of windows, how a target grid is cut into blocks, and where cells are in arrays."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.worlds import tiny_inputs
from xland.downscaling.fields import TWICE, Layout, halo, placements
from xland.errors import GridError
from xland.geo.grid import Grid


def inputs_of(factor: int, resolution: float, window: int, stride: int):
    return replace(tiny_inputs(), factor=factor, resolution=resolution, window=window, stride=stride)


@st.composite
def tiny_grids(draw):
    """Parts of the world on 1 degree, the whole of it included, in cells of factor 4."""
    if draw(st.booleans()):
        return Grid.world(1)
    rows, columns = 4 * draw(st.integers(1, 30)), 4 * draw(st.integers(1, 60))
    return Grid(1.0, 90.0 - 4 * draw(st.integers(0, 15)), -180.0 + 4 * draw(st.integers(0, 89)), rows, columns)


@st.composite
def tiny_layouts(draw):
    stride = draw(st.sampled_from([4, 8, 12, 20, 24, 40]))
    window = stride + 4 * draw(st.integers(0, 10))
    return Layout.cut(draw(tiny_grids()), inputs_of(4, 1.0, window, stride), 4 * draw(st.integers(1, 100)))


def window_starts(block: range, size: int, stride: int) -> np.ndarray:
    read = halo(block, size, stride)
    return np.arange(read.start, read.stop - size + 1, stride)


@given(st.sampled_from([1, 4, 5]), st.integers(1, 12), st.integers(0, 20), st.integers(-500, 500), st.integers(1, 300))
def test_a_cell_has_the_same_windows_in_any_block(factor, steps, more, start, length):
    stride, block = factor * steps, range(start, start + length)
    size = stride + factor * more
    starts = window_starts(block, size, stride)
    assert (starts % stride == 0).all()
    assert ((starts < block.stop) & (starts + size > start)).all(), "all touch the block"
    for cell in (start, start + length // 2, block.stop - 1):
        touching = starts[(starts <= cell) & (starts + size > cell)]
        np.testing.assert_array_equal(touching, window_starts(range(cell, cell + 1), size, stride))
        assert 1 <= touching.size <= -(-size // stride)


LARGE = [(5, 0.05, 160, 120), (5, 0.05, 160, 80), (25, 0.01, 400, 200), (25, 0.01, 400, 300)]


@pytest.mark.parametrize("of", LARGE, ids=str)
def test_blocks_of_the_globe_are_not_as_large_as_the_world(of):
    layout = Layout.cut(Grid.world(of[1]), inputs_of(*of))
    assert layout.windows[1] <= TWICE
    assert len(layout.rows) * len(layout.columns) > 4


@settings(deadline=None, max_examples=100)
@given(st.sampled_from(LARGE), st.integers(0, 600), st.integers(0, 1400), st.integers(1, 700), st.integers(1, 1400))
def test_default_blocks_of_a_region_repeat_few_windows(of, row, column, height, width):
    factor, resolution, *_ = of
    coarse = 0.25
    height = min(height, 720 - row)
    grid = Grid(resolution, 90 - row * coarse, -180 + column * coarse, height * factor, width * factor)
    layout = Layout.cut(grid, inputs_of(*of))
    assert 0 <= layout.windows[1] <= TWICE
    for spans in (layout.rows, layout.columns):
        sizes = [len(span) for span in spans]
        assert all(size % factor == 0 for size in sizes)
        assert len(set(sizes[:-1])) <= 1, "blocks are equal but for the last one"
        assert sizes[-1] <= sizes[0]
        assert sizes[0] - sizes[-1] <= of[3] * len(sizes), "and that is not a sliver"


def windows_of_blocks(layout: Layout) -> list[tuple[int, int]]:
    """First row and column of every window of every block, by its halo."""
    found = []
    for i in range(len(layout.rows)):
        for j in range(len(layout.columns)):
            block = layout.block(i, j)
            rows = [block.halo[0].start + top for top in block.windows[0]]
            columns = [block.halo[1].start + left for left in block.windows[1]]
            found += [(row, column) for row in rows for column in columns]
    return found


@settings(deadline=None, max_examples=50)
@given(tiny_layouts())
def test_windows_and_repeats_are_those_that_one_can_count(layout):
    found = windows_of_blocks(layout)
    different = {(row, column % 360) for row, column in found} if layout.grid.is_global else set(found)
    assert layout.windows == (len(different), pytest.approx(len(found) / len(different) - 1))


@settings(deadline=None, max_examples=50)
@given(tiny_layouts())
def test_blocks_cover_the_grid_once_and_the_halo_holds_their_core(layout):
    for spans, first, length in (
        (layout.rows, layout.grid.corner[0], layout.grid.rows),
        (layout.columns, layout.grid.corner[1], layout.grid.columns),
    ):
        cells = np.concatenate([np.arange(span.start, span.stop) for span in spans])
        np.testing.assert_array_equal(cells, np.arange(first, first + length))
    block = layout.block(-1, -1)
    for core, span, read in zip(block.core, (block.rows, block.columns), block.halo, strict=True):
        np.testing.assert_array_equal(np.arange(read.start, read.stop)[core], np.arange(span.start, span.stop))


@pytest.mark.parametrize("chunks", [50, 6, 0, -4, 40.0, "auto"])
def test_blocks_of_broken_coarse_cells_are_refused(chunks):
    with pytest.raises(GridError, match="chunks must be a multiple of the model's factor 4"):
        Layout.cut(Grid.world(1), tiny_inputs(), chunks)


@settings(deadline=None, max_examples=100)
@given(tiny_grids(), st.integers(-60, 200), st.integers(1, 90), st.integers(-360, 600), st.integers(1, 90))
def test_placements_lead_every_cell_to_its_place(grid, row, height, shift, width):
    """Cells of a span get the number of the cell that has their latitude and longitude, once."""
    column = grid.corner[1] + shift
    numbers = np.arange(grid.rows * grid.columns).reshape(grid.shape)
    found = np.full((height, width), -1)
    for place in placements(grid, range(row, row + height), range(column, column + width)):
        assert (found[place.target] == -1).all(), "no cell is placed twice"
        found[place.target] = numbers[place.source]
    rows = np.arange(row, row + height) - grid.corner[0]
    columns = (np.arange(column, column + width) - grid.corner[1]) % 360
    there = ((rows >= 0) & (rows < grid.rows))[:, None] & (columns < grid.columns)
    expected = np.where(there, rows[:, None] * grid.columns + columns, -1)
    np.testing.assert_array_equal(found, expected)


@settings(deadline=None, max_examples=50)
@given(tiny_grids(), st.integers(-20, 100), st.integers(1, 90), st.integers(-40, 360), st.integers(1, 60))
def test_strips_cut_at_multiples_and_lose_nothing(grid, row, height, column, width):
    spans = range(row, row + height), range(column, column + width)
    strips = placements(grid, *spans, 16)
    whole, cut = (
        [
            (target[0].start + n, source[0].start + n, target[1], source[1])
            for target, source in found
            for n in range(source[0].stop - source[0].start)
        ]
        for found in (placements(grid, *spans), strips)
    )
    assert cut == whole
    assert all(source[0].start // 16 == (source[0].stop - 1) // 16 for _, source in strips)


def test_a_span_meets_both_ends_of_a_grid_that_is_almost_global():
    # columns 16 .. 371 of 360 round the globe: all but 12 .. 15
    grid = Grid(1.0, 90.0, -164.0, 180, 356)
    places = placements(grid, range(20), range(-20, 40))
    columns = {(place.target[1].start, place.target[1].stop): place.source[1] for place in places}
    assert columns == {(0, 32): slice(324, 356), (36, 60): slice(0, 24)}
