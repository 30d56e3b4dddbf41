from __future__ import annotations

import re

import numpy as np
import pytest
import xarray as xr

from tests.exports.products import GRID, YEARS, product
from xland.cli import main
from xland.errors import GridError, KeywordError, StoreError, TimeError
from xland.exports.export import export
from xland.store.reading import open_store
from xland.store.writing import write
from xland.vocabulary import CLASS_NAMES, CLASSES, flag_attributes

rasterio = pytest.importorskip("rasterio")


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    target = tmp_path_factory.mktemp("exports") / "maps"
    export(product().isel(lat=slice(None, None, -1)), target, form="geotiff", progress=False)
    return target


def test_a_class_map_has_colours_and_names_and_lies_where_it_should(folder):
    expected = {f"{name}_{year}.tif" for name in ("land_use", "confidence", "probability") for year in YEARS}
    assert {path.name for path in folder.glob("*.tif")} == expected
    with rasterio.open(folder / "land_use_2010.tif") as found:
        assert found.crs.to_epsg() == 4326
        assert tuple(found.bounds) == (GRID.west, GRID.south, GRID.east, GRID.north)
        np.testing.assert_array_equal(found.read(1), product().isel(time=1)["land_use"])
        for each in CLASSES:
            assert "#{:02x}{:02x}{:02x}".format(*found.colormap(1)[each.code][:3]) == each.color.lower()
        assert found.tags()["YEAR"] == "2010"
        assert found.tags(ns="IMAGE_STRUCTURE")["LAYOUT"] == "COG"
    beside = (folder / "land_use_2010.tif.aux.xml").read_text()
    assert re.findall("<Category>(.*?)</Category>", beside) == list(CLASS_NAMES)
    assert beside.count("<Row ") == len(CLASSES)


def test_shares_keep_their_scale_and_classes_are_bands(folder):
    with rasterio.open(folder / "probability_2011.tif") as found:
        assert found.descriptions == CLASS_NAMES
        values = found.read() * np.array(found.scales)[:, None, None]
        np.testing.assert_allclose(values, product().isel(time=2)["probability"], atol=0.0021)
        assert found.nodata == 255
    assert not (folder / "probability_2011.tif.aux.xml").exists()


@pytest.mark.parametrize("name", ["land_use", "share"])
def test_overviews_have_the_mode_of_classes_and_the_mean_of_shares(tmp_path, name):
    random = np.random.default_rng(0)
    coarse = random.integers(0, 8, (360, 405)).astype(np.uint8)
    codes = coarse.repeat(2, 0).repeat(2, 1)
    codes[::2, ::2] = 7 - codes[::2, ::2]  # one of four
    shares = random.random(codes.shape).astype(np.float32)
    place = {"lat": 35.95 - 0.1 * np.arange(720), "lon": 0.05 + 0.1 * np.arange(810)}
    maps = {"land_use": (("lat", "lon"), codes, flag_attributes()), "share": (("lat", "lon"), shares)}
    (file,) = export(xr.Dataset(maps, place), tmp_path / "a.tif", variables=name, progress=False)
    with rasterio.open(file) as found:
        assert found.overviews(1) == [2]
    with rasterio.open(file, overview_level=0) as found:
        expected = coarse if name == "land_use" else shares.reshape(360, 2, 405, 2).mean((1, 3))
        np.testing.assert_allclose(found.read(1), expected, rtol=1e-6)


def test_floats_without_packing_are_stored_as_they_are(tmp_path):
    ds = product().isel(time=[0])[["confidence"]].drop_encoding()
    ds["confidence"] = ds["confidence"].where(ds["confidence"] > 0.1)
    (file,) = export(ds, tmp_path / "confidence.tif", progress=False)
    with rasterio.open(file) as found:
        np.testing.assert_array_equal(found.read(1), ds["confidence"][0])
        assert np.isnan(found.nodata)


@pytest.mark.parametrize(
    ("per", "names"),
    [
        ("year", ["land_use_2009.nc", "land_use_2010.nc", "land_use_2011.nc"]),
        ("decade", ["land_use_2009.nc", "land_use_2010-2011.nc"]),
        ("all", ["land_use_2009-2011.nc"]),
    ],
)
def test_netcdf_files_hold_the_years_that_their_names_say(tmp_path, per, names):
    files = export(product(), tmp_path / "maps", form="netcdf", per=per, progress=False)
    assert [file.name for file in files] == names
    with xr.set_options(use_new_combine_kwarg_defaults=True), xr.open_mfdataset(files, data_vars="minimal") as found:
        np.testing.assert_array_equal(found["land_use"], product()["land_use"])


def test_zarr_2_is_read_by_xarray_and_holds_the_same(tmp_path):
    (store,) = export(product(), tmp_path / "old.zarr", form="zarr2", years=[2009, 2011], progress=False)
    assert (store / ".zmetadata").exists()
    assert not (store / "zarr.json").exists()
    found = open_store(store).load()
    np.testing.assert_array_equal(found["land_use"], product().isel(time=[0, 2])["land_use"])
    np.testing.assert_allclose(found["confidence"], product().isel(time=[0, 2])["confidence"], atol=1e-6)


@pytest.mark.parametrize("form", ["geotiff", "netcdf", "zarr2", "pyramid"])
def test_what_is_there_is_replaced_only_if_asked_and_stays_if_the_export_fails(tmp_path, form):
    ds, ending = product().isel(time=[0])[["land_use"]], {"geotiff": ".tif", "netcdf": ".nc"}.get(form, ".zarr")
    target = tmp_path / f"maps{ending}"
    export(ds, target, form=form, progress=False)
    with pytest.raises(StoreError, match="overwrite=True"):
        export(ds, target, form=form, progress=False)

    def fail(block):
        raise RuntimeError("a block fails")

    broken = ds.assign(land_use=ds["land_use"].copy(data=ds["land_use"].data.map_blocks(fail, dtype=np.uint8)))
    before = sorted(path.name for path in tmp_path.iterdir())
    with pytest.raises(RuntimeError, match="a block fails"):
        export(broken, target, form=form, overwrite=True, progress=False)
    assert sorted(path.name for path in tmp_path.iterdir()) == before
    export(ds, target, form=form, overwrite=True, progress=False)


@pytest.mark.parametrize(
    ("name", "options", "error", "match"),
    [
        ("maps", {}, StoreError, "form='geotiff'"),
        ("maps", {"form": "geotif"}, StoreError, "form"),
        ("maps", {"form": "geotiff", "years": 1999}, TimeError, "1999.*2009-2011"),
        ("maps", {"form": "geotiff", "years": slice(1990, 1999)}, TimeError, "no year"),
        ("maps", {"form": "geotiff", "variables": "landuse"}, StoreError, "land_use"),
        ("maps", {"form": "geotiff", "year": 2009}, KeywordError, "years"),
        ("maps.nc", {"form": "geotiff"}, StoreError, r"maps\.nc"),
        ("maps.tif", {"form": "netcdf"}, StoreError, r"maps\.tif"),
        ("maps.tif", {"form": "pyramid"}, StoreError, r"maps\.tif"),
        ("maps.tif", {"variables": "land_use"}, TimeError, "3 years"),
    ],
)
def test_what_cannot_be_exported_is_named(tmp_path, name, options, error, match):
    with pytest.raises(error, match=match):
        export(product(), tmp_path / name, progress=False, **options)
    assert not list(tmp_path.iterdir())


def test_points_are_not_maps(tmp_path):
    with pytest.raises(GridError):
        export(product().stack(point=("lat", "lon")), tmp_path / "maps", form="geotiff", progress=False)


def test_the_command_and_the_accessor_export_the_same(tmp_path):
    store = write(product(), tmp_path / "maps.zarr", progress=False)
    words = ["export", str(store), str(tmp_path / "a"), "--form", "geotiff", "--variables", "land_use"]
    assert main([*words, "--years", "2009,2011", "--quiet"]) == 0
    files = open_store(store).ai4land.export(
        tmp_path / "b", form="geotiff", variables=["land_use"], years=[2009, 2011], progress=False
    )
    assert [file.name for file in files] == ["land_use_2009.tif", "land_use_2011.tif"]
    for file in files:
        assert (tmp_path / "a" / file.name).read_bytes() == file.read_bytes()
