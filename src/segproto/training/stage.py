"""A method is a list of stages, as data. A stage either optimises or is a procedure."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from torch import Tensor, nn

from segproto.data.base import SegmentationDataset
from segproto.data.batch import Batch
from segproto.data.config import AugmentConfig
from segproto.model.features import BackboneFeatures
from segproto.model.segmenter import Segmenter
from segproto.training.figures import Figures, Logged

if TYPE_CHECKING:
    from lightning_fabric import Fabric

    from segproto.training.recipe import Recipe


@dataclass(frozen=True)
class ParamGroup:
    """Parameters that share a learning rate and a weight decay."""

    params: list[nn.Parameter]
    lr: float
    weight_decay: float = 0.0


@dataclass(frozen=True)
class Optimise:
    """A stage that takes optimizer steps.

    Attributes:
        name: its name in recipes, logs and checkpoints.
        steps: batches (as the published schedules count); optimizer steps = ``steps // accumulate``.
        parameters: the trained parameters; every other parameter of the model is frozen for the stage.
        loss: named scalar terms; ``"loss"`` is optimised, the others are logged. Called as
            ``loss(segmenter, batch)``.
        mode: puts modules in train or eval mode before the stage and after each validation.
        begin: called once before the first step (not on resume); may restructure the model in place.
        end: called once after the last step; may restructure the model in place.
        after_step: called after each optimizer step (a projection onto a constraint set, an EMA).
        dataset: what batches are drawn from: the training images, with other masks perhaps; given them and the run's
            folder. As many images in the same order. None = the training images.
        watch: figures of the model as it is, for the journal: numbers, or lists of them (no logger takes these). Called
            by every process where a line is due; may wait for the device.
        schedule: ``constant``, ``poly`` (power 0.9 over the stage's optimizer steps) or ``linear`` (power 1).
        patience: stop after this many validations without a better pixel accuracy; None = never.
        momentum: of ``sgd``.
        horizon: optimizer steps over which the schedule falls; None = the stage's own. Steps beyond it keep its last
            learning rate.
        augment: of the stage's batches; None = the data's.
        keeps_sources: no prototype with a known source moves for good, though the prototypes train (``after_step`` puts
            them back): the model's provenance stays true.
        words: what the stage does, for reports: a few words after its name; empty = none.
    """

    name: str
    steps: int
    parameters: Callable[[Segmenter], list[ParamGroup]]
    loss: Callable[[Segmenter, Batch], dict[str, Tensor]]
    mode: Callable[[Segmenter], None]
    begin: Callable[[Segmenter], None] | None = None
    end: Callable[[Segmenter], None] | None = None
    after_step: Callable[[Segmenter], None] | None = None
    dataset: Callable[[SegmentationDataset, Path], SegmentationDataset] | None = None
    watch: Callable[[Segmenter], Logged] | None = None
    optimizer: Literal["adam", "adamw", "sgd"] = "adam"
    schedule: Literal["constant", "poly", "linear"] = "constant"
    warmup_steps: int = 0
    accumulate: int = 1
    patience: int | None = None
    momentum: float = 0.9
    horizon: int | None = None
    augment: AugmentConfig | None = None
    keeps_sources: bool = False
    words: str = ""


@dataclass
class StageContext:
    """What a procedure may use.

    Attributes:
        segmenter: the model, on ``fabric.device``, changed in place.
        out: the stage's own folder in the run (exists).
        train_set: training images at native size, no augmentation.
        val_set: validation images, None if the data has none.
        train_cache: cached backbone features of the training images; None without ``train.cache_features``.
    """

    segmenter: Segmenter
    fabric: Fabric
    recipe: Recipe
    out: Path
    train_set: SegmentationDataset
    val_set: SegmentationDataset | None
    train_cache: BackboneFeatures | None = None

    @property
    def run(self) -> Path:
        """The run's folder."""
        return self.out.parents[1]


@dataclass(frozen=True)
class Procedure:
    """A stage without an optimizer (projection, pruning, thresholding, proposals ...).

    ``run`` changes ``context.segmenter`` in place and returns figures for ``stages/<name>/result.json``.
    The runner then validates and saves the artefact ``stages/<name>/model``. ``words`` as of :class:`Optimise`;
    ``leaves_masks``: it fills the run's ``masks``, on which another method can train.
    ``check`` is called before the first stage of a new run, with the model as it begins: it raises what would stop
    ``run`` later, so that nothing is trained in vain.
    """

    name: str
    run: Callable[[StageContext], Figures]
    words: str = ""
    check: Callable[[StageContext], None] | None = None
    leaves_masks: bool = False


Stage = Optimise | Procedure
