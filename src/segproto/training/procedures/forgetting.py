"""Forgetting: a short training after which no prototype of a class stands for what a person marked as misleading.

After ProtoPDebug (Bontempelli et al., ICLR 2023), with the projection of this house: marked prototypes move away, a
penalty keeps all prototypes of their class away, and the projection may not choose patches like the marked ones.
"""

from __future__ import annotations

from dataclasses import replace

import torch
from pydantic import Field, model_validator
from torch import Tensor

from segproto.data.base import SegmentationDataset
from segproto.data.batch import Batch
from segproto.errors import ConfigError, DataError
from segproto.model.features import BackboneFeatures, image_features, sample_features
from segproto.model.forgotten import ForgottenPatch
from segproto.model.patches import covered_mask
from segproto.model.provenance import PrototypeSource
from segproto.model.segmenter import Segmenter
from segproto.prototypes.bank import PrototypeBank
from segproto.prototypes.membership import nearest_label
from segproto.prototypes.nearest import RunningNearest
from segproto.training.figures import Figures
from segproto.training.procedures.config import DiversityConfig, LearningRates, OptimiseConfig, ThresholdConfig
from segproto.training.procedures.forgotten import Forgotten, Marked, nearest_to_forgotten, penalty, prototype_bank
from segproto.training.procedures.map_images import fold_samples
from segproto.training.procedures.optimise import StageLoss, optimise_stage
from segproto.training.procedures.projection import recompute, search, trace
from segproto.training.procedures.pruning import threshold
from segproto.training.stage import Optimise, Procedure, Stage, StageContext

WORDS = {  # of the stages, in order
    "mark": "misleading prototypes move away from their patches",
    "forget": "a penalty keeps all prototypes away from these patches",
    "reproject": "prototypes become training patches again, unlike those",
    "retune": "groups and readout settle",
    "rethreshold": "small group weights become zero again",
}
STAGES = tuple(WORDS)
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

    def last(context: StageContext) -> Figures:
        return threshold(context, tau) if tau and context.segmenter.head.grouping is not None else {}

    def optimised(name: str, settings: ForgetConfig, *, penalised: bool) -> Optimise:
        loss = OwnClassLoss(settings, variant, penalised)
        plain = optimise_stage(name, settings, variant, words=WORDS[name])
        return replace(plain, loss=loss, after_step=loss.put_back, keeps_sources=True)

    return [
        Procedure("mark", lambda context: mark(context, config), WORDS["mark"]),
        optimised("forget", config, penalised=True),
        Procedure("reproject", reproject, WORDS["reproject"]),
        optimised("retune", retune, penalised=False),
        *([Procedure("rethreshold", last, WORDS["rethreshold"])] if tau else []),
    ]


@torch.no_grad()
def mark(context: StageContext, config: ForgetConfig) -> Figures:
    """Remembers the marked patches and what is like them, and moves the marked prototypes to other patches."""
    model = context.segmenter
    bank, dataset, cache = prototype_bank(model), context.train_set, context.train_cache
    images, cells = [], []
    for number in config.prototypes:
        source = source_to_forget(model, bank, number)
        if source.image not in dataset.names:
            raise DataError(f"prototype {number} came from {source.image}, which is not among the training images")
        features = image_features(model, dataset, list(dataset.names).index(source.image))
        cells.append(features[0, :, source.cell[0], source.cell[1]])
        images.append(source.image)
    marked = Marked(torch.stack(cells), bank.class_of[list(config.prototypes)], bank.num_scales)
    radii = radii_of(model, dataset, cache, marked, config.share)
    columns = (config.prototypes, marked.class_of.tolist(), images, marked.features.tolist(), radii.tolist())
    model.forgotten += tuple(
        ForgottenPatch(number, class_id, image, tuple(cell), tuple(radius))
        for number, class_id, image, cell, radius in zip(*columns, strict=True)
    )
    nearest = nearest_allowed(context, model)
    chosen = torch.tensor(config.prototypes, device=bank.vectors.device)
    require_elsewhere(model, bank, nearest, chosen)
    bank.vectors[chosen] = nearest.feature[chosen]
    words = f"made to forget the patches of prototypes {', '.join(map(str, config.prototypes))}"
    model.card["edits"] = [*model.card.get("edits", []), words]
    if model.provenance is not None:
        resting = (~torch.isin(bank.class_of, Forgotten.of(model, bank).class_of)).tolist()
        sources = tuple(s if rests else None for s, rests in zip(model.provenance.sources, resting, strict=True))
        model.provenance = replace(model.provenance, sources=sources, edits=(*model.provenance.edits, words))
        model.drop_unnamed_patches()
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


def radii_of(
    model: Segmenter, dataset: SegmentationDataset, cache: BackboneFeatures | None, marked: Marked, share: float
) -> Tensor:
    """(F, S): the ``share``-quantile of the distances from each marked patch to the training cells of its class."""
    samples: list[list[Tensor]] = [[] for _ in range(len(marked.features))]
    for index, sample in fold_samples(dataset, title="mark"):
        features = sample_features(model, sample, index, cache)
        grid = (features.shape[-2], features.shape[-1])
        labels = covered_mask(model, sample.mask.to(features.device))
        member = nearest_label(labels, grid, model.classes.num_classes).flatten(1)
        distances = marked.to_cells(features[0])
        for f, c in enumerate(marked.class_of.tolist()):
            own = distances[f][:, member[c]]
            samples[f].append(own[:, :: max(1, own.shape[1] // SAMPLES)])
    return torch.stack([torch.cat(parts, 1).quantile(share, dim=1) for parts in samples])


def nearest_allowed(context: StageContext, model: Segmenter) -> RunningNearest:
    """Each prototype's nearest training cell of its class that is not like a forgotten patch of that class."""
    bank = prototype_bank(model)
    marked = Forgotten.of(model, bank)
    radii = marked.radii
    of_class = (marked.class_of[:, None] == torch.arange(bank.num_classes, device=radii.device)).float()

    def distances(features: Tensor) -> Tensor:
        like = (marked.to_cells(features[0]) <= radii[:, :, None]).float()
        forbidden = torch.einsum("fc,fsn->csn", of_class, like) > 0
        excluded = forbidden[bank.class_of, bank.scale_of].view(-1, *features.shape[-2:])
        return bank.distances(features)[0].masked_fill(excluded, torch.inf)

    return search(context, context.train_set, context.train_cache, "nearest_label", distances)


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
        """After an optimizer step: group weights back onto the simplex, and all that rests to what it was."""
        if model.head.grouping is not None:
            model.head.grouping.project_()
        for parameter, before, rests in self._others:
            parameter.copy_(torch.where(rests, before, parameter))


def others_of(model: Segmenter, classes: Tensor) -> list[tuple[Tensor, Tensor, Tensor]]:
    """What belongs to other classes than these: each parameter, a copy of it, and a mask (broadcast) of what rests."""
    head, bank, grouping = model.head, prototype_bank(model), model.head.grouping
    units = rests = ~torch.isin(bank.class_of, classes)
    resting: list[tuple[Tensor, Tensor]] = [(bank.vectors, rests[:, None])]
    if grouping is not None:
        units = ~torch.isin(grouping.class_of_group, classes)
        resting.append((grouping.weights, units[:: grouping.groups, None, None]))
    for weights in head.parts().readout:
        by_unit = weights.ndim > 0 and weights.shape[-1] == len(units)
        resting.append((weights, units if by_unit else torch.ones_like(weights, dtype=torch.bool)))  # shared ones rest
    return [(parameter, parameter.detach().clone(), mask) for parameter, mask in resting]


@torch.no_grad()
def reproject(context: StageContext) -> Figures:
    """Projects the classes' prototypes onto training patches again; none like a forgotten patch can be chosen."""
    model = context.segmenter
    bank = prototype_bank(model)
    nearest = nearest_allowed(context, model)
    moved = torch.isin(bank.class_of, Forgotten.of(model, bank).class_of)
    require_elsewhere(model, bank, nearest, moved.nonzero()[:, 0])
    nearest.image[~moved.to(nearest.image.device)] = -1
    if context.train_cache is not None:
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
    model, index_of = context.segmenter, {name: i for i, name in enumerate(context.train_set.names)}
    before = () if model.provenance is None else model.provenance.sources  # of the prototypes that rest
    for p, source in enumerate(before):
        if source is not None and source.image in index_of:
            nearest.image[p], nearest.distance[p] = index_of[source.image], source.distance
            nearest.cell[p], nearest.grid[p] = torch.tensor(source.cell), torch.tensor(source.grid)
    model.provenance, model.patches = trace(model, context.train_set, nearest)
    model.provenance = replace(model.provenance, edits=tuple(model.card.get("edits", ())))
