"""Quantity, exchange and shift: what two maps disagree about, from their confusion matrix."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from xland.errors import GridError


@dataclass(frozen=True, eq=False)
class Disagreement:
    """What two maps disagree about, for each class, in the unit of the matrix.

    Parameters
    ----------
    quantity : (classes,) array
        Difference of the two maps' totals of the class.
    exchange : (classes,) array
        Cells of the class that changed places with cells of another one, pair by pair.
    shift : (classes,) array
        The rest: the class's total stays, but it takes three or more classes to swap.

    Notes
    -----
    Every cell in disagreement belongs to two classes, so the sums over both maps are halves of the sums
    over the classes: :meth:`overall`.
    """

    quantity: NDArray[np.float64]
    exchange: NDArray[np.float64]
    shift: NDArray[np.float64]

    @property
    def allocation(self) -> NDArray[np.float64]:
        """Exchange and shift together: what is in the wrong place although the totals fit."""
        return self.exchange + self.shift

    @property
    def total(self) -> NDArray[np.float64]:
        """All disagreement in which the class takes part."""
        return self.quantity + self.allocation

    def overall(self, component: str) -> float:
        """Sum of a component over the map, with every cell counted once."""
        return float(getattr(self, component).sum()) / 2


def disagreement(matrix: NDArray[np.float64]) -> Disagreement:
    """Split the disagreement of a confusion matrix into quantity, exchange and shift.

    Parameters
    ----------
    matrix : (classes, classes) array
        Areas, counts or shares; rows of one map, columns of the other. The transposed matrix has the
        same disagreement.

    Returns
    -------
    Disagreement

    Raises
    ------
    GridError
        A matrix that is not square or holds negative or undefined numbers.

    Sources
    -------
    Quantity and allocation disagreement: Pontius and Millones (2011), doi 10.1080/01431161.2011.552923;
    exchange and shift: Pontius and Santacruz (2014), doi 10.1080/2150704X.2014.969814.
    """
    matrix = np.asarray(matrix, dtype=np.float64)
    if matrix.ndim != 2 or matrix.shape[0] != matrix.shape[1]:
        raise GridError(f"a confusion matrix is square, not of shape {matrix.shape}")
    wrong = int((~(matrix >= 0) | np.isinf(matrix)).sum())
    if wrong:
        raise GridError(f"a confusion matrix holds areas or counts; {wrong} of its numbers are negative or not finite")
    rows, columns = matrix.sum(axis=1), matrix.sum(axis=0)
    diagonal = np.diag(matrix)
    quantity = np.abs(rows - columns)
    exchange = 2 * (np.minimum(matrix, matrix.T).sum(axis=1) - diagonal)
    # a shift of zero may come out as a rounding below it
    shift = np.maximum(rows + columns - 2 * diagonal - quantity - exchange, 0.0)
    return Disagreement(quantity, exchange, shift)
