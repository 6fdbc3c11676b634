"""Training patches a model was made to forget, as its file keeps them."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

from segproto.model.fingerprint import encoder_hash
from segproto.model.provenance import Provenance

if TYPE_CHECKING:
    from segproto.model.segmenter import Segmenter


@dataclass(frozen=True)
class ForgottenPatch:
    """A patch that no prototype of its class may stand for.

    Attributes:
        prototype: the number of its prototype when a person marked it.
        class_id: the class it was marked for.
        image: name of the training image it lies in.
        features: of the patch's cell, S scales of D channels side by side.
        radii: per scale the squared distance within which a feature counts as the patch.
    """

    prototype: int
    class_id: int
    image: str
    features: tuple[float, ...]
    radii: tuple[float, ...]

    def to_json(self) -> dict[str, Any]:
        value = asdict(self)
        return {"class" if key == "class_id" else key: entry for key, entry in value.items()}

    @classmethod
    def from_json(cls, value: dict[str, Any]) -> ForgottenPatch:
        vectors = {key: tuple(value[key]) for key in ("features", "radii")}
        return cls(prototype=value["prototype"], class_id=value["class"], image=value["image"], **vectors)


def read_forgotten(model: Segmenter, value: dict[str, Any]) -> None:
    """Gives a loaded model what its ``model.json`` says it forgot.

    Older models have it in their card, and beside it, between two stages of forgetting, the sources of the prototypes
    that rest.
    """
    items = model.card.pop("forgotten", None) or value.get("forgotten", [])
    model.forgotten = tuple(ForgottenPatch.from_json(item) for item in items)
    resting = model.card.pop("resting", None)
    if resting is not None:
        known = {"encoder_hash": encoder_hash(model.encoder), "dataset": "", "sources": resting}
        model.provenance = Provenance.from_json(known)
