from __future__ import annotations

import numpy as np
import xarray as xr

from xland.geo.grid import Grid
from xland.reading.variables import as_map
from xland.report.judgement import CHANGE_KINDS, look_over
from xland.scores.counts import BLANK
from xland.scores.regions import latitude_bands


def a_map(values, north=60.0, west=0.0):
    grid = Grid(1.0, north, west, *np.shape(values))
    data = xr.DataArray(np.asarray(values), {"lat": grid.latitude, "lon": grid.longitude}, ("lat", "lon"))
    return as_map(data, what="map")


OBSERVED = np.array([[0, 2, 2, 2], [0, 4, 4, 5]], dtype=np.uint8)
START = np.array([[4, 4, 4, 2], [0, 4, 4, 4]], dtype=np.uint8)
PREDICTED = np.array([[2, 2, 4, 2], [0, 5, 4, 3]], dtype=np.uint8)


def test_kinds_of_change_are_told_cell_by_cell():
    found = look_over({"a": a_map(PREDICTED)}, a_map(OBSERVED), start=a_map(START), fields={}, max_pixels=100)
    words = [["" if kind == BLANK else CHANGE_KINDS[kind] for kind in row] for row in found.changes]
    assert words == [["", "hit", "miss", "no change"], ["", "false alarm", "no change", "wrong hit"]]
    assert list(found.codes) == ["start", "observed", "a"]
    np.testing.assert_array_equal(found.sea, OBSERVED == 0)


def test_what_changes_most_stands_for_a_block_that_changes_at_all():
    found = look_over({"a": a_map(PREDICTED)}, a_map(OBSERVED), start=a_map(START), fields={}, max_pixels=2)
    assert found.step == 2
    assert [CHANGE_KINDS[kind] for kind in found.changes[0]] == ["hit", "miss"]


def test_differences_leave_out_ocean_and_what_was_not_observed():
    found = look_over({"a": a_map(PREDICTED), "b": a_map(OBSERVED)}, a_map(OBSERVED[:, :3]), fields={}, max_pixels=100)
    np.testing.assert_array_equal(found.differs["a"], [[np.nan, 0, 1, np.nan], [np.nan, 1, 0, np.nan]])
    assert np.nansum(found.differs["b"]) == 0
    assert (found.codes["observed"][:, 3] == BLANK).all()
    halves = look_over({"a": a_map(PREDICTED)}, a_map(OBSERVED), fields={}, max_pixels=2)
    np.testing.assert_allclose(halves.differs["a"], [[0.5, 0.5]])


def test_layers_keep_their_own_grid_and_regions_count_from_zero():
    frame = a_map(PREDICTED)
    coarse = xr.DataArray(np.ones((2, 2)), {"lat": [59.0, 57.0], "lon": [1.0, 3.0]}, ("lat", "lon"))
    fields = {"confidence": a_map(np.full((2, 4), 0.5)), "unmet": as_map(coarse, what="unmet")}
    found = look_over({"a": frame}, a_map(OBSERVED), regions=latitude_bands(frame), fields=fields, max_pixels=100)
    values, grid, sea = found.fields["confidence"]
    assert (values.shape, grid.shape) == ((2, 4), (2, 4))
    np.testing.assert_array_equal(sea, OBSERVED == 0)
    assert found.fields["unmet"][2] is None
    assert (found.regions == 0).all()
