"""Models of more classes than a byte numbers: every map names the right one."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from tiny_segmenters import image, segmenter

from segproto.data.base import ClassTable, Sample
from segproto.data.palette import default_colours
from segproto.evaluation.analyses.failures import find_failures
from segproto.interop.export import Graph
from segproto.model.edit import edited
from segproto.model.predict import predict, predict_to_png
from segproto.model.segmenter import Segmenter
from segproto.prototypes.labels import IGNORE_INDEX
from segproto.report.evidence import probe_image
from segproto.report.page import explanation_page
from segproto.report.pictures import paint
from segproto.training.procedures.steps import Step, read_steps, write_index, write_steps

MANY = 848  # 847 and the number 255, which is void


@pytest.fixture(scope="module")
def model() -> Segmenter:
    many = segmenter("prototype", classes=MANY)
    many.classes = ClassTable(tuple(f"c{i}" for i in range(MANY)), default_colours(MANY))
    return many


@pytest.fixture(scope="module")
def picture() -> torch.Tensor:
    return image(24, 32)


@pytest.fixture(scope="module")
def expected(model: Segmenter, picture: torch.Tensor) -> torch.Tensor:
    with torch.no_grad():
        logits = model(model.encoder.normalisation(picture)[None])[0]
    best = logits.argmax(0)
    assert int(best.max()) > IGNORE_INDEX  # else this file tests nothing
    return best


def test_predict(model: Segmenter, picture: torch.Tensor, expected: torch.Tensor, tmp_path: Path) -> None:
    from segproto.data.images import read_indices

    assert torch.equal(predict(model, picture).long(), expected)
    predict_to_png(model, picture, tmp_path / "mask.png")
    assert torch.equal(torch.from_numpy(read_indices(tmp_path / "mask.png")).long(), expected)


def test_explain_and_its_page(model: Segmenter, picture: torch.Tensor, expected: torch.Tensor, tmp_path: Path) -> None:
    why = model.explain(picture)
    assert torch.equal(why.prediction.long(), expected)
    rows = why.summary(top=2)
    assert {row["class_id"] for row in rows} == set(expected.unique().tolist())
    assert all(row["class_name"] == f"c{row['class_id']}" for row in rows)
    assert why.pixel(5, 7).class_id == int(expected[5, 7])
    assert why.completeness_error(sample=64) <= 1e-4
    why.save(tmp_path / "why", top=2)
    assert torch.equal(load_file(tmp_path / "why" / "arrays.safetensors")["prediction"].long(), expected)
    stored = json.loads((tmp_path / "why" / "explanation.json").read_text())
    assert {row["class_id"] for row in stored["summary"]} == set(expected.unique().tolist())
    probe = probe_image(why)
    assert all(c == int(expected[y, x]) for c, y, x in cells_of(probe, expected.shape))
    explanation_page(why, tmp_path / "why" / "index.html")


def cells_of(probe: dict[str, object], size: torch.Size) -> list[tuple[int, int, int]]:
    """Class and pixel of each lattice point."""
    (rows, columns), (height, width) = probe["grid"], size
    where = [
        (int((r + 0.5) * height / rows), int((c + 0.5) * width / columns)) for r in range(rows) for c in range(columns)
    ]
    return [(c, y, x) for c, (y, x) in zip(probe["best"], where, strict=True)]


def test_mistakes_and_pictures_of_a_report(model: Segmenter, picture: torch.Tensor, expected: torch.Tensor) -> None:
    truth = torch.full_like(expected, 700).to(torch.int16)
    wrong = find_failures(model.explain(picture).prediction, truth, MANY, "image")
    assert [(f.true_class, f.wrong_class) for f in wrong] == [(700, int(expected[expected != 700].mode()[0]))]
    painted = paint(expected, model.classes.colours)
    table = torch.tensor(model.classes.colours, dtype=torch.uint8)
    assert torch.equal(painted[:3], table[expected].permute(2, 0, 1))


def test_edit(model: Segmenter, picture: torch.Tensor) -> None:
    less, kept = edited(model, drop=[0])
    assert torch.equal(less.explain(picture).prediction, predict(less, picture))
    assert len(kept) == 4 * MANY - 1


def test_an_exported_graph(model: Segmenter, picture: torch.Tensor, expected: torch.Tensor) -> None:
    graph = Graph(model).eval()
    with torch.no_grad():
        mask = dict(zip(graph.outputs, graph(picture[None]), strict=True))["mask"]
    assert mask.dtype == torch.int16
    assert torch.equal(mask[0].long(), expected)


def test_steps_of_a_run(tmp_path: Path, picture: torch.Tensor, expected: torch.Tensor) -> None:
    step = Step("a", "A", "words", "classes")
    write_steps(tmp_path, Sample(picture, torch.full_like(expected, 255).to(torch.uint8), "x"), {"a": expected})
    write_index(tmp_path, [step], ["x"])
    found = read_steps(tmp_path)[1]["x"]
    assert torch.equal(found["a"].long(), expected)
    assert found["truth"].dtype == torch.uint8
