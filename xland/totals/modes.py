"""The option ``totals=`` of a downscaling, and the table of its modes.

:func:`register_mode` adds a mode; ``downscale``, the accessor and the command line then know it.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from numbers import Real
from typing import Any

import numpy as np
from numpy.typing import NDArray

from xland.arguments import shown, unknown
from xland.errors import AllocationError
from xland.totals.cells import Fitted
from xland.totals.crosswalk import LUH_CROSSWALK, Crosswalk, checked_crosswalk

MOST_EXCHANGE = 1e3
"""Largest factor on the probabilities of change."""


@dataclass(frozen=True)
class Totals:
    """Coarse totals that a downscaling keeps; ``"map"`` is short for ``Totals("map")``.

    Parameters
    ----------
    mode : str
        ``"fractions"`` keeps the totals of the forcing in the probabilities: their area-weighted means in a coarse
        cell are the coarse fractions. ``"map"`` keeps them in the map, which is the most probable one with these class
        areas to within a pixel a class. ``"changes"`` applies the changes of the forcing since a base year to
        the ``prior`` map (by models that read a prior, to the map of the year before).
    crosswalk : Crosswalk
        Which states of the forcing belong to which class; by default those of LUH2 and LUH3. Variables named like a
        class are that class.
    tolerance : float
        With ``"map"``, how far the area of a class in a coarse cell may be from its total, in fine pixels from 0 to 1.
        With 0 areas are as near to the totals as whole pixels can be, which keeps sums over many cells. With 1 the most
        probable map of all that keep totals within a pixel is chosen: more of its pixels are right, but a class
        may be missing from the map if each cell has less than one pixel of it.
    exchange : float
        With ``"map"`` and a model that reads a prior map, the factor by which the probabilities of all classes but that
        of the prior map are raised, at least 1. Totals do not show changes that cancel each other in a coarse cell.
        With 1, such changes are made where they are more probable than none. Maps with more of them agree with the
        observed change more often, as the figure of merit counts it, but with the observed map less often.

    Raises
    ------
    AllocationError
        If the mode is unknown, the crosswalk is not a Crosswalk, or tolerance or exchange are outside of their limits
        or of no use.
    """

    mode: str
    crosswalk: Crosswalk = LUH_CROSSWALK
    tolerance: float = 0.0
    exchange: float = 1.0

    def __post_init__(self) -> None:
        if not isinstance(self.mode, str) or self.mode not in MODES:
            raise AllocationError(unknown("mode of totals", self.mode, MODES))
        checked_crosswalk(self.crosswalk)
        value = self.tolerance
        if isinstance(value, bool) or not isinstance(value, Real) or not 0 <= value <= 1:
            raise AllocationError(f"tolerance must be a number of fine pixels from 0 to 1, not {shown(value)}")
        if value and not MODES[self.mode].tolerant:
            ways = ", ".join(name for name, mode in MODES.items() if mode.tolerant)
            raise AllocationError(f"totals={self.mode!r} has no tolerance: leave it out, or choose from {ways}")
        object.__setattr__(self, "tolerance", float(value))
        change = self.exchange
        if isinstance(change, bool) or not isinstance(change, Real) or not 1 <= change <= MOST_EXCHANGE:
            raise AllocationError(f"exchange must be a number from 1 to {MOST_EXCHANGE:g}, not {shown(change)}")
        if change != 1 and not MODES[self.mode].tolerant:
            raise AllocationError(f"totals={self.mode!r} has no exchange: leave it out, or choose the mode 'map'")
        object.__setattr__(self, "exchange", float(change))


@dataclass(frozen=True, eq=False)
class Start:
    """What changes begin with.

    Parameters
    ----------
    targets, prior_targets : (classes, R, C) array
        Share of each class in the base year, and in the year of the prior map.
    codes, prior : (rows, columns) array of class codes
        Maps of the base year and of the adjacent year.
    """

    targets: NDArray[np.float64]
    prior_targets: NDArray[np.float64]
    codes: NDArray[np.uint8]
    prior: NDArray[np.uint8]


Fit = Callable[[NDArray[Any], NDArray[Any], NDArray[Any], NDArray[np.bool_], Totals, Start | None], Fitted]


@dataclass(frozen=True, eq=False)
class Mode:
    """A way to keep totals.

    Parameters
    ----------
    name : str
    fit : callable
        Takes probability (classes, rows, columns), targets (classes, R, C; NaN in cells without a total), area (rows,),
        valid (rows, columns), :class:`Totals` and :class:`Start` (None without `changes`), and returns
        :class:`~xland.totals.cells.Fitted`. It must not depend on other coarse cells, and be importable by Dask
        workers.
    chooses : bool
        Whether it chooses the map. Offsets of the model's decision are then in the probabilities. If not, it changes
        the probabilities, which are stored as they are: steps of 0.004 would not keep totals.
    changes : bool
        Whether it needs the map of a base year.
    tolerant : bool
        Whether it uses ``tolerance``.
    """

    name: str
    fit: Fit
    chooses: bool = True
    changes: bool = False
    tolerant: bool = False


MODES: dict[str, Mode] = {}
"""All ways by name."""


def register_mode(mode: Mode) -> Mode:
    """Add a way to keep totals; AllocationError if there is one of that name."""
    if mode.name in MODES:
        raise AllocationError(f"there is a mode {mode.name!r} already: register yours under another name")
    MODES[mode.name] = mode
    return mode


# compiled code, which takes a second and some memory to load, only where totals are kept
def _fractions(probability: Any, targets: Any, area: Any, valid: Any, *_: Any) -> Fitted:
    from xland.totals.fractions import fit_fractions

    return fit_fractions(probability, targets, area, valid)


def _map(probability: Any, targets: Any, area: Any, valid: Any, totals: Totals, _: Start | None) -> Fitted:
    from xland.totals.maps import fit_map

    return fit_map(probability, targets, area, valid, totals.tolerance)


def _changes(probability: Any, targets: Any, area: Any, valid: Any, totals: Totals, start: Start | None) -> Fitted:
    from xland.totals.changes import fit_changes

    if start is None:
        raise AllocationError("changes need the map of a base year")
    base = start.prior, targets, start.targets, start.codes
    return fit_changes(probability, *base, area, valid, totals.crosswalk, prior_targets=start.prior_targets)


register_mode(Mode("fractions", _fractions, chooses=False))
register_mode(Mode("map", _map, tolerant=True))
register_mode(Mode("changes", _changes, changes=True))
