"""What if: prototypes dropped, forbidden, merged or forgotten, and what that changes."""

from __future__ import annotations

import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from segproto.api.edit_words import parse_merge, parse_pair, parse_weight
from segproto.errors import ConfigError, DataError
from segproto.files import is_empty, place, write_json
from segproto.places import cache_root

if TYPE_CHECKING:
    from segproto.data.base import SegmentationDataset
    from segproto.model.segmenter import Segmenter
    from segproto.training.recipe import Recipe

PathLike = str | Path
RECORD = "edit.json"  # in the folder of the edited model


def edit(
    target: PathLike,
    *,
    out: PathLike,
    drop: Sequence[int] = (),
    forbid: Sequence[str | tuple[int, int]] = (),
    merge: Sequence[str | tuple[int, int]] = (),
    reweight: Sequence[str | tuple[int, float]] = (),
    merge_duplicates: bool = False,
    within: float | None = None,
    renormalise: bool = False,
    forget: Sequence[int] = (),
    add: PathLike | None = None,
    remove_images: Sequence[str] = (),
    score: bool = True,
    stage: str | None = None,
    overrides: Sequence[str] = (),
    device: str | None = None,
    quiet: bool = False,
) -> dict[str, Any]:
    """A model with some prototypes less or more, and how its scores on the validation images change.

    Without ``forget`` nothing is trained. The encoder's features are computed once, and with ``$SEGPROTO_CACHE`` set
    they are kept there for the next edit. The edited model's card and provenance record the edit.

    Args:
        target: a run or model folder.
        out: folder of the edited model (with ``forget``: of the run that made it); must be free.
        drop: prototypes to remove.
        forbid: ``GROUP:PROTOTYPE`` pairs; the group is a number, or ``CLASS/NUMBER`` as the report writes it.
        merge: ``PROTOTYPE:OTHER`` pairs of one class and scale: the first becomes the second, their weights added.
        reweight: ``GROUP:FACTOR`` pairs, the group as in ``forbid``: what it adds to each class, times the factor.
        merge_duplicates: equal prototypes of a class and scale become one, their weights added.
        within: squared distance up to which prototypes count as equal.
        renormalise: a dropped or forbidden weight goes to the other members of its group.
        forget: prototypes marked as misleading: a short training moves them, and a penalty keeps every prototype of
            their class away from their patches. Excludes the other edits.
        add: a folder of images and masks (with a ``classes.yaml``, or read by the run's) that a ``memory`` remembers
            from now on, all of them; classes it does not know are new ones. Excludes the other edits.
        remove_images: names of training images that a ``memory`` forgets. Excludes the other edits.
        score: whether the validation images are scored before and after.
        stage: of a run: edit the model this stage left.
        overrides: ``data.key=value`` settings of the validation images; with ``forget`` any of the recipe's.
        device: as in :func:`segproto.evaluate`.
        quiet: no progress.

    Returns:
        ``miou``, ``accuracy``, ``per_class`` (each ``before``, ``after``, ``change``), ``edits`` in words, ``kept``
        (old number of each prototype), ``prototypes``, ``seconds``, ``command``; with ``forget`` also ``forgotten``
        (:func:`segproto.training.procedures.forgotten.nearest_to_forgotten`); also in ``out/edit.json``. Without
        ``score`` the first three are None.

    Raises:
        ConfigError: nothing to do, no such prototype or group, or ``out`` is taken.

    Examples:
        >>> import segproto
        >>> result = segproto.edit("runs/em", drop=[3], out="runs/without", quiet=True)
        >>> sorted(result["miou"])
        ['after', 'before', 'change']
    """
    from segproto.data.build import build_dataset
    from segproto.evaluation.as_before import AnsweredMasks
    from segproto.model.artefact import save
    from segproto.model.edit import WITHIN, edited
    from segproto.model.remembering import without_images
    from segproto.runs.models import ready
    from segproto.runs.settings import data_config

    begin, out = time.perf_counter(), place(out)
    require_free(out)
    require_one_kind(
        {
            "drop, forbid, merge or reweight": bool(drop or forbid or merge or reweight or merge_duplicates),
            "forget": bool(forget),
            "add": add is not None,
            "remove_images": bool(remove_images),
        }
    )
    model = ready(target, stage, device)
    kept: list[int] | None = None
    if forget:
        after = forgotten_by_training(Path(target), model, stage, forget, out, overrides, device, quiet)
    elif add is not None:
        after = with_folder(Path(target), model, Path(add), quiet)
    elif remove_images:
        after, kept = without_images(model, remove_images)
    else:
        limit = None
        if merge_duplicates:
            limit = WITHIN if within is None else within
        after, kept = edited(
            model,
            drop=drop,
            forbid=[pair if isinstance(pair, tuple) else parse_pair(pair, model) for pair in forbid],
            merge=[pair if isinstance(pair, tuple) else parse_merge(pair) for pair in merge],
            reweight=[pair if isinstance(pair, tuple) else parse_weight(pair, model) for pair in reweight],
            merge_within=limit,
            renormalise=renormalise,
        )
    changed_seconds = time.perf_counter() - begin
    settings = [item for item in overrides if item.startswith("data.")] if forget else list(overrides)
    figures = figures_of(model, after, forgetting=bool(forget))
    if score:
        config = data_config(Path(target), {}, settings)
        dataset = build_dataset(config, "val")
        if not config.has_masks and not model.found_categories:
            dataset = AnsweredMasks(dataset, model)
        figures |= scored(model, after, dataset, quiet, kept)
    figures = noted({**figures, "kept": kept, "seconds_of_change": round(changed_seconds, 3)}, begin)
    if forget:
        record(out, figures)
    else:
        after.card |= {"miou": (figures["miou"] or {}).get("after"), "edited_from": str(Path(target).absolute())}
        save(after, out, more=lambda folder: record(folder, figures))  # both or none: an edit can be repeated
    return figures | {"file": str(out / RECORD)}


def require_one_kind(asked: dict[str, bool]) -> None:
    """Refuses edits of several kinds at once: numbers of prototypes would mean another model's.

    Raises:
        ConfigError: naming them.
    """
    several = [name for name, wanted in asked.items() if wanted]
    if len(several) > 1:
        raise ConfigError(f"{' and '.join(several)} are edits of their own; do one, then the other on its result")


def with_folder(target: Path, model: Segmenter, folder: Path, quiet: bool) -> Segmenter:
    """A model that remembers all images of a folder, too: read as the run reads its own, or by their own classes.yaml.

    Raises:
        DataError: no images and masks there.
        ConfigError: the model is no memory.
    """
    from segproto.data.build import build_dataset
    from segproto.model.remembering import memory_of, with_images
    from segproto.runs.settings import data_config
    from segproto.training.progress import Reporter

    memory_of(model)  # refuses others before anything is read
    everything: dict[str, Any] = {"name": "folder", "root": str(folder), "split": {"val_pattern": "^$"}}
    if (folder / "classes.yaml").is_file():
        everything["classes"] = None
    if not folder.exists():
        raise DataError(f"{folder}: no such folder of images and masks to add")
    try:
        dataset = build_dataset(data_config(target, everything, ()), "train")
    except DataError as error:
        raise DataError(f"{folder} is to be added, images and masks: {error}") from error
    with Reporter(active=not quiet).bar("remember", len(dataset)) as bar:
        return with_images(model, dataset, progress=bar)


def figures_of(model: Segmenter, after: Segmenter, *, forgetting: bool) -> dict[str, Any]:
    """What an edit did, before anything is scored; ``forgetting``: also whether what was forgotten stays away."""
    from segproto.training.procedures.forgotten import nearest_to_forgotten

    return {
        "miou": None,
        "accuracy": None,
        "per_class": None,
        "edits": after.card["edits"],
        **({"forgotten": nearest_to_forgotten(after)} if forgetting else {}),
        "prototypes": {"before": prototypes_of(model), "after": prototypes_of(after)},
    }


def scored(
    model: Segmenter, after: Segmenter, dataset: SegmentationDataset, quiet: bool, kept: Sequence[int] | None = None
) -> dict[str, Any]:
    """How an edit changed the scores on these images. New classes of the edited model are in no mean."""
    from segproto.data.merged import MoreClasses
    from segproto.evaluation.rescore import EncoderFeatures, change, of_shown, rescore
    from segproto.training.progress import Reporter

    shown = dataset.classes.names
    more = len(shown) < after.classes.num_classes
    if more:
        dataset = MoreClasses(dataset, after.classes)
    features = EncoderFeatures(after, dataset, cache_root())
    with Reporter(active=not quiet).bar("score", len(dataset)) as bar:
        before, now = rescore(features, after.head.beside(model.head, kept), 2, bar)
    if more:
        before, now = of_shown(before, shown), of_shown(now, shown)
    return {**change(before, now), "images": len(dataset), "images_from_cache": features.reused}


def noted(figures: dict[str, Any], begin: float) -> dict[str, Any]:
    """The figures with the time since ``begin`` and the command."""
    return {
        "kept": None,
        "seconds_of_change": None,
        **figures,
        "seconds": round(time.perf_counter() - begin, 3),
        "command": sys.argv,
    }


def record(out: Path, figures: dict[str, Any]) -> None:
    """Writes the figures into the folder of the edited model."""
    write_json(out / RECORD, figures, "figures", str)


def record_of_resumed(out: Path, recipe: Recipe, spent: float, quiet: bool) -> None:
    """Writes ``edit.json`` of a run that was interrupted in the middle of forgetting and is now at its end.

    Other runs, and those that have one, are left alone.

    Args:
        out: the run.
        recipe: its own.
        spent: seconds it took.
        quiet: no progress.
    """
    from segproto.data.build import build_dataset
    from segproto.runs.models import ready
    from segproto.training.progress import Reporter
    from segproto.training.recipe import resolved

    forget = resolved(recipe).get("stages", {}).get("forget", {}).get("prototypes")
    if not forget or recipe.train.start is None or (out / RECORD).exists():
        return
    begin, say = time.perf_counter(), Reporter(active=not quiet).line
    if not recipe.train.start.exists():
        say(f"{out}: no edit.json was written: {recipe.train.start}, the model before, is no longer there")
        return
    model, after = ready(recipe.train.start, None, None), ready(out, None, None)
    figures = figures_of(model, after, forgetting=True)
    figures |= scored(model, after, build_dataset(recipe.data, "val"), quiet)
    record(out, noted(figures, begin - spent))
    say(f"what forgetting changed: {out / RECORD}")


def prototypes_of(model: Segmenter) -> int:
    """How many prototypes a model has."""
    bank = model.head.bank
    return 0 if bank is None else bank.num_prototypes


def require_free(out: Path) -> None:
    """Sees that nothing is overwritten."""
    if out.exists() and (out.is_file() or not is_empty(out)):
        raise ConfigError(f"{out}: is taken; give another --out (an edit never changes what is there)")


def forgotten_by_training(
    target: Path,
    model: Segmenter,
    stage: str | None,
    forget: Sequence[int],
    out: Path,
    overrides: Sequence[str],
    device: str | None,
    quiet: bool,
) -> Segmenter:
    """The model of a run that trained to do without some prototypes."""
    from segproto.model.artefact import find_model
    from segproto.runs.folder import model_folder
    from segproto.runs.models import ready

    start = find_model(model_folder(target, stage))
    train_to_forget(target, model, start, forget, out, overrides, quiet)
    return ready(out, None, device)


def train_to_forget(
    target: Path, model: Segmenter, start: Path, forget: Sequence[int], out: Path, settings: Sequence[str], quiet: bool
) -> None:
    """Runs the stages of forgetting on the run's own recipe; the result is a run that can be resumed and repeated."""
    from segproto.runs.folder import run_of
    from segproto.runs.settings import resolve
    from segproto.training.procedures.forgetting import STAGES, source_to_forget
    from segproto.training.procedures.forgotten import prototype_bank
    from segproto.training.recipe import resolved
    from segproto.training.runner import run

    folder = run_of(target)
    if folder is None:
        raise ConfigError(f"{target}: forgetting trains again, which needs the run's recipe; name the run folder")
    bank = prototype_bank(model)
    for number in forget:
        source_to_forget(model, bank, number)
    recipe, marked = folder / "recipe.yaml", f"stages.forget.prototypes=[{','.join(map(str, forget))}]"
    sections = {"train": {"start": str(start.absolute())}}
    joint = resolved(resolve(recipe, {}, [])[1])["stages"]["joint"]
    alike = [f"stages.forget.{key}={joint[key]}" for key in ("cross_entropy", "schedule")]
    settings = [marked, *alike, *settings]
    method, config = resolve(recipe, sections, settings)
    names = [stage.name for stage in method.stages(config) if stage.name in STAGES]
    method, config = resolve(recipe, sections, [f"train.stages=[{','.join(names)}]", *settings])
    run(method, config, out, quiet=quiet)
