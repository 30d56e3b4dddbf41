"""What others register goes through accessor, command line, store and report, like what the package brings."""

from __future__ import annotations

import json
from types import SimpleNamespace

import numpy as np
import pytest
from torch import nn

import xland
from tests.worlds import tiny_network, tiny_world
from xland.cli import main
from xland.errors import AllocationError, ModelError
from xland.models.checkpoint import save_checkpoint
from xland.models.networks import architecture
from xland.models.networks.architecture import register_network
from xland.outputs import OUTPUTS, Output, register_output, renamed
from xland.scores.measures import SCORES, Score, register_score
from xland.totals.cells import Fitted
from xland.totals.modes import MODES, Mode, Totals, register_mode

REGION = (0, 0, 40, 40)
LOOK = "In bright places the model hesitates."


class Brightness(nn.Module):
    """Scores of each pixel from its own channels."""

    def __init__(self, inputs, _):
        super().__init__()
        self.head = nn.Conv2d(inputs.channels, len(inputs.classes), 1)

    def forward(self, x):
        return self.head(x)


def doubt(pixels):
    return 1 - pixels.probability.max(dim=0).values


def largest(probability, targets, _area, valid, _totals, _start):
    """The class with the largest known total in each coarse cell, everywhere in it."""
    rows, columns = valid.shape[0] // targets.shape[1], valid.shape[1] // targets.shape[2]
    codes = np.nan_to_num(targets).argmax(axis=0).repeat(rows, axis=0).repeat(columns, axis=1)
    return Fitted(np.zeros(targets.shape[1:]), codes=np.where(valid, codes, 0).astype(np.uint8))


def urban_found(matrix, _classes):
    return float(matrix[1, 1] / matrix[1].sum()) if matrix[1].sum() else float("nan")


@pytest.fixture(scope="module", autouse=True)
def registered():
    register_output(Output("doubt", "what the best class lacks to certainty", doubt, sea=0, look=LOOK))
    register_mode(Mode("largest", largest))
    register_network("brightness", Brightness)
    register_score(Score("urban_found", urban_found, "towns found"))
    yield
    del OUTPUTS["doubt"], MODES["largest"], SCORES["urban_found"], architecture._kinds["brightness"]


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """Maps and a report with all four, by the accessor and by the command line."""
    folder = tmp_path_factory.mktemp("extending")
    coarse, static, maps = tiny_world((2000,))
    for name, each in (("states", coarse), ("static", static), ("maps", maps)):
        each.to_netcdf(folder / f"{name}.nc")
    save_checkpoint(folder / "bright", tiny_network(kind="brightness"), {"name": "bright"})
    outputs = ("land_use", "probability", "doubt")
    planned = coarse.ai4land.downscale(
        model=folder / "bright", static=static, region=REGION, outputs=outputs, totals="largest"
    )
    arguments = ["downscale", folder / "states.nc", folder / "a.zarr", "--model", folder / "bright"]
    arguments += ["--static", folder / "static.nc", "--region", *REGION, "--outputs", *outputs, "--totals", "largest"]
    assert main([str(each) for each in arguments]) == 0
    page, numbers = folder / "report.html", folder / "report.json"
    arguments = ["report", folder / "a.zarr", folder / "maps.nc", "--factor", 4, "--html", page, "--json", numbers]
    assert main([str(each) for each in arguments]) == 0
    return SimpleNamespace(
        folder=folder,
        maps=maps,
        planned=planned.load(),
        stored=xland.open_store(folder / "a.zarr", verify=True).load(),
        page=page.read_text(),
        numbers=json.loads(numbers.read_text()),
    )


def test_an_output_from_outside(made):
    land = made.stored.land_use > 0
    best = made.planned.probability.max("class")
    np.testing.assert_allclose(made.planned.doubt.where(land), (1 - best).where(land), atol=1e-6)
    np.testing.assert_array_equal(made.stored.doubt, made.planned.doubt)
    assert made.stored.doubt.attrs["long_name"] == "what the best class lacks to certainty"
    assert LOOK in made.page


def test_a_network_from_outside(made, capsys):
    assert float(made.planned.probability.std()) > 0.01
    assert made.stored.attrs["xland_model"] == "bright"
    assert main(["models", str(made.folder / "bright")]) == 0
    assert json.loads(capsys.readouterr().out)["architecture"]["kind"] == "brightness"
    assert "bright" in made.page


def test_an_allocation_mode_from_outside(made, capsys):
    np.testing.assert_array_equal(made.stored.land_use, made.planned.land_use)
    assert made.stored.attrs["xland_conserve"] == "largest"
    assert np.unique(made.stored.land_use[0, :4, :4]).size <= 2  # one class, and ocean
    assert np.unique(made.stored.land_use).size > 2
    assert "largest" in made.page
    assert main(["downscale", str(made.folder / "states.nc"), "a.zarr", "--totals", "lagest"]) == 1
    assert "did you mean 'largest'" in capsys.readouterr().err


def test_a_score_from_outside(made, capsys):
    found = made.stored.ai4land.evaluate(made.maps, factor=4, scores=["urban_found"])
    assert "towns found" in str(found)
    assert main(["evaluate", str(made.folder / "a.zarr"), str(made.folder / "maps.nc"), "--factor", "4"]) == 0
    assert "towns found" in capsys.readouterr().out
    assert "towns found" in made.page
    assert "urban_found" in made.numbers["scores"]["map"]["land"]["pixels"]


def test_names_are_taken_once_and_unknown_ones_are_refused_with_the_nearest():
    with pytest.raises(ModelError, match="there is an output 'margin' already"):
        register_output(OUTPUTS["margin"])
    with pytest.raises(AllocationError, match="there is a mode 'map' already"):
        register_mode(MODES["map"])
    with pytest.raises(ModelError, match="unknown outputs 'margn': did you mean 'margin'"):
        tiny_world((2000,))[0].ai4land.downscale(outputs="margn")
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
