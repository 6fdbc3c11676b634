"""``analyse``: the papers' analyses of a trained model."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from segproto.cli.arguments import ArraysFolder, DataValues, Device, Image, Json, Nearest, Quiet, Stage, Target
from segproto.cli.options import settings
from segproto.cli.show import percent, print_json, print_table, say
from segproto.errors import ConfigError


def patches(
    target: Target,
    out: ArraysFolder,
    values: DataValues = None,
    split: Annotated[str, typer.Option(help="train or val.")] = "train",
    k: Nearest = 3,
    stage: Stage = None,
    device: Device = None,
    quiet: Quiet = False,
    as_json: Json = False,
) -> None:
    """Nearest training (or validation) patches of each prototype."""
    result = run("patches", target, out, values, stage, device, as_json, split=split, k=k, quiet=quiet)
    if not as_json:
        rows = [
            (f"{row['class']} #{row['prototype']}", str(sum(n["class"] == row["class"] for n in row["nearest"])))
            for row in result["prototypes"]
        ]
        print_table(["prototype", f"of its {k} nearest, of its class"], rows)
        say(f"Pictures in {out}")


def pixels(
    target: Target,
    out: ArraysFolder,
    values: DataValues = None,
    image: Image = None,
    at: Annotated[list[str] | None, typer.Option(metavar="ROW,COLUMN", help="A pixel; may be repeated.")] = None,
    count: Annotated[int, typer.Option(min=1, help="Random pixels, where --at names none.")] = 3,
    seed: Annotated[int, typer.Option(help="Of the random pixels.")] = 0,
    k: Nearest = 3,
    stage: Stage = None,
    device: Device = None,
    as_json: Json = False,
) -> None:
    """Nearest prototypes of chosen or random pixels."""
    points = [parse_point(text) for text in at] if at else None
    options = {"image": image, "points": points, "count": count, "seed": seed, "k": k}
    result = run("pixels", target, out, values, stage, device, as_json, **options)
    if not as_json:
        rows = [
            (",".join(map(str, row["pixel"])), "; ".join(f"{n['name']} ({n['distance']:.3g})" for n in row["nearest"]))
            for row in result["pixels"]
        ]
        print_table(["pixel", "nearest prototypes (squared distance)"], rows)
        say(f"Open {out / 'nearest_prototypes.png'}")


def groups(
    target: Target,
    out: ArraysFolder,
    values: DataValues = None,
    image: Annotated[str | None, typer.Option(help="Show its activation maps; default: the patches.")] = None,
    stage: Stage = None,
    device: Device = None,
    as_json: Json = False,
) -> None:
    """What each group consists of, as graphs."""
    result = run("groups", target, out, values, stage, device, as_json, image=image)
    if not as_json:
        rows = [
            (row["name"], ", ".join(f"#{m['prototype']} {m['weight']:.2f}" for m in row["members"]) or "none")
            for row in result["groups"]
        ]
        print_table(["group", "members and weights"], rows)
        say(f"Pictures in {out}")


def samples(
    target: Target,
    out: ArraysFolder,
    values: DataValues = None,
    images: Annotated[int, typer.Option(min=1, help="How many validation images.")] = 4,
    seed: Annotated[int, typer.Option(help="Of the choice of images.")] = 42,
    stage: Stage = None,
    device: Device = None,
    quiet: Quiet = False,
    as_json: Json = False,
) -> None:
    """Activation maps of sample images, per group and per scale."""
    result = run("samples", target, out, values, stage, device, as_json, images=images, seed=seed, quiet=quiet)
    if not as_json:
        say(f"{len(result['cases'])} images in {out}")


def assignments(
    target: Target,
    other: Annotated[Path, typer.Argument(help="Another run or model with the same classes.")],
    out: ArraysFolder,
    values: DataValues = None,
    image: Image = None,
    stage: Stage = None,
    device: Device = None,
    as_json: Json = False,
) -> None:
    """Which prototype decides each pixel, by two models side by side."""
    result = run("assignments", target, out, values, stage, device, as_json, other=other, image=image)
    if not as_json:
        rows = [(f"{row['first']} / {row['second']}", percent(row["share"])) for row in result["disagreements"][:10]]
        print_table(["first / second model", "pixels %"], rows)
        say(f"{percent(result['agreement'])} % of the pixels agree. Open {out / 'assignments.png'}")


def failures(
    target: Target,
    out: ArraysFolder,
    values: DataValues = None,
    below: Annotated[float, typer.Option(min=0, max=1, help="IoU of a class in an image that counts as failed.")] = 0.5,
    count: Annotated[int, typer.Option(min=1, help="Cases to draw, the largest first.")] = 8,
    images: Annotated[int, typer.Option(min=1, help="How many validation images are searched.")] = 200,
    ignore: Annotated[list[str] | None, typer.Option(help="A wrong class not worth showing (background).")] = None,
    stage: Stage = None,
    device: Device = None,
    quiet: Quiet = False,
    as_json: Json = False,
) -> None:
    """Where a class is missed: what spoke for the truth and what for the mistake."""
    options = {"below": below, "count": count, "images": images, "ignore": ignore or (), "quiet": quiet}
    result = run("failures", target, out, values, stage, device, as_json, **options)
    if not as_json:
        rows = [
            (case["image"], case["true_class"], case["wrong_class"], percent(case["iou"]), str(case["missed_pixels"]))
            for case in result["cases"]
        ]
        print_table(["image", "truth", "taken for", "IoU %", "pixels"], rows)
        say(f"{result['found']} cases in {result['images']} images; the largest are in {out}")


def run(
    analysis: str,
    target: Path,
    out: Path,
    values: list[str] | None,
    stage: str | None,
    device: str | None,
    as_json: bool,
    **options: Any,
) -> dict[str, Any]:
    """Runs an analysis; prints its JSON if asked."""
    from segproto import api

    result = api.analyse(analysis, target, out=out, stage=stage, overrides=settings(values), device=device, **options)
    if as_json:
        print_json(result)
    return result


def parse_point(text: str) -> tuple[int, int]:
    """``ROW,COLUMN`` to numbers."""
    try:
        row, column = (int(part) for part in text.split(","))
    except ValueError as error:
        raise ConfigError(f"--at {text}: expected ROW,COLUMN in pixels") from error
    return row, column
