from __future__ import annotations

import json

import dask
import numpy as np
import pytest
import xarray as xr
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.biophysical.worlds import PLACE, climate, maps, months, shares, untrained_model
from tests.killing import run_until_killed
from tests.raising_backend import raising_dataset
from tests.strategies import Layout, layouts
from xland.biophysical.leaf_area import leaf_area_index, read_shares
from xland.biophysical.season import season_features
from xland.cli import main
from xland.errors import AllocationError, ClimateError, KeywordError, ModelError, TimeError, VocabularyError
from xland.geo.grid import Grid
from xland.store.reading import open_store
from xland.store.workplace import notes
from xland.untrusted.folders import LocalFiles
from xland.vocabulary import CLASS_NAMES, FOREST, OCEAN, WATER


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    return untrained_model(tmp_path_factory.mktemp("models") / "untrained")


@pytest.fixture(scope="module")
def found(model):
    """What follows from the maps in one block."""
    return leaf_area_index(maps(), model=model, climate=climate(), outputs=("spread", "outside")).load()


def test_a_pixel_has_the_answer_of_its_class_to_the_climate_at_the_middle_of_its_cell(model, found):
    row, column = 7, 12  # in the cell of 44.625 N, 8.625 E
    sky = months(np.array([44.625]), np.array([8.625]), 0.5)
    corners = [months(np.array([lat]), np.array([lon]), 0.5) for lat in (44.5, 45.5) for lon in (8.5, 9.5)]
    weights = [w * v for w in (0.875, 0.125) for v in (0.875, 0.125)]
    sky = sum(weight * each for weight, each in zip(weights, corners, strict=True))
    features = season_features(*sky[..., 0, 0][:, None], np.array([44.625]))
    code = int(maps().values[1, row, column])
    ours = found.sel(year=2001).isel(lat=row, lon=column)
    np.testing.assert_allclose(ours.lai, model.responses(features)[0, :, code], atol=1e-4)
    np.testing.assert_allclose(ours.spread, model.members(features).std(axis=0)[0, :, code], atol=1e-4)


def test_water_and_ocean_have_no_leaves_and_nothing_is_negative(found):
    codes = maps().rename(time="year")
    assert float(found.lai.min()) == 0
    for code in (OCEAN, WATER):
        bare = (codes == code).sel(year=found.year)
        assert float(found.lai.where(bare, 0).max()) == 0
        assert float(found.spread.where(bare, 0).max()) == 0
    assert float(found.lai.where((codes == FOREST).sel(year=found.year), 1).min()) > 0


def test_the_result_is_what_cf_says_of_a_leaf_area_index(found):
    assert {"standard_name": "leaf_area_index", "units": "1", "cell_methods": "area: mean time: mean"}.items() <= (
        found.lai.attrs.items()
    )
    assert found.sel(year=2001).sel(month=2).time.values == np.datetime64("2001-02-15")
    assert found.time_bnds.sel(time="2000-02").values.tolist()[0][1] == found.time_bnds.sel(time="2000-03").values[0, 0]
    assert found.time.encoding["bounds"] == "time_bnds"
    assert set(np.unique(found.outside)) <= {0, 1}
    assert found.outside.dtype == np.uint8


def test_a_map_without_a_year_gives_a_climatology_of_the_years_of_the_climate(model, tmp_path):
    weather = climate(years=(2000, 2001, 2002))
    ds = leaf_area_index(maps(years=(2001,)).isel(time=0, drop=True), model=model, climate=weather)
    assert ds.lai.attrs["cell_methods"] == "area: mean time: mean within years time: mean over years"
    months_bounds = ds.climatology_bnds.sel(month=12).values
    assert [str(each)[:10] for each in months_bounds] == ["2000-12-01", "2003-01-01"]
    whole = leaf_area_index(maps(years=(2001,)), model=model, climate=weather.sel(time="2001"))  # the middle one
    np.testing.assert_allclose(ds.lai, whole.lai, atol=1e-3)
    ds.ai4land.to_zarr(tmp_path / "lai.zarr", progress=False)
    again = open_store(tmp_path / "lai.zarr")
    np.testing.assert_array_equal(again.climatology_bnds, ds.climatology_bnds)
    assert again.time.encoding["climatology"] == "climatology_bnds"


def test_nothing_is_read_before_values_are_asked_for(model):
    asked = {"model": model, "climate": raising_dataset(climate())}
    for each in (maps().to_dataset(), shares(maps()).to_dataset(), by_class(shares(maps()))):
        assert leaf_area_index(raising_dataset(each), **asked).sizes["time"] == 24


def by_class(values: xr.DataArray) -> xr.Dataset:
    """Shares as ``aggregate`` gives them, one variable for each class."""
    return xr.Dataset({name: values.isel({"class": n}, drop=True) for n, name in enumerate(CLASS_NAMES)})


def test_codes_shares_and_probabilities_that_say_the_same_give_the_same(model, found):
    values = shares(maps())
    several = (maps(), maps().to_dataset(), values, values.to_dataset(), by_class(values))
    for each in several:
        ds = leaf_area_index(each, model=model, climate=climate(), outputs=("spread", "outside"))
        for name in found.data_vars:
            np.testing.assert_allclose(ds[name], found[name], atol=1e-6, err_msg=name)
    both = xr.Dataset({"land_use": maps(), "probability": values})
    assert read_shares(both).names == ("probability",)


@settings(max_examples=20)
@given(data=st.data())
def test_neither_blocks_nor_order_nor_names_nor_a_region_change_a_pixel(model, found, data):
    layout: Layout = data.draw(layouts(PLACE))
    rows = data.draw(st.integers(0, 10))
    if data.draw(st.booleans()):
        laid = layout.apply(maps().isel(lat=slice(rows, None)).to_dataset())
        names = dict(zip(layout.names[:2], ("lat", "lon"), strict=True))
    else:
        chunks = {"time": 1, "class": -1, "lat": data.draw(st.integers(1, 20)), "lon": data.draw(st.integers(4, 30))}
        laid, names = shares(maps()).isel(lat=slice(rows, None)).to_dataset().chunk(chunks), {}
    weather = climate().isel(lat=slice(None, None, data.draw(st.sampled_from([1, -1]))))
    with dask.config.set(scheduler="synchronous"):
        ours = leaf_area_index(laid, model=model, climate=weather).lai.load()
    assert ours.dims[0] == "time"
    ours = ours.rename(names).sortby("lat", ascending=False).transpose("time", "lat", "lon")
    ours = ours.assign_coords(lon=ours.lon % 360).sortby("lon")
    np.testing.assert_allclose(ours, found.lai.isel(lat=slice(rows, None)), atol=1e-5)


@settings(max_examples=10)
@given(seed=st.integers(0, 2**16), factor=st.sampled_from([5, 25]))
def test_the_mean_over_a_cell_is_the_leaf_area_of_its_mean_shares(model, seed, factor):
    codes = maps(Grid(0.25 / factor, 45, 8, 2 * factor, 3 * factor), (2000,), seed)
    fine = leaf_area_index(codes, model=model, climate=climate()).lai.values
    coarse = leaf_area_index(codes.ai4land.aggregate(factor), model=model, climate=climate()).lai.values
    area = Grid.from_centres(codes.lat, codes.lon).cell_area().reshape(2, factor, 1, 1)
    blocks = fine.reshape(12, 2, factor, 3, factor)
    mean = (blocks * area).sum(axis=(2, 4)) / (area.sum(axis=1) * factor).reshape(1, 2, 1)
    np.testing.assert_allclose(coarse, mean, atol=1e-5)


@settings(max_examples=10)
@given(north=st.floats(0.5, 80), seed=st.integers(0, 99))
def test_the_southern_hemisphere_has_the_same_season_six_months_later(model, north, seed):
    grid = Grid(0.25, round(north * 4) / 4 + 0.5, 0.0, 2, 2)
    lat = np.arange(np.floor(grid.south) - 1, grid.north + 2)
    sky = climate(lat, np.arange(-1.0, 3.0), (2000,))
    codes = maps(grid, (2000,), seed)
    south = Grid(0.25, -grid.south, 0.0, 2, 2)
    turned = xr.DataArray(codes.values[:, ::-1], {"time": [2000], "lat": south.latitude, "lon": south.longitude},
                          ("time", "lat", "lon"), "land_use")  # fmt: skip
    as_mean = sky.assign(pr=mm_a_month(sky)).groupby("time.month").mean()
    as_mean.tas.attrs["units"], as_mean.pr.attrs["units"] = "K", "mm month-1"
    later = as_mean.roll(month=6).assign_coords(lat=-as_mean.lat)
    ours = leaf_area_index(codes, model=model, climate=as_mean).lai.values
    theirs = leaf_area_index(turned, model=model, climate=later).lai.values[:, ::-1]
    np.testing.assert_allclose(np.roll(ours, 6, axis=0), theirs, atol=1e-4)


def mm_a_month(sky: xr.Dataset) -> xr.DataArray:
    return sky.pr * 86_400 * sky.time.dt.days_in_month


def test_a_region_across_the_date_line_is_seamless(model):
    globe = climate(np.arange(-88.75, 90, 2.5), np.arange(1.25, 360, 2.5), (2000,))
    grid = Grid(0.25, 10, 178, 8, 16)
    codes = maps(grid, (2000,))
    whole = leaf_area_index(codes, model=model, climate=globe).lai.values
    turned = codes.assign_coords(lon=(codes.lon + 180) % 360 - 180).chunk(lon=5)
    apart = leaf_area_index(turned, model=model, climate=globe.assign_coords(lon=(globe.lon + 180) % 360 - 180))
    np.testing.assert_allclose(apart.lai, whole, atol=1e-5)
    assert np.abs(np.diff(whole.max(axis=1), axis=1)).max() < whole.max()


def test_a_store_says_what_it_was_made_of_and_can_be_published(model, tmp_path):
    weather = climate().assign_attrs(title="A climate", license="CC0")
    given_maps = maps().to_dataset().assign_attrs(title="My maps", license="MIT", xland_model="luh2-0p05")
    ds = given_maps.ai4land.leaf_area_index(model=model, climate=weather, outputs="spread")
    ds.ai4land.to_zarr(tmp_path / "lai.zarr", progress=False)
    ds.ai4land.publish(tmp_path / "catalog.yaml", name="lai", store=tmp_path / "lai.zarr")
    again = open_store(tmp_path / "lai.zarr")
    xr.testing.assert_equal(again.lai.drop_vars("spatial_ref"), ds.lai.drop_vars("spatial_ref").compute())
    assert (again.time == ds.time).all()
    assert again.sel(time="2000-07").time_bnds.values.tolist() == ds.sel(time="2000-07").time_bnds.values.tolist()
    assert again.attrs["license"] == "model untrained: Apache-2.0; map: MIT; climate: CC0"
    assert json.loads(again.attrs["xland_map"]) == {"title": "My maps", "xland_model": "luh2-0p05"}
    assert again.attrs["time_coverage_resolution"] == "P1M"
    assert again.attrs["title"] == "Leaf area index on 0.05 degree"


def test_what_a_killed_run_has_written_is_not_computed_again(model, tmp_path):
    run_until_killed(
        """
        from pathlib import Path
        import numpy as np
        from tests.biophysical.worlds import climate, maps
        from tests.killing import kill_this_process
        from xland.biophysical import leaf_area
        done = []
        compute = leaf_area.block_outputs
        def killing(*args, **options):
            if len(done) == 5 and args[0].size:
                kill_this_process()
            done.extend([1] * bool(args[0].size))
            return compute(*args, **options)
        leaf_area.block_outputs = killing
        killing.__module__, killing.__qualname__ = compute.__module__, compute.__qualname__
        import dask
        from xland.biophysical.model import BiophysicalModel
        with dask.config.set(scheduler="synchronous"):
            ds = leaf_area.leaf_area_index(maps().chunk(lat=5, lon=10), model=sys.argv[1], climate=climate())
            ds.ai4land.to_zarr(sys.argv[2], progress=False)
        """,
        model.folder,
        tmp_path / "lai.zarr",
    )
    ds = leaf_area_index(maps().chunk(lat=5, lon=10), model=model, climate=climate())
    counted = notes(LocalFiles(f"{tmp_path / 'lai.zarr'}.partial"))
    assert 0 < len(counted) < 24
    ds.ai4land.to_zarr(tmp_path / "lai.zarr", resume=True, progress=False)
    once = leaf_area_index(maps(), model=model, climate=climate()).lai.values
    np.testing.assert_allclose(open_store(tmp_path / "lai.zarr").lai, once, atol=1e-5)


def test_the_command_writes_what_the_function_gives(model, found, tmp_path, capsys):
    maps().to_dataset().to_netcdf(tmp_path / "maps.nc")
    climate().to_netcdf(tmp_path / "climate.nc")
    given_files = ["lai", str(tmp_path / "maps.nc")]
    how = ["--model", str(model.folder), "--climate", str(tmp_path / "climate.nc"), "--quiet"]
    assert main([*given_files, str(tmp_path / "lai.zarr"), *how, "--outputs", "spread"]) == 0
    assert main([*given_files, str(tmp_path / "lai.nc"), *how, "--years", "2001"]) == 0
    ours = open_store(tmp_path / "lai.zarr")
    np.testing.assert_allclose(ours.lai, found.lai, atol=1e-5)
    assert set(ours.data_vars) == {"lai", "spread"}
    with xr.open_dataset(tmp_path / "lai.nc") as file:
        np.testing.assert_allclose(file.lai, found.lai.sel(year=2001), atol=1e-5)
    assert main([*given_files, str(tmp_path / "other.zarr"), *how, "--outputs", "spred"]) == 1
    assert "did you mean 'spread'" in capsys.readouterr().err


def test_today_is_the_climate_where_none_is_given(model, reference_data):
    tokyo = maps(Grid(0.05, 36.0, 139.5, 10, 10), (2015,))
    ds = leaf_area_index(tokyo, model=model)
    assert "1979 to 2014" in ds.attrs["comment"]
    assert "P.837-7" in ds.attrs["xland_licences"]
    assert float(ds.lai.max()) > 0


SCARCE = by_class(shares(maps())).drop_vars("forest")


@pytest.mark.parametrize(
    ("wrong", "error", "said"),
    [
        (lambda: {"outputs": "spreads"}, ModelError, "did you mean 'spread'"),
        (lambda: {"years": 1999}, TimeError, "no map of 1999; the maps are of 2000-2001"),
        (lambda: {"years": slice(2050, 2060)}, TimeError, "the maps are of 2000-2001"),
        (lambda: {"maps": SCARCE}, AllocationError, "shares of the classes forest are missing"),
        (lambda: {"maps": maps().assign_attrs(flag_meanings="a b c d e f g h")}, VocabularyError, "flag_meanings"),
        (lambda: {"maps": maps().isel(time=[0, 0]).drop_vars("time")}, TimeError, "do not say their years"),
        (lambda: {"model": "leaf"}, ModelError, "there is no model 'leaf'"),
        (lambda: {"climat": None}, KeywordError, "climate"),
        (lambda: {"climate": climate(years=(2000,))}, ClimateError, r"no months of 2001.*groupby\('time.month'\)"),
        (lambda: {"climate": climate(np.arange(41.5, 44))}, ClimateError, "does not cover the map: 600 of 600 cells"),
    ],
)
def test_what_cannot_be_done_is_named_when_it_is_asked_for(model, wrong, error, said):
    asked = {"maps": maps(), "model": model, "climate": climate(), **wrong()}
    with pytest.raises(error, match=said):
        leaf_area_index(asked.pop("maps"), **asked)


def changed(where, value):
    values = shares(maps())
    values[where] = value
    return values


@pytest.mark.parametrize(
    ("wrong", "error", "said"),
    [
        (lambda: changed((0, 4, 3, 5), 0.5), AllocationError, "1 cells have a sum that is not 1|sum"),
        (lambda: shares(maps()) * 100, AllocationError, "percent"),
        (lambda: changed((0, 4, 3, 5), -0.5), AllocationError, "share of forest: 1 cells below 0"),
        (
            lambda: changed((0, 4, 3, 5), np.nan),
            AllocationError,
            "no data for some classes, the first at latitude 44.8",
        ),
        (lambda: maps().where(maps() != 3, 33), VocabularyError, "unknown class codes 33"),
    ],
)
def test_impossible_maps_are_named_when_values_are_asked_for(model, wrong, error, said):
    ds = leaf_area_index(wrong(), model=model, climate=climate())
    with pytest.raises(error, match=said):
        ds.load()


def test_where_no_share_is_known_the_leaf_area_is_not_either(model, found):
    values = changed((0, slice(None), 3, 5), np.nan)
    ds = leaf_area_index(values, model=model, climate=climate())
    assert int(ds.lai.isnull().sum()) == 12
    np.testing.assert_allclose(ds.lai.fillna(0).isel(lat=slice(4, None)), found.lai.isel(lat=slice(4, None)), atol=1e-6)


def test_shares_that_were_stored_in_steps_are_brought_to_a_sum_of_one(model, found):
    ds = leaf_area_index(shares(maps()) * 0.99, model=model, climate=climate())
    np.testing.assert_allclose(ds.lai, found.lai, atol=1e-5)


def test_a_model_of_another_variable_gives_it_under_its_own_name(tmp_path):
    other = untrained_model(tmp_path / "fapar", name="fapar", most=1.0, standard_name="", long_name="")
    ds = leaf_area_index(maps(), model=other, climate=climate())
    assert list(ds.data_vars) == ["fapar"]
    assert float(ds.fapar.max()) <= 1
    assert "standard_name" not in ds.fapar.attrs
