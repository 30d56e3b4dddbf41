from __future__ import annotations

import json

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from xland.errors import GridError, NothingToScoreError
from xland.scores.seasonality import assess_season


def season(peak: float = 6.0, mean: float = 2.0, half: float = 1.0) -> np.ndarray:
    return mean + half * np.cos(2 * np.pi * (np.arange(12) - peak) / 12)


TRUTH = np.stack([season(6), season(0), season(3, half=0.1)])


def test_a_perfect_prediction_has_perfect_scores():
    found = assess_season(TRUTH, {"model": TRUTH})["all"]["model"]
    assert found == {"rmse": 0, "bias": 0, "r2": 1, "amplitude": 0, "phase": 1, "delay": pytest.approx(0)}


def test_an_offset_is_a_bias_and_nothing_else():
    found = assess_season(TRUTH, {"model": TRUTH + 0.5})["all"]["model"]
    assert (found["bias"], found["rmse"], found["phase"]) == pytest.approx((0.5, 0.5, 1))
    assert found["amplitude"] == pytest.approx(0)


@given(st.floats(0, 11.9), st.integers(-5, 5))
def test_a_season_that_is_late_has_that_delay_across_the_turn_of_the_year(peak, late):
    found = assess_season(season(peak)[None], {"model": season(peak + late)[None]})["all"]["model"]
    assert found["delay"] == pytest.approx(late)
    assert found["phase"] == (abs(late) <= 1)


def test_cells_without_a_season_have_no_phase():
    found = assess_season(TRUTH[2:], {"model": TRUTH[:1]})["all"]["model"]
    assert np.isnan(found["phase"])
    assert found["amplitude"] == pytest.approx(1.8)


def test_parts_are_masks_or_shares_and_weights_are_areas(tmp_path):
    predicted = TRUTH + np.array([1.0, 0.0, np.nan])[:, None]
    truth = np.where(np.arange(3)[:, None] == 2, np.nan, TRUTH)
    parts = {"north": [1, 0, 0], "forest": [0.25, 0.75, 1], "nowhere": [0, 0, 1]}
    scores = assess_season(truth, {"model": predicted}, parts=parts)
    assert {part: scores[part]["model"]["bias"] for part in ("all", "north", "forest")} == pytest.approx(
        {"all": 0.5, "north": 1, "forest": 0.25}
    )
    assert scores.cells == {"all": 2, "north": 1, "forest": 2, "nowhere": 0}
    assert assess_season(truth, {"model": predicted}, weights=[3, 1, 1])["all"]["model"]["bias"] == pytest.approx(0.75)
    content = json.loads(scores.to_json(tmp_path / "scores.json").read_text())
    assert content["nowhere"]["scores"]["model"]["rmse"] is None
    assert content["north"]["months"]["observed"] == pytest.approx(TRUTH[0].tolist())
    assert "north" in str(scores)


def test_what_cannot_be_scored_is_named():
    with pytest.raises(GridError, match="observed values must be"):
        assess_season(TRUTH[0], {})
    with pytest.raises(GridError, match="'model' has the shape"):
        assess_season(TRUTH, {"model": TRUTH[:2]})
    with pytest.raises(GridError, match="'model' is not finite in 1 of 3 observed cells"):
        assess_season(TRUTH, {"model": np.where(np.arange(3)[:, None] == 1, np.nan, TRUTH)})
    with pytest.raises(NothingToScoreError, match="no cell has an observed value"):
        assess_season(TRUTH * np.nan, {"model": TRUTH})
