"""Coarse cells of a block: what they measure, and what of the totals asked for they can hold."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from xland.errors import AllocationError
from xland.forcing.read import SUM_TOLERANCE

TOLERANCE = 1e-6
"""Share of a coarse cell below which a total counts as kept."""


@dataclass(frozen=True, eq=False)
class Cells:
    """A block that begins and ends at edges of coarse cells.

    Parameters
    ----------
    probability : (classes, rows, columns) array of float
    targets : (classes, R, C) array of float64
        Shares of the whole cell; NaN for classes that share what the others leave.
    factor : int
    area : (rows,) array of float64
        Of a pixel, in any unit.
    valid : (rows, columns) array of bool
        Pixels that have a class.
    """

    probability: NDArray[Any]
    targets: NDArray[np.float64]
    factor: int
    area: NDArray[np.float64]
    valid: NDArray[np.bool_]

    @classmethod
    def of(
        cls,
        probability: NDArray[Any],
        targets: NDArray[Any],
        factor: int,
        area: NDArray[Any],
        valid: NDArray[np.bool_],
    ) -> Cells:
        """Check that arrays belong together and hold what they should.

        Raises
        ------
        AllocationError
            Shapes that do not fit, a factor below 1; targets outside 0..1; probabilities of valid pixels that are
            no numbers, negative or all 0; areas that are not positive.
        """
        # one memory layout and two types: loops are compiled once for each
        probability, valid = np.asarray(probability), np.ascontiguousarray(valid, dtype=np.bool_)
        kind = np.float32 if probability.dtype.kind == "f" and probability.dtype.itemsize <= 4 else np.float64
        probability = np.ascontiguousarray(probability, dtype=kind)
        if probability.ndim != 3 or factor < 1:
            raise AllocationError(
                f"probabilities have the shape {probability.shape} and the factor is {factor}; they need the "
                "dimensions (classes, rows, columns), and a coarse cell one pixel or more along each side"
            )
        targets, area = (np.ascontiguousarray(each, dtype=np.float64) for each in (targets, area))
        classes, rows, columns = probability.shape
        cells = cls(probability, targets, factor, area, valid)
        cells._check_shape("targets", targets, (classes, rows // factor, columns // factor))
        cells._check_shape("area", area, (rows,))
        cells._check_shape("valid", valid, (rows, columns))
        if rows % factor or columns % factor:
            raise AllocationError(
                f"{rows} x {columns} pixels are no whole coarse cells of {factor} x {factor}; cut blocks at their edges"
            )
        if not (np.isfinite(area) & (area > 0)).all():
            raise AllocationError("areas of pixels must be positive; take them from Grid.cell_area")
        _refuse_targets(targets)
        total = probability.sum(axis=0)
        bad = valid & ~((total > 0) & (total < np.inf) & (probability.min(axis=0) >= 0))
        if bad.any():
            row, column = (int(each[0]) for each in np.nonzero(bad))
            raise AllocationError(
                f"probabilities are negative, all 0 or no numbers in {np.count_nonzero(bad)} valid pixels, the first "
                f"in row {row} and column {column} of the block; mark pixels without a prediction as not valid"
            )
        return cells

    def check_targets(self, targets: NDArray[Any]) -> NDArray[np.float64]:
        """Return shares that another year has of these cells.

        Raises
        ------
        AllocationError
            Shapes that do not fit; shares outside 0..1.
        """
        checked = np.ascontiguousarray(targets, dtype=np.float64)
        self._check_shape("targets", checked, self.targets.shape)
        _refuse_targets(checked)
        return checked

    def _check_shape(self, name: str, array: NDArray[Any], needed: tuple[int, ...]) -> None:
        if array.shape != needed:
            raise AllocationError(
                f"{name} has the shape {array.shape}; {needed} belongs to probabilities of the shape "
                f"{self.probability.shape} with {self.factor} x {self.factor} pixels in a coarse cell"
            )

    @property
    def valid_share(self) -> NDArray[np.float64]:
        """Area share of the pixels of each coarse cell that have a class, ``(R, C)``."""
        return self.share(self.valid)

    def share(self, where: NDArray[np.bool_]) -> NDArray[np.float64]:
        """Area share of chosen pixels in each coarse cell, ``(R, C)``."""
        rows, columns = self.valid.shape
        across = where.reshape(rows, columns // self.factor, self.factor).sum(axis=2, dtype=np.float64)
        area = self.area.reshape(-1, self.factor)
        weighted = (across * self.area[:, None]).reshape(-1, self.factor, across.shape[1]).sum(axis=1)
        return np.asarray(weighted / (self.factor * area.sum(axis=1))[:, None])

    def feasible(self) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        """Targets that the valid pixels can hold, and the share of the cell that was asked for beyond that.

        Where more is asked for than there is, all classes get less in the same proportion. A cell
        without any class that takes the rest is filled in the same proportion, too, up to a thousandth.

        Returns
        -------
        targets : (classes, R, C) array
        unmet : (R, C) array
            0 where nothing is; NaN where the forcing says nothing.

        Raises
        ------
        AllocationError
            Less asked for than there are valid pixels, and no class for the rest.
        """
        there = self.valid_share
        silent = np.isnan(self.targets).all(axis=0)
        total = np.nansum(self.targets, axis=0)
        full = ~np.isnan(self.targets).any(axis=0)
        lacking = full & (total < there - SUM_TOLERANCE)
        if lacking.any():
            row, column = (int(each[0]) for each in np.nonzero(lacking))
            raise AllocationError(
                f"the shares of all classes sum to less than the valid pixels in {np.count_nonzero(lacking)} coarse "
                f"cells, the first in row {row} and column {column} of the block ({total[row, column]:.4g} in place of "
                f"{there[row, column]:.4g}); leave a class without a target that may have the rest"
            )
        scaled = (total > there) | full
        ratio = np.divide(there, total, out=np.zeros_like(total), where=total > 0)
        targets = np.where(scaled, self.targets * ratio, self.targets)
        unmet = np.maximum(total - there, 0)
        unmet[unmet <= TOLERANCE] = 0
        unmet[silent] = np.nan
        return targets, unmet


def largest_pixel(area: NDArray[np.float64], factor: int) -> NDArray[np.float64]:
    """Share of its coarse cell that the largest pixel takes, for each coarse row.

    Parameters
    ----------
    area : (rows,) array
        Of the pixels of each row, in any unit.
    factor : int
        Pixels along a coarse cell.
    """
    rows = area.reshape(-1, factor)
    return np.asarray(rows.max(axis=1) / rows.sum(axis=1) / factor)


def _refuse_targets(targets: NDArray[np.float64]) -> None:
    bad = (targets < 0) | (targets > 1 + SUM_TOLERANCE)
    if bad.any():
        number, row, column = (int(each[0]) for each in np.nonzero(bad))
        raise AllocationError(
            f"targets lie outside 0 to 1 in {np.count_nonzero(bad.any(axis=0))} coarse cells, the first "
            f"({targets[number, row, column]:.4g}, class {number}) in row {row} and column {column} of the block; "
            "pass shares of the whole cell"
        )
