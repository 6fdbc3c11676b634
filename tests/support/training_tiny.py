"""A tiny method for the tests of the runner: a narrow U-Net on generated scenes, three stages, a second or two."""

from __future__ import annotations

import multiprocessing
import os
import socket
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from pydantic import BaseModel, ConfigDict
from torch import Tensor

from segproto.data.base import ClassTable
from segproto.data.batch import Batch
from segproto.encoders.build import build_encoder
from segproto.model.heads import LinearHead
from segproto.model.segmenter import Segmenter
from segproto.training.method import Method
from segproto.training.recipe import Recipe, apply_overrides, validate_recipe
from segproto.training.runner import RunResult, run
from segproto.training.stage import Optimise, ParamGroup, Procedure, Stage, StageContext


class TinyStages(BaseModel):
    model_config = ConfigDict(extra="forbid")

    first_steps: int = 12
    second_steps: int = 8
    accumulate: int = 2
    lr: float = 1e-2
    noise: float = 0.1
    norms: bool = True
    optimizer: str = "adam"


class TinyRecipe(Recipe):
    method: str = "tiny"
    stages: TinyStages = TinyStages()


RECIPE: dict[str, Any] = {
    "method": "tiny",
    "data": {
        "name": "scenes",
        "scenes": {"num_train": 8, "num_val": 2, "size": 32},
        "augment": {"scale": [0.8, 1.2], "crop": 32},
    },
    "encoder": {"name": "unet", "width": 2, "output_stride": 4, "dim": 4, "rates": [1, 2]},
    "train": {"batch_size": 2, "accelerator": "cpu", "log_every": 2, "checkpoint_every": 2, "threads": 1},
}


def recipe(*overrides: str) -> TinyRecipe:
    return validate_recipe(apply_overrides(RECIPE, overrides), TinyRecipe)


def build(config: TinyRecipe, classes: ClassTable) -> Segmenter:
    encoder = build_encoder(config.encoder)
    return Segmenter(encoder, LinearHead(encoder.num_features, classes.num_classes), classes)


def stages(config: TinyRecipe) -> list[Stage]:
    s = config.stages

    def loss(model: Segmenter, batch: Batch) -> dict[str, Tensor]:
        if batch.features is not None:
            features = model.encoder.from_backbone(batch.features)
        else:
            assert batch.images is not None
            features = model.features(batch.images)
        features = features + s.noise * torch.randn_like(features)  # a resumed run must draw the same noise
        logits = model.head(features)
        logits = F.interpolate(logits, size=batch.masks.shape[-2:], mode="bilinear", align_corners=False)
        value = F.cross_entropy(logits.float(), batch.masks, ignore_index=255)
        return {"loss": value, "doubled": 2 * value}

    def parameters(model: Segmenter) -> list[ParamGroup]:
        parts = [ParamGroup(list(model.encoder.neck.parameters()), s.lr, 1e-3)]
        if not model.encoder.config.frozen:
            parts.append(ParamGroup(list(model.encoder.backbone.parameters()), s.lr / 2, 1e-3))
        return [*parts, ParamGroup([model.head.weight, model.head.bias], s.lr)]  # type: ignore[list-item]

    def mode(model: Segmenter) -> None:
        model.train(s.norms)

    def new_head(model: Segmenter) -> None:
        device = model.head.weight.device
        model.head = LinearHead(model.encoder.num_features, model.classes.num_classes).to(device)  # random: seeded

    def shift(context: StageContext) -> dict[str, Any]:
        with torch.no_grad():
            context.segmenter.head.bias += 0.5  # type: ignore[operator]
        return {"shifted": 0.5}

    def clamp(model: Segmenter) -> None:
        with torch.no_grad():
            model.head.bias.clamp_(-0.1, 0.1)  # type: ignore[operator]

    first = Optimise("first", s.first_steps, parameters, loss, mode, schedule="poly", warmup_steps=2)
    first = replace(first, accumulate=s.accumulate, optimizer=s.optimizer)  # type: ignore[arg-type]
    second = Optimise("second", s.second_steps, parameters, loss, mode, begin=new_head, after_step=clamp)
    return [first, Procedure("shift", shift), second]


METHOD = Method("tiny", "A tiny method", "pixel masks", TinyRecipe, build, stages)


def train(out: Path, *overrides: str, resume: bool = False, quiet: bool = True) -> RunResult:
    torch.set_num_threads(1)
    return run(METHOD, recipe(*overrides), out, resume=resume, quiet=quiet)


def weights(model: Path) -> bytes:
    return (model / "model.safetensors").read_bytes()


def process_context() -> Any:
    """Processes forked from a server that has imported everything once, so that they start at once."""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["training_tiny", "lightning_fabric.strategies.ddp"])
    return context


def as_rank(rank: int, world: int, port: int, task: Callable[..., Any], *arguments: Any) -> None:
    """Runs ``task`` as one of ``torchrun``'s processes."""
    os.environ.update(
        TORCHELASTIC_RUN_ID="test",
        RANK=str(rank),
        LOCAL_RANK=str(rank),
        WORLD_SIZE=str(world),
        LOCAL_WORLD_SIZE=str(world),
        GROUP_RANK="0",
        MASTER_ADDR="127.0.0.1",
        MASTER_PORT=str(port),
    )
    task(*arguments)


def free_port() -> int:
    """A port of this machine that nothing listens on."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def in_processes(world: int, task: Callable[..., None], *arguments: object, wait: float = 120) -> None:
    """Runs ``task`` as each of ``torchrun``'s ``world`` processes, to the end; one that fails fails the test."""
    context, port = process_context(), free_port()
    ranks = [context.Process(target=as_rank, args=(rank, world, port, task, *arguments)) for rank in range(world)]
    for process in ranks:
        process.start()
    for process in ranks:
        process.join(wait)
        assert process.exitcode == 0


def in_slurm(world: int, task: Callable[..., None], *arguments: object) -> None:
    """Runs ``task`` as each of the processes that srun starts on one machine."""
    context, port = process_context(), free_port()
    ranks = [context.Process(target=as_srun_task, args=(rank, world, port, task, *arguments)) for rank in range(world)]
    for process in ranks:
        process.start()
    for process in ranks:
        process.join(120)
        assert process.exitcode == 0


def as_srun_task(rank: int, world: int, port: int, task: Callable[..., None], *arguments: object) -> None:
    tasks = {"SLURM_NTASKS": world, "SLURM_STEP_NUM_TASKS": world, "SLURM_STEP_NUM_NODES": 1, "SLURM_NNODES": 1}
    place = {"SLURM_PROCID": rank, "SLURM_LOCALID": rank, "SLURM_NODEID": 0, "SLURM_JOB_ID": 1, "MASTER_PORT": port}
    os.environ |= {key: str(value) for key, value in (tasks | place).items()} | {"MASTER_ADDR": "127.0.0.1"}
    task(*arguments)
