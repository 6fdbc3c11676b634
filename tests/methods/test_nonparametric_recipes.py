"""The published recipes of nonparametric and their parametric twins: the same data, encoder, schedule and batches."""

from __future__ import annotations

import pytest
import torch

from segproto.data.augment import augment
from segproto.data.base import ClassTable
from segproto.data.config import AugmentConfig
from segproto.methods import METHODS
from segproto.runs.catalogue import read_recipe
from segproto.training.recipe import Recipe, validate_recipe
from segproto.training.schedule import lr_factor

DATA = {"cityscapes": 19, "ade20k": 150, "coco_stuff": 182}
WIDTHS = {"hrnet48": 720, "resnet101": 512, "swin_b": 512, "mit_b4": 768}


def recipe(method: str, name: str) -> Recipe:
    chosen = METHODS[method]
    return validate_recipe(read_recipe(f"{chosen.name}/{name}"), chosen.recipe)


@pytest.mark.parametrize(
    ("data", "encoder"), [*((data, encoder) for data in DATA for encoder in WIDTHS), ("ade20k_full", "mit_b2")]
)
def test_twins_differ_in_the_method_alone(data: str, encoder: str) -> None:
    ours, twin = (recipe(method, f"{data}-{encoder}") for method in ("nonparametric", "blackbox"))
    assert ours.data == twin.data
    assert ours.train == twin.train
    assert ours.encoder == twin.encoder.model_copy(update={"projection": True})
    a, b = ours.stages.joint, twin.stages.joint
    assert all(getattr(a, key) == getattr(b, key) for key in type(b).model_fields)
    assert (a.assign, a.contrast_temperature, a.momentum, ours.model.prototypes) == ("argmax", 0.1, 0.999, 10)
    assert a.distance == (0.001 if (data, encoder) == ("cityscapes", "hrnet48") else 0.01)
    if a.class_weights is not None:
        assert len(a.class_weights) == DATA[data]


@pytest.mark.slow
@pytest.mark.parametrize("encoder", WIDTHS)
def test_published_models_can_be_built(encoder: str) -> None:
    if encoder == "mit_b4":
        pytest.importorskip("transformers")
    table = ClassTable(tuple(map(str, range(19))), ((0, 0, 0),) * 19)
    config = recipe("nonparametric", f"cityscapes-{encoder}")
    with torch.device("meta"):
        model = METHODS["nonparametric"].build(config, table)
        twin = METHODS["blackbox"].build(recipe("blackbox", f"cityscapes-{encoder}"), table)
    assert model.head.bank.vectors.shape == (19, 10, WIDTHS[encoder])
    assert (model.auxiliary is not None) == (encoder in ("resnet101", "swin_b"))
    extra = 2 * (WIDTHS[encoder] ** 2 + WIDTHS[encoder]) + 2 * WIDTHS[encoder] + 2 * 19  # projection and norms
    classifier = 19 * (WIDTHS[encoder] + 1)
    count = [sum(p.numel() for p in m.parameters()) for m in (model, twin)]
    assert count[0] - count[1] == extra - classifier


def test_transformers_warm_up_linearly_and_end_at_zero() -> None:
    (stage,) = METHODS["blackbox"].stages(recipe("blackbox", "ade20k-mit_b4"))[1:]
    assert lr_factor(stage, 0) == pytest.approx(1 / 1500)
    assert lr_factor(stage, 80000) == pytest.approx(0.5)


def test_augmentation_of_the_release() -> None:
    image = torch.randint(20, 200, (3, 40, 80), dtype=torch.uint8)
    mask = torch.randint(0, 19, (40, 80), dtype=torch.uint8)
    plain = AugmentConfig(scale=(1, 1), flip=False)
    shifts = set()
    for seed in range(60):
        g = lambda: torch.Generator().manual_seed(seed)  # noqa: B023, E731
        bright, _ = augment(image, mask, plain.model_copy(update={"brightness": 10}), g(), lambda x: x.float())
        (shift,) = (bright - image).unique().tolist()
        shifts.add(int(shift))
        wide, labels = augment(image, mask, plain.model_copy(update={"aspect": (0.9, 1.1)}), g(), lambda x: x.float())
        assert 0.85 < (wide.shape[2] / wide.shape[1]) / 2 < 1.15
        assert labels.shape == wide.shape[1:]
    assert len(shifts) > 15
    assert min(shifts) >= -10
    assert max(shifts) <= 10
    x, y = augment(image, mask, AugmentConfig(crop=(24, 48)), torch.Generator().manual_seed(0), lambda v: v.float())
    assert x.shape == (3, 24, 48)
    assert y.shape == (24, 48)
    with pytest.raises(ValueError, match="rotate90 needs a square crop"):
        AugmentConfig(crop=(24, 48), rotate90=True)
