"""``segproto review --next``: a list of images with a page, from a run, from a model, and before any run."""

from __future__ import annotations

import json
import re
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from command_line import Cli
from PIL import Image
from safetensors.torch import save_file

import segproto
from segproto.encoders.build import build_encoder
from segproto.encoders.config import EncoderConfig

FEW = ["data.scenes.num_train=6"]


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    folder = tmp_path / "photos"
    for kind in ("images", "labels"):
        (folder / kind).mkdir(parents=True)
    for number in range(7):
        pixels = np.random.default_rng(number).integers(0, 256, (64, 64, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(folder / "images" / f"p{number}.png")
        Image.fromarray(np.zeros((64, 64), np.uint8)).save(folder / "labels" / f"p{number}.png")
    (folder / "images" / "broken.png").write_bytes(b"\x89PNG\r\n\x1a\nno picture")
    return folder


def test_images_to_label_from_a_run_and_from_a_model(runs: Path, photos: Path, cli: Cli, tmp_path: Path) -> None:
    out = tmp_path / "next"
    result = segproto.next_to_label(runs / "scaleproto", photos, out=out, count=3, overrides=FEW, quiet=True)
    assert (result["images"], result["known"], result["by"]) == (7, 6, "model")
    names = [one["image"] for one in result["next"]]
    assert len(set(names)) == 3
    assert set(names) <= {f"images/p{number}" for number in range(7)}  # no mask, nothing broken
    assert list(result["unreadable"]) == ["images/broken"]
    assert json.loads((out / "next.json").read_text())["next"] == result["next"]
    assert [line.split(",")[0] for line in (out / "next.csv").read_text().splitlines()] == ["image", *names]
    page = (out / "index.html").read_text()
    assert [page.index(f"{rank}. {name}</b>") for rank, name in enumerate(names, 1)]
    answer = cli("review", runs / "scaleproto", *FEW, "--next", photos, "--count", 3, "--out", out, "-q")
    assert answer.code == 0, answer
    assert re.findall(r"images/p\d", answer.out) == names
    assert "left out: images/broken" in answer.err
    shutil.copytree(runs / "scaleproto" / "model", tmp_path / "model")
    alone = segproto.next_to_label(tmp_path / "model", photos, out=out, count=9, quiet=True)
    assert (alone["known"], len(alone["next"])) == (0, 7)
    assert all(one["unlike"] == 1 for one in alone["next"])


def test_images_to_label_before_any_run(photos: Path, cli: Cli, tmp_path: Path) -> None:
    torch.manual_seed(0)
    encoder = EncoderConfig(name="unet", width=4, output_stride=4, dim=8, rates=[1, 2])
    save_file(build_encoder(encoder).backbone.state_dict(), tmp_path / "w.safetensors")
    recipe = ["scaleproto/scenes", "encoder.width=4"]
    out = ("--next", photos, "--count", 2, "--out", tmp_path / "out", "-q", "--json")
    answer = cli("review", *recipe, f"encoder.weights={tmp_path / 'w.safetensors'}", *out)
    assert answer.code == 0, answer
    result = json.loads(answer.out)
    assert (result["by"], result["known"], len(result["next"])) == ("encoder", 0, 2)
    untrained = cli("review", *recipe, *out)
    assert untrained.code == 2
    assert "encoder.weights: what an untrained unet finds alike means nothing" in untrained.err
    both = cli("review", *recipe, "--masks", tmp_path / "m", *out)
    assert "--masks is about labels, and --next about images without" in both.err
