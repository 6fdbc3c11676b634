"""The tools of converters: every tensor is used once, shapes are checked, nothing is left over in silence."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import nn

from segproto.data.base import ClassTable
from segproto.errors import ConfigError, WeightsError
from segproto.interop.conversion import KeyMap, Options

FILE = Path("a.pth")


def test_fill_uses_every_tensor_of_the_module() -> None:
    published = nn.Sequential(nn.Conv2d(2, 3, 1), nn.BatchNorm2d(3))
    state = {f"net.{k}": torch.rand_like(v.float()) for k, v in published.state_dict().items()}
    del state["net.1.num_batches_tracked"]
    keys, own = KeyMap(state, FILE), nn.Sequential(nn.Conv2d(2, 3, 1), nn.BatchNorm2d(3))
    keys.fill(own, "net.")
    keys.finish()
    assert sorted(keys.used) == sorted(state)
    for name, value in state.items():
        torch.testing.assert_close(own.state_dict()[name.removeprefix("net.")], value)


def test_wrong_files_are_told_in_one_line() -> None:
    keys = KeyMap({"a": torch.zeros(2, 3), "b": torch.zeros(1), "aux.c": torch.zeros(1)}, FILE)
    with pytest.raises(WeightsError, match=r"a.pth: a has shape \(2, 3\), expected \(any, 4\)"):
        keys.take("a", (None, 4))
    with pytest.raises(WeightsError, match=r"a.pth: d is missing; the file has a, b, aux.c"):
        keys.take("d")
    assert keys.take("a", (2, None)).shape == (2, 3)
    keys.drop(r"aux\..*", "of the training")
    assert keys.dropped == {"aux.c": "of the training"}
    with pytest.raises(WeightsError, match="1 tensors are not known here: b; another model"):
        keys.finish()
    with pytest.raises(WeightsError, match="expected tensors by name, found list"):
        KeyMap([1], FILE)
    with pytest.raises(WeightsError, match="expected"):
        keys.set(torch.zeros(3), "b", torch.zeros(2))


def test_class_names_and_settings() -> None:
    assert Options().class_table(19).names[0] == "road"
    assert Options().class_table(21).names[0] == "background"
    assert Options().class_table(150).names[0] == "wall"
    assert Options().class_table(182).num_classes == 182
    assert Options().class_table(3).names == ("class 0", "class 1", "class 2")
    with pytest.raises(ConfigError, match="names 1 classes, the checkpoint has 2"):
        Options(ClassTable(("a",), ((0, 0, 0),))).class_table(2)
    options = Options(values={"norm": "legacy"})
    assert options.choice("norm", ("plain", "legacy")) == "legacy"
    options.finish()
    with pytest.raises(ConfigError, match="norm=legacy: expected plain"):
        options.choice("norm", ("plain",))
    with pytest.raises(ConfigError, match=r"norm=legacy: this source has no such setting \(settings: none\)"):
        Options(values={"norm": "legacy"}).finish()
