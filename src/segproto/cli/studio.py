"""``studio``: the page on this machine."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from segproto.cli.arguments import DataValues, Device, Stage, Target
from segproto.cli.options import settings
from segproto.cli.show import say


def studio(
    target: Target,
    values: DataValues = None,
    compare: Annotated[Path | None, typer.Option(help="Another run, to stand beside it.")] = None,
    out: Annotated[Path | None, typer.Option(help="Folder of edited models and masks; default: RUN/studio.")] = None,
    review: Annotated[Path | None, typer.Option(help="Folder of segproto review, whose list to decide about.")] = None,
    port: Annotated[int, typer.Option(min=0, max=65535, help="Default: any that is free.")] = 0,
    stage: Stage = None,
    device: Device = None,
) -> None:
    """Look into a model in the browser, switch prototypes off, decide about doubtful labels (extra studio)."""
    from segproto.studio.serve import serve

    serve(
        target,
        compare=compare,
        out=out,
        review=review,
        port=port,
        stage=stage,
        overrides=settings(values),
        device=device,
        tell=lambda line: say(line, err=True),
    )
