"""The benchmark of grain on a small globe: squares, boundaries and patches of a map and of draws."""

from __future__ import annotations

import json
from types import SimpleNamespace

import numpy as np
import pytest
import xarray as xr

from tests.benchmarks import grain
from tests.scores.maps import on_grid
from xland.errors import ModelError
from xland.geo.split import Part

SHAPE = (60, 120)


class Scene:
    """A model that knows the coarse cells alone, and draws that are as right as their probabilities."""

    def __init__(self, draws=True):
        rng = np.random.default_rng(0)
        likely = rng.integers(1, 7, (12, 24)).repeat(5, 0).repeat(5, 1).astype(np.uint8)

        def draw():
            return np.where(rng.random(SHAPE) < 0.7, likely, rng.integers(1, 7, SHAPE)).astype(np.uint8)

        self.draws = draws
        self.likely, self.drawn = on_grid(likely, 3.0), np.stack([draw() for _ in range(32)])
        self.observed = on_grid(draw(), 3.0)
        self.part = self.observed.copy(data=np.where(rng.random(SHAPE) < 0.5, Part.TEST, Part.TRAIN))
        self.configuration = SimpleNamespace(inputs=SimpleNamespace(factor=5))
        self.region = None
        self.common = {"model": "stand-in", "cells": "held-out cells of the split"}

    def predict(self):
        return self.likely.to_dataset(name="land_use")

    def downscale(self, draws, seed):
        made = self.predict().chunk()
        if not self.draws:
            raise ModelError("no distribution of maps")
        return made.assign(land_use_draws=(("draw", "lat", "lon"), self.drawn))

    def within(self, like):
        return self.part == Part.TEST

    def simple(self):
        return {"crosswalk": self.likely, "most frequent class": xr.full_like(self.likely, 4)}


def found_by(monkeypatch, scene, accepts_draws=True):
    accepts = (lambda forcing, *, draws=None: None) if accepts_draws else (lambda forcing: None)
    monkeypatch.setattr(grain, "downscale", accepts)
    monkeypatch.setattr(grain, "QUICK_DRAWS", 32)
    monkeypatch.setattr(grain.Scene, "open", lambda name, quick: scene)
    return {line["name"]: line for line in grain.lines("luh2", quick=True)}


def test_a_draw_has_the_grain_of_the_observed_map_and_the_most_probable_map_has_not(monkeypatch):
    found = found_by(monkeypatch, Scene())
    assert found["luh2_squares_map"]["figure"] == np.inf
    # the observed map of this world has squares, too
    of_draw = found["luh2_squares_draw"]["west_east_and_north_south"]
    assert found["luh2_squares_map"]["observed"] == pytest.approx(of_draw, rel=0.1)
    assert found["luh2_squares_draw"]["figure"] == pytest.approx(max(of_draw), abs=0.01)
    for figure in ("density", "density_by_class", "patches"):
        draw, most_probable = (found[f"luh2_grain_{figure}{suffix}"]["figure"] for suffix in ("", "_map"))
        assert draw < most_probable / 4
    json.dumps(found["luh2_grain_patches_most_frequent_class"], allow_nan=False)
    assert len(found["luh2_grain_density"]["density_of_draws"]) == grain.MEASURED
    assert found["luh2_map_accuracy"]["figure"] == pytest.approx(0.75, abs=0.02)
    # right by both maps, or by chance
    assert found["luh2_draw_accuracy"]["figure"] == pytest.approx(0.75**2 + 5 * 0.05**2, abs=0.02)
    # the shares of 32 draws differ by 0.06 in the mean from the probability that all cells have
    assert found["luh2_draws_calibration"]["of_the_class_on_the_map"] == pytest.approx(0.06, abs=0.02)
    assert found["luh2_draws_calibration"]["pixels"] < 0.6 * np.prod(SHAPE)


@pytest.mark.parametrize(
    ("scene", "accepts", "why"),
    [(Scene(), False, "no keyword draws"), (Scene(draws=False), True, "no distribution of maps")],
)
def test_without_draws_the_lines_of_draws_say_why(monkeypatch, scene, accepts, why):
    found = found_by(monkeypatch, scene, accepts_draws=accepts)
    assert why in found["luh2_draws_calibration"]["skipped"]
    assert "skipped" in found["luh2_squares_draw"]
    assert "figure" in found["luh2_squares_map"]


def test_classes_are_counted_over_the_draws():
    draws = xr.DataArray(
        np.array([[[1, 2]], [[1, 4]]], np.uint8), {"lat": [0.5], "lon": [0.5, 1.5]}, ("draw", "lat", "lon")
    )
    found = grain._counts(draws)
    np.testing.assert_array_equal(found.sum("class"), 2)
    assert found.sel({"class": "urban"}).values.tolist() == [[2, 0]]
    assert found.sel({"class": "cropland"}).values.tolist() == [[0, 1]]


def test_the_worst_model_counts():
    lines = [{"name": f"{name}_squares_map", "figure": figure} for name, figure in (("luh2", 1.04), ("fractions", 1.2))]
    assert [line["figure"] for line in grain.worst(lines)] == [1.2]
    assert list(grain.worst(lines[:1])) == []
