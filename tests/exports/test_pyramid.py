from __future__ import annotations

import json
from collections import Counter

import numpy as np
import pytest
import xarray as xr
import zarr
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.exports.products import GRID, YEARS, product
from xland.exports.export import export
from xland.exports.pyramid import attributes_of, levels_of, mean, mode
from xland.geo.grid import Grid


def blocks(values: np.ndarray, factor: int) -> list[tuple[tuple[int, int], np.ndarray]]:
    """Cells of each block, the last of which may be smaller, one by one."""
    rows, columns = (range(0, size, factor) for size in values.shape)
    return [((r // factor, c // factor), values[r : r + factor, c : c + factor]) for r in rows for c in columns]


@st.composite
def maps_and_factors(draw):
    rows, columns, factor = draw(st.integers(1, 9)), draw(st.integers(1, 9)), draw(st.integers(1, 5))
    seed, classes = draw(st.integers(0, 2**32 - 1)), draw(st.integers(1, 8))
    return np.random.default_rng(seed).integers(0, classes, (rows, columns)).astype(np.uint8), factor


@given(maps_and_factors())
def test_a_coarse_class_is_the_mode_of_the_cells_below_and_of_equal_ones_the_lower_code(given_):
    codes, factor = given_
    coarse = mode(codes, factor)
    for place, cells in blocks(codes, factor):
        counts = Counter(cells.ravel().tolist())
        assert coarse[place] == min(code for code in counts if counts[code] == max(counts.values()))
    assert coarse.dtype == codes.dtype


@given(maps_and_factors(), st.floats(0, 0.9))
def test_a_coarse_share_is_the_area_weighted_mean_of_what_is_known_below(given_, missing):
    codes, factor = given_
    values = codes / 8.0
    values[np.random.default_rng(1).random(values.shape) < missing] = np.nan
    area = np.linspace(1.0, 3.0, len(values)).reshape(-1, 1)
    coarse = mean(values, factor, area)
    weights = np.broadcast_to(area, values.shape)
    for (place, cells), (_, weight) in zip(blocks(values, factor), blocks(weights, factor), strict=True):
        known = np.isfinite(cells)
        expected = np.average(cells[known], weights=weight[known]) if known.any() else np.nan
        np.testing.assert_allclose(coarse[place], expected, rtol=1e-6)


def test_codes_that_are_missing_do_not_count():
    codes = np.array([[np.nan, np.nan, np.nan, 2.0], [5.0, np.nan, np.nan, np.nan]])
    np.testing.assert_array_equal(mode(codes, 2), [[5.0, 2.0]])
    assert np.isnan(mode(codes[:1, :2], 2)).all()


@settings(max_examples=50)
@given(st.integers(1, 400), st.integers(1, 700), st.sampled_from([0.05, 0.25, 0.5]), st.integers(4, 300))
def test_levels_cover_the_whole_grid_and_stay_on_the_globe(rows, columns, resolution, smallest):
    rows = min(rows, round(180 / resolution))  # of a grid that ends at the pole
    levels = levels_of(Grid(resolution, -90 + rows * resolution, -180.0, rows, columns), smallest)
    for _, grid in levels:
        assert grid.south <= levels[0].grid.south + 1e-6
        assert grid.east >= levels[0].grid.east - 1e-6
        assert grid.latitude[-1] >= -90
    assert [level.factor for level in levels] == sorted({level.factor for level in levels})


def test_levels_of_the_globe_are_whole_to_the_last():
    for resolution in (0.05, 0.01):
        levels = levels_of(Grid.world(resolution))
        assert max(levels[-1].grid.shape) <= 256
        assert all(level.grid.rows * level.factor == levels[0].grid.rows for level in levels)


def test_a_pyramid_holds_each_level_in_the_order_of_north_up_maps_and_says_so(tmp_path):
    ds = product().isel(lat=slice(None, None, -1))
    (store,) = export(ds, tmp_path / "pyramid.zarr", form="pyramid", progress=False)
    levels = levels_of(GRID)
    assert [level.factor for level in levels] == [1]
    finest = xr.open_zarr(store, group="0").load()
    np.testing.assert_array_equal(finest["land_use"], product()["land_use"])
    np.testing.assert_allclose(finest["confidence"], product()["confidence"], atol=1e-6)
    assert finest["year"].values.tolist() == list(YEARS)
    assert finest["land_use"].attrs["flag_meanings"].startswith("ocean urban")
    said = json.loads((store / "zarr.json").read_text())
    assert {each["name"] for each in said["attributes"]["zarr_conventions"]} == {"proj:", "spatial:"}
    assert said["attributes"]["proj:code"] == "EPSG:4326"
    assert "0/land_use" in said["consolidated_metadata"]["metadata"]
    several = attributes_of(levels_of(GRID, 16))
    assert {each["name"] for each in several["zarr_conventions"]} == {"multiscales", "proj:", "spatial:"}


@pytest.mark.parametrize("name", ["land_use", "confidence", "probability"])
def test_every_level_on_disk_is_that_of_the_finest(tmp_path, monkeypatch, name):
    monkeypatch.setattr("xland.exports.pyramid.levels_of", lambda grid, _: levels_of(grid, 16))
    (store,) = export(product(), tmp_path / "pyramid.zarr", form="pyramid", variables=name, years=2010, progress=False)
    root = zarr.open_group(store, mode="r")
    layout = root.attrs["multiscales"]["layout"]
    assert [each["asset"] for each in layout] == ["0", "1", "2"] == sorted(root.group_keys())
    finest = product().isel(time=1)[name].values
    area = GRID.cell_area().reshape(-1, 1)
    for each in layout:
        level = xr.open_zarr(store, group=each["asset"]).load()
        factor = int(each["transform"]["scale"][0])
        expected = mode(finest, factor) if name == "land_use" else mean(finest, factor, area)
        found = level[name].isel(time=0).values
        np.testing.assert_allclose(
            found, expected, atol=0 if name == "land_use" else 0.0021
        )  # packed in steps of 0.004
        assert each["spatial:shape"] == list(level[name].shape[-2:])
        step, _, west, _, down, north = each["spatial:transform"]
        np.testing.assert_allclose(level["lon"][0], west + step / 2)
        np.testing.assert_allclose(level["lat"], north + down * (np.arange(level.sizes["lat"]) + 0.5))
