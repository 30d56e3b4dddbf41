"""Clients without xland, over http on this machine: intake and pystac open every entry, and see the same array."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from tests.catalogs.stand_in import served
from tests.exports.products import GRID, product
from xland.catalogs.catalog import Catalog
from xland.geo.grid import Grid
from xland.store.reading import open_store
from xland.store.writing import write, write_netcdf

CLIENT = """
import hashlib, json, sys
import fsspec, intake, pystac, xarray as xr

def digest(ds):
    return hashlib.sha256(ds["land_use"].values.astype("uint8").tobytes()).hexdigest()

catalog, stac, names = sys.argv[1], sys.argv[2], json.loads(sys.argv[3])
found = {"xland": "xland" in sys.modules, "intake": {}, "stac": {}}
opened = intake.open_catalog(catalog)
for name, product in names.items():
    part = opened[product] if product else opened
    found["intake"][name] = digest(part[name].to_dask())
for item in pystac.Catalog.from_file(stac).get_items(recursive=True):
    asset = item.assets["data"]
    href, how = asset.get_absolute_href(), asset.extra_fields["xarray:open_kwargs"]
    source = href if asset.media_type == "application/vnd.zarr" else fsspec.open(href).open()
    found["stac"][item.id] = digest(xr.open_dataset(source, **how))
print(json.dumps(found))
"""

NAMES = {"europe": "", "file": "", "pacific": "scenarios"}
PACIFIC = Grid(0.25, 20.0, 172.0, 60, 90)


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    target = tmp_path_factory.mktemp("served")
    maps = {"europe": product(GRID), "pacific": product(PACIFIC, seed=4)}
    stores = {name: write(ds, target / "maps" / f"{name}.zarr", progress=False) for name, ds in maps.items()}
    stores["file"] = write_netcdf(open_store(stores["europe"]).isel(time=[0]), target / "file.nc", progress=False)
    catalog = Catalog(target / "catalog.yaml")
    for name, inside in NAMES.items():
        catalog.publish(name=name, store=stores[name], product=inside or None)
    catalog.stac()
    catalog.page()
    return target


@pytest.fixture(scope="module")
def address(folder) -> Iterator[str]:
    with served(folder) as url:
        yield url


def clean_python() -> str:
    """Interpreter without xland; the test is skipped where there is none."""
    python = os.environ.get("XLAND_CHECKERS_PYTHON")
    if not python:
        pytest.skip("XLAND_CHECKERS_PYTHON names no interpreter of a clean environment")
    needed = "import aiohttp, h5netcdf, h5py, intake_xarray, pystac, zarr"
    if subprocess.run([python, "-c", needed], capture_output=True, check=False, cwd="/").returncode:
        pytest.skip(f"{python} lacks one of aiohttp, h5netcdf, h5py, intake-xarray, pystac and zarr")
    if not subprocess.run([python, "-c", "import xland"], capture_output=True, check=False, cwd="/").returncode:
        pytest.skip(f"{python} has xland: its environment is not clean")
    return python


@pytest.mark.parametrize("environment", ["this one", "clean"])
def test_intake_and_a_stac_client_open_the_same_arrays_over_http(folder, address, environment):
    python = sys.executable if environment == "this one" else clean_python()
    script = [python, "-W", "ignore", "-c", CLIENT]
    given = [f"{address}/catalog.yaml", f"{address}/catalog-stac/catalog.json", json.dumps(NAMES)]
    outside = {key: text for key, text in os.environ.items() if key != "PYTHONPATH"}
    done = subprocess.run([*script, *given], capture_output=True, text=True, check=False, cwd=folder, env=outside)
    assert done.returncode == 0, done.stderr[-2000:]
    found = json.loads(done.stdout)
    assert not found["xland"]
    assert found["intake"] == found["stac"]
    assert set(found["stac"]) == set(NAMES)
    assert len(set(found["stac"].values())) == 3


def test_items_follow_a_catalog_that_is_changed(folder, tmp_path):
    store = write(product().isel(time=[0]), tmp_path / "a.zarr", progress=False)
    catalog = Catalog(tmp_path / "catalog.yaml")
    catalog.publish(name="a", store=store)
    catalog.stac()
    catalog.page()
    second = write(product(seed=5).isel(time=[0]), tmp_path / "b.zarr", progress=False)
    catalog.publish(name="a", store=second, because="a corrected input")

    def items() -> dict[str, dict]:
        return {p.stem: json.loads(p.read_text()) for p in catalog.stac_path.parent.glob("*/items/*.json")}

    assert set(items()) == {"a", "a@1"}
    assert items()["a@1"]["properties"]["deprecated"]
    assert {"rel": "successor-version", "href": "./a.json", "type": "application/json"} in items()["a@1"]["links"]
    assert "a corrected input" in catalog.page_path.read_text()
    catalog.rename("a", "z")
    assert set(items()) == {"z", "z@1"}
    assert 'id="z"' in catalog.page_path.read_text()
    catalog.remove("z")
    assert items() == {}
    assert "<article" not in catalog.page_path.read_text()


def test_what_the_store_says_is_on_the_item(folder):
    item = json.loads((folder / "catalog-stac" / "scenarios" / "items" / "pacific.json").read_text())
    assert item["bbox"] == [172.0, 5.0, -165.5, 20.0]
    assert item["geometry"]["type"] == "MultiPolygon"
    assert list(item["properties"]["cube:dimensions"]) == ["time", "lat", "lon", "class"]
    np.testing.assert_allclose(item["properties"]["cube:dimensions"]["lat"]["step"], 0.25)
    assert item["properties"]["proj:code"] == "EPSG:4326"
