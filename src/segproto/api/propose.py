"""The verb ``propose``: mask proposals without labels."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from segproto.files import place


def propose(
    images: str | Path,
    *,
    out: str | Path,
    overrides: Sequence[str] = (),
    devices: int | None = None,
    device: str | None = None,
    quiet: bool = False,
) -> dict[str, Any]:
    """Mask proposals without labels, of a folder of images or, with a page about it, of one image.

    An interrupted call goes on where it stopped when it is made again, and ends with the same files.

    Args:
        images: an image or a folder.
        out: gets ``masks/`` (PNG of numbers 1..M, 255 = none), ``overlays/`` and, for one image, ``index.html``.
        overrides: ``encoder.KEY=VALUE`` and ``proposals.KEY=VALUE`` settings.
        devices: processes that share the images, as in :func:`evaluate`. On the CPU each works on as many images at
            once as torch has threads.
        device: ``cpu``, ``cuda`` or ``cuda:N``; None = cuda if there is one.
        quiet: no progress.

    Returns:
        ``images``, ``masks``, ``overlays``; for one image also ``proposals`` and ``page``.

    Raises:
        SegprotoError: settings, weights or images that cannot be used, or ``out`` taken by something else.
    """
    from segproto.api.proposal_jobs import run

    return run(Path(images), place(out), overrides, devices, device, quiet)
