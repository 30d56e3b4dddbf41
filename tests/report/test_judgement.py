from __future__ import annotations

import numpy as np
import pytest
import xarray as xr

from tests.scores.maps import a_map
from xland.errors import GridError, TimeError
from xland.reading.variables import as_map
from xland.report.judgement import CHANGE_KINDS, drawn_fields, extra_layers, look_over
from xland.scores.counts import BLANK
from xland.scores.regions import latitude_bands

COORDS = {"lat": [1.5, 0.5], "lon": [0.5, 1.5]}


def test_margin_is_made_from_probabilities_where_it_is_missing():
    shares = np.array([[[0.7, 0.4], [0.5, 1.0]], [[0.2, 0.4], [0.3, 0.0]], [[0.1, 0.2], [0.2, 0.0]]], np.float32)
    store = xr.Dataset({"probability": (("class", "lat", "lon"), shares)}, COORDS)
    found = extra_layers(store, None)
    np.testing.assert_allclose(found["margin"], [[0.5, 0.0], [0.2, 1.0]], atol=1e-6)
    renamed = extra_layers(store.rename({"class": "cover"}), None)
    np.testing.assert_array_equal(renamed["margin"], found["margin"])
    own = store.assign(margin=(("lat", "lon"), np.zeros((2, 2))))
    assert float(extra_layers(own, None)["margin"].max()) == 0


def test_probabilities_without_one_dimension_of_classes_are_refused():
    for dims in (("lat", "lon"), ("member", "class", "lat", "lon")):
        values = xr.DataArray(np.ones((2,) * len(dims)), COORDS, dims)
        with pytest.raises(GridError, match=rf"'probability' has the dimensions {', '.join(dims)}: beside time"):
            extra_layers(values.to_dataset(name="probability"), None)


def test_the_layers_of_the_year_are_taken():
    values = np.arange(8.0).reshape(2, 2, 2)
    store = xr.Dataset(
        dict.fromkeys(drawn_fields(), (("time", "lat", "lon"), values)), {**COORDS, "time": [2000, 2001]}
    )
    assert float(extra_layers(store, 2001)["spread"].min()) == 4
    with pytest.raises(TimeError, match="layer 'confidence' has 2 years, but not 1999"):
        extra_layers(store, 1999)
    assert extra_layers(store["spread"], 2001) == {}


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
