"""What to label next: the images of a folder that would teach most."""

from __future__ import annotations

import sys
import time
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from segproto.errors import ConfigError
from segproto.files import fresh_folder, place, require_folder, write, write_json

if TYPE_CHECKING:
    from segproto.data.base import SegmentationDataset
    from segproto.data.unlabelled import ImageFolder
    from segproto.encoders.base import Encoder
    from segproto.model.segmenter import Segmenter
    from segproto.training.progress import Reporter

PathLike = str | Path
COLUMNS = ("image", "gain", "unlike", "uncertainty")
HOLDS = ("index.html", "next.csv", "next.json")


def next_to_label(
    target: PathLike,
    images: PathLike,
    *,
    out: PathLike,
    count: int = 20,
    stage: str | None = None,
    overrides: Sequence[str] = (),
    device: str | None = None,
    quiet: bool = False,
) -> dict[str, Any]:
    """Images without labels, those that would teach a model most first: uncertain, unlike what is labelled, diverse.

    Args:
        target: a run, whose training images are what is known; or a model folder, which knows nothing but is uncertain;
            or before any run a recipe (a name or a file), whose encoder alone looks.
        images: a folder of images; its masks, if it has some, are not looked at.
        out: folder for ``index.html``, ``next.csv`` and ``next.json``.
        count: images to choose.
        stage: of a run: the model this stage left.
        overrides: of a run ``data.key=value`` settings; of a recipe any of its own, such as ``encoder.weights=FILE``.
        device: as in :func:`segproto.evaluate`.
        quiet: no progress.

    Returns:
        ``next`` (``image``, ``gain``, ``unlike``, ``uncertainty``; see
        :class:`segproto.evaluation.review.teaching.Choice`), ``images`` (in the folder), ``known`` (labelled images
        that were looked at), ``by`` (``model`` or ``encoder``), ``unreadable`` (name and reason), ``seconds``,
        ``command``, ``page``.

    Raises:
        DataError: no image can be read.
        ConfigError: a recipe without weights, or a file is in the way.
    """
    from segproto.data.subset import spread
    from segproto.evaluation.review.teaching import KNOWN_IMAGES, look, rank_next
    from segproto.report.next_page import next_page
    from segproto.report.review_page import is_list, list_text
    from segproto.runs.models import chosen_device, ready
    from segproto.training.progress import Reporter, reporting

    begin, out = time.perf_counter(), place(out)
    if count < 1:
        raise ConfigError(f"count = {count}: expected at least 1")
    ours = partial(is_list, holds=HOLDS, columns=COLUMNS)
    require_folder(out, HOLDS, ours)
    trained = Path(target).is_dir()
    model: Segmenter | None = ready(target, stage, device) if trained else None
    encoder = encoder_of(target, overrides).to(chosen_device(device)) if model is None else model.encoder
    with reporting(Reporter(active=not quiet)) as reporter:
        dataset, indices = images_of(Path(images), out, encoder, reporter)
        with reporter.bar("look at images", len(indices)) as bar:
            looked = look(model or encoder, dataset, indices, bar)
        labelled = labelled_images(Path(target), overrides) if trained else None
        known = None
        if labelled is not None:
            chosen = spread(len(labelled), KNOWN_IMAGES)
            with reporter.bar("look at labelled images", len(chosen)) as bar:
                known = look(encoder, labelled, chosen, bar).parts
        flat = None if known is None else known.flatten(0, 1)
        found = rank_next(looked.parts, count, uncertainty=looked.uncertainty, known=flat)
    names = [dataset.names[index] for index in looked.indices]
    result: dict[str, Any] = {
        "next": [one.to_json(names) for one in found],
        "images": len(looked.indices),
        "known": 0 if known is None else len(known),
        "by": "model" if trained else "encoder",
        "unreadable": looked.broken,
        "seconds": round(time.perf_counter() - begin, 3),
        "command": sys.argv,
    }
    with fresh_folder(out, HOLDS, ours) as made:
        next_page(dataset, [(looked.indices[one.index], one) for one in found], result, made / "index.html")
        write(made / "next.csv", list_text(result["next"], COLUMNS), None)
        write_json(made / "next.json", result, "review")
    return result | {"page": str(out / "index.html")}


def images_of(folder: Path, out: Path, encoder: Encoder, reporter: Reporter) -> tuple[ImageFolder, list[int]]:
    """The images of a folder, and the indices of those that are no masks and none of ours.

    Raises:
        DataError: there are none.
    """
    from segproto.data.unlabelled import ImageFolder
    from segproto.runs.folder import images_and_masks

    files = {file for file, _ in images_and_masks(folder, out, reporter.line)}
    dataset = ImageFolder(folder, rule=encoder.pixels)
    return dataset, [index for index in range(len(dataset)) if dataset.path(index) in files]


def labelled_images(target: Path, overrides: Sequence[str]) -> SegmentationDataset | None:
    """The images that a run was trained on; None of a model without its run."""
    from segproto.data.build import build_dataset
    from segproto.runs.settings import data_config, edited_run_of

    if edited_run_of(target) is None and not overrides:
        return None
    return build_dataset(data_config(target, {}, overrides), "train")


def encoder_of(recipe: PathLike, overrides: Sequence[str]) -> Encoder:
    """The encoder that a recipe begins with.

    Raises:
        ConfigError: no such run or recipe, or one whose encoder knows nothing yet.
    """
    from segproto.encoders.build import build_encoder
    from segproto.runs.settings import resolve

    config = resolve(str(recipe), {}, overrides)[1].encoder
    if config.weights is None and not config.pretrained:
        raise ConfigError(
            f"encoder.weights: what an untrained {config.backbone or config.name} finds alike means nothing; give a "
            "file (encoder.weights=FILE), or encoder.pretrained=true to download them"
        )
    return build_encoder(config).eval()
