"""Masks and probabilities of georeferenced images, as GeoTIFFs that lie where the image lies, block by block."""

from __future__ import annotations

from contextlib import ExitStack
from pathlib import Path
from typing import Unpack

import torch

from segproto.data.images import MAX_PIXELS
from segproto.data.picture import look_at
from segproto.data.tiff_bands import TiffBands, has_place
from segproto.files.rasters import Georeference, RasterWriter, georeference
from segproto.model.outputs import share_file, with_ones
from segproto.model.predict import Views, logit_bands
from segproto.model.segmenter import Segmenter
from segproto.model.windows import evaluating
from segproto.prototypes.labels import IGNORE_INDEX


def place_of(image: Path, page: int | None) -> Georeference:
    """Where an image file, or that page of it, lies; nowhere if it is no TIFF.

    Raises:
        ConfigError: the extra ``geo`` is missing.
        DataError: GDAL cannot read it.
    """
    if not has_place(image):
        return Georeference()
    return georeference(image, 1 if page is None else TiffBands(image, page).directory)


def predict_to_tiff(
    segmenter: Segmenter,
    image: Path,
    out: Path,
    *,
    probabilities: Path | None = None,
    max_pixels: int = MAX_PIXELS,
    **views: Unpack[Views],
) -> None:
    """Writes :func:`segproto.model.predict.predict`'s mask as a GeoTIFF with the image's place, and the probabilities.

    Args:
        segmenter: the model.
        image: a file; a TIFF that is read in windows may be of any size.
        out: the mask: one band of class numbers with their colours, 255 = no image there (its nodata value).
        probabilities: a GeoTIFF (``.tif``) of one band per class, float32 in 0..1, NaN = no image there; or any that
            :func:`segproto.model.outputs.share_file` writes.
        max_pixels: larger images are refused; the default is for files that are decoded as a whole.
        views: as :func:`segproto.model.predict.predict`.

    Raises:
        ConfigError: the extra ``geo`` is missing.
    """
    rule = segmenter.encoder.pixels
    location = place_of(image, rule.page if isinstance(rule.page, int) else None)
    picture = look_at(image, max_pixels, rule)
    table, wide = segmenter.classes, segmenter.head.num_classes > IGNORE_INDEX
    size = (picture.height, picture.width)
    colours = None if wide else {index: colour for index, colour in enumerate(table.colours) if index != IGNORE_INDEX}
    words = {f"CLASS_{index}": name for index, name in enumerate(table.names)}
    with ExitStack() as stack:
        options = {"nodata": IGNORE_INDEX, "kind": "mask", "names": ["class"], "colours": colours, "tags": words}
        dtype = "uint16" if wide else "uint8"
        mask = stack.enter_context(RasterWriter(out, *size, dtype, location, **options))  # type: ignore[arg-type]
        raster = plain = None
        if probabilities is not None and probabilities.suffix == ".tif":
            options = {"nodata": float("nan"), "kind": "probabilities", "names": list(table.names)}
            raster = stack.enter_context(
                RasterWriter(probabilities, *size, "float32", location, **options)  # type: ignore[arg-type]
            )
        elif probabilities is not None:
            plain = stack.enter_context(share_file(probabilities, size, table))
        stack.enter_context(evaluating(segmenter))
        done = 0
        for maps in logit_bands(
            segmenter, picture, maps=lambda images: with_ones(segmenter.grid_logits(images)), **views
        ):
            logits = maps[:-1]
            rows = logits.max(0)[1].to(torch.int32).cpu()
            outside = None
            if picture.inside is not None:
                outside = ~picture.inside(done, 0, done + len(rows), picture.width)
                rows[outside] = IGNORE_INDEX
            mask.write(rows.numpy())
            if probabilities is not None:
                values = segmenter.head.probabilities(logits / maps[-1:], 0).cpu()
                if plain is not None:
                    plain(values)
                if raster is not None:
                    if outside is not None:
                        values[:, outside] = float("nan")
                    raster.write(values.numpy())
            done += len(rows)
