"""Promises of downscaling: lazy, independent of chunks, order and region, seamless, honest."""

from __future__ import annotations

from dataclasses import asdict
from types import SimpleNamespace

import dask
import numpy as np
import pytest
import xarray as xr

from tests.worlds import tiny_checkpoint, tiny_inputs, tiny_network
from xland.downscaling.call import downscale
from xland.errors import (
    ForcingError,
    GridError,
    ModelError,
    PriorError,
    RegionError,
    StaticError,
    TimeError,
)
from xland.geo.grid import Grid
from xland.models.applicability import Coverage
from xland.models.checkpoint import save_checkpoint
from xland.vocabulary import CLASS_NAMES

EVERYTHING = ("land_use", "probability", "margin", "entropy")


@pytest.fixture(scope="session")
def whole(world, model):
    """The tiny world in one block: what every other way of asking must agree with."""
    coarse, static, _ = world
    return downscale(coarse, model=model, static=static, years=2000, chunks=360, outputs=EVERYTHING).compute()


def assert_same(found: xr.Dataset, expected: xr.Dataset) -> None:
    """Probabilities within 1e-5, classes equal wherever the two best differ by more than that."""
    part = expected.sel(lat=found["lat"], lon=found["lon"])
    np.testing.assert_allclose(found["probability"], part["probability"], atol=1e-5)
    clear = part["margin"].values > 1e-5
    np.testing.assert_array_equal(found["land_use"].values[clear], part["land_use"].values[clear])


def test_probabilities_sum_to_one_and_ocean_is_certain(world, whole):
    _, static, _ = world
    np.testing.assert_allclose(whole["probability"].sum("class"), 1, atol=1e-6)
    sea = static["land_share"].values == 0
    assert (whole["land_use"].values[0][sea] == 0).all()
    assert (whole["margin"].values[0][sea] == 1).all()
    assert len(np.unique(whole["land_use"])) > 3


def test_a_regional_forcing_with_world_wide_static_fields_works(world, model, whole):
    coarse, static, _ = world
    region = coarse.sel(lat=slice(60, -20), lon=slice(-60, 60))
    found = downscale(region, model=model, static=static, years=2000)["land_use"]
    inner = found.sel(lat=slice(40, 0), lon=slice(-30, 30)).compute()
    # windows that reach beyond the region lack its neighbours, those inside do not
    assert (inner == whole["land_use"].sel(lat=inner["lat"], lon=inner["lon"])).mean() > 0.9
    assert found.shape == (1, 84, 120)


@pytest.mark.parametrize("direction", ["forward", "backward"])
def test_each_map_of_a_rollout_is_the_prior_of_the_next(world, rolling_model, past_model, direction):
    coarse, static, maps = world
    coarse = coarse.sel(lat=slice(60, -20), lon=slice(-60, 60))
    prior, first, second = (2000, 2001, 2002) if direction == "forward" else (2002, 2001, 2000)
    options = {"model": rolling_model if direction == "forward" else past_model, "static": static}
    options["direction"] = direction
    both = downscale(coarse, prior=maps.sel(time=prior), years=[first, second], **options)["land_use"].compute()
    one = downscale(coarse, prior=maps, years=first, **options)["land_use"].compute()  # of which it takes one year
    two = downscale(coarse, prior=one, years=second, **options)["land_use"].compute()
    np.testing.assert_array_equal(both.sel(year=[first]), one)
    np.testing.assert_array_equal(both.sel(year=[second]), two)
    other = downscale(coarse, prior=maps.sel(time=first), years=second, **options)["land_use"].compute()
    assert (other != two).any(), "the prior must make a difference"
    with pytest.raises(PriorError, match=f"prior map is of {prior}, but the first map needs the one of {first}"):
        downscale(coarse, prior=maps.sel(time=prior), years=second, **options)
    downscale(coarse, prior=maps.sel(time=prior).drop_vars("time"), years=second, **options)  # does not say its year


def test_two_steps_need_the_year_before(world, two_step_model):
    coarse, static, _ = world
    lazy = downscale(coarse, model=two_step_model, static=static)
    assert lazy["year"].values.tolist() == [2001, 2002]
    with pytest.raises(TimeError, match="1999"):
        downscale(coarse, model=two_step_model, static=static, years=[2000])


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"urban": np.nan}, "urban"),
        ({"urban": np.inf}, "urban"),
        ({"primf": -0.2}, "primf"),
        ({"primf": 1.4}, "primf"),
        ({"primf": 0.9, "secdf": 0.9}, "sum"),
        ({"primf": 62.0}, "percent"),
    ],
)
def test_bad_values_are_named_when_they_are_computed(world, model, change, message):
    coarse, static, _ = world
    broken = coarse.sel(time=[2000]).copy(deep=True)
    row, column = np.argwhere(np.isfinite(broken["primf"].values[0]))[40]
    for name, value in change.items():
        broken[name][{"time": 0, "lat": row, "lon": column}] = value
    lazy = downscale(broken, model=model, static=static)
    with pytest.raises(ForcingError, match=message) as error:
        lazy.compute()
    assert "2000" in str(error.value)


def test_a_fault_beside_a_region_is_named_too(world, model):
    """What stands in the halo of a region shapes its map."""
    coarse, static, _ = world
    broken = coarse.sel(time=[2000]).copy(deep=True)
    row, column = np.argwhere(np.isfinite(broken["primf"].values[0]))[40]
    broken["primf"][{"time": 0, "lat": row, "lon": column}] = np.inf
    edge = float(broken["lon"][column]) + 2
    south = float(broken["lat"][row]) - 10
    beside = downscale(broken, model=model, static=static, region=(edge, south, edge + 20, south + 20))
    with pytest.raises(ForcingError, match=r"primf.*1 cell"):
        beside.compute()


HALVED = {"lat": np.arange(20) * -2.0 + 40, "lon": np.arange(20) * 2.0}

REFUSED = [
    (lambda w: {"ds": w.coarse.drop_vars("primf")}, ForcingError, "primf"),
    (lambda w: {"ds": w.coarse.isel(lat=slice(20), lon=slice(20)).assign_coords(HALVED)}, ModelError,
     r"factor of 4 from 4 to 1 degree, and the forcing has cells of 2 degree; .*regrid\(resolution=4\)"),
    (lambda w: {"ds": w.coarse.assign_coords(lon=w.coarse["lon"] + 1).isel(lon=slice(30))}, GridError, "off"),
    (lambda w: {"years": [1850]}, TimeError, "1850"),
    (lambda w: {"years": "abc"}, TimeError, "whole numbers"),
    (lambda w: {"years": 2000.7}, TimeError, "whole numbers"),
    (lambda w: {"years": slice(2000, 2002, 2)}, TimeError, "step"),
    (lambda w: {"years": slice(1850, 1900)}, TimeError, "no year to map"),
    (lambda w: {"model": w.rolling, "years": [2000, 2002]}, TimeError, "2001"),
    (lambda w: {"region": (0, 50, 10, 40)}, RegionError, "south"),
    (lambda w: {"region": (10, 40, 10, 50)}, RegionError, "it is empty"),
    (lambda w: {"region": (10, 40, 20)}, RegionError, "give four numbers"),
    (lambda w: {"region": (10, 40, np.nan, 50)}, RegionError, "finite"),
    (lambda w: {"region": "Europe"}, RegionError, "give four numbers"),
    (lambda w: {"ds": w.coarse.sel(lon=slice(0, 60)), "region": (100, 0, 120, 20)}, RegionError, "contains no cell"),
    (lambda w: {"chunks": 50}, GridError, "chunks"),
    (lambda w: {"chunks": "auto"}, ModelError, "chunks"),
    (lambda w: {"outputs": "colour"}, ModelError, "outputs"),
    (lambda w: {"outputs": None}, ModelError, "outputs"),
    (lambda w: {"direction": "sideways"}, ModelError, "direction"),
    (lambda w: {"device": "tpu"}, ModelError, r"device must be .*cuda.*, not 'tpu'"),
    (lambda w: {"model": "nonesuch"}, ModelError, "no model 'nonesuch'"),
    (lambda w: {"model": 3}, ModelError, "name of a shipped one"),
    (lambda w: {"model": w.rolling, "direction": "backward"}, ModelError, "has learned to go forward"),
    (lambda w: {"static": w.maps}, StaticError, "must be a Dataset"),
    (lambda w: {"static": w.static.drop_vars("abs_latitude")}, StaticError, "abs_latitude"),
    (lambda w: {"static": w.static.assign_coords(lon=w.static["lon"] + 0.5)}, StaticError, "edges"),
    (lambda w: {"static": w.static.sel(lat=slice(60, -60))}, StaticError, "does not cover"),
    (lambda w: {"static": w.static.coarsen(lat=2, lon=2).mean()}, StaticError, "cells of 2 degree"),
    (lambda w: {"prior": w.maps.sel(time=2000)}, ModelError, "no prior"),
    (lambda w: {"model": w.rolling, "prior": w.maps.sel(time=2000).astype(str)}, PriorError, "whole class codes"),
    (lambda w: {"model": w.rolling, "prior": w.maps}, PriorError,
     "prior map is of 2000-2002, but the first map needs the one of 1999"),
    (lambda w: {"model": w.rolling, "prior": w.static}, PriorError, "without `land_use`"),
    (lambda w: {"model": w.rolling, "years": 2001, "prior": w.maps.sel(time=2000, lat=slice(50, -50))}, PriorError,
     "does not cover"),
]  # fmt: skip


@pytest.mark.parametrize(("change", "error", "message"), REFUSED)
def test_structural_faults_are_named_before_anything_is_computed(world, model, rolling_model, change, error, message):
    coarse, static, maps = world
    given = SimpleNamespace(coarse=coarse, static=static, maps=maps, rolling=rolling_model)
    options = {"ds": coarse, "model": model, "static": static, **change(given)}
    with pytest.raises(error, match=message):
        downscale(options.pop("ds"), **options)


def test_a_forcing_smaller_than_a_window_is_mapped(world, model):
    """8 x 12 degrees under windows of 40: what lies beyond is unknown, and the same for any blocks."""
    coarse, static, _ = world
    small = coarse.sel(lat=slice(10, 2), lon=slice(12, 24))
    options = {"model": model, "static": static, "years": 2000, "outputs": EVERYTHING}
    one = downscale(small, **options).compute()
    assert one["land_use"].shape == (1, 8, 12)
    assert_same(downscale(small, chunks=4, **options).compute(), one)
    np.testing.assert_allclose(one["probability"].sum("class"), 1, atol=1e-6)


def test_a_hole_in_the_forcing_is_named_where_the_model_knows_data(world, tmp_path):
    """All states NaN is ocean, ice or a lake, unless the model was trained with data in that cell."""
    coarse, static, _ = world
    covered = np.isfinite(coarse["primf"].values).all(axis=0)
    card = {"name": "covered", "coverage": asdict(Coverage.of(Grid.world(4), covered))}
    model = save_checkpoint(tmp_path, tiny_network(tiny_inputs()), card)
    options = {"model": model, "static": static, "years": 2000, "region": (-60, -18, 60, 62)}
    downscale(coarse, **options)["land_use"].compute()
    holed = coarse.copy(deep=True)
    row, column = np.argwhere(covered[7:27, 30:60])[100] + (7, 30)
    for name in holed.data_vars:
        holed[name][{"lat": row, "lon": column}] = np.nan
    with pytest.raises(ForcingError, match=r"1 (land )?cell"):
        downscale(holed, **options)["land_use"].compute()


def test_other_values_or_files_have_another_fingerprint(world, model, tmp_path):
    coarse, static, _ = world

    def fingerprint(ds):
        return downscale(ds, model=model, static=static).attrs["xland_fingerprint"]

    changed = coarse.copy(deep=True)
    changed["urban"][{"time": 0, "lat": 20, "lon": 40}] = 0.5
    assert fingerprint(coarse) == fingerprint(coarse.copy(deep=True))
    assert fingerprint(coarse) != fingerprint(changed)
    assert fingerprint(coarse.chunk()) != fingerprint(changed.chunk())
    coarse.to_netcdf(tmp_path / "one.nc")
    coarse.to_netcdf(tmp_path / "two.nc")
    one = [xr.open_dataset(tmp_path / "one.nc", chunks={}) for _ in range(2)]
    assert fingerprint(one[0]) == fingerprint(one[1])
    assert fingerprint(one[0]) != fingerprint(xr.open_dataset(tmp_path / "two.nc", chunks={}))


def test_a_prior_with_unknown_codes_is_refused(world, rolling_model):
    coarse, static, maps = world
    strange = maps.sel(time=2000).copy(deep=True)
    strange[90, 100:110] = 44
    with pytest.raises(PriorError, match=r"44 \(10 cells\)"):
        downscale(coarse, model=rolling_model, static=static, years=2001, prior=strange).compute()


def test_nan_in_static_fields_on_land_is_named(world, model):
    coarse, static, _ = world
    broken = static.copy(deep=True)
    row, column = np.argwhere(static["land_share"].values > 0)[500]
    broken["elevation"][row, column] = np.nan
    with pytest.raises(StaticError, match=r"elevation: 1 cells of land are NaN or infinite, the first at latitude"):
        downscale(coarse, model=model, static=broken, years=2000).compute()


def test_outputs_carry_cf_attributes_a_crs_and_provenance(world, model):
    coarse, static, _ = world
    fine = downscale(coarse, model=model, static=static, outputs=EVERYTHING)
    land_use = fine["land_use"]
    assert land_use.dtype == np.uint8
    assert land_use.attrs["flag_meanings"].split() == list(CLASS_NAMES)
    assert land_use.attrs["flag_values"].tolist() == list(range(8))
    assert fine["class"].values.tolist() == list(range(8))
    assert fine["class_name"].values.tolist() == list(CLASS_NAMES)
    xr.testing.assert_identical(fine.sel(class_name="forest"), fine.sel({"class": 4}))
    assert land_use.rio.crs.to_epsg() == 4326
    assert fine.attrs["xland_model_sha256"] == model.digest
    other = downscale(coarse, model=model, static=static, outputs="land_use")
    assert fine.attrs["xland_fingerprint"] != other.attrs["xland_fingerprint"]


def test_neither_the_model_nor_code_is_in_the_graph(tmp_path, world, monkeypatch):
    """Only folder, card and names travel: a wider network leaves the graph as small as before."""
    from cloudpickle import Pickler, dumps

    def by_value(_, function):
        raise AssertionError(f"{function.__qualname__} is pickled by value")

    monkeypatch.setattr(Pickler, "_dynamic_function_reduce", by_value)
    coarse, static, _ = world
    sizes, weights = [], []
    for width in (2, 16):
        checkpoint = tiny_checkpoint(tmp_path / str(width), tiny_inputs(), width=width)
        lazy = downscale(coarse.chunk(), model=checkpoint, static=static.chunk(), years=2000)["land_use"]
        sizes.append(len(dumps(lazy.__dask_graph__())))
        weights.append((checkpoint.folder / "weights.safetensors").stat().st_size)
    assert weights[1] > weights[0] + 50_000
    assert sizes[1] < sizes[0] + 10_000


@pytest.mark.parametrize("source", ["a file", "a store", "chunks", "memory"])
def test_names_positions_and_small_arrays_travel_to_a_cluster(world, model, tmp_path, source, monkeypatch):
    """Nothing of a file, in chunks or not; of values in memory those around the place in the year that is mapped."""
    from cloudpickle import dumps

    coarse, static, _ = world
    coarse = xr.concat([coarse.assign_coords(time=coarse["time"] + 3 * n) for n in range(10)], "time")
    monkeypatch.setattr("xland.forcing.read.IN_MEMORY", 15)
    static.to_zarr(tmp_path / "static.zarr", consolidated=False)
    fields = xr.open_zarr(tmp_path / "static.zarr", chunks=None, consolidated=False)
    if source == "a file":
        coarse.to_netcdf(tmp_path / "coarse.nc")
        coarse = xr.open_dataset(tmp_path / "coarse.nc", decode_times=False)
    elif source != "memory":
        coarse.to_zarr(tmp_path / "coarse.zarr", consolidated=False)
        coarse = xr.open_zarr(tmp_path / "coarse.zarr", chunks={} if source == "chunks" else None, consolidated=False)
    lazy = downscale(coarse, model=model, static=fields, years=2001)
    (selected,) = dask.optimize(lazy.isel(lat=slice(0, 8), lon=slice(0, 8)))
    assert len(dumps(selected.__dask_graph__())) < 80_000 < coarse.nbytes / 10, "a year of values has more"
