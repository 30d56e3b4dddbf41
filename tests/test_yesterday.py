"""Files that the commit before the rooms wrote (tests/yesterday/files.zip) are read, and gone on from, by this one."""

from __future__ import annotations

import json
import zipfile
from dataclasses import replace

import numpy as np
import pytest
import torch
import xarray as xr

import xland
from tests.conftest import PROJECT
from tests.worlds import tiny_configuration, tiny_inputs, tiny_world
from xland.store.reading import verify

REGION = (24.0, 26.0, 64.0, 50.0)


@pytest.fixture(scope="module")
def yesterday(tmp_path_factory):
    folder = tmp_path_factory.mktemp("yesterday")
    zipfile.ZipFile(PROJECT / "tests" / "yesterday" / "files.zip").extractall(folder)
    return folder


@pytest.fixture(scope="module")
def expected(yesterday):
    return json.loads((yesterday / "expected.json").read_text())


def test_a_store_is_whole(yesterday, expected):
    verify(yesterday / "land_use.zarr")
    store = xland.open_store(yesterday / "land_use.zarr", verify=True).load()
    assert np.bincount(store.land_use.values.ravel(), minlength=8).tolist() == expected["land_use_counts"]


def test_a_renamed_output_is_read_under_its_new_name(yesterday):
    store = xland.open_store(yesterday / "land_use.zarr").load()
    two_best = np.sort(store.probability.values, axis=1)[:, -2:]
    margin = xr.DataArray(two_best[:, 1] - two_best[:, 0], store.margin.coords, store.margin.dims)
    xr.testing.assert_allclose(store.margin, margin, atol=0.02)
    assert "confidence" not in store


def test_a_catalog_opens_its_entry(yesterday):
    found = xland.open_entry(yesterday / "catalog.yaml", "yesterday").load()
    xr.testing.assert_identical(found, xland.open_store(yesterday / "land_use.zarr").load())


@pytest.mark.parametrize("model", ["model", "context_model", "training"])
def test_a_checkpoint_loads(yesterday, model):
    assert all(torch.isfinite(values).all() for values in xland.find_model(yesterday / model).network().parameters())


def test_a_checkpoint_draws_the_same_map(yesterday, expected):
    coarse, static, _ = tiny_world((2000,))
    new = coarse.ai4land.downscale(
        model=str(yesterday / "model"), static=static, region=REGION, outputs=("land_use", "probability"), chunks=20
    ).compute()
    old = xland.open_store(yesterday / "land_use.zarr").load()
    np.testing.assert_allclose(new.probability, old.probability, atol=2.1e-3)  # packed by steps of 0.004
    assert (new.land_use.values == old.land_use.values).mean() > 0.999


def test_a_training_goes_on_from_its_state_on_its_store(yesterday, expected):
    configuration = tiny_configuration(tiny_inputs(), epochs=2, checkpoint_every=2, samples=12, candidates=8)
    years = replace(configuration.data, forcing_years=(2000, 2001), target_years=(2000, 2001))
    configuration = replace(configuration, data=years)
    store = yesterday / "training.zarr"
    losses = []

    def keep(stage, done, figures):
        if stage == "training":
            losses.append(figures["loss"])

    torch.set_num_threads(1)
    xland.train(
        configuration, yesterday / "training", store=store, device="cpu", resume=True, progress=False, report=keep
    )
    before = len(expected["losses"]) - len(losses)
    assert 0 < before <= expected["stopped_after"]
    np.testing.assert_allclose(losses, expected["losses"][before:], rtol=1e-5)
