"""Surface fields that land models read, from class shares or states: fracLut, vegetation covers, PFTs, LUH-like states.

What a map of land use cannot say is not written: harvest, transitions and fertiliser.

Sources
-------
fracLut: LUMIP, Lawrence et al. (2016), doi 10.5194/gmd-9-2973-2016: primary and secondary land, pastures (managed
pasture and rangeland), crops, urban, in per cent of the grid cell; inland water and ice belong to none.
Plant functional types: Poulter et al. (2015), doi 10.5194/gmd-8-2315-2015, Table 2.
Covers: ECMWF parameters 26 to 28 and 229001.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from types import MappingProxyType
from typing import Any

import numpy as np
import xarray as xr
from numpy.typing import NDArray

from xland.errors import ForcingError, VocabularyError
from xland.forcing.read import read_forcing
from xland.geo.orientation import restore
from xland.vocabulary import (
    CLASS_NAMES,
    CROP_STATES,
    CROPLAND,
    FOREST,
    GRASS_SHRUB,
    OCEAN,
    OTHER,
    PASTURE,
    STATE_CLASSES,
    URBAN,
    WATER,
)

FRAC_LUT: Mapping[str, tuple[str, ...]] = MappingProxyType({
    "primary_and_secondary_land": ("primf", "primn", "secdf", "secdn"),
    "pastures": ("pastr", "range"),
    "crops": CROP_STATES,
    "urban": ("urban",),
})  # fmt: skip
"""Tiles of LUMIP's fracLut, and the states of LUH that they are the sum of."""

ZONES: tuple[str, ...] = ("unknown", "tropical", "arid", "temperate", "cold", "polar")
"""Climate zones by their number, as :func:`xland.datasets.koppen` has them."""

LEAF_TYPES: tuple[str, ...] = (
    "unknown", "evergreen_needleleaf", "evergreen_broadleaf", "deciduous_needleleaf", "deciduous_broadleaf", "mixed",
)  # fmt: skip
"""Leaf types of forest by their number: IGBP 1 to 5, and HILDA+ 41 to 45."""

PFTS: tuple[str, ...] = (
    "tree_broadleaf_evergreen", "tree_broadleaf_deciduous", "tree_needleleaf_evergreen", "tree_needleleaf_deciduous",
    "shrub_and_natural_grass", "managed_grass", "pasture_grass", "bare", "urban", "water",
)  # fmt: skip
"""Plant functional types and what is not vegetated. Shrubs and grass are one: the classes do not separate them."""

_FOREST = {
    "evergreen_broadleaf": (90, 0, 0, 0, 10, 0, 0, 0, 0, 0),  # class 50
    "deciduous_broadleaf": (0, 70, 0, 0, 30, 0, 0, 0, 0, 0),  # class 60
    "evergreen_needleleaf": (0, 0, 70, 0, 30, 0, 0, 0, 0, 0),  # class 70
    "deciduous_needleleaf": (0, 0, 0, 70, 30, 0, 0, 0, 0, 0),  # class 80
    "mixed": (0, 30, 20, 10, 30, 0, 0, 10, 0, 0),  # class 90
}
"""Per cent of each PFT in forest of a leaf type: Poulter et al. (2015), Table 2, rows of the classes of ESA CCI named;
shrubs and natural grass added up."""

_ZONE_LEAVES = MappingProxyType({
    "unknown": "mixed", "tropical": "evergreen_broadleaf", "arid": "deciduous_broadleaf", "temperate": "mixed",
    "cold": "evergreen_needleleaf", "polar": "evergreen_needleleaf",
})  # fmt: skip
"""Leaf type that a climate zone stands for where none is observed: a choice of xland, and a fallback."""

_WITHOUT_TREES = {
    URBAN: (0, 2.5, 2.5, 0, 15, 0, 0, 0, 75, 5),  # class 190
    CROPLAND: (0, 0, 0, 0, 0, 100, 0, 0, 0, 0),  # class 10
    PASTURE: (0, 0, 0, 0, 0, 0, 100, 0, 0, 0),  # a class of its own: ESA CCI has no grazing
    GRASS_SHRUB: (0, 0, 0, 0, 60, 0, 0, 40, 0, 0),  # class 130
    OTHER: (0, 0, 0, 0, 0, 0, 0, 100, 0, 0),  # class 200
    WATER: (0, 0, 0, 0, 0, 0, 0, 0, 0, 100),  # class 210
}
"""Per cent of each PFT in other classes of xland: rows of the same table for the classes of ESA CCI named."""

DECIDED = ("none", "leaf_type", "climate_zone")
"""What decided which trees there are, by number."""


def frac_lut(ds: xr.Dataset) -> xr.Dataset:
    """LUMIP's fracLut from the states of a forcing: exact, and as coarse as the forcing.

    Parameters
    ----------
    ds : Dataset
        LUH2 or LUH3 states as released.

    Returns
    -------
    Dataset
        ``fracLut`` (landUse, and the dimensions of the forcing), per cent of the grid cell, float32, lazy; NaN where
        the forcing has no data. Of managed plantations (``pltns``, LUH3) LUMIP says nothing: they are left out.

    Raises
    ------
    ForcingError
        If a state is missing, or what :func:`xland.forcing.read.read_forcing` refuses.
    """
    forcing = read_forcing(ds)
    tiles = [sum((forcing.data[state] for state in states), start=xr.zeros_like(forcing.data["primf"]))
             for states in FRAC_LUT.values()]  # fmt: skip
    array = (100 * xr.concat(tiles, "landUse")).astype(np.float32)
    named = array.assign_coords(landUse=list(FRAC_LUT)).rename("fracLut")
    found = named.transpose("time", "landUse", "lat", "lon").to_dataset()
    found["fracLut"].attrs = {**LUT_ATTRIBUTES, "xland_from": "states"}
    return restore(found, forcing.orientation)


LUT_ATTRIBUTES: Mapping[str, str] = MappingProxyType({
    "standard_name": "area_fraction",
    "long_name": "share of the grid cell for each land-use tile",
    "units": "%",
})  # fmt: skip


def lut_of_classes(shares: NDArray[Any], ice: NDArray[Any] | float = 0.0) -> NDArray[np.float32]:
    """Return LUMIP's fracLut from the shares of classes.

    Parameters
    ----------
    shares : (classes, ...) array
        Shares of the cell in the order of the class codes.
    ice : array, optional
        Share of the cell that is permanent ice. The class ``other`` does not separate bare ground from ice: what is
        not said to be ice counts as primary and secondary land.

    Returns
    -------
    (4, ...) array of float32
        Per cent of the cell, in the order of :data:`FRAC_LUT`.
    """
    natural = shares[FOREST] + shares[GRASS_SHRUB] + np.maximum(shares[OTHER] - ice, 0)
    tiles = np.stack([natural, shares[PASTURE], shares[CROPLAND], shares[URBAN]])
    return (100 * tiles).astype(np.float32)


def plant_types(
    codes: NDArray[np.integer[Any]],
    *,
    zones: NDArray[np.integer[Any]] | None = None,
    leaf_types: NDArray[np.integer[Any]] | None = None,
) -> tuple[NDArray[np.float32], NDArray[np.uint8]]:
    """Plant functional types of a map, by a published table, and what decided which trees there are.

    Parameters
    ----------
    codes : array of class codes
    zones : array, optional
        Number of the climate zone of each cell, see :data:`ZONES`: a fallback for forest without a leaf type.
    leaf_types : array, optional
        Observed leaf type of each cell, see :data:`LEAF_TYPES`; 0 where it is not known.

    Returns
    -------
    (pft, ...) array of float32, (...) array of uint8
        Per cent of the cell for each of :data:`PFTS`, sums 100, and 0 in the sea; which of :data:`DECIDED` said what
        trees there are.

    Raises
    ------
    VocabularyError
        If a code, zone or leaf type does not exist, or neither zones nor leaf types are given.
    """
    codes = np.asarray(codes)
    if zones is None and leaf_types is None:
        raise VocabularyError("the classes do not say which trees a forest has: give zones=, leaf_types=, or both")
    zone, leaf = (np.zeros(codes.shape, int) if each is None else np.asarray(each) for each in (zones, leaf_types))
    for what, values, known in (("class", codes, CLASS_NAMES), ("zone", zone, ZONES), ("leaf type", leaf, LEAF_TYPES)):
        if values.shape != codes.shape:
            raise VocabularyError(f"{what}: has the shape {values.shape}, and the map {codes.shape}")
        wrong = (values < 0) | (values >= len(known))
        if wrong.any():
            raise VocabularyError(f"{what}: {int(wrong.sum())} cells have numbers that are not 0 to {len(known) - 1}")
    by_zone = np.array([LEAF_TYPES.index(_ZONE_LEAVES[each]) for each in ZONES])
    kind = np.where(leaf > 0, leaf, by_zone[zone])
    table = np.zeros((len(CLASS_NAMES), len(LEAF_TYPES), len(PFTS)), np.float32)
    for code, row in _WITHOUT_TREES.items():
        table[code] = row
    for number, name in enumerate(LEAF_TYPES[1:], 1):
        table[FOREST, number] = _FOREST[name]
    decided = np.where(codes == FOREST, np.where(leaf > 0, 1, 2), 0).astype(np.uint8)
    return np.moveaxis(table[codes, kind], -1, 0), decided


def fine_states(shares: Mapping[str, NDArray[Any]], coarse: Mapping[str, NDArray[Any]]) -> dict[str, NDArray[Any]]:
    """Divide the share of each class among its LUH states, as the coarse cell divides them.

    The splits of crops, and of primary and secondary land, are those of the coarse cell, and not fine information.
    The states of a class add up to its share, so that the area of each class is kept.

    Parameters
    ----------
    shares : mapping of class name to array
        Fine shares, or 0 and 1 of a map.
    coarse : mapping of state to array
        States of the coarse cell around each fine cell, same shapes.

    Returns
    -------
    dict of state to array of float32
        Where the coarse cell has nothing of a class, the whole share is secondary forest, secondary non-forest land,
        pasture, annual C3 crops or urban land.
    """
    usual = {"forest": "secdf", "grass_shrub": "secdn", "pasture": "pastr", "cropland": "c3ann", "urban": "urban"}
    missing = [state for state in STATE_CLASSES if state not in coarse and state != "pltns"]
    if missing:
        raise ForcingError(f"the coarse states lack {', '.join(missing)}; add them, with 0 where there are none")
    found = {}
    for name, first in usual.items():
        states = [state for state, owner in STATE_CLASSES.items() if owner == name and state in coarse]
        parts = {state: np.nan_to_num(np.asarray(coarse[state], np.float64)) for state in states}
        total = np.sum([*parts.values()], axis=0)
        for state, part in parts.items():
            split = np.divide(part, total, out=np.full(total.shape, float(state == first)), where=total > 0)
            found[state] = (shares[name] * split).astype(np.float32)
    return found


CLM_PFTS: tuple[str, ...] = (
    "bare", "needleleaf_evergreen_temperate", "needleleaf_evergreen_boreal", "needleleaf_deciduous_boreal",
    "broadleaf_evergreen_tropical", "broadleaf_evergreen_temperate", "broadleaf_deciduous_tropical",
    "broadleaf_deciduous_temperate", "broadleaf_deciduous_boreal", "shrub_broadleaf_evergreen",
    "shrub_broadleaf_deciduous_temperate", "shrub_broadleaf_deciduous_boreal", "c3_arctic_grass", "c3_grass",
    "c4_grass",
)  # fmt: skip
"""Natural PFTs of CTSM in their order."""

_CLM_TREES: Mapping[str, tuple[int, int, int, int]] = {
    # broadleaf evergreen, broadleaf deciduous, needleleaf evergreen, needleleaf deciduous
    "tropical": (4, 6, 1, 3), "arid": (4, 6, 1, 3), "temperate": (5, 7, 1, 3), "cold": (5, 8, 2, 3),
    "polar": (5, 8, 2, 3), "unknown": (5, 7, 1, 3),
}  # fmt: skip
_CLM_GRASS = {"tropical": 14, "arid": 14, "temperate": 13, "cold": 13, "polar": 12, "unknown": 13}


def ctsm_raw(
    codes: NDArray[np.integer[Any]],
    zones: NDArray[np.integer[Any]],
    lat: Sequence[float],
    lon: Sequence[float],
    *,
    leaf_types: NDArray[np.integer[Any]] | None = None,
) -> xr.Dataset:
    """Raw data like those that CTSM's ``mksurfdata_esmf`` reads, from a map. Experimental.

    The climate zone chooses the tropical, temperate or boreal form of a tree, and arctic, C3 or C4 grass. Shrubs are
    counted as grass, crops are not divided into crop types, and glaciers are counted as bare ground: the classes do not
    separate them.

    Parameters
    ----------
    codes, zones : (lat, lon) array
    lat, lon : sequence of float
        Degrees of the cell centres.
    leaf_types : (lat, lon) array, optional

    Returns
    -------
    Dataset
        ``PCT_NATVEG``, ``PCT_CROP``, ``PCT_URBAN``, ``PCT_LAKE``: per cent of the land of the cell, sum 100;
        ``PCT_NAT_PFT`` (natpft, lat, lon): per cent of the natural vegetation, sum 100; ``LANDMASK``, ``LANDFRAC``.
    """
    types, _ = plant_types(codes, zones=zones, leaf_types=leaf_types)
    codes, zone = np.asarray(codes), np.asarray(zones)
    land, cells = codes != OCEAN, {name: number for number, name in enumerate(PFTS)}
    natural = np.zeros((len(CLM_PFTS), *codes.shape), np.float32)
    for number, name in enumerate(ZONES):
        here = (zone == number) & ~np.isin(codes, (CROPLAND, URBAN, WATER, OCEAN))
        for source, target in enumerate(_CLM_TREES[name]):
            natural[target] += np.where(here, types[source], 0)
        grass = types[cells["shrub_and_natural_grass"]] + types[cells["pasture_grass"]]
        natural[_CLM_GRASS[name]] += np.where(here, grass, 0)
        natural[0] += np.where(here, types[cells["bare"]], 0)
    natural[0] += np.where(natural.sum(axis=0) == 0, 100, 0)  # as CTSM has it where there is no natural vegetation
    dims = ("lat", "lon")
    percent = {"units": "%", "comment": "experimental"}
    vegetated = land & ~np.isin(codes, (CROPLAND, URBAN, WATER))
    parts = {
        "PCT_NATVEG": vegetated,
        "PCT_CROP": codes == CROPLAND,
        "PCT_URBAN": codes == URBAN,
        "PCT_LAKE": codes == WATER,
    }
    variables: dict[str, Any] = {name: (dims, (100 * part).astype(np.float32), percent) for name, part in parts.items()}
    variables["PCT_NAT_PFT"] = (("natpft", *dims), natural, percent)
    variables["LANDMASK"] = (dims, land.astype(np.int8), {"units": "1"})
    variables["LANDFRAC"] = (dims, land.astype(np.float32), {"units": "1"})
    coordinates = {
        "natpft": np.arange(len(CLM_PFTS)), "natpft_name": ("natpft", list(CLM_PFTS)),
        "lat": ("lat", np.asarray(lat), {"units": "degrees_north"}),
        "lon": ("lon", np.asarray(lon), {"units": "degrees_east"}),
    }  # fmt: skip
    return xr.Dataset(variables, coordinates, {"title": "CTSM-like raw surface data (experimental)"})
