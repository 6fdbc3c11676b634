"""The papers' analyses as verbs: from a run and its data to arrays, pictures and JSON in a folder."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from segproto.errors import ConfigError
from segproto.files import place, require

if TYPE_CHECKING:
    from segproto.data.base import SegmentationDataset
    from segproto.model.segmenter import Segmenter

PathLike = str | Path


def analyse(
    what: str,
    target: PathLike,
    *,
    out: PathLike,
    stage: str | None = None,
    overrides: Sequence[str] = (),
    device: str | None = None,
    quiet: bool = False,
    **options: Any,
) -> dict[str, Any]:
    """One of the papers' analyses, as ``arrays.safetensors``, ``analysis.json`` and pictures in a folder.

    Args:
        what: ``patches`` (nearest patches of each prototype; options ``split``, ``k``), ``pixels`` (nearest prototypes
            of pixels; ``image``, ``points``, ``count``, ``seed``, ``k``), ``groups`` (composition graph; ``image``),
            ``samples`` (one activation map per group and scale; ``images``, ``seed``), ``assignments`` (beside another
            model; ``other``, ``image``) or ``failures`` (``below``, ``count``, ``images``, ``ignore``).
        target: a run or model folder.
        out: the folder to write.
        stage: of a run: the model this stage left.
        overrides: ``data.key=value`` settings.
        device: as in :func:`segproto.evaluate`.
        quiet: no progress.
        **options: of the analysis. Images are named by file, or by name in the validation split; default: its first.

    Returns:
        What ``analysis.json`` holds (of ``samples`` and ``failures``: a list of them under ``cases``).

    Raises:
        ConfigError: an unknown analysis, or a model that it does not apply to.
    """
    from segproto.runs.models import ready
    from segproto.training.progress import Reporter, reporting

    if what not in ANALYSES:
        raise ConfigError(f"analysis {what!r} is unknown; expected one of {', '.join(ANALYSES)}")
    out = place(out)
    if what not in ("samples", "failures"):  # which write a folder per image
        require(out / "analysis.json", "analysis")
    with reporting(Reporter(active=not quiet)):
        model = ready(target, stage, device)
        return ANALYSES[what](model, Source(Path(target), overrides, model), out, **options)


class Source:
    """The data of a run, opened when they are needed.

    Args:
        target: the run or model.
        overrides: ``data.key=value`` settings.
        model: whose classes they must have.
    """

    def __init__(self, target: Path, overrides: Sequence[str], model: Segmenter) -> None:
        self.target, self.overrides, self.model = target, overrides, model

    def split(self, name: str) -> SegmentationDataset:
        """A split's images and masks."""
        from segproto.data.build import build_dataset
        from segproto.evaluation.same_classes import require_same_classes
        from segproto.runs.settings import data_config

        dataset = build_dataset(data_config(self.target, {}, self.overrides), name)
        if not self.model.found_categories:
            require_same_classes(self.model, dataset)
        return dataset

    def picture(self, name: str | None) -> tuple[Any, str]:
        """What to explain and what to call it: an image file, or one of the validation images by name."""
        if name is not None and Path(name).is_file():
            return Path(name), Path(name).name
        dataset = self.split("val")
        chosen = dataset.names[0] if name is None else name
        if chosen not in dataset.names:
            raise ConfigError(f"image {name}: no such file, and no validation image of that name")
        return dataset[list(dataset.names).index(chosen)], chosen

    def spread(self, count: int, seed: int | None = None) -> tuple[SegmentationDataset, list[int]]:
        """The validation set and ``count`` of its images: drawn at random, or spread evenly without a seed."""
        import numpy as np

        from segproto.data.subset import spread

        dataset = self.split("val")
        if seed is None:
            return dataset, spread(len(dataset), count)
        drawn = np.random.RandomState(seed).choice(len(dataset), min(count, len(dataset)), replace=False)
        return dataset, drawn.tolist()


def patches(model: Segmenter, source: Source, out: Path, *, split: str = "train", k: int = 3) -> dict[str, Any]:
    """Nearest training or validation patches of each prototype."""
    from segproto.evaluation.analyses.nearest_patches import nearest_patches
    from segproto.training.progress import current

    dataset = source.split(split)
    with current().bar("nearest patches", len(dataset)) as bar:
        nearest = nearest_patches(model, dataset, k, bar)
    nearest.save(out)
    return nearest.to_json()


def pixels(
    model: Segmenter,
    source: Source,
    out: Path,
    *,
    image: str | None = None,
    points: Sequence[tuple[int, int]] | None = None,
    count: int = 3,
    seed: int = 0,
    k: int = 3,
) -> dict[str, Any]:
    """Nearest prototypes of chosen or random pixels."""
    from dataclasses import replace

    from segproto.evaluation.analyses.nearest_prototypes import nearest_prototypes

    picture, name = source.picture(image)
    nearest = replace(nearest_prototypes(model, picture, points, count=count, seed=seed, k=k), name=name)
    nearest.save(out)
    return nearest.to_json()


def groups(model: Segmenter, source: Source, out: Path, *, image: str | None = None) -> dict[str, Any]:
    """Group composition graph; with an image its activation maps are the nodes."""
    from segproto.evaluation.analyses.composition import group_graph
    from segproto.evaluation.analyses.units import require_groups

    require_groups(model)
    graph = group_graph(model, None if image is None else explained(model, source, image))
    graph.save(out)
    return graph.to_json()


def samples(model: Segmenter, source: Source, out: Path, *, images: int = 4, seed: int = 42) -> dict[str, Any]:
    """Sample activation maps per scale and per group of random validation images."""
    from segproto.evaluation.analyses.sample_maps import sample_maps, save_sample_maps
    from segproto.evaluation.analyses.units import require_bank
    from segproto.model.explain import explain

    require_bank(model)
    dataset, chosen = source.spread(images, seed)
    cases = []
    for index in with_progress("samples", chosen):
        sample = dataset[index]
        why = renamed(explain(model, sample), sample.name)
        cases.append(save_sample_maps(why, sample_maps(why, sample.mask), out / folder_name(sample.name)))
    return {"cases": cases}


def assignments(
    model: Segmenter, source: Source, out: Path, *, other: PathLike, image: str | None = None
) -> dict[str, Any]:
    """Assignment maps of two models side by side on one image."""
    from segproto.api.compare import short_names
    from segproto.evaluation.analyses.assignments import compare_assignments
    from segproto.runs.models import ready

    device = str(next(model.parameters()).device)
    second = ready(other, None, device)
    names = short_names([str(source.target), str(other)])
    pair = explained(model, source, image), explained(second, source, image)
    return compare_assignments(*pair, (names[str(source.target)], names[str(other)]), out)


def failures(
    model: Segmenter,
    source: Source,
    out: Path,
    *,
    below: float = 0.5,
    count: int = 8,
    images: int = 200,
    ignore: Sequence[str] = (),
) -> dict[str, Any]:
    """Failure cases of the validation images: groups and prototypes of true and predicted class side by side."""
    from segproto.evaluation.analyses.failures import find_failures, save_failure, worst
    from segproto.evaluation.analyses.units import require_bank
    from segproto.model.explain import explain

    require_bank(model)
    names = model.classes.names
    unknown = [name for name in ignore if name not in names]
    if unknown:
        raise ConfigError(f"ignore {unknown[0]}: no such class; there are {', '.join(names)}")
    skip = [names.index(name) for name in ignore]
    dataset, chosen = source.spread(images)
    missed = []
    for index in with_progress("look for failures", chosen):
        sample = dataset[index]
        answer = explain(model, sample).prediction
        missed += find_failures(answer, sample.mask, len(names), sample.name, below, skip)
    cases = []
    for number, failure in enumerate(worst(missed, count), 1):
        sample = dataset[list(dataset.names).index(failure.name)]
        pair = f"{names[failure.true_class]}-as-{names[failure.wrong_class]}"
        folder = out / f"{number:02d}-{folder_name(failure.name)}-{folder_name(pair)}"
        cases.append(save_failure(renamed(explain(model, sample), sample.name), failure, folder))
    return {"images": len(chosen), "below": below, "found": len(missed), "cases": cases}


def with_progress(title: str, indices: Sequence[int]) -> Iterator[int]:
    """The indices, with a progress bar."""
    from segproto.training.progress import current

    with current().bar(title, len(indices)) as bar:
        for done, index in enumerate(indices, 1):
            yield index
            bar(done, len(indices))


def explained(model: Segmenter, source: Source, image: str | None) -> Any:
    """The explanation of a named image."""
    from segproto.model.explain import explain

    picture, name = source.picture(image)
    return renamed(explain(model, picture), name)


def renamed(explanation: Any, name: str) -> Any:
    """The same explanation under the image's name in its data set."""
    from dataclasses import replace

    return replace(explanation, name=name)


def folder_name(name: str) -> str:
    """An image's or class's name as one folder's."""
    return "".join(c if c.isalnum() or c in "-_." else "-" for c in name)


ANALYSES: Mapping[str, Callable[..., dict[str, Any]]] = {
    "patches": patches,
    "pixels": pixels,
    "groups": groups,
    "samples": samples,
    "assignments": assignments,
    "failures": failures,
}
