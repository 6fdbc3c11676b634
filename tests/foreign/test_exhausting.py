"""Short files that ask for much: copies of copies, shared modules, absurd shapes. Work and memory stay bounded."""

from __future__ import annotations

import _codecs
import collections
import pickle
import resource
import struct
import time
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from segproto import foreign
from segproto.errors import WeightsError
from segproto.foreign.allocations import bounded

SECONDS, KIB = 20, 150_000  # far above what refusing takes, far below what obeying would


class Call:
    """Pickles as a call of anything."""

    def __init__(self, what: Any, *arguments: Any) -> None:
        self.what, self.arguments = what, arguments

    def __reduce__(self) -> Any:
        return self.what, self.arguments


def repeated(what: Any, shared: Any, *more: Any) -> Callable[[Path], None]:
    """40,000 calls with the same long argument."""
    return lambda path: path.write_bytes(pickle.dumps([Call(what, shared, *more) for _ in range(40_000)], 2)) and None


def storage(cells: int = 4) -> bytes:
    """Opcodes that push a storage of the archive."""
    return b"(X\x07\x00\x00\x00storagectorch\nFloatStorage\nX\x01\x00\x00\x000X\x03\x00\x00\x00cpuK" + bytes(
        [cells]) + b"tQ"  # fmt: skip


def archive(path: Path, pickled: bytes, cells: int = 4) -> None:
    """A torch file with one storage and this pickle."""
    with zipfile.ZipFile(path, "w") as file:
        file.writestr("archive/data.pkl", pickled)
        file.writestr("archive/byteorder", "little")
        file.writestr("archive/data/0", bytes(4 * cells))


def tensor(size: bytes, stride: bytes) -> bytes:
    """Opcodes that push a tensor: size and stride are opcodes too."""
    return b"ctorch._utils\n_rebuild_tensor_v2\n(" + storage() + b"K\x00" + size + stride + b"\x89}tR"


def many_views(path: Path) -> None:
    """A hundred tensors of 2^24 numbers in a storage of four: 6.4 GB once anybody makes them contiguous."""
    one = tensor(b"J" + struct.pack("<i", 1 << 24) + b"\x85", b"K\x00\x85")
    items = b"".join(b"X\x03\x00\x00\x00" + f"{i:03}".encode() + one for i in range(100))
    archive(path, b"\x80\x02}(" + items + b"u.")


def long_shape(path: Path) -> None:
    """A shape of 100,000 dimensions."""
    archive(path, b"\x80\x02" + tensor(b"(" + b"K\x01" * 100_000 + b"t", b"(" + b"K\x01" * 100_000 + b"t") + b".")


def megabyte_integers(path: Path) -> None:
    """A shape of two integers of a megabyte each, multiplied 1,000 times."""
    number = b"\x8b" + struct.pack("<i", 1 << 20) + b"\x01" * (1 << 20)
    size = number + number + b"\x86q\x00"
    again = tensor(b"h\x00", b"h\x00") + b"0"
    archive(path, b"\x80\x02" + size + b"0" + again * 1000 + b"N.")


def nested(call: bytes) -> Callable[[Path], None]:
    """A pair of a pair of a pair ... 60 deep, given to something that would write it out."""
    pairs = b"K\x01q\x00" + b"".join(b"0h%ch%c\x86q%c" % (i, i, i + 1) for i in range(60))
    return lambda path: path.write_bytes(b"\x80\x02" + pairs + b"0" + call) and None


def shared_modules(path: Path) -> None:
    """Thirty modules, each holding the next one twice: 2^30 names."""
    inner = nn.Module()
    for _ in range(30):
        outer = nn.Module()
        outer.add_module("a", inner)
        outer.add_module("b", inner)
        inner = outer
    path.write_bytes(pickle.dumps(inner, 2))


def long_names(path: Path) -> None:
    """Modules in each other whose names are a megabyte long, shared."""
    inner = nn.Module()
    inner.register_buffer("x", None)
    for _ in range(20):
        outer = nn.Module()
        outer._modules = {"a" * (1 << 20): inner, "b" * (1 << 20): inner}
        inner = outer
    path.write_bytes(pickle.dumps(inner, 2))


def colliding(make: Callable[[int], Any]) -> Callable[[Path], None]:
    """A dict of keys that are easily given one hash."""
    return lambda path: path.write_bytes(pickle.dumps({make(i): None for i in range(300)}, 2)) and None


LONG = list(range(40_000))
TEXT = "x" * 200_000
FILES: dict[str, tuple[Callable[[Path], Any], str]] = {
    "lists": (repeated(list, LONG), "copied again and again"),
    "tuples": (repeated(tuple, LONG), "copied again and again"),
    "sets": (repeated(set, LONG), "copied again and again"),
    "dicts": (repeated(collections.OrderedDict, dict.fromkeys(LONG)), "copied again and again"),
    "dicts of pairs": (repeated(dict, [(i, i) for i in LONG]), "copied again and again"),
    "deques": (repeated(collections.deque, LONG), "copied again and again"),
    "bytearrays": (repeated(bytearray, TEXT, "latin1"), "copied again and again"),
    "bytes": (repeated(_codecs.encode, TEXT, "latin1"), "copied again and again"),
    "numpy buffers": (lambda p: p.write_bytes(buffers()), "copied again and again"),
    "attributes": (lambda p: p.write_bytes(attributes()), "copied again and again"),
    "arguments": (lambda p: p.write_bytes(arguments()), "copied again and again"),
    "views": (many_views, "repeat their numbers"),
    "long shape": (long_shape, "without storage, size or stride"),
    "megabyte integers": (megabyte_integers, "an integer of 8388"),
    "device": (nested(b"ctorch\ndevice\nh\x3c\x85R."), "a device without a name"),
    "type": (nested(b"cnumpy\ndtype\nh\x3c\x85R."), "a numpy type 'tuple'"),
    "large keys": (colliding(lambda i: i * (2**61 - 1) + 2**70), "an integer of more than 64 bits as a key"),
    "pairs as keys": (colliding(lambda i: (i, i << 40)), "a tuple as a key"),
    "long class": (lambda p: p.write_bytes(b"\x80\x02c" + b"a" * 5000 + b"\nb\n."), "names something of 5001 char"),
}


def buffers() -> bytes:
    """One buffer of a megabyte that 10,000 arrays copy."""
    kind = b"cnumpy\ndtype\nX\x02\x00\x00\x00u1\x85Rq\x01"
    data = b"\x8e" + struct.pack("<Q", 1 << 20) + bytes(1 << 20) + b"q\x02"
    one = b"cnumpy.core.numeric\n_frombuffer\n(h\x02h\x01J" + struct.pack("<i", 1 << 20) + b"\x85U\x01CtR0"
    return b"\x80\x04" + kind + b"0" + data + b"0" + one * 10_000 + b"N."


def attributes() -> bytes:
    """One mapping of 20,000 attributes that 20,000 objects are given."""
    state = pickle.dumps({f"a{i}": None for i in range(20_000)}, 2)[2:-1] + b"r\xff\xff\xff\x00"
    return b"\x80\x02" + state + b"0" + b"ca\nb\n)Rj\xff\xff\xff\x00b0" * 20_000 + b"N."


def arguments() -> bytes:
    """One tuple of 20,000 arguments with which a class is called 20,000 times."""
    state = pickle.dumps(tuple(range(20_000)), 2)[2:-1] + b"r\xff\xff\xff\x00"
    return b"\x80\x02" + state + b"0" + b"ccollections\nOrderedDict\nj\xff\xff\xff\x00R0" * 20_000 + b"N."


@pytest.mark.parametrize("name", FILES)
def test_a_short_file_cannot_ask_for_much(tmp_path: Path, name: str) -> None:
    make, reason = FILES[name]
    path = tmp_path / "a.pth"
    make(path)
    began, peak = time.process_time(), resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    with pytest.raises(WeightsError) as caught:
        foreign.read(path)
    assert time.process_time() - began < SECONDS
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - peak < KIB
    assert reason in str(caught.value)
    assert str(caught.value).startswith(f"{path}: ")
    assert len(str(caught.value)) < len(str(path)) + 220


@pytest.mark.parametrize("make", [shared_modules, long_names])
def test_modules_in_each_other_are_not_walked_for_ever(tmp_path: Path, make: Callable[[Path], None]) -> None:
    make(tmp_path / "a.pth")
    record = foreign.read(tmp_path / "a.pth")
    began = time.process_time()
    with pytest.raises(WeightsError, match="the same again and again"):
        foreign.module_state(record, tmp_path / "a.pth")
    assert time.process_time() - began < SECONDS


def test_what_checkpoints_do_is_within_the_budget(tmp_path: Path) -> None:
    """Tied and expanded tensors, many small ones, an optimizer's state, a module twice in another."""
    base = torch.randn(1000, 100)
    tied = {"a": base, "b": base, "c": base.t(), "d": base[:, 3], "e": torch.arange(3).expand(500, 3)}
    small = {f"layer{i}.weight": torch.randn(2) for i in range(3000)}
    net = nn.Sequential(nn.Linear(50, 50), nn.Linear(50, 50))
    net.append(net[0])
    optimizer = torch.optim.Adam(net.parameters())
    net(torch.randn(2, 50)).sum().backward()
    optimizer.step()
    value = {"tied": tied, "small": small, "optimizer": optimizer.state_dict(), "random": np.random.get_state()}
    for stream in (True, False):
        torch.save(value, tmp_path / "a.pth", _use_new_zipfile_serialization=not stream)
        read = foreign.read(tmp_path / "a.pth")
        assert all(torch.equal(read["tied"][key], item) for key, item in tied.items())
        assert all(torch.equal(read["small"][key], item) for key, item in small.items())
        torch.save(net, tmp_path / "b.pth", _use_new_zipfile_serialization=not stream)
        state = foreign.module_state(foreign.read(tmp_path / "b.pth"), tmp_path / "b.pth")
        assert state.keys() == net.state_dict().keys()


@pytest.mark.parametrize("dtype", [torch.uint16, torch.uint32, torch.uint64, torch.float8_e4m3fn, torch.float8_e5m2])
def test_types_without_a_storage_of_their_own(tmp_path: Path, dtype: torch.dtype) -> None:
    value = torch.arange(1, 9).to(dtype).view(2, 4)
    torch.save({"a": value, "b": value.t()}, tmp_path / "a.pth")
    read = foreign.read(tmp_path / "a.pth")
    assert read["a"].dtype == dtype
    assert torch.equal(read["b"].contiguous().view(torch.uint8), value.t().contiguous().view(torch.uint8))


def test_what_a_file_describes_is_not_made_before_it_is_compared() -> None:
    """A model of gigabytes described by a file of bytes, in every way that sizes are given."""
    stored, peak = 1000, resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    makers: list[Callable[[], object]] = [
        lambda: nn.Linear(1 << 17, 1 << 17),
        lambda: nn.Conv2d(1 << 14, 1 << 14, 3),
        lambda: torch.zeros((1 << 16, 1 << 16), dtype=torch.uint8),
        lambda: torch.full([1 << 33], 1.0),
        lambda: torch.zeros(3).new_ones(1 << 33),
        lambda: torch.empty(size=(1 << 20, 1 << 20)),
        lambda: nn.ParameterList(torch.rand(1 << 22) for _ in range(1000)),
    ]
    for make in makers:
        with (
            pytest.raises(WeightsError, match=r"^a\.json: describes tensors of more than 256"),
            bounded("a.json", stored),
        ):
            make()
    with bounded("a.json", stored):
        nn.Linear(1000, 1000)
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - peak < 4 * KIB
