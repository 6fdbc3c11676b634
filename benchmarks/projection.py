"""Projection and pruning of images of 1024 x 2048 with 129 x 257 cells, against the published loops."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image
from race import Row, race
from torch import Tensor, nn
from verbs import surroundings

from segproto.data.base import SegmentationDataset
from segproto.data.build import build_dataset
from segproto.data.config import DataConfig
from segproto.encoders.base import HALF, Encoder
from segproto.encoders.config import EncoderConfig
from segproto.model.features import image_features, sample_features
from segproto.model.heads import PrototypeHead
from segproto.model.patches import cell_box, draw_patch
from segproto.model.segmenter import Segmenter
from segproto.prototypes.bank import PrototypeBank
from segproto.prototypes.labels import resize_labels
from segproto.prototypes.membership import any_pixel
from segproto.prototypes.nearest import RunningTopK
from segproto.training.procedures.config import ProjectConfig, PruneConfig
from segproto.training.procedures.map_images import fold_samples
from segproto.training.procedures.projection import project
from segproto.training.procedures.pruning import update_top

HEIGHT, WIDTH, GRID, CLASSES = 1024, 2048, (129, 257), 19
K = PruneConfig().k
Found = tuple[float, int, int]  # distance, image, cell or label


def published_any_pixel(labels: Tensor) -> np.ndarray:
    """The published class map: one Python step per pixel."""
    out = np.zeros((CLASSES, *GRID), dtype=bool)
    patch_height, patch_width = HEIGHT / GRID[0], WIDTH / GRID[1]
    for y in range(labels.shape[0]):
        for x in range(labels.shape[1]):
            label = labels[y, x].item()
            if label != 255:
                out[label, int(y / patch_height), int(x / patch_width)] = True
    return out


def published_top(distances: Tensor, grid_labels: Tensor, labels: Tensor, class_of: Tensor) -> list[tuple[float, int]]:
    """The published pruning step: per prototype a full-map minimum and a patch label."""
    masked, nearest = distances + 1e7 * (grid_labels == 255), []
    for p in range(len(distances)):
        index = int(masked[p].argmin())
        i, j = divmod(index, GRID[1])
        box = labels[
            i * HEIGHT // GRID[0] : (i + 1) * HEIGHT // GRID[0], j * WIDTH // GRID[1] : (j + 1) * WIDTH // GRID[1]
        ]
        own = int(class_of[p])
        values, counts = box[box != 255].unique(return_counts=True)
        nearest.append((masked[p].min().item(), own if own in values.tolist() else int(values[counts.argmax()])))
    return nearest


def block_labels() -> Tensor:
    """(H, W): blocks of 64 pixels, void at the top."""
    labels = torch.randint(0, CLASSES, (16, 32)).repeat_interleave(64, 0).repeat_interleave(64, 1)
    labels[:100] = 255
    return labels


@torch.inference_mode()
def kernel_rows() -> Iterator[Row]:
    """What projection and pruning add to the forward pass of one image."""
    bank, labels = PrototypeBank.regular(CLASSES, 3, 4, 64), block_labels()
    strip = labels[:16]
    scaled = HEIGHT // 16  # the published loop is timed on a strip
    same = bool(np.array_equal(any_pixel(labels, GRID, CLASSES).numpy(), published_any_pixel(labels)))
    row = race(
        "cells of each class, 1024x2048 | loop over pixels (1/64 of them timed)",
        lambda: any_pixel(labels, GRID, CLASSES), lambda: published_any_pixel(strip), ("equal", same), 3,
    )  # fmt: skip
    low, high = row.spread
    yield Row(
        row.what, row.ours, row.plain * scaled, row.ratio * scaled, (low * scaled, high * scaled), row.answer, same
    )
    distances = bank.distances(torch.rand(1, 256, *GRID))[0]
    grid_labels = resize_labels(labels, GRID)
    top, once = RunningTopK(bank.class_of), RunningTopK(bank.class_of, 1)
    once.update(distances, grid_labels, labels, 0)
    expected = published_top(distances, grid_labels, labels, bank.class_of)
    found = list(zip(once.distance[:, 0].tolist(), once.label[:, 0].tolist(), strict=True))
    yield race(
        "nearest patches for pruning, 228 prototypes | loop over prototypes",
        lambda: top.update(distances, grid_labels, labels, 0),
        lambda: published_top(distances, grid_labels, labels, bank.class_of),
        ("equal", found == expected), 3,
    )  # fmt: skip


class Cells(nn.Module):
    """Images to 129 x 257 cells of their mean colours: a network that costs next to nothing."""

    any_size = True

    def forward(self, images: Tensor) -> Tensor:
        return F.adaptive_avg_pool2d(images, GRID)


def drawn_images(folder: Path, count: int) -> SegmentationDataset:
    """Photographs of noise at several scales, as PNG files, with masks."""
    for kind in ("images", "labels"):
        (folder / kind).mkdir(parents=True)
    for index in range(count):
        noise = sum(F.interpolate(torch.randn(1, 3, n, 2 * n), (HEIGHT, WIDTH), mode="bicubic") for n in (4, 32, 129))
        assert isinstance(noise, Tensor)
        pixels = (127 + 40 * noise[0]).clamp(0, 255).byte().permute(1, 2, 0).numpy()
        Image.fromarray(pixels).save(folder / "images" / f"{index:03}.png", compress_level=1)
        Image.fromarray(block_labels().byte().numpy()).save(folder / "labels" / f"{index:03}.png")
    names = "".join(f"- {{name: class{value}, values: [{value}]}}\n" for value in range(CLASSES))
    (folder / "classes.yaml").write_text(f"classes:\n{names}void: [255]\nsplit: {{val_pattern: '.'}}\n")
    return build_dataset(DataConfig(root=folder), "val")


def free_network(images: SegmentationDataset) -> Segmenter:
    """228 prototypes on 4 scales of 64 features of those cells."""
    neck = nn.Conv2d(3, 256, 1)
    nn.init.normal_(neck.weight, std=2)
    encoder = Encoder(Cells(), neck, (64,) * 4, HALF, EncoderConfig(squash="sigmoid", pad=False))
    return Segmenter(encoder, PrototypeHead(PrototypeBank.regular(CLASSES, 3, 4, 64)), images.classes).eval()


@torch.no_grad()
def published_projection(model: Segmenter, images: SegmentationDataset) -> tuple[list[Found], list[bytes]]:
    """Image by image: the class map pixel by pixel, prototype by prototype, a picture whenever one comes nearer."""
    bank = model.head.bank
    assert bank is not None
    nearest = [(float("inf"), -1, -1)] * bank.num_prototypes
    pictures = [b""] * bank.num_prototypes
    for index in range(len(images)):
        sample = images[index]
        distances = model.head.distances(image_features(model, images, index))[0].flatten(1)
        member = torch.from_numpy(published_any_pixel(sample.mask)).flatten(1)
        for p, class_id in enumerate(bank.class_of.tolist()):
            own = torch.where(member[class_id], distances[p], torch.inf)
            cell = int(own.argmin())
            if float(own[cell]) < nearest[p][0]:
                nearest[p] = (float(own[cell]), index, cell)
                box = cell_box(model, (HEIGHT, WIDTH), list(divmod(cell, GRID[1])), list(GRID))
                pictures[p] = draw_patch(sample.colours, box)
    return nearest, pictures


@torch.no_grad()
def published_pruning(model: Segmenter, images: SegmentationDataset) -> list[list[Found]]:
    """Image by image the nearest patch of each prototype, its ``K`` nearest (distance, image, label) kept."""
    bank = model.head.bank
    assert bank is not None
    kept: list[list[Found]] = [[] for _ in range(bank.num_prototypes)]
    for index in range(len(images)):
        labels = images[index].mask.long()
        distances = model.head.distances(image_features(model, images, index))[0]
        found = published_top(distances, resize_labels(labels, GRID), labels, bank.class_of)
        for own, (distance, label) in zip(kept, found, strict=True):
            own.append((distance, index, label))
            own.sort()
            del own[K:]
    return kept


def pass_rows(count: int) -> Iterator[Row]:
    """Whole passes, the reading of the files in them; the network costs next to nothing in both."""
    with tempfile.TemporaryDirectory() as temporary:
        images = drawn_images(Path(temporary), count)
        model = free_network(images)
        bank = model.head.bank
        assert isinstance(bank, PrototypeBank)
        before, context = bank.vectors.detach().clone(), surroundings(model, images)

        def ours() -> None:
            bank.vectors.data.copy_(before)
            project(context, ProjectConfig(membership="any_pixel", deduplicate=False))

        def plain() -> tuple[list[Found], list[bytes]]:
            bank.vectors.data.copy_(before)
            return published_projection(model, images)

        expected, pictures = plain()
        ours()
        assert model.provenance is not None
        sources = [source for source in model.provenance.sources if source is not None]
        found = [(s.distance, images.names.index(s.image), s.cell[0] * GRID[1] + s.cell[1]) for s in sources]
        drawn = [model.patches[str(source.patch)] for source in sources]
        words = f"projection, {count} images of 129x257 cells, 228 prototypes, reading and pictures | published loops"
        yield race(words, ours, plain, ("same cells and pictures", (found, drawn) == (expected, pictures)), 1)
        bank.vectors.data.copy_(before)

        def ranked() -> RunningTopK:
            top = RunningTopK(bank.class_of, K)
            for index, sample in fold_samples(images):
                with torch.no_grad():
                    update_top(context, top, sample_features(model, sample, index, None), sample, index)
            return top

        top, wanted = ranked(), published_pruning(model, images)
        rows = zip(top.distance.tolist(), top.image.tolist(), top.label.tolist(), strict=True)
        kept = [[one for one in zip(*row, strict=True) if one[1] >= 0] for row in rows]
        words = f"pruning, the same images, {K} nearest, reading | published loops"
        yield race(words, ranked, lambda: published_pruning(model, images), ("same patches", kept == wanted), 2)


def projection_rows(quick: bool) -> Iterator[Row]:
    """The kernels, and whole passes."""
    yield from kernel_rows()
    yield from pass_rows(2 if quick else 20)
