"""The losses of a training step of pixelcontrast (tags, ER, ECR, forward and backward) against the published code.

    python benchmarks/pixelcontrast_losses.py [--batch 4] [--runs 3]

Published: the raw and refined maps of both views are enlarged to the image, 448 and 128 pixels, and all 21 classes take
part in every term. Ours gives the same values and gradients; the processor time of one thread is printed.
"""

from __future__ import annotations

import argparse
from functools import partial

import torch
import torch.nn.functional as F
from common import best_ms
from torch import Tensor

from segproto.refine.seam import view_losses

SIZES = ((448, 448), (128, 128))


def max_norm(p: Tensor) -> Tensor:
    n, c, _, _ = p.shape
    p = F.relu(p)
    high = p.view(n, c, -1).max(-1)[0].view(n, c, 1, 1)
    low = p.view(n, c, -1).min(-1)[0].view(n, c, 1, 1)
    return F.relu(p - low - 1e-5) / (high - low + 1e-5)


def min_pooling(x: Tensor) -> Tensor:
    n, _, h, w = x.shape
    k = h * w // 4
    smallest = torch.topk(x.max(1)[0].view(n, -1), k=k, dim=-1, largest=False)[0]
    return F.relu(smallest).sum() / (k * n)


def one_winner(x: Tensor) -> Tensor:
    front = x[:, 1:]
    front[front != front.max(1, keepdim=True)[0]] = 0
    return x


def published(cam1: Tensor, rv1: Tensor, cam2: Tensor, rv2: Tensor, labels: Tensor) -> Tensor:
    """SEAM's and wseg's loss of the tags and of two views (contrast_train.py), as released."""
    y = labels[:, :, None, None]
    enlarge = partial(F.interpolate, mode="bilinear", align_corners=True)
    cam1, rv1, cam2, rv2 = (
        enlarge(cam1, SIZES[0]),
        enlarge(rv1, SIZES[0]),
        enlarge(cam2, SIZES[1]),
        enlarge(rv2, SIZES[1]),
    )
    tags = [F.adaptive_avg_pool2d(c, (1, 1))[:, 1:] for c in (cam1, cam2)]
    pooled = [min_pooling((r * y)[:, 1:]) for r in (rv1, rv2)]
    cam1, rv1 = (enlarge(max_norm(m), SIZES[1]) * y for m in (cam1, rv1))
    cam2, rv2 = (max_norm(m) * y for m in (cam2, rv2))
    loss = sum(F.multilabel_soft_margin_loss(t[:, :, 0, 0], labels[:, 1:]) for t in tags) / 2 + sum(pooled) / 2
    loss = loss + (cam1[:, 1:] - cam2[:, 1:]).abs().mean()
    cam1 = torch.cat([1 - cam1[:, 1:].max(1, keepdim=True)[0], cam1[:, 1:]], 1)
    cam2 = torch.cat([1 - cam2[:, 1:].max(1, keepdim=True)[0], cam2[:, 1:]], 1)
    n, c, h, w = cam2.shape
    for cam, refined in ((cam2, rv1), (cam1, rv2)):
        off = (one_winner(cam.detach().clone()) - refined).abs()
        loss = loss + off.view(n, -1).topk(int(c * h * w * 0.2), dim=-1)[0].mean()
    return loss


def ours(cam1: Tensor, rv1: Tensor, cam2: Tensor, rv2: Tensor, labels: Tensor) -> Tensor:
    return sum(view_losses(cam1, rv1, cam2, rv2, labels, sizes=SIZES).values(), torch.zeros(()))


def step(loss, maps: list[Tensor], labels: Tensor) -> tuple[Tensor, list[Tensor]]:
    value = loss(*maps, labels)
    return value.detach(), list(torch.autograd.grad(value, maps))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--batch", type=int, default=4)
    parser.add_argument("--runs", type=int, default=3)
    args = parser.parse_args()
    torch.set_num_threads(1)
    torch.manual_seed(0)
    sides = (56, 56, 16, 16)
    maps = [4 * torch.rand(args.batch, 21, s, s) - 2 for s in sides]
    maps = [(m.abs() if i % 2 else m).requires_grad_() for i, m in enumerate(maps)]  # refined maps are not negative
    for most in (2, 3, 6, 20):
        labels = torch.zeros(args.batch, 21)
        labels[:, 0] = 1
        for row in labels:
            row[1 + torch.randperm(20)[: int(torch.randint(1, most + 1, ()))]] = 1
        (a, first), (b, second) = step(published, maps, labels), step(ours, maps, labels)
        apart = max(float((x - y).norm() / x.norm()) for x, y in zip(first, second, strict=True))
        assert abs(float(a - b)) < 1e-5 * float(a), (a, b)
        assert apart < 1e-3, apart  # ties of the largest differences may go to another pixel
        slow = best_ms(lambda: step(published, maps, labels), args.runs)  # noqa: B023
        fast = best_ms(lambda: step(ours, maps, labels), args.runs)  # noqa: B023
        print(
            f"{args.batch} images of up to {most} classes: published {slow:.0f} ms, ours {fast:.0f} ms "
            f"({slow / fast:.2f}x); loss {float(a):.6f} and {float(b):.6f}, gradients differ by {apart:.1e}",
            flush=True,
        )


if __name__ == "__main__":
    main()
