from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from xland import vocabulary
from xland.errors import VocabularyError
from xland.vocabulary import (
    CLASS_NAMES,
    CLASSES,
    CROP_STATES,
    HILDA_BASE,
    HILDA_FOREST,
    HILDA_FOREST_TYPES,
    IGBP,
    IGBP_NAMES,
    LAND_CLASSES,
    LUH2_STATES,
    LUH3_STATES,
    STATE_CLASSES,
    check_codes,
    class_code,
    flag_attributes,
    translate,
)

TABLES = {"base": HILDA_BASE, "forest": HILDA_FOREST, "igbp": IGBP}


def test_classes_stand_in_the_order_of_their_codes():
    assert [c.code for c in CLASSES] == list(range(8))
    assert CLASS_NAMES == ("ocean", "urban", "cropland", "pasture", "forest", "grass_shrub", "other", "water")
    assert [class_code(name) for name in CLASS_NAMES] == list(range(8))
    assert set(LAND_CLASSES) == set(range(8)) - {vocabulary.OCEAN, vocabulary.WATER}
    with pytest.raises(VocabularyError, match=r"'wetland'.*grass_shrub"):
        class_code("wetland")


def test_every_state_of_luh_has_a_class():
    assert len(LUH2_STATES) == len(set(LUH2_STATES)) == 12
    assert set(LUH3_STATES) - set(LUH2_STATES) == {"pltns"}
    assert set(STATE_CLASSES) == set(LUH3_STATES)
    assert set(STATE_CLASSES.values()) <= set(CLASS_NAMES)
    assert {STATE_CLASSES[name] for name in CROP_STATES} == {"cropland"}
    assert STATE_CLASSES["pltns"] == "forest"
    assert STATE_CLASSES["range"] == "pasture"


def test_base_product_of_hilda_knows_44_only_as_all_forest():
    assert translate(np.array([11, 22, 33, 44, 55, 66, 77, 0, 99]), HILDA_BASE).tolist() == [1, 2, 3, 4, 5, 6, 7, 0, 0]


def test_forest_product_of_hilda_knows_44_as_one_of_six_types():
    assert set(translate(np.arange(40, 46), HILDA_FOREST)) == {vocabulary.FOREST}
    assert set(HILDA_FOREST_TYPES) == set(HILDA_FOREST) - set(HILDA_BASE) | {44}


def test_all_codes_of_igbp_have_a_class_and_a_name():
    assert set(IGBP) == set(IGBP_NAMES) == set(range(17))
    classes = dict(zip(range(17), translate(np.arange(17), IGBP), strict=True))
    assert classes[0] == vocabulary.WATER
    assert classes[13] == vocabulary.URBAN
    assert classes[12] == classes[14] == vocabulary.CROPLAND
    assert classes[10] == vocabulary.PASTURE
    assert classes[15] == classes[16] == vocabulary.OTHER


@settings(max_examples=40, deadline=None)
@given(
    st.sampled_from(sorted(TABLES)),
    st.sampled_from(["uint8", "int16", "int64", "uint64", "float32", "float64"]),
    st.data(),
)
def test_translation_follows_the_table_for_any_type_and_shape(name, dtype, data):
    table = TABLES[name]
    shape = hnp.array_shapes(min_dims=0, max_dims=3, max_side=4)
    codes = data.draw(hnp.arrays(dtype, shape, elements=st.sampled_from(sorted(table))))
    classes = translate(codes, table)
    assert classes.dtype == np.uint8
    assert classes.shape == codes.shape
    for code, found in zip(codes.ravel(), classes.ravel(), strict=True):
        assert CLASS_NAMES[found] == table[int(code)]


WIDE = {111: "urban", 523: "ocean", -1: "water"}


@pytest.mark.parametrize(
    ("codes", "table", "message"),
    [
        (
            [[44, 12], [12, 200]],
            HILDA_BASE,
            r"^map: unknown codes 12 \(2 cells\), 200 \(1 cells\); known codes are 0, 11",
        ),
        # codes outside of a byte are not wrapped into known ones
        *(([44, code], HILDA_BASE, f"unknown codes {code} ") for code in (40, 45, -1, 255, 254, 256, 70_000, -32_768)),
        *(([111, code], WIDE, rf"unknown codes {code} \(1 cells\)") for code in (255, 300, -2, 0)),
        *(([44.0, value], HILDA_BASE, "whole numbers") for value in (np.nan, np.inf, 44.5)),
        *((codes, HILDA_BASE, "must be integers") for codes in (["44"], [True], [44j])),
    ],
)
def test_codes_that_the_table_does_not_know_are_refused_and_counted(codes, table, message):
    with pytest.raises(VocabularyError, match=message):
        translate(np.array(codes), table)


def test_codes_beyond_a_byte_and_below_zero_are_known_if_the_table_knows_them():
    np.testing.assert_array_equal(translate(np.array([[111, 523], [-1, 111]]), WIDE), [[1, 0], [7, 1]])


def test_flags_are_as_cf_wants_them():
    attributes = flag_attributes()
    assert attributes["flag_values"].dtype == np.uint8
    assert attributes["flag_values"].tolist() == list(range(8))
    assert attributes["flag_meanings"].split() == list(CLASS_NAMES)
    assert attributes["flag_colors"].split() == [each.color for each in CLASSES]
    some = flag_attributes(("water", "urban"))
    assert (some["flag_values"].tolist(), some["flag_meanings"]) == ([7, 1], "water urban")
    with pytest.raises(VocabularyError, match="sea"):
        flag_attributes(("sea",))


@pytest.mark.parametrize("bad", [1.5, np.nan, -1, 260, "forest"])
def test_only_whole_numbers_of_classes_are_codes(bad):
    with pytest.raises(
        VocabularyError, match=r"unknown class codes|<U6 values; class codes are whole numbers from 0 to 7"
    ):
        check_codes(np.array([[bad]]), what="map")
    assert check_codes(np.array([[1.0, 7.0]]), what="map").dtype == np.uint8
