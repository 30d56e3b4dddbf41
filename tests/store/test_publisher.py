"""Who publishes maps, and under which licences their inputs are."""

from __future__ import annotations

import json

import numpy as np
import pytest
import xarray as xr

from tests.worlds import tiny_checkpoint, tiny_inputs, tiny_world
from xland.catalogs import open_entry, publish, read_catalog
from xland.downscaling.call import downscale
from xland.errors import ConfigurationError
from xland.store.provenance import describe_product, list_licences, read_publisher
from xland.store.writing import write

SETTINGS = (
    'licence = "CC-BY-4.0"\ninstitution = "Institute of Maps"\ncontact = "maps@institute.org"\ndoi = "10.5281/zenodo.1"'
)
NAMED = {"license": "CC-BY-4.0", "institution": "Institute of Maps", "contact": "maps@institute.org"}


@pytest.fixture(autouse=True)
def folder(tmp_path, monkeypatch):
    """Settings of the user: none, in a folder of the test."""
    monkeypatch.setattr("platformdirs.user_config_path", lambda name: tmp_path / name)
    (tmp_path / "xland").mkdir()
    return tmp_path / "xland"


@pytest.fixture(scope="module")
def inputs(tmp_path_factory):
    coarse, static, _ = tiny_world((2000,))
    coarse = coarse.assign_attrs(license="MIT", title="LUH2")
    static["elevation"].attrs |= {"license": "CC BY 4.0; see source", "source": "Heights"}
    return coarse, static, tiny_checkpoint(tmp_path_factory.mktemp("model"), tiny_inputs()).folder


def maps_of(inputs, **options):
    coarse, static, model = inputs
    return downscale(coarse, model=model, static=static, region=(0, 0, 20, 20), **options)


def test_the_licence_of_a_map_follows_those_of_its_inputs(inputs):
    found = maps_of(inputs).attrs
    assert found["license"].startswith("model tiny-0: Apache-2.0; forcing: MIT; static: ")
    assert "CC BY 4.0, see source" in found["license"]
    assert "not stated" in found["license"]
    table = json.loads(found["xland_licences"])
    assert {
        "input": "static",
        "license": "CC BY 4.0; see source",
        "source": "Heights",
        "variables": "elevation",
    } in table
    assert {row["input"] for row in table} == {"model tiny-0", "forcing", "static"}


def test_each_of_the_reference_data_has_a_licence():
    from xland.datasets import SOURCES

    assert all(each.licence and each.citation for each in SOURCES.values())
    given = xr.Dataset({"slope": ("x", np.zeros(1), SOURCES["topography"].attributes)})
    assert list_licences({"name": "m"}, {"static": given})[1]["license"] == SOURCES["topography"].licence


def test_what_is_set_once_is_in_maps_stores_and_catalogs(inputs, folder):
    assert "institution" not in maps_of(inputs).attrs
    (folder / "publisher.toml").write_text(SETTINGS)
    maps = maps_of(inputs)
    assert {name: maps.attrs[name] for name in NAMED} == NAMED
    assert (maps.attrs["id"], maps.attrs["naming_authority"]) == ("10.5281/zenodo.1", "org.doi")
    assert "static" in maps.attrs["xland_licences"]  # what it was made from stays in the table
    write(maps, folder / "a.zarr", progress=False)
    publish(folder / "catalog.yaml", name="a", store=folder / "a.zarr")
    assert {name: open_entry(folder / "catalog.yaml", "a").attrs[name] for name in NAMED} == NAMED
    entry = read_catalog(folder / "catalog.yaml")["sources"]["a"]["metadata"]
    assert (entry["licence"], entry["doi"]) == ("CC-BY-4.0", "10.5281/zenodo.1")


def test_a_file_of_settings_goes_before_those_of_the_user(inputs, folder):
    (folder / "publisher.toml").write_text(SETTINGS)
    (folder / "other.toml").write_text('institution = "Another"')
    maps = maps_of(inputs, publisher=folder / "other.toml")
    assert maps.attrs["institution"] == "Another"
    assert "contact" not in maps.attrs
    write(maps, folder / "a.zarr", progress=False)
    publish(folder / "catalog.yaml", name="a", store=folder / "a.zarr", publisher=folder / "publisher.toml")
    assert read_catalog(folder / "catalog.yaml")["sources"]["a"]["metadata"]["institution"] == "Institute of Maps"


def test_a_store_is_resumed_although_the_publisher_changed(inputs, folder):
    write(maps_of(inputs), folder / "a.zarr", progress=False)
    (folder / "publisher.toml").write_text(SETTINGS)
    write(maps_of(inputs), folder / "a.zarr", resume=True, progress=False)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ('licens = "MIT"', "unknown entries 'licens': did you mean 'licence'"),
        ('doi = "https://doi.org/10.5281/x"', "is not a DOI: give it as 10.5281"),
        ("contact = 1", "contact must be"),
        ("[", "cannot be read as TOML"),
    ],
)
def test_settings_that_are_wrong_are_named_with_their_file(folder, text, said):
    (folder / "publisher.toml").write_text(text)
    with pytest.raises(ConfigurationError, match=said) as refused:
        read_publisher()
    assert "publisher.toml" in str(refused.value)


def test_a_file_that_is_not_there_is_refused_but_the_users_may_be_missing(folder):
    assert read_publisher().attributes == {}
    with pytest.raises(ConfigurationError, match=r"none\.toml cannot be read"):
        read_publisher(folder / "none.toml")


def test_a_product_without_a_table_has_the_licence_of_its_model():
    ds = xr.Dataset({"land_use": (("lat", "lon"), np.zeros((2, 2), np.uint8))}, {"lat": [1.5, 0.5], "lon": [0.5, 1.5]})
    assert describe_product(ds, model={"name": "m", "licence": "MIT"}).attrs["license"] == "MIT"
