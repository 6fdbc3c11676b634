"""memory: scores and shares against plain loops, what a run remembers and says of it, and bad input."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from training_tiny import in_processes
from two_steps import SMALL, smaller

import segproto
from segproto.errors import ConfigError, DataError
from segproto.methods import METHODS
from segproto.model.memory_head import MemoryBank, MemoryHead
from segproto.model.segmenter import Segmenter
from segproto.training import runner

PATCHES = "stages.remember.patches=300"


def head(patches: int = 40, classes: int = 5, dim: int = 6, balance: float = 0.0) -> MemoryHead:
    torch.manual_seed(0)
    vectors = torch.nn.functional.normalize(torch.randn(patches, dim), dim=1).half()
    frequencies = torch.rand(patches, classes).softmax(1).half()
    return MemoryHead(MemoryBank(vectors, frequencies, torch.randn(dim), torch.zeros(0, dim), 0), 7, 0.2, balance)


@pytest.mark.parametrize("balance", [0.0, 0.5])
def test_scores_are_those_of_a_plain_loop_and_shares_add_up(balance: float) -> None:
    subject = head(balance=balance)
    features = torch.randn(2, 6, 3, 4)
    logits = subject(features)
    every = subject.activations(features)
    assert torch.allclose(torch.stack([subject.activation(features, p) for p in range(40)], 1), every, atol=1e-6)
    cells = features.permute(0, 2, 3, 1).flatten(0, 2)
    classes = torch.arange(len(cells)) % 5
    shares = subject.contributions(cells, classes)
    votes = subject.bank.frequencies.double()
    if balance:
        weighed = [y / votes.mean(0) ** balance for y in votes]
        votes = torch.stack([row / row.sum() for row in weighed])
    bank, flat = subject.bank, logits.permute(0, 2, 3, 1).flatten(0, 2)
    for n, cell in enumerate(cells.double()):
        x = cell - bank.mean.double()
        cosines = bank.vectors.double() @ (x / x.norm())
        order = cosines.argsort(descending=True)[:7]
        weights = (cosines[order] / 0.2).softmax(0)
        expected = weights @ votes[order]
        assert torch.allclose(flat[n].double(), expected, atol=1e-5)
        own = weights * votes[order, classes[n]]
        assert torch.allclose(shares.prototypes[n, order].double(), own, atol=1e-5)
        assert int((shares.prototypes[n] != 0).sum()) <= 7
        assert float(shares.prototypes[n].sum()) == pytest.approx(float(flat[n, classes[n]]), rel=1e-5)


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("memory") / "run"
    segproto.train("memory/scenes", out=out, overrides=[*SMALL, PATCHES], quiet=True)
    return out


def test_a_run_remembers_real_patches(run: Path) -> None:
    model = Segmenter.load(run)
    result = json.loads((run / "stages" / "remember" / "result.json").read_text())
    assert result["prototypes"] == model.head.bank.num_prototypes <= 24 * 13
    assert model.provenance is not None
    assert all(source is not None for source in model.provenance.sources)
    assert not (run / "stages" / "remember" / "cells").exists() or not list(
        (run / "stages/remember/cells").rglob("*.*")
    )
    why = segproto.explain(run, np.zeros((50, 40, 3), np.uint8))
    assert why.completeness_error() <= 1e-5
    assert why.pixel(3, 4).prototypes[0].source is not None


def test_its_scores_are_its_probabilities(run: Path, tmp_path: Path) -> None:
    """They add up to 1: a softmax over them would say 0.2 or less of eight classes where all neighbours agree."""
    from PIL import Image

    from segproto.model.predict import predict_logits

    pixels = np.random.default_rng(0).integers(0, 256, (50, 40, 3), np.uint8)
    Image.fromarray(pixels).save(tmp_path / "a.png")
    scores = predict_logits(Segmenter.load(run).eval(), tmp_path / "a.png")
    assert torch.allclose(scores.sum(0), torch.ones(50, 40), atol=1e-5)
    segproto.predict(run, tmp_path / "a.png", out=tmp_path / "masks", probabilities=tmp_path / "shares", quiet=True)
    with np.load(tmp_path / "shares" / "a.npz") as file:
        assert np.allclose(file["probabilities"], scores.permute(1, 2, 0), atol=1e-3)
    said = segproto.explain(run, tmp_path / "a.png").pixel(3, 4)
    assert said.probability == pytest.approx(float(scores[:, 3, 4].max()), abs=1e-5)


def test_a_remembered_patch_finds_itself(run: Path) -> None:
    """The feature of a remembered cell, read from its training image again, is nearest to its own entry."""
    from segproto.data.build import build_dataset
    from segproto.model.features import image_features
    from segproto.model.memory_head import cells_of
    from segproto.runs.settings import data_config

    model, dataset = Segmenter.load(run), build_dataset(data_config(run, {}, ()), "train")
    assert isinstance(model.head, MemoryHead)
    sources = model.provenance.sources
    image = sources[0].image
    with torch.no_grad():
        features = image_features(model, dataset, list(dataset.names).index(image))
    for number, source in enumerate(sources):
        if source.image == image:
            cell = cells_of(features)[source.cell[0] * source.grid[1] + source.cell[1]][None]
            assert float(model.head.look_up(cell).similarity[0, 0]) > 0.999
            assert float(model.head.activations(cell.T[None, :, :, None])[0, number]) > 0.999


def test_features_of_a_trained_model_are_taken_behind_its_neck(blackbox_run: Path, tmp_path: Path) -> None:
    segproto.train(
        "memory/scenes", out=tmp_path / "own", start=blackbox_run, quiet=True,
        overrides=["data.scenes.size=64", "data.scenes.num_train=24", "data.scenes.num_val=4", PATCHES],
    )  # fmt: skip
    trained, memory = Segmenter.load(blackbox_run), Segmenter.load(tmp_path / "own")
    image = torch.randn(1, 3, 64, 64)
    assert torch.equal(trained.eval().features(image), memory.features(image))


def test_behind_a_neck_the_grid_can_be_finer(blackbox_run: Path, tmp_path: Path) -> None:
    segproto.train(
        "memory/scenes", out=tmp_path / "own", start=blackbox_run, quiet=True,
        overrides=[
            "data.scenes.size=64", "data.scenes.num_train=24", "data.scenes.num_val=4", PATCHES, "encoder.finer=2"
        ],
    )  # fmt: skip
    trained, memory = Segmenter.load(blackbox_run).eval(), Segmenter.load(tmp_path / "own")
    pixels = torch.randn(1, 3, 64, 64)
    coarse = trained.features(pixels)
    assert torch.equal(memory.features(pixels), F.interpolate(coarse, scale_factor=2, mode="bilinear"))
    source = memory.provenance.sources[0]
    assert source.grid == tuple(2 * side for side in coarse.shape[-2:])
    step = 64 // source.grid[0]
    y, x = source.cell
    assert source.box == (y * step, x * step, (y + 1) * step, (x + 1) * step)


def test_settings_of_another_encoder_than_that_one_starts_from_are_refused(blackbox_run: Path, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"encoder.width=6: with train.start=.* has width = \d+; leave this"):
        segproto.train(
            "memory/scenes", out=tmp_path / "own", start=blackbox_run, overrides=["encoder.width=6"], quiet=True
        )
    with pytest.raises(ConfigError, match=r"encoder.reduce=8: with train.start=.* has reduce = None; leave this"):
        segproto.train(
            "memory/scenes", out=tmp_path / "own", start=blackbox_run, overrides=["encoder.reduce=8"], quiet=True
        )
    assert not (tmp_path / "own").exists()


def test_a_coreset_keeps_every_class(run: Path, tmp_path: Path) -> None:
    segproto.train(
        "memory/scenes", out=tmp_path / "small", overrides=[*SMALL, PATCHES, "stages.remember.keep=60"], quiet=True
    )
    whole, small = Segmenter.load(run).head.bank, Segmenter.load(tmp_path / "small").head.bank
    assert small.num_prototypes <= 60
    assert set(small.class_of.tolist()) == set(whole.class_of.tolist())
    rows = {tuple(row) for row in whole.vectors.tolist()}
    assert all(tuple(row) in rows for row in small.vectors.tolist())


@pytest.mark.parametrize(
    ("setting", "error", "words"),
    [
        ("model.neighbours=5000", ConfigError, "the memory has only"),
        ("stages.remember.patches=100000000000", ConfigError, "fit this machine"),
    ],
)
def test_what_cannot_be_is_one_clear_line(setting: str, error: type[Exception], words: str, tmp_path: Path) -> None:
    with pytest.raises(error, match=words):
        segproto.train("memory/scenes", out=tmp_path / "run", overrides=[*SMALL, PATCHES, setting], quiet=True)


def test_a_memory_larger_than_what_is_free_is_refused_when_it_is_loaded(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    segproto.train("memory/scenes", out=tmp_path / "run", overrides=[*SMALL, PATCHES], quiet=True)
    count = len(Segmenter.load(tmp_path / "run").head.bank.vectors)
    monkeypatch.setattr("segproto.model.memory_head.available_bytes", lambda: 2 * count)
    with pytest.raises(ConfigError, match=rf"has {count} patches of \d+ numbers; \d+ fit"):
        Segmenter.load(tmp_path / "run")


def test_a_class_without_a_labelled_pixel_is_named(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="no training image has a labelled pixel of"):
        segproto.train(
            "memory/scenes", out=tmp_path / "run", overrides=[*SMALL, PATCHES, "data.scenes.num_train=1"], quiet=True
        )


def test_a_class_that_was_not_drawn_is_told_from_one_that_no_image_shows(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"none of the \d+ patches that were drawn shows .*, though training images do"):
        segproto.train(
            "memory/scenes", out=tmp_path / "run", overrides=[*SMALL, "stages.remember.patches=1"], quiet=True
        )


def fitted(folder: Path, settings: tuple[str, ...]) -> None:
    torch.set_num_threads(1)
    runner.run(METHODS["memory"], smaller("memory", *settings), folder, quiet=True)


def test_two_processes_remember_what_one_does(tmp_path: Path) -> None:
    settings = ("data.scenes.num_train=13", "stages.remember.patches=60", "stages.remember.remove_position=2")
    settings += ("model.neighbours=5",)
    fitted(tmp_path / "one", settings)
    in_processes(2, fitted, tmp_path / "two", settings)
    one, two = (Segmenter.load(tmp_path / name) for name in ("one", "two"))
    assert one.provenance == two.provenance
    assert one.patches == two.patches
    assert one.head.describe() == two.head.describe()
    for name, value in one.state_dict().items():
        assert torch.equal(value, two.state_dict()[name]), name


def test_faiss_finds_nearly_the_same_patches_and_says_how_many(tmp_path: Path) -> None:
    pytest.importorskip("faiss")
    segproto.train("memory/scenes", out=tmp_path / "run", overrides=[*SMALL, PATCHES, "model.search=faiss"], quiet=True)
    result = json.loads((tmp_path / "run" / "stages" / "remember" / "result.json").read_text())
    model = Segmenter.load(tmp_path / "run")
    assert isinstance(model.head, MemoryHead)
    assert model.head.search == "faiss"
    assert 0.9 < result["search_recall"] <= 1
    features = torch.randn(1, model.encoder.num_features, 6, 6)
    approximate = model.head(features)
    model.head.search = "exact"
    assert torch.allclose(approximate, model.head(features), atol=0.02)
    model.head.search = "faiss"
    why = segproto.explain(model, np.zeros((50, 40, 3), np.uint8))
    assert why.completeness_error() <= 1e-5


def test_without_faiss_one_line_says_how_to_get_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "faiss", None)
    with pytest.raises(ConfigError, match=r"pip install 'segproto\[faiss\]'"):
        segproto.train(
            "memory/scenes", out=tmp_path / "run", overrides=[*SMALL, PATCHES, "model.search=faiss"], quiet=True
        )
    assert not (tmp_path / "run").exists()
