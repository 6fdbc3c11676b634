"""What groups consist of: edges are the weights, the same for every image; nodes show one image's activations."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from segproto.errors import ConfigError
from segproto.evaluation.analyses.nearest_patches import file_name
from segproto.evaluation.analyses.sheet import to_picture, write_result
from segproto.evaluation.analyses.units import (
    group_names,
    prototype_name,
    prototype_picture,
    require_bank,
    require_groups,
)
from segproto.files import write_picture
from segproto.model.explanation import Explanation
from segproto.model.overlays import heat_overlay
from segproto.model.segmenter import Segmenter


@dataclass(frozen=True)
class GroupGraph:
    """The groups of a model, and how active they and their prototypes are in one image.

    Attributes:
        model: a grouped model.
        weights: (K*G, P) of the groups; 0 = no edge.
        readout: (K*G,) readout weight of each group for its own class.
        explanation: of the image; None = patches are shown instead of activations.
    """

    model: Segmenter
    weights: Tensor
    readout: Tensor
    explanation: Explanation | None

    def edges(self, class_id: int) -> list[tuple[int, int, float]]:
        """(group, prototype, weight) of a class, heaviest first."""
        groups = (require_groups(self.model).class_of_group.cpu() == class_id).nonzero()[:, 0].tolist()
        edges = [(g, p, float(self.weights[g, p])) for g in groups for p in self.weights[g].nonzero()[:, 0].tolist()]
        return sorted(edges, key=lambda edge: -edge[2])

    def to_json(self) -> dict[str, Any]:
        """One row per group with its members; ``single`` = one member holds the group."""
        names, classes = group_names(self.model), require_groups(self.model).class_of_group.tolist()
        bank, rows = require_bank(self.model), []
        for g, row in enumerate(self.weights):
            order = [p for p in row.argsort(descending=True).tolist() if row[p] > 0]
            members = [{"prototype": p, "scale": int(bank.scale_of[p]), "weight": float(row[p])} for p in order]
            label = self.model.classes.names[classes[g]]
            fields = {"group": g, "name": names[g], "class": label, "readout": float(self.readout[g])}
            rows.append(fields | {"single": len(members) == 1, "members": members})
        return {"image": None if self.explanation is None else self.explanation.name, "groups": rows}

    def save(self, out: Path, classes: Sequence[int] | None = None) -> None:
        """Writes ``analysis.json``, ``arrays.safetensors`` and one graph per class.

        Args:
            out: the folder.
            classes: which to draw; None = those the image was given, or all without an image.
        """
        arrays = {"weights": self.weights, "readout": self.readout}
        why = self.explanation
        if why is not None:
            count = len(self.weights)
            arrays["group_maps"] = torch.stack([why.group_map(g) for g in range(count)])
        write_result(out, arrays, self.to_json())
        if classes is None:
            every = range(self.model.head.num_classes)
            classes = list(every) if why is None else torch.unique(why.prediction).tolist()
        for c in classes:
            if edges := self.edges(c):
                draw_graph(self, c, edges, out / f"{c:03d}-{file_name(self.model.classes.names[c])}.png")


def group_graph(model: Segmenter, explanation: Explanation | None = None) -> GroupGraph:
    """The composition graph of all groups.

    Args:
        model: a grouped model.
        explanation: of an image by this model, for the activation maps at the nodes.

    Raises:
        ConfigError: a model without groups, or without a linear readout of them.
    """
    grouping, readout = require_groups(model), model.head.unit_weights()
    if readout is None:
        raise ConfigError(f"a {model.head.kind} head has no linear readout of its groups")
    weights, classes = grouping.dense().detach().cpu(), grouping.class_of_group.cpu()
    own = readout.detach().cpu()[classes, torch.arange(len(classes))]
    return GroupGraph(model, weights, own, explanation)


def draw_graph(graph: GroupGraph, class_id: int, edges: Sequence[tuple[int, int, float]], out: Path) -> None:
    """One class: its prototypes on the left, its groups on the right, lines as thick as the weights."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure
    from matplotlib.offsetbox import AnnotationBbox, OffsetImage

    model, names = graph.model, group_names(graph.model)
    groups = sorted({g for g, _, _ in edges})
    heaviest = {p: max((w, -g) for g, q, w in edges if q == p) for _, p, _ in edges}
    prototypes = sorted(heaviest, key=lambda p: (-heaviest[p][1], -heaviest[p][0]))  # beside the group they matter to
    height = max(len(prototypes), len(groups), 2)
    figure = Figure(figsize=(9, 1.15 * height + 0.6), layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.add_subplot()
    axes.set_xlim(0, 9)
    axes.set_ylim(height, 0)
    axes.axis("off")
    axes.set_title(f"{model.classes.names[class_id]}: prototypes and groups", loc="left", fontsize=12)
    at = {("p", p): (3.1, height * (i + 0.5) / len(prototypes)) for i, p in enumerate(prototypes)}
    at |= {("g", g): (6.6, height * (i + 0.5) / len(groups)) for i, g in enumerate(groups)}
    for g, p, w in edges:
        (x0, y0), (x1, y1) = at["p", p], at["g", g]
        axes.plot([x0 + 0.45, x1 - 0.45], [y0, y1], color="#0b62a8", linewidth=0.8 + 7 * w, alpha=0.2 + 0.5 * w)
        if w >= 0.1:
            axes.text(x0 + 0.6, y0 + (y1 - y0) * 0.06, f"{w:.2f}", fontsize=8, va="center", color="#1c1e21")
    for (kind, number), position in at.items():
        picture = node_picture(graph, kind, number)
        factor = 62 / max(picture.shape[:2])
        axes.add_artist(AnnotationBbox(OffsetImage(picture, zoom=factor), position, frameon=False))
    for p in prototypes:
        axes.text(at["p", p][0] - 0.55, at["p", p][1], prototype_name(model, p), ha="right", va="center", fontsize=9)
    for g in groups:
        words = f"{names[g]}\nreadout {float(graph.readout[g]):+.2f}"
        axes.text(at["g", g][0] + 0.55, at["g", g][1], words, ha="left", va="center", fontsize=9)
    write_picture(out, lambda file: figure.savefig(file, dpi=130), "picture")


def node_picture(graph: GroupGraph, kind: str, number: int) -> np.ndarray[Any, Any]:
    """A prototype's (``p``) or group's (``g``) activations in the image, without an image a patch; (h, w, 3)."""
    why = graph.explanation
    if why is not None:
        values = why.activation_map(number) if kind == "p" else why.group_map(number)
        return np.asarray(to_picture(heat_overlay(why.image.cpu(), values)))
    if kind == "p":
        return np.asarray(prototype_picture(graph.model, number))
    heaviest = int(graph.weights[number].argmax())
    return np.asarray(prototype_picture(graph.model, heaviest))
