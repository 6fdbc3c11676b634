"""Mask proposals (without CRF) against the plain published algorithm: one image after another, randomised PCA a mask.

    python benchmarks/proposals.py [--images 4] [--threads 2] [--cpu-time]

320 px at patch 8: 40 x 40 tokens of 384 channels, made of patches that look alike. Both are also run with the same
directions, and their masks compared.
"""

from __future__ import annotations

import argparse
import os
import sys
import time
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor

from segproto.refine.proposals import majority, propose

sys.path.insert(0, str(Path(__file__).parents[1] / "tests"))
from proposals_oracle import published_median, published_rounds, random_pca

CHANNELS, SIDE = 384, 40


def scene(seed: int, kinds: int = 8) -> Tensor:
    g = torch.Generator().manual_seed(seed)
    coarse = torch.randint(kinds, (1, 1, 6, 6), generator=g).float()
    kind = F.interpolate(coarse, (SIDE, SIDE), mode="nearest").long()[0, 0]
    means = torch.randn(kinds, CHANNELS, generator=g)
    return (means[kind] + 0.9 * torch.randn(SIDE, SIDE, CHANNELS, generator=g)).permute(2, 0, 1).contiguous()


def published(images: Tensor) -> list[Tensor]:
    return [published_median(published_rounds(image, 0.4, random_pca)[1]) for image in images]


def same_masks(image: Tensor) -> bool:
    """Whether both give the same masks with the same directions."""
    made: list[Tensor] = []

    def direction(number: int, rows: Tensor) -> Tensor:
        made.append(random_pca(number, rows))
        return made[-1]

    _, masks = published_rounds(image, 0.4, direction)
    found = propose(image[None], directions=lambda number, free: made[number][None])
    raw = sum((number + 1) * (mask > 0).long() for number, mask in enumerate(masks))
    return torch.equal(found.raw[0], raw) and torch.equal(found.regions, majority(raw[None]))


def seconds(run, images: Tensor, runs: int, clock) -> float:
    times = []
    for _ in range(runs):
        start = clock()
        run(images)
        times.append(clock() - start)
    return min(times)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--images", type=int, default=4)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--runs", type=int, default=3)
    parser.add_argument("--cpu-time", action="store_true", help="processor time, for a busy machine; with --threads 1")
    args = parser.parse_args()
    clock = time.process_time if args.cpu_time else time.perf_counter
    torch.set_num_threads(args.threads)
    images = torch.stack([scene(seed) for seed in range(args.images)])
    found = propose(images)
    fast = seconds(propose, images, args.runs, clock) / args.images
    slow = seconds(published, images, max(1, args.runs - 1), clock) / args.images
    equal = all(same_masks(image) for image in images)
    kind = "processor" if args.cpu_time else "wall"
    print(
        f"C={CHANNELS} {SIDE}x{SIDE} tokens, {found.counts.float().mean():.1f} masks an image, threads={args.threads}, "
        f"load={os.getloadavg()[0]:.2f}, {kind} time: plain {slow * 1e3:.0f} ms, ours {fast * 1e3:.0f} ms an image, "
        f"{slow / fast:.1f}x; same masks with the same directions: {equal}"
    )


if __name__ == "__main__":
    main()
