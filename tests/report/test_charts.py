from __future__ import annotations

import re

import pytest

from tests.report.pages import Page
from xland.report import charts
from xland.report.charts import Axis, Line


def rectangles(drawing):
    found = [dict(each) for each in Page(drawing).elements("rect")]
    return [(float(each["x"]), float(each["width"]), each.get("fill")) for each in found]


def test_bars_are_as_long_as_their_values_and_end_with_figure_and_name():
    drawing = charts.bars(["urban", "forest"], ["model", "<i>"], [[0.5, 1.0], [0.25, float("nan")]], "IoU")
    widths = [width for _, width, _ in rectangles(drawing)]
    assert widths[1] == pytest.approx(2 * widths[0]) == pytest.approx(4 * widths[2])
    assert widths[3] == 0
    texts = Page(drawing).texts
    assert {"0.500 model", "1.000 <i>", "0.250 model", "– <i>"} <= set(texts)  # noqa: RUF001
    assert "<i>" not in drawing


def test_series_differ_by_mark_and_dash_as_well_as_by_colour():
    count = len(charts.SERIES)
    marks = [re.sub('fill="[^"]*"', "", str(charts.key(place))) for place in range(count)]
    lines = [re.sub("stroke:#......|fill=.#......", "", str(charts.key(place, line=True))) for place in range(count)]
    assert len(set(marks)) == len(set(lines)) == count
    dashes = [re.search('stroke-dasharray:([^"]*)', each).group(1) for each in lines]
    assert len(set(dashes)) == count


def test_dots_leave_out_what_is_not_defined_and_draw_the_first_series_on_top():
    drawing = charts.dots(["a", "b"], [[0.0, 1.0], [float("nan"), 0.5]], "label")
    marks = [dict(each) for each in Page(drawing).elements("path")]
    assert [each["fill"] for each in marks] == [charts.color(1), charts.color(0), charts.color(1)]
    places = [float(re.match(r"translate\((\S+) ", each["transform"]).group(1)) for each in marks]
    assert places[2] == pytest.approx((places[0] + places[1]) / 2, abs=0.1)


def test_shares_are_laid_end_to_end():
    parts = [("hit", "#1b6ca8"), ("miss", "#f0b429")]
    drawing = charts.stacked([("model", [0.1, 0.05]), ("other", [0.0, 0.2])], parts, "label")
    (x0, w0, _), (x1, w1, _), _, (_, w3, _) = rectangles(drawing)
    assert x1 == pytest.approx(x0 + w0, abs=0.11)
    assert w3 == pytest.approx(4 * w1, rel=0.01) == pytest.approx(2 * w0, rel=0.01)
    assert "model, hit: 10.00 %" in Page(drawing).texts
    assert "20 %" in Page(drawing).texts
    assert charts.stacked([("model", [0.0, float("nan")])], parts, "label").count("<rect") == 2


def test_a_line_breaks_where_a_value_is_missing():
    gap = Line("a", [0, 0.2, 0.4, 0.6, 1.0], [0, 0.2, float("nan"), 0.6, 1.0])
    drawing = charts.lines([gap], Axis("x"), Axis("y"), "label", diagonal=True, columns=[(0, 0.5, 0.3)])
    lines = [dict(each)["points"] for each in Page(drawing).elements("polyline")]
    assert [len(each.split()) for each in lines] == [2, 2]
    assert len(Page(drawing).elements("path")) == 4
    assert lines[1].split()[-1] == "530,12"  # where both axes end
    assert "diagonal" in drawing
    bare = charts.lines([Line("a", [0, 1], [0, 1], marked=False)], Axis("x"), Axis("y"), "label")
    assert not Page(bare).elements("path")


def test_axes_end_at_round_numbers():
    assert [charts.nice(top) for top in (0.03, 0.2, 0.21, 22, 99, 1)] == pytest.approx([0.05, 0.2, 0.25, 25, 100, 1])
    assert charts.nice(0) == charts.nice(float("nan")) == 1
    axis = Axis.to("y", 0.22, 100)
    assert axis.end == 0.25
    assert [words for _, words in axis.ticks] == ["0", "5", "10", "15", "20", "25"]


def test_charts_say_what_they_show_and_marks_of_a_legend_do_not():
    for drawing in (
        charts.bars(["a"], ["m"], [[0.5]], 'a "label"'),
        charts.dots(["a"], [[0.5]], 'a "label"'),
        charts.lines([], Axis("x"), Axis("y"), 'a "label"'),
    ):
        (attributes,) = Page(drawing).elements("svg")
        assert dict(attributes)["aria-label"] == 'a "label"'
    (attributes,) = Page(charts.swatch("#ff0000")).elements("svg")
    assert dict(attributes)["aria-hidden"] == "true"
