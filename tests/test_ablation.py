"""The benchmark of the recipe: what it varies, what it counts, and that it goes on where it was stopped."""

from __future__ import annotations

from dataclasses import fields, replace

import numpy as np
import pytest
import xarray as xr

from tests.benchmarks import ablation, short_training, tables
from tests.benchmarks.ablation import REFERENCE, list_variants, predictor_groups
from tests.benchmarks.short_training import Judged, choose_patches, coarsened, judge, learn, narrow
from tests.worlds import COARSE, FACTOR, tiny_configuration, tiny_inputs, tiny_world
from xland.geo.grid import expand
from xland.geo.split import CELL_COLUMNS, Part, cell_of
from xland.models.inputs import MASKED, Channel
from xland.training.configuration import read_configuration
from xland.training.data.loader import Place
from xland.training.data.material import gather
from xland.vocabulary import CROPLAND, FOREST, OCEAN, URBAN, WATER


@pytest.fixture(scope="module")
def tiny():
    """Configuration and material of the tiny world at two steps of time."""
    coarse, static, maps = tiny_world((1999, 2000))
    given = {"forcing": coarse, "static": static, "target": maps.sel(time=[2000])}
    return gather(tiny_configuration(tiny_inputs(steps=(0, -1))), **given)


def test_a_narrowed_source_reads_its_channels_and_no_others(tiny):
    configuration, material = tiny
    inputs = configuration.inputs
    some = replace(inputs, coarse=(inputs.coarse[3], inputs.coarse[1]), static=(inputs.static[2],))
    place = Place(0, slice(40, 80), slice(160, 200))
    (mine,), (whole,) = (each.source.read([place]) for each in (narrow(material, some), material))
    np.testing.assert_array_equal(mine["coarse"], whole["coarse"][[3, 1, 10, 8]])
    np.testing.assert_array_equal(mine["static"], whole["static"][[2]])
    np.testing.assert_array_equal(mine["target"], whole["target"])


@pytest.mark.parametrize("factor", [2, 3, 5])
def test_a_coarsened_forcing_holds_the_same_areas(factor):
    shares = np.random.default_rng(0).random((1, 45, 90)).astype(np.float32)
    shares[:, :factor, :factor] = np.nan
    place = {"time": [2000], "lat": COARSE.latitude, "lon": COARSE.longitude}
    forcing = xr.Dataset({"primf": (("time", "lat", "lon"), shares, {"units": "1"})}, place)
    kept = forcing.isel(lat=slice(0, 45 // factor * factor))
    area = COARSE.cell_area()[: kept.sizes["lat"]]
    coarse = coarsened(kept, factor, area)["primf"]
    blocks = area.reshape(-1, factor).sum(axis=1) * factor
    assert np.isnan(coarse.values[0, 0, 0])
    assert coarse.attrs == {"units": "1"}
    total = float(np.nansum(coarse.values[0] * blocks[:, None]))
    assert total == pytest.approx(float(np.nansum(kept["primf"].values[0] * area[:, None])), rel=1e-5)
    np.testing.assert_allclose(np.diff(coarse["lat"]), -4 * factor)


def test_each_pixel_of_the_cells_is_judged_once_and_knows_its_place(tiny):
    configuration, material = tiny
    learned, seconds = learn(*tiny, choose_patches(*tiny), steps=2)
    assert seconds > 0
    cells = material.part == Part.VALIDATION
    judged = judge(learned, configuration, material, cells, every=1)
    target, grid = material.source.target[0], material.grid
    within = expand(cells, FACTOR) & (target != MASKED)
    row, column = np.nonzero(within)
    rows, columns = cell_of(grid.latitude[row], grid.longitude[column])
    expected = short_training.count(target[within], target[within], rows * CELL_COLUMNS + columns)
    np.testing.assert_array_equal(short_training.count(judged.target, judged.target, judged.place), expected)


def test_perfect_maps_score_one_and_water_is_no_land():
    matrix = np.diag([5, 1, 2, 3, 4, 5, 6, 7])
    assert short_training.figures(matrix) == dict.fromkeys(short_training.FIGURES, 1.0)
    matrix[OCEAN, WATER] = matrix[FOREST, WATER] = 7
    figures = short_training.figures(matrix)
    assert figures["accuracy"] == pytest.approx(21 / 28)
    assert figures["water"] == pytest.approx(7 / 21), "water is missed and claimed wherever a pixel counts"
    assert figures["miou"] == pytest.approx((5 + 4 / 11) / 6)


def test_a_difference_has_the_error_of_the_places():
    """Ten places; the one is right in all pixels of half of them, the other in none of any."""
    right, wrong = np.zeros((8, 8), int), np.zeros((8, 8), int)
    right[FOREST, FOREST] = wrong[FOREST, CROPLAND] = 10
    mine = np.stack([right, wrong] * 5)
    found = short_training.difference(mine, np.stack([wrong] * 10), draws=400)
    assert found["accuracy"][0] == pytest.approx(0.5)
    assert found["accuracy"][1] == pytest.approx(np.sqrt(0.25 / 10), rel=0.1)
    assert short_training.difference(mine, mine)["miou"] == (0.0, 0.0)


def test_offsets_bring_back_a_class_that_never_wins_and_are_fitted_elsewhere():
    random = np.random.default_rng(0)
    target = random.choice([URBAN, FOREST], 4000, p=[0.2, 0.8]).astype(np.uint8)
    scores = random.normal(0, 0.3, (4000, 8)).astype(np.float32)
    scores[np.arange(4000), target] += 2
    scores[:, URBAN] -= 2.5
    place = np.arange(4000) // 500
    judged = Judged(scores, target, place)
    plain = short_training.figures(short_training.count_most_probable(judged).sum(axis=0))
    offset = short_training.figures(short_training.count_with_offsets(judged).sum(axis=0))
    assert plain["urban"] < 0.1
    assert offset["urban"] > 0.8
    swapped = np.where(place % 2 == 0, target, FOREST + URBAN - target).astype(np.uint8)
    alone = short_training.count_with_offsets(replace(judged, target=swapped))
    own = short_training.count_with_offsets(judged)
    assert not np.array_equal(alone[0], own[0]), "cells are judged with what the other half gave"


@pytest.mark.parametrize("name", ["luh2-0p05", "fractions-0p05"])
def test_every_variant_differs_from_the_recipe_in_one_thing(name):
    reference = read_configuration(name)
    variants = list_variants(reference)
    assert variants[0].name == REFERENCE
    assert variants[0].configuration == reference
    assert len({each.name for each in variants}) == len(variants)
    for variant in variants[1:]:
        changed = [
            each.name
            for each in fields(reference)
            if getattr(reference, each.name) != getattr(variant.configuration, each.name)
        ]
        assert len(changed) + bool(variant.seed) == 1, variant.name


def test_each_predictor_is_left_out_once():
    reference = read_configuration("luh2-0p05")
    groups = predictor_groups(reference.inputs)
    named = [name for channels in groups.values() for name in channels]
    assert sorted(named) == sorted(channel.name for channel in reference.inputs.static)
    own = replace(reference.inputs, static=(Channel("night", ("night_lights",)), *reference.inputs.static))
    assert predictor_groups(own)["night"] == ("night",), "a predictor of no known source goes by its own name"
    variants = {each.name: each.configuration for each in list_variants(reference)}
    for group, channels in groups.items():
        left = {channel.name for channel in variants[f"without {group}"].inputs.static}
        assert left == {*named} - {*channels}


def test_what_is_done_is_not_done_again_and_another_recipe_is_another_result(tmp_path, monkeypatch):
    variants = [each for each in list_variants(tiny_configuration()) if each.group in (REFERENCE, "rare classes")]
    measured = []

    def measure(variant, _material, _patches, steps):
        measured.append(variant.name)
        counts = ablation._sparse(np.stack([np.diag(np.arange(8))] * short_training.PLACES))
        made = {"name": variant.name, "group": variant.group, "steps": steps, "seed": 0}
        return {**made, "parameters": 1, "seconds": 1.0, "plain": counts, "offset": counts}

    monkeypatch.setattr(ablation, "material_of", lambda _factor: (None, None))
    monkeypatch.setattr(ablation, "measure", measure)
    path = tmp_path / "kept" / "results.json"
    lines = list(ablation.run(variants[:2], 2, {}, path))
    again = list(ablation.run(variants[:3], 2, ablation.read_results(path), path))
    assert measured == [each.name for each in variants[:3]]
    assert again[:2] == lines
    assert lines[0]["difference"]["miou"] == [0.0, 0.0]
    assert lines[1]["steps"] == 2
    assert len({ablation.key(variants[0], 2), ablation.key(variants[0], 3), ablation.key(variants[1], 2)}) == 3
    table = ablation.ablation_table(again)
    assert len(table.splitlines()) == 2 + 3
    assert f"| {variants[1].name} | " in table


def test_tables_are_written_between_their_marks(tmp_path):
    page = tmp_path / "page.md"
    page.write_text("before\n<!-- one -->\nold\n<!-- /one -->\nafter\n", encoding="utf-8")
    tables.write_between(
        page, "one", tables.table(["", "a"], [["x", tables.share(0.5)], ["y", tables.points((0.01, 0.002))]])
    )
    assert page.read_text(encoding="utf-8") == (
        "before\n<!-- one -->\n|  | a |\n| --- | ---: |\n| x | 0.500 |\n| y | +1.0 ± 0.2 |\n<!-- /one -->\nafter\n"
    )
    with pytest.raises(ValueError, match="must hold <!-- two --> and <!-- /two --> once, but holds them 0 times"):
        tables.write_between(page, "two", "")
    assert (tables.share(float("nan")), tables.points((float("nan"), 0.0))) == ("-", "-")
