"""That a model is scored on data with its own classes."""

from __future__ import annotations

from segproto.data.base import SegmentationDataset
from segproto.errors import DataError
from segproto.model.segmenter import Segmenter

SHOWN = 4


def require_same_classes(model: Segmenter, dataset: SegmentationDataset) -> None:
    """Refuses data whose classes are not the model's: figures would stand under wrong names.

    Categories found without labels have no names to compare, nor have classes that a checkpoint only numbers.

    Raises:
        DataError: another number of classes, other names or another order.
    """
    own, given = model.classes.names, dataset.classes.names
    if len(given) != model.head.num_classes:
        raise DataError(
            f"the data set has {len(given)} classes, the model {model.head.num_classes}; "
            "evaluate on data with the model's classes"
        )
    if own == given or model.found_categories or model.classes.numbered:
        return
    moved = [name for index, name in enumerate(given) if name in own and own.index(name) != index]
    if moved:
        name = moved[0]
        raise DataError(
            f"the data's classes are not in the model's order: {name!r} is class {given.index(name)} of the data and "
            f"class {own.index(name)} of the model; list them in classes.yaml as the model does ({', '.join(own)})"
        )
    other = [(a, b) for a, b in zip(given, own, strict=True) if a != b]
    pairs = ", ".join(f"{a}: {b}" for a, b in other[:SHOWN]) + (", ..." if len(other) > SHOWN else "")
    raise DataError(
        f"the data call class {given.index(other[0][0])} {other[0][0]!r}, the model {other[0][1]!r} ({len(other)} of "
        f"{len(own)} classes differ); if they mean the same, say so: 'data.rename={{{pairs}}}'"
    )
