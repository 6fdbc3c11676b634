"""Facts about each prototype: its patch, place, weights, and how much of the images it decides."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import torch
from torch import Tensor

from segproto.data.base import Sample, SegmentationDataset
from segproto.data.portion import ALONE, Portion
from segproto.data.subset import spread
from segproto.model.evidence import source_of
from segproto.model.explain import explain
from segproto.model.explanation import Explanation
from segproto.model.patches import stored_patch
from segproto.model.segmenter import Segmenter
from segproto.report.evidence import lattice
from segproto.report.health import health_words
from segproto.report.pictures import image_uri

USAGE_IMAGES, USAGE_PROBES = 24, 400
CARDS = 1000  # prototypes shown one by one; of more, those that decide most
PATCH_SIDE, ALSO_SIDE = 112, 64  # pixels of a patch in a page, and of further ones beside it


@dataclass(frozen=True)
class Card:
    """One prototype in the gallery.

    Attributes:
        index: its number in the bank.
        class_id: its class.
        scale: its scale.
        weights: (name, weight): of the groups it belongs to, or its readout weight.
        used: whether the readout can see it at all.
        decides: share of the looked-at pixels of its class that it contributes most to.
        health: a remark if it is unused, a copy or decides nothing; else empty.
        where: the training image and the box of the patch; None if unknown.
        patch: data URI of the patch; None if it was not drawn.
        also: data URIs of further patches, of prototypes that have several.
    """

    index: int
    class_id: int
    scale: int
    weights: tuple[tuple[str, float], ...]
    used: bool
    decides: float
    health: str
    where: str | None
    patch: str | None
    also: tuple[str, ...] = ()

    @property
    def weight_words(self) -> str:
        """``groups 1, 3: 0.40, 0.12``, or ``weight 0.98`` without groups."""
        numbers = ", ".join(f"{weight:.2f}" for _, weight in self.weights)
        names = [name.removeprefix("group ") for name, _ in self.weights]
        if not names or names == ["weight"]:
            return f"weight {numbers}" if names else ""
        return f"group{'s' if len(names) > 1 else ''} {', '.join(names)}: {numbers}"


def cards(model: Segmenter, decided: Tensor | None = None, named: Iterable[int] = ()) -> list[Card | None]:
    """A card per prototype, in the bank's order; empty for the black box.

    Args:
        model: the model.
        decided: (P,) of :func:`shares_decided`; None = zeros.
        named: prototypes that the page names elsewhere.

    Returns:
        Of a model with more than ``CARDS`` prototypes only those that decide most and those that are named have one.
    """
    bank = model.head.bank
    if bank is None:
        return []
    shares = torch.zeros(bank.num_prototypes) if decided is None else decided
    every = unit_weights(model)
    in_use = used(model)
    many = bank.num_prototypes > CARDS
    shown = {*shares.argsort(descending=True)[:CARDS].tolist(), *named} if many else set(range(bank.num_prototypes))
    remarks = [""] * bank.num_prototypes if many else health_words(model, in_use, decided)
    classes, scales = bank.class_of.tolist(), bank.scale_of.tolist()
    return [
        None
        if p not in shown
        else Card(
            index=p,
            class_id=classes[p],
            scale=scales[p],
            weights=weights,
            used=in_use[p],
            decides=float(shares[p]),
            health=remarks[p],
            where=place(model, p),
            patch=picture(model, p),
            also=further_pictures(model, p),
        )
        for p, weights in enumerate(every)
    ]


def used(model: Segmenter) -> list[bool]:
    """Per prototype whether any weight leads to it."""
    return [any(weight != 0 for _, weight in weights) for weights in unit_weights(model)]


def unit_weights(model: Segmenter) -> list[tuple[tuple[str, float], ...]]:
    """Per prototype its weight in each group it belongs to, or its readout weight for its own class."""
    bank, grouping, readout = model.head.bank, model.head.grouping, model.head.unit_weights()
    if bank is None:
        return []
    if grouping is not None:
        dense = grouping.dense().detach().cpu()
        names = [f"group {g % grouping.groups + 1}" for g in range(dense.shape[0])]
        return [
            tuple((names[g], float(dense[g, p])) for g in dense[:, p].nonzero()[:, 0].tolist())
            for p in range(dense.shape[1])
        ]
    if readout is None:
        return [(("weight", 1.0),)] * bank.num_prototypes  # as the nearest of a class, which is taken as it is
    own = readout.detach().cpu()[bank.class_of.cpu(), torch.arange(bank.num_prototypes)]
    return [(("weight", float(value)),) for value in own]


def place(model: Segmenter, prototype: int) -> str | None:
    """``image, rows 8-12, columns 0-4`` of a prototype's patch."""
    source = source_of(model, prototype)
    if source is None:
        return None
    y0, x0, y1, x1 = source.box
    return f"{source.image}, rows {y0}\N{EN DASH}{y1 - 1}, columns {x0}\N{EN DASH}{x1 - 1}"


def picture(model: Segmenter, prototype: int) -> str | None:
    """Data URI of a prototype's patch."""
    patch = stored_patch(model, source_of(model, prototype))
    return None if patch is None else image_uri(patch, "jpeg", PATCH_SIDE)


def further_pictures(model: Segmenter, prototype: int) -> tuple[str, ...]:
    """Data URIs of the further patches of a prototype that has several."""
    source = source_of(model, prototype)
    patches = [stored_patch(model, further) for further in (() if source is None else source.also)]
    return tuple(image_uri(patch, "jpeg", ALSO_SIDE) for patch in patches if patch is not None)


def shares_decided(
    model: Segmenter,
    dataset: SegmentationDataset,
    visit: Callable[[Explanation, Sample, int], None] | None = None,
    progress: Callable[[int, int], None] | None = None,
    portion: Portion = ALONE,
) -> Tensor | None:
    """(P,): of the looked-at pixels given to a prototype's class, the share it contributes most to.

    Args:
        model: the model.
        dataset: up to ``USAGE_IMAGES`` images spread over it are used.
        visit: also called with each explanation, its sample and its number, so that nothing is explained twice.
        progress: called with (images done, images) of this process.
        portion: this process's; the shares are those of all.

    Returns:
        None for the black box, of which no image is used.
    """
    bank = model.head.bank
    if bank is None:
        return None
    wins, pixels = torch.zeros(bank.num_prototypes), torch.zeros(bank.num_classes)
    chosen = spread(len(dataset), USAGE_IMAGES)
    own = portion.indices(len(chosen))
    for done, number in enumerate(own, 1):
        sample = dataset[chosen[number]]
        explanation = explain(model, sample)
        best, winner = winners(explanation)
        true = winner[bank.class_of.cpu()[winner] == best]  # a part may add most to another class than its own
        wins += torch.bincount(true, minlength=bank.num_prototypes)
        pixels += torch.bincount(best, minlength=bank.num_classes)
        if visit is not None:
            visit(explanation, sample, number)
        if progress is not None:
            progress(done, len(own))
    wins, pixels = (torch.stack(parts).sum(0) for parts in zip(*portion.gather((wins, pixels)), strict=True))
    return wins / pixels[bank.class_of.cpu()].clamp(min=1)


def winners(explanation: Explanation) -> tuple[Tensor, Tensor]:
    """On a lattice: the predicted class (N,) and the prototype that contributes most to it (N,)."""
    ys, xs, _ = lattice(explanation, USAGE_PROBES)
    best = explanation.logits(ys, xs).argmax(1).cpu()
    return best, explanation.contributions(ys, xs, best).argmax(1).cpu()


def telling_indices(dataset: SegmentationDataset, count: int, portion: Portion = ALONE) -> list[int]:
    """Of each of ``count`` stretches of ``dataset``, the image with the most classes among those that are used."""
    if not count:
        return []
    candidates = spread(len(dataset), max(count, USAGE_IMAGES))
    count = min(count, len(candidates))
    own = [candidates[number] for number in portion.indices(len(candidates))]
    counts = portion.gather({index: len(torch.unique(dataset[index].mask)) for index in own})
    classes = {index: number for part in counts for index, number in part.items()}
    cuts = [i * len(candidates) // count for i in range(count + 1)]
    return [max(candidates[a:b], key=classes.__getitem__) for a, b in pairwise(cuts)]


def scale_names(model: Segmenter) -> list[str]:
    """What to call each scale: with the dilation rate of its branch where there is one."""
    config, bank = model.encoder.config, model.head.bank
    scales = len(model.encoder.scale_dims) if bank is None else bank.num_scales
    if scales == 1:
        return ["the only scale"]
    names, rates = [f"scale {i + 1}" for i in range(scales)], config.scale_rates
    if rates is None or len(rates) != scales:
        return names
    return [f"{name} (rate {rate})" for name, rate in zip(names, rates, strict=True)]


def for_probe(cards: Sequence[Card | None]) -> list[dict[str, Any] | None]:
    """What the page's probe needs to know of each prototype that has a card."""
    return [
        None
        if card is None
        else {"class": card.class_id, "scale": card.scale, "patch": card.patch, "where": card.where, "also": card.also}
        for card in cards
    ]


def named_in(probes: Sequence[dict[str, Any]]) -> set[int]:
    """The prototypes that the lists of some probed images name."""
    lists = [row for probe in probes for key in ("prototypes", "rival_prototypes") for row in probe[key]]
    return {index for row in lists for index in row[::2]}


def groups_for_probe(model: Segmenter) -> list[dict[str, Any]]:
    """Class, number within the class, and members (prototype, hundredths) of every group."""
    grouping, weights = model.head.grouping, model.head.unit_weights()
    if grouping is None or weights is None:
        return []
    dense = grouping.dense().detach().cpu()
    classes, readout = grouping.class_of_group.tolist(), weights.detach().cpu()
    return [
        {
            "class": classes[g],
            "number": g % grouping.groups + 1,
            "readout": round(100 * float(readout[classes[g], g])),
            "members": [[p, round(100 * float(row[p]))] for p in row.argsort(descending=True).tolist() if row[p] > 0],
        }
        for g, row in enumerate(dense)
    ]
