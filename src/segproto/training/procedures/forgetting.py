"""Forgetting: a short training after which no prototype of a class stands for what a person marked as misleading.

After ProtoPDebug (Bontempelli et al., ICLR 2023), with the projection of this house: marked prototypes move away, a
penalty keeps all prototypes of their class away, and the projection may not choose patches like the marked ones.
"""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Any

import torch
from pydantic import Field, model_validator
from torch import Tensor

from segproto.data.base import SegmentationDataset
from segproto.data.batch import Batch
from segproto.errors import ConfigError, DataError
from segproto.model.features import image_features
from segproto.model.provenance import PrototypeSource
from segproto.model.segmenter import Segmenter
from segproto.prototypes.bank import PrototypeBank
from segproto.prototypes.membership import nearest_label
from segproto.prototypes.nearest import RunningNearest
from segproto.prototypes.similarity import EPSILON, log_activation
from segproto.training.procedures.config import DiversityConfig, LearningRates, OptimiseConfig, ThresholdConfig
from segproto.training.procedures.map_images import fold_images
from segproto.training.procedures.optimise import StageLoss, optimise_stage
from segproto.training.procedures.projection import padded_mask, recompute, search, trace
from segproto.training.procedures.pruning import threshold
from segproto.training.stage import Procedure, Stage, StageContext

STAGES = ("mark", "forget", "reproject", "retune", "rethreshold")
SAMPLES = 4096  # distances kept an image and marked patch, for the quantile that says what is "like" the patch


class ForgetConfig(OptimiseConfig):
    """Settings of the stages ``mark``, ``forget``, ``reproject``, ``retune``; the encoder stays as it is.

    Attributes:
        prototypes: numbers of the prototypes a person marked as misleading; empty skips the stages.
        weight: of the penalty.
        share: this share of the class's training cells, those most like a marked patch, is what must be forgotten.
        retune_steps: batches in which readout and groups learn again after the projection.
    """

    steps: int = Field(100, ge=0)
    lr: LearningRates = LearningRates(prototypes=2e-3, groups=2e-3, readout=2e-3)
    l1: float = Field(1e-4, ge=0)
    prototypes: tuple[int, ...] = ()
    weight: float = Field(1.0, ge=0)
    share: float = Field(0.05, gt=0, lt=1)
    retune_steps: int = Field(100, ge=0)

    @model_validator(mode="after")
    def _encoder_stays(self) -> ForgetConfig:
        if self.lr.backbone > 0 or self.lr.neck > 0:
            raise ValueError("the encoder rests while prototypes are forgotten; leave out lr.backbone and lr.neck")
        return self


def forget_stages(config: ForgetConfig, variant: DiversityConfig, tau: ThresholdConfig | None = None) -> list[Stage]:
    """All stages of forgetting, in order; none if no prototype is marked.

    Args:
        config: what to forget and how.
        variant: of the diversity loss.
        tau: threshold for groups afterwards; None for methods without groups.
    """
    if not config.prototypes:
        return []
    retune = config.model_copy(
        update={"steps": config.retune_steps, "lr": config.lr.model_copy(update={"prototypes": 0.0})}
    )

    def last(context: StageContext) -> dict[str, Any]:
        return threshold(context, tau) if tau and context.segmenter.head.grouping is not None else {}

    first, second = OwnClassLoss(config, variant, penalised=True), OwnClassLoss(retune, variant)
    return [
        Procedure("mark", lambda context: mark(context, config)),
        replace(optimise_stage("forget", config, variant), loss=first, after_step=first.put_back),
        Procedure("reproject", reproject),
        replace(optimise_stage("retune", retune, variant), loss=second, after_step=second.put_back),
        *([Procedure("rethreshold", last)] if tau else []),
    ]


def prototype_bank(model: Segmenter) -> PrototypeBank:
    """The bank that a gradient may move.

    Raises:
        ConfigError: a head without one.
    """
    bank = model.head.bank
    if not isinstance(bank, PrototypeBank):
        raise ConfigError(f"a {model.head.kind} head has no prototypes that a gradient moves; use --drop")
    return bank


@torch.no_grad()
def mark(context: StageContext, config: ForgetConfig) -> dict[str, Any]:
    """Remembers the marked patches and what is like them, and moves the marked prototypes to other patches."""
    model = context.segmenter
    bank, dataset, cache = prototype_bank(model), context.train_set, context.extra.get("train_cache")
    patches, cells = [], []
    for number in config.prototypes:
        source = source_to_forget(model, bank, number)
        if source.image not in dataset.names:
            raise DataError(f"prototype {number} came from {source.image}, which is not among the training images")
        features = image_features(model, dataset, list(dataset.names).index(source.image))
        cells.append(features[0, :, source.cell[0], source.cell[1]])
        patches.append({"prototype": number, "class": int(bank.class_of[number]), "image": source.image})
    marked = Forgotten(torch.stack(cells), bank.class_of[list(config.prototypes)], bank.num_scales, None)
    radii = radii_of(model, dataset, cache, marked, config.share)
    for patch, cell, radius in zip(patches, marked.features, radii, strict=True):
        patch |= {"features": cell.tolist(), "radii": radius.tolist()}
    model.card["forgotten"] = [*model.card.get("forgotten", []), *patches]
    nearest = nearest_allowed(context, model)
    chosen = torch.tensor(config.prototypes, device=bank.vectors.device)
    require_elsewhere(model, bank, nearest, chosen)
    bank.vectors[chosen] = nearest.feature[chosen]
    words = f"made to forget the patches of prototypes {', '.join(map(str, config.prototypes))}"
    model.card["edits"] = [*model.card.get("edits", []), words]
    if model.provenance is not None:
        rest = (~torch.isin(bank.class_of, Forgotten.of(model, bank).class_of)).tolist()
        sources = model.provenance.to_json()["sources"]
        model.card["resting"] = [source if rests else None for source, rests in zip(sources, rest, strict=True)]
        model.provenance = replace(model.provenance, edits=(*model.provenance.edits, words))
    return {"prototypes": bank.num_prototypes, "marked": list(config.prototypes), "radii": radii.tolist()}


def source_to_forget(model: Segmenter, bank: PrototypeBank, number: int) -> PrototypeSource:
    """Where a marked prototype came from.

    Raises:
        ConfigError: no such prototype, or its source is unknown.
    """
    if not 0 <= number < bank.num_prototypes:
        raise ConfigError(f"prototype {number}: there is none; this model's are 0..{bank.num_prototypes - 1}")
    source = model.provenance.sources[number] if model.provenance is not None else None
    if source is None:
        raise ConfigError(f"prototype {number}: its training patch is unknown, so there is nothing to forget; drop it")
    return source


class Forgotten:
    """Marked patches as the penalty and the projection need them.

    Args:
        features: (F, S*D) features of the marked cells.
        class_of: (F,) the class each was marked for.
        scales: S.
        radii: (F, S) squared distance within which a feature counts as the patch; None before it is known.
    """

    def __init__(self, features: Tensor, class_of: Tensor, scales: int, radii: Tensor | None) -> None:
        self.features, self.class_of, self.radii = features, class_of, radii
        self.blocks = features.view(len(features), scales, -1)

    @classmethod
    def of(cls, model: Segmenter, bank: PrototypeBank) -> Forgotten:
        """All patches the model was ever made to forget."""
        items, device = model.card.get("forgotten", []), bank.vectors.device
        features = torch.tensor([item["features"] for item in items], device=device)
        class_of = torch.tensor([item["class"] for item in items], device=device)
        return cls(features, class_of, bank.num_scales, torch.tensor([i["radii"] for i in items], device=device))

    def to_prototypes(self, bank: PrototypeBank) -> tuple[Tensor, Tensor]:
        """Squared distances (F, P) to the prototypes, each at its own scale, and which pairs are of one class."""
        own = self.blocks[:, bank.scale_of]
        return (own - bank.vectors).square().sum(-1), self.class_of[:, None] == bank.class_of

    def to_cells(self, features: Tensor) -> Tensor:
        """Squared distances (F, S, h*w) to the cells of features (S*D, h, w)."""
        cells = features.view(self.blocks.shape[1], self.blocks.shape[2], -1).transpose(1, 2)
        between = torch.cdist(self.blocks.transpose(0, 1), cells, compute_mode="donot_use_mm_for_euclid_dist")
        return between.square().transpose(0, 1)


def radii_of(model: Segmenter, dataset: SegmentationDataset, cache: Any, marked: Forgotten, share: float) -> Tensor:
    """(F, S): the ``share``-quantile of the distances from each marked patch to the training cells of its class."""
    kept: list[list[Tensor]] = [[] for _ in range(len(marked.features))]
    for index in fold_images(dataset, title="mark"):
        features = image_features(model, dataset, index, cache)
        grid = (features.shape[-2], features.shape[-1])
        labels = padded_mask(model, dataset[index].mask.to(features.device))
        member = nearest_label(labels, grid, model.classes.num_classes).flatten(1)
        found = marked.to_cells(features[0])
        for f, c in enumerate(marked.class_of.tolist()):
            own = found[f][:, member[c]]
            kept[f].append(own[:, :: max(1, own.shape[1] // SAMPLES)])
    return torch.stack([torch.cat(parts, 1).quantile(share, dim=1) for parts in kept])


def nearest_allowed(context: StageContext, model: Segmenter) -> RunningNearest:
    """Each prototype's nearest training cell of its class that is not like a forgotten patch of that class."""
    bank = prototype_bank(model)
    marked = Forgotten.of(model, bank)
    assert marked.radii is not None
    radii = marked.radii
    of_class = (marked.class_of[:, None] == torch.arange(bank.num_classes, device=radii.device)).float()

    def distances(features: Tensor) -> Tensor:
        like = (marked.to_cells(features[0]) <= radii[:, :, None]).float()
        taken = torch.einsum("fc,fsn->csn", of_class, like) > 0
        own = taken[bank.class_of, bank.scale_of].view(-1, *features.shape[-2:])
        return bank.distances(features)[0].masked_fill(own, torch.inf)

    return search(context, context.train_set, context.extra.get("train_cache"), "nearest_label", distances)


def require_elsewhere(model: Segmenter, bank: PrototypeBank, nearest: RunningNearest, chosen: Tensor) -> None:
    """Refuses to forget all there is of a class."""
    lost = chosen[torch.isinf(nearest.distance[chosen])].tolist()
    if lost:
        name = model.classes.names[int(bank.class_of[lost[0]])]
        raise DataError(
            f"class {name}: nothing of it in the training images is unlike what to forget; lower stages.forget.share"
        )


class OwnClassLoss(StageLoss):
    """The stage's loss, of which only the classes with something to forget learn.

    The other classes' prototypes, groups and readout columns are put back after every step, so that forgetting one
    texture does not retrain the model.

    Args:
        config: loss weights, and which parts train.
        variant: of the diversity loss.
        penalised: add how like the forgotten patches the most similar prototype of the class is.
    """

    config: ForgetConfig

    def __init__(self, config: ForgetConfig, variant: DiversityConfig, penalised: bool = False) -> None:
        super().__init__(config, variant)
        self.penalised = penalised
        self._marked: tuple[PrototypeBank, Forgotten] | None = None
        self._others: list[tuple[Tensor, Tensor, Tensor]] = []

    def __call__(self, model: Segmenter, batch: Batch) -> dict[str, Tensor]:
        terms, bank = super().__call__(model, batch), prototype_bank(model)
        if self._marked is None or self._marked[0] is not bank:  # before the first step, also of a resumed stage
            self._marked = bank, Forgotten.of(model, bank)
            self._others = others_of(model, self._marked[1].class_of)
        if not self.penalised:
            return terms
        terms["similarity_to_forgotten"] = penalty(self._marked[1], bank)
        return {**terms, "loss": terms["loss"] + self.config.weight * terms["similarity_to_forgotten"]}

    @torch.no_grad()
    def put_back(self, model: Segmenter) -> None:
        """After a step: group weights back onto the simplex, and all that rests to what it was."""
        if model.head.grouping is not None:
            model.head.grouping.project_()
        for parameter, before, rests in self._others:
            parameter.copy_(torch.where(rests, before, parameter))


def others_of(model: Segmenter, classes: Tensor) -> list[tuple[Tensor, Tensor, Tensor]]:
    """What belongs to other classes than these: each parameter, a copy of it, and a mask (broadcast) of what rests."""
    head, bank, grouping = model.head, prototype_bank(model), model.head.grouping
    units = rests = ~torch.isin(bank.class_of, classes)
    found: list[tuple[Tensor, Tensor]] = [(bank.vectors, rests[:, None])]
    if grouping is not None:
        units = ~torch.isin(grouping.class_of_group, classes)
        found.append((grouping.weights, units[:: grouping.groups, None, None]))
    for weights in head.parts().readout:
        by_unit = weights.ndim > 0 and weights.shape[-1] == len(units)
        found.append((weights, units if by_unit else torch.ones_like(weights, dtype=torch.bool)))  # shared ones rest
    return [(parameter, parameter.detach().clone(), mask) for parameter, mask in found]


def penalty(marked: Forgotten, bank: PrototypeBank) -> Tensor:
    """Scalar 0..1: the mean over forgotten patches of the largest activation of a prototype of the class by the patch.

    1 = a prototype equals each of them; the activation is divided by its value at an exact match.
    """
    distances, alike = marked.to_prototypes(bank)
    activation = log_activation(distances) / -math.log(EPSILON)
    return activation.masked_fill(~alike, 0).amax(1).mean()


@torch.no_grad()
def reproject(context: StageContext) -> dict[str, Any]:
    """Projects the classes' prototypes onto training patches again; none like a forgotten patch can be chosen."""
    model = context.segmenter
    bank = prototype_bank(model)
    nearest = nearest_allowed(context, model)
    moved = torch.isin(bank.class_of, Forgotten.of(model, bank).class_of)
    require_elsewhere(model, bank, nearest, moved.nonzero()[:, 0])
    nearest.image[~moved.to(nearest.image.device)] = -1
    if context.extra.get("train_cache") is not None:
        recompute(model, context.train_set, nearest)
    bank.vectors.copy_(torch.where(moved[:, None], nearest.feature, bank.vectors))
    retrace(context, nearest)
    return {
        "prototypes": bank.num_prototypes,
        "projection_gap_mean": float(nearest.distance[moved].sqrt().mean()),
        "nearest_to_forgotten": min(row["times_radius"] for row in nearest_to_forgotten(model)),
    }


def retrace(context: StageContext, nearest: RunningNearest) -> None:
    """Sources and pictures: of prototypes found anew (``image`` of the others is -1) theirs, else those before."""
    model, place = context.segmenter, {name: i for i, name in enumerate(context.train_set.names)}
    for p, item in enumerate(model.card.pop("resting", [])):
        if item is not None and item["image"] in place:
            nearest.image[p], nearest.distance[p] = place[item["image"]], item["distance"]
            nearest.cell[p], nearest.grid[p] = (torch.tensor(item[key]) for key in ("cell", "grid"))
    model.provenance, model.patches = trace(model, context.train_set, nearest)
    model.provenance = replace(model.provenance, edits=tuple(model.card.get("edits", ())))


@torch.no_grad()
def nearest_to_forgotten(model: Segmenter) -> list[dict[str, Any]]:
    """Whether what was forgotten stays away: the prototype of the class that is now most like each forgotten patch.

    Returns:
        Per patch the model was ever made to forget: ``prototype`` (its number when it was marked), ``class``, ``image``
        it came from, ``nearest`` (a prototype), its squared ``distance`` from the patch, and ``times_radius``: how many
        times as far (not squared) that is as the farthest cell of that scale that counts as the patch; above 1 it
        stays away.
    """
    bank = prototype_bank(model)
    marked = Forgotten.of(model, bank)
    assert marked.radii is not None
    distances, alike = marked.to_prototypes(bank)
    ratio = (distances / marked.radii[:, bank.scale_of]).sqrt()
    times, nearest = ratio.masked_fill(~alike, torch.inf).min(1)
    return [
        {
            "prototype": item["prototype"],
            "class": model.classes.names[item["class"]],
            "image": item["image"],
            "nearest": int(p),
            "distance": float(distances[row, p]),
            "times_radius": float(times[row]),
        }
        for row, (item, p) in enumerate(zip(model.card["forgotten"], nearest.tolist(), strict=True))
    ]
