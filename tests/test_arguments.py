"""What callers may pass: counts, flags, names out of a list."""

import numpy as np
import pytest
import xarray as xr

import xland
from tests.worlds import tiny_world
from xland.addresses import address_of
from xland.arguments import check_flags, is_count, items_of, one_of
from xland.clusters import open_cluster
from xland.errors import AddressError, CatalogError, ClusterError, GridError, ModelError, StoreError, VocabularyError
from xland.inference.product import choose_outputs
from xland.store import write, write_netcdf
from xland.training.configuration import read_configuration

STRANGE = [None, "", {}, [], 0, -1, 1.5, np.nan, np.inf, True, "abc", b"abc", (1, 2), 10**30, object(), xr.Dataset()]


@pytest.mark.parametrize("value", STRANGE)
def test_what_is_no_count_is_none(value):
    assert not is_count(value)


@pytest.mark.parametrize("value", [1, 5, 5.0, np.int64(3), np.float32(2), 2**40])
def test_whole_numbers_from_one_are_counts(value):
    assert is_count(value)


@pytest.mark.parametrize("value", [None, "no", "yes", 0, 1, np.zeros(3), xr.Dataset()])
def test_flags_are_true_or_false(value):
    with pytest.raises(StoreError, match="overwrite must be True or False"):
        check_flags(StoreError, resume=False, overwrite=value)


@pytest.mark.parametrize("value", [*STRANGE, np.zeros(3)])
def test_names_out_of_a_list_are_text(value):
    with pytest.raises(ModelError, match="device must be one of 'cpu', not"):
        one_of(value, ("cpu",), "device", ModelError)
    assert one_of("cpu", ("cpu",), "device", ModelError) == "cpu"


@pytest.mark.parametrize("value", [5, np.nan, None, object(), xr.DataArray(0)])
def test_sequences_are_sequences(value):
    with pytest.raises(ModelError, match="outputs must be a list or a tuple"):
        items_of(value, "outputs", ModelError)


@pytest.mark.parametrize("value", [5, b"abc", (1, 2), [None], {1: 2}, np.zeros(3), None, True])
def test_outputs_are_named_text(value):
    with pytest.raises(ModelError, match="outputs"):
        choose_outputs(value)
    assert choose_outputs(["land_use"]) == choose_outputs("land_use") == ("land_use",)


@pytest.mark.parametrize("value", [None, "", 5, {}, [], np.zeros(3), xr.DataArray(0)])
def test_only_datasets_are_written(tmp_path, value):
    with pytest.raises(StoreError, match="only a Dataset can be written"):
        write(value, tmp_path / "a.zarr", progress=False)
    with pytest.raises(StoreError, match="only a Dataset can be written"):
        write_netcdf(value, tmp_path / "a.nc", progress=False)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("chunks", [5, "auto", (1, 2), {"lat": 0}, {"lat": "a"}, {"lat": None}, {"lat": 1.5}, {5: 5}])
def test_chunks_are_cells_by_dimension(tmp_path, chunks):
    maps = tiny_world((2000,))[2].to_dataset()
    with pytest.raises(StoreError, match="chunks"):
        write(maps, tmp_path / "a.zarr", chunks=chunks, progress=False)


def test_what_is_to_be_scored_is_named_as_it_should_be():
    maps = tiny_world((2000,))[2]
    for options, error in (
        ({"domains": 5}, GridError),
        ({"domains": None}, GridError),
        ({"classes": 5}, VocabularyError),
        ({"factor": 10**30}, GridError),
        ({"within": xr.Dataset()}, GridError),
    ):
        with pytest.raises(error, match=next(iter(options))):
            maps.ai4land.evaluate(maps, **options)
    for factor in (None, "4", [4], np.nan, 2.5, True):
        with pytest.raises(GridError, match="factor between grids"):
            maps.ai4land.aggregate(factor)


@pytest.mark.parametrize("source", [None, 5, {}, [], b"abc", np.zeros(3)])
def test_a_configuration_is_a_name_or_a_path(source):
    with pytest.raises(AddressError, match="path"):
        read_configuration(source)


def test_names_that_no_file_can_have_are_refused():
    with pytest.raises(AddressError, match="is not a path"):
        address_of("maps\ud800.zarr")


@pytest.mark.parametrize(
    "options", [{"spec": 5}, {"spec": None}, {"spec": "local", "workers": "2"}, {"spec": "local", "minimum": 1.5}]
)
def test_clusters_are_named_and_counted(options):
    with pytest.raises(ClusterError, match=r"named by text|whole number"), open_cluster(**options):
        pass


def test_entries_have_text_and_mappings(tmp_path):
    store = write(tiny_world((2000,))[2].to_dataset(), tmp_path / "a.zarr", progress=False)
    for options in ({"metadata": "abc"}, {"metadata": [1]}, {"metadata": 5}, {"description": np.zeros(2)}):
        with pytest.raises(CatalogError, match="metadata must be a mapping"):
            xland.publish(tmp_path / "c.yaml", name="a", store=store, **options)
    xland.publish(tmp_path / "c.yaml", name="a", store=store)
    for name in ({}, [], {"a"}, np.zeros(2), None):
        with pytest.raises(CatalogError, match="has no entry"):
            xland.open_entry(tmp_path / "c.yaml", name)
