"""What is no ordinary picture or text is refused at once: nothing is started, waited for, or believed."""

from __future__ import annotations

import io
import os
import socket
import struct
import subprocess
import zipfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import tifffile
from PIL import Image

from segproto.data.archives import Member
from segproto.data.cams import read_npz
from segproto.data.classes import read_classes
from segproto.data.em import _read_stack
from segproto.data.images import FORMATS, open_patch, read_stored
from segproto.data.matlab import read_mat
from segproto.data.pairs import read_list
from segproto.data.picture import look_at, read_image
from segproto.data.tags import ClassTable, read_tags
from segproto.errors import ConfigError, DataError
from segproto.files.documents import DEEPEST, parse_json, read_json
from segproto.files.reading import open_file, read_bytes, read_text
from segproto.files.yaml_text import parse_yaml

READERS: dict[str, Callable[[Path], object]] = {
    "image": read_image,
    "mask": read_stored,
    "predict": look_at,
    "stack": _read_stack,
    "list": read_list,
    "classes": read_classes,
    "tags": lambda path: read_tags(path, ClassTable(("a",), ((0, 0, 0),)), ["x"]),
    "matlab": lambda path: read_mat(path, "gt"),
    "maps": read_npz,
    "json": read_json,
}


@pytest.mark.parametrize("reader", READERS)
def test_pipes_sockets_devices_and_folders_are_refused_and_not_waited_for(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, reader: str
) -> None:
    os.mkfifo(tmp_path / "pipe.png")
    (tmp_path / "folder.png").mkdir()
    (tmp_path / "endless.png").symlink_to("/dev/zero")
    (tmp_path / "loop.png").symlink_to(tmp_path / "loop.png")
    with socket.socket(socket.AF_UNIX) as listening:
        monkeypatch.chdir(tmp_path)  # a socket's path must be short
        listening.bind("s.png")
        kinds = {"pipe": "a pipe", "folder": "a folder", "endless": "a device", "s": "a socket", "loop": "cannot be op"}
        for name, kind in kinds.items():
            if (reader, name) == ("tags", "folder"):
                continue  # a folder of annotations
            with pytest.raises((DataError, ConfigError), match=rf"{name}\.png.*{kind}"):
                READERS[reader](tmp_path / f"{name}.png")


def test_a_pipe_that_takes_the_place_of_a_file_is_not_waited_for(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    os.mkfifo(tmp_path / "a")
    monkeypatch.setattr("segproto.files.reading.require_ordinary", lambda *_: 0)
    with pytest.raises(DataError, match="a: is a pipe"):
        open_file(tmp_path / "a")


def eps(path: Path) -> None:
    Image.new("RGB", (8, 8), "red").save(path, "EPS")


def other(kind: str) -> Callable[[Path], None]:
    return lambda path: Image.new("RGB", (8, 8), "red").save(path, kind)


@pytest.mark.parametrize("make", [eps, other("TGA"), other("PCX"), other("IM"), other("SGI"), other("ICO")])
def test_formats_are_told_and_nothing_is_started(
    tmp_path: Path, make: Callable[[Path], None], monkeypatch: pytest.MonkeyPatch
) -> None:
    def never(*_: object, **__: object) -> None:
        raise AssertionError("a program was started")

    make(tmp_path / "x.png")
    for what in ("Popen", "check_call", "run", "check_output"):
        monkeypatch.setattr(subprocess, what, never)
    monkeypatch.setattr(os, "system", never)
    with pytest.raises(
        DataError, match=r"x\.png: is no picture, or broken at its start; known are PNG, JPEG"
    ) as caught:
        read_image(tmp_path / "x.png")
    assert "EPS" not in str(caught.value)
    for reader in (read_stored, look_at):
        with pytest.raises(DataError):
            reader(tmp_path / "x.png")
    with pytest.raises(DataError, match=r"p/1\.png: is no picture"):
        open_patch((tmp_path / "x.png").read_bytes(), "p/1.png")


@pytest.mark.parametrize("kind", [kind for kind in FORMATS if kind in Image.registered_extensions().values()])
def test_formats_are_read_whatever_the_suffix(tmp_path: Path, kind: str) -> None:
    if kind not in Image.SAVE:
        pytest.skip(f"this Pillow writes no {kind}")
    Image.new("RGB", (16, 16), "red").save(tmp_path / "x.png", kind)
    assert read_image(tmp_path / "x.png").shape == (3, 16, 16)


def test_photos_of_phones_with_several_pictures_are_read(tmp_path: Path) -> None:
    picture = Image.new("RGB", (16, 16), "red")
    picture.save(tmp_path / "x.jpg", "MPO", save_all=True, append_images=[picture])
    assert Image.open(tmp_path / "x.jpg").format == "MPO"
    assert read_image(tmp_path / "x.jpg").shape == (3, 16, 16)


def deep_mat(levels: int) -> bytes:
    """A cell in a cell in a cell; scipy's reader overflows the stack at some ten thousand."""

    def element(kind: int, content: bytes) -> bytes:
        return struct.pack("<II", kind, len(content)) + content + bytes(-len(content) % 8)

    sizes = element(5, struct.pack("<ii", 1, 1))
    inner = element(14, element(6, struct.pack("<II", 6, 0)) + sizes + element(1, b"") + element(9, bytes(8)))
    heads, length = [], len(inner)
    for level in range(levels):
        name = b"gt" if level == levels - 1 else b""
        head = element(6, struct.pack("<II", 1, 0)) + sizes + element(1, name)
        heads.append(struct.pack("<II", 14, len(head) + length) + head)
        length += len(head) + 8
    return b"MATLAB 5.0 MAT-file".ljust(124) + struct.pack("<H", 256) + b"IM" + b"".join(heads[::-1]) + inner


def test_matlab_files_that_overflow_the_stack_or_claim_absurd_sizes(tmp_path: Path) -> None:
    (tmp_path / "a.mat").write_bytes(deep_mat(30_000))
    with pytest.raises(DataError, match=r"a\.mat: cannot be read as a MATLAB file \(more than 6 variables"):
        read_mat(tmp_path / "a.mat", "gt")
    content = deep_mat(1).replace(struct.pack("<ii", 1, 1), struct.pack("<ii", 1 << 30, 1 << 30), 1)
    (tmp_path / "b.mat").write_bytes(content)
    with pytest.raises(DataError, match=r"a variable of size \(1073741824, 1073741824\)"):
        read_mat(tmp_path / "b.mat", "gt")


def test_arrays_that_would_fill_the_memory_are_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    tifffile.imwrite(tmp_path / "a.tif", np.zeros((4, 64, 64), np.uint8), compression="zlib")
    np.savez_compressed(tmp_path / "a.npz", maps=np.zeros(1 << 20))
    with zipfile.ZipFile(tmp_path / "a.zip", "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("a.png", bytes(1 << 20))
    monkeypatch.setattr("segproto.data.tiff.MAX_BYTES", 1 << 13)
    monkeypatch.setattr("segproto.data.cams.MOST", 1 << 20)
    monkeypatch.setattr("segproto.data.archives.MOST", 1 << 19)
    with pytest.raises(DataError, match=r"a\.tif: cannot be read as a TIFF .*\(4, 64, 64\) is more than"):
        _read_stack(tmp_path / "a.tif")
    with pytest.raises(DataError, match=r"a\.npz: .*would take more than 1 MiB"):
        read_npz(tmp_path / "a.npz")
    with pytest.raises(DataError, match=r"a\.zip/a\.png: 1,048,576 bytes are more than"):
        read_image(Member(tmp_path / "a.zip", "a.png"))  # type: ignore[arg-type]


def test_archives_that_are_encrypted_or_packed_in_an_unknown_way(tmp_path: Path) -> None:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        archive.writestr("a.png", b"x")
    for at, value, name in ((6, 1, "encrypted"), (8, 99, "unknown")):  # flags and method, in both directories
        content = bytearray(buffer.getvalue())
        content[at] = value
        content[content.index(b"PK\x01\x02") + at + 2] = value
        (tmp_path / f"{name}.zip").write_bytes(content)
        with pytest.raises(DataError, match=rf"{name}\.zip/a\.png: cannot be read from its archive"):
            read_image(Member(tmp_path / f"{name}.zip", "a.png"))  # type: ignore[arg-type]


LAUGHS = "a: &a0 [x, x]\n" + "".join(f"b{i}: &a{i + 1} [*a{i}, *a{i}]\n" for i in range(40))
MERGED = "a: &a0 {x: 1}\n" + "".join(f"b{i}: &a{i + 1} {{<<: [*a{i}, *a{i}]}}\n" for i in range(40))
YAML = {
    "deep": ("[" * 5000 + "]" * 5000, f"more than {DEEPEST} levels"),
    "deep mapping": ("".join(" " * i + "a:\n" for i in range(2000)), f"more than {DEEPEST} levels"),
    "billion laughs": (LAUGHS, "more than 200,000 values"),
    "merged laughs": (MERGED, "more than 200,000 values"),
    "holds itself": ("a: &a [*a]", "holds itself"),
    "a key twice": ("train: {seed: 1,\n seed: 2}", "line 2: not YAML (the key 'seed' twice)"),
    "13th month": ("a: 2001-13-45", "month must be in 1..12"),
    "no float": ("a: !!float x", "could not convert"),
    "long number": ("a: " + "9" * 5000, "Exceeds the limit"),
    "long hexadecimal": ("a: 0x" + "f" * 5000, "an integer of 20000 bits"),
    "half a pair": ('a: "\\ud800"', "surrogates not allowed"),
    "code": ("a: !!python/object/apply:os.system ['true']", "could not determine a constructor"),
}


@pytest.mark.parametrize("name", YAML)
def test_yaml_that_exhausts_or_only_looks_right(name: str) -> None:
    text, message = YAML[name]
    with pytest.raises(ConfigError) as caught:
        parse_yaml(text, "a.yaml")
    assert message in str(caught.value)
    assert str(caught.value).startswith("a.yaml")
    assert len(str(caught.value)) < 300
    assert "\n" not in str(caught.value)


def test_yaml_with_aliases_is_read() -> None:
    parsed = parse_yaml("a: &a {x: 1, y: 1e-4}\nb: {<<: *a, x: 2}\nc: [*a, *a]", "a.yaml")
    assert parsed == {"a": {"x": 1, "y": 1e-4}, "b": {"x": 2, "y": 1e-4}, "c": [{"x": 1, "y": 1e-4}] * 2}


@pytest.mark.parametrize("text", ["[" * 100_000, "[" * 200 + "]" * 200, "9" * 5000, str(2**70), '"\\ud800"', "{", ""])
def test_json_that_exhausts_or_cannot_be_written_again(text: str) -> None:
    with pytest.raises(DataError, match=r"^a\.json: not JSON") as caught:
        parse_json(text, "a.json")
    assert len(str(caught.value)) < 300


def test_text_has_a_limit_and_an_encoding(tmp_path: Path) -> None:
    (tmp_path / "a").write_bytes(b"\xef\xbb\xbfa\nb\xff")
    with pytest.raises(DataError, match=r"a: is not UTF-8 text \(line 2\)"):
        read_text(tmp_path / "a")
    with pytest.raises(DataError, match="a: has more than 3 bytes"):
        read_bytes(tmp_path / "a", 3)
    (tmp_path / "a").write_bytes(b"\xef\xbb\xbfa")
    assert read_text(tmp_path / "a") == "a"
    with pytest.raises(ConfigError, match="cannot be opened"):
        open_file(Path("a\0b"), ConfigError)
