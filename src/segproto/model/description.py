"""What ``model.json`` and ``prototypes.json`` may hold: checked before anything is made of it."""

from __future__ import annotations

import math
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, model_validator

Byte = Annotated[int, Field(ge=0, le=255)]
SeenSide = Annotated[int, Field(ge=16, le=65_536)]
Shown = Annotated[int, Field(ge=0)]
Place = Annotated[int, Field(ge=-(2**31), le=2**31)]


class Preprocessing(BaseModel):
    """Mean and standard deviation of each band, of values in 0..1."""

    mean: tuple[float, ...]
    std: tuple[float, ...]


class Pixels(BaseModel):
    """How image files become pixels; the fields of :class:`segproto.data.pixels.PixelRule`."""

    model_config = ConfigDict(extra="forbid")

    bands: Annotated[tuple[Annotated[int, Field(ge=1, le=2**16)], ...], Field(min_length=1)] | None = None
    names: tuple[str, ...] = ()
    value_range: tuple[tuple[float, float], ...] = ()
    nodata: Literal["auto", "none"] | float = "auto"
    alpha: Literal["void", "ignore"] | None = None
    page: Annotated[int, Field(ge=1)] | Literal["all"] | None = None
    show: tuple[Shown, Shown, Shown] = (0, 1, 2)
    stored: str = ""

    @model_validator(mode="after")
    def _fitting(self) -> Pixels:
        count = 3 if self.bands is None else len(self.bands)
        ordered = all(math.isfinite(high - low) and low < high for low, high in self.value_range)
        if len(self.names) not in (0, count) or len(self.value_range) not in (0, 1, count) or not ordered:
            raise ValueError(f"names and value ranges do not fit {count} bands")
        if max(self.show) >= count:
            raise ValueError(f"shows band {max(self.show)} of {count}")
        return self


class Classes(BaseModel):
    """Names and colours, one each per class."""

    names: list[str]
    colours: list[tuple[Byte, Byte, Byte]]
    values: list[Annotated[int, Field(ge=0, lt=65_536)] | Annotated[str, Field(pattern="^#[0-9a-f]{6}$")]] | None = None

    @model_validator(mode="after")
    def _one_value_each(self) -> Classes:
        if self.values is not None and len(self.values) != len(self.names):
            raise ValueError(f"has {len(self.values)} values for {len(self.names)} classes")
        return self


class Seen(BaseModel):
    """How images were seen; the fields of :class:`segproto.encoders.view.View`."""

    model_config = ConfigDict(extra="forbid")

    window: Annotated[int, Field(ge=1, le=65_536)] | None = None
    always: bool = False
    whole: Annotated[int, Field(ge=0, le=2**40)] = 0


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
    pixels: Pixels = Pixels()
    view: Seen = Seen()
    head: dict[str, Any]
    classes: Classes
    card: dict[str, Any] = {}
    forgotten: list[Patch] = []
    input_size: SeenSide | tuple[SeenSide, SeenSide] | None = None
    resting: list[Source | None] | None = None  # of older models alone


class OnePatch(BaseModel):
    """One training patch; the fields of :class:`segproto.model.provenance.PrototypeSource` but ``also``."""

    model_config = ConfigDict(extra="forbid")  # what is not named here would be lost

    image: str
    cell: tuple[Place, Place]
    grid: tuple[Place, Place]
    box: tuple[Place, Place, Place, Place]
    distance: float
    patch: str | None = None
    size: tuple[Place, Place] | None = None


class Source(OnePatch):
    """Where one prototype came from."""

    also: list[OnePatch] = []


class Sources(BaseModel):
    """``prototypes.json``."""

    encoder_hash: str
    dataset: str
    sources: list[Source | None]
    edits: list[str] = []
