"""One keyword-only function a verb, under the command line and ``import segproto`` alike.

Nothing heavy is imported before it is used; :func:`load` needs neither ``segproto.training`` nor ``segproto.methods``.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from segproto.errors import ConfigError
from segproto.report.ablations import ablate_entropy, ablate_scales, ablate_thresholds
from segproto.report.analyses import analyse
from segproto.report.catalogue import recipe_text
from segproto.report.catalogue import summaries as recipes
from segproto.report.converting import conversion_sources, convert
from segproto.report.data_sets import data_prepare, data_sets, data_submit
from segproto.report.doctor import examine as doctor
from segproto.report.exporting import export
from segproto.report.exporting import pull as hub_pull
from segproto.report.exporting import push as hub_push
from segproto.report.proposing import propose
from segproto.report.scoring import evaluate, score_cams, truth_labels
from segproto.report.whatif import edit, record_of_resumed

__all__ = [  # verbs that live elsewhere
    "ablate_entropy", "ablate_scales", "ablate_thresholds", "analyse", "conversion_sources", "convert",
    "data_prepare", "data_sets", "data_submit", "doctor", "edit", "evaluate", "export", "hub_pull", "hub_push",
    "propose", "recipe_text", "recipes", "score_cams"]  # fmt: skip

if TYPE_CHECKING:
    from segproto.model.explain import Explanation
    from segproto.model.images import ImageLike
    from segproto.model.segmenter import Segmenter
    from segproto.training.runner import RunResult

PathLike = str | Path


def load(path: PathLike, *, stage: str | None = None) -> Segmenter:
    """Loads a trained model, on the CPU and ready to predict.

    Args:
        path: a run folder (its ``model/``) or a model folder.
        stage: of a run: the model this stage left (``stages/<stage>/model``) instead of the last.

    Raises:
        WeightsError: no complete model there.
    """
    from segproto.model.segmenter import Segmenter
    from segproto.report.runs import model_folder

    return Segmenter.load(model_folder(Path(path), stage))


def train(
    recipe: PathLike | None = None,
    *,
    out: PathLike | None = None,
    resume: PathLike | None = None,
    start: PathLike | None = None,
    devices: int | None = None,
    overrides: Sequence[str] = (),
    quiet: bool = False,
    **sections: Any,
) -> RunResult:
    """Trains one model.

    Args:
        recipe: a shipped recipe's name (``scaleproto/em``) or a YAML file.
        out: the run folder.
        resume: an interrupted run folder to continue exactly; excludes everything else but ``quiet`` and
            overrides of what does not change the result (:data:`segproto.training.folder.FREE`).
        start: a run or model whose weights the run begins from.
        devices: processes on this machine.
        overrides: ``key=value`` settings, applied last.
        quiet: no progress.
        **sections: parts of the recipe, as in ``data={"root": "data/em"}, train={"seed": 1}``.

    Raises:
        ConfigError: unknown recipe or key (the nearest is named), or a value out of range.
    """
    from segproto.report.settings import resolve
    from segproto.training.runner import run

    if resume is not None:
        if recipe is not None or out is not None or start is not None or devices is not None or sections:
            raise ConfigError("resume takes the run folder only; its recipe.yaml holds everything else")
        folder = Path(resume)
        method, config = resolve(folder / "recipe.yaml", {}, overrides)
    else:
        if recipe is None or out is None:
            raise ConfigError("expected a recipe and out=DIR, as in train('scaleproto/scenes', out='runs/scenes')")
        folder = Path(out)
        chosen = {"start": None if start is None else str(start), "devices": devices}
        given = {key: value for key, value in chosen.items() if value is not None}
        sections = {**sections, "train": {**sections.get("train", {}), **given}}
        method, config = resolve(recipe, sections, overrides)
    result = run(method, config, folder, resume=resume is not None, quiet=quiet)
    if resume is not None:
        record_of_resumed(folder, config, result.seconds, quiet)
    return result if config.then is None else train_on_masks(config.then, folder, quiet)


def train_on_masks(recipe: str, first: Path, quiet: bool) -> RunResult:
    """The recipe ``then`` names, on the masks the run ``first`` left, in its folder ``then``."""
    if not (first / "masks").is_dir():
        raise ConfigError(f"then: {recipe}: the run left no {first / 'masks'} to train on; its method makes no masks")
    if (first / "then" / "recipe.yaml").is_file():  # only a resumed run gets here with one
        return train(resume=first / "then", quiet=quiet)
    return train(recipe, out=first / "then", quiet=quiet, data={"name": "folder", "root": str(first / "masks")})


def train_seeds(
    recipe: PathLike, *, out: PathLike, seeds: Sequence[int] | None = None, **options: Any
) -> list[RunResult]:
    """:func:`train` once a seed, in ``out/seed1`` ...; without seeds once, in ``out``.

    Args: as in :func:`train`; ``seeds`` are values of ``train.seed``, ``out`` is the folder of all runs.
    """
    if not seeds:
        return [train(recipe, out=out, **options)]
    settings = list(options.pop("overrides", ()))
    return [
        train(recipe, out=Path(out) / f"seed{seed}", overrides=[*settings, f"train.seed={seed}"], **options)
        for seed in seeds
    ]


def score_masks(
    masks: PathLike,
    *,
    gt: PathLike,
    names: PathLike | None = None,
    classes: PathLike | None = None,
    void: int = 255,
    coarse: bool = False,
    out: PathLike | None = None,
    quiet: bool = False,
) -> dict[str, Any]:
    """Scores a folder of masks, ours or not, against ground truth of the same file names.

    Args:
        masks: PNGs of class indices; 255 = no decision, counts as wrong.
        gt: ground truth; its values are those of ``classes``, or class indices.
        names: a text file with the names to score, one a line.
        classes: a ``classes.yaml``; default: the one in ``gt``, if any.
        void: value in ``gt`` that does not count, where there is no ``classes.yaml``.
        coarse: allow Cityscapes' coarse labels as ``gt``.
        out: JSON file to write.
        quiet: no progress.
    """
    from segproto.evaluation.masks import score_masks as score
    from segproto.report.runs import keep
    from segproto.training.progress import Reporter

    labels, list_file = truth_labels(gt, classes), None if names is None else Path(names)
    options: dict[str, Any] = {"classes": labels, "list_file": list_file, "void": void, "coarse": coarse}
    with Reporter(active=not quiet).bar("score", 1) as bar:
        figures = score(Path(masks), Path(gt), progress=bar, **options)
    return keep(figures | {"command": sys.argv}, out)


def predict(
    target: PathLike | Segmenter,
    images: PathLike,
    *,
    out: PathLike,
    stage: str | None = None,
    window: int | None = None,
    scales: Sequence[float] = (1.0,),
    flip: bool = False,
    max_pixels: int | None = None,
    ood: PathLike | None = None,
    device: str | None = None,
    quiet: bool = False,
) -> list[Path]:
    """Writes a mask (PNG, mode L, class indices) for an image, or for each image of a folder.

    ``ood`` is a folder for out-of-distribution scores (:func:`segproto.model.ood.predict_scored_to_png`), of the same
    names; ``device`` is as in :func:`evaluate`; a loaded model stays where it is unless one is named; ``quiet``
    shows no progress.

    Returns:
        The files written, in order of the names.
    """
    from segproto.data.images import MAX_PIXELS
    from segproto.model.ood import predict_scored_to_png
    from segproto.model.predict import predict_to_png
    from segproto.report.models import ready
    from segproto.report.runs import images_and_masks
    from segproto.training.progress import Reporter

    model = ready(target, stage, device)
    pairs = images_and_masks(Path(images), Path(out))
    options: dict[str, Any] = {"window": window, "scales": scales, "flip": flip, "max_pixels": max_pixels or MAX_PIXELS}
    with Reporter(active=not quiet).bar("predict", len(pairs)) as bar:
        for done, (file, mask) in enumerate(pairs, 1):
            if ood is None:
                predict_to_png(model, file, mask, **options)
            else:
                predict_scored_to_png(model, file, mask, Path(ood) / mask.relative_to(out), **options)
            bar(done, len(pairs))
    return [mask for _, mask in pairs]


def explain(
    target: PathLike | Segmenter,
    image: ImageLike,
    *,
    out: PathLike | None = None,
    stage: str | None = None,
    region: tuple[int, int, int, int] | None = None,
    max_pixels: int | None = None,
    device: str | None = None,
) -> Explanation:
    """The evidence for each pixel; with ``out`` also maps, JSON and a page ``index.html`` to look around in.

    Args:
        target: a run or model folder, or a loaded model.
        image: a file, PIL image, array or tensor.
        out: folder to write.
        stage: of a run: the model this stage left.
        region: (y0, x0, y1, x1) in pixels, for large images.
        max_pixels: larger images are refused; None = 2^28.
        device: as in :func:`evaluate`; a loaded model stays where it is unless one is named.
    """
    from segproto.data.images import MAX_PIXELS
    from segproto.model.explain import explain as explain_image
    from segproto.report.models import ready
    from segproto.report.page import explanation_page

    model = ready(target, stage, device)
    result = explain_image(model, image, region=region, max_pixels=max_pixels or MAX_PIXELS)
    if out is not None:
        result.save(Path(out))
        explanation_page(result, Path(out) / "index.html")
    return result


def write_report(
    run: PathLike,
    *,
    compare: PathLike | None = None,
    out: PathLike | None = None,
    images: int = 3,
    overrides: Sequence[str] = (),
    device: str | None = None,
    quiet: bool = False,
) -> Path:
    """One self-contained HTML page about a run.

    Args:
        run: the run folder.
        compare: a run to stand beside; default: the one its recipe names.
        out: the file; default ``RUN/report.html``.
        images: how many validation images to explain.
        overrides: ``data.key=value`` settings, as where the images have moved to.
        device: as in :func:`evaluate`.
        quiet: no progress.
    """
    from segproto.report.models import placed
    from segproto.report.page import report_page
    from segproto.training.progress import Reporter, reporting

    path = Path(out) if out is not None else Path(run) / "report.html"
    other, place = None if compare is None else Path(compare), lambda model: placed(model, device)
    with reporting(Reporter(active=not quiet)):
        report_page(Path(run), path, compare=other, images=images, overrides=overrides, place=place)
    return path


def compare(runs: Sequence[PathLike], *, out: PathLike | None = None) -> dict[str, Any]:
    """Mean and spread (sample standard deviation) over the runs of each recipe, side by side.

    ``runs`` are run folders, or folders that hold runs (``--seeds``); ``out`` is a JSON file to write.
    """
    from segproto.report.compare import compare_runs
    from segproto.report.runs import write_json

    result = compare_runs([Path(run) for run in runs])
    if out is not None:
        write_json(Path(out), result)
    return result


def quickstart(*, out: PathLike = "runs/quickstart", quiet: bool = False) -> dict[str, Any]:
    """Trains a black box and a prototype model on generated scenes, compares, explains and reports them.

    Returns:
        ``runs`` (figures a method), ``report``, ``seconds``.
    """
    from segproto.report.runs import Run
    from segproto.training.progress import Reporter

    begin, out, say = time.perf_counter(), Path(out), Reporter(active=not quiet).line
    steps = {"blackbox": "1/2 black box, the upper bound", "scaleproto": "2/2 prototypes, projected and grouped"}
    folders = {method: out / method for method in steps}
    for method, text in steps.items():
        say(text)
        beside = [] if method == "blackbox" else [f"compare={folders['blackbox'].absolute()}"]
        train(f"{method}/scenes", out=folders[method], quiet=quiet, overrides=beside)
        evaluate(folders[method], quiet=quiet)
    say("explaining three images, writing the report")
    report = write_report(folders["scaleproto"], out=out / "report.html", quiet=quiet)
    compare(list(folders.values()), out=out / "compare.json")
    figures = {method: Run(folder).figures() for method, folder in folders.items()}
    return {"runs": figures, "report": str(report), "seconds": round(time.perf_counter() - begin, 1)}


def data_verify(
    *, overrides: Sequence[str] = (), data: Mapping[str, Any] | None = None, quiet: bool = False
) -> dict[str, Any]:
    """Checks every pair of a data set, given by ``data.key=value`` (or ``key=value``) settings or a mapping; ``quiet``
    shows no progress.

    Returns:
        ``problems`` (a line each), ``counts`` (images a split), ``shares`` (of labelled pixels, a class, all splits).
    """
    from segproto.data.verify import verify
    from segproto.report.settings import data_config
    from segproto.training.progress import Reporter

    config = data_config(None, data or {}, overrides)
    with Reporter(active=not quiet).bar("verify", 1) as bar:
        return verify(config, bar.part).to_json()
