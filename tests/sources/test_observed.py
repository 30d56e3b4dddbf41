from __future__ import annotations

import pickle
from pathlib import Path

import numpy as np
import pytest
import rasterio
import xarray as xr
from hypothesis import given, settings
from hypothesis import strategies as st
from rasterio.enums import ColorInterp

from xland import vocabulary
from xland.errors import GridError, StoreError, TimeError, VocabularyError
from xland.geo.grid import Grid
from xland.reading.variables import NamedReads
from xland.sources import observed

NATIVE = 0.00998837
BASE_CODES = np.array([0, 11, 22, 33, 44, 55, 66, 77, 99], dtype=np.uint8)
FOREST_CODES = np.array([11, 40, 41, 42, 43, 44, 45, 77], dtype=np.uint8)


def native_axes(rows: int, columns: int, north: float = 50.0, west: float = 7.0) -> tuple[np.ndarray, np.ndarray]:
    """Cell centres of the released grid around a place, counted from 90 N and 180 W as it is."""
    top, left = round((90 - north) / NATIVE), round((west + 180) / NATIVE)
    lat = 90 - (top + np.arange(rows) + 0.5) * NATIVE
    lon = -180 + (left + np.arange(columns) + 0.5) * NATIVE
    return lat, lon


def hilda_netcdf(path: Path, years, codes=BASE_CODES, rows=300, columns=320, **changes) -> xr.Dataset:
    lat, lon = native_axes(rows, columns)
    values = np.random.default_rng(3).choice(codes, (len(years), rows, columns))
    ds = xr.Dataset(
        {"LULC_states": (("time", "latitude", "longitude"), values)},
        coords={
            "time": np.asarray(years, dtype=np.uint16),
            "latitude": lat.astype(np.float32),
            "longitude": lon.astype(np.float32),
        },
    )
    ds = changes.get("edit", lambda d: d)(ds)
    ds.to_netcdf(path)
    return ds


def raster(path: Path, values: np.ndarray, lat: np.ndarray, lon: np.ndarray, **profile) -> Path:
    down, across = lat[0] - lat[1], lon[1] - lon[0]
    transform = rasterio.transform.from_origin(lon[0] - across / 2, lat[0] + down / 2, across, down)
    bands = values if values.ndim == 3 else values[None]
    profile = {"crs": "EPSG:4326", "transform": transform} | profile
    with rasterio.open(
        path, "w", driver="GTiff", height=len(lat), width=len(lon), count=len(bands), dtype=values.dtype, **profile
    ) as target:
        target.write(bands)
    return path


def test_hilda_netcdf_opens_on_the_hundredth_of_a_degree_with_the_class_of_the_nearest_cell(tmp_path):
    ds = hilda_netcdf(tmp_path / "states.nc", [1960, 1961, 2019])
    found = observed.open_hilda(tmp_path / "states.nc")
    assert found.dims == ("time", "lat", "lon")
    assert found.year.values.tolist() == [1960, 1961, 2019]
    assert found.dtype == np.uint8
    assert found.chunks is not None
    world = Grid.world(0.01)
    assert set(found.lat.values) <= set(world.latitude)
    assert set(found.lon.values) <= set(world.longitude)
    assert found.size >= 3 * 290 * 310
    nearest = ds.LULC_states.sel(latitude=found.lat.values, longitude=found.lon.values, method="nearest")
    np.testing.assert_array_equal(found, vocabulary.translate(nearest.values, vocabulary.HILDA_BASE))


@pytest.mark.parametrize(
    ("name", "edit", "years"),
    [
        ("states.nc", lambda ds: ds, [0, 1]),
        ("bare.nc", lambda ds: ds.drop_vars("time"), [0, 1]),
        ("a.nc", lambda ds: ds.assign_coords(time=("time", [61, 62], {"units": "years since 1899-01-01"})), [61, 62]),
        ("b.nc", lambda ds: ds.assign_coords(time=("time", [0, 366], {"units": "days since 1960-01-01"})), [61, 62]),
        ("hilda_1985.nc", lambda ds: ds.isel(time=0, drop=True), [86]),
    ],
)
def test_hilda_times_become_years(tmp_path, name, edit, years):
    """Counted from 1899 without units, or as the units or the name of the file say."""
    hilda_netcdf(tmp_path / name, [0, 1], rows=20, columns=20, edit=edit)
    assert (observed.open_hilda(tmp_path / name).year.values - 1899).tolist() == years


def test_hilda_of_other_names_and_ascending_latitude_is_the_same_map(tmp_path):
    hilda_netcdf(tmp_path / "a.nc", [1990], rows=60, columns=50)

    def turned(ds):
        return (
            ds.rename(latitude="lat", longitude="lon").isel(lat=slice(None, None, -1)).transpose("lon", "time", "lat")
        )

    hilda_netcdf(tmp_path / "b.nc", [1990], rows=60, columns=50, edit=turned)
    xr.testing.assert_equal(observed.open_hilda(tmp_path / "a.nc"), observed.open_hilda(tmp_path / "b.nc"))


def test_the_years_wanted_come_in_the_order_wanted_and_a_missing_one_is_named(tmp_path):
    hilda_netcdf(tmp_path / "states.nc", [1960, 1961, 1962], rows=30, columns=30)
    every = observed.open_hilda(tmp_path / "states.nc")
    some = observed.open_hilda(tmp_path / "states.nc", years=[1962, 1960])
    xr.testing.assert_equal(some, every.sel(year=[1962, 1960]))
    with pytest.raises(TimeError, match="no map of 1850; it holds 3 years from 1960 to 1962"):
        observed.open_hilda(tmp_path / "states.nc", years=[1850, 1960])
    with pytest.raises(TimeError, match="twice"):
        observed.open_hilda(tmp_path / "states.nc", years=[1960, 1960])


def test_opening_reads_no_map_a_part_only_its_window_and_blocks_give_the_same_map(tmp_path, monkeypatch):
    monkeypatch.setattr(observed, "_BLOCK", 50)
    hilda_netcdf(tmp_path / "states.nc", [1960, 1961])
    windows = []
    read = NamedReads.__getitem__

    def watched(array, key):
        windows.append(key.tuple)
        return read(array, key)

    monkeypatch.setattr(NamedReads, "__getitem__", watched)
    found = observed.open_hilda(tmp_path / "states.nc")
    assert windows == []
    found.isel(time=1, lat=slice(0, 40), lon=slice(50, 90)).load()
    ((time, *window),) = windows
    assert time == 1
    assert all(each.stop - each.start <= 51 for each in window)
    parts = pickle.loads(pickle.dumps(found)).load()
    monkeypatch.setattr(observed, "_BLOCK", 1200)
    xr.testing.assert_equal(parts, observed.open_hilda(tmp_path / "states.nc"))


def test_kinds_of_forest_need_the_forest_product_and_a_declared_fill_value_is_no_data(tmp_path):
    def states(name, *codes, edit=lambda ds: ds):
        hilda_netcdf(tmp_path / name, [2000], codes=np.array(codes, np.uint8), rows=30, columns=30, edit=edit)
        return tmp_path / name

    def filled(ds):
        ds.LULC_states.attrs["_FillValue"] = np.uint8(255)
        return ds

    forest = states("f_states.nc", *FOREST_CODES)
    with pytest.raises(VocabularyError, match=r"f_states\.nc.* unknown codes 40 .*forest=True"):
        observed.open_hilda(forest).load()
    with pytest.raises(VocabularyError, match=r"crops\.nc: unknown codes 23 \(\d+ cells\)"):
        observed.open_hilda(states("crops.nc", 22, 23)).load()
    known = {vocabulary.URBAN, vocabulary.FOREST, vocabulary.WATER}
    assert set(np.unique(observed.open_hilda(forest, forest=True))) == known
    gaps = observed.open_hilda(states("gaps.nc", 22, 255, edit=filled))
    assert set(np.unique(gaps)) == {vocabulary.OCEAN, vocabulary.CROPLAND}


@pytest.mark.parametrize(
    ("years", "edit", "error", "message"),
    [
        ([1], lambda d: d.rename(LULC_states="x"), VocabularyError, "holds no LULC_states but x"),
        ([1], lambda d: d.expand_dims(member=2), GridError, r"LULC_states: has the dimensions member \(2\) beside"),
        ([1], lambda d: d.drop_vars("latitude"), GridError, "latitude"),
        ([1961, 1961], lambda d: d, TimeError, "a year twice: 2 steps, 1 years"),
    ],
)
def test_a_netcdf_that_is_not_one_of_states_is_named(tmp_path, years, edit, error, message):
    hilda_netcdf(tmp_path / "states.nc", years, rows=5, columns=5, edit=edit)
    with pytest.raises(error, match=message):
        observed.open_hilda(tmp_path / "states.nc")


def test_a_folder_of_geotiffs_is_the_same_as_the_netcdf(tmp_path):
    ds = hilda_netcdf(tmp_path / "states.nc", [1960, 2019], rows=80, columns=90)
    folder = tmp_path / "states"
    folder.mkdir()
    lat, lon = native_axes(80, 90)
    for year in (2019, 1960):
        name = f"hilda_plus_states_{year}_GLOB-v1-0_near_wgs84.tif"
        raster(folder / name, ds.LULC_states.sel(time=year).values, lat, lon)
    raster(folder / "hilda_plus_transitions_1960-1961.tif", np.full((80, 90), 1122, np.uint16), lat, lon)
    from_folder = observed.open_hilda(folder).load()
    xr.testing.assert_equal(from_folder, observed.open_hilda(tmp_path / "states.nc"))
    one = observed.open_hilda(folder / "hilda_plus_states_1960_GLOB-v1-0_near_wgs84.tif")
    xr.testing.assert_equal(one, from_folder.sel(year=[1960]))


def test_files_of_a_folder_that_contradict_each_other_are_named(tmp_path):
    lat, lon = native_axes(10, 10)
    values = np.full((10, 10), 44, np.uint8)
    with pytest.raises(StoreError, match="holds no GeoTIFF of states"):
        observed.open_hilda(tmp_path)
    raster(tmp_path / "base_1960.tif", values, lat, lon)
    raster(tmp_path / "forest_1961.tif", values, lat + NATIVE, lon)
    with pytest.raises(GridError, match=r"forest_1961\.tif is on another grid than base_1960\.tif"):
        observed.open_hilda(tmp_path)
    raster(tmp_path / "forest_1960.tif", values, lat, lon)
    with pytest.raises(TimeError, match=r"base_1960\.tif and forest_1960\.tif both hold 1960"):
        observed.open_hilda(tmp_path)
    raster(tmp_path / "a_1960_1970.tif", values, lat, lon)
    with pytest.raises(TimeError, match="found 1960 and 1970: rename it"):
        observed.open_hilda(tmp_path / "a_1960_1970.tif")
    with pytest.raises(StoreError, match="does not exist"):
        observed.open_hilda(tmp_path / "nowhere")
    raster(tmp_path / "map_2000.tif", np.full((8, 8), 11, np.uint8), 50 - 0.05 * np.arange(8), 7 + 0.05 * np.arange(8))
    with pytest.raises(GridError, match=r"cells of 0\.05 degree; expected were about 0\.01"):
        observed.open_hilda(tmp_path / "map_2000.tif")


def test_the_released_global_grid_covers_the_world_grid_exactly():
    rows, columns = round(180 / NATIVE), round(360 / NATIVE)
    lat = (90 - (np.arange(rows) + 0.5) * NATIVE).astype(np.float32)
    lon = (-180 + (np.arange(columns) + 0.5) * NATIVE).astype(np.float32)
    grid, row, column = observed.nearest_cells(lat, lon, 0.01, what="HILDA+")
    assert grid == Grid.world(0.01)
    assert np.abs(lat[row] - grid.latitude).max() <= NATIVE / 2 + 1e-4
    assert np.abs(lon[column] - grid.longitude).max() <= NATIVE / 2 + 1e-4
    assert row[0] == 0
    assert row[-1] == rows - 1
    assert (np.diff(row) >= 1).all()


@settings(max_examples=20, deadline=None)
@given(st.integers(2, 60), st.integers(2, 60), st.floats(-80, 85), st.floats(-179, 178), st.booleans())
def test_nearest_cells_are_nearest_wherever_the_region_lies(rows, columns, north, west, ascending):
    lat, lon = native_axes(rows, columns, north, west)
    lat = lat[::-1] if ascending else lat
    grid, row, column = observed.nearest_cells(lat, lon, 0.01, what="map")
    for centres, wanted, found in ((lat, grid.latitude, row), (lon, grid.longitude, column)):
        distance = np.abs(centres - wanted[:, None])
        np.testing.assert_allclose(distance[np.arange(found.size), found], distance.min(1), atol=1e-9)
    assert grid.north <= max(lat) + 0.0101
    assert grid.south >= min(lat) - 0.0101


def test_grids_that_cannot_be_brought_to_ours_are_named():
    lon = 7 + NATIVE * np.arange(5)
    with pytest.raises(GridError, match="latitude is not evenly spaced"):
        observed.nearest_cells(np.array([50, 49.99, 49.97, 49.96]), lon, 0.01, what="map")
    with pytest.raises(GridError, match=r"map: latitude has the shape .*at least two cells"):
        observed.nearest_cells(np.array([50.0]), lon, 0.01, what="map")
    with pytest.raises(GridError, match="holds no cell"):
        observed.nearest_cells(95 - NATIVE * np.arange(5), lon, 0.01, what="map")


IGBP_LAT, IGBP_LON = 60 - 0.25 * (np.arange(6) + 0.5), 10 + 0.25 * (np.arange(8) + 0.5)


def test_a_geotiff_of_igbp_codes_opens_as_classes_north_first_and_from_180_west(tmp_path):
    codes = np.random.default_rng(0).integers(0, 17, (6, 8), dtype=np.uint8)
    path = raster(tmp_path / "igbp.tif", codes, IGBP_LAT, IGBP_LON)
    found = observed.open_map(path)
    assert found.dims == ("lat", "lon")
    assert found.chunks is not None
    np.testing.assert_array_equal(found, vocabulary.translate(codes, vocabulary.IGBP))
    np.testing.assert_allclose(found.lat, IGBP_LAT)
    np.testing.assert_allclose(found.lon, IGBP_LON)
    turned = raster(tmp_path / "south.tif", codes[::-1], IGBP_LAT[::-1], IGBP_LON + 360)
    xr.testing.assert_allclose(observed.open_map(turned), found)
    raster(path, codes[::-1], IGBP_LAT, IGBP_LON)
    assert found.data.name != observed.open_map(path).data.name, "a file that is replaced is read again"
    dated = observed.open_map(path, vocabulary.IGBP, 2019)
    assert dated.dims == ("time", "lat", "lon")
    assert dated.year.values.tolist() == [2019]


def test_no_data_of_a_geotiff_is_class_0_unless_the_table_knows_the_code(tmp_path):
    codes = np.full((6, 8), 255, np.uint8)
    codes[0] = 13
    path = raster(tmp_path / "gaps.tif", codes, IGBP_LAT, IGBP_LON, nodata=255)
    assert np.unique(observed.open_map(path)).tolist() == [vocabulary.OCEAN, vocabulary.URBAN]
    known = raster(tmp_path / "zero.tif", np.zeros((6, 8), np.uint8), IGBP_LAT, IGBP_LON, nodata=0)
    assert np.unique(observed.open_map(known)).tolist() == [vocabulary.WATER]
    with pytest.raises(VocabularyError, match=r"plain\.tif: unknown codes 255"):
        observed.open_map(raster(tmp_path / "plain.tif", codes, IGBP_LAT, IGBP_LON)).load()


@pytest.mark.parametrize(
    ("profile", "change", "error", "message"),
    [
        ({"crs": "EPSG:32632"}, {}, GridError, "in the projection EPSG:32632: bring it to a regular grid"),
        ({"crs": None}, {}, GridError, "no reference system"),
        ({"transform": rasterio.Affine(0.25, 0.05, 10, 0.05, -0.25, 60)}, {}, GridError, "rotated"),
        ({"crs": "+proj=longlat +ellps=clrk80 +pm=paris"}, {}, GridError, "prime meridian"),
        ({}, {"scales": [0.5]}, VocabularyError, "is packed"),
        ({"bands": 2}, {"colorinterp": [ColorInterp.gray, ColorInterp.alpha]}, GridError, "holds 2 bands"),
        ({"values": np.full((1, 6, 8), 1.5, np.float32)}, {}, VocabularyError, "found fractions"),
        ({"values": np.ones((1, 6, 8), np.complex64)}, {}, VocabularyError, "complex"),
    ],
)
def test_geotiffs_that_are_not_of_codes_on_latitude_and_longitude_are_named(tmp_path, profile, change, error, message):
    codes = profile.pop("values", np.ones((profile.pop("bands", 1), 6, 8), np.uint8))
    path = raster(tmp_path / "map.tif", codes, IGBP_LAT, IGBP_LON, **profile)
    with rasterio.open(path, "r+") as file:
        for name, value in change.items():
            setattr(file, name, value)
    with pytest.raises(error, match=message):
        observed.open_map(path).load()


@pytest.mark.parametrize("opened", [observed.open_map, observed.open_hilda])
def test_files_that_no_library_reads_are_named_in_one_line(tmp_path, opened):
    for name in ("map_2000.tif", "map_2000.nc"):
        (tmp_path / name).write_text("neither this nor that")
        with pytest.raises(StoreError, match=r"map_2000\.\w+ cannot be read as \w+: [^\n]*another format\?$") as error:
            opened(tmp_path / name)
        assert "http" not in str(error.value)


def test_a_file_that_ends_too_early_is_named_when_its_block_is_read(tmp_path):
    codes = np.random.default_rng(0).integers(1, 17, (60, 80)).astype(np.uint8)
    lat, lon = 50 - 0.25 * (np.arange(60) + 0.5), 0.25 * (np.arange(80) + 0.5)
    path = raster(tmp_path / "map.tif", codes, lat, lon)
    path.write_bytes(path.read_bytes()[:1500])
    lazy = observed.open_map(path)
    with pytest.raises(StoreError, match=r"map\.tif: values cannot be read from its file: .*; if the file is damaged"):
        lazy.compute()


def test_a_crs_is_understood_by_rioxarray_and_the_input_is_left_alone():
    grid = Grid(0.5, 50.0, -10.0, 4, 6)
    coords = {"time": [2015], "lat": grid.latitude, "lon": grid.longitude}
    plain = xr.DataArray(np.ones((1, 4, 6), np.uint8), coords, ("time", "lat", "lon"), "land_use", {"long_name": "x"})
    found = observed.with_crs(plain)
    assert found.rio.crs.to_epsg() == 4326
    assert found.rio.bounds() == (-10, 48, -7, 50)
    assert found.sel(lat=slice(50, 49)).rio.bounds() == (-10, 49, -7, 50)
    assert plain.attrs == {"long_name": "x"}
    assert "spatial_ref" not in plain.coords
    xr.testing.assert_identical(observed.with_crs(found), found)
    with pytest.raises(GridError, match="missing: lat"):
        observed.with_crs(plain.rename(lat="y"))


@pytest.mark.parametrize("kind", ["mask", "msk", "nan", "float", "signed"])
def test_what_a_raster_says_about_its_own_validity_is_honoured(tmp_path, kind):
    codes, empty = np.full((6, 8), 12, np.uint8), np.zeros((6, 8), bool)
    empty[2:4, 3] = True
    fill, dtype = {"nan": (np.nan, "float32"), "float": (-3.4e38, "float32"), "signed": (-1, "int16")}.get(
        kind, (200, "uint8")
    )
    path = tmp_path / "map.tif"
    options = {} if kind in ("mask", "msk") else {"nodata": fill}
    transform = rasterio.transform.from_origin(10, 50, 0.05, 0.05)
    with (
        rasterio.Env(GDAL_TIFF_INTERNAL_MASK=kind == "mask"),
        rasterio.open(
            path, "w", driver="GTiff", height=6, width=8, count=1, dtype=dtype, crs=4326, transform=transform, **options
        ) as file,
    ):
        file.write(np.where(empty, fill, codes.astype(dtype)).astype(dtype), 1)
        if kind in ("mask", "msk"):
            file.write_mask(~empty)
    assert (tmp_path / "map.tif.msk").exists() == (kind == "msk")
    np.testing.assert_array_equal(observed.open_map(path).values, np.where(empty, 0, vocabulary.CROPLAND))
