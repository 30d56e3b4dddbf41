"""What variables from outside declare is honoured or refused by name, whoever holds their values."""

import numpy as np
import pytest
import xarray as xr
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.raising_backend import raising_dataset
from xland.errors import GridError, PriorError, StaticError, TimeError, VocabularyError
from xland.reading.variables import Declared, as_map, decode, read_codes, read_static, read_values
from xland.vocabulary import flag_attributes

LAT, LON = [49.5, 48.5, 47.5], [10.5, 11.5, 12.5, 13.5]
DEGREES = {"lat": ("lat", LAT, {"units": "degrees_north"}), "lon": ("lon", LON, {"units": "degrees_east"})}
CODES = np.array([[1, 2, 3, 4], [5, 6, 7, 0], [1, 1, 0, 0]], dtype=np.uint8)


def field(values, **attributes) -> xr.DataArray:
    return xr.DataArray(values, DEGREES, ("lat", "lon"), "elevation", attributes)


def statics(**variables) -> xr.Dataset:
    share = np.ones((3, 4), np.float32)
    return xr.Dataset({"land_share": (("lat", "lon"), share), **variables}, DEGREES)


def number(array: xr.DataArray) -> np.ndarray:
    return read_values(array, what="elevation", error=StaticError).values


@pytest.mark.parametrize(
    ("key", "fill", "dtype"),
    [
        ("_FillValue", -9999, "i2"),
        ("_Fillvalue", np.float32(-9999), "f4"),
        ("FillValue", "-9999", "f8"),
        ("fill_value", [-9999.0], "i4"),
        ("missing_value", np.array([1e20, -9999]), "f4"),
        ("nodata", -9999, "f4"),
    ],
)
def test_fill_values_of_any_spelling_and_type_are_no_data(key, fill, dtype):
    values = np.array([[1, 2, 3, 4], [5, -9999, 7, 8], [9, 10, 11, -9999]], dtype=dtype)
    expected = np.where(values == -9999, np.nan, values)
    for each in (field(values, **{key: fill}), field(values, **{key: fill}).chunk(lat=2)):
        np.testing.assert_array_equal(number(each), expected)


SCALED = {"dtype": "uint8", "scale_factor": 0.004, "_FillValue": 255}


@pytest.mark.parametrize(
    ("values", "attributes", "encoding", "read"),
    [
        ([-1.0, 0, 1, 2], {}, {"_FillValue": -1.0}, [np.nan, 0, 1, 2]),  # put in after the file was decoded
        (np.float32([1e20, 9.96921e36, np.inf, 4]), {"_FillValue": 1e20}, {}, [np.nan, np.nan, np.inf, 4]),
        ([-1.0, 0, 10, 11], {"valid_range": [0, 10]}, {}, [np.nan, 0, 10, np.nan]),
        ([-1.0, 0, 10, 11], {"valid_min": 0, "valid_max": 10}, {}, [np.nan, 0, 10, np.nan]),
        ([0.0, 4, 5, 6], {"valid_max": np.nan, "valid_range": [np.nan, 5]}, {}, [0, 4, 5, np.nan]),
        ([-0.1, 0, 0.5, 1.1], {"valid_range": [0.0, 1.0]}, SCALED, [np.nan, 0, 0.5, np.nan]),
        ([-0.1, 0, 0.5, 1.1], {"valid_range": np.uint8([0, 250])}, SCALED, [np.nan, 0, 0.5, np.nan]),
        (np.int8([-1, -128, 127, 0]), {"_Unsigned": "true", "_FillValue": np.int8(-1)}, {}, [np.nan, 128, 127, 0]),
        ([0.0, 1, 2, 3], {"scale_factor": 1.0, "add_offset": 0.0}, {}, [0, 1, 2, 3]),
    ],
)
def test_what_a_variable_declares_is_applied(values, attributes, encoding, read):
    array = field(np.tile(values, (3, 1)), **attributes)
    array.encoding = encoding
    np.testing.assert_array_equal(number(array)[0], read)


@pytest.mark.parametrize(
    ("attributes", "message"),
    [
        ({"scale_factor": 0.1}, r"is packed \(scale_factor\).*decode_cf"),
        ({"_FillValue": "abc"}, "_FillValue is 'abc', which is not a number"),
        ({"valid_range": [1.0]}, "valid_range holds 1 numbers"),
        ({"scale_factor": np.array([1.0, 2.0])}, "scale_factor holds 2 numbers, not 1"),
        ({"_FillValue": 10**400}, "_FillValue is .*, which is not a number"),
    ],
)
def test_packing_and_attributes_that_are_no_numbers_are_refused(attributes, message):
    array = field(np.ones((3, 4), "i2"), **attributes)
    with pytest.raises(StaticError, match=message):
        number(array)
    array.encoding, array.attrs = {"scale_factor": "x"}, {}
    with pytest.raises(StaticError, match="scale_factor is 'x', which is not a number"):
        number(array)


@pytest.mark.parametrize("dtype", ["M8[s]", "m8[s]", "U1", object, bool, complex])
def test_values_that_are_not_numbers_are_refused(dtype):
    with pytest.raises(StaticError, match=r"elevation: its values are .*, not numbers"):
        number(field(np.zeros((3, 4), dtype)))


class Foreign:
    """As much of an array as xarray asks for."""

    shape, dtype, ndim = (3, 4), np.dtype("float32"), 2

    def __array_function__(self, *_):
        raise AssertionError("it was computed with")

    __array_ufunc__ = __array_function__


def test_arrays_of_other_libraries_are_refused():
    with pytest.raises(StaticError, match=r"its values are held by tests \(Foreign\).*dask array"):
        read_values(field(Foreign()), what="elevation", error=StaticError)


@settings(max_examples=20, deadline=None)
@given(
    st.lists(st.sampled_from([-9999.0, 0.0, 1.5, 1e20, np.nan]), min_size=12, max_size=12),
    st.sets(st.sampled_from([-9999.0, 1e20])),
)
def test_no_data_is_where_the_fill_values_are_and_nowhere_else(values, fills):
    array = np.array(values).reshape(3, 4)
    decoded = decode(array, Declared(fills=tuple(fills)))
    np.testing.assert_array_equal(np.isnan(decoded), np.isnan(array) | np.isin(array, list(fills)))
    kept = ~np.isnan(decoded)
    np.testing.assert_array_equal(decoded[kept], array[kept])


def test_dimensions_of_size_one_are_left_out_and_longer_ones_refused():
    ds = statics(elevation=(("lat", "lon"), np.ones((3, 4)), {"_FillValue": -9999.0}))
    read = read_static(ds.expand_dims(band=[1], time=[2000]), ["elevation"], "land_share")
    assert set(read_static(raising_dataset(ds), [*ds], "land_share")) == set(ds), "and no value is read"
    assert read["elevation"].dims == ("lat", "lon")
    with pytest.raises(StaticError, match=r"'elevation': has the dimensions member \(2\)"):
        read_static(ds.expand_dims(member=2), ["elevation"], "land_share")


def static_with(name="elevation", **attributes):
    return read_static(statics(**{name: (("lat", "lon"), np.ones((3, 4)), attributes)}), [name], "land_share")[name]


@pytest.mark.parametrize(
    ("attributes", "message"),
    [
        ({"name": "land_share", "units": "%"}, "land_share: the units are '%'"),
        ({"units": "km"}, "the units are 'km', but it is read as metres"),
        ({"units": "feet above sea level"}, "the units are"),
        ({"name": "lake_share", "units": "km2"}, "lake_share: the units are 'km2'"),
        ({"units": ["m"]}, "not text"),
        ({"positive": "down"}, "downwards"),
    ],
)
def test_attributes_that_give_another_map_are_refused(attributes, message):
    with pytest.raises(StaticError, match=message):
        static_with(**attributes)


@pytest.mark.parametrize("units", ["m", "metres", "meters above sea level", None, 1])
def test_metres_are_metres_however_they_are_spelt(units):
    assert static_with(units=units).values.sum() == 12


# maps


@pytest.mark.parametrize(("fill", "dtype"), [(255, "u1"), (99, "u1"), (-1, "i1"), (-9999, "i4"), (-9999, "f4")])
def test_declared_no_data_of_a_map_is_the_code_that_is_asked_for(fill, dtype):
    values = np.where(CODES == 0, fill, CODES.astype("i8")).astype(dtype)
    for each in (field(values, _FillValue=fill), field(values, nodata=fill).chunk(lon=2)):
        np.testing.assert_array_equal(as_map(each, what="map").data[0], CODES)
        np.testing.assert_array_equal(as_map(each, what="map", empty=255).data[0], np.where(CODES == 0, 255, CODES))


def test_nan_in_a_map_is_no_data_only_where_a_fill_value_is_declared():
    floats = field(np.where(CODES == 0, np.nan, CODES))
    assert np.isnan(as_map(floats, what="map").data).sum() == 3
    floats.encoding["_FillValue"] = 255
    np.testing.assert_array_equal(as_map(floats, what="map").data[0], CODES)


def test_a_band_is_left_out_and_a_dataset_gives_its_land_use():
    one = field(CODES).expand_dims(band=[1])
    np.testing.assert_array_equal(as_map(one.to_dataset(name="land_use"), what="map").data[0], CODES)
    with pytest.raises(PriorError, match=r"prior map: has the dimensions member \(2\)"):
        read_codes(field(CODES).expand_dims(member=2), what="prior map", error=PriorError)


def test_the_years_of_maps_are_decoded_and_two_maps_of_one_year_or_without_a_date_refused():
    two = xr.concat([field(CODES), field(CODES)], "time")
    found = as_map(two.assign_coords(time=("time", [150.0, 151.0], {"units": "years since 1850-01-01"})), what="map")
    assert found.years == tuple(found.data["time"].values) == (2000, 2001)
    with pytest.raises(TimeError, match="several maps of 2000"):
        as_map(two.assign_coords(time=[2000, 2000]), what="map")
    with pytest.raises(TimeError, match="date"):
        as_map(field(CODES).assign_coords(time=np.datetime64("NaT", "ns")), what="map")


@pytest.mark.parametrize("values", [np.arange(3), "0, 1, 2", "0b 1b 2b"])
@pytest.mark.parametrize("words", ["water evergreen_forest town", "water,evergreen_forest,town", ["water", "a", "b"]])
def test_a_map_that_says_its_codes_are_other_classes_is_refused(values, words):
    with pytest.raises(VocabularyError, match="flag_meanings that 0 is 'water', where class 0 is 'ocean'"):
        as_map(field(CODES, flag_values=values, flag_meanings=words), what="map")


def test_a_legend_that_nobody_can_read_is_refused_and_ours_is_not():
    with pytest.raises(VocabularyError, match="3 numbers in flag_values and 4 words in flag_meanings"):
        as_map(field(CODES, flag_values=np.arange(3), flag_meanings="a b c d"), what="map")
    assert as_map(field(CODES, **flag_attributes()), what="map").data.values.max() == CODES.max()


# coordinates


@pytest.mark.parametrize(
    ("attributes", "message"),
    [
        ({"units": "radians"}, "rad2deg"),
        ({"units": "degrees_south"}, "change its sign"),
        ({"units": "m"}, "reproject"),
        ({"units": "grad"}, "not in degrees; convert it"),
        ({"standard_name": "grid_latitude"}, "grid_latitude, not in degrees"),
        ({"scale_factor": 0.01}, "is packed"),
    ],
)
def test_coordinates_that_say_they_are_not_degrees_are_refused(attributes, message):
    with pytest.raises(GridError, match=message):
        as_map(field(CODES).assign_coords(lat=("lat", LAT, attributes)), what="map")


def test_coordinates_that_are_corners_of_their_bounds_are_refused():
    edges = np.stack([np.array(LAT) - 1, np.array(LAT)], axis=1)
    ds = statics(bnds=(("lat", "two"), edges)).assign_coords(lat=("lat", LAT, {"bounds": "bnds"}))
    with pytest.raises(GridError, match=r"latitude 'lat' is not the middle of its cells: 49.5 has the bounds 48.5"):
        read_static(ds, ["land_share"], "land_share")
    middles = ds.assign(bnds=ds["bnds"] + 0.5)
    assert read_static(middles, ["land_share"], "land_share")["land_share"].shape == (3, 4)


@pytest.mark.parametrize(
    ("mapping", "message"),
    [
        ({"grid_mapping_name": "rotated_latitude_longitude"}, "rotated_latitude_longitude"),
        ({"crs_wkt": 'PROJCRS["LAEA"]'}, "projection"),
        ({"grid_mapping_name": "latitude_longitude", "longitude_of_prime_meridian": 2.3}, "Greenwich"),
    ],
)
def test_projections_poles_and_meridians_of_the_grid_mapping_are_refused(mapping, message):
    ds = statics(crs=((), 0, mapping))
    ds["land_share"].attrs["grid_mapping"] = "crs"
    with pytest.raises(GridError, match=message):
        read_static(ds, ["land_share"], "land_share")


def test_stacked_cells_are_refused():
    with pytest.raises(GridError, match=r"stacked along 'cell' .*unstack\('cell'\)"):
        as_map(field(CODES).stack(cell=("lat", "lon")), what="map")
