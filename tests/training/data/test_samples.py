from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from tests.worlds import FACTOR, tiny_configuration, tiny_inputs, tiny_world
from xland.errors import ConfigurationError, TimeError
from xland.geo.grid import expand
from xland.geo.split import Part
from xland.models.inputs import MASKED
from xland.training.data.material import gather
from xland.training.data.patches import Patches
from xland.training.data.samples import (
    check_parts,
    count_samples,
    describe_items,
    make_dataset,
    make_order,
    sample_pixels,
    take_census,
)
from xland.training.rollout import Rollout
from xland.vocabulary import URBAN


@pytest.fixture(scope="module")
def made():
    coarse, static, maps = tiny_world((2000, 2001, 2002))
    return gather(tiny_configuration(candidates=10), forcing=coarse, static=static, target=maps)


@pytest.fixture(scope="module")
def census(made):
    return take_census(made[1].source)


def training(made, census, **schedule):
    configuration = replace(made[0], schedule=replace(made[0].schedule, **schedule))
    return configuration, make_dataset(configuration, made[1], Part.TRAIN, census)


def test_the_census_counts_every_pixel_of_every_map(made, census):
    target = made[1].source.target
    assert census.shape == (8, 45, 90)
    assert census.sum(axis=(1, 2)).tolist() == [int((target == code).sum()) for code in range(8)]
    assert census.sum() == (target != MASKED).sum()


def test_a_class_that_only_others_hold_is_named_with_its_pixels(made, census):
    part = made[1].part
    without = np.where(census[URBAN] > 0, np.int8(Part.TEST), part)
    with pytest.raises(ConfigurationError, match=rf"leaves urban \({census[URBAN].sum()} pixels\) out of the training"):
        check_parts(census, without)
    nowhere = census.copy()
    nowhere[URBAN] = 0
    check_parts(nowhere, part)


def test_samples_are_counted_by_class(made, census):
    _, dataset = training(made, census)
    counts = count_samples(dataset)
    assert counts.shape == (30, 8)
    for item in (0, 7, 29):
        target = dataset[item]["target"].numpy()
        assert counts[item].tolist() == [(target == code).sum() for code in range(8)]


def test_samples_are_drawn_as_often_as_they_hold_pixels_and_rare_classes_more(made, census):
    configuration, dataset = training(made, census, samples=50)
    counts = count_samples(dataset)
    plain = make_order(configuration, dataset)
    assert len(plain) == 50
    np.testing.assert_allclose(plain.weights, counts.sum(axis=1) / counts.sum())
    rare = make_order(*training(made, census, rare_classes=1.0))
    assert len(rare) == len(dataset)
    urban = counts[:, URBAN] > 0
    assert rare.weights[urban].sum() > plain.weights[urban].sum()


def test_samples_of_a_store_come_chunk_by_chunk(made, census, monkeypatch):
    configuration, dataset = training(made, census, locality=3)
    with monkeypatch.context() as patch:
        patch.setattr(dataset.source, "chunk", (40, 40))
        order = make_order(configuration, dataset)
    assert order.locality == 3
    assert order.groups.reshape(3, 10).tolist() == [order.groups[:10].tolist()] * 3, "years of a place are together"
    assert make_order(configuration, dataset).groups is None


def test_pixels_are_drawn_from_cells_to_learn_from_alone(made, census):
    _, dataset = training(made, census)
    coarse, static = sample_pixels(dataset, seed=1, count=3000)
    assert coarse.shape[0] == 7
    assert coarse.shape[1] == static.shape[1]
    assert 1500 < static.shape[1] <= 3000
    counted = expand(dataset.cells, FACTOR) & (dataset.source.target[0] != MASKED)
    drawn = {tuple(values) for values in static.numpy().T.tolist()}
    assert drawn <= {tuple(values) for values in dataset.source.static[:, counted].T.tolist()}


def test_given_patches_are_learned_from_where_they_hold_pixels(made, census):
    given = Patches(np.array([0, 20, 60]), np.array([0, 40, 200]), 40)
    dataset = make_dataset(made[0], made[1], Part.TRAIN, census, given)
    kept = [(int(r), int(c)) for r, c in zip(dataset.patches.rows, dataset.patches.columns, strict=True)]
    assert set(kept) <= {(0, 0), (20, 40), (60, 200)}
    assert kept
    with pytest.raises(ConfigurationError, match="no patch of 40 cells holds a pixel for train"):
        make_dataset(made[0], made[1], Part.TRAIN, census, Patches(np.array([140]), np.array([0]), 40))


def test_validation_patches_that_end_in_a_coarse_cell_give_way_to_windows(made, census):
    shallow = replace(made[0], architecture=replace(made[0].architecture, depth=1))
    configuration, dataset = training((shallow, made[1]), census, patch=38, patch_stride=20)
    assert dataset.patches.size == 38
    assert make_dataset(configuration, made[1], Part.VALIDATION, census).patches.size == configuration.inputs.window


def rollout(prior_step, years):
    coarse, static, maps = tiny_world((1999, 2000, 2001, 2002, 2003))
    configuration = tiny_configuration(replace(tiny_inputs("one_hot"), prior_step=prior_step))
    data = replace(configuration.data, forcing_years=(2000, 2001, 2002), target_years=(2000, 2001, 2002))
    configuration = replace(configuration, data=data, rollout=Rollout(years=years))
    made = gather(configuration, forcing=coarse, static=static, target=maps)
    return make_dataset(*made, Part.TRAIN, take_census(made[1].source))


def test_rollouts_are_made_of_years_that_follow_each_other_and_into_the_past_go_backwards():
    dataset = rollout(-1, 2)
    assert dataset.sequences.tolist() == [[0, 1], [1, 2]]
    assert describe_items(dataset, [0]).endswith("2000-2001")
    assert rollout(1, 2).sequences.tolist() == [[1, 0], [2, 1]]
    message = "samples of 4 consecutive maps need as many years in a row; there are 2000-2002"
    with pytest.raises(TimeError, match=message):
        rollout(-1, 4)


def test_patches_are_named_by_place_and_year(made, census):
    _, dataset = training(made, census)
    rows, columns = dataset.patches.slices(3)
    place = f"rows {rows.start}-{rows.start + 39}, columns {columns.start}-{columns.start + 39}"
    assert describe_items(dataset, [3, len(dataset.patches) + 3]) == f"{place}, 2000; {place}, 2001"
