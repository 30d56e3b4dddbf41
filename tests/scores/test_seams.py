"""Whether a product jumps where its parts meet."""

from __future__ import annotations

import numpy as np
import pytest
import xarray as xr

from tests.scores.maps import on_grid
from xland.errors import TimeError
from xland.plot import class_series
from xland.scores.seams import check_seams

SOURCES = "reconstructed observed projected"


def product(flips, sources):
    """Maps in which so many cells change from one year to the next."""
    maps, at = [np.full((6, 10), 4, np.uint8)], 0
    for count in flips:
        later = maps[-1].copy()
        later.ravel()[at : at + count], at = 2, at + count
        maps.append(later)
    series = xr.concat([on_grid(each, north=30.0) for each in maps], xr.Variable("time", range(2001, 2001 + len(maps))))
    series = series.assign_coords(source=("time", sources))
    series["source"].attrs["flag_meanings"] = SOURCES
    return series.rename("land_use")


def test_change_at_the_seams_is_compared_with_that_within_the_parts(tmp_path):
    found = check_seams(product([3, 2, 4, 3, 9, 1], [0, 0, 0, 1, 1, 2, 2]).chunk(time=1))
    assert found.places == (2, 4)
    np.testing.assert_allclose(found.changed, np.array([3, 2, 4, 3, 9, 1]) / 60, atol=0.01)
    assert [found.jumps(at) for at in found.places] == [True, True]
    assert not found.ok
    assert "2005 to 2006" in str(found)
    assert "JUMPS" in str(found)
    assert [each["jumps"] for each in found.to_dict()["seams"]] == [True, True]
    np.testing.assert_allclose(found.areas.sum("class"), found.areas.sum("class")[0])
    class_series(found.areas, path=tmp_path / "areas.png")
    assert (tmp_path / "areas.png").stat().st_size > 10_000


def test_a_seam_that_changes_no_more_than_its_parts_is_no_jump():
    found = check_seams(product([3, 3, 4], [0, 0, 1, 1]))
    assert found.ok
    assert "no jump" in str(found)


def test_a_product_without_sources_is_refused():
    with pytest.raises(TimeError, match="source along them: give one made by reconstruct"):
        check_seams(product([1], [0, 0]).drop_vars("source"))
