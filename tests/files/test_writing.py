"""Files appear whole or not at all, never over what is not ours, and leave no litter."""

from __future__ import annotations

import errno
import json
import os
import stat
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors import safe_open
from safetensors.torch import load_file

from segproto.errors import ConfigError, SegprotoError
from segproto.files import (
    fill_tensors,
    fresh,
    fresh_folder,
    identities,
    in_own_folder,
    mark,
    place,
    remove,
    remove_folder,
    require,
    require_all,
    require_folder,
    stamped,
    tag_cache,
    write,
    write_json,
    write_tensors,
)
from segproto.files.marks import marked
from segproto.files.writing import _swept

KILLED = """
import os, signal, sys
from pathlib import Path
from segproto.files import fresh, fresh_folder
with {opened} as found:
    print("begun", flush=True)
    signal.pause()
"""


def picture(tmp_path: Path, suffix: str) -> bytes:
    file = tmp_path / f"plain{suffix}"
    Image.fromarray(np.random.default_rng(0).integers(0, 255, (9, 7, 3), np.uint8)).save(file)
    data = file.read_bytes()
    file.unlink()
    return data


def names(folder: Path) -> list[str]:
    return sorted(path.relative_to(folder).as_posix() for path in folder.rglob("*"))


@pytest.fixture
def umask() -> object:
    old = os.umask(0o027)
    yield
    os.umask(old)


WRITERS: dict[str, Callable[[Path, Path], None]] = {
    ".json": lambda path, _: write_json(path, {"a": 1}, "figures"),
    ".png": lambda path, tmp: write(path, picture(tmp, ".png"), "figures"),
    ".jpg": lambda path, tmp: write(path, picture(tmp, ".jpg"), "figures"),
    ".html": lambda path, _: write(path, b"<!doctype html>\n<html></html>", "figures"),
    ".zip": lambda path, _: write(path, b"PK\5\6" + bytes(18), "figures"),
    ".safetensors": lambda path, _: write_tensors(path, {"a": torch.arange(3)}, "figures", {"b": "c"}),
}


def test_a_place_that_may_not_be_written_is_told_before_the_work(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "locked").mkdir()
    monkeypatch.setattr(os, "access", lambda path, mode: Path(path) != tmp_path / "locked")  # root may write anywhere
    for ask in (lambda path: require(path, "mask"), lambda path: require_folder(path, ("a",), bool)):
        for out in ("locked/out", "locked/new/out"):
            with pytest.raises(ConfigError, match=f"{tmp_path / out}: {tmp_path / 'locked'} may not be written"):
                ask(tmp_path / out)
        ask(tmp_path / "free" / "out")


@pytest.mark.parametrize("suffix", WRITERS)
def test_what_is_ours_is_replaced_and_nothing_else(tmp_path: Path, suffix: str) -> None:
    path, write_it = tmp_path / f"out{suffix}", WRITERS[suffix]
    write_it(path, tmp_path)
    write_it(path, tmp_path)
    assert marked(path, "figures")
    assert names(tmp_path) == [path.name]
    with pytest.raises(ConfigError, match=f"{path}: is there and is no mask that segproto made; name another"):
        require(path, "mask")
    path.write_bytes(path.read_bytes().replace(b"Made by", b"Made at"))
    kept = path.read_bytes()
    with pytest.raises(ConfigError, match="is no figures that segproto made"):
        write_it(path, tmp_path)
    assert path.read_bytes() == kept
    assert names(tmp_path) == [path.name]


def test_marks_leave_the_content_as_it_was(tmp_path: Path) -> None:
    for suffix in (".png", ".jpg"):
        plain = picture(tmp_path, suffix)
        for name, data in (("a", plain), ("b", stamped(plain, "mask"))):
            (tmp_path / f"{name}{suffix}").write_bytes(data)
        with Image.open(tmp_path / f"a{suffix}") as a, Image.open(tmp_path / f"b{suffix}") as b:
            assert np.array_equal(np.asarray(a), np.asarray(b))
            assert mark("mask") in str(b.info)
    WRITERS[".safetensors"](tmp_path / "t.safetensors", tmp_path)
    assert load_file(tmp_path / "t.safetensors")["a"].tolist() == [0, 1, 2]
    with safe_open(tmp_path / "t.safetensors", "pt") as file:
        assert file.metadata() == {"b": "c", "made_by": mark("figures")}
    WRITERS[".json"](tmp_path / "j.json", tmp_path)
    assert json.loads((tmp_path / "j.json").read_text()) == {"made_by": mark("figures"), "a": 1}
    with pytest.raises(ValueError, match="no room for a mark"):
        stamped(b"plain", "mask")


def test_the_same_tensors_make_the_same_file(tmp_path: Path) -> None:
    path, words = tmp_path / "a.safetensors", {name: f"é\n{name}" for name in "bcadfe"}
    contents = set()
    for _ in range(6):
        write_tensors(path, {"x": torch.arange(3), "y": torch.ones(2, 2)}, "arrays", words)
        contents.add(path.read_bytes())
    assert len(contents) == 1
    assert load_file(path)["y"].tolist() == [[1, 1], [1, 1]]
    with safe_open(path, "pt") as file:
        assert file.metadata() == {**words, "made_by": mark("arrays")}


def test_what_may_not_be_written_over(tmp_path: Path) -> None:
    (tmp_path / "folder").mkdir()
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "nowhere").symlink_to(tmp_path / "gone")
    (tmp_path / "empty").touch()
    (tmp_path / "photo").write_text("mine")
    (tmp_path / "link").symlink_to(tmp_path / "photo")
    for name, words in (
        ("folder", "is a folder"),
        ("pipe", "is no ordinary file"),
        ("nowhere", "is a link to nothing"),
        ("empty", "is there and is no mask"),
        ("link", "is there and is no mask"),
    ):
        with pytest.raises(ConfigError, match=f"{tmp_path / name}: {words}.*; name another place to write"):
            require(tmp_path / name, "mask")
    with pytest.raises(ConfigError, match="a file is where a folder would be"), fresh(tmp_path / "photo/x", "mask"):
        raise AssertionError
    assert (tmp_path / "photo").read_text() == "mine"


def test_an_input_is_known_under_every_name(tmp_path: Path) -> None:
    ours = tmp_path / "a.png"
    write(ours, picture(tmp_path, ".png"), "mask")
    os.link(ours, tmp_path / "hard.png")
    (tmp_path / "soft.png").symlink_to(ours)
    for name in ("a.png", "../" + tmp_path.name + "/a.png", "hard.png", "soft.png"):
        with pytest.raises(ConfigError, match="is an input of this command"):
            require_all([tmp_path / name], "mask", [ours])
    require_all([ours, tmp_path / "new.png"], "mask", [tmp_path / "other.png"])
    assert identities([tmp_path / "gone"]) == set()


def test_a_place_that_is_empty() -> None:
    assert place("a") == Path("a")
    for empty in ("", " "):
        with pytest.raises(ConfigError, match="--save: is empty"):
            place(empty, "--save")


def test_nothing_is_left_after_an_error_and_the_old_file_stays(tmp_path: Path) -> None:
    path = tmp_path / "a.json"
    write_json(path, {"a": 1}, "figures")
    old = path.read_bytes()
    with pytest.raises(ZeroDivisionError), fresh(path, "figures") as file:
        file.write(b"half" * (1 // 0))
    with pytest.raises(TypeError):
        write_json(path, {"a": {1: 2}, (1,): 2}, "figures")
    assert path.read_bytes() == old
    assert names(tmp_path) == ["a.json"]


def test_a_file_put_there_in_the_meantime_stays(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="is there"), fresh(tmp_path / "a", "mask"):
        (tmp_path / "a").write_text("mine")
    assert (tmp_path / "a").read_text() == "mine"
    assert names(tmp_path) == ["a"]


@pytest.mark.parametrize(
    ("code", "words"),
    [
        (errno.ENOSPC, "the disk is full; free some space"),
        (errno.EDQUOT, "the disk is full"),
        (errno.EROFS, "can only be read; name another place to write"),
        (errno.EACCES, "permission denied"),
    ],
)
def test_what_a_disk_refuses_is_one_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, code: int, words: str
) -> None:
    write_json(tmp_path / "a.json", {"a": 1}, "figures")
    (tmp_path / "model").mkdir()

    def refuse(descriptor: int) -> None:
        raise OSError(code, os.strerror(code))

    monkeypatch.setattr(os, "fsync", refuse)
    with pytest.raises(SegprotoError, match=words) as failure:
        write_json(tmp_path / "a.json", {"a": 2}, "figures")
    assert "\n" not in str(failure.value)
    with pytest.raises(SegprotoError, match=words), fresh_folder(tmp_path / "model", ("a",), in_own_folder) as folder:
        (folder / "a").write_text("x")
    assert json.loads((tmp_path / "a.json").read_text())["a"] == 1
    assert names(tmp_path) == ["a.json", "model"]


def test_an_error_about_another_file_stays_as_it_is(tmp_path: Path) -> None:
    with pytest.raises(PermissionError), fresh(tmp_path / "out" / "a", "mask"):
        raise PermissionError(errno.EACCES, "Permission denied", "/elsewhere/photo.png")
    with pytest.raises(FileNotFoundError), fresh(tmp_path / "out" / "a", "mask"):
        raise FileNotFoundError(errno.ENOENT, "No such file", "photo.png")


def test_the_rights_are_those_of_any_new_file(tmp_path: Path, umask: None) -> None:
    write_json(tmp_path / "a.json", {"a": 1}, "figures")
    write_tensors(tmp_path / "a.safetensors", {"a": torch.zeros(2)}, "arrays")
    with fresh_folder(tmp_path / "model", ("*.safetensors",), in_own_folder) as folder:
        fill_tensors(folder / "b.safetensors", {"a": torch.zeros(2)})
    modes = {name: stat.S_IMODE((tmp_path / name).stat().st_mode) for name in names(tmp_path)}
    assert modes == {"a.json": 0o640, "a.safetensors": 0o640, "model": 0o750, "model/b.safetensors": 0o640}


def test_a_folder_with_foreign_files_is_left(tmp_path: Path) -> None:
    folder, holds = tmp_path / "model", ("a.json", "pictures/*.png")

    def put(text: str) -> None:
        with fresh_folder(folder, holds, lambda path: (path / "a.json").exists()) as new:
            (new / "pictures").mkdir()
            (new / "a.json").write_text(text)
            (new / "pictures" / "1.png").write_text(text)

    put("one")
    put("two")
    assert names(tmp_path) == ["model", "model/a.json", "model/pictures", "model/pictures/1.png"]
    assert (folder / "a.json").read_text() == "two"
    for foreign in ("notes.txt", "pictures/notes.txt", "b", "pictures/deep/1.txt"):
        (folder / foreign).parent.mkdir(exist_ok=True)
        (folder / foreign).write_text("mine")
        before = names(tmp_path)
        with pytest.raises(ConfigError, match=rf"holds {foreign.replace('/1.txt', '')} and would be replaced"):
            put("three")
        remove_folder(folder, holds)
        assert names(tmp_path) == before
        assert (folder / "a.json").read_text() == "two"
        (folder / foreign).unlink()
        if foreign.count("/") == 2:
            (folder / foreign).parent.rmdir()
    (folder / "a.json").unlink()
    with pytest.raises(ConfigError, match="holds files that segproto did not make"):
        put("three")
    (tmp_path / "file").touch()
    folder = tmp_path / "file"
    with pytest.raises(ConfigError, match="is a file, and a folder would be made"):
        put("three")


def test_a_failed_folder_leaves_the_old_one(tmp_path: Path) -> None:
    (tmp_path / "there").mkdir()
    with pytest.raises(ZeroDivisionError), fresh_folder(tmp_path / "there", ("a",), in_own_folder) as folder:
        (folder / "a").write_text("half" * (1 // 0))
    assert names(tmp_path) == ["there"]


def test_links_to_folders_stay_links(tmp_path: Path) -> None:
    (tmp_path / "disk").mkdir()
    (tmp_path / "model").symlink_to(tmp_path / "disk")
    with fresh_folder(tmp_path / "model", ("a",), in_own_folder) as folder:
        (folder / "a").write_text("x")
    assert (tmp_path / "model").is_symlink()
    assert (tmp_path / "disk" / "a").read_text() == "x"


def test_only_folders_of_the_project_are_known_without_marks(tmp_path: Path) -> None:
    run, cache = tmp_path / "run", tmp_path / "cache"
    (run / "stages").mkdir(parents=True)
    for folder in (run, run / "stages"):
        (folder / "x").write_text("x")
    with pytest.raises(ConfigError, match="is no file that segproto made"):
        remove(run / "stages" / "x")
    (run / "recipe.yaml").touch()
    remove(run / "stages" / "x")
    assert names(run) == ["recipe.yaml", "stages", "x"]
    assert not in_own_folder(tmp_path / "x")
    tag_cache(cache / "features")
    assert in_own_folder(cache / "features" / "0.safetensors")
    assert not in_own_folder(cache / "0.safetensors")
    assert (cache / "features" / "CACHEDIR.TAG").read_text().startswith("Signature: 8a477f597d28d172789f06886806bc55\n")


@pytest.mark.parametrize(
    "opened", ["fresh(Path(sys.argv[1]) / 'a', 'mask')", "fresh_folder(Path(sys.argv[1]) / 'a', ('x',), Path.exists)"]
)
def test_litter_of_a_killed_process_goes_and_that_of_a_living_one_stays(tmp_path: Path, opened: str) -> None:
    code = KILLED.format(opened=opened)
    with subprocess.Popen([sys.executable, "-c", code, str(tmp_path)], stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "begun\n"
        (part,) = names(tmp_path)
        write_json(tmp_path / "b.json", {}, "figures")
        assert names(tmp_path) == sorted([part, "b.json"])
        process.kill()
    assert names(tmp_path) == sorted([part, "b.json"])
    (tmp_path / ".segproto-notes.txt").touch()
    _swept.discard(tmp_path.resolve())
    write_json(tmp_path / "b.json", {}, "figures")
    assert names(tmp_path) == sorted(["b.json", ".segproto-notes.txt"])


def test_without_locks_litter_goes_after_a_day(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("segproto.files.writing.lock", lambda descriptor: None)
    for name, age in (("young", 3600), ("old", 100_000)):
        (tmp_path / f".segproto-{name}.part").touch()
        os.utime(tmp_path / f".segproto-{name}.part", (time.time() - age,) * 2)
    write_json(tmp_path / "b.json", {}, "figures")
    assert names(tmp_path) == [".segproto-young.part", "b.json"]
