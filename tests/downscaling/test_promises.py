"""What holds for any window, block, extent, chunking, orientation and scheduler (promises 1 to 4)."""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import cache, lru_cache

import dask
import numpy as np
import pytest
import xarray as xr
from hypothesis import HealthCheck, Phase, assume, given, settings
from hypothesis import strategies as st

from tests.raising_backend import raising_dataset
from tests.strategies import NAMINGS, Layout, canonical_states
from tests.waiting import local_cluster
from tests.worlds import FINE, tiny_inputs, tiny_network, tiny_world
from xland.downscaling.call import downscale
from xland.downscaling.fields import blend_weights, halo
from xland.errors import StoreError
from xland.geo.grid import Grid
from xland.models.checkpoint import Checkpoint, save_checkpoint

YEARS = (2000, 2001, 2002)
few = settings(
    max_examples=3,
    deadline=None,
    phases=(Phase.explicit, Phase.reuse, Phase.generate),
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)


@dataclass(frozen=True)
class Case:
    """A lattice of windows, the direction of a rollout, totals that are kept, the kind of network, and draws."""

    factor: int
    window: int
    stride: int
    direction: str | None = None
    totals: str | None = None
    kind: str = "unet"
    draws: int | None = None

    @property
    def outputs(self) -> tuple[str, ...]:
        unmet = () if self.totals is None else ("unmet",)
        return ("land_use", *unmet) if self.direction else ("land_use", "probability", "margin", "entropy", *unmet)


# odd factors too; windows that overlap and that just touch; strides that divide the globe; maps are drawn beside others
CASES = {
    "overlapping": Case(3, 24, 12),
    "forward": Case(4, 32, 20, "forward"),
    "backward": Case(3, 24, 12, "backward"),
    "fractions": Case(4, 40, 20, None, "fractions"),
    "rolled changes": Case(4, 32, 20, "forward", "changes"),
    "context": Case(4, 40, 20, kind="context"),
    "touching, draws": Case(5, 40, 40, draws=2),
    "map, draws": Case(4, 40, 20, None, "map", draws=2),
    "changes, draws": Case(4, 40, 20, None, "changes", draws=2),
}
cases = pytest.mark.parametrize("case", CASES.values(), ids=CASES)


@lru_cache(maxsize=8)
def given_data(factor: int) -> dict[str, xr.Dataset]:
    """Coarse states on cells of so many degrees, static fields and maps of all years."""
    coarse, static, maps = tiny_world(YEARS)
    if factor != 4:
        coarse = canonical_states(Grid.world(factor), YEARS, names=tuple(coarse.data_vars)[:-2])
    return {"coarse": coarse, "static": static, "prior": maps.to_dataset()}


@pytest.fixture(scope="session")
def saved(tmp_path_factory):
    """Where the data of a factor are as Zarr stores."""

    @cache
    def save(factor: int) -> dict[str, str]:
        folder = tmp_path_factory.mktemp("files")
        for name, ds in given_data(factor).items():
            ds.chunk(lat=37, lon=37).drop_encoding().to_zarr(folder / name, consolidated=False)
        return {name: str(folder / name) for name in given_data(factor)}

    return save


@pytest.fixture(scope="session")
def ask(tmp_path_factory):
    """Downscale data in the way of a case; the weights of the networks do not depend on the lattice."""
    context = tiny_network(kind="context", depth=1, head=4, detail=True)
    networks = {("none", "context"): context}
    networks |= {(prior, "unet"): tiny_network(tiny_inputs(prior)) for prior in ("none", "one_hot")}

    @cache
    def model(case: Case) -> Checkpoint:
        network = networks["none" if case.direction is None else "one_hot", case.kind]
        lattice = {"factor": case.factor, "window": case.window, "stride": case.stride}
        step = 1 if case.direction == "backward" else -1
        network.inputs = replace(network.inputs, **lattice, prior_step=step)
        draws = {"draws": {"spacings": [1, 2, 8], "weights": [[0.28, 0.576, 0.768]] * 8}}
        return save_checkpoint(tmp_path_factory.mktemp("model"), network, {"name": "tiny", **draws})

    def run(case: Case, data: dict[str, xr.Dataset], **options) -> xr.Dataset:
        if case.direction or case.totals == "changes":
            options["prior"] = data["prior"]["land_use"]
        return downscale(
            data["coarse"],
            model=model(case),
            static=data["static"],
            years={"forward": [2001, 2002], "backward": [2000, 2001], None: 2001}[case.direction],
            direction=case.direction or "forward",
            totals=case.totals,
            outputs=case.outputs,
            draws=case.draws,
            seed=None if case.draws is None else 3,
            **options,
        )

    return run


def prior_of(case: Case, data: dict[str, xr.Dataset], time: str = "time") -> dict[str, xr.Dataset]:
    """Of the maps only the year that a case begins with."""
    return {**data, "prior": data["prior"].isel({time: [2 if case.direction == "backward" else 0]})}


@pytest.fixture(scope="session")
def whole(ask):
    """The globe in one block, from arrays in memory: what every other way of asking has to agree with."""

    @cache
    def run(case: Case) -> xr.Dataset:
        return ask(case, prior_of(case, given_data(case.factor)), chunks=360).compute()

    return run


def assert_same(found: xr.Dataset, expected: xr.Dataset) -> bool:
    """Probabilities within 1e-5, classes where the two best differ by more; all in rollouts, with totals and drawn.

    Returns whether there is any land.
    """
    expected = expected.sel(lat=found["lat"].values, lon=(found["lon"].values + 180) % 360 - 180)
    clear = np.full(expected["land_use"].shape, "unmet" in expected or "probability" not in expected)
    if "probability" in expected:
        np.testing.assert_allclose(found["probability"], expected["probability"], atol=1e-5)
        clear |= expected["margin"].values > 2e-5
        assert clear.mean() > 0.5, "the test must not pass for want of clear classes"
    np.testing.assert_array_equal(found["land_use"].values[clear], expected["land_use"].values[clear])
    if "unmet" in expected:
        np.testing.assert_allclose(found["unmet"], expected["unmet"], atol=1e-5)
    if "land_use_draws" in expected:
        np.testing.assert_array_equal(found["land_use_draws"], expected["land_use_draws"])
    return bool((expected["land_use"] > 0).any())


@lru_cache(maxsize=1)
def places_on_land() -> list[tuple[int, int]]:
    """Rows and columns of fine cells with land, in no order; those beside the date line first."""
    cells = np.argwhere(tiny_world(YEARS)[1]["land_share"].values > 0)
    cells = np.random.default_rng(0).permutation(cells)
    beside = (cells[:, 1] < 20) | (cells[:, 1] > 340)
    return [tuple(map(int, cell)) for cell in (*cells[beside], *cells[~beside])]


@st.composite
def regions(draw, factor: int) -> tuple[int, int, int, int]:
    """West, south, east and north of 2 to 6 by 3 to 8 coarse cells with some land; they may cross the date line."""
    height, width = draw(st.integers(2, 6)), draw(st.integers(3, 8))
    row, column = draw(st.sampled_from(places_on_land()))
    top = factor * min(max(row // factor - draw(st.integers(0, height - 1)), 0), 180 // factor - height)
    west = -180 + factor * (column // factor - draw(st.integers(0, width - 1)))
    return west, 90 - top - factor * height, west + factor * width, 90 - top


orientations = st.builds(
    Layout,
    names=st.sampled_from(NAMINGS),
    latitude_ascending=st.booleans(),
    west=st.sampled_from([None, 0.0, -20.0, 100.0]),
    order=st.permutations(("time", "lat", "lon")).map(tuple),
    chunks=st.one_of(st.none(), st.tuples(st.integers(8, 60), st.integers(8, 90), st.just(1))),
)


@cases
@few
@given(data=st.data(), layouts=st.tuples(*[orientations] * 3), block=st.integers(1, 8))
def test_the_map_is_the_same_however_data_lie_and_whatever_is_asked_for(ask, whole, saved, case, data, layouts, block):
    """Blocks go from one coarse cell, smaller than any halo, to larger than the region."""
    given, times = {}, {}
    for (name, ds), laid in zip(given_data(case.factor).items(), layouts, strict=True):
        if data.draw(st.booleans(), label=f"{name} from a file"):
            ds, laid = (
                xr.open_zarr(saved(case.factor)[name], chunks=None, consolidated=False),
                replace(laid, chunks=None),
            )
        times[name] = laid.names[2]
        given[name] = laid.apply(ds if name != "static" else ds.expand_dims(time=[2000]))
    given["static"] = given["static"].isel({times["static"]: 0}, drop=True)
    found = ask(
        case,
        prior_of(case, given, times["prior"]),
        chunks=case.factor * (max(block, 3) if case.direction else block),
        region=data.draw(regions(case.factor), label="region"),
    )
    lat, lon, time = layouts[0].names
    assert bool(found[lat][0] < found[lat][-1]) == layouts[0].latitude_ascending
    found = found.drop_vars({"time"} - {time}, errors="ignore")  # dates beside years that the caller calls `year`
    found = (
        found[[*case.outputs, *(["land_use_draws"] if case.draws else [])]]
        .rename({lat: "lat", lon: "lon", time: "time"})
        .transpose("time", ..., "lat", "lon")
    )
    # totals may leave no land to a region of which a little is land
    assume(assert_same(found.compute(scheduler=data.draw(st.sampled_from(["synchronous", "threads"]))), whole(case)))


@pytest.mark.parametrize("name", ["overlapping", "fractions", "rolled changes", "map, draws", "changes, draws"])
@pytest.mark.parametrize("chunked", [False, True])
def test_building_reads_no_value_of_anything(ask, name, chunked):
    case = CASES[name]
    data = {name: raising_dataset(ds) for name, ds in given_data(case.factor).items()}
    if chunked:
        data = {name: ds.chunk(lat=40, lon=40) for name, ds in data.items()}
    lazy = ask(case, prior_of(case, data))
    assert lazy["land_use"].shape[1:] == FINE.shape
    with pytest.raises(StoreError, match="were read"):
        lazy["land_use"].isel(time=0, lat=slice(0, 1), lon=slice(0, 1)).compute(scheduler="synchronous")


@settings(deadline=None, max_examples=25)
@given(st.integers(1, 40), st.integers(0, 80), st.integers(-200, 200), st.integers(1, 60))
def test_weights_of_all_windows_over_a_pixel_sum_to_one(stride, more, first, length):
    size = stride + more
    weights = blend_weights(size, stride).astype(np.float64)
    read = halo(range(first, first + length), size, stride)
    starts = np.arange(read.start, read.stop - size + 1, stride)
    total = np.zeros((length + 2 * size, length + 2 * size))
    for top in starts - first + size:
        for left in starts - first + size:
            total[top : top + size, left : left + size] += weights
    np.testing.assert_allclose(total[size:-size, size:-size], 1, atol=1e-6)
    assert weights.min() > 0


@pytest.fixture(scope="module")
def lazily(ask, saved):
    """Maps across the date line for other processes to compute, from files and chunks."""

    def run(case: Case) -> xr.Dataset:
        data = {name: xr.open_zarr(path, chunks=None, consolidated=False) for name, path in saved(case.factor).items()}
        data["coarse"] = given_data(case.factor)["coarse"].chunk(lat=20, lon=30)
        return ask(case, prior_of(case, data), region=(156, -20, 204, 40), chunks=60)

    return run


def test_the_scheduler_of_processes_gives_the_same(lazily, whole):
    with dask.config.set(scheduler="processes", num_workers=1):
        assert assert_same(lazily(CASES["map, draws"]).compute(), whole(CASES["map, draws"]))


def test_workers_in_processes_of_their_own_give_the_same(lazily, whole):
    chosen = CASES["overlapping"], CASES["forward"]
    with local_cluster(n_workers=2, threads_per_worker=2) as client:
        for found, case in zip(client.gather(client.compute([*map(lazily, chosen)])), chosen, strict=True):
            assert assert_same(found, whole(case))


def test_blocks_do_not_matter_where_a_forcing_is_almost_global(world, model):
    """89 of 90 cells round the globe: windows at one end meet the other end."""
    coarse, static, _ = world
    almost = coarse.isel(lon=(np.arange(89) + 4) % 90).assign_coords(lon=-162.0 + 4 * np.arange(89))
    options = {"model": model, "static": static, "years": 2000}
    whole = downscale(almost, chunks=360, **options)["land_use"].compute()
    end = downscale(almost, region=(-164, -90, -160, 90), **options)["land_use"].compute()
    assert (end > 0).any(), "there is land"
    np.testing.assert_array_equal(end, whole.sel(lon=end["lon"]))
