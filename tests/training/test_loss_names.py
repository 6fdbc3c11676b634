"""Losses by name, class weights that are counted, crops on rare classes, and models that begin with other classes."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from tiny_folders import folder
from tiny_runs import SMALL
from torch import Tensor

import segproto
from segproto.data.augment import augment
from segproto.data.config import AugmentConfig
from segproto.errors import SegprotoError, WeightsError
from segproto.files.yaml_text import read_yaml
from segproto.model.segmenter import Segmenter
from segproto.prototypes.losses import dice_loss, focal_loss, median_frequency_weights

C = 4
WEIGHTS = torch.tensor([0.5, 2.0, 1.0, 3.0], dtype=torch.float64)


def scene(seed: int = 0, scale: float = 2.0) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    logits = scale * torch.randn(2, C, 5, 6, dtype=torch.float64, generator=generator)
    labels = torch.randint(0, C - 1, (2, 5, 6), generator=generator)  # the last class is absent
    labels[0, :2] = 255
    return logits, labels


def naive_focal(logits: Tensor, labels: Tensor, gamma: float, weight: Tensor | None) -> Tensor:
    total, weights = logits.new_zeros(()), 0.0
    for b, y, x in np.ndindex(*labels.shape):
        c = int(labels[b, y, x])
        if c == 255:
            continue
        p = logits[b, :, y, x].exp()[c] / logits[b, :, y, x].exp().sum()
        w = 1.0 if weight is None else float(weight[c])
        total, weights = total - w * (1 - p) ** gamma * p.log(), weights + w
    return total / weights


def naive_dice(logits: Tensor, labels: Tensor, smooth: float) -> Tensor:
    losses = []
    for c in range(C):
        both, of_p, of_g = (logits.new_zeros(()) for _ in range(3))
        for b, y, x in np.ndindex(*labels.shape):
            if int(labels[b, y, x]) == 255:
                continue
            p = logits[b, :, y, x].exp()[c] / logits[b, :, y, x].exp().sum()
            g = float(labels[b, y, x] == c)
            both, of_p, of_g = both + p * g, of_p + p, of_g + g
        if float(of_g) > 0:
            losses.append(1 - (2 * both + smooth) / (of_p + of_g + smooth))
    return torch.stack(losses).mean()


def agree(ours: Tensor, naive: Tensor, logits: Tensor) -> None:
    """Value and gradient, ours in float32."""
    (own,), (expected,) = (torch.autograd.grad(value, logits, retain_graph=True) for value in (ours, naive))
    assert float(ours) == pytest.approx(float(naive), rel=1e-5)
    assert torch.allclose(own, expected, rtol=1e-4, atol=1e-7)


@pytest.mark.parametrize("gamma", [0.0, 0.5, 2.0, 5.0])
@pytest.mark.parametrize("weight", [None, WEIGHTS])
def test_focal_value_and_gradient(gamma: float, weight: Tensor | None) -> None:
    logits, labels = scene()
    logits.requires_grad_()
    ours = focal_loss(logits, labels, gamma, weight=None if weight is None else weight.float())
    agree(ours, naive_focal(logits, labels, gamma, weight), logits)


@pytest.mark.parametrize("smooth", [1.0, 1e-3])
def test_dice_value_and_gradient(smooth: float) -> None:
    logits, labels = scene()
    logits.requires_grad_()
    agree(dice_loss(logits, labels, smooth=smooth), naive_dice(logits, labels, smooth), logits)


def test_losses_at_their_ends() -> None:
    logits, labels = scene(scale=200.0)  # probabilities of 0 and 1
    for loss in (lambda x: focal_loss(x, labels, 0.5), lambda x: dice_loss(x, labels)):
        leaf = logits.clone().requires_grad_()
        loss(leaf).backward()
        assert bool(leaf.grad.isfinite().all())
    nothing = torch.full_like(labels, 255)
    assert float(focal_loss(logits, nothing)) == float(dice_loss(logits, nothing)) == 0
    right = 50.0 * torch.nn.functional.one_hot(torch.where(labels == 255, 0, labels), C).permute(0, 3, 1, 2)
    assert float(dice_loss(right, labels)) == pytest.approx(0, abs=1e-6)
    assert float(focal_loss(right, labels)) == pytest.approx(0, abs=1e-6)


def test_weights_balance_by_the_median() -> None:
    pixels, beside = torch.tensor([800, 100, 10, 0]), torch.tensor([1000, 1000, 500, 0])
    expected = [0.1 / 0.8, 1.0, 0.1 / 0.02, 1.0]
    assert median_frequency_weights(pixels, beside).tolist() == pytest.approx(expected)
    assert median_frequency_weights(torch.tensor([10**6, 10**3, 1]), torch.tensor([10**6] * 3)).tolist() == [0.1, 1, 10]


def test_a_run_counts_weights_once_and_names_its_losses(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    root = folder(tmp_path / "data", 1, "classes: [background, object]\n")
    settings = [f"data.root={root}", "data.name=folder", "encoder.width=4", "encoder.dim=8", "encoder.rates=[1,2]"]
    settings += ["train.precision=32-true", "data.augment.crop=24", "data.augment.balance=0.5", "stages.joint.steps=2"]
    settings += ["stages.joint.class_weights=auto", "stages.joint.loss=focal+dice", "train.log_every=1"]
    result = segproto.train("blackbox/scenes", out=tmp_path / "run", overrides=settings)
    assert "class_weights = auto became: background 0.6667, object 2" in capsys.readouterr().err
    joint = read_yaml(tmp_path / "run" / "recipe.yaml")["stages"]["joint"]
    assert joint["class_weights"] == [0.6667, 2.0]  # frequencies 3/4 and 1/4, their median 1/2
    figures = result.stages["joint"]
    assert figures["loss"] == pytest.approx(figures["focal"] + figures["dice"], rel=1e-5)
    assert "cross_entropy" not in figures
    with pytest.raises(SegprotoError, match="loss"):
        segproto.train("blackbox/scenes", out=tmp_path / "b", overrides=[*settings, "stages.joint.loss=dise"])


def test_crops_on_rare_classes() -> None:
    mask = torch.zeros(200, 300, dtype=torch.uint8)
    mask[150:152, 40:43] = 1
    mask[:5] = 255
    image = torch.arange(200 * 300).view(1, 200, 300).expand(3, -1, -1).float()

    def crops(balance: float, scale: tuple[float, float] = (1, 1)) -> list[tuple[Tensor, Tensor]]:
        config = AugmentConfig(crop=32, scale=scale, flip=False, balance=balance)
        return [augment(image, mask, config, torch.Generator().manual_seed(i), lambda x: x) for i in range(120)]

    def share(found: list[tuple[Tensor, Tensor]]) -> float:
        return sum(bool((labels == 1).any()) for _, labels in found) / len(found)

    assert share(crops(0)) < 0.1
    assert 0.4 < share(crops(1)) < 0.65  # one of two classes, drawn evenly
    assert share(crops(1, (0.5, 1.5))) > 0.35
    for pixels, labels in crops(1):
        top, left = divmod(int(pixels[0, 0, 0]), 300)
        assert torch.equal(pixels[0], image[0, top : top + 32, left : left + 32])
        assert torch.equal(labels, mask[top : top + 32, left : left + 32].long())
    places = {divmod(int(pixels[0, 0, 0]), 300) for pixels, labels in crops(1) if bool((labels == 1).any())}
    assert len(places) > 20  # anywhere around the class, not always in the same place


def test_other_classes_keep_the_encoder_and_begin_the_head_anew(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    small = [item for item in SMALL if "steps" not in item]
    segproto.train("blackbox/scenes", out=tmp_path / "a", overrides=[*small, "stages.joint.steps=2"], quiet=True)
    root = folder(tmp_path / "data", 1, "classes: [background, object]\n")
    own = [item for item in small if "scenes" not in item] + [f"data.root={root}", "data.name=folder"]
    own += ["data.augment.crop=24", "stages.joint.lr={backbone: 0, neck: 0, readout: 0.01}", "stages.joint.steps=2"]
    own += ["stages.joint.norms=frozen"]
    segproto.train("blackbox/scenes", out=tmp_path / "b", start=tmp_path / "a", overrides=own)
    told = capsys.readouterr().err
    assert "its classes (8) are not those of the data (2): the encoder is kept, the head begins anew" in told
    before, after = Segmenter.load(tmp_path / "a"), Segmenter.load(tmp_path / "b")
    assert after.head.num_classes == 2
    weights = after.encoder.state_dict()
    assert all(torch.equal(value, weights[name]) for name, value in before.encoder.state_dict().items())
    (root / "classes.yaml").write_text("classes: [{name: object, values: 1}, {name: background, values: 0}]\n")
    with pytest.raises(WeightsError, match="in another order"):
        segproto.train("blackbox/scenes", out=tmp_path / "c", start=tmp_path / "b", overrides=own, quiet=True)
