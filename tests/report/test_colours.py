"""Colours are told apart by everybody."""

from __future__ import annotations

from itertools import pairwise

import pytest

from tests.report.colour_vision import VISION, nearest, seen
from xland.report.charts import SERIES
from xland.report.pictures import CHANGE_COLORS, OTHER_CLASS, SAME, SEA, cividis, ramp
from xland.vocabulary import CLASSES


def test_the_simulation_knows_what_is_confused():
    assert seen("#ffffff", "full") == pytest.approx([100, 0, 0], abs=0.02)
    red_and_green = ("#c0272d", "#1f6b3a")
    assert nearest(red_and_green, "full") > 80
    assert nearest(red_and_green, "no red") < 10


@pytest.mark.parametrize(("vision", "least"), [("full", 20), ("no red", 20), ("no green", 20), ("no blue", 16)])
def test_classes_are_told_apart(vision, least):
    assert nearest([each.color for each in CLASSES], vision) >= least


@pytest.mark.parametrize("vision", VISION)
def test_series_and_kinds_of_change_are_told_apart(vision):
    assert nearest(SERIES, vision) >= 15
    assert nearest((*CHANGE_COLORS, SEA), vision) >= 5
    assert nearest(CHANGE_COLORS, vision) >= 19


@pytest.mark.parametrize("vision", VISION)
def test_scales_grow_darker_or_lighter_all_the_way(vision):
    for scale in (ramp(SAME, OTHER_CLASS), cividis()):
        lightness = [seen(color, vision)[0] for color in scale]
        steps = [after - before for before, after in pairwise(lightness)]
        assert all(step < 0 for step in steps) or all(step > 0 for step in steps)
        assert abs(lightness[-1] - lightness[0]) > 60
