"""Inputs with one or two mutations, over forcing, static predictors, priors, observed maps and training targets.

Each input is a valid small world, changed by seed: values, attributes, types, coordinates, names, dimensions, order,
time, packing, fill values; in memory, in dask chunks, in NetCDF, Zarr and GeoTIFF files. A mutation that does not
change what the input means must give the reference by label; any other must end in a named error, or change nothing.
"""

# ruff: noqa: E501, PD013 - the table of mutations has one a line; xarray stacks, pandas does not come in
from __future__ import annotations

import tempfile
import time
import warnings
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import xarray as xr

from tests.worlds import tiny_checkpoint, tiny_inputs
from xland.datasets import synthetic_world
from xland.errors import XlandError
from xland.geo.orientation import orient
from xland.sources.observed import open_map

INPUTS = 1000
SLOWEST = 20.0
YEARS = (2000, 2001)
STATIC = ["elevation", "abs_latitude", "land_share"]
KINDS = ("forcing", "static", "prior", "observed", "target")
FORMS = ("memory", "dask", "netcdf", "zarr", "geotiff")

Random = np.random.Generator
Change = Callable[[xr.Dataset, Random], xr.Dataset]


@dataclass(frozen=True)
class Mutation:
    """A change of an input, the kinds of input that it is for, and whether its meaning stays the same."""

    name: str
    change: Change
    same: bool
    kinds: tuple[str, ...] = KINDS
    files: bool = True  # whether files can hold what it makes


class World:
    """The valid inputs, and what they give."""

    def __init__(self, folder: str) -> None:
        self.folder = Path(folder)
        world = synthetic_world((40, 48), 4, YEARS, resolution=0.25)
        self.inputs = {
            prior: replace(tiny_inputs(prior), resolution=0.0625, window=40, stride=20) for prior in ("none", "code")
        }
        self.models = {
            prior: tiny_checkpoint(self.folder / f"model-{prior}", inputs) for prior, inputs in self.inputs.items()
        }
        self.valid = {
            "forcing": world.forcing,
            "static": world.static[STATIC].assign(
                {name: world.static[name].where(world.static["land_share"] > 0) for name in STATIC[:2]}
            ),
            "prior": world.land_use.sel(time=[2000]).to_dataset(name="land_use"),
            "observed": world.land_use.to_dataset(name="land_use"),
            "target": world.land_use.to_dataset(name="land_use"),
        }
        self.references = {kind: self.run(kind, self.valid[kind]) for kind in KINDS}

    def run(self, kind: str, given: xr.Dataset) -> Any:
        """What an input gives, in canonical order."""
        forcing, static = self.valid["forcing"], self.valid["static"]
        if kind == "forcing":
            return self._map(given.ai4land.downscale(model=self.models["none"], static=static))
        if kind == "static":
            return self._map(forcing.ai4land.downscale(model=self.models["none"], static=given))
        if kind == "prior":
            return self._map(
                forcing.ai4land.downscale(model=self.models["code"], static=static, prior=given, years=2001)
            )
        if kind == "observed":
            predicted = self.valid["prior"]["land_use"].copy(data=self.valid["observed"]["land_use"].values[1:])
            return str(predicted.assign_coords(time=[2001]).ai4land.evaluate(given))
        batches = forcing.ai4land.batches(
            target=given.get("land_use", given),
            static=static,
            inputs=self.inputs["none"],
            part=None,
            patch=40,
            stride=20,
            batch=64,
        )
        return np.concatenate([batch["target"].values.ravel() for batch in batches])

    def _map(self, result: xr.Dataset) -> np.ndarray:
        return orient(result["land_use"].compute(), what="map")[0].values


def places(random: Random, ds: xr.Dataset, kind: str, count: int = 1) -> tuple[np.ndarray, ...]:
    """Some cells of land, as indices of the last two dimensions as they lie in the valid world."""
    first = next(iter(ds.data_vars.values()))
    values = first.values if first.ndim == 2 else first.values[0]
    land = np.argwhere(np.isfinite(values) & (values > 0) if kind != "codes" else values > 0)
    chosen = land[random.choice(len(land), size=min(count, len(land)), replace=False)]
    return tuple(chosen.T)


def pick(ds: xr.Dataset, random: Random) -> str:
    """One of the variables."""
    return str(random.choice([str(name) for name in ds.data_vars if str(name) not in ("secma", "secmb")]))


def with_values(name: str, value: float, *, same: bool = False, kinds: tuple[str, ...] = KINDS) -> Mutation:
    """Put a value into some cells of land of one variable."""

    def change(ds: xr.Dataset, random: Random) -> xr.Dataset:
        variable = pick(ds, random)
        array = ds[variable]
        at = places(
            random, ds[["land_share"]] if "land_share" in ds else ds[[variable]], "", int(random.integers(1, 30))
        )
        values = array.values.astype(
            np.float64 if not float(value).is_integer() or array.dtype.kind == "f" else np.int64
        )
        values[(..., *at)] = value
        return ds.assign({variable: (array.dims, values, array.attrs)})

    return Mutation(name, change, same, kinds)


def with_attribute(key: str, value: Any, *, same: bool, kinds: tuple[str, ...] = KINDS, files: bool = True) -> Mutation:
    """Set an attribute of one variable."""

    def change(ds: xr.Dataset, random: Random) -> xr.Dataset:
        variable = pick(ds, random)
        return ds.assign({variable: ds[variable].assign_attrs({key: value})})

    return Mutation(f"{key}={value!r}", change, same, kinds, files)


def of_coordinate(name: str, change: Callable[[np.ndarray], Any], *, attrs: dict[str, Any] | None = None) -> Mutation:
    """Change latitude or longitude, so that it means something else."""

    def mutate(ds: xr.Dataset, random: Random) -> xr.Dataset:
        axis = str(random.choice(["lat", "lon"]))
        old = ds[axis]
        return ds.assign_coords({axis: (axis, change(old.values.copy()), {**old.attrs, **(attrs or {})})})

    return Mutation(name, mutate, same=False)


def mapped(name: str, function: Callable[[xr.DataArray], xr.DataArray], *, same: bool, **options: Any) -> Mutation:
    """Change one variable as a whole."""

    def change(ds: xr.Dataset, random: Random) -> xr.Dataset:
        variable = pick(ds, random)
        return ds.assign({variable: function(ds[variable])})

    return Mutation(name, change, same, **options)


def everywhere(
    name: str, function: Callable[[xr.Dataset, Random], xr.Dataset], *, same: bool, **options: Any
) -> Mutation:
    """Change the whole Dataset."""
    return Mutation(name, function, same, **options)


def _filled(key: str, fill: float, dtype: str) -> Mutation:
    """Declare a fill value in place of no data or of what the sea may hold."""

    def change(ds: xr.Dataset, random: Random) -> xr.Dataset:
        out = ds
        for name, array in ds.data_vars.items():
            empty = np.isnan(array.values)
            values = np.where(empty, fill, array.values).astype(dtype)
            out = out.assign({name: (array.dims, values, {**array.attrs, key: np.dtype(dtype).type(fill)})})
        return out

    return Mutation(f"{key} {fill:g} {dtype}", change, same=True, kinds=("forcing", "static"))


def _codes_filled(key: str, fill: int, dtype: str) -> Mutation:
    def change(ds: xr.Dataset, random: Random) -> xr.Dataset:
        array = ds["land_use"]
        if array.dtype.kind not in "iu":
            raise TypeError("these codes may be fractions")
        values = np.where(array.values == 0, fill, array.values.astype(dtype)).astype(dtype)
        return ds.assign(land_use=(array.dims, values, {**array.attrs, key: np.dtype(dtype).type(fill)}))

    return Mutation(f"codes {key} {fill} {dtype}", change, same=True, kinds=("observed", "target"))


def _masked_codes(ds: xr.Dataset, random: Random) -> xr.Dataset:
    array = ds["land_use"].where(ds["land_use"] != 0).astype("f4")
    array.encoding = {"_FillValue": 255.0}
    return ds.assign(land_use=array)


def _bounds(offset: float) -> Change:
    def change(ds: xr.Dataset, random: Random) -> xr.Dataset:
        half = abs(float(ds["lat"][1] - ds["lat"][0])) / 2
        centres = ds["lat"].values + offset * half
        edges = np.stack([centres - half, centres + half], axis=1)
        lat = ("lat", ds["lat"].values, {**ds["lat"].attrs, "bounds": "lat_bnds"})
        return ds.assign(lat_bnds=(("lat", "bnds"), edges)).assign_coords(lat=lat)

    return change


def _mapping(**attributes: Any) -> Change:
    def change(ds: xr.Dataset, random: Random) -> xr.Dataset:
        out = ds.assign(crs=((), 0, attributes))
        for name in ds.data_vars:
            out[name].attrs["grid_mapping"] = "crs"
        return out

    return change


def _renamed(**names: str) -> Change:
    return lambda ds, random: ds.rename({old: new for old, new in names.items() if old in ds.dims})


def _time(values: Any, **attributes: Any) -> Change:
    def change(ds: xr.Dataset, random: Random) -> xr.Dataset:
        chosen = values[: ds.sizes["time"]]
        return ds.assign_coords(time=("time", chosen, attributes))

    return change


TIMED = ("forcing", "prior", "observed", "target")
MAPS = ("prior", "observed", "target")


def _flags(ds: xr.Dataset, random: Random) -> xr.Dataset:
    attributes = {
        "flag_values": np.arange(8, dtype="u1"),
        "flag_meanings": "water forest crops grass town bare ice sea",
    }
    return ds.assign(land_use=ds["land_use"].assign_attrs(attributes))


@cache
def mutations() -> tuple[Mutation, ...]:
    """All of them."""
    found = [
        everywhere("as it is", lambda ds, _: ds, same=True),
        everywhere("south first", lambda ds, _: ds.isel(lat=slice(None, None, -1)), same=True),
        everywhere("east first", lambda ds, _: ds.isel(lon=slice(None, None, -1)), same=True),
        everywhere("a turn to the west", lambda ds, _: ds.assign_coords(lon=ds.lon - 360), same=True),
        everywhere("a turn to the east", lambda ds, _: ds.assign_coords(lon=ds.lon + 360), same=True),
        everywhere("transposed", lambda ds, _: ds.transpose("lon", "lat", ...), same=True),
        everywhere("transposed again", lambda ds, _: ds.transpose("lat", ..., "lon"), same=True),
        everywhere("latitude/longitude", _renamed(lat="latitude", lon="longitude"), same=True),
        everywhere("y/x", _renamed(lat="y", lon="x"), same=True),
        everywhere("nav", _renamed(lat="nav_lat", lon="nav_lon"), same=True),
        everywhere("rows/columns", _renamed(lat="rows", lon="columns"), same=True),
        everywhere("names of statistics", _renamed(lat="mean", lon="values"), same=True),
        everywhere("float32 coordinates", lambda ds, _: ds.assign_coords(lat=ds.lat.astype("f4"), lon=ds.lon.astype("f4")), same=True),
        everywhere("a scalar coordinate", lambda ds, _: ds.assign_coords(member=3, note="x"), same=True),
        everywhere("a further coordinate", lambda ds, _: ds.assign_coords(zone=("lat", np.arange(ds.sizes["lat"]))), same=True),
        everywhere("a further variable", lambda ds, _: ds.assign(notes=((), "text")), same=True),
        everywhere("attributes of the whole", lambda ds, _: ds.assign_attrs(a=1, b="x", c=[1.5, 2.5]), same=True),
        everywhere("middles of bounds", _bounds(0.0), same=True),
        everywhere("corners of bounds", _bounds(1.0), same=False),
        everywhere("other corners of bounds", _bounds(-1.0), same=False),
        everywhere("grid mapping", _mapping(grid_mapping_name="latitude_longitude"), same=True),
        everywhere("rotated pole", _mapping(grid_mapping_name="rotated_latitude_longitude", grid_north_pole_latitude=39.0), same=False),
        everywhere("Lambert", _mapping(grid_mapping_name="lambert_conformal_conic"), same=False),
        everywhere("projected wkt", _mapping(crs_wkt='PROJCRS["ETRS89 / LAEA Europe"]'), same=False),
        everywhere("another meridian", _mapping(grid_mapping_name="latitude_longitude", longitude_of_prime_meridian=2.337), same=False),
        everywhere("members", lambda ds, _: ds.expand_dims(member=[1, 2]), same=False),
        everywhere("levels of the ensemble", lambda ds, _: ds.expand_dims(level=3), same=False),
        everywhere("one band", lambda ds, _: ds.expand_dims(band=[1]), same=True),
        everywhere("one member", lambda ds, _: ds.expand_dims("member", axis=-1), same=True),
        everywhere("no row", lambda ds, _: ds.isel(lat=slice(0, 0)), same=False),
        everywhere("no column", lambda ds, _: ds.isel(lon=slice(0, 0)), same=False),
        everywhere("one row", lambda ds, _: ds.isel(lat=slice(0, 1)), same=False),
        everywhere("a single cell", lambda ds, _: ds.isel(lat=0, lon=0), same=False),
        everywhere("a row left out", lambda ds, _: ds.drop_isel(lat=4), same=False),
        everywhere("two columns changed places", lambda ds, _: ds.isel(lon=[1, 0, *range(2, ds.sizes["lon"])]), same=False),
        everywhere("a row twice", lambda ds, _: ds.isel(lat=[0, 0, *range(1, ds.sizes["lat"])]), same=False),
        everywhere("points", lambda ds, _: ds.stack(cell=("lat", "lon")), same=False, files=False),
        everywhere("points without an index", lambda ds, _: ds.stack(cell=("lat", "lon")).reset_index("cell"), same=False),
        everywhere("years and rows stacked", lambda ds, _: ds.stack(z=("time", "lat")), same=False, kinds=TIMED, files=False),
        everywhere("latitude without labels", lambda ds, _: ds.drop_vars("lat"), same=False),
        everywhere("called class", _renamed(lat="class"), same=False),
        everywhere("called land_use", _renamed(lon="spatial_ref"), same=False),
        everywhere("two latitudes", lambda ds, _: ds.assign_coords(latitude=("lon", ds.lon.values)), same=False),
        everywhere("a map of latitudes", lambda ds, _: ds.rename(lat="j", lon="i").drop_vars(["i", "j"]).assign_coords(
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
        with_attribute("_FillValue", "abc", same=False, files=False),
        with_attribute("missing_value", "none", same=False, files=False),
        with_attribute("scale_factor", 0.5, same=False), with_attribute("add_offset", 1.0, same=False),
        with_attribute("scale_factor", "x", same=False), with_attribute("scale_factor", 1.0, same=True),
        with_attribute("add_offset", 0.0, same=True), with_attribute("grid_mapping", 5, same=False),
        with_attribute("units", 5, same=True, files=False), with_attribute("units", None, same=True, files=False),
        with_attribute("long_name", ["a", "b"], same=True), with_attribute("coordinates", "lat lon", same=True, files=False),
        with_attribute("cell_methods", "area: mean", same=True), with_attribute("valid_range", 5, same=False),
        with_attribute("valid_range", [-1e9, 1e9], same=True), with_attribute("valid_min", "low", same=False),
        with_attribute("missing_value", [-7777.0, 1e20], same=True, files=False),
        with_attribute("flag_values", "abc", same=True), with_attribute("standard_name", "", same=True),
        with_attribute("standard_name", 7, same=True), with_attribute("axis", 7, same=True), with_attribute("bounds", 7, same=True),
        with_attribute("units", "percent", same=False, kinds=("forcing",)), with_attribute("units", "%", same=False, kinds=("forcing",)),
        with_attribute("units", "km2", same=False, kinds=("forcing",)),
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
        *(_filled(key, fill, dtype) for key in ("_FillValue", "_Fillvalue", "missing_value", "fill_value", "nodata", "FillValue")
          for fill, dtype in ((-9999.0, "f4"), (1e20, "f4"), (-1.0, "f8"), (np.nan, "f4"))),
        *(_codes_filled(key, fill, dtype) for key in ("_FillValue", "missing_value", "nodata", "_Fillvalue")
          for fill, dtype in ((99, "u1"), (255, "u1"), (-1, "i2"), (-9999, "i4"), (-9999, "f4"))),
        everywhere("masked codes", _masked_codes, same=True, kinds=("observed", "target")),
        everywhere("another legend", _flags, same=False, kinds=MAPS),
        everywhere("land share in percent", lambda ds, _: ds.assign(land_share=ds.land_share * 100), same=False, kinds=("static",)),
        everywhere("land share says percent", lambda ds, _: ds.assign(land_share=ds.land_share.assign_attrs(units="%")), same=False, kinds=("static",)),
        everywhere("negative land share", lambda ds, _: ds.assign(land_share=-ds.land_share), same=False, kinds=("static",)),
        everywhere("elevation in km", lambda ds, _: ds.assign(elevation=(ds.elevation / 1000).assign_attrs(units="km")), same=False, kinds=("static",)),
        everywhere("no data in the sea", lambda ds, _: ds.assign(elevation=ds.elevation.where(ds.land_share > 0)), same=True, kinds=("static",)),
        everywhere("1e30 in the sea", lambda ds, _: ds.assign(elevation=ds.elevation.where(ds.land_share > 0, 1e30)), same=True, kinds=("static",)),
        everywhere("one time", lambda ds, _: ds.expand_dims(time=[2000]), same=True, kinds=("static",)),
        everywhere("two times", lambda ds, _: ds.expand_dims(time=[2000, 2001]), same=False, kinds=("static",)),
        everywhere("lacks one", lambda ds, _: ds.drop_vars(str(next(iter(ds.data_vars)))), same=False),
        everywhere("secma NaN", lambda ds, _: ds.assign(secma=ds.secma.where(ds.primf < 0.01)), same=False, kinds=("forcing",)),
        everywhere("secmb in t/ha", lambda ds, _: ds.assign(secmb=(ds.secmb * 10).assign_attrs(units="t ha-1")), same=False, kinds=("forcing",)),
        everywhere("secma in days", lambda ds, _: ds.assign(secma=(ds.secma * 365).assign_attrs(units="days")), same=False, kinds=("forcing",)),
        everywhere("years since", _time([150.0, 151.0], units="years since 1850-01-01", calendar="365_day"), same=True, kinds=TIMED),
        everywhere("days since", _time([54787, 55153], units="days since 1850-01-01"), same=True, kinds=TIMED),
        everywhere("dates", _time(pd.to_datetime(["2000-07-01", "2001-07-01"])), same=True, kinds=TIMED),
        everywhere("%Y%m%d", _time([20000101, 20010101], units="day as %Y%m%d.%f"), same=True, kinds=TIMED),
        everywhere("counts", _time([0, 1]), same=False, kinds=("forcing", "prior", "target")),
        everywhere("a year twice", _time([2000, 2000]), same=False, kinds=("forcing", "observed", "target")),
        everywhere("no date", _time(np.array(["2000-01-01", "NaT"], "M8[s]")), same=False, kinds=("forcing", "observed", "target")),
        everywhere("text as years", _time(["first", "second"]), same=False, kinds=TIMED),
        everywhere("units of time that are none", _time([5, 6], units="fortnights since yesterday"), same=False, kinds=TIMED),
        everywhere("years of another record", _time([1901, 1902]), same=False, kinds=("prior", "target")),
        everywhere("year as the name of time", lambda ds, _: ds.rename(time="year"), same=True, kinds=TIMED),
        everywhere("time is NaT", lambda ds, _: ds.isel(time=0, drop=True).assign_coords(time=np.datetime64("NaT", "ns")), same=False, kinds=("prior",)),
    ]  # fmt: skip
    return tuple(found)


def in_form(form: str, kind: str, ds: xr.Dataset, path: Path, random: Random) -> xr.Dataset:
    """Return the input as it comes from somewhere; what a format cannot hold stays in memory."""
    if form == "dask":
        return ds.chunk({dim: max(1, int(size // random.integers(1, 4))) for dim, size in ds.sizes.items()})
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
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
    names = {"y": "lat", "x": "lon"}
    steps = []
    for step in range(array.sizes["time"]):
        file = path.with_name(f"{path.name}-{step}.tif")
        flat = array.isel(time=step, drop=True).rename({own: axis for axis, own in names.items()})
        fill = flat.attrs.pop("_FillValue", None)
        flat = flat.rio.write_crs(4326)
        (flat if fill is None else flat.rio.write_nodata(fill)).rio.to_raster(file)
        steps.append(rioxarray.open_rasterio(file, masked=bool(step % 2)))
    joined = xr.concat(steps, "time").assign_coords(time=array["time"])
    return joined.to_dataset(name="land_use")


def raster(random: Random, folder: Path, item: int) -> tuple[str, Path, np.ndarray, bool]:
    """A GeoTIFF of IGBP codes with something of its own: what it is, its classes, and whether it must be refused."""
    import rasterio
    from rasterio.transform import from_origin

    from xland.vocabulary import IGBP, translate

    codes = random.integers(0, 17, (30, 40)).astype("u1")
    empty = random.random(codes.shape) < 0.2
    expected = np.where(empty, 0, translate(codes, IGBP))
    options: dict[str, Any] = {
        "driver": "GTiff", "height": 30, "width": 40, "count": 1, "dtype": "uint8", "crs": "EPSG:4326",
        "transform": from_origin(10, 50, 0.05, 0.05),
    }  # fmt: skip
    refusing = [
        "undeclared",
        "scaled",
        "offset",
        "bands",
        "projected",
        "no-crs",
        "rotated",
        "meridian",
        "alpha",
        "complex",
        "fractions",
    ]
    kinds = ["nodata", "float", "nan", "mask", "msk", "palette", "south", "tiled", "signed", *refusing]
    kind = str(random.choice(kinds))
    values: np.ndarray = np.where(empty, 200, codes).astype("u1")
    refused = kind in refusing
    if kind in [
        "nodata",
        "palette",
        "tiled",
        "scaled",
        "offset",
        "projected",
        "no-crs",
        "rotated",
        "meridian",
        "south",
    ]:
        options["nodata"] = 200
    if kind == "tiled":
        options |= {"tiled": True, "blockxsize": 16, "blockysize": 16, "compress": "deflate"}
    least = float(np.finfo("f4").min)
    kept: dict[str, tuple[np.ndarray, dict[str, Any]]] = {
        "float": (np.where(empty, least, codes).astype("f4"), {"dtype": "float32", "nodata": least}),
        "nan": (np.where(empty, np.nan, codes).astype("f4"), {"dtype": "float32", "nodata": np.nan}),
        "fractions": ((codes + 0.5).astype("f4"), {"dtype": "float32"}),
        "signed": (np.where(empty, -1, codes.astype("i2")), {"dtype": "int16", "nodata": -1}),
        "complex": (codes.astype("c8"), {"dtype": "complex64"}),
    }
    values, more = kept.get(kind, (values, {}))
    options |= more
    if kind == "south":
        values, options["transform"] = values[::-1], rasterio.Affine(0.05, 0, 10, 0, 0.05, 48.5)
    if kind == "rotated":
        options["transform"] = from_origin(10, 50, 0.05, 0.05) * rasterio.Affine.rotation(10)
    if kind in ("bands", "alpha"):
        options["count"] = 2
    systems = {"projected": "EPSG:3035", "no-crs": None, "meridian": "+proj=longlat +ellps=clrk80 +pm=paris"}
    options["crs"] = systems.get(kind, "EPSG:4326")
    path = folder / f"raster-{item}.tif"
    with rasterio.Env(GDAL_TIFF_INTERNAL_MASK=kind == "mask"), rasterio.open(path, "w", **options) as file:
        file.write(values, 1)
        if kind in ("mask", "msk"):
            file.write_mask(~empty)
        if kind == "palette":
            file.write_colormap(1, {code: (code, 2 * code, 255 - code, 255) for code in range(17)})
        if kind == "alpha":
            file.write(np.where(empty, 0, 255).astype("u1"), 2)
            file.colorinterp = [rasterio.enums.ColorInterp.gray, rasterio.enums.ColorInterp.alpha]
        if kind == "scaled":
            file.scales = [0.5]
        if kind == "offset":
            file.offsets = [1.0]
    return kind, path, expected, refused


def differs(got: Any, reference: Any) -> bool:
    """Whether a result is another than that of the valid input."""
    if isinstance(reference, str):
        return bool(got != reference)
    return got.shape != reference.shape or not np.array_equal(got, reference)


def judge(run: Callable[[], Any], reference: Any, *, valid: bool, refuse: bool = False) -> tuple[str, str]:
    """Run an input; return its verdict (right, refused, silent or bare) and what was said."""
    try:
        wrong = differs(run(), reference) or refuse
    except XlandError as error:
        return ("refused", str(error)) if valid else ("right", "")
    except Exception as error:  # noqa: BLE001 - what is looked for
        return "bare", f"{type(error).__name__}: {str(error)[:200]}"
    return ("silent", "") if wrong else ("right", "")


def mutated(world: World, random: Random, item: int) -> tuple[str, str, xr.Dataset | None, bool]:
    """One input: what it is, its kind, the input (None if two mutations do not go together), whether it stays valid."""
    kind, form = KINDS[item % len(KINDS)], str(random.choice(FORMS))
    fitting = [each for each in mutations() if kind in each.kinds]
    chosen = [fitting[int(random.integers(len(fitting)))]]
    if random.random() < 0.3:
        chosen.insert(0, fitting[int(random.integers(len(fitting)))])
    label = f"{kind} {form}: {' and '.join(each.name for each in chosen)}"
    ds = world.valid[kind].copy(deep=True)
    try:
        for each in chosen:
            ds = each.change(ds, random)
    except Exception:  # noqa: BLE001 - of one that another has changed before
        return label, kind, None, False
    holds = all(each.files for each in chosen)
    ds = in_form(form if holds else "memory", kind, ds, world.folder / f"i{item}", random)
    return label, kind, ds, all(each.same for each in chosen)


def campaign(quick: bool, seed: int = 0) -> Iterator[dict[str, Any]]:
    """Draw the inputs, run them, and count what is wrong: every tenth is a raster file."""
    number = INPUTS // 10 if quick else INPUTS
    found: dict[str, list[str]] = {"silent": [], "bare": [], "refused": [], "right": []}
    slowest, slow = 0.0, ""
    with tempfile.TemporaryDirectory() as folder, warnings.catch_warnings():
        warnings.simplefilter("ignore")
        world = World(folder)
        done = item = 0
        while done < number:
            random = np.random.default_rng([seed, item])
            label = f"seed {seed}, input {item}: "
            begun = time.monotonic()
            if item % 11 == 10:
                name, path, expected, refuse = raster(random, world.folder, item)
                label += f"raster {name}"
                verdict, said = judge(lambda at=path: open_map(at).values, expected, valid=not refuse, refuse=refuse)  # type: ignore[misc]
            else:
                what, kind, ds, valid = mutated(world, random, item)
                label, begun = label + what, time.monotonic()
                if ds is None:
                    item += 1
                    continue
                verdict, said = judge(lambda k=kind, d=ds: world.run(k, d), world.references[kind], valid=valid)  # type: ignore[misc]
            took = time.monotonic() - begun
            found[verdict].append(f"{label}: {said}" if said else label)
            slowest, slow = max((slowest, slow), (took, label))
            item, done = item + 1, done + 1
    sizes = {"inputs": number, "mutations": len(mutations()), "refused_though_valid": len(found["refused"])}
    examples = found["silent"][:40] + [f"refused though valid: {each}" for each in found["refused"][:20]]
    yield {"name": "inputs_silent", "value": len(found["silent"]), "target": 0, "sizes": sizes, "examples": examples}
    yield {
        "name": "inputs_bare",
        "value": len(found["bare"]),
        "target": 0,
        "sizes": sizes,
        "examples": found["bare"][:40],
    }
    yield {"name": "inputs_slowest", "value": round(slowest, 2), "target": SLOWEST, "sizes": sizes, "examples": [slow]}
