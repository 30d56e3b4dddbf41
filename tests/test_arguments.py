"""What callers may pass: counts, flags, names out of a list."""

from __future__ import annotations

import inspect
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import pandas as pd
import pytest
import xarray as xr

import xland
from tests.worlds import tiny_world
from xland.addresses import address_of
from xland.arguments import checked, is_count, items_of
from xland.clusters import open_cluster
from xland.errors import (
    AddressError,
    CatalogError,
    ClusterError,
    ConfigurationError,
    ForcingError,
    GridError,
    KeywordError,
    ModelError,
    StoreError,
    VocabularyError,
)
from xland.outputs import OUTPUTS, choose_outputs
from xland.plot import land_use_map
from xland.store.exporting import write_netcdf
from xland.store.writing import write
from xland.training.configuration import read_configuration
from xland.training.data.batches import make_batches

if TYPE_CHECKING:
    from distributed import Client

STRANGE = [None, "", {}, [], 0, -1, 1.5, np.nan, np.inf, True, "abc", b"abc", (1, 2), 10**30, object(), xr.Dataset()]


@pytest.mark.parametrize("value", STRANGE)
def test_what_is_no_count_is_none(value):
    assert not is_count(value)


@pytest.mark.parametrize("value", [1, 5, 5.0, np.int64(3), np.float32(2), 2**40])
def test_whole_numbers_from_one_are_counts(value):
    assert is_count(value)


@checked(ModelError)
def options_of(
    *,
    flag: bool = False,
    count: int | None = None,
    share: float = 0.5,
    text: str | None = None,
    way: Literal["up", "down"] | None = None,
    data: Sequence[int] = (),
    known_to_type_checkers_alone: Client | None = None,
) -> dict[str, Any]:
    """Return the options that are not what they usually are."""
    return {name: value for name, value in locals().items() if value not in (None, False, 0.5, ())}


@pytest.mark.parametrize(
    ("name", "fitting", "must_be"),
    [
        ("flag", [True], "true or false"),
        ("count", [5, -1, 2.0, None], "a whole number or None"),
        ("share", [0.25, 3, -1.5], "a finite number"),
        ("text", ["", "yes", None], "a text or None"),
        ("way", ["up", None], "one of 'up', 'down' or None"),
    ],
)
def test_options_are_what_their_annotations_say(name, fitting, must_be):
    for value in fitting:
        assert options_of(**{name: value}).get(name) == value or value is None
    strange = [*STRANGE, np.zeros(3), np.array(1), np.array(True), pd.NA, pd.NaT, np.datetime64(1, "s"), 1j]
    for value in strange:
        if any(type(value) is type(each) for each in fitting) and value is not np.nan and value is not np.inf:
            continue
        if isinstance(value, int | float) and name in ("count", "share") and value in (0, 1.5, 10**30):
            continue
        with pytest.raises(ModelError, match=f"{name} must be {must_be}, not "):
            options_of(**{name: value})


def test_numbers_of_numpy_are_those_of_python_and_other_arguments_pass():
    found = options_of(flag=np.True_, count=np.int64(3), share=np.float32(2), data=5, known_to_type_checkers_alone="a")
    assert found == {"flag": True, "count": 3, "share": 2, "data": 5, "known_to_type_checkers_alone": "a"}
    assert type(found["flag"]) is bool
    assert type(found["count"]) is int
    assert inspect.signature(options_of).parameters.keys() >= {"flag", "data"}


def test_an_unknown_name_is_refused_with_the_nearest_and_the_known_ones():
    with pytest.raises(KeywordError, match=r"unknown keyword 'flga': did you mean 'flag'\? Known are flag, count, "):
        options_of(flga=True)
    with pytest.raises(TypeError, match=r"unknown keyword 'xyz'\. Known are flag, "):
        options_of(xyz=1)
    with pytest.raises(ModelError, match="way must be one of 'up', 'down' or None, not 'dwn': did you mean 'down'"):
        options_of(way="dwn")


ARRAYS = [np.zeros(2), np.array(1), pd.NA, [1], {}, object()]


@pytest.mark.parametrize("value", [*ARRAYS, "yes"])
@pytest.mark.parametrize(
    ("call", "options", "error"),
    [
        (xland.downscale, ["flips", "chunks", "direction", "device"], ModelError),
        (write, ["overwrite", "resume", "progress", "shards"], StoreError),
        (write_netcdf, ["overwrite", "progress"], StoreError),
        (xland.open_store, ["verify"], StoreError),
        (xland.open_training_store, ["verify", "cache"], StoreError),
        (xland.evaluate, ["factor", "match_years"], GridError),
        (xland.assess_change, ["weighting"], GridError),
        (xland.prepare, ["tile", "resume", "overwrite", "progress"], StoreError),
        (xland.train, ["device", "workers", "restarts", "resume", "progress"], ConfigurationError),
        (xland.calibrate, ["device"], ConfigurationError),
        (make_batches, ["patch", "batch", "seed", "epoch", "rare_classes", "rank", "ranks"], ConfigurationError),
        (open_cluster, ["workers", "minimum", "threads", "timeout", "progress"], ClusterError),
        (land_use_map, ["legend", "max_pixels"], GridError),
        (xland.check, ["progress"], ForcingError),
    ],
)
def test_options_that_are_something_else_are_refused_before_anything_is_done(call, options, error, value):
    for name in options:
        with pytest.raises(error, match=f"^{name} must be "):
            call(*[None] * _positional(call), **{name: value})


@pytest.mark.parametrize("value", [*ARRAYS, 5])
@pytest.mark.parametrize(
    ("call", "options", "error"),
    [
        (xland.evaluate, ["cells"], GridError),
        (xland.assess_change, ["cells"], GridError),
        (xland.publish, ["description", "name"], CatalogError),
        (open_cluster, ["memory"], ClusterError),
        (land_use_map, ["title"], GridError),
    ],
)
def test_what_is_to_be_read_is_text(call, options, error, value):
    for name in options:
        with pytest.raises(error, match=f"^{name} must be "):
            call(*[None] * _positional(call), **{name: value})


def _positional(call):
    kinds = [each.kind for each in inspect.signature(call).parameters.values() if each.default is each.empty]
    return kinds.count(inspect.Parameter.POSITIONAL_OR_KEYWORD)


@pytest.mark.parametrize(
    ("options", "named"),
    [
        ({"threads": 0}, "threads"), ({"threads": 1.5}, "threads"), ({"timeout": 0}, "timeout"),
        ({"timeout": -5}, "timeout"), ({"timeout": np.inf}, "timeout"), ({"memory": "a lot"}, "byte unit"),
    ],
)  # fmt: skip
def test_clusters_of_no_size_are_refused(options, named):
    with pytest.raises(ClusterError, match=named), open_cluster("local", **options):
        pass


def test_maps_are_drawn_on_axes_of_matplotlib():
    maps = tiny_world((2000,))[2].isel(time=0)
    for axes in (5, np.zeros(2), "ax"):
        with pytest.raises(GridError, match="ax must be Axes of matplotlib"):
            maps.ai4land.plot(ax=axes)
    for pixels in (0, -1):
        with pytest.raises(GridError, match="max_pixels must be at least 1"):
            maps.ai4land.plot(max_pixels=pixels)


@pytest.mark.parametrize("value", [5, np.nan, None, object(), xr.DataArray(0)])
def test_sequences_are_sequences(value):
    with pytest.raises(ModelError, match="outputs must be a list or a tuple"):
        items_of(value, "outputs", ModelError)


@pytest.mark.parametrize("value", [5, b"abc", (1, 2), [None], {1: 2}, np.zeros(3), None, True])
def test_outputs_are_named_text(value):
    with pytest.raises(ModelError, match="outputs"):
        choose_outputs(value)
    assert choose_outputs(["land_use"]) == choose_outputs("land_use") == (OUTPUTS["land_use"],)


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
        with pytest.raises(GridError, match=r"cannot be grouped by|factor between grids"):
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
    with pytest.raises(ClusterError, match=r"unknown cluster|whole number"), open_cluster(**options):
        pass


def test_entries_have_text_and_mappings(tmp_path):
    store = write(tiny_world((2000,))[2].to_dataset(), tmp_path / "a.zarr", progress=False)
    for options in ({"metadata": "abc"}, {"metadata": [1]}, {"metadata": 5}, {"metadata": np.zeros(2)}):
        with pytest.raises(CatalogError, match="metadata must be a mapping"):
            xland.publish(tmp_path / "c.yaml", name="a", store=store, **options)
    xland.publish(tmp_path / "c.yaml", name="a", store=store)
    for name in ({}, [], {"a"}, np.zeros(2), None):
        with pytest.raises(CatalogError, match="has no entry"):
            xland.open_entry(tmp_path / "c.yaml", name)
