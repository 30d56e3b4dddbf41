"""Batch normalisation over the samples of all ranks, on CPUs too.

With statistics of its own share, each rank would train another network than one process with the
whole batch does. torch's ``SyncBatchNorm`` does this for GPUs; the module here does it for CPUs,
with the same parameters and buffers under the same names.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, distributed, nn
from torch.nn import functional


def synchronise_batch_norm(network: nn.Module) -> None:
    """Let every batch normalisation of a network use the statistics of all ranks, in place."""
    for name, child in list(network.named_children()):
        if isinstance(child, nn.BatchNorm2d):
            setattr(network, name, _converted(child))
        else:
            synchronise_batch_norm(child)


def _converted(norm: nn.BatchNorm2d) -> nn.Module:
    if next(norm.parameters()).is_cuda:
        converted: nn.Module = nn.SyncBatchNorm.convert_sync_batchnorm(norm)
        return converted
    norm.__class__ = CommonBatchNorm
    return norm


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
    """Normalise with given statistics, which are those of the inputs of all ranks: the gradient knows it."""

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
