"""The accessor is a thin door: these tests go through it to the whole chain, on small and on real data."""

from __future__ import annotations

import inspect
from importlib import import_module

import numpy as np
import pytest
import xarray as xr

import xland
from tests.worlds import tiny_checkpoint, tiny_inputs, tiny_world
from xland.errors import CatalogError, KeywordError, VocabularyError
from xland.store.provenance import bounds


@pytest.fixture(autouse=True)
def no_windows():
    import matplotlib as mpl
    import matplotlib.pyplot as plt

    with mpl.rc_context({"backend": "agg", "figure.dpi": 50}):
        yield
    plt.close("all")


@pytest.fixture(scope="module")
def model_folder(tmp_path_factory):
    return tiny_checkpoint(tmp_path_factory.mktemp("model"), tiny_inputs())


@pytest.fixture(scope="module")
def lazy(model_folder):
    coarse, static, _ = tiny_world((2000,))
    return coarse.ai4land.downscale(model=model_folder, static=static, outputs=("land_use", "margin"))


@pytest.fixture(scope="module")
def fine(lazy):
    return lazy.compute(), tiny_world((2000,))[2]


def test_public_functions_are_there_and_others_are_not():
    for name in xland.__all__:
        assert getattr(xland, name) is not None
    assert "downscale" in dir(xland)
    with pytest.raises(AttributeError, match="upscale"):
        xland.upscale  # noqa: B018 - reading it is the test


FUNCTIONS = {
    "Dataset.check": "forcing.check:check",
    "Dataset.downscale": "downscaling.call:downscale",
    "Dataset.describe": "downscaling.block:describe",
    "Dataset.batches": "training.data.batches:make_batches",
    "Dataset.to_zarr": "store.writing:write",
    "Dataset.to_netcdf": "store.writing:write_netcdf",
    "Dataset.publish": "catalogs.publishing:publish",
    "Dataset.evaluate": "scores.evaluation:evaluate",
    "Dataset.plot": "plot:land_use_map",
    "Dataset.aggregate": "totals.aggregation:aggregate_classes",
    "Dataset.is_class": "scores.areas:is_class",
    "Dataset.area": "scores.areas:class_areas",
    "DataArray.compare": "scores.areas:compare_maps",
    "DataArray.plot": "plot:draw",
}


@pytest.mark.parametrize("method", FUNCTIONS)
def test_methods_have_the_keywords_and_defaults_of_their_functions(method):
    module, name = FUNCTIONS[method].split(":")
    accessor, method = method.split(".")
    its = dict(inspect.signature(getattr(import_module(f"xland.{module}"), name)).parameters)
    own = dict(inspect.signature(getattr(getattr(xland, f"{accessor}Accessor"), method)).parameters)
    del own["self"]
    for data in ("ds", "da", "maps", "first", "forcing", "predicted", "path", "expected", "coverage", "augmentation"):
        its.pop(data, None)
    for renamed in ("store", "path", "augmentation"):
        if renamed not in its:
            own.pop(renamed, None)
    assert {key: each.default for key, each in own.items()} == {key: each.default for key, each in its.items()}


def test_unknown_keywords_are_refused_with_the_nearest(fine):
    for call in (fine[0].ai4land.evaluate, fine[0]["land_use"].ai4land.evaluate):
        with pytest.raises(KeywordError, match=r"evaluate: unknown keyword 'facto': did you mean 'factor'\?"):
            call(fine[1], facto=4)


def test_maps_travel_through_store_and_catalog(lazy, fine, tmp_path):
    import intake

    maps, _ = fine
    store = lazy.ai4land.to_zarr(store=tmp_path / "land_use.zarr", progress=False)
    catalog = maps.ai4land.publish(tmp_path / "catalog.yaml", name="tiny", store=store)
    opened = intake.open_catalog(str(catalog))["tiny"].to_dask()
    np.testing.assert_array_equal(opened["land_use"], maps["land_use"])
    assert opened["land_use"].dtype == np.uint8
    assert opened.attrs["Conventions"].startswith("CF-1.11")
    assert opened.attrs["xland_model"] == "tiny-0"


def test_a_selection_says_what_it_is_when_it_is_written_or_asked_for(lazy, tmp_path):
    part = lazy.sel(lat=slice(22, -22), lon=slice(0, 40))
    for each in (lazy, part):
        assert each.attrs["title"] == "Land use on 1 degree"
        assert not [name for name in each.attrs if name.startswith(("geospatial_", "time_coverage_"))]
    found = xland.open_store(part.ai4land.to_zarr(tmp_path / "part.zarr", progress=False)).attrs
    assert [found[f"geospatial_{side}"] for side in ("lon_min", "lat_min", "lon_max", "lat_max")] == [0, -22, 40, 22]
    assert found["time_coverage_start"] == "2000-01-01"
    assert found["title"] == "Land use on 1 degree, 2000"


def test_a_slice_plots(fine):
    maps, _ = fine
    axes = maps["land_use"].sel(lat=slice(50, 0), lon=slice(0, 60)).ai4land.plot()
    assert len(axes.images) == 1
    assert len(maps["margin"].ai4land.plot().images) == 1
    assert maps.ai4land.plot(legend=False).get_legend() is None


def colors(ax):
    return np.asarray(ax.get_images()[0].get_array())


def test_codes_that_where_made_floats_are_drawn_as_classes_with_blanks(fine):
    maps, _ = fine
    codes = maps["land_use"].isel(time=0).sel(lat=slice(50, 0), lon=slice(0, 60)).compute()
    land = codes.where(codes != 0)
    assert land.dtype.kind == "f"
    assert land.isnull().any()
    ax = land.ai4land.plot()
    assert "ocean or no data" not in [each.get_text() for each in ax.get_legend().get_texts()]
    np.testing.assert_array_equal(colors(ax)[..., 3] == 0, land.isnull())
    expected = colors(codes.ai4land.plot())
    np.testing.assert_array_equal(colors(ax)[codes.values != 0], expected[codes.values != 0])
    assert land.drop_attrs().rename(None).ai4land.plot().get_legend() is not None


def test_amounts_are_drawn_as_a_scale_that_bears_their_own_name(fine):
    maps, _ = fine
    coarse, _, _ = tiny_world((2000,))
    forest = coarse["primf"].isel(time=0)
    for given, label in (
        (forest.assign_attrs(long_name="forested primary land"), "forested primary land"),
        (forest.drop_attrs(), "primf"),
        (xr.where(forest > 0.5, 1.0, 0.0).rename("primf").assign_coords(forest.coords), "primf"),
        (coarse["secma"].isel(time=0).assign_attrs(long_name="age"), "age [years]"),
        (maps["margin"].isel(time=0), maps["margin"].attrs["long_name"]),
        ((maps["land_use"] == 4).coarsen(lat=4, lon=4).mean().rename("forest"), "forest"),
        (maps["land_use"] == 4, "land_use"),
    ):
        ax = given.ai4land.plot()
        assert ax.get_legend() is None
        assert ax.figure.axes[1].get_ylabel() == label
    assert coarse["secma"].isel(time=0).ai4land.plot().get_images()[0].get_clim()[1] > 1
    assert forest.ai4land.plot().get_images()[0].get_clim() == (0, 1)


def test_a_store_of_other_maps_is_not_published_in_the_name_of_these(fine, tmp_path):
    maps, _ = fine
    store = maps.isel(lat=slice(0, 20)).ai4land.to_zarr(tmp_path / "a.zarr", progress=False)
    others = maps.assign_attrs(xland_fingerprint="0123456789abcdef")
    with pytest.raises(CatalogError, match=r"does not have these maps.*0123456789ab "):
        others.ai4land.publish(tmp_path / "catalog.yaml", name="a", store=store)
    assert not (tmp_path / "catalog.yaml").exists()
    maps.drop_attrs().ai4land.publish(tmp_path / "catalog.yaml", name="a", store=store)
    maps.ai4land.publish(tmp_path / "catalog.yaml", name="a", store=store)


@pytest.mark.parametrize(
    ("west", "region", "edges"), [(None, (160, -20, -168, 22), (160, 192)), (0.0, (-20, -20, 12, 22), (-20, 12))]
)
def test_a_region_across_the_seam_is_an_ordinary_map_everywhere(tmp_path, model_folder, west, region, edges):
    """Evaluation, aggregation, plot, store, GDAL and catalog see the same edges as the caller."""
    import rioxarray
    import yaml

    from tests.strategies import Layout

    coarse, static, observed = tiny_world((2000,))
    coarse, observed = Layout(west=west).apply(coarse), Layout(west=west).apply(observed.to_dataset())["land_use"]
    maps = coarse.ai4land.downscale(model=model_folder, static=static, region=region).compute()
    assert (np.diff(maps["lon"]) == 1).all()
    expected = (edges[0], -22, edges[1], 22)
    assert bounds(maps) == expected
    ax = maps.ai4land.plot()
    assert (*ax.get_xlim(), *ax.get_ylim()) == (*edges, -22, 22)
    turned = observed.assign_coords(lon=(observed["lon"] - edges[0]) % 360 + edges[0]).sortby("lon")
    own = turned.sel(lat=maps["lat"], lon=maps["lon"])
    assert own.ai4land.evaluate(observed, factor=4)["all"].accuracy == 1
    assert maps.ai4land.evaluate(observed, factor=4)["all"].total == pytest.approx(
        own.ai4land.evaluate(own)["all"].total
    )
    shares = maps.ai4land.aggregate(4)
    assert shares["lon"].values.tolist() == [*np.arange(edges[0] + 2, edges[1], 4)]
    assert sum(shares.data_vars.values()).values == pytest.approx(1, abs=1e-6)
    store = maps.ai4land.to_zarr(tmp_path / "a.zarr", progress=False)
    xr.testing.assert_equal(xland.open_store(store).compute(), maps)
    catalog = yaml.safe_load(maps.ai4land.publish(tmp_path / "c.yaml", name="a", store=store).read_text())
    assert catalog["sources"]["a"]["metadata"]["bounds"] == list(expected)
    netcdf = maps.ai4land.to_netcdf(tmp_path / "a.nc", progress=False)
    with rioxarray.open_rasterio(netcdf, variable="land_use") as raster:
        assert raster.rio.bounds() == expected
    maps["land_use"].isel(time=0).rio.to_raster(tmp_path / "a.tif")
    with rioxarray.open_rasterio(tmp_path / "a.tif") as raster:
        assert raster.rio.bounds() == expected
        np.testing.assert_array_equal(raster[0], maps["land_use"][0])


def test_evaluate_on_dataset_and_dataarray_agree(fine):
    maps, observed = fine
    one = maps.ai4land.evaluate(observed, factor=4)
    two = maps["land_use"].ai4land.evaluate(observed, factor=4)
    assert one.to_dict() == two.to_dict()
    assert maps["land_use"].ai4land.evaluate(maps["land_use"], factor=4)["all"].accuracy == 1


def test_a_dataset_without_maps_is_refused_by_name():
    coarse, _, _ = tiny_world((2000,))
    with pytest.raises(VocabularyError, match="no variable 'land_use'"):
        coarse.ai4land.plot()


def test_aggregating_gives_back_the_coarse_shares_lazily_in_any_chunks_and_order():
    coarse, _, maps = tiny_world((2000, 2001))
    expected = maps.ai4land.aggregate(4)
    assert sum(expected.data_vars.values()).values == pytest.approx(1, abs=1e-6)
    np.testing.assert_allclose(expected["forest"], (coarse["primf"] + coarse["secdf"]).fillna(0), atol=1e-6)
    xr.testing.assert_allclose(maps.to_dataset().ai4land.aggregate(4), expected)
    turned = maps.chunk(lat=50, lon=70, time=1).isel(lat=slice(None, None, -1)).rename(lat="y", lon="x")
    found = turned.ai4land.aggregate(4)
    assert found["urban"].chunks is not None
    assert float(found["y"][0]) < 0
    back = found.rename(y="lat", x="lon").isel(lat=slice(None, None, -1))
    for name in expected:
        np.testing.assert_allclose(back[name], expected[name], atol=1e-6)


def test_aggregating_reads_maps_as_everything_does():
    """Declared fill values are no data, other legends are refused, and no year gives no year."""
    maps = tiny_world((2000,))[2]
    expected = maps.ai4land.aggregate(4)
    filled = maps.where(maps > 0, 200).astype("u1").assign_attrs(_FillValue=np.uint8(200))
    xr.testing.assert_equal(filled.ai4land.aggregate(4), expected)
    np.testing.assert_array_equal(maps.astype("float32").ai4land.aggregate(4)["forest"], expected["forest"])
    with pytest.raises(VocabularyError, match="flag_meanings that 1 is 'trees'"):
        maps.assign_attrs(flag_values=[0, 1], flag_meanings="ocean trees").ai4land.aggregate(4)
    assert maps.isel(time=[]).ai4land.aggregate(4).forest.compute().shape == (0, 45, 90)


@pytest.mark.parametrize("bad", [np.nan, -1.0, 2.5, np.inf, 44.0])
def test_what_is_not_the_code_of_a_class_is_refused_when_aggregating(bad):
    broken = tiny_world((2000,))[2].astype("float32")
    broken[0, 100, 200:203] = bad
    with pytest.raises(VocabularyError, match=r"map 'land_use' .*\(3 cells\), the first at -10.5 N, 20.5 E"):
        broken.chunk(lat=40, lon=40).ai4land.aggregate(4).compute()
