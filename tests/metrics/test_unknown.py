"""AUROC, average precision and FPR at 95 % TPR against scikit-learn and naive loops."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.metrics import average_precision_score, roc_auc_score

from segproto.metrics.unknown import (
    UnknownPixels,
    auroc,
    average_precision,
    bin_of,
    counts_by_score,
    false_positive_rate,
)


def naive_fpr(scores: np.ndarray, unknown: np.ndarray, tpr: float) -> float:
    for threshold in sorted(set(scores.tolist()), reverse=True):
        if (scores[unknown] >= threshold).mean() >= tpr - 1e-12:
            return float((scores[~unknown] >= threshold).mean())
    raise AssertionError


@settings(max_examples=60, deadline=None)
@given(st.integers(0, 10**6), st.sampled_from([3, 40, 10**6]), st.sampled_from([0.05, 0.5, 0.9]))
def test_counts_give_what_scikit_learn_gives(seed: int, levels: int, share: float) -> None:
    rng = np.random.default_rng(seed)
    unknown = rng.random(200) < share
    unknown[:2] = True, False
    scores = rng.integers(0, levels, 200) / levels - 0.3 + 0.2 * unknown
    counts = counts_by_score(torch.from_numpy(scores), torch.from_numpy(unknown))
    assert auroc(*counts) == pytest.approx(roc_auc_score(unknown, scores))
    assert average_precision(*counts) == pytest.approx(average_precision_score(unknown, scores))
    assert false_positive_rate(*counts) == pytest.approx(naive_fpr(scores, unknown, 0.95))


@given(st.lists(st.floats(-(2.0**90), 2.0**90, width=32), min_size=2, max_size=20))
def test_bins_keep_the_order(values: list[float]) -> None:
    scores = torch.tensor(sorted(values))
    bins = bin_of(scores)
    assert (bins.diff() >= 0).all()
    assert int(bins.min()) >= 0
    assert int(bins.max()) < 2**20


def test_values_apart_are_told_apart() -> None:
    scores = torch.tensor([-100.0, -99.9, -1.001, -1.0, -1e-9, 0.0, 1e-9, 1.0, 1.001, 99.9, 100])
    assert len(set(bin_of(scores).tolist())) == len(scores)
    assert bin_of(torch.tensor([-0.0])).item() == bin_of(torch.tensor([0.0])).item()


def test_accumulated_over_images_and_processes() -> None:
    rng = np.random.default_rng(1)
    scores, truth = rng.normal(size=(4, 30, 20)), rng.choice([0, 1, 255], (4, 30, 20), p=[0.6, 0.3, 0.1])
    scores += 0.7 * (truth == 1)
    one, parts = UnknownPixels(), [UnknownPixels(), UnknownPixels()]
    for i in range(4):
        for metric in (one, parts[i % 2]):
            metric.update(torch.from_numpy(scores[i]), torch.from_numpy(truth[i]), i)
    parts[0].merge(parts[1].state_dict())
    assert parts[0].compute() == one.compute()
    inside = truth != 255
    figures = one.compute()
    assert figures["value"] == pytest.approx(roc_auc_score(truth[inside] == 1, scores[inside]), abs=1e-3)
    expected = average_precision_score(truth[inside] == 1, scores[inside])
    assert figures["average_precision"] == pytest.approx(expected, abs=2e-3)
    assert figures["fpr95"] == pytest.approx(naive_fpr(scores[inside], truth[inside] == 1, 0.95), abs=5e-3)
    assert (figures["unknown"], figures["known"]) == (int((truth == 1).sum()), int((truth == 0).sum()))


def test_without_an_unknown_pixel_there_is_a_reason() -> None:
    metric = UnknownPixels()
    metric.update(torch.zeros(2, 2), torch.zeros(2, 2), 0)
    figures = metric.compute()
    assert figures["value"] is None
    assert "unknown" in figures["reason"]
    assert (figures["image_auroc"], figures["unknown_images"], figures["known_images"]) == (None, 0, 1)


def test_images_with_something_unknown_against_those_without() -> None:
    rng = np.random.default_rng(2)
    metric, expected, labels = UnknownPixels(), [], []
    for i in range(12):
        scores, truth = rng.normal(size=(20, 25)), rng.choice([0, 255], (20, 25), p=[0.9, 0.1])
        if i % 3 == 0:
            truth[4:6, 4:8] = 1
            scores[truth == 1] += 2
        scores[truth == 255] = 99.0  # void says nothing
        metric.update(torch.from_numpy(scores), torch.from_numpy(truth), i)
        told = sorted(scores[truth != 255].tolist(), reverse=True)
        expected.append(sum(told[: len(told) // 100]) / (len(told) // 100))
        labels.append(i % 3 == 0)
    metric.update(torch.full((3, 3), 50.0), torch.full((3, 3), 255), 12)  # nor does an image of void alone
    figures = metric.compute()
    assert metric.table("images")[:, 1].tolist() == pytest.approx(expected)
    assert figures["image_auroc"] == pytest.approx(roc_auc_score(labels, expected))
    assert 0.5 < figures["image_auroc"] < 1
    assert (figures["unknown_images"], figures["known_images"]) == (4, 8)
