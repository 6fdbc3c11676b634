"""Groups: sparse convex combinations of a class's prototypes (Porta et al. 2025, section 3.2)."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from segproto.prototypes.losses import group_entropy
from segproto.prototypes.numerics import exact_float32
from segproto.prototypes.simplex import project_simplex


class Grouping(nn.Module):
    """``groups`` groups for every class that has prototypes, computed for all classes at once.

    Classes without a prototype get no group, so K <= C classes have K * G groups.

    Args:
        class_of: (P,) class of each prototype.
        num_classes: C.
        groups: G, groups per class.

    Attributes:
        weights: Parameter (K, G, n), n = most prototypes of a class; a row lists its class's prototypes in ascending
            order of index, then zeros as padding. Rows start uniform in (-1/sqrt(n_c), 1/sqrt(n_c)), then projected.
        members: int64 (K, n), the prototype of each weight; 0 where padded.
        mask: bool (K, n), False where padded.
        class_of_group: int64 (K*G,).
    """

    members: Tensor
    mask: Tensor
    class_of_group: Tensor

    def __init__(self, class_of: Tensor, num_classes: int, groups: int) -> None:
        super().__init__()
        if groups < 1 or class_of.numel() == 0:
            raise ValueError(f"expected at least one group and one prototype, got {groups} and {class_of.numel()}")
        self.num_classes = num_classes
        self.groups = groups
        self.num_prototypes = class_of.numel()
        members, mask, classes = _member_table(class_of, num_classes)
        self.register_buffer("members", members, persistent=False)
        self.register_buffer("mask", mask, persistent=False)
        self.register_buffer("class_of_group", classes.repeat_interleave(groups), persistent=False)
        bound = 1 / mask.sum(1).to(torch.float32).sqrt()
        start = (torch.rand(len(classes), groups, mask.shape[1]) * 2 - 1) * bound.cpu()[:, None, None]
        self.weights = nn.Parameter(start.to(class_of.device))
        self.project_()

    @property
    def num_groups(self) -> int:
        """K * G."""
        return self.class_of_group.numel()

    def forward(self, activations: Tensor) -> Tensor:
        """Group activations ``exp(sum_i w_i g_i)``, in float32 (Porta et al. 2025, eq. 2).

        The weighted geometric mean of the similarity ratios ``(d + 1) / (d + 1e-4)``, of which ``g`` is the logarithm.
        Why through the logarithm: a sum is one matrix product, its terms are what an explanation splits the group by,
        and nothing overflows, as a mean lies between its ratios (at most 1e4). The exponential turns an error of the
        sum into a relative one of the group: bfloat16, with steps of 0.06 at 9.2, would be wrong by some percent.

        Args:
            activations: (B, P, h, w) log activations.

        Returns:
            (B, K*G, h, w), groups class by class.
        """
        batch, count, height, width = activations.shape
        with exact_float32(activations.device):
            cells = activations.to(self.weights.dtype).reshape(batch, count, height * width)
            # One small product per present class, in one batch: 4 to 18 times faster than the dense (K*G, P) matrix.
            own = cells.index_select(1, self.members.flatten()).view(batch, *self.members.shape, -1)
            logarithm = torch.matmul(self._unpadded(), own)
            return logarithm.view(batch, -1, height, width).exp()

    def _unpadded(self) -> Tensor:
        """The weights (K, G, n), 0 where padded; torch 2.8 writes no ONNX graph of a product with the mask."""
        return self.weights.masked_fill(~self.mask[:, None], 0)

    def dense(self) -> Tensor:
        """(K*G, P): the weight of every prototype in every group; differentiable."""
        classes, groups, slots = self.weights.shape
        columns = self.members[:, None].expand(classes, groups, slots).reshape(classes * groups, slots)
        weights = self._unpadded().view(classes * groups, slots)
        out = weights.new_zeros(classes * groups, self.num_prototypes)
        return out.scatter_add(1, columns, weights)

    @torch.no_grad()
    def set_dense_(self, dense: Tensor) -> None:
        """Sets the weights from (K*G, P) in place; what lies outside a group's class is left out."""
        classes, groups, _ = self.weights.shape
        columns = self.members[:, None].expand(-1, groups, -1)
        self.weights.copy_(dense.view(classes, groups, -1).gather(2, columns) * self.mask[:, None])

    @torch.no_grad()
    def project_(self) -> None:
        """Projects every row onto the simplex in place: after each optimizer step.

        See docs/specs/scaleproto.md#groups.
        """
        self.weights.copy_(project_simplex(self.weights, mask=self.mask[:, None]))

    @torch.no_grad()
    def threshold_(self, tau: float) -> None:
        """Sets weights below ``tau`` to 0 in place, without renormalisation (published tau: 0.05)."""
        self.weights.masked_fill_(self.weights < tau, 0)

    def entropy(self) -> Tensor:
        """Scalar: mean normalised entropy of all groups, see ``losses.group_entropy``."""
        return group_entropy(self.weights, self.mask)

    def used_prototypes(self) -> Tensor:
        """(P,) bool: prototypes with a non-zero weight in at least one group."""
        return (self.dense().detach() != 0).any(0)

    def group_average(self) -> float:
        """Mean number of non-zero weights per group ("Group Avg" in the tables of Porta et al. 2025)."""
        return (self.weights.detach() != 0).sum(-1).to(torch.float32).mean().item()


def _member_table(class_of: Tensor, num_classes: int) -> tuple[Tensor, Tensor, Tensor]:
    """Prototype ids by present class, padded with 0: (K, n) ids, (K, n) mask, (K,) classes."""
    counts = torch.bincount(class_of, minlength=num_classes)
    if len(counts) > num_classes:
        raise ValueError(f"class_of holds class {len(counts) - 1}, expected 0..{num_classes - 1}")
    classes = counts.nonzero().flatten()
    sizes = counts[classes]
    mask = torch.arange(int(sizes.max()), device=class_of.device) < sizes[:, None]
    members = torch.zeros_like(mask, dtype=torch.int64)
    members[mask] = class_of.argsort(stable=True)
    return members, mask, classes
