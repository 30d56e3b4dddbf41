from __future__ import annotations

import os
import subprocess
import sys

import pytest
import torch

from tests.conftest import PROJECT
from tests.waiting import PATIENCE
from xland.errors import ConfigurationError, TrainingError
from xland.training.ranks.group import Group, join_group

_VARIABLES = ("RANK", "WORLD_SIZE", "LOCAL_RANK", "MASTER_ADDR", "MASTER_PORT")


@pytest.fixture(autouse=True)
def no_group(monkeypatch):
    for name in _VARIABLES:
        monkeypatch.delenv(name, raising=False)


def test_one_process_is_alone_and_waits_for_nobody():
    with join_group("cpu") as group:
        assert (group.rank, group.ranks, group.main) == (0, 1, True)
        values = torch.arange(3.0)
        assert group.sum(values) is values
        assert group.any(True)
        assert not group.any(False)
        group.barrier()
        network = torch.nn.Linear(2, 2)
        assert group.wrap(network) is network


def test_half_a_group_is_named(monkeypatch):
    monkeypatch.setenv("WORLD_SIZE", "2")
    monkeypatch.setenv("RANK", "1")
    with (
        pytest.raises(ConfigurationError, match="WORLD_SIZE is 2, but MASTER_ADDR, MASTER_PORT are not set"),
        join_group(),
    ):
        raise AssertionError("there is no group")


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
def test_a_rank_without_a_gpu_is_named(monkeypatch):
    monkeypatch.setenv("RANK", "3")
    with pytest.raises(ConfigurationError, match="rank 3 sees no GPU: look at nvidia-smi"), join_group("cuda"):
        raise AssertionError("there is none")


def test_ranks_that_cannot_be_met_are_named(monkeypatch):
    for name, value in {"RANK": "0", "WORLD_SIZE": "2", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": "1e9"}.items():
        monkeypatch.setenv(name, value)
    with (
        pytest.raises(TrainingError, match=r"rank 0 of 2 cannot meet the others at 127\.0\.0\.1:1e9 \(gloo\)"),
        join_group(),
    ):
        raise AssertionError("there is no group")


RANKS = """
import os
from contextlib import suppress
from pathlib import Path
import torch
from torch import nn
from xland.errors import TrainingStoppedError
from xland.training.ranks.group import join_group
from xland.training.ranks.group import CommonBatchNorm, synchronise_batch_norm

with join_group("cpu") as group:
    assert group.ranks == 2
    assert group.sum(torch.tensor([1.0 + group.rank])).item() == 3
    assert group.any(group.rank == 1) and not group.any(False)

    # batch statistics, outputs and gradients are those of the whole batch, whose shares are uneven
    torch.manual_seed(0)
    x, slope = torch.randn(5, 3, 4, 6) * 3 + 10, torch.randn(5, 3, 4, 6)
    own = slice(0, 2) if group.main else slice(2, 5)
    whole, common = nn.Sequential(nn.BatchNorm2d(3)), nn.Sequential(nn.BatchNorm2d(3))
    for layer in (whole[0], common[0]):
        with torch.no_grad():
            layer.weight.copy_(torch.tensor([1.0, 2.0, -0.5]))
            layer.bias.copy_(torch.tensor([0.0, 1.0, 2.0]))
    synchronise_batch_norm(common)
    assert type(common[0]) is CommonBatchNorm and common.state_dict().keys() == whole.state_dict().keys()
    for _ in range(2):
        one, share = x.clone().requires_grad_(), x[own].clone().requires_grad_()
        expected, found = whole(one), common(share)
        (expected * slope).sum().backward()
        (found * slope[own]).sum().backward()
        close = lambda a, b: torch.testing.assert_close(a, b, rtol=1e-4, atol=1e-5)
        close(found, expected[own])
        close(share.grad, one.grad[own])
        close(group.sum(common[0].weight.grad), whole[0].weight.grad)
        close(group.sum(common[0].bias.grad), whole[0].bias.grad)
        close(common[0].running_var, whole[0].running_var)
        close(common[0].running_mean, whole[0].running_mean)
    assert common[0].num_batches_tracked == 2
    close(common.eval()(x[own]), whole.eval()(x)[own])
    group.barrier()

def alive():
    names = [(task / "comm").read_text() for task in Path("/proc/self/task").iterdir()]
    return [name for name in names if "gloo" in name]

def learn(group, error):
    wrapped = group.wrap(nn.Sequential(nn.Conv2d(3, 2, 1), nn.BatchNorm2d(2)), common_statistics=False)
    wrapped(x[own]).sum().backward()
    wrapped.itself = wrapped
    assert alive()
    if error is not None:
        raise error

# a thread of gloo that outlives its group may end the process with SIGABRT
assert not alive()
for number, error in enumerate((None, TrainingStoppedError("asked to end"))):
    os.environ["XLAND_RANKS"] = str(number)
    with suppress(TrainingStoppedError), join_group("cpu") as group:
        learn(group, error)
    assert not alive()
"""


def test_two_ranks_add_up_and_share_their_batch_statistics(tmp_path):
    script = tmp_path / "ranks.py"
    script.write_text(RANKS)
    launcher = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2"]
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(PROJECT)}
    done = subprocess.run(
        [*launcher, script], env=environment, capture_output=True, text=True, check=False, timeout=PATIENCE
    )
    assert done.returncode == 0, done.stderr[-3000:]


def test_a_group_of_one_has_a_device_of_its_own():
    assert Group().device == torch.device("cpu")
