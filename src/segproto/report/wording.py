"""What may be said of prototypes: whether they *are* training patches, or are only near some."""

from __future__ import annotations

from typing import Literal

from segproto.model.fingerprint import encoder_hash
from segproto.model.segmenter import Segmenter

Relation = Literal["equal", "near", "strongest", "unknown"]

# One sentence each, for the gallery.
SENTENCES: dict[Relation, str] = {
    "equal": "Each is a real patch of a training image: the outlined square, shown with its surroundings.",
    "near": "Each is a mean of many training features, and no patch equals it: the outlined square, shown with its "
    "surroundings, is the training patch nearest to it.",
    "strongest": "Each is a part of the features that the network reads, and may share patches with other parts: the "
    "outlined square, shown with its surroundings, is the training patch at which the part is strongest; smaller, "
    "those that follow, of other images.",
    "unknown": "They were learned freely and never projected onto training patches, so there is no patch to show.",
}
LEADS: dict[Relation, str] = {
    "equal": "small patches of its training images, its",
    "near": "typical features of its training images, its",
    "strongest": "parts of its features, each shown by the training patches at which it is strongest, its",
    "unknown": "learned vectors, its",
}


def relation(model: Segmenter) -> Relation:
    """How the model's prototypes relate to the patches shown for them."""
    sources_known = model.provenance is not None and any(source is not None for source in model.provenance.sources)
    return model.head.relation if model.head.bank is not None and sources_known else "unknown"


def warnings(model: Segmenter) -> list[str]:
    """What a reader must know before believing the page: edits by hand, patches that are out of date, maps, what
    pictures of other bands show."""
    sentences = []
    edits = list(model.card.get("edits", []))
    if edits:
        sentences.append("This model was changed by hand after training: " + "; ".join(edits) + ".")
    if model.head.caution is not None:
        sentences.append(model.head.caution)
    provenance = model.provenance if relation(model) != "unknown" else None
    if provenance is not None and provenance.encoder_hash != encoder_hash(model.encoder):
        sentences.append(
            "The encoder has changed since the patches were found: prototypes may no longer stand for the patches "
            "shown. Project them again."
        )
    if model.encoder.pixels.words:
        sentences.append(f"Pictures show {model.encoder.pixels.words}.")
    return sentences
