from __future__ import annotations

import numpy as np
import pytest
import xarray as xr

from tests.scores.maps import a_map, on_grid, same
from xland.errors import RegionError
from xland.geo.grid import Grid
from xland.scores import regions
from xland.scores.evaluation import compare
from xland.scores.regions import Regions, choose, labelled, latitude_bands

WORLD = Grid.world(10.0)
EVERYWHERE = a_map(np.zeros(WORLD.shape, np.uint8), 10.0, 90.0, -180.0)


@pytest.fixture
def maps():
    rng = np.random.default_rng(0)
    observed = rng.integers(1, 7, WORLD.shape).astype(np.uint8)
    predicted = np.where(rng.random(WORLD.shape) < 0.6, observed, 4).astype(np.uint8)
    return on_grid(predicted), on_grid(observed)


def test_bands_of_latitude_part_the_globe():
    found = latitude_bands(EVERYWHERE)
    assert len(found.names) == 4
    bands = dict(zip(WORLD.latitude.tolist(), found.labels[:, 0].values.tolist(), strict=True))
    assert [bands[each] for each in (85.0, 55.0, 45.0, 25.0, 15.0, -15.0, -25.0, -85.0)] == [1, 1, 2, 2, 3, 3, 4, 4]


def test_climate_zones_are_those_at_the_centres_of_the_cells(monkeypatch):
    fine = Grid.world(2.5)
    zones = on_grid(np.random.default_rng(1).integers(0, 6, fine.shape).astype(np.uint8), 2.5)
    monkeypatch.setattr(regions, "koppen", lambda: zones.chunk(lat=10))
    part = Grid(10.0, 40.0, 170.0, 3, 4)  # passes the date line
    found = regions.climate_zones(a_map(np.zeros(part.shape, np.uint8), 10.0, 40.0, 170.0))
    wrapped = (part.longitude + 180) % 360 - 180
    expected = zones.sel(lat=part.latitude - 1, lon=wrapped + 1, method="nearest")
    np.testing.assert_array_equal(found.labels, expected)
    assert found.names == ("tropical", "arid", "temperate", "cold", "polar")


def test_continents_are_those_of_the_split():
    found = choose("continents", EVERYWHERE)
    named = {place: found.names[int(found.labels.sel(lat=lat, lon=lon, method="nearest")) - 1] for place, lat, lon in (
        ("Kenya", 5, 35), ("Mongolia", 45, 105), ("Brazil", -15, -55),
    )}  # fmt: skip
    assert named == {"Kenya": "Africa", "Mongolia": "Asia", "Brazil": "South America"}
    assert found.labels.sel(lat=-85, lon=5) == 0


def test_scores_of_a_region_are_those_within_its_cells(maps):
    predicted, observed = maps
    numbers = np.zeros(WORLD.shape, np.uint8)
    numbers[2:6, :18], numbers[4:, 18:] = 3, 7
    half = on_grid(np.broadcast_to(np.arange(36) < 27, WORLD.shape))
    both, regions = {"a": predicted, "b": observed}, on_grid(numbers)
    found = compare(both, observed, regions=regions, within=half, factor=2)
    assert list(found.by_region) == ["region 3", "region 7"]
    for number, each in zip((3, 7), found.by_region.values(), strict=True):
        same(each["a"], compare({"a": predicted}, observed, within=(regions == number) & half, factor=2)["a"])
        assert each["b"]["land"].accuracy == 1
    same(found["a"], compare({"a": predicted}, observed, within=half, factor=2)["a"])


def test_a_region_without_a_cell_has_no_score(maps):
    empty = Regions(on_grid(np.ones(WORLD.shape, np.uint8)), ("here", "nowhere"), "regions")
    found = compare({"a": maps[0]}, maps[1], regions=empty, domains=("land",)).by_region
    assert np.isnan(found["nowhere"]["a"]["land"].accuracy)
    assert found["here"]["a"]["land"].accuracy > 0.5


def test_regions_that_a_map_does_not_reach_have_no_score_of_it(maps):
    north = on_grid(np.ones(WORLD.shape, np.uint8)).isel(lat=slice(0, 6))
    south = {"south": maps[0].isel(lat=slice(9, None))}
    found = compare(south, maps[1], regions=Regions(north, ("the north",), "regions"), domains=("land",))
    assert found["south"]["land"].accuracy > 0.5
    assert np.isnan(found.by_region["the north"]["south"]["land"].accuracy)


def test_a_map_of_regions_says_their_names():
    numbers = on_grid(np.tile(np.array([0.0, 1.0, 2.0, np.nan]), (18, 9)))
    assert labelled(numbers, names=("east", "west")).names == ("east", "west")
    flagged = numbers.assign_attrs(flag_values=[1, 2], flag_meanings="the_north the_south")
    assert labelled(flagged.to_dataset(name="zone").chunk()).names == ("the north", "the south")
    assert labelled(numbers).labels[0, :4].values.tolist() == [0, 1, 2, 0]
    assert labelled(numbers.assign_attrs(flag_values=[1, 2, 3])).names == ("region 1", "region 2")


def test_regions_that_cannot_be_used_are_refused():
    with pytest.raises(RegionError, match=r"unknown regions 'nations'.* latitude, koppen, continents, or pass"):
        choose("nations", EVERYWHERE)
    assert choose(None, EVERYWHERE) is None
    for wrong in (3, ["latitude"], np.ones(WORLD.shape, int)):
        message = f"regions are of type {type(wrong).__name__}; pass latitude, koppen, continents, or"
        with pytest.raises(RegionError, match=message):
            choose(wrong, EVERYWHERE)
    for values, message in (
        (np.zeros(WORLD.shape), "has 0 regions"),
        (np.arange(648).reshape(WORLD.shape), "has 647 regions; .* 1 to 40"),
        (np.full(WORLD.shape, -1), "whole numbers from 1, or 0 for none; found -1"),
        (np.full(WORLD.shape, 1.5), "found 1.5"),
        (np.where(np.arange(36) < 3, np.inf, np.ones(WORLD.shape)), "found inf"),
        (np.full(WORLD.shape, "a"), "values are <U1, not whole numbers"),
    ):
        with pytest.raises(RegionError, match=message):
            choose(on_grid(values), EVERYWHERE)
    two = xr.Dataset({"a": on_grid(np.ones(WORLD.shape)), "b": on_grid(np.ones(WORLD.shape))})
    with pytest.raises(RegionError, match=r"has 2 variables \(a, b\)"):
        labelled(two)
    with pytest.raises(RegionError, match="the map of regions has 2 time steps; select one"):
        choose(two["a"].expand_dims(time=[2000, 2001]), EVERYWHERE)


def test_two_regions_of_one_name_are_refused():
    numbers = on_grid(np.tile(np.array([0, 1, 2, 3]), (18, 9)))
    with pytest.raises(RegionError, match="several regions have the name 'east'; give each its own"):
        labelled(numbers.assign_attrs(flag_values=[1, 2, 3], flag_meanings="east west east"))
    # a name that no cell has may come twice
    assert labelled(numbers.where(numbers < 3), names=("east", "west", "east")).names == ("east", "west")


def test_bounds_of_coordinates_are_no_regions():
    numbers = on_grid(np.tile(np.array([0, 1, 2, 3]), (18, 9))).to_dataset(name="zone")
    for name in ("lat", "lon"):
        numbers[name].attrs["bounds"] = f"{name}_bnds"
        numbers[f"{name}_bnds"] = ((name, "side"), np.stack([numbers[name] - 5, numbers[name] + 5], -1))
    assert labelled(numbers).names == ("region 1", "region 2", "region 3")
