from __future__ import annotations

import pytest
import torch

from xland.errors import ConfigurationError, TrainingError
from xland.training.learn.group import check_devices, join_group, place_of


@pytest.fixture(autouse=True)
def no_group(monkeypatch):
    for name in ("RANK", "WORLD_SIZE", "LOCAL_RANK", "MASTER_ADDR", "MASTER_PORT"):
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


TWO = {"WORLD_SIZE": "2", "RANK": "0"}


@pytest.mark.parametrize(
    ("variables", "device", "error", "message"),
    [
        (TWO, "cpu", ConfigurationError, "WORLD_SIZE is 2, but MASTER_ADDR, MASTER_PORT are not set"),
        (
            TWO | {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": "1e9"},
            "cpu",
            TrainingError,
            r"rank 0 of 2 cannot reach the others at 127\.0\.0\.1:1e9 \(gloo\)",
        ),
        ({"RANK": "3"}, "cuda", ConfigurationError, "rank 3 sees no GPU: look at nvidia-smi"),
    ],
)
def test_a_group_that_cannot_be_joined_is_named(monkeypatch, variables, device, error, message):
    if device == "cuda":
        monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    with pytest.raises(error, match=message), join_group(device):
        raise AssertionError("there is no group")


def test_a_gpu_is_named_as_all_processes_see_it(monkeypatch):
    for visible, number in (("", 1), ("1", 0), ("0,1", 1)):
        monkeypatch.setenv("CUDA_VISIBLE_DEVICES", visible)
        assert place_of(torch.device("cuda", number)).startswith("cuda:1 on ")


@pytest.mark.parametrize("last", ["cuda:0 on n0", "cpu on n1"])
def test_each_rank_has_a_gpu_of_its_own_or_all_have_a_cpu(last):
    places = ["cuda:0 on n0", "cuda:1 on n0", "cuda:0 on n1"]
    check_devices(places)
    check_devices(["cpu on n0"] * 2)
    with pytest.raises(ConfigurationError, match=f"own, or all a CPU, but they have cuda:0 on n0, .*, {last}: start"):
        check_devices([*places, last])
