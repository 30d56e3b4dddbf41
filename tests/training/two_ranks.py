"""What two ranks under torchrun check of their group, before they train on the command line, once to the end.

The arguments of two commands follow each other: the first training comes to its end, the second one may be stopped.
Importing torch costs more than all of it, so that one start of two processes serves for everything.
"""

from __future__ import annotations

import os
import sys
from contextlib import suppress
from pathlib import Path

import torch
from torch import nn

from tests.training.commands import prepare_process
from xland.cli import main
from xland.errors import TrainingStoppedError
from xland.training.learn.group import SECRET, CommonBatchNorm, join_group, synchronise_batch_norm


def check_sums(group):
    assert group.ranks == 2
    assert group.sum(torch.tensor([1.0 + group.rank])).item() == 3
    assert group.any(group.rank == 1)
    assert not group.any(False)


def check_statistics(group):
    """Batch statistics, outputs and gradients are those of the whole batch, whose shares are uneven."""

    def close(found, expected):
        torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-5)

    torch.manual_seed(0)
    x, slope = torch.randn(5, 3, 4, 6) * 3 + 10, torch.randn(5, 3, 4, 6)
    own = slice(0, 2) if group.main else slice(2, 5)
    whole, common = nn.Sequential(nn.BatchNorm2d(3)), nn.Sequential(nn.BatchNorm2d(3))
    for layer in (whole[0], common[0]):
        with torch.no_grad():
            layer.weight.copy_(torch.tensor([1.0, 2.0, -0.5]))
            layer.bias.copy_(torch.tensor([0.0, 1.0, 2.0]))
    synchronise_batch_norm(common)
    assert type(common[0]) is CommonBatchNorm
    assert common.state_dict().keys() == whole.state_dict().keys()
    for _ in range(2):
        one, share = x.clone().requires_grad_(), x[own].clone().requires_grad_()
        expected, found = whole(one), common(share)
        (expected * slope).sum().backward()
        (found * slope[own]).sum().backward()
        close(found, expected[own])
        close(share.grad, one.grad[own])
        close(group.sum(common[0].weight.grad), whole[0].weight.grad)
        close(group.sum(common[0].bias.grad), whole[0].bias.grad)
        close(common[0].running_var, whole[0].running_var)
        close(common[0].running_mean, whole[0].running_mean)
    assert common[0].num_batches_tracked == 2
    close(common.eval()(x[own]), whole.eval()(x)[own])


def check_own_statistics(group, error):
    """Without common statistics gradients are common and statistics are not."""
    torch.manual_seed(0)
    network = nn.Sequential(nn.Conv2d(3, 2, 1), nn.BatchNorm2d(2))
    wrapped = group.wrap(network, common_statistics=False)
    assert type(network[1]) is nn.BatchNorm2d
    wrapped(torch.randn(2, 3, 4, 4) * (1 + group.rank)).square().sum().backward()
    for values, common in ((network[0].weight.grad, True), (network[1].running_var, False)):
        assert torch.allclose(group.sum(values), 2 * values) == common
    wrapped.itself = wrapped
    assert gloo_threads()
    if error is not None:
        raise error


def gloo_threads():
    names = [(task / "comm").read_text() for task in Path("/proc/self/task").iterdir()]
    return [name for name in names if "gloo" in name]


def check_group():
    with join_group("cpu") as group:
        check_sums(group)
        check_statistics(group)
    # a thread of gloo that outlives its group may end the process with SIGABRT
    assert not gloo_threads()
    for number, error in enumerate((None, TrainingStoppedError("asked to end"))):
        os.environ[SECRET] = str(number)
        with suppress(TrainingStoppedError), join_group("cpu") as group:
            check_own_statistics(group, error)
        assert not gloo_threads()


def train(secret: str, arguments: list[str]) -> int:
    os.environ[SECRET] = secret
    return main(["train", *arguments])


if __name__ == "__main__":
    check_group()
    prepare_process()
    first, second = (sys.argv[1:][at] for at in (slice(0, len(sys.argv) // 2), slice(len(sys.argv) // 2, None)))
    assert train("first", first) == 0
    sys.exit(train("second", second))
