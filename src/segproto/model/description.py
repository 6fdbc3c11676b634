"""What ``model.json`` and ``prototypes.json`` may hold: checked before anything is made of it."""

from __future__ import annotations

from typing import Annotated, Any

from pydantic import BaseModel, ConfigDict, Field

Byte = Annotated[int, Field(ge=0, le=255)]
Place = Annotated[int, Field(ge=-(2**31), le=2**31)]


class Preprocessing(BaseModel):
    """Mean and standard deviation of each channel, of values in 0..1."""

    mean: tuple[float, float, float]
    std: tuple[float, float, float]


class Classes(BaseModel):
    """Names and colours, one each per class."""

    names: list[str]
    colours: list[tuple[Byte, Byte, Byte]]


class Patch(BaseModel):
    """A patch to forget; the fields of :class:`segproto.model.forgotten.ForgottenPatch`."""

    model_config = ConfigDict(extra="forbid")

    prototype: Place
    class_id: Annotated[int, Field(alias="class", ge=0)]
    image: str
    features: tuple[float, ...]
    radii: tuple[float, ...]


class Description(BaseModel):
    """``model.json``; encoder and head are checked by what they describe."""

    model_config = ConfigDict(extra="allow")

    encoder: dict[str, Any]
    preprocessing: Preprocessing
    head: dict[str, Any]
    classes: Classes
    card: dict[str, Any] = {}
    forgotten: list[Patch] = []
    resting: list[Source | None] | None = None  # of older models alone


class Source(BaseModel):
    """Where one prototype came from; the fields of :class:`segproto.model.provenance.PrototypeSource`."""

    model_config = ConfigDict(extra="forbid")  # what is not named here would be lost

    image: str
    cell: tuple[Place, Place]
    grid: tuple[Place, Place]
    box: tuple[Place, Place, Place, Place]
    distance: float
    patch: str | None = None
    size: tuple[Place, Place] | None = None


class Sources(BaseModel):
    """``prototypes.json``."""

    encoder_hash: str
    dataset: str
    sources: list[Source | None]
    edits: list[str] = []
