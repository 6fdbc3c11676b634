"""From what a user names to a model that is ready to compute."""

from __future__ import annotations

from pathlib import Path

import torch

from segproto.errors import ConfigError
from segproto.model.segmenter import Segmenter
from segproto.runs.folder import model_folder

COMPUTING = ("cpu", "cuda", "mps", "xpu")  # of the types that torch knows by name; one (meta) has shapes alone


def chosen_device(device: str | None) -> torch.device:
    """The device of that name; None = the GPU if there is one.

    Raises:
        ConfigError: no such name.
    """
    name = device or ("cuda" if torch.cuda.is_available() else "cpu")
    try:
        chosen = torch.device(name)
    except RuntimeError as error:
        raise ConfigError(f"device = {name}: {str(error).splitlines()[0]}; expected cpu, cuda or cuda:N") from None
    if chosen.type not in COMPUTING:
        raise ConfigError(f"device = {name}: nothing can be computed there; expected cpu, cuda or cuda:N")
    return chosen


def placed(model: Segmenter, device: str | None) -> Segmenter:
    """The model, moved to ``device``; None = the GPU if there is one.

    Raises:
        ConfigError: no such device here.
    """
    name = str(chosen_device(device))
    try:
        return model.to(torch.device(name))
    except (RuntimeError, AssertionError) as error:
        reason = str(error).splitlines()[0]
        raise ConfigError(f"device = {name}: not available here ({reason}); expected cpu, cuda or cuda:N") from None


def ready(target: str | Path | Segmenter, stage: str | None, device: str | None) -> Segmenter:
    """The model of a folder on ``device``; a loaded one stays where it is unless a device is named."""
    if isinstance(target, Segmenter):
        return target if device is None else placed(target, device)
    return placed(Segmenter.load(model_folder(Path(target), stage)), device)
