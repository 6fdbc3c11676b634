"""Foreign files: what torch, pickle and numpy write comes back; what they name is never run."""

from __future__ import annotations

import argparse
import collections
import pickle
import struct
import sys
import types
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from safetensors.torch import save_file
from torch import nn

from segproto import foreign
from segproto.errors import WeightsError

FORMATS = [{}, {"_use_new_zipfile_serialization": False}]


@pytest.mark.parametrize("options", FORMATS, ids=["zip", "stream"])
def test_tensors_of_every_type_and_view(tmp_path: Path, options: dict[str, Any]) -> None:
    kinds = [torch.float32, torch.float64, torch.float16, torch.bfloat16, torch.int64, torch.uint8, torch.bool]
    base = torch.arange(24.0)
    value = {str(kind): torch.arange(-3, 5).to(kind) for kind in kinds}
    value |= {"view": base.view(2, 3, 4)[1, :, ::2], "turned": base.view(4, 6).T, "base": base}
    value |= {"empty": torch.empty(0, 3), "scalar": torch.tensor(2.5), "parameter": nn.Parameter(torch.ones(2))}
    value |= {"expanded": torch.ones(1).expand(5)}
    torch.save(value, tmp_path / "a.pth", **options)
    read = foreign.read(tmp_path / "a.pth")
    assert list(read) == list(value)
    for name, tensor in value.items():
        torch.testing.assert_close(read[name], tensor.detach(), rtol=0, atol=0)
    assert read["view"].data_ptr() != read["empty"].data_ptr()
    assert read["view"].untyped_storage().data_ptr() == read["base"].untyped_storage().data_ptr()


@pytest.mark.parametrize("options", FORMATS, ids=["zip", "stream"])
def test_whole_module_becomes_its_state(tmp_path: Path, options: dict[str, Any], monkeypatch: Any) -> None:
    published = types.ModuleType("somebody.elses.code")
    kind = type("Net", (nn.Module,), {"__module__": "somebody.elses.code"})
    published.Net = kind  # type: ignore[attr-defined]
    for name in ("somebody", "somebody.elses", "somebody.elses.code"):
        monkeypatch.setitem(sys.modules, name, published)
    net = kind()
    net.body = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.ReLU())
    net.register_buffer("passing", torch.ones(1), persistent=False)
    net.classes, net.ranges = torch.eye(2), {0: (0, 3)}
    torch.save(net, tmp_path / "a.pth", **options)
    wanted = net.state_dict()
    monkeypatch.undo()  # the class is gone, as where its code is not installed
    value = foreign.read(tmp_path / "a.pth")
    assert value.class_name == "somebody.elses.code.Net"
    assert value.attributes["ranges"] == {0: (0, 3)}
    torch.testing.assert_close(value.attributes["classes"], torch.eye(2))
    state = foreign.module_state(value, tmp_path / "a.pth")
    assert list(state) == list(wanted)
    for name, tensor in wanted.items():
        torch.testing.assert_close(state[name], tensor)


def test_safetensors_are_read_too(tmp_path: Path) -> None:
    save_file({"a": torch.arange(3.0), "b": torch.ones(2, 2, dtype=torch.int64)}, tmp_path / "a.bin")
    value = foreign.read(tmp_path / "a.bin")
    assert (value["a"].tolist(), value["b"].dtype, set(value)) == ([0, 1, 2], torch.int64, {"a", "b"})


@pytest.mark.parametrize("protocol", range(6))
def test_plain_pickles_of_every_protocol(tmp_path: Path, protocol: int) -> None:
    shared = [1, 2]
    value = {
        "numbers": [0, -1, 255, 70000, 2**40, 2**80, 1.5, True, None, 2 + 3j],
        "text": ["a", "häuser", b"\x00\xff", bytearray(b"ab")],
        "tuples": ((), (1,), (1, 2), (1, 2, 3), (1, 2, 3, 4)),
        "sets": [{1, 2}, frozenset({"a"})],
        "ordered": collections.OrderedDict(a=1),
        "default": collections.defaultdict(list, b=[1]),
        "deque": collections.deque([1, 2], 5),
        "shared": [shared, shared],
        ("a", 1): "tuple key",
    }
    (tmp_path / "a.pkl").write_bytes(pickle.dumps(value, protocol))
    read = foreign.read(tmp_path / "a.pkl")
    assert read == {**value, "deque": [1, 2]}
    assert read["shared"][0] is read["shared"][1]


@pytest.mark.parametrize("protocol", [0, 2, 4, 5])
def test_numpy_in_pickles(tmp_path: Path, protocol: int) -> None:
    array = np.arange(6, dtype=np.float32).reshape(2, 3)
    value = {
        "plain": array,
        "again": array,
        "fortran": np.asfortranarray(array),
        "big": array.astype(">f8"),
        "bools": array > 2,
        "empty": np.zeros((0, 2), np.int64),
        "objects": np.array([{"a": 1}, None], dtype=object),
        "scalar": np.float64(2.5),
        "count": np.int64(7),
    }
    (tmp_path / "a.pkl").write_bytes(pickle.dumps(value, protocol))
    read = foreign.read(tmp_path / "a.pkl")
    for name in ("plain", "again", "fortran", "big", "bools", "empty", "objects"):
        np.testing.assert_array_equal(read[name], value[name])
        assert read[name].shape == value[name].shape
    assert read["plain"] is read["again"]
    assert (read["scalar"], read["count"]) == (2.5, 7)


def test_other_objects_are_inert_records(tmp_path: Path) -> None:
    value = {
        "hyper_parameters": {"opts": argparse.Namespace(lr=0.1, arch="vit")},
        "where": Path("x"),
        "kind": nn.Conv2d,
    }
    torch.save(value, tmp_path / "a.ckpt")
    read = foreign.read(tmp_path / "a.ckpt")
    opts = read["hyper_parameters"]["opts"]
    assert (opts.class_name, opts.attributes) == ("argparse.Namespace", {"lr": 0.1, "arch": "vit"})
    assert read["where"].arguments == ("x",)
    assert read["kind"] == foreign.Name("torch.nn.modules.conv.Conv2d")
    assert len(repr(opts)) < 100


def test_npy_dict(tmp_path: Path) -> None:
    maps = {0: np.random.default_rng(0).random((4, 5)).astype(np.float32), 14: np.ones((4, 5), np.float32)}
    np.save(tmp_path / "a.npy", maps)  # type: ignore[arg-type]
    value = foreign.read_npy_dict(tmp_path / "a.npy")
    assert list(value) == [0, 14]
    np.testing.assert_array_equal(value[0], maps[0])
    np.save(tmp_path / "b.npy", np.arange(6).reshape(2, 3).T)
    np.testing.assert_array_equal(foreign.read(tmp_path / "b.npy"), np.arange(6).reshape(2, 3).T)
    with pytest.raises(WeightsError, match="expected a dict"):
        foreign.read_npy_dict(tmp_path / "b.npy")


def mxnet_file(arrays: dict[str, np.ndarray], version: int | None) -> bytes:
    """MXNet's layout, written from its description."""
    out = struct.pack("<QQQ", 0x112, 0, len(arrays))
    for array in arrays.values():
        if version is None:
            out += struct.pack("<I", array.ndim) + struct.pack(f"<{array.ndim}I", *array.shape)
        else:
            out += struct.pack("<I", version) + (b"" if version == 0xF993FAC8 else struct.pack("<i", 0))
            out += struct.pack("<I", array.ndim) + struct.pack(f"<{array.ndim}q", *array.shape)
        code = {"float32": 0, "float64": 1, "int64": 6}[array.dtype.name]
        out += struct.pack("<iii", 1, 0, code) + array.tobytes()
    out += struct.pack("<Q", len(arrays))
    return out + b"".join(struct.pack("<Q", len(n)) + n.encode() for n in arrays)


@pytest.mark.parametrize("version", [None, 0xF993FAC8, 0xF993FAC9])
def test_mxnet_params(tmp_path: Path, version: int | None) -> None:
    rng = np.random.default_rng(1)
    arrays = {"arg:conv1a_weight": rng.random((4, 3, 3, 3), np.float32), "aux:bn7_moving_mean": rng.random(5)}
    (tmp_path / "a.params").write_bytes(mxnet_file(arrays, version))
    value = foreign.read_mxnet_params(tmp_path / "a.params")
    assert list(value) == list(arrays)
    for name, array in arrays.items():
        np.testing.assert_array_equal(value[name].numpy(), array)
    assert foreign.read(tmp_path / "a.params").keys() == arrays.keys()


@given(st.recursive(
    st.none() | st.booleans() | st.integers(-(2**200), 2**200) | st.floats(allow_nan=False) | st.text() | st.binary(),
    lambda c: st.lists(c) | st.dictionaries(st.text() | st.integers(-(2**63), 2**63), c) | st.tuples(c, c),
    max_leaves=20,
), st.integers(0, 5))  # fmt: skip
@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_any_plain_value_comes_back(tmp_path: Path, value: Any, protocol: int) -> None:
    (tmp_path / "a.pkl").write_bytes(pickle.dumps(value, protocol))
    assert foreign.read(tmp_path / "a.pkl") == value
