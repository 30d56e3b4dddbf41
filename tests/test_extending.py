"""What others register goes through accessor, command line, store and report, like what the package brings."""

from __future__ import annotations

import json

import numpy as np
import pytest
import xarray as xr
from torch import nn

import xland
from tests.worlds import tiny_checkpoint, tiny_inputs, tiny_network, tiny_world
from xland.cli import main
from xland.models.checkpoint import save_checkpoint
from xland.models.networks import architecture
from xland.models.networks.architecture import register_network
from xland.outputs import OUTPUTS, Output, register_output
from xland.scores.measures import SCORES, Score, register_score
from xland.totals.cells import Fitted
from xland.totals.modes import MODES, Mode, register_mode

REGION = (0, 0, 40, 40)
LOOK = "In bright places the model hesitates."


def doubt(pixels):
    return 1 - pixels.probability.max(dim=0).values


def largest(probability, targets, _area, valid, _totals, _start):
    """The largest class of each coarse cell, everywhere in it."""
    rows, columns = valid.shape[0] // targets.shape[1], valid.shape[1] // targets.shape[2]
    codes = targets.argmax(axis=0).repeat(rows, axis=0).repeat(columns, axis=1)
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
def files(tmp_path_factory):
    folder = tmp_path_factory.mktemp("extending")
    coarse, static, maps = tiny_world((2000,))
    for name, each in (("states", coarse), ("static", static), ("maps", maps)):
        each.to_netcdf(folder / f"{name}.nc")
    tiny_checkpoint(folder / "model", tiny_inputs())
    return folder


class Brightness(nn.Module):
    """Scores of each pixel from its own channels."""

    def __init__(self, inputs, _):
        super().__init__()
        self.head = nn.Conv2d(inputs.channels, len(inputs.classes), 1)

    def forward(self, x):
        return self.head(x)


def written(files, name, *options, model="model"):
    """Write maps by the command line, and open their store."""
    arguments = [files / "states.nc", files / name, "--model", files / model, "--static", files / "static.nc"]
    assert main(["downscale", *map(str, (*arguments, "--region", *REGION, *options))]) == 0
    return xland.open_store(files / name, verify=True).load()


def planned(files, **options):
    """Return maps by the accessor."""
    static = xr.open_dataset(files / "static.nc")
    states = xr.open_dataset(files / "states.nc")
    return states.ai4land.downscale(static=static, region=REGION, **{"model": files / "model", **options})


def reported(files, name, *options):
    """Return the page and the numbers of a report."""
    page, numbers = files / "report.html", files / "report.json"
    arguments = [files / name, files / "maps.nc", "--factor", 4, "--html", page, "--json", numbers, *options]
    assert main(["report", *map(str, arguments)]) == 0
    return page.read_text(), json.loads(numbers.read_text())


def test_an_output_from_outside(files):
    outputs = ("land_use", "confidence", "doubt")
    expected = planned(files, outputs=outputs)
    stored = written(files, "doubt.zarr", "--outputs", *outputs)
    np.testing.assert_array_equal(stored.doubt, expected.doubt)
    assert stored.doubt.attrs["long_name"] == "what the best class lacks to certainty"
    land = stored.land_use > 0
    np.testing.assert_allclose(stored.doubt.where(land), 1 - stored.confidence.where(land), atol=0.003)
    assert LOOK in reported(files, "doubt.zarr")[0]


def test_a_network_from_outside(files, capsys):
    save_checkpoint(files / "bright", tiny_network(kind="brightness"), {"name": "bright"})
    expected = planned(files, model=files / "bright")
    stored = written(files, "bright.zarr", model="bright")
    np.testing.assert_array_equal(stored.land_use, expected.land_use)
    assert np.unique(stored.land_use).size > 2
    capsys.readouterr()
    assert main(["models", str(files / "bright")]) == 0
    assert json.loads(capsys.readouterr().out)["architecture"]["kind"] == "brightness"
    assert "bright" in reported(files, "bright.zarr")[0]


def test_an_allocation_mode_from_outside(files, capsys):
    expected = planned(files, totals="largest")
    stored = written(files, "largest.zarr", "--totals", "largest")
    np.testing.assert_array_equal(stored.land_use, expected.land_use)
    assert stored.attrs["xland_conserve"] == "largest"
    assert np.unique(stored.land_use[0, :4, :4]).size <= 2  # one class, and ocean
    assert "largest" in reported(files, "largest.zarr")[0]
    assert main(["downscale", str(files / "states.nc"), "a.zarr", "--totals", "lagest"]) == 1
    assert "did you mean 'largest'" in capsys.readouterr().err


def test_a_score_from_outside(files, capsys):
    stored = written(files, "scored.zarr")
    maps = xr.open_dataset(files / "maps.nc")
    found = stored.ai4land.evaluate(maps, factor=4, scores=["urban_found"])
    assert "towns found" in str(found)
    assert main(["evaluate", str(files / "scored.zarr"), str(files / "maps.nc"), "--factor", "4"]) == 0
    assert "towns found" in capsys.readouterr().out
    page, numbers = reported(files, "scored.zarr")
    assert "towns found" in page
    assert "urban_found" in numbers["scores"]["map"]["land"]["pixels"]
