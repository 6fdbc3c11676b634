"""Training steps of the methods, and of one classifier on the same encoder and batch."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from race import Row, race
from torch import nn

from segproto.data.base import ClassTable
from segproto.data.batch import Batch
from segproto.encoders.base import Encoder
from segproto.methods import METHODS
from segproto.model.segmenter import Segmenter
from segproto.runs.catalogue import read_recipe
from segproto.training.recipe import Recipe, apply_overrides, validate_recipe
from segproto.training.stage import Optimise

RECIPES = ("protoseg/cityscapes", "scaleproto/cityscapes", "nonparametric/cityscapes-resnet101")


def recipe_without_files(full: str) -> Recipe:
    """A shipped recipe that needs neither data nor weights."""
    method = METHODS[full.partition("/")[0]]
    value = apply_overrides(read_recipe(full), ["data.root=.", "encoder.pretrained=false"])
    value["encoder"].pop("weights", None)
    return validate_recipe(value, method.recipe)


def random_batch(size: int, side: int | tuple[int, int], classes: int, device: torch.device) -> Batch:
    """Noise, square or (height, width), and masks of blocks of 16 pixels."""
    height, width = (side, side) if isinstance(side, int) else side
    generator = torch.Generator().manual_seed(0)
    images = torch.randn(size, 3, height, width, generator=generator)
    grid = torch.randint(0, classes, (size, 1, -(-height // 16), -(-width // 16)), generator=generator).float()
    masks = F.interpolate(grid, scale_factor=16)[:, 0, :height, :width].long()
    return Batch(masks=masks, images=images.contiguous(memory_format=torch.channels_last)).to(device)


@dataclass
class Step:
    """An optimising stage of a recipe, as a function of a batch."""

    model: Segmenter
    stage: Optimise
    optimizer: torch.optim.Optimizer

    @classmethod
    def of(cls, method: str, recipe: Recipe, classes: int, device: torch.device, name: str | None = None) -> Step:
        """The stage of that name, else the first that has steps."""
        table = ClassTable(tuple(map(str, range(classes))), ((0, 0, 0),) * classes)
        model = METHODS[method].build(recipe, table)
        stages = (x for x in METHODS[method].stages(recipe) if isinstance(x, Optimise) and x.steps)
        stage = next(x for x in stages if name is None or x.name == name)
        if stage.begin is not None:
            stage.begin(model)
        model.to(device, memory_format=torch.channels_last)
        stage.mode(model)
        groups = stage.parameters(model)
        trained = {id(p) for group in groups for p in group.params}
        for parameter in model.parameters():
            parameter.requires_grad_(id(parameter) in trained)
        optimizer = torch.optim.Adam([{"params": g.params, "lr": g.lr * 0.01} for g in groups])
        return cls(model, stage, optimizer)

    def __call__(self, batch: Batch, loss: Callable[..., Any] | None = None, bf16: bool = False) -> float:
        with torch.autocast(batch.masks.device.type, torch.bfloat16, enabled=bf16):
            value = (loss or self.stage.loss)(self.model, batch)["loss"]
        self.optimizer.zero_grad()
        value.backward()
        self.optimizer.step()
        if self.stage.after_step is not None:
            self.stage.after_step(self.model)
        return float(value.detach()) if value.device.type == "cpu" else 0.0


def black_box(encoder: Encoder, classes: int, batch: Batch, bf16: bool = False) -> Callable[[], None]:
    """A step of one 1x1 classifier on the same encoder, whose parameters train or rest as they do in the method."""
    device = batch.masks.device
    plain = nn.Conv2d(encoder.num_features, classes, 1).to(device)
    trained = [p for p in encoder.parameters() if p.requires_grad] + list(plain.parameters())
    optimizer = torch.optim.Adam(trained, 1e-6)

    def step() -> None:
        assert batch.images is not None
        with torch.autocast(device.type, torch.bfloat16, enabled=bf16):
            logits = plain(encoder(batch.images))
        logits = F.interpolate(logits.float(), batch.masks.shape[-2:], mode="bilinear")
        loss = F.cross_entropy(logits, batch.masks, ignore_index=255)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()

    return step


def step_rows(quick: bool) -> Iterator[Row]:
    """A step of the stage that trains everything, float32."""
    size, side, rounds = (1, 129, 2) if quick else (1, 321, 3)
    for classes in (19, 150) if quick else (19, 150, 847):
        for full in RECIPES:
            method = full.partition("/")[0]
            torch.manual_seed(0)
            step = Step.of(method, recipe_without_files(full), classes, torch.device("cpu"), "joint")
            batch = random_batch(size, side, classes, torch.device("cpu"))
            plain = black_box(step.model.encoder, classes, batch)
            loss = step(batch)
            plain()
            words = f"training step of {method}, C = {classes}, ResNet-101, {side} px | one classifier on its encoder"
            finite = bool(torch.isfinite(torch.tensor(loss)))
            yield race(
                words,
                lambda step=step, batch=batch: step(batch),
                plain,
                (f"same encoder, loss {loss:.3g}", finite),
                rounds,
            )  # type: ignore[misc]
