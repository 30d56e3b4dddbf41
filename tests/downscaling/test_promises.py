"""What holds for any window, block, extent, chunking and scheduler (issue 3, promises 1 to 4)."""

from __future__ import annotations

from dataclasses import replace
from functools import cache, lru_cache
from math import lcm

import dask
import numpy as np
import pytest
import xarray as xr
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st

from tests.raising_backend import raising_dataset
from tests.strategies import NAMINGS, Layout, canonical_states
from tests.waiting import local_cluster
from tests.worlds import FINE, tiny_inputs, tiny_network, tiny_world
from xland.downscaling.call import downscale
from xland.downscaling.fields import blend_weights, window_starts
from xland.errors import StoreError
from xland.geo.grid import Grid
from xland.models.checkpoint import Checkpoint, save_checkpoint

YEARS = (2000, 2001, 2002)
EVERYTHING = ("land_use", "probability", "margin", "entropy")
few = settings(
    max_examples=3,
    deadline=None,
    phases=(Phase.explicit, Phase.reuse, Phase.generate),
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)


@st.composite
def lattices(draw) -> tuple[int, int, int]:
    """Factor, window and stride: odd factors too, strides that divide the globe, overlapping or just touching."""
    factor = draw(st.sampled_from([3, 4, 5]))
    unit = lcm(factor, 4)  # the U-Net halves a window twice
    window = unit * draw(st.integers(-(-16 // unit), 40 // unit))
    strides = [each for each in range(factor, window + 1, factor) if 360 % each == 0 and each >= window / 3]
    return factor, window, draw(st.sampled_from(strides))


@lru_cache(maxsize=1)
def places_on_land() -> list[tuple[int, int]]:
    """Rows and columns of fine cells with land, in no order."""
    cells = np.argwhere(tiny_world(YEARS)[1]["land_share"].values > 0)
    return [tuple(map(int, cell)) for cell in np.random.default_rng(0).permutation(cells)]


@st.composite
def regions(draw, factor: int) -> tuple[int, int, int, int]:
    """West, south, east and north of 2 to 8 by 3 to 12 coarse cells with some land; they may cross the date line."""
    height, width = draw(st.integers(2, 8)), draw(st.integers(3, 12))
    row, column = draw(st.sampled_from(places_on_land()))
    top = factor * min(max(row // factor - draw(st.integers(0, height - 1)), 0), 180 // factor - height)
    west = -180 + factor * (column // factor - draw(st.integers(0, width - 1)))
    return west, 90 - top - factor * height, west + factor * width, 90 - top


@pytest.fixture(scope="session")
def models(tmp_path_factory):
    """Untrained models, one for each lattice and direction; the weights do not depend on the lattice."""
    networks = {prior: tiny_network(tiny_inputs(prior)) for prior in ("none", "one_hot")}

    @cache
    def make(factor: int, window: int, stride: int, direction: str | None = None) -> Checkpoint:
        network = networks["none" if direction is None else "one_hot"]
        step = 1 if direction == "backward" else -1
        network.inputs = replace(network.inputs, factor=factor, window=window, stride=stride, prior_step=step)
        return save_checkpoint(tmp_path_factory.mktemp("model"), network, {"name": "tiny"})

    return make


@lru_cache(maxsize=8)
def forcing_of(factor: int) -> xr.Dataset:
    """Coarse states on cells of so many degrees."""
    coarse = tiny_world(YEARS)[0]
    return coarse if factor == 4 else canonical_states(Grid.world(factor), YEARS, names=tuple(coarse.data_vars)[:-2])


@pytest.fixture(scope="session")
def opened(tmp_path_factory):
    """Return the same Dataset as arrays in memory, as dask chunks, or as a Zarr file opened without dask."""

    @cache
    def saved(factor: int) -> dict[str, str]:
        folder = tmp_path_factory.mktemp("files")
        _, static, maps = tiny_world(YEARS)
        given = {"coarse": forcing_of(factor), "static": static, "prior": maps.to_dataset()}
        for name, ds in given.items():
            ds.chunk(lat=37, lon=37).drop_encoding().to_zarr(folder / name, consolidated=False)
        return {name: str(folder / name) for name in given}

    def give(name: str, kind: str | tuple[int, int], factor: int = 4) -> xr.Dataset:
        if kind == "file":
            return xr.open_zarr(saved(factor)[name], chunks=None, consolidated=False)
        _, static, maps = tiny_world(YEARS)
        ds = {"coarse": forcing_of(factor), "static": static, "prior": maps.to_dataset()}[name]
        return ds if kind == "memory" else ds.chunk({"lat": kind[0], "lon": kind[1]})

    return give


kinds = st.one_of(st.sampled_from(["memory", "file"]), st.tuples(st.integers(5, 60), st.integers(5, 90)))
blocks = st.one_of(st.integers(1, 6), st.integers(1, 30))


def assert_same(found: xr.Dataset, expected: xr.Dataset) -> None:
    """Probabilities within 1e-5, classes equal wherever the two best differ by more than that."""
    np.testing.assert_allclose(found["probability"], expected["probability"], atol=1e-5)
    clear = expected["margin"].values > 2e-5
    np.testing.assert_array_equal(found["land_use"].values[clear], expected["land_use"].values[clear])
    assert clear.mean() > 0.5, "the test must not pass for want of clear classes"
    assert (expected["land_use"] > 0).any(), "nor for want of land"


@few
@given(
    lattice=lattices(), block=blocks, direction=st.sampled_from([None, "forward", "backward"]), chunked=st.booleans()
)
def test_building_reads_no_value_of_anything(models, lattice, block, direction, chunked):
    _, static, maps = tiny_world(YEARS)
    given = [raising_dataset(each) for each in (forcing_of(lattice[0]), static, maps.to_dataset())]
    if chunked:
        given = [each.chunk(lat=40, lon=40) for each in given]
    coarse, fields, prior = given
    options = {} if direction is None else {"prior": prior["land_use"], "direction": direction, "years": 2001}
    lazy = downscale(
        coarse,
        model=models(*lattice, direction),
        static=fields,
        chunks=lattice[0] * block,
        outputs=EVERYTHING,
        **options,
    )
    assert lazy["land_use"].shape[1:] == FINE.shape
    with pytest.raises(StoreError, match="were read"):
        lazy["land_use"].isel(time=0, lat=slice(0, 1), lon=slice(0, 1)).compute(scheduler="synchronous")


@few
@given(data=st.data(), lattice=lattices(), block=blocks, kinds=st.tuples(kinds, kinds))
def test_blocks_and_chunks_of_inputs_do_not_matter(models, opened, data, lattice, block, kinds):
    """Blocks from one coarse cell, smaller than any halo, to larger than the region."""
    factor = lattice[0]
    options = {
        "model": models(*lattice),
        "years": 2001,
        "outputs": EVERYTHING,
        "region": data.draw(regions(factor)),
    }
    one = downscale(opened("coarse", "memory", factor), static=opened("static", "memory"), chunks=360, **options)
    lazy = downscale(
        opened("coarse", kinds[0], factor), static=opened("static", kinds[1]), chunks=factor * block, **options
    )
    scheduler = data.draw(st.sampled_from(["synchronous", "threads"]))
    assert_same(lazy.compute(scheduler=scheduler), one.compute())


@few
@given(data=st.data(), lattice=lattices())
def test_a_region_is_the_same_part_of_a_larger_one(models, data, lattice):
    factor = lattice[0]
    west, south, east, north = data.draw(regions(factor))
    options = {"model": models(*lattice), "static": tiny_world(YEARS)[1], "years": 2001, "outputs": EVERYTHING}
    small = downscale(forcing_of(factor), region=(west, south, east, north), **options).compute()
    around = (west - 3 * factor, max(south - 5 * factor, -90), east + 7 * factor, min(north + factor, 90))
    large = downscale(forcing_of(factor), region=around, **options).compute()
    columns = slice(3 * factor, 3 * factor + small.sizes["lon"])
    rows = slice(round(around[3] - north), round(around[3] - south))
    assert_same(small, large.isel(lat=rows, lon=columns))


@few
@given(data=st.data(), lattice=lattices())
def test_the_date_line_is_a_place_like_any_other(models, data, lattice):
    """Wherever the forcing begins, a region across its edge, ours or the date line is the same."""
    factor = lattice[0]
    on_land = [column for row, column in places_on_land() if 90 - 8 * factor <= row < 90]
    west = -180 + data.draw(st.sampled_from(on_land)) // factor * factor
    centre = data.draw(st.sampled_from([180, west]))
    region = (centre - 4 * factor, 0, centre + 3 * factor, 8 * factor)
    options = {"model": models(*lattice), "static": tiny_world(YEARS)[1], "years": 2001, "outputs": EVERYTHING}
    turned = Layout(west=west).apply(forcing_of(factor))
    found = downscale(turned, region=region, chunks=2 * factor, **options).compute()
    whole = downscale(forcing_of(factor), chunks=360, **options)
    longitude = (found["lon"].values + 180) % 360 - 180
    assert_same(found, whole.sel(lat=found["lat"].values, lon=longitude).compute())


orientations = st.builds(
    Layout,
    names=st.sampled_from(NAMINGS),
    latitude_ascending=st.booleans(),
    west=st.sampled_from([None, 0.0, -20.0, 100.0]),
    order=st.permutations(("time", "lat", "lon")).map(tuple),
    chunks=st.one_of(st.none(), st.tuples(st.integers(20, 60), st.integers(20, 90), st.just(1))),
)


@pytest.fixture(scope="module")
def rolled(models):
    """Class maps of a rollout over the globe in one block."""
    coarse, static, maps = tiny_world(YEARS)
    options = {"model": models(4, 32, 20, "forward"), "years": [2001, 2002], "chunks": 360}
    return downscale(coarse, static=static, prior=maps, **options)["land_use"].compute()


@few
@given(layouts=st.tuples(orientations, orientations, orientations), block=st.integers(4, 15))
def test_each_input_may_lie_in_a_way_of_its_own(models, rolled, layouts, block):
    """Forcing, static fields and prior in different orders, ranges, names and chunks: the same map by label."""
    coarse, static, maps = tiny_world(YEARS)
    lat, lon, time = layouts[0].names
    found = downscale(
        layouts[0].apply(coarse),
        static=layouts[1].apply(static.expand_dims(time=[2000])).isel({layouts[1].names[2]: 0}, drop=True),
        prior=layouts[2].apply(maps.to_dataset())["land_use"],
        model=models(4, 32, 20, "forward"),
        years=[2001, 2002],
        chunks=4 * block,
        region=(150, 2, 190, 30),
    )["land_use"]
    assert bool(found[lat][0] < found[lat][-1]) == layouts[0].latitude_ascending
    found = found.drop_vars({"time"} - {time}, errors="ignore")  # dates beside years that the caller calls `year`
    found = found.rename({lat: "lat", lon: "lon", time: "time"}).transpose("time", "lat", "lon").compute()
    part = rolled.sel(lat=found["lat"].values, lon=(found["lon"].values + 180) % 360 - 180)
    np.testing.assert_array_equal(found, part)


@settings(deadline=None, max_examples=25)
@given(st.integers(1, 40), st.integers(0, 80), st.integers(-200, 200), st.integers(1, 60))
def test_weights_of_all_windows_over_a_pixel_sum_to_one(stride, more, first, length):
    size = stride + more
    weights = blend_weights(size, stride).astype(np.float64)
    block = range(first, first + length)
    starts = window_starts(block, size, stride)
    total = np.zeros((length + 2 * size, length + 2 * size))
    for top in starts - first + size:
        for left in starts - first + size:
            total[top : top + size, left : left + size] += weights
    core = total[size : size + length, size : size + length]
    np.testing.assert_allclose(core, 1, atol=1e-6)
    assert weights.min() > 0


def around_the_date_line(coarse: xr.Dataset) -> xr.Dataset:
    """A forcing of 60 by 100 degrees: in a rollout all of it is in reach."""
    return Layout(west=0.0).apply(coarse).sel(lat=slice(60, 0), lon=slice(130, 230))


@settings(few, max_examples=2)
@given(data=st.data(), lattice=lattices(), block=blocks, kinds=st.tuples(kinds, kinds, kinds))
@pytest.mark.parametrize("direction", ["forward", "backward"])
def test_a_rollout_is_the_same_to_the_bit_through_any_blocks(models, opened, data, lattice, block, kinds, direction):
    """A difference of one class in one year would be carried on and grow."""
    factor = lattice[0]
    years, before = ([2001, 2002], 2000) if direction == "forward" else ([2000, 2001], 2002)
    options = {"model": models(*lattice, direction), "years": years, "direction": direction}

    def roll(kinds, **more):
        coarse, static, prior = (
            opened(name, kind, factor) for name, kind in zip(("coarse", "static", "prior"), kinds, strict=True)
        )
        prior = prior["land_use"].sel(time=before)
        return downscale(around_the_date_line(coarse), static=static, prior=prior, **options, **more)["land_use"]

    whole = roll(["memory"] * 3, chunks=360).compute()
    west, south = (round(float(whole[name].min()) - 0.5) for name in ("lon", "lat"))
    west += factor * data.draw(st.integers(0, whole.sizes["lon"] // factor - 1))
    south += factor * data.draw(st.integers(0, whole.sizes["lat"] // factor - 1))
    region = (west, south, west + 5 * factor, min(south + 3 * factor, 90))
    part = roll(kinds, chunks=factor * max(block, 3), region=region).compute(scheduler="threads")
    np.testing.assert_array_equal(part, whole.sel(lat=part["lat"], lon=part["lon"]))
    assert len(np.unique(whole)) > 2, "the maps must hold several classes"


@pytest.fixture(scope="module")
def everywhere(world, model, rolling_model, opened):
    """What processes compute from files and chunks, and what it has to be."""
    coarse, static, maps = world
    region, years = (150, -20, 210, 40), [2001, 2002]
    prior = {"prior": maps.sel(time=2000)}
    one = downscale(coarse, model=model, static=static, region=region, years=years, outputs=EVERYTHING)
    rolled = downscale(coarse, model=rolling_model, static=static, region=region, years=years, **prior)
    lazy = downscale(
        opened("coarse", "file"),
        model=model, static=opened("static", "file"), region=region, years=years, outputs=EVERYTHING, chunks=24,
    )  # fmt: skip
    lazy_rolled = downscale(
        opened("coarse", (20, 30)),
        model=rolling_model, static=opened("static", "file"), region=region, years=years, chunks=60,
        prior=opened("prior", (50, 70))["land_use"].sel(time=2000),
    )  # fmt: skip
    return lazy, lazy_rolled, one.compute(), rolled["land_use"].compute()


def test_the_scheduler_of_processes_gives_the_same(everywhere):
    lazy, rolled, expected, expected_rolled = everywhere
    with dask.config.set(scheduler="processes", num_workers=1):
        found, maps = dask.compute(lazy, rolled["land_use"])
    assert_same(found, expected)
    np.testing.assert_array_equal(maps, expected_rolled)


def test_workers_in_processes_of_their_own_give_the_same(everywhere):
    lazy, rolled, expected, expected_rolled = everywhere
    with local_cluster(n_workers=2, threads_per_worker=2) as client:
        futures = client.compute([lazy, rolled["land_use"]])
        found, maps = client.gather(futures)
    assert_same(found, expected)
    np.testing.assert_array_equal(maps, expected_rolled)


def test_blocks_do_not_matter_where_a_forcing_is_almost_global(world, model):
    """89 of 90 cells round the globe: windows at one end meet the other end."""
    coarse, static, _ = world
    almost = coarse.isel(lon=(np.arange(89) + 4) % 90).assign_coords(lon=-162.0 + 4 * np.arange(89))
    options = {"model": model, "static": static, "years": 2000}
    whole = downscale(almost, chunks=360, **options)["land_use"].compute()
    end = downscale(almost, region=(-164, -90, -160, 90), **options)["land_use"].compute()
    assert (end > 0).any(), "there is land"
    np.testing.assert_array_equal(end, whole.sel(lon=end["lon"]))
