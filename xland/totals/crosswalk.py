"""Which class follows which states of a forcing, and what each coarse cell should have of it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from xland.errors import AllocationError
from xland.forcing.read import SUM_TOLERANCE
from xland.paths import local_path
from xland.reading.limits import ROUNDING
from xland.records import read_toml
from xland.totals.cells import refuse
from xland.vocabulary import CLASS_NAMES, LUH2_STATES, LUH3_STATES, OCEAN, STATE_CLASSES, WITHOUT_STATE

_OPTIONAL = frozenset(LUH3_STATES) - frozenset(LUH2_STATES)
"""States that only some forcings have."""

_SEA = CLASS_NAMES[OCEAN]
_LARGEST = 2**18


@dataclass(frozen=True)
class Crosswalk:
    """Which class each state of a forcing belongs to.

    Parameters
    ----------
    states : mapping of state name to class name
        Several states may belong to one class: their shares are added. A variable that has the name
        of a class is that class's share, whether it is listed here or not. Kept as pairs.
    remainder : tuple of str
        Classes that the forcing does not know. Together they have what the states leave of a cell;
        how they share it is up to the model. One of them that has a variable of its own name is not
        a remainder any more.
    protected : tuple of str
        Classes that do not grow with ``totals="changes"`` where the forcing says that they shrink. This has no
        effect on remainder classes.

    Raises
    ------
    AllocationError
        If a class does not exist, has a state and is called a remainder too, or entries are not names.
    """

    states: tuple[tuple[str, str], ...]
    remainder: tuple[str, ...]
    protected: tuple[str, ...]

    def __init__(
        self,
        states: Mapping[str, str] | Sequence[tuple[str, str]],
        remainder: Sequence[str] = WITHOUT_STATE,
        protected: Sequence[str] = ("forest",),
    ) -> None:
        try:
            owners = dict(states)
        except (TypeError, ValueError):
            owners = {}
        if not owners or not all(isinstance(name, str) for pair in owners.items() for name in pair):
            raise AllocationError(
                f"the crosswalk's states must map names of states to names of classes, not be {states!r}"
            )
        for which, names in (("remainder", remainder), ("protected", protected)):
            if isinstance(names, str) or not all(isinstance(name, str) for name in names):
                raise AllocationError(f"the crosswalk's `{which}` must be a list of names of classes, not {names!r}")
        object.__setattr__(self, "states", tuple(sorted(owners.items())))
        object.__setattr__(self, "remainder", tuple(remainder))
        object.__setattr__(self, "protected", tuple(protected))
        unknown = {*owners.values(), *remainder, *protected} - set(CLASS_NAMES)
        if unknown:
            raise AllocationError(
                f"the crosswalk names the unknown classes {', '.join(sorted(unknown))}; "
                f"the classes are {', '.join(CLASS_NAMES)}"
            )
        both = sorted(set(remainder) & set(owners.values()))
        if both:
            raise AllocationError(
                f"the crosswalk gives states to {', '.join(both)} and calls them remainder too; take them out of one"
            )

    def sources(self, variables: Sequence[str], classes: Sequence[str]) -> dict[str, tuple[str, ...]]:
        """Return which of the forcing's variables make up each class that is not a remainder.

        Ocean is never among them: cells outside the land of the fine grid are ocean already, so that it
        gets the area that is left by all other classes.

        Raises
        ------
        AllocationError
            If a class is without a state, a state is missing in the forcing, or a class would be counted twice.
        """
        there, owners = set(variables), dict(self.states)
        found: dict[str, tuple[str, ...]] = {}
        lost, missing = [], []
        for name in classes:
            wanted = tuple(state for state, owner in self.states if owner == name)
            if name == _SEA:
                continue
            if name in there and owners.get(name, name) != name:
                raise AllocationError(
                    f"the forcing has {name}, which the crosswalk counts as {owners[name]}: it would "
                    "count twice; give the variable another name, or leave it to its class"
                )
            if name in there and name not in wanted:
                twice = sorted(there.intersection(wanted))
                if twice:
                    raise AllocationError(
                        f"the forcing has {name} as well as its states {', '.join(twice)}, which would count twice; "
                        "drop one or the other"
                    )
                found[name] = (name,)
            elif wanted:
                found[name] = tuple(state for state in wanted if state in there)
                # a class without any state would have 0 everywhere without anyone having said so
                missing += [state for state in wanted if state not in there.union(_OPTIONAL if found[name] else ())]
            elif name not in self.remainder:
                lost.append(name)
        if missing:
            raise AllocationError(
                f"the forcing lacks {', '.join(missing)}, which the crosswalk counts; add them (0 where there are "
                "none) or pass a crosswalk without them"
            )
        if lost:
            raise AllocationError(
                f"the crosswalk leaves {', '.join(lost)} without a state; "
                "give each a state, or name it among the `remainder`"
            )
        return found


LUH_CROSSWALK = Crosswalk(STATE_CLASSES)
"""LUH2 and LUH3: bare ground, ice, inland water and ocean share what the states leave."""


def checked_crosswalk(crosswalk: Crosswalk | None) -> Crosswalk:
    """Return the crosswalk, or that of LUH2 and LUH3 for None; refuse anything else, such as a dictionary."""
    if crosswalk is None:
        return LUH_CROSSWALK
    if not isinstance(crosswalk, Crosswalk):
        raise AllocationError(
            f"the crosswalk is of type {type(crosswalk).__name__}; pass an xland.totals.crosswalk.Crosswalk, made "
            "from the class of each state: Crosswalk({'primf': 'forest', ...})"
        )
    return crosswalk


def read_crosswalk(path: str | Path) -> Crosswalk:
    """Read a crosswalk from a TOML file: a table ``states``, and lists ``remainder`` and ``protected``.

    Raises
    ------
    AllocationError
        If it cannot be read, or has other entries.
    """
    entries = read_toml(local_path(path, what="a crosswalk"), _LARGEST, AllocationError)
    try:
        return Crosswalk(**entries)
    except AllocationError as error:
        raise AllocationError(f"{path}: {error}") from error
    except (TypeError, ValueError) as error:
        raise AllocationError(
            f'{path} is not a crosswalk ({error}): it needs a table [states] of state = "class", and may have the '
            "lists remainder and protected"
        ) from error


def class_targets(
    states: Mapping[str, NDArray[Any]], crosswalk: Crosswalk, classes: Sequence[str]
) -> NDArray[np.float64]:
    """Return the share of each class in each coarse cell, as a forcing has it.

    Parameters
    ----------
    states : mapping of variable name to (R, C) array
        Shares of the whole cell, 0..1; NaN in cells of which the forcing says nothing.
    crosswalk : Crosswalk
    classes : sequence of str
        Names of the classes in the order of their codes.

    Returns
    -------
    (classes, R, C) array of float64
        NaN for classes that share what the others leave, and in cells without data.

    Raises
    ------
    AllocationError
        What :meth:`Crosswalk.sources` refuses; if shares are outside 0..1, if in a cell some states have data and
        others do not, or if shares do not sum to 1. Where there is a remainder, they may sum to less; where
        there is none, ``ocean`` counts, if it is among the states.
    """
    if not states:
        raise AllocationError("there are no states to make totals of; pass at least one variable of the forcing")
    sources = crosswalk.sources(list(states), classes)
    used = {name: np.asarray(states[name], dtype=np.float64) for names in sources.values() for name in names}
    for name, values in used.items():
        outside = (values < -ROUNDING) | (values > 1 + ROUNDING)
        refuse(outside, f"{name} lies outside 0 to 1", "pass shares of the cell")
    gaps = np.array([np.isnan(values) for values in used.values()])
    if gaps.size:
        refuse(
            gaps.any(axis=0) & ~gaps.all(axis=0),
            f"{', '.join(name for name, gap in zip(used, gaps, strict=True) if gap.any())} has no data where other "
            "states have",
            "fill what is missing, or set all states of the cell to NaN",
        )
    targets = np.full((len(classes), *next(iter(states.values())).shape), np.nan)
    for name, names in sources.items():
        targets[list(classes).index(name)] = np.sum([np.clip(used[each], 0, 1) for each in names], axis=0)
    total = np.nansum(targets, axis=0) + np.nan_to_num(states.get(_SEA, np.zeros(())))
    known = ~np.isnan(targets).all(axis=0)
    refuse(
        known & (total > 1 + SUM_TOLERANCE),
        f"the shares sum to as much as {total.max(initial=0):.4g} in place of 1",
        "check the units, and that nothing is counted twice",
    )
    if set(classes) - set(sources) <= {_SEA}:
        refuse(
            known & (total < 1 - SUM_TOLERANCE),
            f"the shares sum to as little as {total[known].min(initial=1):.4g} in place of 1",
            "pass the share of `ocean` too, or leave out a class that may have the rest",
        )
    return targets
