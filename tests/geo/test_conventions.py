"""Whatever dimensions are called and however they are ordered: the same chunks, metadata and years."""

from __future__ import annotations

import dask.array as da
import numpy as np
import pytest
import xarray as xr
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.benchmarks import checkers
from xland.errors import TimeError
from xland.geo.conventions import for_files, for_gis, with_years, years_along
from xland.geo.orientation import find_role
from xland.store.blocks import align
from xland.store.provenance import bounds, describe_product, for_storage, years
from xland.store.reading import open_store
from xland.store.writing import write, write_netcdf

NAMES = ("lat", "latitude", "Breite °"), ("lon", "longitude", "x, y"), ("time", "year", "t", "jahr")


def maps(order: tuple[str, ...] = ("time", "lat", "lon"), **names: str) -> xr.Dataset:
    sizes = {"time": 3, "lat": 3000, "lon": 4000}
    blocks = {"time": 1, "lat": 1000, "lon": 2000}
    data = da.zeros([sizes[d] for d in order], dtype="u1", chunks=tuple(blocks[d] for d in order))
    ds = xr.Dataset({"land_use": (order, data)}, {
        "time": ("time", [850, 1855, 2100], {"standard_name": "time"}),
        "lat": ("lat", 60 - 0.01 * (np.arange(3000) + 0.5), {"standard_name": "latitude"}),
        "lon": ("lon", -10 + 0.01 * (np.arange(4000) + 0.5), {"standard_name": "longitude"}),
    })  # fmt: skip
    return ds.rename({old: new for old, new in names.items() if old != new})


@settings(max_examples=6, deadline=None)
@given(names=st.tuples(*map(st.sampled_from, NAMES)), order=st.permutations(("time", "lat", "lon")))
def test_names_and_order_of_dimensions_do_not_matter(names, order):
    lat, lon, time = names
    ds = for_files(maps(tuple(order), lat=lat, lon=lon, time=time))
    aligned, encoding = align(ds, None)
    called = dict(zip(ds.land_use.dims, order, strict=True))
    chunks = {called[d]: size for d, size in zip(ds.land_use.dims, encoding["land_use"]["chunks"], strict=True)}
    assert chunks == {"time": 1, "lat": 1000, "lon": 2000}
    assert {called[d]: b[0] for d, b in aligned.land_use.chunksizes.items()} == {"time": 1, "lat": 1000, "lon": 2000}
    assert bounds(ds) == (-10.0, 30.0, 30.0, 60.0)
    assert years(ds) == [850, 1855, 2100]
    assert ds.sel(year=1855).sizes.keys() == ds.sizes.keys() - {time}
    gis, record = for_gis(ds)
    assert gis.land_use.dims == (record, lat, lon)
    assert gis[record].dtype == "datetime64[s]"
    assert {len(str(each.encoding.get("bounds", "")).split()) for each in gis.coords.values()} <= {0, 1}


@pytest.mark.parametrize("names", [{"lat": "a", "lon": "b"}, {"lon": "b"}])
def test_chunks_are_not_single_cells_where_nothing_says_what_dimensions_are(names):
    _, encoding = align(for_files(maps(**names).drop_attrs()), None)
    time, *cells = encoding["land_use"]["chunks"]
    assert time == 1
    assert min(cells) >= 1000


def test_rows_and_columns_have_their_latitudes_and_longitudes_in_their_place_for_gis():
    ds = of_three_years().rename_dims(lat="row", lon="col").rename_vars(lat="latitude", lon="longitude")
    gis, _ = for_gis(for_files(ds.drop_vars(["lat_bnds", "lon_bnds"])))
    assert gis.land_use.dims == ("time", "latitude", "longitude")
    assert gis.latitude.encoding["bounds"] == "latitude_bnds"
    assert gis.latitude_bnds.dims == ("latitude", "bnds")


@pytest.mark.parametrize("told", [True, False])
def test_a_variable_that_is_called_year_is_not_taken_for_the_years(tmp_path, told):
    ds = maps().isel(lat=slice(4), lon=slice(5))
    changed = xr.DataArray(np.full((4, 5), 1990, "i2"), dims=("lat", "lon"))
    ds = ds.assign_coords(year=changed) if told else ds.assign(year=changed)
    again = open_store(write(ds, tmp_path / "a.zarr", progress=False))
    np.testing.assert_array_equal(again.year, changed)
    assert years(again) == [850, 1855, 2100]


@settings(max_examples=30, deadline=None)
@given(
    first=st.integers(850, 2400),
    form=st.sampled_from(["plain", "years since", "days since", "months since", "dates", "ns", "cftime", "%Y%m%d"]),
    calendar=st.sampled_from(["standard", "noleap", "360_day", "proleptic_gregorian"]),
)
def test_the_year_does_not_depend_on_the_encoding_of_time(first, form, calendar):
    wanted = (first, first + 1)
    attributes, values = {}, np.array(wanted)
    if form == "years since":
        attributes, values = {"units": "years since 850-01-01 0:0:0", "calendar": calendar}, values - 850
    elif form == "months since":
        attributes, values = {"units": "months since 850-01-01"}, 12 * (values - 850)
    elif form == "%Y%m%d":
        attributes, values = {"units": "day as %Y%m%d.%f"}, values * 10000 + 701.5
    elif form == "ns":
        wanted = tuple(1700 + year % 500 for year in wanted)
        values = np.array([f"{year}-07-01" for year in wanted], "datetime64[ns]")
    elif form == "dates":
        values = np.array([f"{year:04d}-07-01" for year in wanted], "datetime64[s]")
    elif form != "plain":
        import cftime

        values = np.array([cftime.datetime(year, 7, 1, calendar=calendar) for year in wanted])
        if form == "days since":
            attributes = {"units": "days since 1850-01-01", "calendar": calendar}
            values = cftime.date2num(values, attributes["units"], calendar)
    assert years_along(xr.DataArray(values, dims="time", attrs=attributes)) == wanted


@pytest.mark.parametrize(
    ("values", "units"),
    [
        (np.float32([1164, 1165]), "years since 0850-01-01"),
        ([1163.5, 1164.5], "years since 850-07-01"),
        ([2014.0, 2015.0], "year"),
    ],
)
def test_fractions_of_years_and_single_precision_are_whole_years(values, units):
    assert years_along(xr.DataArray(values, dims="time", attrs={"units": units})) == (2014, 2015)


SINCE = {"units": "years since 2000-01-01"}


@pytest.mark.parametrize(
    ("values", "attributes", "said"),
    [
        ([0, 1], {}, "without units are not calendar years"),
        (np.array(["2015-01-01", "NaT"], "datetime64[ns]"), {}, "1 of 2 steps have no date"),
        (["2015", "2016"], {}, "cannot be read as years"),
        ([1e20, 2e20], SINCE, "are not finite, or fill values"),
        ([np.inf, 2000], SINCE, "are not finite, or fill values"),
        ([0, 1], {**SINCE, "scale_factor": 2}, r"is packed \(scale_factor\)"),
        ([2500, 2501], {}, "values from 2500 to 2501 without units are not calendar years from 850 to 2500"),
        ([1.0, 2.0], {"units": "fortnights"}, "units 'fortnights' are not known"),
        ([1.0, 2.0], {"units": "fortnights since 850-01-01"}, "cannot be decoded"),
        ([1.0, 2.0], {"units": "years since 850-13-01"}, "are not known"),
        ([1.0, 2.0], {"units": f"years since {10**30}-01-01"}, "are not known"),
    ],
)
def test_times_that_are_not_years_are_refused_by_name(values, attributes, said):
    with pytest.raises(TimeError, match=said):
        years_along(xr.DataArray(values, dims="time", attrs=attributes))


@settings(max_examples=15, deadline=None)
@given(st.integers(1, 200), st.integers(-100, 100), st.integers(2, 50), st.booleans())
def test_bounds_of_cells_are_exact_multiples_and_meet(parts, first, count, ascending):
    labels = np.round((first + np.arange(count) + 0.5) / parts, 10)
    labels = labels if ascending else labels[::-1]
    ds = for_files(xr.Dataset(coords={"lon": ("lon", labels, {"units": "degrees_east"})}))
    edges = ds.lon_bnds.values
    np.testing.assert_array_equal(edges[1:, 0], edges[:-1, 1])
    np.testing.assert_array_equal(edges[:, 0], np.round(np.rint(edges[:, 0] * parts) / parts, 10))
    assert ((edges.min(axis=1) < labels) & (labels < edges.max(axis=1))).all()


@pytest.fixture(scope="module")
def products(tmp_path_factory):
    folder = tmp_path_factory.mktemp("products")
    checkers.make_products(folder)
    return folder


@pytest.mark.parametrize("tool", checkers.TOOLS)
def test_tools_of_others_understand_what_is_written(tool, products):
    found = checkers.verdict(tool, products)
    if found["verdict"] == "skipped":
        pytest.skip(found["why"])
    assert found["verdict"] == "green", found["why"]


def of_three_years(time: str = "time") -> xr.Dataset:
    return for_files(maps(time=time).isel(lat=slice(4), lon=slice(5))).compute()


@pytest.mark.parametrize(("time", "year"), [("time", 850), ("year", 2100), ("t", 2100)])
@pytest.mark.filterwarnings("error")
def test_a_map_of_one_year_keeps_its_date_and_the_edges_of_its_year(tmp_path, year, time):
    one = of_three_years(time).sel(year=year)
    assert find_role(one, "time") is None
    edges = np.array([f"{year:04d}-01-01", f"{year + 1:04d}-01-01"], "datetime64[s]")
    np.testing.assert_array_equal(one[f"{time}_bnds"], edges)
    again = open_store(write(one, tmp_path / "one.zarr", progress=False))
    xr.testing.assert_identical(again.load(), one.assign_attrs(again.attrs))
    assert years(again) == [year]


@pytest.mark.filterwarnings("error")
def test_years_in_place_of_dates_have_one_set_of_bounds(tmp_path):
    swapped = of_three_years().swap_dims(time="year")
    again = open_store(write(swapped, tmp_path / "years.zarr", progress=False))
    assert [name for name in again.coords if "bnds" in again[name].dims and "year" in again[name].dims] == ["year_bnds"]
    assert again.sel(year=1855).time.values == again.sel(time="1855").time.values[0] == np.datetime64("1855-01-01")


@pytest.mark.parametrize("joined", [False, True])
def test_what_was_selected_or_joined_says_what_it_covers(tmp_path, joined):
    three = describe_product(of_three_years())
    assert three.attrs["title"] == "Land use on 0.01 degree, 850, 1855, 2100"
    parts = [three.isel(time=[at]) for at in range(3)]
    ds = xr.concat(parts, "time", combine_attrs="override") if joined else three.isel(lat=slice(2)).sel(year=1855)
    wanted = ("0850-01-01", "2100-12-31", 59.96) if joined else ("1855-01-01", "1855-12-31", 59.98)
    stored = open_store(write(ds, tmp_path / "a.zarr", progress=False))
    with xr.open_dataset(write_netcdf(ds, tmp_path / "a.nc", progress=False), decode_times=False) as file:
        for found in (stored.attrs, file.attrs):
            keys = ("time_coverage_start", "time_coverage_end", "geospatial_lat_min")
            assert tuple(found[key] for key in keys) == wanted
            assert found["title"] == f"Land use on 0.01 degree, {'850, 1855, 2100' if joined else '1855'}"
    assert ds.attrs["time_coverage_start"] == "0850-01-01"


def test_a_title_of_ones_own_is_kept_and_without_time_no_year_is_claimed():
    three = describe_product(of_three_years())
    own = for_storage(three.sel(year=2100).assign_attrs(title="My maps, 1855"))
    assert own.attrs["title"] == "My maps, 1855"
    without = for_storage(three.isel(time=0, drop=True).drop_vars("time_bnds", errors="ignore"))
    assert without.attrs["title"] == "Land use on 0.01 degree"
    assert "time_coverage_start" not in without.attrs


@pytest.mark.filterwarnings("error")
def test_others_copy_a_store_to_netcdf_without_a_warning(tmp_path):
    path = write(describe_product(of_three_years()), tmp_path / "a.zarr", progress=False)
    with xr.open_zarr(path, decode_times=xr.coders.CFDatetimeCoder(time_unit="s")) as plain:
        plain.to_netcdf(tmp_path / "a.nc")
    with xr.open_dataset(tmp_path / "a.nc", decode_times=False) as file:
        assert file.time.values.tolist() == [-365242, 1826, 91311]
        assert file.time_bnds.values[1].tolist() == [1826, 2191]
        assert "_FillValue" not in file.time.encoding


@pytest.mark.parametrize("name", ["time", "year"])
def test_integer_years_come_out_as_dates_that_xarray_selects_groups_and_resamples(name):
    years = np.arange(2010, 2101, 5)
    values = xr.Dataset({"area": (name, years.astype(float))})
    dated = with_years(values, [*map(int, years)], name)
    assert dated["area"].sel(time="2015").values.tolist() == [2015]
    assert dated["area"].sel(year=2015).values.tolist() == 2015
    area = (dated.drop_indexes(["time", "year"]).swap_dims(year="time") if name == "year" else dated)["area"]
    assert area.sel(time=slice("2015", "2029")).values.tolist() == [2015, 2020, 2025]
    assert area.sel(time=area.time.dt.year % 50 == 0).values.tolist() == [2050, 2100]
    assert area.resample(time="10YS").mean().sel(time="2020").values.tolist() == [2022.5]
    for by in ("year", "time.year"):
        assert area.groupby(by).mean().values.tolist() == years.tolist()


def test_cells_of_a_size_that_does_not_divide_a_degree_have_their_own_edges():
    labels = 6.7275 - 0.045 * np.arange(30)
    ds = xr.Dataset(coords={"lat": labels, "lon": labels[::-1] - 50})
    edges = for_files(ds)["lat_bnds"].values
    np.testing.assert_allclose(edges.mean(axis=1), labels, atol=1e-9)
    np.testing.assert_allclose(edges[:, 0] - edges[:, 1], 0.045, atol=1e-9)
