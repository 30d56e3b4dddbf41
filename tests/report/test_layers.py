from __future__ import annotations

import numpy as np
import pytest
import xarray as xr

from xland.errors import GridError, TimeError
from xland.report.judgement import drawn_fields, extra_layers

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
