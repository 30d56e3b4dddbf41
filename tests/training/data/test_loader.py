from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch

from tests.worlds import FACTOR, FINE, tiny_inputs, tiny_world
from xland.models.inputs import MASKED
from xland.models.networks.unet import _expand
from xland.training.configuration import Augmentation
from xland.training.data.loader import PatchDataset, TrainingArrays, make_loader
from xland.training.data.patches import make_patches
from xland.training.data.sampling import Order, RankSampler, Sample

PLAIN = Augmentation(flip=False, prior_masked=0.0)
AXES = ((), (-1,), (-2,), (-2, -1))
WILD = Augmentation(flip=True, flip_north_south=True, coarse_noise=0.1, channel_dropout=0.2, prior_masked=0.6)


@pytest.fixture(scope="module")
def arrays():
    coarse, static, maps = tiny_world()
    inputs = tiny_inputs("one_hot")
    states = [{str(n): coarse[n].isel(time=[year]).values for n in coarse} for year in (0, 1)]
    return TrainingArrays(
        inputs,
        (2000, 2001),
        coarse=np.stack([inputs.coarse_array(values) for values in states]),
        static=inputs.static_array({str(n): static[n].values for n in static}),
        target=maps.values,
        prior=maps.values[::-1],
    )


def dataset(arrays, augmentation=PLAIN, seed=0, size=40, **options):
    patches = make_patches(FINE, size, 40, FACTOR)
    return PatchDataset(arrays, patches, augmentation=augmentation, seed=seed, **options)


def shuffled(data, batch, epoch=0, **options):
    sampler = RankSampler(Order(len(data), data.seed), batch)
    sampler.set_epoch(epoch)
    return list(make_loader(data, sampler, **options))


def same(first, second):
    return first.keys() == second.keys() and all(torch.equal(first[name], second[name]) for name in first)


def test_an_item_is_a_patch_of_a_year_with_coarse_fields_at_their_own_resolution(arrays):
    data = dataset(arrays)
    assert len(data) == 2 * 4 * 9
    for index in (-1, len(data)):
        with pytest.raises(IndexError):
            data[index]
    item = data[36 + 11]
    rows, columns = data.patches.slices(11)
    assert {name: tuple(value.shape) for name, value in item.items()} == {
        "coarse": (7, 10, 10), "static": (3, 40, 40), "target": (40, 40), "prior": (40, 40),
    }  # fmt: skip
    assert {name: value.dtype for name, value in item.items()} == {
        "coarse": torch.float32, "static": torch.float16, "target": torch.uint8, "prior": torch.uint8,
    }  # fmt: skip
    np.testing.assert_array_equal(item["target"], arrays.target[1, rows, columns])
    np.testing.assert_array_equal(item["prior"], arrays.prior[1, rows, columns])
    np.testing.assert_array_equal(item["static"], arrays.static[:, rows, columns])
    low = slice(rows.start // 4, rows.stop // 4), slice(columns.start // 4, columns.stop // 4)
    np.testing.assert_array_equal(item["coarse"], arrays.coarse[1, :, *low])


def test_any_number_of_workers_gives_the_same_batches_in_every_epoch(arrays):
    """Loader processes live on from epoch to epoch and learn of the next one with its samples."""
    data = dataset(arrays, WILD, seed=3)
    sampler = RankSampler(Order(len(data), 3), 8)
    loader = make_loader(data, sampler, workers=2)
    for epoch in (0, 1, 5):
        sampler.set_epoch(epoch)
        alone, shared = shuffled(data, 8, epoch), list(loader)
        assert len(alone) == len(shared) == 9
        assert all(same(a, b) for a, b in zip(alone, shared, strict=True))


def test_an_item_depends_on_seed_and_epoch_and_not_on_what_was_read_before_or_with_it(arrays):
    data = dataset(arrays, WILD)
    first = data[40]
    data[3]
    assert same(first, data[40])
    assert same(first, data.__getitems__([Sample(0, 7), Sample(0, 40)])[1])
    assert not same(first, data[Sample(1, 40)])
    assert not same(first, dataset(arrays, WILD, seed=1)[40])


def test_samples_of_several_years_hold_each_year_in_turn(arrays):
    pairs = dataset(arrays, sequences=np.array([[0, 1], [1, 0]]))
    alone = dataset(arrays)
    assert len(pairs) == len(alone)
    item = pairs[36 + 11]
    for number, year in enumerate([1, 0]):
        own = alone[36 * year + 11]
        for name in ("coarse", "target", "prior"):
            assert torch.equal(item[name][number], own[name]), name
    assert torch.equal(item["static"], alone[11]["static"])


def test_pixels_of_other_parts_of_the_split_do_not_count(arrays):
    cells = np.zeros((45, 90), dtype=bool)
    cells[3:7, 2:5] = True
    item = dataset(arrays, cells=cells)[0]
    counted = np.zeros((40, 40), dtype=bool)
    counted[12:28, 8:20] = True
    np.testing.assert_array_equal(item["target"] != MASKED, counted & (arrays.target[0, :40, :40] != MASKED))


def test_a_patch_may_end_within_a_coarse_cell_and_says_where_it_begins(arrays):
    """The corner finds the coarse cell of every pixel, in mirror images too."""
    arrays = replace(arrays, coarse=np.arange(45.0 * 90).reshape(1, 1, 45, 90).repeat(2, axis=0).astype(np.float32))
    arrays = replace(arrays, static=arrays.coarse[0].repeat(4, axis=1).repeat(4, axis=2))
    data = dataset(arrays, Augmentation(flip=True, flip_north_south=True, prior_masked=0.0), size=38)
    corners = set()
    for index in range(20):
        item = data[index]
        assert item["coarse"].shape == (1, 10, 10)
        assert item["target"].shape == (38, 38)
        expanded = _expand(item["coarse"][None], FACTOR, item["static"].shape[1:], item["corner"][None])
        assert torch.equal(expanded[0], item["static"])
        corners.add(tuple(item["corner"].tolist()))
    assert corners == {(0, 0), (0, 2), (2, 0), (2, 2)}


def test_mirrors_turn_all_fields_together(arrays):
    plain = dataset(arrays)
    mirrored = dataset(arrays, Augmentation(flip=True, flip_north_south=True, prior_masked=0.0))
    turns = set()
    for index in range(30):
        own, found = plain[index], mirrored[index]
        fitting = [axes for axes in AXES if all(torch.equal(found[name], own[name].flip(axes)) for name in own)]
        assert fitting, f"item {index} is no mirror image"
        turns |= set(fitting) if len(fitting) == 1 else set()
    assert turns == set(AXES)


def test_the_prior_is_hidden_by_its_share_or_as_a_whole_and_the_target_never(arrays):
    masked = dataset(arrays, Augmentation(flip=False, prior_masked=0.6))
    hidden = np.mean([(masked[index]["prior"] == MASKED).float().mean().item() for index in range(len(masked))])
    assert hidden == pytest.approx(0.6, abs=0.01)
    assert all((masked[index]["target"] != MASKED).all() for index in range(len(masked)))
    dropped = dataset(arrays, Augmentation(flip=False, prior_masked=0.0, prior_dropped=0.4))
    whole = [(dropped[index]["prior"] == MASKED).float().mean().item() for index in range(len(dropped))]
    assert set(whole) == {0.0, 1.0}
    assert np.mean(whole) == pytest.approx(0.4, abs=0.15)
    blocks = dataset(arrays, Augmentation(flip=False, prior_masked=0.5, prior_block=8))[5]["prior"] == MASKED
    assert set(blocks.unfold(0, 8, 8).unfold(1, 8, 8).float().mean(dim=(2, 3)).unique().tolist()) == {0.0, 1.0}


def test_noise_moves_whole_coarse_channels_by_its_size_and_dropped_ones_are_zero(arrays):
    plain = dataset(arrays)
    noisy = dataset(arrays, Augmentation(flip=False, coarse_noise=0.1, prior_masked=0.0))
    dropped = dataset(arrays, Augmentation(flip=False, channel_dropout=0.3, prior_masked=0.0))
    moved, zero = [], []
    for index in range(40):
        own, moving, lacking = plain[index], noisy[index], dropped[index]
        change = moving["coarse"] - own["coarse"]
        assert change.std(dim=(1, 2)).max() < 1e-6
        moved += change.mean(dim=(1, 2)).tolist()
        assert torch.equal(moving["static"], own["static"])
        assert torch.equal(lacking["target"], own["target"])
        channels = [pair for name in ("coarse", "static") for pair in zip(own[name], lacking[name], strict=True)]
        for values, found in channels:
            assert not found.any() or torch.equal(values, found)
        zero += [not found.any() for values, found in channels if values.any()]
    assert np.std(moved) == pytest.approx(0.1, rel=0.25)
    assert np.mean(zero) == pytest.approx(0.3, abs=0.12)
