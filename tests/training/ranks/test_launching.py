"""Each Dask worker becomes a rank; ranks that are lost are replaced, and no process is ever left."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import uuid
from dataclasses import replace
from pathlib import Path
from threading import Thread
from types import SimpleNamespace

import psutil
import pytest
from distributed import Client

from tests.training.stand_in import CALL, LONG, STEPS, is_alive, note
from tests.waiting import PATIENCE, local_cluster, wait_until
from tests.worlds import tiny_checkpoint, tiny_configuration
from xland.clusters import job_script, load_profile
from xland.errors import ClusterError, TrainingError, TrainingStoppedError
from xland.models.checkpoint import CARD, Checkpoint
from xland.training.ranks import launching
from xland.training.ranks.launching import launch, training_profile
from xland.training.ranks.rank import Attempt, forward, open_meeting
from xland.training.run import train

RUN = uuid.uuid4().hex
"""By which processes that these tests have started are known from those of others."""


@pytest.fixture(autouse=True)
def patient(monkeypatch):
    for name in ("READY", "SETTLE", "WORDS", "STOPPING", "ANSWER"):
        monkeypatch.setattr(launching, name, PATIENCE)
    monkeypatch.setattr(launching, "CALL", CALL)


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
    wait_until(lambda: not ranks())


@pytest.fixture
def output(tmp_path):
    tiny_checkpoint(tmp_path / "model")  # which a stand-in does not write
    return tmp_path / "model"


def start(client: Client, output: Path, how: str = "", **options):
    return launch(client, replace(tiny_configuration(), notes=how), output, device="cpu", **options)


def ranks() -> list[int]:
    """Processes of ranks, and what they started; those of killed workers are below none."""
    found = []
    for process in psutil.process_iter(["cmdline", "environ"]):
        command, environment = " ".join(process.info["cmdline"] or ()), process.info["environ"] or {}
        ours = environment.get("XLAND_TEST_RUN") == RUN
        if ours and ("xland.training.ranks.rank" in command or f"time.sleep({LONG})" in command):
            found.append(process.pid)
    return found


def facts(output: Path, rank: int) -> dict:
    return json.loads((output / f"rank-{rank}.json").read_text())


def steps(output: Path) -> list[int]:
    return [int(line) for line in (output / "steps").read_text().split()]


def at_step(output: Path, step: int, act, *, go_on: bool = True) -> Thread:
    """Do something after a step; the ranks wait for it, and if they may not go on, for being asked to end."""
    hold = output / "hold"
    note(hold, str(step))

    def wait():
        wait_until(lambda: (output / "steps").exists() and steps(output)[-1:] == [step])
        act()
        if go_on:
            hold.unlink()

    thread = Thread(target=wait, daemon=True)
    thread.start()
    return thread


def kill(output: Path, rank: int, which: str, number: int = signal.SIGKILL):
    return lambda: os.kill(facts(output, rank)[which], number)


def test_each_worker_becomes_one_rank(client, output):
    heard = []
    assert isinstance(start(client, output, report=lambda *what: heard.append(what)), Checkpoint)
    first, second = facts(output, 0), facts(output, 1)
    assert {first["worker"], second["worker"]} == set(client.run(os.getpid).values())
    assert (first["WORLD_SIZE"], first["RANK"], second["RANK"]) == ("2", "0", "1")
    for name, value in {"LOCAL_RANK": "0", "MASTER_ADDR": "127.0.0.1", "OMP_NUM_THREADS": "1", "device": "cpu"}.items():
        assert first[name] == second[name] == value
    assert first["MASTER_PORT"] == second["MASTER_PORT"]
    assert first["GLOO_SOCKET_IFNAME"] == first["NCCL_SOCKET_IFNAME"] == "lo"
    stages = [stage for stage, _, _ in heard]
    assert stages[-1] == "epoch"
    assert "training" in stages
    assert "printed at the end" in (output / "ranks" / "rank-0.log").read_text()
    assert not list(output.glob("**/*xland-*"))


def test_steps_are_told_about_once_a_second_and_all_else_at_once(monkeypatch):
    stages = ["training"] * 30 + ["epoch", "epoch"]
    said = [json.dumps({"stage": stage, "done": number}).encode() for number, stage in enumerate(stages)]
    heard, clock = [], (100 + 0.1 * number for number in range(1000))
    monkeypatch.setattr("xland.training.ranks.rank.time", SimpleNamespace(monotonic=lambda: next(clock)))
    worker = SimpleNamespace(log_event=lambda topic, event: heard.append(event["stage"]))
    process = SimpleNamespace(stdout=[*said, b'{"outcome": "fin'])
    forward(worker, "attempt", 0, Attempt("output", process=process))
    assert 2 <= heard.count("training") <= 4
    assert heard[-2:] == ["epoch", "epoch"]


def test_a_rank_and_a_worker_that_are_killed_are_replaced_and_the_training_goes_on(client, output, caplog, monkeypatch):
    """The first worker is where the ranks meet."""
    monkeypatch.setattr(launching, "WORDS", 1.0)

    def kill_a_rank():
        kill(output, 1, "pid")()
        at_step(output, 9, kill_a_worker)

    def kill_a_worker():
        rank = facts(output, 0)["pid"]
        kill(output, 0, "worker")()
        wait_until(lambda: not is_alive(rank))  # it would come to its end if it went on before it notices

    at_step(output, 5, kill_a_rank, go_on=False)
    start(client, output)
    taken = steps(output)
    assert taken[-1] == STEPS
    assert len(taken) <= STEPS + 2, "no step but the current ones was taken twice"
    assert "its process was ended by SIGKILL; starting again from the last state, 2 restarts left" in caplog.text
    assert "starting again from the last state, 1 restarts left" in caplog.text


def test_ranks_that_are_lost_again_and_again_are_given_up(client, output):
    message = r"rank 1 on worker tcp://127\.0\.0\.1:\d+ ended: its process was ended by SIGKILL, after 1 restarts"
    with pytest.raises(ClusterError, match=message):
        start(client, output, "lost", restarts=1)
    assert steps(output) == [1, 2], "the second start went on from the second step"


def test_ends_that_are_announced_cost_no_restart_and_let_ranks_write_their_state(client, output, caplog):
    """SIGTERM goes to one rank, then to the launcher, which ends; the next launcher ends by Ctrl-C."""

    def end(number):
        return lambda: os.kill(os.getpid(), number)

    def end_one_rank():
        kill(output, 1, "pid", signal.SIGTERM)()
        at_step(output, 6, end(signal.SIGTERM), go_on=False)

    at_step(output, 3, end_one_rank, go_on=False)
    with pytest.raises(TrainingStoppedError, match="stopped after step"):
        start(client, output, restarts=0)
    assert "TrainingStoppedError: stopped after step" in caplog.text
    at_step(output, 9, end(signal.SIGINT), go_on=False)
    with pytest.raises(TrainingStoppedError, match="stopped after step"):
        start(client, output, resume=True)
    assert steps(output)[-1] < STEPS
    (output / "hold").unlink()
    start(client, output, resume=True)
    assert steps(output) == list(range(1, STEPS + 1))


def test_errors_of_the_training_are_raised_with_their_rank_and_not_tried_again(client, output):
    with pytest.raises(TrainingError, match=r"^the loss is nan in step 3$"):
        start(client, output, "not finite")
    assert steps(output) == [1, 2]
    with pytest.raises(ClusterError, match=r"rank 1 on worker .* ended: KeyError: 'no such thing'; its log is in"):
        start(client, output, "bug")
    assert "Traceback" in (output / "ranks" / "rank-1.log").read_text()


LAUNCHER = """
import sys
from distributed import Client
from tests.training.stand_in import CALL
from tests.worlds import tiny_configuration
from xland.clusters.opening import running_loop
from xland.training.ranks import launching
launching.CALL = CALL
with running_loop() as loop, Client(sys.argv[1], loop=loop) as client:
    launching.launch(client, tiny_configuration(), sys.argv[2], device="cpu")
"""


def test_ranks_of_a_launcher_that_is_killed_end(cluster, client, output):
    launcher = subprocess.Popen([sys.executable, "-c", LAUNCHER, cluster.scheduler_address, str(output)])
    at_step(output, 2, launcher.kill, go_on=False).join()
    launcher.wait()
    wait_until(lambda: not ranks())
    assert steps(output)[-1] < STEPS


def test_a_scheduler_that_is_lost_is_named(cluster, output):
    with Client(cluster) as client:
        wait_until(lambda: len(client.nthreads()) == 2)
        at_step(output, 3, client.close, go_on=False)
        with pytest.raises(ClusterError, match=r"the scheduler of the training's workers cannot be reached any more"):
            start(client, output)
    wait_until(lambda: not ranks())


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"workers": 3}, "3 ranks need as many workers, but the cluster has 2: start more"),
        ({"restarts": -1}, "workers must be at least 1 and restarts at least 0, not"),
        ({"store": "missing.zarr"}, r"worker tcp://.* does not see the training store .*missing\.zarr: put it"),
    ],
)
def test_what_cannot_be_launched_is_refused(client, output, options, message):
    with pytest.raises(ClusterError, match=message):
        start(client, output, **options)


def test_an_address_without_a_free_port_is_named():
    with pytest.raises(ClusterError, match=r"the ranks cannot meet at worker tcp://one: no port can be opened there"):
        open_meeting("tcp://one", "192.0.2.1")  # of nobody: RFC 5737


def test_profiles_for_trainings_come_before_those_for_maps_and_can_be_built_on(tmp_path):
    maps, training = load_profile("marenostrum5-acc"), training_profile("marenostrum5-acc")
    assert (maps.threads, training.threads) == (2, 1)
    assert replace(training, title=maps.title, threads=2, walltime=maps.walltime) == maps
    (tmp_path / "site.toml").write_text('base = "marenostrum5-acc"\naccount = "ehpc1"\n')
    script = job_script(training_profile(tmp_path / "site.toml"))
    for line in ("#SBATCH -A ehpc1\n", "#SBATCH --gres=gpu:4\n", "#SBATCH --cpus-per-task=80\n"):
        assert line in script
    assert "dask cuda worker tls://SCHEDULER --name WORKER --nthreads 1 " in script


def test_a_worker_that_retires_lets_its_rank_write_the_state(client, output):
    """The last test, as it leaves the cluster with one worker."""
    (output / CARD).unlink()  # a model would be refused

    def retire():
        tiny_checkpoint(output)
        rank = facts(output, 0)["pid"]
        client.retire_workers([min(client.nthreads())])
        wait_until(lambda: not is_alive(rank))  # it would come to its end if it went on before it is told

    at_step(output, 4, retire)
    options = {"client": client, "device": "cpu", "workers": 1, "restarts": 0, "report": lambda *_: None}
    train(tiny_configuration(), output, store=output, **options)
    assert steps(output) == list(range(1, STEPS + 1))
