from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from scipy.spatial.distance import cdist

from tests.worlds import COARSE, FACTOR, tiny_configuration, tiny_inputs, tiny_world
from xland.geo.split import Part
from xland.models.applicability import static_means
from xland.training.data.material import gather
from xland.training.learn.calibrating import choose_prototypes, fit_applicability, training_cells


def gathered(configuration=None, years=(2000,)):
    coarse, static, maps = tiny_world(years)
    return gather(configuration or tiny_configuration(), forcing=coarse, static=static, target=maps)[1]


@pytest.fixture(scope="module")
def material():
    return gathered()


def test_the_inputs_of_all_training_cells_with_land_are_collected(material):
    features, fold = training_cells(material)
    source = material.source
    land = (source.target[0] != 255).reshape(*(45, FACTOR, 90, FACTOR)).any(axis=(1, 3))
    assert len(features) == (land & (material.part == Part.TRAIN)).sum()
    static = static_means(source.static, source.target[0] != 255, FACTOR)
    row, column = np.argwhere(land & (material.part == Part.TRAIN))[0]
    expected = np.concatenate([source.coarse[0, :, row, column], static[:, row, column]])
    assert (np.abs(features - expected).max(axis=1) < 1e-6).any()
    assert len(np.unique(fold)) > 50


def test_years_are_drawn_for_models_of_several_steps_too():
    configuration = tiny_configuration(tiny_inputs("code", (0, -1)))
    years = replace(configuration.data, forcing_years=(2001, 2002), target_years=(2001, 2002))
    features, _ = training_cells(gathered(replace(configuration, data=years), (2000, 2001, 2002)))
    assert features.shape[1] == 2 * 7 + 3
    assert np.isfinite(features).all()


def test_typical_distance_and_threshold_are_those_of_the_paper_on_a_small_table():
    """Every point is a prototype here, so that a brute-force loop over folds must give the same."""
    random = np.random.default_rng(0)
    features = random.normal(size=(300, 3)).astype(np.float16).astype(np.float32)
    fold = random.integers(0, 10, 300)
    fitted = choose_prototypes(features, fold, count=300)
    distance = cdist(features, features)
    others = fold[:, None] != fold[None]
    assert fitted.typical == pytest.approx(distance[others].mean())
    index = np.array([row[mask].min() for row, mask in zip(distance, others, strict=True)]) / distance[others].mean()
    lower, upper = np.quantile(index, [0.25, 0.75])
    assert fitted.threshold == pytest.approx(index[index <= upper + 1.5 * (upper - lower)].max())


def test_training_inputs_lie_within_and_inputs_far_from_them_outside(material):
    fitted = fit_applicability(material)
    source = material.source
    static = static_means(source.static, source.target[0] != 255, FACTOR)
    index = fitted.distance(source.coarse[0], static)
    assert index.shape == COARSE.shape
    known = np.isfinite(index)
    learned = known & (material.part == Part.TRAIN)
    assert index[learned].max() < 0.05
    assert (index[known & (material.part == Part.TEST)] <= fitted.threshold).mean() > 0.85
    pushed = fitted.distance(source.coarse[0] + 10, static)
    assert (pushed[known] > fitted.threshold).all()


def test_few_prototypes_stand_for_many_inputs(material):
    features, fold = training_cells(material)
    few = choose_prototypes(features, fold, count=100)
    distance = cdist(features, few.prototypes).min(axis=1)
    assert len(few.prototypes) == 100
    assert distance.max() < 0.6 * few.typical
    assert few.typical == pytest.approx(choose_prototypes(features, fold, count=400).typical)


def test_training_cells_of_one_place_give_no_threshold(material):
    features, fold = training_cells(material)
    assert choose_prototypes(features, np.zeros_like(fold)) is None
    nothing = replace(material, part=np.full_like(material.part, Part.NONE))
    assert fit_applicability(nothing) is None
