"""What it brings to hide part of the prior map in training, on a synthetic world of many years."""

from __future__ import annotations

from dataclasses import replace
from functools import lru_cache
from typing import Any

import numpy as np

from tests.benchmarks import drift
from tests.benchmarks.place_scores import count, figures
from tests.benchmarks.short_training import Judged, choose_patches, judge, learn
from xland.geo.split import Part
from xland.models.inputs import MASKED
from xland.training.configuration import Configuration
from xland.training.data.material import Material, gather
from xland.training.rollout import Rollout

SHARES = (0.0, 0.3, 0.6, 0.9, 1.0)
"""Of the prior that are hidden in training: 0.6 in the published system, 1 is a model that never sees it."""

SHOWN = 0.6
"""Share that the published system hides in its test, too."""


@lru_cache(maxsize=1)
def world() -> tuple[Configuration, Material]:
    """Twenty years to learn from, without rollouts; the world of the benchmark of drift."""
    case = drift.synthetic(seed=0, steps=1)
    configuration = replace(case.configuration, rollout=Rollout())
    return gather(configuration, forcing=case.forcing, target=case.maps[1:], static=case.static, prior=case.maps)


def compare(share: float, *, steps: int, seed: int = 0) -> dict[str, Any]:
    """Train with a share of the prior hidden, and score what it predicts with all of the prior and with 40 %."""
    configuration, material = world()
    configuration = _hiding(configuration, share)
    cells = material.part == Part.VALIDATION
    patches = choose_patches(configuration, material)
    network, seconds = learn(configuration, material, patches, steps=steps, seed=seed)
    told = judge(network, _hiding(configuration, 0.0), material, cells)
    partly = judge(network, _hiding(configuration, SHOWN), material, cells)
    return {"hidden": share, "steps": steps, **scores(told, partly), "seconds": round(seconds, 1)}


def scores(told: Judged, partly: Judged) -> dict[str, float]:
    """Scores with the whole prior, those of a copy of it, and scores with part of it hidden."""
    assert told.prior is not None
    assert partly.prior is not None
    predicted = told.scores.argmax(axis=1)
    moved = told.prior != told.target
    hidden = partly.prior == MASKED
    whole = figures(count(told.target, predicted, told.place).sum(axis=0))
    part = figures(count(partly.target, partly.scores.argmax(axis=1), partly.place).sum(axis=0))
    return {
        "accuracy": whole["accuracy"],
        "miou": whole["miou"],
        "copied": float(np.mean(~moved)),
        "changed": float(np.mean(predicted[moved] == told.target[moved])),
        "partly_accuracy": part["accuracy"],
        "partly_miou": part["miou"],
        "hidden_accuracy": float(np.mean(partly.scores.argmax(axis=1)[hidden] == partly.target[hidden])),
    }


def _hiding(configuration: Configuration, share: float) -> Configuration:
    return replace(configuration, augmentation=replace(configuration.augmentation, prior_masked=share))
