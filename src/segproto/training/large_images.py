"""Large photographs: how much of them a backbone and a step see, and how long caching their features will take."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

import torch

from segproto.data.base import SegmentationDataset
from segproto.data.subset import spread
from segproto.encoders.base import Encoder
from segproto.training.progress import Reporter
from segproto.training.recipe import RecipeT

if TYPE_CHECKING:
    from lightning_fabric import Fabric

SCALES = (1.0, 0.75, 0.5, 0.375, 0.25, 0.125)
AUTO = 1536 * 1536  # pixels that a small ViT sees in seconds on a CPU; larger images are cut into windows anyway
STEP = 8 * 3 * 2**20  # pixels of labels in a training step: 8 images of 3 megapixels, or 2 of 12
LOOKED_AT = 5  # images whose size is looked at
PROBES = (256, 512)  # sides in pixels of what the backbone is timed on
WORTH_SAYING = 60  # seconds


def with_large_images(recipe: RecipeT, dataset: SegmentationDataset, fabric: Fabric, reporter: Reporter) -> RecipeT:
    """The recipe with an ``encoder.input_scale`` and a ``train.batch_size`` for large images; itself for all others.

    Args:
        recipe: of a new run.
        dataset: the training images.
        fabric: its device.
        reporter: is told what was chosen.
    """
    if recipe.train.input_pixels is None and recipe.train.step_pixels is None:
        return recipe
    sizes = [(height, width) for height, width in (dataset[i].mask.shape for i in spread(len(dataset), LOOKED_AT))]
    size = max(sizes, key=lambda size: size[0] * size[1])
    more = 1 if fabric.device.type == "cpu" else 4
    return with_batch_size(with_input_scale(recipe, size, more, reporter), size, more, reporter)


def with_input_scale(recipe: RecipeT, size: tuple[int, int], more: int, reporter: Reporter) -> RecipeT:
    """The recipe with an ``encoder.input_scale`` for large images; itself where none is asked for.

    Args:
        recipe: of a new run.
        size: (height, width) of the largest training image looked at.
        more: how many times as much as a CPU the device is trusted with.
        reporter: is told what was chosen.
    """
    asked, encoder = recipe.train.input_pixels, recipe.encoder
    reads = "input_scale" in encoder.backbone_kind.reads
    if asked is None or not reads or encoder.input_scale != 1 or recipe.train.start is not None:
        return recipe
    height, width = size
    scale = scale_for(height * width, AUTO * more if asked == "auto" else asked)
    if scale == 1:
        return recipe
    reporter.line(
        f"encoder.input_scale = {scale:g}: images of {width} x {height} pixels are seen at {round(width * scale)} x "
        f"{round(height * scale)} (train.input_pixels={asked}); for finer masks set encoder.input_scale yourself"
    )
    return recipe.model_copy(update={"encoder": encoder.model_copy(update={"input_scale": scale})})


def with_batch_size(recipe: RecipeT, size: tuple[int, int], more: int, reporter: Reporter) -> RecipeT:
    """The recipe with a smaller ``train.batch_size`` for photographs; itself for other images, or where none is asked.

    The loss of whole images is taken at a quarter of their sides, however little the backbone sees: of photographs that
    is most of a step. Images that a backbone sees as they are keep their batch.

    Args: as of :func:`with_input_scale`.
    """
    asked, batch, (height, width) = recipe.train.step_pixels, recipe.train.batch_size, size
    if asked is None or recipe.data.augment.crop is not None or (asked == "auto" and height * width <= AUTO * more):
        return recipe
    limit = STEP * more if asked == "auto" else asked
    smaller = max(1, min(batch, limit // (height * width)))
    if smaller == batch:
        return recipe
    reporter.line(
        f"train.batch_size = {smaller} instead of {batch}: of {width} x {height} pixels a step holds {smaller} "
        f"{'image' if smaller == 1 else 'images'} (train.step_pixels={asked}); train.step_pixels=null keeps {batch}"
    )
    return recipe.model_copy(update={"train": recipe.train.model_copy(update={"batch_size": smaller})})


def scale_for(pixels: int, limit: int) -> float:
    """The largest of ``SCALES`` at which an image has at most ``limit`` pixels, or the smallest of all."""
    return next((scale for scale in SCALES if pixels * scale**2 <= limit), SCALES[-1])


def cost(pixels: float, probes: tuple[tuple[float, float], tuple[float, float]]) -> float:
    """Seconds for so many pixels, by ``a n + b n^2`` through two measurements: a layer, and attention over all cells.

    Args:
        pixels: n.
        probes: (pixels, seconds) of a small and a larger image.
    """
    (n, t), (m, u) = probes
    b = max(0.0, (u / m - t / n) / (m - n))
    a = max(0.0, u / m - b * m)
    return a * pixels + b * pixels**2


@torch.inference_mode()
def measured_probes(encoder: Encoder, device: torch.device) -> tuple[tuple[float, float], tuple[float, float]]:
    """Pixels that the backbone sees, and its seconds, for two blank images."""
    scale, probes = encoder.config.input_scale, []
    for side in (PROBES[0], *PROBES):  # the first is slower than all that follow
        height, width = encoder.padded_size(round(side / scale), round(side / scale))
        bands = len(encoder.normalisation.mean)
        images = torch.zeros(1, bands, height, width, device=device)
        began = time.perf_counter()
        encoder.backbone_features(images).sum().item()  # waits for a GPU, too
        probes.append((height * width * scale**2, time.perf_counter() - began))
    return probes[1], probes[2]


def caching_words(encoder: Encoder, dataset: SegmentationDataset, flips: bool, device: torch.device) -> str | None:
    """How long it will take to cache the features of a data set, and how to make that shorter; None if it is short."""
    height, width = dataset[0].mask.shape
    scale, count = encoder.config.input_scale, len(dataset) * (1 + flips)
    pixels = height * width * scale**2
    was_training = encoder.training
    encoder.eval()
    try:
        probes = measured_probes(encoder, device)
    finally:
        encoder.train(was_training)
    seconds = count * cost(pixels, probes)
    if seconds < WORTH_SAYING:
        return None
    smaller = [s for s in SCALES if s < scale and "input_scale" in encoder.config.backbone_kind.reads]
    ways = [f"encoder.input_scale={s:g} ({minutes(count * cost(pixels * (s / scale) ** 2, probes))})" for s in smaller]
    ways = ways[1:4:2] or ways
    ways += ["data.augment.flip=false (half of it)"] if flips else []
    mirrored = ", each also mirrored," if flips else ""
    return (
        f"caching the features of {len(dataset)} {dataset.split} images{mirrored} will take {minutes(seconds)} here "
        f"({width} x {height} pixels at encoder.input_scale={scale:g}); shorter: {', '.join(ways)}"
    )


def minutes(seconds: float) -> str:
    """About how long."""
    return f"about {seconds:.0f} s" if seconds < 90 else f"about {seconds / 60:.0f} min"
