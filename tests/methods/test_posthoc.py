"""posthoc: the network answers as before, its parts add up and are real patches, interrupts, bad input."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from test_contract import interrupt_after_images

import segproto
from segproto.data.base import ClassTable
from segproto.data.build import build_dataset
from segproto.errors import ConfigError, SegprotoError
from segproto.methods.posthoc import build
from segproto.methods.posthoc.config import PosthocRecipe
from segproto.model.basis_head import BasisHead
from segproto.model.segmenter import Segmenter
from segproto.runs.settings import data_config

DATA = ["data.scenes.size=64", "data.scenes.num_train=24", "data.scenes.num_val=4"]
QUICK = [*DATA, "stages.rotate.cells=2000", "stages.rotate.steps=10", "train.precision=32-true"]


def explain(start: Path, out: Path, *overrides: str) -> Path:
    segproto.train("posthoc/scenes", out=out, start=start, overrides=[*QUICK, *overrides], quiet=True)
    return out


@pytest.fixture(scope="module")
def run(blackbox_run: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return explain(blackbox_run, tmp_path_factory.mktemp("posthoc") / "run")


def test_the_network_answers_as_before(run: Path, blackbox_run: Path) -> None:
    before, after = Segmenter.load(blackbox_run), Segmenter.load(run)
    image = torch.randint(0, 256, (3, 50, 70), dtype=torch.uint8)
    normalised = before.encoder.normalisation(image)[None]
    assert torch.equal(before(normalised), after(normalised))  # bit for bit, so masks are, too
    assert torch.equal(before.predict(image), after.predict(image))
    assert {path.name for path in (run / "stages").iterdir()} == {"rotate", "trace"}  # it is trained no further


def test_parts_add_up_at_every_pixel(run: Path) -> None:
    why = segproto.explain(run, np.random.default_rng(0).integers(0, 256, (50, 40, 3), np.uint8))
    assert why.completeness_error(None) <= 1e-5


def test_each_part_is_strongest_at_its_patch(run: Path) -> None:
    model, dataset = Segmenter.load(run), build_dataset(data_config(run, {}, ()), "train")
    assert isinstance(model.head, BasisHead)
    bank, largest, at = model.head.bank, torch.zeros(model.head.bank.num_prototypes), {}
    with torch.no_grad():
        for index in range(len(dataset)):
            image = model.encoder.normalisation(dataset[index].image)[None]
            at[dataset.names[index]] = model.head.activations(model.features(image))[0]
            largest = torch.maximum(largest, at[dataset.names[index]].flatten(1).amax(1))
    assert model.provenance is not None
    for p, source in enumerate(model.provenance.sources):
        assert source is not None
        found = float(at[source.image][p, source.cell[0], source.cell[1]])
        assert found == pytest.approx(float(largest[p]), rel=1e-4)
        assert found == pytest.approx(float(bank.top[p]), rel=1e-4)
        assert found > 0
        patches = source.all_patches
        assert len({patch.image for patch in patches}) == len(patches) <= 3
        per_image = sorted((float(value[p].max()) for value in at.values()), reverse=True)[: len(patches)]
        strengths = [float(at[patch.image][p, patch.cell[0], patch.cell[1]]) for patch in patches]
        assert strengths == pytest.approx(per_image, rel=1e-4)
        assert [patch.distance for patch in patches] == pytest.approx([(found - s) ** 2 for s in strengths], abs=1e-4)
        assert all(patch.patch in model.patches for patch in patches)
    assert any(source.also for source in model.provenance.sources)
    result = json.loads((run / "stages" / "trace" / "result.json").read_text())
    assert result["prototypes"] + result["silent"] == bank.num_parts
    assert result["carried"] == pytest.approx(1)


def test_only_parts_that_matter_are_shown(run: Path, tmp_path: Path) -> None:
    few = explain(run / "stages" / "rotate", tmp_path / "few", "stages.trace.carry=0.9", "train.stages=[trace]")
    result = json.loads((few / "stages" / "trace" / "result.json").read_text())
    whole, model = Segmenter.load(run), Segmenter.load(few)
    assert result["prototypes"] < whole.head.bank.num_prototypes
    assert 0.9 <= result["carried"] < 1
    image = torch.randn(1, 3, 64, 64)
    assert torch.equal(whole(image), model(image))  # what is not shown is an offset, and counts
    assert segproto.explain(few, np.zeros((50, 40, 3), np.uint8)).completeness_error() <= 1e-5
    sources = [dict(zip(m.head.bank.kept, m.provenance.sources, strict=True)) for m in (whole, model)]
    for number, source in sources[1].items():
        before = [(patch.image, patch.box) for patch in sources[0][number].all_patches]
        assert [(patch.image, patch.box) for patch in source.all_patches] == before


def test_pictures_of_dropped_parts_go(run: Path, tmp_path: Path) -> None:
    segproto.edit(run, drop=[0, 2], out=tmp_path / "without")
    before, after = Segmenter.load(run), Segmenter.load(tmp_path / "without")
    gone = [patch.patch for p in (0, 2) for patch in before.provenance.sources[p].all_patches]
    assert set(before.patches) - set(after.patches) == set(gone)
    assert {f"prototypes/{path.name}" for path in (tmp_path / "without" / "prototypes").iterdir()} == set(after.patches)


@pytest.mark.parametrize("basis", ["channels", "random", "pca", "nmf"])
def test_every_basis_leaves_the_answers_alone(basis: str, blackbox_run: Path, tmp_path: Path) -> None:
    run = explain(blackbox_run, tmp_path / basis, f"stages.rotate.basis={basis}")
    before, after = Segmenter.load(blackbox_run), Segmenter.load(run)
    image = torch.randn(1, 3, 64, 64)
    assert torch.equal(before(image), after(image))
    assert segproto.explain(run, np.zeros((50, 40, 3), np.uint8)).completeness_error() <= 1e-5
    figures = json.loads((run / "stages" / "rotate" / "result.json").read_text())
    assert ("residual" in figures) == (basis == "nmf")


def test_learning_brings_the_objective_down(run: Path) -> None:
    figures = json.loads((run / "stages" / "rotate" / "result.json").read_text())
    assert figures["objective"] < figures["objective_before"]
    rotation = Segmenter.load(run).head.bank.rotation.double()
    assert float((rotation @ rotation.T - torch.eye(len(rotation))).abs().max()) < 1e-6


def test_a_dropped_part_is_not_seen(run: Path, tmp_path: Path) -> None:
    segproto.edit(run, drop=[0, 2], out=tmp_path / "without")
    before, after = Segmenter.load(run), Segmenter.load(tmp_path / "without")
    image = torch.randn(1, 3, 64, 64)
    with torch.no_grad():
        features = before.features(image)
        seen = before.head.activations(features)[:, [0, 2]]
        gone = torch.einsum("cp,bphw->bchw", before.head.unit_weights()[:, [0, 2]], seen)
        assert torch.allclose(after.head(features), before.head(features) - gone, atol=1e-5)
    assert after.head.bank.num_prototypes == before.head.bank.num_prototypes - 2


def test_report_and_metrics_know_it(run: Path) -> None:
    found = segproto.evaluate(
        run, overrides=["interpretability.images=2", "interpretability.faithfulness_images=1"], interpretability=True,
        quiet=True,
    )["interpretability"]["metrics"]  # fmt: skip
    assert found["completeness"]["value"] < 1e-5
    assert found["freshness"]["value"] == 1.0
    assert found["sparsity"]["value"] > 0
    page = segproto.write_report(run, quiet=True)
    assert "the training patch at which the part is strongest" in Path(page).read_text()


def test_a_cut_off_search_goes_on(
    run: Path, blackbox_run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    interrupt_after_images(monkeypatch, 3)
    with pytest.raises(KeyboardInterrupt):
        explain(blackbox_run, tmp_path / "run")
    monkeypatch.undo()
    segproto.train(resume=tmp_path / "run", quiet=True)
    whole, resumed = Segmenter.load(run).state_dict(), Segmenter.load(tmp_path / "run").state_dict()
    assert all(torch.equal(value, resumed[key]) for key, value in whole.items())


def test_images_without_masks_are_enough(blackbox_run: Path, tmp_path: Path) -> None:
    from PIL import Image

    (tmp_path / "photos").mkdir()
    for n in range(3):
        pixels = np.random.default_rng(n).integers(0, 256, (48, 64, 3), np.uint8)
        Image.fromarray(pixels).save(tmp_path / "photos" / f"{n}.png")
    out = tmp_path / "run"
    quick = ["stages.rotate.cells=500", "stages.rotate.steps=5"]
    segproto.train(
        "posthoc/images",
        out=out,
        start=blackbox_run,
        data={"root": str(tmp_path / "photos")},
        overrides=quick,
        quiet=True,
    )
    assert segproto.load(out).classes == segproto.load(blackbox_run).classes


@pytest.mark.parametrize(
    ("start", "settings", "error", "words"),
    [
        ("none", ["stages.joint.steps=0"], ConfigError, "explains a network that is trained already"),
        ("scaleproto", [], ConfigError, "needs a linear head, the model has a grouped head"),
        ("blackbox", ["stages.rotate.basis=ica"], ConfigError, "stages.rotate.basis"),
        ("blackbox", ["data={name: images, root: nowhere}"], SegprotoError, "nowhere is not a folder"),
    ],
)
def test_what_cannot_be_is_one_clear_line(
    start: str, settings: list[str], error: type[Exception], words: str, runs: Path, tmp_path: Path
) -> None:
    model = None if start == "none" else runs / start
    with pytest.raises(error, match=words):
        segproto.train("posthoc/scenes", out=tmp_path / "run", start=model, overrides=[*QUICK, *settings], quiet=True)


def test_a_network_of_other_classes_is_one_clear_line(blackbox_run: Path) -> None:
    recipe = PosthocRecipe.model_validate({"data": {"name": "scenes"}, "train": {"start": blackbox_run}})
    with pytest.raises(ConfigError, match="its classes are not the 2 of the data") as raised:
        build(recipe, ClassTable(("a", "b"), ((0, 0, 0), (1, 1, 1))))
    assert "\n" not in str(raised.value)
