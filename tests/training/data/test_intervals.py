"""Maps several years from their prior maps, and maps beyond those, in memory and in a training store."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from tests.training.conftest import given
from tests.worlds import tiny_configuration, tiny_inputs
from xland.errors import ConfigurationError, ModelError, TimeError
from xland.geo.split import Part
from xland.models.inputs import MASKED
from xland.training.configuration import Augmentation
from xland.training.data.batches import make_batches, make_dataset, take_census
from xland.training.data.loader import Place
from xland.training.data.material import gather, stored_material
from xland.training.data.prepare import prepare
from xland.training.rollout import Rollout

YEARS = (2000, 2001, 2002, 2003, 2005)
INPUTS = replace(tiny_inputs("one_hot", steps=(0, -1)), intervals=(1, 2), history=2)
EVERY = (slice(0, 180), slice(0, 360))


@pytest.fixture(scope="module")
def world():
    return given(YEARS)


@pytest.fixture(scope="module")
def material(world):
    return gather(tiny_configuration(INPUTS), **world)[1]


def test_each_map_comes_with_every_interval_to_a_map_that_is_there(material):
    found = list(zip(material.source.years, material.source.intervals, strict=True))
    assert found == [(2001, 1), (2002, 1), (2003, 1), (2002, 2), (2003, 2), (2005, 2)]


def test_states_prior_map_and_maps_beyond_it_are_those_of_their_years(world, material):
    maps = {int(year): world["target"].sel(time=year).values for year in YEARS}
    unknown = np.full_like(maps[2000], MASKED)
    expected = gather(tiny_configuration(tiny_inputs()), **world)[1].source
    for at, (year, interval) in enumerate(zip(material.source.years, material.source.intervals, strict=True)):
        (sample,) = material.source.read([Place(at, *EVERY)])
        for layer, beyond in zip(sample["prior"], range(3), strict=True):
            np.testing.assert_array_equal(layer, maps.get(year - interval - beyond, unknown))
        assert (sample["coarse"][-1] == interval / 2).all()
        first = year - interval
        channels = len(INPUTS.coarse)
        # the normalisation is that of other years; what has data is not normalised
        np.testing.assert_array_equal(sample["coarse"][2 * channels - 1], expected.coarse[YEARS.index(first), -1])


def test_a_training_store_gives_the_same_samples(tmp_path, world, material):
    configuration = tiny_configuration(INPUTS)
    prepare(configuration, tmp_path / "store", **world, progress=False)
    stored = stored_material(configuration, tmp_path / "store")[1].source
    assert (stored.years, stored.intervals) == (material.source.years, material.source.intervals)
    place = (slice(20, 60), slice(40, 110))
    for at in range(len(stored.years)):
        (own,), (other,) = (source.read([Place(at, *place)]) for source in (material.source, stored))
        assert own.keys() == other.keys()
        for name in own:
            np.testing.assert_allclose(own[name], other[name], atol=1e-5, err_msg=name)


def test_rollouts_keep_to_one_interval(world):
    configuration = replace(tiny_configuration(INPUTS), rollout=Rollout(years=2))
    configuration, material = gather(configuration, **world)
    dataset = make_dataset(configuration, material, Part.TRAIN, take_census(material.source))
    source = dataset.source
    runs = [[(source.years[at], source.intervals[at]) for at in run] for run in dataset.sequences]
    assert runs == [[(2001, 1), (2002, 1)], [(2002, 1), (2003, 1)], [(2003, 2), (2005, 2)]]
    assert dataset[0]["prior"].shape == (2, 3, 40, 40)


def test_maps_beyond_the_prior_map_are_dropped_in_some_samples(world):
    changes = Augmentation(flip=False, prior_masked=0.0, history_dropped=0.5)
    batches = make_batches(**world, inputs=INPUTS, augmentation=changes, patch=40, stride=20, batch=4, candidates=24)
    dropped = []
    for batch in batches:
        assert batch["coarse_channel"].values[-1] == "interval"
        later = batch["year"].values > 2002
        beyond = batch["prior"].values[later, 1]
        dropped += (beyond == MASKED).all(axis=(1, 2)).tolist()
        assert (batch["prior"].values[:, 0] != MASKED).any()
    assert 0.2 < np.mean(dropped) < 0.8


def test_what_cannot_be_is_refused(world):
    far = replace(INPUTS, intervals=(7,))
    with pytest.raises(TimeError, match="has a prior map and states 7 years away"):
        gather(tiny_configuration(far), **world)
    with pytest.raises(ModelError, match="intervals must be different"):
        replace(INPUTS, intervals=(2, 2))
    with pytest.raises(ModelError, match="read a prior map"):
        replace(tiny_inputs(), history=2)
    with pytest.raises(ConfigurationError, match="history_dropped is for inputs with a history"):
        replace(tiny_configuration(tiny_inputs("one_hot")), augmentation=Augmentation(history_dropped=0.5))
