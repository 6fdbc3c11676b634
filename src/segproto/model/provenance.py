"""Where each prototype came from: image, cell and box, with the hash of the encoder that made it."""

from __future__ import annotations

from dataclasses import asdict, dataclass, field, replace
from typing import Any


@dataclass(frozen=True)
class PrototypeSource:
    """The training patch a prototype equals.

    Attributes:
        image: name of the training image in its data set.
        cell: (row, column) on the feature grid.
        grid: (rows, columns) of that grid.
        box: (y0, x0, y1, x1) of the cell in image pixels.
        distance: squared distance before the projection replaced the vector.
        patch: file name of the patch's picture, relative to the artefact; None if not drawn.
        size: (height, width) of the image, where ``patch`` is a picture of all of it, from which the patch is cut.
        also: further patches of other training images, each without any of its own, where a prototype has several.
    """

    image: str
    cell: tuple[int, int]
    grid: tuple[int, int]
    box: tuple[int, int, int, int]
    distance: float
    patch: str | None = None
    size: tuple[int, int] | None = None
    also: tuple[PrototypeSource, ...] = ()

    @property
    def all_patches(self) -> tuple[PrototypeSource, ...]:
        """The patch and the further ones."""
        return self, *self.also

    def to_json(self) -> dict[str, Any]:
        """Plain data; ``also`` only where there is something."""
        value = asdict(replace(self, also=()))
        also = [patch.to_json() for patch in self.also]
        return {**value, "also": also} if also else {key: item for key, item in value.items() if key != "also"}

    @classmethod
    def from_json(cls, value: dict[str, Any]) -> PrototypeSource:
        tuples = {k: tuple(value[k]) for k in ("cell", "grid", "box", "size") if value.get(k) is not None}
        also = tuple(cls.from_json(item) for item in value.get("also", ()))
        return cls(**{**value, **tuples, "also": also})


@dataclass(frozen=True)
class Provenance:
    """One source a prototype (None where unknown) and the state of the encoder they were read with.

    Attributes:
        encoder_hash: ``segproto.model.fingerprint.encoder_hash`` at projection time.
        dataset: what the images belong to, for people.
        sources: index = prototype.
        edits: what was changed by hand afterwards, newest last.
    """

    encoder_hash: str
    dataset: str
    sources: tuple[PrototypeSource | None, ...]
    edits: tuple[str, ...] = field(default=())

    def select(self, keep: list[int]) -> Provenance:
        """The provenance of the kept prototypes, in order."""
        sources = tuple(self.sources[i] for i in keep)
        return Provenance(self.encoder_hash, self.dataset, sources, self.edits)

    def to_json(self) -> dict[str, Any]:
        sources = [None if source is None else source.to_json() for source in self.sources]
        return {**asdict(replace(self, sources=())), "sources": sources}

    @classmethod
    def from_json(cls, value: dict[str, Any]) -> Provenance:
        sources = tuple(None if item is None else PrototypeSource.from_json(item) for item in value["sources"])
        return cls(value["encoder_hash"], value["dataset"], sources, tuple(value.get("edits", ())))
