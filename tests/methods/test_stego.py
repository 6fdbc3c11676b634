"""STEGO's loss against loops, and its files and HP's: synthetic ones with the released names and shapes."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest
import timm
import torch
import torch.nn.functional as F
from torch import Tensor

import segproto
from segproto.encoders.codes import Codes
from segproto.errors import WeightsError
from segproto.prototypes.correspondence import (
    centred,
    correspondence_loss,
    cosine_pairs,
    derangement,
    nearest_images,
    sampled,
)

DIM, CLUSTERS = 7, 5


def test_loss_against_loops() -> None:
    torch.manual_seed(0)
    f1, f2, c1, c2 = (torch.randn(2, d, 5, 6, dtype=torch.float64) for d in (4, 4, 3, 3))
    p1, p2 = (torch.rand(2, 3, 3, 2, dtype=torch.float64) * 2 - 1 for _ in range(2))
    terms = correspondence_loss((f1, f2), (c1, c2), (p1, p2), 0.2)
    s1, s2, t1, t2 = sampled(f1, p1), sampled(f2, p2), sampled(c1, p1), sampled(c2, p2)
    fd = np.zeros((2, 3, 3, 3, 3))
    cd = np.zeros_like(fd)
    for b, i, j, k, m in np.ndindex(fd.shape):
        fd[b, i, j, k, m] = F.cosine_similarity(s1[b, :, i, j], s2[b, :, k, m], dim=0)
        cd[b, i, j, k, m] = F.cosine_similarity(t1[b, :, i, j], t2[b, :, k, m], dim=0)
    old = fd.mean()
    fd = fd - fd.mean((3, 4), keepdims=True)
    fd = fd - fd.mean() + old
    assert terms.item() == pytest.approx(float((-np.maximum(cd, 0) * (fd - 0.2)).mean()), rel=1e-9)


def test_gradient_goes_to_the_codes_alone() -> None:
    torch.manual_seed(0)
    features = tuple(torch.randn(1, 4, 3, 3, requires_grad=True) for _ in range(2))
    codes = tuple(torch.randn(1, 2, 3, 3, requires_grad=True) for _ in range(2))
    points = (torch.rand(1, 2, 2, 2), torch.rand(1, 2, 2, 2))
    correspondence_loss(features, codes, points, 0.1).backward()
    assert all(f.grad is None for f in features)
    assert all(bool(c.grad.abs().sum() > 0) for c in codes)


def test_centring_keeps_the_mean() -> None:
    pairs = cosine_pairs(torch.randn(2, 4, 3, 3), torch.randn(2, 4, 3, 3))
    assert float(centred(pairs).mean()) == pytest.approx(float(pairs.mean()), abs=1e-6)


@pytest.mark.parametrize("count", [2, 3, 8])
def test_no_image_is_its_own_negative(count: int) -> None:
    for seed in range(20):
        order = torch.randperm(count, generator=torch.Generator().manual_seed(seed))
        assert bool((derangement(count, order) != torch.arange(count)).all())


def test_nearest_images_in_chunks() -> None:
    means = torch.randn(20, 6, generator=torch.Generator().manual_seed(0))
    nearest = nearest_images(means, 4, chunk=7)
    cosines = F.normalize(means, dim=1) @ F.normalize(means, dim=1).T
    cosines.fill_diagonal_(-2)
    assert torch.equal(nearest, cosines.argsort(1, descending=True)[:, :4])
    assert nearest_images(means[:3], 10).shape == (3, 2)


def dino() -> dict[str, Tensor]:
    torch.manual_seed(0)
    return timm.create_model("vit_small_patch8_224.dino", num_classes=0).state_dict()


def codes(prefix: str) -> dict[str, Tensor]:
    torch.manual_seed(1)
    return {f"{prefix}{k}": v for k, v in Codes(384, DIM).state_dict().items()}


def stego(extra: int = 0) -> dict[str, Any]:
    torch.manual_seed(2)
    state = {f"net.model.{k}": v for k, v in dino().items()} | codes("net.")
    state["cluster_probe.clusters"] = torch.randn(CLUSTERS + extra, DIM)
    state["train_cluster_probe.clusters"] = torch.randn(CLUSTERS, DIM)
    state |= {"linear_probe.weight": torch.zeros(CLUSTERS, DIM, 1, 1), "linear_probe.bias": torch.zeros(CLUSTERS)}
    state |= {"decoder.weight": torch.zeros(384, DIM, 1, 1), "decoder.bias": torch.zeros(384)}
    return {"epoch": 1, "state_dict": state, "hyper_parameters": {"n_classes": CLUSTERS}}


def hp() -> dict[str, Any]:
    torch.manual_seed(2)
    net = {f"model.{k}": v for k, v in dino().items()} | codes("")
    net |= {k.replace("cluster", "ema_model"): v + 1 for k, v in codes("").items()}
    return {
        "epoch": 1, "net_model_state_dict": net, "linear_model_state_dict": {"bias": torch.zeros(CLUSTERS)},
        "cluster_model_state_dict": {"clusters": torch.randn(CLUSTERS, DIM)}, "net_optimizer_state_dict": None,
    }  # fmt: skip


def primaps(method: bool) -> dict[str, Any]:
    torch.manual_seed(3)
    state = {f"net.model.{k}": v for k, v in dino().items()}
    names = (
        ["cluster_probe.ema_model.", "cluster_probe.online_model."] if method else ["cluster_probe.cluster_centers."]
    )
    for name in ["seghead.", *names]:
        state |= {f"{name}weight_g": torch.rand(CLUSTERS, 1, 1, 1), f"{name}weight_v": torch.randn(CLUSTERS, 384, 1, 1)}
    if method:
        state |= {"cluster_probe.initted": torch.ones(1), "cluster_probe.step": torch.ones(1, dtype=torch.int64)}
    state |= {"linear_probe.weight": torch.zeros(CLUSTERS, 384, 1, 1), "linear_probe.bias": torch.zeros(CLUSTERS)}
    return {"state_dict": state, "hyper_parameters": {"opts": {"lr": 1}}}


def expected_features(images: Tensor) -> Tensor:
    net = timm.create_model("vit_small_patch8_224.dino", num_classes=0, dynamic_img_size=False)
    net.load_state_dict(dino())
    with torch.no_grad():
        tokens = net.eval().forward_features(images)[:, 1:]
    return tokens.transpose(1, 2).unflatten(2, (28, 28))


@pytest.fixture(scope="module")
def images() -> Tensor:
    return torch.randn(1, 3, 224, 224, generator=torch.Generator().manual_seed(0))


@pytest.mark.parametrize("kind", ["stego", "hp"])
def test_codes_of_stego_and_hp(kind: str, tmp_path: Path, images: Tensor) -> None:
    file, out = tmp_path / "ckpt.pth", tmp_path / "model"
    value = stego(extra=2) if kind == "stego" else hp()
    torch.save(value, file)
    (tmp_path / "option.json").write_text(json.dumps({"dataset": {"data_type": "cityscapes"}, "num_classes": CLUSTERS}))
    converted = segproto.convert(kind, file, out=out)
    model = segproto.load(out)
    clusters = (
        value["state_dict"]["cluster_probe.clusters"]
        if kind == "stego"
        else value["cluster_model_state_dict"]["clusters"]
    )
    head = Codes(384, DIM)
    head.load_state_dict(codes(""))
    with torch.no_grad():
        code = head(expected_features(images))
        logits = torch.einsum("bchw,kc->bkhw", code, F.normalize(clusters, dim=1))
        ours = model.grid_logits(images)
    torch.testing.assert_close(ours, logits, atol=2e-4, rtol=1e-3)
    cosines = torch.einsum("bchw,kc->bkhw", F.normalize(code, dim=1), F.normalize(clusters, dim=1))
    assert float((ours.argmax(1) == cosines.argmax(1)).float().mean()) > 0.999
    assert model.found_categories
    assert torch.equal(model.train().grid_logits(images), model.eval().grid_logits(images))  # dropout is off
    assert model.predict(torch.zeros(3, 40, 50, dtype=torch.uint8)).shape == (40, 50)
    if kind == "hp":
        assert "option.json: data_type cityscapes" in converted["notes"]


def test_linear_codes_of_stego(tmp_path: Path, images: Tensor) -> None:
    value = stego()
    for name in [name for name in value["state_dict"] if "cluster2" in name]:
        del value["state_dict"][name]
    torch.save(value, tmp_path / "linear.ckpt")
    converted = segproto.convert("stego", tmp_path / "linear.ckpt", out=tmp_path / "model")
    assert any("projection_type: linear" in note for note in converted["notes"])
    weight, bias = (value["state_dict"][f"net.cluster1.0.{name}"] for name in ("weight", "bias"))
    clusters = F.normalize(value["state_dict"]["cluster_probe.clusters"], dim=1)
    with torch.no_grad():
        code = F.conv2d(expected_features(images), weight, bias)
        ours = segproto.load(tmp_path / "model").grid_logits(images)
    torch.testing.assert_close(ours, torch.einsum("bchw,kc->bkhw", code, clusters), atol=2e-4, rtol=1e-3)
    for name in [name for name in value["state_dict"] if "cluster1" in name]:
        del value["state_dict"][name]
    torch.save(value, tmp_path / "none.ckpt")
    with pytest.raises(WeightsError, match=r"none\.ckpt: has no code head .*projection_type: null"):
        segproto.convert("stego", tmp_path / "none.ckpt", out=tmp_path / "other")


class DictConfig:
    """Pickles as OmegaConf's."""

    def __init__(self, content: dict[str, Any]) -> None:
        self._metadata, self._content = None, {key: AnyNode(value) for key, value in content.items()}


class AnyNode:
    """One value of it."""

    def __init__(self, value: Any) -> None:
        self._val = value


@pytest.mark.parametrize("kind", ["KK", "feat"])
@pytest.mark.parametrize("plain", [True, False])
def test_codes_of_keys_are_refused_by_name(
    kind: str, plain: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    value, settings = stego(), {"dino_feat_type": kind, "dim": DIM}
    monkeypatch.setitem(sys.modules, "omegaconf", ModuleType("omegaconf"))
    for module, of in (("omegaconf.dictconfig", DictConfig), ("omegaconf.nodes", AnyNode)):
        monkeypatch.setitem(sys.modules, module, ModuleType(module))
        monkeypatch.setattr(of, "__module__", module)
        monkeypatch.setattr(sys.modules[module], of.__name__, of, raising=False)
    value["hyper_parameters"]["cfg"] = settings if plain else DictConfig(settings)
    torch.save(value, tmp_path / "ckpt.pth")
    monkeypatch.undo()
    if kind == "feat":
        segproto.convert("stego", tmp_path / "ckpt.pth", out=tmp_path / "model")
        return
    with pytest.raises(WeightsError, match=r"ckpt\.pth: was trained with dino_feat_type: KK"):
        segproto.convert("stego", tmp_path / "ckpt.pth", out=tmp_path / "model")


@pytest.mark.parametrize(("method", "which"), [(True, "teacher"), (True, "student"), (False, "teacher")])
def test_files_of_primaps(method: bool, which: str, tmp_path: Path, images: Tensor) -> None:
    value = primaps(method)
    torch.save(value, tmp_path / "last.ckpt")
    segproto.convert("primaps", tmp_path / "last.ckpt", out=tmp_path / "model", overrides=[f"prototypes={which}"])
    model = segproto.load(tmp_path / "model")
    name = "seghead." if which == "student" else f"cluster_probe.{'ema_model' if method else 'cluster_centers'}."
    v, g = (value["state_dict"][f"{name}weight_{x}"].flatten(1) for x in "vg")
    weight = g * v / v.norm(dim=1, keepdim=True)
    expected = torch.einsum("bchw,kc->bkhw", expected_features(images), weight)
    with torch.no_grad():
        torch.testing.assert_close(model.grid_logits(images), expected, atol=2e-4, rtol=1e-3)


def test_files_that_are_refused(tmp_path: Path) -> None:
    file = tmp_path / "x.ckpt"
    torch.save({"state_dict": {k: v for k, v in primaps(True)["state_dict"].items() if "net." not in k}}, file)
    with pytest.raises(WeightsError, match="trained on STEGO or HP"):
        segproto.convert("primaps", file, out=tmp_path / "a")
    torch.save(hp(), file)
    with pytest.raises(WeightsError, match="'state_dict'"):
        segproto.convert("stego", file, out=tmp_path / "b")
    broken = stego()
    broken["state_dict"]["surprise"] = torch.zeros(1)
    torch.save(broken, file)
    with pytest.raises(WeightsError, match="surprise"):
        segproto.convert("stego", file, out=tmp_path / "c")


def test_dropout_as_released_stays_on_in_eval_mode() -> None:
    torch.manual_seed(0)
    x = torch.randn(1, 20, 3, 3)
    head = Codes(20, 4, "always").eval()
    assert not torch.equal(head(x), head(x))
    head.dropout = "training"
    assert torch.equal(head(x), head(x))
    assert not torch.equal(head.train()(x), head(x))


def test_a_small_stego_is_trained_and_boosted(tmp_path: Path) -> None:
    small = [
        "data.scenes.size=48", "data.scenes.num_train=6", "data.scenes.num_val=2", "data.augment.crop=48",
        "encoder.width=4", "encoder.neck=codes", "encoder.dim=6", "encoder.code_dropout=training", "num_classes=4",
        "train.batch_size=3", "train.threads=1", "train.accelerator=cpu", "stages.stego.steps=3",
        "stages.kmeans.steps=2", "stages.em.steps=2", "stages.found.masks=false", "train.log_every=1",
    ]  # fmt: skip
    result = segproto.train("primaps/scenes", out=tmp_path / "run", overrides=small, quiet=True)
    assert list(result.stages) == ["neighbours", "stego", "proposals", "init", "kmeans", "em", "found"]
    assert {"self", "knn", "random"} <= result.stages["stego"].keys()
    before = segproto.load(tmp_path / "run", stage="neighbours").encoder
    after, last = segproto.load(tmp_path / "run", stage="stego").encoder, segproto.load(tmp_path / "run").encoder
    for key, value in before.backbone.state_dict().items():
        assert torch.equal(value, after.backbone.state_dict()[key])
    assert not torch.equal(before.neck.cluster1[0].weight, after.neck.cluster1[0].weight)
    assert torch.equal(after.neck.cluster1[0].weight, last.neck.cluster1[0].weight)
