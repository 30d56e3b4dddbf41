"""What a field can contain: each variable, its attributes, and how it follows from the areas of classes in cells."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from xland.coupling.surface import FRAC_LUT, LUT_ATTRIBUTES, lut_of_classes
from xland.vocabulary import CLASS_NAMES, CROPLAND, FOREST, GRASS_SHRUB, OCEAN, PASTURE, URBAN, WATER, flag_attributes

Array = NDArray[Any]


@dataclass(frozen=True, eq=False)
class Shares:
    """Shares of classes in cells.

    `of_cell` (classes, ...) sums to 1, and is NaN where there is no data. `land` is all but the ocean.
    """

    of_cell: Array

    @property
    def land(self) -> Array:
        """Share of the cell that is land, inland water included."""
        return 1 - self.of_cell[OCEAN]

    def of_land(self, *codes: int) -> Array:
        """Share of the land of the cell that has one of some classes; NaN where there is no land."""
        total, land = self.of_cell[[*codes]].sum(axis=0), self.land
        # the ocean is known to rounding, less than a millionth of a cell is not land
        return np.divide(total, land, out=np.full(total.shape, np.nan), where=land > 1e-6)


@dataclass(frozen=True)
class Variable:
    """One variable of a field: its attributes, what computes it from shares, and the labels of its first dimension."""

    name: str
    compute: Callable[[Shares], Array]
    attributes: Mapping[str, Any]
    dimension: str = ""
    labels: Sequence[str] = ()
    dtype: str = "float32"
    encoding: Mapping[str, Any] = field(default_factory=dict)


def _of_land(*codes: int) -> Callable[[Shares], Array]:
    return lambda shares: shares.of_land(*codes)


def _cover(name: str, parameter: int, long_name: str, *codes: int) -> Variable:
    about = {"standard_name": "area_fraction", "long_name": long_name, "units": "1", "ecmwf_parameter": parameter}
    return Variable(name, _of_land(*codes), {**about, "comment": "share of the land of the cell"})


def _dominant(shares: Shares) -> Array:
    """Return the class with the largest share of the cell."""
    return np.nan_to_num(shares.of_cell).argmax(axis=0).astype(np.uint8)


_LAND_CLASSES = CLASS_NAMES[1:]

VARIABLES: dict[str, Variable] = {
    each.name: each
    for each in (
        Variable("land_use", _dominant, {**flag_attributes(), "comment": "class with the largest share of the cell"},
                 dtype="uint8"),
        Variable("shares", lambda shares: np.stack([shares.of_land(code) for code in range(1, len(CLASS_NAMES))]),
                 {"standard_name": "area_fraction", "long_name": "share of each class", "units": "1",
                  "comment": "share of the land of the cell"}, "class", _LAND_CLASSES),
        Variable("land_fraction", lambda shares: shares.land,
                 {"standard_name": "land_area_fraction", "long_name": "share of land, inland water included",
                  "units": "1"}),
        Variable("fraclut", lambda shares: lut_of_classes(shares.of_cell),
                 {**LUT_ATTRIBUTES, "xland_from": "map",
                  "comment": "ice is not separated from bare ground, and counts as primary and secondary land"},
                 "landUse", tuple(FRAC_LUT)),
        _cover("cvh", 28, "high vegetation cover", FOREST),
        _cover("cvl", 27, "low vegetation cover", CROPLAND, PASTURE, GRASS_SHRUB),
        _cover("cur", 229001, "urban cover", URBAN),
        Variable("cl", lambda shares: shares.of_cell[WATER],
                 {"standard_name": "area_fraction", "long_name": "lake cover", "units": "1", "ecmwf_parameter": 26,
                  "comment": "share of the whole cell"}),
    )
}  # fmt: skip
"""The variables of :meth:`xland.Emulator.field` by name."""
