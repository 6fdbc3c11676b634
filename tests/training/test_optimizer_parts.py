"""Schedules, optimizer state on disk, EMA, memory and cached batches, each against a plain computation."""

from __future__ import annotations

import errno
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from safetensors import SafetensorError
from torch import Tensor, nn
from training_tiny import recipe, stages

from segproto.data.config import AugmentConfig, ScenesConfig
from segproto.data.loader import sample_order
from segproto.data.scenes import ScenesDataset
from segproto.encoders.config import EncoderConfig
from segproto.errors import ConfigError, SegprotoError
from segproto.files import disk_errors
from segproto.training.cached import CachedBatches, mirrored, pad_together, require_cacheable
from segproto.training.checkpoint import flatten, unflatten
from segproto.training.ema import Ema
from segproto.training.memory import memory_errors
from segproto.training.schedule import build_optimizer, lr_factor
from segproto.training.stage import Optimise, ParamGroup


def stage(**changes: Any) -> Optimise:
    first = stages(recipe())[0]
    assert isinstance(first, Optimise)
    return replace(first, **changes)


def test_poly_schedule_counts_optimizer_steps() -> None:
    poly = stage(steps=100, accumulate=5, schedule="poly", warmup_steps=0)
    assert [lr_factor(poly, t) for t in (0, 10, 19)] == pytest.approx([1, 0.5**0.9, 0.05**0.9])
    warm = stage(steps=10, accumulate=1, schedule="constant", warmup_steps=4)
    assert [lr_factor(warm, t) for t in range(6)] == [0.25, 0.5, 0.75, 1, 1, 1]


@pytest.mark.parametrize("name", ["adam", "adamw", "sgd"])
def test_optimizers_match_torch(name: str) -> None:
    decay, lr = 0.1, 0.01
    weight = nn.Parameter(torch.linspace(-1, 1, 6))
    twin = nn.Parameter(weight.detach().clone())
    mine = build_optimizer(stage(optimizer=name), [ParamGroup([weight], lr, decay)])
    kinds = {"adam": torch.optim.Adam, "adamw": torch.optim.AdamW, "sgd": torch.optim.SGD}
    extra = {"momentum": 0.9} if name == "sgd" else {}
    theirs = kinds[name]([twin], lr=lr, weight_decay=decay, **extra)
    for optimizer, parameter in ((mine, weight), (theirs, twin)):
        for k in range(3):
            parameter.grad = torch.cos(parameter.detach() * k)
            optimizer.step()
    assert torch.equal(weight, twin)


@pytest.mark.parametrize("name", ["adam", "sgd"])
def test_optimizer_state_survives_flattening(name: str) -> None:
    def make() -> tuple[nn.Conv2d, torch.optim.Optimizer]:
        torch.manual_seed(0)
        layer = nn.Conv2d(3, 4, 3).to(memory_format=torch.channels_last)
        return layer, build_optimizer(stage(optimizer=name), [ParamGroup(list(layer.parameters()), 0.1)])

    def step(layer: nn.Conv2d, optimizer: torch.optim.Optimizer) -> None:
        optimizer.zero_grad()
        layer(torch.ones(1, 3, 5, 5)).square().sum().backward()
        optimizer.step()

    layer, optimizer = make()
    step(layer, optimizer)
    tensors, scalars = flatten(optimizer)
    other, fresh = make()
    other.load_state_dict(layer.state_dict())
    unflatten(fresh, tensors, scalars)
    moment = fresh.state[other.weight][{"adam": "exp_avg", "sgd": "momentum_buffer"}[name]]
    assert moment.stride() == other.weight.stride()
    step(layer, optimizer)
    step(other, fresh)
    assert torch.equal(layer.weight, other.weight)


def test_ema_is_the_weighted_mean_of_the_past() -> None:
    model = nn.Linear(1, 1, bias=False)
    nn.init.constant_(model.weight, 1.0)
    ema, expected = Ema(model, 0.5), 1.0
    for step, value in enumerate([3.0, -2.0, 5.0, 5.0, 1.0, 0.0, 2.0, 8.0, 8.0, 1.0]):
        nn.init.constant_(model.weight, value)
        ema.update(model, step)
        decay = min(0.5, (1 + step) / (10 + step))
        expected = decay * expected + (1 - decay) * value
    with ema.applied(model):
        assert float(model.weight.detach()) == pytest.approx(expected)
    assert float(model.weight.detach()) == 1.0


@pytest.mark.parametrize(
    "error", [MemoryError(), torch.OutOfMemoryError("CUDA out of memory"), RuntimeError("can't allocate memory: 9 GB")]
)
def test_out_of_memory_says_what_to_lower(error: Exception) -> None:
    with pytest.raises(SegprotoError, match=r"lower train.batch_size or data.augment.crop"), memory_errors("run"):
        raise error


def test_a_truly_refused_allocation_is_understood() -> None:
    with pytest.raises(SegprotoError, match="out of memory"), memory_errors("run"):
        torch.empty(1 << 50, dtype=torch.uint8)


def test_other_errors_stay_themselves() -> None:
    with pytest.raises(RuntimeError, match="shape"), memory_errors("run"):
        raise RuntimeError("shape mismatch")
    with pytest.raises(FileNotFoundError), disk_errors(Path("x")):
        raise FileNotFoundError(errno.ENOENT, "none")


@pytest.mark.parametrize(
    "error",
    [OSError(errno.ENOSPC, "No space left on device"), SafetensorError("I/O error: No space left (os error 28)")],
)
def test_a_full_disk_is_named(error: Exception) -> None:
    with pytest.raises(SegprotoError, match="x: the disk is full; free some space"), disk_errors(Path("x")):
        raise error


@pytest.mark.parametrize(
    ("encoder", "augment", "key"),
    [
        ({"frozen": False}, {"scale": (1, 1)}, "encoder.frozen = false"),
        ({"frozen": True, "msc": [0.5]}, {"scale": (1, 1)}, "encoder.msc"),
        ({"frozen": True}, {"scale": (0.5, 1)}, r"data.augment.scale = \[0.5, 1.0\]"),
        ({"frozen": True}, {"scale": (1, 1), "crop": 9}, "data.augment.crop = 9"),
        ({"frozen": True}, {"scale": (1, 1), "rotate90": True}, "data.augment.rotate90 = true"),
        ({"frozen": True}, {"scale": (1, 1), "vertical_flip": True}, "data.augment.vertical_flip = true"),
    ],
)
def test_what_cannot_be_cached_is_refused(encoder: dict[str, Any], augment: dict[str, Any], key: str) -> None:
    with pytest.raises(ConfigError, match=rf"^{key}.*train.cache_features needs"):
        require_cacheable(EncoderConfig(**encoder), AugmentConfig(**augment))
    require_cacheable(EncoderConfig(frozen=True), AugmentConfig(scale=(1, 1)))


def padded_to_8(height: int, width: int) -> tuple[int, int]:
    return -(-height // 8) * 8, -(-width // 8) * 8


def test_unlike_grids_are_padded_with_zeros_and_void() -> None:
    sizes = [(16, 30), (21, 8)]
    masks = [torch.randint(0, 5, size, dtype=torch.uint8) for size in sizes]
    features = [torch.rand(3, 2, 4) + 1, torch.rand(3, 3, 1) + 1]
    stacked, labels = pad_together(features, masks, padded_to_8)
    assert stacked.shape == (2, 3, 3, 4)
    assert labels.shape == (2, 24, 32)
    for i, (h, w) in enumerate(sizes):
        gh, gw = features[i].shape[1:]
        assert torch.equal(stacked[i, :, :gh, :gw], features[i])
        assert stacked[i].count_nonzero() == features[i].numel()
        assert torch.equal(labels[i, :h, :w], masks[i].long())
        assert int((labels[i] != 255).sum()) == h * w


def test_cached_batches_follow_the_loaders_order_and_their_own_coins() -> None:
    data = ScenesDataset(ScenesConfig(num_train=5, num_val=1, size=32), "train")

    def features(index: int, flipped: bool) -> Tensor:
        return torch.full((1, 4, 4), float(index + 100 * flipped))

    batches = CachedBatches(data, SimpleNamespace(get=features), padded_to_8, flip=True)
    ranks = [list(batches.batches(seed=3, batch_size=2, start=1, stop=4, rank=r, world=2)) for r in range(2)]
    order, position = sample_order(3, 5, 0, 16), 4
    seen = []
    for pair in zip(*ranks, strict=True):
        for batch in pair:
            assert batch.features is not None
            for k in range(2):
                value = int(batch.features[k, 0, 0, 0])
                index, flipped = order[position], mirrored(3, position)
                assert (value % 100, value >= 100) == (index, flipped)
                mask = data[index].mask.long()
                assert torch.equal(batch.masks[k], mask.flip(-1) if flipped else mask)
                assert batch.names[k] == data.names[index]
                seen.append(flipped)
                position += 1
    assert 0 < sum(seen) < len(seen)
    assert 0.45 < np.mean([mirrored(0, p) for p in range(2000)]) < 0.55
