"""The verb ``export``: a model for another runtime."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from segproto.api.load import load
from segproto.errors import ConfigError
from segproto.files import place, require, write_json

if TYPE_CHECKING:
    from segproto.interop.export import Format

PathLike = str | Path


def export(
    target: PathLike,
    *,
    out: PathLike,
    form: Format = "onnx",
    size: tuple[int, int] | None = None,
    stage: str | None = None,
) -> dict[str, Any]:
    """Writes a model as one graph, with its logits, mask and prototype activations, and checks it.

    Args:
        target: a run or model folder.
        out: the file to write; its card goes beside it as JSON.
        form: ``onnx`` (needs the extra ``onnx``) or ``torch`` (``torch.export``).
        size: (height, width) of all pictures; None = any.
        stage: of a run: the model this stage left.

    Returns:
        The card: inputs, outputs, sizes, classes and how far the graph's answers were from the model's.

    Raises:
        ConfigError: a size or an extra that is needed, or an ``out`` with another ending.
        WeightsError: no model there, or the graph answers otherwise.
    """
    from segproto.interop.export import SUFFIX
    from segproto.interop.export import export as write

    out = place(out)
    if out.suffix != SUFFIX[form]:
        raise ConfigError(f"--out {out}: a graph of format {form} is a {SUFFIX[form]} file")
    require(out, "graph")
    require(out.with_suffix(".json"), "card")
    card = write(load(target, stage=stage), out, form, size)
    write_json(out.with_suffix(".json"), card, "card")
    return {"out": str(out), **card}
