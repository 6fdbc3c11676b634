"""The verb ``report``: one page about a run."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from segproto.files import place, require

PathLike = str | Path


def write_report(
    run: PathLike,
    *,
    compare: PathLike | None = None,
    out: PathLike | None = None,
    images: int = 3,
    overrides: Sequence[str] = (),
    device: str | None = None,
    devices: int | None = None,
    quiet: bool = False,
) -> Path:
    """One self-contained HTML page about a run.

    Args:
        run: the run folder.
        compare: a run to stand beside; default: the one its recipe names.
        out: the file; default ``RUN/report.html``.
        images: how many validation images to explain.
        overrides: ``data.key=value`` settings, as where the images have moved to.
        device: as in :func:`evaluate`.
        devices: processes that share the images, as in :func:`evaluate`; the first writes the page.
        quiet: no progress.
    """
    from segproto.report.page import report_page
    from segproto.runs.models import placed
    from segproto.training.progress import Reporter, reporting
    from segproto.training.sharing import shared

    path = place(out) if out is not None else Path(run) / "report.html"
    require(path, "page")
    with (
        shared(devices, device, run, "run the command again") as share,
        reporting(Reporter(active=share.first and not quiet)),
    ):
        report_page(
            Path(run),
            path,
            compare=None if compare is None else Path(compare),
            images=images,
            overrides=overrides,
            to_device=lambda model: placed(model, share.device),
            share=share,
        )
    return path
