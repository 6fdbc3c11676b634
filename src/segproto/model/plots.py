"""An explanation as a figure of matplotlib."""

from __future__ import annotations

from typing import TYPE_CHECKING

from segproto.data.overlay import colour_labels
from segproto.model.overlays import rank_colours

if TYPE_CHECKING:
    from matplotlib.figure import Figure

    from segproto.model.explanation import Explanation


def plot_explanation(why: Explanation) -> Figure:
    """Image, prediction with its classes, confidence, and which prototype decides each pixel."""
    from matplotlib.figure import Figure
    from matplotlib.patches import Patch

    winner, classes = why.winning_prototype(), why.segmenter.classes
    height, width = why.size
    figure = Figure(figsize=(12, 1 + 3 * height / width), layout="constrained")
    places = figure.subplots(1, 4)
    decides = colour_labels(why.image, winner, rank_colours(winner))
    for axes, title, picture in (
        (places[0], why.name, why.image),
        (places[1], "prediction", why.overlay()),
        (places[3], f"which {why.unit} decides", decides),
    ):
        axes.imshow(picture.permute(1, 2, 0).numpy())
        axes.set_title(title)
    shown = places[2].imshow(why.confidence.numpy(), cmap="inferno", vmin=0, vmax=1)
    places[2].set_title("confidence")
    figure.colorbar(shown, ax=places[2], shrink=0.6)
    for axes in places:
        axes.set_axis_off()
    known = why.prediction if why.inside is None else why.prediction[why.inside]
    present = known.long().unique().tolist()  # type: ignore[no-untyped-call]
    handles = [
        Patch(color="#{:02x}{:02x}{:02x}".format(*classes.colours[c]), label=classes.names[c]) for c in present[:12]
    ]
    figure.legend(handles=handles, loc="outside lower center", ncols=6)
    return figure
