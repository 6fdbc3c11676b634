"""Training patches a model was made to forget, as its file keeps them."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from segproto.errors import WeightsError

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


def out_of_the_card(value: dict[str, Any]) -> dict[str, Any]:
    """A ``model.json`` with what a model forgot beside its card.

    Older models have it in the card, and there, between two stages of forgetting, the sources of the prototypes that
    rest.
    """
    card = value.get("card")
    if not isinstance(card, dict):
        return value
    moved = {key: card[key] for key in ("forgotten", "resting") if key in card}
    return {**value, **moved, "card": {key: entry for key, entry in card.items() if key not in moved}}


def require_fitting(model: Segmenter, file: Path) -> None:
    """Refuses patches that the model's classes and features do not fit.

    Raises:
        WeightsError: naming the file.
    """
    for patch in model.forgotten:
        if patch.class_id >= model.classes.num_classes or len(patch.features) != model.encoder.num_features:
            raise WeightsError(
                f"{file}: forgotten: a patch of class {patch.class_id} with {len(patch.features)} "
                f"features; the model has {model.classes.num_classes} classes and {model.encoder.num_features} features"
            )
