"""Models whose logits are enlarged with aligned corners, everywhere alike, against ``F.interpolate``."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from tiny_segmenters import image, segmenter
from torch import Tensor

from segproto.encoders.build import build_encoder
from segproto.encoders.config import EncoderConfig
from segproto.errors import ConfigError
from segproto.interop.export import export
from segproto.model.field import Field
from segproto.model.fingerprint import backbone_hash, encoder_hash
from segproto.model.heads import LinearHead
from segproto.model.predict import predict, predict_logits
from segproto.model.segmenter import Segmenter
from segproto.training.procedures.optimise import compared


def aligned(kind: str = "prototype", multiple: int = 1, pad: bool | None = None) -> Segmenter:
    model = segmenter(kind, multiple=multiple)
    model.encoder.config = EncoderConfig(enlarge="align_corners", pad=pad)
    return model


@torch.no_grad()
def wanted(model: Segmenter, pixels: Tensor, multiple: int = 1) -> Tensor:
    """Logits (C, H, W), restated: pad, grid, enlarge with aligned corners, crop."""
    x = model.encoder.normalisation(pixels)[None]
    size = pixels.shape[-2:]
    full = [-(-side // multiple) * multiple for side in size]
    x = F.pad(x, (0, full[1] - size[1], 0, full[0] - size[0]))
    grid = model.head(torch.sigmoid(model.encoder.neck(model.encoder.backbone(x))))
    return F.interpolate(grid, full, mode="bilinear", align_corners=True)[0, :, : size[0], : size[1]]


@pytest.mark.parametrize("kind", ["linear", "prototype", "grouped"])
@pytest.mark.parametrize("multiple", [1, 16])
def test_predictions_and_explanations_align_corners(kind: str, multiple: int) -> None:
    model, pixels = aligned(kind, multiple), image(37, 51)
    expected = wanted(model, pixels, multiple)
    torch.testing.assert_close(predict_logits(model, pixels), expected, rtol=1e-4, atol=1e-4)
    forward = model(model.encoder.normalisation(pixels)[None])[0].detach()
    torch.testing.assert_close(forward, expected, rtol=1e-4, atol=1e-4)
    assert (predict(model, pixels) == expected.argmax(0)).float().mean() > 0.999
    why = model.explain(pixels)
    ys, xs = (v.flatten() for v in torch.meshgrid(torch.arange(37), torch.arange(51), indexing="ij"))
    torch.testing.assert_close(why.logits(ys, xs).T.reshape(-1, 37, 51), expected, rtol=1e-4, atol=1e-4)
    assert why.completeness_error(None) < 1e-4
    half = segmenter(kind, multiple=multiple)
    assert not torch.allclose(predict_logits(half, pixels), expected, atol=1e-2)


def test_without_padding_the_grid_covers_the_image() -> None:
    model, pixels = aligned(multiple=16, pad=False), image(37, 51)
    torch.testing.assert_close(predict_logits(model, pixels), wanted(model, pixels), rtol=1e-4, atol=1e-4)


@torch.no_grad()
def test_scales_and_flips_map_corner_to_corner() -> None:
    model, pixels = aligned(), image(40, 52)
    found = predict_logits(model, pixels, scales=[0.5, 1.5], flip=True)
    x = model.encoder.normalisation(pixels)[None]
    parts = []
    for factor in (0.5, 1.5):
        seen = F.interpolate(x, (round(40 * factor), round(52 * factor)), mode="bilinear", align_corners=False)
        for view in (seen, seen.flip(-1)):
            grid = model.grid_logits(view)  # at once to the image's size, as wseg tests DeepLab
            full = F.interpolate(grid, (40, 52), mode="bilinear", align_corners=True)
            parts.append(full if view is seen else full.flip(-1))
    torch.testing.assert_close(found, torch.stack(parts).mean(0)[0], rtol=1e-4, atol=1e-4)


def test_one_cell_and_one_pixel() -> None:
    model = aligned()
    for size in ((1, 1), (1, 9), (4, 4)):
        grid = torch.randn(2, 1, max(1, size[1] // 4))
        field = Field.over(grid, model.encoder, size, size)
        expected = F.interpolate(grid[None], size, mode="bilinear", align_corners=True)[0]
        torch.testing.assert_close(field.rows(0, size[0]), expected)


def test_training_and_graphs_align_corners(tmp_path: Path) -> None:
    model, pixels = aligned("linear"), image(64, 96)
    expected = wanted(model, pixels)
    grid = model.grid_logits(model.encoder.normalisation(pixels)[None])
    logits, _ = compared(grid, torch.zeros(1, 64, 96), "image", aligned=True)
    torch.testing.assert_close(logits[0].detach(), expected, rtol=1e-4, atol=1e-4)
    for kind, name in (("torch", "a.pt2"), ("onnx", "a.onnx")):
        export(model, tmp_path / name, kind)  # type: ignore[arg-type]  # compares with the model
    program = torch.export.load(tmp_path / "a.pt2").module()
    torch.testing.assert_close(program(pixels[None])[0][0], expected, rtol=1e-3, atol=1e-3)


def test_artefacts_keep_it_and_features_do_not_change(tmp_path: Path) -> None:
    config = EncoderConfig(name="unet", width=2, neck="identity", squash="none")
    torch.manual_seed(0)
    plain = build_encoder(config)
    hashes = encoder_hash(plain), backbone_hash(plain)
    plain.config = config.model_copy(update={"enlarge": "align_corners"})
    assert (encoder_hash(plain), backbone_hash(plain)) == hashes  # features are the same
    plain.config = config.model_copy(update={"pad": False})
    assert encoder_hash(plain) != hashes[0]
    assert backbone_hash(plain) != hashes[1]
    plain.config = config.model_copy(update={"enlarge": "align_corners"})
    model = Segmenter(plain, LinearHead(plain.num_features, 4), segmenter("linear").classes).eval()
    model.save(tmp_path / "model")
    again = Segmenter.load(tmp_path / "model")
    assert again.encoder.config.aligned
    assert torch.equal(predict_logits(again, image(9, 9)), predict_logits(model, image(9, 9)))
    with pytest.raises(ConfigError, match=r"unet does not take images of any size; resnet38d"):
        build_encoder(EncoderConfig(name="unet", width=2, pad=False))


def test_a_finer_grid_holds_interpolated_features() -> None:
    for enlarge in ("half_pixel", "align_corners"):
        model = segmenter("prototype")
        plain = model.encoder.normalisation(image(24, 16))[None]
        model.encoder.config = EncoderConfig(enlarge=enlarge)
        coarse, before = model.features(plain), encoder_hash(model.encoder)
        model.encoder.config = EncoderConfig(enlarge=enlarge, finer=3)
        sides = [3 * side for side in coarse.shape[-2:]]
        expected = F.interpolate(coarse, sides, mode="bilinear", align_corners=enlarge == "align_corners")
        assert torch.equal(model.features(plain), expected)
        cached = model.encoder.from_backbone(model.encoder.backbone_features(plain))
        assert torch.equal(cached, expected)
        assert encoder_hash(model.encoder) != before  # other features, of the same cached ones of the backbone
        logits = F.interpolate(model.head(expected), (24, 16), mode="bilinear", align_corners=enlarge != "half_pixel")
        torch.testing.assert_close(predict_logits(model, image(24, 16)), logits[0])
