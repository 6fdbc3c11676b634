"""Models that were published to see images at a size of their own: predict, explain and evaluate look the same way."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from PIL import Image
from tiny_segmenters import image, segmenter
from torch import Tensor

import segproto
from segproto.encoders.build import build_encoder
from segproto.encoders.config import EncoderConfig
from segproto.errors import DataError
from segproto.model.heads import LinearHead
from segproto.model.predict import predict, predict_logits
from segproto.model.segmenter import Segmenter


@torch.no_grad()
def seen_at(model: Segmenter, pixels: Tensor, size: tuple[int, int]) -> Tensor:
    """Logits (C, H, W) of an image that the model sees stretched to ``size``."""
    x = F.interpolate(model.encoder.normalisation(pixels)[None], size, mode="bilinear", align_corners=False)
    return F.interpolate(model.grid_logits(x), pixels.shape[1:], mode="bilinear", align_corners=False)[0]


@pytest.mark.parametrize(("input_size", "size"), [((60, 48), (60, 48)), (48, (48, 66))])
def test_predictions_and_explanations_see_it(input_size: int | tuple[int, int], size: tuple[int, int]) -> None:
    model, pixels = segmenter("grouped"), image(32, 44)
    model.input_size = input_size
    wanted = seen_at(model, pixels, size)
    torch.testing.assert_close(predict_logits(model, pixels), wanted, rtol=1e-4, atol=1e-4)
    mask = predict(model, pixels)
    assert (mask == wanted.argmax(0)).float().mean() > 0.999
    why = model.explain(pixels)
    assert torch.equal(why.prediction, mask)
    assert why.completeness_error(None) < 1e-4
    own = seen_at(model, pixels, (32, 44))
    assert (mask != own.argmax(0)).any()
    torch.testing.assert_close(predict_logits(model, pixels, scales=[1.0]), own, rtol=1e-4, atol=1e-4)


@pytest.fixture
def saved(tmp_path: Path) -> tuple[Segmenter, Path, dict[str, object]]:
    """A model of three classes, its folder, and data that agree with what it sees at 64 x 48."""
    torch.manual_seed(1)
    encoder = build_encoder(EncoderConfig(name="unet", width=4, output_stride=4, neck="identity", squash="none"))
    with torch.no_grad():
        for parameter in encoder.parameters():
            parameter.mul_(1.5)
    model = Segmenter(encoder, LinearHead(encoder.num_features, 3), segmenter("linear", classes=3).classes).eval()
    with torch.no_grad():
        head = model.head
        assert isinstance(head, LinearHead)
        head.weight.normal_(std=4)
        head.bias.sub_(
            model.grid_logits(model.encoder.normalisation(image(64, 48))[None]).mean((0, 2, 3))
        )  # no class wins
    model.input_size = (64, 48)
    model.save(tmp_path / "model")
    for part in ("images", "labels"):
        (tmp_path / "data" / part).mkdir(parents=True)
    names = ", ".join(f"{{name: {name}, values: [{i}]}}" for i, name in enumerate(model.classes.names))
    (tmp_path / "data" / "classes.yaml").write_text(f"classes: [{names}]\n")
    for i in range(3):
        pixels = image(32, 40, seed=i)
        Image.fromarray(pixels.permute(1, 2, 0).numpy()).save(tmp_path / f"data/images/{i}.png")
        mask = seen_at(model, pixels, (64, 48)).argmax(0).to(torch.uint8)
        Image.fromarray(mask.numpy()).save(tmp_path / f"data/labels/{i}.png")
    data = {"name": "folder", "root": str(tmp_path / "data"), "split": {"val_pattern": "."}}
    return model, tmp_path / "model", data


def test_evaluate_sees_it_unless_told_otherwise(saved: tuple[Segmenter, Path, dict[str, object]]) -> None:
    _, folder, data = saved
    assert Segmenter.load(folder).input_size == (64, 48)
    assert segproto.evaluate(folder, data=data, quiet=True)["accuracy"] > 0.999
    own = segproto.evaluate(folder, data={**data, "input_size": None}, quiet=True)["accuracy"]
    assert own < 0.999
    assert segproto.evaluate(folder, data=data, overrides=["data.input_size=null"], quiet=True)["accuracy"] == own
    assert segproto.evaluate(folder, data=data, window=32, quiet=True)["accuracy"] < 0.999
    assert segproto.evaluate(folder, data={**data, "input_size": [32, 40]}, quiet=True)["accuracy"] == own
    out = folder.parent / "masks"
    segproto.predict(folder, folder.parent / "data" / "images", out=out, quiet=True)
    for i in range(3):
        masks = [np.array(Image.open(path / f"{i}.png")) for path in (out, folder.parent / "data" / "labels")]
        assert (masks[0] == masks[1]).mean() > 0.999


def test_evaluate_scores_the_listed_images_alone(saved: tuple[Segmenter, Path, dict[str, object]]) -> None:
    _, folder, data = saved
    names = folder.parent / "some.txt"
    names.write_text("2.png\n0\n")
    Image.fromarray(np.zeros((32, 40), np.uint8)).save(folder.parent / "data/labels/1.png")  # would spoil the score
    figures = segproto.evaluate(folder, data=data, names=names, quiet=True)
    assert figures["images"] == 2
    assert figures["accuracy"] > 0.999
    assert segproto.evaluate(folder, data=data, quiet=True)["accuracy"] < 0.95
    names.write_text("0\nnine\n")
    with pytest.raises(DataError, match="1 of its 2 images are not in the val images, the first 'nine'"):
        segproto.evaluate(folder, data=data, names=names, quiet=True)
