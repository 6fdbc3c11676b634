"""The two pages: a report about a run, and one explained image. Each is a single file that needs no network."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import yaml
from jinja2 import Environment, PackageLoader, StrictUndefined

from segproto import __version__
from segproto.data.base import ClassTable
from segproto.data.build import build_dataset
from segproto.errors import SegprotoError
from segproto.model.explain import Explanation, explain
from segproto.model.segmenter import Segmenter
from segproto.report import gallery
from segproto.report.curves import read_chart, svg
from segproto.report.evidence import probe_image
from segproto.report.runs import Run, write_text
from segproto.report.settings import data_config

if TYPE_CHECKING:
    from markupsafe import Markup

LIMIT = 15 * 2**20  # bytes; a page larger than that is slow to open on a phone


def report_page(
    folder: Path,
    out: Path,
    *,
    compare: Path | None = None,
    images: int = 3,
    place: Callable[[Segmenter], Segmenter] = lambda model: model,
) -> None:
    """Writes the report of a run.

    Args:
        folder: the run.
        out: the HTML file.
        compare: a run to stand beside; None = the one its recipe names, if that is still there.
        images: validation images to explain.
        place: moves the model to where it shall compute.

    Raises:
        SegprotoError: the run is incomplete.
    """
    run = Run(folder)
    model = place(Segmenter.load(folder))
    other = other_run(run, compare)
    dataset = build_dataset(data_config(folder, {}, ()), "val")
    cards = gallery.cards(model, gallery.shares_decided(model, dataset))
    probes = []
    for index in gallery.spread_indices(len(dataset), images):
        sample = dataset[index]
        found = probe_image(explain(model, sample.image), sample.mask)
        probes.append({**found, "name": sample.name})
    html = (
        environment()
        .get_template("report.html.j2")
        .render(
            title=heading(run),
            version=__version__,
            run=run,
            figures=run.figures(),
            other=None if other is None else {"name": other.method, **other.figures()},
            facts=facts(run, model),
            classes=class_rows(run, other, model, cards),
            stages=stage_rows(run),
            charts=charts(run, other),
            groups=by_class(model, cards),
            scales=gallery.scale_names(model),
            explains=bool(cards),
            probe=probe_data(model, cards, probes),
            images=probes,
            recipe=yaml.safe_dump(run.recipe, sort_keys=False),
        )
    )
    if len(html) > LIMIT:
        raise SegprotoError(
            f"{out}: the page would have {len(html) / 2**20:.0f} MiB; explain fewer images (--images 1)"
        )
    write_text(out, html)


def explanation_page(explanation: Explanation, out: Path) -> None:
    """Writes the page of one explained image."""
    model = explanation.segmenter
    cards = gallery.cards(model)
    probes = [probe_image(explanation)]
    probe = probe_data(model, cards, probes)
    html = (
        environment()
        .get_template("explain.html.j2")
        .render(
            title=f"Why? {Path(explanation.name).name}",
            version=__version__,
            explains=bool(cards),
            classes=probe["classes"],
            probe=probe,
            images=probes,
        )
    )
    write_text(out, html)


def environment() -> Environment:
    """Jinja with HTML escaping; a name that a template misspells is an error."""
    made = Environment(loader=PackageLoader("segproto.report"), autoescape=True, undefined=StrictUndefined)
    made.filters |= {"percent": percent, "embed": embed}
    made.trim_blocks = made.lstrip_blocks = True
    return made


def percent(value: float | None, digits: int = 1) -> str:
    """A share as a percentage; an en dash where there is none."""
    return "\N{EN DASH}" if value is None else f"{100 * value:.{digits}f}"


def embed(value: Any) -> Markup:
    """JSON for a ``<script>`` element: no ``<`` is left that could end it."""
    from markupsafe import Markup

    return Markup(json.dumps(value, separators=(",", ":")).replace("<", "\\u003c"))


def css(colour: tuple[int, int, int]) -> str:
    """``#rrggbb``."""
    return "#{:02x}{:02x}{:02x}".format(*colour)


def other_run(run: Run, compare: Path | None) -> Run | None:
    """The run to stand beside."""
    if compare is not None:
        return Run(compare)
    named = run.recipe.get("compare")
    return Run(Path(named)) if named and (Path(named) / "recipe.yaml").is_file() else None


def heading(run: Run) -> str:
    """``scaleproto on scenes``, after the folder's name where that says more."""
    name, words = run.path.absolute().name, f"{run.method} on {run.recipe['data']['name']}"
    return words if name == run.method else f"{name}: {words}"


def facts(run: Run, model: Segmenter) -> list[tuple[str, str]]:
    """Small facts under the headline figures."""
    encoder = model.encoder.config
    size = sum(p.numel() for p in model.parameters()) / 1e6
    rows = [
        ("Method", run.method),
        ("Data", data_words(run.recipe["data"])),
        ("Encoder", f"{encoder.backbone or encoder.name}{', frozen' if encoder.frozen else ''}"),
        ("Parameters", f"{size:.2f} million"),
        ("Trained for", duration(run.seconds)),
        ("Seed", str(run.recipe["train"]["seed"])),
    ]
    return [(name, value) for name, value in rows if value]


def data_words(data: dict[str, Any]) -> str:
    """The data set in a few words."""
    if data["name"] == "scenes":
        return f"generated scenes, {data['scenes']['num_train']} to train, {data['scenes']['num_val']} to validate"
    return f"{data['name']}, {Path(data['root']).name}" if data.get("root") else str(data["name"])


def duration(seconds: float | None) -> str:
    """Seconds in words; empty where unknown."""
    if seconds is None:
        return ""
    if seconds < 120:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 7200 else f"{seconds / 3600:.1f} h"


@dataclass(frozen=True)
class ClassRow:
    """One line of the per-class table; shares in 0..1, None where unknown."""

    name: str
    colour: str
    iou: float | None
    other: float | None
    share: float | None
    prototypes: int
    used: int


def class_rows(run: Run, other: Run | None, model: Segmenter, cards: list[gallery.Card]) -> list[ClassRow]:
    """The per-class table."""
    ours = {row["name"]: row for row in run.evaluation.get("per_class", [])}
    theirs = {row["name"]: row for row in other.evaluation.get("per_class", [])} if other is not None else {}
    total = sum(row["pixels"] for row in ours.values()) or 1
    return [
        ClassRow(
            name=name,
            colour=css(colour),
            iou=ours.get(name, {}).get("iou"),
            other=theirs.get(name, {}).get("iou"),
            share=ours[name]["pixels"] / total if name in ours else None,
            prototypes=sum(card.class_id == c for card in cards),
            used=sum(card.class_id == c and card.used for card in cards),
        )
        for c, (name, colour) in enumerate(zip(model.classes.names, model.classes.colours, strict=True))
    ]


STAGE_WORDS = {
    "warmup": "the new layers learn first",
    "joint": "encoder and prototypes learn together",
    "project": "each prototype becomes its nearest training patch",
    "finetune": "readout only",
    "prune": "prototypes with mixed neighbours are dropped",
    "group_warmup": "groups of prototypes begin",
    "group_joint": "groups and their readout learn",
    "threshold": "small group weights become zero",
    "trace": "the nearest training patch of each prototype is found",
}


def stage_rows(run: Run) -> list[dict[str, Any]]:
    """The stage table; figures a stage did not change are carried on."""
    begun = [stage["prototypes_start"] for stage in run.stages if "prototypes_start" in stage]
    carried = {"prototypes": begun[0] if begun else None, "prototypes_used": None, "group_average": None}
    rows = []
    for stage in run.stages:
        carried |= {key: stage[key] for key in carried if stage.get(key) is not None}
        rows.append(
            {"name": stage["stage"], "words": STAGE_WORDS.get(stage["stage"], ""), "miou": stage.get("miou")} | carried
        )
    return rows


def charts(run: Run, other: Run | None) -> list[tuple[str, str]]:
    """Title and SVG of each training curve there are data for."""
    limit = other.figures()["miou"] if other is not None else None
    reference = (other.method, limit) if other is not None and limit is not None else None
    found = [
        ("Validation mIoU", read_chart(run.metrics, "val_miou", reference, dots=True)),
        ("Training loss", read_chart(run.metrics, "loss")),
    ]
    return [(title, svg(chart, title)) for title, chart in found if chart is not None]


def by_class(model: Segmenter, cards: list[gallery.Card]) -> list[dict[str, Any]]:
    """The gallery: per class its cards, used ones by what they decide, then the unused."""
    rows = []
    table: ClassTable = model.classes
    for c, (name, colour) in enumerate(zip(table.names, table.colours, strict=True)):
        own = sorted((card for card in cards if card.class_id == c), key=lambda card: -card.decides)
        used, unused = [card for card in own if card.used], [card for card in own if not card.used]
        rows.append({"name": name, "colour": css(colour), "used": used, "unused": unused})
    return rows if cards else []


def probe_data(model: Segmenter, cards: list[gallery.Card], images: list[dict[str, Any]]) -> dict[str, Any]:
    """What the page's script reads."""
    colours = [css(colour) for colour in model.classes.colours]
    return {
        "classes": [{"name": n, "colour": c} for n, c in zip(model.classes.names, colours, strict=True)],
        "prototypes": gallery.for_probe(model, cards),
        "groups": gallery.groups_for_probe(model),
        "scales": gallery.scale_names(model),
        "images": images,
    }
