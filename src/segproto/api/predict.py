"""The verb ``predict``: a mask for every image."""

from __future__ import annotations

import logging
from collections.abc import Iterable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from segproto.api.predict_jobs import (
    beside_mask,
    found,
    keep_scores,
    refuse_unfit,
    require_format,
    require_free,
    scores_of_maps,
)
from segproto.errors import ConfigError, UnreadableImages
from segproto.files import place

if TYPE_CHECKING:
    from segproto.model.predict import Views
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
    devices: int | None = None,
    precision: Literal["auto", "32-true", "bf16-mixed", "16-mixed"] = "auto",
    compiled: bool = False,
    resume: bool = False,
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
        ood: folder for out-of-distribution scores (:func:`segproto.model.ood.predict_scored_to_png`), and for
            ``images.json``, each image's score, the highest first (:func:`segproto.metrics.unknown.image_score`).
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
        devices: processes that share the images, as in :func:`evaluate`.
        precision: of the network; ``auto``: on a GPU as it was trained, on a CPU float32.
        compiled: the backbone runs through ``torch.compile``: its start takes up to a minute more, and again for new
            sizes of images.
        resume: masks that are there stay, if this model made them with the same settings; the others are made. Several
            images are needed.
        quiet: no progress.

    Returns:
        The files written, in order of the names.

    Raises:
        ConfigError: a mask would take the place of an image, or of a file that is no mask of ours, or with ``resume``
            the masks are of another model or of other settings; nothing is written.
        UnreadableImages: of a folder, at the end: images that are broken; all others have their mask.
    """
    from segproto.api.predict_loop import Writing, settings_of, write_all
    from segproto.data.images import MAX_PIXELS
    from segproto.model.outputs import value_table
    from segproto.model.reading import order_note
    from segproto.runs.continuing import keep_record, made_since
    from segproto.runs.models import ready
    from segproto.training.progress import Reporter
    from segproto.training.sharing import shared

    out = place(out)
    given = {"--ood": ood, "--overlay": overlay, "--probabilities": probabilities}
    beside = {option: place(path, option) for option, path in given.items() if path is not None}
    if "--ood" in beside and (len(beside) > 1 or palette or values != "indices"):
        raise ConfigError("--ood writes plain masks beside its scores: leave out the other outputs, or run it apart")
    require_format(probabilities_format, probabilities)
    several = [Path(images)] if isinstance(images, str | Path) else [Path(path) for path in images]
    with shared(devices, device, out, "go on with the same command and --resume") as share:
        reporter = Reporter(active=share.first and not quiet)
        model = ready(target, stage, share.device)
        value_table(model.classes, values)
        rule = model.encoder.pixels if pages is None else replace(model.encoder.pixels, page=pages)
        # scores are pictures, and so are the masks beside them
        jobs = found(several, out, "png" if ood is not None else form, rule, reporter.line)
        refuse_unfit(jobs, {*beside}, values, palette)
        require_free(jobs, out, beside, probabilities_format)
        if bands is None and (notes := [line for job in jobs if (line := order_note(rule, job.file))]):
            log.warning("%s%s", notes[0], f" ({len(notes) - 1} others, too)" if len(notes) > 1 else "")
        paths = [
            {o: beside_mask(folder, job.mask, out, o, probabilities_format) for o, folder in beside.items()}
            for job in jobs
        ]
        views: Views = {"window": window, "scales": scales, "flip": flip}
        writing = Writing(model, rule, bands, values, palette, views, max_pixels or MAX_PIXELS, precision, compiled)
        settings = settings_of(writing, beside, probabilities_format)
        if [job.file for job in jobs] != several or resume:
            share.do_first(lambda: keep_record(out, "predict", model, settings, resume))

        def there(files: Iterable[Path]) -> bool:
            return resume and made_since(out, "predict", files)

        broken: dict[Path, str] = {}
        with reporter.bar("predict", len(jobs)) as bar:
            for done, (job, error) in enumerate(write_all(writing, jobs, paths, share, there), 1):
                if error is not None and [job.file] == several:
                    raise error
                broken |= {} if error is None else {job.file: str(error)}
                bar(min(done * share.world, len(jobs)), len(jobs))
        told = [one for part in share.gather(broken) for one in part.items()]
        if "--ood" in beside:
            made = [
                (job.mask, path["--ood"]) for job, path in zip(jobs, paths, strict=True) if job.file not in dict(told)
            ]
            scores = scores_of_maps(made[share.rank :: share.world], out)
            rows = [one for part in share.gather(scores) for one in part]
            share.do_first(lambda: keep_scores(beside["--ood"], rows))
    if told:
        reasons = dict(told)
        raise UnreadableImages(reasons, [job.mask for job in jobs if job.file not in reasons])
    return [job.mask for job in jobs]
