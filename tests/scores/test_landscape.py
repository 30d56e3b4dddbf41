from __future__ import annotations

import json
import math
from dataclasses import replace

import numpy as np
import pytest
import xarray as xr
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.scores.maps import on_grid, turned
from xland.errors import GridError, RegionError, TimeError, VocabularyError
from xland.geo.grid import Grid
from xland.scores.counts import BLANK
from xland.scores.landscape import (
    HEMEROBY_CONTRAST,
    Pattern,
    assess_landscape,
    fitting_scales,
    kolmogorov_distance,
)
from xland.scores.patch_counts import cut_strip, join_strips
from xland.vocabulary import CLASSES, LAND_CLASSES

EXAMPLE = (
    "....111222444414",
    "....114422444444",
    "2444114422244444",
    "2444111422244444",
    "2411111421114444",
    "1441111421111444",
    "1444111222111144",
    "1444122221111...",
    "1112222221111...",
    "1121442221111...",
)
# pylandstats 3.1.0 of EXAMPLE with cells of 1 m and patches of eight neighbours; it has no aggregation index
TOTAL_EDGE, EDGE_PER_AREA, PATCHES, MEAN_PATCH = 73, 0.5104895104895105, 10, 14.3
CLASS_EDGE = {1: 54, 2: 41, 4: 51}
CLASS_PATCHES = {1: [23, 23, 9, 1], 2: [30, 3], 4: [30, 15, 7, 2]}
LIKE_PAIRS = {1: 148 / 2, 2: 80 / 2, 4: 146 / 2}  # it counts each pair twice


def codes_of(lines):
    return np.array([[BLANK if mark == "." else int(mark) for mark in line] for line in lines], np.uint8)


def pattern_of(codes, factor=1):
    return Pattern(*join_strips([cut_strip(codes, np.ones(len(codes)), factor=factor)]), HEMEROBY_CONTRAST)


def random_map(seed=0, rows=24, columns=48, resolution=7.5):
    rng = np.random.default_rng(seed)
    codes = rng.integers(0, 8, (rows // 2, columns // 2)).astype(np.uint8).repeat(2, 0).repeat(2, 1)
    codes = np.where(rng.random(codes.shape) < 0.3, rng.integers(0, 8, codes.shape), codes).astype(np.uint8)
    return on_grid(codes, resolution)


def test_boundaries_and_patches_are_those_of_pylandstats():
    found = pattern_of(codes_of(EXAMPLE))
    pairs = found.pairs.sum()
    assert found.boundary_density == pytest.approx(TOTAL_EDGE / pairs)
    assert found.boundary_density * pairs / found.cells == pytest.approx(EDGE_PER_AREA)
    assert (found.patches, found.mean_patch, found.largest_patch) == (PATCHES, MEAN_PATCH, 30)
    for code, sizes in CLASS_PATCHES.items():
        name = CLASSES[code].name
        assert found.class_boundary_density[code] == pytest.approx(CLASS_EDGE[code] / pairs)
        assert found.sizes(name).tolist() == sizes
        assert (found.class_patches[code], found.class_largest_patch[code]) == (len(sizes), sizes[0])
        assert found.class_mean_patch[code] == np.mean(sizes)
        assert found.pairs.sum(axis=(0, 1))[code, code] == LIKE_PAIRS[code]


def test_aggregation_is_the_share_of_the_like_pairs_that_are_possible():
    found = pattern_of(codes_of(EXAMPLE))
    # 56 cells are a square of 7 x 7 and 7 more: 84 pairs in the square, and 2 * 7 - 1
    assert found.class_aggregation_index[[1, 2, 4]] == pytest.approx([100 * 74 / 97, 100 * 40 / 54, 100 * 73 / 93])
    cells = found.class_cells
    mean = (found.class_aggregation_index * cells)[[1, 2, 4]].sum() / cells.sum()
    assert found.aggregation_index == pytest.approx(mean)
    assert np.isnan(found.class_aggregation_index[3])


@settings(max_examples=50)
@given(st.integers(2, 200))
def test_the_most_compact_shape_has_an_aggregation_of_100_and_scattered_cells_of_0(count):
    side = math.isqrt(count)
    codes = np.full((side + 2, side + 2), BLANK, np.uint8)
    rest = count - side**2
    codes[:side, :side] = 4
    codes[side, : min(rest, side)] = 4
    codes[: max(rest - side, 0), side] = 4
    assert pattern_of(codes).class_aggregation_index[4] == 100
    scattered = np.full((1, 2 * count), BLANK, np.uint8)
    scattered[0, ::2] = 4
    assert pattern_of(scattered).class_aggregation_index[4] == 0


def test_contrast_is_the_mean_contrast_of_the_boundaries():
    found = pattern_of(np.array([[1, 2, 2], [1, 6, 6]], np.uint8))
    # urban borders cropland once and bare ground once, those two each other twice
    urban, crops = (7 - 5) / 6, (5 - 1) / 6
    assert found.class_edge_contrast[1] == pytest.approx(100 * (urban + 1) / 2)
    assert found.class_edge_contrast[2] == pytest.approx(100 * (urban + 2 * crops) / 3)
    assert found.edge_contrast == pytest.approx(100 * (urban + 1 + 2 * crops) / 4)
    assert math.isnan(pattern_of(np.full((2, 2), 4, np.uint8)).edge_contrast)
    pairs = np.zeros((2, 2, 8, 8), np.int64)
    pairs[0, 0, 4, 2], pairs[0, 0, 4, 4] = 3, 9
    assert replace(found, pairs=pairs, contrast=np.ones((8, 8))).class_edge_contrast[[2, 4]].tolist() == [100, 100]


def test_squares_of_a_coarse_map_are_seen_and_those_of_a_finer_one_are_not():
    rng = np.random.default_rng(0)
    blocks = rng.integers(1, 4, (12, 24)).astype(np.uint8).repeat(5, 0).repeat(5, 1)
    speckled = np.where(rng.random(blocks.shape) < 0.1, 6, blocks).astype(np.uint8)
    noise = rng.integers(1, 4, blocks.shape).astype(np.uint8)
    maps = {"blocks": on_grid(speckled, 3.0), "noise": on_grid(noise, 3.0)}
    found = assess_landscape(maps, scales=[1])
    assert found["blocks"].squares > 2
    assert found["noise"].squares < 1.1
    assert found["blocks"].squares == found["blocks"].edge_ratio.max()
    assert assess_landscape(maps, scales=[1], factor=4)["blocks"].squares < 1.6
    # boundaries that avoid the edges show the coarse cells as well
    inside = assess_landscape(on_grid(np.roll(blocks, (2, 2), (0, 1)), 3.0), scales=[1])["map"]
    assert (inside.squares, inside.edge_ratio.tolist()) == (math.inf, [0, 0])
    pure = assess_landscape(on_grid(blocks, 3.0), scales=[1])
    assert pure["map"].squares == math.inf
    assert pure.to_dict()["maps"]["map"]["1"]["edge_ratio"] == [None, None]


@settings(max_examples=5)
@given(st.integers(0, 100), st.integers(1, 24), st.integers(1, 48), st.booleans())
def test_chunks_orientation_and_names_change_no_figure(seed, rows, columns, other):
    land_use = random_map(seed)
    lazy = land_use.chunk(lat=rows, lon=columns)
    found = assess_landscape(turned(lazy) if other else lazy, factor=3, scales=[1, 2, 4])
    expected = assess_landscape(land_use, factor=3, scales=[4, 2, 1])
    assert found.to_dict() == expected.to_dict()


def test_a_large_map_is_counted_in_strips(monkeypatch):
    land_use = random_map(1)
    expected = assess_landscape(land_use, factor=3, scales=[1, 2]).to_dict()
    monkeypatch.setattr("xland.scores.landscape._STRIP", 48 * 6)
    assert assess_landscape(land_use, factor=3, scales=[1, 2]).to_dict() == expected


def test_patches_go_on_across_the_date_line_and_their_areas_are_those_on_the_sphere():
    codes = np.zeros((18, 36), np.uint8)
    codes[8, [0, 35]] = 4
    codes[3, 17] = 2
    found = assess_landscape(on_grid(codes), factor=3, scales=[1, 2])
    assert found["map"].sizes("forest").tolist() == [2]
    area = Grid.world(10.0).cell_area() / 1e6
    np.testing.assert_allclose(found["map"].areas("forest"), 2 * area[8], rtol=1e-9)
    np.testing.assert_allclose(found["map"].areas(), sorted([2 * area[8], area[3]])[::-1], rtol=1e-9)
    part = assess_landscape(on_grid(codes)[:, :30], factor=3, scales=[1])
    assert part["map"].sizes("forest").tolist() == [1]


def test_what_is_not_observed_land_is_background():
    land_use = random_map(2)
    codes = land_use.values
    observed = random_map(3)
    land = np.isin(codes, LAND_CLASSES) & (land_use["lat"].values > -60)[:, None]
    alone = assess_landscape(land_use, scales=[1])
    assert alone["map"].cells == land.sum()
    both = land & np.isin(observed.values, LAND_CLASSES)
    mask = on_grid(np.arange(48)[None, :] + np.zeros((24, 1)) < 30, 7.5)
    beside = assess_landscape({"a": land_use}, observed, scales=[1], within=mask)
    assert beside.names == ("observed", "a")
    assert beside["a"].cells == (both & mask.values).sum()
    blank = land_use.where(both & mask.values, 0).astype(np.uint8)
    assert assess_landscape(blank, scales=[1]).to_dict()["maps"]["map"]["1"]["patches"] == beside["a"].patches


def test_draws_are_measured_one_by_one():
    first, second = random_map(1), random_map(2)
    draws = xr.concat([first, second], "draw").transpose("lat", "draw", "lon")
    found = assess_landscape(draws, first, scales=[1])
    assert found.names == ("observed", "draw 0", "draw 1")
    assert found.patch_distance("draw 0") == 0
    alone = assess_landscape(second, first, scales=[1])["map"]
    assert found["draw 1"].boundary_density == alone.boundary_density


def test_coarsened_maps_are_compared_at_each_scale():
    land_use = random_map(4)
    found = assess_landscape(land_use, land_use, scales=[1, 2])
    coarse = found.maps["map"][2]
    assert found.scales == (1, 2)
    assert coarse.boundary_density > found["map"].boundary_density
    assert found.patch_distance("map", 2) == 0
    assert np.isnan(assess_landscape(land_use, factor=5, scales=[2])["map"].edge_ratio).all()


@settings(max_examples=20)
@given(st.lists(st.integers(1, 9), min_size=2), st.lists(st.integers(1, 9), min_size=2))
def test_distance_of_sizes_is_that_of_kolmogorov_and_smirnov(first, second):
    from scipy.stats import ks_2samp

    expected = ks_2samp(first, second, method="asymp").statistic
    assert kolmogorov_distance(np.array(first), np.array(second)) == pytest.approx(expected)
    assert math.isnan(kolmogorov_distance(np.array(first), np.array([], np.int64)))


def test_json_frame_and_tables_have_the_same_figures(tmp_path):
    land_use, observed = random_map(5), random_map(6)
    found = assess_landscape({"model": land_use}, observed, scales=[1, 2], factor=3)
    read = json.loads(found.to_json(tmp_path / "landscape.json").read_text())
    assert list(read["maps"]) == ["observed", "model"]
    written = read["maps"]["model"]["1"]
    assert written["patches"] == found["model"].patches
    assert written["patch_distance"] == found.patch_distance("model")
    assert written["ranks"]["10"]["cells"] == found["model"].sizes()[9]
    frame = found.to_dataframe()
    assert frame.loc[("model", 2, "forest"), "edge_contrast"] == found.maps["model"][2].class_edge_contrast[4]
    assert frame.loc[("model", 1, "all"), "boundary_density"] == found["model"].boundary_density
    text = str(found)
    assert f"{found['model'].boundary_density:.3f}" in text
    assert max(map(len, text.splitlines()[1:])) <= 80
    assert "<table" in found._repr_html_()


def test_scales_that_do_not_fit_a_map_are_left_out_of_reports():
    assert fitting_scales(Grid(0.05, 90, -180, 3600, 7200), 5) == (1, 2, 4, 8)
    assert fitting_scales(Grid(0.05, 90, -180, 9, 7200), 5) == (1, 2, 4)
    assert fitting_scales(Grid(10.0, 90, -180, 18, 36), 7) == (1, 2)
    assert fitting_scales(Grid(10.0, 90, -180, 1, 1), 18) == (1,)


@pytest.mark.parametrize(
    ("land_use", "options", "error", "message"),
    [
        (random_map(), {"scales": [0]}, GridError, "scales are whole numbers of cells from 1 to 256, not 0"),
        (random_map(), {"scales": [1, 2.5, "a"]}, GridError, "not 2.5, 'a'"),
        (random_map(), {"scales": 3}, GridError, "scales must be a list or a tuple"),
        (random_map(), {"scales": []}, GridError, "not none"),
        (random_map(), {"scales": [16]}, GridError, "squares of 80 cells, 600 degrees; leave large scales out"),
        (random_map(), {"factor": 0}, GridError, "factor must be a whole number of at least 1"),
        (random_map(), {"contrast": np.ones((3, 3))}, GridError, r"array of 8 x 8, not of shape \(3, 3\)"),
        (random_map(), {"contrast": np.full((8, 8), 2.0)}, GridError, "between 0 and 1, and the same"),
        (random_map(), {"contrast": np.triu(np.ones((8, 8)))}, GridError, "between 0 and 1, and the same"),
        (random_map(), {"within": np.zeros((24, 48), bool)}, RegionError, "no cell is left to measure"),
        (random_map() * 0, {}, RegionError, "no cell is left to measure"),
        ({}, {}, GridError, "nothing to measure"),
        ({"observed": random_map()}, {"observed": random_map()}, GridError, "'observed' of the observed map"),
        (random_map().expand_dims(time=[2001, 2002]), {}, TimeError, "has 2 time steps, 2001 to 2002; select one"),
        (random_map().expand_dims(member=2), {}, GridError, r"member \(2\)"),
        (random_map().expand_dims(draw=2)[:0], {}, GridError, "nothing to measure"),
        (
            random_map().expand_dims(time=[2015]),
            {"observed": random_map().expand_dims(time=[2019])},
            TimeError,
            "no year in common",
        ),
        (random_map() * 0 + 99, {}, VocabularyError, "99"),
        (random_map()[:5], {"observed": random_map()[10:]}, RegionError, "no cell in common"),
    ],
)
def test_what_cannot_be_measured_is_refused(land_use, options, error, message):
    with pytest.raises(error, match=message):
        assess_landscape(land_use, **{"scales": [1], **options})
