from __future__ import annotations

import dask.array as da
import numpy as np
import pandas as pd
import pytest
import xarray as xr
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays

import xland  # noqa: F401 - registers the accessor
from tests.scores.maps import on_grid, turned
from xland.errors import GridError, KeywordError, RegionError, StoreError, TimeError, VocabularyError
from xland.geo.grid import EARTH_RADIUS, Grid
from xland.scores import regions
from xland.scores.areas import class_areas, compare_maps, is_class
from xland.scores.counts import area_units, cross_tabulate
from xland.scores.regions import rasterise
from xland.vocabulary import CLASS_NAMES, flag_attributes

WORLD = Grid.world(10.0)
GLOBE = 4 * np.pi * EARTH_RADIUS**2 / 1e6


@pytest.fixture(scope="module")
def codes():
    return np.random.default_rng(0).integers(0, 8, (2, *WORLD.shape)).astype(np.uint8)


@pytest.fixture
def maps(codes):
    """Maps of two years, in blocks."""
    years = [on_grid(each).chunk(lat=7, lon=11) for each in codes]
    return xr.concat(years, pd.Index([2015, 2100], name="time")).rename("land_use").assign_attrs(flag_attributes())


def by_hand(codes, chosen=True):
    """Square kilometres of each class, without anything of what is tested."""
    area = WORLD.cell_area()[:, None] / 1e6
    return [float((area * ((codes == code) & chosen)).sum()) for code in range(8)]


class Unreadable:
    """An array that cannot be read: whatever is refused before anything is computed is refused of this one, too."""

    shape, dtype, ndim = WORLD.shape, np.dtype(np.uint8), 2

    def __getitem__(self, key):
        raise AssertionError("a value was read")


@pytest.fixture
def unread():
    return on_grid(da.from_array(Unreadable(), chunks=6, meta=np.empty((0, 0), np.uint8)))


def test_a_class_is_found_by_its_name_where_comparing_codes_with_a_name_finds_nothing(maps, codes):
    forest = maps.ai4land.is_class("forest")
    assert forest.chunks is not None
    np.testing.assert_array_equal(forest, codes == 4)
    assert (forest.name, forest.attrs) == ("forest", {"long_name": "forest"})
    assert forest["time"].values.tolist() == [2015, 2100]
    either = maps.to_dataset().ai4land.is_class(["cropland", "pasture"])
    np.testing.assert_array_equal(either, (codes == 2) | (codes == 3))


def test_cells_without_data_are_in_no_class_and_unknown_codes_are_refused(maps, codes):
    masked = maps.where(maps != 4)
    assert not masked.ai4land.is_class("forest").any()
    np.testing.assert_array_equal(masked.ai4land.is_class("ocean"), codes == 0)
    with pytest.raises(VocabularyError, match=r"unknown class codes 44 \(1 cells\)"):
        is_class(
            on_grid(np.where(np.arange(36) == 3, 44, np.ones(WORLD.shape))[:1].repeat(18, 0))[:1], "urban"
        ).compute()


def test_a_class_that_does_not_exist_is_refused_with_the_nearest(unread):
    with pytest.raises(VocabularyError, match=r"unknown classes 'forrest': did you mean 'forest'\?"):
        unread.ai4land.is_class("forrest")
    with pytest.raises(VocabularyError, match="flag_meanings that 1 is 'trees'"):
        unread.assign_attrs(flag_values=[0, 1], flag_meanings="ocean trees").ai4land.is_class("forest")


@given(arrays.arrays(np.uint8, st.tuples(st.integers(1, 9), st.integers(1, 9)), elements=st.integers(0, 7)), st.data())
def test_areas_add_up_to_that_of_all_cells_whatever_the_regions(codes, data):
    labels = data.draw(arrays.arrays(np.uint8, codes.shape, elements=st.integers(0, 3)))
    area = data.draw(arrays.arrays(np.float64, codes.shape[0], elements=st.floats(1.0, 1e10)))
    units = area_units(area)
    found = cross_tabulate([labels, codes], np.ones(codes.shape, bool), units, (4, 8))
    assert found.sum() == units.sum() * codes.shape[1]
    for code in range(8):
        for region in range(4):
            cells = ((codes == code) & (labels == region)).sum(axis=1)
            assert found[region, code] == (cells * units).sum()


def test_areas_are_square_kilometres_of_each_class_and_year(maps, codes):
    area = maps.ai4land.area()
    assert area.dims == ("time", "class")
    assert area.chunks is not None
    np.testing.assert_allclose(area, [by_hand(each) for each in codes], rtol=1e-12)
    np.testing.assert_allclose(area.sum("class"), GLOBE, rtol=1e-12)
    assert area.attrs["units"] == "km2"
    forest = area.sel(class_name="forest", time=2100)
    assert float(forest) == pytest.approx(by_hand(codes[1])[4])
    one = maps.sel(time=2015).to_dataset().ai4land.area()
    assert one.dims == ("class",)
    assert int(one["time"]) == 2015
    np.testing.assert_array_equal(one, area[0])


def test_areas_do_not_depend_on_chunks_order_and_names(maps):
    expected = maps.ai4land.area(by="latitude").values
    for other in (maps.compute(), maps.chunk(lat=18, lon=5, time=2), maps.chunk(lat=1)):
        np.testing.assert_array_equal(other.ai4land.area(by="latitude"), expected)
    south_first = turned(maps.isel(time=0)).ai4land.area(by="latitude")
    np.testing.assert_array_equal(south_first, expected[0])


def test_areas_become_a_table_of_names(maps):
    """As the page on notebooks shows."""
    area = maps.ai4land.area(by="latitude").compute()
    table = area.swap_dims({"region": "region_name", "class": "class_name"}).to_series().unstack()  # noqa: PD010 - of a Series
    assert {*table.columns} == {*CLASS_NAMES}
    expected = area.sel(time=2100, region_name="north of 50°N", class_name="forest")
    assert table.loc[(2100, "north of 50°N"), "forest"] == expected


@pytest.mark.parametrize("holds", ["numbers", "mask of each", "shapes"])
def test_areas_of_regions_are_those_within_their_cells(maps, codes, holds):
    east, north = (
        np.broadcast_to(WORLD.longitude > 0, WORLD.shape),
        np.broadcast_to(WORLD.latitude[:, None] > 40, WORLD.shape),
    )
    inside = {"north-east": north & east, "south-east": ~north & east}
    if holds == "numbers":
        numbers = np.where(inside["north-east"], 7, np.where(inside["south-east"], 3, 0))
        area = maps.ai4land.area(by=on_grid(numbers), names={7: "north-east", 3: "south-east"})
        assert area["region"].values.tolist() == [3, 7]
        np.testing.assert_array_equal(area.sel(region=7), area.sel(region_name="north-east"))
    elif holds == "mask of each":
        mask = xr.concat([on_grid(each) for each in inside.values()], pd.Index([*inside], name="region"))
        area = maps.ai4land.area(by=mask)
    else:
        box = pytest.importorskip("shapely").box
        frame = pd.DataFrame({"NAME": [*inside], "geometry": [box(0, 40, 180, 90), box(0, -90, 180, 40)]})
        area = maps.ai4land.area(by=frame, names="NAME")
    assert area.dims == ("time", "region", "class")
    assert area.chunks is not None
    for name, chosen in inside.items():
        expected = [by_hand(each, chosen) for each in codes]
        np.testing.assert_allclose(area.sel(region_name=name), expected, rtol=1e-12)


def test_regions_may_overlap_where_each_has_a_mask(maps):
    everywhere = on_grid(np.ones(WORLD.shape, bool)).rename("all")
    both = xr.concat([everywhere, everywhere], pd.Index(["a", "b"], name="region"))
    area = maps.ai4land.area(by=both.chunk(lat=5))
    np.testing.assert_array_equal(area.sel(region_name="a"), area.sel(region_name="b"))
    single = maps.ai4land.area(by=everywhere)
    assert single["region_name"].values.tolist() == ["all"]
    np.testing.assert_array_equal(single.isel(region=0), maps.ai4land.area())


def test_a_mask_as_regionmask_makes_it_counts_from_0_and_has_its_names(maps, codes):
    """NaN is in no region; 0 is one of them, as its flag_values say."""
    numbers = np.where(np.arange(36) < 9, 0.0, np.where(np.arange(36) < 18, 5.0, np.nan)) * np.ones((18, 1))
    mask = on_grid(numbers).assign_attrs(flag_values=np.array([0, 5]), flag_meanings="FJ TZ")
    area = maps.ai4land.area(by=mask)
    assert area["region"].values.tolist() == [0, 5]
    np.testing.assert_allclose(area.sel(region_name="FJ", time=2015), by_hand(codes[0], numbers == 0), rtol=1e-12)


def test_regionmask_and_geopandas_are_understood_as_they_are(maps):
    regionmask, geopandas = pytest.importorskip("regionmask"), pytest.importorskip("geopandas")
    from shapely import box

    boxes = [box(3, 41, 178, 89), box(-178, -89, -3, 41)]
    regions = regionmask.Regions(boxes, names=["north-east", "south-west"], abbrevs=["NE", "SW"], numbers=[0, 4])
    expected = maps.ai4land.area(by=regions)
    assert expected["region_name"].values.tolist() == ["north-east", "south-west"]
    assert expected["region"].values.tolist() == [0, 4]
    flat, deep = regions.mask(maps), regions.mask_3D(maps)
    frame = geopandas.GeoDataFrame({"NAME": ["north-east", "south-west"]}, geometry=boxes, crs="EPSG:4326")
    projected = frame.to_crs("EPSG:6933")
    for by, names in ((flat, None), (deep, None), (frame, "NAME"), (projected, "NAME"), (frame.geometry, None)):
        np.testing.assert_allclose(maps.ai4land.area(by=by, names=names), expected, rtol=1e-12)
    assert maps.ai4land.area(by=flat)["region_name"].values.tolist() == ["NE", "SW"]


def test_the_cells_of_a_shape_do_not_depend_on_the_part_of_the_globe_that_is_asked_for(monkeypatch):
    shapely = pytest.importorskip("shapely")
    rng = np.random.default_rng(3)
    places = rng.uniform((-170, -80), (190, 80), (12, 2))  # some pass the date line
    circles = [
        shapely.Point(*place).buffer(float(size)) for place, size in zip(places, rng.uniform(2, 30, 12), strict=True)
    ]
    world = Grid.world(1.0)
    whole = rasterise(circles, world).compute()
    assert set(np.unique(whole)) > {0, 12}
    monkeypatch.setattr(regions, "_TILE", 50)
    np.testing.assert_array_equal(rasterise(circles, world).compute(), whole)
    for rows, columns in ((slice(30, 77), slice(11, 200)), (slice(0, 90), slice(300, 420))):
        part = Grid(
            1.0, 90.0 - rows.start, -180.0 + columns.start, rows.stop - rows.start, columns.stop - columns.start
        )
        np.testing.assert_array_equal(rasterise(circles, part).compute(), np.hstack([whole, whole])[rows, columns])


HALF, NUMBERS = on_grid(np.ones((36, 72), int), 5.0), on_grid(np.arange(36) % 3 + np.zeros((18, 1), int))


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"by": HALF}, GridError, "map of regions has cells of 5 degrees and the map of 10; aggregate or regrid"),
        (
            {"by": on_grid(np.ones((17, 36), int), 10.0, 85.0)},
            GridError,
            r"regions lie 0\.50 cells beside those of the",
        ),
        (
            {"by": xr.concat([HALF > 0] * 2, "region")},
            RegionError,
            r"2 regions along 'region' and 0 names; .*\(region=",
        ),
        ({"by": NUMBERS, "names": ["one"]}, RegionError, "regions 2 of the map of regions have no name; add them to"),
        ({"by": NUMBERS, "names": ["one", "one"]}, RegionError, "several regions have the name 'one'"),
        ({"by": "koeppen"}, RegionError, r"unknown regions 'koeppen': did you mean 'koppen'\?"),
        ({"names": ["one"]}, RegionError, "names are those of a map of numbers, a mask or shapes"),
        ({"mask": NUMBERS}, KeywordError, r"area: unknown keyword 'mask'"),
        ({"by": NUMBERS * 0.0}, RegionError, "has 0 regions; there must be at least one"),
        ({"by": NUMBERS < 0}, RegionError, "the mask holds no cell: it is false everywhere"),
    ],
)
def test_regions_that_cannot_be_used_are_refused_before_anything_is_computed(unread, options, error, message):
    with pytest.raises(error, match=message):
        unread.ai4land.area(**options)


@pytest.mark.parametrize(
    ("call", "error", "message"),
    [
        (lambda one: one[:, :0].ai4land.area(), RegionError, r"the selection is empty"),
        (
            lambda one: one.sel(lat=slice(40, 50)).ai4land.area(),
            RegionError,
            r"latitude has the shape \(0,\).*\(50, 40\)",
        ),
        (lambda one: one[9:].ai4land.area(by=NUMBERS[:5, :5]), RegionError, "no cell in common"),
        (lambda one: dated(one)[:0].ai4land.area(), TimeError, "the map has no time step: the selection is empty"),
        (lambda one: one.ai4land.compare(dated(one)[:0]), TimeError, "the second map has no time step"),
        (lambda one: one[:9].ai4land.compare(one[:, :9]), GridError, "each lack cells of the other; select the same"),
        (lambda one: one[:9].ai4land.compare(one[9:]), RegionError, "have no cell in common"),
        (lambda one: one.ai4land.compare(HALF), GridError, "second map has cells of 5 degrees"),
        (
            lambda one: dated(one, 2015, 2016).ai4land.compare(dated(one, 2025, 2026)),
            TimeError,
            r"first map \(2 years, 2015 to 2016\) and the second map \(2 years, 2025 to 2026\)",
        ),
    ],
)
def test_maps_without_common_cells_or_years_are_refused_before_anything_is_computed(unread, call, error, message):
    with pytest.raises(error, match=message):
        call(unread)


def dated(one, *years):
    return one.expand_dims(time=[*(years or (2015,))])


def test_shapes_that_cannot_be_used_are_refused_before_anything_is_computed(unread):
    shapely = pytest.importorskip("shapely")
    frame = pd.DataFrame({"NAME": ["a", None], "geometry": [shapely.box(0, 0, 9, 9), shapely.box(9, 0, 19, 9)]})
    for by, names, message in (
        (frame, "NAME", "1 of 2 shapes have no name in 'NAME'"),
        (frame, "name", r"unknown column of names 'name'"),
        (frame.assign(geometry=[shapely.Polygon(), None]), None, "2 of 2 shapes have no area"),
        (frame.assign(geometry=shapely.box(0, 0, 5e5, 9e5)), None, "they are not in degrees; set their crs"),
        (frame[:0], None, "0 of 0 shapes"),
    ):
        with pytest.raises(RegionError, match=message):
            unread.ai4land.area(by=by, names=names)


def test_two_dates_are_compared_as_first_and_second(maps, codes):
    found = maps.sel(time=2015).ai4land.compare(maps.sel(time=2100))
    assert all(each.chunks is not None for each in found.data_vars.values())
    assert (int(found["first_year"]), int(found["second_year"])) == (2015, 2100)
    assert "observed" not in str(found)
    area = WORLD.cell_area()[:, None] / 1e6
    cleared = float((area * ((codes[0] == 4) & (codes[1] == 2))).sum())
    assert float(found["transition"].sel(first="forest", second="cropland")) == pytest.approx(cleared, rel=1e-12)
    np.testing.assert_allclose(found["transition"].sum("second"), by_hand(codes[0]), rtol=1e-12)
    np.testing.assert_allclose(found["transition"].sum("first"), by_hand(codes[1]), rtol=1e-12)
    net = maps.ai4land.area().diff("time").isel(time=0, drop=True)
    np.testing.assert_allclose(found["gain"] - found["loss"], net, rtol=1e-9, atol=1e-6)
    forest = found["change"].sel(class_name="forest")
    np.testing.assert_array_equal(forest, (codes[1] == 4).astype(int) - (codes[0] == 4))
    lost = float((area * (forest.values == -1)).sum())
    assert float(found["loss"].sel(class_name="forest")) == pytest.approx(lost, rel=1e-12)


def test_two_scenarios_are_compared_year_by_year_and_region_by_region(maps):
    other = maps.isel(lon=slice(None, None, -1)).assign_coords(lon=maps["lon"]).assign_coords(time=[2100, 2150])
    found = maps.ai4land.compare(other, by="latitude")
    assert found["transition"].dims == ("region", "first", "second")[-3:] or found.sizes["time"] == 1
    years = maps.assign_coords(time=[2100, 2150]).ai4land.compare(other, by="latitude")
    assert years["transition"].dims == ("time", "region", "first", "second")
    assert years["change"].dims == ("time", "class", "lat", "lon")
    assert years["time"].values.tolist() == [2100, 2150]
    alone = maps.isel(time=1).ai4land.compare(other.isel(time=1))
    np.testing.assert_allclose(years["gain"].sel(time=2150).sum("region"), alone["gain"], rtol=1e-12)
    np.testing.assert_array_equal(years["change"].sel(time=2150), alone["change"])


def test_a_base_map_is_compared_with_every_year_of_a_scenario(maps):
    found = maps.isel(time=0).ai4land.compare(maps)
    assert found["gain"].dims == ("time", "class")
    assert found["second_year"].values.tolist() == [2015, 2100]
    assert float(found["gain"].sel(time=2015).sum()) == 0
    assert not found["change"].sel(time=2015).any()


def test_comparing_does_not_depend_on_chunks_order_and_names(maps):
    first, second = maps.isel(time=0), maps.isel(time=1)
    expected = first.ai4land.compare(second)
    other = compare_maps(turned(first).chunk(latitude=4), second.compute())
    for name in ("transition", "gain", "loss"):
        np.testing.assert_array_equal(other[name], expected[name])
    change = other["change"].rename(latitude="lat", longitude="lon")
    assert change["lat"][0] < 0
    expected = expected["change"].assign_coords(lon=expected["lon"] % 360).sortby("lon")
    np.testing.assert_array_equal(change.transpose(*expected.dims).sel(lat=expected["lat"]), expected)
    part = first.isel(lat=slice(3, 9)).ai4land.compare(second)
    assert part["change"].shape == (8, 6, 36)


def test_nothing_is_read_before_areas_are_asked_for(unread):
    area = unread.ai4land.area(by="latitude")
    assert area.sizes == {"region": 4, "class": 8}
    assert [*class_areas(unread)["class_name"].values] == [*CLASS_NAMES]
    assert unread.ai4land.compare(unread)["transition"].shape == (8, 8)
    with pytest.raises(StoreError, match="a value was read"):
        area.compute()
