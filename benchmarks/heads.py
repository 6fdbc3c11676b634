"""Grouped head (distances, log activation, groups, readout) on 65 x 65 cells against the published per-class loop.

OMP_NUM_THREADS=2 PYTHONPATH=src python benchmarks/heads.py
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from common import best_ms
from torch import Tensor

from segproto.prototypes.bank import PrototypeBank
from segproto.prototypes.grouping import Grouping
from segproto.prototypes.readout import initial_readout


def published(features: Tensor, bank: PrototypeBank, grouping: Grouping, readout: Tensor) -> Tensor:
    """The published arrangement: |x|^2 by a convolution with ones, one gather and product per class."""
    distances = []
    for scale, (a, b) in enumerate(bank.scale_ranges):
        x = features[:, scale * bank.dim : (scale + 1) * bank.dim]
        p = bank.vectors[a:b, :, None, None]
        x2 = F.conv2d(x.square(), torch.ones_like(p))
        distances.append(F.relu(x2 - 2 * F.conv2d(x, p) + p.square().sum(1)))
    d = torch.cat(distances, 1)
    cells = torch.log((d + 1) / (d + 1e-4)).permute(0, 2, 3, 1).flatten(0, 2)
    identity = F.one_hot(bank.class_of, bank.num_classes)
    groups = []
    for c in range(bank.num_classes):
        own = identity[:, c].nonzero().flatten()
        groups.append(torch.exp(F.linear(cells[:, own], grouping.weights[c, :, : len(own)])))
    logits = F.linear(torch.cat(groups, 1), readout)
    return logits.view(features.shape[0], *features.shape[2:], -1)


def vectorised(features: Tensor, bank: PrototypeBank, grouping: Grouping, readout: Tensor) -> Tensor:
    return F.conv2d(grouping(bank.activations(features)), readout[:, :, None, None])


@torch.inference_mode()
def main() -> None:
    torch.manual_seed(0)
    print(
        f"{torch.get_num_threads()} threads, torch {torch.__version__}, B=1, D=64, S=4, M=3, G=3, 65x65 cells, float32"
    )
    for num_classes, limit in ((2, None), (19, 8.0), (150, 95.0)):
        bank = PrototypeBank.regular(num_classes, 3, 4, 64)
        grouping = Grouping(bank.class_of, num_classes, 3)
        readout = initial_readout(grouping.class_of_group, num_classes)
        features = torch.rand(1, 256, 65, 65)
        ours, theirs = (f(features, bank, grouping, readout) for f in (vectorised, published))
        error = ((ours.permute(0, 2, 3, 1) - theirs).abs().max() / theirs.abs().max()).item()
        fast = best_ms(lambda args=(features, bank, grouping, readout): vectorised(*args), 20)
        slow = best_ms(lambda args=(features, bank, grouping, readout): published(*args), 5)
        goal = "" if limit is None else f" (goal {limit:g} ms)"
        print(
            f"C={num_classes:3d} P={bank.num_prototypes:4d}: {fast:6.2f} ms{goal}, published loop {slow:6.2f} ms,"
            f" {slow / fast:.1f}x; largest relative difference {error:.1e}"
        )


if __name__ == "__main__":
    main()
