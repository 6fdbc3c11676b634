"""Shortcuts: what a model leans on that is not the thing itself, one line each, the costliest first."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor

from segproto.data.base import ClassTable, SegmentationDataset
from segproto.data.portion import ALONE, Portion
from segproto.data.subset import spread
from segproto.errors import ConfigError
from segproto.evaluation.review.context import context_shares, most_of_each
from segproto.evaluation.tally import report
from segproto.evaluation.whatif import WhatIf
from segproto.model.edit import edited
from segproto.model.features import image_features
from segproto.model.field import Field
from segproto.model.memory_head import cells_of
from segproto.model.patches import covered_mask
from segproto.model.segmenter import Segmenter
from segproto.model.windows import evaluating
from segproto.prototypes.retrieval import cell_frequencies

LOOKS = 24  # images of each split
CELLS = 400  # of an image
LABELLED = 0.5  # share of a cell's pixels, for it to have a label
TRIED = 40  # prototypes that are removed in turn
KEPT = 2**27  # numbers that are kept to score removals by; of large images fewer are scored
GAIN, OUTSIDE, MISLED, LOST, CONTEXT = 0.001, 0.5, 0.1, 0.1, 0.5  # what is worth a line, see `Shortcut`

Split = Literal["train", "val"]
Progress = Callable[[int, int], None]


@dataclass(frozen=True)
class Shortcut:
    """One suspicion: a prototype that a class may be better off without, or a class that is known by its place.

    Attributes:
        class_id: the class.
        prototype: of that class; None = the whole class.
        cost: what it may cost, as a share of the mIoU (0..1): the largest of ``gain`` and, in proportion to ``lost`` or
            ``context``, what the class's IoU falls from training to validation images.
        gain: how the mIoU of validation images changes without the prototype; None = not tried.
        renormalise: that is so if its weights go to the other members of its groups (``edit --renormalise``), which is
            better than without.
        outside: of the places that the prototype decides, the share that is of other classes.
        misled: of all places wrongly taken for the class, the share that the prototype decides.
        lost: of the evidence for the class in training images, the share that is the prototype's and is missing in
            validation images.
        context: of the evidence for the class, the share outside its own region
            (:func:`segproto.evaluation.review.context.context_shares`).
    """

    class_id: int
    prototype: int | None
    cost: float
    gain: float | None = None
    renormalise: bool = False
    outside: float | None = None
    misled: float | None = None
    lost: float | None = None
    context: float | None = None

    def to_json(self, names: Sequence[str]) -> dict[str, Any]:
        """Plain data of what is known, the class by ``names``, and ``words``."""
        known = {key: value for key, value in vars(self).items() if value is not None and key != "class_id"}
        figures = {key: round(value, 6) if isinstance(value, float) else value for key, value in known.items()}
        return {"class": names[self.class_id], **figures, "words": self.words(names)}

    def words(self, names: Sequence[str]) -> str:
        """One line for a person."""
        name = names[self.class_id]
        if self.prototype is None:
            return f"{name} is recognised by its surroundings: {self.context:.0%} of the evidence lies outside of it"
        said = []
        if self.lost is not None and self.lost >= LOST:
            said.append(f"{self.lost:.0%} of the evidence for {name} in training images, missing in validation images")
        if self.outside is not None and self.misled is not None and self.outside >= OUTSIDE:
            said.append(f"{self.outside:.0%} of what it decides is no {name} ({self.misled:.0%} of all mistakes)")
        if self.gain is not None:
            how = ", its weight to the rest of its groups" if self.renormalise else ""
            said.append(f"mIoU {100 * self.gain:+.1f} points without it{how}")
        return f"{name} #{self.prototype}: " + "; ".join(said)


@dataclass(frozen=True)
class Looked:
    """What one image says; cells counted by the number of their slot in a table.

    Attributes:
        split: of the image.
        place: its number among those of the split, of all processes.
        answers: slots of (C, C), label by answer.
        labels: (L,) the classes in it.
        evidence: float64 (L, P), summed over the cells of each.
        decided: slots of (C, P), answer by strongest prototype, of right (True) and wrong answers.
        kept: how many numbers it takes to score removals by it.
    """

    split: Split
    place: int
    answers: Tensor
    labels: Tensor
    evidence: Tensor
    decided: dict[bool, Tensor]
    kept: int = 0


class ShortcutSearch:
    """Collects what images of both splits say about the prototypes of a model.

    Args:
        model: in eval mode; of one without prototypes, or one that looks training images up, classes alone are judged.
        classes: of the labels.
        portion: of the images that this process looks at; all processes find the same.
    """

    def __init__(self, model: Segmenter, classes: ClassTable, portion: Portion = ALONE) -> None:
        bank = model.head.bank
        self.model, self.classes, self.portion = model, classes, portion
        self.looked: list[Looked] = []  # not yet in the sums
        self.prototypes = 0 if bank is None or model.head.remembers else bank.num_prototypes
        c, p = classes.num_classes, self.prototypes
        self.evidence = {split: torch.zeros(c, p, dtype=torch.float64) for split in ("train", "val")}
        self.confusion = {split: torch.zeros(c, c, dtype=torch.int64) for split in ("train", "val")}
        self.decided = {right: torch.zeros(c, p, dtype=torch.int64) for right in (True, False)}
        self.what_if, self.kept, self.places = WhatIf(model, classes), 0, list[int]()
        self.room, self.fitting = KEPT, set[int]()  # of all processes

    def look_through(self, split: Split, dataset: SegmentationDataset, progress: Progress | None = None) -> None:
        """Takes up to ``LOOKS`` images of a split in, spread over it; ``progress`` gets (images done, images)."""
        chosen = spread(len(dataset), LOOKS)
        own = self.portion.indices(len(chosen))
        for done, place in enumerate(own, 1):
            index = chosen[place]
            with evaluating(self.model):
                features = image_features(self.model, dataset, index).float()
            self.look(split, dataset.names[index], features, dataset[index].mask, place=place)
            if progress is not None:
                progress(done, len(own))

    @torch.no_grad()
    def look(
        self, split: Split, name: str, features: Tensor, mask: Tensor, field: Field | None = None, place: int = 0
    ) -> None:
        """Takes one image in.

        Args:
            split: of the image.
            name: of the image.
            features: (1, F, h, w) as the head receives them.
            mask: (H, W), 255 = void.
            field: how the cells lie over the image; None = as the encoder lays them over one of its size.
            place: its number among those of the split, where several processes share them.
        """
        head, count = self.model.head, self.classes.num_classes
        grid = (features.shape[-2], features.shape[-1])
        frequencies, known = cell_frequencies(covered_mask(self.model, mask.to(features.device)), grid, count)
        labelled = (known >= LABELLED).nonzero()[:, 0]
        cells = labelled[spread(len(labelled), CELLS)]
        if not len(cells):
            return
        labels = frequencies[cells].argmax(1)
        answers = cells_of(head(features))[cells].argmax(1)
        present, row = torch.unique(labels, return_inverse=True)
        evidence = torch.zeros(len(present), self.prototypes, dtype=torch.float64)
        decided: dict[bool, Tensor] = {}
        kept = 0
        if self.prototypes:
            told = cells_of(head.cell_features(features))[cells]
            own = head.contributions(told, labels).prototypes
            evidence.index_add_(0, row.cpu(), own.double().cpu())
            if split == "val":
                wrong = answers != labels
                misleading = head.contributions(told[wrong], answers[wrong]).prototypes if wrong.any() else own[wrong]
                for right, chosen, shares in ((True, ~wrong, own[~wrong]), (False, wrong, misleading)):
                    decided[right] = (answers[chosen] * self.prototypes + shares.max(1)[1]).cpu()
                kept = self.keep(name, features, mask, field, place)
        slots = (labels * count + answers).cpu()
        self.looked.append(Looked(split, place, slots, present.cpu(), evidence, decided, kept))

    def keep(self, name: str, features: Tensor, mask: Tensor, field: Field | None, place: int) -> int:
        """Keeps what a validation image is scored by, as long as there is room; how many numbers that are."""
        image = self.what_if.keep(name, features, mask, field)
        self.kept += image.cells.numel()
        if self.kept <= KEPT:
            self.what_if.images.append(image)
            self.places.append(place)
        return image.cells.numel()

    def settle(self) -> None:
        """Adds up what the images of all processes say, in one order whoever looked at them; each must call this."""
        every = sorted((one for part in self.portion.gather(self.looked) for one in part), key=lambda one: one.place)
        self.looked = []
        for one in every:
            confusion = self.confusion[one.split]
            confusion += torch.bincount(one.answers, minlength=confusion.numel()).view(confusion.shape)
            self.evidence[one.split].index_add_(0, one.labels, one.evidence)
            for right, slots in one.decided.items():
                decided = self.decided[right]
                decided += torch.bincount(slots, minlength=decided.numel()).view(decided.shape)
            self.room -= one.kept
            if one.kept and self.room >= 0:
                self.fitting.add(one.place)
        if self.portion.world > 1:
            every_own = zip(self.what_if.images, self.places, strict=True)
            own = [(image, place) for image, place in every_own if place in self.fitting]
            self.what_if.images, self.places = [image for image, _ in own], [place for _, place in own]

    def contexts(
        self, dataset: SegmentationDataset, each: int, progress: Progress | None = None, *, most: int | None = None
    ) -> list[float | None]:
        """:func:`context_shares` in training images that were looked at.

        Args:
            dataset: the training images.
            each: images of each class.
            progress: called with (images done, images).
            most: so many classes, those that lose most from training to validation; None = all.
        """
        chosen = most_of_each(dataset, spread(len(dataset), LOOKS), each)
        self.settle()
        asked = set(self.iou_drop().argsort(descending=True, stable=True)[:most].tolist())
        images = [images if c in asked else [] for c, images in enumerate(chosen)]
        return context_shares(self.model, dataset, images, progress, self.portion)

    def iou_drop(self) -> Tensor:
        """(C,): by how much the IoU of a class is lower in validation images than in training images, at least 0."""
        ious = []
        for split in ("train", "val"):
            counts = self.confusion[split].double()
            inside = counts.diagonal()
            ious.append(inside / (counts.sum(0) + counts.sum(1) - inside))
        return (ious[0] - ious[1]).nan_to_num(0).clamp_min(0)  # nan: absent from one of them

    def lost(self) -> Tensor:
        """(C, P): of the mean evidence for a class in training images, the part that validation images lack."""
        means = [
            self.evidence[split] / self.confusion[split].sum(1).clamp_min(1)[:, None] for split in ("train", "val")
        ]
        absent = (self.confusion["train"].sum(1) == 0) | (self.confusion["val"].sum(1) == 0)
        positive = means[0].clamp_min(0).sum(1, keepdim=True).clamp_min(1e-9)
        return ((means[0] - means[1]) / positive).clamp_min(0).masked_fill(absent[:, None], 0)

    def find(self, contexts: Sequence[float | None] = (), progress: Progress | None = None) -> list[Shortcut]:
        """All that is worth a line, the costliest first.

        Args:
            contexts: of :func:`segproto.evaluation.review.context.context_shares`; empty = not measured.
            progress: called with (prototypes removed, prototypes to remove).
        """
        self.settle()
        drop = self.iou_drop() / self.classes.num_classes
        found = [
            Shortcut(c, None, share * float(drop[c]), context=share)
            for c, share in enumerate(contexts)
            if share is not None and share >= CONTEXT
        ]
        if self.prototypes:
            found += self.found_prototypes(drop, progress)
        return sorted(found, key=lambda one: (-one.cost, -(one.outside or 0), -(one.context or 0)))

    def found_prototypes(self, drop: Tensor, progress: Progress | None) -> list[Shortcut]:
        """The prototypes that are worth a line; ``drop`` is (C,), what each class loses from training to validation."""
        bank = self.model.head.bank
        assert bank is not None
        numbers, owner = torch.arange(self.prototypes), bank.class_of.cpu()
        right, wrong = (self.decided[key][owner, numbers].double() for key in (True, False))
        every = self.decided[False].sum(1).double()[owner].clamp_min(1)
        outside, misled = wrong / (right + wrong).clamp_min(1), wrong / every
        lost, counts = self.lost()[owner, numbers], self.confusion["val"]
        union = (counts.sum(0) + counts.sum(1) - counts.diagonal()).double().clamp_min(1)[owner]
        fallen = lost * drop[owner]
        promise = torch.maximum(wrong / union / self.classes.num_classes, fallen)
        tried = [p for p in promise.argsort(descending=True, stable=True)[:TRIED].tolist() if promise[p] > 0]
        gains = self.gains(tried, progress)
        found = []
        for p in range(self.prototypes):
            gain, renormalise = gains.get(p, (None, False))
            if (
                (gain is not None and gain >= GAIN)
                or (outside[p] >= OUTSIDE and misled[p] >= MISLED)
                or (lost[p] >= LOST and fallen[p] >= GAIN)
            ):
                figures = {
                    key: float(value[p]) for key, value in (("outside", outside), ("misled", misled), ("lost", lost))
                }
                cost = max(0.0 if gain is None else gain, float(fallen[p]), 0.0)
                found.append(Shortcut(int(owner[p]), p, cost, gain, renormalise, **figures))
        return found

    def gains(self, tried: Sequence[int], progress: Progress | None) -> dict[int, tuple[float, bool]]:
        """How the mIoU of the kept images changes without each of some prototypes that a model can do without.

        Returns:
            By prototype the gain, and whether its weights are given to the other members of its groups; the better way.
        """
        whole = self.what_if.count(self.model.head).sum(0)
        counts: dict[tuple[int, bool], Tensor] = {}
        for done, p in enumerate(tried, 1):
            for way in (False,) if self.model.head.grouping is None else (False, True):
                try:
                    after, kept = edited(self.model, drop=[p], renormalise=way)
                except ConfigError:  # the last of a class that needs one
                    continue
                counts[p, way] = self.what_if.count(after.head, kept).sum(0)
            if progress is not None:
                progress(done, len(tried))
        parts = self.portion.gather((whole, counts))
        before = self.miou([part for part, _ in parts])
        gains: dict[int, tuple[float, bool]] = {}
        for p, way in counts:
            miou = self.miou([part[p, way] for _, part in parts])
            if before is not None and miou is not None and miou - before > gains.get(p, (-torch.inf, way))[0]:
                gains[p] = (miou - before, way)
        return gains

    def miou(self, counts: Sequence[Tensor]) -> float | None:
        """Of the pixels that each process counted."""
        miou: float | None = report(torch.stack(list(counts)).sum(0), self.classes)["miou"]
        return miou
