"""What stages and runs report."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

Figures = dict[str, Any]
"""What a stage found, JSON-ready: it becomes ``stages/NAME/result.json`` and is read by name only."""

Logged = Mapping[str, float | Sequence[float] | None]
"""A line of ``metrics.jsonl``: numbers, or lists of them, by name."""
