"""How far an input lies from all that a model has learned from: the dissimilarity index of its coarse cell.

After Meyer and Pebesma (2021), doi 10.1111/2041-210X.13650: the distance to the nearest training
input, divided by the mean distance of training inputs. What lies farther than the inputs of one place
usually lie from those of all other places is outside the area of applicability: the scores of a model
say nothing about it.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from xland.errors import ModelError

_AT_ONCE = 4096
"""Inputs whose distances to all prototypes are in memory at once."""


@dataclass(frozen=True, eq=False)
class Applicability:
    """Training inputs of single coarse cells that stand for all of them.

    Parameters
    ----------
    prototypes : (prototypes, channels) float32 array
        Normalised coarse channels and means of the static channels.
    typical : float
        Mean distance of two training inputs.
    threshold : float
        Largest dissimilarity within the area of applicability: what training inputs have, outliers
        aside, to those of other cells of the split.
    """

    prototypes: NDArray[np.float32]
    typical: float
    threshold: float

    def distance(self, coarse: NDArray[np.floating[Any]], static: NDArray[np.floating[Any]]) -> NDArray[np.float32]:
        """Dissimilarity index of coarse cells, ``(rows, columns)`` float32.

        Parameters
        ----------
        coarse : (coarse channels, rows, columns) array
            Normalised, as :meth:`xland.models.inputs.InputSpec.coarse_array` returns them.
        static : (static channels, rows, columns) array
            Means that :func:`static_means` returns.

        Returns
        -------
        (rows, columns) float32 array
            0 for an input that stands for those learned from, about 1 for one as far off as training inputs are from
            each other; NaN where an input is NaN, which is where there is no land.
        """
        features = cell_features(coarse, static)
        learned, given = self.prototypes.shape[1], features.shape[1]
        if given != learned:
            raise ModelError(f"the model has learned from {learned} coarse and static channels, not {given}")
        result = np.full(len(features), np.nan, dtype=np.float32)
        known = np.flatnonzero(np.isfinite(features).all(axis=1))
        there = self.prototypes.astype(np.float64)
        for start in range(0, len(known), _AT_ONCE):
            part = known[start : start + _AT_ONCE]
            here = features[part].astype(np.float64)
            squared = (here**2).sum(axis=1)[:, None] - 2 * here @ there.T + (there**2).sum(axis=1)
            result[part] = np.sqrt(np.maximum(squared.min(axis=1), 0)) / self.typical
        return result.reshape(coarse.shape[1:])


def static_means(static: NDArray[np.floating[Any]], land: NDArray[np.bool_], factor: int) -> NDArray[np.float32]:
    """Mean of static channels, ``(channels, rows, columns)``, over the land of each coarse cell; NaN without land."""
    channels, rows, columns = static.shape
    blocks = (rows // factor, factor, columns // factor, factor)
    count = land.reshape(blocks).sum(axis=(1, 3))
    means = np.full((channels, *count.shape), np.nan, dtype=np.float32)
    for mean, layer in zip(means, static, strict=True):
        total = np.where(land, layer, 0).astype(np.float32).reshape(blocks).sum(axis=(1, 3))
        np.divide(total, count, out=mean, where=count > 0)
    return means


def cell_features(coarse: NDArray[np.floating[Any]], static: NDArray[np.floating[Any]]) -> NDArray[np.float32]:
    """One row a coarse cell, ``(cells, coarse and static channels)``."""
    stacked = np.concatenate([coarse, static]).astype(np.float32, copy=False)
    return np.ascontiguousarray(stacked.reshape(len(stacked), -1).T)
