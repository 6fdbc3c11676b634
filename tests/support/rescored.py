"""Scores of whole heads, one after another, on the same features."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from segproto.evaluation.rescore import EncoderFeatures, rescore
from segproto.model.head import Head


def rescore_heads(features: EncoderFeatures, heads: Sequence[Head]) -> list[dict[str, Any]]:
    return rescore(features, lambda cells: [head(cells) for head in heads], len(heads))
