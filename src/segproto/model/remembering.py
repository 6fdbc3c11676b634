"""What a memory keeps of an image: the cells it remembers, where they came from, and how images come and go later."""

from __future__ import annotations

import copy
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import cast

import torch
import torch.nn.functional as F
from torch import Tensor

from segproto.data.base import ClassTable, Sample, SegmentationDataset
from segproto.errors import ConfigError, DataError
from segproto.model.edit import copy_to_edit, keep_prototypes, note
from segproto.model.features import sample_features
from segproto.model.fingerprint import encoder_hash
from segproto.model.memory_head import MemoryBank, MemoryHead, cells_of
from segproto.model.patches import cell_box, covered_mask, keep_picture
from segproto.model.provenance import PrototypeSource, Provenance
from segproto.model.segmenter import Segmenter
from segproto.model.windows import evaluating
from segproto.prototypes.retrieval import cell_frequencies, choose_cells, embed_cells, normalise_layers
from segproto.table import nearest

PLACES = 16  # the image is cut into so many rows and columns to find what features say of the place alone

Progress = Callable[[int, int], None]


def image_cells(
    model: Segmenter,
    sample: Sample,
    features: Tensor,
    num_classes: int,
    blocks: int,
    count: int,
    labelled: float,
    seed: int,
    shares: Tensor | None = None,
) -> dict[str, Tensor]:
    """What one image adds to a memory: its remembered cells, and sums over all its labelled cells.

    Args:
        model: whose grid.
        sample: the image, at native size.
        features: (1, D, h, w) of the image.
        num_classes: C, of the mask.
        blocks: layers that are normalised apart, see :func:`segproto.prototypes.retrieval.normalise_layers`.
        count: at most so many cells are remembered.
        labelled: a cell with a smaller share of labelled pixels is not.
        seed: of the draw.
        shares: (C,) of the classes in all images, see :func:`segproto.prototypes.retrieval.choose_cells`.

    Returns:
        ``features`` (n, D) with normalised layers, ``frequencies`` (n, C), ``cell`` (n, 2), ``grid`` and ``size`` (2,),
        ``picture`` (a JPEG's bytes), and of all labelled cells ``sum`` (D,) and ``count``.
    """
    grid = (features.shape[-2], features.shape[-1])
    mask = covered_mask(model, sample.mask.to(features.device))
    cells = normalise_layers(cells_of(features), blocks)
    frequencies, known = cell_frequencies(mask, grid, num_classes)
    usable = known >= labelled
    index = choose_cells(frequencies, usable, count, torch.Generator().manual_seed(seed), shares)
    return {
        "features": cells[index],
        "frequencies": frequencies[index],
        "cell": torch.stack([index // grid[1], index % grid[1]], 1),
        "grid": torch.tensor(grid),
        "size": torch.tensor(sample.image.shape[-2:]),
        "picture": torch.frombuffer(bytearray(keep_picture(sample.image)), dtype=torch.uint8),
        "sum": cells[usable].double().sum(0),
        "count": usable.sum(),
    }


def sums_by_place(
    model: Segmenter, sample: Sample, features: Tensor, blocks: int, labelled: float
) -> dict[str, Tensor]:
    """Sums of an image's labelled cells for each of PLACES x PLACES places.

    Args: as :func:`image_cells`.

    Returns:
        ``places`` (PLACES^2, D) float64 and ``place_counts`` (PLACES^2,).
    """
    h, w = features.shape[-2:]
    mask = covered_mask(model, sample.mask.to(features.device))
    cells = normalise_layers(cells_of(features), blocks)
    usable = cell_frequencies(mask, (h, w), model.classes.num_classes)[1] >= labelled
    rows, columns = (torch.arange(side, device=mask.device) * PLACES // side for side in (h, w))
    position = (rows[:, None] * PLACES + columns).flatten()[usable]
    sums = torch.zeros(PLACES * PLACES, cells.shape[1], dtype=torch.float64, device=cells.device)
    sums.index_add_(0, position, cells[usable].double())
    return {"places": sums, "place_counts": torch.bincount(position, minlength=PLACES * PLACES)}


def patch_sources(
    model: Segmenter, name: str, size: Sequence[int], grid: Sequence[int], cells: Sequence[Sequence[int]], file: str
) -> list[PrototypeSource]:
    """The sources of remembered cells.

    Args:
        model: whose grid.
        name: of their image.
        size: (height, width) of it.
        grid: (rows, columns).
        cells: (row, column) of each.
        file: the image's picture.
    """
    height, width = size
    rows, columns = grid
    boxes = [cell_box(model, (height, width), [row, column], [rows, columns]) for row, column in cells]
    return [
        PrototypeSource(name, (row, column), (rows, columns), box, 0.0, file, (height, width))
        for (row, column), box in zip(cells, boxes, strict=True)
    ]


def with_images(
    model: Segmenter,
    dataset: SegmentationDataset,
    count: int | None = None,
    labelled: float = 0.5,
    progress: Progress | None = None,
) -> Segmenter:
    """A model that remembers some images more; nothing is trained, and what it remembered stays as it is.

    The mean that is subtracted from features stays that of the first images, so that old and new entries compare.
    Classes are matched by name; those the model does not know are added behind its own.

    Args:
        model: with a memory; untouched, the encoder is shared.
        dataset: images and masks, at native size.
        count: cells remembered per image at most; None = as many as it has of an image at present, on average.
        labelled: a cell with a smaller share of labelled pixels is not remembered.
        progress: called with (images done, images).

    Raises:
        ConfigError: the model has no memory.
        DataError: an image is remembered already, or has no labelled cell.
    """
    head, known = memory_of(model), remembered_images(model)
    bank = head.bank
    require_new(dataset, known)
    count = count if count is not None else max(1, round(bank.num_prototypes / max(1, len(known))))
    classes = joined_classes(model.classes, dataset.classes)
    column = torch.tensor([classes.names.index(name) for name in dataset.classes.names], device=bank.vectors.device)
    vectors, frequencies = [bank.vectors], [F.pad(bank.frequencies, (0, classes.num_classes - bank.num_classes))]
    provenance = model.provenance or Provenance(encoder_hash(model.encoder), "", (None,) * bank.num_prototypes)
    sources, patches = list(provenance.sources), dict(model.patches)
    for index, name in enumerate(dataset.names):
        cells = cells_to_add(model, dataset, index, count, labelled)
        vectors.append(cells["vectors"])
        own = frequencies[0].new_zeros(len(cells["vectors"]), classes.num_classes)
        frequencies.append(own.index_copy_(1, column, cells["frequencies"].to(own.dtype)))
        file = free_picture_name(patches)
        patches[file] = cells["picture"].numpy().tobytes()
        size, grid = cells["size"].tolist(), cells["grid"].tolist()
        sources += patch_sources(model, name, size, grid, cells["cell"].tolist(), file)
        if progress is not None:
            progress(index + 1, len(dataset))
    larger = MemoryBank(torch.cat(vectors), torch.cat(frequencies), bank.mean, bank.removed, bank.blocks)
    grown = head.with_bank(larger)
    provenance = replace(provenance, sources=tuple(sources))
    card = copy.deepcopy(model.card)
    out = Segmenter(model.encoder, grown, classes, provenance, patches, card, model.forgotten, model.input_size)
    note(out, [words_of_added(dataset.names, classes.names[model.classes.num_classes :])])
    return out.train(model.training)


@torch.no_grad()
def cells_to_add(
    model: Segmenter, dataset: SegmentationDataset, index: int, count: int, labelled: float
) -> dict[str, Tensor]:
    """:func:`image_cells` of one image, with ``vectors`` (n, D) as the model's memory holds them.

    Raises:
        DataError: no cell is labelled.
    """
    bank, sample = memory_of(model).bank, dataset[index]
    with evaluating(model):
        features = sample_features(model, sample, index)
    num_classes = dataset.classes.num_classes
    cells = image_cells(model, sample, features, num_classes, bank.blocks, count, labelled, index)
    if not len(cells["features"]):
        raise DataError(f"{dataset.names[index]}: no cell of it is labelled: nothing to remember; check its mask")
    vectors = embed_cells(cells["features"], 0, bank.mean, bank.removed)
    return {**cells, "vectors": vectors.to(bank.vectors.dtype)}


def words_of_added(names: Sequence[str], fresh: Sequence[str]) -> str:
    """``added 5 images (a, b, c ...) with the new classes x``."""
    shown = ", ".join(names[:3]) + (" ..." if len(names) > 3 else "")
    return f"added {len(names)} images ({shown})" + (f" with the new classes {', '.join(fresh)}" if fresh else "")


def without_images(model: Segmenter, names: Sequence[str]) -> tuple[Segmenter, list[int]]:
    """A model that has forgotten images: none of their patches or pictures is left in it.

    What remains of them is their part in the mean feature that is subtracted before comparing, one number per channel
    over all labelled cells of all images.

    Args:
        model: with a memory; untouched, the encoder is shared.
        names: of images it remembers, as its provenance has them.

    Returns:
        The model, and the old number of each of its prototypes.

    Raises:
        ConfigError: no memory, no such image, or nothing would be left.
    """
    known = remembered_images(model)
    memory_of(model)
    for name in names:
        if name not in known:
            raise ConfigError(f"{name!r} is no image this model remembers; {nearest(name, known)}")
    assert model.provenance is not None
    gone = set(names)
    keep = [i for i, source in enumerate(model.provenance.sources) if source is None or source.image not in gone]
    if not keep:
        raise ConfigError(f"without {', '.join(names)} nothing is left to look up; keep at least one image")
    out = copy_to_edit(model)
    keep_prototypes(out, torch.tensor(keep))
    note(out, ["forgot the images " + ", ".join(names)])
    return out.train(model.training), keep


def memory_of(model: Segmenter) -> MemoryHead:
    """The head of a model that can take and forget images.

    Raises:
        ConfigError: it is of another kind.
    """
    if not model.head.remembers:
        raise ConfigError(
            f"a {model.head.kind} head has learned from its images and cannot add or remove one; train again, or make "
            "a memory of its features: segproto train memory/folder train.start=RUN"
        )
    return cast(MemoryHead, model.head)


def remembered_images(model: Segmenter) -> list[str]:
    """Names of the images in a model's provenance, in order of their first patch."""
    sources = () if model.provenance is None else model.provenance.sources
    return list(dict.fromkeys(source.image for source in sources if source is not None))


def require_new(dataset: SegmentationDataset, known: Sequence[str]) -> None:
    """Refuses images under names that are taken: an image is forgotten by its name.

    Raises:
        DataError: naming the first.
    """
    if taken := sorted(set(dataset.names) & set(known)):
        raise DataError(
            f"{len(taken)} of the images have names that are remembered already, the first is {taken[0]!r}; rename "
            f"the files, or forget the old ones first: segproto edit RUN --remove-image {taken[0]} --out DIR"
        )


def joined_classes(own: ClassTable, other: ClassTable) -> ClassTable:
    """A model's classes, and behind them those of new masks that it does not know, with their colours."""
    fresh = [i for i, name in enumerate(other.names) if name not in own.names]
    return ClassTable(
        own.names + tuple(other.names[i] for i in fresh), own.colours + tuple(other.colours[i] for i in fresh)
    )


def free_picture_name(patches: dict[str, bytes]) -> str:
    """The first ``prototypes/image_NNNNN.jpg`` that is not taken."""
    number = len(patches)
    while (file := picture_name(number)) in patches:
        number += 1
    return file


def picture_name(number: int) -> str:
    """File of a remembered image's picture, relative to the artefact."""
    return f"prototypes/image_{number:05d}.jpg"
