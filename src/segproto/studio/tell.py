"""What the page is told, as JSON: of the model, its images, one prototype, one part of an image."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from segproto.evaluation.whatif import Kept
from segproto.model.evidence import source_of
from segproto.model.explanation import Explanation, Region
from segproto.model.patches import cell_box
from segproto.report.evidence import lattice, levels, spots
from segproto.report.gallery import groups_for_probe, place, scale_names, unit_weights, used
from segproto.report.tables import css
from segproto.report.wording import relation
from segproto.studio.session import Edits, Session
from segproto.studio.state import Changed, Side

FIRES, FEEDS, ALIKE = 12, 8, 8  # listed of a prototype: images, classes, prototypes to merge with
CONFUSIONS = 8  # listed of an image


def model_json(side: Side, name: str) -> dict[str, Any]:
    """What the page's script needs to know of a model of that name, once."""
    model, bank = side.model, side.model.head.bank
    weights, seen = unit_weights(model), used(model)
    prototypes = [] if bank is None else list(zip(bank.class_of.tolist(), bank.scale_of.tolist(), strict=True))
    sources = [source_of(model, p) for p in range(len(prototypes))]
    return {
        "name": name,
        "classes": [
            {"name": n, "colour": css(c)} for n, c in zip(model.classes.names, model.classes.colours, strict=True)
        ],
        "prototypes": [
            {
                "class": class_id,
                "scale": scale,
                "patch": None if source is None or source.patch not in model.patches else f"patch/{p}",
                "where": place(model, p),
                "weights": [[name, round(weight, 4)] for name, weight in weights[p]],
                "used": seen[p],
                "source": source is not None,
                "further": 0 if source is None else len(source.also),
            }
            for p, ((class_id, scale), source) in enumerate(zip(prototypes, sources, strict=True))
        ],
        "groups": groups_for_probe(model),
        "scales": scale_names(model),
        "relation": relation(model),
        "locked": None if bank is not None else "A black box has no prototypes, so there is nothing to switch off.",
        "validation": side.no_scores,
        "own": side.own_answers,
        "images": side.total,
        "every": 0 if side.dataset is None else len(side.dataset),
    }


def state_json(side: Side, session: Session) -> dict[str, Any]:
    """The edits of a session with their effect, as far as it can be known."""
    known = side.ready and side.no_scores is None
    rows = [
        {
            "words": step.words,
            "edits": step.edits.to_json(),
            "miou": side.scores(step.edits)["miou"] if known and number <= session.at else None,
        }
        for number, step in enumerate(session.steps)
    ]
    return {"at": session.at, "steps": rows, "edits": session.edits.to_json()}


def wall_json(side: Side, edits: Edits) -> list[dict[str, Any]]:
    """Per validation image what a wall is sorted and filtered by."""
    counts = side.counts(edits)
    rows = []
    for index, image, table in zip(side.indices, side.what_if.images, counts, strict=True):
        total, right = int(table.sum()), table.diagonal()
        union = table.sum(0) + table.sum(1) - right
        wrong = table.clone().fill_diagonal_(0).flatten()
        order = wrong.argsort(descending=True)[: min(CONFUSIONS, int((wrong > 0).sum()))].tolist()
        present = [c for c in range(len(table)) if int(table[c].sum())]
        rows.append({
            "index": index,
            "name": image.name,
            "wrong": 1 - int(right.sum()) / total if total else None,
            "classes": [[c, round(float(right[c] / union[c]), 4)] for c in present],
            "confusions": [[k // len(table), k % len(table), round(int(wrong[k]) / total, 4)] for k in order],
        })  # fmt: skip
    return rows


def renumbered(told: dict[str, Any], changed: Changed) -> dict[str, Any]:
    """The evidence of an edited model with the numbers of the model before."""
    kept, groups = changed.kept, changed.groups
    if kept is not None:
        for name in ("prototypes", "rival_prototypes"):
            told[name] = [[kept[v] if i % 2 == 0 else v for i, v in enumerate(row)] for row in told[name]]
        told["groups"] = [[groups[v] if i % 2 == 0 else v for i, v in enumerate(row)] for row in told["groups"]]
    return told


def probe_json(side: Side, key: str, region: Region, edits: Edits) -> dict[str, Any]:
    """What the probe shows of a part of an image; without evidence where the part is too large to be seen at once."""
    brought, size = side.brought(key), side.size(key)
    told: dict[str, Any] = {"name": brought.name, "key": key, "whole": size, "region": region}
    told |= {"maps": {}, "known": brought.mask is not None}
    if not side.fits(key, region):
        return told | {"large": True}
    return told | renumbered(spots(side.explanation(key, region, edits))[0], side.changed(edits))


def heat_json(side: Side, key: str, region: Region, edits: Edits, unit: str) -> dict[str, Any]:
    """Where a part of an image is like a prototype (``12``) or a group (``g3``), on the probe's lattice.

    A prototype's map is that of the model before all edits, so that what was switched off can be seen, too.
    """
    if unit.startswith("g"):
        changed = side.changed(edits)
        explanation = side.explanation(key, region, edits)
        values = explanation.group_map(changed.groups.index(int(unit[1:])))
    else:
        explanation = side.explanation(key, region, Edits())
        values = explanation.activation_map(int(unit))
    return {"levels": levels(on_lattice(explanation, values))}


def on_lattice(explanation: Explanation, values: Tensor) -> Tensor:
    """A map (h, w) of the region at the points of the probe."""
    ys, xs, _ = lattice(explanation)
    return values[ys - explanation.region[0], xs - explanation.region[1]]


def prototype_json(side: Side, prototype: int) -> dict[str, Any]:
    """Where a prototype fires, what it feeds, and which ones are like it."""
    return {
        "prototype": prototype,
        "fires": fires(side, prototype),
        "feeds": feeds(side, prototype),
        "alike": alike(side, prototype),
    }


def activation(side: Side, image: Kept, prototype: int) -> Tensor:
    """(h, w), of an image that is kept."""
    head = side.model.head
    if side.what_if.answers:
        return image.cells[0, prototype]
    return head.activation(head.cell_features(image.cells), prototype)[0]


@torch.no_grad()
def fires(side: Side, prototype: int) -> list[dict[str, Any]]:
    """The validation images with the highest activation, the highest first, and where in them it is."""
    names, found = side.model.classes.names, []
    for index, image in zip(side.indices[: side.done], side.what_if.images, strict=False):
        values = activation(side, image, prototype)
        found.append((float(values.max()), int(values.argmax()), index, image))
    found.sort(key=lambda row: -row[0])
    rows = []
    for value, cell, index, image in found[:FIRES]:
        grid = list(image.cells.shape[-2:])
        size = (image.labels.shape[0], image.labels.shape[1])
        box = cell_box(side.model, size, [cell // grid[1], cell % grid[1]], grid)
        label = int(image.labels[(box[0] + box[2]) // 2, (box[1] + box[3]) // 2])
        rows.append({
            "index": index,
            "name": image.name,
            "activation": round(value, 3),
            "box": list(box),
            "truth": names[label] if label < len(names) and not side.own_answers else None,
        })  # fmt: skip
    return rows


def feeds(side: Side, prototype: int) -> list[list[Any]]:
    """Classes with the weight that the prototype has in each, the largest by size first.

    Of groups: the sum over its groups of its weight there times the group's in the class.
    """
    head = side.model.head
    readout, bank = head.unit_weights(), head.bank
    if bank is None:
        return []
    if readout is None:
        return [[int(bank.class_of[prototype]), 1.0]]
    units = readout.detach()
    weights = units[:, prototype] if head.grouping is None else units @ head.grouping.dense().detach()[:, prototype]
    order = weights.abs().argsort(descending=True)[:FEEDS].tolist()
    return [[c, round(float(weights[c]), 4)] for c in order if float(weights[c]) != 0]


def alike(side: Side, prototype: int) -> list[list[Any]]:
    """Prototypes of the same class and scale with their squared distance, the nearest first."""
    bank = side.model.head.bank
    if bank is None:
        return []
    vectors = bank.vectors.detach().double().flatten(0, -2)
    if bank.compares == "cosine":
        vectors = torch.nn.functional.normalize(vectors, dim=1)
    same = (bank.class_of == bank.class_of[prototype]) & (bank.scale_of == bank.scale_of[prototype])
    distances = (vectors - vectors[prototype]).square().sum(1).masked_fill(~same, torch.inf)
    distances[prototype] = torch.inf
    order = distances.argsort()[:ALIKE].tolist()
    return [[p, round(float(distances[p]), 4)] for p in order if bool(torch.isfinite(distances[p]))]


def group_name(side: Side, group: int) -> str:
    """``car, group 2``, as the page says it."""
    grouping = side.model.head.grouping
    if grouping is None or not 0 <= group < grouping.num_groups:
        return f"group {group}"
    return f"{side.model.classes.names[int(grouping.class_of_group[group])]}, group {group % grouping.groups + 1}"
