"""validate against a naive count over upsampled logits."""

from __future__ import annotations

import json
from types import SimpleNamespace

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from PIL import Image
from sklearn.metrics import confusion_matrix
from tiny_segmenters import segmenter
from tiny_sets import Tiny

from segproto.data.base import ClassTable, numbered_names
from segproto.data.build import build_dataset
from segproto.data.config import DataConfig
from segproto.data.merged import RenamedClasses
from segproto.errors import ConfigError, DataError
from segproto.evaluation.interpretability.run import interpret
from segproto.evaluation.protocol import Protocol
from segproto.evaluation.rescore import EncoderFeatures, rescore
from segproto.evaluation.validate import validate
from segproto.report.matched import comparable


class Backbone:
    """A feature cache that computes; counts what it is asked for."""

    def __init__(self, model, dataset):
        self.model, self.dataset, self.asked = model, dataset, []

    def get(self, index, flipped):
        assert not flipped
        self.asked.append(index)
        with torch.no_grad():
            inputs = self.model.encoder.normalisation(self.dataset[index].image)[None]
            return self.model.encoder.backbone_features(inputs)[0]


@pytest.fixture(scope="module")
def model():
    return segmenter("grouped", multiple=8)


@pytest.fixture(scope="module")
def dataset(model):
    return Tiny(model)


def naive(model, dataset):
    """Confusion, IoU and accuracy with scikit-learn from Segmenter.forward."""
    true, predicted = [], []
    for i in range(len(dataset)):
        with torch.no_grad():
            logits = model(model.encoder.normalisation(dataset[i].image)[None])[0]
        keep = dataset[i].mask != 255
        true.append(dataset[i].mask[keep])
        predicted.append(logits.argmax(0)[keep])
    counts = confusion_matrix(torch.cat(true).numpy(), torch.cat(predicted).numpy(), labels=range(4))
    union = counts.sum(0) + counts.sum(1) - np.diag(counts)
    return counts, np.diag(counts) / np.maximum(union, 1), union > 0


def test_scores_equal_the_naive_ones(model, dataset):
    counts, iou, present = naive(model, dataset)
    result = validate(model, dataset)
    assert result["confusion"] == counts.tolist()
    assert result["miou"] == pytest.approx(iou[present].mean())
    assert result["accuracy"] == pytest.approx(np.diag(counts).sum() / counts.sum())
    assert [row["pixels"] for row in result["per_class"]] == counts.sum(1).tolist()
    for row, value, there, name in zip(result["per_class"], iou, present, model.classes.names, strict=True):
        assert row["name"] == name
        assert row["iou"] == (pytest.approx(value) if there else None)
    assert result["images"] == 5
    assert 0.3 < result["accuracy"] < 1
    json.dumps(result)


def test_cache_gives_the_same_without_the_backbone(model, dataset, monkeypatch):
    cache, expected = Backbone(model, dataset), validate(model, dataset)
    figures = validate(model, dataset, cache=cache)
    assert cache.asked == list(range(5))
    assert figures["confusion"] == expected["confusion"]
    for options in ({"window": 16}, {"scales": (0.5, 1.0)}, {"flip": True}):
        with pytest.raises(ValueError, match="cached"):
            validate(model, dataset, Protocol(**options), cache=cache)


def test_two_processes_add_up_to_one(model, dataset):
    whole = torch.tensor(validate(model, dataset)["confusion"])
    parts = [validate(model, dataset, rank=r, world=2) for r in range(2)]
    assert torch.equal(sum(torch.tensor(p["confusion"]) for p in parts), whole)
    other = torch.tensor(parts[1]["confusion"])
    reduced = validate(model, dataset, rank=0, world=2, reduce=lambda t: t + other if t.shape == other.shape else t)
    assert reduced["confusion"] == whole.tolist()
    assert reduced["images"] == 5


def test_masks_modes_and_progress(model, dataset, tmp_path):
    model.train()
    calls = []
    validate(model, dataset, save_masks=tmp_path, progress=lambda done, total: calls.append((done, total)))
    assert model.training
    model.eval()
    assert calls == [(i, 5) for i in range(1, 6)]
    for i in range(5):
        with Image.open(tmp_path / "set" / f"{i}.png") as mask:
            assert mask.mode == "L"
            assert np.array_equal(np.asarray(mask), model.predict(dataset[i].image).numpy())


def test_window_scales_and_flip_reach_the_prediction(model, dataset):
    plain = validate(model, dataset)["confusion"]
    assert validate(model, dataset, Protocol(window=64))["confusion"] == plain
    for options in ({"window": 16}, {"scales": (0.5, 1.0)}, {"flip": True}):
        counts = torch.zeros(4, 4, dtype=torch.int64)
        for i in range(5):
            mask, target = model.predict(dataset[i].image, **options), dataset[i].mask
            keep = target != 255
            counts += torch.from_numpy(confusion_matrix(target[keep], mask[keep], labels=range(4)))
        figures = validate(model, dataset, Protocol(**options))["confusion"]
        assert figures == counts.tolist()
        assert figures != plain


def test_wrong_data_is_refused(model, dataset):
    empty = Tiny(model, 0)
    with pytest.raises(DataError, match="empty"):
        validate(model, empty)
    other = Tiny(model)
    other.classes = ClassTable(("a", "b"), ((0, 0, 0), (1, 1, 1)))
    with pytest.raises(DataError, match="2 classes, the model 4"):
        validate(model, other)


def other_names(model, *names):
    data = Tiny(model)
    data.classes = ClassTable(names, data.classes.colours)
    return data


NAMES = ("class0", "class1", "class2", "class3")
MISNAMED = [
    (
        ("class1", "class0", "class2", "class3"),
        r"model's order: 'class1' is class 0 of the data and class 1",
    ),
    (("class0", "class2", "class1", "sky"), r"not in the model's order: 'class2'"),
    (
        ("class0", "class1", "ground", "sky"),
        r"'ground', the model 'class2' \(2 of 4 .*ground: class2, sky: class3",
    ),
]


@pytest.mark.parametrize(("names", "message"), MISNAMED)
def test_classes_of_other_names_are_refused_wherever_a_model_is_scored(model, names, message):
    data = other_names(model, *names)
    features = EncoderFeatures(model, data)
    run = SimpleNamespace(evaluation={})
    scorers = [
        lambda: validate(model, data),
        lambda: rescore(features, lambda found: [model.head(found)], 1),
        lambda: interpret(model, data),
        lambda: comparable(data, run, model),
    ]
    for score in scorers:
        with pytest.raises(DataError, match=message):
            score()


def test_classes_renamed_on_purpose(model, dataset):
    data = other_names(model, "class0", "class1", "ground", "class3")
    renamed = RenamedClasses(data, {"ground": "class2"})
    assert renamed.classes == model.classes
    assert torch.equal(renamed[1].mask, data[1].mask)
    assert renamed.fingerprint == data.fingerprint
    figures, expected = validate(model, renamed), validate(model, dataset)
    assert figures["confusion"] == expected["confusion"]
    with pytest.raises(DataError, match=r"data\.rename: 'grund' is no class of .*did you mean 'ground'"):
        RenamedClasses(data, {"grund": "class2"})
    with pytest.raises(DataError, match=r"data\.rename: two classes would be called 'class1'"):
        RenamedClasses(data, {"ground": "class1"})


def test_classes_that_a_checkpoint_only_numbers_have_no_names_to_compare(dataset):
    model = segmenter("grouped", multiple=8)
    model.classes = ClassTable(numbered_names(4), model.classes.colours)
    validate(model, dataset)


def test_renaming_is_a_setting_of_the_data():
    config = DataConfig(name="scenes", rename={"sky": "air"}, merge={"both": ["ground", "car"]})
    assert build_dataset(config, "val").classes.names[:2] == ("both", "air")


def test_a_published_input_size_is_what_the_model_sees() -> None:
    """Images are stretched to (height, width), or to a shorter side; the score is at native size all the same."""
    model = segmenter("grouped")
    data = Tiny(model)
    sizes: list[tuple[int, ...]] = []
    model.encoder.register_forward_pre_hook(lambda _, inputs: sizes.append(tuple(inputs[0].shape[-2:])))
    figures = validate(model, data, Protocol(input_size=(24, 40)))
    assert set(sizes) == {(24, 40)}
    truth, answer = [], []
    for sample in data:
        inputs = F.interpolate(model.encoder.normalisation(sample.image)[None], (24, 40), mode="bilinear")
        with torch.no_grad():
            logits = F.interpolate(model.eval().grid_logits(inputs), tuple(sample.mask.shape), mode="bilinear")[0]
        kept = sample.mask != 255
        truth.append(sample.mask[kept])
        answer.append(logits.argmax(0)[kept])
    labels = range(model.classes.num_classes)
    assert figures["confusion"] == confusion_matrix(torch.cat(truth), torch.cat(answer), labels=labels).tolist()
    sizes.clear()
    validate(model, data, Protocol(input_size=20))
    assert sizes == [(20, 26), (20, 36), (20, 20), (32, 20), (20, 20)]
    with pytest.raises(ConfigError, match=r"data.input_size fixes what the model sees"):
        validate(model, data, Protocol(input_size=20, window=32))
