"""Inputs with one or two mutations, over forcing, static predictors, priors, observed maps and training targets.

Each input is a valid small world, changed by seed: values, attributes, types, coordinates, names, dimensions, order,
time, packing, fill values; in memory, in dask chunks, in NetCDF, Zarr and GeoTIFF files. A mutation that does not
change what the input means must give the reference by label; any other must end in a named error, or change nothing.
Every eleventh input is a GeoTIFF of codes with something of its own, which is honoured or refused.
"""

# ruff: noqa: E501, PD013 - the table of mutations has one a line; xarray stacks, pandas does not come in
from __future__ import annotations

import tempfile
import warnings
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from functools import cache, partial
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import rasterio
import xarray as xr
from rasterio.enums import ColorInterp

from tests.benchmarks.hostile import Tally
from tests.worlds import tiny_checkpoint, tiny_inputs
from xland.datasets import synthetic_world
from xland.errors import XlandError
from xland.geo.orientation import orient
from xland.sources.observed import open_map
from xland.vocabulary import IGBP, translate

INPUTS = 1000
SLOWEST = 20.0
YEARS = (2000, 2001)
STATIC = ["elevation", "abs_latitude", "land_share"]
KINDS = ("forcing", "static", "prior", "observed", "target")
TIMED = ("forcing", "prior", "observed", "target")
MAPS = ("prior", "observed", "target")
FORMS = ("memory", "dask", "netcdf", "zarr", "geotiff")

Random = np.random.Generator
Change = Callable[[xr.Dataset, Random], xr.Dataset]


@dataclass(frozen=True)
class Mutation:
    """A change of an input, whether its meaning stays the same, the kinds of input, and whether files can hold it."""

    name: str
    change: Change
    same: bool
    kinds: tuple[str, ...] = KINDS
    files: bool = True


class World:
    """The valid inputs, and what they give."""

    def __init__(self, folder: str) -> None:
        self.folder = Path(folder)
        world = synthetic_world((40, 48), 4, YEARS, resolution=0.25)
        self.inputs = replace(tiny_inputs(), resolution=0.0625, window=40, stride=20)
        self.models = {
            prior: tiny_checkpoint(self.folder / f"model-{prior}", replace(self.inputs, prior=prior))
            for prior in ("none", "code")
        }
        land = world.static["land_share"] > 0
        maps = world.land_use.to_dataset(name="land_use")
        self.valid = {
            "forcing": world.forcing,
            "static": world.static[STATIC].assign({name: world.static[name].where(land) for name in STATIC[:2]}),
            "prior": maps.sel(time=[2000]),
            "observed": maps,
            "target": maps,
        }
        self.references = {kind: self.run(kind, self.valid[kind]) for kind in KINDS}

    def run(self, kind: str, given: xr.Dataset) -> Any:
        """What an input gives, in canonical order."""
        forcing, static = self.valid["forcing"], self.valid["static"]
        if kind == "observed":
            predicted = self.valid["prior"]["land_use"].copy(data=self.valid["observed"]["land_use"].values[1:])
            return str(predicted.assign_coords(time=[2001]).ai4land.evaluate(given))
        if kind == "target":
            target = given.get("land_use", given)
            options = {"part": None, "patch": 40, "stride": 20, "batch": 64}
            batches = forcing.ai4land.batches(target=target, static=static, inputs=self.inputs, **options)
            return np.concatenate([batch["target"].values.ravel() for batch in batches])
        if kind == "prior":
            maps = forcing.ai4land.downscale(model=self.models["code"], static=static, prior=given, years=2001)
        else:
            inputs = {"forcing": forcing, "static": static, kind: given}
            maps = inputs["forcing"].ai4land.downscale(model=self.models["none"], static=inputs["static"])
        return orient(maps["land_use"].compute(), what="map")[0].values


def pick(ds: xr.Dataset, random: Random) -> str:
    """One of the variables."""
    return str(random.choice([str(name) for name in ds.data_vars if str(name) not in ("secma", "secmb")]))


def mapped(name: str, function: Callable[[xr.DataArray], xr.DataArray], *, same: bool, **options: Any) -> Mutation:
    """Change one variable as a whole."""

    def change(ds: xr.Dataset, random: Random) -> xr.Dataset:
        variable = pick(ds, random)
        return ds.assign({variable: function(ds[variable])})

    return Mutation(name, change, same, **options)


def noted(key: str, value: Any, *, same: bool, **options: Any) -> Mutation:
    """Set an attribute of one variable."""
    return mapped(f"{key}={value!r}", lambda array: array.assign_attrs({key: value}), same=same, **options)


def with_values(name: str, value: float, kinds: tuple[str, ...] = KINDS) -> Mutation:
    """Put a value into some cells of land of one variable."""

    def change(ds: xr.Dataset, random: Random) -> xr.Dataset:
        array = ds[pick(ds, random)]
        whole = ds["land_share"].values if "land_share" in ds else array.values
        land = np.argwhere((whole if whole.ndim == 2 else whole[0]) > 0)
        count = min(int(random.integers(1, 30)), len(land))
        at = tuple(land[random.choice(len(land), size=count, replace=False)].T)
        values = array.values.astype("f8" if array.dtype.kind == "f" or not float(value).is_integer() else "i8")
        values[(..., *at)] = value
        return ds.assign({array.name: (array.dims, values, array.attrs)})

    return Mutation(name, change, same=False, kinds=kinds)


def of_coordinate(name: str, change: Callable[[np.ndarray], Any], *, attrs: dict[str, Any] | None = None) -> Mutation:
    """Change latitude or longitude, so that it means something else."""

    def mutate(ds: xr.Dataset, random: Random) -> xr.Dataset:
        axis = str(random.choice(["lat", "lon"]))
        old = ds[axis]
        return ds.assign_coords({axis: (axis, change(old.values.copy()), {**old.attrs, **(attrs or {})})})

    return Mutation(name, mutate, same=False)


def _filled(key: str, fill: float, dtype: str, kinds: tuple[str, ...]) -> Mutation:
    """Declare a fill value in place of no data, or of the sea in a map."""

    def change(ds: xr.Dataset, _: Random) -> xr.Dataset:
        out = ds
        for name, array in ds.data_vars.items():
            if name == "land_use" and array.dtype.kind not in "iu":
                raise TypeError("these codes may be fractions")
            empty = array.values == 0 if name == "land_use" else np.isnan(array.values)
            values = np.where(empty, fill, array.values.astype(dtype)).astype(dtype)
            out = out.assign({name: (array.dims, values, {**array.attrs, key: np.dtype(dtype).type(fill)})})
        return out

    return Mutation(f"{key} {fill:g} {dtype}", change, same=True, kinds=kinds)


def _masked_codes(ds: xr.Dataset, _: Random) -> xr.Dataset:
    array = ds["land_use"].where(ds["land_use"] != 0).astype("f4")
    array.encoding = {"_FillValue": 255.0}
    return ds.assign(land_use=array)


def _bounds(offset: float) -> Change:
    def change(ds: xr.Dataset, _: Random) -> xr.Dataset:
        half = abs(float(ds["lat"][1] - ds["lat"][0])) / 2
        centres = ds["lat"].values + offset * half
        edges = np.stack([centres - half, centres + half], axis=1)
        lat = ("lat", ds["lat"].values, {**ds["lat"].attrs, "bounds": "lat_bnds"})
        return ds.assign(lat_bnds=(("lat", "bnds"), edges)).assign_coords(lat=lat)

    return change


def _mapping(**attributes: Any) -> Change:
    def change(ds: xr.Dataset, _: Random) -> xr.Dataset:
        out = ds.assign(crs=((), 0, attributes))
        for name in ds.data_vars:
            out[name].attrs["grid_mapping"] = "crs"
        return out

    return change


def _renamed(**names: str) -> Change:
    return lambda ds, _: ds.rename({old: new for old, new in names.items() if old in ds.dims})


def _time(values: Any, **attributes: Any) -> Change:
    return lambda ds, _: ds.assign_coords(time=("time", values[: ds.sizes["time"]], attributes))


def _flags(ds: xr.Dataset, _: Random) -> xr.Dataset:
    meanings = "water forest crops grass town bare ice sea"
    return ds.assign(land_use=ds["land_use"].assign_attrs(flag_values=np.arange(8, dtype="u1"), flag_meanings=meanings))


@cache
def mutations() -> tuple[Mutation, ...]:
    """All of them."""
    return (
        Mutation("as it is", lambda ds, _: ds, same=True),
        Mutation("south first", lambda ds, _: ds.isel(lat=slice(None, None, -1)), same=True),
        Mutation("east first", lambda ds, _: ds.isel(lon=slice(None, None, -1)), same=True),
        Mutation("a turn to the west", lambda ds, _: ds.assign_coords(lon=ds.lon - 360), same=True),
        Mutation("a turn to the east", lambda ds, _: ds.assign_coords(lon=ds.lon + 360), same=True),
        Mutation("transposed", lambda ds, _: ds.transpose("lon", "lat", ...), same=True),
        Mutation("transposed again", lambda ds, _: ds.transpose("lat", ..., "lon"), same=True),
        Mutation("latitude/longitude", _renamed(lat="latitude", lon="longitude"), same=True),
        Mutation("y/x", _renamed(lat="y", lon="x"), same=True),
        Mutation("nav", _renamed(lat="nav_lat", lon="nav_lon"), same=True),
        Mutation("rows/columns", _renamed(lat="rows", lon="columns"), same=True),
        Mutation("names of statistics", _renamed(lat="mean", lon="values"), same=True),
        Mutation("float32 coordinates", lambda ds, _: ds.assign_coords(lat=ds.lat.astype("f4"), lon=ds.lon.astype("f4")), same=True),
        Mutation("a scalar coordinate", lambda ds, _: ds.assign_coords(member=3, note="x"), same=True),
        Mutation("a further coordinate", lambda ds, _: ds.assign_coords(zone=("lat", np.arange(ds.sizes["lat"]))), same=True),
        Mutation("a further variable", lambda ds, _: ds.assign(notes=((), "text")), same=True),
        Mutation("attributes of the whole", lambda ds, _: ds.assign_attrs(a=1, b="x", c=[1.5, 2.5]), same=True),
        Mutation("middles of bounds", _bounds(0.0), same=True),
        Mutation("corners of bounds", _bounds(1.0), same=False),
        Mutation("other corners of bounds", _bounds(-1.0), same=False),
        Mutation("grid mapping", _mapping(grid_mapping_name="latitude_longitude"), same=True),
        Mutation("rotated pole", _mapping(grid_mapping_name="rotated_latitude_longitude", grid_north_pole_latitude=39.0), same=False),
        Mutation("Lambert", _mapping(grid_mapping_name="lambert_conformal_conic"), same=False),
        Mutation("projected wkt", _mapping(crs_wkt='PROJCRS["ETRS89 / LAEA Europe"]'), same=False),
        Mutation("another meridian", _mapping(grid_mapping_name="latitude_longitude", longitude_of_prime_meridian=2.337), same=False),
        Mutation("members", lambda ds, _: ds.expand_dims(member=[1, 2]), same=False),
        Mutation("levels of the ensemble", lambda ds, _: ds.expand_dims(level=3), same=False),
        Mutation("one band", lambda ds, _: ds.expand_dims(band=[1]), same=True),
        Mutation("one member", lambda ds, _: ds.expand_dims("member", axis=-1), same=True),
        Mutation("no row", lambda ds, _: ds.isel(lat=slice(0, 0)), same=False),
        Mutation("no column", lambda ds, _: ds.isel(lon=slice(0, 0)), same=False),
        Mutation("one row", lambda ds, _: ds.isel(lat=slice(0, 1)), same=False),
        Mutation("a single cell", lambda ds, _: ds.isel(lat=0, lon=0), same=False),
        Mutation("a row left out", lambda ds, _: ds.drop_isel(lat=4), same=False),
        Mutation("two columns changed places", lambda ds, _: ds.isel(lon=[1, 0, *range(2, ds.sizes["lon"])]), same=False),
        Mutation("a row twice", lambda ds, _: ds.isel(lat=[0, 0, *range(1, ds.sizes["lat"])]), same=False),
        Mutation("points", lambda ds, _: ds.stack(cell=("lat", "lon")), same=False, files=False),
        Mutation("points without an index", lambda ds, _: ds.stack(cell=("lat", "lon")).reset_index("cell"), same=False),
        Mutation("years and rows stacked", lambda ds, _: ds.stack(z=("time", "lat")), same=False, kinds=TIMED, files=False),
        Mutation("latitude without labels", lambda ds, _: ds.drop_vars("lat"), same=False),
        Mutation("called class", _renamed(lat="class"), same=False),
        Mutation("called land_use", _renamed(lon="spatial_ref"), same=False),
        Mutation("two latitudes", lambda ds, _: ds.assign_coords(latitude=("lon", ds.lon.values)), same=False),
        Mutation("a map of latitudes", lambda ds, _: ds.rename(lat="j", lon="i").drop_vars(["i", "j"]).assign_coords(
            lat=(("j", "i"), np.add.outer(ds.lat.values, 0 * ds.lon.values)), lon=(("j", "i"), np.add.outer(0 * ds.lat.values, ds.lon.values))), same=False),
        of_coordinate("radians", np.deg2rad, attrs={"units": "radians"}),
        of_coordinate("metres", lambda v: v * 1e5, attrs={"units": "m"}),
        of_coordinate("km", lambda v: v * 100, attrs={"units": "km"}),
        of_coordinate("degrees_south", lambda v: -v, attrs={"units": "degrees_south"}),
        of_coordinate("grads", lambda v: v / 0.9, attrs={"units": "grad"}),
        of_coordinate("grid_latitude", lambda v: v, attrs={"standard_name": "grid_latitude"}),
        of_coordinate("projection_y_coordinate", lambda v: v, attrs={"standard_name": "projection_y_coordinate"}),
        of_coordinate("half a cell", lambda v: v + (v[1] - v[0]) / 2),
        of_coordinate("a third of a cell", lambda v: v + (v[1] - v[0]) / 3),
        of_coordinate("a NaN", lambda v: np.where(np.arange(v.size) == 3, np.nan, v)),
        of_coordinate("an infinity", lambda v: np.where(np.arange(v.size) == 3, np.inf, v)),
        of_coordinate("stretched", lambda v: v[0] + (v - v[0]) ** 1.02 if v[1] > v[0] else v * 1.01),
        of_coordinate("numbers of cells", lambda v: np.arange(v.size)),
        of_coordinate("text", lambda v: v.astype(str)),
        of_coordinate("dates", lambda v: pd.date_range("2000-01-01", periods=v.size)),
        of_coordinate("packed", lambda v: np.round(v * 100).astype("i4"), attrs={"scale_factor": 0.01}),
        noted("_FillValue", "abc", same=False, files=False),
        noted("missing_value", "none", same=False, files=False),
        noted("scale_factor", 0.5, same=False), noted("add_offset", 1.0, same=False),
        noted("scale_factor", "x", same=False), noted("scale_factor", 1.0, same=True),
        noted("add_offset", 0.0, same=True), noted("grid_mapping", 5, same=False),
        noted("units", 5, same=True, files=False), noted("units", None, same=True, files=False),
        noted("long_name", ["a", "b"], same=True), noted("coordinates", "lat lon", same=True, files=False),
        noted("cell_methods", "area: mean", same=True), noted("valid_range", 5, same=False),
        noted("valid_range", [-1e9, 1e9], same=True), noted("valid_min", "low", same=False),
        noted("missing_value", [-7777.0, 1e20], same=True, files=False),
        noted("flag_values", "abc", same=True), noted("standard_name", "", same=True),
        noted("standard_name", 7, same=True), noted("axis", 7, same=True), noted("bounds", 7, same=True),
        noted("units", "percent", same=False, kinds=("forcing",)), noted("units", "%", same=False, kinds=("forcing",)),
        noted("units", "km2", same=False, kinds=("forcing",)),
        *(mapped(f"as {dtype}", lambda a, d=dtype: a.fillna(0).astype(d), same=False)
          for dtype in ("datetime64[s]", "timedelta64[s]", "complex64")),
        mapped("as text", lambda a: a.astype(str), same=False), mapped("as bytes", lambda a: a.astype("S8"), same=False),
        mapped("as objects", lambda a: a.astype(object), same=False, files=False),
        mapped("as booleans", lambda a: a.fillna(0) > 0, same=False),
        mapped("float64", lambda a: a.astype("f8"), same=True, kinds=("forcing", "static")),
        *(mapped(f"codes as {dtype}", lambda a, d=dtype: a.astype(d), same=True, kinds=MAPS) for dtype in ("i1", "i2", "i8", "u4", "f4", "f8")),
        mapped("big-endian", lambda a: a.astype(a.dtype.newbyteorder(">")), same=True),
        mapped("without dimensions", lambda a: a.isel(dict.fromkeys(a.dims, 0), drop=True), same=False, kinds=("forcing", "static")),
        mapped("one without time", lambda a: a.isel(time=0, drop=True), same=False, kinds=("forcing",)),
        mapped("one with members", lambda a: a.expand_dims(member=2), same=False),
        mapped("in percent", lambda a: a * 100, same=False, kinds=("forcing",)),
        mapped("negative", lambda a: -a, same=False, kinds=("forcing",)),
        mapped("nothing but NaN", lambda a: a.astype("f4") * np.nan, same=False),
        *(with_values(f"{value:g} on land", value) for value in (np.nan, np.inf, -np.inf, -9999.0, -32768.0, 1e20, 1e30, 9.96921e36, 65535.0, -0.3)),
        *(with_values(f"code {value:g}", value, kinds=MAPS) for value in (8, 44, 99, 254, 256, 300, -1, -128, 2.5)),
        *(_filled(key, fill, dtype, ("forcing", "static"))
          for key in ("_FillValue", "_Fillvalue", "missing_value", "fill_value", "nodata", "FillValue")
          for fill, dtype in ((-9999.0, "f4"), (1e20, "f4"), (-1.0, "f8"), (np.nan, "f4"))),
        *(_filled(key, fill, dtype, ("observed", "target")) for key in ("_FillValue", "missing_value", "nodata", "_Fillvalue")
          for fill, dtype in ((99, "u1"), (255, "u1"), (-1, "i2"), (-9999, "i4"), (-9999, "f4"))),
        Mutation("masked codes", _masked_codes, same=True, kinds=("observed", "target")),
        Mutation("another legend", _flags, same=False, kinds=MAPS),
        Mutation("land share in percent", lambda ds, _: ds.assign(land_share=ds.land_share * 100), same=False, kinds=("static",)),
        Mutation("land share says percent", lambda ds, _: ds.assign(land_share=ds.land_share.assign_attrs(units="%")), same=False, kinds=("static",)),
        Mutation("negative land share", lambda ds, _: ds.assign(land_share=-ds.land_share), same=False, kinds=("static",)),
        Mutation("elevation in km", lambda ds, _: ds.assign(elevation=(ds.elevation / 1000).assign_attrs(units="km")), same=False, kinds=("static",)),
        Mutation("no data in the sea", lambda ds, _: ds.assign(elevation=ds.elevation.where(ds.land_share > 0)), same=True, kinds=("static",)),
        Mutation("1e30 in the sea", lambda ds, _: ds.assign(elevation=ds.elevation.where(ds.land_share > 0, 1e30)), same=True, kinds=("static",)),
        Mutation("one time", lambda ds, _: ds.expand_dims(time=[2000]), same=True, kinds=("static",)),
        Mutation("two times", lambda ds, _: ds.expand_dims(time=[2000, 2001]), same=False, kinds=("static",)),
        Mutation("lacks one", lambda ds, _: ds.drop_vars(str(next(iter(ds.data_vars)))), same=False),
        Mutation("secma NaN", lambda ds, _: ds.assign(secma=ds.secma.where(ds.primf < 0.01)), same=False, kinds=("forcing",)),
        Mutation("secmb in t/ha", lambda ds, _: ds.assign(secmb=(ds.secmb * 10).assign_attrs(units="t ha-1")), same=False, kinds=("forcing",)),
        Mutation("secma in days", lambda ds, _: ds.assign(secma=(ds.secma * 365).assign_attrs(units="days")), same=False, kinds=("forcing",)),
        Mutation("years since", _time([150.0, 151.0], units="years since 1850-01-01", calendar="365_day"), same=True, kinds=TIMED),
        Mutation("days since", _time([54787, 55153], units="days since 1850-01-01"), same=True, kinds=TIMED),
        Mutation("dates", _time(pd.to_datetime(["2000-07-01", "2001-07-01"])), same=True, kinds=TIMED),
        Mutation("%Y%m%d", _time([20000101, 20010101], units="day as %Y%m%d.%f"), same=True, kinds=TIMED),
        Mutation("counts", _time([0, 1]), same=False, kinds=("forcing", "prior", "target")),
        Mutation("a year twice", _time([2000, 2000]), same=False, kinds=("forcing", "observed", "target")),
        Mutation("no date", _time(np.array(["2000-01-01", "NaT"], "M8[s]")), same=False, kinds=("forcing", "observed", "target")),
        Mutation("text as years", _time(["first", "second"]), same=False, kinds=TIMED),
        Mutation("units of time that are none", _time([5, 6], units="fortnights since yesterday"), same=False, kinds=TIMED),
        Mutation("years of another record", _time([1901, 1902]), same=False, kinds=("prior", "target")),
        Mutation("year as the name of time", lambda ds, _: ds.rename(time="year"), same=True, kinds=TIMED),
        Mutation("time is NaT", lambda ds, _: ds.isel(time=0, drop=True).assign_coords(time=np.datetime64("NaT", "ns")), same=False, kinds=("prior",)),
    )  # fmt: skip


def in_form(form: str, kind: str, ds: xr.Dataset, path: Path, random: Random) -> xr.Dataset:
    """Return the input as it comes from somewhere; what a format cannot hold stays in memory."""
    if form == "dask":
        return ds.chunk({dim: max(1, int(size // random.integers(1, 4))) for dim, size in ds.sizes.items()})
    try:
        if form == "netcdf":
            ds.to_netcdf(path.with_suffix(".nc"))
            options = {"chunks": {}} if random.random() < 0.5 else {}
            mask = bool(random.random() < 0.7)
            return xr.open_dataset(path.with_suffix(".nc"), decode_times=False, mask_and_scale=mask, **options)
        if form == "zarr":
            ds.to_zarr(path.with_suffix(".zarr"), zarr_format=int(random.choice([2, 3])))
            return xr.open_zarr(path.with_suffix(".zarr"), decode_times=False)
        if form == "geotiff" and kind in MAPS:
            return _through_geotiff(ds, path)
    except Exception:  # noqa: BLE001 - the format says no in its own way: then it is no input of that format
        return ds
    return ds


def _through_geotiff(ds: xr.Dataset, path: Path) -> xr.Dataset:
    import rioxarray

    array = ds["land_use"].transpose("time", "lat", "lon")
    steps = []
    for step in range(array.sizes["time"]):
        file = path.with_name(f"{path.name}-{step}.tif")
        flat = array.isel(time=step, drop=True).rename(lat="y", lon="x")
        fill = flat.attrs.pop("_FillValue", None)
        flat = flat.rio.write_crs(4326)
        (flat if fill is None else flat.rio.write_nodata(fill)).rio.to_raster(file)
        steps.append(rioxarray.open_rasterio(file, masked=bool(step % 2)))
    return xr.concat(steps, "time").assign_coords(time=array["time"]).to_dataset(name="land_use")


def mutated(world: World, random: Random, item: int) -> tuple[str, str, xr.Dataset, bool] | None:
    """Kind and label of an input with one or two mutations, the input, and whether it stays valid; None if two clash."""
    kind, form = KINDS[item % len(KINDS)], str(random.choice(FORMS))
    fitting = [each for each in mutations() if kind in each.kinds]
    chosen = [fitting[int(random.integers(len(fitting)))]]
    if random.random() < 0.3:
        chosen.insert(0, fitting[int(random.integers(len(fitting)))])
    ds = world.valid[kind].copy(deep=True)
    try:
        for each in chosen:
            ds = each.change(ds, random)
    except Exception:  # noqa: BLE001 - of one that another has changed before
        return None
    holds = all(each.files for each in chosen)
    ds = in_form(form if holds else "memory", kind, ds, world.folder / f"i{item}", random)
    label = f"{kind} {form}: {' and '.join(each.name for each in chosen)}"
    return kind, label, ds, all(each.same for each in chosen)


FIRST = rasterio.transform.from_origin(10, 50, 0.05, 0.05)
HONOURED: dict[str, dict[str, Any]] = {
    "no data": {}, "palette": {}, "mask": {"nodata": None}, "mask in a file": {"nodata": None},
    "float": {"dtype": "float32", "nodata": -3.4028234663852886e38}, "NaN": {"dtype": "float32", "nodata": np.nan},
    "signed": {"dtype": "int16", "nodata": -1}, "south first": {"transform": rasterio.Affine(0.05, 0, 10, 0, 0.05, 48.5)},
    "tiled": {"tiled": True, "blockxsize": 16, "blockysize": 16, "compress": "deflate"},
}  # fmt: skip
REFUSED: dict[str, dict[str, Any]] = {
    "undeclared": {"nodata": None}, "scaled": {}, "offset": {}, "bands": {"count": 2}, "alpha": {"count": 2},
    "projected": {"crs": "EPSG:3035"}, "no crs": {"crs": None}, "rotated": {"transform": FIRST @ rasterio.Affine.rotation(10)},
    "meridian": {"crs": "+proj=longlat +ellps=clrk80 +pm=paris"}, "fractions": {"dtype": "float32"},
    "complex": {"dtype": "complex64", "nodata": None},
}  # fmt: skip


def raster(folder: Path, random: Random, item: int) -> tuple[str, Path, np.ndarray | None]:
    """A GeoTIFF of IGBP codes of one kind: the kind, its path, and its classes, or None if it must be refused."""
    codes, empty = random.integers(0, 17, (30, 40)), random.random((30, 40)) < 0.2
    kind = str(random.choice([*HONOURED, *REFUSED]))
    profile = {"crs": "EPSG:4326", "transform": FIRST, "count": 1, "dtype": "uint8", "nodata": 200}
    profile |= (HONOURED | REFUSED)[kind]
    fill = 200 if profile["nodata"] is None else profile["nodata"]
    values = np.where(empty, fill, codes + (0.5 if kind == "fractions" else 0)).astype(profile["dtype"])
    path = folder / f"raster-{item}.tif"
    with (
        rasterio.Env(GDAL_TIFF_INTERNAL_MASK=kind == "mask"),
        rasterio.open(path, "w", driver="GTiff", height=30, width=40, **profile) as file,
    ):
        file.write(values[::-1] if kind == "south first" else values, 1)
        if kind.startswith("mask"):
            file.write_mask(~empty)
        if kind == "palette":
            file.write_colormap(1, {code: (code, 2 * code, 255 - code, 255) for code in range(17)})
        if kind == "alpha":
            file.write(np.where(empty, 0, 255).astype("u1"), 2)
            file.colorinterp = [ColorInterp.gray, ColorInterp.alpha]
        if kind in ("scaled", "offset"):
            setattr(file, f"{kind.removesuffix('d')}s", [0.5])
    return kind, path, None if kind in REFUSED else np.where(empty, 0, translate(codes, IGBP))


def wrong(run: Callable[[], Any], expected: Any, refused: list[str]) -> str | None:
    """Run an input, and say whether another result than the expected one came out; or note its refusal."""
    try:
        got = run()
    except XlandError as error:
        refused.append(str(error))
        return None
    same = got == expected if isinstance(got, str) else np.array_equal(got, expected)
    return None if same else "another result"


def campaign(quick: bool, seed: int = 0) -> Iterator[dict[str, Any]]:
    """Draw the inputs, run them, and count what is wrong."""
    tally, item = Tally(), -1
    refused: list[str] = []
    with tempfile.TemporaryDirectory() as folder, warnings.catch_warnings():
        warnings.simplefilter("ignore")
        world = World(folder)
        while tally.kinds.total() < (INPUTS // 10 if quick else INPUTS):
            item += 1
            random = np.random.default_rng([seed, item])
            if item % 11 == 10:
                label, path, expected = raster(world.folder, random, item)
                case = partial(
                    wrong, lambda at=path: open_map(at).values, expected, [] if expected is None else refused
                )
                tally.judge("raster", f"seed {seed}, input {item}: raster {label}", case)
                continue
            drawn = mutated(world, random, item)
            if drawn is not None:
                kind, label, ds, valid = drawn
                case = partial(wrong, partial(world.run, kind, ds), world.references[kind], refused if valid else [])
                tally.judge(kind, f"seed {seed}, input {item}: {label}", case)
    examples = [*tally.silent[:10], *(f"refused though valid: {each}" for each in refused)]
    yield tally.line("inputs_silent", len(tally.silent), 0, examples)
    yield tally.line("inputs_bare", len(tally.bare), 0, tally.bare)
    yield tally.line("inputs_slowest", tally.slowest[0], SLOWEST, [tally.slowest[1]])
