"""Which training inputs stand for all of them, and how far apart they usually are."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.spatial.distance import cdist

from xland.batches.masking import MASKED
from xland.batches.patches import farthest_points
from xland.batches.source import Place
from xland.batches.split import CELL_COLUMNS, Part, cell_of
from xland.grid import Grid
from xland.models.applicability import Applicability, cell_features, static_means
from xland.training.material import Material

PROTOTYPES = 2048
_CELLS = 40_000
"""Training cells from which prototypes are taken."""
_PROBES = 4000
"""Training cells whose distances are measured."""
_TILE = 32
"""Coarse cells along what is read at once."""
_WHISKER = 1.5
"""How many interquartile ranges above the upper quartile the threshold lies at most, as for outliers of a boxplot."""


def fit_applicability(material: Material, seed: int = 0) -> Applicability | None:
    """Choose prototypes of the training inputs, evenly from all that there are, and measure their distances.

    Parameters
    ----------
    material : Material
    seed : int

    Returns
    -------
    Applicability or None
        None where all training cells lie in one cell of the split, or are all the same.

    Notes
    -----
    Threshold and typical distance follow Meyer and Pebesma (2021), doi 10.1111/2041-210X.13650, with the cells
    of the split as folds: the threshold is the largest dissimilarity of a training input to those of other
    folds that is no outlier.
    """
    return choose_prototypes(*training_cells(material, seed), seed)


def choose_prototypes(
    features: NDArray[np.float32], fold: NDArray[np.intp], seed: int = 0, count: int = PROTOTYPES
) -> Applicability | None:
    """Choose prototypes; see :func:`fit_applicability`.

    Parameters
    ----------
    features : (cells, channels) array
    fold : (cells,) array of int
        Cell of the split in which each lies.
    seed : int
    count : int
        Prototypes to choose at most.
    """
    random = np.random.default_rng(seed)
    chosen = random.permutation(len(features))[:_CELLS]
    # as prototypes are kept in half precision, so are distances measured
    features, fold = features[chosen].astype(np.float16).astype(np.float32), fold[chosen]
    picked = farthest_points(features.astype(np.float64), count, seed)
    probes, others = features[:_PROBES], random.permutation(len(features))[:_PROBES]
    elsewhere = fold[:_PROBES, None] != fold[None, picked]
    apart = cdist(probes, features[others])[fold[:_PROBES, None] != fold[None, others]]
    if not elsewhere.any() or not apart.any():
        return None
    typical = float(apart.mean())
    index = np.where(elsewhere, cdist(probes, features[picked]), np.inf).min(axis=1) / typical
    return Applicability(features[picked], typical, _upper_whisker(index[np.isfinite(index)]))


def training_cells(material: Material, seed: int = 0) -> tuple[NDArray[np.float32], NDArray[np.intp]]:
    """Collect the inputs of the training cells with land, each place in one year drawn at random.

    Returns
    -------
    features : (cells, coarse and static channels) array
    fold : (cells,) array of int
        Cell of the split.
    """
    source, factor = material.source, material.source.inputs.factor
    random = np.random.default_rng(seed)
    fold = _split_cells(material.grid.coarsen(factor))
    inputs = source.inputs
    features = [np.zeros((0, inputs.coarse_channels + len(inputs.static)), np.float32)]
    folds = [np.zeros(0, np.intp)]
    for rows, columns in _tiles(material.grid, _TILE * factor):
        place = Place(int(random.integers(len(source.years))), rows, columns)
        cells = place.coarse(factor)
        wanted = material.part[cells] == Part.TRAIN
        if wanted.any():
            (values,) = source.read([place])
            static = static_means(values["static"], values["target"] != MASKED, factor)
            wanted &= np.isfinite(static).all(axis=0)
            features.append(cell_features(values["coarse"], static)[wanted.ravel()])
            folds.append(fold[cells][wanted])
    return np.concatenate(features), np.concatenate(folds)


def _split_cells(grid: Grid) -> NDArray[np.intp]:
    """Return the cell of the split that each coarse cell lies in, as a number."""
    rows, _ = cell_of(grid.latitude, np.zeros(grid.rows))
    _, columns = cell_of(np.zeros(grid.columns), grid.longitude)
    return rows[:, None] * CELL_COLUMNS + columns


def _tiles(grid: Grid, size: int) -> Iterator[tuple[slice, slice]]:
    for top in range(0, grid.rows, size):
        for left in range(0, grid.columns, size):
            yield slice(top, min(top + size, grid.rows)), slice(left, min(left + size, grid.columns))


def _upper_whisker(values: NDArray[Any]) -> float:
    """Largest value that is no outlier of a boxplot."""
    lower, upper = np.quantile(values, [0.25, 0.75])
    return float(values[values <= upper + _WHISKER * (upper - lower)].max())
