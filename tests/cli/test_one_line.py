"""What a person may get wrong is told in one line: odd names, devices, counts, recipes to follow, foreign files."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from command_line import Answer, Cli
from PIL import Image
from published_modules import Published

import segproto
from segproto.data.unlabelled import ImageFolder
from segproto.errors import ConfigError, DataError, UnreadableImages
from segproto.runs.models import chosen_device


def photo(path: Path, seed: int = 0) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    pixels = np.random.default_rng(seed).integers(0, 255, (24, 32, 3), np.uint8)
    with path.open("wb") as file:
        Image.fromarray(pixels).save(file, "PNG")
    return path


def refused(answer: Answer, *words: str) -> None:
    assert answer.code == 2, answer
    assert len(answer.err.splitlines()) == 1, answer.err
    for word in words:
        assert word in answer.err


def test_devices_that_compute_nothing() -> None:
    for name in ("meta", "vulkan", "nonsense"):
        with pytest.raises(ConfigError, match=f"device = {name}: .*expected cpu, cuda or cuda:N"):
            chosen_device(name)
    assert chosen_device("cpu").type == "cpu"


def test_a_report_without_images(cli: Cli, blackbox_run: Path, tmp_path: Path) -> None:
    out = tmp_path / "a.html"
    assert cli("report", blackbox_run, "--images", 0, "--out", out, "-q").code == 0
    assert "<html" in out.read_text()


def test_a_recipe_to_follow_is_looked_at_first(cli: Cli, tmp_path: Path) -> None:
    train = ("train", "pixelcontrast/scenes-few", "-q", "--out", tmp_path / "out")
    refused(cli(*train, f"then={tmp_path}/missing.yaml"), "missing.yaml: no such file")
    (tmp_path / "wrong.yaml").write_text("base: blackbox/scenes\ntrain: {sed: 1}\n")
    refused(cli(*train, f"then={tmp_path}/wrong.yaml"), "train.sed: unknown key; did you mean train.seed?")
    (loop := tmp_path / "loop.yaml").write_text(f"base: pixelcontrast/scenes\nthen: {loop}\n")
    refused(cli(*train, f"then={loop}"), "does it name itself?")
    assert not (tmp_path / "out").exists()


def test_names_that_are_no_utf8(cli: Cli, blackbox_run: Path, tmp_path: Path) -> None:
    odd = photo(Path(os.fsdecode(os.fsencode(tmp_path) + b"/in/caf\xe9.png")))
    assert cli("predict", blackbox_run, odd, "--out", tmp_path / "masks", "-q").code == 0
    assert [os.fsencode(p.name) for p in (tmp_path / "masks").glob("*.png")] == [b"caf\xe9.png"]
    assert cli("explain", blackbox_run, odd, "--out", tmp_path / "why").code == 0
    assert "caf\\udce9.png" in (tmp_path / "why" / "index.html").read_text()
    for out in (os.fsdecode(b"out\xe9"), tmp_path / odd.name):
        refused(cli("train", "blackbox/scenes", "--out", out, "-q"), "udce9", "its name is not UTF-8; rename it")
    with pytest.raises(DataError, match=r"its name is not UTF-8; rename it"):
        ImageFolder(odd.parent)
    for folder in ("images", "labels"):
        photo(tmp_path / "data" / folder / odd.name)
    (tmp_path / "data/classes.yaml").write_text("classes: [a]\n")
    answer = cli("data", "verify", f"data.root={tmp_path}/data", "data.name=folder")
    assert "its name is not UTF-8; rename it" in answer.err


def test_names_that_begin_with_a_dash(cli: Cli, blackbox_run: Path, tmp_path: Path, monkeypatch: Any) -> None:
    photo(tmp_path / "-a.png")
    monkeypatch.chdir(tmp_path)
    answer = cli("predict", blackbox_run, "-a.png", "--out", "masks")
    assert (answer.code, answer.err.splitlines()[-1]) == (2, "For the file of that name write ./-a.png")
    assert cli("predict", blackbox_run, "./-a.png", "--out", "masks", "-q").code == 0


@pytest.mark.parametrize(
    ("attribute", "value"),
    [("epsilon", "x"), ("scale_num_prototypes", {0: 1}), ("prototype_class_identity", torch.ones(3))],
)
def test_published_modules_with_wrongly_typed_attributes(
    cli: Cli, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, attribute: str, value: object
) -> None:
    usual = Published.attributes

    def changed(self: Published, net: Any) -> None:
        usual(self, net)
        net.__dict__[attribute] = value

    monkeypatch.setattr(Published, "attributes", changed)
    Published(2, 4, 3).save(tmp_path / "a.pth")
    refused(cli("convert", "scaleprotoseg", tmp_path / "a.pth", "--out", tmp_path / "out"), "a.pth")
    assert [p.name for p in tmp_path.iterdir()] == ["a.pth"]


def test_files_of_a_run_that_are_damaged(cli: Cli, blackbox_run: Path, tmp_path: Path) -> None:
    for name, value, words in [
        ("edit.json", {"edits": "x"}, "edits = 'x'"),
        ("evaluation/thresholds.json", {"rows": [{"tau": "0.5"}]}, "rows.0.tau = '0.5'"),
        ("evaluation/val-interpretability.json", {"metrics": {"purity": []}}, "metrics.purity = []"),
    ]:
        (file := blackbox_run / name).parent.mkdir(exist_ok=True)
        file.write_text(json.dumps(value))
        answer = cli("report", blackbox_run, "--images", 0, "--out", tmp_path / "a.html", "-q")
        refused(answer, name, words, "write it again by running its command")
        file.unlink()


def test_predict_skips_and_goes_on(cli: Cli, blackbox_run: Path, tmp_path: Path) -> None:
    """Hidden files and its own masks are left out and told; broken images are listed at the end."""
    folder = tmp_path / "photos"
    for name in ("a.png", "z.png/b.png", "._a.png", ".trash/c.png"):
        photo(folder / name)
    command = ("predict", blackbox_run, folder, "--out", folder / "masks", "--json")
    answer = cli(*command)
    masks = [str(folder / "masks" / name) for name in ("a.png", "z.png/b.png")]
    assert (answer.code, json.loads(answer.out)) == (0, {"masks": masks, "broken": []})
    assert f"images left out: 2 hidden ({folder}/._a.png)" in answer.err
    (folder / "a.png").write_bytes(b"\x89PNG cut off")
    photo(folder / "d.png")
    answer = cli(*command)
    broken = json.loads(answer.out)["broken"]
    assert (answer.code, [row["image"] for row in broken]) == (1, [str(folder / "a.png")])
    assert f"2 hidden ({folder}/._a.png), 2 made by segproto ({folder}/masks/a.png)" in answer.err
    assert answer.err.splitlines()[-2:] == ["1 of 3 images cannot be read, the others are done:", broken[0]["reason"]]
    assert (folder / "masks" / "d.png").is_file()
    refused(cli("predict", blackbox_run, folder / "a.png", "--out", tmp_path / "one", "-q"), "a.png: is no picture")
    answer = cli("explain", blackbox_run, folder, "--out", tmp_path / "why", "-q", "--json")
    assert (answer.code, json.loads(answer.out)["broken"]) == (1, broken)
    assert (tmp_path / "why" / "z.png" / "b" / "index.html").is_file()
    with pytest.raises(UnreadableImages, match="1 of 3 images"):
        segproto.predict(blackbox_run, folder, out=tmp_path / "again", quiet=True)
