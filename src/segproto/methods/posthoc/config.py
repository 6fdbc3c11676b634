"""Settings of ``posthoc``."""

from __future__ import annotations

from typing import Literal

from pydantic import BaseModel, ConfigDict, Field

from segproto.training.procedures.config import LinearOptimise, OptimiseConfig
from segproto.training.recipe import Recipe


class RotateConfig(BaseModel):
    """The basis that the features are seen in.

    Attributes:
        basis: ``learned``: an orthogonal one whose channels fire at few places and keep to them; to compare with: the
            ``channels`` as they are, a ``random`` rotation, ``pca``, and ``nmf``, whose residual belongs to no part.
        cells: training cells that it is learned from, over all images.
        centre: the mean feature is subtracted first (``nmf`` never); what the classifier says of it is an offset.
        steadiness: weight of channels that noise in the image moves little, beside those that fire at few places.
        shaken: training images that are seen a second time, with noise, for it.
        coherence: weight of channels that change at few borders: purer parts, on whole regions and less steady.
        evidence: weight of few channels carrying the logit of the class that the network answers: fewer parts to look
            at, which are less of one thing. All three were chosen on training images of four data sets.
        steps: of Adam (``learned``) or of multiplicative updates (``nmf``).
        lr: Adam's learning rate.
        batch: cells that a step of Adam sees.
        factors: of ``nmf``; None = as many as channels.
    """

    model_config = ConfigDict(extra="forbid")

    basis: Literal["learned", "channels", "random", "pca", "nmf"] = "learned"
    cells: int = Field(20_000, ge=2)
    centre: bool = False
    steadiness: float = Field(1.0, ge=0)
    shaken: int = Field(32, ge=1)
    coherence: float = Field(0.0, ge=0)
    evidence: float = Field(0.0, ge=0)
    steps: int = Field(500, ge=1)
    lr: float = Field(2e-2, gt=0)
    batch: int = Field(2048, ge=1)
    factors: int | None = Field(default=None, ge=1)


class TraceConfig(BaseModel):
    """How parts are shown.

    Attributes:
        patches: strongest training patches per part, each of another image.
        carry: only the fewest parts are shown that make up this share of all that parts say of the classes answered in
            the training images; what the others add is told as what belongs to no prototype. 1 = all that ever fire.
    """

    model_config = ConfigDict(extra="forbid")

    patches: int = Field(3, ge=1, le=20)
    carry: float = Field(1.0, gt=0, le=1)


class PosthocStages(BaseModel):
    """A black box is trained first where none is given (``joint``, 0 steps); then its basis is found and traced."""

    model_config = ConfigDict(extra="forbid")

    joint: LinearOptimise = OptimiseConfig()
    rotate: RotateConfig = RotateConfig()
    trace: TraceConfig = TraceConfig()


class PosthocRecipe(Recipe):
    """Prototypes for a plain classifier that is trained already (``train.start``)."""

    method: Literal["posthoc"] = "posthoc"
    stages: PosthocStages = PosthocStages()
