"""What a card says about a model: training inputs, calibration, coverage."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.spatial.distance import cdist

from xland.errors import CheckpointError, ModelError
from xland.geo.grid import Grid
from xland.models.applicability import Applicability, Coverage, StaticSample, static_means
from xland.models.calibration import Calibration, calibration_error
from xland.models.checkpoint import APPLICABILITY, CARD, WEIGHTS, read_checkpoint, save_checkpoint, update_card
from xland.records import read_record

TWO = Applicability(np.array([[0.0, 0.0, 0.0], [3.0, 0.0, 4.0]], np.float32), typical=5.0, threshold=0.5)


def cell(*values):
    return np.array(values, np.float32).reshape(-1, 1, 1)


def test_the_index_is_the_distance_to_the_nearest_training_input_in_typical_distances():
    assert TWO.distance(cell(0, 0), cell(0)) == pytest.approx(0)
    assert TWO.distance(cell(3, 0), cell(4 + 2.5)) == pytest.approx(2.5 / 5)
    assert TWO.distance(cell(3, 10), cell(4)) == pytest.approx(2)
    with pytest.raises(ModelError, match="learned from 3 coarse and static channels, not 2"):
        TWO.distance(cell(0), cell(0))


def test_distances_are_those_of_scipy_far_from_the_origin_too():
    random = np.random.default_rng(1)
    points, prototypes = (random.normal(100, 1, size=(n, 12)).astype(np.float32) for n in (50, 40))
    found = Applicability(prototypes, 2.0, 0.5).distance(points.T[:8, :, None], points.T[8:, :, None])
    np.testing.assert_allclose(found[:, 0], cdist(points, prototypes).min(axis=1) / 2, rtol=1e-6)


def test_static_fields_are_averaged_over_land_only():
    static = np.arange(16, dtype=np.float16).reshape(1, 4, 4)
    land = np.ones((4, 4), bool)
    land[0, :2] = land[2:, 2:] = False
    means = static_means(static, land, 2)
    np.testing.assert_array_equal(means[0], [[4.5, 4.5], [10.5, np.nan]])


def learned(number, channels=18 - 8):
    return Applicability(number * np.arange(2 * channels, dtype=np.float32).reshape(2, -1), 5.0 * number, 0.5)


def is_of(model, number):
    same = np.array_equal(model.applicability.prototypes, learned(number).prototypes)
    return same and model.applicability.typical == model.card["number"] * 5.0 == 5.0 * number


@pytest.fixture
def kept(folder):
    """A model folder with training inputs beside the weights."""
    assert read_checkpoint(folder).applicability is None
    update_card(folder, {"number": 1}, applicability=learned(1))
    return folder


@pytest.mark.parametrize("content", [b"", b"x" * 100, None, learned(2)])
def test_a_damaged_or_missing_file_is_named_with_the_remedy(kept, content):
    assert is_of(read_checkpoint(kept), 1)
    path, own = kept / APPLICABILITY, (kept / CARD).read_bytes()
    if isinstance(content, Applicability):  # of another training
        update_card(kept, {}, applicability=content)
        (kept / CARD).write_bytes(own)
    elif content is None:
        path.unlink()
    else:
        path.write_bytes(content)
    with pytest.raises(CheckpointError, match=r"applicability\.safetensors .* damaged: run `xland calibrate` again"):
        _ = read_checkpoint(kept).applicability


@pytest.mark.parametrize("name", [".applicability-before.safetensors", APPLICABILITY, CARD])
def test_an_update_that_breaks_off_at_any_file_leaves_the_model_as_it_was(kept, name, breaking):
    for number in (2, 3):  # once broken off, it may break off again
        with breaking(name):
            update_card(kept, {"number": number}, applicability=learned(number))
        assert is_of(read_checkpoint(kept), 1)
    update_card(kept, {"number": 4}, applicability=learned(4))
    assert is_of(read_checkpoint(kept), 4)
    assert {path.name for path in kept.iterdir()} == {CARD, WEIGHTS, APPLICABILITY}


def test_an_update_that_breaks_off_after_the_card_leaves_the_new_model(kept, monkeypatch):
    remove = Path.unlink

    def break_off(path, **options):
        if "before" in path.name:
            raise KeyboardInterrupt
        remove(path, **options)

    monkeypatch.setattr(Path, "unlink", break_off)
    with pytest.raises(KeyboardInterrupt):
        update_card(kept, {"number": 2}, applicability=learned(2))
    assert is_of(read_checkpoint(kept), 2)


def test_a_new_model_in_the_folder_does_not_inherit_it(kept):
    save_checkpoint(kept, read_checkpoint(kept).network(), {"name": "next"})
    assert not (kept / APPLICABILITY).exists()
    assert read_checkpoint(kept).applicability is None


SCORES = torch.linspace(-3, 3, 2 * 4 * 5 * 6).reshape(2, 4, 5, 6)


@pytest.mark.parametrize("scores", [SCORES, SCORES.flatten(2)], ids=["maps", "points"])
def test_each_class_has_its_scale_and_bias(scores):
    scaled = Calibration((1.0, 2.0, 0.5, 1.0), (0.0, 0.0, 1.0, -1.0)).apply(scores)
    assert torch.equal(scaled[:, 0], scores[:, 0])
    assert torch.equal(scaled[:, 1], 2 * scores[:, 1])
    assert torch.allclose(scaled[:, 2], scores[:, 2] / 2 + 1)
    assert torch.equal(scaled[:, 3], scores[:, 3] - 1)
    assert Calibration.none(4).apply(scores) is scores


def test_scales_that_would_reverse_scores_are_refused():
    with pytest.raises(CheckpointError, match="each a finite number above 0"):
        Calibration((1.0, -1.0), (0.0, 0.0))


def test_the_calibration_error_of_ten_pixels_by_hand():
    """Four pixels of 0.9 of which two are right, six of 0.3 of which three are: 0.4 * 0.4 + 0.6 * 0.2."""
    confidence = np.array([0.9] * 4 + [0.3] * 6)
    correct = np.array([True, True, False, False] + [True, False] * 3)
    assert calibration_error(confidence, correct, bins=10) == pytest.approx(0.4 * 0.4 + 0.6 * 0.2)
    two = calibration_error(np.array([0.9, 0.3]), np.array([True, False]), np.array([3.0, 1.0]))
    assert two == pytest.approx((3 * 0.1 + 0.3) / 4), "pixels count by their area"
    assert np.isnan(calibration_error(np.zeros(0), np.zeros(0, bool)))


WORLD = Grid.world(6)
CELLS = np.random.default_rng(0).random(WORLD.shape) < 0.3


def read_coverage(entries):
    return read_record(Coverage, entries, "the coverage", CheckpointError)


@settings(max_examples=12, deadline=None)
@given(st.integers(0, 25), st.integers(0, 59), st.integers(2, 5), st.integers(2, 30))
def test_a_part_of_the_globe_gets_its_cells_across_the_date_line_too(row, column, rows, columns):
    part = Grid(6.0, 90 - 6.0 * row, -180 + 6.0 * column, rows, columns)
    expected = np.roll(CELLS, -column, axis=1)[row : row + rows, :columns]
    np.testing.assert_array_equal(read_coverage(asdict(Coverage.of(WORLD, CELLS))).on(part), expected)


def test_nothing_is_known_beyond_a_regional_coverage_or_of_another_resolution():
    region = WORLD.window(slice(5, 10), slice(20, 30))
    coverage = Coverage.of(region, np.ones(region.shape, bool))
    assert coverage.on(WORLD).sum() == 50
    assert coverage.on(WORLD)[5:10, 20:30].all()
    assert not coverage.on(Grid.world(3)).any()


@pytest.mark.parametrize("change", [{"cells": "!"}, {"cells": ""}, {"rows": 10**6}, {"rows": "many"}, {"north": None}])
def test_damage_of_a_coverage_is_named(change):
    with pytest.raises(CheckpointError, match="coverage"):
        read_coverage({**asdict(Coverage.of(WORLD, CELLS)), **change})


@given(st.integers(0, 80), st.integers(-30, 100), st.integers(1, 9), st.data())
def test_static_fields_of_any_span_are_known_again_and_a_change_of_one_channel_is_seen(row, column, step, data):
    world = np.random.default_rng(step).normal(size=(3, 90, 120)).astype(np.float16)
    values = world[:, 4::step, 5::step].transpose(1, 2, 0).copy()
    values[::3] = np.nan  # nothing was learned there
    sample = read_record(StaticSample, asdict(StaticSample.of("own.nc", values, 4, 5, step)), "a card", CheckpointError)
    rows, columns = np.arange(row, min(row + 40, 90)), np.arange(column, column + 50) % 120
    fields, land = world[:, rows][:, :, columns], np.ones((len(rows), 50), np.bool_)
    assert not sample.differing(fields, land, row, column, 120).any()
    changed = data.draw(st.integers(0, 2))
    fields = fields + np.float16(0.5) * (np.arange(3) == changed)[:, None, None]
    found = sample.differing(fields, land, row, column, 120)
    down, across = (
        ((rows - 4) % step == 0) & (rows >= 4) & ((rows - 4) // step % 3 > 0),
        np.isin(columns, range(5, 120, step)),
    )
    assert len(found) == down.sum() * across.sum()
    assert (found == (np.arange(3) == changed)).all()
    assert not sample.differing(fields, ~land, row, column, 120).any()


def test_a_damaged_sample_of_static_fields_is_refused():
    entries = asdict(StaticSample.of("own.nc", np.zeros((2, 3, 4)), 0, 0, 1))
    for wrong in ({"rows": 3}, {"text": "no base 64"}, {"text": "AAAA"}):
        with pytest.raises(CheckpointError, match="static predictors in the model card are damaged"):
            read_record(StaticSample, entries | wrong, "a card", CheckpointError)
