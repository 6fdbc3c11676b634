"""What all stages of one run share."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from torch import Tensor
from torch.optim import Optimizer

from segproto.data.base import SegmentationDataset
from segproto.data.batch import Batch
from segproto.data.config import AugmentConfig
from segproto.data.decoded import Decoded
from segproto.data.loader import train_batches
from segproto.evaluation.float32 import agreement_words, float32_agreement
from segproto.evaluation.protocol import Protocol
from segproto.evaluation.validate import validate
from segproto.model import artefact
from segproto.model.features import BackboneFeatures
from segproto.model.segmenter import Segmenter
from segproto.training import checkpoint
from segproto.training.cached import CachedBatches
from segproto.training.checkpoint import State
from segproto.training.devices import on_first
from segproto.training.ema import Ema
from segproto.training.figures import Figures
from segproto.training.journal import Journal
from segproto.training.progress import Reporter
from segproto.training.recipe import Recipe
from segproto.training.stage import Stage

if TYPE_CHECKING:
    from lightning_fabric import Fabric


@dataclass
class Job:
    """One run in progress.

    Attributes:
        recipe: how it is run.
        out: the run's folder.
        fabric: devices and processes.
        segmenter: the model, changed by the stages.
        train_set: training images at native size.
        val_set: validation images, or None.
        stages: what is run, in order.
        state: where the run is.
        journal: ``metrics.jsonl``.
        reporter: bars and lines.
        train_cache: cached backbone features of the training images, or None.
        val_cache: the same for validation.
        since: when ``state.seconds`` was last brought up to date.
    """

    recipe: Recipe
    out: Path
    fabric: Fabric
    segmenter: Segmenter
    train_set: SegmentationDataset
    val_set: SegmentationDataset | None
    stages: list[Stage]
    state: State
    journal: Journal
    reporter: Reporter
    train_cache: BackboneFeatures | None = None
    val_cache: BackboneFeatures | None = None
    since: float = field(default_factory=time.perf_counter)
    _cached: CachedBatches | None = field(default=None, repr=False)
    _decoded: Decoded | None = field(default=None, repr=False)

    @property
    def checkpoints(self) -> Path:
        return self.out / "checkpoints"

    def batches(
        self, dataset: SegmentationDataset, seed: int, start: int, stop: int, augment: AugmentConfig | None = None
    ) -> Iterator[Batch]:
        """This process's batches ``start .. stop - 1`` of the sequence that ``seed`` names.

        ``dataset`` has the training images, perhaps with other masks; ``augment`` None = the data's.
        """
        data, size = self.recipe.data, self.recipe.train.batch_size
        rank, world = self.fabric.global_rank, self.fabric.world_size
        encoder = self.segmenter.encoder
        if self.train_cache is not None:
            if self._cached is None or self._cached.dataset is not dataset:
                self._cached = CachedBatches(dataset, self.train_cache, encoder.padded_size, data.augment.flip)
            return self._cached.batches(seed=seed, batch_size=size, start=start, stop=stop, rank=rank, world=world)
        workers = 0 if data.workers == "auto" else data.workers  # settled when the run began
        if self._decoded is None:
            self._decoded = Decoded(self.train_set, max(1, workers))
        return train_batches(
            dataset,
            augment or data.augment,
            normalisation=encoder.normalisation.__call__,  # a bound method: mypy sees no Callable in a NamedTuple
            seed=seed,
            batch_size=size,
            start=start,
            stop=stop,
            rank=rank,
            world=world,
            workers=workers,
            pin_memory=self.fabric.device.type == "cuda",
            on_error=data.on_error,
            decoded=self._decoded if dataset is self.train_set else None,  # masks of stages may change
        )

    def validate(self) -> Figures | None:
        """Figures of the model on the validation images, the same in all processes; None without such images."""
        if self.val_set is None:
            return None
        rank, world = self.fabric.global_rank, self.fabric.world_size
        reduce: Callable[[Tensor], Tensor] | None = self._sum if world > 1 else None
        with self.reporter.bar("validate", len(self.val_set)) as bar:
            return validate(
                self.segmenter,
                self.val_set,
                Protocol(input_size=self.recipe.data.input_size),
                cache=self.val_cache,
                rank=rank,
                world=world,
                reduce=reduce,
                progress=bar,
            )

    def note_agreement(self) -> None:
        """Writes to the model's card how far the run's precision agrees with float32, on a few validation images."""
        precision, dataset = self.recipe.train.precision, self.val_set
        if precision == "32-true" or not dataset:
            return

        def note() -> None:
            protocol = Protocol(input_size=self.recipe.data.input_size)
            card = self.segmenter.card
            card["float32_agreement"] = float32_agreement(self.segmenter, dataset, precision, protocol)
            self.reporter.line(f"{precision}: {agreement_words(card)}")

        on_first(self.fabric, note)  # which writes the model

    def _sum(self, value: Tensor) -> Tensor:
        total = self.fabric.all_reduce(value, reduce_op="sum")
        assert isinstance(total, Tensor)
        return total

    def save_checkpoint(self, optimizer: Optimizer | None = None, ema: Ema | None = None) -> None:
        """Writes a checkpoint of where the run is; all processes call it."""
        self.tick()
        self.state.journal = self.journal.sync()

        def write() -> None:
            checkpoint.save(self.checkpoints, self.state, self.segmenter, optimizer, ema)

        on_first(self.fabric, write)

    def tick(self) -> float:
        """Brings ``state.seconds``, the time spent in all sessions of the run, up to date."""
        now = time.perf_counter()
        self.state.seconds, self.since = self.state.seconds + now - self.since, now
        return self.state.seconds

    def keep_best(self, miou: float) -> None:
        """Keeps the model as ``checkpoints/best`` if no earlier one scored better; all processes call it."""
        if self.state.best_miou is not None and miou <= self.state.best_miou:
            return
        self.state.best_miou = miou
        self.save_model(self.checkpoints / "best")

    def save_model(self, folder: Path) -> None:
        """Writes the artefact; all processes call it."""

        advice = "what was there before is intact; free some space and use --resume"
        on_first(self.fabric, lambda: artefact.save(self.segmenter, folder, advice))
