"""The head whose classes score by their nearest prototype (Zhou et al. 2022)."""

from __future__ import annotations

from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from segproto.model.head import Contributions, Head, HeadDescription, Reading
from segproto.prototypes.cosine_bank import CosineBank
from segproto.prototypes.embedding import ProjectionNorm, class_scores, normalise_projection
from segproto.prototypes.numerics import exact_float32


class NearestHead(Head):
    """Each class scores by its nearest prototype, none of which is ever moved by a gradient (Zhou et al. 2022).

    Args:
        bank: the prototypes.
        projection_norm: of the features before all else, see :func:`normalise_projection`.
        feature_norm: a learned ``layernorm`` over the channels of each cell, as published, or ``none``.
        score_norm: a learned ``layernorm`` over the class scores of each cell, as published (it adds 2C learned numbers
            and forgets how near the nearest is), or ``scale``: scores divided by ``temperature``, nothing learned.
        temperature: of ``scale``.

    Raises:
        ValueError: ``layernorm`` over fewer than three class scores, which leaves their order alone.
    """

    kind = "nearest"
    decides = "nearest"
    relation = "near"
    bank: CosineBank

    def __init__(
        self,
        bank: CosineBank,
        projection_norm: ProjectionNorm = "none",
        feature_norm: Literal["layernorm", "none"] = "layernorm",
        score_norm: Literal["layernorm", "scale"] = "layernorm",
        temperature: float = 0.1,
    ) -> None:
        super().__init__()
        if score_norm == "layernorm" and bank.num_classes < 3:
            raise ValueError(f"score_norm layernorm needs 3 classes or more, here are {bank.num_classes}; use scale")
        self.bank = bank
        self.num_classes = bank.num_classes
        self.projection_norm: ProjectionNorm = projection_norm
        self.feature_norm = nn.LayerNorm(bank.dim) if feature_norm == "layernorm" else None
        self.score_norm = nn.LayerNorm(bank.num_classes) if score_norm == "layernorm" else None
        self.temperature = temperature

    def forward(self, features: Tensor) -> Tensor:
        return self.grid_logits(self.bank.similarities(self.embed(features)), features)

    def cell_features(self, features: Tensor) -> Tensor:
        """After the projection norm, the one step in which a cell may depend on others (``width_legacy``)."""
        return normalise_projection(features, self.projection_norm)

    def embed(self, features: Tensor) -> Tensor:
        """Features (B, D, h, w) to unit embeddings (B*h*w, D), float32, in order image, row, column."""
        return self.embed_cells(self.cell_features(features).permute(0, 2, 3, 1).flatten(0, 2))

    def embed_cells(self, cells: Tensor) -> Tensor:
        """Cell features (N, D) to unit embeddings (N, D), float32."""
        with exact_float32(cells.device):
            x = cells.float()
            return F.normalize(x if self.feature_norm is None else self.feature_norm(x), dim=1)

    def grid_logits(self, similarities: Tensor, features: Tensor) -> Tensor:
        """Similarities (B*h*w, P) of the cells of ``features`` (B, D, h, w) to logits (B, C, h, w)."""
        with exact_float32(features.device):
            scores = class_scores(similarities, self.num_classes)[0]
            logits = scores / self.temperature if self.score_norm is None else self.score_norm(scores)
        return logits.view(len(features), *features.shape[-2:], -1).permute(0, 3, 1, 2)

    def compared(self, features: Tensor) -> Tensor:
        """Features as of :meth:`cell_features` (B, D, h, w) to unit embeddings (B, D, h, w)."""
        cells = self.embed_cells(features.permute(0, 2, 3, 1).flatten(0, 2))
        return cells.view(len(features), *features.shape[-2:], -1).permute(0, 3, 1, 2)

    def activations(self, features: Tensor) -> Tensor:
        """Features as of :meth:`cell_features` (B, D, h, w) to cosines (B, P, h, w)."""
        return self.bank.activations(self.compared(features))

    def distances(self, features: Tensor) -> Tensor:
        return self.bank.distances(self.compared(features))

    def read(self, features: Tensor) -> Reading:
        similarities = self.bank.similarities(self.embed(features))
        activations = similarities.view(len(features), *features.shape[-2:], -1).permute(0, 3, 1, 2)
        return Reading(self.grid_logits(similarities, features), activations)

    def from_activations(self, activations: Tensor) -> Tensor:
        return self.grid_logits(activations.permute(0, 2, 3, 1).flatten(0, 2), activations)

    def familiarity(self, reading: Reading) -> Tensor:
        """The largest cosine to any prototype, raw: a score norm over classes would forget how near the nearest is."""
        assert reading.activations is not None
        return reading.activations.amax(1, keepdim=True)

    def contributions(self, features: Tensor, classes: Tensor) -> Contributions:
        """The class's nearest prototype has all of it; the score norm shows as a factor and an offset."""
        similarities = self.bank.similarities(self.embed_cells(features))
        scores, winners = class_scores(similarities, self.num_classes)
        rows = classes[:, None]
        own, offset = scores.gather(1, rows), scores.new_zeros(len(scores))
        if self.score_norm is None:
            own = own / self.temperature
        else:
            variance, mean = torch.var_mean(scores, 1, correction=0)
            factor = self.score_norm.weight[classes] / (variance + self.score_norm.eps).sqrt()
            own = own * factor[:, None]
            offset = self.score_norm.bias[classes] - factor * mean
        winning = rows * self.bank.per_class + winners.gather(1, rows)
        return Contributions(torch.zeros_like(similarities).scatter(1, winning, own), None, offset)

    @torch.no_grad()
    def select(self, keep: Tensor, *, into: Tensor | None = None, renormalise: bool = False) -> list[int]:
        """As :meth:`Head.select`; the bank stays rectangular: a class with fewer than others repeats its first one.

        A class scores by its nearest prototype, so a repetition changes no score, and merging moves no weight. Each
        class must keep one.
        """
        old, class_of = self.bank.vectors, self.bank.class_of
        rows = [keep[class_of[keep] == c].tolist() for c in range(self.num_classes)]
        width = max(map(len, rows))
        kept = [p for row in rows for p in row + row[:1] * (width - len(row))]
        vectors = old.flatten(0, 1)[torch.tensor(kept, device=old.device)]
        self.bank = CosineBank(vectors.view(self.num_classes, width, -1)).to(old.device)
        return kept

    def describe(self) -> HeadDescription:
        return {
            "kind": self.kind,
            "shape": list(self.bank.vectors.shape),
            "projection_norm": self.projection_norm,
            "feature_norm": "none" if self.feature_norm is None else "layernorm",
            "score_norm": "scale" if self.score_norm is None else "layernorm",
            "temperature": self.temperature,
        }

    @classmethod
    def from_description(cls, value: HeadDescription) -> NearestHead:
        options = {key: value[key] for key in ("projection_norm", "feature_norm", "score_norm", "temperature")}
        return cls(CosineBank(torch.zeros(value["shape"])), **options)
