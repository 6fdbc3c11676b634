"""What ``segproto predict`` is to write of each image, and whether it may."""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from segproto.errors import ConfigError, DataError
from segproto.files import require, require_all, write_json

if TYPE_CHECKING:
    from segproto.data.pixels import PixelRule
    from segproto.data.tiff_pages import Page

log = logging.getLogger(__name__)
SCORES = "images.json"  # beside the maps of --ood
KINDS = {"--ood": "scores", "--overlay": "picture", "--probabilities": "probabilities"}  # marks of the files


@dataclass(frozen=True)
class Job:
    """An image, or a page of one, and the mask to write of it.

    Attributes:
        file: of the image.
        image: the same, or one of its pages.
        mask: the file to write.
        kind: a ``picture``, a ``raster`` with a place on the earth, or a ``stack`` with a mask per page.
    """

    file: Path
    image: Path | Page
    mask: Path
    kind: Literal["picture", "raster", "stack"] = "picture"


def found(places: Sequence[Path], out: Path, form: str, rule: PixelRule, say: Callable[[str], None]) -> list[Job]:
    """The images that a user names, and what is to be written of each.

    Args:
        places: images and folders.
        out: the folder of the masks.
        form: of the masks, see :func:`jobs_of`.
        rule: how images are read.
        say: prints a line.

    Raises:
        DataError: two images of one name.
    """
    from segproto.data.measure import orientation_note
    from segproto.runs.folder import images_and_masks

    pairs = [pair for place in places for pair in images_and_masks(place, out, say)]
    if line := orientation_note([file for file, _ in pairs], "masks are of these"):
        say(f"note: {line}")
    jobs = jobs_of(pairs, form, rule)
    if len({job.mask for job in jobs}) < len(jobs):
        raise DataError(f"{out}: two of the images have one name and would share a mask; predict them apart")
    return jobs


def require_format(form: str, folder: str | Path | None) -> None:
    """Sees that probabilities can be written in a format.

    Raises:
        ConfigError: no such format, nowhere to write, or ``zarr`` without the extra of that name.
    """
    from segproto.files.extras import package_of

    if form not in ("auto", "npz", "zarr"):
        raise ConfigError(f"--probabilities-format {form}: expected auto, npz or zarr")
    if form != "auto" and folder is None:
        raise ConfigError(f"--probabilities-format {form}: say where to write them: --probabilities DIR")
    if form == "zarr":
        package_of("zarr", "zarr", "--probabilities-format zarr")


def refuse_unfit(jobs: list[Job], beside: set[str], values: str, palette: bool) -> None:
    """Refuses outputs that there are of pictures alone.

    Raises:
        ConfigError: naming them.
    """
    kinds = {job.kind for job in jobs}
    if "stack" in kinds and (palette or beside):
        raise ConfigError("--palette, --overlay and --probabilities of stacks go with a picture per page: --format png")
    if "raster" in kinds and (values != "indices" or "--overlay" in beside):
        raise ConfigError("--values classes and --overlay go with pictures, and masks would be GeoTIFFs: --format png")


def require_free(jobs: list[Job], out: Path, beside: Mapping[str, Path], form: str) -> None:
    """Sees that no file to write would take the place of another.

    Args:
        jobs: images and masks.
        out: folder of the masks.
        beside: folders of other outputs by their option.
        form: of probabilities.

    Raises:
        ConfigError: naming the first that would.
    """
    from segproto.files.stores import require_store

    images = [job.file for job in jobs]
    require_all((job.mask for job in jobs), "mask", images)
    for option, folder in beside.items():
        if folder.absolute() in {out.absolute(), *(f.absolute() for o, f in beside.items() if o != option)}:
            raise ConfigError(f"{option} {folder}: is the folder of other files (--out); name another one")
        files = [beside_mask(folder, job.mask, out, option, form) for job in jobs]
        if option == "--probabilities" and form == "zarr":
            for file in files:
                require_store(file, KINDS[option])
        else:
            require_all(files, KINDS[option], images)
        if option == "--ood":
            require(folder / SCORES, KINDS[option])


def jobs_of(pairs: list[tuple[Path, Path]], form: str, rule: PixelRule) -> list[Job]:
    """What is to be written of each image.

    Args:
        pairs: images, and masks as PNGs.
        form: of the masks.
        rule: how images are read.

    Raises:
        ConfigError: no such form, or ``tif`` without the extra ``geo``.
    """
    from segproto.data.tiff_pages import pages_in
    from segproto.files.extras import package_of

    if form not in ("auto", "png", "tif"):
        raise ConfigError(f"--format {form}: expected auto, png or tif")
    placed = placed_among([file for file, _ in pairs]) if form == "auto" else set()
    jobs = []
    for file, mask in pairs:
        pages: list[Any] = [file]
        with suppress(DataError):  # told when it is read
            pages = pages_in(file, "all") if rule.page == "all" else pages
        if len(pages) > 1 and form == "png":
            jobs += [Job(file, page, mask.with_suffix("") / f"page{page.number}.png") for page in pages]
        elif len(pages) > 1:
            jobs.append(Job(file, file, mask.with_suffix(".tif"), "stack"))
        elif form == "tif" or file in placed:
            package_of("geo", "rasterio", "--format tif")
            jobs.append(Job(file, file, mask.with_suffix(".tif"), "raster"))
        else:
            jobs.append(Job(file, file, mask))
    return jobs


def placed_among(files: list[Path]) -> set[Path]:
    """The images that have a place on the earth; none, with a warning, where the extra ``geo`` is missing."""
    import importlib.util

    from segproto.data.tiff_bands import has_place
    from segproto.files.extras import install

    placed = set()
    for file in files:
        with suppress(DataError):  # told when it is read
            placed |= {file} if has_place(file) else set()
    if placed and importlib.util.find_spec("rasterio") is None:
        log.warning(
            "%d of the images are georeferenced; with %s their masks are, too (now: PNG)", len(placed), install("geo")
        )
        return set()
    return placed


def beside_mask(folder: Path, mask: Path, out: Path, option: str, form: str) -> Path:
    """The file of another output that goes with a mask; ``form`` is that of probabilities."""
    file = folder / mask.relative_to(out)
    if option != "--probabilities" or (form == "auto" and file.suffix == ".tif"):
        return file
    return file.with_suffix(".zarr" if form == "zarr" else ".npz")


def scores_of_maps(made: Sequence[tuple[Path, Path]], out: Path) -> list[tuple[str, float]]:
    """Names of images with how unknown they are, 0..1, as the gray of their maps tells.

    Args:
        made: the mask of each image and its map.
        out: the folder of the masks.
    """
    import torch

    from segproto.data.images import read_indices
    from segproto.metrics.unknown import image_score

    names = [mask.relative_to(out).with_suffix("").as_posix() for mask, _ in made]
    grays = (torch.from_numpy(read_indices(file)).float() / 255 for _, file in made)
    return list(zip(names, map(image_score, grays), strict=True))


def keep_scores(folder: Path, scores: Sequence[tuple[str, float]]) -> None:
    """Writes how unknown images are, the most unknown first; ``scores`` are names with their score."""
    ranked = sorted(scores, key=lambda one: (-one[1], one[0]))
    rows = [{"image": name, "score": round(score, 6)} for name, score in ranked]
    write_json(folder / SCORES, {"images": rows}, "scores")
