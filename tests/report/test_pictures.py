from __future__ import annotations

import numpy as np
from matplotlib.colors import to_hex

from tests.report.pages import image
from xland.geo.grid import Grid
from xland.report.pictures import SEA, code_picture, extent, ramp, scale_picture
from xland.scores.counts import BLANK

GRID = Grid(1.0, 10.0, 0.0, 2, 3)


def test_codes_have_their_colours_and_no_data_is_clear():
    codes = np.array([[0, 1, BLANK], [1, 1, 0]], dtype=np.uint8)
    shown = np.asarray(image(code_picture(codes, ["#102030", "#405060"], GRID, "alt", "caption").source))
    assert tuple(shown[0, 0]) == (16, 32, 48, 255)
    assert tuple(shown[1, 1]) == (64, 80, 96, 255)
    assert shown[0, 2, 3] == 0


def test_values_run_from_the_first_colour_to_the_last_and_the_sea_lies_above():
    values = np.array([[0.0, 5.0, 10.0], [-3.0, np.nan, 12.0]])
    sea = np.array([[False, True, False], [False, False, False]])
    shown = np.asarray(image(scale_picture(values, sea, ["#000000", "#ffffff"], (0, 10), GRID, "alt", "c").source))
    assert shown[0, 0, 0] == shown[1, 0, 0] == 0
    assert shown[0, 2, 0] == shown[1, 2, 0] == 255
    assert to_hex(shown[0, 1] / 255) == SEA
    assert shown[1, 1, 3] == 0
    # a scale of one value is drawn without a warning
    shown = scale_picture(np.zeros((2, 3)), None, ramp("#000000", "#ffffff", 4), (0, 0), GRID, "alt", "c")
    assert np.asarray(image(shown.source))[..., 0].max() == 0


def test_regional_maps_keep_their_proportions():
    codes = np.zeros((10, 10), np.uint8)
    assert code_picture(codes, ["#000000"], Grid(1.0, 65.0, 0.0, 10, 10), "a", "c").ratio == 0.5
    assert code_picture(codes, ["#000000"], Grid(1.0, 5.0, 0.0, 10, 10), "a", "c").ratio == 1
    assert code_picture(np.zeros((18, 36), np.uint8), ["#000000"], Grid.world(10.0), "a", "c").ratio == 2


def test_ramps_and_the_extent_in_words():
    assert ramp("#000000", "#ffffff", 3) == ["#000000", "#808080", "#ffffff"]
    assert extent(Grid(1.0, 10.0, 170.0, 20, 20)) == "10°S to 10°N, 170°E to 170°W"
