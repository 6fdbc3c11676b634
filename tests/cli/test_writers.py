"""No command harms a file of the user's: inputs, and files that segproto did not make, are never written over."""

from __future__ import annotations

import errno
import hashlib
import os
import resource
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import get_args, get_type_hints

import numpy as np
import pytest
import typer
from command_line import Answer, Cli
from PIL import Image
from typer.models import OptionInfo
from writing_commands import COMMANDS, given, make_world, photos, tree

import segproto
from segproto import api
from segproto.cli.app import app
from segproto.errors import ConfigError


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
    assert sorted(tree(tmp_path / "masks")) == [".predict.json", "0.png", "1.png"]


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


def test_a_list_of_what_to_label_next_stays_out_of_the_folder_of_images(
    cli: Cli, blackbox_run: Path, tmp_path: Path
) -> None:
    folder = photos(tmp_path / "photos")
    before = tree(tmp_path)
    command = ["review", blackbox_run, "data.scenes.num_train=2", "-q", "--next", folder]
    refused(cli(*command, "--out", folder), "name a")
    assert tree(tmp_path) == before


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


ELSEWHERE = {  # in test_published.py, test_layouts.py and test_studio.py; with what they need besides
    ("data prepare", "--root"): ["voc", "--from", "x"],
    ("data init", "--out"): ["."],
    ("studio", "--out"): ["x"],
}
READ = {
    "--resume",
    "--ood-labels",
    "--start",
    "--masks",
    "--cams",
    "--gt",
    "--list",
    "--classes",
    "--test",
    "--compare",
    "--review",
    "--from",
    "--add",
    "--next",
}


@pytest.fixture(scope="module")
def world(runs: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, object]:
    """What the commands read."""
    return make_world(tmp_path_factory.mktemp("world"), runs)


def options_with_paths(part: typer.Typer, name: str = "") -> set[tuple[str, str]]:
    """Every option of every command that takes a path: (command, option)."""
    path_options = set()
    for group in part.registered_groups:
        assert group.typer_instance is not None
        path_options |= options_with_paths(group.typer_instance, f"{group.name} ")
    for command in part.registered_commands:
        assert command.callback is not None
        words = name + (command.name or command.callback.__name__.replace("_", "-"))
        for parameter, hint in get_type_hints(command.callback, include_extras=True).items():
            options = [info for info in getattr(hint, "__metadata__", ()) if isinstance(info, OptionInfo)]
            if options and "Path" in str(get_args(hint)[0]):
                texts = [options[0].default, *(options[0].param_decls or ())]
                given = [text for text in texts if isinstance(text, str) and text.startswith("--")]
                path_options.add((words, given[0] if given else f"--{parameter.replace('_', '-')}"))
    return path_options


def test_every_option_that_says_where_to_write_is_tested_here() -> None:
    paths = options_with_paths(app)
    told = {(words.split(" --")[0], option) for words, option in COMMANDS.keys() | ELSEWHERE.keys()}
    unknown = {key for key in paths if key[1] not in READ} - told
    assert not unknown, "tell here whether these options are read or written, and that nothing is harmed"
    assert told <= paths


@pytest.mark.parametrize("key", [key for key, command in COMMANDS.items() if command.run], ids=" ".join)
def test_a_command_writes_over_its_own_files_and_no_others(
    cli: Cli, key: tuple[str, str], world: dict[str, object], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    command, out = COMMANDS[key], tmp_path / COMMANDS[key].out
    args = given(key, world, out)
    with monkeypatch.context() as full:
        full.setattr(os, "fsync", refuse)
        refused(cli(*args), "the disk is full")
    assert tree(tmp_path) == {}
    with no_room():
        refused(cli(*args), "the disk is full")
    assert tree(tmp_path) == {}
    answer = cli(*args)
    assert answer.code == 0, answer.err
    first = tree(tmp_path)
    again = cli(*args)
    if command.repeat:
        assert again.code == 0, again.err
        assert tree(tmp_path).keys() == first.keys()
    else:
        refused(again)
        assert tree(tmp_path) == first
    assert not [name for name in first if ".part" in name or name.startswith(".")]
    with monkeypatch.context() as full:
        full.setattr(os, "fsync", refuse)
        before = tree(tmp_path)
        if cli(*args).code:  # a finished work may have nothing left to write
            assert tree(tmp_path) == before
    for name in (min(first), max(first)):
        (tmp_path / name).write_bytes(b"mine")
        before = tree(tmp_path)
        answer = cli(*args)
        refused(answer, "name a" if command.repeat else "is taken")
        assert before.items() <= tree(tmp_path).items()
        (tmp_path / name).unlink()


@contextmanager
def no_room() -> Iterator[None]:
    """No file may grow beyond some bytes: the first write fails, of Python or of a library."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (64, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)


def refuse(descriptor: int) -> None:
    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


@pytest.mark.parametrize("key", [key for key, command in COMMANDS.items() if not command.run], ids=" ".join)
def test_a_long_command_notices_a_foreign_file_before_it_begins(
    cli: Cli, key: tuple[str, str], world: dict[str, object], tmp_path: Path
) -> None:
    file = tmp_path / "out" / COMMANDS[key].foreign
    file.parent.mkdir(parents=True)
    file.write_text("mine")
    refused(cli(*given(key, world, tmp_path / "out")))
    assert tree(tmp_path) == {file.relative_to(tmp_path).as_posix(): hashlib.sha256(b"mine").hexdigest()}


@pytest.mark.parametrize("key", [*COMMANDS, *ELSEWHERE], ids=" ".join)
def test_an_empty_place_is_refused(
    cli: Cli, key: tuple[str, str], world: dict[str, object], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    args = given(key, world, "EMPTY") if key in COMMANDS else [*key[0].split(), *ELSEWHERE[key], key[1], "EMPTY"]
    refused(
        cli(*["" if word == "EMPTY" else word for word in args]), f"{key[1]} is empty (a variable that is not set?)"
    )
    joined = " ".join(args).replace(f"{key[1]} EMPTY", f"{key[1]}=").split()
    refused(cli(*joined), f"{key[1]} is empty")
    assert not list(tmp_path.iterdir())


def test_an_empty_run_to_resume_is_refused(cli: Cli) -> None:
    refused(cli("train", "--resume", ""), "--resume is empty")
    for call in (
        lambda: api.train("blackbox/scenes", out=""),
        lambda: api.train(resume=""),
        lambda: api.predict("x", "y", out=""),
        lambda: api.explain("x", "y", out=""),
        lambda: api.evaluate("x", save=""),
        lambda: api.data_prepare("voc", sources=[], root=""),
    ):
        with pytest.raises(ConfigError, match="is empty"):
            call()
