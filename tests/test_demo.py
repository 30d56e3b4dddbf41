"""The demo leaves all it promises, on real data, for a small region."""

from __future__ import annotations

import json

import intake
import pytest
import rich
import xarray as xr

from xland.demo import demo

pytestmark = [pytest.mark.pip_data, pytest.mark.usefixtures("reference_data")]


def test_the_demo_leaves_maps_catalog_picture_report_and_scores(tmp_path, capsys, monkeypatch):
    monkeypatch.setenv("COLUMNS", "80")
    rich.reconfigure(width=80)  # the console of progress bars keeps the width that it began with
    results = demo(tmp_path, region=(-6, 42, 0, 48))
    shown = capsys.readouterr().out.replace(str(tmp_path), "")
    assert [line for line in shown.splitlines() if len(line) > 80] == []
    assert results.store.exists()
    assert results.picture.read_bytes().startswith(b"\x89PNG")
    assert "The coarse input is made from the observed map itself" in results.report.read_text()
    opened = intake.open_catalog(str(results.catalog))["land-use-2019"].to_dask()
    assert opened["land_use"].shape == (1, 120, 120)
    assert opened.set_coords("spatial_ref")["land_use"].rio.crs.to_epsg() == 4326
    scores = json.loads(results.scores.read_text())["scores"]
    assert list(scores) == ["model", "crosswalk", "most frequent class", "mode of the observed cell"]
    for each in scores.values():
        assert set(each) == {"all", "land", "mixed"}
        for domain in each.values():
            assert 0 < domain["area"]["accuracy"] <= 1
            assert {"miou", "iou"} <= set(domain["area"])
    mixed = {name: each["mixed"]["area"]["accuracy"] for name, each in scores.items()}
    assert mixed["model"] > max(mixed["crosswalk"], mixed["most frequent class"])


def test_the_luh2_file_can_be_used_instead(luh2_path, tmp_path):
    found = demo(tmp_path, forcing=luh2_path, region=(-6, 42, 0, 48))
    with xr.open_zarr(found.store) as opened:
        assert opened["year"].values.tolist() == [2015]
    assert "LUH2 of 2015" in found.report.read_text()
