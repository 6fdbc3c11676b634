"""Recipe of nonparametric."""

from __future__ import annotations

from typing import Literal

from pydantic import BaseModel, ConfigDict, Field, model_validator

from segproto.data.paths import ListPath
from segproto.prototypes.clustering import SyncMode
from segproto.prototypes.embedding import ProjectionNorm
from segproto.prototypes.sinkhorn import AssignMode, FewMode
from segproto.training.procedures.config import OptimiseConfig
from segproto.training.recipe import Recipe


class NonparametricModel(BaseModel):
    """The head.

    Attributes:
        prototypes: prototypes per class.
        projection_norm: L2 norm of the features: ``none``, over the ``channel``, or along the image row as released
            (``width_legacy``: a cell then depends on its whole row).
        feature_norm: a learned ``layernorm`` over the channels (published), or ``none``.
        score_norm: a learned ``layernorm`` over the class scores (published; 3 classes or more), or ``scale``: scores
            divided by ``temperature``.
        temperature: of ``score_norm: scale``.
    """

    model_config = ConfigDict(extra="forbid")

    prototypes: int = Field(10, ge=1, le=10_000)
    projection_norm: ProjectionNorm = "none"
    feature_norm: Literal["layernorm", "none"] = "layernorm"
    score_norm: Literal["layernorm", "scale"] = "layernorm"
    temperature: float = Field(0.1, gt=0)


class SeedConfig(BaseModel):
    """Where prototypes start.

    Attributes:
        start: ``random`` directions (published), training ``features``: k-means++ in each class, or around the class
            directions of a trained ``classifier``: that of ``linear`` or of a black box in ``train.start``.
        pixels: cells of each class it draws from, on each process: the first it meets.
        images: list file of the training images to draw from; None = all.
    """

    model_config = ConfigDict(extra="forbid")

    start: Literal["random", "features", "classifier"] = "random"
    pixels: int = Field(2000, ge=1)
    images: ListPath | None = None


class JointConfig(OptimiseConfig):
    """The stage that learns: gradient for encoder and norms (``lr.readout``), clustering for the prototypes.

    Attributes:
        contrast: weight of the pixel-prototype InfoNCE.
        distance: weight of the pixel-prototype distance.
        contrast_temperature: of the InfoNCE; the release has 1.
        momentum: what a prototype keeps of itself per optimizer step.
        assign: which prototype a correct pixel moves; ``gumbel_prob_legacy`` is the release's, under which the
            prototypes of a class become one.
        few: classes with fewer pixels than prototypes: the ``nearest``, or ``balance`` them all the same (released).
        sinkhorn: several processes balance over the pixels of their own ``rank`` (released), or over all (``global``).
        reseed_every: optimizer steps between looks for dead prototypes and twins, which are moved to the farthest
            correct pixels of their class; 0 = never, as published.
        reseed_share: dead is a prototype that lately got at most this share of an even part of its class's pixels.
        sync: several processes add up sums and counts, or average their results (``average_legacy``, released).
    """

    contrast: float = Field(0.01, ge=0)
    distance: float = Field(0.001, ge=0)
    contrast_temperature: float = Field(0.1, gt=0)
    momentum: float = Field(0.999, ge=0, le=1)
    assign: AssignMode = "argmax"
    few: FewMode = "nearest"
    sinkhorn: Literal["rank", "global"] = "rank"
    sync: SyncMode = "sum"
    reseed_every: int = Field(0, ge=0)
    reseed_share: float = Field(0.01, ge=0, lt=1)

    @model_validator(mode="after")
    def _only_what_is_read(self) -> JointConfig:
        values = {"diversity": self.diversity, "l1": self.l1, "entropy": self.entropy}
        values |= {"lr.prototypes": self.lr.prototypes, "lr.groups": self.lr.groups}
        for key, value in values.items():
            if value > 0:
                raise ValueError(f"{key} = {value} means nothing to nonparametric; leave it out")
        if self.loss != "ce":
            raise ValueError(f"loss = {self.loss}: nonparametric's joint stage has cross-entropy alone (ce)")
        return self


class TraceConfig(BaseModel):
    """The nearest training patch of each prototype, for looking only: the prototype stays what it is.

    Attributes:
        membership: a cell belongs to a class if its resized label is the class, or if any pixel of its patch is.
        images: list file of the training images to search; None = all.
    """

    model_config = ConfigDict(extra="forbid")

    membership: Literal["nearest_label", "any_pixel"] = "nearest_label"
    images: ListPath | None = None


class NonparametricStages(BaseModel):
    """The stages in order; ``linear`` (0 steps) and ``seed`` (``start: random``) are left out as published."""

    model_config = ConfigDict(extra="forbid")

    linear: OptimiseConfig = OptimiseConfig()
    seed: SeedConfig = SeedConfig()
    joint: JointConfig = JointConfig()
    trace: TraceConfig = TraceConfig()


class NonparametricRecipe(Recipe):
    """A nonparametric run."""

    method: Literal["nonparametric"] = "nonparametric"
    model: NonparametricModel = NonparametricModel()
    stages: NonparametricStages = NonparametricStages()
