"""Large photographs: the scale that is chosen for them, and how long their features will take."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from PIL import Image

import segproto
from segproto.files.yaml_text import read_yaml
from segproto.runs.settings import resolve
from segproto.training import large_images
from segproto.training.large_images import cost, minutes, scale_for, with_large_images

AUTO = large_images.AUTO


@pytest.mark.parametrize(
    ("size", "scale"),
    [((1024, 2048), 1), ((1536, 1536), 1), ((1537, 1536), 0.75), ((3000, 4000), 0.375), ((50_000, 50_000), 0.125)],
)
def test_the_largest_scale_that_fits(size: tuple[int, int], scale: float) -> None:
    assert scale_for(size[0] * size[1], AUTO) == scale


def test_a_scale_is_chosen_for_own_photographs_alone() -> None:
    photos = [SimpleNamespace(mask=torch.zeros(1, 1).expand(3000, 4000))] * 3
    told: list[str] = []
    say, cpu = SimpleNamespace(line=told.append), SimpleNamespace(device=torch.device("cpu"))

    def chosen(name: str, *overrides: str, fabric: object = cpu) -> float:
        overrides = ("train.step_pixels=null", *overrides)
        recipe = (
            resolve(name, {}, ["data.root=photos", *overrides])[1] if "folder" in name else resolve(name, {}, [])[1]
        )
        return with_large_images(recipe, photos, fabric, say).encoder.input_scale  # type: ignore[arg-type, type-var]

    assert chosen("scaleproto/folder") == 0.375
    assert "images of 4000 x 3000 pixels are seen at 1500 x 1125 (train.input_pixels=auto)" in told[0]
    assert chosen("scaleproto/folder", fabric=SimpleNamespace(device=torch.device("cuda"))) == 0.75
    assert chosen("scaleproto/folder", "encoder.input_scale=0.5") == 0.5
    assert chosen("scaleproto/folder", "train.input_pixels=null") == 1
    assert chosen("scaleproto/folder", "train.input_pixels=200000") == 0.125
    assert chosen("scaleproto/folder", "train.start=runs/x") == 1
    assert chosen("scaleproto/scenes") == 1
    assert len(told) == 3


@pytest.mark.parametrize(
    ("size", "overrides", "device", "batch"),
    [
        ((3000, 4000), (), "cpu", 2),
        ((6000, 8000), (), "cpu", 1),
        ((3000, 4000), (), "cuda", 8),
        ((1536, 1536), ("train.batch_size=64",), "cpu", 64),  # of ordinary images no batch is changed
        ((3000, 4000), ("train.step_pixels=null",), "cpu", 8),
        ((3000, 4000), ("train.step_pixels=60000000",), "cpu", 5),
        ((3000, 4000), ("train.batch_size=1",), "cpu", 1),
        ((3000, 4000), ("train.cache_features=false", "data.augment.crop=512"), "cpu", 8),
    ],
)
def test_a_batch_of_photographs_is_smaller(
    size: tuple[int, int], overrides: tuple[str, ...], device: str, batch: int
) -> None:
    photos = [SimpleNamespace(mask=torch.zeros(1, 1).expand(size))] * 3
    told: list[str] = []
    say, fabric = SimpleNamespace(line=told.append), SimpleNamespace(device=torch.device(device))
    settings = ["data.root=photos", "train.input_pixels=null", *overrides]
    recipe = resolve("scaleproto/folder", {}, settings)[1]
    before = recipe.train.batch_size
    chosen = with_large_images(recipe, photos, fabric, say)  # type: ignore[arg-type, type-var]
    assert chosen.train.batch_size == batch
    assert with_large_images(chosen, photos, fabric, say).train.batch_size == batch  # type: ignore[arg-type, type-var]
    assert [line.split(" (")[0] for line in told] == (
        []
        if batch == before
        else [
            f"train.batch_size = {batch} instead of {before}: of {size[1]} x {size[0]} pixels a step holds {batch} "
            f"{'image' if batch == 1 else 'images'}"
        ]
    )


def test_costs_go_through_their_measurements() -> None:
    def true(n: float) -> float:
        return 2e-6 * n + 3e-12 * n**2

    probes = ((1e5, true(1e5)), (4e5, true(4e5)))
    for n in (1e5, 4e5, 1.2e7):
        assert cost(n, probes) == pytest.approx(true(n))
    assert cost(1e6, ((1e5, 0.2), (4e5, 0.5))) == pytest.approx(1.25)  # cheaper per pixel: then in proportion
    assert minutes(50) == "about 50 s"
    assert minutes(600) == "about 10 min"


def test_a_run_says_how_long_its_features_take(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.delenv("SEGPROTO_CACHE", raising=False)
    monkeypatch.setattr(large_images, "WORTH_SAYING", 0)
    rng = np.random.default_rng(0)
    for name in "abc":
        for kind in ("images", "labels"):
            (tmp_path / "photos" / kind).mkdir(parents=True, exist_ok=True)
        pixels = rng.integers(0, 255, (96, 128, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(tmp_path / "photos/images" / f"{name}.png")
        Image.fromarray((pixels[..., 0] > 128).astype(np.uint8)).save(tmp_path / "photos/labels" / f"{name}.png")
    (tmp_path / "photos/classes.yaml").write_text("classes: [dark, bright]\n")
    settings = [f"data.root={tmp_path / 'photos'}", "train.input_pixels=4000", "train.precision=32-true"]
    settings += ["train.step_pixels=25000"]
    segproto.train("blackbox/folder", out=tmp_path / "run", overrides=[*settings, "stages.joint.steps=1"])
    told = capsys.readouterr().err
    assert "encoder.input_scale = 0.5: images of 128 x 96 pixels are seen at 64 x 48" in told
    assert "caching the features of 2 train images, each also mirrored, will take about " in told
    assert "(128 x 96 pixels at encoder.input_scale=0.5); shorter: encoder.input_scale=0.25 (about " in told
    assert "train.batch_size = 2 instead of 8: of 128 x 96 pixels a step holds 2 images" in told
    settled = read_yaml(tmp_path / "run/recipe.yaml")
    assert (settled["encoder"]["input_scale"], settled["train"]["batch_size"]) == (0.5, 2)
    view = segproto.load(tmp_path / "run").encoder.view
    assert (view.window, view.whole) == (None, 96 * 128)
