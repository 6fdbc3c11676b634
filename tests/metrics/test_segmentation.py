"""Confusion matrix and scores against torchmetrics, scikit-learn and hand-made cases."""

from __future__ import annotations

import json

import pytest
import torch
from sklearn.metrics import confusion_matrix as sklearn_confusion
from torchmetrics.classification import MulticlassAccuracy, MulticlassJaccardIndex

from segproto.metrics import segmentation
from segproto.metrics.segmentation import ConfusionMatrix, confusion_matrix, segmentation_scores


def maps(seed: int = 0) -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(seed)
    target = torch.randint(0, 6, (3, 20, 30), generator=generator)
    pred = torch.where(torch.rand(target.shape, generator=generator) < 0.6, target, (target * 7 + 1) % 6)
    target[:, :4] = 255
    return pred, target


def test_confusion_equals_sklearn() -> None:
    pred, target = maps()
    valid = target != 255
    expected = sklearn_confusion(target[valid], pred[valid], labels=range(8))
    assert confusion_matrix(pred, target, 8).tolist() == expected.tolist()
    assert confusion_matrix(pred.to(torch.uint8), target.to(torch.uint8), 8).tolist() == expected.tolist()


def test_large_maps_are_counted_block_by_block(monkeypatch: pytest.MonkeyPatch) -> None:
    pred, target = maps()
    expected = confusion_matrix(pred, target, 6)
    monkeypatch.setattr(segmentation, "BLOCK", 7)
    assert torch.equal(confusion_matrix(pred, target, 6), expected)
    assert confusion_matrix(pred[:0], target[:0], 6).tolist() == [[0] * 6] * 6


def test_scores_equal_torchmetrics() -> None:
    pred, target = maps()
    scores = segmentation_scores(confusion_matrix(pred, target, 6))
    iou = MulticlassJaccardIndex(6, average="none", ignore_index=255)(pred, target)
    assert scores.iou == pytest.approx(iou.tolist(), abs=1e-6)
    assert scores.miou == pytest.approx(iou.mean().item(), abs=1e-6)
    accuracy = MulticlassAccuracy(6, average="micro", ignore_index=255)(pred, target)
    assert scores.accuracy == pytest.approx(accuracy.item(), abs=1e-6)


def test_hand_made_case_with_void_and_absent_class() -> None:
    target = torch.tensor([[0, 0, 1, 1, 255, 255]])
    pred = torch.tensor([[0, 1, 1, 1, 2, 0]])
    scores = segmentation_scores(confusion_matrix(pred, target, 4))
    # classes 2 and 3: predicted on void only, so they have no union and are left out
    assert scores.iou == pytest.approx((1 / 2, 2 / 3, None, None))
    assert scores.miou == pytest.approx((1 / 2 + 2 / 3) / 2)
    assert scores.accuracy == pytest.approx(3 / 4)
    assert scores.pixels == (2, 2, 0, 0)
    assert json.loads(json.dumps(scores.to_json()))["iou"][2] is None


def test_predicted_but_absent_class_counts_zero() -> None:
    scores = segmentation_scores(confusion_matrix(torch.tensor([0, 2]), torch.tensor([0, 0]), 3))
    assert scores.iou == (0.5, None, 0.0)
    assert scores.miou == 0.25


def test_all_void_has_no_scores() -> None:
    scores = segmentation_scores(confusion_matrix(torch.zeros(4).long(), torch.full((4,), 255), 2))
    assert (scores.miou, scores.accuracy) == (None, None)
    assert scores.iou == (None, None)


def test_accumulation_merge_and_reduce() -> None:
    pred, target = maps()
    whole = ConfusionMatrix(6)
    whole.update(pred, target)
    parts = [ConfusionMatrix(6), ConfusionMatrix(6)]
    for index in range(3):
        parts[index % 2].update(pred[index], target[index])
    other = parts[1].counts
    assert parts[0].compute(reduce=lambda counts: counts + other) == whole.compute()
    parts[0].merge(parts[1])
    assert parts[0].compute() == whole.compute()


def test_bad_maps_are_refused() -> None:
    with pytest.raises(ValueError, match=r"target holds class 7, expected 0\.\.5 or 255"):
        confusion_matrix(torch.zeros(2).long(), torch.tensor([0, 7]), 6)
    with pytest.raises(ValueError, match="prediction holds class -1"):
        confusion_matrix(torch.tensor([-1]), torch.tensor([0]), 6)
    with pytest.raises(ValueError, match="equal shapes"):
        confusion_matrix(torch.zeros(2, 3), torch.zeros(3, 2), 6)
