"""The clustering of Zhou et al. 2022 as plain float64 loops over classes, pixels and prototypes."""

from __future__ import annotations

import math

import torch
from torch import Tensor


def sinkhorn(own: Tensor, epsilon: float = 0.05, iterations: int = 3) -> Tensor:
    """(n, K) similarities of one class to Q (n, K)."""
    n, k = own.shape
    s = own.double().tolist()
    top = max(max(row) for row in s)
    q = [[math.exp((x - top) / epsilon) for x in row] for row in s]
    for _ in range(iterations):
        for j in range(k):
            total = sum(q[i][j] for i in range(n))
            for i in range(n):
                q[i][j] /= total * k
        for i in range(n):
            total = sum(q[i])
            for j in range(k):
                q[i][j] /= total * n
    return torch.tensor(q, dtype=torch.float64) * n


def cluster(e, similarities, labels, predictions, num_classes, few="balance", epsilon=0.05):
    """targets (N,), sums (C, K, D), counts (C, K), Q (N, K)."""
    k = similarities.shape[1] // num_classes
    targets = torch.full((len(e),), -1)
    sums = torch.zeros(num_classes, k, e.shape[1], dtype=torch.float64)
    counts = torch.zeros(num_classes, k, dtype=torch.float64)
    q = torch.zeros(len(e), k, dtype=torch.float64)
    for c in range(num_classes):
        mine = [i for i in range(len(e)) if labels[i] == c]
        if not mine:
            continue
        own = similarities[mine][:, c * k : (c + 1) * k].double()
        if few == "nearest" and len(mine) < k:
            q[mine] = (own / epsilon).softmax(1)
        else:
            q[mine] = sinkhorn(own, epsilon)
        for i in mine:
            a = int(q[i].argmax())
            targets[i] = c * k + a
            if predictions[i] == c:
                sums[c, a] += e[i].double()
                counts[c, a] += 1
    return targets, sums, counts, q


def update(prototypes, sums, counts, momentum):
    out = prototypes.double().clone()
    for c in range(out.shape[0]):
        for k in range(out.shape[1]):
            if counts[c, k] > 0:
                p = out[c, k] / out[c, k].norm()
                p = momentum * p + (1 - momentum) * sums[c, k] / sums[c, k].norm()
                out[c, k] = p / p.norm()
    return out


def infonce(similarities, targets, temperature):
    terms = []
    for i, t in enumerate(targets.tolist()):
        if t >= 0:
            row = [math.exp(float(x) / temperature) for x in similarities[i]]
            terms.append(-math.log(row[t] / sum(row)))
    return sum(terms) / max(len(terms), 1)
