"""Batch norms whose statistics are those of all processes, on CPUs as well as GPUs."""

from __future__ import annotations

from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.autograd.function import once_differentiable


class _Sum(torch.autograd.Function):
    """The sum of a tensor over all processes; its gradient is the sum of theirs."""

    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        out = x.clone()
        dist.all_reduce(out)
        return out

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> Tensor:
        out = gradient.clone()
        dist.all_reduce(out)
        return out


class SharedBatchNorm(nn.BatchNorm2d):
    """A batch norm over the batches of all processes; alone, or in eval mode, torch's own.

    ``torch.nn.SyncBatchNorm`` refuses CPUs. Every process must call it equally often, forward and backward.
    """

    def forward(self, x: Tensor) -> Tensor:
        alone = not (dist.is_available() and dist.is_initialized()) or dist.get_world_size() == 1
        if alone or not self.training:
            return super().forward(x)
        with torch.autocast(x.device.type, enabled=False):
            values = x.float()
            count = values.new_full((1,), values.numel() / values.shape[1])
            sums = torch.cat([values.sum((0, 2, 3)), count])
            total: Tensor = _Sum.apply(sums)
            number = total[-1].detach()
            mean = total[:-1] / number
            centred = values - mean[:, None, None]
            variance = _Sum.apply(centred.square().sum((0, 2, 3))) / number
            self._note(mean.detach(), variance.detach(), number)
            assert self.weight is not None
            scale = self.weight * torch.rsqrt(variance + self.eps)
            return (centred * scale[:, None, None] + self.bias[:, None, None]).to(x.dtype)

    @torch.no_grad()
    def _note(self, mean: Tensor, variance: Tensor, number: Tensor) -> None:
        """Moves the running statistics as torch does, with the unbiased variance."""
        if self.running_mean is None or self.running_var is None or self.num_batches_tracked is None:
            return
        self.num_batches_tracked.add_(1)
        momentum = 1 / self.num_batches_tracked if self.momentum is None else torch.as_tensor(self.momentum)
        momentum = momentum.to(mean)
        self.running_mean.lerp_(mean, momentum)
        self.running_var.lerp_(variance * number / (number - 1), momentum)


def share_statistics(module: nn.Module) -> None:
    """Turns every batch norm below into a :class:`SharedBatchNorm` with the same tensors; once is enough."""
    for parent in list(module.modules()):
        for name, child in parent.named_children():
            if type(child) is nn.BatchNorm2d:
                setattr(parent, name, shared(child))


def shared(norm: nn.BatchNorm2d) -> SharedBatchNorm:
    """The shared norm with the very tensors of a plain one."""
    options = {"affine": norm.affine, "track_running_stats": norm.track_running_stats}
    new = SharedBatchNorm(norm.num_features, norm.eps, norm.momentum, **options)
    new.weight, new.bias = norm.weight, norm.bias
    for name, buffer in norm.named_buffers():
        setattr(new, name, buffer)
    return new.train(norm.training)
