"""Where land changes next, learned from two maps of one area.

A pixel changes by what lies around it: towns grow at their edges, woods are cleared along fields. The
features are the shares of each class around a pixel at several distances, how far the next pixel of each
class is, and the static fields beside their local means. For every class that land comes from, two
classifiers give the probability of each class at the second date: gradient-boosted trees, which rank
pixels well but are too sure of themselves, and a logistic regression, which is smooth. The answer is
their mean. The coarse totals of a forcing say how much changes
(:func:`xland.totals.changes.fit_changes`).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from xland.vocabulary import CLASS_NAMES, OCEAN

SCALES = (1.0, 2.0, 4.0, 8.0, 16.0)
"""Standard deviations of the Gaussian windows in which classes are counted, in pixels."""

RELIEF_SCALES = (2.0, 8.0)
"""Standard deviations of the windows over which static fields are averaged, in pixels."""

ENOUGH_CHANGES = 100
"""Changed pixels that classifiers learn from; where a class lost fewer, every pixel has its mean rates."""

_FLOOR = 1e-6
"""Probability that each class has at least, since coarse totals may ask for it."""

_REACH = 3.0
"""Standard deviations at which windows end."""

_INVERSE_PENALTY = 0.1
"""Of the coefficients of the regression, whose features are scaled to a variance of 1."""


@dataclass(frozen=True, eq=False)
class LandChange:
    """How probable each class is one step of time after a map.

    ``classes`` are the codes of the training maps without ocean, ``rates`` the share of each class, by rows, that was
    each class one step later, ``experts`` the classifiers of scikit-learn by the code that land comes from.
    """

    classes: tuple[int, ...]
    rates: NDArray[np.float64]
    experts: Mapping[int, tuple[Any, ...]]

    def probability(self, codes: NDArray[np.uint8], static: Mapping[str, NDArray[Any]]) -> NDArray[np.float32]:
        """Return ``(8, rows, columns)``, which sums to 1; ocean where the map has ocean."""
        features = neighbourhood(codes, static, self.classes)
        result = np.zeros((len(CLASS_NAMES), *codes.shape), dtype=np.float32)
        result[OCEAN, codes == OCEAN] = 1
        land = list(self.classes)
        for start, rates in zip(self.classes, self.rates, strict=True):
            where = codes == start
            if not where.any():
                continue
            found = np.zeros((len(CLASS_NAMES), int(where.sum())))
            experts = self.experts.get(start, ())
            for expert in experts:
                found[expert.classes_] += expert.predict_proba(features[where]).T / len(experts)
            if not experts:
                found[land] = rates[:, None]
            found[land] = np.maximum(found[land], _FLOOR)
            result[:, where] = found / found.sum(axis=0)
        return result


def fit_land_change(
    start: NDArray[np.uint8],
    end: NDArray[np.uint8],
    static: Mapping[str, NDArray[Any]],
    *,
    within: NDArray[np.bool_] | None = None,
    seed: int = 0,
) -> LandChange:
    """Learn where land changes from maps of two dates, ``(rows, columns)``, of the pixels within a mask.

    Pixels that are ocean in either map are not learned from. Static fields are finite on land and in the same order
    whenever the model is used.
    """
    from sklearn.ensemble import HistGradientBoostingClassifier
    from sklearn.linear_model import LogisticRegression
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler

    chosen = (start != OCEAN) & (end != OCEAN) & (True if within is None else within)
    classes = tuple(int(code) for code in np.unique([start, end]) if code != OCEAN)
    features = neighbourhood(start, static, classes)
    counts = np.zeros((len(CLASS_NAMES), len(CLASS_NAMES)))
    np.add.at(counts, (start[chosen], end[chosen]), 1)
    experts = {}
    for code in classes:
        if counts[code].sum() - counts[code, code] >= ENOUGH_CHANGES:
            here = chosen & (start == code)
            trees = HistGradientBoostingClassifier(random_state=seed, early_stopping=False)
            regression = make_pipeline(StandardScaler(), LogisticRegression(C=_INVERSE_PENALTY, max_iter=300))
            experts[code] = tuple(each.fit(features[here], end[here]) for each in (trees, regression))
    rates = counts[np.ix_(classes, classes)] + np.eye(len(classes))
    return LandChange(classes, rates / rates.sum(axis=1, keepdims=True), experts)


def neighbourhood(
    codes: NDArray[np.uint8], static: Mapping[str, NDArray[Any]], classes: Sequence[int]
) -> NDArray[np.float32]:
    """Describe what lies around each pixel, ``(rows, columns, features)``; ocean is left out of all shares and means.

    For each class its shares in the windows :data:`SCALES` and the logarithm of the distance to it; the logarithm of
    the size of the pixel's patch; each static field, its means in the windows :data:`RELIEF_SCALES` and how far it is
    above them.
    """
    land = codes != OCEAN
    weights = {scale: _blurred(land, scale) for scale in {*SCALES, *RELIEF_SCALES}}

    def mean(values: NDArray[Any], scale: float) -> NDArray[np.float32]:
        return np.asarray(np.divide(_blurred(np.where(land, values, 0), scale), np.maximum(weights[scale], _FLOOR)))

    found = [np.log1p(_patch_sizes(codes, classes))]
    for code in classes:
        here = codes == code
        found += [mean(here, scale) for scale in SCALES]
        found.append(np.log1p(ndimage.distance_transform_edt(~here) if here.any() else np.hypot(*codes.shape)))
    for name in sorted(static):
        values = np.where(land, static[name], np.float32(0))
        found.append(values)
        for scale in RELIEF_SCALES:
            around = mean(values, scale)
            found += [around, values - around]
    shape = codes.shape
    return np.stack([np.broadcast_to(np.asarray(each, dtype=np.float32), shape) for each in found], axis=-1)


def _blurred(values: NDArray[Any], scale: float) -> NDArray[np.float32]:
    return np.asarray(ndimage.gaussian_filter(values.astype(np.float32), scale, mode="constant", truncate=_REACH))


def _patch_sizes(codes: NDArray[np.uint8], classes: Sequence[int]) -> NDArray[np.float32]:
    """Pixels of the connected patch of one class that each pixel belongs to; 0 in the ocean."""
    sizes = np.zeros(codes.shape, dtype=np.float32)
    for code in classes:
        here = codes == code
        labels, _ = ndimage.label(here)
        sizes[here] = np.bincount(labels.ravel())[labels[here]]
    return sizes
