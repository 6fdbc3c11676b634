"""What accumulates over images and processes: counts that add up, and rows that are put in image order."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor


class Accumulator:
    """Base of the accumulating metrics; any split of the images over processes gives the same bits.

    Counts are integers, so their sum does not depend on an order. Floating-point figures are kept as one row per image
    and only reduced by ``compute``, in image order.

    Attributes:
        counts: int64 tensors by name; merging adds them.
        rows: tensors (n, ...) by name whose first column is the image's index; merging puts them together.
    """

    def __init__(self) -> None:
        self.counts: dict[str, Tensor] = {}
        self.rows: dict[str, list[Tensor]] = {}

    def state_dict(self) -> dict[str, Tensor]:
        """All there is, to be sent to another process: counts, and rows under ``rows.NAME``."""
        return {**self.counts, **{f"rows.{name}": torch.cat(parts) for name, parts in self.rows.items() if parts}}

    def merge(self, state: Mapping[str, Tensor]) -> None:
        """Takes in the ``state_dict`` of another process, which saw other images."""
        for name, count in self.counts.items():
            self.counts[name] = count + state[name].to(count.device)
        for name, parts in self.rows.items():
            if f"rows.{name}" in state:
                parts.append(state[f"rows.{name}"])

    def table(self, name: str) -> Tensor:
        """The rows of ``name``, float64, sorted by image; (0, 0) without any."""
        parts = self.rows[name]
        if not parts:
            return torch.zeros(0, 0, dtype=torch.float64)
        rows = torch.cat([part.double().cpu() for part in parts])
        return rows[rows[:, 0].argsort(stable=True)]


def share(part: float, whole: float) -> float | None:
    """``part / whole``; None where the whole is 0."""
    return float(part) / float(whole) if whole else None


def mean(values: list[float | None]) -> float | None:
    """The mean of the values there are; None without any."""
    defined = [value for value in values if value is not None]
    return sum(defined) / len(defined) if defined else None


def scored(value: float | None, reason: str, **more: Any) -> dict[str, Any]:
    """A figure as JSON: ``value``, and a ``reason`` where there is none."""
    return {"value": value, **({"reason": reason} if value is None else {}), **more}
