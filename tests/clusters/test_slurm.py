"""Two SLURM nodes write one store: jobs that are killed are replaced, and nothing is computed twice."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace

import pytest

from tests.clusters.conftest import scancel, squeue
from tests.clusters.stores import block_of, computed, digest, finished, let_go, traced, traces
from tests.waiting import PATIENCE, wait_until
from xland.clusters import job_script, open_cluster
from xland.errors import ClusterError
from xland.store.writing import write

pytestmark = pytest.mark.slurm


def written(scheduler):
    """Tasks that write blocks, as far as the scheduler knows them."""
    return [key for key in list(scheduler.tasks) if str(key[0]).startswith("write-")]


def test_a_run_on_two_nodes_outlives_one_of_its_jobs(maps, profile, tmp_path):
    """The job on n0 is cancelled once both nodes have computed blocks."""
    write(maps, tmp_path / "undisturbed.zarr", progress=False)
    partial, folder, kept = tmp_path / "maps.zarr.partial", tmp_path / "traces", set()
    folder.mkdir()

    def kill(scheduler):
        wait_until(lambda: {node for _, node in traces(folder)} == {"n0", "n1"})
        wait_until(lambda: len(finished(partial)) >= 6)
        (job,) = [number for number, node in squeue("%A %N") if node == "n0"]
        kept.update(finished(partial))
        # the scheduler has let go of them; the chunks of the forcing have such numbers, too
        wait_until(lambda: kept.isdisjoint(block_of(key[1:]) for key in written(scheduler)))
        scancel(job)

    with (
        open_cluster("slurm", workers=2, profile=profile, timeout=PATIENCE, progress=False) as client,
        ThreadPoolExecutor(1) as pool,
    ):
        killed = pool.submit(kill, client.cluster.scheduler)
        killed.add_done_callback(lambda _: let_go(folder))  # also if it fails, so that the write ends
        write(traced(maps, folder), tmp_path / "maps.zarr", progress=False)
        killed.result()
    assert digest(tmp_path / "maps.zarr") == digest(tmp_path / "undisturbed.zarr")
    times = computed(folder)
    assert len(times) == 2 * 18
    assert 6 <= len(kept) < len(times)
    assert {times[key] for key in kept} == {1}


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
    refused = replace(profile, partition="nowhere")
    ended = r"3 SLURM jobs in a row ended before a worker came: their logs in .*logs"
    for wrong, message in ((broken, ended), (refused, "SLURM refuses the jobs.*nowhere")):
        with (
            pytest.raises(ClusterError, match=message),
            open_cluster("slurm", profile=wrong, timeout=PATIENCE, progress=False),
        ):
            raise AssertionError("no worker can have come")
    assert "no such module" in next((tmp_path / "logs").glob("*.log")).read_text()


def test_a_run_without_any_job_left_ends(maps, profile, tmp_path):
    def lose_the_only_job():
        with open_cluster("slurm", profile=profile, progress=False) as client:
            client.cluster._job_kwargs["queue"] = "nowhere"
            for (job,) in squeue("%A"):
                scancel(job)
            write(maps, tmp_path / "maps.zarr", progress=False)

    with pytest.raises(ClusterError, match="SLURM refuses the jobs"):
        lose_the_only_job()
