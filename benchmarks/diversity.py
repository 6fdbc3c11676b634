"""Diversity loss, forward and backward, against the published loop over images, classes, scales and pairs.

OMP_NUM_THREADS=2 PYTHONPATH=src python benchmarks/diversity.py
"""

from __future__ import annotations

from itertools import combinations

import torch
from common import best_ms
from torch import Tensor

from segproto.prototypes.diversity import DiversityLoss


def published(distances: Tensor, labels: Tensor, class_of: Tensor, scale_of: Tensor) -> Tensor:
    """One masked select per prototype, one term per pair."""
    terms = []
    for image, label in zip(distances, labels, strict=True):
        for c in label.unique().tolist():
            inside = label == c
            for s in scale_of.unique().tolist():
                own = ((class_of == c) & (scale_of == s)).nonzero().flatten().tolist()
                log_p = [torch.log_softmax(image[p].masked_select(inside), 0) for p in own]
                for a, b in combinations(log_p, 2):
                    terms.append(torch.exp(-((a.exp() - b.exp()) * (a - b)).sum() / 2))
    return torch.stack(terms).mean()


def labels_of(batch: int, num_classes: int, present: int, size: int = 65) -> Tensor:
    coarse = torch.randint(0, num_classes, (present,))[torch.randint(0, present, (batch, 8, 8))]
    return coarse.repeat_interleave(9, 1).repeat_interleave(9, 2)[:, :size, :size].contiguous()


def main() -> None:
    torch.manual_seed(0)
    print(f"{torch.get_num_threads()} threads, torch {torch.__version__}, 65x65 cells, S=4, M=3, forward and backward")
    for name, num_classes, present, batch in (("VOC", 21, 3, 2), ("Cityscapes", 19, 14, 2), ("ADE20K", 150, 12, 2)):
        class_of = torch.arange(num_classes).repeat_interleave(3).repeat(4)
        scale_of = torch.arange(4).repeat_interleave(num_classes * 3)
        loss, labels = DiversityLoss(class_of, scale_of), labels_of(batch, num_classes, present)
        distances = (torch.rand(batch, len(class_of), 65, 65) * 20).requires_grad_()

        def ours() -> Tensor:
            distances.grad = None  # noqa: B023 - called at once
            value: Tensor = loss(distances, labels)  # noqa: B023
            value.backward()  # type: ignore[no-untyped-call]
            return value

        def theirs() -> Tensor:
            distances.grad = None  # noqa: B023
            value = published(distances, labels, class_of, scale_of)  # noqa: B023
            value.backward()  # type: ignore[no-untyped-call]
            return value

        difference = abs(ours().item() - theirs().item())
        fast, slow = best_ms(ours, 10), best_ms(theirs, 2)
        print(f"{name:10s}: {fast:6.2f} ms, published {slow:7.1f} ms, {slow / fast:.0f}x; differs by {difference:.0e}")


if __name__ == "__main__":
    main()
