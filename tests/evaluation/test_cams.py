"""Scoring folders of class activation maps: against one numpy pass a threshold; bad files."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from segproto.cli import main as cli_main
from segproto.errors import DataError
from segproto.evaluation.cams import score_cams

NAMES = ("a", "deep/b", "c")


@pytest.fixture
def folders(tmp_path: Path) -> Path:
    """Three images with maps of two classes, npz and npy, and their true masks with void pixels."""
    rng = np.random.default_rng(0)
    for number, name in enumerate(NAMES):
        shape = (9 + number, 14)
        maps, gt = rng.random((2, *shape)).astype(np.float16), rng.choice([0, 1, 3, 255], shape, p=[0.4, 0.3, 0.2, 0.1])
        for folder in ("cams", "gt"):
            (tmp_path / folder / name).parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(gt.astype(np.uint8)).save(tmp_path / "gt" / f"{name}.png")
        if number == 1:  # as published code writes them
            np.save(tmp_path / "cams" / name, {2: maps[1].astype(np.float32), 0: maps[0].astype(np.float32)})  # type: ignore[arg-type]
        else:
            np.savez_compressed(tmp_path / "cams" / name, classes=np.array([1, 3], np.uint8), maps=maps)
    return tmp_path


def naive(root: Path, threshold: float) -> tuple[float, float]:
    """Mean IoU and accuracy at one threshold, the published way."""
    hit, predicted, true = (np.zeros(4) for _ in range(3))
    for name in NAMES:
        npz = root / "cams" / f"{name}.npz"
        if npz.exists():
            maps = np.load(npz)["maps"].astype(np.float32)
        else:
            value = np.load(npz.with_suffix(".npy"), allow_pickle=True).item()
            maps = np.stack([value[0], value[2]])
        gt = np.asarray(Image.open(root / "gt" / f"{name}.png"))
        full = np.zeros((4, *gt.shape), np.float32)
        full[[1, 3]], full[0] = maps, threshold
        guess = full.argmax(0)
        for c in range(4):
            hit[c] += ((guess == c) & (gt == c)).sum()
            predicted[c] += ((guess == c) & (gt != 255)).sum()
            true[c] += (gt == c).sum()
    union = predicted + true - hit
    return float((hit / np.maximum(union, 1))[union > 0].mean()), float(hit.sum() / true.sum())


def test_every_threshold_is_as_if_scored_alone(folders: Path) -> None:
    figures = score_cams(folders / "cams", folders / "gt")
    assert len(figures["curve"]) == 60
    for row in figures["curve"][::7]:
        assert (row["miou"], row["accuracy"]) == pytest.approx(naive(folders, row["threshold"]), abs=1e-12)
    best = max(figures["curve"], key=lambda row: row["miou"])
    assert (figures["miou"], figures["threshold"]) == (best["miou"], best["threshold"])
    assert [row["name"] for row in figures["per_class"]] == ["0", "1", "2", "3"]
    assert figures["images"] == 3
    assert len(score_cams(folders / "cams", folders / "gt", thresholds=[0.5, 0.2, 0.2])["curve"]) == 2


def test_names_without_a_partner_are_told(folders: Path) -> None:
    (folders / "gt" / "c.png").rename(folders / "gt" / "d.png")
    figures = score_cams(folders / "cams", folders / "gt", classes=4)
    assert (figures["images"], figures["without_gt"], figures["without_cams"]) == (2, ["c"], ["d"])
    (folders / "list.txt").write_text("a\nc\n")
    with pytest.raises(DataError, match="1 of 2 names are missing, first 'c'"):
        score_cams(folders / "cams", folders / "gt", list_file=folders / "list.txt")


def test_an_image_of_background_alone(folders: Path) -> None:
    np.savez_compressed(folders / "cams" / "a", classes=np.zeros(0, np.uint8), maps=np.zeros((0, 9, 14), np.float16))
    gt = np.asarray(Image.open(folders / "gt" / "a.png"))
    (folders / "list.txt").write_text("a\n")
    figures = score_cams(folders / "cams", folders / "gt", list_file=folders / "list.txt", classes=4)
    assert figures["accuracy"] == pytest.approx((gt == 0).sum() / (gt != 255).sum())


@pytest.mark.parametrize("channels", [3, 4])
def test_an_array_of_all_classes_is_as_the_dict(folders: Path, channels: int) -> None:
    """Without or with the background's channel first; absent classes are -1, as published."""
    before = score_cams(folders / "cams", folders / "gt", classes=4)
    path = folders / "cams" / "deep" / "b.npy"
    value = np.load(path, allow_pickle=True).item()
    whole = np.full((channels, 10, 14), -1, np.float32)
    for key, own in value.items():
        whole[channels - 3 + key] = own
    np.save(path, whole)
    assert score_cams(folders / "cams", folders / "gt", classes=4)["curve"] == before["curve"]
    with pytest.raises(DataError, match=rf"b\.npy: an array of {channels} maps; name the classes"):
        score_cams(folders / "cams", folders / "gt")
    with pytest.raises(DataError, match=rf"b\.npy: an array of {channels} maps; expected 8, one per class"):
        score_cams(folders / "cams", folders / "gt", classes=9)


def test_bad_maps_are_named(folders: Path) -> None:
    def refused(words: str) -> None:
        with pytest.raises(DataError, match=words):
            score_cams(folders / "cams", folders / "gt", classes=4)

    path = folders / "cams" / "a.npz"
    whole, maps = path.read_bytes(), np.zeros((1, 9, 14), np.float16)
    path.write_bytes(whole[:-200])
    refused(r"a\.npz: not a readable npz .* delete it")
    np.savez(path, classes=np.ones(1, np.uint8), maps=maps[:, :5])
    refused(r"a\.npz: maps of 5 x 14 pixels, .*a\.png is 9 x 14")
    np.savez(path, classes=np.full(1, 7, np.uint8), maps=maps)
    refused(r"a\.npz: a map of class 7, expected 1\.\.3")
    np.savez(path, classes=np.zeros(1, np.uint8), maps=maps)
    refused(r"a\.npz: maps of the classes \[0\]")
    np.savez(path, classes=np.ones(1, np.uint8), maps=np.full_like(maps, np.nan))
    refused("expected finite")
    np.savez(path, other=maps)
    refused(r"a\.npz: holds other; expected classes and maps")
    np.savez(path, classes=np.array([{}]), maps=maps)
    refused(r"a\.npz: not a readable npz")
    np.savez(path, classes=np.ones(1, np.uint8), maps=np.full((1, 9, 14), 200, np.uint8))
    refused(r"a\.npz: maps with values up to 200; expected 0\.\.1")
    path.write_bytes(whole)
    np.save(folders / "cams" / "c.npy", {0: maps[0]})  # type: ignore[arg-type]
    refused("has maps twice")


def test_verb(
    folders: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def evaluate(*args: object) -> tuple[int, str, str]:
        monkeypatch.setattr(sys, "argv", ["segproto", "evaluate", *map(str, args)])
        code = 0
        try:
            cli_main.main()
        except SystemExit as stop:
            code = int(stop.code or 0)
        return code, *capsys.readouterr()

    (folders / "gt" / "classes.yaml").write_text("classes: [ground, ant, bee, cat]\n")
    both = ("--cams", folders / "cams", "--gt", folders / "gt")
    code, text, _ = evaluate(*both, "--curve", "--out", tmp_path / "out" / "curve.json")
    figures = json.loads((tmp_path / "out" / "curve.json").read_text())
    assert code == 0
    assert f"best threshold: {figures['threshold']:.2f} (3 images)" in text
    assert "cat" in text
    assert "0.59" in text
    assert Image.open(tmp_path / "out" / "curve.png").size[0] > 400
    code, text, _ = evaluate(*both)
    assert code == 0
    assert "0.59" not in text
    assert evaluate(*both, "--masks", "m")[0] == 2
    code, _, text = evaluate("run", "--curve")
    assert (code, "--cams" in text) == (2, True)
