"""Whether an exported graph says what its model says."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import nullcontext
from pathlib import Path
from typing import TYPE_CHECKING, BinaryIO, TypedDict

import torch
import torch.nn.functional as F
from torch import Tensor

from segproto.errors import ConfigError, WeightsError
from segproto.model.segmenter import Segmenter

if TYPE_CHECKING:
    from segproto.interop.export import Graph

DISTANCE_TOLERANCE = 1e-4  # also of cosines
LOGIT_TOLERANCE = 1e-4  # of the sum of absolute contributions
NEAR = 1e-3  # nearer than this the logarithm magnifies rounding
AGREEMENT = 0.9999


class ProgramCheck(TypedDict):
    """What comparing a file's answers with the model's gave.

    Attributes:
        largest_difference: of logits, distances and activations.
        equal_mask_pixels: their share, 0..1.
        sizes: (height, width) of the pictures.
        runtime: what ran the file.
    """

    largest_difference: dict[str, float]
    equal_mask_pixels: float
    sizes: list[tuple[int, int]]
    runtime: str


def check_program(
    model: Segmenter,
    graph: Graph,
    out: Path,
    kind: str,
    sizes: list[tuple[int, int]],
    file: BinaryIO | None = None,
) -> ProgramCheck:
    """Compares the file's answers with the model's on generated pictures of these sizes.

    Args:
        model: the model.
        graph: what was exported of it.
        out: the file.
        kind: its format.
        sizes: (height, width) of the pictures.
        file: what has been written of ``out``, where that is not yet its name.

    Returns:
        The figures of the comparison.

    Raises:
        WeightsError: a difference beyond the tolerances.
    """
    with nullcontext(file) if file is not None else out.open("rb") as program:
        answer, runtime = open_program(program, kind)
    names = graph.outputs
    worst = {"logits": 0.0, "distances": 0.0, "activations": 0.0}
    equal = total = 0
    for number, size in enumerate(sizes):
        pixels = picture(size, number, graph.bands)
        image = graph.low + pixels / 255 * graph.span if graph.raw else pixels
        with torch.no_grad():
            wanted = dict(zip(names, graph(image), strict=True))
            room, clear = logit_room(model, graph.pixels(image), wanted.get("distances"))
        outputs = dict(zip(names, answer(image), strict=True))
        error = (outputs["logits"] - wanted["logits"]).abs() / room
        worst["logits"] = max(worst["logits"], float((error * clear).max()))
        for name in ("distances", "activations"):
            if name in wanted:
                difference = (outputs[name] - wanted[name]).abs() / largest(model, wanted[name])
                if name == "activations" and "distances" in wanted:
                    difference = difference * (wanted["distances"] > NEAR)
                worst[name] = max(worst[name], float(difference.max()))
        equal += int((outputs["mask"] == wanted["mask"]).sum())
        total += wanted["mask"].numel()
    agreeing = equal / total
    cosines = 0.0 if "distances" in names else worst["activations"]  # logarithms follow from distances
    far = max(worst["distances"], cosines) > DISTANCE_TOLERANCE
    if far or worst["logits"] > LOGIT_TOLERANCE or agreeing < AGREEMENT:
        figures = ", ".join(f"{name} {value:.2g}" for name, value in worst.items())
        raise WeightsError(
            f"{out}: {runtime} answers otherwise than the model (largest: {figures}; masks {agreeing:.4%})"
        )
    return {"largest_difference": worst, "equal_mask_pixels": agreeing, "sizes": sizes, "runtime": runtime}


def open_program(file: BinaryIO, kind: str) -> tuple[Callable[[Tensor], list[Tensor]], str]:
    """The file's function of a picture, and what runs it.

    Raises:
        ConfigError: the extra ``onnx`` is missing.
    """
    file.seek(0)
    if kind == "torch":
        program = torch.export.load(file).module()

        def run_torch(image: Tensor) -> list[Tensor]:
            with torch.no_grad():
                return list(program(image))

        return run_torch, f"torch {torch.__version__}"
    try:
        import onnxruntime
    except ImportError as error:
        raise ConfigError("checking the ONNX file needs an extra: pip install 'segproto[onnx]'") from error
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = torch.get_num_threads()
    session = onnxruntime.InferenceSession(file.read(), options, providers=["CPUExecutionProvider"])

    def run_onnx(image: Tensor) -> list[Tensor]:
        return [torch.from_numpy(value) for value in session.run(None, {"image": image.numpy()})]

    return run_onnx, f"onnxruntime {onnxruntime.__version__}"


def picture(size: tuple[int, int], seed: int, bands: int = 3) -> Tensor:
    """Smooth colours with some noise, uint8 (1, bands, H, W)."""
    generator = torch.Generator().manual_seed(seed)
    coarse = torch.rand(1, bands, 6, 6, generator=generator)
    smooth = F.interpolate(coarse, size=size, mode="bicubic", align_corners=False) * 255
    noise = torch.randn(1, bands, *size, generator=generator) * 8
    return (smooth + noise).clamp(0, 255).to(torch.uint8)


def logit_room(model: Segmenter, image: Tensor, distances: Tensor | None) -> tuple[Tensor, Tensor]:
    """For each logit the sum of the absolute contributions to it, and where no prototype is too near to compare.

    Returns:
        (1, C, H, W) and (1, 1, H, W) of 0 or 1.
    """
    features = model.features(model.encoder.normalisation(image[0])[None])
    cell_features = model.head.cell_features(features)
    cells = cell_features[0].flatten(1).T
    rows = []
    for c in range(model.classes.num_classes):
        shares = model.head.contributions(cells, torch.full((len(cells),), c))
        rows.append(shares.prototypes.abs().sum(1) + shares.offset.abs())
    height, width = cell_features.shape[-2:]
    room = torch.stack(rows).view(1, -1, height, width).clamp(min=1e-6)
    near = torch.zeros(1, 1, height, width) if distances is None else (distances.amin(1, keepdim=True) <= NEAR).float()
    size = (image.shape[-2], image.shape[-1])
    return model.encoder.enlarged(room, size), (model.encoder.enlarged(near, size) == 0).float()


def largest(model: Segmenter, activations: Tensor) -> float:
    """What differences are relative to: the largest strength, which may be any number; else 1."""
    bank = model.head.bank
    return max(float(activations.max()), 1.0) if bank is not None and bank.compares == "strength" else 1.0
