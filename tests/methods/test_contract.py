"""What every method promises, checked over all of them: fit, interrupt and resume, predict, explain, save, load."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from two_steps import two_steps

from segproto.api.export import export
from segproto.data.build import build_dataset
from segproto.errors import ConfigError
from segproto.methods import METHODS
from segproto.model.features import image_features
from segproto.model.fingerprint import encoder_hash
from segproto.model.heads import GroupedHead, PrototypeHead
from segproto.model.segmenter import Segmenter
from segproto.prototypes.labels import resize_labels
from segproto.training.loop import Loop
from segproto.training.procedures import map_images
from segproto.training.recipe import validate_recipe
from segproto.training.runner import run
from segproto.training.stage import Optimise

pytestmark = pytest.mark.precision


@pytest.fixture(scope="module", params=sorted(METHODS))
def trained(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> tuple[str, Path]:
    name: str = request.param
    out = tmp_path_factory.mktemp(name) / "run"
    run(METHODS[name], two_steps(name), out, quiet=True)
    return name, out


class TestContract:
    def test_every_stage_leaves_a_loadable_artefact(self, trained: tuple[str, Path]) -> None:
        name, out = trained
        for stage in METHODS[name].stages(two_steps(name)):
            if isinstance(stage, Optimise) and stage.steps == 0:
                continue
            assert (out / "stages" / stage.name / "result.json").exists(), stage.name
            model = Segmenter.load(out / "stages" / stage.name)
            result = json.loads((out / "stages" / stage.name / "result.json").read_text())
            assert result["words"] == stage.words
            assert {"prototypes_used", "group_average"} & result.keys() == set(group_keys(model)), stage.name
        assert (out / "recipe.yaml").exists()

    def test_interrupted_and_resumed_is_the_same(
        self, trained: tuple[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        name, out = trained
        recipe, method, broken = two_steps(name), METHODS[name], tmp_path / "broken"
        stages = method.stages(recipe)
        if any(isinstance(stage, Optimise) for stage in stages):
            trained = sum(isinstance(stage, Optimise) for stage in stages)
            interrupt_after_batches(monkeypatch, 3 if trained > 1 and len(stages) > 2 else 1)
        else:
            interrupt_after_images(monkeypatch, 3)
        with pytest.raises(KeyboardInterrupt):
            run(method, recipe, broken, quiet=True)
        monkeypatch.undo()
        run(method, recipe, broken, resume=True, quiet=True)
        whole, resumed = (load_file(p / "model" / "model.safetensors") for p in (out, broken))
        assert whole.keys() == resumed.keys()
        for key, value in whole.items():
            assert torch.equal(value, resumed[key]), key

    @pytest.mark.parametrize("size", [(48, 48), (37, 61), (5, 130)])
    def test_predicts_any_size(self, trained: tuple[str, Path], size: tuple[int, int]) -> None:
        model = Segmenter.load(trained[1])
        image = torch.randint(0, 256, (3, *size), dtype=torch.uint8)
        mask = model.predict(image)
        assert mask.shape == size
        assert int(mask.max()) < model.classes.num_classes

    def test_contributions_add_up_to_the_logit(self, trained: tuple[str, Path]) -> None:
        model = Segmenter.load(trained[1])
        image = torch.randint(0, 256, (3, 40, 56), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
        why = model.explain(image)
        logits = model(model.encoder.normalisation(image)[None])[0].detach()
        ys, xs = (t.flatten() for t in torch.meshgrid(torch.arange(40), torch.arange(56), indexing="ij"))
        for class_id in range(model.classes.num_classes):
            shares = why.evidence(ys, xs, torch.full_like(ys, class_id))
            total, expected = shares.prototypes.sum(1) + shares.offset, logits[class_id].flatten()
            size = torch.maximum(expected.abs(), shares.prototypes.abs().sum(1))
            assert bool(((total - expected).abs() <= 1e-4 * size).all())

    def test_save_and_load_keep_everything(self, trained: tuple[str, Path], tmp_path: Path) -> None:
        model = Segmenter.load(trained[1])
        model.save(tmp_path / "copy")
        again = Segmenter.load(tmp_path / "copy")
        image = torch.rand(2, 3, 33, 47)
        assert torch.equal(model(image), again(image))
        assert again.provenance == model.provenance
        assert again.patches == model.patches
        assert again.classes == model.classes

    @pytest.mark.slow
    def test_exports_with_its_activations(self, trained: tuple[str, Path], tmp_path: Path) -> None:
        pytest.importorskip("onnxruntime")
        if Segmenter.load(trained[1]).head.no_graph is not None:
            with pytest.raises(ConfigError, match="is not exported"):
                export(trained[1], out=tmp_path / "a.onnx")
            return
        for form, file in (("onnx", "a.onnx"), ("torch", "a.pt2")):
            card = export(trained[1], out=tmp_path / file, form=form)  # checked against the model while it is written
            assert ("activations" in card["outputs"]) == (Segmenter.load(trained[1]).head.bank is not None)
            assert card["check"]["equal_mask_pixels"] >= 0.9999

    def test_prototypes_are_real_patches(self, trained: tuple[str, Path]) -> None:
        name, out = trained
        model = Segmenter.load(out)
        if not isinstance(model.head, PrototypeHead | GroupedHead):
            return
        assert model.provenance is not None
        assert model.provenance.encoder_hash == encoder_hash(model.encoder)
        dataset = build_dataset(two_steps(name).data, "train")
        bank = model.head.bank
        dim = bank.vectors.shape[1]
        for p, source in enumerate(model.provenance.sources):
            assert source is not None
            features = image_features(model, dataset, dataset.names.index(source.image))
            scale = int(bank.scale_of[p])
            cell = features[0, scale * dim : (scale + 1) * dim, source.cell[0], source.cell[1]]
            assert torch.allclose(cell, bank.vectors[p], atol=1e-6)
            mask = dataset[dataset.names.index(source.image)].mask
            y0, x0, y1, x1 = source.box
            assert int(bank.class_of[p]) in mask[y0:y1, x0:x1]
            assert source.patch in model.patches


@pytest.mark.parametrize("name", ["protoseg", "scaleproto"])
def test_seeded_prototypes_are_training_features_of_their_class(name: str, tmp_path: Path) -> None:
    recipe = two_steps(name)
    value = recipe.model_dump(mode="json")
    value["train"]["stages"] = ["linear", "seed"]
    value["stages"]["linear"] = {"steps": 2, "lr": {"neck": 1e-3, "readout": 1e-3}}
    value["stages"]["seed"] = {"start": "features"}
    recipe = validate_recipe(value, METHODS[name].recipe)
    run(METHODS[name], recipe, tmp_path / "run", quiet=True)
    model = Segmenter.load(tmp_path / "run")
    assert isinstance(model.head, PrototypeHead)
    dataset, bank = build_dataset(recipe.data, "train"), model.head.bank
    equal = torch.zeros(bank.num_prototypes, dtype=torch.bool)
    for index in range(len(dataset)):
        features = image_features(model, dataset, index)
        labels = resize_labels(dataset[index].mask.long()[None], (features.shape[-2], features.shape[-1]))[0]
        exact = bank.distances(features)[0] < 1e-6
        equal |= (exact & (labels == bank.class_of[:, None, None])).flatten(1).any(1)
    assert equal.all()


def test_groups_begin_where_the_readout_of_the_prototypes_is(tmp_path: Path) -> None:
    value = two_steps("scaleproto").model_dump(mode="json")
    value["stages"]["linear"]["steps"] = 30
    value["train"] |= {"stages": ["linear", "seed", "joint", "project", "group_seed"], "checkpoint_every": 100}
    recipe = validate_recipe(value, METHODS["scaleproto"].recipe)
    run(METHODS["scaleproto"], recipe, tmp_path / "run", quiet=True)
    before, after = (Segmenter.load(tmp_path / "run" / "stages" / stage) for stage in ("project", "group_seed"))
    assert isinstance(after.head, GroupedHead)
    assert torch.equal(before.head.bank.vectors, after.head.bank.vectors)
    assert before.provenance == after.provenance
    torch.testing.assert_close(after.head.grouping.weights.sum(-1), torch.ones(8, 3))
    images = build_dataset(recipe.data, "val")
    features = torch.cat([image_features(before, images, i) for i in range(3)])

    wanted, given = (model.head(features).detach().log_softmax(1) for model in (before, after))
    same = wanted.exp().mean((0, 2, 3), keepdim=True).log()  # answers that do not look at the image
    away, least = ((wanted.exp() * (wanted - other)).sum(1).mean() for other in (given, same))
    assert float(away) < 0.1 * float(least)  # on images that the fit did not see
    again = recipe.model_copy(update={"train": recipe.train.model_copy(update={"stages": ["group_seed"]})})
    again.train.start = tmp_path / "run" / "stages" / "group_seed" / "model"
    with pytest.raises(ConfigError, match=r"stages\.group_seed: needs a prototype head, the model has a grouped head"):
        run(METHODS["scaleproto"], again, tmp_path / "again", quiet=True)


def group_keys(model: Segmenter) -> list[str]:
    return ["prototypes_used", "group_average"] if isinstance(model.head, GroupedHead) else []


def interrupt_after_batches(monkeypatch: pytest.MonkeyPatch, count: int) -> None:
    """Ctrl-C while batch ``count + 1`` of the run is computed."""
    left, real = [count], Loop._batch

    def counted(self: Loop, *args: Any) -> None:
        if left[0] == 0:
            raise KeyboardInterrupt
        left[0] -= 1
        real(self, *args)

    monkeypatch.setattr(Loop, "_batch", counted)


def interrupt_after_images(monkeypatch: pytest.MonkeyPatch, count: int) -> None:
    """Ctrl-C after ``count`` images of a procedure."""
    real = map_images.fold_images

    def counted(*args: Any, **options: Any) -> Iterator[int]:
        for done, index in enumerate(real(*args, **options)):
            if done == count:
                raise KeyboardInterrupt
            yield index

    monkeypatch.setattr(map_images, "fold_images", counted)
