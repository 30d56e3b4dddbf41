"""Coarse cells of a block: what they measure, and what of the totals asked for they can have."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from xland.errors import AllocationError
from xland.forcing.read import SUM_TOLERANCE

TOLERANCE = 1e-6
"""Share of a coarse cell below which a total counts as kept."""

_PLAIN: Final = ("C", "W")  # each memory layout, and what may be written to, would have loops compiled for it


@dataclass(frozen=True, eq=False)
class Fitted:
    """A block that keeps coarse totals: its probabilities or its map, and what could not be kept.

    Parameters
    ----------
    unmet : (R, C) array of float64
        Share of the cell that was asked for and could not be given, summed over classes: 0 where the
        totals are kept (in a map within a pixel), NaN where the forcing says nothing.
    values : (classes, rows, columns) array, optional
        Probabilities, float32 or float64 as they were; unchanged in pixels that are not valid and in cells of which
        the forcing says nothing.
    codes : (rows, columns) array of uint8, optional
        Positions along the axis of the classes; 0, ocean, in pixels that are not valid.
    """

    unmet: NDArray[np.float64]
    values: NDArray[Any] | None = None
    codes: NDArray[np.uint8] | None = None


class Cells:
    """A checked block that begins and ends at edges of coarse cells.

    `probability` is (classes, rows, columns); `targets` (classes, R, C) are shares of the whole cell, NaN for classes
    that share what the others leave; `area` (rows,) is that of a pixel; `valid` (rows, columns) says which pixels have
    a class. `factor` is the number of pixels along a coarse cell: it follows from the shapes. Raises AllocationError if
    shapes do not fit, targets are outside 0..1, probabilities of valid pixels are negative, all 0 or not numbers, or
    areas are not positive.
    """

    def __init__(
        self, probability: NDArray[Any], targets: NDArray[Any], area: NDArray[Any], valid: NDArray[np.bool_]
    ) -> None:
        probability = np.asarray(probability)
        kind = np.float32 if probability.dtype.kind == "f" and probability.dtype.itemsize <= 4 else np.float64
        self.probability = np.require(probability, kind, _PLAIN)
        self.valid = np.require(valid, np.bool_, _PLAIN)
        self.area = np.require(area, np.float64, _PLAIN)
        self.targets = np.require(targets, np.float64, _PLAIN)
        if self.probability.ndim != 3 or self.targets.ndim != 3 or 0 in self.targets.shape:
            raise AllocationError(
                f"probabilities have the shape {self.probability.shape} and targets {self.targets.shape}; they need "
                "the dimensions (classes, rows, columns), and at least one coarse cell"
            )
        self.factor = max(self.valid.shape[0] // self.targets.shape[1], 1) if self.valid.ndim else 1
        classes, rows, columns = len(self.probability), *(self.factor * size for size in self.targets.shape[1:])
        self._check_shape("probability", self.probability, (classes, rows, columns))
        self._check_shape("area", self.area, (rows,))
        self._check_shape("valid", self.valid, (rows, columns))
        self.check_targets(self.targets)
        if not (np.isfinite(self.area) & (self.area > 0)).all():
            raise AllocationError("areas of pixels must be positive; take them from Grid.cell_area")
        total = self.probability.sum(axis=0)
        refuse(
            self.valid & ~((total > 0) & (total < np.inf) & (self.probability.min(axis=0) >= 0)),
            "probabilities are negative, all 0 or not numbers",
            "mark pixels without a prediction as not valid",
            cells="valid pixels",
        )

    def check_targets(self, targets: NDArray[Any]) -> NDArray[np.float64]:
        """Return the shares of these cells in any year; AllocationError if their shape is wrong or they leave 0..1."""
        targets = np.require(targets, np.float64, _PLAIN)
        self._check_shape("targets", targets, (len(self.probability), *self.targets.shape[1:]))
        bad = (targets < 0) | (targets > 1 + SUM_TOLERANCE)
        some = f", such as {targets[bad][0]:.4g} of class {int(np.nonzero(bad)[0][0])}," if bad.any() else ""
        refuse(bad.any(axis=0), f"targets lie outside 0 to 1{some}", "pass shares of the whole cell")
        return targets

    def _check_shape(self, name: str, array: NDArray[Any], needed: tuple[int, ...]) -> None:
        if array.shape != needed:
            raise AllocationError(
                f"{name} has the shape {array.shape} in place of {needed}: blocks hold whole coarse cells, "
                f"here {self.targets.shape[1]} x {self.targets.shape[2]} of {self.factor} x {self.factor} pixels"
            )

    def share(self, where: NDArray[np.bool_]) -> NDArray[np.float64]:
        """Area share of chosen pixels in each coarse cell, ``(R, C)``."""
        rows, columns = self.valid.shape
        across = where.reshape(rows, columns // self.factor, self.factor).sum(axis=2, dtype=np.float64)
        area = self.area.reshape(-1, self.factor)
        weighted = (across * self.area[:, None]).reshape(-1, self.factor, across.shape[1]).sum(axis=1)
        return np.asarray(weighted / (self.factor * area.sum(axis=1))[:, None])

    def feasible(self) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        """Return the targets that the valid pixels can have, and the share (R, C) that was asked for beyond that.

        Where more is asked for than there is, all classes get less in the same proportion. A cell
        without any class that takes the rest is filled in the same proportion too, up to a thousandth; if more is
        missing, AllocationError says where. The share is NaN where the forcing says nothing.
        """
        there = self.share(self.valid)
        silent = np.isnan(self.targets).all(axis=0)
        total = np.nansum(self.targets, axis=0)
        full = ~np.isnan(self.targets).any(axis=0)
        lacking = full & (total < there - SUM_TOLERANCE)
        some = f" ({total[lacking][0]:.4g} in place of {there[lacking][0]:.4g})" if lacking.any() else ""
        fault = f"the shares of all classes sum to less than the valid pixels{some}"
        refuse(lacking, fault, "leave a class without a target that may have the rest")
        ratio = np.divide(there, total, out=np.zeros_like(total), where=total > 0)
        targets = np.where((total > there) | full, self.targets * ratio, self.targets)
        unmet = np.maximum(total - there, 0)
        unmet[unmet <= TOLERANCE] = 0
        unmet[silent] = np.nan
        return targets, unmet


def refuse(bad: Any, fault: str, remedy: str, cells: str = "coarse cells") -> None:
    """Raise an AllocationError that says in how many cells something is wrong, and where the first is."""
    if bad.any():
        row, column = (int(each[0]) for each in np.nonzero(bad))
        raise AllocationError(
            f"{fault} in {np.count_nonzero(bad)} {cells}, the first in row {row} and column {column} of the block; "
            f"{remedy}"
        )


def largest_pixel(area: NDArray[np.float64], factor: int) -> NDArray[np.float64]:
    """Share of its coarse cell that the largest pixel takes, for each coarse row; `area` is that of a pixel by row."""
    rows = area.reshape(-1, factor)
    return np.asarray(rows.max(axis=1) / rows.sum(axis=1) / factor)
