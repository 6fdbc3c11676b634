"""Heads of one direction a category (PriMaPs-EM): logits are gains times dot products, without a bias."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from segproto.errors import ConfigError
from segproto.model.head import Contributions, Head, HeadDescription
from segproto.prototypes.bank import Bank
from segproto.prototypes.numerics import without_autocast


class DirectionBank(Bank):
    """K directions, one per category, each with a gain.

    Args:
        directions: (K, C), any length but 0.
        gains: (K,); None = 1.
    """

    compares = "cosine"

    def __init__(self, directions: Tensor, gains: Tensor | None = None) -> None:
        super().__init__()
        count = len(directions)
        self.num_classes, self.num_scales = count, 1
        self.directions = nn.Parameter(directions.detach().float().clone())
        self.gains = nn.Parameter(torch.ones(count) if gains is None else gains.detach().float().clone())
        self.register_buffer("class_of", torch.arange(count), persistent=False)
        self.register_buffer("scale_of", torch.zeros(count, dtype=torch.int64), persistent=False)

    @property
    def vectors(self) -> Tensor:  # type: ignore[override]  # worked out, where other banks store it
        """(K, C) gain times unit direction: the weight of the 1x1 convolution that the bank is."""
        return self.gains[:, None] * F.normalize(self.directions, dim=1)

    def activations(self, features: Tensor) -> Tensor:
        """Features (B, C, h, w) to cosines (B, K, h, w), float32."""
        return project(F.normalize(features.float(), dim=1), F.normalize(self.directions, dim=1))

    def logits(self, features: Tensor) -> Tensor:
        """Features (B, C, h, w), not normalised, to logits (B, K, h, w), float32."""
        return project(features, self.vectors)


def project(features: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    """A 1x1 convolution (K, C) in float32, whatever the autocast."""
    with without_autocast(features.device):
        return F.conv2d(features.float(), weight.float()[:, :, None, None], bias)


class DirectionHead(Head):
    """Categories by the largest product of a feature with a direction and its gain (Hahn et al. 2024).

    Args:
        bank: the directions.
    """

    kind = "directions"
    relation = "near"
    bank: DirectionBank

    def __init__(self, bank: DirectionBank) -> None:
        super().__init__()
        self.bank = bank
        self.num_classes = bank.num_classes

    def forward(self, features: Tensor) -> Tensor:
        return self.bank.logits(features)

    def contributions(self, features: Tensor, classes: Tensor) -> Contributions:
        """A category's direction has all of its logit."""
        own = (features.float() * self.bank.vectors[classes]).sum(1)
        shares = features.new_zeros(len(features), self.num_classes, dtype=torch.float32)
        return Contributions(shares.scatter(1, classes[:, None], own[:, None]), None, torch.zeros_like(own))

    def select(self, keep: Tensor, *, into: Tensor | None = None, renormalise: bool = False) -> list[int]:
        """Raises:
        ConfigError: always.
        """
        raise ConfigError(f"a {self.kind} head has one prototype per class and cannot do without any")

    def describe(self) -> HeadDescription:
        return {"kind": self.kind, "shape": list(self.bank.directions.shape)}

    @classmethod
    def from_description(cls, value: HeadDescription) -> Head:
        return cls(DirectionBank(torch.zeros(value["shape"])))


class TeacherHead(DirectionHead):
    """While EM runs: the teacher is the head; beside it its student and a linear probe, which do not predict.

    Args:
        bank: the teacher's directions.
        num_probed: classes of the linear probe (it learns from labels, for a figure only); 0 = no probe.

    Attributes:
        student: directions that the gradient moves.
        probe_weight: (C', C) of the probe, None without one.
        probe_bias: (C',).
        steps: int64, optimizer steps taken.
    """

    kind = "teacher"
    steps: Tensor

    def __init__(self, bank: DirectionBank, num_probed: int = 0) -> None:
        super().__init__(bank)
        self.student = DirectionBank(bank.directions, bank.gains)
        self.register_buffer("steps", torch.zeros((), dtype=torch.int64))
        self.probe_weight: nn.Parameter | None = None
        self.probe_bias: nn.Parameter | None = None
        if num_probed:
            bound = bank.dim**-0.5
            self.probe_weight = nn.Parameter(torch.empty(num_probed, bank.dim).uniform_(-bound, bound))
            self.probe_bias = nn.Parameter(torch.empty(num_probed).uniform_(-bound, bound))

    def probe(self, features: Tensor) -> Tensor:
        """Features (B, C, h, w) to the probe's logits (B, C', h, w)."""
        assert self.probe_weight is not None
        return project(features, self.probe_weight, self.probe_bias)

    @torch.no_grad()
    def update_teacher(self, decay: float) -> None:
        """Teacher := decay * teacher + (1 - decay) * student, gains and directions apart (as released)."""
        for mine, theirs in ((self.bank.directions, self.student.directions), (self.bank.gains, self.student.gains)):
            mine.lerp_(theirs, 1 - decay)

    def describe(self) -> HeadDescription:
        probed = 0 if self.probe_weight is None else len(self.probe_weight)
        return {"kind": self.kind, "shape": list(self.bank.directions.shape), "num_probed": probed}

    @classmethod
    def from_description(cls, value: HeadDescription) -> Head:
        return cls(DirectionBank(torch.zeros(value["shape"])), value["num_probed"])
