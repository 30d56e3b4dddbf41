"""Kappa simulation: agreement about change beyond what the transitions alone would bring."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

_ROUNDING = 1e-12
"""Share of the map below which a difference is rounding and a score has no denominator."""


@dataclass(frozen=True)
class KappaSimulation:
    """Kappa simulation and its two factors; NaN where not defined.

    Parameters
    ----------
    kappa : float
        1 for a perfect prediction, 0 for one as good as the same transitions at random places.
    transition : float
        Agreement of the amounts of each transition.
    transloc : float
        Agreement of the places, given the amounts.
    """

    kappa: float
    transition: float
    transloc: float


def kappa_simulation(table: NDArray[np.float64]) -> KappaSimulation:
    """Score a prediction of change by kappa simulation.

    Parameters
    ----------
    table : (classes, classes, classes) array
        Areas or counts by class in the start, the observed and the predicted map, as
        :func:`xland.evaluation.transitions.cross_tabulate` gives them.

    Returns
    -------
    KappaSimulation

    Notes
    -----
    Cohen's kappa, with chance agreement and the largest possible agreement taken within each class of
    the start map. A prediction that changes nothing has kappa 0 if there was change; where neither map
    leaves room for chance (no change in both, or all of every class to one other) it is not defined.

    Sources
    -------
    Van Vliet, Bregt and Hagen-Zanker (2011), doi 10.1016/j.ecolmodel.2011.01.017.
    """
    total = float(table.sum())
    if total == 0:
        return KappaSimulation(math.nan, math.nan, math.nan)
    observed, predicted = table.sum(axis=2) / total, table.sum(axis=1) / total
    origin = observed.sum(axis=1, keepdims=True)
    agreement = float(np.einsum("ijj->", table)) / total
    chance = float((np.divide(observed, origin, out=np.zeros_like(observed), where=origin > 0) * predicted).sum())
    largest = float(np.minimum(observed, predicted).sum())
    return KappaSimulation(
        kappa=_ratio(agreement - chance, 1 - chance),
        transition=_ratio(largest - chance, 1 - chance),
        transloc=_ratio(agreement - chance, largest - chance),
    )


def _ratio(above: float, below: float) -> float:
    if below <= _ROUNDING:
        return math.nan
    return above / below if abs(above) > _ROUNDING else 0.0
