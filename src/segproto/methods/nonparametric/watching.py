"""Figures of the prototypes while they move, and a word when those of a class become one."""

from __future__ import annotations

from collections.abc import Iterable

from segproto.model.heads import NearestHead
from segproto.model.segmenter import Segmenter
from segproto.prototypes.health import COLLAPSED, cluster_health
from segproto.training.figures import Logged
from segproto.training.procedures.require import require_head
from segproto.training.progress import current


class Watch:
    """Figures for the journal; each class whose prototypes became one is named once."""

    def __init__(self) -> None:
        self._told: set[int] = set()

    def __call__(self, model: Segmenter) -> Logged:
        """Means over classes, and one number per class: mean pairwise cosine, entropy of usage, prototypes in use.

        Entropy and use are of the last 100 steps or so; ``started`` counts the classes that ever got a pixel.
        """
        bank = require_head(model, "joint", NearestHead).bank
        health = cluster_health(bank.vectors, bank.usage)
        collapsed = (health.collapsed & (bank.started >= 0)).nonzero()[:, 0].tolist()
        fresh = [model.classes.names[c] for c in collapsed if c not in self._told]
        self._told.update(collapsed)
        warn_of_collapse(fresh)
        return {
            "prototype_cosine": float(health.mean_cosine.mean()),
            "prototype_entropy": float(health.entropy.nanmean().nan_to_num(1)),
            "started": int((bank.started >= 0).sum()),
            "class_cosine": rounded(health.mean_cosine.tolist()),
            "class_entropy": rounded(health.entropy.nan_to_num(1).tolist()),
            "class_in_use": (health.usage * bank.per_class > 0.01).sum(1).tolist(),
        }


def warn_of_collapse(names: Iterable[str]) -> None:
    """Says which classes have prototypes that are one, if any."""
    collapsed_names = ", ".join(names)
    if collapsed_names:
        current().line(
            f"warning: the prototypes of {collapsed_names} have become one (mean cosine above {COLLAPSED}); set "
            "stages.joint.reseed_every=200, stages.seed.start=features, or fewer model.prototypes"
        )


def rounded(values: list[float]) -> list[float]:
    """To four places, for the journal."""
    return [round(value, 4) for value in values]
