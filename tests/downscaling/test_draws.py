"""Maps drawn from the probabilities: what they are, what is kept in them, how they are stored, what is refused."""

from __future__ import annotations

import numpy as np
import pytest
import xarray as xr

from tests.worlds import FACTOR, FINE, tiny_checkpoint, tiny_inputs
from xland.accessor import DatasetAccessor  # noqa: F401 - registers .ai4land
from xland.cli import main
from xland.downscaling.call import downscale
from xland.errors import ModelError, XlandError
from xland.geo.grid import class_shares
from xland.models.checkpoint import update_card
from xland.vocabulary import CLASS_NAMES, GRASS_SHRUB, URBAN

REGION = (-60, -18, 60, 62)
GRAIN = {"spacings": [1, 2, 8], "weights": [[0.28, 0.576, 0.768]] * 8}


@pytest.fixture(scope="module")
def drawing_model(tmp_path_factory):
    folder = tmp_path_factory.mktemp("drawing")
    tiny_checkpoint(folder, tiny_inputs())
    return update_card(folder, {"draws": GRAIN})


@pytest.fixture(scope="module")
def ask(world, drawing_model):
    coarse, static, _ = world

    def run(**more) -> xr.Dataset:
        options = {"model": drawing_model, "static": static, "years": 2000, "region": REGION, "draws": 3, **more}
        return downscale(coarse, **options)

    return run


@pytest.fixture(scope="module")
def found(ask) -> xr.Dataset:
    return ask(outputs=("land_use", "probability")).compute()


def test_draws_are_maps_beside_the_most_probable_one(ask, found):
    draws = found["land_use_draws"]
    assert draws.dims == ("time", "draw", "lat", "lon")
    assert draws["draw"].values.tolist() == [0, 1, 2]
    assert draws.attrs["flag_meanings"] == found["land_use"].attrs["flag_meanings"]
    np.testing.assert_array_equal(found["land_use"], ask(draws=None)["land_use"].compute())
    sea = found["probability"].sel(class_name="ocean").values == 1
    assert (draws.values.transpose(0, 2, 3, 1)[sea] == 0).all()
    assert (draws.isel(draw=0) != draws.isel(draw=1)).mean() > 0.1
    assert found.attrs["xland_draws"] == 3
    assert found.attrs["xland_seed"] == 0
    assert set(ask(outputs="land_use_draws").data_vars) == {"land_use_draws"}


def test_the_mean_over_draws_is_the_probability(ask):
    """Over 100 draws, frequencies scatter around probabilities as those of independent draws do."""
    many = ask(draws=100, outputs="probability", region=(-20, 2, 20, 42)).compute()
    expected = many["probability"].values.astype(np.float64)
    land = expected[:, 0] < 1
    found = np.stack([(many["land_use_draws"] == code).mean("draw").values for code in range(8)], axis=1)
    off = (found - expected) / np.sqrt(np.maximum(expected * (1 - expected), 1e-4) / 100)
    assert off[:, :, land[0]].std() == pytest.approx(1, abs=0.15)
    assert abs((found - expected)[:, :, land[0]].mean(axis=(0, 2))).max() < 0.02


def test_a_draw_does_not_depend_on_how_many_there_are_and_another_seed_gives_others(ask, found):
    np.testing.assert_array_equal(ask(draws=1)["land_use_draws"][:, 0], found["land_use_draws"][:, 0])
    other = ask(seed=1)
    assert (other["land_use_draws"] != found["land_use_draws"]).mean() > 0.05
    assert len({each.attrs["xland_fingerprint"] for each in (other, ask(), ask(draws=2), ask(draws=None))}) == 4


def test_a_draw_changes_from_year_to_year_only_where_the_probabilities_do(ask):
    years = ask(years=[2000, 2002], outputs="probability").compute()
    same = (years["probability"][0] == years["probability"][1]).all("class").values
    first, second = years["land_use_draws"].values
    assert same.any()
    assert (first != second)[:, same].sum() == 0
    assert 0 < (first != second)[:, ~same].mean() < (first[0] != first[1])[~same].mean()


@pytest.mark.parametrize("mode", ["map", "changes"])
def test_each_draw_keeps_the_totals_of_a_map_within_a_pixel(ask, world, mode):
    base = {"prior": world[2].sel(time=[2000]), "years": 2002} if mode == "changes" else {}
    kept = ask(totals=mode, outputs=("land_use", "unmet"), **base).compute()
    area = FINE.cell_area()[np.isin(FINE.latitude, kept["lat"].values)]

    known = kept["unmet"].values[0, ::FACTOR, ::FACTOR] == 0
    assert known.any()

    def shares(codes: xr.DataArray) -> np.ndarray:
        """Of the classes that the forcing knows, in coarse cells where its totals are possible."""
        return class_shares(codes.values, FACTOR, area, len(CLASS_NAMES))[URBAN : GRASS_SHRUB + 1, known]

    expected = shares(kept["land_use"][0])
    for draw in kept["land_use_draws"][0]:
        assert np.abs(shares(draw) - expected).max() < 1.1 / FACTOR**2
        assert (draw != kept["land_use"][0]).mean() > {"map": 0.02, "changes": 0}[mode]


def test_draws_with_fractions_come_from_the_fitted_probabilities(ask):
    kept = ask(totals="fractions", outputs=("probability",), draws=100).compute()
    drawn = np.stack([(kept["land_use_draws"] == code).mean("draw").values for code in range(8)], axis=1)
    assert np.abs(drawn - kept["probability"].values).mean() < 0.02
    impossible = kept["probability"].values == 0
    assert impossible.any()
    assert (drawn[impossible] == 0).all()


def test_draws_are_written_resumed_and_read_back(ask, found, tmp_path):
    lazy = ask()
    for _ in range(2):
        lazy.ai4land.to_zarr(tmp_path / "maps.zarr", progress=False, resume=True)
    lazy.ai4land.to_netcdf(tmp_path / "maps.nc", progress=False)
    for opened in (xr.open_zarr(tmp_path / "maps.zarr"), xr.open_dataset(tmp_path / "maps.nc")):
        with opened:
            np.testing.assert_array_equal(opened["land_use_draws"], found["land_use_draws"])
            assert opened["draw"].attrs["standard_name"] == "realization"
            assert (opened.attrs["xland_draws"], opened.attrs["xland_seed"]) == (3, 0)
    assert xr.open_zarr(tmp_path / "maps.zarr")["land_use_draws"].encoding["chunks"][1] == 1, "one draw is read alone"


def test_one_draw_is_plotted_aggregated_and_scored_as_a_map_is(found, world):
    one = found["land_use_draws"].isel(draw=1)
    assert one.ai4land.plot().get_title() == found["land_use"].ai4land.plot().get_title()
    assert one.ai4land.aggregate(FACTOR).sizes["lat"] == found.sizes["lat"] // FACTOR
    scores = one.ai4land.evaluate(world[2].sel(time=[2000]))
    assert 0 < scores.pixels["land"].accuracy < 1


def test_the_command_line_draws_the_same(found, world, drawing_model, tmp_path):
    coarse, static, _ = world
    coarse.to_netcdf(tmp_path / "states.nc")
    static.to_netcdf(tmp_path / "static.nc")
    files = [str(tmp_path / name) for name in ("states.nc", "maps.zarr")]
    options = ["--model", str(drawing_model.folder), "--static", str(tmp_path / "static.nc"), "--years", "2000"]
    region = ["--region", *map(str, REGION)]
    assert main(["downscale", *files, *options, *region, "--draws", "3", "--seed", "0", "--no-progress"]) == 0
    with xr.open_zarr(files[1]) as opened:
        np.testing.assert_array_equal(opened["land_use_draws"], found["land_use_draws"])


def test_several_models_are_drawn_from_their_mean(ask, drawing_model, model, tmp_path):
    second = tiny_checkpoint(tmp_path, tiny_inputs(), seed=1)
    both = ask(model=[second, drawing_model], outputs="probability", draws=50).compute()
    drawn = np.stack([(both["land_use_draws"] == code).mean("draw").values for code in range(8)], axis=1)
    assert np.abs(drawn - both["probability"].values).mean() < 0.03


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"draws": 0}, "draws must be a whole number of at least 1 .* not 0"),
        ({"draws": -3}, "draws must be a whole number of at least 1 .* not -3"),
        ({"draws": 2.5}, "draws must be a whole number"),
        ({"draws": "many"}, "draws must be a whole number"),
        ({"draws": True}, "draws must be a whole number"),
        ({"draws": 2000}, "draws must be .* at most 1000"),
        ({"seed": 1.5}, "seed must be a whole number"),
        ({"seed": "a"}, "seed must be a whole number"),
        ({"seed": -1}, "seed must be a whole number of at least 0"),
        ({"seed": 4, "draws": None}, "say how many maps to draw with draws="),
        ({"draws": None, "outputs": "land_use_draws"}, "'land_use_draws' is maps that are drawn: say how many"),
    ],
)
def test_numbers_and_seeds_that_are_wrong_are_refused(ask, options, message):
    with pytest.raises(ModelError, match=message):
        ask(**options)


def test_models_that_cannot_be_drawn_from_are_refused(ask, model, rolling_model, world):
    with pytest.raises(ModelError, match=r"'tiny-0' has no distribution .* add it with `xland calibrate`"):
        ask(model=model)
    with pytest.raises(XlandError, match=r"'tiny-0' reads a prior map, and draws of such models are not known"):
        ask(model=rolling_model, prior=world[2].sel(time=2000), years=2001)
