"""Colours are told apart by everybody, also by people who see no red, green or blue."""

from __future__ import annotations

from itertools import combinations, pairwise

import numpy as np
import pytest

from xland.report.charts import SERIES
from xland.report.pictures import CHANGE_COLORS, OTHER_CLASS, SAME, SEA, cividis, ramp
from xland.vocabulary import CLASSES

VISION = {
    "full": np.eye(3),
    "no red": [[0.152286, 1.052583, -0.204868], [0.114503, 0.786281, 0.099216], [-0.003882, -0.048116, 1.051998]],
    "no green": [[0.367322, 0.860646, -0.227968], [0.280085, 0.672501, 0.047413], [-0.011820, 0.042940, 0.968881]],
    "no blue": [[1.255528, -0.076749, -0.178779], [-0.078411, 0.930809, 0.147602], [0.004733, 0.691367, 0.303900]],
}
"""Linear RGB of what is seen (Machado et al. 2009, doi 10.1109/TVCG.2009.113, full severity)."""

_XYZ = [[0.4124564, 0.3575761, 0.1804375], [0.2126729, 0.7151522, 0.0721750], [0.0193339, 0.1191920, 0.9503041]]
_WHITE = [0.95047, 1.0, 1.08883]


def seen(color, vision):
    """Return a colour as it is seen: CIELAB (L, a, b)."""
    value = np.array([int(color[i : i + 2], 16) for i in (1, 3, 5)]) / 255
    linear = np.where(value <= 0.04045, value / 12.92, ((value + 0.055) / 1.055) ** 2.4)
    xyz = np.array(_XYZ) @ np.clip(np.array(VISION[vision]) @ linear, 0, 1) / _WHITE
    f = np.where(xyz > (6 / 29) ** 3, np.cbrt(xyz), xyz / (3 * (6 / 29) ** 2) + 4 / 29)
    return np.array([116 * f[1] - 16, 500 * (f[0] - f[1]), 200 * (f[1] - f[2])])


def nearest(colors, vision):
    """Return the smallest distance between any two of the colours, in CIELAB units."""
    return min(float(np.linalg.norm(seen(a, vision) - seen(b, vision))) for a, b in combinations(colors, 2))


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
