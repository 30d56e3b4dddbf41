"""The two configurations of the published system: models of the future and of the past."""

from __future__ import annotations

from dataclasses import replace

import pytest

from xland.geo.split import Part, assign_years
from xland.models.inputs import published_inputs
from xland.training.configuration import list_configurations, read_configuration

KINDS = {"published-future": -1, "published-past": 1}


@pytest.mark.parametrize(("name", "step"), KINDS.items())
def test_inputs_are_the_35_published_channels_and_the_map_of_the_adjacent_year(name, step):
    inputs = read_configuration(name).inputs
    assert inputs == replace(published_inputs(), prior_step=step)
    assert inputs.channels == 35


def test_the_two_differ_in_direction_alone():
    future, past = map(read_configuration, KINDS)
    same = {"name": future.name, "title": future.title, "notes": future.notes}
    assert replace(past, inputs=replace(past.inputs, prior_step=-1), **same) == future
    assert "the year before" in future.title
    assert "the year after" in past.title


@pytest.mark.parametrize("name", KINDS)
def test_what_is_published_is_followed(name):
    configuration = read_configuration(name)
    assert name in list_configurations()
    assert configuration.augmentation.prior_masked == 0.6
    assert configuration.schedule.patch == 256
    assert configuration.architecture.kind == "unet"
    years = assign_years(range(1959, 2017), configuration.data.train_years, configuration.data.test_years)
    assert [year for year, part in years.items() if part == Part.TRAIN] == [*range(1960, 2001)]
    assert [year for year, part in years.items() if part == Part.TEST] == [*range(2001, 2016)]


@pytest.mark.parametrize("name", KINDS)
def test_what_is_ours_is_said_in_the_notes(name):
    configuration = read_configuration(name)
    published, _, ours = configuration.notes.partition("Ours:")
    assert "arXiv 2606.11793" in published
    assert "scheduled sampling" in ours
    assert (configuration.rollout.years, configuration.rollout.own_maps) == (3, 1.0)


@pytest.mark.parametrize("name", KINDS)
def test_north_and_south_are_not_exchanged_as_the_aspect_would_change_its_sign(name):
    assert not read_configuration(name).augmentation.flip_north_south
