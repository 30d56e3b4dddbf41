"""What changes from year to year in a product of several parts, and whether it jumps where the parts meet."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import Any

import dask
import numpy as np
import xarray as xr
from numpy.typing import NDArray

from xland.errors import TimeError
from xland.reading.variables import as_map, map_of
from xland.scores.counts import cross_tabulate
from xland.scores.frames import Block, common_cells
from xland.scores.measures import ROUNDING
from xland.scores.tables import Tabular, TextTable, figure
from xland.vocabulary import CLASS_NAMES, OCEAN


@dataclass(frozen=True, eq=False, repr=False)
class Seams(Tabular):
    """Change between neighbouring years of a product, at its seams and within its parts.

    Parameters
    ----------
    years : tuple of int
    sources : tuple of str
        What each year is: reconstructed, observed or projected.
    transitions : (years - 1, classes, classes) array
        Square metres from each class (rows) to each class in the next year.

    Attributes
    ----------
    changed, net : (years - 1,) arrays
        Share of the land whose class differs in the next year, and the largest change of the area of a class, as a
        share of the land.
    areas : DataArray (time, class)
        Square kilometres of each class by year, with ``source`` beside the years.
    """

    years: tuple[int, ...]
    sources: tuple[str, ...]
    transitions: NDArray[np.float64]

    @cached_property
    def changed(self) -> NDArray[np.float64]:  # noqa: D102
        return self._share(self._land.sum(axis=(1, 2)) - np.trace(self._land, axis1=1, axis2=2))

    @cached_property
    def net(self) -> NDArray[np.float64]:  # noqa: D102
        return self._share(np.abs(self._land.sum(axis=1) - self._land.sum(axis=2)).max(axis=1))

    @property
    def _land(self) -> NDArray[np.float64]:
        return self.transitions[:, 1:, 1:]

    def _share(self, area: NDArray[np.float64]) -> NDArray[np.float64]:
        return area / np.maximum(self._land.sum(axis=(1, 2)), 1)

    @property
    def areas(self) -> xr.DataArray:  # noqa: D102
        values = np.concatenate([self.transitions[:1].sum(axis=2), self.transitions.sum(axis=1)]) / 1e6
        coordinates = {"time": list(self.years), "class": list(CLASS_NAMES), "source": ("time", list(self.sources))}
        return xr.DataArray(values, coordinates, ("time", "class"), "area", {"units": "km2"})

    @property
    def places(self) -> tuple[int, ...]:
        """Positions of the years after which another part begins."""
        return tuple(at for at in range(len(self.years) - 1) if self.sources[at] != self.sources[at + 1])

    def within(self, source: str) -> NDArray[np.intp]:
        """Positions of the years of a part that are followed by another year of it."""
        same = [at for at in range(len(self.years) - 1) if self.sources[at] == self.sources[at + 1] == source]
        return np.array(same, dtype=np.intp)

    def jumps(self, place: int) -> bool:
        """Whether more land changes at a seam than in any year within the two parts that meet there."""
        most = [self.changed[self.within(source)].max(initial=0) for source in self.sources[place : place + 2]]
        return bool(self.changed[place] > max(most) + ROUNDING)

    @property
    def ok(self) -> bool:
        """Whether nothing jumps."""
        return not any(map(self.jumps, self.places))

    def to_dict(self) -> dict[str, Any]:
        """Return plain numbers for JSON."""
        pairs = zip(self.years[1:], self.sources[1:], self.changed.tolist(), self.net.tolist(), strict=True)
        names = ("year", "source", "changed", "net")
        seams = [{"year": self.years[at + 1], "jumps": self.jumps(at)} for at in self.places]
        return {"ok": self.ok, "seams": seams, "years": [dict(zip(names, each, strict=True)) for each in pairs]}

    def _tables(self) -> list[TextTable]:
        rows = []
        for source in dict.fromkeys(self.sources):
            if len(own := self.within(source)):
                values = [
                    figure(100 * float(f(each[own])), 2)
                    for each in (self.changed, self.net)
                    for f in (np.median, np.max)
                ]
                rows.append([source, f"{self.years[own[0]]} to {self.years[own[-1] + 1]}", *values, ""])
        for at in self.places:
            one = [figure(100 * float(each[at]), 2) for each in (self.changed, self.net)]
            verdict = "JUMPS" if self.jumps(at) else "no jump"
            rows.append(["seam", f"{self.years[at]} to {self.years[at + 1]}", "", one[0], "", one[1], verdict])
        header = ["part", "years", "change", "largest", "class area", "largest", "at the seam"]
        title = "change from year to year, in % of the land: median and largest,\nof cells and of a class area"
        return [(title, header, rows)]


def check_seams(product: xr.Dataset | xr.DataArray) -> Seams:
    """Compare the change at the seams of a product with that within its parts.

    Parameters
    ----------
    product : Dataset or DataArray
        As :func:`xland.reconstruct` returns it, one scenario, with ``source`` along time. Each block is read once.

    Returns
    -------
    Seams
        Print it for a table.

    Raises
    ------
    TimeError
        If the maps do not say their years and sources, or there are fewer than two years.
    """
    maps = map_of(product, "product")
    found = as_map(maps, what="product")
    if "source" not in maps.coords or None in found.years or len(found.years) < 2:
        raise TimeError("the product needs years, at least two, and source along them: give one made by reconstruct")
    flags = str(maps["source"].attrs.get("flag_meanings", "")).split() or ["0", "1", "2"]
    sources = tuple(flags[int(code)] for code in maps["source"].values)
    cells = common_cells([found], found, None)
    steps = range(len(found.years) - 1)
    blocks = dask.compute([cells.each_block(_transitions, [(found, step), (found, step + 1)]) for step in steps])[0]
    tables = np.stack([np.sum(list(each.ravel()), axis=0) for each in blocks])
    return Seams(tuple(int(year or 0) for year in found.years), sources, tables)


def _transitions(block: Block, first: NDArray[np.uint8], second: NDArray[np.uint8]) -> NDArray[np.float64]:
    both = block.counted & (first != OCEAN) & (second != OCEAN)
    return cross_tabulate([first, second], both, block.area)
