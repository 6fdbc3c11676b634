"""Consistency of one 1024 x 2048 image: from the grid cells against upsampling every map, as published.

OMP_NUM_THREADS=1 PYTHONPATH=src python benchmarks/consistency.py

The plain algorithm resizes each prototype's map to the image (NEAREST), masks it, takes its quantile and looks up the
key points, once a quantile. Key points (connected components) are the same work for both and are timed on their own.
"""

from __future__ import annotations

import time

import numpy as np
import torch
from common import best_ms
from scipy import ndimage
from torch import Tensor

from segproto.metrics.cells import pixel_cells
from segproto.metrics.consistency import Presence, part_presence
from segproto.metrics.keypoints import Keypoints, part_keypoints

SIZE, GRID, CLASSES, PER_CLASS, PARTS = (1024, 2048), (129, 257), 19, 12, 6
QUANTILES = (0.8, 0.85, 0.9, 0.95)
WITH_PARTS = 5  # person, rider, car, truck, bus


def scene() -> tuple[Tensor, Tensor]:
    """A blobby mask of 19 classes and part ids in five of them."""
    rng = np.random.default_rng(0)

    def blobs(count: int, sigma: float) -> np.ndarray:
        noise = ndimage.gaussian_filter(rng.normal(size=(count, 128, 256)), (0, sigma, sigma))
        return noise.argmax(0).repeat(8, 0).repeat(8, 1)

    mask = blobs(CLASSES, 6)
    return torch.from_numpy(mask), torch.from_numpy(np.where(mask >= CLASSES - WITH_PARTS, blobs(PARTS, 3), 0))


def published(activations: Tensor, mask: Tensor, points: Keypoints, class_of: Tensor) -> Presence:
    """One class and prototype after the other, every map at full size, anew for each quantile."""
    rows, columns = (
        np.minimum(((np.arange(n) + 0.5) * g / n).astype(int), g - 1) for n, g in zip(SIZE, GRID, strict=True)
    )
    labels = mask.numpy()
    active = torch.zeros(len(QUANTILES), len(class_of), PARTS, dtype=torch.bool)
    seen = torch.zeros(len(class_of), PARTS, dtype=torch.bool)
    for q, quantile in enumerate(QUANTILES):
        for p, c in enumerate(class_of.tolist()):
            own = [i for i, other in enumerate(points.class_id.tolist()) if other == c]
            if not own:
                continue
            full = activations[p].numpy()[rows[:, None], columns]
            inside = labels == c
            binary = (full > np.quantile(full[inside], quantile)) & inside
            for i in own:
                part = int(points.part[i])
                seen[p, part] = True
                active[q, p, part] |= bool(binary[int(points.y[i]), int(points.x[i])])
    return Presence(active, seen)


def main() -> None:
    torch.manual_seed(0)
    mask, parts = scene()
    class_of = torch.arange(CLASSES).repeat_interleave(PER_CLASS)
    activations = torch.rand(len(class_of), *GRID)
    points = part_keypoints(mask, parts)

    def ours() -> Presence:
        return part_presence(
            activations, mask, points, class_of, PARTS, area=SIZE, num_classes=CLASSES, quantiles=QUANTILES
        )

    pixel_cells(SIZE, GRID, SIZE)  # kept between images of one size
    start = time.thread_time()
    expected = published(activations, mask, points, class_of)
    slow = 1e3 * (time.thread_time() - start)
    counts = ours()
    equal = torch.equal(counts.active, expected.active) and torch.equal(counts.seen, expected.seen)
    fast = best_ms(ours, 5)
    keys = best_ms(lambda: part_keypoints(mask, parts), 3)
    counted = int(counts.seen.any(1).sum())
    print(
        f"{torch.get_num_threads()} threads, {SIZE[0]} x {SIZE[1]}, grid {GRID[0]} x {GRID[1]}, P={len(class_of)}, ",
        end="",
    )
    print(f"{counted} prototypes of classes with parts, {len(points.part)} key points, {len(QUANTILES)} quantiles")
    print(f"cells {fast:.1f} ms, every map upsampled {slow:.0f} ms: {slow / fast:.0f}x; results equal: {equal}")
    print(f"key points, for both: {keys:.1f} ms")


if __name__ == "__main__":
    main()
