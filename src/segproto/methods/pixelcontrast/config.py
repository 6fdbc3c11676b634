"""Recipe of pixelcontrast."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field, NonNegativeInt, model_validator

from segproto.data.config import AugmentConfig
from segproto.data.paths import ExpandedPath
from segproto.refine.crf_settings import CRF_SETS, CrfSettings
from segproto.training.procedures.config import LinearOptimise, OptimiseConfig
from segproto.training.recipe import Recipe

Alpha = Annotated[float, Field(gt=0)] | Literal["auto"]


class Rates(BaseModel):
    """One learning rate a part of the model; 0 = the part is not trained in this stage."""

    model_config = ConfigDict(extra="forbid")

    backbone: float = Field(0.0, ge=0)
    neck: float = Field(0.0, ge=0)
    head: float = Field(0.0, ge=0)


class TrainedStage(BaseModel):
    """What the stages that train the CAM network share.

    Attributes:
        steps: batches; 0 skips the stage.
        lr: learning rates.
        optimizer: of the stage.
        weight_decay: on all trained tensors.
        schedule: of the learning rates.
        norms: ``train`` or ``frozen``.
        momentum: of ``sgd`` (the releases pass the weight decay in its place: 5e-4).
        horizon: steps over which the schedule falls, if not over the stage's own.
        augment: of this stage; None = ``data.augment``.
    """

    model_config = ConfigDict(extra="forbid")

    steps: int = Field(0, ge=0)
    lr: Rates = Rates()
    optimizer: Literal["adam", "adamw", "sgd"] = "adam"
    weight_decay: float = Field(5e-4, ge=0)
    schedule: Literal["constant", "poly", "linear"] = "poly"
    norms: Literal["frozen", "train"] = "frozen"
    momentum: float = Field(0.9, ge=0, lt=1)
    horizon: int | None = Field(None, ge=1)
    augment: AugmentConfig | None = None

    @model_validator(mode="after")
    def _something_trains(self) -> TrainedStage:
        if self.steps > 0 and not any(self.lr.model_dump().values()):
            raise ValueError(f"a stage of {self.steps} steps needs a learning rate above 0, for example lr.head")
        return self


class ContrastConfig(TrainedStage):
    """Training of the CAM network.

    Attributes:
        second_view: sides of the second view over those of the first (published: 128 of 448); None = no second view,
            only tags (and ``saliency``) of the raw maps: a plain CAM network, and EPS.
        compare: views are compared, and classes pooled, on the ``grid`` or at the size of the ``image`` (SEAM).
        pooled: share of a map's cells, the strongest ones, whose mean says whether an image has the class; 1 = all, as
            published, which teaches few images a small thing as what the others leave free.
        winners_over: the class that is never put out by others in place of the background (the release of EPS: 1).
        er: weight of the equivariant regularisation.
        ecr: weight of the equivariant cross regularisation.
        contrast: weight of each of the three contrast terms; 0 = the baseline.
        temperature: of the contrast.
        confident: share of a view's cells that make a prototype (published: 32 of 256).
        background_score: cells that score less for every class are background (published: 0.2; EPS 0.1).
        masked: prototypes from images that have the class, and the background's where no class scores; false =
            published.
        saliency: folder of saliency maps, one per image by its name (EPS); None = without.
        saliency_resize: to the ``nearest`` pixel, or ``bicubic`` (published), where the image is resized.
        saliency_views: the second view's maps see the saliency of the ``first`` view, or ``each`` view its own, resized
            bilinearly with it and then to the nearest pixel (published).
        overlap: with saliency, a class counts as salient if more of its cells than this are.
    """

    second_view: float | None = Field(0.5, gt=0, lt=1)
    compare: Literal["grid", "image"] = "grid"
    pooled: float = Field(1.0, gt=0, le=1)
    winners_over: int | None = Field(None, ge=0)
    er: float = Field(1.0, ge=0)
    ecr: float = Field(1.0, ge=0)
    contrast: float = Field(0.1, ge=0)
    temperature: float = Field(0.1, gt=0)
    confident: float = Field(0.125, gt=0, le=1)
    background_score: float = Field(0.2, ge=0, lt=1)
    masked: bool = True
    saliency: ExpandedPath | None = None
    saliency_resize: Literal["nearest", "bicubic"] = "nearest"
    saliency_views: Literal["first", "each"] = "first"
    overlap: float = Field(0.4, ge=0, le=1)

    @model_validator(mode="after")
    def _compares(self) -> ContrastConfig:
        needy = [name for name in ("er", "ecr", "contrast") if self.second_view is None and getattr(self, name) > 0]
        if needy:
            raise ValueError(f"second_view = null leaves nothing to compare; set {', '.join(f'{n}=0' for n in needy)}")
        return self


class CamsConfig(BaseModel):
    """CAM inference.

    Attributes:
        scales: of the image; at each the image and its mirror image are summed.
        source: maps ``refined`` by pixel correlation, ``raw``, or ``softmax`` of raw maps (EPS).
        lost: of a tagged class whose map is nowhere positive: its raw map above the map's own mean, or ``empty``, no
            pixel at all (published).
        resize: of the image to each scale: in ``float``, or by ``pil`` in bytes (published).
        enlarge: of the maps by ``half_pixel`` centres, to the resized image and then to the image; the first step with
            ``align_corners`` (SEAM and wseg, published); or ``direct`` from grid to image (EPS, published).
        pad: images whose sides are no multiples of the stride are padded (published: false).
        given: folder of published maps (``NAME.npy``), or of an earlier run's (``stages/cams/maps``), to take
            instead of the network's.

    ``resize``, ``enlarge`` and ``pad`` = None: as the model's head says (:class:`~segproto.model.cam_head.CamViews`):
    ``float``, ``half_pixel``, true; as released with converted networks.
    """

    model_config = ConfigDict(extra="forbid")

    scales: list[float] = [0.5, 1.0, 1.5, 2.0]
    source: Literal["refined", "raw", "softmax"] = "refined"
    lost: Literal["mean", "empty"] = "mean"
    resize: Literal["float", "pil"] | None = None
    enlarge: Literal["half_pixel", "align_corners", "direct"] | None = None
    pad: bool | None = None
    given: ExpandedPath | None = None


class CrfChoice(BaseModel):
    """A dense CRF: a published parameter set, perhaps with other iterations.

    Attributes:
        name: A..E of the published sets.
        iterations: None = the set's own.
        colours: order of the colours, ``rgb`` or ``bgr``; None = the set's own (E: ``bgr``).
    """

    model_config = ConfigDict(extra="forbid")

    name: Literal["A", "B", "C", "D", "E"] = "C"
    iterations: int | None = Field(None, ge=0)
    colours: Literal["rgb", "bgr"] | None = None

    def settings(self) -> CrfSettings:
        """The parameters."""
        from dataclasses import replace

        own = CRF_SETS[self.name]
        iterations = own.iterations if self.iterations is None else self.iterations
        return replace(own, iterations=iterations, colours=self.colours or own.colours)


class CrfConfig(BaseModel):
    """Scores after a CRF with strong and weak background, from which affinity is learnt.

    Attributes:
        low: alpha of the strong background ``(1 - max)^alpha``; ``auto``: 0.8 times that of ``masks.alpha = auto``.
        high: alpha of the weak one; ``auto``: 4 times.
        crf: its parameters.
        given_low: folder of published scores (``la_crf``, ``NAME.npy``), or of an earlier run's
            (``stages/crf/scores``), to take instead of computing them.
        given_high: the same with weak background (``ha_crf``; of an earlier run the same folder).
    """

    model_config = ConfigDict(extra="forbid")

    low: Alpha = 4.0
    high: Alpha = 24.0
    crf: CrfChoice = CrfChoice()
    given_low: ExpandedPath | None = None
    given_high: ExpandedPath | None = None

    @model_validator(mode="after")
    def _both(self) -> CrfConfig:
        if (self.given_low is None) != (self.given_high is None):
            raise ValueError("published scores come in pairs: set given_low and given_high")
        return self


class AffinityConfig(TrainedStage):
    """Training of the affinities.

    Attributes:
        radius: pairs are closer than this many cells.
        complete: all pairs of the grid; false = published, without those at the border.
        labels: of the pixels at the cells' ``centres``, or of scores ``averaged`` over each cell (published).
    """

    radius: int = Field(5, ge=2, le=100)
    complete: bool = True
    labels: Literal["centres", "averaged"] = "centres"


class MasksConfig(BaseModel):
    """Random walk, CRF, and masks.

    Attributes:
        walk: false leaves the random walk out.
        beta: power of the affinities.
        log_steps: the walk takes 2^log_steps steps.
        alpha: the background is ``(1 - max)^alpha`` before the walk; ``auto``: it crosses the maps where Otsu's rule
            cuts them, over all training images, whatever their true masks.
        background: a constant background instead (published: 0.27).
        crf: after the walk; None = none (published).
        given: folder of published masks (``NAME.png``, or scores ``NAME.npy``) to take instead.
        shown: training images that the report shows step by step: how many, or their names.
    """

    model_config = ConfigDict(extra="forbid")

    walk: bool = True
    beta: float = Field(8.0, gt=0)
    log_steps: int = Field(6, ge=0, le=10)
    alpha: Alpha = 6.0
    background: float | None = Field(None, ge=0, le=1)
    crf: CrfChoice | None = CrfChoice()
    given: ExpandedPath | None = None
    shown: NonNegativeInt | list[str] = 4


class PixelcontrastStages(BaseModel):
    """The stages in order; those without steps, and what only serves them, are left out."""

    model_config = ConfigDict(extra="forbid")

    contrast: ContrastConfig = ContrastConfig()
    cams: CamsConfig = CamsConfig()
    crf: CrfConfig = CrfConfig()
    affinity: AffinityConfig = AffinityConfig()
    masks: MasksConfig = MasksConfig()
    segment: LinearOptimise = OptimiseConfig()

    @model_validator(mode="after")
    def _trained_maps(self) -> PixelcontrastStages:
        if self.contrast.second_view is None and self.contrast.steps > 0 and self.cams.source == "refined":
            raise ValueError(
                "contrast.second_view = null trains no pixel correlation; set cams.source=raw (or softmax)"
            )
        if self.affinity.steps == 0 and self.crf.given_low is not None:
            raise ValueError(
                f"crf.given_low = {self.crf.given_low}: affinities alone are learnt from these scores, and "
                "affinity.steps = 0 learns none; set affinity.steps, or leave given_low and given_high out"
            )
        return self


class PixelcontrastRecipe(Recipe):
    """A pixelcontrast run; class 0 of the data is the background (``data.merge`` makes one).

    Attributes:
        network: ``plain`` heads for any encoder; or those of ``seam`` or ``eps`` as published, on ResNet-38, where the
            affinities are a network of their own.
        tags: CSV of the tags of each image, a published ``cls_labels.npy``, or VOC's folder of annotations; None =
            the classes in the masks, of which nothing else is used.
        stages: what is done.
    """

    method: Literal["pixelcontrast"] = "pixelcontrast"
    network: Literal["plain", "seam", "eps"] = "plain"
    tags: ExpandedPath | None = None
    stages: PixelcontrastStages = PixelcontrastStages()

    @property
    def walks_elsewhere(self) -> bool:
        """Whether the run walks over affinities that it does not learn itself."""
        stages, run = self.stages, self.train.stages
        walks = stages.masks.walk and stages.masks.given is None and (run is None or "masks" in run)
        return walks and not (stages.affinity.steps > 0 and (run is None or "affinity" in run))

    @model_validator(mode="after")
    def _fits(self) -> PixelcontrastRecipe:
        if self.train.cache_features:
            raise ValueError(
                "train.cache_features = true: pixelcontrast needs two views of each image; set it to false"
            )
        if self.network != "plain" and (self.encoder.name, self.encoder.neck) != ("resnet38d_taps", "identity"):
            raise ValueError(
                f"network = {self.network}: these heads read ResNet-38's maps; set encoder.name=resnet38d_taps "
                "encoder.neck=identity encoder.squash=none, or network=plain"
            )
        if self.walks_elsewhere and self.train.start is None:
            raise ValueError(
                "stages.masks.walk = true: no affinities are learnt to walk over; set stages.affinity.steps, "
                "train.start=MODEL of a run that learnt them, or stages.masks.walk=false"
            )
        if self.data.kind.masks == "never":
            raise ValueError(
                f"data.name = {self.data.name}: classes are needed; use data.name=folder with a classes.yaml and tags"
            )
        return self
