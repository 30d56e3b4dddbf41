"""One block in one year: what it depends on, what it reads, how many there are at once."""

from __future__ import annotations

import signal
import threading
import time

import dask
import numpy as np
import pytest
from dask.base import tokenize

from tests.raising_backend import raising_dataset
from tests.waiting import PATIENCE, local_cluster, wait_until
from tests.worlds import tiny_world
from xland.downscaling import block
from xland.downscaling.block import AT_ONCE, BlockYears, Plan, run_block_year
from xland.downscaling.call import downscale
from xland.downscaling.engine import Engine, Residency
from xland.errors import ForcingError


def plan_of(ds) -> Plan:
    return next(layer.plan for layer in ds["land_use"].data.dask.layers.values() if isinstance(layer, BlockYears))


@pytest.fixture
def residency(monkeypatch):
    """An empty residency in place of the process's own."""
    fresh = Residency(2**28)
    monkeypatch.setattr("xland.downscaling.block.residency_of", lambda _: fresh)
    return fresh


@pytest.fixture
def static_reads(monkeypatch):
    """Blocks whose static fields were read, in order."""
    blocks = []
    read = block._read_static

    def count(plan, block, *given):
        blocks.append((block.rows.start, block.columns.start))
        return read(plan, block, *given)

    monkeypatch.setattr("xland.downscaling.block._read_static", count)
    return blocks


def test_a_block_year_needs_the_years_of_its_steps_and_no_other(world, two_step_model):
    coarse, static, _ = world
    lazy = downscale(coarse.chunk(time=1), model=two_step_model, static=static.chunk(), chunks=60, years=[2002])
    plan = plan_of(lazy)
    years = [key[1] for key in plan.keys(0, [plan.layout.block(1, 1)]) if key[0] == plan.coarse.name]
    assert sorted(set(years)) == [1, 2]


@pytest.mark.parametrize(
    ("direction", "given_for", "order"), [("forward", 0, [None, 0, 1]), ("backward", 2, [1, 2, None])]
)
def test_the_prior_is_the_given_map_first_and_then_the_plans_own(
    rolling_model, past_model, direction, given_for, order
):
    coarse, static, maps = tiny_world((2000, 2001, 2002, 2003, 2004))
    model = rolling_model if direction == "forward" else past_model
    prior = maps.sel(time=2000 if direction == "forward" else 2004)
    lazy = downscale(
        coarse, model=model, static=static, prior=prior, years=[2001, 2002, 2003], direction=direction, chunks=60
    )
    plan = plan_of(lazy)
    assert plan.maps_before(given_for) == [(plan.given_maps[int(prior["time"])], 0)]
    for year, before in enumerate(order):
        own = {key for key in plan.keys(year, [plan.layout.block(1, 0)]) if key[0] == plan.maps.name}
        blocks = {(row, column) for row in range(3) for column in (5, 0, 1)}
        assert own == (set() if before is None else {(plan.maps.name, before, *block) for block in blocks})


def test_a_plan_is_named_without_reading_its_fields(world, model):
    coarse, static, _ = world
    lazy = [
        downscale(raising_dataset(coarse), model=model, static=raising_dataset(static), years=y) for y in (2000, 2001)
    ]
    one, other = map(plan_of, lazy)
    assert tokenize(one) == tokenize(one) != tokenize(other)


def test_a_block_without_land_reads_no_forcing(world, model):
    coarse, static, _ = world
    lazy = downscale(raising_dataset(coarse), model=model, static=static.assign(land_share=0 * static["land_share"]))
    plan = plan_of(lazy)
    block = plan.layout.block(0, 0)
    refuse = [None] * len(plan.keys(0, [block]))  # chunks that cannot be read
    assert (run_block_year(plan, 0, block, *refuse)["land_use"] == 0).all()


def test_static_fields_of_a_block_are_read_once_for_all_years(world, model, residency, static_reads):
    coarse, static, _ = world
    lazy = downscale(coarse, model=model, static=static, chunks=180)["land_use"]
    with dask.config.set(scheduler="synchronous"):
        together = lazy.compute()
    assert sorted(static_reads) == [(0, 0), (0, 180)]
    assert 0 < residency.used <= residency.budget
    residency.budget = 0
    residency.run = ""
    np.testing.assert_array_equal(lazy.compute(scheduler="synchronous"), together)
    assert len(static_reads) == 2 + 2 * 3, "what finds no room is read again"


def test_static_fields_of_a_single_year_are_not_kept(world, model, residency, static_reads):
    coarse, static, _ = world
    downscale(coarse, model=model, static=static, chunks=180, years=2000)["land_use"].compute()
    assert sorted(static_reads) == [(0, 0), (0, 180)]
    assert residency.used == 0


def test_no_more_than_a_few_blocks_are_kept_at_once(world, model, monkeypatch):
    """However many threads there are: memory is that of the blocks in hand."""
    coarse, static, _ = world
    lock, full, now, most = threading.Lock(), threading.Event(), [0], [0]
    predict = block.predict_block

    def together(*arguments, **options):
        with lock:
            now[0] += 1
            most[0] = max(most[0], now[0])
            if now[0] == AT_ONCE:
                full.set()
        full.wait(PATIENCE)  # until as many are there as may be
        time.sleep(0.01)  # one more would come now
        try:
            return predict(*arguments, **options)
        finally:
            with lock:
                now[0] -= 1

    monkeypatch.setattr("xland.downscaling.block.predict_block", together)
    lazy = downscale(coarse, model=model, static=static, chunks=40, years=2000)["land_use"]
    lazy.compute(scheduler="threads", num_workers=8)
    assert most[0] == AT_ONCE


def test_a_fault_that_a_wide_block_reads_twice_counts_once(world, model):
    """The halo of a block as wide as the globe holds the cells beside the date line at both of its ends."""
    coarse, static, _ = world
    broken = coarse.sel(time=[2000]).copy(deep=True)
    row = int(np.argwhere(np.isfinite(broken["primf"].values[0, :, 0]))[0, 0])
    broken["primf"][{"time": 0, "lat": row, "lon": 0}] = np.inf
    with pytest.raises(ForcingError, match=r"primf: 1 cells?"):
        downscale(broken, model=model, static=static, chunks=360)["land_use"].compute()


def test_a_failed_block_does_not_hold_up_the_next(world, model):
    """Whatever goes wrong in a block, its place in hand is free again."""
    coarse, static, _ = world
    broken = coarse.copy(deep=True)
    broken["urban"][{"time": 0, "lat": 20, "lon": 40}] = np.inf
    lazy = downscale(broken, model=model, static=static)["land_use"]
    for _ in range(AT_ONCE + 1):
        with pytest.raises(ForcingError, match="urban"):
            lazy.sel(year=2000).compute()
    lazy.sel(year=2001).compute()


class Held:
    """Holds the first windows until they may go, and counts those that the network gets."""

    def __init__(self, monkeypatch):
        self.begun, self.go, self.windows = threading.Event(), threading.Event(), 0
        run = Engine.run

        def hold(engine, *given):
            self.windows += 1
            self.begun.set()
            assert self.go.wait(PATIENCE)
            return run(engine, *given)

        monkeypatch.setattr(Engine, "run", hold)


def nothing_runs() -> bool:
    return block._at_once._value == AT_ONCE


def test_an_interrupted_computation_leaves_no_windows_to_wait_for(world, model, monkeypatch):
    coarse, static, _ = world
    lazy = downscale(coarse, model=model, static=static, chunks=180)["land_use"]
    held = Held(monkeypatch)

    def interrupt():
        held.begun.wait(PATIENCE)
        signal.pthread_kill(threading.main_thread().ident, signal.SIGINT)

    with dask.config.set(scheduler="threads", num_workers=2):
        threading.Thread(target=interrupt).start()
        with pytest.raises(KeyboardInterrupt):
            lazy.compute()
        held.go.set()
        wait_until(nothing_runs)
        assert held.windows <= 2, "those that were in progress"
        point = lazy.isel(time=0, lat=45, lon=280).compute()
    assert point == lazy.compute()[0, 45, 280]


def test_a_worker_stops_a_block_that_was_cancelled(world, model, monkeypatch):
    coarse, static, _ = world
    lazy = downscale(coarse, model=model, static=static, years=2000)["land_use"]
    held = Held(monkeypatch)
    with local_cluster(n_workers=1, threads_per_worker=1, processes=False) as client:
        future = client.compute(lazy)
        held.begun.wait(PATIENCE)
        client.cancel(future)
        wait_until(lambda: client.run(_cancelled)[next(iter(client.nthreads()))])
        held.go.set()
        wait_until(nothing_runs)
        assert held.windows <= 1, "the one that was in progress"
        assert client.compute(lazy.isel(lat=45, lon=280)).result() >= 0


def _cancelled(dask_worker) -> bool:
    return not any(task.state == "executing" for task in dask_worker.state.tasks.values())
