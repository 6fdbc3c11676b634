"""Runs a method's stages in order, from wherever a run was interrupted."""

from __future__ import annotations

import gc
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import torch

from segproto.data.base import SegmentationDataset
from segproto.data.build import build_dataset
from segproto.data.subset import keep_only, readable
from segproto.encoders.view import trained_view
from segproto.errors import ConfigError, SegprotoError
from segproto.evaluation.absent import absent_words
from segproto.files import hold, write_json
from segproto.files.documents import checked, read_json
from segproto.model.cache import FeatureCache, cached, make_cache
from segproto.model.figures import number_figures
from segproto.places import cache_root
from segproto.training import checkpoint
from segproto.training.cached import require_cacheable
from segproto.training.checkpoint import State
from segproto.training.class_weights import with_class_weights
from segproto.training.crew import together
from segproto.training.data_record import DataRecord, keep_record
from segproto.training.devices import arrange, loading_processes, make_fabric, on_first, seed_all
from segproto.training.figures import Figures, FiguresRecord
from segproto.training.first_look import check_procedures, first_look
from segproto.training.folder import (
    check_resumable,
    finished,
    note_finished,
    refuse_taken,
    release_folder,
    take_folder,
    tidy,
)
from segproto.training.job import Job
from segproto.training.journal import Journal, build_loggers
from segproto.training.large_images import caching_words, with_large_images
from segproto.training.loop import Loop
from segproto.training.memory import memory_errors
from segproto.training.method import Method
from segproto.training.pixels import measured, pixels_of
from segproto.training.precision import settle
from segproto.training.progress import Reporter, reporting
from segproto.training.recipe import RecipeT, resolved
from segproto.training.stage import Optimise, Procedure, Stage, StageContext
from segproto.training.start import chosen_stages, first_model

if TYPE_CHECKING:
    from lightning_fabric import Fabric


@dataclass(frozen=True, repr=False)
class RunResult:
    """What a run left.

    Attributes:
        out: its folder; the artefact is ``out/model``.
        figures: ``result.json`` of the last stage.
        stages: ``result.json`` of every stage by name, in order.
        seconds: time spent, interruptions not counted.
        was_finished: ``resume`` found nothing left to do.
    """

    out: Path
    figures: Figures
    stages: dict[str, Figures]
    seconds: float
    was_finished: bool = False

    def __repr__(self) -> str:
        miou = self.figures.get("miou")
        scored = f", mIoU {miou:.4f}" if isinstance(miou, float) else ""
        return f"<run {self.out}: {', '.join(self.stages)}{scored}, {self.seconds:.0f} s>"


def run(
    method: Method[RecipeT],
    recipe: RecipeT,
    out: Path,
    *,
    resume: bool = False,
    data_changed: bool = False,
    quiet: bool = False,
) -> RunResult:
    """Trains.

    A run is a pure function of its recipe: interrupted at any moment and resumed, it ends (on a CPU) with the same
    bits. All processes of a distributed run call this.

    Args:
        method: whose stages are run.
        recipe: of the type ``method.recipe``.
        out: the run's folder.
        resume: continue the run in ``out`` from its last checkpoint; otherwise ``out`` must not hold a run.
        data_changed: resume although the data are not those the run began with.
        quiet: no bars and lines.

    Raises:
        SegprotoError: in one line, what a person can mend (another process at work in ``out``, settings, data,
            weights, disk, memory, a diverged loss).
    """
    if recipe.train.cache_features:
        require_cacheable(recipe.encoder, recipe.data.augment)
        if recipe.data.window is not None:
            raise ConfigError("data.window: train.cache_features needs data.window=null: it caches whole images")
    choice = settle(recipe.train)
    train = recipe.train.model_copy(update={"precision": choice.precision})
    recipe = recipe.model_copy(update={"train": train})
    if recipe.data.workers == "auto":
        data = recipe.data.model_copy(update={"workers": loading_processes(train)})
        recipe = recipe.model_copy(update={"data": data})
    stages = chosen_stages(method, recipe)
    if recipe.train.threads is not None:
        torch.set_num_threads(recipe.train.threads)
    fabric = make_fabric(recipe.train)
    out = Path(out)
    reporter = Reporter(active=fabric.global_rank == 0 and not quiet)
    with ExitStack() as resources:
        resources.enter_context(together(fabric, out, f"go on with: segproto train --resume {out}"))
        if not (resume and finished(out)):  # which only reads
            on_first(fabric, lambda: resources.enter_context(hold(out)))
        if resume:
            on_first(fabric, lambda: check_resumable(out, recipe))
        else:
            on_first(fabric, lambda: refuse_taken(out))
        result = finished(out)
        if result is not None:
            on_first(fabric, lambda: tidy(out))
            reporter.line(f"{out}: this run is finished; there is nothing to resume")
            return RunResult(out, list(result.stages.values())[-1], result.stages, result.seconds, was_finished=True)
        resources.enter_context(reporting(reporter))
        resources.enter_context(memory_errors(str(out)))
        job = prepare(method, recipe, out, stages, fabric, reporter, choice.words, data_changed)
        if choice.words:
            reporter.line(choice.words)
        if not resume:
            resources.enter_context(free_if_refused(out, fabric))
        try:
            if recipe.train.cache_features:
                job.train_cache = open_cache(job, job.train_set, flips=recipe.data.augment.flip)
                job.val_cache = open_cache(job, job.val_set, flips=False) if job.val_set is not None else None
            return run_stages(method.name, job)
        finally:
            job.journal.close()


@contextmanager
def free_if_refused(out: Path, fabric: Fabric) -> Iterator[None]:
    """A run that is refused before it makes anything (by its tags, for example) leaves nothing in its folder."""
    try:
        yield
    except SegprotoError:
        if fabric.global_rank == 0:
            release_folder(out)
        raise


def prepare(
    method: Method[RecipeT],
    recipe: RecipeT,
    out: Path,
    stages: list[Stage],
    fabric: Fabric,
    reporter: Reporter,
    note: str,
    data_changed: bool,
) -> Job:
    """Data, model and the place to go on from. The folder is taken only once all of them are there.

    Args: as in :func:`run`; ``note`` goes to the head of ``recipe.yaml``.
    """
    recipe = measured(recipe, fabric, reporter)
    train_set = build_dataset(recipe.data, "train")
    if recipe.data.labels is None and method.supervision != "image-level labels":
        other = "data.name=images for images alone" if method.supervision == "none" else "data.labels to their folder"
        raise ConfigError(f"data.labels = null: is for methods that learn from tags; {method.name} needs {other}")
    val_set = build_dataset(recipe.data, "val") if recipe.data.has_masks else None
    for line in recipe.data.kind.says(recipe.data) if recipe.data.kind.says is not None else ():
        reporter.line(line)
    whole = train_set
    if recipe.data.on_error == "skip":
        train_set = screened(train_set, fabric, reporter)
    path = checkpoint.latest(out / "checkpoints")
    if path is None:
        recipe = with_large_images(recipe, train_set, fabric, reporter)
        recipe = with_class_weights(recipe, train_set, fabric, reporter)
        stages = chosen_stages(method, recipe)  # with the weights, if they were counted
    state = checkpoint.read_state(path, stages) if path is not None else State()
    segmenter = first_model(method, recipe, train_set.classes, path)
    segmenter.encoder.pixels = pixels_of(recipe, train_set, reporter)
    arrange(segmenter, fabric.device)
    if path is None:
        seen = train_set[0].mask.shape
        segmenter.encoder.view = trained_view(recipe.data.window, recipe.data.augment.crop_size, seen)
    first = fabric.global_rank == 0
    if path is None and method.supervision == "pixel masks" and val_set is not None:
        on_first(fabric, lambda: first_look(recipe, train_set, reporter))
        context = StageContext(segmenter, fabric, recipe, out, train_set, val_set)
        on_first(fabric, lambda: check_procedures(stages, context))

    def take_new_folder() -> None:
        if not (out / "recipe.yaml").exists():
            take_folder(out, recipe, note)

    on_first(fabric, take_new_folder)  # the first process alone looks: the others could see what it just wrote
    on_first(fabric, lambda: keep_record(out, DataRecord.of(recipe, whole, val_set), changed=data_changed))
    batches = batches_before(stages, state.stage) + state.step
    loggers = build_loggers(recipe.train.loggers, out, resolved(recipe), batches) if first else []
    journal = Journal(out / "metrics.jsonl", loggers, active=first)
    journal.truncate(state.journal)
    return Job(recipe, out, fabric, segmenter, train_set, val_set, stages, state, journal, reporter)


def screened(train_set: SegmentationDataset, fabric: Fabric, reporter: Reporter) -> SegmentationDataset:
    """The training images that can be read, found once so that every stage sees the same ones.

    Validation images are not screened: a score over fewer of them would be another score.

    Raises:
        DataError: none can be read.
    """
    indices: list[int] = []

    def read() -> None:
        with reporter.bar("read the training images", len(train_set)) as bar:
            indices.extend(readable(train_set, bar))

    on_first(fabric, read)
    return keep_only(train_set, fabric.broadcast(indices) if fabric.world_size > 1 else indices)


def open_cache(job: Job, dataset: SegmentationDataset, flips: bool) -> FeatureCache:
    """The cached features under ``$SEGPROTO_CACHE`` or in the run; all processes make what is not there yet."""
    root = cache_root() or job.out / "cache"
    encoder, device = job.segmenter.encoder, job.fabric.device
    flips = flips or cached(encoder, dataset, root, True)  # a cache of another method's holds the plain ones, too
    if job.fabric.global_rank == 0 and not cached(encoder, dataset, root, flips):
        words = caching_words(encoder, dataset, flips, device)
        if words is not None:
            job.reporter.line(words)
    with job.reporter.bar(f"cache features ({dataset.split})", len(dataset)) as bar:
        if job.fabric.world_size > 1:
            rank, world = job.fabric.global_rank, job.fabric.world_size
            make_cache(encoder, dataset, root, device=device, flips=flips, progress=bar, rank=rank, world=world)
            job.fabric.barrier()
        return FeatureCache.open(encoder, dataset, root, device=device, flips=flips, progress=bar)


def batches_before(stages: list[Stage], index: int) -> int:
    """Batches that the stages before ``index`` count."""
    return sum(stage.steps for stage in stages[:index] if isinstance(stage, Optimise))


def run_stages(name: str, job: Job) -> RunResult:
    """Runs what is left; after each stage an artefact, a JSON and a checkpoint are there."""
    results = {stage.name: read_result(job.out, stage.name) for stage in job.stages[: job.state.stage]}
    last_optimised = max((i for i, s in enumerate(job.stages) if isinstance(s, Optimise)), default=-1)
    for index, stage in enumerate(job.stages[job.state.stage :], job.state.stage):
        if job.state.step == 0:
            job.state.stage_began = job.tick()
        job.segmenter.card |= {
            "method": name,
            "stage": stage.name,
            "data": job.recipe.data.name,
            "precision": job.recipe.train.precision,
        }
        keep_best = index == last_optimised
        if isinstance(stage, Optimise):
            figures = Loop(job, stage, keep_best, batches_before(job.stages, index)).run()
        else:
            figures = procedure(job, stage)
        results[stage.name] = finish_stage(job, stage, figures, keep_best)
    job.note_agreement()
    job.save_model(job.out / "model")
    seconds = job.tick()
    on_first(job.fabric, lambda: note_finished(job.out, results, seconds))
    return RunResult(job.out, list(results.values())[-1], results, seconds)


def procedure(job: Job, stage: Procedure) -> Figures:
    """Runs a procedure on the model."""
    seed_all(job.recipe.train.seed, stage.name, job.fabric.global_rank)
    folder = job.out / "stages" / stage.name
    folder.mkdir(parents=True, exist_ok=True)
    context = StageContext(
        job.segmenter, job.fabric, job.recipe, folder, job.train_set, job.val_set, train_cache=job.train_cache
    )
    job.segmenter.eval()
    figures = stage.run(context)
    arrange(job.segmenter, job.fabric.device)
    return figures


def finish_stage(job: Job, stage: Stage, figures: Figures, keep_best: bool) -> Figures:
    """Validates the model a stage left and writes what the stage leaves behind."""
    if job.fabric.world_size > 1:
        gc.collect()  # DDP's hooks go with the stage's wrapper, before the next one wraps the same parameters
    validation = job.validate() or {}
    validation.pop("confusion", None)
    state, index = job.state, job.state.stage
    seconds = round(job.tick() - state.stage_began, 3)
    result = {"stage": stage.name, "words": stage.words, **figures, **job.segmenter.head.figures()}
    result |= {**validation, "seconds": seconds}
    if validation:
        values = {"val_miou": validation["miou"], "val_accuracy": validation["accuracy"]}
        job.journal.write(stage.name, state.step, batches_before(job.stages, index) + state.step, values)
        job.segmenter.card["miou"] = validation["miou"]
        if keep_best:
            job.keep_best(validation["miou"])
    job.segmenter.card["numbers"] = number_figures(job.segmenter)
    folder = job.out / "stages" / stage.name
    job.save_model(folder / "model")
    on_first(job.fabric, lambda: write_json(folder / "result.json", result, None))
    state.stage, state.step, state.stale, state.best_accuracy = index + 1, 0, 0, None
    state.precision, state.terms = {}, {}
    job.save_checkpoint()
    words = f"stage {index + 1}/{len(job.stages)} {stage.name}: {seconds:.1f} s"
    if validation:
        words += f", validation mIoU {validation['miou']:.4f}{absent_words(validation['per_class'])}"
    job.reporter.line(words)
    return result


def read_result(out: Path, stage: str) -> Figures:
    """What an earlier session of this run wrote after a stage."""
    file = out / "stages" / stage / "result.json"
    value: Figures = read_json(file)
    checked(value, FiguresRecord, file, advice="bring it back from a copy, or begin a new run in another --out")
    return value
