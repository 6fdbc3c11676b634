"""Models, explanations and evidence in a line or two, and as pieces of a page for notebooks."""

from __future__ import annotations

import base64
from collections.abc import Sequence
from html import escape
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from segproto.data.base import ClassTable
    from segproto.model.evidence import Evidence, PixelEvidence
    from segproto.model.explanation import Explanation
    from segproto.model.segmenter import Segmenter

NAMES = 6  # of classes that are listed


def listed(names: Sequence[str]) -> str:
    """The first names."""
    return ", ".join(names[:NAMES]) + (", ..." if len(names) > NAMES else "")


def table_words(classes: ClassTable) -> str:
    """How many classes, and their names."""
    return f"{classes.num_classes} classes ({listed(classes.names)})"


def model_words(model: Segmenter) -> str:
    """A model in one line."""
    bank, config = model.head.bank, model.encoder.config
    what = f"{model.head.kind} head" + ("" if bank is None else f" of {bank.num_prototypes} prototypes")
    weights = sum(parameter.numel() for parameter in model.parameters()) / 1e6
    encoder = config.backbone or config.name
    return f"<Segmenter: {table_words(model.classes)}, {what}, encoder {encoder}, {weights:.2f} million weights>"


def explanation_words(why: Explanation) -> str:
    """An explanation in one line."""
    known = why.prediction if why.inside is None else why.prediction[why.inside]
    pixels, total = known.flatten().long().bincount(), why.prediction.numel()
    order = pixels.argsort(descending=True)[: int((pixels > 0).sum())].tolist()
    names = [f"{why.segmenter.classes.names[c]} {pixels[c] / total:.0%}" for c in order]
    names += [f"no data {why.no_data:.0%}"] if why.no_data else []
    height, width = why.size
    return f"<Explanation of {why.name}, {width} x {height} pixels: {listed(names)}>"


def evidence_words(evidence: Evidence) -> str:
    """Evidence in one line."""
    parts = [f"#{p.prototype} {p.contribution:+.2f}" for p in evidence.prototypes[:3]]
    return f"{evidence.class_name}: logit {evidence.logit:.2f} = {', '.join(parts)}, the rest and a constant"


def pixel_words(spot: PixelEvidence) -> str:
    """Evidence at a pixel in one line."""
    other = "" if spot.runner_up is None else f"; runner-up {evidence_words(spot.runner_up)}"
    return f"<pixel ({spot.y}, {spot.x}), {spot.probability:.0%} {evidence_words(spot)}{other}>"


def evidence_table(evidence: Evidence, title: str) -> str:
    """Evidence as a table of a page, the patches' pictures in it."""
    rows = []
    for part in evidence.prototypes:
        picture = evidence.pictures.get(part.prototype)
        data = "" if picture is None else base64.b64encode(picture).decode()
        kind = "png" if picture is None or picture.startswith(b"\x89PNG") else "jpeg"
        shown = f'<img width="48" alt="" src="data:image/{kind};base64,{data}">' if data else ""
        where = "" if part.source is None else escape(part.source.image)
        rows.append(
            f"<tr><td>{shown}</td><td>#{part.prototype}</td><td>{part.contribution:+.2f}</td><td>{where}</td></tr>"
        )
    rest = f"<tr><td></td><td>others</td><td>{evidence.others:+.2f}</td><td></td></tr>"
    constant = f"<tr><td></td><td>constant</td><td>{evidence.offset:+.2f}</td><td></td></tr>"
    head = f"<caption>{escape(title)} {escape(evidence.class_name)}: {evidence.logit:.2f}</caption>"
    return f"<table>{head}{''.join(rows)}{rest}{constant}</table>"


def pixel_page(spot: PixelEvidence) -> str:
    """Evidence at a pixel, with its runner-up, as tables of a page."""
    first = evidence_table(spot, f"pixel ({spot.y}, {spot.x}), {spot.probability:.0%}")
    return first if spot.runner_up is None else first + evidence_table(spot.runner_up, "runner-up")
