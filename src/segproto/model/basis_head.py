"""A plain 1x1 classifier seen in another basis of its features: the same logits, split over parts one can look at."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from segproto.errors import ConfigError
from segproto.model.head import Contributions, Head
from segproto.prototypes.bank import Bank
from segproto.prototypes.factors import codes, two_signs
from segproto.prototypes.numerics import at_least_float32, exact_float32


class BasisBank(Bank):
    """Parts of features: ``f = left(f) + sum_p strength_p(f) atom_p`` with strengths >= 0.

    Subclasses say what the atoms are and how strong each is in a cell; what they cannot put into parts is left over.

    Args:
        weight: (C, D) of the classifier whose features these are.
        kept: numbers of the parts that are shown, ascending; None = all.
        dropped: of those that the network must not see. Parts in neither fire at no training patch; where they do fire,
            what they add is told as what belongs to no prototype.
        classes: that the shown parts speak for; None = each for the one with the largest weight.

    Attributes:
        top: (P,) strength of each part at the training cell where it is strongest.
    """

    compares = "strength"
    weight: nn.Parameter
    top: Tensor

    def __init__(
        self,
        weight: Tensor,
        num_parts: int,
        kept: Sequence[int] | None,
        dropped: Sequence[int],
        classes: Sequence[int] | None,
    ) -> None:
        super().__init__()
        self.num_classes, self.num_scales, self.num_parts = len(weight), 1, num_parts
        self.kept, self.dropped = list(range(num_parts) if kept is None else kept), [*dropped]
        self.classes = None if classes is None else [*classes]
        for numbers in (self.kept, self.dropped):
            if numbers != sorted(set(numbers)) or (numbers and not 0 <= numbers[0] <= numbers[-1] < num_parts):
                raise ValueError(f"parts must ascend within 0..{num_parts - 1}")
        if self.classes is not None and (
            len(self.classes) != len(self.kept) or not all(0 <= c < self.num_classes for c in self.classes)
        ):
            raise ValueError(f"expected a class of 0..{self.num_classes - 1} for each of {len(self.kept)} parts")
        self.weight = nn.Parameter(weight.detach().clone())
        self.register_buffer("top", torch.zeros(len(self.kept)))

    @property
    def silent(self) -> list[int]:
        """Parts that are neither shown nor dropped."""
        return sorted(set(range(self.num_parts)) - {*self.kept, *self.dropped})

    def atoms(self) -> Tensor:
        """(A, D): the direction of every part, dropped ones too."""
        raise NotImplementedError

    def strengths(self, cells: Tensor) -> Tensor:
        """Cell features (N, D) to the strength of every part (N, A), >= 0, dropped ones too."""
        raise NotImplementedError

    def left(self, cells: Tensor, strengths: Tensor) -> Tensor:
        """What of cell features (N, D) is in no part: (N, D), or (D,) where it is the same everywhere."""
        raise NotImplementedError

    def with_parts(self, kept: list[int], dropped: list[int], classes: list[int] | None) -> BasisBank:
        """The same basis with other parts shown and dropped."""
        raise NotImplementedError

    def describe(self) -> dict[str, Any]:
        """Its structure as JSON."""
        raise NotImplementedError

    def shares(self) -> Tensor:
        """(C, A): what a strength of 1 of each part adds to each logit."""
        with exact_float32(self.weight.device):
            return self.weight @ self.atoms().T

    def shown(self, values: Tensor) -> Tensor:
        """Of values (..., A) of all parts those that are shown, (..., P)."""
        return values if len(self.kept) == values.shape[-1] else values[..., self.kept]

    @property
    def vectors(self) -> Tensor:  # type: ignore[override]  # worked out, where other banks store it
        """(P, D) directions."""
        return self.shown(self.atoms().T).T

    @property
    def class_of(self) -> Tensor:  # type: ignore[override]
        """(P,) int64: the class that each part speaks for."""
        if self.classes is None:
            return self.shown(self.shares().detach()).argmax(0)
        return torch.tensor(self.classes, dtype=torch.int64, device=self.weight.device)

    @property
    def scale_of(self) -> Tensor:  # type: ignore[override]
        return torch.zeros(len(self.kept), dtype=torch.int64, device=self.weight.device)

    @property
    def num_prototypes(self) -> int:
        return len(self.kept)

    @property
    def dim(self) -> int:
        return self.weight.shape[1]

    def activations(self, features: Tensor) -> Tensor:
        """Features (B, D, h, w) to strengths (B, P, h, w)."""
        seen = self.shown(self.strengths(features.permute(0, 2, 3, 1).flatten(0, 2)))
        return seen.view(len(features), *features.shape[-2:], -1).permute(0, 3, 1, 2)

    def distances(self, features: Tensor) -> Tensor:
        """(B, P, h, w): squared, how far each part is from being as strong as in its strongest training patch."""
        return (self.top[:, None, None] - self.activations(features)).clamp_min(0).square()

    def select(self, keep: list[int], *, drop: bool) -> BasisBank:
        """A bank that shows some of the parts it shows (places); the others are dropped, or belong to none."""
        kept = [self.kept[index] for index in keep]
        gone = set(self.kept) - set(kept) if drop else set()
        classes = None if self.classes is None else [self.classes[index] for index in keep]
        bank = self.with_parts(kept, sorted({*self.dropped, *gone}), classes).to(self.weight.device)
        bank.top.copy_(self.top[keep])
        return bank


class RotatedBank(BasisBank):
    """An orthonormal basis: ``z = U (f - mean)``; each channel is two parts, ``relu(z)`` and ``relu(-z)``.

    Args:
        weight: (C, D).
        rotation: U (D, D), rows orthonormal.
        mean: (D,) subtracted first.
        kept: see :class:`BasisBank`; 0..D-1 are the positive parts, D..2D-1 the negative ones.
        dropped: likewise.
        classes: likewise.
    """

    rotation: Tensor
    mean: Tensor

    def __init__(
        self,
        weight: Tensor,
        rotation: Tensor,
        mean: Tensor,
        kept: Sequence[int] | None = None,
        dropped: Sequence[int] = (),
        classes: Sequence[int] | None = None,
    ) -> None:
        super().__init__(weight, 2 * len(rotation), kept, dropped, classes)
        self.register_buffer("rotation", rotation)
        self.register_buffer("mean", mean)

    def atoms(self) -> Tensor:
        return torch.cat([self.rotation, -self.rotation])

    def strengths(self, cells: Tensor) -> Tensor:
        with exact_float32(cells.device):
            return two_signs((at_least_float32(cells) - self.mean) @ self.rotation.T)

    def left(self, cells: Tensor, strengths: Tensor) -> Tensor:
        return self.mean

    def with_parts(self, kept: list[int], dropped: list[int], classes: list[int] | None) -> RotatedBank:
        return RotatedBank(self.weight, self.rotation, self.mean, kept, dropped, classes)

    def describe(self) -> dict[str, Any]:
        return {"kind": "rotated"}


class FactorBank(BasisBank):
    """Non-negative factors: ``f = sum_k a_k atom_k + rest``, the rest told as what belongs to no part.

    Args:
        weight: (C, D).
        factors: H (K, D), or (K, 2D) of features in two signs, >= 0, rows of unit length.
        steps: updates that find the strengths.
        kept: see :class:`BasisBank`.
        dropped: likewise.
        classes: likewise.
    """

    factors: Tensor

    def __init__(
        self,
        weight: Tensor,
        factors: Tensor,
        steps: int,
        kept: Sequence[int] | None = None,
        dropped: Sequence[int] = (),
        classes: Sequence[int] | None = None,
    ) -> None:
        super().__init__(weight, len(factors), kept, dropped, classes)
        self.steps, self.signed = steps, factors.shape[1] != weight.shape[1]
        self.register_buffer("factors", factors)

    def atoms(self) -> Tensor:
        if not self.signed:
            return self.factors
        positive, negative = self.factors.chunk(2, 1)
        return positive - negative

    def strengths(self, cells: Tensor) -> Tensor:
        with exact_float32(cells.device):
            return codes(
                two_signs(at_least_float32(cells)) if self.signed else at_least_float32(cells), self.factors, self.steps
            )

    def left(self, cells: Tensor, strengths: Tensor) -> Tensor:
        with exact_float32(cells.device):
            return at_least_float32(cells) - strengths @ self.atoms()

    def with_parts(self, kept: list[int], dropped: list[int], classes: list[int] | None) -> FactorBank:
        return FactorBank(self.weight, self.factors, self.steps, kept, dropped, classes)

    def describe(self) -> dict[str, Any]:
        return {"kind": "factors", "factors": list(self.factors.shape), "steps": self.steps}


class BasisHead(Head):
    """The logits of a plain classifier, bit for bit, as sums over parts of a basis of its features.

    ``W f + b = sum_p strength_p(f) (W atom_p) + W left(f) + b`` with W = ``bank.weight``; the last two terms belong to
    no part. A part that was dropped is as if the network could not see it: its share is taken off every logit.

    Args:
        bank: the parts.
        bias: (C,).
    """

    kind = "basis"
    relation = "strongest"
    bank: BasisBank

    def __init__(self, bank: BasisBank, bias: Tensor) -> None:
        super().__init__()
        self.bank = bank
        self.num_classes = bank.num_classes
        self.bias = nn.Parameter(bias.detach().clone())

    def forward(self, features: Tensor) -> Tensor:
        logits = F.conv2d(features, self.bank.weight[:, :, None, None], self.bias)
        if not self.bank.dropped:
            return logits
        cells, gone = features.permute(0, 2, 3, 1).flatten(0, 2), self.bank.dropped
        with exact_float32(features.device):
            unseen = self.bank.strengths(cells)[:, gone] @ self.bank.shares()[:, gone].T
        return logits - unseen.view(len(features), *features.shape[-2:], -1).permute(0, 3, 1, 2)

    def contributions(self, features: Tensor, classes: Tensor) -> Contributions:
        bank, strengths = self.bank, self.bank.strengths(features)
        with exact_float32(features.device):
            shares = strengths * bank.shares()[classes]
            offset = (bank.left(features, strengths) * bank.weight[classes]).sum(1) + self.bias[classes]
            return Contributions(bank.shown(shares), None, offset + shares[:, bank.silent].sum(1))

    def unit_weights(self) -> Tensor:
        return self.bank.shown(self.bank.shares())

    def select(self, keep: Tensor, *, into: Tensor | None = None, renormalise: bool = False) -> list[int]:
        """Hides the other parts from the network.

        Raises:
            ConfigError: parts of a basis are all different: none is another's copy to be merged with.
        """
        kept: list[int] = keep.tolist()
        if into is not None and len(kept) < self.bank.num_prototypes:
            raise ConfigError("parts of a basis are all different and are not merged; drop some instead")
        self.bank = self.bank.select(kept, drop=True)
        return kept

    def show(self, keep: Tensor, classes: Tensor) -> None:
        """Shows the parts of these places alone; what the others add belongs to no prototype from now on.

        Args:
            keep: int64 (P',), ascending.
            classes: int64 (P',) that they speak for.
        """
        self.bank.classes = None
        self.bank = self.bank.select(keep.tolist(), drop=False)
        self.bank.classes = classes.tolist()

    def describe(self) -> dict[str, Any]:
        bank = self.bank
        parts = {"kept": bank.kept, "dropped": bank.dropped}
        classes = {} if bank.classes is None else {"classes": bank.classes}
        return {"kind": self.kind, "shape": list(bank.weight.shape), **parts, **classes, "basis": bank.describe()}

    @classmethod
    def from_description(cls, value: dict[str, Any]) -> BasisHead:
        num_classes, dim = value["shape"]
        basis, weight = value["basis"], torch.zeros(num_classes, dim)
        kept, dropped = ([int(part) for part in value[key]] for key in ("kept", "dropped"))
        classes = [int(c) for c in value["classes"]] if "classes" in value else None
        bank: BasisBank
        if basis["kind"] == "rotated":
            bank = RotatedBank(weight, torch.zeros(dim, dim), torch.zeros(dim), kept, dropped, classes)
        elif basis["kind"] == "factors":
            count, width = basis["factors"]
            if width not in (dim, 2 * dim):
                raise ValueError(f"factors of {width} numbers for features of {dim}")
            bank = FactorBank(weight, torch.zeros(count, width), basis["steps"], kept, dropped, classes)
        else:
            raise ValueError(f"basis {basis['kind']!r} is unknown")
        return cls(bank, torch.zeros(num_classes))
