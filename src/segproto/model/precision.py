"""The precision in which a network looks at images."""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext
from typing import Literal, get_args

import torch

from segproto.errors import ConfigError
from segproto.model.segmenter import Segmenter

Precision = Literal["auto", "32-true", "bf16-mixed", "16-mixed"]
DTYPES = {"bf16-mixed": torch.bfloat16, "16-mixed": torch.float16}


def chosen_precision(model: Segmenter, precision: Precision) -> str:
    """What ``auto`` is for a model on its device: as it was trained on a GPU, float32 on a CPU; others stay.

    Raises:
        ConfigError: no such precision, or float16 on a CPU.
    """
    if precision not in get_args(Precision):
        raise ConfigError(f"--precision {precision}: expected one of {', '.join(get_args(Precision))}")
    device = next(model.parameters()).device.type
    if precision == "auto":
        trained = str(model.card.get("precision"))
        return trained if device == "cuda" and trained in DTYPES else "32-true"
    if precision == "16-mixed" and device == "cpu":
        raise ConfigError("--precision 16-mixed: needs a GPU; on a CPU use bf16-mixed or 32-true")
    return precision


def autocast(model: Segmenter, precision: Precision) -> AbstractContextManager[object]:
    """What the network runs under. Other threads do not.

    Raises:
        ConfigError: no such precision, or float16 on a CPU.
    """
    chosen = chosen_precision(model, precision)
    return torch.autocast(next(model.parameters()).device.type, DTYPES[chosen]) if chosen in DTYPES else nullcontext()
