"""The processes that learn together, one rank each, and batch normalisation over all of them."""

from __future__ import annotations

import gc
import inspect
import os
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import timedelta
from traceback import clear_frames
from typing import Any, Literal

import torch

# Its functions take the group that exists when it is imported as their default, and DistributedDataParallel
# imports it: imported later than now, it would keep the threads of a group that was left.
import torch.distributed.nn.functional
from torch import Tensor, distributed, nn
from torch.nn import functional

from xland.errors import ConfigurationError, TrainingError, TrainingStoppedError
from xland.training.machine import interface_of

Device = Literal["auto", "cpu", "cuda"]

# an environment variable that only a launcher and its ranks know: the ranks meet under keys that begin with it
SECRET = "XLAND_RANKS"  # noqa: S105 - a name

_PATIENCE = timedelta(minutes=30)  # a rank waits for the slowest, which may be validating or writing a state


@dataclass(frozen=True)
class Group:
    """One process of a training: its number from 0, the number of all, and the device of its network."""

    rank: int = 0
    ranks: int = 1
    device: torch.device = field(default_factory=lambda: torch.device("cpu"))

    @property
    def main(self) -> bool:
        """Whether this process writes files and reports."""
        return self.rank == 0

    def wrap(self, network: nn.Module, *, common_statistics: bool = True) -> nn.Module:
        """Return a module whose gradients, and batch statistics if these are common, are those of all ranks."""
        if self.ranks == 1:
            return network
        if common_statistics:
            synchronise_batch_norm(network)
        wrap = nn.parallel.DistributedDataParallel
        # buffers are the running statistics, which no rank needs to learn
        newer = "forward_sync_buffers" in inspect.signature(wrap).parameters
        options: dict[str, Any] = {"forward_sync_buffers" if newer else "broadcast_buffers": False}
        return wrap(network, device_ids=[self.device] if self.device.type == "cuda" else None, **options)

    def sum(self, values: Tensor) -> Tensor:
        """Sum over all ranks, for all of them; the tensor itself where there is one."""
        if self.ranks == 1:
            return values
        total = values.detach().clone().to(self.device)
        distributed.all_reduce(total)
        return total

    def any(self, flag: bool) -> bool:
        """Whether the flag is set in any rank; waits for all of them."""
        return bool(flag) if self.ranks == 1 else bool(self.sum(torch.tensor(int(flag))).item())

    def share_buffers(self, network: nn.Module) -> None:
        """Give all ranks the running statistics of the first."""
        if self.ranks > 1:
            for buffer in network.buffers():
                distributed.broadcast(buffer, 0)

    def barrier(self) -> None:
        """Wait for all ranks."""
        self.any(False)


@contextmanager
def join_group(device: Device = "auto") -> Iterator[Group]:
    """Join the group that the environment describes, or be alone.

    Ranks communicate through NCCL on GPUs, and through gloo on CPUs. The GPU is that of ``LOCAL_RANK``, or the first
    where fewer are visible, as for workers of dask-cuda, which each see their own first.
    """
    count = torch.cuda.device_count() if device != "cpu" and torch.cuda.is_available() else 0
    if device == "cuda" and not count:
        raise ConfigurationError(
            f"rank {os.environ.get('RANK', '0')} sees no GPU: look at nvidia-smi and CUDA_VISIBLE_DEVICES of its node, "
            "or train on the device cpu"
        )
    local = int(os.environ.get("LOCAL_RANK", "0"))
    chosen = torch.device("cuda", local if local < count else 0) if count else torch.device("cpu")
    ranks = int(os.environ.get("WORLD_SIZE", "1"))
    if ranks == 1:
        yield Group(device=chosen)
        return
    missing = [name for name in ("RANK", "MASTER_ADDR", "MASTER_PORT") if name not in os.environ]
    if missing:
        raise ConfigurationError(f"WORLD_SIZE is {ranks}, but {', '.join(missing)} are not set: start with torchrun")
    backend = "nccl" if chosen.type == "cuda" else "gloo"
    if chosen.type == "cuda":
        torch.cuda.set_device(chosen)
    try:
        loopback = interface_of("127.0.0.1")
        # ranks that are all on this machine use its loopback address, which no other machine reaches
        if os.environ.get("LOCAL_WORLD_SIZE") == str(ranks) and loopback is not None:
            for name in ("GLOO_SOCKET_IFNAME", "NCCL_SOCKET_IFNAME"):
                os.environ.setdefault(name, loopback)
        store, rank, _ = next(distributed.rendezvous("env://", timeout=_PATIENCE))
        store = distributed.PrefixStore(f"xland-{os.environ.get(SECRET, '')}", store)
        store.set(f"xland-device/{rank}", place_of(chosen))
        check_devices([store.get(f"xland-device/{each}").decode() for each in range(ranks)])
        distributed.init_process_group(backend, store=store, rank=rank, world_size=ranks, timeout=_PATIENCE)
    except ConfigurationError:
        raise
    except (RuntimeError, ValueError) as error:
        raise TrainingError(
            f"rank {os.environ['RANK']} of {ranks} cannot reach the others at "
            f"{os.environ['MASTER_ADDR']}:{os.environ['MASTER_PORT']} ({backend}): {error}"
        ) from error
    together = True
    try:
        yield Group(rank, ranks, chosen)
    except BaseException as error:
        together = isinstance(error, TrainingStoppedError)  # which all ranks raise after the same step
        clear_frames(error.__traceback__)  # their variables hold the group
        raise
    finally:
        # NCCL waits for ranks that do not know of an error of this one; the end of the process tells them
        if together or backend == "gloo":
            distributed.destroy_process_group()
            del store
            # Threads of gloo end when nobody refers to the group any more. One that still has a tensor when the
            # interpreter ends would end the process with SIGABRT.
            gc.collect()


def place_of(device: torch.device) -> str:
    """Name the device, and the machine that it is in, as all processes see it, such as ``cuda:1 on node1``."""
    name = device.type
    if name == "cuda":
        visible = os.environ.get("CUDA_VISIBLE_DEVICES", "").split(",")[device.index :]
        name = f"cuda:{visible[0] if visible and visible[0] else device.index}"
    return f"{name} on {socket.gethostname()}"


def check_devices(places: list[str]) -> None:
    """Refuse CPUs among the GPUs of ranks, and a GPU that two would share: such ranks would wait for ever."""
    shared = any(each.startswith("cuda") and places.count(each) > 1 for each in places)
    if shared or len({each[:4] for each in places}) > 1:
        raise ConfigurationError(
            f"each rank needs a GPU of its own, or all a CPU, but they have {', '.join(places)}: start as many ranks "
            "on a node as it has GPUs (workers of the cluster 'cuda' have one each), or train on the device cpu"
        )


def synchronise_batch_norm(network: nn.Module) -> None:
    """Let every batch normalisation of a network use the statistics of all ranks, in place."""
    for name, child in list(network.named_children()):
        if not isinstance(child, nn.BatchNorm2d):
            synchronise_batch_norm(child)
        elif next(child.parameters()).is_cuda:
            setattr(network, name, nn.SyncBatchNorm.convert_sync_batchnorm(child))
        else:
            child.__class__ = CommonBatchNorm


class CommonBatchNorm(nn.BatchNorm2d):
    """``BatchNorm2d`` whose mean and variance are those of the batches of all ranks together."""

    def forward(self, x: Tensor) -> Tensor:
        """Normalise; in evaluation mode with the running statistics, as every batch normalisation."""
        if not self.training:
            return super().forward(x)
        kind = self.weight.dtype
        # several times as fast as torch.var_mean, which gives the same
        _, mean, inverse = torch.native_batch_norm(x.detach().to(kind), None, None, None, None, True, 0.0, self.eps)
        own = x.numel() / x.shape[1]
        # in double precision, so that the mean of squares less the square of the mean stays exact enough
        mean, variance = mean.double(), inverse.double().pow(-2) - self.eps
        sums = torch.stack([torch.ones_like(mean), mean, variance + mean.square()]) * own
        distributed.all_reduce(sums)
        count, exact = sums[0, 0], sums[1] / sums[0]
        mean, variance = exact.to(kind), (sums[2] / sums[0] - exact.square()).clamp_min(0).to(kind)
        with torch.no_grad():
            self.num_batches_tracked.add_(1)  # type: ignore[union-attr]
            self.running_mean.lerp_(mean, self.momentum)  # type: ignore[union-attr, arg-type]
            unbiased = variance * (count / (count - 1)).to(kind)
            self.running_var.lerp_(unbiased, self.momentum)  # type: ignore[union-attr, arg-type]
        normalised: Tensor = _Normalise.apply(x, self.weight, self.bias, mean, variance, count.to(kind), self.eps)
        return normalised


class _Normalise(torch.autograd.Function):
    """Normalise with given statistics; its gradient takes into account that they are those of all ranks' inputs."""

    @staticmethod
    def forward(
        context: Any, x: Tensor, weight: Tensor, bias: Tensor, mean: Tensor, variance: Tensor, count: Tensor, eps: float
    ) -> Tensor:
        context.save_for_backward(x, weight, mean, variance, count)
        context.eps = eps
        return functional.batch_norm(x, mean, variance, weight, bias, training=False, eps=eps)

    @staticmethod
    def backward(context: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        x, weight, mean, variance, count = context.saved_tensors
        (gradient,) = gradients
        inverse = (variance + context.eps).rsqrt()
        through, for_weight, for_bias = torch.ops.aten.native_batch_norm_backward(
            gradient.contiguous(), x, weight, mean, variance, mean, inverse, False, context.eps, [True, True, True]
        )
        sums = torch.stack([for_weight, for_bias])
        distributed.all_reduce(sums)
        slope = -weight * inverse.square() * sums[0] / count
        level = -weight * inverse * sums[1] / count - slope * mean
        through.addcmul_(x, slope[:, None, None]).add_(level[:, None, None])
        return through, for_weight, for_bias, None, None, None, None
