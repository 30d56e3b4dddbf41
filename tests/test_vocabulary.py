from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from xland import vocabulary
from xland.errors import VocabularyError, XlandError
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
    class_code,
    flag_attributes,
    translate,
)

TABLES = {"base": HILDA_BASE, "forest": HILDA_FOREST, "igbp": IGBP}


def test_classes_stand_in_the_order_of_their_codes():
    assert [c.code for c in CLASSES] == list(range(8))
    assert CLASS_NAMES == ("ocean", "urban", "cropland", "pasture", "forest", "grass_shrub", "other", "water")
    assert [class_code(name) for name in CLASS_NAMES] == list(range(8))


def test_neither_ocean_nor_water_counts_as_land():
    assert set(LAND_CLASSES) == set(range(8)) - {vocabulary.OCEAN, vocabulary.WATER}


def test_an_unknown_class_is_named_with_the_known_ones():
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
    for code in (40, 41, 42, 43, 45):
        with pytest.raises(VocabularyError, match=f"unknown codes {code} "):
            translate(np.array([code]), HILDA_BASE)


def test_forest_product_of_hilda_knows_44_as_one_of_six_types():
    assert set(translate(np.arange(40, 46), HILDA_FOREST)) == {vocabulary.FOREST}
    assert set(HILDA_FOREST_TYPES) == set(HILDA_FOREST) - set(HILDA_BASE) | {44}
    assert HILDA_FOREST_TYPES[44] == "deciduous broadleaf forest"


def test_all_codes_of_igbp_have_a_class_and_a_name():
    assert set(IGBP) == set(IGBP_NAMES) == set(range(17))
    classes = dict(zip(range(17), translate(np.arange(17), IGBP), strict=True))
    assert classes[0] == vocabulary.WATER
    assert classes[13] == vocabulary.URBAN
    assert classes[12] == classes[14] == vocabulary.CROPLAND
    assert classes[10] == vocabulary.PASTURE
    assert classes[15] == classes[16] == vocabulary.OTHER


def test_unknown_codes_are_counted_one_by_one():
    codes = np.array([[44, 12], [12, 200]], dtype=np.uint8)
    with pytest.raises(VocabularyError) as caught:
        translate(codes, HILDA_BASE, what="observed map")
    assert str(caught.value).startswith(
        "observed map: unknown codes 12 (2 cells), 200 (1 cells); known codes are 0, 11"
    )
    assert isinstance(caught.value, XlandError)
    assert isinstance(caught.value, ValueError)


@pytest.mark.parametrize("code", [-1, 255, 254, 256, 70_000, -32_768])
def test_codes_outside_of_a_byte_are_not_wrapped_into_known_ones(code):
    with pytest.raises(VocabularyError, match=f"unknown codes {code} "):
        translate(np.array([44, code]), HILDA_BASE)


@pytest.mark.parametrize("value", [np.nan, np.inf, 44.5])
def test_codes_that_are_not_whole_numbers_are_refused(value):
    with pytest.raises(VocabularyError, match="whole numbers"):
        translate(np.array([44.0, value]), HILDA_BASE)


@pytest.mark.parametrize("codes", [np.array(["44"]), np.array([True]), np.array([44j])])
def test_codes_of_other_kinds_are_refused(codes):
    with pytest.raises(VocabularyError, match="must be integers"):
        translate(codes, HILDA_BASE)


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


def test_flags_are_as_cf_wants_them():
    attributes = flag_attributes()
    assert attributes["flag_values"].dtype == np.uint8
    assert attributes["flag_values"].tolist() == list(range(8))
    assert attributes["flag_meanings"].split() == list(CLASS_NAMES)
    colors = attributes["flag_colors"].split()
    assert len(set(colors)) == 8
    assert all(len(color) == 7 and int(color[1:], 16) >= 0 for color in colors)


def test_flags_of_some_classes_keep_their_codes():
    attributes = flag_attributes(("water", "urban"))
    assert attributes["flag_values"].tolist() == [7, 1]
    assert attributes["flag_meanings"] == "water urban"
    with pytest.raises(VocabularyError, match="sea"):
        flag_attributes(("sea",))


def test_colours_differ_in_lightness():
    def lightness(color):
        red, green, blue = (int(color[i : i + 2], 16) / 255 for i in (1, 3, 5))
        return 0.2126 * red + 0.7152 * green + 0.0722 * blue

    found = sorted(lightness(c.color) for c in CLASSES)
    assert found[-1] - found[0] > 0.5
    assert np.diff(found).min() > 0.01


def test_tables_cannot_be_changed_by_accident():
    with pytest.raises(TypeError):
        HILDA_BASE[1] = "forest"
    with pytest.raises(AttributeError):
        CLASSES[0].code = 3


def test_codes_beyond_a_byte_and_below_zero_are_known_if_the_table_knows_them():
    table = {111: "urban", 523: "ocean", -1: "water"}
    np.testing.assert_array_equal(translate(np.array([[111, 523], [-1, 111]]), table), [[1, 0], [7, 1]])
    for other in (255, 300, -2, 0):
        with pytest.raises(VocabularyError, match=rf"unknown codes {other} \(1 cells\)"):
            translate(np.array([other, 111]), table)
