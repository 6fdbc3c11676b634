"""Coresets: some of the remembered patches, real ones, that answer nearly as well as all of them."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from segproto.prototypes.left_out import queries_of
from segproto.prototypes.retrieval import class_votes, nearest_patches, vote_shares

ROUNDS = 10  # in which patches are added where the others err
ROWS = 2048  # cells whose candidates are weighed at once
CANDIDATES = 60  # nearest patches of a wrongly answered one that may be added


def subset_by_errors(
    keys: Tensor,
    frequencies: Tensor,
    image: Tensor,
    count: int,
    k: int,
    temperature: float,
    balance: float = 0.0,
    seed: int = 0,
) -> Tensor:
    """A coreset: half of it is spread (:func:`spread_subset`), half is added in rounds where the others err.

    After the condensed nearest neighbour rule (P. Hart, IEEE Trans. Information Theory 14, 1968), with shares in the
    place of right and wrong, and no image answered by its own patches. Of a large memory a random part is asked about.

    Args:
        keys: (M, D) unit vectors.
        frequencies: (M, C) of their classes.
        image: (M,) int64, where each is from.
        count: patches to keep.
        k: neighbours of the look-up that it is for.
        temperature: of their votes.
        balance: of their labels, see :func:`segproto.prototypes.retrieval.class_votes`.
        seed: of the draws.

    Returns:
        (n,) int64 indices, ascending; n <= count.
    """
    alone = len(torch.unique(image)) < 2  # nothing else to be answered by
    chosen = spread_subset(keys, frequencies.max(1).indices, count if alone else count - count // 2, seed=seed)
    if alone:
        return chosen
    asked = queries_of(keys, seed)
    queries, truth, own = keys[asked].float(), frequencies[asked].float(), image[asked]
    near = nearest_patches(queries, keys, min(CANDIDATES, len(keys)), (own, image))
    votes = vote_shares(near.similarity, temperature)
    for rounds in range(ROUNDS, 0, -1):  # that are left
        class_weights, sums = class_votes(frequencies[chosen], balance)
        found = nearest_patches(queries, keys[chosen], min(k, len(chosen)), (own, image[chosen]))
        shares = vote_shares(found.similarity, temperature) / sums[found.patch]
        scores = F.embedding_bag(
            found.patch, frequencies[chosen].float(), mode="sum", per_sample_weights=shares.nan_to_num(0)
        )
        right = (scores * class_weights * truth).sum(1)
        gain = gain_of_each(near.patch, votes, frequencies, truth, right)
        gain[chosen] = -torch.inf
        more = min(count, len(keys)) - len(chosen)
        chosen = torch.cat([chosen, gain.topk(more // rounds).indices])
    return chosen.sort().values


def gain_of_each(patch: Tensor, votes: Tensor, frequencies: Tensor, truth: Tensor, right: Tensor) -> Tensor:
    """How much each patch would put right: for all cells near it, its vote times what it says better, where they err.

    Args:
        patch: (Q, n) int64, the nearest patches of each cell.
        votes: (Q, n) of these.
        frequencies: (M, C) of all patches.
        truth: (Q, C) of the cells.
        right: (Q,) the share of their answer that is right.

    Returns:
        (M,): ``sum_q (1 - right_q) votes_qi (y_i . truth_q - right_q)``.
    """
    gain = truth.new_zeros(len(frequencies))
    for rows in torch.split(torch.arange(len(patch), device=patch.device), ROWS):  # (rows, n, C) at once
        agree = (frequencies[patch[rows]].float() * truth[rows, None]).sum(2) - right[rows, None]
        gain.index_add_(0, patch[rows].flatten(), ((1 - right[rows, None]) * votes[rows] * agree).flatten())
    return gain


def spread_subset(keys: Tensor, class_of: Tensor, count: int, rounds: int = 10, seed: int = 0) -> Tensor:
    """A coreset: real patches near the k-means centres of each class, which lose as little as possible of the memory.

    Classes keep a number of patches that grows with the square root of theirs, at least one each, so that rare classes
    are not thinned like common ones.

    Args:
        keys: (M, D) unit vectors.
        class_of: (M,) int64.
        count: patches to keep, at least one per class that is there.
        rounds: of Lloyd's algorithm, on the sphere.
        seed: of the centres it starts from.

    Returns:
        (n,) int64 indices, ascending; n <= count.
    """
    generator = torch.Generator().manual_seed(seed)
    sizes = torch.bincount(class_of)
    quota = shared_quota(sizes, count)
    subsets = []
    for label in sizes.nonzero()[:, 0].tolist():  # once per fit, not per image
        rows = (class_of == label).nonzero()[:, 0]
        subsets.append(rows[medoids(keys[rows].float(), int(quota[label]), rounds, generator)])
    return torch.cat(subsets).sort().values


def shared_quota(sizes: Tensor, count: int) -> Tensor:
    """How many of ``count`` each class gets: by the root of its size, at least 1, never more than it has."""
    present = sizes > 0
    root = sizes.double().sqrt()
    low, high = 0.0, float(count) * 2
    for _ in range(60):  # the scale at which the rounded-down shares use up the count
        middle = (low + high) / 2
        total = int(torch.minimum((root * middle).floor().clamp_min(1) * present, sizes.double()).sum())
        low, high = (middle, high) if total <= count else (low, middle)
    return torch.minimum((root * low).floor().clamp_min(1) * present, sizes.double()).long()


def medoids(keys: Tensor, count: int, rounds: int, generator: torch.Generator) -> Tensor:
    """The rows nearest to the centres of spherical k-means: (n,) indices, n <= count (two centres may share a row)."""
    if count >= len(keys):
        return torch.arange(len(keys), device=keys.device)
    start = torch.randperm(len(keys), generator=generator)[:count].to(keys.device)
    centres = keys[start]
    for _ in range(rounds):
        own = nearest_patches(keys, centres, 1).patch[:, 0]
        sums = torch.zeros_like(centres).index_add_(0, own, keys)
        empty = sums.norm(dim=1) == 0
        centres = torch.where(empty[:, None], centres, F.normalize(sums, dim=1))
    rows: Tensor = torch.unique(nearest_patches(centres, keys, 1).patch[:, 0])
    return rows
