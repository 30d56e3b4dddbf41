from __future__ import annotations

import pytest
import torch

from xland.errors import ConfigurationError, TrainingError
from xland.training.learn.group import SECRET, check_devices, join_group, place_of


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


@pytest.mark.parametrize(
    ("visible", "refused"),
    [
        (("0,1 1", "0,1 0"), False),
        (("0,1 0", "1,0 0"), False),
        ((" 0", " 1"), False),
        (("0 0", "0 0 n1"), False),
        (("- -", "- -"), False),
        (("0 0", "- -"), True),
        (("0,1 0", "0 0"), True),
        ((" 0", "0,1 0"), True),
    ],
)
def test_each_rank_has_a_gpu_of_its_own_or_all_have_a_cpu(monkeypatch, visible, refused):
    """GPUs that a process sees, which of them it takes, and its node, n0 by default."""
    places = []
    for each in visible:
        gpus, index, *host = each.split(" ")
        monkeypatch.setenv("CUDA_VISIBLE_DEVICES", gpus)
        monkeypatch.setattr("socket.gethostname", lambda name=host: "".join(name) or "n0")
        places.append(place_of(torch.device("cpu") if index == "-" else torch.device("cuda", int(index))))
    if not refused:
        check_devices(places)
        return
    said = (
        r"a GPU of its own, or all a CPU, but they have cuda:0 on n0, .* \(workers of the cluster 'cuda' have one each"
    )
    with pytest.raises(ConfigurationError, match=said):
        check_devices(places)


def test_a_rank_on_a_cpu_does_not_join_one_on_a_gpu(monkeypatch):
    for name, value in (TWO | {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": "1", SECRET: ""}).items():
        monkeypatch.setenv(name, value)
    store = torch.distributed.HashStore()
    torch.distributed.PrefixStore("xland-", store).set("xland-device/1", "cuda:0 on n1")
    monkeypatch.setattr(torch.distributed, "rendezvous", lambda *_, **__: iter([(store, 0, 2)]))
    monkeypatch.setattr(torch.distributed, "init_process_group", lambda *_, **__: None)
    with pytest.raises(ConfigurationError, match=r"have cpu on .*, cuda:0 on n1"), join_group("cpu"):
        raise AssertionError("such ranks would wait for ever")
