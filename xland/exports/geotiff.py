"""GeoTIFFs that GDAL and QGIS show as maps: one file a year and variable, with colours and names of the classes.

Files are cloud-optimised (COG): tiled, compressed, with overviews inside. Overviews of class maps are the mode, of
other variables the average, as GDAL computes them. GDAL keeps names of classes beside a GeoTIFF, in
``NAME.tif.aux.xml``: copy both.
"""

from __future__ import annotations

import tempfile
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from itertools import pairwise
from pathlib import Path
from typing import Any
from xml.etree import ElementTree as ET

import dask
import numpy as np
import xarray as xr

from xland.errors import MissingDependencyError
from xland.exports.pyramid import is_class_map
from xland.geo.conventions import CRS, classes_along
from xland.geo.orientation import orient
from xland.paths import replace_file, replacing
from xland.store.encoding import find_packing, pack
from xland.vocabulary import CLASSES

TILE = 512
"""Cells along a tile."""

_ROWS = 1024  # computed at a time where maps have no blocks


def write_geotiffs(maps: xr.Dataset, files: Mapping[str, Path], tags: Mapping[str, str]) -> None:
    """Write one map of each variable, all from one pass over their blocks.

    Parameters
    ----------
    maps : Dataset
        Of one time step; a further dimension, such as class or draw, becomes the bands.
    files : mapping of variable to path
        Files that are there are replaced, each at once.
    tags : mapping
        What the files say of themselves.
    """
    ds, orientation = orient(maps[list(files)], what="maps")
    grid = orientation.grid
    prepared = {name: _as_bands(ds[name]) for name in files}
    with ExitStack() as stack:
        open_ = {
            name: stack.enter_context(_growing(files[name], array, orientation.grid, tags))
            for name, array in prepared.items()
        }
        edges = np.unique(np.concatenate([_row_edges(array) for array in prepared.values()])).tolist()
        for top, bottom in pairwise(edges):
            rows = [array.isel(lat=slice(top, bottom)).data for array in prepared.values()]
            for target, values in zip(open_.values(), dask.compute(*rows), strict=True):
                target.write(values, window=((top, bottom), (0, grid.columns)))


def _as_bands(array: xr.DataArray) -> xr.DataArray:
    """Return a variable as (band, lat, lon), in the numbers that are stored."""
    packing = find_packing(str(array.name), array.variable)
    array = array.squeeze([dim for dim in array.dims if dim not in ("lat", "lon") and array.sizes[dim] == 1])
    array = array if packing is None else pack(array, packing)
    return array if array.ndim > 2 else array.expand_dims("band")


def _row_edges(array: xr.DataArray) -> Any:
    blocks = array.chunksizes.get("lat") or [_ROWS] * (array.sizes["lat"] // _ROWS)
    return np.minimum(np.cumsum([0, *blocks, array.sizes["lat"]]), array.sizes["lat"])


@contextmanager
def _growing(path: Path, array: xr.DataArray, grid: Any, tags: Mapping[str, str]) -> Iterator[Any]:
    """Yield a dataset of rasterio to fill, which becomes the file when the body is done."""
    try:
        import rasterio
        from rasterio.shutil import copy
    except ImportError as error:
        raise MissingDependencyError(f"GeoTIFFs need rasterio: pip install rasterio ({error})") from error
    codes, fill = is_class_map(array) and "scale_factor" not in array.attrs, array.attrs.get("_FillValue")
    how: dict[str, Any] = {
        "driver": "GTiff", "width": grid.columns, "height": grid.rows, "count": array.sizes[array.dims[0]],
        "dtype": array.dtype.name, "crs": CRS, "nodata": np.nan if array.dtype.kind == "f" else fill,
        "transform": rasterio.Affine(grid.resolution, 0, grid.west, 0, -grid.resolution, grid.north),
        "tiled": True, "blockxsize": TILE, "blockysize": TILE, "compress": "deflate", "bigtiff": "if_safer",
    }  # fmt: skip
    path.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=f".{path.name[:80]}.", dir=path.parent) as folder:
        growing = Path(folder, "growing.tif")
        with rasterio.Env(GDAL_PAM_ENABLED=False, GDAL_NUM_THREADS=1):
            with rasterio.open(growing, "w", **how) as target:
                target.update_tags(**tags, AREA_OR_POINT="Area")
                target.descriptions = _band_names(array)
                target.scales = [float(array.attrs.get("scale_factor", 1))] * target.count
                target.offsets = [float(array.attrs.get("add_offset", 0))] * target.count
                if codes and target.count == 1:
                    target.write_colormap(1, {code: _rgb(color) for code, _, color in legend_of(array)})
                yield target
            with replacing(path) as part:
                resampling = "MODE" if codes else "AVERAGE"
                predictor = "YES" if array.dtype.kind == "f" else "NO"
                copy(growing, part, driver="COG", compress="deflate", predictor=predictor, blocksize=TILE,
                     overview_resampling=resampling, bigtiff="if_safer")  # fmt: skip
        beside = path.with_name(f"{path.name}.aux.xml")
        if codes:
            replace_file(beside, _names(array))
        else:
            beside.unlink(missing_ok=True)  # of another export


def _band_names(array: xr.DataArray) -> tuple[str, ...]:
    """Return the name of each band: the class, or the variable, numbered where it has several."""
    dim = array.dims[0]
    if dim == "class":
        return classes_along(array, dim) or ()
    count = array.sizes[dim]
    return tuple(str(array.name) if count == 1 else f"{array.name} {number}" for number in range(1, count + 1))


def legend_of(array: xr.DataArray) -> list[tuple[int, str, str]]:
    """Return code, name and colour of each class that a map declares, by default those of xland."""
    codes = np.atleast_1d(array.attrs.get("flag_values", [])).tolist()
    names = str(array.attrs.get("flag_meanings", "")).split()
    known = {each.name: each for each in CLASSES}
    if not codes or len(codes) != len(names):
        return [(each.code, each.name, each.color) for each in CLASSES]
    colors = str(array.attrs.get("flag_colors", "")).split()
    if len(colors) != len(codes):
        colors = [known[name].color if name in known else "#888888" for name in names]
    return [(int(code), name, color) for code, name, color in zip(codes, names, colors, strict=True)]


def _rgb(color: str) -> tuple[int, int, int]:
    return tuple(bytes.fromhex(color.lstrip("#")[:6]))  # type: ignore[return-value]


def _names(array: xr.DataArray) -> str:
    """Return the names of the classes as GDAL reads them: categories, and an attribute table with colours."""
    legend = sorted(legend_of(array))
    root = ET.Element("PAMDataset")
    for number in range(1, array.sizes[array.dims[0]] + 1):
        band = ET.SubElement(root, "PAMRasterBand", band=str(number))
        categories, by_code = ET.SubElement(band, "CategoryNames"), {code: name for code, name, _ in legend}
        for code in range(legend[-1][0] + 1):
            ET.SubElement(categories, "Category").text = by_code.get(code, "")
        table = ET.SubElement(band, "GDALRasterAttributeTable", tableType="thematic")
        # the types are whole number 0 and text 2, the usages MinMax 5, Name 2, Red 6, Green 7, Blue 8
        for index, (name, kind, usage) in enumerate(
            (("value", 0, 5), ("class", 2, 2), ("red", 0, 6), ("green", 0, 7), ("blue", 0, 8))
        ):
            field = ET.SubElement(table, "FieldDefn", index=str(index))
            for tag, text in (("Name", name), ("Type", kind), ("Usage", usage)):
                ET.SubElement(field, tag).text = str(text)
        for index, (code, name, color) in enumerate(legend):
            row = ET.SubElement(table, "Row", index=str(index))
            for each in (code, name, *_rgb(color)):
                ET.SubElement(row, "F").text = str(each)
    ET.indent(root)
    return ET.tostring(root, encoding="unicode") + "\n"
