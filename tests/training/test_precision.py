"""What train.precision=auto becomes, what says so, and that a run keeps it."""

from __future__ import annotations

import math
import shutil
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
import yaml
from tiny_segmenters import segmenter
from training_tiny import recipe, train, weights

from segproto.api.compare import compare_runs
from segproto.api.doctor import doctor
from segproto.api.hub import model_card
from segproto.cli.results import compare as print_compare
from segproto.data.build import build_dataset
from segproto.errors import ConfigError
from segproto.evaluation import float32
from segproto.evaluation.float32 import agreement_words, float32_agreement
from segproto.evaluation.protocol import Protocol
from segproto.model.segmenter import Segmenter
from segproto.training import precision
from segproto.training.config import TrainConfig
from segproto.training.precision import VARIABLE, settle

pytestmark = pytest.mark.precision

AUTO = ("stages.first_steps=2", "stages.second_steps=2", "train.precision=auto", "train.accelerator=cpu")


@pytest.fixture(autouse=True)
def _the_machine_decides(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv(VARIABLE, raising=False)


@pytest.mark.parametrize(
    ("gpu", "native", "accelerator", "expected", "reason"),
    [
        (False, True, "auto", "bf16-mixed", "this CPU has bfloat16 instructions"),
        (False, False, "auto", "32-true", "this CPU has no bfloat16 instructions"),
        (True, True, "auto", "bf16-mixed", "this GPU computes bfloat16 itself"),
        (True, False, "auto", "16-mixed", "this GPU has no bfloat16"),
        (True, False, "cpu", "32-true", "this CPU has no bfloat16 instructions"),
    ],
)
def test_what_auto_becomes(
    monkeypatch: pytest.MonkeyPatch, gpu: bool, native: bool, accelerator: str, expected: str, reason: str
) -> None:
    """Emulated bfloat16 is several times slower than float32."""
    monkeypatch.setattr(torch.cuda, "is_available", lambda: gpu)
    monkeypatch.setattr(torch.cuda, "is_bf16_supported", lambda including_emulation: native)
    monkeypatch.setattr(precision, "native_bf16", lambda: native)
    choice = settle(TrainConfig(precision="auto", accelerator=accelerator))  # type: ignore[arg-type]
    assert choice.precision == expected
    assert reason in choice.words
    assert settle(TrainConfig(precision="32-true")) == ("32-true", "")


def test_the_environment_decides_for_the_machine(monkeypatch: pytest.MonkeyPatch) -> None:
    for value in ("32-true", "bf16-mixed"):
        monkeypatch.setenv(VARIABLE, value)
        assert settle(TrainConfig(precision="auto")) == (value, "SEGPROTO_PRECISION is set to it")
        assert doctor()["train.precision=auto"] == f"{value}, for SEGPROTO_PRECISION is set to it"
    monkeypatch.setenv(VARIABLE, "fp32")
    with pytest.raises(ConfigError, match=r"^SEGPROTO_PRECISION = 'fp32': expected 32-true, bf16-mixed or 16-mixed"):
        settle(TrainConfig(precision="auto"))
    assert settle(TrainConfig(precision="32-true")).precision == "32-true"
    assert "'fp32'" in doctor()["train.precision=auto"]


@pytest.mark.parametrize(("native", "expected"), [(True, "bf16-mixed"), (False, "32-true")])
def test_a_run_says_and_keeps_what_auto_became(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    native: bool,
    expected: str,
) -> None:
    monkeypatch.setattr(precision, "native_bf16", lambda: native)
    train(tmp_path / "run", *AUTO, quiet=False)
    line = f"train.precision = auto: {expected}, for this CPU has {'' if native else 'no '}bfloat16 instructions"
    assert capsys.readouterr().err.startswith(line)
    text = (tmp_path / "run/recipe.yaml").read_text()
    assert text.startswith(f"# {line}")
    assert yaml.safe_load(text)["train"]["precision"] == expected
    assert Segmenter.load(tmp_path / "run/model").card["precision"] == expected
    monkeypatch.setattr(precision, "native_bf16", lambda: not native)
    given = (*AUTO[:2], f"train.precision={expected}", AUTO[3])  # what its recipe.yaml says, on another machine
    shutil.rmtree(tmp_path / "run/checkpoints")
    whole = weights(tmp_path / "run/model")
    train(tmp_path / "run", *given, quiet=False, resume=True)
    assert "train.precision" not in capsys.readouterr().err
    assert weights(tmp_path / "run/model") == whole
    assert (tmp_path / "run/recipe.yaml").read_text() == text


def classes_seen(model: Segmenter, images: torch.Tensor, mixed: bool) -> torch.Tensor:
    """The network in a precision, the rest in float32."""
    with torch.no_grad():
        with torch.autocast("cpu", torch.bfloat16, enabled=mixed):
            logits = model.grid_logits(model.encoder.normalisation(images))
        return F.interpolate(logits.float(), images.shape[-2:], mode="bilinear").argmax(1)


def test_the_card_says_how_far_a_precision_agrees_with_float32(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    settings = (*AUTO[:2], "train.precision=bf16-mixed", "data.scenes.num_val=5")
    train(tmp_path / "run", *settings, quiet=False)
    model, dataset = Segmenter.load(tmp_path / "run/model"), build_dataset(recipe(*settings).data, "val")
    images = torch.stack([dataset[i].image for i in range(5)])
    same = classes_seen(model, images, mixed=True) == classes_seen(model, images, mixed=False)
    agreement = model.card["float32_agreement"]
    assert agreement == {
        "precision": "bf16-mixed",
        "share": pytest.approx(same.double().mean().item(), abs=1e-6),
        "images": 5,
        "pixels": 5 * 32 * 32,
    }
    share = f"{math.floor(1e4 * agreement['share']) / 100:.2f}"
    words = f"{share} % of the pixels of 5 validation images have the class of float32"
    assert f"bf16-mixed: {words}" in capsys.readouterr().err
    assert f"- trained in: bf16-mixed; {words}\n" in model_card(model, "a/b")
    train(tmp_path / "plain", *AUTO[:2], "train.precision=32-true")
    plain = Segmenter.load(tmp_path / "plain/model")
    assert "float32_agreement" not in plain.card
    assert "- trained in: 32-true\n" in model_card(plain, "a/b")


def test_the_agreement_is_over_images_spread_over_the_data(monkeypatch: pytest.MonkeyPatch) -> None:
    model, dataset = segmenter("linear"), build_dataset(recipe("data.scenes.num_val=7").data, "val")
    images = torch.stack([dataset[i].image for i in range(7)])
    same = classes_seen(model, images, mixed=True) == classes_seen(model, images, mixed=False)
    shares = same.flatten(1).double().mean(1)
    assert len(set(shares.tolist())) > 4
    for count, seen in ((16, range(7)), (3, (0, 2, 4))):
        agreement = float32_agreement(model, dataset, "bf16-mixed", Protocol(), images=count)
        assert agreement["share"] == pytest.approx(shares[list(seen)].mean().item(), abs=1e-6)
        assert 0.9 < agreement["share"] < 1
    monkeypatch.setattr(float32, "PIXELS", 2 * 32 * 32 + 5)
    assert float32_agreement(model, dataset, "bf16-mixed", Protocol())["images"] == 2
    for share, shown in ((0.999999, "99.99"), (1.0, "100.00")):
        card = {"float32_agreement": {"share": share, "images": 3}}
        assert agreement_words(card).startswith(f"{shown} % of the pixels of 3 ")
    for odd in ("x", {"share": float("nan"), "images": 3}, {"share": "all"}, None):
        assert agreement_words({"float32_agreement": odd}) == ""


def test_comparisons_tell_runs_of_different_precisions(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for name in ("32-true", "bf16-mixed"):
        train(tmp_path / name, *AUTO[:2], f"train.precision={name}")
    rows = compare_runs([tmp_path / "32-true", tmp_path / "bf16-mixed"])["rows"]
    assert [row["precisions"] for row in rows] == [["32-true"], ["bf16-mixed"]]
    print_compare([tmp_path / "32-true", tmp_path / "bf16-mixed"])
    message = "trained in different precisions: 32-true in 32-true, bf16-mixed in bf16-mixed"
    assert message in " ".join(capsys.readouterr().out.split())
    print_compare([tmp_path / "32-true"])
    assert "precisions" not in capsys.readouterr().out
