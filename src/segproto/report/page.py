"""The two pages: a report about a run, and one explained image. Each is a single file that needs no network."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from segproto.data.base import Sample
from segproto.data.build import build_dataset
from segproto.data.table import DATASETS
from segproto.errors import SegprotoError
from segproto.evaluation.float32 import agreement_words
from segproto.files import write
from segproto.files.pages import page_environment
from segproto.model.explain import explain
from segproto.model.explanation import Explanation
from segproto.model.figures import number_figures
from segproto.model.segmenter import Segmenter
from segproto.prototypes.labels import IGNORE_INDEX
from segproto.report import gallery
from segproto.report.evidence import probe_image
from segproto.report.failures import BELOW, FailureBook
from segproto.report.matched import comparable
from segproto.report.measures import edit_figures, metric_picture, metric_rows, threshold_charts, threshold_rows
from segproto.report.shortcuts import ShortcutBook
from segproto.report.steps import step_cases
from segproto.report.tables import by_class, charts, class_rows, css, stage_rows
from segproto.report.wording import LEADS, SENTENCES, relation, warnings
from segproto.runs.folder import Run
from segproto.runs.settings import data_config
from segproto.training.progress import current
from segproto.training.sharing import Share
from segproto.version import __version__

if TYPE_CHECKING:
    from jinja2 import Environment

LIMIT = 15 * 2**20  # bytes; a page larger than that is slow to open on a phone


def report_page(
    folder: Path,
    out: Path,
    *,
    compare: Path | None = None,
    images: int = 3,
    overrides: Sequence[str] = (),
    to_device: Callable[[Segmenter], Segmenter] = lambda model: model,
    share: Share | None = None,
) -> None:
    """Writes the report of a run.

    Args:
        folder: the run.
        out: the HTML file.
        compare: a run to stand beside; None = the one its recipe names, if that is still there.
        images: validation images to explain.
        overrides: ``data.key=value`` settings.
        to_device: moves the model to the device it computes on.
        share: of the images that this process looks at; None = all. The first process writes the page.

    Raises:
        SegprotoError: the run is incomplete.
    """
    run, share = Run(folder), share or Share()
    model = to_device(Segmenter.load(folder))
    other = other_run(run, compare)
    config = data_config(folder, {}, overrides)
    dataset = comparable(build_dataset(config, "val"), run, model)
    book = FailureBook()
    shortcuts = ShortcutBook(model, dataset, share) if config.has_masks and not model.found_categories else None

    def visit(explanation: Explanation, sample: Sample, place: int) -> None:
        book.visit(explanation, sample, place)
        if shortcuts is not None:
            shortcuts.visit(explanation, sample, place)

    with current().bar("report", 1) as bar:
        look = partial(bar.part, "look at images")
        decided = gallery.shares_decided(model, dataset, visit, look, share)
        own, chosen = {}, gallery.telling_indices(dataset, images, share)
        for done, number in enumerate(share.indices(len(chosen)), 1):
            own[number] = probed(model, dataset[chosen[number]])
            bar.part("explain", done, len(chosen))
        misleading = None if shortcuts is None else shortcuts.lines(partial(build_dataset, config, "train"), bar.part)
    failures = book.cases(share)
    probes = [probe for _, probe in sorted(entry for part in share.gather(own) for entry in part.items())]
    if not share.first:
        return
    cards = gallery.cards(model, decided, gallery.named_in(probes))
    html = (
        environment()
        .get_template("report.html.j2")
        .render(
            title=heading(run),
            version=__version__,
            masked=config.labels is not None,
            figures=run.figures(),
            made=run.made(),
            absent=run.absent,
            other=None if other is None else {"name": other.method, **other.figures()},
            facts=facts(run, model),
            classes=class_rows(run, other, model),
            stages=stage_rows(run),
            charts=charts(run, other),
            metrics=metric_rows(run),
            metric_picture=metric_picture(run),
            thresholds=threshold_rows(run),
            threshold_charts=threshold_charts(threshold_rows(run)),
            edit=edit_figures(run),
            failures=failures,
            failure_images=book.images,
            failure_count=book.count,
            failure_below=BELOW,
            shortcuts=misleading,
            steps=step_cases(folder, model.classes),
            relation=relation(model),
            sentence=SENTENCES[relation(model)],
            lead=LEADS[relation(model)],
            warnings=warnings(model),
            groups=by_class(model, cards),
            scales=gallery.scale_names(model),
            explains=bool(cards),
            probe=probe_data(model, cards, probes),
            images=probes,
            recipe=(folder / "recipe.yaml").read_text(encoding="utf-8"),
        )
    )
    if len(html) > LIMIT:
        raise SegprotoError(
            f"{out}: the page would have {len(html) / 2**20:.0f} MiB; explain fewer images (--images 1)"
        )
    write(out, html.encode(errors="backslashreplace"), "page")


def probed(model: Segmenter, sample: Sample) -> dict[str, Any]:
    """What the page's script reads of one validation image."""
    known = bool((sample.mask != IGNORE_INDEX).any())
    return {**probe_image(explain(model, sample), sample.mask if known else None), "name": sample.name}


def explanation_page(explanation: Explanation, out: Path) -> None:
    """Writes the page of one explained image."""
    model = explanation.segmenter
    probes = [probe_image(explanation)]
    cards = gallery.cards(model, named=gallery.named_in(probes))
    probe = probe_data(model, cards, probes)
    html = (
        environment()
        .get_template("explain.html.j2")
        .render(
            title=f"Why? {Path(explanation.name).name}",
            version=__version__,
            explains=bool(cards),
            relation=relation(model),
            warnings=warnings(model),
            classes=probe["classes"],
            probe=probe,
            images=probes,
        )
    )
    write(out, html.encode(errors="backslashreplace"), "page")


def environment() -> Environment:
    """Jinja with the filters of the reports."""
    jinja = page_environment("segproto.report")
    jinja.filters |= {"percent": percent, "signed": signed, "whole": whole}
    return jinja


def percent(value: float | None, digits: int = 1) -> str:
    """A share as a percentage; an en dash where there is none."""
    return "\N{EN DASH}" if value is None else f"{100 * value:.{digits}f}"


def whole(value: float) -> str:
    """A share as a whole percentage that is 0 only for none at all."""
    return "< 1" if 0 < value < 0.005 else f"{100 * value:.0f}"


def signed(value: float, digits: int = 2) -> str:
    """A number with its sign; no digits behind the point from a hundred on."""
    text = f"{value:+.{digits if abs(value) < 100 else 0}f}"
    return text.replace("-", "\N{MINUS SIGN}")


def other_run(run: Run, compare: Path | None) -> Run | None:
    """The run to stand beside."""
    if compare is not None:
        return Run(compare)
    folder = run.recipe.get("compare")
    return Run(Path(folder)) if folder and (Path(folder) / "recipe.yaml").is_file() else None


def heading(run: Run) -> str:
    """``scaleproto on scenes``, after the folder's name where that says more."""
    name, words = run.path.absolute().name, f"{run.method} on {run.recipe['data']['name']}"
    return words if name == run.method else f"{name}: {words}"


def facts(run: Run, model: Segmenter) -> list[tuple[str, str]]:
    """Small facts under the headline figures."""
    encoder = model.encoder.config
    numbers = {name: f"{value / 1e6:.2f}" for name, value in number_figures(model).items()}
    parameters = f"{numbers['learnable']} million"
    if float(numbers["stored"]) > 0:
        parameters += f", {numbers['stored']} stored in prototypes, {numbers['total']} in all"
    rows = [
        ("Method", run.method),
        ("Data", data_words(run.recipe["data"])),
        ("Encoder", f"{encoder.backbone or encoder.name}{', frozen' if encoder.frozen else ''}"),
        ("Parameters", parameters),
        ("Trained for", duration(run.seconds)),
        ("Waited for images", waited(run.metrics)),
        ("Seed", str(run.recipe["train"]["seed"])),
        ("Precision", precision_words(run, model)),
    ]
    return [(name, value) for name, value in rows if value]


def precision_words(run: Run, model: Segmenter) -> str:
    """What was trained in and, where it was measured, how far that agrees with float32."""
    return "; ".join(filter(None, (str(run.recipe["train"].get("precision", "")), agreement_words(model.card))))


def data_words(data: dict[str, Any]) -> str:
    """The data set in a few words."""
    kind = DATASETS.get(data["name"])
    if kind is not None and kind.words is not None:
        return kind.words(data)
    folder = Path(data["root"]).name if data.get("root") else data["name"]
    return str(data["name"]) if folder == data["name"] else f"{data['name']}, {folder}"


def duration(seconds: float | None) -> str:
    """Seconds in words; empty where unknown."""
    if seconds is None:
        return ""
    if seconds < 120:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 7200 else f"{seconds / 3600:.1f} h"


def waited(metrics: Sequence[dict[str, Any]]) -> str:
    """The mean share of the training steps' time that went by waiting for images; empty where it was not measured."""
    shares = [float(line["waiting"]) for line in metrics if "waiting" in line]
    return f"{whole(sum(shares) / len(shares))} % of the time" if shares else ""


def probe_data(model: Segmenter, cards: list[gallery.Card | None], images: list[dict[str, Any]]) -> dict[str, Any]:
    """What the page's script reads."""
    colours = [css(colour) for colour in model.classes.colours]
    return {
        "classes": [{"name": n, "colour": c} for n, c in zip(model.classes.names, colours, strict=True)],
        "prototypes": gallery.for_probe(cards),
        "groups": gallery.groups_for_probe(model),
        "scales": gallery.scale_names(model),
        "images": images,
    }
