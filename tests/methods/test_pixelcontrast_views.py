"""Maps over several scales as the releases make them, against their inference restated from its description."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import tiny_segmenters
import torch
import torch.nn.functional as F
from PIL import Image
from torch import Tensor, nn

from segproto.data.augment import augment
from segproto.data.base import ClassTable
from segproto.data.batch import Batch
from segproto.data.config import AugmentConfig
from segproto.data.palette import default_colours
from segproto.encoders.aspp_pool import ASPPPool
from segproto.encoders.base import HALF, IMAGENET, Encoder
from segproto.encoders.build import build_encoder
from segproto.encoders.config import EncoderConfig
from segproto.errors import ConfigError
from segproto.methods.pixelcontrast import contrast as contrast_module
from segproto.methods.pixelcontrast.config import CamsConfig, ContrastConfig
from segproto.methods.pixelcontrast.contrast import ContrastLoss
from segproto.methods.pixelcontrast.infer import image_cams
from segproto.model.cam_head import RELEASED, CamHead
from segproto.model.heads import build_head
from segproto.model.segmenter import Segmenter
from segproto.model.tap_head import TapHead
from segproto.refine.affinity import cell_pairs
from segproto.runs.catalogue import read_recipe
from segproto.training.procedures.config import OptimiseConfig
from segproto.training.procedures.optimise import parameter_groups

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


def test_each_view_sees_its_own_saliency(monkeypatch: pytest.MonkeyPatch) -> None:
    """Bilinearly to the second view with corners aligned, then to the nearest cell in the loss, as EPS' release."""
    seen: list[Tensor] = []

    def record(cam: Tensor, saliency: Tensor, *_: Tensor, **__: float) -> Tensor:
        seen.append(saliency)
        return cam.sum()

    monkeypatch.setattr(contrast_module, "saliency_loss", record)
    monkeypatch.setattr(ContrastLoss, "_labels", lambda *_: torch.ones(2, CLASSES))
    torch.manual_seed(0)
    encoder = Encoder(Stride8(), nn.Identity(), (12,), HALF, EncoderConfig(neck="identity", squash="none"), 8)
    model = Segmenter(encoder, CamHead(12, CLASSES), ClassTable(tuple("abcde"), default_colours(CLASSES)))
    masks = torch.randint(0, 255, (2, 64, 64))
    masks[:, :5] = 255  # outside the image
    levels = torch.where(masks == 255, 0, masks)[:, None] / 254
    batch = Batch(masks, images=torch.randn(2, 3, 64, 64), names=("a", "b"))
    small = F.interpolate(levels, (32, 32), mode="bilinear", align_corners=True)
    for views, second in (("first", levels), ("each", small)):
        seen.clear()
        config = {"er": 0, "ecr": 0, "contrast": 0, "second_view": 0.5, "saliency": "x", "saliency_views": views}
        ContrastLoss(ContrastConfig.model_validate(config), None)(model, batch)
        for found, wanted in zip(seen, (levels, second, levels, second), strict=True):
            torch.testing.assert_close(found, wanted)


def test_crops_are_black_outside_the_image() -> None:
    """As AffinityNet crops: bytes are padded with zeros, then normalised."""
    image, mask = torch.randint(1, 256, (3, 5, 7), dtype=torch.uint8), torch.zeros(5, 7, dtype=torch.uint8)
    for outside, value in (("black", 0.0), ("mean", None)):
        config = AugmentConfig(crop=12, scale=(1, 1), flip=False, outside=outside)  # type: ignore[arg-type]
        part, labels = augment(image, mask, config, torch.Generator().manual_seed(0), IMAGENET)
        bytes_ = torch.zeros(3, 12, 12, dtype=torch.uint8)
        bytes_[:, :5, :7] = image
        wanted = IMAGENET(bytes_)
        if value is None:
            wanted[:, labels == 255] = 0
        torch.testing.assert_close(part, wanted)


def test_the_readouts_weights_decay_and_its_bias_does_not() -> None:
    model = tiny_segmenters.segmenter("linear")
    rates = {"lr": {"backbone": 0, "neck": 0, "readout": 1e-2}, "steps": 1}
    own = {id(model.head.weight): "weight", id(model.head.bias): "bias"}  # type: ignore[union-attr]
    for decay, wanted in ((0.0, {"weight": 0.0, "bias": 0.0}), (5e-4, {"weight": 5e-4, "bias": 0.0})):
        groups = parameter_groups(model, OptimiseConfig.model_validate({**rates, "readout_decay": decay}))
        assert {own[id(p)]: group.weight_decay for group in groups for p in group.params} == wanted
        assert {group.lr for group in groups} == {1e-2}


def test_the_necks_norms_follow_as_slowly_as_published() -> None:
    config = read_recipe("blackbox/deeplabv2-resnet101-published")["encoder"]
    assert config["neck_momentum"] == 3e-4
    momenta = {m.momentum for m in ASPPPool(4, 2, momentum=3e-4).modules() if isinstance(m, nn.BatchNorm2d)}
    assert momenta == {3e-4}
    assert {m.momentum for m in ASPPPool(4, 2).modules() if isinstance(m, nn.BatchNorm2d)} == {0.1}
    with pytest.raises(ConfigError, match="only aspp_pool reads it"):
        build_encoder(EncoderConfig(name="unet", width=2, neck_momentum=0.1))


def test_published_twins_have_the_last_details() -> None:
    eps, seam = (read_recipe(f"pixelcontrast/voc-{name}-published")["stages"] for name in ("eps", "seam"))
    assert eps["contrast"]["saliency_views"] == "each"
    assert seam["affinity"]["augment"]["outside"] == "black"
    for name in ("deeplabv1-resnet38", "deeplabv1-resnet101", "deeplabv2-resnet101"):
        assert read_recipe(f"blackbox/{name}-published")["stages"]["joint"]["readout_decay"] == 5e-4
        assert "readout_decay" not in read_recipe(f"blackbox/{name}")["stages"]["joint"]


@pytest.mark.parametrize("edge", [5, 8, 10, 11])
def test_psas_radius_on_small_grids(edge: int) -> None:
    """``radius = (min_edge - 1) // 2 if min_edge < radius * 2 + 1 else radius`` (network/resnet38_aff.py)."""
    radius = (edge - 1) // 2 if edge < 5 * 2 + 1 else 5
    pairs = cell_pairs(edge, edge + 4, 5, complete=False)
    first, second = pairs.indices()
    rows, columns = (second - first + 4 * (edge + 4)) // (edge + 4) - 4, second % (edge + 4) - first % (edge + 4)
    assert int((rows**2 + columns**2).max()) < radius**2
    assert int((rows**2 + columns**2).max()) >= (radius - 1) ** 2
