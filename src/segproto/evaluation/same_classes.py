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
    own, names = model.classes.names, dataset.classes.names
    if len(names) != model.head.num_classes:
        raise DataError(
            f"the data set has {len(names)} classes, the model {model.head.num_classes}; "
            "evaluate on data with the model's classes"
        )
    if own == names or model.found_categories or model.classes.numbered:
        return
    moved = [name for index, name in enumerate(names) if name in own and own.index(name) != index]
    if moved:
        name = moved[0]
        raise DataError(
            f"the data's classes are not in the model's order: {name!r} is class {names.index(name)} of the data and "
            f"class {own.index(name)} of the model; list them in classes.yaml as the model does ({', '.join(own)})"
        )
    different = [(a, b) for a, b in zip(names, own, strict=True) if a != b]
    pairs = ", ".join(f"{a}: {b}" for a, b in different[:SHOWN]) + (", ..." if len(different) > SHOWN else "")
    first, in_model = different[0]
    raise DataError(
        f"the data call class {names.index(first)} {first!r}, the model {in_model!r} ({len(different)} of "
        f"{len(own)} classes differ); if they mean the same, say so: 'data.rename={{{pairs}}}'"
    )
