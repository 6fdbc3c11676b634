"""The published extraction of mask proposals, one image at a time, as plainly as it is written."""

from __future__ import annotations

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor


def published_rounds(
    features: Tensor, threshold: float, direction: Callable[[int, Tensor], Tensor], limit: int = 254
) -> tuple[list[int], list[Tensor]]:
    """Anchors and soft masks (h, w) of one image.

    Args:
        features: (C, h, w).
        threshold: psi.
        direction: round number and the unassigned features (n, C) to the direction (C,), sign included.
        limit: most rounds.
    """
    _, h, w = features.shape
    tokens = features.flatten(1).T
    unit = F.normalize(tokens, dim=1)
    free = torch.ones(h * w, dtype=torch.bool)
    history, anchors, masks = [free.clone()], [], []
    while (~free).float().mean() < 0.95 and len(masks) < limit:
        s = unit @ direction(len(masks), tokens[free])
        s[~free] = -torch.inf  # the release: 0, which lets an assigned cell win where all others are negative
        anchor = int(s.argmax())
        t = unit @ unit[anchor]
        t[~free] = 0
        t[t < threshold * t.max()] = 0
        t = t / t.max()
        anchors.append(anchor)
        masks.append(t.view(h, w))
        free = free & ~(t > 0)
        history.append(free.clone())
        if len(history) > 3 and all(torch.equal(history[-1], old) for old in history[-4:-1]):
            break
    return anchors, masks


def random_pca(count: int, rows: Tensor) -> Tensor:
    """The release's direction: randomised PCA of the unassigned features."""
    return torch.pca_lowrank(rows, q=3, center=True, niter=100)[2][:, 0]


def published_median(masks: list[Tensor]) -> Tensor:
    """Numbers 1..M, 0 = none (h, w): soft masks through a reflected 3x3 median, times ten, clamped; and background."""
    stack = torch.stack(masks)[None]
    padded = F.pad(stack, (1, 1, 1, 1), mode="reflect")
    windows = padded.unfold(2, 3, 1).unfold(3, 3, 1).flatten(-2)
    soft = (windows.median(-1).values * 10).clamp(0, 1)[0]
    background = (1 - soft.sum(0)).clamp(0, 1)
    return torch.cat([background[None], soft]).argmax(0)
