"""The verb ``predict``: a mask for every image."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
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
    from segproto.model.ood import predict_scored_to_png
    from segproto.model.outputs import Outputs, predict_to_files, value_table
    from segproto.model.predict_raster import predict_to_tiff
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
    several = [Path(images)] if isinstance(images, str | Path) else [Path(path) for path in images]
    broken = dict[Path, str]()
    pairs_of_files = [pair for path in several for pair in images_and_masks(path, out, reporter.line)]
    if line := orientation_note([file for file, _ in pairs_of_files], "masks are of these"):
        reporter.line(f"note: {line}")
    # scores are pictures, and so are the masks beside them
    pairs = with_forms(pairs_of_files, "png" if ood is not None else form)
    if len({mask for _, mask in pairs}) < len(pairs):
        raise DataError(f"{out}: two of the images have one name and would share a mask; predict them apart")
    if (values != "indices" or overlay is not None) and any(mask.suffix == ".tif" for _, mask in pairs):
        raise ConfigError("--values classes and --overlay go with pictures, and masks would be GeoTIFFs: --format png")
    require_free(pairs, out, beside, probabilities_format)
    options: dict[str, Any] = {"window": window, "scales": scales, "flip": flip, "max_pixels": max_pixels or MAX_PIXELS}
    with reporter.bar("predict", len(pairs)) as bar:
        for done, (file, mask) in enumerate(pairs, 1):
            paths = {o: beside_mask(folder, mask, out, o, probabilities_format) for o, folder in beside.items()}
            try:
                if mask.suffix == ".tif":
                    predict_to_tiff(model, file, mask, probabilities=paths.get("--probabilities"), **options)
                elif "--ood" in paths:
                    predict_scored_to_png(model, file, mask, paths["--ood"], **options)
                else:
                    pictures, shares = paths.get("--overlay"), paths.get("--probabilities")
                    predict_to_files(model, file, Outputs(mask, values, palette, pictures, shares), **options)
            except DataError as error:
                if [file] == several:
                    raise
                broken[file] = str(error)
            bar(done, len(pairs))
    written = [mask for file, mask in pairs if file not in broken]
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


def require_free(pairs: list[tuple[Path, Path]], out: Path, beside: Mapping[str, Path], form: str) -> None:
    """Sees that no file to write would take the place of another.

    Args:
        pairs: images and masks.
        out: folder of the masks.
        beside: folders of other outputs by their option.
        form: of probabilities.

    Raises:
        ConfigError: naming the first that would.
    """
    from segproto.files.stores import require_store

    require_all((mask for _, mask in pairs), "mask", (file for file, _ in pairs))
    for option, folder in beside.items():
        if folder.absolute() in {out.absolute(), *(f.absolute() for o, f in beside.items() if o != option)}:
            raise ConfigError(f"{option} {folder}: is the folder of other files (--out); name another one")
        files = [beside_mask(folder, mask, out, option, form) for _, mask in pairs]
        if option == "--probabilities" and form == "zarr":
            for file in files:
                require_store(file, KINDS[option])
        else:
            require_all(files, KINDS[option], (file for file, _ in pairs))


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


KINDS = {"--ood": "scores", "--overlay": "picture", "--probabilities": "probabilities"}  # marks of the files


def beside_mask(folder: Path, mask: Path, out: Path, option: str, form: str) -> Path:
    """The file of another output that goes with a mask; ``form`` is that of probabilities."""
    file = folder / mask.relative_to(out)
    if option != "--probabilities" or (form == "auto" and file.suffix == ".tif"):
        return file
    return file.with_suffix(".zarr" if form == "zarr" else ".npz")
