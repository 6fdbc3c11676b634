"""The verb ``predict``: a mask for every image."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from segproto.errors import ConfigError, DataError, UnreadableImages
from segproto.files import place, require_all

if TYPE_CHECKING:
    from segproto.model.segmenter import Segmenter

PathLike = str | Path
log = logging.getLogger(__name__)


def predict(
    target: PathLike | Segmenter,
    images: PathLike,
    *,
    out: PathLike,
    stage: str | None = None,
    window: int | None = None,
    scales: Sequence[float] | None = None,
    flip: bool = False,
    max_pixels: int | None = None,
    ood: PathLike | None = None,
    form: Literal["auto", "png", "tif"] = "auto",
    probabilities: PathLike | None = None,
    device: str | None = None,
    quiet: bool = False,
) -> list[Path]:
    """Writes a mask (class indices) for an image, or for each image of a folder.

    ``scales`` None: images are seen at their own size, or as a converted model was published to see them.
    ``form``: PNG, mode L (``png``), or GeoTIFF with the image's place on the earth and 255 as nodata (``tif``,
    needs the extra ``geo``); ``auto``: GeoTIFF for images that have such a place, where the extra is there.
    ``probabilities`` is a folder for GeoTIFFs of the same names, one band of float32 per class (needs ``geo``).
    ``ood`` is a folder for out-of-distribution scores (:func:`segproto.model.ood.predict_scored_to_png`), of the same
    names; ``device`` is as in :func:`evaluate`; a loaded model stays where it is unless one is named; ``quiet``
    shows no progress.

    Returns:
        The files written, in order of the names.

    Raises:
        ConfigError: a mask would take the place of an image, or of a file that is no mask of ours; nothing is written.
        UnreadableImages: of a folder, at the end: images that are broken; all others have their mask.
    """
    from segproto.data.images import MAX_PIXELS
    from segproto.data.measure import orientation_note
    from segproto.model.ood import predict_scored_to_png
    from segproto.model.predict import predict_to_png
    from segproto.model.predict_raster import predict_to_tiff
    from segproto.runs.folder import images_and_masks
    from segproto.runs.models import ready
    from segproto.training.progress import Reporter

    out, scores = place(out), None if ood is None else place(ood, "--ood")
    model = ready(target, stage, device)
    reporter, broken = Reporter(active=not quiet), dict[Path, str]()
    found = images_and_masks(Path(images), out, reporter.line)
    if line := orientation_note([file for file, _ in found], "masks are of these"):
        reporter.line(f"note: {line}")
    # scores are pictures, and so are the masks beside them
    pairs = with_forms(found, "png" if ood is not None else "tif" if probabilities is not None else form)
    maps = None if probabilities is None else place(probabilities, "--probabilities")
    if maps is not None and (ood is not None or maps.absolute() == out.absolute()):
        raise ConfigError(f"--probabilities {maps}: takes a folder other than --out, and no --ood")
    require_all((mask for _, mask in pairs), "mask", (file for file, _ in pairs))
    if scores is not None:
        require_all((scores / mask.relative_to(out) for _, mask in pairs), "scores", (file for file, _ in pairs))
        if scores.absolute() == out.absolute():
            raise ConfigError(f"--ood {scores}: is the folder of the masks (--out); name another one")
    if maps is not None:
        require_all((maps / mask.relative_to(out) for _, mask in pairs), "probabilities", (file for file, _ in pairs))
    options: dict[str, Any] = {"window": window, "scales": scales, "flip": flip, "max_pixels": max_pixels or MAX_PIXELS}
    with reporter.bar("predict", len(pairs)) as bar:
        for done, (file, mask) in enumerate(pairs, 1):
            try:
                if mask.suffix == ".tif":
                    shares = None if maps is None else maps / mask.relative_to(out)
                    predict_to_tiff(model, file, mask, probabilities=shares, **options)
                elif scores is None:
                    predict_to_png(model, file, mask, **options)
                else:
                    predict_scored_to_png(model, file, mask, scores / mask.relative_to(out), **options)
            except DataError as error:
                if Path(images).is_file():
                    raise
                broken[file] = str(error)
            bar(done, len(pairs))
    written = [mask for file, mask in pairs if file not in broken]
    if broken:
        raise UnreadableImages(broken, written)
    return written


def with_forms(pairs: list[tuple[Path, Path]], form: str) -> list[tuple[Path, Path]]:
    """Images and masks, of which those to be GeoTIFFs are called so.

    Raises:
        ConfigError: no such form, or ``tif`` without the extra ``geo``.
    """
    import importlib.util

    from segproto.data.tiff_bands import has_place
    from segproto.files.rasters import HINT, rasterio_or_refuse

    if form not in ("auto", "png", "tif"):
        raise ConfigError(f"--format {form}: expected auto, png or tif")
    if form == "png":
        return pairs
    if form == "tif":
        rasterio_or_refuse("--format tif")
        return [(file, mask.with_suffix(".tif")) for file, mask in pairs]
    placed = set()
    for file, _ in pairs:
        with suppress(DataError):  # told when it is read
            placed |= {file} if has_place(file) else set()
    if placed and importlib.util.find_spec("rasterio") is None:
        log.warning("%d of the images are georeferenced; with %s their masks are, too (now: PNG)", len(placed), HINT)
        return pairs
    return [(file, mask.with_suffix(".tif") if file in placed else mask) for file, mask in pairs]
