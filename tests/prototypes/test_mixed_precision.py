"""Losses on float32 tensors are the same within mixed precision: what they sum is never rounded to bfloat16."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from segproto.prototypes.correspondence import correspondence_loss
from segproto.prototypes.expectation import kmeans_loss
from segproto.prototypes.pixel_contrast import View, contrast_losses, view_of
from segproto.refine.seam import correlation_input


def contrast(g: torch.Generator) -> tuple[Tensor, Tensor]:
    """As many pixels per class as in training: a sum of ones in bfloat16 stands still at 256."""
    classes, side = 4, 32
    centres = torch.randn(classes, 16, generator=g).relu()
    leaf = torch.randn(2, 4, 16, side, side, generator=g).requires_grad_()

    def view(noise: Tensor) -> View:
        labels = torch.randint(0, classes, (4, side, side), generator=g)
        maps = F.one_hot(labels, classes).movedim(3, 1) + 0.3 * torch.rand(4, classes, side, side, generator=g)
        projections = (centres[labels].movedim(3, 1) + noise).relu()
        return view_of(projections, maps, torch.ones(4, classes))

    return torch.stack(list(contrast_losses(view(leaf[0]), view(leaf[1])).values())).sum(), leaf


def kmeans(g: torch.Generator) -> tuple[Tensor, Tensor]:
    leaf = torch.randn(6, 32, generator=g).requires_grad_()
    return kmeans_loss(torch.randn(2, 32, 9, 7, generator=g), leaf), leaf


def correspondence(g: torch.Generator) -> tuple[Tensor, Tensor]:
    leaf = torch.randn(2, 8, 6, 6, generator=g).requires_grad_()
    features = torch.randn(2, 32, 6, 6, generator=g)
    points = torch.rand(2, 5, 5, 2, generator=g) * 2 - 1
    return correspondence_loss((features, features), (leaf, leaf), (points, points.flip(0)), 0.1), leaf


@pytest.mark.parametrize("problem", [contrast, kmeans, correspondence])
def test_autocast_changes_no_loss(problem: Callable[[torch.Generator], tuple[Tensor, Tensor]]) -> None:
    losses = []
    for mixed in (False, True):
        with torch.autocast("cpu", torch.bfloat16, enabled=mixed):
            loss, leaf = problem(torch.Generator().manual_seed(0))
        assert loss.dtype == torch.float32
        losses.append((loss.detach(), *torch.autograd.grad(loss, leaf)))
    torch.testing.assert_close(losses[1], losses[0])


def test_a_pixel_has_one_winner() -> None:
    """Maps that come from a bfloat16 convolution are compared after scaling, which tells equal ones apart."""
    cam = torch.randn(2, 21, 40, 40, generator=torch.Generator().manual_seed(0)).bfloat16()
    winners = (correlation_input(cam)[:, 1:] > 0).sum(1)
    assert float((winners > 1).float().mean()) < 1e-3
