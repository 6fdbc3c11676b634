"""``evaluate``, ``report`` and ``compare``."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any

import typer

from segproto.cli.arguments import (
    DataValues,
    Device,
    Devices,
    Flip,
    Json,
    Precision,
    Quiet,
    Scales,
    Stage,
    Window,
)
from segproto.cli.options import factors, settings, value_kind
from segproto.cli.show import first_process, percent, print_json, print_table, say
from segproto.errors import ConfigError


def evaluate(
    target: Annotated[Path | None, typer.Argument(help="A run folder or a model folder.")] = None,
    values: DataValues = None,
    stage: Stage = None,
    split: Annotated[str, typer.Option(help="train or val.")] = "val",
    window: Window = None,
    scales: Scales = "1",
    flip: Flip = False,
    crf: Annotated[
        str | None, typer.Option(help="Also score after a dense CRF, a published set A..E (DeepLab: E).")
    ] = None,
    save: Annotated[Path | None, typer.Option(help="Folder for the masks, in SPLIT/ and (--crf) SPLIT-crf/.")] = None,
    test: Annotated[
        Path | None, typer.Option(help="Images without labels: with --save, their masks in test/ and test-crf/.")
    ] = None,
    device: Device = None,
    devices: Devices = None,
    out: Annotated[
        Path | None, typer.Option(help="JSON file; default: in RUN/evaluation/ if only --stage or --split is given.")
    ] = None,
    masks: Annotated[Path | None, typer.Option(help="Score this folder of masks instead of a model.")] = None,
    cams: Annotated[
        Path | None, typer.Option(help="Score this folder of class activation maps (npz, npy) at all thresholds.")
    ] = None,
    curve: Annotated[
        bool, typer.Option("--curve", help="With --cams: print every threshold; with --out also a PNG beside it.")
    ] = False,
    gt: Annotated[Path | None, typer.Option(help="Ground truth for --masks or --cams, same file names.")] = None,
    names: Annotated[
        Path | None, typer.Option("--list", help="Score (of --test: write) only the names in this file.")
    ] = None,
    classes: Annotated[
        Path | None, typer.Option(help="classes.yaml of --gt; default: GT/classes.yaml, if any.")
    ] = None,
    void: Annotated[int, typer.Option(help="Value of --gt that does not count.")] = 255,
    masks_suffix: Annotated[str, typer.Option(help="End of --masks' names that is none of the name: _pred.")] = "",
    gt_suffix: Annotated[str, typer.Option(help="The same of --gt, as in _mask.")] = "",
    mask_values: Annotated[
        str, typer.Option("--values", help="What --masks hold: indices (0..C-1), or classes: the values of --classes.")
    ] = "indices",
    coarse: Annotated[bool, typer.Option("--coarse", help="Allow Cityscapes' coarse labels as --gt.")] = False,
    ood_labels: Annotated[
        Path | None, typer.Option(help="Folder of masks, 1 = unknown, 255 = void: also the out-of-distribution scores.")
    ] = None,
    interpretability: Annotated[
        bool,
        typer.Option("--interpretability", help="Also the interpretability metrics; data.parts=TABLE names parts."),
    ] = False,
    precision: Precision = "auto",
    quiet: Quiet = False,
    as_json: Json = False,
) -> None:
    """Score a model, or any folder of masks."""
    from segproto import api

    if curve and cams is None:
        raise ConfigError("--curve needs --cams DIR")
    scored: dict[str, Any] = {"names": names, "classes": classes, "void": void, "out": out, "quiet": quiet}
    if cams is not None:
        if gt is None or masks is not None or target is not None:
            raise ConfigError("scoring maps takes --cams DIR and --gt DIR, and neither --masks nor a model")
        figures = api.score_cams(cams, gt=gt, curve=curve, **scored)
    elif masks is not None or gt is not None:
        if masks is None or gt is None or target is not None:
            raise ConfigError("scoring masks takes --masks DIR and --gt DIR, and no model")
        scored |= {"masks_suffix": masks_suffix, "gt_suffix": gt_suffix, "values": value_kind(mask_values)}
        figures = api.score_masks(masks, gt=gt, coarse=coarse, **scored)
    elif target is None:
        raise ConfigError("expected a run or a model, or --masks DIR --gt DIR")
    else:
        figures = api.evaluate(
            target,
            stage=stage,
            split=split,
            overrides=settings(values),
            window=window,
            scales=factors(scales, "--scales"),
            flip=flip,
            crf=crf,
            save=save,
            test=test,
            names=names,
            device=device,
            devices=devices,
            out=out,
            ood_labels=ood_labels,
            interpretability=interpretability,
            precision=precision,  # type: ignore[arg-type]
            quiet=quiet,
        )
    if not first_process():
        return
    if as_json:
        print_json(figures)
        return
    print_figures(figures)
    if cams is not None:
        print_curve(figures, whole=curve)


def print_curve(figures: dict[str, Any], *, whole: bool) -> None:
    """The best threshold of activation maps, or all of them."""
    if whole:
        rows = [(f"{row['threshold']:.2f}", percent(row["miou"]), percent(row["accuracy"])) for row in figures["curve"]]
        print_table(["threshold", "mIoU %", "accuracy %"], rows)
    say(f"best threshold: {figures['threshold']:.2f} ({figures['images']} images)")
    for key, words in (("without_gt", "maps without a mask"), ("without_cams", "masks without maps")):
        if figures[key]:
            say(f"{words}, not counted: {len(figures[key])}, first {figures[key][0]!r}", err=True)


def print_figures(figures: dict[str, Any]) -> None:
    """The per-class table and the summary under it."""
    head, keys = ["class", "IoU %"], ["iou"]
    if "iiou" in figures:
        head, keys = [*head, "instance IoU %"], [*keys, "iiou"]
    columns = [(figures, key) for key in keys]
    if "crf" in figures:
        head, columns = [*head, "IoU % after CRF"], [*columns, (figures["crf"], "iou")]
    rows = [
        (row["name"], *(percent(source["per_class"][i][key]) for source, key in columns))
        for i, row in enumerate(figures["per_class"])
    ]
    means = {"iou": "miou", "iiou": "iiou"}
    rows.append(("mean (mIoU)", *(percent(source[means[key]]) for source, key in columns)))
    accuracies = [percent(source["accuracy"]) if key == "iou" else "" for source, key in columns]
    rows.append(("pixel accuracy", *accuracies))
    if "void" in figures:
        blanks = ["" for _ in columns[1:]]
        rows.append(("void pixels", percent(figures["void"]), *blanks))
    print_table(head, rows)
    tell_absent("mIoU", figures["per_class"])
    if figures.get("labels"):
        say(f"labels: {figures['labels']}")
    if figures.get("trained_in"):
        seen = "" if figures["precision"] == figures["trained_in"] else f", scored in {figures['precision']}"
        say(f"trained in: {figures['trained_in']}{seen}")
    if "warning" in figures:
        say(f"warning: {figures['warning']}", err=True)
    if "ood" in figures:
        scores = figures["ood"]["scores"].items()
        shown = ("auroc", "average_precision", "fpr95", "image_auroc")
        table = [(name, *(percent(one[key]) for key in shown)) for name, one in scores]
        print_table(["unknown pixels by", "AUROC %", "AP %", "FPR95 %", "AUROC of images %"], table)
    if "interpretability" in figures:
        print_metrics(figures["interpretability"])
    if figures.get("file"):
        say(f"written to {figures['file']}")


def tell_absent(what: str, per_class: Sequence[Mapping[str, Any]]) -> None:
    """A line about classes that the data do not show, if there are some."""
    from segproto.evaluation.absent import absent_words

    if over := absent_words(per_class):
        say(f"{what}{over}")


def print_metrics(figures: dict[str, Any]) -> None:
    """The interpretability metrics: value, and what it means or why there is none."""
    say()
    metrics = figures["metrics"].items()
    values = {name: "-" if metric["value"] is None else f"{metric['value']:.3g}" for name, metric in metrics}
    print_table(
        ["metric", "value", ""],
        [(name, values[name], metric.get("reason", metric["meaning"])) for name, metric in metrics],
    )
    if passes := figures["metrics"].get("faithfulness", {}).get("forward_passes"):
        say(f"faithfulness: {passes} forward passes on {figures['images_deleted']} images")
    if figures.get("file"):
        say(f"all figures: {figures['file']}")


def report(
    run: Annotated[Path, typer.Argument(help="A run folder.")],
    values: DataValues = None,
    compare: Annotated[Path | None, typer.Option(help="A run to stand beside, usually the black box.")] = None,
    out: Annotated[Path | None, typer.Option(help="HTML file; default: RUN/report.html.")] = None,
    images: Annotated[int, typer.Option(min=0, max=12, help="Validation images to explain.")] = 3,
    device: Device = None,
    devices: Devices = None,
    quiet: Quiet = False,
    as_json: Json = False,
) -> None:
    """Write one self-contained HTML page about a run."""
    from segproto import api

    options: dict[str, Any] = {"compare": compare, "out": out, "images": images, "device": device, "devices": devices}
    path = api.write_report(run, overrides=settings(values), quiet=quiet, **options)
    if not first_process():
        return
    if as_json:
        print_json({"report": str(path)})
    else:
        say(f"Open {path}")


def compare(
    runs: Annotated[list[Path], typer.Argument(help="Run folders, or folders of seed runs.")],
    out: Annotated[Path | None, typer.Option(help="JSON file to write.")] = None,
    as_json: Json = False,
) -> None:
    """Mean and spread of runs, side by side."""
    from segproto import api

    result = api.compare(runs, out=out)
    if as_json:
        print_json(result)
        return
    rows = [
        (
            row["name"],
            str(row["runs"]),
            spread(row["miou"]),
            spread(row["accuracy"]),
            plain(row["prototypes"]),
            plain(row["prototypes_used"]),
            plain(row["group_average"]),
        )
        for row in result["rows"]
    ]
    print_table(["recipe", "runs", "mIoU %", "accuracy %", "prototypes", "used", "in a group"], rows)
    for row in result["rows"]:
        if row["absent"]:
            say(f"{row['name']}: mIoU{row['absent']}")
    say("± is the sample standard deviation over runs.")
    trained = {row["name"]: "/".join(sorted({str(p) for p in row["precisions"]})) for row in result["rows"]}
    if len({*trained.values()}) > 1:
        say(f"trained in different precisions: {', '.join(f'{n} in {p}' for n, p in trained.items())}")


def spread(value: dict[str, Any] | None) -> str:
    """A share's mean and spread as percentages."""
    if value is None:
        return "-"
    mean = percent(value["mean"])
    return mean if value["std"] is None else f"{mean} ± {percent(value['std'])}"


def plain(value: dict[str, Any] | None) -> str:
    """A count's mean, with one digit where it is not whole."""
    if value is None:
        return "-"
    return f"{value['mean']:.0f}" if value["mean"] == int(value["mean"]) else f"{value['mean']:.1f}"
