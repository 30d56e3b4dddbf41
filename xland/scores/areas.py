"""Where a class is, how large it is, and what differs between two maps, neither of which is the truth."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import dask.array as da
import numpy as np
import xarray as xr
from numpy.typing import NDArray

from xland.arguments import choose_names
from xland.errors import GridError, TimeError, VocabularyError
from xland.geo.conventions import GRID_MAPPING, index_by
from xland.geo.orientation import find_horizontal, find_names, orient, restore
from xland.reading.variables import ClassMap, as_map, check_legend, map_of, read_values
from xland.scores.counts import AREA_UNIT, area_units, cross_tabulate
from xland.scores.frames import Block, Cells, common_cells, pair_years
from xland.scores.regions import Regions, number_map, parts_of
from xland.vocabulary import CLASS_NAMES, CLASSES, OCEAN, check_codes, class_code, class_coordinates

_COUNT = len(CLASSES)
_SIDES = ("first", "second")
_CHANGES: Mapping[str, Any] = {
    "flag_values": np.array([-1, 0, 1], dtype=np.int8),
    "flag_meanings": "lost same gained",
    "flag_colors": "#b35806 #f6f5f1 #542788",
}


def is_class(maps: xr.DataArray, classes: str | Sequence[str]) -> xr.DataArray:
    """Say where a map shows a class, or one of several.

    Parameters
    ----------
    maps : DataArray of class codes
        Lazy arrays stay lazy. NaN is none of the classes.
    classes : str or sequence of str
        Names of the classes: :data:`xland.vocabulary.CLASS_NAMES`.

    Returns
    -------
    DataArray of bool
        With the dimensions and coordinates of the map.

    Raises
    ------
    VocabularyError
        If there is no such class, or the map says that its codes are those of another legend; when values are computed,
        if codes are unknown.
    """
    names = choose_names(classes, CLASS_NAMES, "classes", VocabularyError)
    codes = [class_code(name) for name in names]
    maps, what = map_of(maps, "map"), "map" if maps.name is None else f"map {str(maps.name)!r}"
    check_legend(maps, what)

    def found(values: NDArray[Any]) -> NDArray[np.bool_]:
        blank = np.isnan(values) if values.dtype.kind == "f" else np.zeros(values.shape, np.bool_)
        return np.isin(check_codes(np.where(blank, 0, values), what=what), codes) & ~blank

    read = read_values(maps, what=what, error=VocabularyError, holds="classes", empty=OCEAN)
    where = xr.apply_ufunc(found, read, dask="parallelized", output_dtypes=[np.bool_])
    about = {"long_name": " or ".join(CLASSES[code].long_name for code in codes)}
    return where.drop_attrs(deep=False).rename("_or_".join(names)).assign_attrs(about)


def class_areas(maps: xr.DataArray | xr.Dataset, *, by: Any = None, names: Any = None) -> xr.DataArray:
    """Add up the area of each class, in each year and region.

    Parameters
    ----------
    maps : DataArray, or Dataset with ``land_use``
        Class codes; any names and order of latitude and longitude. Lazy arrays stay lazy.
    by : optional
        The regions, by default all cells: ``"latitude"``, ``"koppen"`` or ``"continents"``; a map of region numbers, in
        which 0 and NaN belong to no region; a mask, or one for each region along a third dimension; a GeoDataFrame or
        GeoSeries of shapes, or ``Regions`` of regionmask. Numbers and masks have cells of the size of the map's, and
        may cover another part of the globe. A cell is in a shape if its centre is; in the last one where shapes
        overlap.
    names : sequence or mapping of int to str, or str, optional
        Names of the regions in a map of numbers or a mask; of shapes, the column that has them.

    Returns
    -------
    DataArray (time, region, class) of float64
        Square kilometres. ``time`` is there if the map has it, ``region`` if there are regions, with ``region_name``
        beside it. The area of a cell is exact on the sphere of the Earth's surface area. Areas are added up as whole
        numbers, so that they do not depend on chunks.

    Raises
    ------
    RegionError
        If there is no region, regions have no names or the same, or no cell is in the map or in both.
    GridError
        If cells of the regions differ in size from those of the map, or do not coincide.
    TimeError
        If the map has no time step.
    VocabularyError
        When areas are computed, if codes are unknown.
    """
    found = _with_steps(as_map(maps, what="map"))
    cells, parts = common_cells([found], found, None), parts_of(by, found, names)
    area = da.stack([_add_up(cells, [(found, step)], parts) for step in range(len(found.years))])
    return _described({"area": area}, map_of(maps, "map"), parts)["area"]


def compare_maps(
    first: xr.DataArray | xr.Dataset, second: xr.DataArray | xr.Dataset, *, by: Any = None, names: Any = None
) -> xr.Dataset:
    """Compare two maps, such as two years or two scenarios: transitions, gains and losses.

    Parameters
    ----------
    first, second : DataArray, or Dataset with ``land_use``
        Class codes. Maps of one step each are compared whatever their years, and one map with each step of the other;
        of two maps with several steps, the years that both have. One may cover more than the other.
    by, names
        Regions, as for :func:`class_areas`.

    Returns
    -------
    Dataset
        Lazy, with years and regions as :func:`class_areas` has them. ``transition`` (first, second) is the area in km2
        that is one class in the first map and another, or the same, in the second. ``gain`` and ``loss`` (class), km2,
        are what a class has in the second map alone, and in the first alone. ``change`` (class, lat, lon) is 1 where
        the class is gained, -1 where it is lost and 0 elsewhere, on the cells of the smaller map.

    Raises
    ------
    GridError
        If cells of the maps differ in size or do not coincide, or each map lacks cells of the other.
    RegionError
        If the maps have no cell in common; for regions as of :func:`class_areas`.
    TimeError
        If maps of several steps have no year in common, or one has no step.
    VocabularyError
        When values are computed, if codes are unknown.
    """
    given = [map_of(first, "first map"), map_of(second, "second map")]
    one, other = (_with_steps(as_map(each, what=f"{side} map")) for each, side in zip(given, _SIDES, strict=True))
    pairs = _pair(one, other)
    cells = common_cells([one, other], one, None)
    if not bool(cells.counted.all()):
        raise GridError(
            f"the first map ({one.grid}) and the second map ({other.grid}) each lack cells of the other; select the "
            "same region of both"
        )
    parts = parts_of(by, cells.frame, names)
    area = da.stack([_add_up(cells, [(one, i), (other, j)], parts) for i, j in pairs])
    area = area.reshape(*area.shape[:-1], _COUNT, _COUNT)
    moved = area * ~np.eye(_COUNT, dtype=bool)
    areas = {"transition": area, "gain": moved.sum(axis=-2), "loss": moved.sum(axis=-1)}
    dated = given[0] if len(one.years) > 1 else given[1]
    time = find_names(dated, "time", what="map") if len(pairs) > 1 else None
    dated = dated.isel({time.dimension: [pair[dated is given[1]] for pair in pairs]}) if time else dated
    found = _described(areas, dated, parts, steps=time is not None)
    change = _change(cells, one, other, pairs, given[cells.frame.grid != one.grid])
    change = change.isel(step=0) if time is None else change.rename(step=time.dimension)
    years = {"first_year": [one.years[i] for i, _ in pairs], "second_year": [other.years[j] for _, j in pairs]}
    known = {name: each for name, each in years.items() if None not in each}
    beside = {name: each[0] if time is None else (time.dimension, each) for name, each in known.items()}
    return found.assign(change=change).assign_coords(beside)


def _with_steps(found: ClassMap) -> ClassMap:
    if not found.years:
        raise TimeError(f"the {found.what} has no time step: the selection is empty; select years that are there")
    return found


def _pair(one: ClassMap, other: ClassMap) -> list[tuple[int, int]]:
    """Positions in time that are compared: those of a single map with all of the other, or those of the same year."""
    lengths = len(one.years), len(other.years)
    if 1 in lengths:
        return [(min(step, lengths[0] - 1), min(step, lengths[1] - 1)) for step in range(max(lengths))]
    return pair_years(one, other)


def _add_up(cells: Cells, maps: Sequence[tuple[ClassMap, int]], parts: Sequence[Regions]) -> da.Array:
    """Areas in km2 of each class, or combination of classes of several maps: (regions, combinations)."""
    found = []
    for part in parts or (None,):
        layer, regions = (None, 1) if part is None else (cells.layer(number_map(part)), len(part.names))
        shape = (regions, _COUNT ** len(maps))
        blocks = cells.each_block(_areas_of, maps, layer, regions=regions)
        each = blocks.map_blocks(
            _opened, dtype=np.int64, new_axis=(2, 3), chunks=(*blocks.chunks, *((size,) for size in shape)),
            meta=np.empty((0,) * 4, np.int64),
        )  # fmt: skip
        found.append(each.sum(axis=(0, 1)) * (AREA_UNIT / 1e6))
    return da.concatenate(found) if len(found) > 1 else found[0]


def _areas_of(block: Block, *layers: NDArray[Any], regions: int) -> NDArray[np.int64]:
    *maps, labels = layers
    labels = block.counted if labels is None else labels
    sizes = (1 + regions, *(_COUNT for _ in maps))
    found = cross_tabulate([labels, *maps], block.counted, area_units(block.area), sizes)
    return found[1:].reshape(regions, -1)


def _opened(box: NDArray[Any]) -> NDArray[np.int64]:
    return np.asarray(box[0, 0])[None, None]


def _described(
    areas: Mapping[str, da.Array], dated: xr.DataArray, parts: Sequence[Regions], *, steps: bool = True
) -> xr.Dataset:
    """Give areas (steps, regions, class) the coordinates of the map that has these steps, if it has any."""
    time = find_names(dated, "time", what="map") if steps else None
    along = () if time is None else (time.dimension,)
    own = [name for name in dated.coords if steps and dated[name].dims == along and name != GRID_MAPPING]
    coordinates: dict[Any, Any] = {name: dated[name].variable for name in own} | class_coordinates()
    names = [*coordinates, "region_name"]
    if parts:
        coordinates["region"] = ("region", [number for part in parts for number in part.numbers])
        coordinates["region_name"] = ("region", [name for part in parts for name in part.names])
    if "transition" in areas:
        coordinates |= {axis: list(CLASS_NAMES) for axis in _SIDES}
    variables = {}
    for name, area in areas.items():
        dims = (*along, *(("region",) if parts else ()), *(_SIDES if name == "transition" else ("class",)))
        picked = area[(slice(None) if along else 0, slice(None) if parts else 0)]
        variables[name] = (dims, picked, {"long_name": f"area of {name}" if name != "area" else name, "units": "km2"})
    return index_by(xr.Dataset(variables, coordinates), *names)


def _change(
    cells: Cells, one: ClassMap, other: ClassMap, pairs: Sequence[tuple[int, int]], own: xr.DataArray
) -> xr.DataArray:
    """Where classes are gained and lost, (step, class, latitude, longitude), on the cells of a map as it has them."""
    horizontal = [each.dimension for each in find_horizontal(own, what="map")]
    own = own.isel({dim: 0 for dim in own.dims if dim not in horizontal}, drop=True)
    steps = []
    for pair in pairs:
        before, after = (
            cells.layer(each, step=step).map_blocks(check_codes, what=each.what, dtype=np.uint8)[None]
            == np.arange(_COUNT)[:, None, None]
            for each, step in zip((one, other), pair, strict=True)
        )
        steps.append(after.astype(np.int8) - before)
    place = {"lat": cells.frame.grid.latitude, "lon": cells.frame.grid.longitude}
    change = xr.DataArray(da.stack(steps), place, ("step", "class", "lat", "lon"), "change", _CHANGES)
    return restore(change, orient(own, what="map")[1])
