from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from tests.worlds import tiny_configuration, tiny_world
from xland.batches.loader import make_loader
from xland.batches.split import Part
from xland.training.loop import _dataset
from xland.training.material import gather
from xland.training.order import describe_items, epoch_batches


@pytest.fixture(scope="module")
def made():
    coarse, static, maps = tiny_world((2000, 2001))
    configuration, material = gather(tiny_configuration(candidates=10), forcing=coarse, static=static, target=maps)
    return configuration, _dataset(configuration, material, Part.TRAIN)


def schedule(made, **changes):
    return replace(made[0].schedule, **changes)


def equal(own, other):
    return own.keys() == other.keys() and all(torch.equal(own[name], other[name]) for name in own)


@pytest.mark.parametrize("changes", [{}, {"samples": 14}, {"workers": 2}])
def test_the_rest_of_an_epoch_is_that_of_the_whole(made, changes):
    dataset = made[1]
    dataset.epoch = 2
    whole = list(epoch_batches(dataset, schedule(made, **changes), 0)[0])
    for first in (1, 4, len(whole)):
        rest = list(epoch_batches(dataset, schedule(made, **changes), first)[0])
        assert len(rest) == len(whole) - first
        assert all(equal(own, other) for own, other in zip(rest, whole[first:], strict=True))


def test_the_whole_epoch_is_that_of_the_loader(made):
    dataset = made[1]
    plain = make_loader(dataset, made[0].schedule.batch)
    own = epoch_batches(dataset, schedule(made), 0)[0]
    assert all(equal(one, other) for one, other in zip(own, plain, strict=True))


def test_batches_that_are_done_are_not_read(made, monkeypatch):
    read = []
    whole = type(made[1]).__getitem__
    monkeypatch.setattr(type(made[1]), "__getitem__", lambda self, item: read.append(item) or whole(self, item))
    batches, order = epoch_batches(made[1], schedule(made), 5)
    list(batches)
    assert read == [item for items in order.items[5:] for item in items]
    assert sorted(item for items in order.items for item in items) == list(range(len(made[1])))


def test_patches_are_named_by_place_and_year(made):
    dataset = made[1]
    rows, columns = dataset.patches.slices(3)
    place = f"rows {rows.start}-{rows.start + 39}, columns {columns.start}-{columns.start + 39}"
    items = [3, len(dataset.patches) + 3]
    assert describe_items(dataset, items, [2000, 2001]) == f"{place}, 2000; {place}, 2001"
