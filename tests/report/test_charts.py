from __future__ import annotations

import re

import numpy as np
import pytest
from matplotlib.colors import to_hex

from tests.report.pages import Page
from xland.report import charts

NAN = float("nan")


def drawn(chart):
    (axes,) = chart.axes
    return axes


def test_bars_are_as_long_as_their_values_and_end_with_figure_and_name():
    chart = charts.bars(["urban", "forest"], ["model", "<i>"], [[0.5, 1.0], [0.25, NAN]])
    assert [each.get_width() for each in drawn(chart).patches] == [0.5, 0.25, 1.0, 0.0]
    text = charts.svg(chart, "IoU")
    assert {"0.500 model", "1.000 <i>", "0.250 model", "– <i>"} <= set(Page(text).texts)  # noqa: RUF001
    assert "<i>" not in text


def test_dots_leave_out_what_is_not_defined_and_draw_the_first_series_on_top():
    first, second = drawn(charts.dots(["a", "b"], ["model", "other"], [[0.0, 1.0], [NAN, 0.5]])).lines
    np.testing.assert_array_equal(first.get_xdata(), [0.0, NAN])
    np.testing.assert_array_equal(second.get_xdata(), [1.0, 0.5])
    assert first.get_zorder() > second.get_zorder()
    assert to_hex(first.get_color()) == charts.color(0)
    assert len(set(charts.MARKERS)) == len(set(charts.DASHES)) == len(set(charts.SERIES)) == 6
    axes = first.axes
    assert [each.get_text() for each in axes.get_yticklabels()] == ["a", "b"]
    bottom, top = axes.get_ylim()
    assert bottom > top  # rows are named from the top


def test_shares_are_laid_end_to_end_in_per_cent():
    parts = [("hit", "#1b6ca8"), ("miss", "#f0b429")]
    chart = charts.stacked({"model": [0.1, 0.05], "other": [NAN, 0.2]}, parts)
    found = [(each.get_x(), each.get_width(), to_hex(each.get_facecolor())) for each in drawn(chart).patches]
    hit, miss = "#1b6ca8", "#f0b429"
    assert found == [
        (0, pytest.approx(10), hit),
        (0, 0, hit),
        (pytest.approx(10), pytest.approx(5), miss),
        (0, pytest.approx(20), miss),
    ]
    assert {"hit", "miss", "model", "other", "20 %"} <= set(Page(charts.svg(chart, "label")).texts)


def test_lines_have_the_points_they_are_given_over_named_axes():
    series = {"a": ([0, 0.5, 1], [0, NAN, 1]), "b": (np.linspace(0, 1, 40), np.zeros(40))}
    chart = charts.lines(series, "across", "up", top=1, diagonal=True, columns=([0, 0.5, 1], [0.3, 0.1]))
    diagonal, a, b = drawn(chart).lines
    assert list(diagonal.get_xdata()) == list(diagonal.get_ydata()) == [0, 1]
    np.testing.assert_array_equal(a.get_ydata(), [0, NAN, 1])
    assert a.get_marker() == "o"
    assert b.get_marker() == "None", "many points have no markers"
    assert [(each.get_x(), each.get_height()) for each in drawn(chart).patches] == [(0, 0.3), (0.5, 0.1)]
    assert {"across", "up", "a", "b"} <= set(Page(charts.svg(chart, "label")).texts)
    chart = charts.lines({"a": ([0, 1], [1, 2])}, "cells", "up", ticks={0: "1", 1: "2 cells"})
    assert "2 cells" in Page(charts.svg(chart, "label")).texts


def test_a_drawing_says_what_it_shows_and_is_the_same_each_time():
    chart = charts.bars(["a"], ["m"], [[0.5]])
    text = charts.svg(chart, 'a "label"')
    (attributes,) = Page(text).elements("svg")
    assert dict(attributes)["aria-label"] == 'a "label"'
    assert charts.svg(charts.bars(["a"], ["m"], [[0.5]]), 'a "label"') == text
    # two drawings on one page share no identifier
    made = [charts.svg(charts.dots(["a"], ["m"], [[share]]), f"{share}") for share in (0.1, 0.9)]
    one, other = ({value for _, name, value in Page(text).attributes if name == "id"} for text in made)
    assert one
    assert not one & other


def test_a_drawing_is_there_for_wide_and_for_narrow_pages_with_text_of_the_same_size():
    names, groups = ["model", "mode of the observed cell"], ["grass_shrub", "tropics, 23.5°S to 23.5°N"]
    values = [[0.5, 0.9], [0.2, NAN]]
    for draw in (charts.bars, charts.dots):
        text = charts.both(draw, "IoU", groups, names, values)
        broad, slim = (dict(each) for each in Page(text).elements("svg"))
        assert (broad["class"], slim["class"]) == ("chart broad", "chart slim")
        assert (broad["style"], slim["style"]) == ("max-width:720px", "max-width:360px")
        sizes = {float(size) for size in re.findall(r"font-size: ([\d.]+)px", text)}
        assert sizes <= {11.0, 12.0}
        assert sizes
        ids = [value for _, name, value in Page(text).attributes if name == "id"]
        assert len(ids) == len(set(ids))


@pytest.mark.parametrize("width", [charts.WIDE, charts.NARROW])
def test_bars_leave_room_for_their_names_and_scales_end_where_values_end(width):
    chart = charts.bars(["urban"], ["mode of the observed cell"], [[0.6]], width=width)
    chart.canvas.draw()
    (axes,) = chart.axes
    (label,) = (text for text in axes.texts if "mode" in text.get_text())
    assert label.get_window_extent().x1 <= chart.bbox.x1
    lower, upper = drawn(charts.dots(["a", "b"], ["m"], [[0.31], [0.58]], width=width)).get_xlim()
    assert (lower, upper) == (pytest.approx(0.28), pytest.approx(0.62))
    assert drawn(charts.lines({"a": ([0, 8], [0, 0.7])}, "x", "y", width=width)).get_xlim() == (0, 8)
