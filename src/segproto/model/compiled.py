"""A model whose backbone runs as torch compiled it, for as long as a block lasts."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager

from segproto.errors import ConfigError
from segproto.model.segmenter import Segmenter


@contextmanager
def compiled_backbone(model: Segmenter, wanted: bool) -> Iterator[None]:
    """Compiles the backbone with ``torch.compile`` when it first runs; logits change in their last bits alone.

    Args:
        model: on its device.
        wanted: False = nothing happens.

    Raises:
        ConfigError: there is no compiler on this machine.
    """
    if not wanted:
        yield
        return
    require_compiler(next(model.parameters()).device.type)
    backbone = model.encoder.backbone
    backbone.compile()
    try:
        yield
    finally:
        backbone._compiled_call_impl = None  # as `Module.compile` found it


def require_compiler(device: str) -> None:
    """Sees that what torch compiles with is there.

    Raises:
        ConfigError: naming it.
    """
    import importlib.util

    command = os.environ.get("CXX", "").split(" ")[0]
    if device == "cuda" and importlib.util.find_spec("triton") is None:
        raise ConfigError("--compile: torch.compile needs triton on a GPU (pip install triton), or leave it out")
    if device != "cuda" and not any(shutil.which(name) for name in (command, "g++", "clang++", "c++", "cl") if name):
        raise ConfigError(
            "--compile: torch.compile needs a C++ compiler (g++ or clang++; $CXX names it), or leave it out"
        )
