"""The loop of an optimising stage."""

from __future__ import annotations

import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from segproto.data.batch import Batch
from segproto.errors import ConfigError, SegprotoError
from segproto.evaluation.absent import absent_words
from segproto.machine import available_bytes
from segproto.model.segmenter import Segmenter
from segproto.training import checkpoint
from segproto.training.agreement import average_statistics, mean_terms
from segproto.training.amp import loss_scale, undone_if_skipped
from segproto.training.devices import arrange, seed_all
from segproto.training.ema import Ema
from segproto.training.figures import Figures, Logged
from segproto.training.job import Job
from segproto.training.memory import estimate_bytes
from segproto.training.schedule import build_optimizer, lr_factor, set_lr
from segproto.training.stage import Optimise, ParamGroup
from segproto.training.stale import drop_stale_provenance

if TYPE_CHECKING:
    from segproto.training.progress import Bar

GIB = 1 << 30


class LossModule(nn.Module):
    """A stage's loss as a module, so that DDP sees every forward pass whatever part of the model the loss calls."""

    def __init__(self, segmenter: Segmenter, stage: Optimise) -> None:
        super().__init__()
        self.segmenter = segmenter
        self._loss = stage.loss

    def forward(
        self, masks: Tensor, images: Tensor | None, features: Tensor | None, names: tuple[str, ...]
    ) -> dict[str, Tensor]:
        """The fields of a batch (Fabric converts tensors, not dataclasses) to named scalars."""
        return self._loss(self.segmenter, Batch(masks=masks, images=images, features=features, names=names))


@dataclass
class Meter:
    """Speed, the time spent waiting for images, and whether a loss has been finite so far.

    The latter is kept on the device: asking it each step would stall a GPU.
    """

    bad: Tensor
    seconds: float = 0.0
    waited: float = 0.0
    images: int = 0
    _since: float = field(default_factory=time.perf_counter)

    def step(self, loss: Tensor, number: int, images: int) -> None:
        self.bad = torch.where((self.bad < 0) & ~torch.isfinite(loss.detach()), number, self.bad)
        self.images += images

    def pause(self) -> None:
        self.seconds += time.perf_counter() - self._since

    def go_on(self) -> None:
        self._since = time.perf_counter()

    def waiting(self, batches: Iterator[Batch]) -> Iterator[Batch]:
        """The batches, each of them waited for."""
        while True:
            since = time.perf_counter()
            batch = next(batches, None)
            if batch is None:
                return
            self.waited += time.perf_counter() - since
            yield batch

    def read(self) -> Logged:
        """Since the last call, without pauses: images per second, and the share of the time spent waiting for them."""
        self.pause()
        seconds = max(self.seconds, 1e-9)
        values: Logged = {
            "images_per_s": round(self.images / seconds, 2),
            "waiting": round(min(1.0, self.waited / seconds), 4),
        }
        self.seconds, self.waited, self.images = 0.0, 0.0, 0
        self.go_on()
        return values


class Loop:
    """Runs one optimising stage from wherever the job's state says.

    Args:
        job: the run.
        stage: the stage, whose index is ``job.state.stage``.
        keep_best: keep the model of the best validation in ``checkpoints/best``.
        done: batches of the stages before.
    """

    def __init__(self, job: Job, stage: Optimise, keep_best: bool, done: int) -> None:
        self.job, self.stage, self.keep_best, self.done = job, stage, keep_best, done
        self.train = job.recipe.train
        self.world = job.fabric.world_size
        self.stopped = False

    def run(self) -> Figures:
        """Takes the steps; returns figures for ``result.json``."""
        job, stage = self.job, self.stage
        self._begin()
        groups = self._groups()
        self.optimizer = build_optimizer(stage, groups)
        self.ema = Ema(job.segmenter, self.train.ema) if self.train.ema is not None else None
        if job.state.step > 0:
            self._restore()
        stage.mode(job.segmenter)
        self._warn_of_memory()
        module, optimizer = job.fabric.setup(LossModule(job.segmenter, stage), self.optimizer)
        self.meter = Meter(torch.full((), -1, device=job.fabric.device))
        length = stage.steps // stage.accumulate * stage.accumulate
        with job.reporter.bar(self._title(), length, job.state.step) as bar:
            dataset = job.train_set if stage.dataset is None else stage.dataset(job.train_set, job.out)
            batches = job.batches(dataset, self._seed(), job.state.step, length, stage.augment)
            optimizer.zero_grad()
            for batch in self.meter.waiting(batches):
                self._batch(module, optimizer, groups, batch, bar)
                if self.stopped:
                    break
        self._require_finite()
        if self.ema is not None:
            self.ema.copy_to(job.segmenter)
        if stage.end is not None:
            stage.end(job.segmenter)
        for parameter in job.segmenter.parameters():
            parameter.grad = None
        return {"steps": job.state.step, "stopped_early": self.stopped, **job.state.terms}

    def _begin(self) -> None:
        job, stage = self.job, self.stage
        if stage.steps < stage.accumulate:
            raise ConfigError(f"stages.{stage.name}.steps = {stage.steps}: fewer than accumulate = {stage.accumulate}")
        if job.state.step == 0:
            seed_all(self.train.seed, stage.name, "begin")
            bank = job.segmenter.head.bank
            if stage.begin is not None:
                stage.begin(job.segmenter)
            if not stage.keeps_sources:
                drop_stale_provenance(job.segmenter, bank, stage.parameters(job.segmenter))
        arrange(job.segmenter, job.fabric.device)

    def _groups(self) -> list[ParamGroup]:
        """The trained parameters; all others are frozen."""
        groups = self.stage.parameters(self.job.segmenter)
        trained = {id(p) for group in groups for p in group.params}
        if not trained:
            raise ConfigError(f"stages.{self.stage.name}: nothing to train; set a learning rate above 0, or steps=0")
        for parameter in self.job.segmenter.parameters():
            parameter.requires_grad_(id(parameter) in trained)
        return groups

    def _restore(self) -> None:
        path = checkpoint.latest(self.job.checkpoints)
        assert path is not None
        checkpoint.restore(path, self.optimizer, self.ema)
        self.job.fabric.strategy.precision.load_state_dict(self.job.state.precision)

    def _seed(self) -> int:
        """A stage's own sequence of batches, the same whichever stages ran before it."""
        return int.from_bytes(self.stage.name.encode(), "little") * 2**32 + self.train.seed

    def _title(self) -> str:
        return f"stage {self.job.state.stage + 1}/{len(self.job.stages)} {self.stage.name}"

    def _batch(self, module: Any, optimizer: Any, groups: list[ParamGroup], batch: Batch, bar: Bar) -> None:
        """One batch; at the last of an accumulation, one optimizer step and what is due after it."""
        job, stage, state = self.job, self.stage, self.job.state
        fabric = job.fabric
        seed_all(self.train.seed, stage.name, state.step, fabric.global_rank)
        batch = batch.to(fabric.device)
        images = batch.images
        if images is not None:
            images = images.contiguous(memory_format=torch.channels_last)
        whole = (state.step + 1) % stage.accumulate == 0
        with fabric.no_backward_sync(module, enabled=not whole):
            terms = module(batch.masks, images, batch.features, batch.names)
            fabric.backward(terms["loss"] / stage.accumulate)
        self.meter.step(terms["loss"], state.step, len(batch.masks) * self.world)
        if fabric.device.type == "cpu" and self.world == 1:
            self._require_finite()
        state.step += 1
        if not whole:
            return
        number = state.step // stage.accumulate - 1
        factor = lr_factor(stage, number)
        set_lr(self.optimizer, groups, factor)
        if self.train.clip is not None:
            fabric.clip_gradients(module, optimizer, max_norm=self.train.clip)
        scale = loss_scale(fabric)
        optimizer.step()
        optimizer.zero_grad()
        average_statistics(job.segmenter)
        if stage.after_step is not None:
            with undone_if_skipped(scale, loss_scale(fabric), job.segmenter):
                stage.after_step(job.segmenter)
        if self.ema is not None:
            self.ema.update(job.segmenter, number)
        if self._due(self.train.log_every) or number == 0:
            self._log(terms, max(g.lr for g in groups) * factor, bar)
        if self._due(self.train.validate_every):
            self._validate()
        if self._due(self.train.checkpoint_every) and not self.stopped:
            self._save()
        bar(state.step, stage.steps)

    def _due(self, every: int) -> bool:
        """Whether a multiple of ``every`` lies within the optimizer step just taken."""
        step = self.job.state.step
        return every > 0 and step // every != (step - self.stage.accumulate) // every

    def _log(self, terms: dict[str, Tensor], lr: float, bar: Bar) -> None:
        self._require_finite()
        means = mean_terms(terms)
        self.job.state.terms = means
        watched: Logged = {} if self.stage.watch is None else self.stage.watch(self.job.segmenter)
        values: Logged = {**means, "lr": lr, **self.meter.read(), **watched}
        self.job.journal.write(self.stage.name, self.job.state.step, self.done + self.job.state.step, values)
        bar.note(f"loss {means['loss']:.4f}")

    def _validate(self) -> None:
        """Scores the model as it is (or its average), keeps the best, and sees whether patience is at its end."""
        job, state = self.job, self.job.state
        self._require_finite()
        self.meter.pause()
        if self.ema is not None:
            with self.ema.applied(job.segmenter):
                self._score()
        else:
            self._score()
        self.stage.mode(job.segmenter)
        self.stopped = self.stage.patience is not None and state.stale >= self.stage.patience
        self.meter.go_on()

    def _score(self) -> None:
        job, state = self.job, self.job.state
        with job.fabric.autocast():
            figures = job.validate()
        if figures is None:
            return
        values = {"val_miou": figures["miou"], "val_accuracy": figures["accuracy"]}
        job.journal.write(self.stage.name, state.step, self.done + state.step, values)
        over = absent_words(figures["per_class"])
        job.reporter.line(f"{self._title()}, step {state.step}: validation mIoU {figures['miou']:.4f}{over}")
        if state.best_accuracy is None or figures["accuracy"] > state.best_accuracy:
            state.best_accuracy, state.stale = figures["accuracy"], 0
        else:
            state.stale += 1
        if self.keep_best:
            job.keep_best(figures["miou"])

    def _save(self) -> None:
        job = self.job
        self._require_finite()
        self.meter.pause()
        job.state.precision = job.fabric.strategy.precision.state_dict()
        job.save_checkpoint(self.optimizer, self.ema)
        self.meter.go_on()

    def _require_finite(self) -> None:
        """Raises:
        SegprotoError: some loss was not a finite number; no checkpoint was written since.
        """
        bad = self.meter.bad
        if self.world > 1:
            bad = self.job.fabric.all_reduce(bad, reduce_op="max")  # type: ignore[assignment]
        if int(bad) >= 0:
            latest = checkpoint.latest(self.job.checkpoints)
            where = f"the checkpoint {latest.name} from before it is kept" if latest else "there is no checkpoint yet"
            raise SegprotoError(
                f"stage {self.stage.name}, step {int(bad)}: the loss is not a finite number; {where}. Lower the "
                f"learning rates (stages.{self.stage.name}.lr), set train.clip=1, or use train.precision=32-true"
            )

    def _warn_of_memory(self) -> None:
        """A line before the start where a step may need more main memory than there is."""
        job = self.job
        if job.fabric.device.type != "cpu" or job.train_cache is not None:
            return
        augment = self.stage.augment or job.recipe.data.augment
        size = augment.crop_size
        if size is None:
            height, width = job.train_set[0].mask.shape
            size = (int(height * augment.scale[1]), int(width * augment.scale[1]))
        with job.fabric.autocast():
            need = estimate_bytes(job.segmenter, self.stage.loss, size, self.train.batch_size) * self.train.devices
        free = available_bytes()
        if free is not None and need > free:
            job.reporter.line(
                f"warning: stage {self.stage.name} needs about {need / GIB:.1f} GiB of memory, {free / GIB:.1f} GiB "
                "are free; lower train.batch_size or data.augment.crop if the system kills it"
            )
