"""A model as one graph for other runtimes: ONNX, or torch's own ``torch.export``."""

from __future__ import annotations

import io
import zipfile
from pathlib import Path
from typing import Any, BinaryIO, Literal

import torch
from torch import Tensor, nn

from segproto.data.base import label_dtype
from segproto.data.pixels import FULL
from segproto.errors import ConfigError
from segproto.files import fresh, mark
from segproto.interop.export_check import check_program
from segproto.model.segmenter import Segmenter

Format = Literal["onnx", "torch"]
OPSET = 18
SUFFIX: dict[Format, str] = {"onnx": ".onnx", "torch": ".pt2"}
SMALLEST, LARGEST = 64, 1 << 14  # sides of pictures that a graph for all sizes takes


class Graph(nn.Module):
    """Picture in, logits, mask and activations out: what is exported.

    Args:
        model: in eval mode.
    """

    low: Tensor
    span: Tensor
    mean: Tensor
    std: Tensor

    def __init__(self, model: Segmenter) -> None:
        super().__init__()
        self.encoder, self.head = model.encoder, model.head
        norm, rule = model.encoder.normalisation, model.encoder.pixels
        self.raw = bool(rule.value_range or rule.stored)
        ranges = rule.value_range or (FULL.get(rule.stored, FULL["uint8"]),)
        self.register_buffer("low", torch.tensor([low for low, _ in ranges]).float().view(-1, 1, 1))
        self.register_buffer("span", torch.tensor([high - low for low, high in ranges]).float().view(-1, 1, 1))
        self.register_buffer("mean", torch.tensor(norm.mean).view(-1, 1, 1) * 255)
        self.register_buffer("std", torch.tensor(norm.std).view(-1, 1, 1) * 255)

    @property
    def outputs(self) -> tuple[str, ...]:
        """Names of what :meth:`forward` returns."""
        bank = self.head.bank
        if bank is None:
            return ("logits", "mask")
        return ("logits", "mask", "activations", *(["distances"] if bank.compares == "distance" else []))

    @property
    def bands(self) -> int:
        """How many the picture has."""
        return len(self.mean)

    def pixels(self, image: Tensor) -> Tensor:
        """The picture on the scale of 8 bits, 0..255; values beyond the model's range are clipped."""
        if not self.raw:
            return image.float()
        return ((image - self.low) / self.span).clamp(0, 1) * 255

    def forward(self, image: Tensor) -> tuple[Tensor, ...]:
        """A picture uint8 (1, 3, H, W), RGB, to logits (1, C, H, W) and mask (1, H, W) uint8
        (int16 if there are more than 255 classes).

        A model of other bands takes as many; one with a value range or of more than 8 bits takes float32: the values
        of its bands, in its order, as files hold them.

        Models with prototypes also give activations (1, P, h, w): log activations with their squared distances,
        cosines (nonparametric, primaps), or the strengths of parts.
        """
        features = self.encoder((self.pixels(image) - self.mean) / self.std)
        reading = self.head.read(features)
        logits = self.encoder.enlarged(reading.logits, (image.shape[-2], image.shape[-1]))
        maps = (output for output in (reading.activations, reading.distances) if output is not None)
        return (logits, logits.argmax(1).to(label_dtype(self.head.num_classes)), *maps)


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
        ConfigError: a head that no graph can stand for, a size that is padded or missing, or a missing extra.
        WeightsError: the graph's answers differ from the model's.
    """
    if model.head.no_graph is not None:
        raise ConfigError(f"a {model.head.kind} model is not exported: {model.head.no_graph}")
    model = model.cpu().eval()
    graph, encoder = Graph(model).eval(), model.encoder
    reason = needs_size(model)
    if size is None and reason is not None:
        height, width = model.encoder.padded_size(512, 512)
        raise ConfigError(f"{reason}: give --size H,W of your pictures, as in --size {height},{width}")
    least = None if size else smallest_side(model)
    multiple = encoder.stride_multiple
    if size and size != encoder.padded_size(*size):
        at_least = f", at least {encoder.smallest}" if encoder.smallest > 1 else ""
        fits = ",".join(map(str, encoder.padded_size(*size)))
        line = f"--size {size[0]},{size[1]}: the encoder takes multiples of {multiple}{at_least}"
        raise ConfigError(f"{line}; the next that fits is --size {fits}")
    step = max(32 // multiple, 1) * multiple
    example = size or (smallest_side(model), smallest_side(model) + step)
    program, multiple = trace(graph, example, least)
    other = (example[1] + step, example[0])  # also another number of cells
    with fresh(out, "graph") as file:  # which gets its name once it is checked
        write(program, graph, file, kind, size)
        checked = check_program(model, graph, out, kind, [example] if size else [example, other], file)
    return {
        "format": kind,
        "opset": OPSET if kind == "onnx" else None,
        "input": input_card(model, graph, size),
        "size": {"fixed": size, "multiple_of": multiple, "at_least": least, "why_fixed": reason if size else None},
        "outputs": list(graph.outputs),
        "classes": model.classes.to_json(),
        "model": model.card,
        "check": checked,
    }


def input_card(model: Segmenter, graph: Graph, size: tuple[int, int] | None) -> dict[str, Any]:
    """What the graph takes."""
    rule = model.encoder.pixels
    shape = ["float32" if graph.raw else "uint8", 1, graph.bands, *(size or ("height", "width"))]
    if rule.bands is None and not graph.raw:
        return {"image": shape, "colours": "RGB, 0..255"}
    bands = ", ".join(rule.name(band) for band in range(rule.count))
    return {"image": shape, "bands": f"{bands}, values as files hold them"}


def needs_size(model: Segmenter) -> str | None:
    """Why a graph of this model cannot take every size; None if it can."""
    if getattr(model.encoder.backbone, "reference_positions", False):
        return "this encoder resamples its position embeddings, which a graph does once"
    if model.encoder.config.msc and model.encoder.stride_multiple > 1:
        return "this encoder pads its further input scales, which a graph does once"
    return None


def smallest_side(model: Segmenter) -> int:
    """Of the pictures a graph for all sizes takes: grids of a single cell would need a graph of their own."""
    encoder = model.encoder
    least = max(SMALLEST, 2 * encoder.smallest)
    return -(-least // encoder.stride_multiple) * encoder.stride_multiple


def trace(graph: Graph, size: tuple[int, int], smallest: int | None) -> tuple[torch.export.ExportedProgram, int]:
    """The graph as torch's exporter sees it, for one size or (from ``smallest`` on) all multiples of a number.

    Returns:
        The program, and the number: the encoder's own, or 4 times as much where a pooling in ceil mode asks for it.

    Raises:
        ConfigError: the network does not allow for all sizes.
    """
    multiple = graph.encoder.stride_multiple
    if smallest is None:
        return trace_multiples(graph, size, None), multiple
    for wider in (multiple, 4 * multiple):
        try:
            return trace_multiples(graph, size, (smallest, wider)), wider
        except (torch._dynamo.exc.TorchDynamoException, ValueError) as error:
            failure = error
    raise ConfigError(f"no graph of this network for all sizes: give --size H,W ({short(failure)})") from failure


def trace_multiples(graph: Graph, size: tuple[int, int], sides: tuple[int, int] | None) -> torch.export.ExportedProgram:
    """One attempt: for pictures of ``size`` alone, or for (smallest side, what sides are multiples of)."""
    shapes = None
    if sides is not None:
        smallest, multiple = sides
        units = [torch.export.Dim(name, min=-(-smallest // multiple), max=LARGEST) for name in ("rows", "columns")]
        rows, columns = [unit if multiple == 1 else multiple * unit for unit in units]
        shapes = {"image": {2: rows, 3: columns}}
    image = torch.zeros(1, graph.bands, *size, dtype=torch.float32 if graph.raw else torch.uint8)
    with torch.no_grad():
        return torch.export.export(graph, (image,), dynamic_shapes=shapes, strict=False)


def short(error: Exception) -> str:
    """The first line of torch's words."""
    return (str(error).splitlines() or [type(error).__name__])[0][:160]


def write(
    program: torch.export.ExportedProgram, graph: Graph, file: BinaryIO, kind: Format, size: tuple[int, int] | None
) -> None:
    """Writes the file, with its mark; ``size`` is that of all pictures, if they have one.

    Raises:
        ConfigError: the extra ``onnx`` is missing, or torch's exporter fails.
    """
    if kind == "torch":
        buffer = io.BytesIO()  # its writer ends the process when a disk is full
        torch.export.save(program, buffer)
        file.write(buffer.getbuffer())
        with zipfile.ZipFile(file, "a") as archive:
            archive.comment = mark("graph").encode()
        return
    try:
        import onnxscript  # noqa: F401
    except ImportError as error:
        raise ConfigError("exporting to ONNX needs an extra: pip install 'segproto[onnx]'") from error
    names = list(graph.outputs)
    try:
        exported = torch.onnx.export(
            program, (), dynamo=True, opset_version=OPSET, output_names=names, external_data=False, verbose=False
        )
    except torch.onnx.OnnxExporterError as error:
        hint = "install a newer torch, or give --format torch"
        if size is None:
            hint = "a graph for one size it may write (--size H,W of your pictures), a newer torch one for all"
        line = f"torch {torch.__version__} cannot write this network as ONNX: {hint}; {short(error)}"
        raise ConfigError(line) from error
    assert exported is not None
    exported.model.doc_string = mark("graph")
    file.write(exported.model_proto.SerializeToString())
