"""Weights files for an encoder: reading one, and fitting it to a module."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from torch import Tensor, nn

from segproto import foreign
from segproto.errors import WeightsError

CONTAINERS = ("state_dict", "model", "teacher")  # where common training codes put the tensors


def read_state(path: Path) -> dict[str, Tensor]:
    """Tensors by name, from a safetensors file, or a torch file or pickle that holds a state dict.

    The file is read by :mod:`segproto.foreign`: nothing it names is run, and it costs no more than its size allows.

    Args:
        path: the file.

    Raises:
        WeightsError: if it is missing, damaged, or holds something else than tensors by name.
    """
    path = Path(path)
    if not path.exists():
        raise WeightsError(f"{path}: no such weights file; set encoder.weights to one that exists")
    hint = "published checkpoints that hold more are read by segproto convert (see --list)"
    try:
        value = foreign.read(path)
    except WeightsError as error:
        raise WeightsError(f"{error}; expected a safetensors file or a state dict of tensors; {hint}") from error
    for name in CONTAINERS:
        if isinstance(value, dict) and isinstance(value.get(name), dict):
            value = value[name]
    if not isinstance(value, dict) or not all(isinstance(k, str) and isinstance(v, Tensor) for k, v in value.items()):
        raise WeightsError(f"{path}: expected tensors by name, found something else; give a state dict; {hint}")
    return value


def fit(module: nn.Module, state: Mapping[str, Tensor], source: object) -> None:
    """Loads a state dict that must fit exactly.

    Args:
        module: filled in place; untouched when the state does not fit.
        state: tensors by the module's own names.
        source: the file, for the message.

    Raises:
        WeightsError: naming the first few keys that are missing, unexpected or of another shape.
    """
    shapes = {name: tuple(value.shape) for name, value in module.state_dict().items()}
    wrong = [
        f"{name} is {tuple(state[name].shape)}, expected {shape}"
        for name, shape in shapes.items()
        if name in state and tuple(state[name].shape) != shape
    ]
    # files written before torch counted batches lack the counter, which no norm with a momentum reads
    missing = [name for name in shapes if name not in state and not name.endswith("num_batches_tracked")]
    problems = {"missing": missing, "unexpected": [name for name in state if name not in shapes], "wrong": wrong}
    if any(problems.values()):
        parts = []
        for kind, keys in problems.items():
            if keys:
                more = " ..." if len(keys) > 3 else ""
                parts.append(f"{len(keys)} {kind}: {', '.join(keys[:3])}{more}")
        raise WeightsError(f"{source}: weights do not fit this encoder ({'; '.join(parts)}); check encoder.backbone")
    module.load_state_dict(state, strict=False)
