from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from tests.worlds import FINE
from xland.errors import ConfigurationError
from xland.geo.grid import Grid
from xland.geo.split import (
    CELL_COLUMNS,
    CELL_ROWS,
    CONTINENTS,
    LAND_CELLS,
    Part,
    assign_cells,
    assign_years,
    cell_of,
    divide,
    find_cells,
)

MASKS = hnp.arrays(bool, (CELL_ROWS, CELL_COLUMNS))


def counts(parts):
    return [int((parts == part).sum()) for part in (Part.TRAIN, Part.VALIDATION, Part.TEST)]


@settings(max_examples=15, deadline=None)
@given(MASKS, st.integers(0, 1000))
def test_cells_with_land_and_no_others_are_divided_five_to_one_to_one(has_land, seed):
    parts = assign_cells(has_land, seed)
    np.testing.assert_array_equal(parts, assign_cells(has_land, seed))
    np.testing.assert_array_equal(parts == Part.NONE, ~has_land)
    train, validation, test = counts(parts)
    assert train + validation + test == has_land.sum()
    whole = int(has_land.sum()) // 7
    assert 5 * whole <= train <= 5 * whole + 5
    assert whole <= validation <= whole + 1
    assert whole <= test <= whole + 1


def test_the_split_of_the_shipped_models_does_not_change():
    """Cards name seed and rule only: another outcome would move test cells into training."""
    everywhere = np.ones((30, 30), dtype=bool)
    parts = assign_cells(everywhere, 0)
    assert len({assign_cells(everywhere, seed).tobytes() for seed in range(5)}) == 5
    assert parts[0, :14].tolist() == [0, 0, 0, 2, 1, 0, 0, 1, 0, 0, 2, 0, 0, 0]
    assert parts[1, -14:].tolist() == [0, 2, 0, 2, 1, 0, 0, 0, 0, 0, 0, 1, 2, 0]


def test_every_latitude_and_longitude_sees_every_part():
    parts = assign_cells(np.ones((30, 30), dtype=bool))
    for cells in (*np.split(parts, 10), *np.split(parts, 10, axis=1)):
        assert {Part.VALIDATION, Part.TEST} <= set(np.unique(cells))


@settings(max_examples=25, deadline=None)
@given(st.floats(-90, 90), st.floats(-360, 540))
def test_points_lie_in_the_cell_that_holds_them(latitude, longitude):
    row, column = cell_of(np.array(latitude), np.array(longitude))
    assert 0 <= row < 30
    assert 0 <= column < 30
    assert 90 - 6 * (row + 1) - 1e-9 <= latitude <= 90 - 6 * row + 1e-9
    east = (longitude + 180) % 360
    assert 12 * column - 1e-9 <= east <= 12 * (column + 1) + 1e-9
    assert cell_of(np.array([90.0, -90.0]), np.array([-180.0, 179.99]))[1].tolist() == [0, 29]


def test_parts_never_share_a_cell_and_what_lies_south_of_the_limit_takes_no_part():
    pixels = divide(FINE, seed=3).reshape(30, 6, 30, 12)  # of the tiny world, one degree
    assert (pixels == pixels[:, :1, :, :1]).all()
    cells = counts(pixels[:, 0, :, 0])
    assert sum(cells) == LAND_CELLS.sum()
    assert cells[0] / sum(cells) == pytest.approx(5 / 7, abs=0.03)
    south = divide(FINE, seed=3, southern_limit=-30)
    np.testing.assert_array_equal(south, np.where(FINE.latitude[:, None] < -30, Part.NONE, divide(FINE, seed=3)))


@settings(max_examples=15, deadline=None)
@given(st.integers(0, 25), st.integers(0, 28), st.integers(2, 20), st.integers(2, 20), st.integers(0, 50))
def test_a_region_has_the_split_and_the_cells_of_the_globe(row, column, rows, columns, seed):
    """Else a model of a region would learn from cells that others hold out."""
    part = (slice(5 * row, 5 * row + rows), slice(12 * column, 12 * column + columns))
    region = FINE.window(*part)
    np.testing.assert_array_equal(divide(region, seed), divide(FINE, seed)[part])
    cells = CONTINENTS["africa"]
    np.testing.assert_array_equal(find_cells(region, cells), find_cells(FINE, cells)[part])


@pytest.mark.parametrize("resolution", [0.5, 2.0])
def test_the_split_does_not_depend_on_the_resolution(resolution):
    grid = Grid.world(resolution)
    rows, columns = (90 - grid.latitude).astype(int), (grid.longitude + 180).astype(int)
    np.testing.assert_array_equal(divide(grid), divide(FINE)[rows][:, columns])


@settings(max_examples=20, deadline=None)
@given(st.lists(st.integers(850, 2100), unique=True))
def test_no_year_serves_for_both_training_and_test(years):
    parts = assign_years(years)
    assert list(parts) == years
    assert {y for y, p in parts.items() if p == Part.TRAIN} == {y for y in years if 1960 <= y <= 2000}
    assert {y for y, p in parts.items() if p == Part.TEST} == {y for y in years if 2001 <= y <= 2015}


@pytest.mark.parametrize(("train", "test"), [((1960, 2000), (2000, 2010)), ((2000, 1990), (2001, 2002))])
def test_years_that_overlap_or_run_backwards_are_refused(train, test):
    with pytest.raises(ConfigurationError, match="without overlap"):
        assign_years([1990], train, test)


def test_every_cell_with_land_is_on_one_continent():
    total = np.sum([cells.astype(int) for cells in CONTINENTS.values()], axis=0)
    np.testing.assert_array_equal(total, LAND_CELLS.astype(int))
    assert LAND_CELLS.sum() == 427


@pytest.mark.parametrize(
    ("continent", "places"),
    {
        "africa": [(-1.5, 36.5), (30.5, 31.5), (-19.5, 47.5), (15.5, -23.5)],
        "asia": [(39.5, 33.5), (24.5, 46.5), (66.5, -172.5), (-6.5, 106.5), (56.5, 61.5)],
        "europe": [(48.5, 2.5), (64.5, -18.5), (37.5, -25.5), (56.5, 58.5)],
        "north-america": [(72.5, -40.5), (21.5, -79.5), (12.5, -86.5), (56.5, -158.5)],
        "oceania": [(-33.5, 150.5), (-5.5, 144.5), (20.5, -156.5), (-41.5, 174.5)],
        "south-america": [(-3.5, -60.5), (8.5, -72.5), (-52.5, -70.5)],
    }.items(),
)
def test_places_are_on_the_continent_that_everyone_knows(continent, places):
    there = find_cells(FINE, CONTINENTS[continent])
    assert all(there[int(90 - lat), int(lon + 180)] for lat, lon in places)


def test_cells_of_another_grid_are_refused():
    with pytest.raises(ConfigurationError, match="array of 30 x 30, not of shape"):
        find_cells(FINE, divide(FINE) == Part.TEST)
