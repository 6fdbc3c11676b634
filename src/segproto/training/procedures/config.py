"""Settings of the stages that the prototype methods share; sections of a recipe's ``stages``."""

from __future__ import annotations

from operator import attrgetter
from typing import Annotated, Literal

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, model_validator

from segproto.data.paths import ListPath


class LearningRates(BaseModel):
    """One learning rate a part of the model; 0 = the part is not trained in this stage."""

    model_config = ConfigDict(extra="forbid")

    backbone: float = Field(0.0, ge=0)
    neck: float = Field(0.0, ge=0)
    prototypes: float = Field(0.0, ge=0)
    groups: float = Field(0.0, ge=0)
    readout: float = Field(0.0, ge=0)


class OptimiseConfig(BaseModel):
    """One optimising stage.

    Attributes:
        steps: batches; optimizer steps are ``steps // accumulate``. 0 skips the stage.
        lr: learning rates; parts at 0 stay frozen.
        weight_decay: on backbone and neck only (L2 coupled with adam, decoupled with adamw).
        readout_decay: weight decay of the readout's weights, not of its bias (DeepLab of wseg: 5e-4).
        decay: weight decay falls on ``all`` tensors, or on ``weights`` alone, not on vectors (norms, biases).
        schedule: ``constant``, ``poly`` (to zero, power 0.9) or ``linear``.
        warmup_steps: optimizer steps of linear warm-up.
        accumulate: batches per optimizer step (published: iter_size).
        horizon: optimizer steps over which the schedule falls, if not over the stage's own.
        patience: validations without a better pixel accuracy before the stage ends; None = never.
        norms: ``frozen`` keeps statistics and affine weights of all norms; ``train`` trains both; ``sync`` does so with
            batch statistics over all processes; ``statistics`` follows those of the batch and keeps affine weights
            (as pixelcontrast's release trains its DeepLabs).
        trainable: backbone tensors that train, ``all`` or only convolution and linear ``weights``.
        diversity: weight of the prototype diversity loss (Porta et al. 2025, Sacha et al. 2023).
        l1: weight of the L1 norm of off-class readout weights.
        entropy: weight of the group entropy loss.
        cross_entropy: where it is computed: on the feature ``grid`` (published), on logits upsampled to the ``image``,
            or to a ``quarter`` of it, at a sixteenth of the cost.
        auxiliary: weight of the cross-entropy of the auxiliary classifier, where ``encoder.auxiliary`` has one.
        class_weights: weight of each class in the mean over pixels; None = equal. ``auto``: counted once over the
            training masks, rare classes more (median frequency balancing, within 0.1 .. 10); the run's ``recipe.yaml``
            holds what they became.
        loss: of the pixels: ``ce`` (cross-entropy), ``focal``, or with the soft ``dice`` loss added to one of them.
        focal_gamma: of the focal loss.
    """

    model_config = ConfigDict(extra="forbid")

    steps: int = Field(0, ge=0)
    lr: LearningRates = LearningRates()
    optimizer: Literal["adam", "adamw", "sgd"] = "adam"
    weight_decay: float = Field(5e-4, ge=0)
    readout_decay: float = Field(0.0, ge=0)
    decay: Literal["all", "weights"] = "all"
    schedule: Literal["constant", "poly", "linear"] = "constant"
    warmup_steps: int = Field(0, ge=0)
    accumulate: int = Field(1, ge=1)
    horizon: int | None = Field(None, ge=1)
    patience: int | None = None
    norms: Literal["frozen", "train", "sync", "statistics"] = "frozen"
    trainable: Literal["all", "weights"] = "weights"
    diversity: float = Field(0.0, ge=0)
    l1: float = Field(0.0, ge=0)
    entropy: float = Field(0.0, ge=0)
    cross_entropy: Literal["grid", "quarter", "image"] = "grid"
    auxiliary: float = Field(0.4, ge=0)
    class_weights: list[float] | Literal["auto"] | None = None
    loss: Literal["ce", "focal", "dice", "ce+dice", "focal+dice"] = "ce"
    focal_gamma: float = Field(2.0, ge=0, le=10)

    @model_validator(mode="after")
    def _something_trains(self) -> OptimiseConfig:
        if self.steps > 0 and not any(self.lr.model_dump().values()):
            raise ValueError(f"a stage of {self.steps} steps needs a learning rate above 0, for example lr.prototypes")
        return self


class WarmupConfig(OptimiseConfig):
    """The warm-up ``linear`` of an encoder whose features prototypes are compared with.

    Attributes:
        gain: the classifier reads ``gain * (f - 1/2)`` instead of features ``f`` between 0 and 1, as ``encoder.squash =
            sigmoid`` gives them: the same functions, and small differences between features are learnt sooner. None =
            the features as they are.
    """

    gain: float | None = Field(None, gt=0, le=100)


def without(*unread: str) -> AfterValidator:
    """Refuses a stage that sets what it does not read, such as ``entropy`` or ``lr.groups``; 0 is not to set it."""

    def check(config: OptimiseConfig) -> OptimiseConfig:
        for key in unread:
            value = attrgetter(key)(config)
            if value > 0:
                raise ValueError(f"{key} = {value} means nothing to this stage of this method; leave it out")
        return config

    return AfterValidator(check)


# A stage of a plain classifier, and one of prototypes without groups.
LinearOptimise = Annotated[OptimiseConfig, without("diversity", "l1", "entropy", "lr.prototypes", "lr.groups")]
LinearWarmup = Annotated[WarmupConfig, without("diversity", "l1", "entropy", "lr.prototypes", "lr.groups")]
PrototypeOptimise = Annotated[OptimiseConfig, without("entropy", "lr.groups")]


class DiversityConfig(BaseModel):
    """Variants of the diversity loss.

    Attributes:
        sign: +1 = softmax over cells of +distance, as published; -1 = of -distance.
        unshifted_labels: the published ProtoSeg label, one class off (docs/specs/scaleproto.md#diversity).
    """

    model_config = ConfigDict(extra="forbid")

    sign: Literal[1, -1] = 1
    unshifted_labels: bool = False


class SeedConfig(BaseModel):
    """Where prototypes start.

    Attributes:
        start: ``uniform`` in [0, 1), as published, or random training ``features`` of their class, which lets short
            runs learn rare classes.
        images: list file of the training images to draw from; None = all.
    """

    model_config = ConfigDict(extra="forbid")

    start: Literal["uniform", "features"] = "uniform"
    images: ListPath | None = None


class ProjectConfig(BaseModel):
    """Projection onto training patches.

    Attributes:
        membership: a cell belongs to a class if its resized label is the class (``nearest_label``), or if any
            pixel of its patch is (``any_pixel``, the ProtoSeg release).
        deduplicate: drop prototypes that became identical.
        images: list file (one name a line, as ``data.split.train_list``) of the training images to search; None = all.
        absent: a class without a cell in these images stops the run (``refuse``) or loses its prototypes (``drop``).
        distinct_images: no two prototypes of a class become patches of one image, if it has images enough: the
            assignment of images with the least sum of squared distances; else of as many images as it has (not
            published). The result says from how many images all prototypes are. Forgetting projects without it.
    """

    model_config = ConfigDict(extra="forbid")

    membership: Literal["nearest_label", "any_pixel"] = "nearest_label"
    deduplicate: bool = True
    images: ListPath | None = None
    absent: Literal["refuse", "drop"] = "refuse"
    distinct_images: bool = False


class PruneConfig(BaseModel):
    """Pruning (Sacha et al. 2023): a prototype stays if >= ``threshold`` of its ``k`` nearest patches have its class.

    Attributes:
        k: nearest patches looked at, at most one per image.
        threshold: how many of them must have the prototype's class.
        images: list file of the training images to search, as in ``project``; None = all.
        refit: then fit the readout of those that stay to the class probabilities before (not published).
    """

    model_config = ConfigDict(extra="forbid")

    k: int = Field(6, ge=1, le=100_000)
    threshold: int = Field(3, ge=1)
    images: ListPath | None = None
    refit: bool = False


class GroupSeedConfig(BaseModel):
    """Where groups begin.

    Attributes:
        start: ``random`` weights and a readout of +1 on the group's class, as published, or the ``readout`` of the
            prototypes: groups of prototypes that fire together, and the readout of groups that comes closest to it.
    """

    model_config = ConfigDict(extra="forbid")

    start: Literal["random", "readout"] = "random"


class ThresholdConfig(BaseModel):
    """Thresholding of group weights (Porta et al. 2025).

    Attributes:
        tau: weights below it become 0.
        refit: then fit the readout of groups to the class probabilities before (not published).
    """

    model_config = ConfigDict(extra="forbid")

    tau: float = Field(0.05, ge=0, le=1)
    refit: bool = False
