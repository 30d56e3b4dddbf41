"""Where land changes next, learned from two maps of one area.

A pixel changes by what lies around it: towns grow at their edges, woods are cleared along fields. The
features are the shares of each class around a pixel at several distances, how far the next pixel of each
class is, and the static fields beside their local means. For every class that land comes from, two
classifiers give the probability of each class at the second date: gradient-boosted trees, which rank
pixels well but are too sure of themselves, and a logistic regression, which is smooth. The answer is
their mean. How much changes is not for them to say: the coarse totals of a forcing do
(:func:`xland.totals.changes.fit_changes`).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from xland.errors import MissingDependencyError, ModelError, StaticError
from xland.vocabulary import CLASS_NAMES, OCEAN, check_codes

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


class Classifier(Protocol):
    """What is asked of a classifier of scikit-learn."""

    classes_: NDArray[Any]

    def fit(self, features: NDArray[Any], target: NDArray[Any]) -> Any:
        """Learn from samples."""

    def predict_proba(self, features: NDArray[Any]) -> NDArray[Any]:
        """Return the probability of each class it has seen."""


@dataclass(frozen=True, eq=False)
class LandChange:
    """How probable each class is one step of time after a map.

    Parameters
    ----------
    classes : tuple of int
        Codes that the training maps hold, ocean left out.
    fields : tuple of str
        Names of the static fields.
    rates : (classes, classes) array of float
        Share of each class, by rows, that was each class one step later.
    experts : mapping of int to tuple of Classifier
        By the code that land comes from.
    """

    classes: tuple[int, ...]
    fields: tuple[str, ...]
    rates: NDArray[np.float64]
    experts: Mapping[int, tuple[Classifier, ...]]

    def probability(self, codes: NDArray[Any], static: Mapping[str, NDArray[Any]]) -> NDArray[np.float32]:
        """Say how probable each class is one step after a map.

        Parameters
        ----------
        codes : (rows, columns) array of class codes
            Ocean where there is no land.
        static : mapping of str to (rows, columns) array
            Finite on land, under the names that the model learned from.

        Returns
        -------
        (8, rows, columns) array of float32
            Sums to 1; ocean where the map has ocean.

        Raises
        ------
        ModelError
            A class that the training maps do not hold.
        StaticError
            Static fields that are missing, of another shape, or not finite on land.
        VocabularyError
            Codes other than 0..7.
        """
        known = check_codes(codes, what="map")
        strangers = [code for code in _classes_of(known) if code not in self.classes]
        if strangers:
            raise ModelError(
                f"the map holds {_names(strangers)} in {np.isin(known, strangers).sum()} pixels; the maps that the "
                f"model learned from hold {_names(self.classes)} only"
            )
        features = neighbourhood(known, _check_static(static, self.fields, known), self.classes)
        result = np.zeros((len(CLASS_NAMES), *known.shape), dtype=np.float32)
        result[OCEAN, known == OCEAN] = 1
        for start, rates in zip(self.classes, self.rates, strict=True):
            where = known == start
            if where.any():
                result[:, where] = self._after(start, rates, features[where])
        return result

    def _after(self, start: int, rates: NDArray[np.float64], features: NDArray[np.float32]) -> NDArray[np.float64]:
        found = np.zeros((len(CLASS_NAMES), len(features)))
        experts = self.experts.get(start, ())
        for expert in experts:
            found[expert.classes_] += expert.predict_proba(features).T / len(experts)
        if not experts:
            found[list(self.classes)] = rates[:, None]
        found[list(self.classes)] = np.maximum(found[list(self.classes)], _FLOOR)
        return np.asarray(found / found.sum(axis=0))


def fit_land_change(
    start: NDArray[Any],
    end: NDArray[Any],
    static: Mapping[str, NDArray[Any]],
    *,
    within: NDArray[np.bool_] | None = None,
    seed: int = 0,
) -> LandChange:
    """Learn where land changes from maps of two dates.

    Parameters
    ----------
    start, end : (rows, columns) array of class codes
        Ocean where there is no land; pixels that are ocean in either are not learned from.
    static : mapping of str to (rows, columns) array
        Fields that do not change, such as elevation and slope; finite on land. May be empty.
    within : (rows, columns) array of bool, optional
        Pixels to learn from; the map around them is seen in any case.
    seed : int

    Returns
    -------
    LandChange
        Its step of time is the one between the two maps.

    Raises
    ------
    MissingDependencyError
        Without scikit-learn (``pip install 'xland[trees]'``).
    ModelError
        Maps of different shapes, or between which nothing changes.
    StaticError
        Static fields of another shape, or not finite on land.
    VocabularyError
        Codes other than 0..7.
    """
    before, after = check_codes(start, what="start map"), check_codes(end, what="end map")
    chosen = np.ones(before.shape, dtype=np.bool_) if within is None else np.asarray(within, dtype=np.bool_)
    if not before.shape == after.shape == chosen.shape:
        raise ModelError(
            f"the maps of the two dates and the mask must have one shape, not {before.shape}, {after.shape} and "
            f"{chosen.shape}; bring them to the same grid"
        )
    chosen = chosen & (before != OCEAN) & (after != OCEAN)
    if not (before != after)[chosen].any():
        raise ModelError(
            f"nothing changes between the two maps in the {chosen.sum()} pixels to learn from; give maps of dates "
            "that are further apart, or a larger area"
        )
    classes = _classes_of(np.stack([before, after]))
    fields = tuple(sorted(static))
    features = neighbourhood(before, _check_static(static, fields, before), classes)
    counts = np.zeros((len(CLASS_NAMES), len(CLASS_NAMES)))
    np.add.at(counts, (before[chosen], after[chosen]), 1)
    experts = {}
    for code in classes:
        if counts[code].sum() - counts[code, code] >= ENOUGH_CHANGES:
            here = chosen & (before == code)
            experts[code] = tuple(each.fit(features[here], after[here]) for each in _classifiers(seed))
    rates = counts[np.ix_(classes, classes)] + np.eye(len(classes))
    return LandChange(classes, fields, rates / rates.sum(axis=1, keepdims=True), experts)


def neighbourhood(
    codes: NDArray[np.uint8], static: Mapping[str, NDArray[Any]], classes: Sequence[int]
) -> NDArray[np.float32]:
    """Describe what lies around each pixel.

    Parameters
    ----------
    codes : (rows, columns) array of class codes
        Ocean is left out of all shares and means.
    static : mapping of str to (rows, columns) array
        Finite on land.
    classes : sequence of int

    Returns
    -------
    (rows, columns, features) array of float32
        For each class its shares in the windows :data:`SCALES` and the logarithm of the distance to it; the
        logarithm of the size of the pixel's patch; each static field, its means in the windows
        :data:`RELIEF_SCALES` and how far it is above them.
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
    for values in static.values():
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


def _classifiers(seed: int) -> tuple[Classifier, ...]:
    try:
        from sklearn.ensemble import HistGradientBoostingClassifier
        from sklearn.linear_model import LogisticRegression
        from sklearn.pipeline import make_pipeline
        from sklearn.preprocessing import StandardScaler
    except ImportError as error:
        raise MissingDependencyError("a model of land change needs scikit-learn: pip install 'xland[trees]'") from error
    trees = HistGradientBoostingClassifier(random_state=seed, early_stopping=False)
    regression = make_pipeline(StandardScaler(), LogisticRegression(C=_INVERSE_PENALTY, max_iter=300))
    return trees, regression


def _check_static(
    static: Mapping[str, NDArray[Any]], fields: Sequence[str], codes: NDArray[np.uint8]
) -> dict[str, NDArray[np.float32]]:
    """Return the fields in their order, 0 in the ocean."""
    missing = [name for name in fields if name not in static]
    if missing:
        raise StaticError(f"the model learned from {', '.join(missing)}, too; pass all of {', '.join(fields)}")
    land = codes != OCEAN
    found = {}
    for name in fields:
        values = np.asarray(static[name], dtype=np.float32)
        if values.shape != codes.shape:
            raise StaticError(f"{name} has the shape {values.shape}, the map {codes.shape}; bring it to the same grid")
        gaps = land & ~np.isfinite(values)
        if gaps.any():
            row, column = np.argwhere(gaps)[0].tolist()
            raise StaticError(
                f"{name} is not finite in {gaps.sum()} land pixels, the first in row {row} and column {column}; fill "
                "it, or mark these pixels as ocean"
            )
        found[name] = np.where(land, values, np.float32(0))
    return found


def _classes_of(codes: NDArray[np.uint8]) -> tuple[int, ...]:
    return tuple(int(code) for code in np.unique(codes) if code != OCEAN)


def _names(codes: Sequence[int]) -> str:
    return ", ".join(CLASS_NAMES[code] for code in codes)
