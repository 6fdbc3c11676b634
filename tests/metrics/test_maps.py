"""Overlap, components, equivariance, pointing, purity, coverage and usage against naive loops."""

from __future__ import annotations

from itertools import combinations

import numpy as np
import pytest
import torch
from scipy import ndimage

from segproto.metrics.accumulate import Accumulator, scored
from segproto.metrics.cells import class_pixels, pixel_cells
from segproto.metrics.components import Components, count_components
from segproto.metrics.equivariance import Equivariance
from segproto.metrics.overlap import Overlap, pair_overlap
from segproto.metrics.pointing import Pointing, boundary_band
from segproto.metrics.purity import Purity, cell_parts
from segproto.metrics.usage import Coverage, Usage, prototype_distances

CLASS_OF = torch.tensor([0, 1, 0, 1, 1, 2])
SCALE_OF = torch.tensor([0, 0, 1, 1, 1, 1])


def images(count: int = 6, grid=(6, 8)):
    """Activations (6, h, w), labels (h, w) with void, pixel weights (N,)."""
    samples = []
    for seed in range(count):
        torch.manual_seed(seed)
        labels = torch.randint(0, 4, grid)
        labels[labels == 3] = 255
        samples.append((torch.rand(6, *grid) - 2, labels, torch.randint(0, 5, (grid[0] * grid[1],))))
    return samples


def naive_quantile(values, weights, q):
    return np.quantile(values.double().repeat_interleave(weights).numpy(), q)


def present(labels):
    return torch.tensor([bool((labels == c).any()) for c in range(3)])


def halves(make, feed, count: int = 6):
    """The same metric fed by one process, and by two whose states are merged."""
    whole, first, second = make(), make(), make()
    for metric, indices in ((whole, range(count)), (first, range(1, count, 2)), (second, range(0, count, 2))):
        for i in indices:
            feed(metric, i)
    first.merge(second.state_dict())
    return whole, first


def test_overlap_is_the_iou_of_all_pairs() -> None:
    data = images()

    def feed(metric, i):
        act, labels, weights = data[i]
        metric.update(act.flatten(1), weights, present(labels))

    whole, merged = halves(lambda: Overlap(CLASS_OF, 3, (0.5, 0.9)), feed)
    assert merged.compute() == whole.compute()
    for q, quantile in enumerate((0.5, 0.9)):
        inter, union = np.zeros(3), np.zeros(3)
        for act, labels, weights in data:
            maps = [a.flatten().double().numpy() > naive_quantile(a.flatten(), weights, quantile) for a in act]
            for c in range(3):
                if present(labels)[c]:
                    own = [m for m, k in zip(maps, CLASS_OF.tolist(), strict=True) if k == c]
                    for a, b in combinations(own, 2):
                        inter[c] += ((a & b) * weights.numpy()).sum()
                        union[c] += ((a | b) * weights.numpy()).sum()
        row = whole.compute()["per_quantile"][q]
        assert row["micro"] == pytest.approx(inter.sum() / union.sum())
        assert row["macro"] == pytest.approx(np.mean(inter[:2] / union[:2]))
        assert row["per_class"][2] is None  # a single prototype has no pair
    only = whole.compute(torch.tensor([False, True, False]))
    assert only["per_quantile"][0]["micro"] == whole.compute()["per_quantile"][0]["per_class"][1]


def test_equal_maps_overlap_fully_and_disjoint_ones_not_at_all() -> None:
    active = torch.tensor([[1, 1, 0, 0], [1, 1, 0, 0], [0, 0, 1, 1]]).bool()
    inter, union = pair_overlap(active, torch.ones(4, dtype=torch.int64), torch.tensor([0, 0, 1]), 2)
    assert (inter.tolist(), union.tolist()) == ([2, 0], [2, 0])
    assert Overlap(torch.tensor([0]), 1).compute() | {"per_quantile": 0} == {
        "value": None,
        "reason": "no class with two or more maps is shown",
        "macro": None,
        "per_quantile": 0,
    }


def test_components_are_counted_a_map_at_a_time() -> None:
    torch.manual_seed(0)
    active = torch.rand(7, 9, 11) > 0.7
    active[3] = False
    expected = [ndimage.label(a.numpy(), structure=np.ones((3, 3)))[1] for a in active]
    assert count_components(active).tolist() == expected
    data = images()
    whole, merged = halves(lambda: Components(SCALE_OF, 2, (0.8,)), lambda m, i: m.update(data[i][0], data[i][2]))
    assert merged.compute() == whole.compute()
    counts, area, pixels = [[], []], [0, 0], 0
    for act, _, weights in data:
        pixels += int(weights.sum())
        for p, a in enumerate(act):
            on = (a.double().numpy() > naive_quantile(a.flatten(), weights, 0.8)) & (weights.view(a.shape).numpy() > 0)
            counts[SCALE_OF[p]].append(ndimage.label(on, structure=np.ones((3, 3)))[1])
            area[SCALE_OF[p]] += (on * weights.view(a.shape).numpy()).sum()
    row = whole.compute()["per_quantile"][0]
    assert row["count"] == pytest.approx([np.mean(c) for c in counts])
    shares = [a / sum(c) / (pixels / len(data)) for a, c in zip(area, counts, strict=True)]
    assert row["area"] == pytest.approx(shares)


def test_equivariant_pairs_by_hand() -> None:
    torch.manual_seed(1)
    weights = torch.randint(0, 4, (3, 20))
    data = [(torch.rand(2, 20) > 0.5, torch.rand(4, 20) > 0.5) for _ in range(6)]
    whole, merged = halves(
        lambda: Equivariance(CLASS_OF, SCALE_OF, 3, 2), lambda m, i: m.update(*data[i], (0, 1), weights)
    )
    assert merged.compute() == whole.compute()
    result = whole.compute(thresholds=(0.2, 0.99), threshold=0.2, examples=10)
    ious = {}
    for p in (0, 1):
        for q in (2, 3, 4, 5):
            if CLASS_OF[p] == CLASS_OF[q]:
                w = weights[CLASS_OF[p]]
                inter = sum(int(((a[p] & b[q - 2]) * w).sum()) for a, b in data)
                union = sum(int(((a[p] | b[q - 2]) * w).sum()) for a, b in data)
                ious[p, q] = inter / union
    assert {tuple(r["prototypes"]): pytest.approx(r["iou"]) for r in result["pairs"]} == ious
    assert result["curve"][0]["pairs"] == sum(v > 0.2 for v in ious.values()) > 0
    assert result["curve"][1] == {"threshold": 0.99, "classes": 0.0, "pairs": 0}
    assert result["groups"] == {0: [[0, 2]], 1: [[1, 3, 4]]}
    assert result["initial_groups"] == {0: [[[0], [0]]], 1: [[[0], [0, 1]]]}
    empty = Equivariance(CLASS_OF, SCALE_OF, 3, 2).compute()
    assert empty["value"] is None
    assert "reason" in empty


def test_boundary_band_ignores_void() -> None:
    labels = torch.zeros(5, 6, dtype=torch.int64)
    labels[:, 3:] = 1
    labels[0] = 255
    band = boundary_band(labels)
    assert band[1:].int().sum(0).tolist() == [0, 0, 4, 4, 0, 0]
    assert not band[0].any()
    assert boundary_band(labels, 2)[1:, 1:5].all()


def test_pointing_game_by_hand() -> None:
    data = images()
    whole, merged = halves(lambda: Pointing(CLASS_OF, 3), lambda m, i: m.update(data[i][0], data[i][1]))
    assert merged.compute() == whole.compute()
    table = np.zeros((3, 3), int)
    for act, labels, _ in data:
        for p, c in enumerate(CLASS_OF.tolist()):
            if (labels == c).any():
                flat = act[p].masked_fill(labels == 255, -9).flatten()
                table[c, labels.flatten()[flat.argmax()]] += 1
    result = whole.compute()
    assert result["value"] == pytest.approx(np.trace(table) / table.sum())
    assert result["per_class"] == pytest.approx((np.diag(table) / table.sum(1)).tolist())
    assert result["confused"][0]["count"] == (table - np.diag(np.diag(table))).max()
    perfect = Pointing(torch.tensor([0, 1]), 2)
    labels = torch.tensor([[0, 1], [0, 1]])
    perfect.update(torch.stack([(labels == c).float() for c in (0, 1)]), labels)
    assert perfect.compute()["value"] == 1
    assert perfect.compute()["boundary"] == 1
    nothing = Pointing(torch.tensor([0]), 2)
    nothing.update(torch.rand(1, 2, 2), torch.full((2, 2), 255))
    assert nothing.compute()["value"] is None


def test_purity_looks_at_the_strongest_images() -> None:
    metric = Purity(torch.tensor([0, 1]), 3, k=2)
    strengths = [(0.5, 1), (0.9, 2), (0.7, 2), (0.9, 1)]
    for i, (strength, part) in enumerate(strengths):
        parts = torch.tensor([[0, part, 0]])
        metric.update(torch.tensor([[0.1, strength, 0.2], [1.0, 0, 0]]), parts, torch.tensor([0]), i)
    result = metric.compute()
    assert metric.image[0].tolist() == [1, 3]  # ties go to the smaller index
    assert result["per_prototype"] == [0.5, None]
    assert result["value"] == 0.5
    other = Purity(torch.tensor([0, 1]), 3, k=2)
    assert other.compute()["value"] is None
    other.merge(metric.state_dict())
    assert other.compute() == result
    unseen = Purity(torch.tensor([0]), 1)
    assert unseen.compute()["value"] is None


def test_purity_does_not_depend_on_the_split() -> None:
    torch.manual_seed(0)
    data = [((torch.rand(6, 10) * 5).round(), torch.randint(0, 4, (3, 10))) for _ in range(9)]
    whole, merged = halves(lambda: Purity(CLASS_OF, 4, k=3), lambda m, i: m.update(*data[i], torch.arange(3), i), 9)
    assert merged.compute() == whole.compute()


def test_parts_of_cells_are_the_majority() -> None:
    mask = torch.tensor([[0, 0, 1, 1], [0, 0, 1, 255]])
    parts = torch.tensor([[1, 2, 2, 0], [2, 2, 0, 2]])
    cells = pixel_cells((2, 4), (1, 2), (2, 4))
    assert cell_parts(parts, mask, cells, 2, 3, torch.tensor([0, 1])).tolist() == [[2, 0], [0, 2]]


def test_coverage_counts_pixels_of_the_union() -> None:
    data = []
    for seed in range(6):
        torch.manual_seed(seed)
        mask = torch.randint(0, 4, (12, 16))
        mask[mask == 3] = 255
        cells = pixel_cells((12, 16), (6, 8), (12, 16))
        data.append((torch.rand(6, 48), class_pixels(mask, cells, 3, 48)))
    keep = torch.tensor([1, 1, 1, 1, 1, 0]).bool()
    whole, merged = halves(lambda: Coverage(CLASS_OF, 3, (0.8,), keep), lambda m, i: m.update(*data[i], (12, 16)))
    assert merged.compute() == whole.compute()
    covered, total = np.zeros(3), np.zeros(3)
    for act, weights in data:
        for c in range(2):
            own = weights[c] > 0
            union = np.zeros(48, bool)
            for p in range(6):
                if CLASS_OF[p] == c:
                    limit = naive_quantile(act[p][own], weights[c][own], 0.8)
                    union |= (act[p].double().numpy() > limit) & own.numpy()
            covered[c] += (union * weights[c].numpy()).sum()
            total[c] += weights[c].sum()
    assert whole.compute()["per_quantile"][0]["per_class"][:2] == pytest.approx(
        (covered / np.maximum(total, 1))[:2].tolist()
    )
    assert whole.compute()["per_quantile"][0]["per_class"][2] is None


def test_usage_by_hand() -> None:
    data = images()
    drawn = [torch.randint(0, 48, (20,), generator=torch.Generator().manual_seed(i)) for i in range(6)]

    def feed(metric: Usage, i: int) -> None:
        metric.update(data[i][0].flatten(1), data[i][1].flatten(), drawn[i])

    whole, merged = halves(lambda: Usage(CLASS_OF, 3, (1, 3, 99)), feed)
    for name in ("usage", "neighbours", "nearest"):
        assert getattr(merged, name)() == getattr(whole, name)()
    own, nearest, same, count = np.zeros(6, int), np.zeros((3, 6)), np.zeros(2), 0
    for (act, labels, _), cells in zip(data, drawn, strict=True):
        flat, known = act.flatten(1).numpy(), labels.flatten().numpy()
        for n, c in enumerate(known):
            if c == 255:
                continue
            nearest[c, flat[:, n].argmax()] += 1
            members = [p for p in range(6) if CLASS_OF[p] == c]
            own[max(members, key=lambda p: flat[p, n])] += 1
        for n in cells.tolist():
            if known[n] != 255:
                order = np.argsort(-flat[:, n])
                count += 1
                same += [np.mean(CLASS_OF.numpy()[order[:k]] == known[n]) for k in (1, 3)]
    assert whole.usage()["cells"] == own.tolist()
    assert np.allclose(whole.nearest()["frequencies"], nearest / nearest.sum(1, keepdims=True))
    assert [r["value"] for r in whole.neighbours()["per_k"][:2]] == pytest.approx((same / count).tolist())
    assert whole.ks == (1, 3, 6)
    rates = own[[1, 3, 4]] / own[[1, 3, 4]].sum()
    assert whole.usage()["entropy_per_class"][1] == pytest.approx(-(rates * np.log(rates)).sum() / np.log(3))
    assert whole.usage()["entropy_per_class"][2] == 1


def test_dead_prototypes_are_found() -> None:
    metric = Usage(torch.tensor([0, 0, 1, 2]), 3, (1,))
    labels = torch.tensor([0, 0, 1, 255])
    metric.update(torch.tensor([[2.0, 2, 0, 0], [1, 1, 5, 9], [0, 0, 1, 0], [0, 0, 0, 0]]), labels, torch.arange(4))
    usage = metric.usage()
    assert usage["dead"] == [1]  # prototype 3's class is not shown: nothing is known of it
    assert usage["value"] == pytest.approx(1 / 3)
    assert metric.nearest()["per_class"] == [1.0, 0.0, None]


def test_distances_within_class_and_scale() -> None:
    vectors = torch.tensor([[0.0, 0], [0, 0], [3, 4], [0, 0], [6, 8]])
    distances = prototype_distances(vectors, torch.tensor([0, 0, 0, 1, 0]), torch.tensor([0, 0, 0, 0, 1]), 3)
    assert distances["value"] == pytest.approx(10 / 3)
    assert distances["duplicates"] == [[0, 1]]
    assert sum(distances["histogram"]["counts"]) == 3
    assert distances["per_class"] == [pytest.approx(10 / 3), None, None]
    assert prototype_distances(vectors[:1], torch.tensor([0]), torch.tensor([0]), 1)["value"] is None


def test_rows_are_put_in_image_order() -> None:
    first, second = Accumulator(), Accumulator()
    for metric in (first, second):
        metric.rows = {"a": []}
    first.rows["a"].append(torch.tensor([[2.0, 5.0]]))
    second.rows["a"].append(torch.tensor([[1.0, 7.0]]))
    first.merge(second.state_dict())
    assert first.table("a").tolist() == [[1, 7], [2, 5]]
    assert Accumulator().state_dict() == {}
    assert scored(None, "why") == {"value": None, "reason": "why"}
    assert scored(0.0, "why") == {"value": 0.0}
