"""Batched clustering against the plain loop over classes, as the published code does it.

    python benchmarks/clustering.py [--pixels 65536] [--classes 19 150] [--threads 2] [--cpu-time]

Prints the times of both (the smallest of several interleaved runs), whether they agree, and the largest tensor that the
batched one makes beside its inputs. Figures depend on the load of the machine, which is printed as well.
"""

from __future__ import annotations

import argparse
import gc
import os
import time
from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from segproto.prototypes.clustering import cluster_pixels, momentum_update

VOID = 255


def loop(e: Tensor, s: Tensor, y: Tensor, pred: Tensor, prototypes: Tensor, momentum: float) -> tuple[Tensor, Tensor]:
    """One class after another; ``s`` is (N, K, C) as in the published network."""
    count, per_class, dim = prototypes.shape
    target = y.clone()
    moved = prototypes.clone()
    correct = pred == y
    for c in range(count):
        own = s[..., c][y == c]
        if own.shape[0] == 0:
            continue
        q = torch.exp(own / 0.05).T
        q = q / q.sum()
        for _ in range(3):
            q = q / q.sum(1, keepdim=True) / per_class
            q = q / q.sum(0, keepdim=True) / q.shape[1]
        q = (q * q.shape[1]).T
        best = q.argmax(1)
        hard = F.one_hot(best, per_class).float()
        right = correct[y == c]
        hard = hard * right[:, None].repeat(1, per_class)
        embeddings = e[y == c] * right[:, None].repeat(1, dim)
        sums, hits = hard.T @ embeddings, hard.sum(0)
        if hits.sum() > 0:
            used = hits != 0
            moved[c, used] = momentum * prototypes[c, used] + (1 - momentum) * F.normalize(sums, dim=-1)[used]
        target[y == c] = c * per_class + best
    return target, F.normalize(moved, dim=-1)


def batched(
    e: Tensor, s: Tensor, y: Tensor, pred: Tensor, prototypes: Tensor, momentum: float
) -> tuple[Tensor, Tensor]:
    clusters = cluster_pixels(e, s, y, pred, len(prototypes), few="balance")
    return clusters.targets, momentum_update(prototypes, clusters.sums, clusters.counts, momentum=momentum)


class LargestTensor(TorchDispatchMode):
    """Records the size of the largest storage that any operation returns and that is not an input's."""

    def __init__(self, *inputs: Tensor) -> None:
        super().__init__()
        self.known = {t.untyped_storage().data_ptr() for t in inputs}
        self.size = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        out = func(*args, **(kwargs or {}))
        for t in out if isinstance(out, tuple | list) else [out]:
            if isinstance(t, Tensor) and t.untyped_storage().data_ptr() not in self.known:
                self.size = max(self.size, t.untyped_storage().nbytes())
        return out


def problem(pixels: int, classes: int, per_class: int, dim: int) -> tuple[Tensor, ...]:
    """Unequal classes (the largest about a third, as in street scenes), noisy clusters, 85 % right, 3 % void."""
    torch.manual_seed(0)
    frequency = 1 / torch.arange(1, classes + 1).float() ** 1.2
    y = torch.multinomial(frequency, pixels, True)
    prototypes = F.normalize(torch.randn(classes, per_class, dim), dim=-1)
    e = torch.randn(pixels, dim).mul_(0.06)
    e += prototypes.flatten(0, 1)[y * per_class + torch.randint(per_class, (pixels,))]
    e = F.normalize(e, dim=1)
    pred = torch.where(torch.rand(pixels) < 0.85, y, torch.randint(classes, (pixels,)))
    y[torch.rand(pixels) < 0.03] = VOID
    return e, e @ prototypes.flatten(0, 1).T, y, pred, prototypes


def seconds(run: Callable[[], object], clock: Callable[[], float]) -> float:
    start = clock()
    run()
    return clock() - start


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--pixels", type=int, default=65536)
    parser.add_argument("--classes", type=int, nargs="+", default=[19, 150])
    parser.add_argument("--per-class", type=int, default=10)
    parser.add_argument("--dim", type=int, default=720)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--runs", type=int, default=7)
    parser.add_argument("--cpu-time", action="store_true", help="processor time, for a busy machine; with --threads 1")
    args = parser.parse_args()
    clock = time.process_time if args.cpu_time else time.perf_counter
    kind = "processor" if args.cpu_time else "wall"
    torch.set_num_threads(args.threads)
    own: dict[int, float] = {}
    for classes in args.classes:
        e, s, y, pred, prototypes = problem(args.pixels, classes, args.per_class, args.dim)
        published = s.view(-1, classes, args.per_class).transpose(1, 2).contiguous()
        slow = lambda: loop(e, published, torch.where(y == VOID, -1, y), pred, prototypes, 0.999)  # noqa: B023, E731
        fast = lambda: batched(e, s, y, pred, prototypes, 0.999)  # noqa: B023, E731
        (t1, p1), (t2, p2) = slow(), fast()
        gc.collect()
        times = [(seconds(slow, clock), seconds(fast, clock), seconds(fast, clock)) for _ in range(args.runs)]
        a = min(t[0] for t in times)
        b = own[classes] = min(min(t[1:]) for t in times)
        watch = LargestTensor(e, s, y, pred, prototypes)
        with watch:
            fast()
        print(
            f"C={classes} N={args.pixels} K={args.per_class} D={args.dim} threads={args.threads} "
            f"load={os.getloadavg()[0]:.2f} {kind} time: "
            f"loop {a * 1e3:.0f} ms, batched {b * 1e3:.1f} ms, {a / b:.1f}x; "
            f"targets differ at {int((t1 != t2).sum())} pixels, prototypes by {float((p1 - p2).abs().max()):.1e}; "
            f"largest new tensor {watch.size / 1e6:.1f} MB (similarities {s.nbytes / 1e6:.0f} MB)",
            flush=True,
        )
    if len(own) > 1:
        print(f"slowest / fastest batched time over C: {max(own.values()) / min(own.values()):.2f}")


if __name__ == "__main__":
    main()
