"""The warm-up's classifier of centred features: the same functions, learnt sooner, and plain once it has ended."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from safetensors.torch import load_file
from torch import Tensor
from two_steps import smaller

from segproto.data.scenes import CLASSES
from segproto.errors import ConfigError
from segproto.methods import METHODS
from segproto.model.heads import CentredHead, Head, LinearHead, build_head
from segproto.model.segmenter import Segmenter
from segproto.training.loop import Loop
from segproto.training.procedures.require import require_head
from segproto.training.procedures.seeding import end_centred
from segproto.training.runner import run

LINEAR = ("train.precision=32-true", "stages.linear.gain=8", "train.stages=[linear]")


def centred(gain: float) -> CentredHead:
    torch.manual_seed(3)
    head = CentredHead(6, 4, gain)
    torch.nn.init.normal_(head.linear.bias)
    return head


@pytest.mark.parametrize("gain", [0.5, 8.0])
def test_it_is_a_plain_classifier_in_other_coordinates(gain: float) -> None:
    head, features = centred(gain), torch.rand(2, 6, 5, 7)
    weight, bias = head.linear.weight.double(), head.linear.bias.double()
    expected = torch.einsum("cf,bfhw->bchw", weight, gain * (features.double() - 0.5)) + bias[:, None, None]
    torch.testing.assert_close(head(features).double(), expected, rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(head.plain()(features).double(), expected, rtol=1e-5, atol=1e-5)
    assert type(head.plain()) is LinearHead
    again = build_head(head.describe())
    again.load_state_dict(head.state_dict())
    assert torch.equal(again(features), head(features))


def test_contributions_add_up_to_the_logit() -> None:
    head, features, classes = centred(8.0), torch.rand(5, 6), torch.tensor([0, 3, 1, 1, 2])
    shares = head.contributions(features, classes)
    logits = head(features.T[None, :, :, None])[0, :, :, 0]
    torch.testing.assert_close(shares.prototypes.sum(1) + shares.offset, logits[classes, torch.arange(5)])


def test_small_differences_between_features_are_learnt_sooner() -> None:
    generator = torch.Generator().manual_seed(1)
    labels = torch.randint(4, (1, 16, 16), generator=generator)
    noise = torch.randn(1, 6, 16, 16, generator=generator)
    features = 0.5 + 0.1 * (F.one_hot(labels, 6).movedim(-1, 1) + 0.3 * noise)
    assert loss_after(centred(8.0), features, labels) < 0.5 * loss_after(centred(8.0).plain(), features, labels)


def loss_after(head: Head, features: Tensor, labels: Tensor, steps: int = 300) -> float:
    """Cross-entropy after some steps of Adam, as the warm-up takes them."""
    optimizer = torch.optim.Adam(head.parameters(), lr=1e-2)
    for _ in range(steps):
        loss = F.cross_entropy(head(features), labels)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    return float(loss.detach())


def test_a_warm_up_that_was_interrupted_ends_as_one_that_was_not(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    recipe, method = smaller("protoseg", *LINEAR, "train.checkpoint_every=1"), METHODS["protoseg"]
    run(method, recipe, tmp_path / "whole", quiet=True)
    kinds: list[str] = []

    def save(loop: Loop) -> None:
        original(loop)
        kinds.append(loop.job.segmenter.head.kind)
        raise KeyboardInterrupt

    original = Loop._save
    monkeypatch.setattr(Loop, "_save", save)
    with pytest.raises(KeyboardInterrupt):
        run(method, recipe, tmp_path / "broken", quiet=True)
    monkeypatch.undo()
    assert kinds == ["centred"]
    run(method, recipe, tmp_path / "broken", resume=True, quiet=True)
    whole, broken = (load_file(tmp_path / name / "model" / "model.safetensors") for name in ("whole", "broken"))
    assert all(torch.equal(whole[key], broken[key]) for key in whole)
    assert type(Segmenter.load(tmp_path / "whole" / "stages" / "linear").head) is LinearHead


def test_the_end_of_the_warm_up_changes_no_logit() -> None:
    recipe = smaller("protoseg", *LINEAR)
    model = METHODS["protoseg"].build(recipe, CLASSES)
    model.head = CentredHead(model.encoder.num_features, model.classes.num_classes, 8.0)
    images = torch.rand(1, 3, 32, 32)
    before = model.eval()(images)
    end_centred(model)
    torch.testing.assert_close(model(images), before, rtol=1e-4, atol=1e-5)


def test_features_of_any_size_are_not_centred() -> None:
    with pytest.raises(ConfigError, match=r"stages\.linear\.gain = 8\.0.*encoder\.squash is none"):
        smaller("scaleproto", *LINEAR, "encoder.squash=none")


def test_without_a_warm_up_nobody_reads_the_gain() -> None:
    recipe = smaller("scaleproto", *LINEAR, "encoder.squash=none", "stages.linear.steps=0")
    assert "linear" not in [stage.name for stage in METHODS["scaleproto"].stages(recipe)]


def test_its_weights_are_not_taken_for_those_of_the_features() -> None:
    """``checkpoints/best`` of a run in its warm-up holds one, and a run may start there."""
    recipe = smaller("protoseg", *LINEAR)
    model = METHODS["protoseg"].build(recipe, CLASSES)
    model.head = CentredHead(model.encoder.num_features, model.classes.num_classes, 8.0)
    with pytest.raises(ConfigError, match=r"stages\.rotate: needs a linear head, the model has a centred head"):
        require_head(model, "rotate", LinearHead)
    begin = next(stage for stage in METHODS["protoseg"].stages(recipe) if stage.name == "joint").begin  # type: ignore[union-attr]
    assert begin is not None
    begin(model)
    assert model.head.kind == "prototype"
