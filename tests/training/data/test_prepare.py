from __future__ import annotations

import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import xarray as xr

from tests.training.commands import write_files
from tests.training.data.region import REGION, YEARS, make, write
from tests.worlds import FACTOR, tiny_world
from xland.cli import main
from xland.errors import ConfigurationError, StoreError, TimeError, VocabularyError
from xland.store import workplace
from xland.training.data import prepare as module
from xland.training.data.loader import Place
from xland.training.data.material import Sources, gather, stored_material
from xland.training.data.prepare import prepare
from xland.training.data.stored import open_training_store


def content(folder):
    files = (path for path in Path(folder).rglob("*") if path.is_file())
    return {path.relative_to(folder): path.read_bytes() for path in files}


@pytest.fixture
def whole(stores):
    return stores(60)


class StopError(Exception):
    pass


def stop(*arguments):
    raise StopError


def fuse(parts, *, amid=False):
    """A writer of so many parts that breaks off, perhaps amid the next one."""

    class Fuse(module._Writer):
        left = parts

        def write(self, part):
            if type(self).left == 0:
                if amid:
                    name, first, *end = part.split(".")
                    strip = np.s_[:, int(first) : int(end[0])] if end else None
                    self.group[name][strip or (self.years[name].index(int(first)), slice(60))] = 3
                raise StopError
            type(self).left -= 1
            return super().write(part)

    return Fuse


def test_the_material_is_that_of_a_training_in_memory(whole):
    configuration, data = make()
    (normalised, gathered), (found, stored) = gather(configuration, **data), stored_material(configuration, whole)
    assert found.inputs == stored.source.inputs
    for kind in ("coarse", "static"):
        for one, other in zip(getattr(found.inputs, kind), getattr(normalised.inputs, kind), strict=True):
            assert (one.mean, one.scale) == pytest.approx((other.mean, other.scale), rel=1e-9, abs=1e-12), one.name
    assert (stored.grid, stored.source.years) == (gathered.grid, gathered.source.years)
    np.testing.assert_array_equal(stored.part, gathered.part)
    np.testing.assert_array_equal(stored.coverage.mask, gathered.coverage.mask)
    assert stored.coverage.grid == gathered.coverage.grid
    assert stored.description == gathered.description


def test_xarray_opens_a_store_like_any_other(whole):
    ds = xr.open_zarr(whole)
    coarse, _, maps = (each.sel(REGION) for each in tiny_world((1999, *YEARS)))
    np.testing.assert_array_equal(ds["maps"], maps)
    np.testing.assert_array_equal(ds["maps"]["time"], [1999, 2000, 2001])
    np.testing.assert_allclose(ds["lat"], maps["lat"])
    assert ds["lat"].attrs["units"] == "degrees_north"
    for name in ds["variable"].values.tolist():
        np.testing.assert_array_equal(ds["coarse"].sel(variable=name), coarse[name], name)
    assert (ds["maps"].dtype, ds["coarse"].dtype, ds["static"].dtype) == (np.uint8, np.float32, np.float16)
    assert (ds["static"].chunksizes["channel"], ds["maps"].chunksizes["time"]) == ((3,), (1, 1, 1))
    assert ds["maps"].attrs["flag_meanings"].startswith("ocean urban")


def test_a_prior_that_differs_from_the_targets_has_its_own_maps(stores):
    ds = xr.open_zarr(stores(40, own_prior=True))
    np.testing.assert_array_equal(ds["time"], [2000, 2001])
    np.testing.assert_array_equal(ds["prior_time"], [1999, 2000])
    np.testing.assert_array_equal(ds["prior"], make(own_prior=True)[1]["prior"][:2])


def test_without_prior_maps_those_of_the_target_are_read(tmp_path, whole):
    every = make()[1]["prior"]
    stored = write(tmp_path / "a.zarr", data={"target": every, "prior": None})
    assert stored.hashes == open_training_store(whole).hashes
    with pytest.raises(TimeError, match="prior lacks the years 1999; it holds 2000-2001"):
        write(tmp_path / "c.zarr", data={"prior": None})


def test_inputs_without_prior_or_static_channels_have_stores_in_tiles_of_the_patch(tmp_path):
    configuration, data = make("none")
    configuration = replace(configuration, inputs=replace(configuration.inputs, static=()))
    data.pop("prior")
    source = prepare(configuration, tmp_path / "a.zarr", **data, progress=False)
    (sample,) = source.read([Place(0, slice(0, 8), slice(0, 12))])
    assert sample.keys() == {"coarse", "static", "target"}
    assert sample["static"].shape == (0, 8, 12)
    assert source.chunk == (40, 40)
    xr.open_zarr(source.path)
    for tile in (0, 42):
        with pytest.raises(ConfigurationError, match=f"tile {tile} must be a multiple of factor {FACTOR}"):
            write(tmp_path / "b.zarr", tile)


def test_sources_are_read_by_strips_no_lower_than_their_chunks():
    configuration, data = make()
    assert Sources(configuration, **data).strips(40) == [slice(0, 40), slice(40, 64)]
    data["static"] = data["static"].chunk(lat=50)
    assert Sources(configuration, **data).strips(40) == [slice(0, 64)]


@pytest.mark.parametrize(("parts", "amid"), [(0, False), (4, True), (6, True), (7, False)])
def test_a_run_that_was_broken_off_resumes_to_the_identical_store(tmp_path, monkeypatch, whole, parts, amid):
    path = tmp_path / "store.zarr"
    with monkeypatch.context() as patch:
        patch.setattr(module, "_Writer", fuse(parts, amid=amid))
        with pytest.raises(StopError):
            write(path)
    with pytest.raises(StoreError, match=f"store.zarr is incomplete: {parts} of 8 blocks are written"):
        open_training_store(path)
    with pytest.raises(StoreError, match=r"an unfinished store of .* finish it with resume=True"):
        write(path)
    with pytest.raises(StoreError, match=r"begun with other inputs or settings; different: layout \(tile\)"):
        write(path, 40, resume=True)
    for name, different in (("target", r"sources \(target\)"), ("prior", r"prior \(token\)")):
        with pytest.raises(StoreError, match=f"different: {different}"):
            write(path, data={name: make()[1][name] // 2}, resume=True)
    write(path, resume=True)
    assert content(path) == content(whole)
    assert not path.with_name("store.zarr.partial").exists()


def test_a_run_is_resumed_by_the_parts_it_began_with(tmp_path, monkeypatch, whole):
    """Strips follow the chunks in which a file is opened, which may be others the next time."""
    with monkeypatch.context() as patch:
        patch.setattr(module, "_Writer", fuse(4))
        with pytest.raises(StopError):
            write(tmp_path / "store.zarr")
    monkeypatch.setattr(Sources, "strips", lambda *_: [slice(0, 64)])
    write(tmp_path / "store.zarr", resume=True)
    assert content(tmp_path / "store.zarr") == content(whole)


@pytest.mark.parametrize(("place", "name"), [(module, "hash_array"), (workplace, "seal"), (Path, "rename")], ids=str)
def test_a_run_that_stops_at_the_very_end_resumes_to_the_identical_store(tmp_path, monkeypatch, whole, place, name):
    with monkeypatch.context() as patch:
        patch.setattr(place, name, stop)
        with pytest.raises(StopError):
            write(tmp_path / "store.zarr")
    write(tmp_path / "store.zarr", resume=True)
    assert content(tmp_path / "store.zarr") == content(whole)


def test_a_complete_store_is_kept_unless_it_is_to_be_replaced(tmp_path, whole):
    path = shutil.copytree(whole, tmp_path / "store.zarr")
    with pytest.raises(StoreError, match=r"store\.zarr exists; pass overwrite=True"):
        write(path)
    write(path, resume=True)
    assert content(path) == content(whole)
    with pytest.raises(StoreError, match="is complete and has other content"):
        write(path, 40, resume=True)
    assert content(path) == content(whole)
    assert write(path, 40, overwrite=True).chunk == (40, 40)
    with pytest.raises(StoreError, match="choose one of overwrite"):
        write(path, resume=True, overwrite=True)


def test_what_is_no_store_is_never_replaced(tmp_path):
    (tmp_path / "notes").mkdir()
    (tmp_path / "notes" / "a.txt").write_text("keep")
    with pytest.raises(StoreError, match="without a Zarr store, and is left alone"):
        write(tmp_path / "notes", overwrite=True)
    with pytest.raises(StoreError, match="a training store has to be on this machine"):
        write("s3://bucket/store.zarr")


def test_a_store_for_another_training_is_refused_by_what_differs(whole):
    configuration, _ = make()
    _, material = stored_material(replace(configuration, schedule=replace(configuration.schedule, batch=9)), whole)
    assert material.source.years == YEARS
    elevation = replace(configuration.inputs.static[0], transform="none")
    inputs = replace(configuration.inputs, static=(elevation, *configuration.inputs.static[1:]), prior_step=1)
    for changes, message in (
        ({"split_seed": 3}, r"Different are:\n  split\.seed \(0 there, 3 here\)"),
        ({"data": replace(configuration.data, target_years=(2001,))}, r"data\.target_years"),
        (
            {"inputs": inputs},
            r'elevation\.transform \("signed_sqrt" there, "none" here\)\n  inputs\.prior_step \(-1 there, 1 here\)',
        ),
    ):
        with pytest.raises(StoreError, match=message):
            stored_material(replace(configuration, **changes), whole)


def test_data_that_do_not_fit_leave_no_store(tmp_path):
    with pytest.raises(ConfigurationError, match="no cell of the training part"):
        write(tmp_path / "a.zarr", data={"static": make()[1]["static"] * 0})
    with pytest.raises(VocabularyError, match="target of 2000 holds unknown class codes"):
        write(tmp_path / "a.zarr", data={"target": make()[1]["target"] + 7})
    assert not (tmp_path / "a.zarr").exists()


def test_the_command_writes_a_store_of_what_the_configuration_names_and_of_what_is_given(tmp_path, capsys):
    configuration, store = write_files(tmp_path), tmp_path / "a.zarr"
    given = (tmp_path / "states.nc").rename(tmp_path / "given.nc")
    arguments = ["prepare", str(configuration), str(store), f"--forcing={given}", "--tile", "60"]
    assert main(arguments) == 0
    assert "1 map of 180 x 360 cells" in capsys.readouterr().out
    assert open_training_store(store).chunk == (60, 60)
    assert main(arguments) == 1
    assert "exists; pass --overwrite" in capsys.readouterr().err
