"""Predictors of the season."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from xland.biophysical.season import (
    BUCKET,
    DAYS,
    FEATURES,
    day_length,
    potential_evaporation,
    season_features,
    soil_water,
)
from xland.errors import ForcingError


@settings(max_examples=25, deadline=None)
@given(st.integers(0, 2**32 - 1))
def test_the_other_hemisphere_has_the_same_season_six_months_later(seed):
    random = np.random.default_rng(seed)
    tas = random.uniform(-40, 35, (4, 12))
    pr, latitude = random.gamma(0.5, 100, (4, 12)), random.uniform(-90, 90, 4)
    north = season_features(tas, pr, latitude)
    south = season_features(np.roll(tas, 6, axis=1), np.roll(pr, 6, axis=1), -latitude)
    assert north.shape == (4, 12, len(FEATURES))
    assert np.isfinite(north).all()
    np.testing.assert_allclose(np.roll(north, 6, axis=1), south, rtol=1e-4, atol=1e-4)


def test_evaporation_of_a_warm_month_is_about_that_of_grass():
    hours = np.full((1, 12), 12.0)
    month = potential_evaporation(np.full((1, 12), 20.0), hours)
    assert 70 < month[0, 0] < 110, "Hamon: 2.9 mm a day at 20 degrees Celsius and 12 hours"
    assert month[0, 0] / DAYS == pytest.approx(29.8 * 12 * 2.34 / 293.2, rel=0.01)


@settings(max_examples=25, deadline=None)
@given(st.integers(0, 2**32 - 1))
def test_plants_do_not_lose_more_water_than_falls_or_than_the_air_takes(seed):
    random = np.random.default_rng(seed)
    rain, demand = random.gamma(0.5, 100, (5, 12)), random.uniform(0, 200, (5, 12))
    full, actual = soil_water(rain, demand)
    assert (full >= 0).all()
    assert (full <= 1).all()
    assert (actual <= demand + 1e-9).all()
    assert (actual.sum(axis=1) <= rain.sum(axis=1) + BUCKET * 0.01).all(), "the water of the soil repeats itself"


def test_days_are_long_in_summer_and_never_longer_than_a_day():
    hours = day_length(np.array([70.0, 0.0, -70.0]))
    assert hours[0, 5] == pytest.approx(24)
    assert hours[2, 5] == pytest.approx(0)
    np.testing.assert_allclose(hours[1], 12)


@pytest.mark.parametrize(("tas", "pr"), [((2, 11), (2, 11)), ((2, 12), (3, 12))])
def test_a_climate_without_all_months_is_refused(tas, pr):
    with pytest.raises(ForcingError, match="cells, 12"):
        season_features(np.zeros(tas), np.zeros(pr), np.zeros(2))


def test_negative_rain_is_refused_and_nan_stays_nan():
    with pytest.raises(ForcingError, match="negative in 1 cells"):
        season_features(np.zeros((1, 12)), np.full((1, 12), -1.0), [0.0])
    tas = np.zeros((2, 12))
    tas[1, 3] = np.nan
    found = season_features(tas, np.ones((2, 12)), [0.0, 0.0])
    assert np.isfinite(found[0]).all()
    assert np.isnan(found[1]).all()
