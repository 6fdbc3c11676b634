"""Grouped head (distances, log activation, groups, readout) against the published layers, forward and backward.

    OMP_NUM_THREADS=2 PYTHONPATH=src python benchmarks/heads.py

What :func:`published` computes, in which order and how often is that of the release of Porta et al. 2025 (file
model_multiscale_group.py), its loop over classes and its look-ups of members included.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from common import best_ms
from torch import Tensor

from segproto.model.heads import GroupedHead
from segproto.prototypes.bank import PrototypeBank


def problem(classes: int, grid: tuple[int, int]) -> tuple[Tensor, GroupedHead]:
    """One image's features on the grid, four scales of 64 channels, and three prototypes a class and scale."""
    return torch.rand(1, 256, *grid), GroupedHead(PrototypeBank.regular(classes, 3, 4, 64), 3)


def published(features: Tensor, head: GroupedHead) -> Tensor:
    """Logits (B, h, w, C): |x|^2 by a convolution with ones for each prototype, one gather and product per class."""
    bank = head.bank
    blocks, distances = features.view(len(features), bank.num_scales, bank.dim, *features.shape[2:]), []
    for scale in reversed(range(bank.num_scales)):
        a, b = bank.scale_ranges[scale]
        x, p = blocks[:, scale], bank.vectors[a:b, :, None, None]
        squares = F.conv2d(x**2, torch.ones_like(p))
        product = -2 * F.conv2d(x, p) + (p**2).sum((1, 2, 3)).view(-1, 1, 1)
        distances.append(F.relu(squares + product))
    d = torch.cat(distances[::-1], 1).permute(0, 2, 3, 1).contiguous().reshape(-1, bank.num_prototypes)
    activations = torch.log((d + 1) / (d + 1e-4))
    identity = F.one_hot(bank.class_of, bank.num_classes).float()
    groups = []
    for c in range(bank.num_classes):
        if int(identity[:, c].sum().item()) > 0:
            own = torch.nonzero(identity[:, c]).flatten().numpy()
            weight = head.grouping.weights[len(groups), :, : len(own)]
            groups.append(torch.exp(F.linear(activations[:, own], weight)))
    return F.linear(torch.cat(groups, -1), head.readout).reshape(len(features), *features.shape[2:], -1)


def vectorised(features: Tensor, head: GroupedHead) -> Tensor:
    """Logits as those of :func:`published`, of our head."""
    return head(features).permute(0, 2, 3, 1)


def gradients(way, features: Tensor, head: GroupedHead) -> list[Tensor]:
    """Of the features, groups and readout (prototypes are fixed when groups learn), for a fixed slope of each logit."""
    wanted = (features.detach().requires_grad_(), head.grouping.weights, head.readout)
    logits = way(wanted[0], head)
    slopes = torch.linspace(0.5, 1.5, logits.numel()).view_as(logits)
    return list(torch.autograd.grad(logits, wanted, slopes))


def apart(ours: Tensor, theirs: Tensor) -> float:
    """Largest difference, relative to the largest value."""
    return float((ours - theirs).abs().max() / theirs.abs().max())


def main() -> None:
    torch.manual_seed(0)
    print(f"{torch.get_num_threads()} threads, torch {torch.__version__}, B=1, D=64, S=4, M=3, G=3, float32")
    for classes, grid in ((2, (65, 65)), (19, (65, 65)), (19, (129, 257)), (150, (65, 65))):
        features, head = problem(classes, grid)
        head.bank.requires_grad_(False)
        with torch.inference_mode():
            error = apart(vectorised(features, head), published(features, head))
            fast = best_ms(lambda: vectorised(features, head), 20)  # noqa: B023
            slow = best_ms(lambda: published(features, head), 5)  # noqa: B023
        pairs = zip(*(gradients(way, features, head) for way in (vectorised, published)), strict=True)
        wrong = max(apart(*pair) for pair in pairs)
        learn, plain = (best_ms(lambda w=way: gradients(w, features, head), 5) for way in (vectorised, published))  # noqa: B023
        print(
            f"C={classes} P={head.bank.num_prototypes} {grid[0]}x{grid[1]}: {fast:.2f} ms, published {slow:.2f} ms, "
            f"{slow / fast:.1f}x, differs by {error:.0e}; with gradients {learn:.1f} ms, published {plain:.1f} ms, "
            f"{plain / learn:.1f}x, differs by {wrong:.0e}"
        )


if __name__ == "__main__":
    main()
