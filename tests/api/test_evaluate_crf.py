"""``segproto evaluate`` as DeepLab is tested: scales, mirrored, with and without a CRF; a part without labels."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from PIL import Image
from sklearn.metrics import confusion_matrix
from tiny_segmenters import segmenter
from tiny_sets import Tiny
from typer.testing import CliRunner

import segproto
from segproto.cli.app import app
from segproto.data.build import build_dataset
from segproto.errors import ConfigError, DataError
from segproto.evaluation.protocol import Protocol
from segproto.evaluation.validate import validate
from segproto.model.segmenter import Segmenter
from segproto.refine.crf import dense_crf
from segproto.refine.crf_settings import CRF_SETS
from segproto.runs.settings import data_config

SCALES = (0.5, 1.0, 1.5)


def naive_logits(model: Segmenter, image: torch.Tensor) -> torch.Tensor:
    """Mean over scales and mirror images, each resized to the image, in a plain loop."""
    x, size = model.encoder.normalisation(image)[None], tuple(image.shape[1:])
    total = torch.zeros(1, model.head.num_classes, *size)
    with torch.no_grad():
        for scale in SCALES:
            seen = F.interpolate(x, [round(s * scale) for s in size], mode="bilinear", align_corners=False)
            total += F.interpolate(model(seen), size, mode="bilinear", align_corners=False)
            total += F.interpolate(model(seen.flip(3)), size, mode="bilinear", align_corners=False).flip(3)
    return total[0] / 6


def test_scores_before_and_after_the_crf_equal_the_naive_ones(tmp_path: Path) -> None:
    model = segmenter("grouped", multiple=8)
    dataset = Tiny(model, 3)
    figures = validate(
        model, dataset, Protocol(scales=SCALES, flip=True, crf=CRF_SETS["E"]), save_masks=tmp_path / "val"
    )
    true: list[torch.Tensor] = []
    masks: dict[str, list[torch.Tensor]] = {"val": [], "val-crf": []}
    for i, name in enumerate(dataset.names):
        sample = dataset[i]
        p = naive_logits(model, sample.image).softmax(0)
        own = {"val": p.argmax(0)}
        own["val-crf"] = dense_crf(sample.image[None], -p.clamp(1e-5, 1).log()[None], CRF_SETS["E"])[0].argmax(0)
        keep = sample.mask != 255
        true.append(sample.mask[keep])
        for folder, mask in own.items():
            saved = torch.from_numpy(np.array(Image.open(tmp_path / folder / f"{name}.png"))).long()
            assert float((saved == mask).float().mean()) > 0.97  # here upsampled in two steps, there in one
            masks[folder].append(saved[keep])
    for folder, scores in (("val", figures), ("val-crf", figures["crf"])):
        counts = confusion_matrix(torch.cat(true).numpy(), torch.cat(masks[folder]).numpy(), labels=range(4))
        union = counts.sum(0) + counts.sum(1) - np.diag(counts)
        assert scores["confusion"] == counts.tolist()
        assert scores["miou"] == pytest.approx((np.diag(counts) / union)[union > 0].mean())
    assert figures["crf"]["confusion"] != figures["confusion"]
    with pytest.raises(ConfigError, match="leave out window"):
        validate(model, dataset, Protocol(window=32, crf=CRF_SETS["E"]))
    with pytest.raises(ValueError, match="or CRF"):
        validate(model, dataset, Protocol(crf=CRF_SETS["E"]), cache=object())  # type: ignore[arg-type]


@pytest.fixture(scope="module")
def run(blackbox_run: Path) -> Path:
    return blackbox_run


@pytest.fixture(scope="module")
def images(run: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Three images without labels."""
    folder = tmp_path_factory.mktemp("unlabelled")
    dataset = build_dataset(data_config(run, {}, []), "train")
    for i in range(3):
        Image.fromarray(dataset[i].image.permute(1, 2, 0).numpy()).save(folder / f"t{i}.png")
    return folder


def test_one_command_scores_val_and_writes_test(run: Path, images: Path, tmp_path: Path) -> None:
    (tmp_path / "test.txt").write_text("t0\nt2\n")
    command = ["evaluate", run, "--scales", "0.5,1,1.5", "--flip", "--crf", "E", "--save", tmp_path / "masks"]
    command += ["--test", images, "--list", tmp_path / "test.txt", "--device", "cpu", "--out", tmp_path / "f.json"]
    answer = CliRunner().invoke(app, [str(part) for part in command], env={"COLUMNS": "120"})
    assert answer.exit_code == 0, answer.output
    assert "IoU % after CRF" in answer.output
    figures = json.loads((tmp_path / "f.json").read_text())
    assert figures["test_images"] == 2
    val = {f"{name}.png" for name in build_dataset(data_config(run, {}, []), "val").names}
    for folder, names in (("val", val), ("test", {"t0.png", "t2.png"})):
        for made in (folder, f"{folder}-crf"):
            assert {p.name for p in (tmp_path / "masks" / made).rglob("*.png")} == names
    segproto.predict(run, images, out=tmp_path / "alone", scales=SCALES, flip=True, device="cpu")
    for name in ("t0.png", "t2.png"):
        alone, own = (np.array(Image.open(tmp_path / part / name)) for part in ("alone", "masks/test"))
        assert np.array_equal(alone, own)


def test_without_a_crf_the_masks_are_the_plain_ones(run: Path, images: Path, tmp_path: Path) -> None:
    figures = segproto.evaluate(run, save=tmp_path, test=images, device="cpu")
    assert "crf" not in figures
    assert sorted(p.name for p in tmp_path.iterdir()) == ["test", "val"]
    assert len(list((tmp_path / "test").iterdir())) == figures["test_images"] == 3


def test_what_cannot_be_is_refused(run: Path, images: Path, tmp_path: Path) -> None:
    (tmp_path / "test.txt").write_text("t0\nt9\n")
    with pytest.raises(ConfigError, match="CRF X: expected one of A, B, C, D, E"):
        segproto.evaluate(run, crf="X")
    with pytest.raises(ConfigError, match="take --save DIR --test IMAGES"):
        segproto.evaluate(run, test=images)
    with pytest.raises(DataError, match="2 of its 2 images are not in the val images, the first 't0'"):
        segproto.evaluate(run, save=tmp_path, names=tmp_path / "test.txt", device="cpu")
    with pytest.raises(DataError, match=r"1 of the images in .* are not there, the first 't9'"):
        segproto.evaluate(run, save=tmp_path, test=images, names=tmp_path / "test.txt", device="cpu")
