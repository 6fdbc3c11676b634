"""No command harms a file of the user's: inputs, and files that segproto did not make, are never written over."""

from __future__ import annotations

import hashlib
from pathlib import Path

import numpy as np
import pytest
from command_line import Answer, Cli
from PIL import Image

import segproto
from segproto.errors import ConfigError


def tree(folder: Path) -> dict[str, str]:
    """Every file below a folder with its checksum."""
    files = [path for path in sorted(folder.rglob("*")) if path.is_file()]
    return {path.relative_to(folder).as_posix(): hashlib.sha256(path.read_bytes()).hexdigest() for path in files}


def photos(folder: Path, count: int = 2) -> Path:
    folder.mkdir(parents=True)
    for number in range(count):
        pixels = np.random.default_rng(number).integers(0, 255, (50, 70, 3), np.uint8)
        Image.fromarray(pixels).save(folder / f"{number}.png")
    return folder


def pairs(root: Path, names: tuple[str, ...]) -> Path:
    """A folder data set of the classes of the generated scenes."""
    import yaml

    photos(root / "images" / "val", 2)
    (root / "images" / "train").mkdir()
    (root / "labels" / "val").mkdir(parents=True)
    (root / "labels" / "train").mkdir()
    for number in range(2):
        mask = np.random.default_rng(number).integers(0, len(names), (50, 70), np.uint8)
        Image.fromarray(mask).save(root / "labels" / "val" / f"{number}.png")
    entries = [{"name": name, "values": index} for index, name in enumerate(names)]
    (root / "classes.yaml").write_text(yaml.safe_dump({"classes": entries}))
    return root


def refused(answer: Answer, *words: str) -> None:
    assert answer.code == 2, answer
    assert len(answer.err.splitlines()) == 1, answer.err
    for word in words:
        assert word in answer.err


def test_predict_never_takes_a_photo(
    cli: Cli, blackbox_run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = photos(tmp_path / "photos")
    before = tree(tmp_path)
    monkeypatch.chdir(folder)
    for images, out in (("0.png", "."), (folder, folder), (folder / "1.png", folder), (".", f"../{folder.name}")):
        refused(cli("predict", blackbox_run, images, "--out", out, "-q"), ".png: is an input", "name another place")
    (tmp_path / "link").symlink_to(folder)
    refused(cli("predict", blackbox_run, folder, "--out", tmp_path / "link", "-q"), "is an input")
    (tmp_path / "link").unlink()
    assert tree(tmp_path) == before
    for _ in range(2):  # its own masks are replaced
        assert cli("predict", blackbox_run, folder, "--out", tmp_path / "masks", "-q").code == 0
    assert sorted(tree(tmp_path / "masks")) == ["0.png", "1.png"]


def test_predict_leaves_masks_drawn_by_hand(cli: Cli, blackbox_run: Path, tmp_path: Path) -> None:
    folder, out = photos(tmp_path / "photos"), tmp_path / "masks"
    cli("predict", blackbox_run, folder, "--out", out, "-q")
    with Image.open(out / "1.png") as mask:
        Image.fromarray(255 - np.asarray(mask)).save(out / "1.png")  # corrected in another program
    before = tree(tmp_path)
    refused(cli("predict", blackbox_run, folder, "--out", out, "-q"), "1.png: is there and is no mask that segproto")
    assert tree(tmp_path) == before


def test_evaluate_never_takes_the_truth(cli: Cli, blackbox_run: Path, tmp_path: Path) -> None:
    names = segproto.load(blackbox_run).classes.names
    root = pairs(tmp_path / "data", names)
    before = tree(root)
    command = ["evaluate", blackbox_run, f"data.root={root}", "data.name=folder", "-q", "--save"]
    for save in (root / "labels", root / "images"):
        refused(cli(*command, save), "0.png: is an input of this command and would be overwritten")
    refused(cli(*command, root / "images", "--test", root / "images" / "val"), "is an input")
    assert tree(root) == before
    # masks that are ours are an input all the same once they are the truth
    for _ in range(2):
        assert cli(*command, tmp_path / "masks").code == 0
    for file in (root / "labels/val").iterdir():
        file.write_bytes((tmp_path / "masks" / "val" / file.name).read_bytes())
    before = tree(root)
    refused(cli(*command, root / "labels"), "0.png: is an input of this command")
    (root / "x-crf").mkdir()
    (root / "x-crf" / "0.png").write_text("mine")
    masks = tmp_path / "masks"
    (masks / "val-crf").mkdir()
    (masks / "val-crf" / "1.png").write_text("mine")
    refused(cli(*command, masks, "--crf", "E"), "val-crf/1.png: is there and is no mask")
    assert tree(root) == before | {"x-crf/0.png": hashlib.sha256(b"mine").hexdigest()}


def test_a_model_takes_the_place_of_a_model_only(blackbox_run: Path, tmp_path: Path) -> None:
    model, folder = segproto.load(blackbox_run), tmp_path / "model"
    model.save(folder)
    model.save(folder)
    (folder / "notes.txt").write_text("mine")
    before = tree(tmp_path)
    with pytest.raises(
        ConfigError, match=r"model: holds notes\.txt and would be replaced as a whole; name a new folder"
    ):
        model.save(folder)
    assert tree(tmp_path) == before
    (folder / "notes.txt").unlink()
    (folder / "model.json").write_text('{"format": "of another program"}')
    before = tree(tmp_path)
    with pytest.raises(ConfigError, match="holds files that segproto did not make"):
        model.save(folder)
    photos(tmp_path / "photos")
    with pytest.raises(ConfigError, match=r"holds 0\.png and would be replaced"):
        model.save(tmp_path / "photos")
    (tmp_path / ".new.old").mkdir()
    (tmp_path / ".new.old" / "mine").touch()
    model.save(tmp_path / "new")
    assert tree(tmp_path).items() > before.items()
    assert (tmp_path / ".new.old" / "mine").exists()


@pytest.mark.parametrize(
    "args",
    [
        ["train", "blackbox/scenes", "--out", ""],
        ["train", "blackbox/scenes", "--out="],
        ["train", "--resume", ""],
        ["predict", "RUN", "PHOTO", "--out", ""],
        ["predict", "RUN", "PHOTO", "--out", "x", "--ood", ""],
        ["evaluate", "RUN", "--save", ""],
        ["explain", "RUN", "PHOTO", "--out", ""],
    ],
)
def test_an_empty_place_is_refused(
    cli: Cli, args: list[str], blackbox_run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    photo = photos(tmp_path / "photos", 1) / "0.png"
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")
    known = {"RUN": str(blackbox_run), "PHOTO": str(photo)}
    option = next(a.rstrip("=") for a in reversed(args) if a.startswith("--"))
    refused(cli(*[known.get(a, a) for a in args]), f"{option} is empty (a variable that is not set?)")
    assert not list((tmp_path / "here").iterdir())
