"""``export`` and ``hub``."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal, cast

import typer

from segproto.cli.arguments import Json, Stage, Target
from segproto.cli.options import numbers
from segproto.cli.show import print_json, say
from segproto.errors import ConfigError


def export(
    target: Target,
    out: Annotated[Path, typer.Option(help="File to write (.onnx or .pt2); its card goes beside it as JSON.")],
    form: Annotated[str, typer.Option("--format", help="onnx or torch.")] = "onnx",
    size: Annotated[str | None, typer.Option(help="H,W of all pictures; default: any size.")] = None,
    stage: Stage = None,
    as_json: Json = False,
) -> None:
    """Write a model as one graph for other runtimes, and check it."""
    from segproto import api

    if form not in ("onnx", "torch"):
        raise ConfigError(f"--format {form}: expected onnx or torch")
    sides = numbers(size, "--size")
    if sides is not None and len(sides) != 2:
        raise ConfigError(f"--size {size}: expected H,W, as in 512,1024")
    fixed = None if sides is None else (sides[0], sides[1])
    card = api.export(target, out=out, form=cast(Literal["onnx", "torch"], form), size=fixed, stage=stage)
    if as_json:
        print_json(card)
        return
    check = card["check"]
    say(f"{out}: {', '.join(card['outputs'])}; its card is {out.with_suffix('.json')}")
    multiple = card["size"]["multiple_of"]
    picture_size = f"{fixed[0]}x{fixed[1]}" if fixed else "any" + (f" multiple of {multiple}" if multiple > 1 else "")
    say(f"picture size: {picture_size}" + (f"; opset {card['opset']}" if card["opset"] else ""))
    say(f"same answers as the model in {check['runtime']}: {check['equal_mask_pixels']:.4%} of mask pixels")


def push(
    target: Target,
    repo: Annotated[str, typer.Argument(help="USER/NAME on the Hugging Face hub.")],
    public: Annotated[bool, typer.Option("--public", help="Make a new repository public.")] = False,
    stage: Stage = None,
) -> None:
    """Upload a model with a generated card."""
    from segproto import api

    say(api.hub_push(target, repo=repo, stage=stage, private=not public))


def pull(
    repo: Annotated[str, typer.Argument(help="USER/NAME on the Hugging Face hub.")],
    out: Annotated[Path, typer.Option(help="Model folder to write.")],
    revision: Annotated[str | None, typer.Option(help="Branch, tag or commit.")] = None,
) -> None:
    """Download a model."""
    from segproto import api

    say(str(api.hub_pull(repo, out=out, revision=revision)))
