"""The loop of ``segproto predict``: images are read, seen and written at the same time, shared between processes."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from torch import Tensor

from segproto.api.predict_jobs import Job
from segproto.data.picture import look_at
from segproto.data.pixels import PixelRule
from segproto.errors import DataError
from segproto.model.compiled import compiled_backbone
from segproto.model.layout import channels_last
from segproto.model.ood import predict_scored_to_png
from segproto.model.outputs import Outputs, with_ones, write_outputs
from segproto.model.precision import Precision, autocast
from segproto.model.predict import Views
from segproto.model.predict_raster import predict_to_tiff
from segproto.model.predict_stack import predict_to_stack
from segproto.model.reading import Bands, reading_by, with_bands
from segproto.model.segmenter import Segmenter
from segproto.model.together import CHUNK, READERS, Look, chunk_size, chunked, in_order, logits_of, look
from segproto.model.windows import evaluating

if TYPE_CHECKING:
    from segproto.training.sharing import Share

WRITERS = 2
Paths = Mapping[str, Path]


@dataclass(frozen=True)
class Writing:
    """How masks are made.

    Attributes:
        model: on its device.
        rule: how it reads files.
        bands: where theirs stand, if elsewhere.
        values: what masks hold.
        palette: they show the classes' colours.
        views: how an image is looked at.
        max_pixels: larger images are refused.
        precision: of the network; ``auto``: as it was trained on a GPU, float32 on a CPU.
        compiled: the backbone runs as torch compiled it.
    """

    model: Segmenter
    rule: PixelRule
    bands: Bands | None
    values: Literal["indices", "classes"]
    palette: bool
    views: Views
    max_pixels: int
    precision: Precision
    compiled: bool = False


def write_all(
    writing: Writing, jobs: Sequence[Job], paths: Sequence[Paths], share: Share, done: Callable[[Iterable[Path]], bool]
) -> Iterator[tuple[Job, DataError | None]]:
    """Writes this process's part of the masks; each job with the error of an image that is broken.

    Args:
        writing: how.
        jobs: images and masks, the same in all processes.
        paths: of the other outputs of each, by their option.
        share: this process's part.
        done: whether files are there and stay.
    """
    size = chunk_size(len(jobs))
    there = [done((job.mask, *paths[i].values())) for i, job in enumerate(jobs)]
    # an image of a chunk that is there is seen again beside the others, whose last bits it may decide
    own = [i for i in chunked(len(jobs), share.rank, share.world) if not all(there[i // size * size :][:size])]
    together = [i for i in own if jobs[i].kind == "picture" and "--ood" not in paths[i]]
    with (
        evaluating(writing.model),
        autocast(writing.model, writing.precision),
        channels_last(writing.model),
        compiled_backbone(writing.model, writing.compiled),
    ):
        yield from _write_together(writing, [_Entry(i // size, jobs[i], paths[i], there[i]) for i in together])
        for i in sorted({*own} - {*together}):
            try:
                if not there[i]:
                    _write_alone(writing, jobs[i], paths[i])
                yield jobs[i], None
            except DataError as error:
                yield jobs[i], error


@dataclass(frozen=True)
class _Entry:
    chunk: int
    job: Job
    paths: Paths
    there: bool


def _write_together(writing: Writing, entries: Sequence[_Entry]) -> Iterator[tuple[Job, DataError | None]]:
    model, views = writing.model, dict(writing.views)
    failed: list[tuple[Job, DataError | None]] = []
    scales = views.pop("scales")

    def read(entry: _Entry) -> Look[_Entry] | tuple[Job, DataError]:
        try:
            rule = with_bands(writing.rule, writing.bands, entry.job.file)
            picture = look_at(entry.job.image, writing.max_pixels, rule)
            return look(model, picture, entry, entry.chunk, window=views["window"], scales=scales)  # type: ignore[arg-type]
        except DataError as error:
            return entry.job, error

    def looks() -> Iterator[Look[_Entry]]:
        for found in in_order((partial(read, entry) for entry in entries), READERS, CHUNK):
            if isinstance(found, Look):
                yield found
            else:
                failed.append(found)

    def write(one: Look[_Entry], bands: Iterator[Tensor]) -> tuple[Job, DataError | None]:
        entry = one.key
        outputs = Outputs(
            entry.job.mask,
            writing.values,
            writing.palette,
            entry.paths.get("--overlay"),
            entry.paths.get("--probabilities"),
        )
        try:
            if not entry.there:
                write_outputs(model, one.picture, outputs, bands)
        except DataError as error:
            return entry.job, error
        return entry.job, None

    def writes() -> Iterator[Callable[[], tuple[Job, DataError | None]]]:
        shares = any("--probabilities" in entry.paths for entry in entries)
        maps = (lambda images: with_ones(model.grid_logits(images))) if shares else None
        for one, bands in logits_of(model, looks(), maps=maps, **views):  # type: ignore[arg-type]
            if one.pixels is not None:
                yield partial(write, one, bands)
            else:  # the network runs for each band
                result = write(one, bands)
                yield lambda result=result: result  # type: ignore[misc]

    for result in in_order(writes(), WRITERS, 2 * CHUNK):
        yield result
        while failed:
            yield failed.pop()
    yield from failed


def _write_alone(writing: Writing, job: Job, paths: Paths) -> None:
    """An image whose network runs while its file is written: large ones, stacks, scores."""
    model, options = writing.model, {**writing.views, "max_pixels": writing.max_pixels}
    with reading_by(model, with_bands(writing.rule, writing.bands, job.file)):
        if job.kind == "stack":
            predict_to_stack(model, job.file, job.mask, values=writing.values, **options)  # type: ignore[arg-type]
        elif job.kind == "raster":
            predict_to_tiff(model, job.file, job.mask, probabilities=paths.get("--probabilities"), **options)  # type: ignore[arg-type]
        else:
            predict_scored_to_png(model, job.image, job.mask, paths["--ood"], **options)  # type: ignore[arg-type]


def settings_of(writing: Writing, beside: Paths, form: str) -> dict[str, Any]:
    """All options that change a file."""
    return {
        **writing.views,
        "values": writing.values,
        "palette": writing.palette,
        "precision": writing.precision,
        "compiled": writing.compiled or None,  # records of before have none
        "bands": writing.bands,
        "page": writing.rule.page,
        "beside": {option: str(folder) for option, folder in beside.items()},
        "probabilities_format": form,
    }
