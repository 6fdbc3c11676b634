"""The optimising stages that black box, protoseg and scaleproto share: what trains, and on which loss."""

from __future__ import annotations

from collections.abc import Callable
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from segproto.data.batch import Batch
from segproto.encoders.norms import share_statistics
from segproto.errors import ConfigError
from segproto.model.segmenter import Segmenter
from segproto.prototypes.bank import Bank
from segproto.prototypes.diversity import DiversityLoss
from segproto.prototypes.enlarged import enlarged_cross_entropy
from segproto.prototypes.labels import IGNORE_INDEX, resize_labels
from segproto.prototypes.losses import dice_loss, focal_loss, grid_cross_entropy, labelled_weight, off_class_l1
from segproto.prototypes.numerics import constant
from segproto.training.procedures.config import DiversityConfig, LearningRates, OptimiseConfig
from segproto.training.stage import Optimise, ParamGroup

PIXEL_TERMS = ("cross_entropy", "focal", "dice")
NORMS = (nn.modules.batchnorm._BatchNorm, nn.LayerNorm, nn.GroupNorm)


def optimise_stage(
    name: str,
    config: OptimiseConfig,
    diversity: DiversityConfig | None = None,
    begin: Callable[[Segmenter], None] | None = None,
    words: str = "",
) -> Optimise:
    """An optimising stage: cross-entropy, with diversity, L1 and entropy where the head has what they weigh.

    Args:
        name: the stage's name.
        config: steps, learning rates, loss weights.
        diversity: variant of the diversity loss.
        begin: restructures the model before the first step.
        words: what the stage does, for reports.
    """
    return Optimise(
        name=name,
        steps=config.steps,
        parameters=lambda model: parameter_groups(model, config),
        loss=StageLoss(config, diversity or DiversityConfig()),
        mode=lambda model: set_mode(model, config),
        begin=begin,
        after_step=project_groups if config.lr.groups > 0 else None,
        optimizer=config.optimizer,
        schedule=config.schedule,
        warmup_steps=config.warmup_steps,
        accumulate=config.accumulate,
        patience=config.patience,
        horizon=config.horizon,
        words=words,
    )


def parameter_groups(model: Segmenter, config: OptimiseConfig) -> list[ParamGroup]:
    """The trained parts with their learning rates; decay falls on backbone, neck and, if asked for, readout."""
    lr, parts = config.lr, model.head.parts()
    groups = encoder_groups(model, config)
    rated = ((parts.prototypes, lr.prototypes), (parts.groups, lr.groups))
    groups += [ParamGroup(parameters, rate) for parameters, rate in rated if rate > 0]
    if lr.readout > 0:
        groups += readout_groups(parts.readout, lr.readout, config.readout_decay)
    return [group for group in groups if group.params]


def readout_groups(parameters: list[nn.Parameter], lr: float, decay: float) -> list[ParamGroup]:
    """The readout in one group; with a weight decay in two, since it falls on no bias."""
    if decay == 0:
        return [ParamGroup(parameters, lr)]
    weights, biases = ([p for p in parameters if (p.ndim < 2) is flat] for flat in (False, True))
    return [ParamGroup(weights, lr, decay), ParamGroup(biases, lr)]


def encoder_groups(model: Segmenter, config: OptimiseConfig) -> list[ParamGroup]:
    """Backbone and neck, and with the neck's learning rate an auxiliary classifier."""
    lr, encoder, groups = config.lr, model.encoder, list[ParamGroup]()
    if lr.backbone > 0 and not encoder.config.frozen:
        groups += decayed(trained_backbone(encoder.backbone, config), lr.backbone, config)
    if lr.neck > 0:
        affine = norm_parameters(encoder.neck) if config.norms == "statistics" else set()
        groups += decayed([p for p in encoder.neck.parameters() if id(p) not in affine], lr.neck, config)
        if model.auxiliary is not None and config.auxiliary > 0:
            groups += decayed(list(model.auxiliary.parameters()), lr.neck, config)
    return groups


def decayed(parameters: list[nn.Parameter], lr: float, config: OptimiseConfig) -> list[ParamGroup]:
    """Parameters in groups by their decay: all alike, or none on vectors (of norms, biases)."""
    if config.decay == "all":
        return [ParamGroup(parameters, lr, config.weight_decay)]
    vectors, others = ([p for p in parameters if (p.ndim < 2) is flat] for flat in (True, False))
    groups = [ParamGroup(others, lr, config.weight_decay), ParamGroup(vectors, lr)]
    return [group for group in groups if group.params]


def trained_backbone(backbone: nn.Module, config: OptimiseConfig) -> list[nn.Parameter]:
    """Backbone parameters: all, or convolution and linear weights alone, the release's choice.

    See docs/specs/scaleproto.md#training. In both cases with those of norms, but without them if ``norms: frozen``.
    """
    norms = norm_parameters(backbone)
    layers = (m for m in backbone.modules() if isinstance(m, nn.Conv2d | nn.ConvTranspose2d | nn.Linear))
    weights = {id(layer.weight) for layer in layers}

    def trains(parameter: nn.Parameter) -> bool:
        if id(parameter) in norms:
            return config.norms not in ("frozen", "statistics")
        return config.trainable == "all" or id(parameter) in weights

    return [parameter for parameter in backbone.parameters() if trains(parameter)]


def norm_parameters(module: nn.Module) -> set[int]:
    """The ids of the affine weights of all norms."""
    return {id(p) for m in module.modules() if isinstance(m, NORMS) for p in m.parameters(recurse=False)}


def set_mode(model: Segmenter, config: OptimiseConfig) -> None:
    """Train mode for what trains. What is frozen, and with ``norms: frozen`` every norm, is in eval mode."""
    if config.norms == "sync":
        share_statistics(model)
    model.train()
    if config.norms == "frozen":
        below_frozen = config.lr.backbone == 0 and config.lr.neck == 0
        for module in model.encoder.modules():
            if below_frozen or isinstance(module, NORMS):
                module.training = False
    if config.norms == "statistics":
        for module in model.encoder.modules():
            if isinstance(module, NORMS):
                module.training = True
    if model.encoder.config.frozen:
        model.encoder.backbone.eval()


def project_groups(model: Segmenter) -> None:
    """Group weights back onto the simplex, after every optimizer step (docs/specs/scaleproto.md#groups)."""
    assert model.head.grouping is not None
    model.head.grouping.project_()


class StageLoss:
    """The loss of an optimising stage (docs/specs/scaleproto.md#losses).

    Args:
        config: loss weights, and which parts train.
        variant: of the diversity loss.
    """

    def __init__(self, config: OptimiseConfig, variant: DiversityConfig) -> None:
        self.config = config
        self.variant = variant
        self._diversity: tuple[Bank, DiversityLoss] | None = None

    def __call__(self, model: Segmenter, batch: Batch) -> dict[str, Tensor]:
        """All terms, averaged over MSC outputs; ``loss`` is their weighted sum."""
        config, head = self.config, model.head
        masks = pad_masks(model, batch)
        terms, inner = mean_terms(model, batch, config.lr, lambda f: self.output_terms(model, f, masks))
        loss = torch.stack([terms[key] for key in PIXEL_TERMS if key in terms]).sum()
        if "diversity" in terms:
            loss = loss + config.diversity * terms["diversity"]
        weights, class_of_unit = head.unit_weights(), head.class_of_unit()
        if config.l1 > 0 and config.lr.readout > 0 and weights is not None and class_of_unit is not None:
            terms["l1"] = off_class_l1(weights, class_of_unit)
            loss = loss + config.l1 * terms["l1"]
        if config.entropy > 0 and head.grouping is not None:
            terms["entropy"] = head.grouping.entropy()
            loss = loss + config.entropy * terms["entropy"]
        if inner is not None and config.auxiliary > 0:
            terms["auxiliary"] = self.cross_entropy(inner, masks, model.encoder.config.aligned)
            loss = loss + config.auxiliary * terms["auxiliary"]
        return {"loss": loss, **terms}

    def cross_entropy(self, logits: Tensor, masks: Tensor, aligned: bool) -> Tensor:
        """Mean over labelled pixels, where ``config.cross_entropy`` says and with its class weights."""
        where, weight = self.config.cross_entropy, class_weight(self.config.class_weights, logits)
        labels = compared_labels(logits, masks, where)
        return summed_cross_entropy(logits, labels, where, aligned, weight) / labelled_weight(labels, weight)

    def pixel_terms(self, logits: Tensor, masks: Tensor, aligned: bool) -> dict[str, Tensor]:
        """What ``config.loss`` names: cross-entropy or focal loss, and Dice."""
        named = self.config.loss.split("+")
        if named == ["ce"]:
            return {"cross_entropy": self.cross_entropy(logits, masks, aligned)}
        logits, labels = compared(logits, masks, self.config.cross_entropy, aligned)
        weight, terms = class_weight(self.config.class_weights, logits), {}
        if "ce" in named:
            terms["cross_entropy"] = grid_cross_entropy(logits, labels, weight=weight)
        if "focal" in named:
            terms["focal"] = focal_loss(logits, labels, self.config.focal_gamma, weight=weight)
        if "dice" in named:
            terms["dice"] = dice_loss(logits, labels)
        return terms

    def output_terms(self, model: Segmenter, features: Tensor, masks: Tensor) -> dict[str, Tensor]:
        """The pixels' loss and diversity of one feature map (B, F, h, w) with masks (B, H, W)."""
        head, terms = model.head, {}
        if self.config.diversity > 0 and head.bank is not None and head.bank.compares == "distance":
            logits, _, distances = head.read(features)
            assert distances is not None
            labels = resize_labels(masks, (features.shape[-2], features.shape[-1]))
            terms["diversity"] = self.diversity(head.bank)(distances, labels)
        else:
            logits = head(features)
        return {**self.pixel_terms(logits, masks, model.encoder.config.aligned), **terms}

    def diversity(self, bank: Bank) -> DiversityLoss:
        """The diversity loss of a bank, its index tables made once a bank."""
        if self._diversity is None or self._diversity[0] is not bank:
            v = self.variant
            loss = DiversityLoss(bank.class_of, bank.scale_of, sign=v.sign, unshifted_labels=v.unshifted_labels)
            self._diversity = bank, loss.to(bank.vectors.device)
        return self._diversity[1]


def batch_features(model: Segmenter, batch: Batch) -> list[Tensor]:
    """Squashed features of a batch, one an MSC output; cached backbone features skip the backbone."""
    return batch_outputs(model, batch)[0]


def mean_terms(
    model: Segmenter, batch: Batch, rates: LearningRates, terms: Callable[[Tensor], dict[str, Tensor]]
) -> tuple[dict[str, Tensor], Tensor | None]:
    """The terms of a loss, averaged over MSC outputs, and the map that an auxiliary classifier reads.

    Args:
        model: of the stage.
        batch: what it learns from.
        rates: of its parts; an encoder that does not learn gets no gradient.
        terms: from one feature map (B, D, h, w) to its terms.
    """
    encoder_trains = rates.neck > 0 or rates.backbone > 0
    with torch.set_grad_enabled(encoder_trains and torch.is_grad_enabled()):
        outputs, inner = batch_outputs(model, batch)
    per_output = [terms(features) for features in outputs]
    return {key: torch.stack([t[key] for t in per_output]).mean() for key in per_output[0]}, inner


def batch_outputs(model: Segmenter, batch: Batch) -> tuple[list[Tensor], Tensor | None]:
    """:func:`batch_features`, and the logits (B, C, h, w) of the auxiliary classifier, if there is one."""
    if batch.features is not None:
        return [model.encoder.from_backbone(batch.features)], None
    assert batch.images is not None
    outputs, inner = model.encoder.forward_training(batch.images)
    return outputs, None if inner is None or model.auxiliary is None else model.auxiliary(inner)


def compared(
    logits: Tensor, masks: Tensor, where: Literal["grid", "quarter", "image"], aligned: bool = False
) -> tuple[Tensor, Tensor]:
    """Grid logits (B, C, h, w) and masks (B, H, W) at the size at which cross-entropy compares them, float32.

    ``aligned``: corners of grid and image lie on each other (``encoder.enlarge``); of the image alone.
    """
    labels = compared_labels(logits, masks, where)
    if where == "grid":
        return logits.float(), labels
    size = (labels.shape[-2], labels.shape[-1])
    aligned = aligned and where == "image"
    return F.interpolate(logits.float(), size=size, mode="bilinear", align_corners=aligned), labels


def compared_labels(logits: Tensor, masks: Tensor, where: Literal["grid", "quarter", "image"]) -> Tensor:
    """Of masks (B, H, W), the labels at the size at which cross-entropy compares grid logits (B, C, h, w)."""
    if where == "grid":
        return resize_labels(masks, (logits.shape[-2], logits.shape[-1]))
    return masks if where == "image" else masks[:, 2::4, 2::4]


def summed_cross_entropy(
    logits: Tensor,
    labels: Tensor,
    where: Literal["grid", "quarter", "image"],
    aligned: bool = False,
    weight: Tensor | None = None,
) -> Tensor:
    """Cross-entropy of grid logits with :func:`compared_labels`, summed over the labelled pixels, in float32."""
    if where == "grid":
        return F.cross_entropy(logits.float(), labels, weight=weight, ignore_index=IGNORE_INDEX, reduction="sum")
    return enlarged_cross_entropy(logits.float(), labels, aligned=aligned and where == "image", weight=weight)


def class_weight(values: list[float] | Literal["auto"] | None, logits: Tensor) -> Tensor | None:
    """The weights (float32) of the classes beside logits (B, C, h, w), or None.

    Raises:
        ConfigError: not one weight per class.
    """
    if values is None:
        return None
    if values == "auto":
        raise ConfigError("class_weights = auto: is counted where a run begins; here give one number per class")
    if len(values) != logits.shape[1]:
        raise ConfigError(f"class_weights: {len(values)} numbers for {logits.shape[1]} classes; give one per class")
    return constant(tuple(values), logits.device)


def pad_masks(model: Segmenter, batch: Batch) -> Tensor:
    """Masks with void up to the area the grid covers; masks of cached batches cover it already."""
    if batch.images is None:
        return batch.masks
    h, w = batch.masks.shape[-2:]
    ph, pw = model.encoder.padded_size(h, w)
    return F.pad(batch.masks, (0, pw - w, 0, ph - h), value=IGNORE_INDEX)
