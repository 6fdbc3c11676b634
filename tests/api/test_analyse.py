"""The papers' analyses against naive searches, and as files from Python and the command line."""

from __future__ import annotations

import io
import json
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image
from safetensors.torch import load_file
from tiny_segmenters import image, segmenter

import segproto
from segproto.data.base import ClassTable, Sample, SegmentationDataset
from segproto.errors import ConfigError
from segproto.evaluation.analyses.assignments import compare_assignments
from segproto.evaluation.analyses.composition import group_graph
from segproto.evaluation.analyses.failures import failure_json, find_failures, worst
from segproto.evaluation.analyses.nearest_patches import nearest_patches
from segproto.evaluation.analyses.nearest_prototypes import nearest_prototypes
from segproto.evaluation.analyses.sample_maps import sample_maps
from segproto.files import mark
from segproto.model.explain import explain

HEIGHT, WIDTH = 24, 32


class Images(SegmentationDataset):
    """Blobs with a mask of four quarters."""

    split = "val"

    def __init__(self, count: int, classes: ClassTable) -> None:
        self.names = [f"image{i}" for i in range(count)]
        self.classes = classes

    def __getitem__(self, index: int) -> Sample:
        mask = torch.zeros(HEIGHT, WIDTH, dtype=torch.uint8)
        mask[: HEIGHT // 2, WIDTH // 2 :], mask[HEIGHT // 2 :, : WIDTH // 2] = 1, 2
        mask[HEIGHT // 2 :, WIDTH // 2 :] = 255 if index == 0 else 3
        return Sample(image(HEIGHT, WIDTH, index), mask, self.names[index])

    @property
    def fingerprint(self) -> str:
        return "images"


def with_patches(kind: str) -> Any:
    """A small model whose prototypes have pictures."""
    model, buffer = segmenter(kind, sources=True), io.BytesIO()
    Image.new("RGB", (16, 16), (90, 120, 200)).save(buffer, "PNG")
    model.patches = dict.fromkeys(model.patches, buffer.getvalue())
    return model


def naive_distances(model: Any, picture: torch.Tensor) -> torch.Tensor:
    """(P, h, w) in float64, one prototype and cell after the other."""
    bank = model.head.bank
    with torch.no_grad():
        x = model.features(model.encoder.normalisation(picture)[None])[0].double()
    out = torch.zeros(bank.num_prototypes, *x.shape[1:], dtype=torch.float64)
    for p in range(bank.num_prototypes):
        block = x[int(bank.scale_of[p]) * bank.dim :][: bank.dim]
        for i in range(x.shape[1]):
            for j in range(x.shape[2]):
                out[p, i, j] = (block[:, i, j] - bank.vectors[p].double()).square().sum()
    return out.detach()


def test_nearest_patches_are_those_of_a_naive_search(tmp_path: Path) -> None:
    model = with_patches("grouped")
    dataset = Images(4, model.classes)
    nearest = nearest_patches(model, dataset, k=3)
    every = [naive_distances(model, dataset[i].image).flatten(1).min(1) for i in range(4)]
    for p in range(model.head.bank.num_prototypes):
        order = sorted(range(4), key=lambda i: float(every[i].values[p]))[:3]
        assert nearest.image[p].tolist() == order
        for n, i in enumerate(order):
            assert float(nearest.distance[p, n]) == pytest.approx(float(every[i].values[p]), abs=1e-5)
            row, column = divmod(int(every[i].indices[p]), 8)
            assert nearest.cell[p, n].tolist() == [row, column]
            assert nearest.box[p, n].tolist() == [4 * row, 4 * column, 4 * row + 4, 4 * column + 4]
            assert int(nearest.label[p, n]) == int(dataset[i].mask[4 * row + 1, 4 * column + 1])
    nearest.save(tmp_path)
    written = json.loads((tmp_path / "analysis.json").read_text())
    assert written["prototypes"][3]["nearest"][0]["image"] == dataset.names[int(nearest.image[3, 0])]
    assert torch.equal(load_file(tmp_path / "arrays.safetensors")["box"], nearest.box)
    assert len(list(tmp_path.glob("*.png"))) == 4


def test_nearest_prototypes_are_the_used_ones_of_a_naive_search(tmp_path: Path) -> None:
    model = segmenter("grouped")
    with torch.no_grad():
        model.head.grouping.weights[:, :, 0] = 0
    used = (model.head.grouping.dense() > 0).any(0).tolist()
    assert not all(used)
    picture = image(HEIGHT, WIDTH, 7)
    points = [(0, 0), (13, 30), (23, 31)]
    nearest = nearest_prototypes(model, picture, points, k=3)
    distances = naive_distances(model, picture)
    for n, (y, x) in enumerate(points):
        cell = distances[:, y // 4, x // 4].tolist()
        expected = sorted((p for p in range(len(cell)) if used[p]), key=lambda p: cell[p])[:3]
        assert nearest.prototype[n].tolist() == expected
        assert nearest.distance[n].tolist() == pytest.approx([cell[p] for p in expected], abs=1e-5)
    nearest.save(tmp_path)
    assert (tmp_path / "nearest_prototypes.png").is_file()
    with pytest.raises(ConfigError, match="pixel 24,0: outside"):
        nearest_prototypes(model, picture, [(24, 0)])
    drawn = nearest_prototypes(model, picture, count=5, seed=1)
    assert drawn.points.shape == (5, 2)
    assert torch.equal(drawn.points, nearest_prototypes(model, picture, count=5, seed=1).points)


def test_the_graph_has_the_weights_as_edges(tmp_path: Path) -> None:
    model = with_patches("grouped")
    dense = model.head.grouping.dense().detach()
    graph = group_graph(model, explain(model, image(HEIGHT, WIDTH)))
    edges = {(g, p): w for c in range(4) for g, p, w in graph.edges(c)}
    assert edges == {(g, p): float(dense[g, p]) for g, p in dense.nonzero().tolist()}
    for row in graph.to_json()["groups"]:
        g = row["group"]
        assert row["readout"] == pytest.approx(model.head.readout[g // 2, g].item())
        assert [m["weight"] for m in row["members"]] == sorted((m["weight"] for m in row["members"]), reverse=True)
        assert row["single"] == (int((dense[g] > 0).sum()) == 1)
    graph.save(tmp_path)
    assert load_file(tmp_path / "arrays.safetensors")["group_maps"].shape == (8, HEIGHT, WIDTH)
    assert list(tmp_path.glob("*.png"))
    with pytest.raises(ConfigError, match="no groups"):
        group_graph(segmenter("prototype"))


def test_sample_maps_say_which_group_and_scale_win() -> None:
    model = segmenter("grouped")
    why, mask = explain(model, image(HEIGHT, WIDTH, 3)), Images(2, model.classes)[1].mask
    maps = sample_maps(why, mask)
    assert sorted(class_maps.class_id for class_maps in maps) == [0, 1, 2, 3]
    bank = model.head.bank
    for class_maps in maps:
        c = class_maps.class_id
        assert torch.equal(class_maps.inside, mask == c)
        assert (
            int(class_maps.winning_group[~class_maps.inside].sum())
            == int(class_maps.winning_scale[~class_maps.inside].sum())
            == 0
        )
        for y, x in class_maps.inside.nonzero()[::29].tolist():
            votes = [float(why.group_map(2 * c + g)[y, x] * model.head.readout[c, 2 * c + g]) for g in range(2)]
            assert int(class_maps.winning_group[y, x]) == 1 + votes.index(max(votes))
            best = []
            for s in range(2):
                own = [p for p in range(16) if bank.class_of[p] == c and bank.scale_of[p] == s]
                best.append(max(float(why.activation_map(p)[y, x]) for p in own))
            assert int(class_maps.winning_scale[y, x]) == 1 + best.index(max(best))


def test_failures_are_found_by_hand() -> None:
    mask = torch.tensor([[0, 0, 0, 0], [1, 1, 1, 255], [2, 2, 2, 2]], dtype=torch.uint8)
    prediction = torch.tensor([[0, 0, 0, 1], [0, 0, 2, 1], [1, 1, 0, 0]], dtype=torch.uint8)
    failures = {f.true_class: f for f in find_failures(prediction, mask, 3, "x", below=0.5)}
    assert set(failures) == {0, 1, 2}  # IoU 3/8, 0/6 and 0/5
    assert failures[0].iou == pytest.approx(3 / 8)
    assert (failures[1].wrong_class, failures[1].pixels, failures[1].true_pixels) == (0, 2, 3)
    assert failures[2].wrong_class == 0  # a tie goes to the smallest class
    assert failures[2].missed.sum() == 2
    assert {f.true_class for f in find_failures(prediction, mask, 3, "x", below=0.3)} == {1, 2}
    assert [f.true_class for f in find_failures(prediction, mask, 3, "x", ignore=[0])] == [0]
    assert find_failures(mask, mask, 3, "x", below=1.0) == []


def test_the_worst_failures_show_every_pair_once_first() -> None:
    blank = torch.zeros(1, 1, dtype=torch.bool)
    from segproto.evaluation.analyses.failures import Failure

    pairs = [(0, 1, 50), (0, 1, 40), (2, 1, 10), (1, 0, 30)]
    failures = [Failure(str(i), a, b, 0.1, n, 100, blank, blank) for i, (a, b, n) in enumerate(pairs)]
    assert [f.name for f in worst(failures, 3)] == ["0", "3", "2"]
    assert [f.name for f in worst(failures, 9)] == ["0", "3", "2", "1"]


def test_failure_evidence_adds_up_to_the_scores() -> None:
    model = segmenter("grouped")
    why = explain(model, image(HEIGHT, WIDTH, 3))
    mask = (why.prediction + 1) % 4
    failure = find_failures(why.prediction, mask, 4, "x")[0]
    document = failure_json(why, failure)
    for side, c in (("true", failure.true_class), ("wrong", failure.wrong_class)):
        part = document[f"evidence_for_{side}"]
        total = sum(p["contribution"] for p in part["prototypes"]) + part["others"] + part["offset"]
        ys, xs = failure.missed.nonzero(as_tuple=True)
        assert total == pytest.approx(float(why.logits(ys, xs)[:, c].mean()), rel=1e-3, abs=1e-2)
    assert document["evidence_for_wrong"]["logit"] > document["evidence_for_true"]["logit"]


def test_two_models_side_by_side(tmp_path: Path) -> None:
    first, second = with_patches("grouped"), segmenter("prototype")
    a, b = explain(first, image(HEIGHT, WIDTH)), explain(second, image(HEIGHT, WIDTH))
    comparison = compare_assignments(a, b, ("one", "two"), tmp_path)
    same = float((a.prediction == b.prediction).float().mean())
    assert comparison["agreement"] == pytest.approx(same)
    assert comparison["agreement"] + sum(row["share"] for row in comparison["disagreements"]) == pytest.approx(
        1, abs=1e-6
    )
    for why, model in zip((a, b), comparison["models"], strict=True):
        assert sum(row["share"] for row in model["prototypes"]) == pytest.approx(1)
        p = model["prototypes"][0]["prototype"]
        assert model["prototypes"][0]["share"] == pytest.approx(float((why.winning_prototype() == p).float().mean()))
    with pytest.raises(ConfigError, match="different classes"):
        compare_assignments(a, explain(segmenter("grouped", classes=3), image(HEIGHT, WIDTH)), ("one", "two"), tmp_path)


def test_every_analysis_leaves_arrays_pictures_and_json(runs: Path, tmp_path: Path) -> None:
    options: dict[str, dict[str, Any]] = {
        "patches": {"split": "val", "k": 2},
        "pixels": {"points": [(3, 4)]},
        "groups": {"image": "val_00001"},
        "samples": {"images": 2},
        "assignments": {"other": runs / "scaleproto"},
        "failures": {"count": 2, "below": 1.0},
    }
    for what, chosen in options.items():
        result = segproto.analyse(what, runs / "scaleproto", out=tmp_path / what, **chosen)
        pictures = list((tmp_path / what).rglob("*.png"))
        assert pictures
        for picture in pictures:
            with Image.open(picture) as opened:
                opened.verify()
        written = [json.loads(file.read_text()) for file in sorted((tmp_path / what).rglob("analysis.json"))]
        assert len(list((tmp_path / what).rglob("arrays.safetensors"))) == len(written) >= 1
        plain = json.loads(json.dumps(result))
        assert [document.pop("made_by") for document in written] == [mark("analysis")] * len(written)
        assert plain.get("cases", [plain]) == written or what == "samples"
        with pytest.raises(ConfigError, match=r"black box|no groups"):
            segproto.analyse(what, runs / "blackbox", out=tmp_path / "none", **chosen)


def test_what_is_not_there_is_named(runs: Path, tmp_path: Path) -> None:
    for what, options, words in [
        ("nonsense", {}, "expected one of patches"),
        ("pixels", {"image": "nowhere.png"}, "no such file, and no validation image"),
        ("failures", {"ignore": ["unicorn"]}, "no such class"),
    ]:
        with pytest.raises(ConfigError, match=words):
            segproto.analyse(what, runs / "scaleproto", out=tmp_path, **options)  # type: ignore[arg-type]
