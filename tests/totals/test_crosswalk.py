from __future__ import annotations

import pickle

import numpy as np
import pytest

from xland.errors import AllocationError
from xland.totals.crosswalk import LUH_CROSSWALK, Crosswalk, checked_crosswalk, class_targets
from xland.vocabulary import CLASS_NAMES, LUH2_STATES, STATE_CLASSES, class_code


def states(value=0.05, names=LUH2_STATES):
    return {name: np.full((2, 3), value) for name in names}


def targets_of(given, crosswalk=LUH_CROSSWALK):
    return dict(zip(CLASS_NAMES, class_targets(given, crosswalk, CLASS_NAMES), strict=True))


def test_states_of_a_class_are_added_and_classes_without_one_share_the_rest():
    given = states()
    for values in given.values():
        values[1, 2] = np.nan
    targets = targets_of(given)
    for name, total in {"forest": 0.1, "cropland": 0.25, "urban": 0.05}.items():
        assert targets[name][0] == pytest.approx(total)
    assert [name for name, values in targets.items() if np.isnan(values).all()] == ["ocean", "other", "water"]
    assert all(np.isnan(values[1, 2]) for values in targets.values()), "cells without data have no target"
    moved = targets_of(states(), Crosswalk({**STATE_CLASSES, "range": "grass_shrub"}))
    assert (moved["pasture"][0, 0], moved["grass_shrub"][0, 0]) == (pytest.approx(0.05), pytest.approx(0.15))
    assert targets_of(states(names=(*LUH2_STATES, "pltns")))["forest"] == pytest.approx(0.15), "plantations of LUH3"


def test_shares_by_the_name_of_a_class_are_taken_as_they_are_and_ocean_is_part_of_the_sum():
    targets = class_targets(states(0.125, CLASS_NAMES), LUH_CROSSWALK, CLASS_NAMES)
    assert np.isnan(targets[class_code("ocean")]).all()
    assert targets[1:] == pytest.approx(0.125)
    targets = class_targets({**states(0.1, CLASS_NAMES), "ocean": np.full((2, 3), 0.3)}, LUH_CROSSWALK, CLASS_NAMES)
    assert np.nansum(targets, axis=0) == pytest.approx(0.7)


def test_a_crosswalk_can_be_hashed_compared_and_sent():
    again = pickle.loads(pickle.dumps(LUH_CROSSWALK))
    assert again == LUH_CROSSWALK
    assert hash(again) == hash(LUH_CROSSWALK)
    assert Crosswalk(dict(reversed(STATE_CLASSES.items()))) == LUH_CROSSWALK
    assert checked_crosswalk(None) is LUH_CROSSWALK


def test_a_class_whose_only_states_the_forcing_may_lack_is_refused_where_it_does():
    """It would be wanted nowhere, also in cells of which the forcing says nothing."""
    plantations = Crosswalk({**STATE_CLASSES, "pltns": "other"}, remainder=("ocean", "water"))
    with pytest.raises(AllocationError, match="lacks pltns"):
        class_targets(states(), plantations, CLASS_NAMES)
    held = class_targets(states(names=(*LUH2_STATES, "pltns")), plantations, CLASS_NAMES)
    assert held[class_code("other")] == pytest.approx(0.05)


FEW = Crosswalk({"primf": "forest"}, remainder=("ocean", "other"))
MOVED = {state: "grass_shrub" if owner == "pasture" else owner for state, owner in STATE_CLASSES.items()}
MERGED = Crosswalk({**MOVED, "pasture": "grass_shrub"}, remainder=("ocean", "other", "water", "pasture"))


def luh(**change):
    """Totals of states, some of which are changed, or left out where they are None."""
    given = {**states(), **{name: np.full((2, 3), value) for name, value in change.items() if value is not None}}
    missing = [name for name, value in change.items() if value is None]
    return class_targets({name: given[name] for name in given if name not in missing}, LUH_CROSSWALK, CLASS_NAMES)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: luh(primf=1.5), "primf lies outside 0 to 1 in 6 coarse cells, the first in row 0"),
        (lambda: luh(urban=-0.1), "urban lies outside 0 to 1"),
        (lambda: luh(urban=np.nan), "urban has no data where other states have in 6 coarse cells"),
        (lambda: luh(primf=0.9), r"sum to as much as 1\.45 in place of 1 in 6 coarse cells"),
        (lambda: luh(forest=0.1), "has forest as well as its states primf, secdf"),
        (lambda: luh(secdf=None), "lacks secdf"),
        (
            lambda: class_targets(states(0.1, CLASS_NAMES), LUH_CROSSWALK, CLASS_NAMES),
            r"sum to as little as 0\.8 in place of 1 in 6 coarse cells",
        ),
        (lambda: class_targets({}, FEW, ("forest",)), "there are no states to make totals of"),
        (lambda: class_targets(states(), FEW, ("cropland", "forest", "other")), "leaves cropland without a state"),
        (
            lambda: FEW.sources(["primf"], ("urban", "forest", "water", "ocean")),
            r"leaves urban, water without a state; give each a state",
        ),
        (
            lambda: MERGED.sources((*STATE_CLASSES, "pasture"), CLASS_NAMES),
            "has pasture, which the crosswalk counts as grass_shrub: it would count",
        ),
        (lambda: Crosswalk({"primf": "swamp"}), "unknown classes swamp"),
        (lambda: Crosswalk({"lakes": "water"}), "gives states to water and calls them remainder"),
        (lambda: Crosswalk({"forest": ["primf"]}), "states must map names of states to names of classes, not be {'f"),
        (lambda: Crosswalk(["primf"]), "states must map names"),
        (lambda: Crosswalk(None), "states must map names"),
        (
            lambda: Crosswalk({"primf": "forest"}, "other"),
            "`remainder` must be a list of names of classes, not 'other'",
        ),
        (lambda: Crosswalk({"primf": "forest"}, (), [4]), "`protected` must be a list of names"),
        (lambda: checked_crosswalk(dict(STATE_CLASSES)), r"is of type dict; pass an .*Crosswalk\(\{'primf'"),
        (lambda: checked_crosswalk("crosswalk.toml"), "is of type str; pass an"),
    ],
)
def test_what_makes_no_sense_is_refused(make, message):
    with pytest.raises(AllocationError, match=message):
        make()
