from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch

from tests.worlds import FACTOR, FINE, tiny_inputs, tiny_world
from xland.batches.loader import Augmentation, PatchDataset, TrainingArrays, make_loader
from xland.batches.masking import MASKED
from xland.batches.patches import make_patches
from xland.errors import GridError

PLAIN = Augmentation(flip=False, prior_masked=0.0)
WILD = Augmentation(flip=True, flip_north_south=True, coarse_noise=0.1, channel_dropout=0.2, prior_masked=0.6)


@pytest.fixture(scope="module")
def arrays():
    coarse, static, maps = tiny_world()
    inputs = tiny_inputs("one_hot")
    states = [{str(n): coarse[n].isel(time=[year]).values for n in coarse} for year in (0, 1)]
    return TrainingArrays(
        coarse=np.stack([inputs.coarse_array(values) for values in states]),
        static=inputs.static_array({str(n): static[n].values for n in static}),
        target=maps.values,
        prior=maps.values[::-1],
    )


def dataset(arrays, augmentation=PLAIN, seed=0, epoch=0, inputs=None):
    patches = make_patches(FINE, 40, 40, FACTOR)
    made = PatchDataset(arrays, patches, inputs or tiny_inputs("one_hot"), augmentation, seed)
    made.epoch = epoch
    return made


def same(first, second):
    return first.keys() == second.keys() and all(torch.equal(first[name], second[name]) for name in first)


def test_an_item_is_a_patch_of_a_year_with_coarse_fields_at_their_own_resolution(arrays):
    data = dataset(arrays)
    assert len(data) == 2 * 4 * 9
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


def test_items_beyond_the_last_do_not_exist(arrays):
    data = dataset(arrays)
    for index in (-1, len(data)):
        with pytest.raises(IndexError):
            data[index]


def test_inputs_without_prior_get_none(arrays):
    assert "prior" not in dataset(arrays, inputs=tiny_inputs())[0]
    assert "prior" not in dataset(replace(arrays, prior=None))[0]


def keyed(arrays):
    """Arrays whose targets tell the patch: the number of the patch and, in prior, of the year."""
    patches = make_patches(FINE, 40, 40, FACTOR)
    target = np.zeros((2, *FINE.shape), dtype=np.uint8)
    for index in range(len(patches)):
        target[:, *patches.slices(index)] = index
    return replace(arrays, target=target, prior=np.stack([np.full(FINE.shape, y, np.uint8) for y in (0, 1)]))


def seen(loader):
    keys = [zip(b["prior"][:, 0, 0].tolist(), b["target"][:, 0, 0].tolist(), strict=True) for b in loader]
    return [key for batch in keys for key in batch]


@pytest.mark.parametrize("workers", [0, 2])
def test_an_epoch_holds_every_sample_once(arrays, workers):
    data = dataset(keyed(arrays))
    found = seen(make_loader(data, 5, workers=workers))
    assert len(found) == len(data) == 72
    assert sorted(found) == [(year, patch) for year in (0, 1) for patch in range(36)]
    assert found != sorted(found)
    assert seen(make_loader(data, 5, shuffle=False)) == sorted(found)


def test_any_number_of_workers_gives_the_same_batches(arrays):
    data = dataset(arrays, WILD, seed=3, epoch=2)
    alone = list(make_loader(data, 8))
    shared = list(make_loader(data, 8, workers=2))
    assert len(alone) == len(shared) == 9
    assert all(same(a, b) for a, b in zip(alone, shared, strict=True))


def test_epochs_and_seeds_differ_in_order_and_in_changes(arrays):
    data = keyed(arrays)
    orders = {tuple(seen(make_loader(dataset(data, seed=s, epoch=e), 8))) for s in (0, 1) for e in (0, 1)}
    assert len(orders) == 4
    items = [dataset(arrays, WILD, seed=s, epoch=e)[40] for s in (0, 1) for e in (0, 1)]
    assert not any(same(items[0], other) for other in items[1:])


def test_an_item_does_not_depend_on_what_was_read_before(arrays):
    data = dataset(arrays, WILD)
    first = data[40]
    data[3]
    assert same(first, data[40])


def test_weights_say_how_often_an_item_is_drawn(arrays):
    data = dataset(keyed(arrays))
    weights = np.zeros(len(data))
    weights[[4, 40]] = 1, 3
    found = seen(make_loader(data, 50, weights=weights, samples=400))
    assert len(found) == 400
    assert set(found) == {(0, 4), (1, 4)}
    assert found.count((1, 4)) == pytest.approx(300, abs=40)
    assert seen(make_loader(data, 50, weights=weights, samples=400, workers=2)) == found


def test_mirrors_turn_all_fields_together(arrays):
    plain = dataset(arrays)
    mirrored = dataset(arrays, Augmentation(flip=True, flip_north_south=True, prior_masked=0.0))
    turns = set()
    for index in range(30):
        own, found = plain[index], mirrored[index]
        axes = [(), (-1,), (-2,), (-2, -1)]
        fitting = [a for a in axes if all(torch.equal(found[n], own[n].flip(a) if a else own[n]) for n in own)]
        assert fitting, f"item {index} is no mirror image"
        if len(fitting) == 1:
            turns.add(fitting[0])
    assert turns == {(), (-1,), (-2,), (-2, -1)}


def test_the_prior_is_hidden_by_its_share_and_the_target_never(arrays):
    data = dataset(arrays, Augmentation(flip=False, prior_masked=0.6))
    hidden = np.mean([(data[index]["prior"] == MASKED).float().mean().item() for index in range(len(data))])
    assert hidden == pytest.approx(0.6, abs=0.01)
    assert all((data[index]["target"] != MASKED).all() for index in range(len(data)))


def test_the_prior_can_be_hidden_in_blocks(arrays):
    data = dataset(arrays, Augmentation(flip=False, prior_masked=0.5, prior_block=8))
    blocks = (data[5]["prior"] == MASKED).reshape(5, 8, 5, 8).permute(0, 2, 1, 3).reshape(25, 64)
    assert set(blocks.float().mean(dim=1).tolist()) == {0.0, 1.0}


def test_noise_moves_whole_coarse_channels_by_its_size(arrays):
    plain, noisy = dataset(arrays), dataset(arrays, Augmentation(flip=False, coarse_noise=0.1, prior_masked=0.0))
    moved = []
    for index in range(40):
        change = noisy[index]["coarse"] - plain[index]["coarse"]
        assert change.std(dim=(1, 2)).max() < 1e-6
        assert torch.equal(noisy[index]["static"], plain[index]["static"])
        moved += change.mean(dim=(1, 2)).tolist()
    assert np.std(moved) == pytest.approx(0.1, rel=0.25)


def test_dropped_channels_are_zero_and_the_others_untouched(arrays):
    plain, dropped = dataset(arrays), dataset(arrays, Augmentation(flip=False, channel_dropout=0.3, prior_masked=0.0))
    zero = []
    for index in range(30):
        for name in ("coarse", "static"):
            for own, found in zip(plain[index][name], dropped[index][name], strict=True):
                if own.any():
                    zero.append(not found.any())
                    assert zero[-1] or torch.equal(own, found)
        assert torch.equal(plain[index]["target"], dropped[index]["target"])
    assert np.mean(zero) == pytest.approx(0.3, abs=0.12)


def test_arrays_that_do_not_fit_each_other_are_named(arrays):
    with pytest.raises(GridError, match="does not fit static"):
        replace(arrays, static=arrays.static[:, :-4])
    with pytest.raises(GridError, match="does not fit"):
        replace(arrays, coarse=arrays.coarse[:1])
    with pytest.raises(GridError, match=r"target \(2, 180, 360\) does not nest in coarse \(2, 7, 44, 90\)"):
        replace(arrays, coarse=arrays.coarse[:, :, 1:])
    with pytest.raises(GridError, match="prior"):
        replace(arrays, prior=arrays.prior[:1])
