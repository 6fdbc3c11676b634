"""What projection and pruning add to the forward pass of one image, against the published loops over pixels.

OMP_NUM_THREADS=2 PYTHONPATH=src python benchmarks/projection.py
"""

from __future__ import annotations

import numpy as np
import torch
from common import best_ms
from torch import Tensor

from segproto.prototypes.bank import PrototypeBank
from segproto.prototypes.labels import resize_labels
from segproto.prototypes.membership import any_pixel, nearest_label
from segproto.prototypes.nearest import RunningNearest, RunningTopK

HEIGHT, WIDTH, GRID, CLASSES = 1024, 2048, (129, 257), 19


def published_any_pixel(labels: Tensor) -> np.ndarray:
    """The published class map: one Python step per pixel."""
    out = np.zeros((CLASSES, *GRID), dtype=bool)
    patch_height, patch_width = HEIGHT / GRID[0], WIDTH / GRID[1]
    for y in range(labels.shape[0]):
        for x in range(labels.shape[1]):
            label = labels[y, x].item()
            if label != 255:
                out[label, int(y / patch_height), int(x / patch_width)] = True
    return out


def published_top(distances: Tensor, grid_labels: Tensor, labels: Tensor, class_of: Tensor) -> list[tuple[float, int]]:
    """The published pruning step: per prototype a full-map minimum and a patch label."""
    masked, nearest = distances + 1e7 * (grid_labels == 255), []
    for p in range(len(distances)):
        index = int(masked[p].argmin())
        i, j = divmod(index, GRID[1])
        box = labels[
            i * HEIGHT // GRID[0] : (i + 1) * HEIGHT // GRID[0], j * WIDTH // GRID[1] : (j + 1) * WIDTH // GRID[1]
        ]
        own = int(class_of[p])
        values, counts = box[box != 255].unique(return_counts=True)
        nearest.append((masked[p].min().item(), own if own in values.tolist() else int(values[counts.argmax()])))
    return nearest


@torch.inference_mode()
def main() -> None:
    torch.manual_seed(0)
    bank = PrototypeBank.regular(CLASSES, 3, 4, 64)
    features = torch.rand(256, *GRID)
    labels = torch.randint(0, CLASSES, (16, 32)).repeat_interleave(64, 0).repeat_interleave(64, 1)
    labels[:100] = 255
    distances = bank.distances(features[None])[0]
    print(f"{torch.get_num_threads()} threads, torch {torch.__version__}, {HEIGHT}x{WIDTH}, P={bank.num_prototypes}")

    rows = 64  # the published loop is timed on a strip
    strip = best_ms(lambda: published_any_pixel(labels[:rows]), 1) * HEIGHT / rows
    fast = best_ms(lambda: any_pixel(labels, GRID, CLASSES))
    assert np.array_equal(any_pixel(labels, GRID, CLASSES).numpy(), published_any_pixel(labels))
    print(f"any-pixel membership: {fast:.1f} ms, published loop {strip:.0f} ms, {strip / fast:.0f}x; equal")
    print(f"nearest-label membership: {best_ms(lambda: nearest_label(labels, GRID, CLASSES)):.1f} ms")

    allowed = nearest_label(labels, GRID, CLASSES)
    running = RunningNearest(bank.class_of, bank.scale_of, 4, 64)
    print(f"running nearest: {best_ms(lambda: running.update(distances, allowed, features, 0)):.1f} ms")
    print(f"(distances themselves: {best_ms(lambda: bank.distances(features[None])):.1f} ms)")

    grid_labels = resize_labels(labels, GRID)
    top = RunningTopK(bank.class_of)
    fast = best_ms(lambda: top.update(distances, grid_labels, labels, 0))
    slow = best_ms(lambda: published_top(distances, grid_labels, labels, bank.class_of), 2)
    once = RunningTopK(bank.class_of, 1)
    once.update(distances, grid_labels, labels, 0)
    expected = published_top(distances, grid_labels, labels, bank.class_of)
    assert [(d, c) for d, c in zip(once.distance[:, 0].tolist(), once.label[:, 0].tolist(), strict=True)] == expected
    print(f"running top-k: {fast:.1f} ms, published loop {slow:.1f} ms, {slow / fast:.1f}x; equal")


if __name__ == "__main__":
    main()
