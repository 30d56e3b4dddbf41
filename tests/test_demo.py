"""The demo leaves all it promises, on real data, for a small region."""

from __future__ import annotations

import json

import intake
import pytest
import xarray as xr

from xland.demo import demo

pytestmark = [pytest.mark.pip_data, pytest.mark.usefixtures("reference_data")]
BRITAIN_AND_FRANCE = (-6, 42, 6, 54)


@pytest.fixture(scope="module")
def results(tmp_path_factory, reference_data):
    return demo(tmp_path_factory.mktemp("demo"), region=BRITAIN_AND_FRANCE)


def test_every_result_is_there(results):
    for path in (results.store, results.catalog, results.picture, results.report, results.scores):
        assert path.exists(), path
    assert results.picture.read_bytes().startswith(b"\x89PNG")
    assert results.report.stat().st_size > 50_000


def test_the_catalog_opens_with_intake(results):
    opened = intake.open_catalog(str(results.catalog))["land-use-2019"].to_dask()
    assert opened["land_use"].shape == (1, 240, 240)
    assert opened.set_coords("spatial_ref")["land_use"].rio.crs.to_epsg() == 4326


def test_scores_hold_the_model_and_every_baseline_in_every_domain(results):
    scores = json.loads(results.scores.read_text())["scores"]
    assert list(scores) == ["model", "crosswalk", "most frequent class", "mode of the observed cell"]
    for each in scores.values():
        assert set(each) == {"all", "land", "mixed"}
        for domain in each.values():
            assert 0 < domain["area"]["accuracy"] <= 1
            assert {"miou", "iou"} <= set(domain["area"])
    mixed = {name: each["mixed"]["area"]["accuracy"] for name, each in scores.items()}
    assert mixed["model"] > max(mixed["crosswalk"], mixed["most frequent class"])


def test_the_report_says_what_the_coarse_input_is(results):
    assert "The coarse input is made from the observed map itself" in results.report.read_text()


def test_the_luh2_file_can_be_used_instead(luh2_path, tmp_path):
    found = demo(tmp_path, forcing=luh2_path, region=(-6, 42, 0, 48))
    with xr.open_zarr(found.store) as opened:
        assert opened["year"].values.tolist() == [2015]
    assert "LUH2 of 2015" in found.report.read_text()
