"""Maps over several scales as the releases make them, against their inference restated from its description."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from PIL import Image
from torch import Tensor, nn

from segproto.data.base import ClassTable
from segproto.data.palette import default_colours
from segproto.encoders.base import HALF, Encoder
from segproto.encoders.config import EncoderConfig
from segproto.errors import ConfigError
from segproto.methods.pixelcontrast.config import CamsConfig
from segproto.methods.pixelcontrast.infer import image_cams
from segproto.model.cam_head import RELEASED, CamHead
from segproto.model.heads import build_head
from segproto.model.segmenter import Segmenter
from segproto.model.tap_head import TapHead
from segproto.runs.catalogue import read_recipe

SIZE, CLASSES, PRESENT = (45, 62), 5, [1, 4]  # odd at every scale
SCALES = [0.5, 1.0, 1.5]


class Stride8(nn.Conv2d):
    """Grids of ceil(H / 8) x ceil(W / 8) cells, as ResNet-38's."""

    any_size = True

    def __init__(self) -> None:
        super().__init__(3, 12, 9, stride=8, padding=4)


@pytest.fixture(scope="module")
def model() -> Segmenter:
    torch.manual_seed(3)
    encoder = Encoder(Stride8(), nn.Identity(), (12,), HALF, EncoderConfig(neck="identity", squash="none"), 8)
    with torch.no_grad():
        encoder.backbone.weight.mul_(4)
    return Segmenter(encoder, CamHead(12, CLASSES), ClassTable(tuple("abcde"), default_colours(CLASSES))).eval()


@pytest.fixture(scope="module")
def picture() -> Tensor:
    g = torch.Generator().manual_seed(5)
    return torch.randint(0, 256, (3, *SIZE), generator=g, dtype=torch.uint8)


@torch.no_grad()
def released(model: Segmenter, picture: Tensor, which: str) -> Tensor:
    """Maps (K, H, W) of the present classes: one forward pass per scale and mirror image, batch 1, full maps summed."""
    height, width = SIZE
    pil = Image.fromarray(picture.permute(1, 2, 0).numpy())
    total = np.zeros((CLASSES - 1, height, width), np.float32)
    labels = np.zeros((CLASSES - 1, 1, 1), np.float32)
    labels[[c - 1 for c in PRESENT]] = 1
    for scale in SCALES:
        small = pil.resize((round(width * scale), round(height * scale)), Image.Resampling.BICUBIC)
        x = (np.asarray(small, np.float32) / 255 - 0.5) / 0.5
        for flipped in (False, True):
            seen = torch.from_numpy(np.ascontiguousarray((x[:, ::-1] if flipped else x).transpose(2, 0, 1)))[None]
            maps = model.head.maps(model.encoder.backbone(seen))  # type: ignore[operator, union-attr]
            if which == "seam":
                cam = F.interpolate(maps.refined, seen.shape[-2:], mode="bilinear", align_corners=True)[:, 1:]
            else:
                cam = maps.cam.softmax(1)[:, 1:]
            cam = F.interpolate(cam, SIZE, mode="bilinear", align_corners=False)[0].numpy() * labels
            total += cam[:, :, ::-1] if flipped else cam
    if which == "eps":
        return torch.from_numpy(total / (total.max((1, 2), keepdims=True) + 1e-5))[[c - 1 for c in PRESENT]]
    total[total < 0] = 0
    low, high = total.min((1, 2), keepdims=True), total.max((1, 2), keepdims=True)
    total[total < low + 1e-5] = 0
    normed = (total - low - 1e-5) / (high - low + 1e-5)
    return torch.from_numpy(normed)[[c - 1 for c in PRESENT]]


def settings(which: str, **more: Any) -> CamsConfig:
    views = RELEASED[which]
    options = {"resize": views.resize, "enlarge": views.enlarge, "pad": views.pad, **more}
    return CamsConfig(scales=SCALES, source="refined" if which == "seam" else "softmax", lost="empty", **options)


def labels_of(maps: Tensor) -> Tensor:
    return torch.cat([torch.full_like(maps[:1], 0.26), maps]).argmax(0)


@pytest.mark.parametrize("which", ["seam", "eps"])
def test_maps_are_the_released_ones(model: Segmenter, picture: Tensor, which: str) -> None:
    wanted = released(model, picture, which)
    found = image_cams(model, picture, PRESENT, settings(which))
    torch.testing.assert_close(found, wanted.clamp_min(0), rtol=1e-4, atol=1e-5)  # ours has no negative values
    assert (labels_of(found) == labels_of(wanted)).float().mean() > 0.999
    assert labels_of(wanted).unique().numel() > 1
    # each of the three matters
    for other in ({"resize": "float"}, {"enlarge": "half_pixel"}, {"pad": True}):
        changed = image_cams(model, picture, PRESENT, settings(which, **other))
        assert not torch.allclose(changed, found, atol=1e-3), other


def test_left_out_they_are_the_heads_own(model: Segmenter, picture: Tensor) -> None:
    plain = CamsConfig(scales=SCALES, lost="empty")
    ours = image_cams(model, picture, PRESENT, plain)
    said = image_cams(model, picture, PRESENT, settings("seam", resize="float", enlarge="half_pixel", pad=True))
    assert torch.equal(ours, said)
    model.head.views = RELEASED["seam"]  # type: ignore[assignment]
    try:
        assert torch.equal(
            image_cams(model, picture, PRESENT, plain), image_cams(model, picture, PRESENT, settings("seam"))
        )
    finally:
        del model.head.views
    assert model.encoder.config.pad is None  # put back


def test_converted_heads_say_it_in_their_description() -> None:
    head = TapHead(3, 0, taps=(3, 4, 4, 4), refine=False, released="eps")
    again = build_head(head.describe())
    assert isinstance(again, TapHead)
    assert again.views == RELEASED["eps"]
    assert "released" not in TapHead(3, 0, taps=(3, 4, 4, 4), refine=False).describe()


def test_a_backbone_that_needs_padding_is_named(model: Segmenter, picture: Tensor) -> None:
    Stride8.any_size = False
    try:
        with pytest.raises(ConfigError, match="does not take images of any size"):
            image_cams(model, picture, PRESENT, settings("seam"))
    finally:
        Stride8.any_size = True


@pytest.mark.parametrize(
    ("name", "enlarge"),
    [
        ("voc-seam", "align_corners"),
        ("voc-eps", "direct"),
        ("voc-eps-plain", "direct"),
        ("voc-seam-baseline", "align_corners"),
    ],
)
def test_published_recipes_do_so(name: str, enlarge: str) -> None:
    cams = read_recipe(f"pixelcontrast/{name}-published")["stages"]["cams"]
    assert (cams["resize"], cams["enlarge"], cams["pad"]) == ("pil", enlarge, False)
    assert not {"resize", "enlarge", "pad"} & read_recipe(f"pixelcontrast/{name}")["stages"]["cams"].keys()
