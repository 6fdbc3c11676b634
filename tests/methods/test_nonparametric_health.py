"""Prototypes that start somewhere, die, become one: where they are put, what is written down and said."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from tiny_nonparametric import CLASSES, batch, model, train

from segproto.data.batch import Batch
from segproto.errors import ConfigError
from segproto.methods.nonparametric.config import JointConfig, NonparametricModel
from segproto.methods.nonparametric.loss import ClusterLoss
from segproto.methods.nonparametric.seeding import seed_from_classifier
from segproto.methods.nonparametric.watching import Watch
from segproto.model.heads import LinearHead
from segproto.model.segmenter import Segmenter
from segproto.prototypes.labels import resize_labels
from segproto.training.procedures.optimise import batch_features
from segproto.training.progress import Reporter, reporting

pytestmark = pytest.mark.precision


def steps(segmenter: Segmenter, config: JointConfig, count: int, data: Batch) -> ClusterLoss:
    loss = ClusterLoss(config)
    for _ in range(count):
        loss(segmenter, data)
        loss.move(segmenter)
    return loss


def test_usage_counts_correct_pixels_and_notes_when_a_class_began() -> None:
    segmenter, data = model(), batch(2)
    data.masks[data.masks == 3] = 255  # a class that never comes
    features = batch_features(segmenter, data)[0]
    labels = resize_labels(data.masks, features.shape[-2:]).flatten()
    correct = labels[segmenter.head(features).argmax(1).flatten() == labels]
    steps(segmenter, JointConfig(momentum=1), 3, data)  # with momentum 1 every step finds the same
    bank = segmenter.head.bank
    assert int(bank.moves) == 3
    expected = torch.bincount(correct, minlength=CLASSES).float() * (1 + 0.99 + 0.99**2)
    assert torch.allclose(bank.usage.sum(1), expected)
    assert [int(s) for s in bank.started] == [0 if n > 0 else -1 for n in expected]


def test_a_dead_prototype_and_a_twin_move_to_far_correct_pixels() -> None:
    segmenter, data = model(score="scale"), batch(2)
    head, bank = segmenter.head, segmenter.head.bank
    features = batch_features(segmenter, data)[0]
    cells = head.embed(features).detach()
    labels = resize_labels(data.masks, features.shape[-2:]).flatten()
    for c in range(CLASSES):  # every class starts from two of its pixels; the third is a twin of the second
        own = cells[labels == c]
        bank.vectors[c, 0], bank.vectors[c, 1] = own[0], own[1]
        bank.vectors[c, 2] = F.normalize(own[1] + 1e-3, dim=0)
    predictions = head(features).argmax(1).flatten()
    before = bank.vectors.clone()
    steps(segmenter, JointConfig(momentum=1, reseed_every=2), 1, data)
    assert torch.allclose(bank.vectors, before, atol=1e-6)  # not due yet
    steps(segmenter, JointConfig(momentum=1, reseed_every=2), 1, data)
    for c in range(CLASSES):
        own = cells[(labels == c) & (predictions == c)]
        if len(own) > 1:
            moved = [k for k in range(3) if not torch.allclose(bank.vectors[c, k], before[c, k], atol=1e-5)]
            assert 2 in moved
            for k in moved:
                assert float((own @ bank.vectors[c, k]).max()) > 1 - 1e-5
            kept = [k for k in range(3) if k not in moved]
            far = (own @ bank.vectors[c, kept].T).amax(1) if kept else None
            if kept:  # the first to move took the farthest pixel
                assert torch.allclose(bank.vectors[c, moved[0]], own[far.argmin()], atol=1e-5)
    assert torch.allclose(bank.usage[:, 2], bank.usage.mean(1), rtol=0.6)


def test_an_interrupted_count_goes_on_from_the_model() -> None:
    config = JointConfig(momentum=1, reseed_every=3)
    whole, parts, data = model(), model(), batch(2)
    steps(whole, config, 3, data)
    for _ in range(3):
        steps(parts, config, 1, data)  # a new loss each time, as after --resume
    assert torch.equal(whole.head.bank.vectors, parts.head.bank.vectors)


def test_prototypes_may_start_from_a_classifier() -> None:
    segmenter = model()
    with pytest.raises(ConfigError, match=r"stages\.seed\.start = classifier: the model has a nearest head"):
        seed_from_classifier(segmenter, NonparametricModel())
    linear = LinearHead(segmenter.encoder.num_features, CLASSES)
    segmenter.head = linear
    with torch.no_grad():
        linear.weight.add_(5)  # a common part that the layer norm takes out
    seed_from_classifier(segmenter, NonparametricModel(prototypes=3))
    rows = segmenter.head.bank.vectors
    centred = linear.weight.detach() - linear.weight.detach().mean(1, keepdim=True)
    cosines = F.cosine_similarity(rows, centred[:, None], dim=2)
    assert rows.shape == (CLASSES, 3, segmenter.encoder.num_features)
    assert float(cosines.min()) > 0.98
    assert not torch.allclose(rows[:, 0], rows[:, 1])


def test_the_journal_has_figures_a_class_and_collapse_is_said_once(tmp_path: Path, capfd) -> None:
    train(tmp_path / "run", "train.log_every=1")
    lines = [json.loads(line) for line in (tmp_path / "run/metrics.jsonl").read_text().splitlines()]
    joint = [line for line in lines if line["stage"] == "joint" and "loss" in line]
    for line in joint:
        assert len(line["class_cosine"]) == len(line["class_entropy"]) == len(line["class_in_use"]) == 8
        assert abs(sum(line["class_cosine"]) / 8 - line["prototype_cosine"]) < 1e-4
    result = json.loads((tmp_path / "run/stages/trace/result.json").read_text())
    assert len(result["first_moved"]) == len(result["prototype_usage"]) == 8
    segmenter = model()
    steps(segmenter, JointConfig(momentum=1), 1, batch(4))
    c = int((segmenter.head.bank.started >= 0).nonzero()[0])
    segmenter.head.bank.vectors[c] = segmenter.head.bank.vectors[c, :1]
    watch = Watch()
    with reporting(Reporter(active=True)):
        watch(segmenter), watch(segmenter)
    printed = " ".join("".join(capfd.readouterr()).split())
    assert printed.count(f"the prototypes of class{c} have become one") == 1
