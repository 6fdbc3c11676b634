"""What a procedure needs of the model it finds."""

from __future__ import annotations

from typing import TypeVar

from segproto.errors import ConfigError
from segproto.model.heads import Head
from segproto.model.segmenter import Segmenter
from segproto.prototypes.bank import PrototypeBank
from segproto.prototypes.grouping import Grouping

HeadT = TypeVar("HeadT", bound=Head)


def require_head(model: Segmenter, stage: str, kind: type[HeadT]) -> HeadT:
    """The model's head, which must be of a kind.

    Raises:
        ConfigError: naming the stage and the head it found.
    """
    if not isinstance(model.head, kind):
        raise other_head(model, stage, kind.kind)
    return model.head


def require_prototypes(model: Segmenter, stage: str) -> PrototypeBank:
    """The model's prototypes, which a stage may move to training features or leave out; they are in no groups yet.

    Raises:
        ConfigError: naming the stage and the head it found.
    """
    bank = model.head.bank
    if not isinstance(bank, PrototypeBank) or model.head.grouping is not None:
        raise other_head(model, stage, "prototype")
    return bank


def require_groups(model: Segmenter, stage: str) -> Grouping:
    """The model's groups of prototypes.

    Raises:
        ConfigError: naming the stage and the head it found.
    """
    if model.head.grouping is None:
        raise other_head(model, stage, "grouped")
    return model.head.grouping


def other_head(model: Segmenter, stage: str, expected: str) -> ConfigError:
    """The error of a stage that finds another head than it needs."""
    return ConfigError(
        f"stages.{stage}: needs a {expected} head, the model has a {model.head.kind} head; "
        "run the stages before it, too (train.stages), or set train.start to another model"
    )
