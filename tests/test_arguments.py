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
from xland.arguments import checked, is_count, items_of
from xland.clusters import open_cluster
from xland.downscaling.call import choose_outputs
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
from xland.outputs import OUTPUTS
from xland.paths import address_of
from xland.plot import land_use_map
from xland.store.writing import write, write_netcdf
from xland.training.configuration import read_configuration
from xland.training.data.batches import make_batches

if TYPE_CHECKING:
    from distributed import Client

STRANGE = [None, "", {}, [], 0, -1, 1.5, np.nan, np.inf, True, "abc", b"abc", (1, 2), 10**30, object(), xr.Dataset()]
ARRAYS = [np.zeros(2), np.array(1), pd.NA, [1], {}, object()]


def test_whole_numbers_from_one_are_counts():
    assert all(map(is_count, [1, 5, 5.0, np.int64(3), np.float32(2), 2**40]))
    assert not any(map(is_count, STRANGE))


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
    assert (type(found["flag"]), type(found["count"])) == (bool, int)
    assert inspect.signature(options_of).parameters.keys() >= {"flag", "data"}


def test_an_unknown_name_is_refused_with_the_nearest_and_the_known_ones():
    with pytest.raises(KeywordError, match=r"unknown keyword 'flga': did you mean 'flag'\? Known are flag, count, "):
        options_of(flga=True)
    with pytest.raises(TypeError, match=r"unknown keyword 'xyz'\. Known are flag, "):
        options_of(xyz=1)
    with pytest.raises(ModelError, match="way must be one of 'up', 'down' or None, not 'dwn': did you mean 'down'"):
        options_of(way="dwn")


@pytest.mark.parametrize(
    ("call", "options", "texts", "error"),
    [
        (xland.downscale, ["flips", "chunks", "direction", "device"], [], ModelError),
        (write, ["overwrite", "resume", "progress", "shards"], [], StoreError),
        (write_netcdf, ["overwrite", "progress"], [], StoreError),
        (xland.open_store, ["verify"], [], StoreError),
        (xland.open_training_store, ["verify", "cache"], [], StoreError),
        (xland.evaluate, ["factor", "match_years"], ["cells"], GridError),
        (xland.assess_change, ["weighting"], ["cells"], GridError),
        (xland.assess_landscape, ["factor", "match_years"], ["cells"], GridError),
        (xland.prepare, ["tile", "resume", "overwrite", "progress"], [], StoreError),
        (xland.publish, [], ["description", "name"], CatalogError),
        (xland.train, ["device", "workers", "restarts", "resume", "progress"], [], ConfigurationError),
        (xland.calibrate, ["device"], [], ConfigurationError),
        (
            make_batches,
            ["patch", "batch", "seed", "epoch", "rare_classes", "rank", "ranks"],
            [],
            ConfigurationError,
        ),
        (open_cluster, ["workers", "minimum", "threads", "timeout", "progress"], ["memory"], ClusterError),
        (land_use_map, ["legend", "max_pixels"], ["title"], GridError),
        (xland.check, ["progress"], [], ForcingError),
    ],
)
def test_options_that_are_something_else_are_refused_before_anything_is_done(call, options, texts, error):
    parameters = inspect.signature(call).parameters.values()
    needed = [each for each in parameters if each.default is each.empty and each.kind is each.POSITIONAL_OR_KEYWORD]
    for names, values in ((options, [*ARRAYS, "yes"]), (texts, [*ARRAYS, 5])):
        for name in names:
            for value in values:
                with pytest.raises(error, match=f"^{name} must be "):
                    call(*[None] * len(needed), **{name: value})


@pytest.mark.parametrize(
    ("options", "named"),
    [
        ({"threads": 0}, "threads"), ({"threads": 1.5}, "threads"), ({"timeout": 0}, "timeout"),
        ({"timeout": -5}, "timeout"), ({"timeout": np.inf}, "timeout"), ({"memory": "a lot"}, "byte unit"),
        ({"spec": 5}, "unknown cluster"), ({"spec": None}, "unknown cluster"), ({"workers": "2"}, "whole number"),
    ],
)  # fmt: skip
def test_clusters_are_named_and_counted(options, named):
    with pytest.raises(ClusterError, match=named), open_cluster(**{"spec": "local", **options}):
        pass


def test_maps_are_drawn_and_scored_with_what_fits():
    maps = tiny_world((2000,))[2]
    for options in ({"ax": 5}, {"ax": np.zeros(2)}, {"ax": "ax"}, {"max_pixels": 0}, {"max_pixels": -1}):
        with pytest.raises(GridError, match=next(iter(options))):
            maps.isel(time=0).ai4land.plot(**options)
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


def test_outputs_are_a_sequence_of_names():
    for value in (5, np.nan, None, object(), xr.DataArray(0)):
        with pytest.raises(ModelError, match="outputs must be a list or a tuple"):
            items_of(value, "outputs", ModelError)
    for value in (5, b"abc", (1, 2), [None], {1: 2}, np.zeros(3), None, True):
        with pytest.raises(ModelError, match="outputs"):
            choose_outputs(value, None, totals=False)
    for value in (["land_use"], "land_use"):
        assert choose_outputs(value, None, totals=False) == (OUTPUTS["land_use"],)


def test_only_datasets_are_written_in_chunks_of_cells(tmp_path):
    for value in (None, "", 5, {}, [], np.zeros(3), xr.DataArray(0)):
        for writer, name in ((write, "a.zarr"), (write_netcdf, "a.nc")):
            with pytest.raises(StoreError, match="only a Dataset can be written"):
                writer(value, tmp_path / name, progress=False)
    maps = tiny_world((2000,))[2].to_dataset()
    for chunks in (5, "auto", (1, 2), {"lat": 0}, {"lat": "a"}, {"lat": None}, {"lat": 1.5}, {5: 5}):
        with pytest.raises(StoreError, match="chunks"):
            write(maps, tmp_path / "a.zarr", chunks=chunks, progress=False)
    assert not list(tmp_path.iterdir())


def test_a_path_is_text_that_a_file_can_have():
    for source in (None, 5, {}, [], b"abc", np.zeros(3)):
        with pytest.raises(AddressError, match="path"):
            read_configuration(source)
    with pytest.raises(AddressError, match="is not a path"):
        address_of("maps\ud800.zarr")


def test_entries_have_text_and_mappings(tmp_path):
    store = write(tiny_world((2000,))[2].to_dataset(), tmp_path / "a.zarr", progress=False)
    for metadata in ("abc", [1], 5, np.zeros(2)):
        with pytest.raises(CatalogError, match="metadata must be a mapping"):
            xland.publish(tmp_path / "c.yaml", name="a", store=store, metadata=metadata)
    xland.publish(tmp_path / "c.yaml", name="a", store=store)
    for name in ({}, [], {"a"}, np.zeros(2), None):
        with pytest.raises(CatalogError, match="has no entry"):
            xland.open_entry(tmp_path / "c.yaml", name)
