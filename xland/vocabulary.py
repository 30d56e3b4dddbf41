"""Land-use classes, states and codes: the tables that every other module speaks in.

Sources
-------
Classes and HILDA+ codes: Winkler et al. (2021), doi 10.1038/s41467-021-22702-2, and the grouping
into eight classes of AI4Land (arXiv 2606.11793). LUH2 states: Hurtt et al. (2020),
doi 10.5194/gmd-13-5425-2020. IGBP legend: MCD12C1 user guide (Sulla-Menashe and Friedl, 2018).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any

import numpy as np
from numpy.typing import NDArray

from xland.errors import VocabularyError, XlandError


@dataclass(frozen=True)
class LandUseClass:
    """One class of the high-resolution maps."""

    code: int
    name: str
    long_name: str
    color: str


CLASSES: tuple[LandUseClass, ...] = (
    LandUseClass(0, "ocean", "ocean or no data", "#e2f1fe"),
    LandUseClass(1, "urban", "urban", "#c30227"),
    LandUseClass(2, "cropland", "cropland", "#e8b53a"),
    LandUseClass(3, "pasture", "pasture and rangeland", "#b8d284"),
    LandUseClass(4, "forest", "forest", "#06580e"),
    LandUseClass(5, "grass_shrub", "unmanaged grass and shrubland", "#a58a5c"),
    LandUseClass(6, "other", "sparse vegetation, bare ground, snow and ice", "#ddccbe"),
    LandUseClass(7, "water", "inland water", "#3f7fbf"),
)
"""The classes in the order of their codes: their number is said here alone.

Their colours are told apart by readers who see no red, no green or no blue: simulated after Machado et al.
(2009), doi 10.1109/TVCG.2009.113, any two differ by 20, 20 and 16 CIELAB units, where about 2 can be seen.
"""

OCEAN, URBAN, CROPLAND, PASTURE, FOREST, GRASS_SHRUB, OTHER, WATER = (c.code for c in CLASSES)
CLASS_NAMES: tuple[str, ...] = tuple(c.name for c in CLASSES)
LAND_CLASSES: tuple[int, ...] = (URBAN, CROPLAND, PASTURE, FOREST, GRASS_SHRUB, OTHER)
"""Classes that count as land in scores: neither ocean nor inland water."""


LUH2_STATES: tuple[str, ...] = (
    "primf", "primn", "secdf", "secdn", "pastr", "range",
    "urban", "c3ann", "c3per", "c4ann", "c4per", "c3nfx",
)  # fmt: skip
"""The twelve land-use states of LUH2 v2h and its future files: fractions of the grid cell."""

LUH3_STATES: tuple[str, ...] = (*LUH2_STATES, "pltns")
"""LUH3 adds a thirteenth state, managed tree plantations (``pltns``)."""

LUH_SECONDARY: Mapping[str, str] = MappingProxyType({"secma": "years", "secmb": "kg m-2"})
"""Mean age and biomass carbon density of secondary land: optional, not part of the cell's total."""

CROP_STATES: tuple[str, ...] = ("c3ann", "c3per", "c4ann", "c4per", "c3nfx")

STATE_CLASSES: Mapping[str, str] = MappingProxyType({
    "primf": "forest", "secdf": "forest", "pltns": "forest",
    "primn": "grass_shrub", "secdn": "grass_shrub",
    "pastr": "pasture", "range": "pasture",
    "urban": "urban",
    **dict.fromkeys(CROP_STATES, "cropland"),
})  # fmt: skip
"""Crosswalk from LUH states to classes."""

WITHOUT_STATE: tuple[str, ...] = tuple(name for name in CLASS_NAMES if name not in STATE_CLASSES.values())
"""Classes that LUH does not know: bare ground, and water within a cell."""


HILDA_BASE: Mapping[int, str] = MappingProxyType({
    0: "ocean", 99: "ocean", 11: "urban", 22: "cropland", 33: "pasture", 44: "forest",
    55: "grass_shrub", 66: "other", 77: "water",
})  # fmt: skip
"""HILDA+ base product: 44 is all forest."""

HILDA_FOREST: Mapping[int, str] = MappingProxyType({
    **HILDA_BASE,
    **dict.fromkeys((40, 41, 42, 43, 44, 45), "forest"),
})  # fmt: skip
"""HILDA+ ``-f`` product: 40 forest of unknown type, 41 evergreen needleleaf, 42 evergreen
broadleaf, 43 deciduous needleleaf, 44 deciduous broadleaf, 45 mixed forest."""

HILDA_FOREST_TYPES: Mapping[int, str] = MappingProxyType({
    40: "unknown or other forest", 41: "evergreen needleleaf forest", 42: "evergreen broadleaf forest",
    43: "deciduous needleleaf forest", 44: "deciduous broadleaf forest", 45: "mixed forest",
})  # fmt: skip

IGBP_NAMES: Mapping[int, str] = MappingProxyType({
    0: "water bodies", 1: "evergreen needleleaf forest", 2: "evergreen broadleaf forest",
    3: "deciduous needleleaf forest", 4: "deciduous broadleaf forest", 5: "mixed forest",
    6: "closed shrubland", 7: "open shrubland", 8: "woody savanna", 9: "savanna", 10: "grassland",
    11: "permanent wetland", 12: "cropland", 13: "urban and built-up",
    14: "cropland and natural vegetation mosaic", 15: "permanent snow and ice", 16: "barren",
})  # fmt: skip

IGBP: Mapping[int, str] = MappingProxyType({
    0: "water", **dict.fromkeys((1, 2, 3, 4, 5, 8), "forest"), **dict.fromkeys((6, 7, 9, 11), "grass_shrub"),
    10: "pasture", 12: "cropland", 14: "cropland", 13: "urban", 15: "other", 16: "other",
})  # fmt: skip
"""IGBP legend as MCD12C1 codes it (0 is water). Woody savanna has 30-60 % tree cover and counts as
forest; grassland stands for pasture and rangeland, as LUH2 does; a satellite cannot see grazing."""

WRF_MODIS: Mapping[int, str] = MappingProxyType({
    **{code: name for code, name in IGBP.items() if code},
    17: "water", 18: "grass_shrub", 19: "grass_shrub", 20: "other", 21: "water",
})  # fmt: skip
"""Modified IGBP legend of MODIS in WRF and Noah: 17 is water, 18 to 20 are wooded, mixed and bare tundra, 21 lakes."""

WRF_USGS: Mapping[int, str] = MappingProxyType({
    1: "urban", **dict.fromkeys((2, 3, 4, 5, 6), "cropland"), 7: "pasture",
    **dict.fromkeys((8, 9, 10, 17, 20, 21, 22), "grass_shrub"), **dict.fromkeys((11, 12, 13, 14, 15, 18), "forest"),
    16: "water", 19: "other", 23: "other", 24: "other",
})  # fmt: skip
"""Legend of 24 categories of USGS in WRF; mosaics of crops with grass or wood count as cropland."""


_BYTE, _UNKNOWN = 256, 255


def class_code(name: str) -> int:
    """Code of a class by its name; :class:`VocabularyError` names the known ones."""
    try:
        return CLASS_NAMES.index(name)
    except ValueError:
        raise VocabularyError(f"unknown land-use class {name!r}; the classes are {', '.join(CLASS_NAMES)}") from None


def translate(codes: NDArray[Any], table: Mapping[int, str], *, what: str = "map") -> NDArray[np.uint8]:
    """Translate an array of source codes into class codes.

    Parameters
    ----------
    codes : array of integers, any shape
        For example IGBP or HILDA+ codes.
    table : mapping of int to class name
        One of the code tables of this module.
    what : str
        What the array is, for the message of the error.

    Returns
    -------
    array of uint8, same shape
        Class codes, from 0 to one less than the number of classes.

    Raises
    ------
    VocabularyError
        Codes that the table does not know, with the number of cells of each.
    """
    codes = np.asarray(codes)
    if codes.dtype.kind == "f":
        if not (np.isfinite(codes) & (codes == np.trunc(codes))).all():
            raise VocabularyError(f"{what}: codes must be whole numbers; found fractions, NaN or infinity")
        codes = codes.astype(np.int64)
    if codes.dtype.kind not in "iu":
        raise VocabularyError(f"{what}: codes must be integers, not {codes.dtype}")
    known = np.array(sorted(table), dtype=np.int64)
    meant = np.array([class_code(table[code]) for code in known.tolist()], dtype=np.uint8)
    if known.size and known[0] >= 0 and known[-1] < _BYTE:  # one look a cell, where codes are those of most legends
        lookup = np.full(_BYTE + 1, _UNKNOWN, dtype=np.uint8)
        lookup[known] = meant
        inside = codes if codes.dtype == np.uint8 else np.where((codes >= 0) & (codes < _BYTE), codes, _BYTE)
        classes = lookup[inside]
    else:
        at = np.minimum(np.searchsorted(known, codes), max(known.size - 1, 0))
        found = known[at] == codes if known.size else np.zeros(codes.shape, dtype=np.bool_)
        classes = np.where(found, meant[at] if known.size else np.uint8(0), np.uint8(_UNKNOWN))
    unknown = classes == _UNKNOWN
    if unknown.any():
        values, counts = np.unique(codes[unknown], return_counts=True)
        listed = ", ".join(f"{v} ({n} cells)" for v, n in zip(values[:8], counts[:8], strict=True))
        there = ", ".join(str(code) for code in sorted(table))
        raise VocabularyError(f"{what}: unknown codes {listed}; known codes are {there}")
    return classes


def check_codes(
    codes: NDArray[Any],
    *,
    what: str,
    latitude: NDArray[Any] | None = None,
    longitude: NDArray[Any] | None = None,
    remedy: str = "translate other legends with xland.vocabulary.translate",
    classes: int = len(CLASSES),
    hidden: int | None = None,
    error: type[XlandError] = VocabularyError,
) -> NDArray[np.uint8]:
    """Return class codes as uint8, or raise `error`, which says which codes are unknown, how many and where.

    `codes` (..., rows, columns) are whole numbers, also as floats. `hidden` is a further code, of what does not count.
    """
    codes = np.asarray(codes)
    if codes.dtype.kind not in "iufb":
        raise error(f"the {what} holds {codes.dtype} values; class codes are whole numbers from 0 to {classes - 1}")
    bad = codes >= classes
    if codes.dtype.kind != "u":
        bad |= codes < 0
    if codes.dtype.kind == "f":
        bad |= ~(codes == np.trunc(codes))
    if hidden is not None:
        bad &= codes != hidden
    if not bad.any():
        return codes.astype(np.uint8, copy=False)
    values, counts = np.unique(codes[bad], return_counts=True)
    listed = ", ".join(f"{value:g} ({count} cells)" for value, count in zip(values[:6], counts[:6], strict=True))
    more = f" and {values.size - 6} others ({int(counts[6:].sum())} cells)" if values.size > 6 else ""
    place = ""
    if latitude is not None and longitude is not None:
        row, column = (int(index[0]) for index in np.nonzero(bad)[-2:])
        place = f", the first at {latitude[row]:g} N, {longitude[column]:g} E"
    also = "" if hidden is None else f", {hidden} for what does not count"
    raise error(
        f"the {what} holds unknown class codes {listed}{more}{place}; codes are 0 to {classes - 1} with 0 for ocean "
        f"and no data{also}: {remedy}"
    )


def class_coordinates(classes: tuple[str, ...] = CLASS_NAMES) -> dict[str, Any]:
    """Coordinates of a dimension ``class``: the codes, which all tools read, and ``class_name`` beside them."""
    codes = np.array([class_code(name) for name in classes], dtype=np.int8)
    flags = {"long_name": "land-use class", "flag_values": codes, "flag_meanings": " ".join(classes)}
    return {
        "class": ("class", codes, flags),
        "class_name": ("class", np.array(classes), {"long_name": "name of the land-use class"}),
    }


def flag_attributes(classes: tuple[str, ...] = CLASS_NAMES) -> dict[str, Any]:
    """CF attributes of a map of class codes: flag values, meanings and colours."""
    chosen = [CLASSES[class_code(name)] for name in classes]
    return {
        "long_name": "land-use class",
        "flag_values": np.array([c.code for c in chosen], dtype=np.uint8),
        "flag_meanings": " ".join(c.name for c in chosen),
        "flag_colors": " ".join(c.color for c in chosen),
    }
