"""Outputs and ways to keep totals that are registered from outside the package."""

from __future__ import annotations

import numpy as np
import pytest

import xland
from tests.worlds import FACTOR
from xland.cli import COMMANDS, main
from xland.errors import AllocationError, ModelError
from xland.geo.grid import Grid, class_shares
from xland.outputs import OUTPUTS, PACKED, Output, Pixels, register_output, renamed
from xland.report.judgement import extra_layers
from xland.totals.maps import fit_map
from xland.totals.modes import MODES, Mode, Totals, register_mode
from xland.vocabulary import FOREST

REGION = (-20, 2, 32, 42)


def doubt(pixels: Pixels) -> object:
    return 1 - pixels.probability.amax(dim=0)


def forest_only(probability, targets, area, valid, totals, start):
    """Keep the totals of forest alone."""
    only = np.full_like(targets, np.nan)
    only[FOREST] = targets[FOREST]
    return fit_map(probability, only, area, valid)


@pytest.fixture
def registered():
    register_output(Output("doubt", "probability of all other classes", doubt, sea=0, encoding=PACKED, look="Look."))
    register_mode(Mode("forest", forest_only))
    yield
    del OUTPUTS["doubt"], MODES["forest"]


def test_an_output_and_a_mode_go_through_accessor_command_line_store_and_report(world, model, registered, tmp_path):
    coarse, static, _ = world
    lazy = coarse.ai4land.downscale(
        model=model, static=static, years=2002, region=REGION, outputs=("probability", "doubt"), totals="forest"
    )
    found = lazy.compute()
    land = static["land_share"].sel(lat=found["lat"], lon=found["lon"]).values > 0
    best = found["probability"].max("class").values
    np.testing.assert_allclose(found["doubt"], np.where(land, 1 - best, 0), atol=1e-6)
    assert found.attrs["xland_conserve"] == "forest"
    coarse.to_netcdf(tmp_path / "states.nc")
    static.to_netcdf(tmp_path / "static.nc")
    arguments = [
        tmp_path / "states.nc",
        tmp_path / "a.zarr",
        "--model",
        model.folder,
        "--static",
        tmp_path / "static.nc",
    ]
    wishes = ["--years", 2002, "--outputs", "land_use", "doubt", "--totals", "forest", "--region", *REGION]
    assert main(["downscale", *map(str, arguments + wishes)]) == 0
    store = xland.open_store(tmp_path / "a.zarr").load()
    np.testing.assert_allclose(store["doubt"], found["doubt"], atol=0.0021)
    assert store["land_use"].attrs["ancillary_variables"] == "doubt"
    area = Grid.world(1).cell_area()[48:88]
    shares = class_shares(store["land_use"].values[0], FACTOR, area, 8)[FOREST]
    wanted = (coarse["primf"] + coarse["secdf"]).sel(time=2002, lat=slice(42, 2), lon=slice(-20, 32)).values
    near = np.abs(np.nan_to_num(wanted) - shares) < 1.05 / FACTOR**2
    assert near.mean() > 0.7, "where the land is large enough"
    assert "doubt" in extra_layers(store, 2002)
    assert "outputs" in COMMANDS["downscale"].options()


def test_names_are_taken_once_and_unknown_ones_are_refused_with_the_nearest(world, model):
    coarse, static, _ = world
    with pytest.raises(ModelError, match="there is an output 'margin' already"):
        register_output(OUTPUTS["margin"])
    with pytest.raises(AllocationError, match="there is a mode 'map' already"):
        register_mode(MODES["map"])
    with pytest.raises(ModelError, match="unknown outputs 'margn': did you mean 'margin'"):
        coarse.ai4land.downscale(model=model, static=static, outputs="margn")
    for wrong, said in (
        ({"mode": "map", "tolerance": 2}, "a number of fine pixels from 0 to 1, not 2"),
        ({"mode": "map", "tolerance": "1"}, "a number of fine pixels from 0 to 1, not '1'"),
        ({"mode": "fractions", "tolerance": 1}, "totals='fractions' has no tolerance: leave it out"),
        ({"mode": "map", "crosswalk": {"primf": "forest"}}, "the crosswalk is of type dict; pass an"),
        ({"mode": ["map"]}, "unknown mode of totals 'map'"),
    ):
        with pytest.raises(AllocationError, match=said):
            Totals(**wrong)


def test_what_earlier_versions_called_confidence_is_the_margin():
    earlier = {"long_name": "difference between the two largest class probabilities"}
    assert renamed("confidence", earlier) == "margin"
    assert renamed("confidence", OUTPUTS["confidence"].attributes_for()) == "confidence"
    assert renamed("land_use", {}) == "land_use"
