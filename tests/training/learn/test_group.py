from __future__ import annotations

import pytest
import torch

from xland.errors import ConfigurationError, TrainingError
from xland.training.learn.group import check_devices, join_group, place_of

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
        pytest.raises(TrainingError, match=r"rank 0 of 2 cannot reach the others at 127\.0\.0\.1:1e9 \(gloo\)"),
        join_group(),
    ):
        raise AssertionError("there is no group")


@pytest.mark.parametrize(
    ("visible", "refused"),
    [
        (("0,1 1", "0,1 0"), False),
        (("0,1 0", "1,0 0"), False),
        ((" 0", " 1"), False),
        (("- -", "- -"), False),
        (("0 0", "- -"), True),
        (("0,1 0", "0 0"), True),
        ((" 0", "0,1 0"), True),
    ],
)
def test_each_rank_has_a_gpu_of_its_own_or_all_have_a_cpu(monkeypatch, visible, refused):
    """GPUs that a process sees, and which of them it takes."""
    places = []
    for each in visible:
        gpus, _, index = each.partition(" ")
        monkeypatch.setenv("CUDA_VISIBLE_DEVICES", gpus)
        places.append(place_of(torch.device("cpu") if index == "-" else torch.device("cuda", int(index))))
    if not refused:
        check_devices(places)
        return
    with pytest.raises(
        ConfigurationError, match="each rank needs a GPU of its own, or all a CPU, but they have cuda:0"
    ):
        check_devices(places)
