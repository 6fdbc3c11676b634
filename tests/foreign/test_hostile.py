"""Hostile and damaged files run nothing and end in one clear line."""

from __future__ import annotations

import builtins
import importlib
import io
import os
import pickle
import resource
import struct
import subprocess
import tarfile
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from segproto import foreign
from segproto.errors import WeightsError


class Call:
    """Pickles as a call of anything."""

    def __init__(self, what: Any, *arguments: Any) -> None:
        self.what, self.arguments = what, arguments

    def __reduce__(self) -> Any:
        return self.what, self.arguments


class Holder:
    """A class an attack would climb out of."""


def plain(path: Path, value: Any, protocol: int = 2) -> None:
    path.write_bytes(pickle.dumps(value, protocol))


def edit_zip(path: Path, edit: Callable[[str, bytes], tuple[str, bytes] | None], compress: bool = False) -> None:
    """A torch archive with its entries changed."""
    buffer = io.BytesIO()
    torch.save({"weight": torch.zeros(8)}, buffer)
    kind = zipfile.ZIP_DEFLATED if compress else zipfile.ZIP_STORED
    with zipfile.ZipFile(buffer) as old, zipfile.ZipFile(path, "w", kind) as new:
        for name in old.namelist():
            entry = edit(name, old.read(name))
            if entry is not None:
                new.writestr(*entry)


def absurd_storage(path: Path) -> None:
    """Eight numbers that claim to be 2^50."""
    count = b"K\x08tq\x07Q"  # BININT1 8, TUPLE, BINPUT 7, BINPERSID

    def edit(name: str, content: bytes) -> tuple[str, bytes]:
        if name.endswith("data.pkl"):
            assert count in content
            content = content.replace(count, b"\x8a\x07" + (1 << 50).to_bytes(7, "little") + count[2:])
        return name, content

    edit_zip(path, edit)


def traversal(path: Path) -> None:
    edit_zip(path, lambda n, c: ("archive/../../../outside/" + n, c) if n.endswith("data/0") else (n, c))


def bomb(path: Path) -> None:
    edit_zip(path, lambda n, c: (n, bytes(20_000_000)) if n.endswith("data/0") else (n, c), compress=True)


def overlapping(path: Path) -> None:
    """A stored bomb: a thousand entries that are all the same bytes."""
    edit_zip(path, lambda n, c: (n, c + bytes(10_000) * n.endswith("data/0")))
    content = path.read_bytes()
    start = content.rindex(b"PK\x01\x02")
    end = content.rindex(b"PK\x05\x06")
    sizes = [i for i in zipfile.ZipFile(path).infolist() if i.filename.endswith("data/0")]
    entry = content[content.index(b"PK\x01\x02") :]
    rows = [b"PK\x01\x02" + row for row in entry[: end - content.index(b"PK\x01\x02")].split(b"PK\x01\x02")[1:]]
    big = next(row for row in rows if sizes[0].filename.encode() in row)
    copies = b"".join(big.replace(b"data/0", b"data/%c" % c) for c in range(65, 91))
    directory = b"".join(rows) + copies
    count = len(rows) + 26
    at = content.index(b"PK\x01\x02")
    tail = struct.pack("<4sHHHHIIH", b"PK\x05\x06", 0, 0, count, count, len(directory), at, 0)
    assert start
    path.write_bytes(content[:at] + directory + tail)


def legacy_tar(path: Path) -> None:
    with tarfile.open(path, "w") as tar:
        for name in ("sys_info", "pickle", "tensors", "storages"):
            content = pickle.dumps(Call(os.system, "true"), 2)
            info = tarfile.TarInfo(name)
            info.size = len(content)
            tar.addfile(info, io.BytesIO(content))


def truncated(path: Path) -> None:
    torch.save({"weight": torch.zeros(1000)}, path)
    path.write_bytes(path.read_bytes()[:1500])


def truncated_stream(path: Path) -> None:
    torch.save({"weight": torch.zeros(1000)}, path, _use_new_zipfile_serialization=False)
    path.write_bytes(path.read_bytes()[:-100])


def chain(path: Path) -> None:
    """``getattr(getattr(Holder, "__init__"), "__globals__")["__builtins__"] ...`` called with arguments."""
    step = Call(getattr, Call(getattr, Holder, "__init__"), "__globals__")
    plain(path, Call(Call, 1))
    content = pickle.dumps(step, 2)[:-1]  # without STOP
    path.write_bytes(content + b"X\x04\x00\x00\x00true\x85R.")  # push "true", make a tuple, call


MARKER = "touched"
HOSTILE: dict[str, tuple[Callable[[Path], None], str]] = {
    "os.system": (lambda p: plain(p, Call(os.system, f"touch {p.parent / MARKER}")), "names posix.system"),
    "subprocess": (lambda p: plain(p, Call(subprocess.call, ["touch", str(p.parent / MARKER)]), 4), "names subprocess"),
    "builtins.eval": (lambda p: plain(p, Call(eval, f"open({str(p.parent / MARKER)!r}, 'w')")), "builtins.eval"),
    "builtins.exec": (lambda p: plain(p, Call(exec, f"open({str(p.parent / MARKER)!r}, 'w')"), 0), "builtins.exec"),
    "builtins.open": (lambda p: plain(p, Call(open, str(p.parent / MARKER), "w")), "open"),
    "nested reduce": (
        lambda p: plain(p, {"state_dict": [Call(list, (Call(os.mkdir, str(p.parent / MARKER)),))]}),
        "names posix.mkdir",
    ),
    "getattr chain": (chain, "calls a computed object"),
    "importlib": (lambda p: plain(p, Call(importlib.import_module, "antigravity")), "names importlib.import_module"),
    "__import__": (lambda p: plain(p, Call(builtins.__import__, "antigravity")), "builtins.__import__"),
    "inst opcode": (lambda p: p.write_bytes(b"(S'touch x'\nios\nsystem\n."), "names os.system"),
    "dotted name": (lambda p: p.write_bytes(b"\x80\x04\x8c\x05torch\x8c\x09os.system\x93."), "names torch.os.system"),
    "extension registry": (lambda p: p.write_bytes(b"\x80\x02\x82\x01."), "uses EXT1"),
    "newobj_ex": (lambda p: p.write_bytes(b"\x80\x04csubprocess\nPopen\n)}\x92."), "names subprocess.Popen"),
    "absurd storage": (absurd_storage, "should have 4503599627370496 bytes and has 32"),
    "zip bomb": (bomb, "compressed"),
    "overlapping entries": (overlapping, "larger than the file"),
    "path traversal": (traversal, "outside the archive"),
    "legacy tar": (legacy_tar, "tar archive"),
    "truncated": (truncated, "is cut off or damaged (File is not a zip file); download it again"),
    "truncated stream": (truncated_stream, "are left; the file is truncated"),
    "huge bytes": (lambda p: p.write_bytes(b"\x80\x04\x8e" + struct.pack("<Q", 1 << 45) + b"x."), "truncated"),
    "text": (lambda p: p.write_text("just some text"), "not read"),
    "picture": (
        lambda p: p.write_bytes(b"\xff\xd8\xff\xe0picture"),
        "neither a torch file, pickle, safe",
    ),
    "torn safetensors": (
        lambda p: p.write_bytes(struct.pack("<Q", 40) + b'{"a":{"dtype":"F32","shape":[9],"x":1}}' + bytes(9)),
        "damaged safetensors",
    ),
    "empty": (lambda p: p.write_bytes(b""), "empty"),
    "no zip": (lambda p: zipfile.ZipFile(p, "w").writestr("a.txt", "a"), "not read"),
    "unhashable key": (lambda p: p.write_bytes(b"\x80\x02}]K\x01s."), "a list as a key"),
    "bytes by length": (lambda p: plain(p, Call(bytearray, 1 << 60)), "bytes of a int"),
}


@pytest.mark.parametrize("name", HOSTILE)
def test_hostile_file(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    make, reason = HOSTILE[name]
    path = tmp_path / "model.pth"
    make(path)
    before = sorted(tmp_path.iterdir())
    monkeypatch.chdir(tmp_path)

    def never(*_: Any, **__: Any) -> None:
        raise AssertionError("something named in the file was called")

    for place, what in [(os, "system"), (importlib, "import_module"), (subprocess, "call"), (os, "mkdir")]:
        monkeypatch.setattr(place, what, never)
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    with pytest.raises(WeightsError) as caught:
        foreign.read(path)
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - peak < 50_000  # KiB
    line = str(caught.value)
    assert reason in line
    assert line.startswith(f"{path}: ")
    assert "\n" not in line
    assert len(line) < len(str(path)) + 220
    assert sorted(tmp_path.iterdir()) == before


def test_what_is_called_in_a_file_stays_inert(tmp_path: Path) -> None:
    content = pickle.dumps(Call(Holder, 1, 2), 2)
    (tmp_path / "a.pkl").write_bytes(content)
    value = foreign.read(tmp_path / "a.pkl")
    assert isinstance(value, foreign.Record)
    assert value.arguments == (1, 2)


def test_sharing_does_not_blow_up(tmp_path: Path) -> None:
    value: Any = ["x"]
    for _ in range(60):
        value = (value, value)  # 2^60 leaves if anything walked them
    (tmp_path / "a.pkl").write_bytes(pickle.dumps(value, 4))
    assert len(foreign.read(tmp_path / "a.pkl")) == 2
    (tmp_path / "b.pkl").write_bytes(b"\x80\x02}" + b"]" + b"".join(b"\x85" for _ in range(200_000)) + b"K\x01s.")
    with pytest.raises(WeightsError, match="as a key"):
        foreign.read(tmp_path / "b.pkl")


SAMPLE = io.BytesIO()
torch.save({"a": torch.arange(4.0), "b": [1, "x", {"c": (1, 2)}]}, SAMPLE)
STREAM = io.BytesIO()
torch.save({"a": torch.arange(4.0)}, STREAM, _use_new_zipfile_serialization=False)


@given(st.sampled_from([SAMPLE.getvalue(), STREAM.getvalue()]), st.data())
@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_any_damage_ends_in_words(tmp_path: Path, content: bytes, data: st.DataObject) -> None:
    """Flipped bytes give a value or a WeightsError, never another failure."""
    damaged = bytearray(content)
    for _ in range(data.draw(st.integers(1, 4))):
        damaged[data.draw(st.integers(0, len(damaged) - 1))] = data.draw(st.integers(0, 255))
    path = tmp_path / "a.pth"
    path.write_bytes(damaged[: data.draw(st.integers(0, len(damaged)))] if data.draw(st.booleans()) else damaged)
    try:
        foreign.read(path)
    except WeightsError as error:
        lines = str(error).splitlines()
    else:
        lines = [""]
    assert len(lines) == 1
