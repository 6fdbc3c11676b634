"""What a procedure needs of the model it finds."""

from __future__ import annotations

from typing import TypeVar

from segproto.errors import ConfigError
from segproto.model.heads import Head
from segproto.model.segmenter import Segmenter

HeadT = TypeVar("HeadT", bound=Head)


def require_head(model: Segmenter, stage: str, kind: type[HeadT]) -> HeadT:
    """The model's head, which must be of a kind.

    Raises:
        ConfigError: naming the stage and the head it found.
    """
    if not isinstance(model.head, kind):
        raise ConfigError(
            f"stages.{stage}: needs a {kind.kind} head, the model has a {model.head.kind} head; "
            "run the stages before it, too (train.stages), or set train.start to another model"
        )
    return model.head
