"""How a recipe is run: seed, precision, devices, batches, checkpoints."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field


class TrainConfig(BaseModel):
    """Settings of the runner; a recipe's ``train`` section.

    Attributes:
        seed: everything random follows from it.
        precision: ``32-true``, ``bf16-mixed``, ``16-mixed`` (needs a GPU), or ``auto``: mixed where this machine
            computes it natively, else ``32-true``; ``$SEGPROTO_PRECISION`` overrules the machine. A run's
            ``recipe.yaml`` holds what ``auto`` became.
        accelerator: ``auto`` takes a GPU if there is one.
        devices: processes on this machine, one per device; ``torchrun`` overrides it.
        num_nodes: machines; ``torchrun`` overrides it.
        batch_size: images per batch and process.
        stages: names of the stages to run; None = all of the method.
        start: a run or model whose weights a new run begins from (not ``--resume``).
        validate_every: batches between validations; 0 = at the end of each stage only.
        checkpoint_every: batches between checkpoints (one is also written after each stage).
        clip: largest gradient norm; None = no clipping.
        ema: decay of an exponential moving average of the weights, which is validated and kept; None = off.
        cache_features: train on backbone features cached on disk (frozen encoders, flip the only augmentation).
        input_pixels: of large training images the backbone sees at most so many pixels: ``encoder.input_scale`` is
            lowered to 0.75, 0.5, 0.375, 0.25 or 0.125 for that (where it is 1, and ``start`` is not set), and the run's
            ``recipe.yaml`` holds what it became. ``auto``: 1536 x 1536, four times as many on a GPU. None: off.
        step_pixels: a batch of whole images holds at most so many pixels: ``batch_size`` is lowered for that, and the
            run's ``recipe.yaml`` holds what it became. ``auto``: those of 2 photographs of 12 megapixels, four times as
            many on a GPU, and images that ``input_pixels=auto`` takes as they are keep their batch. None: off.
        log_every: batches between lines in ``metrics.jsonl``.
        loggers: also write to TensorBoard or Weights & Biases.
        threads: CPU threads of a process; None = torch's choice.
    """

    model_config = ConfigDict(extra="forbid")

    seed: int = Field(default=0, ge=0, lt=2**32)
    precision: Literal["auto", "32-true", "bf16-mixed", "16-mixed"] = "32-true"
    accelerator: Literal["auto", "cpu", "gpu"] = "auto"
    devices: int = Field(default=1, ge=1, le=1024)
    num_nodes: int = Field(default=1, ge=1, le=65_536)
    batch_size: int = Field(default=2, ge=1, le=65_536)
    stages: list[str] | None = None
    start: Path | None = None
    validate_every: int = Field(default=0, ge=0)
    checkpoint_every: int = Field(default=500, ge=1)
    clip: float | None = Field(default=None, gt=0)
    ema: float | None = Field(default=None, gt=0, lt=1)
    cache_features: bool = False
    input_pixels: Annotated[int, Field(ge=1024, le=2**32)] | Literal["auto"] | None = None
    step_pixels: Annotated[int, Field(ge=1024, le=2**40)] | Literal["auto"] | None = None
    log_every: int = Field(default=20, ge=1)
    loggers: list[Literal["tensorboard", "wandb"]] = []
    threads: int | None = Field(default=None, ge=1, le=1024)
