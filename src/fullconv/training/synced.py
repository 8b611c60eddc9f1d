"""Batch norm over the global batch of all processes."""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from fullconv.errors import NetworkError
from fullconv.training.processes import Processes


def synchronize_batch_norms(network: nn.Module, processes: Processes) -> None:
    """Let every batch norm in training mode take mean and variance over the global batch.

    On GPUs torch's SyncBatchNorm does it. It refuses the CPU, where `_GlobalBatchNorm` does the same.

    Raises:
        NetworkError: The network has no batch norm, or one of a kind that cannot be synchronised here.
    """
    norms = {name: m for name, m in network.named_modules() if isinstance(m, nn.modules.batchnorm._BatchNorm)}
    if not norms:
        raise NetworkError("sync_batchnorm = true does nothing in this network: it has no batch norm. Leave it away.")
    if processes.ranks == 1:
        return  # the global batch is this process's
    if next(network.parameters()).is_cuda:
        from timm.layers.norm_act import convert_sync_batchnorm

        convert_sync_batchnorm(network)  # type: ignore[no-untyped-call]
        return
    for name, norm in norms.items():
        if type(norm) is not nn.BatchNorm2d:
            raise NetworkError(
                f"{name} is a {type(norm).__name__}, which cannot be synchronised on the CPU. Leave sync_batchnorm away."
            )
        parent, _, leaf = name.rpartition(".")
        setattr(network.get_submodule(parent), leaf, _GlobalBatchNorm.of(norm, processes))


class _GlobalBatchNorm(nn.BatchNorm2d):
    """A BatchNorm2d whose batch is that of all processes."""

    processes: Processes

    @classmethod
    def of(cls, norm: nn.BatchNorm2d, processes: Processes) -> _GlobalBatchNorm:
        """Take the place of a batch norm: the same parameters and statistics under the same names."""
        made = cls.__new__(cls)
        made.__dict__ = {**norm.__dict__, "processes": processes}
        return made

    def forward(self, x: Tensor) -> Tensor:
        """Normalise (N, C, H, W)."""
        if not self.training:
            return super().forward(x)
        assert self.running_mean is not None
        assert self.running_var is not None
        assert self.num_batches_tracked is not None
        self.num_batches_tracked.add_(1)
        momentum = 1 / float(self.num_batches_tracked) if self.momentum is None else self.momentum
        result: Tensor = _Normalize.apply(x, self.weight, self.bias, self, momentum)
        return result

    def __deepcopy__(self, memo: dict[int, Any]) -> nn.BatchNorm2d:
        """Copy as a plain one: copies are for trials of this process alone."""
        plain = nn.BatchNorm2d(self.num_features, self.eps, self.momentum)
        plain.load_state_dict(self.state_dict())
        return plain.train(self.training)


class _Normalize(torch.autograd.Function):
    """Normalise by the global mean and variance; in the backward pass their parts of the gradient are global, too."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, bias: Tensor, norm: _GlobalBatchNorm, momentum: float) -> Tensor:
        count = x.numel() // x.shape[1]
        var, mean = (value.double() for value in torch.var_mean(x.float(), dim=(0, 2, 3), correction=0))
        # Sums in float64: the square of the mean is taken away from them.
        sums = torch.stack([torch.full_like(mean, count), mean * count, (var + mean**2) * count])
        total, first, second = norm.processes.sum(sums)
        mean = first / total
        var = (second / total - mean**2).clamp(min=0)
        scale = torch.rsqrt(var + norm.eps)
        unbiased = var * total / (total - 1).clamp(min=1)
        assert norm.running_mean is not None
        assert norm.running_var is not None
        norm.running_mean.lerp_(mean.to(norm.running_mean.dtype), momentum)
        norm.running_var.lerp_(unbiased.to(norm.running_var.dtype), momentum)
        ctx.save_for_backward(x, weight, mean.float(), scale.float(), total)
        ctx.processes = norm.processes
        return F.batch_norm(x, mean.float(), var.float(), weight, bias, eps=norm.eps)

    @staticmethod
    def backward(ctx: Any, upstream: Tensor) -> tuple[Tensor | None, ...]:
        x, weight, mean, scale, total = ctx.saved_tensors
        pulled = upstream.float()
        normal = (x.float() - mean[:, None, None]) * scale[:, None, None]
        bias_gradient = pulled.sum(dim=(0, 2, 3))
        weight_gradient = (pulled * normal).sum(dim=(0, 2, 3))
        sums = ctx.processes.sum(torch.stack([bias_gradient, weight_gradient]).double()) / total
        along, across = sums.float()[:, :, None, None]
        gradient = (pulled - along - normal * across) * (weight * scale)[:, None, None]
        return gradient.to(x.dtype), weight_gradient, bias_gradient, None, None
