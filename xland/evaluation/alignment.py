"""Bring two maps of class codes onto the same cells and the same years, by label and without reading.

Everything is said in the frame of the observed map: an :class:`Overlap` holds the rows and columns
of both maps that show the same places, whatever part of the globe each of them covers.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from xland.errors import GridError, RegionError, TimeError
from xland.reader import ClassMap

OFF_LATTICE = 0.05
"""Share of a cell by which two grids may be apart and still count as the same cells."""


@dataclass(frozen=True)
class Overlap:
    """The rows and columns of two maps that show the same places."""

    rows: slice
    columns: slice
    predicted_rows: slice
    predicted_columns: slice


def pair_years(predicted: ClassMap, observed: ClassMap, *, match_years: bool) -> list[tuple[int, int]]:
    """Return the positions in time, predicted and observed, that belong together.

    Two maps of one step each are compared even if their years differ, unless ``match_years``;
    otherwise the years that both have.

    Raises
    ------
    TimeError
        If no step of one belongs to a step of the other.
    """
    if len(predicted.years) == len(observed.years) == 1 and (
        not match_years or None in predicted.years + observed.years
    ):
        return [(0, 0)]
    if None in predicted.years or None in observed.years:
        raise TimeError("maps of several time steps need calendar years along `time` to be compared")
    common = [year for year in predicted.years if year in observed.years]
    if not common:
        hint = "pass match_years=False to compare them all the same" if match_years else "select one step of each"
        raise TimeError(
            f"the {predicted.what} ({_span(predicted.years)}) and the {observed.what} ({_span(observed.years)}) "
            f"have no year in common; {hint}"
        )
    return [(predicted.years.index(year), observed.years.index(year)) for year in common]


def _span(years: Sequence[int | None]) -> str:
    return f"{years[0]}" if len(years) == 1 else f"{len(years)} years, {years[0]} to {years[-1]}"


def overlaps(predicted: ClassMap, observed: ClassMap) -> list[Overlap]:
    """Return where two maps show the same cells: one piece, or two if one of them passes the date line.

    Raises
    ------
    GridError
        If the cells differ in size or do not coincide.
    RegionError
        If the maps have no cell in common.
    """
    fine, reference = predicted.grid, observed.grid
    size = reference.resolution
    longest = max(*fine.shape, *reference.shape)
    if abs(fine.resolution / size - 1) * longest > OFF_LATTICE:
        raise GridError(
            f"the {predicted.what} has cells of {fine.resolution:g} degrees and the {observed.what} of {size:g}; "
            "aggregate or regrid one of them first"
        )
    down = _whole((reference.north - fine.north) / size, "latitude", predicted, observed)
    right = _whole((fine.west - reference.west) / size, "longitude", predicted, observed)
    top, bottom = max(0, down), min(reference.rows, down + fine.rows)
    around = round(360 / size)
    turns = (-around, 0, around) if abs(360 / size - around) < OFF_LATTICE else (0,)
    found = []
    for turn in turns:
        left, end = max(0, right + turn), min(reference.columns, right + turn + fine.columns)
        if left < end and top < bottom:
            found.append(
                Overlap(
                    slice(top, bottom),
                    slice(left, end),
                    slice(top - down, bottom - down),
                    slice(left - right - turn, end - right - turn),
                )
            )
    if not found:
        raise RegionError(
            f"the {predicted.what} ({fine}) and the {observed.what} ({reference}) have no cell in common; "
            "check the region of both"
        )
    return found


def _whole(offset: float, direction: str, predicted: ClassMap, observed: ClassMap) -> int:
    nearest = round(offset)
    if abs(offset - nearest) > OFF_LATTICE:
        raise GridError(
            f"cells of the {predicted.what} lie {abs(offset - nearest):.2f} cells beside those of the "
            f"{observed.what} in {direction}; bring one onto the other's grid by nearest neighbour first"
        )
    return nearest
