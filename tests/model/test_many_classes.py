"""Models of more classes than a byte numbers: every map names the right one."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file
from tiny_segmenters import image, segmenter

from segproto.data.base import ClassTable, Sample
from segproto.data.build import build_dataset
from segproto.data.classes import read_classes
from segproto.data.config import DataConfig
from segproto.data.palette import default_colours
from segproto.data.verify import verify
from segproto.errors import DataError
from segproto.evaluation.analyses.failures import find_failures
from segproto.interop.export import Graph
from segproto.model.edit import edited
from segproto.model.outputs import Outputs, predict_to_files, value_table
from segproto.model.predict import predict
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
    predict_to_files(model, picture, Outputs(tmp_path / "mask.png"))
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


def test_a_classes_file_of_300_classes_trains_and_gives_its_numbers_back(tmp_path: Path) -> None:
    from segproto.api import train
    from segproto.data.images import read_indices

    rng = np.random.default_rng(0)
    values = np.arange(300)
    for index in range(3):
        for kind in ("images", "labels"):
            (tmp_path / "many" / kind).mkdir(parents=True, exist_ok=True)
        mask = rng.permutation(np.resize(values, 32 * 40)).reshape(32, 40)
        Image.fromarray(rng.integers(0, 255, (32, 40, 3), dtype=np.uint8)).save(tmp_path / f"many/images/{index}.png")
        Image.fromarray(mask.astype(np.uint16)).save(tmp_path / f"many/labels/{index}.png")
    names = ", ".join(f"c{value}" for value in values)
    (tmp_path / "many/classes.yaml").write_text(f"classes: [{names}]\nvoid: [999]\n")
    config = DataConfig(root=tmp_path / "many")
    assert verify(config).problems == []
    dataset = build_dataset(config, "train")
    stored = read_indices(tmp_path / f"many/labels/{dataset.names[0]}.png")
    mask = dataset[0].mask.numpy()
    assert dataset.classes.num_classes == 301
    assert np.array_equal(mask, np.where(stored < IGNORE_INDEX, stored, stored + 1))
    assert dataset.classes.names[256] == "c255"
    small = [
        *("encoder.name=unet", "encoder.backbone=null", "encoder.layers=null", "encoder.layer_norm=false"),
        *("encoder.frozen=false", "encoder.width=4", "encoder.dim=4", "encoder.output_stride=1", "train.batch_size=1"),
        *("train.cache_features=false", "train.precision=32-true", "train.accelerator=cpu", "model.prototypes=1"),
        *("data.root=" + str(tmp_path / "many"), "stages.joint.steps=1", "train.stages=[seed,joint,project]"),
    ]
    train("protoseg/folder", out=tmp_path / "run", overrides=small, quiet=True)
    trained = Segmenter.load(tmp_path / "run")
    assert trained.head.bank is not None
    assert set(trained.head.bank.class_of.tolist()) <= set(range(301)) - {IGNORE_INDEX}
    predict_to_files(trained, tmp_path / "many/images/0.png", Outputs(tmp_path / "mask.png"))
    numbers = value_table(trained.classes, "classes")
    assert numbers is not None
    assert numbers[[0, 254, 255, 256, 300]].tolist() == [0, 254, 999, 255, 299]


def test_a_classes_file_may_call_no_class_void(tmp_path: Path) -> None:
    file = tmp_path / "classes.yaml"
    file.write_text('classes: ["(void)", b]\n')
    with pytest.raises(DataError, match=r"class name '\(void\)' is taken"):
        read_classes(file)
