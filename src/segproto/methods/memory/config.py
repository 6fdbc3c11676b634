"""Settings of ``memory``."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field

from segproto.training.recipe import Recipe


class MemoryModel(BaseModel):
    """How patches are looked up.

    Attributes:
        neighbours: k, the nearest patches that vote.
        temperature: T of the softmax over their cosines. Chosen on held-out training images of CamVid (stretches of its
            video) and MSRC-21, where 0.03 to 0.1 and 10 to 60 neighbours are within 1.2 points.
        balance: by how much the rare classes of a patch are weighed up against its common ones (poles against the
            houses behind); 0 = labels as they are, as published. ``auto``: 0 or 0.5, with which the memory answers
            better for each of its images when that one is left out.
        search: exact, or ``faiss`` (an extra) for millions of patches: approximate, its recall is printed.
    """

    model_config = ConfigDict(extra="forbid")

    neighbours: int = Field(30, ge=1)
    temperature: float = Field(0.05, gt=0)
    balance: Annotated[float, Field(ge=0, le=1)] | Literal["auto"] = "auto"
    search: Literal["exact", "faiss"] = "exact"


class RememberConfig(BaseModel):
    """What is remembered.

    Attributes:
        patches: training cells, over all images; rare classes keep theirs.
        draw: which cells of an image: ``balanced``, odds by how rare their classes are overall; ``rarity``, by how
            rare they are in the image itself, as published.
        keep: of these, how many stay (a coreset); None = all.
        coreset: which: ``errors``, half of them medoids of k-means per class, half where these answer wrongly for other
            training images; ``spread``, all of them medoids.
        labelled: a cell with a smaller share of labelled pixels is not remembered.
        normalise_layers: each joined layer of the backbone gets mean 0 and variance 1 in every cell, so that none
            drowns the others; features behind a neck are compared as they are.
        centre: the mean feature of the labelled training cells is subtracted before comparing; null = of layers that
            are normalised, not behind a neck (there it cost 0.4 to 0.9 points on held-out training images).
        remove_position: directions taken out that tell where a cell lies whatever is there; 0 = none.
    """

    model_config = ConfigDict(extra="forbid")

    patches: int = Field(20_000, ge=1)
    draw: Literal["balanced", "rarity"] = "balanced"
    keep: int | None = Field(default=None, ge=1)
    coreset: Literal["errors", "spread"] = "errors"
    labelled: float = Field(0.5, gt=0, le=1)
    normalise_layers: bool = True
    centre: bool | None = None
    remove_position: int = Field(0, ge=0)


class MemoryStages(BaseModel):
    """The one stage."""

    model_config = ConfigDict(extra="forbid")

    remember: RememberConfig = RememberConfig()


class MemoryRecipe(Recipe):
    """A memory of labelled patches; with ``train.start`` of the features of that model, behind its neck."""

    method: Literal["memory"] = "memory"
    model: MemoryModel = MemoryModel()
    stages: MemoryStages = MemoryStages()
