"""What a published package makes of the maps: run by :mod:`tests.benchmarks.change_peers` in the package's environment.

``python change_peers_run.py PEER GIVEN.npz FOUND.npz``. It imports nothing of xland. Given are the maps ``first`` and
``second`` from which the peer learns within ``within``, ``start`` from which it predicts (rows, columns; 0 is ocean),
features of the pixels of ``first`` and ``start`` (rows, columns, features), and ``end_counts``, how many pixels each
class has in coarse cells at the end (classes, rows, columns). Found are ``probability`` (classes, rows, columns) and,
where the peer can keep totals, ``map``. The last line says how long it took, what memory it needed, and what failed.
"""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

CLASSES = 8
Given = dict[str, np.ndarray]


def disslucc(given: Given) -> tuple[dict[str, np.ndarray], dict[str, Any]]:
    """CLUE-S: logistic regressions of each class, and competition of the classes for the pixels of each coarse cell.

    The package takes coefficients and elasticities as given: the coefficients are fitted here with scikit-learn, and
    the elasticity of a class is the share of it that stays from the first to the second map.
    """
    from disslucc import AllocationDClueSLike, DemandInline, PotentialDLogisticRegression
    from disslucc.schemas import LogisticRegressionSpec
    from dissmodel.core import Environment
    from dissmodel.geo import RasterBackend
    from sklearn.linear_model import LogisticRegression

    first, second, start = given["first"], given["second"], given["start"]
    learned = (given["within"] != 0) & (first != 0) & (second != 0)
    features = given["first_features"][learned]
    mean, scale = features.mean(axis=0), features.std(axis=0) + 1e-6
    codes = [int(code) for code in np.unique(second[learned])]
    names = [f"class_{code}" for code in codes]
    drivers = [f"driver_{number}" for number in range(features.shape[1])]
    specs = []
    for code in codes:
        regression = LogisticRegression(max_iter=200).fit((features - mean) / scale, second[learned] == code)
        stays = float((second[learned] == code)[first[learned] == code].mean())
        betas = dict(zip(drivers, regression.coef_[0].tolist(), strict=True))
        specs.append(LogisticRegressionSpec(const=float(regression.intercept_[0]), elasticity=stays, betas=betas))
    scaled = (given["start_features"] - mean) / scale
    counts = given["end_counts"]
    size = start.shape[0] // counts.shape[1]
    found, probability, failed = start.copy(), np.zeros((CLASSES, *start.shape), np.float32), 0
    allowed = np.ones((1, len(codes), len(codes)), int).tolist()
    for row, column in np.ndindex(counts.shape[1:]):
        at = slice(row * size, (row + 1) * size), slice(column * size, (column + 1) * size)
        before, land = start[at], start[at] != 0
        if not land.any():
            continue
        demand = [float(counts[code, row, column]) for code in codes]
        backend = RasterBackend(shape=before.shape)
        backend.set("mask", land)
        for code, name in zip(codes, names, strict=True):
            backend.set(name, (before == code).astype(np.float32))
        for number, name in enumerate(drivers):
            backend.set(name, scaled[at][..., number])
        environment = Environment(end_time=0)
        asked = DemandInline(values=[demand], land_use_types=names)
        PotentialDLogisticRegression(backend=backend, potential_data=[specs], land_use_types=names)
        how = {"max_difference": 1.0, "max_iteration": 1000, "factor_iteration": 0.002}
        AllocationDClueSLike(backend=backend, demand=asked, land_use_types=names, transition_matrix=allowed, **how)
        try:
            environment.run()
        except RuntimeError:  # it did not come to an end: the map as it was is kept
            failed += 1
        else:
            made = np.stack([backend.get(name) for name in names]).argmax(axis=0)
            found[at] = np.where(land, np.array(codes)[made], before)
        for code, name in zip(codes, names, strict=True):
            probability[code][at] = backend.get(f"{name}_pot")
    said = {"cells": int((counts[1:].sum(axis=0) > 0).sum()), "cells_not_converged": failed}
    return {"map": found, "probability": probability}, said


def clumpy(given: Given) -> tuple[dict[str, np.ndarray], dict[str, Any]]:
    """Naive Bayes on features in bins, by class of origin. Its allocation knows transitions of the whole map alone."""
    from clumpy.calibration import NaiveBayes
    from clumpy.definition import Case, LandUseCoverLayer
    from clumpy.discretization import binning, discretize

    first, second, start = given["first"].astype(int), given["second"].astype(int), given["start"].astype(int)
    known = np.where(given["within"] != 0, first, 0)
    pairs = [(i, j) for i in range(1, CLASSES) for j in range(1, CLASSES)]
    counted = {(i, j): int(((known == i) & (second == j)).sum()) for i, j in pairs}
    changes = [pair for pair in pairs if pair[0] != pair[1] and counted[pair] >= 100]

    def case(codes: np.ndarray, features: np.ndarray, later: np.ndarray | None) -> Any:
        layers = []
        for each in (codes, later):
            layer = None if each is None else LandUseCoverLayer(name="map")
            if layer is not None:
                layer.import_numpy(each, sound=0)
            layers.append(layer)
        made = Case(layers[0], changes, layers[1])
        origins = sorted({origin for origin, _ in changes})
        for number in range(features.shape[-1]):
            made.add_numpy_as_feature(list(origins), features[..., number], f"f{number}")
        return made

    fitted = case(known, given["first_features"], second)
    bins = {"method": "numpy", "bins": 10}
    wanted = {(i, f"f{n}"): bins for i in {i for i, _ in changes} for n in range(given["first_features"].shape[-1])}
    binning(fitted, wanted)
    discretize(fitted)
    model = NaiveBayes()
    model.fit(fitted)
    used = case(start, given["start_features"], None)
    discretize(used, fitted.alpha)
    maps = model.transition_probability_maps(used)
    probability = np.zeros((CLASSES, *start.shape), np.float32)
    for (origin, later), layer in maps.layers.items():
        probability[later] += np.where(start == origin, np.nan_to_num(layer.data), 0)
    change = probability.sum(axis=0)
    for code in range(1, CLASSES):
        probability[code] += np.where(start == code, np.clip(1 - change, 0, 1), 0)
    return {"probability": probability}, {"transitions": len(changes)}


PEERS: dict[str, Callable[[Given], tuple[dict[str, np.ndarray], dict[str, Any]]]] = {
    "disslucc": disslucc,
    "clumpy": clumpy,
}


def peak_megabytes() -> float:
    """Largest resident memory of this process."""
    status = Path("/proc/self/status").read_text(encoding="ascii")
    return int(next(row.split()[1] for row in status.splitlines() if row.startswith("VmHWM:"))) / 1024


def main(peer: str, given: str, found: str) -> None:
    with np.load(given) as opened:
        values = {name: opened[name] for name in opened.files}
    before, started, cpu = peak_megabytes(), time.perf_counter(), time.process_time()
    said: dict[str, Any]
    try:
        result, said = PEERS[peer](values)
    except Exception as error:  # noqa: BLE001 - whatever stops a peer is reported
        said = {"stopped": f"{type(error).__name__}: {error}"[:300]}
    else:
        np.savez(found, **result)
    said["seconds"], said["processor_seconds"] = time.perf_counter() - started, time.process_time() - cpu
    said |= {"megabytes": peak_megabytes(), "megabytes_of_the_maps": before}
    print(json.dumps(said))


if __name__ == "__main__":
    main(*sys.argv[1:])
