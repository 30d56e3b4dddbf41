from __future__ import annotations

import os
import re
import signal
import threading
import time
import types
from collections import Counter
from pathlib import Path

import dask
import dask.array as da
import numpy as np
import pytest
import xarray as xr
from distributed import get_client, get_worker

from tests.store.rollout import computed, toy
from tests.store.test_writing import StopError, digest, maps, put
from tests.waiting import local_cluster, wait_for_idle_workers, wait_until
from xland.errors import StoreError, WorkerError
from xland.store.reading import open_store
from xland.store.workplace import notes
from xland.store.writing import run, write
from xland.untrusted.folders import LocalFiles


@pytest.fixture(scope="module")
def client(tmp_path_factory):
    # a second death would start a worker again, which takes seconds
    with (
        dask.config.set({"distributed.scheduler.allowed-failures": 1}),
        local_cluster(n_workers=2, threads_per_worker=1, local_directory=tmp_path_factory.mktemp("dask")) as client,
    ):
        yield client


class Killer:
    """Kills its worker, as many times as it is told, when it comes to one block and so many others are finished."""

    def __init__(self, folder: Path, at, times: int = 1, least: int = 0):
        self.folder, self.at, self.times, self.least = str(folder), at, times, least

    def __call__(self, index) -> None:
        if tuple(index) == self.at and len(list(Path(self.folder).glob("kill-*"))) < self.times:
            wait_until(known_to_run)
            wait_until(lambda: len(self.finished()) >= self.least)
            Path(self.folder, f"kill-{time.time_ns()}").write_text("\n".join(self.finished()))
            os.kill(os.getpid(), signal.SIGKILL)

    def finished(self) -> list[str]:
        """Blocks in the journal that the scheduler has been told of and let go."""
        noted = blocks_in(notes(LocalFiles(f"{self.folder}/a.zarr.partial")))
        in_hand = get_client().run_on_scheduler(_blocks_in_hand)
        return [block for block in noted if block not in in_hand]


def _blocks_in_hand(dask_scheduler) -> set[str]:
    return {str(key[1:]) for key in list(dask_scheduler.tasks) if str(key[0]).startswith("write-")}


def known_to_run() -> bool:
    """Whether the nanny of this worker has heard that it runs: one that dies before is not started again."""
    address = get_worker().address
    return get_client().run(_status_of, workers=[address], nanny=True)[address] == "running"


def _status_of(dask_worker) -> str:
    return dask_worker.status.name


class Hold:
    """Says that a block is in hand, one or any, and holds it until it may go."""

    def __init__(self, folder: Path, at=None):
        self.in_hand, self.go, self.at = folder / "in-hand", folder / "go", at

    def __call__(self, index) -> None:
        if self.at in (None, tuple(index)):
            self.in_hand.write_text(f"{os.getpid()}\n")
            wait_until(self.go.exists)

    def worker(self) -> int:
        """Process that has the block in hand, once it is there."""
        wait_until(lambda: self.in_hand.exists() and self.in_hand.read_text().endswith("\n"))
        return int(self.in_hand.read_text())


class Counted:
    """A block that leaves a line in a log when it is computed."""

    def __init__(self, log: Path, before=None):
        self.log, self.before = str(log), before

    def __call__(self, block, block_info=None):
        index = block_info[0]["chunk-location"]
        if self.before:
            self.before(index)
        handle = os.open(self.log, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o666)
        os.write(handle, f"{index}\n".encode())
        os.close(handle)
        return block


def blocks_in(journal) -> list[str]:
    """The blocks that a journal names, as the log writes them."""
    return [str(tuple(map(int, key.partition(":")[2].split(".")))) for key in journal]


def counted(log: Path, before=None) -> xr.Dataset:
    ds = maps(years=6, rows=8, columns=8, block=(4, 4))
    data = ds.land_use.data.map_blocks(
        Counted(log, before),
        name=f"counted-{ds.land_use.data.name}",
        dtype=np.uint8,
        meta=np.empty((0, 0, 0), np.uint8),
    )
    return ds.assign(land_use=ds.land_use.copy(data=data))


def test_a_lost_worker_costs_a_rollout_no_finished_map_and_other_blocks_are_written_again(tmp_path, client):
    ds = toy(tmp_path / "log", years=4, before=Killer(tmp_path, (2, 1, 2), least=24))
    codes = np.random.default_rng(1).integers(1, 8, (4, 12, 16), np.uint8)
    blocks = da.from_array(codes, chunks=(1, 4, 4)).map_blocks(
        Counted(tmp_path / "plain"), name="plain", dtype=np.uint8, meta=np.empty((0, 0, 0), np.uint8)
    )
    ds["plain"] = ds.land_use.copy(data=blocks)
    write(ds, tmp_path / "a.zarr", progress=False)
    (kill,) = tmp_path.glob("kill-*")
    lines = computed(tmp_path / "log")
    assert len(lines) == len(set(lines)) == 4 * 12
    truth = toy(tmp_path / "other", years=4).compute(scheduler="synchronous")
    found = open_store(tmp_path / "a.zarr").load()
    xr.testing.assert_equal(found.drop_vars("plain"), truth)
    np.testing.assert_array_equal(found.plain, codes)
    runs = Counter(computed(tmp_path / "plain"))
    assert len(runs) == 4 * 12
    finished = kill.read_text().split("\n")
    assert len(finished) >= 24
    assert {runs[block] for block in finished} == {1}


def test_a_worker_that_dies_again_and_again_ends_by_name_with_what_is_finished_kept(tmp_path, client):
    with pytest.raises(
        # or a block that waited there behind the one that kills: dask counts the deaths of both
        WorkerError,
        match=r"worker that computed block \d\.\d\.\d of .* died 2 times.*often too little",
    ) as caught:
        write(counted(tmp_path / "log", Killer(tmp_path, (3, 0, 1), 99)), tmp_path / "a.zarr", progress=False)
    assert isinstance(caught.value, StoreError)
    assert int(re.search(r"(\d+) of 24 blocks are safe .*resume=True", str(caught.value))[1]) > 0
    # the other worker may have a block in hand still: only what the journal named by now is looked at
    finished = blocks_in(notes(LocalFiles(f"{tmp_path}/a.zarr.partial")))
    before = Counter(computed(tmp_path / "log"))
    path = write(counted(tmp_path / "log"), tmp_path / "a.zarr", resume=True, progress=False)
    after = Counter(computed(tmp_path / "log"))
    assert {block: after[block] for block in finished} == {block: before[block] for block in finished}
    assert len(after) == 24
    assert digest(path) == digest(put(counted(tmp_path / "other"), tmp_path / "b.zarr"))


class Breaker:
    """Breaks off at one block; blocks that begin afterwards leave a line once that has been heard."""

    def __init__(self, folder: Path, at):
        self.broken, self.heard, self.late, self.at = folder / "broken", folder / "heard", folder / "late", at

    def __call__(self, index) -> None:
        if tuple(index) == self.at:
            self.broken.touch()
            raise StopError
        if self.broken.exists():
            wait_until(self.heard.exists)
            Path(f"{self.late}-{time.time_ns()}-{os.getpid()}").touch()


def test_an_error_in_a_block_cancels_what_was_still_to_be_done(tmp_path):
    breaker = Breaker(tmp_path, (1, 1, 1))
    with local_cluster(n_workers=2, threads_per_worker=1, processes=False) as client:
        with pytest.raises(StopError) as caught:
            write(counted(tmp_path / "log", breaker), tmp_path / "a.zarr", progress=False)
        assert re.search(r"\d+ of 24 blocks are safe", caught.value.__notes__[-1])
        breaker.heard.touch()
        wait_for_idle_workers(client)
    assert len(list(tmp_path.glob("late-*"))) <= 4, "two workers with a block in hand, and one behind it"


def test_a_cluster_that_is_lost_is_named(tmp_path, monkeypatch):
    with local_cluster(n_workers=1, threads_per_worker=1, processes=False) as client:
        get, hold = client.get, Hold(tmp_path)

        def cancel(futures) -> None:
            hold.worker()
            client.cancel(futures)
            hold.go.touch()

        def then_cancelled(_, *arguments, **options):
            futures = get(*arguments, **options)
            threading.Thread(target=cancel, args=(futures,), daemon=True).start()
            return futures

        monkeypatch.setattr(client, "get", types.MethodType(then_cancelled, client))
        with pytest.raises(WorkerError, match=r"cluster was closed.*of 24 blocks are safe"):
            write(counted(tmp_path / "log", hold), tmp_path / "a.zarr", progress=False)


@pytest.mark.parametrize("scheduler", ["synchronous", "threads", "processes"])
def test_every_scheduler_says_which_blocks_are_finished(scheduler):
    array, finished = da.arange(3, chunks=1), []
    keys = [(array.name, number) for number in range(3)]
    with dask.config.set(scheduler=scheduler, num_workers=1):
        run(array.dask, keys, finished.append)
    assert sorted(finished) == keys


def test_the_log_counts_blocks_below_what_is_computed(tmp_path, capsys, monkeypatch):
    monkeypatch.setattr("xland.progress.AT_ONCE", 0.0)
    with dask.config.set(scheduler="threads", num_workers=2):
        write(toy(tmp_path / "log", years=2), tmp_path / "a.zarr", progress=True)
    shown = capsys.readouterr().err
    assert "a toy of 2 years" in shown
    assert "24/24" in shown
