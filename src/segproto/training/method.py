"""What a published system says about itself to the others; ``docs/extend/method.md`` shows one of your own."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Generic, Literal

from segproto.data.base import ClassTable
from segproto.interop.conversion import Source
from segproto.model.segmenter import Segmenter
from segproto.training.recipe import RecipeT
from segproto.training.stage import Stage

Supervision = Literal["pixel masks", "image-level labels", "none"]


@dataclass(frozen=True)
class Method(Generic[RecipeT]):
    """A method: a model before its first step, and a list of stages.

    Attributes:
        name: its public name.
        title: one line for people.
        supervision: the labels it needs.
        recipe: its recipe's type, a subclass of :class:`~segproto.training.recipe.Recipe`.
        build: makes the untrained model.
        stages: all stages, in order.
        sources: its published checkpoints, for ``segproto convert``.
        starts_from_any_encoder: with ``train.start`` the encoder of that model takes the place of the recipe's.
    """

    name: str
    title: str
    supervision: Supervision
    recipe: type[RecipeT]
    build: Callable[[RecipeT, ClassTable], Segmenter]
    stages: Callable[[RecipeT], list[Stage]]
    sources: tuple[Source, ...] = ()
    starts_from_any_encoder: bool = False
