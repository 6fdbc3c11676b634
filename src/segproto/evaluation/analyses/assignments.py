"""Two models on one image: which prototype decides each pixel, side by side."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from segproto.data.overlay import colour_labels
from segproto.errors import ConfigError
from segproto.evaluation.analyses.sheet import Row, Tile, draw_sheet, write_result
from segproto.evaluation.analyses.units import prototype_name, prototype_picture, require_bank
from segproto.model.explanation import Explanation
from segproto.model.overlays import rank_colours

SHOWN = 5


def compare_assignments(first: Explanation, second: Explanation, names: tuple[str, str], out: Path) -> dict[str, Any]:
    """Writes the prediction and the winning prototype of each pixel by two models.

    Args:
        first: an image explained by one model.
        second: the same image explained by another, with the same classes.
        names: what to call the models.
        out: folder for ``analysis.json``, ``arrays.safetensors`` and ``assignments.png``.

    Returns:
        ``agreement`` (share of pixels with the same class), ``disagreements`` (class pairs, share of pixels), and for
        each model ``prototypes`` (those that win somewhere) with their shares.

    Raises:
        ConfigError: models of other classes, images of other sizes, or a model without prototypes.
    """
    classes = first.segmenter.classes.names
    if classes != second.segmenter.classes.names:
        raise ConfigError("the two models have different classes; compare models of one class table")
    if first.size != second.size:
        raise ConfigError(f"the images differ in size: {first.size} and {second.size}")
    arrays: dict[str, Tensor] = {}
    rows, models = [], []
    for number, (why, name) in enumerate(zip((first, second), names, strict=True)):
        require_bank(why.segmenter)
        winner = why.winning_prototype()
        winners, counts = torch.unique(winner, return_counts=True)
        order = counts.argsort(descending=True, stable=True)
        shares = [(int(winners[i]), float(counts[i]) / winner.numel()) for i in order]
        colours = rank_colours(winner)
        table = dict(enumerate(why.segmenter.classes.colours))
        image = why.image.cpu()
        tiles = [
            Tile(colour_labels(image, why.prediction, table), "classes"),
            Tile(colour_labels(image, winner, colours), "which prototype decides"),
        ]
        for p, part in shares[:SHOWN]:
            caption = f"{prototype_name(why.segmenter, p)}\n{100 * part:.0f} % of the pixels"
            tiles.append(Tile(prototype_picture(why.segmenter, p), caption, colours[p]))
        rows.append(Row(f"{name}: {len(shares)} prototypes decide", tiles))
        listed = [{"prototype": p, "name": prototype_name(why.segmenter, p), "share": s} for p, s in shares]
        models.append({"name": name, "prototypes": listed})
        arrays |= {f"{number}.prediction": why.prediction, f"{number}.winning_prototype": winner}
    same = first.prediction == second.prediction
    document = {
        "image": first.name,
        "agreement": float(same.float().mean()),
        "disagreements": disagreements(first, second),
        "models": models,
    }
    write_result(out, arrays, document)
    draw_sheet(rows, out / "assignments.png", side=200)
    return document


def disagreements(first: Explanation, second: Explanation) -> list[dict[str, Any]]:
    """Pairs of classes the two models give the same pixels, by area."""
    names = first.segmenter.classes.names
    pair = first.prediction.long() * len(names) + second.prediction.long()
    counts = torch.bincount(pair.flatten(), minlength=len(names) ** 2)
    order = [i for i in counts.argsort(descending=True).tolist() if counts[i] > 0 and i // len(names) != i % len(names)]
    return [
        {"first": names[i // len(names)], "second": names[i % len(names)], "share": float(counts[i]) / pair.numel()}
        for i in order
    ]
