"""The verb ``explain``: the evidence for each pixel of an image."""

from __future__ import annotations

import logging
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from segproto.errors import ConfigError, DataError, UnreadableImages
from segproto.files import place, require_all

if TYPE_CHECKING:
    from segproto.data.picture import ImageLike
    from segproto.model.explanation import Explanation
    from segproto.model.reading import Bands
    from segproto.model.segmenter import Segmenter

PathLike = str | Path
log = logging.getLogger(__name__)


def explain(
    target: PathLike | Segmenter,
    image: ImageLike,
    *,
    out: PathLike | None = None,
    stage: str | None = None,
    region: tuple[int, int, int, int] | None = None,
    max_pixels: int | None = None,
    bands: Bands | None = None,
    page: int | None = None,
    device: str | None = None,
) -> Explanation:
    """The evidence for each pixel; with ``out`` also maps, JSON and a page ``index.html`` to look around in.

    Args:
        target: a run or model folder, or a loaded model.
        image: a file, PIL image, array or tensor.
        out: folder to write.
        stage: of a run: the model this stage left.
        region: (y0, x0, y1, x1) in pixels, for large images.
        max_pixels: larger images are refused; None = 2^28.
        bands: of a file whose bands stand elsewhere than in training, see :func:`predict`.
        page: of a TIFF stack, from 1; None = as in training (``data.pages``).
        device: as in :func:`evaluate`; a loaded model stays where it is unless one is named.

    Examples:
        >>> import segproto
        >>> why = segproto.explain("runs/em", "image.png", out="why")
        >>> spot = why.pixel(10, 20)
        >>> shares = sum(part.contribution for part in spot.prototypes) + spot.others + spot.offset
        >>> abs(shares - spot.logit) < 1e-3
        True
    """
    from segproto.data.images import MAX_PIXELS
    from segproto.data.measure import orientation_note
    from segproto.model.explain import explain as explain_image
    from segproto.model.overlays import FILES
    from segproto.model.reading import reading_by, with_bands
    from segproto.report.page import explanation_page
    from segproto.runs.models import ready

    if out is not None:
        inputs = [Path(image)] if isinstance(image, str | Path) else []
        for name, kind in {**FILES, "index.html": "page"}.items():
            require_all([place(out) / name], kind, inputs)
    model = ready(target, stage, device)
    if isinstance(image, str | Path) and (line := orientation_note([Path(image)], "maps are of these")):
        log.warning("note: %s", line)
    rule = model.encoder.pixels if page is None else replace(model.encoder.pixels, page=page)
    if bands is not None and not isinstance(image, str | Path):
        raise ConfigError("bands: goes with files; of an array choose them yourself")
    rule = with_bands(rule, bands, image) if isinstance(image, str | Path) else rule
    with reading_by(model, rule):
        result = explain_image(model, image, region=region, max_pixels=max_pixels or MAX_PIXELS)
        if out is not None:
            result.save(Path(out))
            explanation_page(result, Path(out) / "index.html")
    return result


def explain_folder(
    target: PathLike | Segmenter,
    images: PathLike,
    *,
    out: PathLike,
    stage: str | None = None,
    max_pixels: int | None = None,
    bands: Bands | None = None,
    device: str | None = None,
    devices: int | None = None,
    resume: bool = False,
    quiet: bool = False,
) -> list[Path]:
    """:func:`explain` of each image of a folder: maps, JSON and a page in ``out/NAME/``.

    Args:
        target: a run or model folder, or a loaded model.
        images: the folder; folders of masks in it are left out.
        out: folder to write.
        stage: of a run: the model this stage left.
        max_pixels: larger images are refused; None = 2^28.
        bands: as in :func:`explain`.
        device: as in :func:`evaluate`.
        devices: processes that share the images, as in :func:`evaluate`.
        resume: what this model made there stays.
        quiet: no progress.

    Returns:
        The pages, in order of the images' names.

    Raises:
        ConfigError: with ``resume``, if ``out`` holds what another model made.
        UnreadableImages: at the end: images that are broken; all others are explained.
    """
    from segproto.model.together import chunked
    from segproto.runs.continuing import keep_record, made_since
    from segproto.runs.folder import images_and_masks
    from segproto.runs.models import ready
    from segproto.training.progress import Reporter
    from segproto.training.sharing import shared

    folder = place(out)
    with shared(devices, device, folder, "go on with the same command and --resume") as share:
        reporter = Reporter(active=share.first and not quiet)
        model = ready(target, stage, share.device)
        pairs = images_and_masks(Path(images), folder, reporter.line)
        pages = [mask.with_suffix("") / "index.html" for _, mask in pairs]
        share.do_first(lambda: keep_record(folder, "explain", model, {"bands": bands}, resume))
        broken: dict[Path, str] = {}
        own = chunked(len(pairs), share.rank, share.world)
        with reporter.bar("explain", len(own)) as bar:
            for done, index in enumerate(own, 1):
                file, page = pairs[index][0], pages[index]
                if not (resume and made_since(folder, "explain", [page])):  # it is written last
                    try:
                        explain(model, file, out=page.parent, max_pixels=max_pixels, bands=bands)
                    except DataError as error:
                        broken[file] = str(error)
                bar(done, len(own))
        told = dict(one for part in share.gather(broken) for one in part.items())
    written = [page for (file, _), page in zip(pairs, pages, strict=True) if file not in told]
    if told:
        raise UnreadableImages(told, written)
    return written
