"""A look at the training masks before the first step: classes that none shows, and void that is meant as one."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from segproto.data.base import SegmentationDataset
from segproto.data.subset import spread
from segproto.data.verify import unused_classes
from segproto.errors import DataError
from segproto.model.windows import evaluating
from segproto.prototypes.labels import IGNORE_INDEX
from segproto.training.progress import Reporter
from segproto.training.recipe import Recipe
from segproto.training.stage import Procedure, Stage, StageContext

LOOKED_AT = 1000  # images at most; of larger sets that many, spread evenly


def look_at_classes(
    dataset: SegmentationDataset, unused: tuple[int, ...] = (), progress: Callable[[int, int], None] | None = None
) -> str | None:
    """Reads masks until every class was seen, and says which were not.

    Args:
        dataset: the training images.
        unused: classes that no label is known to show; they are not looked for.
        progress: called with (images looked at, images).

    Returns:
        A line about classes that no image shows; None where there are none, or where not all images were looked at.

    Raises:
        DataError: all is void; or the masks hold one class beside 255, which is void by convention alone.
    """
    names, chosen = dataset.classes.names, spread(len(dataset), LOOKED_AT)
    unused = (*{*unused, *dataset.classes.hole},)
    missing, has_void = set(range(len(names))) - set(unused), False
    one = len(names) == 1
    for done, index in enumerate(chosen, 1):
        values = set(np.unique(dataset[index].mask.numpy()).tolist())
        has_void |= IGNORE_INDEX in values
        missing -= values
        if progress is not None:
            progress(done, len(chosen))
        if not missing and not (one and not has_void):
            break
    seen = len(names) - len(unused) - len(missing)
    if len(chosen) < len(dataset) and missing:
        return None
    if seen == 0:
        raise DataError(
            f"no labelled pixel in the {len(dataset)} training images: all is void; check the class values and void in "
            "classes.yaml"
        )
    if seen == 1 and has_void and dataset.assumes_void:
        shown = next(name for c, name in enumerate(names) if c not in missing and c not in unused)
        wanted = next((names[c] for c in sorted(missing)), "object")
        raise DataError(
            f"the training masks hold one class, {shown}, beside 255, which is void by convention: nothing can be "
            f"learnt from one class. If 255 is {wanted}, write in classes.yaml `- name: {wanted}` with `values: 255`; "
            "if it is void, say so: `void: [255]`"
        )
    if not missing:
        return None
    listed = ", ".join(names[c] for c in sorted(missing)[:5]) + (", ..." if len(missing) > 5 else "")
    return f"{len(missing)} of {len(names)} classes in none of the {len(dataset)} training images: {listed}"


def first_look(recipe: Recipe, train_set: SegmentationDataset, reporter: Reporter) -> None:
    """Says which classes no training image shows, and refuses masks that nothing can be learnt from."""
    with reporter.bar("look for the classes", len(train_set)) as bar:
        line = look_at_classes(train_set, unused_classes(recipe.data), bar)
    if line is not None:
        reporter.line(line)


def check_procedures(stages: list[Stage], context: StageContext) -> None:
    """Lets the procedures look for what would stop them, before anything is trained."""
    with evaluating(context.segmenter):
        for stage in stages:
            if isinstance(stage, Procedure) and stage.check is not None:
                stage.check(context)
