from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.totals.blocks import FREE, blocks, make_block
from xland.errors import AllocationError
from xland.totals.changes import fit_changes
from xland.totals.crosswalk import LUH_CROSSWALK, Crosswalk
from xland.totals.fractions import fit_fractions
from xland.totals.maps import fit_map
from xland.vocabulary import CROPLAND, FOREST, GRASS_SHRUB, WATER

few = settings(max_examples=12, deadline=None)
moves = st.floats(-0.5, 0.5)


def observed(block):
    """A map that is not what the forcing has: other shares, and the model's most probable class."""
    return np.where(block.valid, block.probability.argmax(axis=0), 0).astype(np.uint8)


def changed(block, seed, most=0.2):
    """Targets after random changes that sum to nothing."""
    generator = np.random.default_rng(seed)
    other = generator.dirichlet(np.ones(5), size=block.targets.shape[1:]).transpose(2, 0, 1)
    total = np.nansum(block.targets, axis=0)
    targets = block.targets.copy()
    targets[1:6] = (1 - most) * targets[1:6] + most * other * total
    return targets


def apply(block, targets, prior, base=None, crosswalk=LUH_CROSSWALK, prior_targets=None):
    return fit_changes(
        block.probability,
        prior,
        targets,
        block.targets,
        prior if base is None else base,
        *block.arguments[2:],
        crosswalk,
        prior_targets,
    )


@few
@given(blocks())
def test_without_a_change_the_map_stays(block):
    prior = observed(block)
    fitted = apply(block, block.targets, prior)
    assert (fitted.codes == prior).all()
    assert (fitted.unmet == 0).all()


@few
@given(blocks(), st.integers(0, 1000))
def test_changes_of_the_map_are_those_of_the_forcing(block, seed):
    prior = observed(block)
    free = Crosswalk(dict(LUH_CROSSWALK.states), LUH_CROSSWALK.remainder, protected=())
    targets = changed(block, seed)
    fitted = apply(block, targets, prior, crosswalk=free)
    errors = block.shares(fitted.codes) - block.shares(prior) - (targets - block.targets)
    kept = fitted.unmet == 0
    assert (
        np.nanmax(np.abs(errors), axis=0)[kept] <= (block.pixel * (1 + 1e-5) + 1e-6).repeat(kept.shape[1], 1)[kept]
    ).all()


@few
@given(blocks(), st.integers(0, 1000))
def test_protected_classes_grow_nowhere_where_the_forcing_says_they_shrink(block, seed):
    prior = observed(block)
    targets = changed(block, seed)
    fitted = apply(block, targets, prior)
    shrinks = (targets < block.targets)[FOREST].repeat(block.factor, 0).repeat(block.factor, 1)
    new = (fitted.codes == FOREST) & (prior != FOREST)
    assert not (new & shrinks).any()


def test_protected_classes_never_grow_again_over_years_in_which_they_shrink():
    block = make_block((2, 3), 5, seed=3)
    base = observed(block)
    prior, before = base, block.targets
    for year in range(6):
        targets = changed(block, 100 + year, most=0.04 * (year + 1))
        fitted = apply(block, targets, prior, base, prior_targets=before)
        shrinks = (targets < before)[FOREST].repeat(5, 0).repeat(5, 1)
        assert not ((fitted.codes == FOREST) & (prior != FOREST) & shrinks).any()
        prior, before = fitted.codes, targets


@few
@given(blocks(sharpness=3.0), st.integers(0, 1000))
def test_no_map_with_these_class_areas_moves_fewer_pixels(block, seed):
    prior = observed(block)
    fitted = apply(block, changed(block, seed), prior)
    after, before = block.shares(fitted.codes), block.shares(prior)
    moved = block.shares(np.where(fitted.codes != prior, fitted.codes, 255)).sum(axis=0)
    gains = np.maximum(after - before, 0)
    # pixels that join the remainder are counted once, whatever class of it they have
    gains[FREE] = 0
    gains[0] = np.maximum((after - before)[FREE].sum(axis=0), 0)
    assert (moved <= gains.sum(axis=0) + 2 * block.pixel).all()


def test_changes_smaller_than_a_pixel_add_up():
    block = make_block((2, 2), 5, seed=1)
    base = np.full(block.valid.shape, GRASS_SHRUB, dtype=np.uint8)
    prior = base
    block.targets[:, :, :] = np.array([np.nan, 0.1, 0.2, 0.2, 0.2, 0.3, np.nan, np.nan])[:, None, None]
    for year in range(1, 11):
        targets = block.targets.copy()
        targets[GRASS_SHRUB] -= 0.008 * year
        targets[CROPLAND] += 0.008 * year
        prior = fit_changes(
            block.probability, prior, targets, block.targets, base, *block.arguments[2:], LUH_CROSSWALK
        ).codes
    # a fifth of a pixel a year, two after ten years
    assert (block.shares(prior)[CROPLAND] * 25).round() == pytest.approx(2)


def test_the_most_probable_pixels_are_moved():
    block = make_block((1, 1), 3)
    prior = np.full((3, 3), GRASS_SHRUB, dtype=np.uint8)
    block.probability[:] = 0.1
    block.probability[CROPLAND, 1, 2] = block.probability[CROPLAND, 2, 0] = 0.3
    block.targets[:, 0, 0] = [np.nan, 0.1, 0.1, 0.2, 0.2, 0.4, np.nan, np.nan]
    targets = block.targets.copy()
    targets[[CROPLAND, GRASS_SHRUB], 0, 0] += 2 / 9, -2 / 9
    codes = apply(block, targets, prior).codes
    assert np.argwhere(codes == CROPLAND).tolist() == [[1, 2], [2, 0]]


def test_what_a_map_does_not_have_cannot_be_taken_from_it():
    block = make_block((1, 1), 5)
    prior = np.full((5, 5), FOREST, dtype=np.uint8)
    prior[0, :2] = CROPLAND
    prior[4] = WATER
    block.targets[:, 0, 0] = [np.nan, 0, 0.4, 0.2, 0.2, 0.2, np.nan, np.nan]
    targets = block.targets.copy()
    targets[[CROPLAND, GRASS_SHRUB], 0, 0] = 0.0, 0.6
    fitted = apply(block, targets, prior)
    assert (fitted.codes[0, :2] == GRASS_SHRUB).all()
    assert (fitted.codes[prior != CROPLAND] == prior[prior != CROPLAND]).all()
    assert fitted.unmet == pytest.approx(0.4 - 2 / 25, abs=0.01)


def test_a_cell_without_data_keeps_its_map():
    block = make_block((1, 2), 4)
    prior = observed(block)
    targets = changed(block, 5)
    targets[:, 0, 1] = np.nan
    fitted = apply(block, targets, prior)
    assert (fitted.codes[:, 4:] == prior[:, 4:]).all()
    assert np.isnan(fitted.unmet[0, 1])


def test_pixels_of_unknown_class_get_one():
    block = make_block((1, 1), 5, seed=2)
    base = observed(block)
    prior = base.copy()
    prior[2] = 255
    codes = apply(block, block.targets, prior, base).codes
    known = prior != 255
    assert codes.max() < 8
    assert (codes[known] == prior[known]).mean() > 0.7


def test_a_class_that_the_model_does_not_have_needs_no_protection():
    probability, base = np.full((3, 5, 5), 1 / 3, np.float32), np.full((5, 5), 2, np.uint8)
    before, now = (np.array([np.nan, urban, 1 - urban]).reshape(3, 1, 1) for urban in (0.0, 0.2))
    fitted = fit_changes(probability, base, now, before, base, np.ones(5), np.ones((5, 5), bool), LUH_CROSSWALK)
    assert np.bincount(fitted.codes.ravel(), minlength=3).tolist() == [0, 5, 20]


WAYS = {
    "fractions": lambda block: fit_fractions(*block.arguments),
    "map": lambda block: fit_map(*block.arguments),
    "tolerance": lambda block: fit_map(*block.arguments, 0.5),
    "changes": lambda block: apply(block, block.targets**2 / 2 + block.targets / 2, observed(block)),
}


@few
@given(blocks(shape=(3, 3)), st.sampled_from(sorted(WAYS)))
def test_cutting_the_block_changes_nothing(block, way):
    whole, part = WAYS[way](block), WAYS[way](block.part(slice(1, 3), slice(0, 2)))
    f = block.factor
    name = "values" if way == "fractions" else "codes"
    assert (getattr(part, name) == getattr(whole, name)[..., f : 3 * f, : 2 * f]).all()
    assert (part.unmet == whole.unmet[1:3, :2]).all()


@pytest.mark.parametrize("way", sorted(WAYS))
def test_a_cell_without_valid_pixels_has_no_class_and_reports_all_that_was_asked_for(way):
    block = make_block((1, 1), 5)
    block.valid[:] = False
    fitted = WAYS[way](block)
    if way == "fractions":
        assert (fitted.values == block.probability).all()
    else:
        assert (fitted.codes == 0).all()
    if way != "changes":
        assert fitted.unmet == pytest.approx(np.nansum(block.targets))


@pytest.mark.parametrize(
    ("which", "codes", "message"),
    [
        ("prior", np.full((5, 5), 77), "adjacent year has codes that are not a class in 25 valid pixels, such as 77"),
        ("prior", np.full((5, 5), 257), "such as 257; codes go from 0 to 7"),
        ("base", np.full((5, 5), -1), "map of the base year has codes that are not a class"),
        ("base", np.full((5, 5), np.nan), "map of the base year has codes that are not a class"),
        ("base", np.full((5, 5), 255), "map of the base year has no class in 25 valid pixels"),
        ("prior", np.full((1, 5), 3), r"map of the adjacent year has the shape \(1, 5\) in place of \(5, 5\)"),
    ],
)
def test_maps_of_other_codes_or_shapes_are_refused(which, codes, message):
    block = make_block((1, 1), 5)
    maps = {"prior": np.full((5, 5), GRASS_SHRUB), "base": np.full((5, 5), GRASS_SHRUB), which: codes}
    with pytest.raises(AllocationError, match=message):
        apply(block, block.targets, **maps)
