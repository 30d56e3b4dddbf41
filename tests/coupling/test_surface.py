"""Surface fields follow published definitions, add up, and say what decided them."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from tests.worlds import tiny_world
from xland.coupling.surface import (
    CLM_PFTS,
    FRAC_LUT,
    PFTS,
    ctsm_raw,
    fine_states,
    frac_lut,
    lut_of_classes,
    plant_types,
)
from xland.errors import ForcingError, VocabularyError
from xland.sources.files import open_coarse
from xland.vocabulary import CLASS_NAMES, FOREST, LUH2_STATES, OCEAN, STATE_CLASSES

codes_of = arrays(np.uint8, (6, 5), elements=st.integers(0, 7))
numbers = arrays(np.uint8, (6, 5), elements=st.integers(0, 5))


def test_frac_lut_of_states_is_lumips_on_cells_worked_by_hand(luh2_path):
    states = open_coarse(luh2_path)
    found = frac_lut(states)["fracLut"].isel(time=0)
    assert list(found["landUse"].values) == list(FRAC_LUT)
    for lat, lon in ((48.125, 11.625), (41.625, -93.375), (-23.375, -46.625), (-30.125, 145.125)):
        cell = states.sel(lat=lat, lon=lon, method="nearest").isel(time=0)
        value = {name: float(cell[name]) for name in LUH2_STATES}
        by_hand = [
            value["primf"] + value["primn"] + value["secdf"] + value["secdn"],
            value["pastr"] + value["range"],
            value["c3ann"] + value["c3per"] + value["c4ann"] + value["c4per"] + value["c3nfx"],
            value["urban"],
        ]
        assert sum(by_hand) > 0.5
        there = found.sel(lat=lat, lon=lon, method="nearest").values
        assert np.allclose(there, 100 * np.array(by_hand), atol=1e-4)


def test_frac_lut_keeps_the_order_and_names_of_the_forcing():
    coarse = tiny_world((2000, 2001))[0].sortby("lat").rename(lat="y", time="year")
    found = frac_lut(coarse)["fracLut"]
    assert found.sizes["y"] == coarse.sizes["y"]
    assert np.array_equal(found["y"], coarse["y"])
    sums = found.sum("landUse", skipna=False).values
    expected = 100 * sum(coarse[name] for name in LUH2_STATES).values
    assert np.allclose(sums, expected, atol=1e-3, equal_nan=True)


@given(codes_of)
def test_frac_lut_of_a_map_has_no_water_and_no_ice(codes):
    shares = (codes == np.arange(8)[:, None, None]).astype(float)
    found = lut_of_classes(shares, ice=shares[6])
    natural = np.isin(codes, (4, 5))
    assert np.array_equal(found[0], 100 * natural)
    assert np.array_equal(found.sum(axis=0), 100.0 * np.isin(codes, (1, 2, 3, 4, 5)))
    assert np.array_equal(lut_of_classes(shares)[0], 100.0 * np.isin(codes, (4, 5, 6)))


@given(codes_of, numbers, numbers)
def test_plant_types_fill_each_cell_of_land_and_say_what_decided(codes, zones, leaves):
    types, decided = plant_types(codes, zones=zones, leaf_types=leaves)
    assert types.shape == (len(PFTS), *codes.shape)
    assert np.allclose(types.sum(axis=0), 100.0 * (codes != OCEAN))
    assert np.array_equal(decided, np.where(codes == FOREST, np.where(leaves > 0, 1, 2), 0))
    seen, _ = plant_types(codes, leaf_types=leaves)
    assert np.array_equal(seen[:, (codes != FOREST) | (leaves > 0)], types[:, (codes != FOREST) | (leaves > 0)])


def test_plant_types_are_those_of_the_table():
    types, _ = plant_types(np.array([4, 4, 1]), leaf_types=np.array([2, 5, 0]))
    assert types[:, 0].tolist() == [90, 0, 0, 0, 10, 0, 0, 0, 0, 0]
    assert types[:, 1].tolist() == [0, 30, 20, 10, 30, 0, 0, 10, 0, 0]
    assert types[:, 2].tolist() == [0, 2.5, 2.5, 0, 15, 0, 0, 0, 75, 5]


@pytest.mark.parametrize(
    ("codes", "given_", "text"),
    [
        ([4], {}, "zones="),
        ([9], {"zones": [1]}, "class: 1 cells"),
        ([4], {"zones": [6]}, "zone: 1 cells"),
        ([4], {"leaf_types": [1, 2]}, "shape"),
    ],
)
def test_unknown_codes_of_plant_types_are_refused(codes, given_, text):
    with pytest.raises(VocabularyError, match=text):
        plant_types(np.array(codes), **{name: np.array(each) for name, each in given_.items()})


@given(codes_of, arrays(np.float64, (12, 6, 5), elements=st.floats(0, 1)))
def test_states_of_a_fine_map_add_up_to_its_classes(codes, values):
    shares = {name: (codes == number).astype(float) for number, name in enumerate(CLASS_NAMES)}
    coarse = dict(zip(LUH2_STATES, values, strict=True))
    found = fine_states(shares, coarse)
    assert set(found) == set(LUH2_STATES)
    for name in set(STATE_CLASSES.values()):
        parts = [found[state] for state in found if STATE_CLASSES[state] == name]
        assert np.allclose(np.sum(parts, axis=0), shares[name], atol=1e-6)
    some = (codes == FOREST) & (values[0] + values[2] > 1e-6)
    assert np.allclose(found["primf"][some], (values[0] / np.maximum(values[0] + values[2], 1e-30))[some], atol=1e-5)


def test_states_that_are_missing_are_named():
    with pytest.raises(ForcingError, match="primf"):
        fine_states({}, {"urban": np.zeros(3)})


@given(codes_of, numbers)
def test_raw_data_for_ctsm_add_up(codes, zones):
    ds = ctsm_raw(codes, zones, np.arange(6.0), np.arange(5.0))
    parts = sum(ds[name] for name in ("PCT_NATVEG", "PCT_CROP", "PCT_URBAN", "PCT_LAKE"))
    assert np.allclose(parts, 100 * ds["LANDMASK"])
    assert ds["PCT_NAT_PFT"].sizes["natpft"] == len(CLM_PFTS) == 15
    assert np.allclose(ds["PCT_NAT_PFT"].sum("natpft"), 100)
