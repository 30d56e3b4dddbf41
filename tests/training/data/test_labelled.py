"""Batches as xarray Datasets, with the labels of what they hold."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import xarray as xr

from tests.worlds import COARSE, FACTOR, FINE, tiny_inputs
from xland.errors import ConfigurationError
from xland.training.augmentation import NO_AUGMENTATION
from xland.training.data.labelled import LabelledBatches
from xland.training.data.loader import PatchDataset, TrainingArrays
from xland.training.data.patches import make_patches
from xland.training.data.sampling import Order, RankSampler

YEARS = (1999, 2004)


@pytest.fixture(scope="module")
def source():
    """Values that tell where and when they are."""
    inputs = tiny_inputs("code", (0, -1))
    rows, columns = np.meshgrid(np.arange(FINE.rows), np.arange(FINE.columns), indexing="ij")
    coarse = np.zeros((2, inputs.coarse_channels, *COARSE.shape), dtype=np.float32)
    coarse[:, 0], coarse[:, 1] = COARSE.latitude[:, None], COARSE.longitude
    coarse += 1000 * np.arange(inputs.coarse_channels)[:, None, None]
    static = np.stack([rows, columns, rows]).astype(np.float16)
    target = np.stack([(rows + columns) % 8, (rows + columns) % 5]).astype(np.uint8)
    return TrainingArrays(inputs, YEARS, coarse, static, target, target[::-1])


def batches(source, size=40, batch=4, **changes):
    dataset = PatchDataset(
        source, make_patches(FINE, size, 40, FACTOR), augmentation=replace(NO_AUGMENTATION, **changes)
    )
    return LabelledBatches(dataset, FINE, RankSampler(Order(len(dataset), 3), batch))


def test_batches_are_datasets_with_named_dimensions(source):
    labelled = batches(source)
    first = next(iter(labelled))
    assert {name: first[name].dims for name in first} == {
        "coarse": ("sample", "coarse_channel", "coarse_y", "coarse_x"),
        "static": ("sample", "channel", "y", "x"),
        "target": ("sample", "y", "x"),
        "prior": ("sample", "y", "x"),
    }
    assert first["coarse"].shape == (4, 14, 10, 10)
    assert first["static"].shape == (4, 3, 40, 40)
    assert {name: str(first[name].dtype) for name in first} == {
        "coarse": "float32",
        "static": "float16",
        "target": "uint8",
        "prior": "uint8",
    }


def test_channels_are_found_by_name_and_year(source):
    first = next(iter(batches(source)))
    assert list(first["channel"].values) == ["elevation", "abs_latitude", "land_share"]
    assert list(first["coarse_channel"].values)[:2] == ["forest", "cropland"]
    assert (first["coarse"].sel(coarse_channel="forest-1") // 1000 == 7).all(), "the channel of the year before"


def test_coordinates_tell_where_and_when_each_sample_is(source):
    for batch in batches(source):
        rows, columns = batch["static"].isel(channel=0), batch["static"].isel(channel=1)
        np.testing.assert_allclose(batch["lat"], FINE.latitude[rows.isel(x=0).astype(int)])
        np.testing.assert_allclose(batch["lon"], FINE.longitude[columns.isel(y=0).astype(int)])
        np.testing.assert_allclose(batch["coarse"][:, 0].isel(coarse_x=0), batch["coarse_lat"])
        np.testing.assert_allclose(batch["coarse"][:, 1].isel(coarse_y=0) - 1000, batch["coarse_lon"])
        modulus = xr.where(batch["year"] == 1999, 8, 5)
        assert ((rows + columns) % modulus == batch["target"]).all()
        assert set(batch["year"].values) <= set(YEARS)


def test_an_epoch_holds_every_patch_of_every_year_once(source):
    labelled = batches(source)
    seen = [
        key
        for batch in labelled
        for key in zip(batch["year"].values, batch["lat"].values[:, 0], batch["lon"].values[:, 0], strict=True)
    ]
    assert len(seen) == len(set(seen)) == len(labelled.dataset) == 2 * 4 * 9
    assert len(list(labelled)) == len(labelled)


def test_epochs_differ_and_come_again_the_same(source):
    labelled = batches(source)

    def places_of(epoch):
        labelled.set_epoch(epoch)
        return [tuple(batch["lat"].values[:, 0]) for batch in labelled]

    first, second = places_of(0), places_of(1)
    assert first != second
    assert places_of(0) == first
    assert [tuple(batch["lat"].values[:, 0]) for batch in labelled] == first, "without a word, the same epoch again"


def test_patches_may_end_within_a_coarse_cell(source):
    batch = next(iter(batches(source, size=38)))
    assert batch["coarse"].shape[2:] == (10, 10)
    assert batch["target"].shape[1:] == (38, 38)
    assert (abs(batch["coarse_lat"].isel(coarse_y=-1) - batch["lat"].isel(y=-1)) < 2).all()


def test_codes_are_explained(source):
    batch = next(iter(batches(source)))
    for name in ("target", "prior"):
        assert batch[name].attrs["flag_meanings"].split()[4] == "forest"
        assert list(batch[name].attrs["flag_values"]) == list(range(8))
        assert batch[name].attrs["missing_value"] == 255


def test_inputs_without_a_prior_have_none(source):
    inputs = tiny_inputs("none", (0, -1))
    plain = TrainingArrays(inputs, YEARS, source.coarse, source.static, source.target)
    assert set(next(iter(batches(plain)))) == {"coarse", "static", "target"}


def test_samples_that_are_mirrored_do_not_claim_a_place(source):
    batch = next(iter(batches(source, flip=True)))
    assert {"lat", "coarse_lat"} <= set(batch.coords)
    assert not {"lon", "coarse_lon"} & set(batch.coords)
    batch = next(iter(batches(source, flip_north_south=True)))
    assert not {"lat", "coarse_lat"} & set(batch.coords)


def test_samples_of_several_years_are_refused(source):
    dataset = PatchDataset(source, make_patches(FINE, 40, 40, FACTOR), sequences=np.array([[0, 1]]))
    with pytest.raises(ConfigurationError, match="samples of 2 years have no labels; take each year alone"):
        LabelledBatches(dataset, FINE, RankSampler(Order(len(dataset)), 4))
