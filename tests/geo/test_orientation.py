from __future__ import annotations

import numpy as np
import pytest
import xarray as xr
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.raising_backend import ValueWasReadError, raising_dataset
from tests.strategies import Layout, canonical_states, laid_out_pairs
from xland.errors import GridError
from xland.geo.grid import Grid, expand
from xland.geo.orientation import orient, restore

WORLD = canonical_states(Grid.world(30), (2015,), names=("primf", "urban"))


def field(latitude, longitude, names=("lat", "lon")) -> xr.DataArray:
    values = np.arange(len(latitude) * len(longitude), dtype=float).reshape(len(latitude), len(longitude))
    return xr.DataArray(values, coords={names[0]: latitude, names[1]: longitude}, dims=names, name="primf")


@settings(max_examples=12, deadline=None)
@given(laid_out_pairs(names=("primf",)))
def test_every_layout_comes_to_the_same_canonical_form_and_back_without_reading_a_value(pair):
    canonical, laid_out = pair
    lazy, _ = orient(raising_dataset(laid_out), what="forcing")
    oriented, orientation = orient(laid_out, what="forcing")
    xr.testing.assert_equal(oriented, canonical)
    assert oriented["primf"].dims == ("time", "lat", "lon")
    restored = restore(oriented, orientation)
    xr.testing.assert_equal(restored, laid_out)
    assert restored["primf"].dims == laid_out["primf"].dims
    unread = restore(lazy, orientation)
    assert unread["primf"].shape == laid_out["primf"].shape
    with pytest.raises(ValueWasReadError):
        unread.compute()


@settings(max_examples=6, deadline=None)
@given(laid_out_pairs(names=("primf",), years=(2015,)))
def test_a_refined_result_lies_within_the_callers_cells(pair):
    _, laid_out = pair
    oriented, orientation = orient(laid_out["primf"], what="forcing")
    grid = orientation.grid.refine(3)
    coords = {"time": oriented["time"], "lat": grid.latitude, "lon": grid.longitude}
    restored = restore(xr.DataArray(expand(oriented.values, 3), coords, oriented.dims), orientation)
    lat, lon = (orientation.names[name].coordinate for name in ("lat", "lon"))
    assert restored.dims == laid_out["primf"].dims
    # each coarse cell's centre is a fine cell's centre, because the factor is odd
    same = restored.sel({lat: laid_out[lat], lon: laid_out[lon]}, method="nearest")
    np.testing.assert_allclose(same[lat], laid_out[lat], atol=1e-9)
    np.testing.assert_allclose(same[lon], laid_out[lon], atol=1e-9)
    np.testing.assert_array_equal(same.values, laid_out["primf"].values)


def test_rolling_keeps_dask_chunks_whole_and_arrays_in_memory_in_memory():
    oriented, _ = orient(Layout(west=0.0, chunks=(3, 6, 1)).apply(WORLD), what="forcing")
    assert oriented.chunks["lon"] == (6, 6)
    assert oriented.chunks["lat"] == (3, 3)
    oriented, orientation = orient(Layout(west=0.0, order=("lon", "lat", "time")).apply(WORLD), what="forcing")
    assert oriented.chunks == {}
    assert restore(oriented, orientation).chunks == {}


@pytest.mark.parametrize(
    ("longitude", "expected"),
    [
        ([178.5, 179.5, 180.5, 181.5], [178.5, 179.5, 180.5, 181.5]),
        ([178.5, 179.5, -179.5, -178.5], [178.5, 179.5, 180.5, 181.5]),
        ([-179.5, -178.5, 178.5, 179.5], [178.5, 179.5, 180.5, 181.5]),
        ([358.5, 359.5, 0.5, 1.5], [-1.5, -0.5, 0.5, 1.5]),
        ([0.5, 1.5, 358.5, 359.5], [-1.5, -0.5, 0.5, 1.5]),
        ([200.5, 201.5], [-159.5, -158.5]),
        ([-179.5, 179.5], [179.5, 180.5]),
        ([0.5, 358.5, 359.5], [-1.5, -0.5, 0.5]),
        ([3.5, 2.5, 1.5], [1.5, 2.5, 3.5]),
        (np.arange(-14.5, 345), np.arange(-179.5, 180)),
    ],
)
def test_regions_are_contiguous_across_the_date_line_and_greenwich(longitude, expected):
    original = field([1.5, 0.5], longitude)
    oriented, orientation = orient(original, what="forcing")
    np.testing.assert_array_equal(oriented["lon"], expected)
    order = [(np.asarray(longitude) % 360).tolist().index(value % 360) for value in expected]
    np.testing.assert_array_equal(oriented.values, original.values[:, order])
    xr.testing.assert_equal(restore(oriented, orientation), original)


@pytest.mark.parametrize(
    ("callers", "part", "expected"),
    [
        (np.arange(-175.0, 180, 10)[::-1], [165.0, 175.0, 185.0], [185.0, 175.0, 165.0]),
        (np.arange(5.0, 360, 10), [-15.0, -5.0, 5.0], [-15.0, -5.0, 5.0]),
        (np.arange(5.0, 360, 10), [-25.0, -15.0], [335.0, 345.0]),
        (np.arange(365.0, 720, 10), [-15.0, -5.0, 5.0], [345.0, 355.0, 365.0]),
        (np.arange(185.0, 540, 10), [-15.0, -5.0, 5.0], [345.0, 355.0, 365.0]),
        ([355.0, 5.0, 15.0], [-5.0, 5.0], [-5.0, 5.0]),
        ([-175.0, -165.0, 165.0, 175.0], [165.0, 175.0, 185.0], [165.0, 175.0, 185.0]),
        ([-175.0, -165.0, 165.0, 175.0], [185.0, 195.0], [-175.0, -165.0]),
    ],
)
def test_a_part_across_the_callers_seam_stays_in_one_piece(callers, part, expected):
    original = field([5.0, -5.0], callers)
    _, orientation = orient(original, what="forcing")
    found = restore(field([5.0, -5.0], part).chunk(), orientation)
    assert found["lon"].values.tolist() == expected
    assert found.chunks is not None
    by_label = original.assign_coords(lon=original["lon"] % 360).sel(lon=found["lon"].values % 360)
    assert by_label.sizes == found.sizes
    columns = found.isel(lon=slice(None, None, -1)) if expected[0] > expected[-1] else found
    np.testing.assert_array_equal(columns, field([5.0, -5.0], part))


def test_a_part_with_gaps_lies_in_the_callers_order():
    _, orientation = orient(WORLD, what="forcing")
    assert restore(field([5.0, -5.0], [135.0, 195.0, 285.0]), orientation)["lon"].values.tolist() == [-165, -75, 135]


@settings(max_examples=12, deadline=None)
@given(st.sampled_from([-180, -90, 0, 60, 180, 360]), st.integers(-18, 17), st.integers(2, 36), st.booleans())
def test_any_contiguous_part_of_a_global_field_is_restored_contiguous(west, first, columns, flipped):
    callers = west + 5.0 + 10 * np.arange(36)
    _, orientation = orient(field([5.0, -5.0], callers[::-1] if flipped else callers), what="forcing")
    part = 10.0 * (first + np.arange(columns)) + 5
    labels = restore(field([5.0, -5.0], part), orientation)["lon"].values
    assert (np.diff(labels) == (-10 if flipped else 10)).all()
    assert sorted(labels % 360) == sorted(part % 360)
    assert west - 360 < labels.min() < west + 360
    assert west < labels.max() < west + 720


def test_columns_outside_the_region_cannot_be_restored():
    _, orientation = orient(field([1.5, 0.5], [0.5, 1.5]), what="forcing")
    with pytest.raises(GridError, match=r"5\.5 reach beyond the grid"):
        restore(field([1.5, 0.5], [4.5, 5.5]), orientation)


def test_float32_coordinates_are_snapped_and_given_back_to_the_last_bit_with_names_and_attributes():
    original = field(Grid.world(0.25).latitude[:40].astype(np.float32), Grid.world(0.25).longitude.astype(np.float32))
    original = original.assign_attrs(long_name="forest")
    original["lat"].attrs["comment"] = "cell centres"
    oriented, orientation = orient(original, what="forcing")
    assert orientation.grid == Grid(0.25, 90.0, -180.0, 40, 1440)
    restored = restore(oriented, orientation)
    assert (restored.name, restored.attrs) == ("primf", {"long_name": "forest"})
    assert (restored["lat"].attrs["comment"], restored["lat"].attrs["units"]) == ("cell centres", "degrees_north")
    assert restored["lat"].dtype == np.float32
    xr.testing.assert_identical(restored["lon"].drop_attrs(), original["lon"])


def test_other_dimensions_stand_between_time_and_latitude_and_new_ones_in_front_of_the_grid():
    extended = Layout(order=("lon", "time", "lat")).apply(WORLD).expand_dims(member=[1, 2], axis=-1)
    oriented, orientation = orient(extended, what="forcing")
    assert oriented["primf"].dims == ("time", "member", "lat", "lon")
    assert restore(oriented, orientation)["primf"].dims == ("lon", "time", "lat", "member")
    other = Layout(names=("y", "x", "year"), order=("lon", "lat", "time")).apply(WORLD)
    oriented, orientation = orient(other, what="forcing")
    probability = oriented["primf"].expand_dims({"class": ["forest", "urban"]}, axis=1)
    assert restore(probability, orientation).dims == ("class", "x", "y", "year")


def test_coordinates_with_another_name_than_their_dimension_are_found_and_restored():
    original = WORLD.rename_dims(lat="j", lon="i").drop_indexes(["lat", "lon"])
    oriented, orientation = orient(original, what="forcing")
    xr.testing.assert_equal(oriented, WORLD)
    restored = restore(oriented, orientation)
    assert restored["primf"].dims == ("time", "j", "i")
    np.testing.assert_array_equal(restored["lon"], original["lon"])


def test_bounds_are_turned_with_their_cells_and_scalars_and_maps_without_time_stay_as_they_are():
    edges = xr.DataArray([-15.0, 15.0], dims="bnds")
    bounded = WORLD.assign_coords(lat_bnds=WORLD["lat"] + edges, lon_bnds=WORLD["lon"] + edges)
    for name in ("lat", "lon"):
        bounded = bounded.assign_coords({name: bounded[name].assign_attrs(bounds=f"{name}_bnds")})
    turned = Layout(latitude_ascending=True, west=0.0, order=("lon", "lat", "time", "bnds")).apply(bounded)
    without_time = WORLD.isel(time=0, drop=True).assign(crs=0)
    for laid, wanted in ((turned, bounded), (without_time, without_time)):
        oriented, orientation = orient(laid, what="static")
        xr.testing.assert_equal(oriented, wanted)
        xr.testing.assert_equal(restore(oriented, orientation), laid)


@pytest.mark.parametrize(
    ("latitude", "longitude", "message"),
    [
        ([2.5, 0.5, 1.5], [0.5, 1.5], "latitude is not sorted: 0.5 is beside 1.5"),
        ([1.5, 0.5], [0.5, 1.5, 1.5], "longitude holds 1 duplicate"),
        ([1.5, 0.5], [0.5, 1.5, 4.5, 5.5], "not contiguous: 1.5 is followed by 4.5"),
        ([1.5, 0.5], [0.5, np.nan, 2.5], "longitude holds 1 values that are not finite"),
        ([1.5, 0.5], np.arange(0, 361, 1.0), "drop the repeated meridian"),
        ([1.5], [0.5, 1.5], r"latitude has the shape \(1,\)"),
        ([120.5, 119.5], [0.5, 1.5], "latitude reaches 120.5, with its cells beyond the poles"),
        ([], [0.5, 1.5], "the selection is empty"),
    ],
)
def test_coordinates_that_are_not_a_grid_are_named(latitude, longitude, message):
    with pytest.raises(GridError, match=f"^prior: .*{message}"):
        orient(field(latitude, longitude), what="prior")


def points() -> xr.DataArray:
    return xr.DataArray(np.zeros(2), {"lat": ("cell", [1.5, 0.5]), "lon": ("cell", [0.5, 1.5])}, "cell")


def curvilinear() -> xr.Dataset:
    east, north = np.meshgrid([0.5, 1.5], [1.5, 0.5])
    return xr.Dataset({"a": (("y", "x"), east)}, {"lat": (("y", "x"), north), "lon": (("y", "x"), east)})


def projected() -> xr.DataArray:
    array = field([2000.0, 1000.0], [1000.0, 2000.0], ("y", "x"))
    array["y"].attrs.update(units="m", axis="Y")
    return array


PLAIN = field([1.5, 0.5], [0.5, 1.5])


@pytest.mark.parametrize(
    ("obj", "message"),
    [
        (np.zeros((3, 4)), "is of type ndarray; pass an xarray DataArray or Dataset with latitude"),
        (xr.DataArray(np.zeros(4), dims="cell"), r"no latitude found; dimensions found: cell \(4\)"),
        (PLAIN.drop_vars("lat"), "dimension 'lat' has no coordinate"),
        (PLAIN.isel(lat=0), "'lat' is a single value, not a dimension"),
        (points(), "these are points, not a grid"),
        (
            xr.Dataset({"a": PLAIN, "b": field([3.5, 2.5], [0.5, 1.5], ("latitude", "lon"))}),
            r"latitude is ambiguous: .*lat.* all look like it",
        ),
        (PLAIN.rename(lat="latitude").to_dataset().assign(lat=1.0), "'lat' is the name of something else"),
        (curvilinear(), r"'lat' has the dimensions y, x: a curvilinear .*; regrid"),
        (projected(), "'y' is in m, not in degrees; reproject"),
        (field([2000.0, 1000.0], [1000.0, 2000.0], ("y", "x")), "beyond the poles; .*projected, reproject"),
    ],
)
def test_what_is_not_on_a_grid_is_refused_with_the_remedy(obj, message):
    with pytest.raises(GridError, match=f"static: .*{message}"):
        orient(obj, what="static")
