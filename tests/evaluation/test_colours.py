"""Colours are told apart by everybody."""

from __future__ import annotations

import pytest

from tests.evaluation.colour_vision import nearest, seen
from xland.vocabulary import CLASSES


def test_the_simulation_knows_what_is_confused():
    assert seen("#ffffff", "full") == pytest.approx([100, 0, 0], abs=0.02)
    red_and_green = ("#c0272d", "#1f6b3a")
    assert nearest(red_and_green, "full") > 80
    assert nearest(red_and_green, "no red") < 10


@pytest.mark.parametrize(("vision", "least"), [("full", 20), ("no red", 20), ("no green", 20), ("no blue", 16)])
def test_classes_are_told_apart(vision, least):
    assert nearest([each.color for each in CLASSES], vision) >= least
