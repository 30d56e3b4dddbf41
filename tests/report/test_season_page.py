from __future__ import annotations

import re

import numpy as np
import pytest
import xarray as xr

from xland.errors import GridError
from xland.geo.grid import Grid
from xland.report.season_page import season_page, season_section
from xland.scores.seasonality import assess_season

GRID = Grid(0.25, 50.0, 5.0, 3, 4)
CYCLE = 2 - np.cos(2 * np.pi * (np.arange(12) - 0.5) / 12)
OBSERVED = CYCLE[:, None, None] * np.linspace(0.5, 1.5, 12).reshape(GRID.shape)
PARTS = {"north": np.arange(12) < 4, "nowhere": np.zeros(12)}


def on_grid(values):
    return xr.DataArray(values, {"lat": GRID.latitude, "lon": GRID.longitude}, ("month", "lat", "lon"))


def scores():
    cells = OBSERVED.reshape(12, -1).T
    return assess_season(cells, {"model": cells + 0.5, "table": cells * 0}, parts=PARTS)


def test_the_page_shows_cycles_scores_and_the_largest_and_smallest_month(tmp_path):
    maps = {"observed": on_grid(OBSERVED), "model": on_grid(OBSERVED + 0.5).isel(lat=slice(None, None, -1))}
    page = season_page(scores(), tmp_path / "season.html", maps=maps, notes=["A note."]).read_text()
    assert "The largest month" in page
    assert "July, in which the observed mean is largest" in page
    assert page.count("<img") == 4
    assert "A note." in page
    assert {"observed", "model", "table"} <= set(re.findall(r">(\w+)<", page))
    assert not re.search(r"(src|href)=.https?:", page)


def test_parts_without_cells_are_left_out_and_each_other_one_has_a_chart():
    section = season_section(scores())
    assert [type(part).__name__ for part in section.parts] == ["Chart", "Table"] * 2
    assert [cell.text for cell in section.parts[1].rows[0].cells[:2]] == ["0.500", "0.500"]


def test_a_map_without_twelve_months_is_named():
    with pytest.raises(GridError, match=r"map 'model' has the dimensions .*twelve months"):
        season_section(scores(), {"model": on_grid(OBSERVED).isel(month=slice(3))})
