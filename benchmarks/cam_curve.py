"""The threshold curve in one pass against one pass a threshold, as published.

python benchmarks/cam_curve.py [--images 6]
"""

from __future__ import annotations

import argparse
import os

import numpy as np
import torch
from common import best_ms

from segproto.metrics.cam_curve import CamCurve


def plain(images: list[tuple[np.ndarray, list[int], np.ndarray]], thresholds: list[float]) -> list[np.ndarray]:
    """21 channels, argmax and three sums per class, for every threshold and image."""
    out = []
    for t in thresholds:
        tp, p, truth = (np.zeros(21, np.int64) for _ in range(3))
        for maps, classes, gt in images:
            full = np.zeros((21, *gt.shape), np.float32)
            for m, c in zip(maps, classes, strict=True):
                full[c] = m
            full[0] = t
            pred = full.argmax(0)
            valid = gt < 255
            mask = (pred == gt) * valid
            for c in range(21):
                p[c] += ((pred == c) * valid).sum()
                truth[c] += ((gt == c) * valid).sum()
                tp[c] += ((gt == c) * mask).sum()
        out.append(tp / np.maximum(truth + p - tp, 1))
    return out


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--images", type=int, default=6)
    args = parser.parse_args()
    torch.set_num_threads(1)
    rng = np.random.default_rng(0)
    images = []
    for _ in range(args.images):
        classes = sorted(rng.choice(np.arange(1, 21), 2, replace=False).tolist())
        gt = rng.choice([0, *classes, 255], (375, 500), p=[0.6, 0.2, 0.15, 0.05])
        images.append((rng.random((2, 375, 500), dtype=np.float32), classes, gt))
    tensors = [tuple(torch.as_tensor(x) for x in image) for image in images]
    thresholds = [i / 100 for i in range(60)]

    def ours() -> torch.Tensor:
        curve = CamCurve(21, torch.tensor(thresholds))
        for image in tensors:
            curve.update(*image)
        m = curve.confusions().double()
        return m.diagonal(dim1=1, dim2=2) / (m.sum(1) + m.sum(2) - m.diagonal(dim1=1, dim2=2)).clamp_min(1)

    off = np.abs(ours().numpy() - np.stack(plain(images, thresholds))).max()
    fast, slow = best_ms(ours, 5), best_ms(lambda: plain(images, thresholds), 1)
    print(
        f"{args.images} images of 375 x 500, 60 thresholds: one pass {fast:.0f} ms, one pass each {slow:.0f} ms "
        f"({slow / fast:.0f}x); largest difference of an IoU {off:.1e}; load {os.getloadavg()[0]:.1f}"
    )


if __name__ == "__main__":
    main()
