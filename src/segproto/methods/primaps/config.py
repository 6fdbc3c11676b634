"""Recipe of primaps."""

from __future__ import annotations

from typing import Literal

from pydantic import BaseModel, ConfigDict, Field, model_validator

from segproto.prototypes.expectation import Warmup
from segproto.training.procedures.propose import ProposeConfig
from segproto.training.recipe import Recipe


class InitConfig(BaseModel):
    """Where directions start: the principal components of all training features.

    Attributes:
        images: of this many training images (every n-th); None = all.
    """

    model_config = ConfigDict(extra="forbid")

    images: int | None = Field(None, ge=1)


class StudentConfig(BaseModel):
    """What the student sees beside the flip that teacher, student and proposals share.

    Attributes:
        blur: Gaussian blur with a standard deviation up to 2 px.
        jitter: probability of a change of brightness, contrast, saturation and hue by up to a tenth.
        gray: probability of gray.
        order: change the image and then normalise it; ``published``: the normalised image is changed, whose negative
            values the jitter cuts to 0.
    """

    model_config = ConfigDict(extra="forbid")

    blur: bool = True
    jitter: float = Field(0.15, ge=0, le=1)
    gray: float = Field(0.05, ge=0, le=1)
    order: Literal["image", "published"] = "image"


class KmeansConfig(BaseModel):
    """Cosine k-means of the directions, by gradient.

    Attributes:
        steps: batches.
        lr: of Adam.
    """

    model_config = ConfigDict(extra="forbid")

    steps: int = Field(0, ge=0)
    lr: float = Field(5e-3, gt=0)


class EmConfig(BaseModel):
    """Expectation maximisation on the proposals.

    Attributes:
        steps: batches; 0 leaves the k-means directions, the baseline.
        lr: of Adam, for the student and the probe.
        gamma: power of the class-frequency weights; 0 = none.
        student: what the student sees; None = what the teacher sees (the only choice with cached features).
        at: where votes and loss are taken: at every pixel of the ``image``, or of a ``quarter`` of its sides.
        update_every: batches between two updates of the teacher.
        decay: what the teacher keeps of itself in an update.
        warmup: of the decay, as published (an average of all students so far, until that is slower), or none.
        probe: train a linear classifier on the labels beside it, for its figure only; nothing else ever sees a label.
    """

    model_config = ConfigDict(extra="forbid")

    steps: int = Field(0, ge=0)
    lr: float = Field(5e-3, gt=0)
    gamma: float = Field(2.0, ge=0)
    student: StudentConfig | None = StudentConfig()
    at: Literal["image", "quarter"] = "image"
    update_every: int = Field(10, ge=1)
    decay: float = Field(0.98, ge=0, lt=1)
    warmup: Warmup = "published"
    probe: bool = False


class PairConfig(BaseModel):
    """One kind of pair of STEGO's loss: its weight, and the resemblance below which codes are pushed apart."""

    model_config = ConfigDict(extra="forbid")

    weight: float = Field(ge=0)
    shift: float


class StegoConfig(BaseModel):
    """A small STEGO: trains ``encoder.neck=codes`` before anything else; the defaults are those of its release.

    Attributes:
        steps: batches; 0 = no STEGO.
        lr: of Adam.
        neighbours: an image's positives are drawn from so many.
        itself: pairs of points of one image.
        knn: of an image and a neighbour.
        random: of an image and another of the batch.
    """

    model_config = ConfigDict(extra="forbid")

    steps: int = Field(0, ge=0)
    lr: float = Field(5e-4, gt=0)
    neighbours: int = Field(7, ge=1)
    itself: PairConfig = PairConfig(weight=0.67, shift=0.18)
    knn: PairConfig = PairConfig(weight=0.25, shift=0.12)
    random: PairConfig = PairConfig(weight=0.63, shift=0.46)


class FoundConfig(BaseModel):
    """The last stage: the model is chosen, the training images get masks, the categories a gallery.

    Attributes:
        selection: ``last`` model, or ``oracle``, as published: the one that scored best on labelled validation images.
        model: the ``teacher`` or the ``student`` becomes the model.
        crf: sharpen the masks at the image's edges.
        masks: write masks of all training images, a folder data set for other methods.
        figures: score teacher and student, with and without CRF and flip, and the probe, on validation images.
    """

    model_config = ConfigDict(extra="forbid")

    selection: Literal["last", "oracle"] = "last"
    model: Literal["teacher", "student"] = "teacher"
    crf: bool = True
    masks: bool = True
    figures: bool = False


class PrimapsStages(BaseModel):
    """The stages in order; ``neighbours`` and ``stego`` come first if ``stego`` has steps.

    Without steps of ``em`` there are no ``proposals``.
    """

    model_config = ConfigDict(extra="forbid")

    stego: StegoConfig = StegoConfig()
    proposals: ProposeConfig = ProposeConfig()
    init: InitConfig = InitConfig()
    kmeans: KmeansConfig = KmeansConfig()
    em: EmConfig = EmConfig()
    found: FoundConfig = FoundConfig()


class PrimapsRecipe(Recipe):
    """A primaps run.

    Attributes:
        num_classes: categories to find; None = as many as the data have classes.
        stages: what is done.
    """

    method: Literal["primaps"] = "primaps"
    num_classes: int | None = Field(None, ge=2, le=254)
    stages: PrimapsStages = PrimapsStages()

    @model_validator(mode="after")
    def _fits(self) -> PrimapsRecipe:
        if not self.encoder.frozen:
            raise ValueError("encoder.frozen = false: primaps groups frozen features; set encoder.frozen=true")
        if self.train.cache_features and self.stages.em.steps and self.stages.em.student is not None:
            raise ValueError(
                "train.cache_features = true: the student's changed images are not cached; set stages.em.student=null"
            )
        if self.stages.stego.steps:
            if self.encoder.neck != "codes":
                raise ValueError(f"stages.stego.steps: trains codes; set encoder.neck=codes, not {self.encoder.neck}")
            if self.train.cache_features:
                raise ValueError("train.cache_features = true: stages.stego needs the images; set it to false")
        if self.data.kind.masks == "never":
            asked = {"stages.em.probe": self.stages.em.probe, "stages.found.figures": self.stages.found.figures}
            for key, on in asked.items():
                if on:
                    raise ValueError(f"{key} = true: needs labels, data.name={self.data.name} has none")
            if self.stages.found.selection == "oracle":
                raise ValueError(f"stages.found.selection = oracle: needs labels, data.name={self.data.name} has none")
        return self
