"""What the benchmarks of skill share: a shipped model, its data, the held-out cells, and rivals that learn."""

from __future__ import annotations

import os
import platform
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import xarray as xr
from numpy.typing import NDArray

import xland.accessor  # noqa: F401 - registers .ai4land
from tests.benchmarks.material import LUH2
from xland.geo.grid import expand
from xland.geo.split import Part
from xland.models import find_model
from xland.models.checkpoint import Checkpoint
from xland.training.configuration import Configuration, parse_configuration
from xland.training.data.material import Material, gather, open_data
from xland.vocabulary import CLASS_NAMES, LAND_CLASSES

QUICK_REGION = (-20.0, -36.0, 60.0, 72.0)
SAMPLES = 400_000


@dataclass(frozen=True)
class Scene:
    """A shipped model with the data that it learned from."""

    checkpoint: Checkpoint
    configuration: Configuration
    material: Material
    forcing: xr.Dataset
    observed: xr.DataArray
    part: xr.DataArray
    region: tuple[float, float, float, float] | None

    def predict(self, checkpoint: Checkpoint | None = None, **options: Any) -> xr.Dataset:
        """Downscale the forcing in memory."""
        model = checkpoint or self.checkpoint
        return self.forcing.ai4land.downscale(model=model, region=self.region, **options).isel(time=0).compute()

    def within(self, like: xr.DataArray, part: Part = Part.TEST) -> xr.DataArray:
        """Return which cells of a map belong to a part of the split."""
        return lay_on(self.part, like) == part

    @property
    def common(self) -> dict[str, Any]:
        """Entries of every line."""
        return {
            "model": self.checkpoint.name,
            "weights_sha256": self.checkpoint.digest[:12],
            "cells": "held-out cells of the split" + (", Europe and Africa" if self.region else ""),
            "hardware": f"{platform.machine()}, {os.cpu_count()} cores",
        }


def open_scene(name: str, *, quick: bool) -> Scene:
    """Open a shipped model and its data; the trees of the benchmark see the inputs that its card names."""
    checkpoint = find_model(name)
    configuration = parse_configuration(checkpoint.card["training"]["configuration"], name)
    opened = open_data(configuration, {"forcing": LUH2} if configuration.data.forcing.endswith(".nc") else None)
    configuration, material = gather(configuration, **opened)
    observed = opened["target"].isel(time=0, drop=True)
    fine = expand(material.part, configuration.inputs.factor)
    part = xr.DataArray(fine, {"lat": observed["lat"], "lon": observed["lon"]}, ("lat", "lon"))
    return Scene(
        checkpoint, configuration, material, opened["forcing"], observed, part, QUICK_REGION if quick else None
    )


def lay_on(fine: xr.DataArray, like: xr.DataArray) -> xr.DataArray:
    """Cut a map to the cells of another one."""
    return fine.sel(lat=like["lat"], lon=like["lon"], method="nearest", tolerance=1e-4)


class Trees:
    """The pixel-wise rival, fitted on the training cells with the inputs of the model."""

    def __init__(self, scene: Scene) -> None:
        self.scene = scene
        features, target, _, _ = self._pixels(Part.TRAIN, SAMPLES)
        from sklearn.ensemble import HistGradientBoostingClassifier

        self._trees = HistGradientBoostingClassifier(random_state=0).fit(features, target)

    def probabilities(self, part: Part) -> tuple[NDArray[np.float32], NDArray[np.uint8], tuple[NDArray[np.intp], ...]]:
        """Return class probabilities (pixels, classes) of the land of a part, its target, rows and columns."""
        features, target, rows, columns = self._pixels(part)
        shares = np.full((len(features), len(CLASS_NAMES)), 1e-6, np.float32)
        shares[:, self._trees.classes_] = self._trees.predict_proba(features).clip(1e-6)
        return shares, target, (rows, columns)

    def _pixels(
        self, part: Part, limit: int | None = None
    ) -> tuple[NDArray[np.float32], NDArray[np.uint8], NDArray[np.intp], NDArray[np.intp]]:
        arrays = self.scene.material.source
        target = arrays.target[0]
        chosen = np.flatnonzero(np.isin(target, LAND_CLASSES) & (self.scene.part.values == part))
        if limit is not None:
            chosen = np.random.default_rng(0).permutation(chosen)[:limit]
        rows, columns = np.unravel_index(chosen, target.shape)
        factor = self.scene.configuration.inputs.factor
        # the same channels as the network has, without neighbours
        low, high = arrays.coarse[0][:, rows // factor, columns // factor], arrays.static[:, rows, columns]
        features = np.concatenate([low, high.astype(np.float32)]).T
        return features, target[rows, columns], rows, columns


def without(checkpoint: Checkpoint, *entries: str) -> Checkpoint:
    """Return the same model as if its card lacked some entries."""
    card: Mapping[str, Any] = {key: value for key, value in checkpoint.card.items() if key not in entries}
    return replace(checkpoint, card=card)
