"""The samples of a training, and its batches for other models with the labels of what is in them."""

from __future__ import annotations

import re
from dataclasses import replace

import numpy as np
import pytest
import xarray as xr
import xbatcher

from tests.killing import PROJECT
from tests.training.conftest import given, paired
from tests.worlds import COARSE, FACTOR, FINE, tiny_checkpoint, tiny_configuration, tiny_inputs
from xland.errors import ConfigurationError, GridError, TimeError
from xland.geo.grid import expand
from xland.geo.split import Part, divide
from xland.models.inputs import MASKED
from xland.training.configuration import NO_AUGMENTATION, Augmentation
from xland.training.data.batches import (
    LabelledBatches,
    check_parts,
    count_samples,
    describe_items,
    label_batches,
    make_batches,
    make_dataset,
    make_order,
    sample_pixels,
    take_census,
)
from xland.training.data.loader import PatchDataset, TrainingArrays, make_loader
from xland.training.data.material import gather
from xland.training.data.patches import make_patches
from xland.training.data.sampling import Order, RankSampler
from xland.training.learn.loop import fit
from xland.training.learn.steps import Stepper
from xland.training.rollout import Rollout
from xland.vocabulary import OCEAN, URBAN

YEARS = (1999, 2004)


def made(there=(2000, 2001), **options):
    data = given(there)
    return make_batches(data.pop("forcing"), **data, **{"inputs": tiny_inputs(), "patch": 40, "stride": 20, **options})


class DoneError(Exception):
    pass


@pytest.fixture
def learned(tmp_path, monkeypatch):
    """Samples of the first so many steps of a real training."""

    def run(prepared, steps):
        seen = []

        def record(self, samples, **options):
            seen.append({name: values.numpy().copy() for name, values in samples.items()})
            if len(seen) == steps:
                raise DoneError
            return own(self, samples, **options)

        own = Stepper.take
        monkeypatch.setattr(Stepper, "take", record)
        with pytest.raises(DoneError):
            fit(*prepared, tmp_path / "model")
        return seen

    return run


def assert_same(batches, seen):
    for own, theirs in zip(batches, seen, strict=True):
        assert set(own) == set(theirs)
        for name, values in theirs.items():
            np.testing.assert_array_equal(own[name].values, values)


@pytest.mark.parametrize(
    ("prior", "augmentation", "options"),
    [
        ("none", Augmentation(flip=False, prior_masked=0.0), {"candidates": 4, "batch": 4}),
        ("code", Augmentation(coarse_noise=0.1), {"seed": 7, "samples": 5, "rare_classes": 0.5, "batch": 4}),
    ],
)
def test_they_are_those_of_a_training_in_the_same_order(learned, prior, augmentation, options):
    inputs, data = tiny_inputs(prior), {**given(), "prior": given((1999, 2000))["target"]}
    configuration = replace(tiny_configuration(inputs, epochs=2, **options), augmentation=augmentation)
    batches = made(inputs=inputs, prior=data["prior"], augmentation=augmentation, **{"candidates": 24, **options})
    seen = learned(gather(configuration, **data), 2 * len(batches))
    assert_same(batches, seen[: len(batches)])
    batches.set_epoch(1)
    assert_same(batches, seen[len(batches) :])
    assert batches.inputs == gather(configuration, **data)[0].inputs


def test_years_of_a_rollout_come_one_by_one():
    configuration = tiny_configuration(tiny_inputs("code"), candidates=4)
    configuration = replace(configuration, rollout=Rollout(years=2, own_maps=0.5))
    batches = label_batches(*gather(configuration, **given(), prior=given((1999, 2000))["target"]))
    assert sorted(int(year) for batch in batches for year in batch["year"]) == [2000] * 4 + [2001] * 4


def test_ranks_share_each_batch_and_loader_processes_read_the_same():
    whole = made(batch=6, candidates=8)
    shares = [list(made(batch=6, candidates=8, rank=rank, ranks=2)) for rank in range(2)]
    for batch, *parts in zip(whole, *shares, strict=True):
        xr.testing.assert_equal(xr.concat(parts, "sample"), batch)
    loaded = make_loader(whole.dataset, whole.sampler, workers=2)
    assert_same(whole, [{name: values.numpy() for name, values in samples.items()} for samples in loaded])


@pytest.mark.parametrize("part", ["train", "validation", "test"])
def test_only_pixels_of_the_part_count_and_those_to_judge_by_once_in_order(part):
    cells = divide(FINE.coarsen(FACTOR), 0, -60.0) == Part[part.upper()]
    there = xr.DataArray(
        cells.repeat(FACTOR, 0).repeat(FACTOR, 1), {"lat": FINE.latitude, "lon": FINE.longitude}, ("lat", "lon")
    )
    counted, keys = 0, []
    for batch in made(part=part, candidates=20):
        inside = there.sel(lat=batch["lat"], lon=batch["lon"]).transpose("sample", "y", "x")
        assert ((batch["target"] == 255) | inside).all()
        counted += int((batch["target"] != 255).sum())
        keys += zip(batch["year"].values, -batch["lat"].values[:, 0], batch["lon"].values[:, 0], strict=True)
    assert counted > 1000
    assert part == "train" or keys == sorted(set(keys))


def test_without_a_part_every_pixel_with_data_counts():
    (codes,) = given((2000,))["target"].values
    for batch in made((2000,), part=None, stride=40):
        rows = np.searchsorted(-FINE.latitude, -batch["lat"].values)
        columns = np.searchsorted(FINE.longitude, batch["lon"].values)
        there, target = codes[rows[:, :, None], columns[:, None, :]], batch["target"].values
        np.testing.assert_array_equal(target, np.where(there == OCEAN, 255, there))


def test_years_and_channels_of_a_model_can_be_chosen(tmp_path):
    assert {int(year) for batch in made(years=2001, candidates=4) for year in batch["year"]} == {2001}
    data, checkpoint = given(), tiny_checkpoint(tmp_path)
    batch = next(iter(make_batches(data.pop("forcing"), **data, model=checkpoint)))
    assert batch["target"].shape[1:] == (40, 40), "the window of the model"
    assert list(batch["channel"].values) == [channel.name for channel in checkpoint.inputs.static]


def test_patches_of_a_generator_are_taken_instead_in_every_part():
    generator = xbatcher.BatchGenerator(given()["target"], {"lat": 24, "lon": 24}, batch_dims={"time": 1})
    there = {(float(one["lat"][0]), float(one["lon"][0])) for one in generator}
    found = set()
    for batch in made(generator=generator, patch=None, stride=None, part=None):
        assert batch["target"].shape[1:] == (24, 24)
        found |= set(zip(batch["lat"].values[:, 0], batch["lon"].values[:, 0], strict=True))
    assert len(found) > 20
    assert found <= there
    train = made(generator=generator)
    validation = made(generator=generator, part="validation", augmentation=Augmentation())
    assert len(train) > len(validation) > 0
    assert "lon" in next(iter(validation)).coords, "samples to judge by are not mirrored"
    pole = given()["target"].sel(lat=slice(-80, -90)).isel(lat=slice(2, 10))
    with pytest.raises(ConfigurationError, match="no patch of 8 cells holds a pixel for train"):
        made(generator=xbatcher.BatchGenerator(pole, {"lat": 8, "lon": 8}))


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
        ({"part": "training"}, ConfigurationError, "part must be one of 'train', 'validation', 'test'"),
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


def labelled(source, size=40, **changes):
    augmentation = replace(NO_AUGMENTATION, **changes)
    dataset = PatchDataset(source, make_patches(FINE, size, 40, FACTOR), augmentation=augmentation)
    return LabelledBatches(dataset, FINE, RankSampler(Order(len(dataset), 3), 4))


def test_batches_are_datasets_with_names_and_codes(source):
    first = next(iter(labelled(source)))
    assert {name: (first[name].dims, first[name].shape, str(first[name].dtype)) for name in first} == {
        "coarse": (("sample", "coarse_channel", "coarse_y", "coarse_x"), (4, 14, 10, 10), "float32"),
        "static": (("sample", "channel", "y", "x"), (4, 3, 40, 40), "float16"),
        "target": (("sample", "y", "x"), (4, 40, 40), "uint8"),
        "prior": (("sample", "y", "x"), (4, 40, 40), "uint8"),
    }
    assert list(first["channel"].values) == ["elevation", "abs_latitude", "land_share"]
    assert list(first["coarse_channel"].values)[:2] == ["forest", "cropland"]
    assert (first["coarse"].sel(coarse_channel="forest-1") // 1000 == 7).all(), "the channel of the year before"
    for name in ("target", "prior"):
        assert first[name].attrs["flag_meanings"].split()[4] == "forest"
        assert list(first[name].attrs["flag_values"]) == list(range(8))
        assert first[name].attrs["missing_value"] == 255
    plain = TrainingArrays(tiny_inputs("none", (0, -1)), YEARS, source.coarse, source.static, source.target)
    assert set(next(iter(labelled(plain)))) == {"coarse", "static", "target"}


def test_coordinates_tell_where_and_when_each_sample_is_and_an_epoch_holds_each_once(source):
    batches, seen = labelled(source), []
    for batch in batches:
        rows, columns = batch["static"].isel(channel=0), batch["static"].isel(channel=1)
        np.testing.assert_allclose(batch["lat"], FINE.latitude[rows.isel(x=0).astype(int)])
        np.testing.assert_allclose(batch["lon"], FINE.longitude[columns.isel(y=0).astype(int)])
        np.testing.assert_allclose(batch["coarse"][:, 0].isel(coarse_x=0), batch["coarse_lat"])
        np.testing.assert_allclose(batch["coarse"][:, 1].isel(coarse_y=0) - 1000, batch["coarse_lon"])
        modulus = xr.where(batch["year"] == 1999, 8, 5)
        assert ((rows + columns) % modulus == batch["target"]).all()
        seen += zip(batch["year"].values, batch["lat"].values[:, 0], batch["lon"].values[:, 0], strict=True)
    assert len(seen) == len(set(seen)) == len(batches.dataset) == 2 * 4 * 9
    again = [(batch["year"].values[0], *batch["lat"].values[0, :1]) for batch in batches]
    assert again == [key[:2] for key in seen[::4]], "without a word, the same epoch again"
    batches.set_epoch(1)
    assert again != [(batch["year"].values[0], *batch["lat"].values[0, :1]) for batch in batches]


def test_samples_that_are_mirrored_do_not_claim_a_place(source):
    for change, unknown in (("flip", {"lon", "coarse_lon"}), ("flip_north_south", {"lat", "coarse_lat"})):
        labels = set(next(iter(labelled(source, **{change: True}))).coords)
        assert {"lat", "lon", "coarse_lat", "coarse_lon"} - labels == unknown


@pytest.fixture(scope="module")
def material():
    return gather(tiny_configuration(candidates=10), **given((2000, 2001, 2002)))


@pytest.fixture(scope="module")
def census(material):
    return take_census(material[1].source)


def training(material, census, **schedule):
    configuration = replace(material[0], schedule=replace(material[0].schedule, **schedule))
    return configuration, make_dataset(configuration, material[1], Part.TRAIN, census)


def test_a_class_that_only_others_hold_is_named_with_its_pixels(material, census):
    part = material[1].part
    without = np.where(census[URBAN] > 0, np.int8(Part.TEST), part)
    with pytest.raises(ConfigurationError, match=rf"leaves urban \({census[URBAN].sum()} pixels\) out of the training"):
        check_parts(census, without)
    nowhere = census.copy()
    nowhere[URBAN] = 0
    check_parts(nowhere, part)


def test_samples_are_counted_by_class_and_drawn_as_often_as_they_hold_pixels_and_rare_classes_more(material, census):
    configuration, dataset = training(material, census, samples=50)
    counts = count_samples(dataset)
    assert counts.shape == (30, 8)
    for item in (0, 29):
        assert counts[item].tolist() == [(dataset[item]["target"] == code).sum() for code in range(8)]
    plain = make_order(configuration, dataset)
    assert len(plain) == 50
    np.testing.assert_allclose(plain.weights, counts.sum(axis=1) / counts.sum())
    rare = make_order(*training(material, census, rare_classes=1.0))
    assert len(rare) == len(dataset)
    urban = counts[:, URBAN] > 0
    assert rare.weights[urban].sum() > plain.weights[urban].sum()


def test_samples_of_a_store_come_chunk_by_chunk(material, census, monkeypatch):
    configuration, dataset = training(material, census, locality=3)
    with monkeypatch.context() as patch:
        patch.setattr(dataset.source, "chunk", (40, 40))
        order = make_order(configuration, dataset)
    assert order.locality == 3
    assert order.groups.reshape(3, 10).tolist() == [order.groups[:10].tolist()] * 3, "years of a place are together"
    assert make_order(configuration, dataset).groups is None


def test_pixels_are_drawn_from_cells_to_learn_from_alone(material, census):
    _, dataset = training(material, census)
    coarse, static = sample_pixels(dataset, seed=1, count=3000)
    assert coarse.shape[0] == 7
    assert coarse.shape[1] == static.shape[1]
    assert 1500 < static.shape[1] <= 3000
    counted = expand(dataset.cells, FACTOR) & (dataset.source.target[0] != MASKED)
    drawn = {tuple(values) for values in static.numpy().T.tolist()}
    assert drawn <= {tuple(values) for values in dataset.source.static[:, counted].T.tolist()}


def test_validation_patches_that_end_in_a_coarse_cell_give_way_to_windows(material, census):
    shallow = replace(material[0], architecture=replace(material[0].architecture, depth=1))
    configuration, dataset = training((shallow, material[1]), census, patch=38, patch_stride=20)
    assert dataset.patches.size == 38
    assert make_dataset(configuration, material[1], Part.VALIDATION, census).patches.size == configuration.inputs.window


def rollout(prior_step, years):
    configuration = tiny_configuration(replace(tiny_inputs("one_hot"), prior_step=prior_step))
    configuration = replace(paired(configuration, (2000, 2001, 2002)), rollout=Rollout(years=years))
    material = gather(configuration, **given((1999, 2000, 2001, 2002, 2003)))
    return make_dataset(*material, Part.TRAIN, take_census(material[1].source))


def test_rollouts_are_made_of_years_that_follow_each_other_and_into_the_past_go_backwards():
    dataset = rollout(-1, 2)
    assert dataset.sequences.tolist() == [[0, 1], [1, 2]]
    assert describe_items(dataset, [0]).endswith("2000-2001")
    assert rollout(1, 2).sequences.tolist() == [[1, 0], [2, 1]]
    message = "samples of 4 consecutive maps need as many years in a row; there are 2000-2002"
    with pytest.raises(TimeError, match=message):
        rollout(-1, 4)
