"""The last stage: which model is kept, masks of the training images, and a gallery of the categories."""

from __future__ import annotations

from pathlib import Path

import torch
from torch import Tensor

from segproto.data.base import Sample
from segproto.errors import ConfigError
from segproto.methods.primaps.config import FoundConfig
from segproto.methods.primaps.gallery import Best, write_gallery
from segproto.methods.primaps.variants import score_variants
from segproto.model.direction_head import DirectionHead, TeacherHead
from segproto.model.features import image_features
from segproto.model.fingerprint import encoder_hash
from segproto.model.patches import cell_box, draw_patch
from segproto.model.provenance import PrototypeSource, Provenance
from segproto.model.segmenter import Segmenter
from segproto.refine.crf import dense_crf
from segproto.refine.regions import SETTINGS
from segproto.training.agreement import agreement
from segproto.training.devices import on_first
from segproto.training.figures import Figures
from segproto.training.procedures.map_images import fold_images, map_images
from segproto.training.procedures.mask_folder import PNG, add_image, mask_pixels, save_mask, write_classes
from segproto.training.procedures.require import require_head
from segproto.training.stage import StageContext

SELECTION = {
    "last": "last (no label was looked at)",
    "oracle": "oracle: best mIoU on labelled validation images, which a run without labels cannot know",
}


@torch.no_grad()
def report_categories(context: StageContext, config: FoundConfig) -> Figures:
    """Chooses the model, scores its variants if asked for, writes masks and gallery."""
    model, run = context.segmenter, context.run
    figures: Figures = {"selection": SELECTION[config.selection]}
    if config.selection == "oracle":
        take_best(model, run)
    if config.figures:
        figures["variants"] = score_variants(context)
    head = require_head(model, "found", DirectionHead)
    if isinstance(head, TeacherHead):
        figures["model"] = config.model
        model.head = DirectionHead(head.bank if config.model == "teacher" else head.student)
    best, pixels = look_at_categories(context)
    model.provenance, model.patches = trace_categories(context, best)
    if config.masks:
        write_masks(context, config, run / "masks")
    page = context.out / "categories.html"
    on_first(context.fabric, lambda: write_gallery(page, model, context.train_set, best, pixels))
    shares = (pixels / pixels.sum()).tolist()
    figures["category_shares"] = {n: round(s, 4) for n, s in zip(model.classes.names, shares, strict=True)}
    figures["categories_used"] = int((pixels > 0).sum())
    return figures | {"gallery": str(page.relative_to(run))}


def take_best(model: Segmenter, run: Path) -> None:
    """The head of the run's best validation.

    Raises:
        ConfigError: there was no validation.
    """
    folder = run / "checkpoints" / "best"
    if not folder.is_dir():
        raise ConfigError(
            "stages.found.selection = oracle: no model was validated; set train.validate_every and give labelled data"
        )
    device = next(model.parameters()).device
    model.head = Segmenter.load(folder).head.to(device)


def look_at_categories(context: StageContext) -> tuple[Best, Tensor]:
    """Each category's most typical cell of every training image, and how many cells it has in all."""
    model, fabric = context.segmenter, context.fabric
    head, count = model.head, len(context.train_set)
    cosine = torch.full((head.num_classes, count), -torch.inf, device=fabric.device)
    cell = torch.zeros(head.num_classes, count, 4, device=fabric.device)  # row, column, rows, columns
    pixels = torch.zeros(head.num_classes, dtype=torch.float64, device=fabric.device)
    cache = context.train_cache
    for index in fold_images(context.train_set, rank=fabric.global_rank, world=fabric.world_size, title="categories"):
        features = image_features(model, context.train_set, index, cache)
        winner = head(features)[0].argmax(0).flatten()
        h, w = features.shape[-2:]
        own = torch.nn.functional.one_hot(winner, head.num_classes).T.bool()
        values, best_cell = torch.where(own, head.activations(features)[0].flatten(1), -torch.inf).max(1)
        cosine[:, index] = values
        grid = (torch.full_like(best_cell, h), torch.full_like(best_cell, w))
        cell[:, index] = torch.stack([best_cell // w, best_cell % w, *grid], 1).float()
        pixels += own.sum(1)
    reduce = agreement()
    return Best(reduce(cosine, "max").cpu(), reduce(cell, "max").cpu().long()), reduce(pixels).cpu()


def trace_categories(context: StageContext, best: Best) -> tuple[Provenance, dict[str, bytes]]:
    """The most typical training cell of each category as the source of its direction (which is not that cell)."""
    model, dataset = context.segmenter, context.train_set
    sources: list[PrototypeSource | None] = []
    patches: dict[str, bytes] = {}
    for k, row in enumerate(best.cosine):
        index = int(row.argmax())
        if not torch.isfinite(row[index]):
            sources.append(None)
            continue
        image = dataset[index].colours
        y, x, h, w = best.cell[k, index].tolist()
        box = cell_box(model, (image.shape[-2], image.shape[-1]), [y, x], [h, w])
        name = f"prototypes/{k:04d}.png"
        patches[name] = draw_patch(image, box)
        distance = float(2 - 2 * row[index])
        sources.append(PrototypeSource(dataset.names[index], (y, x), (h, w), box, distance, name))
    data_name = f"{type(dataset).__name__}, split {dataset.split}"
    return Provenance(encoder_hash(model.encoder), data_name, tuple(sources)), patches


def write_masks(context: StageContext, config: FoundConfig, root: Path) -> None:
    """A folder data set of the training images with the categories as their masks."""
    model, fabric = context.segmenter, context.fabric
    dataset, cache = context.train_set, context.train_cache
    labels = root / "labels"

    def one(index: int, sample: Sample) -> dict[str, Tensor]:
        add_image(root, dataset, index, sample.colours)
        size = (sample.image.shape[-2], sample.image.shape[-1])
        logits = model.upsample(model.head(image_features(model, dataset, index, cache)), size)
        if config.crf:
            image = sample.colours[None].to(logits.device)
            return {"mask": dense_crf(image, -logits.log_softmax(1), SETTINGS, labels=True)[0].to(torch.uint8)}
        return {"mask": logits[0].argmax(0).to(torch.uint8)}

    map_images(
        dataset,
        one,
        labels,
        rank=fabric.global_rank,
        world=fabric.world_size,
        title="masks",
        suffix=PNG,
        save=save_mask,
    )
    own = mask_pixels(root, dataset.names[fabric.global_rank :: fabric.world_size], model.classes.num_classes)
    pixels = agreement()(own.to(fabric.device))
    on_first(fabric, lambda: write_classes(root, model.classes, pixels))
