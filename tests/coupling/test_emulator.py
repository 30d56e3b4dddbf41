"""What is asked for on demand is what downscale gives, is computed once, and says until when it is valid."""

from __future__ import annotations

import datetime as dt
import threading
import warnings
from concurrent.futures import ThreadPoolExecutor

import cftime
import numpy as np
import pytest

import xland
from tests.worlds import tiny_checkpoint, tiny_inputs
from xland.coupling.grids import HEALPix, Regular
from xland.coupling.kept import Kept, read_arrays, write_arrays
from xland.coupling.offered import VARIABLES
from xland.coupling.windows import Windows
from xland.errors import GridError, KeywordError, ModelError, RegionError, StoreWarning, TimeError
from xland.vocabulary import CLASS_NAMES

REGION = (170.0, -20.0, -160.0, 40.0)
EVERY = list(VARIABLES)


@pytest.fixture
def computed(monkeypatch):
    """The years and windows that were computed."""
    run, found = Windows.map, []

    def count(self, year, grid):
        found.append((year, grid))
        return run(self, year, grid)

    monkeypatch.setattr(Windows, "map", count)
    return found


@pytest.mark.parametrize("region", [REGION, (0, 0, 40, 40), (10.2, 20.1, 10.3, 20.2), (-180, -90, 180, 90)])
def test_a_region_is_the_map_of_downscale(make, world, model, region):
    turned = world[0].sortby("lat").rename(lat="y", lon="x")
    expected = xland.downscale(turned, model=model, static=world[1], region=region, years=2001)["land_use"][0]
    found = make(turned).field(2001, region)["land_use"]
    assert found.dims == ("y", "x")
    assert np.array_equal(found.values, expected.values)
    assert np.array_equal(found["y"], expected["y"])
    assert np.array_equal(found["x"], expected["x"])


def test_totals_and_models_with_a_prior_give_the_maps_of_downscale(make, world, tmp_path):
    rolling = tiny_checkpoint(tmp_path / "rolling", tiny_inputs(prior="one_hot"))
    options = {"model": rolling, "static": world[1], "region": (0, 0, 40, 40)}
    expected = xland.downscale(world[0], **options)["land_use"].sel(year=2002).values
    assert np.array_equal(
        make(model=rolling).field(2002, (0, 0, 40, 40))["land_use"].values.squeeze(), expected.squeeze()
    )
    kept = xland.downscale(world[0], **{**options, "model": make().model}, totals="map", years=2001)["land_use"].values
    assert np.array_equal(make(totals="map").field(2001, (0, 0, 40, 40))["land_use"].values, kept[0])


def test_areas_on_another_grid_are_those_of_the_map(make):
    emulator = make()
    codes = emulator.field(2001, "globe")["land_use"].values
    area = np.repeat(emulator.window(xland.coupling.grids.Region(-180, -90, 180, 90)).cell_area(), 360)
    expected = np.bincount(codes.ravel(), area, len(CLASS_NAMES))[1:]
    field = emulator.field(2001, Regular(2.5), ["shares", "land_fraction"])
    found = (field["shares"] * field["land_fraction"] * field["cell_area"]).sum(("lat", "lon")).values
    there = expected > 0
    assert np.abs(found[there] / expected[there] - 1).max() < 1e-6
    assert (found[~there] == 0).all()
    assert field.attrs["residual"] < 1e-6
    sums = field["shares"].sum("class", skipna=False).values
    assert np.nanmax(np.abs(sums - 1)) < 1e-5
    assert (np.isnan(sums) == (field["land_fraction"] < 1e-6)).all()


def test_every_variable_is_there_on_regions_and_cells(make):
    pytest.importorskip("healpy", reason="needs the extra healpix")
    emulator = make()
    for grid in ((0, 0, 40, 40), HEALPix(4), HEALPix(4, cells=[7, 3])):
        field = emulator.field("2001-07-01", grid, EVERY)
        assert list(field) == EVERY
        covers = field["cvh"] + field["cvl"] + field["cur"]
        assert float(covers.max()) < 1 + 1e-6
        assert float(field["fraclut"].sum("landUse").max()) < 100 + 1e-4
        assert all(field[name].attrs.get("units") or name == "land_use" for name in EVERY)
        assert all(not field[name].values.flags.writeable for name in ("land_use", "cvh"))


def test_years_are_held_or_joined_and_the_field_says_which(make):
    held, joined = make(), make(between="linear")
    first, second = (held.field(year, Regular(5.0), ["cvl", "fraclut"]) for year in (2000, 2001))
    assert first.attrs["valid_until"] == "2001-01-01"
    assert held.field("2000-12-31", Regular(5.0), ["cvl", "fraclut"]).equals(first)
    half = joined.field("2000-07-02", Regular(5.0), "fraclut")
    assert "between 2000 and 2001" in half.attrs["time_interpolation"]
    assert not first["fraclut"].equals(second["fraclut"])
    assert np.allclose(half["fraclut"], (first["fraclut"] + second["fraclut"]) / 2, atol=1e-4, equal_nan=True)
    assert joined.field(2001, Regular(5.0), "cvl")["cvl"].equals(second["cvl"])
    assert np.array_equal(joined.field("2000-07-02", Regular(5.0)).land_use, held.field(2000, Regular(5.0)).land_use)
    assert "held" in joined.field("2002-07-02", Regular(5.0)).attrs["time_interpolation"]


@pytest.mark.parametrize(
    "time",
    [
        2001, np.int32(2001), "2001", "2001-07-01", np.datetime64("2001-07-01"), dt.date(2001, 7, 1),
        dt.datetime(2001, 7, 1, tzinfo=dt.UTC), cftime.DatetimeNoLeap(2001, 7, 1),
        cftime.Datetime360Day(2001, 2, 30),
    ],
)  # fmt: skip
def test_any_kind_of_date_is_understood(make, time):
    assert int(make().field(time, (0, 0, 4, 4))["year"]) == 2001


@pytest.mark.parametrize("time", [1999, "2003-01-01", "spring", None, np.datetime64("NaT"), True, [2001]])
def test_other_times_are_refused(make, time):
    with pytest.raises(TimeError):
        make().field(time, (0, 0, 4, 4))


def test_a_year_that_is_missing_between_others_is_joined_only_if_asked(make, world):
    gap = world[0].isel(time=[0, 2])
    with pytest.raises(TimeError, match="linear"):
        make(gap).field(2001, Regular(10.0))
    assert "2000 and 2002" in make(gap, between="linear").field(2001, Regular(10.0)).attrs["time_interpolation"]


def test_wrong_requests_are_refused_by_name(make):
    emulator = make()
    with pytest.raises(ModelError, match="cvh"):
        emulator.field(2001, (0, 0, 4, 4), "cvhh")
    with pytest.raises(GridError, match="Region"):
        emulator.field(2001, 7)
    with pytest.raises(RegionError):
        emulator.field(2001, (0, 10, 4, 4))
    with pytest.raises(ModelError, match="between"):
        make(between="spline")
    with pytest.raises(KeywordError):
        make(betwen="hold")


def test_cells_beyond_the_forcing_have_no_data(make, world):
    part = world[0].isel(lat=slice(10, 30), lon=slice(20, 60))
    field = make(part).field(2001, Regular(10.0), ["shares", "land_fraction"])
    inside = field["cell_area"] > 0
    assert 0 < int(inside.sum()) < inside.size
    assert np.isnan(field["land_fraction"].values[~inside.values]).all()


def test_equal_requests_at_the_same_time_are_computed_once(make, computed):
    emulator, start = make(), threading.Barrier(6)

    def ask(_):
        start.wait()
        return emulator.field(2001, Regular(5.0), "cvh")

    with ThreadPoolExecutor(6) as pool:
        fields = list(pool.map(ask, range(6)))
    assert len(computed) == 1
    assert all(field.equals(fields[0]) for field in fields)


def test_the_next_year_is_ready_before_it_is_asked_for(make, computed):
    emulator = make(prefetch=True)
    emulator.field(2000, (0, 0, 40, 40))
    emulator.wait()
    assert [year for year, _ in computed] == [2000, 2001]
    emulator.field(2001, (0, 0, 40, 40))
    emulator.wait()
    assert [year for year, _ in computed] == [2000, 2001, 2002]


def test_a_cache_on_disk_serves_another_process_and_is_compared_with_its_digest(make, computed, tmp_path):
    folder = tmp_path / "cache"
    first = make(cache=folder).field(2001, Regular(5.0), "cvh")
    assert make(cache=folder).field(2001, Regular(5.0), "cvh").equals(first)
    assert len(computed) == 1
    for path in folder.rglob("*.safetensors"):
        content = bytearray(path.read_bytes())
        content[-3] ^= 1
        path.write_bytes(content)
    assert make(cache=folder).field(2001, Regular(5.0), "cvh").equals(first)
    assert len(computed) == 2


def test_a_cache_that_cannot_be_written_is_a_warning_and_the_answer_is_right(make, tmp_path):
    wanted = make().field(2001, Regular(5.0), "cvh")
    (tmp_path / "cache").write_text("a file in the way")
    with pytest.warns(StoreWarning, match="not written"):
        assert make(cache=tmp_path / "cache").field(2001, Regular(5.0), "cvh").equals(wanted)


def test_a_cache_of_another_model_is_not_used(make, computed, tmp_path):
    make(cache=tmp_path).field(2001, (0, 0, 40, 40))
    make(cache=tmp_path, model=tiny_checkpoint(tmp_path / "other", tiny_inputs(), seed=3)).field(2001, (0, 0, 40, 40))
    assert len(computed) == 2


def test_memory_has_a_limit_and_an_error_is_not_kept():
    kept = Kept(100)
    for number in range(20):
        kept.get(number, lambda: np.zeros(30, np.uint8), lambda array: array.nbytes)
    assert kept.used <= 100
    assert 19 in kept
    assert 0 not in kept
    with pytest.raises(ZeroDivisionError):
        kept.get("wrong", lambda: 1 // 0, lambda _: 1)
    assert kept.get("wrong", lambda: 5, lambda _: 1) == 5


def test_arrays_that_are_half_written_are_not_read(tmp_path):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        write_arrays(tmp_path / "a.safetensors", {"a": np.arange(5), "b": np.zeros((0, 2))})
    assert np.array_equal(read_arrays(tmp_path / "a.safetensors")["a"], np.arange(5))
    half = (tmp_path / "a.safetensors").read_bytes()[:-9]
    (tmp_path / "a.safetensors").write_bytes(half)
    assert read_arrays(tmp_path / "a.safetensors") is None
    assert read_arrays(tmp_path / "b.safetensors") is None
