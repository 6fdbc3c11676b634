"""A head that looks up labelled training patches (Balazevic et al., NeurIPS 2023): its evidence is those patches."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, Literal, cast

import torch
from torch import Tensor

from segproto.errors import ConfigError
from segproto.machine import available_bytes
from segproto.model.head import Contributions, Head, HeadDescription
from segproto.prototypes.approximate import ApproximateIndex
from segproto.prototypes.bank import Bank
from segproto.prototypes.retrieval import Neighbours, class_votes, embed_cells, nearest_of, nearest_patches, vote_shares

Search = Literal["exact", "faiss"]


class MemoryBank(Bank):
    """P training patches: unit features and the class frequencies of their pixels. Nothing of it is learned.

    Args:
        vectors: (P, D) unit vectors; kept as they come (16 bits on disk).
        frequencies: (P, C), rows summing to 1.
        mean: (D,) subtracted from features first.
        removed: (R, D) orthonormal directions taken out of features.
        blocks: parts of the channels that are normalised, see :func:`segproto.prototypes.retrieval.embed_cells`.
    """

    compares = "cosine"
    frequencies: Tensor
    mean: Tensor
    removed: Tensor

    def __init__(self, vectors: Tensor, frequencies: Tensor, mean: Tensor, removed: Tensor, blocks: int) -> None:
        super().__init__()
        if vectors.ndim != 2 or frequencies.shape[0] != vectors.shape[0]:
            raise ValueError(f"expected (P, D) and (P, C), got {tuple(vectors.shape)}, {tuple(frequencies.shape)}")
        self.num_classes, self.num_scales, self.blocks = frequencies.shape[1], 1, blocks
        self.register_buffer("vectors", vectors)
        self.register_buffer("frequencies", frequencies)
        self.register_buffer("mean", mean)
        self.register_buffer("removed", removed)

    @property
    def class_of(self) -> Tensor:  # type: ignore[override]
        """(P,) int64, the most frequent class of each patch."""
        return self.frequencies.max(1).indices

    @property
    def scale_of(self) -> Tensor:  # type: ignore[override]
        return torch.zeros(len(self.vectors), dtype=torch.int64, device=self.vectors.device)

    @property
    def num_prototypes(self) -> int:
        return len(self.vectors)

    def embed(self, cells: Tensor) -> Tensor:
        """Cell features (N, D) to unit vectors (N, D), float32."""
        return embed_cells(cells, self.blocks, self.mean, self.removed)

    def embeds_as(self, other: MemoryBank) -> bool:
        """Whether vectors of the two compare."""
        equal = torch.equal(self.mean, other.mean) and torch.equal(self.removed, other.removed)
        return equal and self.blocks == other.blocks

    def activations(self, features: Tensor) -> Tensor:
        """Features (B, D, h, w) to cosines (B, P, h, w)."""
        cosines = self.embed(cells_of(features)) @ self.vectors.float().T
        return cosines.view(len(features), *features.shape[-2:], -1).permute(0, 3, 1, 2)

    def select(self, keep: Tensor) -> MemoryBank:
        """A memory of some of its patches (indices)."""
        return MemoryBank(self.vectors[keep], self.frequencies[keep], self.mean, self.removed, self.blocks)


class MemoryHead(Head):
    """A cell's score of class c is ``sum_i w_i y_ic`` over its k nearest patches, ``w = softmax(cosine / T)``.

    Scores are between 0 and 1 and add up to 1 over classes. The shares ``w_i y_ic`` are the explanation: they add up
    to the score exactly. With ``balance`` a patch's labels are weighed first, see
    :func:`segproto.prototypes.retrieval.class_votes`.

    Args:
        bank: the memory.
        neighbours: k.
        temperature: T.
        balance: of the labels of mixed patches; 0 = as they are.
        search: ``exact``, or approximately by ``faiss`` (an extra).
    """

    kind = "memory"
    decides = "sum"
    relation = "equal"
    no_graph = "which of several equally near patches votes hangs on the last digit, so a graph would answer otherwise"
    remembers = True
    bank: MemoryBank

    def __init__(
        self,
        bank: MemoryBank,
        neighbours: int = 30,
        temperature: float = 0.07,
        balance: float = 0.0,
        search: Search = "exact",
    ) -> None:
        super().__init__()
        self.bank = bank
        self.num_classes = bank.num_classes
        self.neighbours, self.temperature, self.balance = neighbours, temperature, balance
        self.search: Search = search
        self.index: ApproximateIndex | None = None

    def __getstate__(self) -> dict[str, Any]:
        """A copy builds its own index when it needs one."""
        return {**self.__dict__, "index": None}

    def with_bank(self, bank: MemoryBank) -> MemoryHead:
        """A head that looks patches of another memory up in the same way."""
        return MemoryHead(bank, self.neighbours, self.temperature, self.balance, self.search)

    def forward(self, features: Tensor) -> Tensor:
        return self.votes(self.look_up(cells_of(features)), features)

    def votes(self, neighbours: Neighbours, features: Tensor) -> Tensor:
        """Scores (B, C, h, w) from the neighbours of each cell of features (B, D, h, w)."""
        class_weights, sums = class_votes(self.bank.frequencies, self.balance)
        weights = vote_shares(neighbours.similarity, self.temperature) / sums[neighbours.patch]
        # embedding_bag sums the k label rows of each cell without making them (N, k, C)
        scores = torch.nn.functional.embedding_bag(
            neighbours.patch, self.bank.frequencies.float(), mode="sum", per_sample_weights=weights
        )
        return (scores * class_weights).view(len(features), *features.shape[-2:], -1).permute(0, 3, 1, 2)

    def probabilities(self, logits: Tensor, dim: int = 1) -> Tensor:
        return logits.float()  # shares of the neighbours' votes: a softmax would make them all alike

    def activation(self, features: Tensor, prototype: int) -> Tensor:
        cosines = self.bank.embed(cells_of(features)) @ self.bank.vectors[prototype].float()
        return cosines.view(len(features), *features.shape[-2:])

    def blocks(self) -> int:
        return self.bank.blocks

    def look_up(self, cells: Tensor) -> Neighbours:
        """The nearest patches of cell features (N, D).

        Raises:
            ConfigError: they are searched by faiss, which is not installed.
        """
        queries, keys = self.bank.embed(cells), self.bank.vectors
        k = min(self.neighbours, len(keys))
        if self.search == "exact":
            return nearest_patches(queries, keys, k)
        if self.index is None or self.index.keys is not keys:
            self.index = ApproximateIndex(keys)
        return self.index.nearest(queries, k)

    def beside(self, other: Head, kept: Sequence[int] | None) -> Callable[[Tensor], Sequence[Tensor]]:
        """One search for both: what the other found is searched again only where a patch of it is gone."""
        if not other.remembers:
            return super().beside(other, kept)
        other = cast(MemoryHead, other)
        was, now = other.bank.vectors, self.bank.vectors
        old = torch.arange(len(was), device=was.device) if kept is None else torch.tensor(kept, device=was.device)
        alike = self.neighbours == other.neighbours and self.search == other.search == "exact"
        if not (alike and self.bank.embeds_as(other.bank) and torch.equal(now[: len(old)], was[old])):
            return super().beside(other, kept)
        place = torch.full((len(was),), -1, device=was.device)
        place[old] = torch.arange(len(old), device=was.device)

        def both(features: Tensor) -> Sequence[Tensor]:
            cells = cells_of(features)
            before = other.look_up(cells)
            after = Neighbours(before.similarity.clone(), place[before.patch])
            lost = (after.patch < 0).any(1)
            if len(now) > len(old):
                count = min(self.neighbours, len(now) - len(old))
                fresh = nearest_patches(self.bank.embed(cells), now[len(old) :], count)
                after = nearest_of(after, Neighbours(fresh.similarity, fresh.patch + len(old)), self.neighbours)
            if bool(lost.all()):  # always so where fewer patches are left than neighbours were found
                after = self.look_up(cells)
            elif bool(lost.any()):
                again = self.look_up(cells[lost])
                after.similarity[lost], after.patch[lost] = again.similarity, again.patch
            return other.votes(before, features), self.votes(after, features)

        return both

    def read_familiarity(self, features: Tensor) -> tuple[Tensor, Tensor]:
        nearest = nearest_patches(self.bank.embed(cells_of(features)), self.bank.vectors, 1).similarity
        return self(features), nearest.view(len(features), 1, *features.shape[-2:])

    def contributions(self, features: Tensor, classes: Tensor) -> Contributions:
        """The share ``w_i y_ic`` of each of the k patches; all others have none, and nothing is left over."""
        neighbours = self.look_up(features)
        class_weights, sums = class_votes(self.bank.frequencies, self.balance)
        own = self.bank.frequencies.float()[neighbours.patch, classes[:, None]] * class_weights[classes][:, None]
        shares = vote_shares(neighbours.similarity, self.temperature) * own / sums[neighbours.patch]
        out = shares.new_zeros(len(features), self.bank.num_prototypes).scatter_add(1, neighbours.patch, shares)
        return Contributions(out, None, shares.new_zeros(len(features)))

    def select(self, keep: Tensor, *, into: Tensor | None = None, renormalise: bool = False) -> list[int]:
        """Forgets all other patches; a lookup has no weights to hand on, so ``into`` and ``renormalise`` do nothing."""
        if not len(keep):
            raise ConfigError("a memory without a patch can look nothing up; keep at least one")
        self.bank = self.bank.select(keep)
        kept: list[int] = keep.tolist()
        return kept

    def describe(self) -> HeadDescription:
        return {
            "kind": self.kind,
            "patches": list(self.bank.vectors.shape),
            "classes": self.num_classes,
            "removed": len(self.bank.removed),
            "blocks": self.bank.blocks,
            "neighbours": self.neighbours,
            "temperature": self.temperature,
            "balance": self.balance,
            "search": self.search,
        }

    @classmethod
    def from_description(cls, value: HeadDescription) -> MemoryHead:
        count, dim = value["patches"]
        fitting = patches_that_fit(bytes_per_patch(dim, value["classes"]))
        if fitting is not None and count > fitting:
            raise ConfigError(
                f"this memory has {count} patches of {dim} numbers; {fitting} fit the memory that is free: close other "
                "programs, or make a smaller one (segproto train ... stages.remember.keep=N)"
            )
        half = torch.float16
        bank = MemoryBank(
            torch.zeros(count, dim, dtype=half),
            torch.zeros(count, value["classes"], dtype=half),
            torch.zeros(dim),
            torch.zeros(value["removed"], dim),
            value["blocks"],
        )
        balance, search = value.get("balance", 0.0), value.get("search", "exact")  # older models have neither
        return cls(bank, value["neighbours"], value["temperature"], balance, search)


def bytes_per_patch(dim: int, num_classes: int) -> int:
    """What a remembered patch takes: its features and the frequencies of its classes, in 16 bits."""
    return 2 * (dim + num_classes)


def patches_that_fit(each: int) -> int | None:
    """How many patches of so many bytes half of the free memory holds (the rest is for images and the encoder).

    Returns:
        None where the system does not say what is free.
    """
    free = available_bytes()
    return None if free is None else free // 2 // each


def empty_memory(dim: int, num_classes: int) -> MemoryBank:
    """A memory of one patch that knows nothing: what a model has before it remembers."""
    even = torch.full((1, num_classes), 1 / num_classes, dtype=torch.float16)
    return MemoryBank(torch.zeros(1, dim, dtype=torch.float16), even, torch.zeros(dim), torch.zeros(0, dim), 0)


def cells_of(features: Tensor) -> Tensor:
    """Features (B, D, h, w) to cells (B*h*w, D), in order image, row, column."""
    return features.permute(0, 2, 3, 1).flatten(0, 2)
