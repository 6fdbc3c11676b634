"""Faithfulness, sanity and completeness on tensors, against NumPy, SciPy and scikit-learn."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from scipy.stats import spearmanr
from sklearn.metrics import auc

from segproto.metrics.completeness import Completeness, completeness_error
from segproto.metrics.faithfulness import Faithfulness, area_under, blurred, random_fields, top_regions
from segproto.metrics.sanity import Sanity, compare_explanations, permuted, spearman


def test_regions_are_the_best_cells_of_the_class() -> None:
    scores = torch.tensor([[5.0, 4, 3, 2, 1, 0], [0, 1, 2, 3, 4, 5]])
    allowed = torch.tensor([1, 1, 0, 1, 1, 0]).bool()
    regions = top_regions(scores, allowed, (0.01, 0.5, 0.9))
    assert regions[0].int().tolist() == [[1, 0, 0, 0, 0, 0], [1, 1, 0, 0, 0, 0], [1, 1, 0, 1, 1, 0]]
    assert regions[1].int().tolist() == [[0, 0, 0, 0, 1, 0], [0, 0, 0, 1, 1, 0], [1, 1, 0, 1, 1, 0]]
    assert (regions.sum(2)[0] == regions.sum(2)[1]).all()  # equal areas


def test_random_fields_follow_the_seed_and_are_smooth() -> None:
    first, again = (random_fields(2, (16, 16), torch.Generator().manual_seed(3)) for _ in range(2))
    assert torch.equal(first, again)
    field = first[0].view(16, 16)
    assert (field.diff(dim=1)).std() < 0.6 * field.std()


def test_areas_are_the_trapezoid_rule() -> None:
    fractions, curve = (0.1, 0.4, 0.8), torch.tensor([[3.0, 2.0, 1.0], [1.0, 5.0, 2.0]]).double()
    areas = area_under(curve, fractions, torch.tensor([4.0, 0.0]).double(), torch.tensor(0.5).double())
    x = [0, *fractions, 1]
    assert areas.tolist() == pytest.approx([auc(x, [4, 3, 2, 1, 0.5]), auc(x, [0, 1, 5, 2, 0.5])])


def test_blur_keeps_the_mean_and_takes_the_detail() -> None:
    image = torch.rand(1, 3, 33, 40)
    soft = blurred(image, 9)
    assert soft.std() < 0.3 * image.std()
    assert soft.mean() == pytest.approx(float(image.mean()), abs=0.02)
    assert torch.allclose(blurred(torch.full((1, 3, 9, 9), 0.3), 5), torch.full((1, 3, 9, 9), 0.3))


def faithful(images) -> Faithfulness:
    metric = Faithfulness((1, 3), (0.25, 0.75))
    for i in images:
        generator = torch.Generator().manual_seed(i)
        curves = torch.rand(3, 2, 2, 3, 2, generator=generator)
        metric.update(curves, torch.rand(3, generator=generator), torch.rand(3, 2, generator=generator), i, 26)
    return metric


def test_faithfulness_means_and_gains() -> None:
    whole, first, second = faithful(range(5)), faithful((4, 0)), faithful((1, 3, 2))
    first.merge(second.state_dict())
    result = whole.compute()
    assert first.compute() == result
    assert result["forward_passes"] == 130
    rows = {(r["measure"], r["mode"], r["fill"], r["region"]): r for r in result["rows"]}
    assert len(rows) == 3 * 2 * 2 * 3
    random, best = rows["probability", "delete", "mean", "random"], rows["probability", "delete", "mean", "top 3"]
    assert best["gain"] == pytest.approx(random["area"] - best["area"])
    insert = rows["iou", "insert", "blur", "top 1"]
    assert insert["gain"] == pytest.approx(insert["area"] - rows["iou", "insert", "blur", "random"]["area"])
    gains = [rows["probability", "delete", fill, "top 3"]["gain"] for fill in ("mean", "blur")]
    assert result["value"] == pytest.approx(np.mean(gains))
    one = faithful([2])
    generator = torch.Generator().manual_seed(2)
    curves, whole_value = torch.rand(3, 2, 2, 3, 2, generator=generator), torch.rand(3, generator=generator)
    empty = torch.rand(3, 2, generator=generator)
    row = next(
        r
        for r in one.compute()["rows"]
        if (r["measure"], r["mode"], r["fill"], r["region"]) == ("iou", "insert", "blur", "top 3")
    )
    assert row["curve"] == pytest.approx(curves[2, 1, 1, 1].tolist())
    y = [float(empty[2, 1]), *row["curve"], float(whole_value[2])]
    assert row["area"] == pytest.approx(auc([0, 0.25, 0.75, 1], y))
    assert faithful([]).compute()["value"] is None


def test_rank_correlation_is_scipys() -> None:
    torch.manual_seed(0)
    a, b = (torch.rand(30) * 8).round(), torch.rand(30)
    assert spearman(a, b) == pytest.approx(spearmanr(a.numpy(), b.numpy())[0])
    assert spearman(a, a) == pytest.approx(1)
    assert spearman(a, torch.ones(30)) == 0


def test_likeness_of_explanations() -> None:
    torch.manual_seed(0)
    before = torch.rand(40, 5)
    assert compare_explanations(before, before) == pytest.approx((1, 1, 1))
    maps, prototypes, winners = compare_explanations(before, -before)
    assert (maps, prototypes) == pytest.approx((-1, -1))
    assert winners == 0


def test_permuting_keeps_the_entries() -> None:
    value = torch.randn(4, 6)
    shuffled = permuted(value, torch.Generator().manual_seed(0))
    assert not torch.equal(shuffled, value)
    assert shuffled.flatten().sort()[0].tolist() == value.flatten().sort()[0].tolist()


def test_sanity_averages_the_steps() -> None:
    steps = ("readout", "encoder")
    rows = {i: torch.rand(2, 3, generator=torch.Generator().manual_seed(i)) for i in range(4)}

    def fed(indices):
        metric = Sanity(steps)
        for i in indices:
            metric.update(rows[i], i)
        return metric

    whole, first = fed(range(4)), fed((3, 1))
    first.merge(fed((2, 0)).state_dict())
    assert first.compute() == whole.compute()
    mean = torch.stack(list(rows.values())).double().mean(0)
    assert whole.compute()["value"] == pytest.approx(float(mean[1, 0]))
    assert whole.compute()["steps"][0]["same_winner"] == pytest.approx(float(mean[0, 2]))
    assert fed([]).compute()["reason"]


def test_completeness_error_is_relative_to_logit_or_contributions() -> None:
    shares = torch.tensor([[2.0, -1.0], [100.0, -100.0], [0.0, 0.0]])
    offset, logits = torch.tensor([0.5, 0.0, 0.0]), torch.tensor([1.5, 0.02, 0.0])
    assert completeness_error(shares, offset, logits).tolist() == pytest.approx([0, 1e-4, 0])
    metric, other = Completeness(), Completeness()
    metric.update(torch.tensor([1e-6, 3e-4]), 1)
    other.update(torch.tensor([math.nan]), 0)
    metric.merge(other.state_dict())
    assert metric.compute()["above"] == 2  # an error that is no number is no small error
    assert Completeness().compute()["value"] is None
