"""Two SLURM nodes write one store: jobs that are killed are replaced, and nothing is computed twice."""

from __future__ import annotations

import time
from dataclasses import replace
from threading import Thread

import pytest

from tests.clusters.conftest import scancel, squeue
from tests.clusters.stores import computed, digest, finished, let_go, traced, traces
from tests.waiting import PATIENCE, wait_until
from xland.clusters import job_script, open_cluster
from xland.errors import ClusterError
from xland.store.writing import write

pytestmark = pytest.mark.slurm


class Killer(Thread):
    """Cancels the job on n0 once both nodes have finished blocks, and remembers which are finished."""

    def __init__(self, partial, folder, scheduler):
        super().__init__(daemon=True)
        self.partial, self.folder, self.scheduler = partial, folder, scheduler
        self.finished, self.job = set(), None

    def run(self):
        wait_until(lambda: {node for _, node in traces(self.folder)} == {"n0", "n1"})
        wait_until(lambda: len(finished(self.partial)) >= 12)
        (self.job,) = [number for number, node in squeue("%A %N") if node == "n0"]
        self.finished = finished(self.partial)
        wait_until(lambda: self.known_to_the_scheduler().isdisjoint(self.finished))  # it has let go of them
        scancel(self.job)
        let_go(self.folder)

    def known_to_the_scheduler(self):
        return {f"time,latitude,longitude:{'.'.join(map(str, key[1:]))}" for key in list(self.scheduler.tasks)}


def test_a_run_on_two_nodes_outlives_one_of_its_jobs(maps, profile, tmp_path):
    write(maps, tmp_path / "undisturbed.zarr", progress=False)
    folder = tmp_path / "traces"
    folder.mkdir()
    with open_cluster("slurm", workers=2, profile=profile, timeout=PATIENCE, progress=False) as client:
        killer = Killer(tmp_path / "maps.zarr.partial", folder, client.cluster.scheduler)
        killer.start()
        write(traced(maps, folder, 0.1), tmp_path / "maps.zarr", progress=False)
        killer.join()
    assert killer.job is not None
    assert digest(tmp_path / "maps.zarr") == digest(tmp_path / "undisturbed.zarr")
    times = computed(folder)
    assert len(times) == 4 * 18
    assert 12 <= len(killer.finished) < len(times)
    assert {times[key] for key in killer.finished} == {1}


def test_a_lost_job_of_several_workers_is_replaced(profile):
    pair = replace(profile, workers=2, cores=1)
    with open_cluster("slurm", profile=pair, progress=False) as client:
        ((first, _),) = squeue("%A %N")
        before = set(client.nthreads())
        assert len(before) == 2
        scancel(first)
        wait_until(lambda: len(set(client.nthreads()) - before) == 2)
        ((second, _),) = squeue("%A %N")
        assert second != first
        assert client.submit(sum, [1, 2]).result() == 3


def test_everything_is_gone_afterwards(profile, tmp_path):
    def break_off():
        with open_cluster("slurm", profile=profile, progress=False) as client:
            assert len(client.nthreads()) == 1
            assert len(squeue("%A")) == 1
            (keys,) = (tmp_path / "logs").glob(".keys-*")
            assert keys.stat().st_mode & 0o77 == 0
            raise RuntimeError("enough")

    with pytest.raises(RuntimeError, match="enough"):
        break_off()
    wait_until(lambda: not squeue("%A"))
    assert [path.suffix for path in (tmp_path / "logs").iterdir()] == [".log"]


def test_the_dry_run_prints_the_script_that_is_submitted(profile):
    with open_cluster("slurm", profile=profile, progress=False) as client:
        submitted = client.cluster.job_script()
        scheduler, security = client.cluster.scheduler_address, client.security
    for known, placeholder in (
        (scheduler, "tls://SCHEDULER"),
        ("dummy-name", "WORKER"),
        (security.tls_worker_key, "KEY"),
        (security.tls_worker_cert, "CERTIFICATE"),
    ):
        assert known in submitted
        submitted = submitted.replace(known, placeholder)
    assert submitted == job_script(profile)


def test_jobs_that_end_before_their_worker_comes_are_given_up(profile, tmp_path):
    broken = replace(profile, setup=("echo no such module", "exit 3"))
    begin = time.monotonic()
    with (
        pytest.raises(ClusterError, match=r"3 SLURM jobs in a row ended before a worker came: their logs in .*logs"),
        open_cluster("slurm", profile=broken, progress=False),
    ):
        raise AssertionError("no worker can have come")
    assert time.monotonic() - begin < PATIENCE
    assert "no such module" in next((tmp_path / "logs").glob("*.log")).read_text()


def test_what_slurm_says_of_a_refused_job_is_passed_on(profile):
    with (
        pytest.raises(ClusterError, match=r"SLURM refuses the jobs.*nowhere"),
        open_cluster("slurm", profile=replace(profile, partition="nowhere"), progress=False),
    ):
        raise AssertionError("no worker can have come")


def test_a_run_without_any_job_left_ends(maps, profile, tmp_path):
    def lose_the_only_job():
        with open_cluster("slurm", profile=profile, progress=False) as client:
            client.cluster._job_kwargs["queue"] = "nowhere"
            for (job,) in squeue("%A"):
                scancel(job)
            write(maps, tmp_path / "maps.zarr", progress=False)

    with pytest.raises(ClusterError, match="SLURM refuses the jobs"):
        lose_the_only_job()
