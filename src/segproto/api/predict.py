"""The verb ``predict``: a mask for every image."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from segproto.errors import ConfigError, DataError, UnreadableImages
from segproto.files import place, require_all

if TYPE_CHECKING:
    from segproto.data.pixels import PixelRule
    from segproto.data.tiff_pages import Page
    from segproto.model.reading import Bands, Pages
    from segproto.model.segmenter import Segmenter

PathLike = str | Path
log = logging.getLogger(__name__)


def predict(
    target: PathLike | Segmenter,
    images: PathLike | Sequence[PathLike],
    *,
    out: PathLike,
    stage: str | None = None,
    window: int | None = None,
    scales: Sequence[float] | None = None,
    flip: bool = False,
    max_pixels: int | None = None,
    ood: PathLike | None = None,
    form: Literal["auto", "png", "tif"] = "auto",
    values: Literal["indices", "classes"] = "indices",
    palette: bool = False,
    overlay: PathLike | None = None,
    probabilities: PathLike | None = None,
    probabilities_format: Literal["auto", "npz", "zarr"] = "auto",
    bands: Bands | None = None,
    pages: Pages | None = None,
    device: str | None = None,
    quiet: bool = False,
) -> list[Path]:
    """Writes a mask for an image, or for each image of a folder.

    In a folder, what lies in ``out`` and in folders of masks (``labels/``, ``masks/`` ...) is left out, which is said.

    Args:
        target: a run or model folder, or a loaded model.
        images: an image or a folder of images, or a list of these.
        out: folder for the masks.
        stage: of a run: the model this stage left.
        window: side of sliding windows in pixels; None = as in training (``data.window``), else whole where an image is
            not too large, else windows of the size of the training crops.
        scales: input scales averaged; None: images are seen at their own size, or as a converted model was published
            to see them.
        flip: average with the mirrored image.
        max_pixels: larger images are refused; None = 2^28.
        form: PNG (``png``), or GeoTIFF with the image's place on the earth and 255 as nodata (``tif``, needs the extra
            ``geo``); ``auto``: GeoTIFF for images that have such a place, where the extra is there.
        ood: folder for out-of-distribution scores (:func:`segproto.model.ood.predict_scored_to_png`).
        values: what the masks hold: class ``indices`` 0..C-1, or ``classes``: the numbers or colours of the masks that
            the model was trained on, so that 0/255 comes back as 0/255.
        palette: the masks show the classes' colours; their numbers stay.
        overlay: folder for pictures of the images in the classes' colours.
        probabilities: folder for npz files with ``probabilities``, float16 (H, W, C), or beside GeoTIFFs for GeoTIFFs
            with one band of float32 per class; of images of any size.
        probabilities_format: ``npz``, or ``zarr``: a store of the same array in chunks, to be read in parts (extra
            ``zarr``); ``auto``: as said above.
        bands: of files whose bands stand elsewhere than in those of the training: for each of the model's bands, in its
            order, the number (from 1) or the name that the file gives it; or ``names``: those of the model's names.
        pages: of TIFF stacks: ``all``, or the number of one, from 1; None = as in training (``data.pages``). With
            ``all`` the mask of a stack is a TIFF of as many pages; with ``form="png"`` a PNG each, ``NAME/page1.png``.
        device: as in :func:`evaluate`; a loaded model stays where it is unless one is named.
        quiet: no progress.

    Returns:
        The files written, in order of the names.

    Raises:
        ConfigError: a mask would take the place of an image, or of a file that is no mask of ours; nothing is written.
        UnreadableImages: of a folder, at the end: images that are broken; all others have their mask.
    """
    from segproto.data.images import MAX_PIXELS
    from segproto.data.measure import orientation_note
    from segproto.model.outputs import value_table
    from segproto.model.reading import order_note, reading_by, with_bands
    from segproto.runs.folder import images_and_masks
    from segproto.runs.models import ready
    from segproto.training.progress import Reporter

    out = place(out)
    given = {"--ood": ood, "--overlay": overlay, "--probabilities": probabilities}
    beside = {option: place(path, option) for option, path in given.items() if path is not None}
    if "--ood" in beside and (len(beside) > 1 or palette or values != "indices"):
        raise ConfigError("--ood writes plain masks beside its scores: leave out the other outputs, or run it apart")
    require_format(probabilities_format, probabilities)
    reporter = Reporter(active=not quiet)
    model = ready(target, stage, device)
    value_table(model.classes, values)
    rule = model.encoder.pixels if pages is None else replace(model.encoder.pixels, page=pages)
    several = [Path(images)] if isinstance(images, str | Path) else [Path(path) for path in images]
    broken = dict[Path, str]()
    pairs_of_files = [pair for path in several for pair in images_and_masks(path, out, reporter.line)]
    if line := orientation_note([file for file, _ in pairs_of_files], "masks are of these"):
        reporter.line(f"note: {line}")
    # scores are pictures, and so are the masks beside them
    jobs = jobs_of(pairs_of_files, "png" if ood is not None else form, rule)
    if len({job.mask for job in jobs}) < len(jobs):
        raise DataError(f"{out}: two of the images have one name and would share a mask; predict them apart")
    refuse_unfit(jobs, {*beside}, values, palette)
    require_free(jobs, out, beside, probabilities_format)
    if bands is None and (notes := [line for job in jobs if (line := order_note(rule, job.file))]):
        log.warning("%s%s", notes[0], f" ({len(notes) - 1} others, too)" if len(notes) > 1 else "")
    options: dict[str, Any] = {"window": window, "scales": scales, "flip": flip, "max_pixels": max_pixels or MAX_PIXELS}
    with reporter.bar("predict", len(jobs)) as bar:
        for done, job in enumerate(jobs, 1):
            paths = {o: beside_mask(folder, job.mask, out, o, probabilities_format) for o, folder in beside.items()}
            try:
                with reading_by(model, with_bands(rule, bands, job.file)):
                    write_job(model, job, paths, values, palette, options)
            except DataError as error:
                if [job.file] == several:
                    raise
                broken[job.file] = str(error)
            bar(done, len(jobs))
    written = [job.mask for job in jobs if job.file not in broken]
    if broken:
        raise UnreadableImages(broken, written)
    return written


def require_format(form: str, folder: PathLike | None) -> None:
    """Sees that probabilities can be written in a format.

    Raises:
        ConfigError: no such format, nowhere to write, or ``zarr`` without the extra of that name.
    """
    from segproto.files.stores import zarr_or_refuse

    if form not in ("auto", "npz", "zarr"):
        raise ConfigError(f"--probabilities-format {form}: expected auto, npz or zarr")
    if form != "auto" and folder is None:
        raise ConfigError(f"--probabilities-format {form}: say where to write them: --probabilities DIR")
    if form == "zarr":
        zarr_or_refuse("--probabilities-format zarr")


def write_job(
    model: Segmenter,
    job: Job,
    paths: Mapping[str, Path],
    values: Literal["indices", "classes"],
    palette: bool,
    options: Mapping[str, Any],
) -> None:
    """Writes the mask of an image, and what goes beside it.

    Args:
        model: reads the image as it is to be read.
        job: image and mask.
        paths: of the other outputs, by their option.
        values: what the mask holds.
        palette: it shows the classes' colours.
        options: how the image is looked at.
    """
    from segproto.model.ood import predict_scored_to_png
    from segproto.model.outputs import Outputs, predict_to_files
    from segproto.model.predict_raster import predict_to_tiff
    from segproto.model.predict_stack import predict_to_stack

    shares = paths.get("--probabilities")
    if job.kind == "stack":
        predict_to_stack(model, job.file, job.mask, values=values, **options)
    elif job.kind == "raster":
        predict_to_tiff(model, job.file, job.mask, probabilities=shares, **options)
    elif "--ood" in paths:
        predict_scored_to_png(model, job.image, job.mask, paths["--ood"], **options)
    else:
        outputs = Outputs(job.mask, values, palette, paths.get("--overlay"), shares)
        predict_to_files(model, job.image, outputs, **options)


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
    from segproto.files.rasters import rasterio_or_refuse

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
            rasterio_or_refuse("--format tif")
            jobs.append(Job(file, file, mask.with_suffix(".tif"), "raster"))
        else:
            jobs.append(Job(file, file, mask))
    return jobs


def placed_among(files: list[Path]) -> set[Path]:
    """The images that have a place on the earth; none, with a warning, where the extra ``geo`` is missing."""
    import importlib.util

    from segproto.data.tiff_bands import has_place
    from segproto.files.rasters import HINT

    placed = set()
    for file in files:
        with suppress(DataError):  # told when it is read
            placed |= {file} if has_place(file) else set()
    if placed and importlib.util.find_spec("rasterio") is None:
        log.warning("%d of the images are georeferenced; with %s their masks are, too (now: PNG)", len(placed), HINT)
        return set()
    return placed


KINDS = {"--ood": "scores", "--overlay": "picture", "--probabilities": "probabilities"}  # marks of the files


def beside_mask(folder: Path, mask: Path, out: Path, option: str, form: str) -> Path:
    """The file of another output that goes with a mask; ``form`` is that of probabilities."""
    file = folder / mask.relative_to(out)
    if option != "--probabilities" or (form == "auto" and file.suffix == ".tif"):
        return file
    return file.with_suffix(".zarr" if form == "zarr" else ".npz")
