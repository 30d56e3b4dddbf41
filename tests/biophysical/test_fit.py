"""Training of variables of the vegetation: a synthetic fAPAR learns by a configuration alone."""

from __future__ import annotations

import json
import shutil

import numpy as np
import pytest
import torch
import xarray as xr
from hypothesis import given, settings
from hypothesis import strategies as st

import xland
from xland.biophysical.fit import fit
from xland.biophysical.model import BiophysicalModel
from xland.biophysical.samples import read_blocks, read_vegetation
from xland.biophysical.season import season_features
from xland.errors import CheckpointError, ConfigurationError, ModelError
from xland.vocabulary import CLASS_NAMES, FOREST, OCEAN, WATER

TOML = """
name = "tiny-fapar"
[target]
name = "fapar"
units = "1"
most = 1.0
loss = "squared"
[response]
hidden = 8
members = 2
[schedule]
steps = 150
batch = 60
[[blocks]]
name = "west"
file = "west.nc"
[[blocks]]
name = "east"
file = "east.nc"
"""


def _region(seed: int) -> xr.Dataset:
    """Forest keeps 0.8 in the warm season, grassland 0.3, water nothing; the sum is by share."""
    random = np.random.default_rng(seed)
    lat, lon = np.linspace(40, 55, 6), np.linspace(0, 15, 6)
    tas = 10 + random.uniform(-3, 3, (1, 6, 6)) - 10 * np.cos(np.arange(12) / 6 * np.pi)[:, None, None]
    fractions = random.dirichlet([1, 1, 0.2], (6, 6)).transpose(2, 0, 1)
    warm = 1 / (1 + np.exp(-(tas - 8)))
    answers = np.array([0.8, 0.3])[:, None, None] * fractions[:2] / fractions[:2].sum(axis=0)
    dims = ("month", "lat", "lon")
    return xr.Dataset(
        {
            "fapar": (dims, answers.sum(axis=0) * warm),
            "land_use_fraction": (("category", "lat", "lon"), fractions),
            "tas": (dims, tas),
            "pr": (dims, np.full(tas.shape, 70.0)),
        },
        {"month": np.arange(1, 13), "lat": lat, "lon": lon, "category": [1, 10, 17]},
        {"scheme": "MODIS"},
    )


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("fapar")
    for seed, name in enumerate(("west", "east")):
        _region(seed).to_netcdf(folder / f"{name}.nc", engine="h5netcdf")
    (folder / "fapar.toml").write_text(TOML)
    return folder


@pytest.fixture(scope="module")
def trained(folder):
    return xland.train(folder / "fapar.toml", folder / "model")


def _climate(cells: int, seed: int = 0) -> np.ndarray:
    random = np.random.default_rng(seed)
    tas = random.uniform(0, 28, (cells, 1)) + 8 * np.cos(np.arange(12) / 6 * np.pi)
    return season_features(tas, random.gamma(1, 60, (cells, 12)), random.uniform(-60, 60, cells))


def test_a_second_variable_costs_a_configuration(trained):
    assert (trained.target.name, trained.target.most) == ("fapar", 1.0)
    assert trained.card["validation"]["left_out_rmse"] < 0.1, "the spread of the target is about 0.25"
    assert set(trained.card["validation"]["blocks"]) == {"west", "east"}
    assert trained.classes == CLASS_NAMES


def test_training_twice_gives_the_same_weights(folder):
    configuration = read_vegetation(folder / "fapar.toml")
    blocks = read_blocks(configuration)
    first, second = (fit(configuration, blocks).state_dict() for _ in range(2))
    assert all(torch.equal(first[name], second[name]) for name in first)


@settings(max_examples=20, deadline=None)
@given(seed=st.integers(0, 2**32 - 1))
def test_the_mean_of_cells_is_the_prediction_of_mean_shares(trained, seed):
    shares = np.random.default_rng(seed).dirichlet(np.ones(len(CLASS_NAMES)), 25)
    features = np.repeat(_climate(1, seed), 25, axis=0)
    fine = trained.predict(shares, features)
    coarse = trained.predict(shares.mean(axis=0, keepdims=True), features[:1])
    assert np.abs(fine.mean(axis=0) - coarse[0]).max() <= 1e-5
    assert fine.min() >= 0
    assert fine.max() <= trained.target.most + 1e-5


def test_water_ocean_and_ice_are_exactly_zero(trained):
    assert (trained.responses(_climate(20))[..., [OCEAN, WATER]] == 0).all()
    ice = season_features(np.full((1, 12), -20.0), np.full((1, 12), 20.0), [75.0])
    assert (trained.responses(ice) == 0).all()


def test_a_climate_that_was_learned_from_is_near_and_another_is_outside(trained, folder):
    blocks = read_blocks(read_vegetation(folder / "fapar.toml"))
    known = trained.dissimilarity(blocks["west"].features)
    tropics = season_features(np.full((1, 12), 27.0), np.full((1, 12), 250.0), [0.0])
    assert np.median(known) < trained.dissimilarity(tropics)[0]
    assert trained.dissimilarity(tropics)[0] > trained.reach.threshold
    assert trained.spread(blocks["west"].shares, blocks["west"].features).shape == blocks["west"].target.shape


def test_values_out_of_range_and_shares_that_miss_1_are_refused(folder, tmp_path):
    configuration = read_vegetation(folder / "fapar.toml")
    shutil.copy(folder / "east.nc", tmp_path)
    for change, message in (({"fapar": 5}, "outside of 0 to 1"), ({"land_use_fraction": 0.5}, "does not sum to 1")):
        wrong = _region(0)
        for name, factor in change.items():
            wrong[name] = wrong[name] * factor
        wrong.to_netcdf(tmp_path / "west.nc", engine="h5netcdf")
        with pytest.raises(ConfigurationError, match=message):
            read_blocks(configuration, tmp_path)
    _region(0).drop_vars("fapar").to_netcdf(tmp_path / "west.nc", engine="h5netcdf")
    with pytest.raises(ConfigurationError, match="lacks fapar"):
        read_blocks(configuration, tmp_path)
    _region(0).assign_attrs(scheme="GLC").to_netcdf(tmp_path / "west.nc", engine="h5netcdf")
    with pytest.raises(ConfigurationError, match="unknown scheme"):
        read_blocks(configuration, tmp_path)


def test_fill_values_of_the_target_take_no_part(folder, tmp_path):
    shutil.copy(folder / "east.nc", tmp_path)
    part = _region(0)
    part["fapar"] = part.fapar.where(part.lat > 45)
    part.to_netcdf(tmp_path / "west.nc", engine="h5netcdf", encoding={"fapar": {"_FillValue": -999.0}})
    cells = read_blocks(read_vegetation(folder / "fapar.toml"), tmp_path)["west"]
    assert cells.latitude.min() > 45
    assert np.isfinite(cells.target).all()


def test_a_training_of_numbers_takes_no_forcing(folder, tmp_path):
    with pytest.raises(ConfigurationError, match="no forcing"):
        xland.train(folder / "fapar.toml", tmp_path / "model", forcing=tmp_path)


def test_an_altered_model_is_refused(trained, tmp_path):
    copy = shutil.copytree(trained.folder, tmp_path / "copy")
    weights = bytearray((copy / "weights.safetensors").read_bytes())
    weights[-1] ^= 1
    (copy / "weights.safetensors").write_bytes(weights)
    with pytest.raises(CheckpointError, match="truncated or altered"):
        BiophysicalModel.load(copy).responses(_climate(1))
    card = json.loads((copy / "card.json").read_text())
    (copy / "card.json").write_text(json.dumps({**card, "format": 9}))
    with pytest.raises(CheckpointError, match="format"):
        BiophysicalModel.load(copy)
    with pytest.raises(ModelError, match="did you mean 'leaf-area'"):
        BiophysicalModel.load("leaf-aera")


def test_the_shipped_model_is_small_and_says_where_it_must_not_be_used():
    model = BiophysicalModel.load("leaf-area")
    assert sum(path.stat().st_size for path in model.folder.iterdir()) < 1e6
    assert "Do not use it" in model.notes
    shares = np.eye(len(CLASS_NAMES), dtype=np.float32)[[FOREST]]
    tropics = season_features(np.full((1, 12), 26.0), np.full((1, 12), 180.0), [-10.0])
    assert 3 < model.predict(shares, tropics).mean() < 7
