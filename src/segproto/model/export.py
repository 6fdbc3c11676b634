"""A model as one graph for other runtimes: ONNX, or torch's own ``torch.export``."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from segproto.errors import ConfigError
from segproto.model.export_check import check_program
from segproto.model.heads import GroupedHead, NearestHead, PrototypeHead
from segproto.model.segmenter import Segmenter
from segproto.prototypes.similarity import log_activation

Format = Literal["onnx", "torch"]
OPSET = 18
SUFFIX: dict[Format, str] = {"onnx": ".onnx", "torch": ".pt2"}
DEFAULT_SIDE = 256  # of the example image a graph is traced with, rounded to what the encoder takes


class Graph(nn.Module):
    """Picture in, logits, mask and activations out: what is exported.

    Args:
        model: in eval mode.
    """

    def __init__(self, model: Segmenter) -> None:
        super().__init__()
        self.encoder, self.head = model.encoder, model.head
        norm = model.encoder.normalisation
        self.register_buffer("mean", torch.tensor(norm.mean).view(3, 1, 1) * 255)
        self.register_buffer("std", torch.tensor(norm.std).view(3, 1, 1) * 255)

    @property
    def outputs(self) -> tuple[str, ...]:
        """Names of what :meth:`forward` returns."""
        if isinstance(self.head, (PrototypeHead, GroupedHead)):
            return ("logits", "mask", "activations", "distances")
        return ("logits", "mask", "activations") if isinstance(self.head, NearestHead) else ("logits", "mask")

    def forward(self, image: Tensor) -> tuple[Tensor, ...]:
        """A picture uint8 (1, 3, H, W), RGB, to logits (1, C, H, W) and mask (1, H, W) uint8.

        Models with prototypes also give activations (1, P, h, w): log activations with their squared distances, or
        cosines (nonparametric).
        """
        features = self.encoder((image.float() - self.mean) / self.std)
        grid, more = self.read(features)
        logits = F.interpolate(grid, size=image.shape[-2:], mode="bilinear", align_corners=False)
        return (logits, logits.argmax(1).to(torch.uint8), *more)

    def read(self, features: Tensor) -> tuple[Tensor, tuple[Tensor, ...]]:
        """Features to logits on the grid, and what the prototypes saw."""
        head = self.head
        if isinstance(head, (PrototypeHead, GroupedHead)):
            distances = head.bank.distances(features)
            activations = log_activation(distances)
            return head.from_activations(activations), (activations, distances)
        if isinstance(head, NearestHead):
            return head(features), (head.activations(head.cell_features(features)),)
        return head(features), ()


def export(model: Segmenter, out: Path, kind: Format, size: tuple[int, int] | None = None) -> dict[str, Any]:
    """Writes the graph and checks it against the model on pictures it was not traced with.

    Args:
        model: any; used in eval mode on the CPU.
        out: the file, ``.onnx`` or ``.pt2``.
        kind: which format.
        size: (height, width) of all pictures; None = any size that the encoder takes without padding. Networks that
            resample position embeddings need one.

    Returns:
        The card: inputs, outputs, sizes, classes, figures of the check.

    Raises:
        ConfigError: a size the encoder would pad, none where it is needed, or a missing extra.
        WeightsError: the graph's answers differ from the model's.
    """
    model = model.cpu().eval()
    size, reason = (size, None) if size else fixed_size(model)
    graph = Graph(model).eval()
    multiple, smallest = model.encoder.stride_multiple, model.encoder.smallest
    example = example_size(multiple, smallest) if size is None else size
    if any(side % multiple or side < smallest for side in example):
        raise ConfigError(f"--size {example[0]},{example[1]}: the encoder takes multiples of {multiple}, >= {smallest}")
    program = trace(graph, example, multiple, fixed=size is not None)
    out.parent.mkdir(parents=True, exist_ok=True)
    write(program, graph, out, kind)
    others = [example] if size else [example, (example[0] + 2 * multiple * 3, max(smallest, multiple) * 2)]
    checked = check_program(model, graph, out, kind, others)
    return {
        "format": kind,
        "opset": OPSET if kind == "onnx" else None,
        "input": {"image": ["uint8", 1, 3, *(size or ("height", "width"))], "colours": "RGB, 0..255"},
        "size": {"fixed": size, "multiple_of": multiple, "at_least": smallest, "why_fixed": reason},
        "outputs": list(graph.outputs),
        "classes": model.classes.to_json(),
        "model": model.card,
        "check": checked,
    }


def fixed_size(model: Segmenter) -> tuple[tuple[int, int] | None, str | None]:
    """None, or the size a graph must have where it cannot take all, with the reason."""
    backbone = model.encoder.backbone
    if getattr(backbone, "reference_positions", False):
        raise ConfigError("this encoder resamples its position embeddings, which a graph does once: give --size H,W")
    if model.encoder.config.msc and model.encoder.stride_multiple > 1:
        raise ConfigError("this encoder pads its further input scales, which a graph does once: give --size H,W")
    return None, None


def example_size(multiple: int, smallest: int) -> tuple[int, int]:
    """A picture to trace with: two different sides, neither special."""
    side = max(DEFAULT_SIDE // 4, smallest * 2)
    height = -(-side // multiple) * multiple
    return height, height + multiple * max(1, 32 // multiple)


def trace(graph: Graph, size: tuple[int, int], multiple: int, fixed: bool) -> torch.export.ExportedProgram:
    """The graph as torch's exporter sees it."""
    image = torch.zeros(1, 3, *size, dtype=torch.uint8)
    shapes = None
    if not fixed:
        low = max(2, -(-graph.encoder.smallest // multiple))
        rows, columns = (torch.export.Dim(name, min=low, max=1 << 14) for name in ("rows", "columns"))
        shapes = {"image": {2: rows * multiple, 3: columns * multiple} if multiple > 1 else {2: rows, 3: columns}}
    with torch.no_grad():
        return torch.export.export(graph, (image,), dynamic_shapes=shapes, strict=False)


def write(program: torch.export.ExportedProgram, graph: Graph, out: Path, kind: Format) -> None:
    """Writes the file.

    Raises:
        ConfigError: the extra ``onnx`` is missing.
    """
    if kind == "torch":
        torch.export.save(program, out)
        return
    try:
        import onnxscript  # noqa: F401
    except ImportError as error:
        raise ConfigError("exporting to ONNX needs an extra: pip install 'segproto[onnx]'") from error
    names = list(graph.outputs)
    torch.onnx.export(
        program, (), str(out), dynamo=True, opset_version=OPSET, output_names=names, external_data=False, verbose=False
    )
