"""How well a memory answers for each of its images from all others: what settings are chosen by, without other data."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from segproto.prototypes.retrieval import class_votes, nearest_patches, vote_shares

COSINES = 400_000_000  # of all queries with all patches: 20,000 patches are asked about all of themselves, in seconds
FEWEST = 1_000  # queries, however many patches there are


def mean_iou_of_cells(scores: Tensor, frequencies: Tensor, weights: Tensor) -> float:
    """Mean IoU over classes of cells that are answered with their best class.

    Args:
        scores: (Q, C).
        frequencies: (Q, C) of the classes in each cell: it is counted in parts.
        weights: (Q,) how much each cell counts.
    """
    counts = torch.zeros(scores.shape[1], scores.shape[1], dtype=torch.float64, device=scores.device)
    counts.index_add_(0, scores.argmax(1), frequencies.double() * weights.double()[:, None])
    right = counts.diag()
    union = counts.sum(0) + counts.sum(1) - right
    return float((right / union.clamp_min(1e-30))[union > 0].mean())


def queries_of(keys: Tensor, seed: int) -> Tensor:
    """Indices, ascending, of the patches (P, D) that a memory is asked about: of a large one a random part."""
    patches = len(keys)
    count = min(patches, max(FEWEST, COSINES // patches))
    generator = torch.Generator().manual_seed(seed)
    return torch.randperm(patches, generator=generator)[:count].sort().values.to(keys.device)


def choose_balance(
    keys: Tensor,
    frequencies: Tensor,
    image: Tensor,
    k: int,
    temperature: float,
    weights: Tensor,
    candidates: Sequence[float] = (0.0, 0.5),
    seed: int = 0,
) -> float:
    """The balance of :func:`segproto.prototypes.retrieval.class_votes` with which patches answer best for other images.

    Each image of the memory is left out once. Of a large memory a random part of the patches asks.

    Args:
        keys: (P, D) unit vectors.
        frequencies: (P, C).
        image: (P,).
        k: neighbours.
        temperature: of their votes.
        weights: (P,) how much each patch counts: one over the odds with which it was drawn.
        candidates: values tried; of equals the first.
        seed: of the part.

    Returns:
        The best; the first candidate where there is one image alone.
    """
    if len(torch.unique(image)) < 2:
        return candidates[0]
    queries = queries_of(keys, seed)
    apart = (image.to(keys.device)[queries], image.to(keys.device))
    found = nearest_patches(keys[queries].float(), keys, min(k, len(keys)), apart)
    labels, shares = frequencies.float(), vote_shares(found.similarity, temperature)

    def measure(balance: float) -> float:
        class_weights, sums = class_votes(frequencies, balance)
        scores = torch.nn.functional.embedding_bag(
            found.patch, labels, mode="sum", per_sample_weights=shares / sums[found.patch]
        )
        return mean_iou_of_cells(scores * class_weights, labels[queries], weights[queries])

    return max(candidates, key=measure)
