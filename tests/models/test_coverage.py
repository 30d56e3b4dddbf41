from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from xland.errors import CheckpointError
from xland.geo.grid import Grid
from xland.models import find_model, list_models
from xland.models.coverage import Coverage

WORLD = Grid.world(6)


def random_coverage(seed: int) -> Coverage:
    return Coverage(WORLD, np.random.default_rng(seed).random(WORLD.shape) < 0.3)


@settings(max_examples=25, deadline=None)
@given(st.integers(0, 999), st.integers(0, 25), st.integers(0, 59), st.integers(2, 5), st.integers(2, 30))
def test_a_part_of_the_globe_gets_its_cells_across_the_date_line_too(seed, row, column, rows, columns):
    coverage = random_coverage(seed)
    part = Grid(6.0, 90 - 6.0 * row, -180 + 6.0 * column, rows, columns)
    expected = np.roll(coverage.cells, -column, axis=1)[row : row + rows, :columns]
    np.testing.assert_array_equal(coverage.on(part), expected)


def test_nothing_is_known_beyond_a_regional_coverage_or_of_another_resolution():
    region = WORLD.window(slice(5, 10), slice(20, 30))
    coverage = Coverage(region, np.ones(region.shape, bool))
    assert coverage.on(WORLD).sum() == 50
    assert coverage.on(WORLD)[5:10, 20:30].all()
    assert not coverage.on(Grid.world(3)).any()


@settings(max_examples=10, deadline=None)
@given(st.integers(0, 999))
def test_it_survives_the_card(seed):
    coverage = random_coverage(seed)
    again = Coverage.from_dict(coverage.to_dict())
    assert again.grid == coverage.grid
    np.testing.assert_array_equal(again.cells, coverage.cells)


@pytest.mark.parametrize("change", [{"cells": "!"}, {"cells": ""}, {"rows": 10**6}, {"rows": "many"}, {"north": None}])
def test_damage_is_named(change):
    values = random_coverage(0).to_dict()
    values.update(change)
    with pytest.raises(CheckpointError, match="coverage"):
        Coverage.from_dict(values).on(WORLD)


@pytest.mark.parametrize("name", list_models())
def test_the_shipped_models_know_their_coverage(name):
    coverage = find_model(name).coverage
    assert coverage is not None
    assert coverage.grid.shape == (720, 1440)
    assert 0.15 < coverage.cells.mean() <= 1
