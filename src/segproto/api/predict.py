"""The verb ``predict``: a mask for every image."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from segproto.errors import ConfigError, DataError, UnreadableImages
from segproto.files import place, require_all

if TYPE_CHECKING:
    from segproto.model.segmenter import Segmenter

PathLike = str | Path


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
    device: str | None = None,
    quiet: bool = False,
) -> list[Path]:
    """Writes a mask (PNG, mode L, class indices) for an image, or for each image of a folder.

    ``scales`` None: images are seen at their own size, or as a converted model was published to see them. ``ood`` is a
    folder for out-of-distribution scores (:func:`segproto.model.ood.predict_scored_to_png`), of the same names;
    ``device`` is as in :func:`evaluate`; a loaded model stays where it is unless one is named; ``quiet`` shows no
    progress.

    Returns:
        The files written, in order of the names.

    Raises:
        ConfigError: a mask would take the place of an image, or of a file that is no mask of ours; nothing is written.
        UnreadableImages: of a folder, at the end: images that are broken; all others have their mask.
    """
    from segproto.data.images import MAX_PIXELS
    from segproto.model.ood import predict_scored_to_png
    from segproto.model.predict import predict_to_png
    from segproto.runs.folder import images_and_masks
    from segproto.runs.models import ready
    from segproto.training.progress import Reporter

    out, scores = place(out), None if ood is None else place(ood, "--ood")
    model = ready(target, stage, device)
    reporter, broken = Reporter(active=not quiet), dict[Path, str]()
    pairs = images_and_masks(Path(images), out, reporter.line)
    require_all((mask for _, mask in pairs), "mask", (file for file, _ in pairs))
    if scores is not None:
        require_all((scores / mask.relative_to(out) for _, mask in pairs), "scores", (file for file, _ in pairs))
        if scores.absolute() == out.absolute():
            raise ConfigError(f"--ood {scores}: is the folder of the masks (--out); name another one")
    options: dict[str, Any] = {"window": window, "scales": scales, "flip": flip, "max_pixels": max_pixels or MAX_PIXELS}
    with reporter.bar("predict", len(pairs)) as bar:
        for done, (file, mask) in enumerate(pairs, 1):
            try:
                if scores is None:
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
