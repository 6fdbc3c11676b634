"""Which precision a run trains in, and why."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Literal, NamedTuple, cast, get_args

from segproto.errors import ConfigError
from segproto.training.config import TrainConfig

VARIABLE = "SEGPROTO_PRECISION"

Precision = Literal["32-true", "bf16-mixed", "16-mixed"]


class Settled(NamedTuple):
    """What ``train.precision`` means on this machine.

    Attributes:
        precision: as Fabric names it.
        reason: why ``auto`` became it; empty where the recipe names a precision.
    """

    precision: Precision
    reason: str

    @property
    def words(self) -> str:
        """One line for people; empty where there was nothing to choose."""
        return f"train.precision = auto: {self.precision}, for {self.reason}" if self.reason else ""


def settle(config: TrainConfig) -> Settled:
    """What ``train.precision = auto`` becomes here; any other value stays.

    A CPU without bfloat16 instructions emulates them, which makes a training step several times slower than float32.
    ``$SEGPROTO_PRECISION`` decides instead of the machine, so that runs on several machines are alike.

    Raises:
        ConfigError: a value of the variable that is no precision.
    """
    return chosen_here(config.accelerator) if config.precision == "auto" else Settled(config.precision, "")


def chosen_here(accelerator: str) -> Settled:
    """What ``auto`` becomes on this machine."""
    precision = os.environ.get(VARIABLE)
    if precision:
        if precision not in get_args(Precision):
            known = "32-true, bf16-mixed or 16-mixed"
            raise ConfigError(f"{VARIABLE} = {precision!r}: expected {known}; unset it to let the machine decide")
        return Settled(cast(Precision, precision), f"{VARIABLE} is set to it")
    import torch

    if accelerator != "cpu" and torch.cuda.is_available():
        if torch.cuda.is_bf16_supported(including_emulation=False):
            return Settled("bf16-mixed", "this GPU computes bfloat16 itself")
        return Settled("16-mixed", "this GPU has no bfloat16")
    if native_bf16():
        return Settled("bf16-mixed", "this CPU has bfloat16 instructions")
    return Settled("32-true", "this CPU has no bfloat16 instructions and would emulate them")


def native_bf16() -> bool:
    """Whether this CPU multiplies bfloat16 numbers itself (AVX512-BF16, AMX, ARM's bf16)."""
    info = Path("/proc/cpuinfo")
    flags = set(info.read_text().split()) if info.exists() else set()
    return bool(flags & {"avx512_bf16", "amx_bf16", "bf16"})
