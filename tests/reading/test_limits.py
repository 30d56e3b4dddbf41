"""What predictors may be, on land and in the sea."""

import numpy as np
import pytest

from xland.errors import StaticError
from xland.reading.limits import check_share, check_unknown_land, checked_predictor

LAT, LON = np.array([49.5, 48.5]), np.array([10.5, 11.5, 12.5])
LAND = np.array([[True, True, False], [True, False, False]])


def checked(name, value, row=1, column=0):
    values = np.full((2, 3), 0.5, np.float32)
    values[row, column] = value
    return checked_predictor(name, values, LAND, (LAT, LON))


@pytest.mark.parametrize(
    ("name", "value", "message"),
    [
        ("elevation", -9999, r"elevation: 1 cells of land below -500 \(lowest -9999\), the first at latitude 48.5, "),
        ("elevation", 1e30, "fill value that no attribute declares"),
        ("elevation", np.nan, "NaN or infinite"),
        ("slope", -0.2, r"below 0 \(lowest -0.2\)"),
        ("cos_aspect", 1.2, "above 1"),
        ("lake_share", 40, "percent"),
        ("coldest_month", 280, "above 70"),
        ("anything", -9999, r"are -9999, .*fill value"),
    ],
)
def test_values_that_cannot_be_are_refused_on_land(name, value, message):
    with pytest.raises(StaticError, match=message):
        checked(name, value)


@pytest.mark.parametrize("turn", [np.deg2rad, np.flipud, np.zeros_like, lambda values: values + 1])
def test_distances_from_the_equator_are_the_latitudes_of_their_rows(turn):
    rows = np.repeat(np.array([[49.5], [47.5]], np.float32), 3, axis=1)
    place = np.array([49.5, 47.5]), LON
    assert checked_predictor("abs_latitude", rows, LAND, place) is rows
    assert checked_predictor("abs_latitude", rows, LAND, (-place[0], LON)) is rows
    with pytest.raises(StaticError, match="abs_latitude: 3 cells of land are not the latitude of their row"):
        checked_predictor("abs_latitude", turn(rows), LAND, place)


@pytest.mark.parametrize("value", [-9999, 1e30, np.inf, np.nan])
def test_in_the_sea_they_are_no_data(value):
    values = checked("elevation", value, column=2)
    assert np.isnan(values[1, 2])
    assert np.isfinite(values).sum() == 5
    good = np.full((2, 3), 100.0, np.float32)
    assert checked_predictor("elevation", good, LAND, (LAT, LON)) is good


@pytest.mark.parametrize(("value", "message"), [(100, "percent"), (-1, r"below 0 \(lowest -1\)"), (np.inf, "above 1")])
def test_a_share_of_land_is_a_fraction_everywhere(value, message):
    share = np.full((2, 3), 0.5)
    share[0, 1] = value
    with pytest.raises(StaticError, match=f"land_share: 1 cells .*{message}"):
        check_share("land_share", share, (LAT, LON))


def test_an_unknown_share_is_refused_where_the_forcing_has_data_and_only_there():
    unknown = np.array([[True, False, False], [False, False, True]])
    states = {"primf": np.where(unknown, np.nan, 0.5), "secma": np.ones((2, 3))}
    check_unknown_land("land_share", unknown, states, (LAT, LON))
    with pytest.raises(StaticError, match=r"land_share: 2 cells .*, the first at latitude 49.5, longitude 10.5"):
        check_unknown_land("land_share", unknown, {"primf": np.full((2, 3), 0.5)}, (LAT, LON))
