"""Explanations against naive oracles that upsample everything in float64."""

from __future__ import annotations

import json
from dataclasses import replace

import numpy as np
import pytest
import tifffile
import torch
import torch.nn.functional as F
from PIL import Image
from safetensors.torch import load_file
from tiny_segmenters import image, segmenter

from segproto.errors import ConfigError, DataError
from segproto.model import explain as explain_module
from segproto.model import explanation as explanation_module
from segproto.model import predict as predict_module
from segproto.model.explain import explain
from segproto.model.predict import predict, predict_logits
from segproto.report.evidence import lattice, probe_image
from segproto.report.page import explanation_page

KINDS = ["linear", "prototype", "grouped"]


def naive(model, pixels):
    """Contributions of every prototype and group to every class's logit at every pixel, the long way, in float64."""
    with torch.no_grad():
        features = model.features(model.encoder.normalisation(pixels)[None])[0].double()
    head = model.head.double()
    _count, h, w = features.shape
    classes = head.num_classes
    prototypes, groups, offsets = [], [], []
    for c in range(classes):
        cells_p, cells_g, cells_o = [], [], []
        for cell in features.flatten(1).T:
            if head.kind == "linear":
                cells_p.append(cell * head.weight[c])
                cells_o.append(head.bias[c])
                continue
            acts = []
            for p in range(head.bank.num_prototypes):
                s = int(head.bank.scale_of[p])
                block = cell[s * head.bank.dim : (s + 1) * head.bank.dim]
                d = ((block - head.bank.vectors[p]) ** 2).sum()
                acts.append(torch.log((d + 1) / (d + 1e-4)))
            acts = torch.stack(acts)
            if head.kind == "prototype":
                cells_p.append(acts * head.readout[c])
                cells_o.append(torch.zeros(()))
                continue
            logs = head.grouping.dense() * acts
            contribution = head.readout[c] * logs.sum(1).exp()
            cells_g.append(contribution)
            cells_p.append((contribution[:, None] * logs / logs.sum(1, keepdim=True)).sum(0))
            cells_o.append(torch.zeros(()))
        prototypes.append(torch.stack(cells_p).T.reshape(-1, h, w))
        offsets.append(torch.stack(cells_o).double().reshape(1, h, w))
        if cells_g:
            groups.append(torch.stack(cells_g).T.reshape(-1, h, w))
    model.head.float()

    def up(maps):
        maps = torch.stack(maps).detach()
        padded = model.encoder.padded_size(*pixels.shape[1:])
        full = F.interpolate(maps, padded, mode="bilinear", align_corners=False)
        return full[..., : pixels.shape[1], : pixels.shape[2]]

    return up(prototypes), up(groups) if groups else None, up(offsets)[:, 0]


@pytest.fixture(params=KINDS)
def case(request):
    model, pixels = segmenter(request.param, classes=3, stride=4, multiple=8), image(21, 30)
    with torch.no_grad():
        return model, pixels, explain(model, pixels), naive(model, pixels)


def everywhere(pixels):
    ys, xs = torch.meshgrid(torch.arange(pixels.shape[1]), torch.arange(pixels.shape[2]), indexing="ij")
    return ys.flatten(), xs.flatten()


def test_contributions_equal_the_naive_ones(case):
    _model, pixels, why, (prototypes, groups, offsets) = case
    ys, xs = everywhere(pixels)
    for c in range(3):
        evidence = why.evidence(ys, xs, torch.full_like(ys, c))
        scale = prototypes[c].abs().sum(0).max()
        assert (evidence.prototypes.T - prototypes[c].flatten(1)).abs().max() < 1e-4 * scale
        assert (evidence.offset - offsets[c].flatten()).abs().max() < 1e-5
        assert torch.equal(why.contributions(ys, xs, torch.full_like(ys, c)), evidence.prototypes)
        if groups is not None:
            assert (evidence.groups.T - groups[c].flatten(1)).abs().max() < 1e-4 * scale


def test_contributions_add_up_to_the_logit(case):
    model, pixels, why, _ = case
    assert why.completeness_error(sample=None) <= 1e-4
    assert why.completeness_error(sample=50) <= 1e-4
    logits = predict_logits(model, pixels)
    ys, xs = everywhere(pixels)
    torch.testing.assert_close(why.logits(ys, xs).T, logits.flatten(1), rtol=1e-4, atol=1e-4)
    shares = why.evidence(ys, xs, logits.argmax(0).flatten())
    logit = logits.max(0)[0].flatten()
    allowed = 1e-4 * torch.maximum(logit.abs(), shares.prototypes.abs().sum(1))
    assert ((shares.prototypes.sum(1) + shares.offset - logit).abs() <= allowed).all()


def test_completeness_error_sees_a_wrong_account(case, monkeypatch):
    model, _, why, _ = case
    honest = model.head.contributions

    def wrong(features, classes):
        shares = honest(features, classes)
        return shares._replace(prototypes=shares.prototypes * 1.01)

    monkeypatch.setattr(model.head, "contributions", wrong)
    assert why.completeness_error() > 1e-3


def test_prediction_margin_and_confidence(case):
    model, pixels, why, _ = case
    logits = predict_logits(model, pixels)
    top, order = logits.topk(2, dim=0)
    assert torch.equal(why.prediction, predict(model, pixels))
    assert torch.equal(why.runner_up, order[1].to(torch.uint8))
    torch.testing.assert_close(why.margin, top[0] - top[1], rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(why.confidence, logits.softmax(0).max(0)[0], rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("chunk", [2**22, 500])
def test_winning_maps(case, chunk, monkeypatch):
    monkeypatch.setattr(explanation_module, "CHUNK", chunk)
    _model, _pixels, why, (prototypes, groups, _) = case
    label = why.prediction.long()[None, None]
    for actual, shares in ((why.winning_prototype(), prototypes), (why.winning_group(), groups)):
        if shares is None:
            assert actual is None
            continue
        own = shares.gather(0, label.expand(1, *shares.shape[1:]))[0]
        top = own.topk(2, dim=0)[0]
        sure = top[0] - top[1] > 1e-5 * own.abs().sum(0)
        assert sure.float().mean() > 0.9
        assert torch.equal(actual[sure].long(), own.argmax(0)[sure])


def test_region_evidence_is_the_mean_over_pixels(case):
    _model, _pixels, why, (prototypes, groups, offsets) = case
    mask = torch.rand(21, 30, generator=torch.Generator().manual_seed(1)) < 0.3
    for class_id in (0, 2):
        evidence = why.region_evidence(mask, class_id, top=100)
        mean = prototypes[class_id][:, mask].mean(1)
        assert [p.prototype for p in evidence.prototypes] == mean.abs().argsort(descending=True).tolist()
        for item in evidence.prototypes:
            assert item.contribution == pytest.approx(float(mean[item.prototype]), rel=1e-3, abs=1e-3)
            assert item.activation == pytest.approx(float(why.activation_map(item.prototype)[mask].mean()), rel=1e-3)
        assert evidence.logit == pytest.approx(float(mean.sum() + offsets[class_id][mask].mean()), rel=1e-3, abs=1e-3)
        assert evidence.others == pytest.approx(0, abs=1e-3)
        assert (evidence.groups is None) == (groups is None)
    common = int(why.prediction[mask].bincount().argmax())
    assert why.region_evidence(mask).class_id == common
    for wrong in (mask[:5], torch.zeros_like(mask)):
        with pytest.raises(ConfigError, match="mask"):
            why.region_evidence(wrong)


def test_pixel(case):
    model, pixels, why, (prototypes, groups, _) = case
    logits = predict_logits(model, pixels)[:, 4, 9]
    evidence = why.pixel(4, 9, top=3)
    order = logits.argsort(descending=True).tolist()
    assert (evidence.y, evidence.x, evidence.class_id) == (4, 9, order[0])
    assert evidence.runner_up.class_id == order[1]
    assert evidence.runner_up.runner_up is None
    assert evidence.probability == pytest.approx(float(logits.softmax(0).max()), abs=1e-4)
    assert evidence.logit == pytest.approx(float(logits.max()), rel=1e-3)
    assert len(evidence.prototypes) == 3
    assert evidence.offset + sum(p.contribution for p in evidence.prototypes) + evidence.others == pytest.approx(
        evidence.logit
    )
    for item in evidence.prototypes:
        contribution = float(prototypes[order[0], item.prototype, 4, 9])
        assert item.contribution == pytest.approx(contribution, rel=1e-3, abs=1e-4)
        assert item.activation == pytest.approx(float(why.activation_map(item.prototype)[4, 9]), rel=1e-3)
    for item in evidence.groups or ():
        contribution = float(groups[order[0], item.group, 4, 9])
        assert item.contribution == pytest.approx(contribution, rel=1e-3)
        assert all(model.head.bank.class_of[p] == item.class_id and weight >= 0.2 for p, weight in item.members)
    assert why.pixel(4, 9, class_id=order[2]).logit == pytest.approx(float(logits.min()), rel=1e-3, abs=1e-3)
    json.dumps(evidence.to_json())
    for y, x in ((21, 0), (0, 30), (-1, 0)):
        with pytest.raises(ConfigError, match="outside"):
            why.pixel(y, x)


def test_maps_equal_interpolated_grids(case):
    model, pixels, why, _ = case
    with torch.no_grad():
        features = model.features(model.encoder.normalisation(pixels)[None])
        units = features if model.head.kind == "linear" else model.head.bank.activations(features)
        torch.testing.assert_close(why.activation_map(2), model.upsample(units, (21, 30))[0, 2], rtol=1e-4, atol=1e-4)
        if model.head.kind == "grouped":
            groups = model.head.grouping(units)
            torch.testing.assert_close(why.group_map(1), model.upsample(groups, (21, 30))[0, 1], rtol=1e-3, atol=1e-3)
        else:
            with pytest.raises(ConfigError, match="groups"):
                why.group_map(0)


def test_summary_accounts_for_every_pixel(case):
    _, _, why, _ = case
    rows = why.summary(top=2)
    assert sum(row["pixels"] for row in rows) == 21 * 30
    assert [row["pixels"] for row in rows] == sorted((row["pixels"] for row in rows), reverse=True)
    assert all(len(row["prototypes"]) == 2 for row in rows)
    first = rows[0]
    assert first["confidence"] == pytest.approx(float(why.confidence[why.prediction == first["class_id"]].mean()))


def test_where_a_file_holds_no_image_there_is_no_evidence(tmp_path):
    tifffile.imwrite(tmp_path / "a.tif", np.pad(image(21, 20).numpy(), ((0, 0), (0, 0), (0, 10))).transpose(1, 2, 0))
    model = segmenter("grouped", classes=3, stride=4, multiple=8)
    everything = explain(model, tmp_path / "a.tif")
    model.encoder.pixels = replace(model.encoder.pixels, nodata=0)
    why = explain(model, tmp_path / "a.tif", region=(2, 1, 21, 30))
    empty = torch.zeros(19, 29, dtype=torch.bool)
    empty[:, 19:] = True
    assert why.no_data == pytest.approx(10 / 29)
    assert torch.equal(why.prediction == 255, empty)
    assert torch.equal(why.prediction[~empty], everything.prediction[2:, 1:][~empty])
    assert torch.equal(why.prediction, predict(model, tmp_path / "a.tif")[2:, 1:])
    for name in ("winning_prototype", "winning_group"):
        assert torch.equal(getattr(why, name)() == -1, empty)
        assert torch.equal(getattr(why, name)()[~empty], getattr(everything, name)()[2:, 1:][~empty])
    assert sum(row["pixels"] for row in why.summary()) == 19 * 19
    assert why.region_evidence(torch.ones(19, 29, dtype=torch.bool)) == why.region_evidence(~empty)
    with pytest.raises(ConfigError, match=r"pixel \(5, 25\): no data here, .*a.tif holds no image"):
        why.pixel(5, 25)
    assert why.pixel(5, 19).class_id == int(why.prediction[3, 18])
    with pytest.raises(ConfigError, match="at least one pixel of the image"):
        why.region_evidence(empty)
    assert "no data 34%" in repr(why)
    why.save(tmp_path / "why")
    assert json.loads((tmp_path / "why/explanation.json").read_text())["no_data"] == pytest.approx(10 / 29)
    assert (
        np.ptp(np.asarray(Image.open(tmp_path / "why/winning_prototype.png"))[4:, 24:], axis=2).max() == 0
    )  # no colour
    points = lattice(why)[1]
    assert probe_image(why)["empty"] == (points >= 20).nonzero().flatten().tolist()
    assert "empty" not in probe_image(everything)
    explanation_page(why, tmp_path / "why.html")
    why.plot()


def test_region_of_an_image_seen_whole_is_a_crop():
    model, pixels = segmenter("grouped"), image(40, 60)
    whole, part = explain(model, pixels), explain(model, pixels, region=(5, 8, 25, 50))
    crop = (slice(5, 25), slice(8, 50))
    assert part.size == (20, 42)
    assert torch.equal(part.image, pixels[:, 5:25, 8:50])
    assert torch.equal(part.prediction, whole.prediction[crop])
    assert torch.equal(part.winning_prototype(), whole.winning_prototype()[crop])
    assert torch.equal(part.activation_map(3), whole.activation_map(3)[crop])
    assert part.pixel(7, 20) == whole.pixel(7, 20)
    mask = torch.zeros(40, 60, dtype=torch.bool)
    mask[6:9, 10:20] = True
    assert part.region_evidence(mask[crop]) == whole.region_evidence(mask)


def test_large_images_need_a_region(monkeypatch):
    monkeypatch.setattr(predict_module, "WHOLE_PIXELS", 50_000)
    monkeypatch.setattr(explain_module, "CONTEXT", 40)
    model, pixels = segmenter("prototype"), image(300, 400)
    with pytest.raises(DataError, match="--region"):
        explain(model, pixels)
    with pytest.raises(DataError, match="--region"):
        explain(model, pixels, region=(0, 0, 300, 300))
    sizes = []
    model.encoder.backbone.register_forward_hook(lambda _, args, __: sizes.append(tuple(args[0].shape[-2:])))
    part = explain(model, pixels, region=(100, 150, 160, 400))
    assert sizes == [(168, 304)]
    assert part.origin == (32, 96)
    monkeypatch.setattr(predict_module, "WHOLE_PIXELS", 10**6)
    whole = explain(model, pixels)
    assert (part.prediction != whole.prediction[100:160, 150:]).float().mean() < 0.01
    assert part.pixel(120, 399).logit == pytest.approx(whole.pixel(120, 399).logit, rel=1e-3)
    assert part.completeness_error() <= 1e-4


@pytest.mark.parametrize("region", [(0, 0, 41, 10), (5, 5, 5, 9), (-1, 0, 4, 4), (1, 2, 3)])
def test_wrong_regions(region):
    with pytest.raises(ConfigError, match="--region y0,x0,y1,x1"):
        explain(segmenter(), image(40, 60), region=region)


def test_sources_and_scales_are_named():
    model = segmenter("prototype", sources=True)
    why = explain(model, image(24, 24))
    count = model.head.bank.num_prototypes
    for item in why.pixel(3, 3, top=count).prototypes:
        known = model.provenance.sources[item.prototype]
        assert item.source == known
        assert item.class_id == int(model.head.bank.class_of[item.prototype])
        assert item.scale == int(model.head.bank.scale_of[item.prototype])


@pytest.mark.parametrize("kind", KINDS)
def test_saved_files(tmp_path, kind):
    model, pixels = segmenter(kind, sources=kind != "linear"), image(40, 52)
    why = model.explain(pixels)
    why.save(tmp_path / "why", top=3)
    folder = tmp_path / "why"
    document = json.loads((folder / "explanation.json").read_text())
    assert document["unit"] == ("channel" if kind == "linear" else "prototype")
    assert document["completeness_error"] <= 1e-4
    weight = dict.fromkeys(range(100), 0.0)
    for row in document["summary"]:
        for item in row["prototypes"]:
            weight[item["prototype"]] += row["pixels"] * abs(item["contribution"])
    assert document["activation_maps"] == sorted(weight, key=lambda p: -weight[p])[:3]
    arrays = load_file(folder / "arrays.safetensors")
    assert torch.equal(arrays["prediction"], why.prediction)
    assert torch.equal(arrays["winning_prototype"], why.winning_prototype())
    assert ("winning_group" in arrays) == (kind == "grouped") == (folder / "winning_group.png").exists()
    names = [
        "image",
        "prediction_overlay",
        "winning_prototype",
        *(f"activation_{p}" for p in document["activation_maps"]),
    ]
    for name in names:
        with Image.open(folder / f"{name}.png") as picture:
            assert (picture.mode, picture.size) == ("RGB", (52, 40))
    with Image.open(folder / "prediction.png") as picture:
        assert np.array_equal(np.asarray(picture), why.prediction.numpy())
    listed = {i["source"]["patch"] for row in document["summary"] for i in row["prototypes"] if i["source"]}
    assert {p.name for p in (folder / "patches").glob("*")} == listed
    assert (kind == "linear") == (not listed)
    assert {int(p) for p in document["colours"]["winning_prototype"]} == set(why.winning_prototype().unique().tolist())
