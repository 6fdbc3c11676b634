"""Euclidean projection onto the probability simplex."""

from __future__ import annotations

import torch
from torch import Tensor


@torch.no_grad()
def project_simplex(v: Tensor, dim: int = -1, mask: Tensor | None = None) -> Tensor:
    """The nearest point with entries >= 0 that sum to 1, for every slice along ``dim`` at once.

    Sort-based (Duchi et al. 2008, fig. 1; Porta et al. 2025), in float64 inside so that the sum holds to 1e-6.

    Why by sorting: the projection is ``max(v - theta, 0)``, and theta depends on which entries stay above 0. Sorted in
    descending order these are a prefix (Duchi et al. 2008, lemmas 1 and 2), of which one cumulative sum finds the
    length for all slices at once, without a loop. Padding sorts last as -inf and counts as no entry.

    Args:
        v: any shape, float.
        dim: the dimension that is projected.
        mask: bool, broadcastable to ``v``; False marks padding, which stays 0 and takes no part. A slice without any
            True entry becomes 0.

    Returns:
        Same shape and dtype as ``v``; no gradient flows.

    Examples:
        >>> import torch
        >>> project_simplex(torch.tensor([0.5, 0.25, -0.25, 1.0]))
        tensor([0.2500, 0.0000, 0.0000, 0.7500])
    """
    values = v.detach().to(torch.float64).movedim(dim, -1)
    valid = torch.ones_like(values, dtype=torch.bool) if mask is None else mask.expand(v.shape).movedim(dim, -1)
    u = values.masked_fill(~valid, -torch.inf).sort(dim=-1, descending=True).values
    present = torch.isfinite(u)
    excess = u.masked_fill(~present, 0).cumsum(-1) - 1
    rank = torch.arange(1, u.shape[-1] + 1, device=v.device, dtype=u.dtype)
    support = ((u - excess / rank > 0) & present).sum(-1, keepdim=True).clamp_min(1)
    theta = excess.gather(-1, support - 1) / support
    out = (values - theta).clamp_min(0).masked_fill(~valid, 0)
    return out.movedim(-1, dim).to(v.dtype)
