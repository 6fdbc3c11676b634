"""Evidence on a lattice of pixels, small enough to live inside a page that answers the mouse."""

from __future__ import annotations

import base64
from typing import Any

import torch
from torch import Tensor

from segproto.model.explanation import Explanation
from segproto.model.head import Contributions
from segproto.report.pictures import data_uri, outline, paint

PROBES = 2400  # pixels with evidence in an image; about 48 x 48
GROUPS, PROTOTYPES, RIVALS = 3, 5, 3  # listed a pixel: groups and prototypes of the class, prototypes of the runner-up
MAPS = 240  # prototypes with an activation map
DIGITS = 2  # decimals kept of a contribution


def lattice(explanation: Explanation, probes: int = PROBES) -> tuple[Tensor, Tensor, tuple[int, int]]:
    """Pixels on a regular lattice over the explained region, at most ``probes`` of them.

    Returns:
        Image rows (N,) and columns (N,), row-major, and the lattice's (rows, columns).
    """
    height, width = explanation.size
    step = max(1.0, (height * width / probes) ** 0.5)
    rows, columns = max(1, int(height / step)), max(1, int(width / step))
    ys = ((torch.arange(rows) + 0.5) * height / rows).long() + explanation.region[0]
    xs = ((torch.arange(columns) + 0.5) * width / columns).long() + explanation.region[1]
    return ys.repeat_interleave(columns), xs.repeat(rows), (rows, columns)


def probe_image(explanation: Explanation, truth: Tensor | None = None) -> dict[str, Any]:
    """Everything the page's probe shows about one image, JSON-ready.

    Args:
        explanation: of the image.
        truth: uint8 (h, w), 255 = void, or None.

    Returns:
        Pictures as data URIs; per lattice point (row-major) the class, the runner-up, both logits, and the largest
        contributions as flat lists ``[unit, hundredths, unit, hundredths, ...]``; activation maps as base64 bytes; the
        points that hold no image, if there are some.
    """
    told, (ys, xs, ours) = spots(explanation)
    colours = explanation.segmenter.classes.colours
    return {
        "name": explanation.name,
        "size": list(explanation.size),
        "photo": data_uri(explanation.image),
        "prediction": data_uri(paint(explanation.prediction, colours), "png"),
        "edges": data_uri(outline(explanation.prediction), "png"),
        "truth": None if truth is None else data_uri(paint(truth, colours), "png"),
        **told,
        "maps": activation_maps(explanation, ys, xs, ours.prototypes),
    }


def spots(explanation: Explanation) -> tuple[dict[str, Any], tuple[Tensor, Tensor, Contributions]]:
    """The evidence of :func:`probe_image`, without pictures and maps.

    Returns:
        What the page's probe reads, JSON-ready, and with it the points' rows (N,), columns (N,) and evidence for the
        predicted classes.
    """
    ys, xs, (rows, columns) = lattice(explanation)
    logits = explanation.logits(ys, xs).cpu()
    values, classes = logits.topk(min(2, logits.shape[1]), dim=1)
    best, rival = classes[:, 0], classes[:, -1]
    ours, theirs = explanation.evidence(ys, xs, best), explanation.evidence(ys, xs, rival)
    inside, (top, left) = explanation.inside, explanation.region[:2]
    empty = [] if inside is None else (~inside[ys - top, xs - left]).nonzero().flatten().tolist()
    told = {
        **({"empty": empty} if empty else {}),
        "grid": [rows, columns],
        "best": best.tolist(),
        "rival": rival.tolist(),
        "logits": hundredths(values[:, 0]),
        "rivals": hundredths(values[:, -1]),
        "own": own_share(explanation, ours.prototypes, best),
        "offset": hundredths(ours.offset),
        "groups": [] if ours.groups is None else largest(ours.groups, GROUPS),
        "prototypes": largest(ours.prototypes, PROTOTYPES),
        "rival_prototypes": largest(theirs.prototypes, RIVALS),
    }
    return told, (ys, xs, ours)


def hundredths(values: Tensor) -> list[int]:
    """Rounded to two decimals, as whole numbers of hundredths: half the characters of floats in JSON."""
    rounded: list[int] = (values.detach().cpu().double() * 10**DIGITS).round().long().tolist()
    return rounded


def own_share(explanation: Explanation, shares: Tensor, classes: Tensor) -> list[int]:
    """Hundredths (N,) of what the prototypes of each point's own class contribute; all of it without prototypes."""
    bank = explanation.segmenter.head.bank
    if bank is None:
        return hundredths(shares.sum(1))
    own = bank.class_of.cpu() == classes.cpu()[:, None]
    return hundredths((shares.detach().cpu() * own).sum(1))


def largest(shares: Tensor, count: int) -> list[list[int]]:
    """The ``count`` largest of each row of (N, P) by size, as ``[index, hundredths, index, hundredths ...]``."""
    shares = shares.detach().cpu()
    index = shares.abs().topk(min(count, shares.shape[1]), dim=1)[1]
    pairs = torch.stack([index, (shares.gather(1, index).double() * 10**DIGITS).round().long()], 2)
    flat: list[list[int]] = pairs.flatten(1).tolist()
    return flat


def activation_maps(explanation: Explanation, ys: Tensor, xs: Tensor, shares: Tensor) -> dict[str, str]:
    """Activations on the lattice, 0..255 from each map's least to its most, of the prototypes that matter most."""
    order = shares.detach().abs().sum(0).argsort(descending=True)[:MAPS].tolist()
    top, left = explanation.region[:2]
    return {str(p): levels(explanation.activation_map(p)[ys - top, xs - left]) for p in order}


def levels(values: Tensor) -> str:
    """Values (N,) as base64 of bytes, 0 their least and 255 their most."""
    values = values.float()
    low, high = values.min(), values.max()
    level = ((values - low) / (high - low).clamp(min=1e-6) * 255).round().to(torch.uint8)
    return base64.b64encode(level.cpu().numpy().tobytes()).decode()
