"""Mask proposals (without CRF) against the plain published algorithm: one image after another, randomised PCA a mask.

    python benchmarks/proposals.py [--images 4] [--threads 2] [--cpu-time] [--photos FOLDER --weights FILE]

320 px at patch 8: 40 x 40 tokens of 384 channels, made of patches that look alike. Both are also run with the same
directions, and their masks compared. With photos and the weights of a plain ViT of timm (--backbone), also what each
part of ``segproto propose`` takes per image, CRF included.
"""

from __future__ import annotations

import argparse
import os
import sys
import time
from itertools import pairwise
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
    proposals = propose(image[None], directions=lambda number, free: made[number][None])
    raw = sum((number + 1) * (mask > 0).long() for number, mask in enumerate(masks))
    return torch.equal(proposals.raw[0], raw) and torch.equal(proposals.regions, majority(raw[None]))


def seconds(run, images: Tensor, runs: int, clock) -> float:
    times = []
    for _ in range(runs):
        start = clock()
        run(images)
        times.append(clock() - start)
    return min(times)


def parts(folder: Path, weights: Path, backbone: str, count: int, clock) -> dict[str, float]:
    """Milliseconds per image of each part: up to ``count`` photos, default settings; the first is not timed."""
    from segproto.data.unlabelled import ImageFolder
    from segproto.encoders.build import build_encoder
    from segproto.encoders.config import EncoderConfig
    from segproto.refine.regions import refine_regions
    from segproto.training.procedures.propose import shorter_side

    settings = EncoderConfig(backbone=backbone, weights=weights, neck="identity", squash="none", frozen=True)
    encoder, photos = build_encoder(settings).eval(), ImageFolder(folder)
    sums: dict[str, float] = {}
    count = min(count, len(photos) - 1)
    for index in range(count + 1):
        stamps = [("", clock())]
        image = shorter_side(photos[index].image, 320)[None]
        stamps.append(("reading and resizing", clock()))
        with torch.no_grad():
            features = encoder.backbone_features(encoder.normalisation(image))
        stamps.append(("features", clock()))
        proposals = propose(features.float())
        stamps.append(("proposals", clock()))
        padded = encoder.padded_size(*image.shape[-2:])
        refine_regions(image, proposals.regions, proposals.counts, padded=padded, settings=None)
        stamps.append(("enlarging", clock()))
        refine_regions(image, proposals.regions, proposals.counts, padded=padded)
        stamps.append(("CRF", clock()))
        for (_, before), (name, after) in pairwise(stamps):
            sums[name] = sums.get(name, 0) + 1e3 * (after - before) / count * (index > 0)
    return sums


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--images", type=int, default=4)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--runs", type=int, default=3)
    parser.add_argument("--cpu-time", action="store_true", help="processor time, for a busy machine; with --threads 1")
    parser.add_argument("--photos", type=Path, help="a folder of images")
    parser.add_argument("--weights", type=Path, help="a file for the backbone")
    parser.add_argument("--backbone", default="vit_tiny_patch16_224")
    args = parser.parse_args()
    clock = time.process_time if args.cpu_time else time.perf_counter
    torch.set_num_threads(args.threads)
    images = torch.stack([scene(seed) for seed in range(args.images)])
    proposals = propose(images)
    fast = seconds(propose, images, args.runs, clock) / args.images
    slow = seconds(published, images, max(1, args.runs - 1), clock) / args.images
    equal = all(same_masks(image) for image in images)
    kind = "processor" if args.cpu_time else "wall"
    print(
        f"C={CHANNELS} {SIDE}x{SIDE} tokens, {proposals.counts.float().mean():.1f} masks per image, "
        f"threads={args.threads}, "
        f"load={os.getloadavg()[0]:.2f}, {kind} time: plain {slow * 1e3:.0f} ms, ours {fast * 1e3:.0f} ms per image, "
        f"{slow / fast:.1f}x; same masks with the same directions: {equal}"
    )
    if args.photos:
        taken = parts(args.photos, args.weights, args.backbone, 10, clock)
        print(f"{kind} time per photo: " + ", ".join(f"{name} {value:.0f} ms" for name, value in taken.items()))


if __name__ == "__main__":
    main()
