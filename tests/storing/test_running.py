from __future__ import annotations

import os
import re
import signal
import threading
import time
import types
from collections import Counter
from pathlib import Path

import dask.array as da
import numpy as np
import pytest
import xarray as xr
from distributed import Client, LocalCluster

from tests.storing.rollout import computed, toy
from tests.test_store import StopError, digest, maps, put
from xland.errors import StoreError, WorkerError
from xland.store import open_store, write
from xland.storing.journal import LineJournal
from xland.storing.storage import LocalFiles


@pytest.fixture
def cluster(tmp_path):
    with (
        LocalCluster(
            n_workers=2, threads_per_worker=1, processes=True, dashboard_address=None, local_directory=tmp_path / "dask"
        ) as cluster,
        Client(cluster),
    ):
        yield cluster


class Killer:
    """Kills its worker, as many times as it is told, when it comes to one block."""

    def __init__(self, folder: Path, at, times: int = 1):
        self.folder, self.at, self.times = str(folder), at, times

    def __call__(self, index) -> None:
        time.sleep(0.02)
        if tuple(index) != tuple(self.at) or len(list(Path(self.folder).glob("kill-*"))) >= self.times:
            return
        time.sleep(0.3)  # what was finished before has long been told
        finished = LineJournal(LocalFiles(f"{self.folder}/a.zarr.partial")).finished()
        Path(self.folder, f"kill-{time.time_ns()}").write_text("\n".join(finished))
        os.kill(os.getpid(), signal.SIGKILL)


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
    data = ds.land_use.data.map_blocks(Counted(log, before), dtype=np.uint8, meta=np.empty((0, 0, 0), np.uint8))
    return ds.assign(land_use=ds.land_use.copy(data=data))


def test_a_lost_worker_makes_no_finished_block_run_again(tmp_path, cluster):
    path = write(counted(tmp_path / "log", Killer(tmp_path, (3, 0, 1))), tmp_path / "a.zarr", progress=False)
    (kill,) = tmp_path.glob("kill-*")
    finished = blocks_in(kill.read_text().split("\n"))
    lines = computed(tmp_path / "log")
    assert len(set(lines)) == 24
    assert len(finished) > 3
    assert [lines.count(block) for block in finished] == [1] * len(finished)
    assert digest(path) == digest(put(maps(years=6, rows=8, columns=8, block=(4, 4)), tmp_path / "b.zarr"))


def test_a_lost_worker_costs_a_rollout_no_finished_map(tmp_path, cluster):
    write(toy(tmp_path / "log", years=12, before=Killer(tmp_path, (5, 1, 2))), tmp_path / "a.zarr", progress=False)
    assert len(list(tmp_path.glob("kill-*"))) == 1
    lines = computed(tmp_path / "log")
    assert len(lines) == len(set(lines)) == 12 * 12
    truth = toy(tmp_path / "other", years=12).compute(scheduler="synchronous")
    xr.testing.assert_equal(open_store(tmp_path / "a.zarr").load(), truth)


def test_a_worker_that_dies_again_and_again_ends_by_name_with_what_is_finished_kept(tmp_path, cluster):
    with pytest.raises(
        # or the block that waited there behind the one that kills: dask counts the deaths of both
        WorkerError,
        match=r"worker that had block .*3\.\d\.\d.* in hand died 4 times.*often a want",
    ) as caught:
        write(counted(tmp_path / "log", Killer(tmp_path, (3, 0, 1), 99)), tmp_path / "a.zarr", progress=False)
    assert isinstance(caught.value, StoreError)
    assert int(re.search(r"(\d+) of 24 blocks are safe .*resume=True", str(caught.value))[1]) > 0
    # the other worker may have a block in hand still: only what the journal named by now is looked at
    finished = blocks_in(LineJournal(LocalFiles(f"{tmp_path}/a.zarr.partial")).finished())
    before = Counter(computed(tmp_path / "log"))
    path = write(counted(tmp_path / "log"), tmp_path / "a.zarr", resume=True, progress=False)
    after = Counter(computed(tmp_path / "log"))
    assert {block: after[block] for block in finished} == {block: before[block] for block in finished}
    assert len(after) == 24
    assert digest(path) == digest(put(maps(years=6, rows=8, columns=8, block=(4, 4)), tmp_path / "b.zarr"))


class Breaker:
    def __init__(self, at):
        self.at = at

    def __call__(self, index) -> None:
        time.sleep(0.1)
        if tuple(index) == self.at:
            raise StopError


def test_an_error_in_a_block_cancels_what_was_still_to_be_done(tmp_path, cluster):
    with pytest.raises(StopError) as caught:
        write(counted(tmp_path / "log", Breaker((3, 1, 1))), tmp_path / "a.zarr", progress=False)
    assert re.search(r"\d+ of 24 blocks are safe", caught.value.__notes__[-1])
    time.sleep(1)
    assert len(computed(tmp_path / "log")) < 20


def test_a_cluster_that_is_lost_is_named(tmp_path, monkeypatch):
    with (
        LocalCluster(n_workers=1, threads_per_worker=1, processes=False, dashboard_address=None) as cluster,
        Client(cluster) as client,
    ):
        get = client.get

        def then_cancelled(_, *arguments, **options):
            futures = get(*arguments, **options)
            threading.Timer(0.5, client.cancel, [futures]).start()
            return futures

        monkeypatch.setattr(client, "get", types.MethodType(then_cancelled, client))
        with pytest.raises(WorkerError, match=r"cluster was closed.*of 24 blocks are safe"):
            write(counted(tmp_path / "log", Breaker((9, 9, 9))), tmp_path / "a.zarr", progress=False)


@pytest.mark.parametrize("scheduler", ["synchronous", "threads", "processes"])
def test_the_bar_counts_blocks_on_every_local_scheduler(tmp_path, capsys, scheduler):
    with da.core.config.set(scheduler=scheduler, num_workers=2):
        write(counted(tmp_path / "log"), tmp_path / "a.zarr", progress=True)
    assert "24/24" in capsys.readouterr().out
