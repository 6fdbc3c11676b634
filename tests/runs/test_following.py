"""The run that ``then`` names: what it takes over, and that it is checked before anything of the first is written."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import timm
import yaml
from safetensors.torch import save_file

import segproto
from segproto.errors import ConfigError, SegprotoError, WeightsError
from segproto.runs.following import Following, following
from segproto.runs.settings import resolve

SCENES = [
    "data.scenes.size=32",
    "data.scenes.num_train=2",
    "data.scenes.num_val=1",
    "data.name=scenes",
    "data.merge={background: [sky, ground]}",
]
VIT = ["encoder.backbone=test_vit", "encoder.layers=null"]


@pytest.fixture(scope="module")
def weights(tmp_path_factory: pytest.TempPathFactory) -> Path:
    file = tmp_path_factory.mktemp("weights") / "vit.safetensors"
    save_file(timm.create_model("test_vit").state_dict(), file)
    return file


def follow(out: Path, *settings: str, recipe: str | Path = "pixelcontrast/folder", **sections: Any) -> Following | None:
    method, first = resolve(recipe, sections, [*SCENES, *settings])
    return following(recipe, method, first, out)


def test_it_takes_over_what_both_recipes_share(tmp_path: Path, weights: Path) -> None:
    mine = ["train.seed=7", "train.precision=32-true", "train.batch_size=3", "data.workers=1", "encoder.dim=16"]
    found = follow(tmp_path, *VIT, f"encoder.weights={weights}", *mine, "then=scaleproto/folder")
    assert found is not None
    recipe = found.recipe
    assert recipe.method == "scaleproto"
    assert (recipe.encoder.backbone, recipe.encoder.layers, recipe.encoder.weights) == ("test_vit", None, weights)
    assert (recipe.train.seed, recipe.train.precision, recipe.data.workers) == (7, "32-true", 1)
    assert (recipe.train.batch_size, recipe.encoder.dim, recipe.encoder.reduce) == (8, 32, 96)  # its own
    assert (recipe.data.name, recipe.data.root, recipe.data.merge) == ("folder", tmp_path / "masks", {})


def test_its_own_settings_count_more(tmp_path: Path, weights: Path) -> None:
    first = [*VIT, f"encoder.weights={weights}", "train.seed=7"]
    later = [
        "then.train.seed=2",
        "then=scaleproto/folder",
        "then.stages.joint.steps=5",
        "then.encoder.pretrained=false",
    ]
    found = follow(tmp_path, *first, *later)
    assert found is not None
    assert (found.recipe.train.seed, found.recipe.model_dump()["stages"]["joint"]["steps"]) == (2, 5)
    assert found.recipe.encoder.weights is None  # said: none


def test_recipes_of_ones_own_on_both_sides(tmp_path: Path, weights: Path) -> None:
    first, second = tmp_path / "first.yaml", tmp_path / "second.yaml"
    encoder = {"backbone": "test_vit", "layers": None, "weights": str(weights)}
    first.write_text(yaml.safe_dump({"base": "pixelcontrast/folder", "encoder": encoder, "train": {"seed": 5}}))
    second.write_text(yaml.safe_dump({"base": "blackbox/folder", "train": {"seed": 6}}))
    found = follow(tmp_path, recipe=first, then={"base": str(second), "stages": {"joint": {"steps": 4}}})
    assert found is not None
    assert (found.recipe.encoder.backbone, found.recipe.encoder.weights, found.recipe.train.seed) == (
        "test_vit", weights, 6,
    )  # fmt: skip
    assert found.recipe.model_dump()["stages"]["joint"]["steps"] == 4


@pytest.mark.parametrize(
    ("settings", "error", "message"),
    [
        (["then=scaleproto/foldr"], ConfigError, "then: .*did you mean scaleproto/folder"),
        (["then=scaleproto/folder", "then.train.sed=1"], ConfigError, r"then: train\.sed: unknown key"),
        (["then=scaleproto/folder", "then.train.stages=[jont]"], ConfigError, "then: .*did you mean joint"),
        (["then=blackbox/folder", "then.encoder.weights=none.pt"], WeightsError, r"then: .*none\.pt: no such"),
        (["then=blackbox/folder", "then.encoder.backbone=test_vit2"], ConfigError, "then: .*random weights"),
        (["then=blackbox/deeplabv2-resnet101"], ConfigError, "timm resnet101 of random weights: set encoder.weights"),
        (["then.train.seed=1"], ConfigError, r"then\.train\.seed=1: no run follows"),
    ],
)
def test_what_is_wrong_is_told_before_the_first_run(
    settings: list[str], error: type[SegprotoError], message: str, tmp_path: Path, weights: Path
) -> None:
    with pytest.raises(error, match=message):
        segproto.train(
            "pixelcontrast/folder",
            out=tmp_path / "run",
            overrides=[*SCENES, *VIT, f"encoder.weights={weights}", *settings],
            quiet=True,
        )
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize("name", ["voc-seam", "voc-eps", "voc-seam-published", "voc-eps-plain"])
def test_no_deeplab_from_random_weights(name: str, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"of random weights: set encoder\.weights=FILE if the first run"):
        follow(tmp_path, recipe=f"pixelcontrast/{name}")


def test_weights_go_where_they_fit() -> None:
    from segproto.encoders.config import EncoderConfig

    first, second, third = (
        EncoderConfig.model_validate(value)
        for value in ({"name": "resnet38d_taps"}, {"name": "resnet38d"}, {"name": "timm", "backbone": "resnet101"})
    )
    assert first.weights_for == second.weights_for != third.weights_for


def test_without_masks_nothing_follows(tmp_path: Path, weights: Path) -> None:
    base = [*VIT, f"encoder.weights={weights}", "then=blackbox/folder"]
    assert follow(tmp_path, *base, "train.stages=[contrast,cams]") is None
    with pytest.raises(ConfigError, match="then: blackbox makes no masks"):
        follow(tmp_path, *base, recipe="blackbox/folder")
