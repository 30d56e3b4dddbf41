"""Mean and standard deviation of values that come piece by piece."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray


@dataclass(frozen=True)
class Moments:
    """Count, mean and sum of squared deviations of some values.

    Two of them add up as Chan, Golub and LeVeque (1979) say, without loss where the mean is large.

    Parameters
    ----------
    count : int
    mean, squares : float
        Mean, and sum of the squares of deviations from it.
    """

    count: int = 0
    mean: float = 0.0
    squares: float = 0.0

    @classmethod
    def of(cls, values: NDArray[Any]) -> Moments:
        """Measure the values that are finite, in double precision."""
        finite = values[np.isfinite(values)].astype(np.float64)
        if not finite.size:
            return cls()
        mean = float(finite.mean())
        return cls(finite.size, mean, float(np.square(finite - mean).sum()))

    def __add__(self, other: Moments) -> Moments:
        """Moments of the values of both together."""
        count = self.count + other.count
        if not self.count or not other.count:
            return self if self.count else other
        apart = other.mean - self.mean
        mean = self.mean + apart * (other.count / count)
        return Moments(count, mean, self.squares + other.squares + apart * apart * self.count * (other.count / count))

    def __mul__(self, times: int) -> Moments:
        """Moments of the same values so many times."""
        return Moments(self.count * times, self.mean, self.squares * times)

    @property
    def normalisation(self) -> tuple[float, float]:
        """Mean and scale for a channel; (0, 1) without values, and a scale of 1 for a constant."""
        if not self.count:
            return 0.0, 1.0
        deviation = math.sqrt(self.squares / self.count)
        return self.mean, deviation if deviation > 1e-6 else 1.0
