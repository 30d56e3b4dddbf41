"""Each Dask worker becomes a rank; ranks that are lost are replaced, and no process is ever left."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import uuid
from dataclasses import replace
from functools import partial
from pathlib import Path
from threading import Thread
from types import SimpleNamespace

import psutil
import pytest
from distributed import Client

from tests.training.stand_in import CALL, LONG, STEPS, is_alive
from tests.waiting import PATIENCE, local_cluster, python_processes_below, wait_until
from tests.worlds import tiny_checkpoint, tiny_configuration
from xland.clusters import load_profile
from xland.errors import ClusterError, TrainingError, TrainingStoppedError
from xland.models.checkpoint import Checkpoint
from xland.training.ranks import launching, start
from xland.training.ranks.launching import TrainingJob, launch, train_on_cluster, training_profile, training_script
from xland.training.ranks.start import choose_device
from xland.training.ranks.worker import Seat, _forward, _Held, _open_store

RUN = uuid.uuid4().hex
"""By which processes that these tests have started are known from those of others."""


@pytest.fixture(autouse=True)
def patient(monkeypatch):
    for name in ("READY", "SETTLE", "WORDS", "STOPPING", "ANSWER"):
        monkeypatch.setattr(start, name, PATIENCE)


@pytest.fixture(scope="module", autouse=True)
def named():
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("XLAND_TEST_RUN", RUN)
        yield


@pytest.fixture(scope="module")
def cluster(named):
    with local_cluster(n_workers=2, threads_per_worker=1) as client:
        yield client.cluster


@pytest.fixture
def client(cluster):
    with Client(cluster) as client:
        wait_until(lambda: len(client.nthreads()) == 2)
        yield client


@pytest.fixture
def job(tmp_path):
    tiny_checkpoint(tmp_path / "model")  # which a stand-in does not write
    return TrainingJob(tiny_configuration(), tmp_path / "model", device="cpu")


def behaving(job: TrainingJob, how: str) -> TrainingJob:
    return replace(job, configuration=replace(job.configuration, notes=how))


def ranks() -> list[int]:
    """Processes of ranks, and what they started; those of killed workers are below none."""
    found = []
    for process in psutil.process_iter(["cmdline", "environ"]):
        command, environment = " ".join(process.info["cmdline"] or ()), process.info["environ"] or {}
        ours = environment.get("XLAND_TEST_RUN") == RUN
        if ours and ("xland.training.ranks.process" in command or f"time.sleep({LONG})" in command):
            found.append(process.pid)
    return found


def wait_for_the_end_of_ranks() -> None:
    wait_until(lambda: not ranks())


def facts(output: Path, rank: int) -> dict:
    return json.loads((output / f"rank-{rank}.json").read_text())


def steps(output: Path) -> list[int]:
    return [int(line) for line in (output / "steps").read_text().split()]


def at_step(output: Path, step: int, act, *, go_on: bool = True) -> Thread:
    """Do something after a step; the ranks wait for it, and if they may not go on, for being asked to end."""
    hold = output / "hold"
    hold.write_text(str(step))

    def wait():
        wait_until(lambda: (output / "steps").exists() and len(steps(output)) == step)
        act()
        if go_on:
            hold.unlink()

    thread = Thread(target=wait, daemon=True)
    thread.start()
    return thread


def kill(output: Path, rank: int, which: str, number: int = signal.SIGKILL):
    return lambda: os.kill(facts(output, rank)[which], number)


def test_each_worker_becomes_one_rank(client, job):
    heard = []
    checkpoint = launch(client, job, call=CALL, report=lambda *what: heard.append(what))
    assert isinstance(checkpoint, Checkpoint)
    wait_for_the_end_of_ranks()
    first, second = facts(job.output, 0), facts(job.output, 1)
    assert {first["worker"], second["worker"]} == set(client.run(os.getpid).values())
    assert (first["WORLD_SIZE"], first["RANK"], second["RANK"]) == ("2", "0", "1")
    assert first["LOCAL_RANK"] == second["LOCAL_RANK"] == "0"
    assert first["MASTER_ADDR"] == "127.0.0.1"
    assert first["MASTER_PORT"] == second["MASTER_PORT"]
    assert first["GLOO_SOCKET_IFNAME"] == first["NCCL_SOCKET_IFNAME"] == "lo"
    assert first["OMP_NUM_THREADS"] == "1"
    assert first["device"] == "cpu"
    stages = [stage for stage, _, _ in heard]
    assert stages[-1] == "epoch"
    assert "training" in stages
    assert "printed at the end" in (job.output / "ranks" / "rank-0.log").read_text()
    assert not list(job.output.glob("**/*xland-*"))


def test_steps_are_told_about_once_a_second_and_all_else_at_once(monkeypatch):
    stages = ["training"] * 30 + ["epoch", "epoch"]
    said = [json.dumps({"stage": stage, "done": number}).encode() for number, stage in enumerate(stages)]
    heard, clock = [], (100 + 0.1 * number for number in range(1000))
    monkeypatch.setattr("xland.training.ranks.worker.time", SimpleNamespace(monotonic=lambda: next(clock)))
    worker = SimpleNamespace(log_event=lambda topic, event: heard.append(event["stage"]))
    _forward(worker, "attempt", 0, SimpleNamespace(stdout=[*said, b'{"outcome": "fin']), _Held("output"))
    assert 2 <= heard.count("training") <= 4
    assert heard[-2:] == ["epoch", "epoch"]


@pytest.mark.parametrize("which", ["pid", "worker"])
def test_a_rank_or_worker_that_is_killed_is_replaced_and_the_training_goes_on(client, job, caplog, monkeypatch, which):
    monkeypatch.setattr(start, "WORDS", 1.0)
    killer = at_step(job.output, 5, kill(job.output, 1, which))
    launch(client, job, call=CALL)
    killer.join()
    taken = steps(job.output)
    assert taken[-1] == STEPS
    assert len(taken) <= STEPS + 1, "no step but the one in hand was taken twice"
    cause = "its process was ended by SIGKILL" if which == "pid" else "its worker is gone"
    assert f"{cause}; starting again from the last state, 2 restarts left" in caplog.text
    wait_for_the_end_of_ranks()


def test_the_worker_where_ranks_meet_may_be_lost_as_well(client, job, monkeypatch):
    monkeypatch.setattr(start, "WORDS", 1.0)
    killer = at_step(job.output, 5, kill(job.output, 0, "worker"))
    launch(client, job, call=CALL)
    killer.join()
    assert steps(job.output)[-1] == STEPS
    wait_for_the_end_of_ranks()


def test_ranks_that_are_lost_again_and_again_are_given_up(client, job):
    message = r"rank 1 on worker tcp://127\.0\.0\.1:\d+ ended: its process was ended by SIGKILL, after 1 restarts"
    with pytest.raises(ClusterError, match=message):
        launch(client, behaving(job, "lost"), restarts=1, call=CALL)
    assert steps(job.output) == [1, 2], "the second start went on from the second step"
    wait_for_the_end_of_ranks()


def test_an_end_that_was_announced_costs_no_restart(client, job, caplog):
    at_step(job.output, 5, kill(job.output, 1, "pid", signal.SIGTERM))
    launch(client, job, restarts=0, call=CALL)
    assert steps(job.output) == list(range(1, STEPS + 1))
    assert "TrainingStoppedError: stopped after step" in caplog.text


def test_an_error_of_the_training_is_raised_and_not_tried_again(client, job):
    with pytest.raises(TrainingError, match=r"^the loss is nan in step 3$"):
        launch(client, behaving(job, "not finite"), call=CALL)
    assert steps(job.output) == [1, 2]
    wait_for_the_end_of_ranks()


def test_a_bug_is_named_with_its_rank_and_not_tried_again(client, job):
    with pytest.raises(ClusterError, match=r"rank 1 on worker .* ended: KeyError: 'no such thing'; its log is in"):
        launch(client, behaving(job, "bug"), call=CALL)
    assert "Traceback" in (job.output / "ranks" / "rank-1.log").read_text()
    wait_for_the_end_of_ranks()


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_launcher_that_is_asked_to_end_lets_ranks_write_their_state(client, job, number):
    at_step(job.output, 5, lambda: os.kill(os.getpid(), number), go_on=False)
    with pytest.raises(TrainingStoppedError, match="stopped after step"):
        launch(client, job, call=CALL)
    wait_for_the_end_of_ranks()
    assert steps(job.output)[-1] < STEPS
    (job.output / "hold").unlink()
    launch(client, replace(job, resume=True), call=CALL)
    assert steps(job.output) == list(range(1, STEPS + 1))


def test_ranks_of_a_launcher_that_is_killed_end(cluster, client, job):
    program = (
        "import sys\nfrom pathlib import Path\nfrom distributed import Client\n"
        "from xland.clusters.waiting import running_loop\n"
        "from tests.training.stand_in import CALL\nfrom tests.worlds import tiny_configuration\n"
        "from xland.training.ranks.launching import TrainingJob, launch\n"
        "with running_loop() as loop, Client(sys.argv[1], loop=loop) as client:\n"
        "    launch(client, TrainingJob(tiny_configuration(), Path(sys.argv[2]), device='cpu'), call=CALL)\n"
    )
    launcher = subprocess.Popen([sys.executable, "-c", program, cluster.scheduler_address, str(job.output)])
    at_step(job.output, 2, launcher.kill, go_on=False).join()
    launcher.wait()
    wait_for_the_end_of_ranks()
    assert steps(job.output)[-1] < STEPS


def test_a_scheduler_that_is_lost_is_named(cluster, job):
    with Client(cluster) as client:
        wait_until(lambda: len(client.nthreads()) == 2)
        at_step(job.output, 3, client.close, go_on=False)
        with pytest.raises(ClusterError, match=r"the scheduler of the training's workers cannot be reached any more"):
            launch(client, job, call=CALL)
    wait_for_the_end_of_ranks()


def test_more_ranks_than_workers_are_refused(client, job):
    with pytest.raises(ClusterError, match="3 ranks need as many workers, but the cluster has 2: start more"):
        launch(client, job, workers=3, call=CALL)


@pytest.mark.parametrize("counts", [{"workers": 0}, {"restarts": -1}])
def test_counts_that_cannot_be_meant_are_refused(client, job, counts):
    with pytest.raises(ClusterError, match="workers must be at least 1 and restarts at least 0, not"):
        launch(client, job, call=CALL, **counts)


def test_a_worker_that_retires_lets_its_rank_write_the_state(job):
    def retire():
        rank = json.loads((job.output / "rank-0.json").read_text())["pid"]
        client.retire_workers([min(client.nthreads())])
        wait_until(lambda: not is_alive(rank))  # it would come to its end if it went on before it is told

    with local_cluster(n_workers=2, threads_per_worker=1) as client:
        at_step(job.output, 4, retire)
        launch(client, job, workers=1, restarts=0, call=CALL)
    assert steps(job.output) == list(range(1, STEPS + 1))
    wait_for_the_end_of_ranks()


def test_a_store_that_a_worker_does_not_see_is_named(client, job, tmp_path):
    with pytest.raises(ClusterError, match=r"worker tcp://.* does not see the training store .*missing\.zarr: put it"):
        launch(client, replace(job, store=tmp_path / "missing.zarr"), call=CALL)


def test_an_address_without_a_free_port_is_named():
    with pytest.raises(ClusterError, match=r"the ranks cannot meet at worker tcp://one: no port can be opened there"):
        _open_store("tcp://one", "192.0.2.1")  # of nobody: RFC 5737


def seat(number: int, gpu: str, machine: str = "n0") -> Seat:
    return Seat(f"tcp://{number}", machine, gpu, "127.0.0.1")


@pytest.mark.parametrize(
    ("wanted", "gpus", "chosen"),
    [("auto", ["0", "1"], "cuda"), ("cuda", ["0", "1"], "cuda"), ("cpu", ["0", "0"], "cpu"), ("auto", ["", ""], "cpu")],
)
def test_gpus_are_taken_if_all_have_one_and_nothing_else_is_asked_for(wanted, gpus, chosen):
    assert choose_device(wanted, [seat(number, gpu) for number, gpu in enumerate(gpus)]) == chosen


def test_the_same_gpu_number_on_two_machines_is_two_gpus():
    assert choose_device("cuda", [seat(0, "0", "n0"), seat(1, "0", "n1")]) == "cuda"


@pytest.mark.parametrize(
    ("wanted", "gpus", "message"),
    [
        ("cuda", ["0", ""], "1 of 2 workers, such as tcp://1, see no GPU: start them on nodes that have one"),
        ("auto", ["", "0"], "1 of 2 workers, such as tcp://0, see no GPU"),
        ("cuda", ["", ""], "2 of 2 workers, such as tcp://0, see no GPU"),
        ("auto", ["0", "0"], "workers tcp://0 and tcp://1 would share GPU 0 of n0: use the cluster 'cuda'"),
    ],
)
def test_workers_without_a_gpu_of_their_own_are_named(wanted, gpus, message):
    with pytest.raises(ClusterError, match=message):
        choose_device(wanted, [seat(number, gpu) for number, gpu in enumerate(gpus)])


def test_a_cluster_is_opened_for_the_training_and_closed(job, monkeypatch):
    monkeypatch.setattr(launching, "launch", partial(launch, call=CALL))
    before = python_processes_below()
    train_on_cluster(job, "local", workers=1, progress=False)
    assert steps(job.output)[-1] == STEPS
    wait_until(lambda: python_processes_below() <= before)


def test_profiles_for_trainings_come_before_those_for_maps():
    maps, training = load_profile("marenostrum5-acc"), training_profile("marenostrum5-acc")
    assert (maps.threads, training.threads) == (2, 1)
    assert replace(training, title=maps.title, threads=2, walltime=maps.walltime) == maps


def test_a_profile_of_ones_own_begins_from_the_one_for_trainings(tmp_path):
    (tmp_path / "site.toml").write_text('base = "marenostrum5-acc"\naccount = "ehpc1"\n')
    script = training_script(tmp_path / "site.toml")
    assert "#SBATCH -A ehpc1\n" in script
    assert "#SBATCH --gres=gpu:4\n" in script
    assert "#SBATCH --cpus-per-task=80\n" in script
    assert "dask cuda worker tls://SCHEDULER --name WORKER --nthreads 1 " in script
