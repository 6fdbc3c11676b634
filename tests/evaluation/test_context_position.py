"""Evidence outside of things, and prototypes that stand for places: against plain float64 loops."""

from __future__ import annotations

import statistics

import pytest
import tiny_segmenters as tiny
import torch

from segproto.data.config import ScenesConfig
from segproto.data.scenes import CLASSES, ScenesDataset
from segproto.evaluation.interpretability.config import InterpretabilityConfig
from segproto.evaluation.interpretability.run import interpret
from segproto.metrics.context import Context
from segproto.metrics.position import FEWEST, NARROW, Position, places
from segproto.model.segmenter import Segmenter


def scenes(count: int) -> ScenesDataset:
    return ScenesDataset(ScenesConfig(num_train=1, num_val=count, size=64, objects=(3, 4)), "val")


def model(kind: str) -> Segmenter:
    whole = tiny.segmenter(kind, CLASSES.num_classes)
    whole.classes = CLASSES
    with torch.no_grad():  # so sure of itself that it recognises something
        getattr(whole.head, "weight", getattr(whole.head, "readout", None)).mul_(40)
    return whole.eval()


@pytest.mark.parametrize("kind", ["linear", "prototype"])
@torch.no_grad()
def test_context_equals_a_loop_over_images_and_classes(kind: str) -> None:
    whole, data = model(kind), scenes(4)
    owed: dict[int, list[list[float]]] = {c: [] for c in range(CLASSES.num_classes)}
    for index in range(4):
        sample = data[index]
        image = whole.encoder.normalisation(sample.image)
        fill = image.mean((1, 2), keepdim=True)
        for c in range(CLASSES.num_classes):
            own = sample.mask == c
            if not 0.02 <= float(own.double().mean()) <= 0.9:
                continue
            values = []
            for picture in (image, torch.where(own, image, fill), torch.where(own, fill, image)):
                grid = whole.grid_logits(picture[None])[0].softmax(0)[c]
                side = 64 // grid.shape[0]
                total, pixels = 0.0, 0
                for y in range(grid.shape[0]):
                    for x in range(grid.shape[1]):
                        n = int(own[y * side : (y + 1) * side, x * side : (x + 1) * side].sum())
                        total, pixels = total + n * float(grid[y, x]), pixels + n
                values.append(total / pixels)
            lost = [max(0.0, values[0] - v) for v in values[1:]] if values[0] >= 0.1 else [0.0, 0.0]
            owed[c].append(lost)
    config = InterpretabilityConfig(metrics=("context",))
    found = interpret(whole, data, config)["metrics"]["context"]
    expected = []
    for c, rows in owed.items():
        around, thing = (sum(row[i] for row in rows) for i in (0, 1))
        assert found["looked_at"][c] == len(rows)
        assert found["images"][c] == sum(row != [0.0, 0.0] for row in rows)
        if rows:
            assert found["lost"][c] == pytest.approx([around / len(rows), thing / len(rows)], abs=1e-5)
        if around + thing > 0:
            assert found["per_class"][c] == pytest.approx(around / (around + thing), abs=1e-5)
            expected.append(around / (around + thing))
        else:
            assert found["per_class"][c] is None
    assert len(expected) >= 2
    assert found["value"] == pytest.approx(statistics.mean(expected), abs=1e-5)


def test_context_of_nothing_is_a_reason() -> None:
    nothing = Context(2)
    assert nothing.compute()["reason"] == "no class is recognised in an image"
    nothing.update(torch.zeros(2), 1, 0)
    assert nothing.compute()["value"] is None
    assert nothing.compute()["looked_at"] == [0, 1]


def test_position_equals_a_loop_in_any_order_of_images() -> None:
    draw = torch.Generator().manual_seed(3)
    prototypes, classes, grid, images = 7, 3, (6, 5), 14
    class_of = torch.tensor([0, 0, 1, 1, 1, 2, 2])
    where = places(grid, (1.2, 1.0))
    inside = where[:, 0] < 1  # the lowest row lies in the padding
    seen = []
    for index in range(images):
        activations = torch.rand(prototypes, 30, generator=draw)
        activations[0, 12] += 2 * (index % 7 != 0)  # almost always in one cell
        labels = torch.randint(0, 2, (30,), generator=draw)
        labels[torch.rand(30, generator=draw) < 0.2] = 255
        if index < 5:
            labels[3] = 2  # too few images show class 2
        seen.append((activations, labels, torch.rand(prototypes, 30, generator=draw), index))
    whole, halves = Position(class_of, classes), [Position(class_of, classes) for _ in (0, 1)]
    for activations, labels, drawn, index in seen:
        for metric in (whole, halves[index % 2]):
            metric.update(activations, labels, where, inside, drawn, index)
    halves[1].merge(halves[0].state_dict())
    found = whole.compute()
    assert halves[1].compute() == found

    narrow, by_chance, spreads = [], [], []
    for p in range(prototypes):
        best: dict[str, list[tuple[float, float]]] = {"best": [], "drawn": []}
        means, variances = [], []
        for activations, labels, drawn, _ in seen:
            own = [n for n in range(30) if labels[n] == class_of[p] and inside[n]]
            if not own:
                continue
            strongest = max((n for n in range(30) if inside[n]), key=lambda n: float(activations[p, n]))
            chance = max(own, key=lambda n: float(drawn[p, n]))
            best["best"].append(tuple(where[strongest].tolist()))
            best["drawn"].append(tuple(where[chance].tolist()))
            means.append([statistics.mean(float(where[n, a]) for n in own) for a in (0, 1)])
            variances.append([statistics.pvariance([float(where[n, a]) for n in own]) for a in (0, 1)])
        if len(means) < FEWEST:
            assert found["per_prototype"][p] is None
            continue
        of_class = [
            statistics.mean(v[a] for v in variances) + statistics.variance([m[a] for m in means]) for a in (0, 1)
        ]
        ratios = {k: [statistics.variance([s[a] for s in v]) / of_class[a] for a in (0, 1)] for k, v in best.items()}
        narrow.append(min(ratios["best"]) < NARROW)
        by_chance.append(min(ratios["drawn"]) < NARROW)
        spreads.append(ratios["best"])
        assert found["per_prototype"][p] == pytest.approx(min(spreads[-1]), abs=1e-9)
    assert found["prototypes"] == len(spreads) == 5
    assert narrow[0]
    assert found["value"] == pytest.approx(sum(narrow) / 5)
    assert found["chance"] == pytest.approx(sum(by_chance) / 5)
    assert found["down"] == pytest.approx(statistics.median(down for down, _ in spreads), abs=1e-9)
    assert found["across"] == pytest.approx(statistics.median(across for _, across in spreads), abs=1e-9)
    assert found["per_class"][2] is None


def test_a_prototype_that_is_a_place_is_one_and_few_images_are_none() -> None:
    figures = interpret(model("prototype"), scenes(3), InterpretabilityConfig(metrics=("position",)))["metrics"]
    assert figures["position"]["reason"] == "no prototype is in use whose class 10 images show"
    metric, where = Position(torch.zeros(2, dtype=torch.int64), 1), places((4, 4), (1, 1))
    draw = torch.Generator().manual_seed(0)
    for index in range(12):
        lower = torch.rand(16, generator=draw)
        lower[12:] += 1  # anywhere in the lowest row
        anywhere = torch.rand(16, generator=draw)
        labels, drawn = torch.zeros(16, dtype=torch.int64), torch.rand(2, 16, generator=draw)
        metric.update(torch.stack([lower, anywhere]), labels, where, torch.ones(16, dtype=torch.bool), drawn, index)
    found = metric.compute()
    assert found["value"] == 0.5
    assert found["chance"] == 0
    assert found["per_prototype"][0] < found["per_prototype"][1]
