"""The batches of a training for other models."""

from __future__ import annotations

import re
from dataclasses import replace

import numpy as np
import pytest
import xarray as xr
import xbatcher

from tests.killing import PROJECT
from tests.worlds import FACTOR, FINE, tiny_checkpoint, tiny_configuration, tiny_inputs, tiny_world
from xland.errors import ConfigurationError, GridError, TimeError
from xland.geo.split import Part, divide
from xland.training.augmentation import Augmentation
from xland.training.data.batches import label_batches, make_batches
from xland.training.data.gathering import stored_material
from xland.training.data.loader import make_loader
from xland.training.data.material import gather
from xland.training.data.prepare import prepare
from xland.training.learn.loop import fit
from xland.training.learn.steps import Stepper
from xland.training.rollout import Rollout
from xland.vocabulary import OCEAN

PATCHES = {"patch": 40, "stride": 20}


def world(years=(2000, 2001)):
    coarse, static, maps = tiny_world(years)
    return {"forcing": coarse, "static": static, "target": maps}


def made(there=(2000, 2001), **options):
    data = world(there)
    return make_batches(data.pop("forcing"), **data, **{"inputs": tiny_inputs(), **PATCHES, **options})


def learned(tmp_path, monkeypatch, configuration, **data):
    """Samples of every step of a real training."""
    return learned_from(gather(configuration, **data), tmp_path, monkeypatch)


def learned_from(prepared, tmp_path, monkeypatch):
    seen, take = [], Stepper.take

    def record(self, samples, **options):
        seen.append({name: values.numpy().copy() for name, values in samples.items()})
        return take(self, samples, **options)

    monkeypatch.setattr(Stepper, "take", record)
    fit(*prepared, tmp_path / "model")
    return seen


def assert_same(batches, seen):
    assert len(batches) == len(seen)
    for own, theirs in zip(batches, seen, strict=True):
        assert set(own) == set(theirs)
        for name, values in theirs.items():
            np.testing.assert_array_equal(own[name].values, values)


@pytest.mark.parametrize(
    "options", [{"candidates": 10}, {"seed": 7, "samples": 13, "rare_classes": 0.5, "candidates": 9}]
)
def test_they_are_those_of_a_training_in_the_same_order(tmp_path, monkeypatch, options):
    options = {"batch": 4, **options}
    configuration = replace(
        tiny_configuration(patch=40, patch_stride=20, epochs=2, **options),
        augmentation=Augmentation(flip=False, prior_masked=0.0),
    )
    seen = learned(tmp_path, monkeypatch, configuration, **world())
    batches = made(**options)
    half = len(seen) // 2
    assert_same(batches, seen[:half])
    batches.set_epoch(1)
    assert_same(batches, seen[half:])
    assert_same(made(**options, epoch=1), seen[half:])
    assert batches.inputs == gather(configuration, **world())[0].inputs


def test_random_changes_are_those_of_a_training_too(tmp_path, monkeypatch):
    changes = Augmentation(flip=True, coarse_noise=0.1, prior_masked=0.4)
    inputs = tiny_inputs("code")
    data = {**world(), "prior": world((1999, 2000))["target"]}
    configuration = replace(tiny_configuration(inputs, epochs=1, candidates=6), augmentation=changes)
    seen = learned(tmp_path, monkeypatch, configuration, **data)
    options = {"candidates": 6, "batch": 3, "augmentation": changes}
    assert_same(made(inputs=inputs, prior=data["prior"], **options), seen)


def test_they_come_from_a_training_store_too(tmp_path, monkeypatch):
    configuration = tiny_configuration(epochs=1, candidates=8, patch_stride=40)
    configuration = replace(configuration, augmentation=Augmentation(flip=False))
    prepare(configuration, tmp_path / "store.zarr", **world(), progress=False)
    stored = stored_material(configuration, tmp_path / "store.zarr")
    seen = learned_from(stored, tmp_path, monkeypatch)
    assert_same(label_batches(*stored), seen)


def test_loader_processes_read_the_same():
    batches = made(candidates=8, batch=3)
    loaded = make_loader(batches.dataset, batches.sampler, workers=2)
    assert_same(batches, [{name: values.numpy() for name, values in samples.items()} for samples in loaded])


def test_years_of_a_rollout_come_one_by_one():
    inputs = tiny_inputs("code")
    configuration = replace(tiny_configuration(inputs, candidates=4), rollout=Rollout(years=2, own_maps=0.5))
    data = {**world(), "prior": world((1999, 2000))["target"]}
    batches = label_batches(*gather(configuration, **data))
    assert sorted(int(year) for batch in batches for year in batch["year"]) == [2000] * 4 + [2001] * 4


def test_ranks_share_each_batch():
    whole = list(made(batch=6))
    shares = [list(made(batch=6, rank=rank, ranks=2)) for rank in range(2)]
    for batch, *parts in zip(whole, *shares, strict=True):
        xr.testing.assert_equal(xr.concat(parts, "sample"), batch)


@pytest.mark.parametrize("part", ["train", "validation", "test"])
def test_only_pixels_of_the_part_count(part):
    cells = divide(FINE.coarsen(FACTOR), 0, -60.0) == Part[part.upper()]
    there = xr.DataArray(
        cells.repeat(FACTOR, 0).repeat(FACTOR, 1), {"lat": FINE.latitude, "lon": FINE.longitude}, ("lat", "lon")
    )
    counted = 0
    for batch in made(part=part):
        inside = there.sel(lat=batch["lat"], lon=batch["lon"]).transpose("sample", "y", "x")
        assert ((batch["target"] == 255) | inside).all()
        counted += int((batch["target"] != 255).sum())
    assert counted > 1000


def test_validation_judges_every_pixel_once_and_in_order():
    keys = [
        (year, lat, lon)
        for batch in made(part="validation")
        for year, lat, lon in zip(
            batch["year"].values, -batch["lat"].values[:, 0], batch["lon"].values[:, 0], strict=True
        )
    ]
    assert keys == sorted(set(keys))


def test_without_a_part_every_pixel_with_data_counts():
    (codes,) = world((2000,))["target"].values
    known = 0
    for batch in made((2000,), part=None, stride=40):
        rows = np.searchsorted(-FINE.latitude, -batch["lat"].values)
        columns = np.searchsorted(FINE.longitude, batch["lon"].values)
        there, target = codes[rows[:, :, None], columns[:, None, :]], batch["target"].values
        counted = target != 255
        np.testing.assert_array_equal(target[counted], there[counted])
        assert (there[~counted] == OCEAN).all()
        known += int(counted.sum())
    assert known > sum(int((batch["target"] != 255).sum()) for batch in made((2000,), stride=40))


def test_years_can_be_chosen():
    assert {int(year) for batch in made(years=2001) for year in batch["year"]} == {2001}
    assert {int(year) for batch in made(years=[2000, 2001]) for year in batch["year"]} == {2000, 2001}


def test_patches_of_a_generator_are_taken_instead():
    maps = world()["target"]
    generator = xbatcher.BatchGenerator(maps, {"lat": 24, "lon": 24}, batch_dims={"time": 1})
    batches = made(generator=generator, patch=None, stride=None, part=None)
    found = set()
    for batch in batches:
        assert batch["target"].shape[1:] == (24, 24)
        found |= set(zip(batch["lat"].values[:, 0], batch["lon"].values[:, 0], strict=True))
    there = {(float(one["lat"][0]), float(one["lon"][0])) for one in generator}
    assert found <= there
    assert len(found) > 20


def test_generators_serve_every_part():
    generator = xbatcher.BatchGenerator(world()["target"], {"lat": 20, "lon": 20})
    train, validation = (
        made(generator=generator),
        made(generator=generator, part="validation", augmentation=Augmentation()),
    )
    assert len(train) > len(validation) > 0
    assert "lon" in next(iter(validation)).coords, "samples to judge by are not mirrored"


def test_channels_can_be_those_of_a_model(tmp_path):
    data = world()
    checkpoint = tiny_checkpoint(tmp_path)
    batches = make_batches(data.pop("forcing"), **data, model=checkpoint)
    batch = next(iter(batches))
    assert batch["target"].shape[1:] == (40, 40), "the window of the model"
    assert list(batch["channel"].values) == [channel.name for channel in checkpoint.inputs.static]


def test_the_examples_of_the_documentation_run(capsys):
    page = (PROJECT / "docs" / "training.md").read_text(encoding="utf-8")
    section = re.search(r"^## Batches for your own model\n(.*?)^## ", page, re.MULTILINE | re.DOTALL)[1]
    space = {}
    for block in re.findall(r"^```python\n(.*?)^```", section, re.MULTILINE | re.DOTALL):
        exec(compile(block, "training.md", "exec"), space)  # noqa: S102 - our own page
    share = int(re.fullmatch(r"(\d+)% of the pixels of the test cells are right\n", capsys.readouterr().out)[1])
    assert share > 60, "by chance, one of seven"
    assert next(iter(space["batches"]))["target"].shape[1:] == (100, 100)
    assert callable(space["open_batches"])


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        (
            {"part": "training"},
            ConfigurationError,
            "part must be one of 'train', 'validation', 'test' or None, not 'training'",
        ),
        ({"model": "luh2-0p05"}, ConfigurationError, "inputs and model both say which channels to take"),
        ({"years": slice(2000, 2001)}, TimeError, "give calendar years as a whole number or a list"),
        ({"years": 2050}, TimeError, "2050"),
        ({"stride": 10}, ConfigurationError, "patch_stride 10 must be a multiple of factor 4"),
        ({"patch": 400}, GridError, "400 x 400 cells does not fit"),
        ({"batch": 0}, ConfigurationError, "batch must be a whole number of at least 1"),
        ({"generator": "every"}, GridError, r"from an xbatcher\.BatchGenerator, not from str"),
        ({"rank": 2, "ranks": 2}, ConfigurationError, "rank 2 is not one of 2 ranks"),
    ],
)
def test_bad_input_is_named(options, error, message):
    with pytest.raises(error, match=message):
        made(**options)


def test_a_generator_without_a_pixel_that_counts_is_named():
    pole = world()["target"].sel(lat=slice(-80, -90)).isel(lat=slice(2, 10))
    generator = xbatcher.BatchGenerator(pole, {"lat": 8, "lon": 8})
    with pytest.raises(ConfigurationError, match="no patch of 8 cells holds a pixel for train"):
        made(generator=generator)
