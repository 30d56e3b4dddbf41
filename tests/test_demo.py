"""The demo leaves all it promises, on real data, for a small region."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import intake
import pytest
import rich

from xland import cli
from xland.demo import _next_lines, demo
from xland.errors import StoreError

REGION = (0, 40, 6, 46)


@pytest.mark.pip_data
@pytest.mark.usefixtures("reference_data")
def test_the_demo_leaves_maps_catalog_picture_report_and_scores(tmp_path, capsys, monkeypatch):
    monkeypatch.setenv("COLUMNS", "80")
    rich.reconfigure(width=80)  # the console of progress bars keeps the width that it began with
    results = demo(tmp_path, region=REGION)
    shown = capsys.readouterr().out.replace(str(tmp_path), "")
    assert [line for line in shown.splitlines() if len(line) > 80] == []
    assert results.store.exists()
    assert results.picture.read_bytes().startswith(b"\x89PNG")
    assert "The coarse input is LUH2" in results.report.read_text()
    opened = intake.open_catalog(str(results.catalog))["land-use-2015"].to_dask()
    assert opened["land_use"].shape == (1, 120, 120)
    assert opened.set_coords("spatial_ref")["land_use"].rio.crs.to_epsg() == 4326
    found = json.loads(results.scores.read_text())
    assert found["cells"] == "held-out cells of the split"
    assert list(found["scores"]) == ["model", "crosswalk", "most frequent class", "mode of the observed cell"]
    for each in found["scores"].values():
        assert set(each) == {"all", "land", "mixed"}
        for domain in each.values():
            assert 0 < domain["area"]["accuracy"] <= 1
            assert {"miou", "iou"} <= set(domain["area"])
    land = {name: each["land"]["area"]["accuracy"] for name, each in found["scores"].items()}
    assert land["model"] > max(land["crosswalk"], land["most frequent class"])
    first, second = shown.split("a second example: fractions-0p05")
    assert f"{land['model']:.3f}" in first
    assert "made from the observed map itself" in second
    assert shown.rstrip().splitlines()[-3].strip() == "Go on with:"
    with pytest.raises(StoreError, match=r"holds land_use.zarr, catalog.yaml, .*: pass overwrite=True to replace them"):
        demo(tmp_path, region=REGION)


def test_the_last_lines_activate_the_environment_where_the_command_is_not_found(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    activate = tmp_path / ".venv" / "bin" / "activate"
    activate.parent.mkdir(parents=True)
    activate.touch()
    monkeypatch.setattr(sys, "prefix", str(tmp_path / ".venv"))
    monkeypatch.setenv("PATH", str(tmp_path))
    first, second = _next_lines(Path("demo-output/land_use.zarr"))
    assert first == "source .venv/bin/activate"
    cli.application("evaluate").parse_args(second.split()[1:], exit_on_error=False)
