"""The recipes of Pascal VOC against the published settings, and what they set."""

from __future__ import annotations

from importlib import import_module
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from segproto.data.augment import augment
from segproto.data.base import ClassTable
from segproto.data.batch import Batch
from segproto.data.colour import from_hsv, jittered, shifted_hsv, to_hsv
from segproto.data.config import AugmentConfig
from segproto.data.palette import default_colours
from segproto.encoders.base import IMAGENET, Encoder
from segproto.encoders.config import EncoderConfig
from segproto.encoders.resnet38 import FROZEN, ResNet38Taps
from segproto.errors import ConfigError
from segproto.methods import METHODS
from segproto.methods.pixelcontrast.config import CamsConfig, Rates, TrainedStage
from segproto.methods.pixelcontrast.contrast import ContrastLoss, _trained, affinity_stage, contrast_stage
from segproto.methods.pixelcontrast.infer import image_cams
from segproto.model.cam_head import CamHead, MapHead
from segproto.model.segmenter import Segmenter
from segproto.model.tap_head import AffinityHead, TapHead
from segproto.refine.seam import to_size, view_losses
from segproto.runs.catalogue import read_recipe
from segproto.training.procedures.config import LearningRates, OptimiseConfig
from segproto.training.procedures.optimise import parameter_groups, set_mode
from segproto.training.recipe import apply_overrides, validate_recipe
from segproto.training.schedule import build_optimizer, lr_factor, set_lr
from segproto.training.stage import Optimise, ParamGroup

IMAGES = 10_582  # of train_aug


def recipe(name: str, *more: str, method: str = "pixelcontrast") -> Any:
    entry = METHODS[method]
    return validate_recipe(apply_overrides(read_recipe(f"{entry.name}/{name}"), more), entry.recipe)


@pytest.mark.parametrize("name", ["voc-seam", "voc-seam-published", "voc-seam-baseline", "voc-seam-baseline-published"])
def test_seam_settings(name: str) -> None:
    r = recipe(name)
    published, baseline = name.endswith("published"), "baseline" in name
    c, a, s = r.stages.contrast, r.stages.affinity, r.stages
    assert (r.data.name, r.data.variant, r.train.batch_size, r.network) == ("voc", None, 8, "seam")
    view = r.data.augment
    assert (view.long_side, view.crop, view.flip, view.jitter) == ((448, 768), 448, True, (0.3, 0.3, 0.3, 0.1))
    assert (a.augment.scale, a.augment.long_side, a.augment.crop, a.augment.jitter) == ((1, 1), None, 448, view.jitter)
    assert c.steps == a.steps == IMAGES // 8 * 8 == 10_576  # 8 epochs of batches of 8
    for stage in (c, a):
        assert (stage.optimizer, stage.schedule, stage.weight_decay, stage.norms) == ("sgd", "poly", 5e-4, "frozen")
        assert stage.horizon is None
        assert stage.momentum == (5e-4 if published else 0.9)
        assert (stage.lr.backbone, stage.lr.head) == ((0.01, 0.1) if published else (0.001, 0.01))
    assert round(448 * c.second_view) == (134 if baseline else 128)
    assert (c.er, c.ecr, c.temperature, c.background_score) == (1, 1, 0.1, 0.2)
    assert c.contrast == (0 if baseline else 0.1)
    assert int(c.confident * 16 * 16) == 32
    assert c.compare == "image"
    assert (c.saliency, c.winners_over) == (None, None)
    assert c.masked is not published
    assert a.complete is not published
    assert a.radius == 5
    assert (s.cams.scales, s.cams.source) == ([0.5, 1, 1.5, 2], "refined")
    assert s.cams.lost == ("empty" if published else "mean")
    assert (s.crf.low, s.crf.high, s.crf.crf.name, s.crf.crf.settings().iterations) == (4, 24, "C", 10)
    assert (s.masks.walk, s.masks.beta, s.masks.log_steps) == (True, 8, 6)
    assert s.masks.background == (0.27 if published else None)
    assert (s.masks.crf is None) is published
    if not published:
        assert (s.masks.alpha, s.masks.crf.name, s.masks.crf.settings().iterations) == (6, "C", 1)
    assert r.then == "blackbox/deeplabv1-resnet38" + ("-published" if published else "")


@pytest.mark.parametrize("name", ["voc-eps", "voc-eps-published", "voc-eps-baseline", "voc-eps-baseline-published"])
def test_eps_settings(name: str) -> None:
    r = recipe(name)
    published, baseline = name.endswith("published"), "baseline" in name
    c, s = r.stages.contrast, r.stages
    assert (r.data.name, r.train.batch_size, r.network) == ("voc", 8, "eps")
    view = r.data.augment
    assert (view.long_side, view.crop, view.flip, view.jitter) == ((448, 768), 448, True, (0.3, 0.3, 0.3, 0.1))
    assert c.steps == 20_000
    assert c.horizon == (IMAGES // 8 * 15 if published else None)
    assert IMAGES // 8 * 15 == 19_830
    assert (c.optimizer, c.schedule, c.weight_decay, c.norms) == ("sgd", "poly", 5e-4, "frozen")
    assert c.momentum == (5e-4 if published else 0.9)
    assert (c.lr.backbone, c.lr.head) == ((0.01, 0.1) if published else (0.001, 0.01))
    assert round(448 * c.second_view) == 128
    assert (c.er, c.ecr, c.temperature, c.background_score, c.overlap) == (1, 1, 0.1, 0.1, 0.4)
    assert c.contrast == (0 if baseline else 0.1)
    assert int(c.confident * 16 * 16) == 16
    assert c.saliency == Path("$VOC_SALIENCY")
    assert c.compare == "grid"
    assert c.winners_over == (1 if published else None)  # aeroplane, published as class 0
    assert c.masked is not published
    assert s.affinity.steps == 0
    assert (s.cams.scales, s.cams.source) == ([0.5, 1, 1.5, 2], "softmax")
    assert (s.masks.walk, s.masks.alpha, s.masks.background) == (False, 8, None)
    assert (s.masks.crf.name, s.masks.crf.settings().iterations) == ("C", 5)
    assert r.then == "blackbox/deeplabv2-resnet101" + ("-published" if published else "")


@pytest.mark.parametrize("name", ["voc-eps-plain", "voc-eps-plain-published"])
def test_plain_eps_settings(name: str) -> None:
    """halbielee/EPS, script/voc12_eps.sh and the defaults of its main.py."""
    r = recipe(name)
    c, published = r.stages.contrast, name.endswith("published")
    assert (r.network, r.train.batch_size, r.data.augment.long_side, r.data.augment.crop) == ("eps", 8, (256, 512), 448)
    assert (c.steps, c.horizon, c.schedule, c.weight_decay, c.overlap) == (20_000, None, "poly", 5e-4, 0.4)
    assert (c.second_view, c.er, c.ecr, c.contrast) == (None, 0, 0, 0)
    assert c.saliency is not None
    assert (c.lr.backbone, c.lr.head) == ((0.01, 0.1) if published else (0.001, 0.01))
    assert c.momentum == (5e-4 if published else 0.9)
    assert r.stages.cams.source == "softmax"


def test_plain_eps_is_one_view_of_raw_maps(monkeypatch: pytest.MonkeyPatch) -> None:
    """The tags' cross-entropy and the saliency's squared error, against loops over images in float64."""
    building = import_module("segproto.methods.pixelcontrast.build")
    monkeypatch.setattr(building, "build_encoder", lambda config: tiny().encoder)
    r = recipe("voc-eps-plain")
    head = building.build(r, CLASSES).head
    assert (head.refine, head.fc_proj, head.dropout7.p, head.shows) == (False, None, 0, "logits")
    model = tiny(refine=False, shows="logits")
    loss = ContrastLoss(r.stages.contrast, r.tags)
    loss.rows, loss.tags = {"a": 0, "b": 1}, torch.tensor([[1.0, 1, 0], [1.0, 0, 1]])
    images, levels = torch.rand(2, 3, 64, 64) * 3, torch.randint(0, 255, (2, 64, 64))
    terms = loss(model, Batch(masks=levels, images=images, names=("a", "b")))
    cam = model.head.maps(model.features(images)).cam.detach().double()  # type: ignore[union-attr, operator]
    tags, saliency = [], []
    for n, own in enumerate((1, 2)):
        for c in (1, 2):
            p = 1 / (1 + (-cam[n, c].mean()).exp())
            tags.append(-(p if c == own else 1 - p).log())
        p, s = cam[n].softmax(0), levels[n, ::8, ::8].double() / 254
        hard = p[own].round()
        salient = (hard * s.round()).sum() / (hard + 1e-4).sum() > 0.4
        front, back = (p[own], p[0]) if salient else (torch.zeros_like(p[0]), p[0] + p[own])
        saliency.append(((0.5 * front + 0.5 * (1 - back) - s) ** 2).mean())
    assert terms.keys() == {"loss", "tags", "saliency"}
    assert terms["tags"].item() == pytest.approx(float(torch.stack(tags).mean()), abs=1e-5)
    assert terms["saliency"].item() == pytest.approx(float(torch.stack(saliency).mean()), abs=1e-5)
    torch.testing.assert_close(terms["loss"], terms["tags"] + terms["saliency"])


def test_one_view_alone_compares_nothing() -> None:
    with pytest.raises(ConfigError, match="nothing to compare; set er=0, ecr=0, contrast=0"):
        recipe("folder", "stages.contrast.second_view=null")
    alone = "stages.contrast={steps: 1, second_view: null, er: 0, ecr: 0, contrast: 0, lr: {head: 1e-3}}"
    with pytest.raises(ConfigError, match=r"trains no pixel correlation; set cams\.source=raw"):
        recipe("folder", alone)
    assert recipe("folder", alone, "stages.cams.source=raw").stages.contrast.second_view is None


@pytest.mark.parametrize("name", ["deeplabv1-resnet38", "deeplabv1-resnet101", "deeplabv2-resnet101"])
@pytest.mark.parametrize("published", [False, True])
def test_deeplab_settings(name: str, published: bool) -> None:
    r = recipe(name + "-published" * published, method="blackbox")
    joint, view = r.stages.joint, r.data.augment
    assert (view.crop, view.scale, view.hsv, view.flip, r.train.batch_size) == (448, (0.5, 1.5), 10, True, 10)
    assert (joint.steps, joint.horizon) == (20_000, 20_001 if published else None)
    assert (joint.optimizer, joint.schedule, joint.weight_decay) == ("sgd", "poly", 5e-4)
    assert (joint.lr.backbone, joint.lr.neck, joint.lr.readout) == (1e-3, 1e-2, 1e-2)
    assert (joint.cross_entropy, joint.class_weights) == ("image", None)
    assert joint.norms == ("statistics" if published else "train")
    assert (r.encoder.neck, r.encoder.squash) == ("aspp_pool" if "v2" in name else "largefov", "none")
    if "38" in name:
        assert r.encoder.name == "resnet38d"
    else:
        assert (r.encoder.backbone, r.encoder.output_stride) == ("resnet101s" if published else "resnet101", 8)
    if "v2" in name:
        assert (r.encoder.rates, r.encoder.dim) == ([6, 12, 18, 24], 256)


def stage(**options: Any) -> Optimise:
    return Optimise("s", 100, lambda m: [], lambda m, b: {}, lambda m: None, **options)


def test_stored_optimizer() -> None:
    """Base learning rate 0.01, 100 steps; and the weight decay that is there."""
    published = stage(optimizer="sgd", schedule="poly", momentum=5e-4)
    group = ParamGroup([nn.Parameter(torch.ones(2))], 0.01, 5e-4)
    optimizer = build_optimizer(published, [group])
    rates = []
    for step in range(3):
        set_lr(optimizer, [group], lr_factor(published, step))
        rates.append(optimizer.param_groups[0]["lr"])
    assert rates == pytest.approx([0.01, 0.00990995, 0.00981982], abs=1e-8)
    own = optimizer.param_groups[0]
    assert (own["momentum"], own["dampening"], own["nesterov"], own["weight_decay"]) == (5e-4, 0, False, 5e-4)
    assert build_optimizer(stage(optimizer="sgd"), [group]).param_groups[0]["momentum"] == 0.9
    made = contrast_stage(recipe("voc-eps-published"))
    assert (made.momentum, made.horizon) == (5e-4, 19_830)
    assert lr_factor(made, 19_829) == lr_factor(made, 19_999) == pytest.approx((1 / 19_830) ** 0.9)
    assert lr_factor(stage(schedule="poly", horizon=101), 99) == pytest.approx((2 / 101) ** 0.9)


class TinyTaps(nn.Module):
    """Maps of a picture at stride 8, as many as the heads read."""

    untrained = ("first",)

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Conv2d(3, 18, 8, 8)
        self.norm = nn.BatchNorm2d(18)

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        maps = self.norm(self.first(images))
        return torch.cat([F.interpolate(images, maps.shape[-2:], mode="bilinear", align_corners=True), maps], 1)


CLASSES = ClassTable(("bg", "a", "b"), default_colours(3))


def tiny(**options: Any) -> Segmenter:
    torch.manual_seed(0)
    config = EncoderConfig(name="resnet38d_taps", neck="identity", squash="none")
    encoder = Encoder(TinyTaps(), nn.Identity(), (21,), IMAGENET, config, 8)
    return Segmenter(encoder, TapHead(3, 4, taps=(3, 5, 6, 7), **options), CLASSES).eval()


def test_views_are_compared_at_the_size_of_the_image(tmp_path: Path) -> None:
    model, images = tiny(), torch.rand(2, 3, 64, 64)
    batch = Batch(masks=torch.full((2, 64, 64), 255), images=images, names=())
    losses = {}
    for where in ("grid", "image"):
        r = recipe("voc-seam", f"stages.contrast.compare={where}", "stages.contrast.second_view=0.5")
        loss = ContrastLoss(r.stages.contrast, r.tags)
        losses[where] = loss(model, batch)
    small = to_size(images, (32, 32))
    maps = [model.head.maps(model.features(x)) for x in (images, small)]  # type: ignore[union-attr, operator]
    full = [to_size(m, s) for v, s in zip(maps, ((64, 64), (32, 32)), strict=True) for m in (v.cam, v.refined)]
    wanted = view_losses(*full, torch.ones(2, 3))
    for term in ("tags", "er", "ecr"):
        torch.testing.assert_close(losses["image"][term], wanted[term])
    assert not torch.allclose(losses["grid"]["ecr"], wanted["ecr"])
    losses["image"]["loss"].backward()
    head = model.head
    assert isinstance(head, TapHead)
    assert all(p.grad is not None for p in head.parameters())


@pytest.mark.parametrize("views", [[], ["second_view=null", "er=0", "ecr=0", "contrast=0"]])
def test_the_share_of_cells_that_tags_are_pooled_from_reaches_both_losses(views: list[str]) -> None:
    model, images = tiny(), torch.rand(2, 3, 64, 64)
    batch = Batch(masks=torch.full((2, 64, 64), 255), images=images, names=())
    own = [f"stages.contrast.{setting}" for setting in views]
    own += ["stages.contrast.compare=grid"] + (["stages.cams.source=raw"] if views else [])
    tags = {}
    for share in (1, 0.25):
        r = recipe("voc-seam", *own, f"stages.contrast.pooled={share}")
        tags[share] = ContrastLoss(r.stages.contrast, r.tags)(model, batch)["tags"]
    assert tags[0.25] < tags[1]  # every class is tagged here, and the strongest cells are above the mean


def test_maps_by_softmax() -> None:
    """EPS: probabilities of background and classes, summed, over their maximum."""
    model = tiny(refine=False)
    picture = torch.randint(0, 256, (3, 48, 56), dtype=torch.uint8)
    got = image_cams(model, picture, [2], CamsConfig(scales=[1.0], source="softmax"))
    x = model.encoder.normalisation(picture)[None]
    with torch.no_grad():
        total = torch.zeros(1, 1, 48, 56)
        for flip in (False, True):
            cam = model.head.maps(model.features(x.flip(3) if flip else x)).cam  # type: ignore[union-attr, operator]
            full = F.interpolate(cam.softmax(1)[:, 2:3], (48, 56), mode="bilinear", align_corners=False)
            total += full.flip(3) if flip else full
    torch.testing.assert_close(got, (total / (total.max() + 1e-5))[0], atol=1e-5, rtol=0)


def test_first_blocks_and_norms_do_not_train() -> None:
    with torch.device("meta"):
        backbone = ResNet38Taps()
    stage = TrainedStage(steps=1, lr=Rates(backbone=1))
    trained = {id(p) for p in _trained(backbone, stage)}
    names = {name for name, p in backbone.named_parameters() if id(p) in trained}
    assert len(names) == 35  # of 43 convolutions
    assert not any(name.split(".")[0] in FROZEN or ".bn" in name for name in names)
    assert all(m.momentum == 3e-4 for m in backbone.modules() if isinstance(m, nn.BatchNorm2d))


def test_affinities_are_a_network_of_their_own(monkeypatch: pytest.MonkeyPatch) -> None:
    building = import_module("segproto.methods.pixelcontrast.build")
    monkeypatch.setattr(building, "build_encoder", lambda config: tiny().encoder)
    model, r = tiny(), recipe("voc-seam")
    made = affinity_stage(r)
    assert made.begin is not None
    assert made.augment == r.stages.affinity.augment
    made.begin(model)
    assert isinstance(model.head, AffinityHead)
    assert model.card["affinities"]
    plain, begin = tiny(), affinity_stage(recipe("scenes")).begin
    assert begin is not None
    begin(plain)
    assert isinstance(plain.head, TapHead)  # plain heads have one network for both
    model = building.build(r, CLASSES)
    assert isinstance(model.head, TapHead)
    assert (model.head.dropout7.p, model.head.shows) == (0.5, "present")
    model = building.build(recipe("voc-eps"), CLASSES)
    assert isinstance(model.head, TapHead)
    assert (model.head.dropout7.p, model.head.shows) == (0, "logits")
    with pytest.raises(ConfigError, match="these heads read ResNet-38's maps"):
        recipe("scenes", "network=seam")


def test_norms_that_follow_the_batch_and_are_not_optimised() -> None:
    torch.manual_seed(0)
    neck = nn.Sequential(nn.Conv2d(21, 4, 1), nn.BatchNorm2d(4))
    model = tiny()
    model.encoder.neck = neck
    config = OptimiseConfig(steps=1, lr=LearningRates(backbone=1, neck=1), norms="statistics", trainable="all")
    trained = {id(p) for group in parameter_groups(model, config) for p in group.params}
    norms = [m for m in model.encoder.modules() if isinstance(m, nn.BatchNorm2d)]
    assert not any(id(p) in trained for m in norms for p in m.parameters())
    assert len(trained) == 4
    set_mode(model, config)
    assert all(m.training for m in norms)


def test_colours_as_torchvision() -> None:
    functional = pytest.importorskip("torchvision.transforms.functional")
    g = torch.Generator().manual_seed(0)
    image = torch.randint(0, 256, (3, 9, 11), dtype=torch.uint8, generator=g)
    image[:, 0, 0], image[:, 0, 1] = 0, 200
    strength = (0.3, 0.3, 0.3, 0.1)
    for kind, change in enumerate(("brightness", "contrast", "saturation", "hue")):
        for draw in (0.0, 0.2, 1.0):
            amount = (2 * draw - 1) * strength[kind] + (kind < 3)
            wanted = getattr(functional, f"adjust_{change}")(image, amount)
            draws = [0.5] * 4
            draws[kind] = draw
            actual = jittered(image, strength, draws, [kind])
            assert int((actual.int() - wanted.int()).abs().max()) <= 2  # torchvision rounds down, and gray to 8 bits
    assert torch.equal(jittered(image, strength, [0.5] * 4, [2, 0, 3, 1]), image)
    x = torch.rand(3, 5, 6, generator=g)
    torch.testing.assert_close(from_hsv(*to_hsv(x)), x)


def test_shifted_hsv_turns_the_hue_and_clips_the_rest() -> None:
    red = torch.tensor([255, 0, 0], dtype=torch.uint8).view(3, 1, 1)
    assert shifted_hsv(red, (60, 0, 0)).flatten().tolist() == [0, 255, 0]
    assert shifted_hsv(red, (-60, 0, 0)).flatten().tolist() == [0, 0, 255]
    assert shifted_hsv(red, (0, 99, 99)).flatten().tolist() == [255, 0, 0]
    assert shifted_hsv(red, (0, 0, -55)).flatten().tolist() == [200, 0, 0]
    assert shifted_hsv(red, (0, -51, 0)).flatten().tolist() == [255, 51, 51]


def test_long_side_and_place_in_the_crop() -> None:
    image = torch.full((3, 40, 60), 7, dtype=torch.uint8)
    mask = torch.zeros(40, 60, dtype=torch.uint8)
    sides, corners = set(), set()
    for seed in range(40):
        g = torch.Generator().manual_seed(seed)
        config = AugmentConfig(long_side=(30, 45), flip=False)
        out, _ = augment(image, mask, config, g, lambda x: x.float())
        sides.add(out.shape[2])
        assert out.shape[1] == round(40 * out.shape[2] / 60)
        config = AugmentConfig(scale=(1, 1), crop=64, padding="anywhere", flip=False)
        out, labels = augment(image, mask, config, torch.Generator().manual_seed(seed), lambda x: x.float())
        inside = labels != 255
        assert int(inside.sum()) == 40 * 60
        assert torch.equal(out[0] == 7, inside)
        corners.add(tuple(inside.nonzero()[0].tolist()))
    assert (min(sides), max(sides)) == (30, 45)
    assert len({y for y, _ in corners}) > 12
    assert {x for _, x in corners} == {0, 1, 2, 3, 4}
    with pytest.raises(ValueError, match="long_side"):
        AugmentConfig(long_side=(5, 4))
    with pytest.raises(ValueError, match="jitter"):
        AugmentConfig(jitter=(0, 0, 0, 0.6))


def test_after_the_walk_the_model_is_the_cam_network_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    staging = import_module("segproto.methods.pixelcontrast.stages")
    monkeypatch.setattr(staging, "make_masks", lambda *_: {"mask_miou": 1})
    monkeypatch.setattr(staging, "keep_steps", lambda *_: {})
    monkeypatch.setattr(Segmenter, "load", classmethod(lambda cls, folder: tiny()))
    model = tiny()
    model.head = AffinityHead(3, (3, 5, 6, 7), (2, 3, 4))
    context = SimpleNamespace(segmenter=model, out=tmp_path / "stages/masks", run=tmp_path)
    assert staging.masks_of_walk(context, recipe("voc-seam")) == {"mask_miou": 1}
    assert isinstance(model.head, AffinityHead)  # a run of published maps has no CAM network
    (tmp_path / "stages/cams/model").mkdir(parents=True)
    staging.masks_of_walk(context, recipe("voc-seam"))
    assert isinstance(model.head, TapHead)


@pytest.mark.parametrize("kind", ["taps", "taps without correlation", "plain"])
def test_maps_of_some_classes_are_those_of_all(kind: str) -> None:
    model = tiny(refine=kind == "taps")
    features, head = model.features(torch.rand(2, 3, 64, 64)), model.head
    if kind == "plain":
        head = CamHead(features.shape[1], 3, dim=4)
    assert isinstance(head, MapHead)
    maps = head.maps(features)
    for refined, whole in ((True, maps.refined), (False, maps.cam)):
        torch.testing.assert_close(head.maps_of(features, [2, 1], refined=refined), whole[:, [2, 1]])
