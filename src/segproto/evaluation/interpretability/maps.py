"""Metrics on where prototypes and groups are active: how far their places overlap, and in how many pieces they fall."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from torch import Tensor

from segproto.evaluation.interpretability.axes import lines
from segproto.evaluation.interpretability.metric import GROUPS, PROTOTYPES, SHARE, Metric, OneAccumulator, Subject
from segproto.evaluation.interpretability.views import View
from segproto.metrics.components import Components
from segproto.metrics.overlap import Overlap

if TYPE_CHECKING:
    from matplotlib.axes import Axes


class OverlapSuite(OneAccumulator):
    """The places of units of one class, pair by pair.

    Args:
        subject: what is looked at.
        owner: int64 (U,) the class of each unit.
    """

    metric: Overlap

    def __init__(self, subject: Subject, owner: Tensor) -> None:
        super().__init__(subject, Overlap(owner, subject.prototypes.num_classes, subject.config.overlap_quantiles))

    def units(self, view: View) -> Tensor:
        """The maps (U, h, w) of the units."""
        return view.activations[self.subject.kept]

    def update(self, view: View) -> None:
        maps, pixels = view.maps(self.units(view), self.subject.config.maps)
        self.metric.update(maps.flatten(1), pixels, view.present)


class GroupOverlapSuite(OverlapSuite):
    """The places of groups."""

    def __init__(self, subject: Subject) -> None:
        assert subject.grouping is not None
        super().__init__(subject, subject.grouping.class_of_group)

    def units(self, view: View) -> Tensor:
        assert view.groups is not None
        return view.groups


class ComponentsSuite(OneAccumulator):
    """The connected places of each prototype's map."""

    metric: Components

    def __init__(self, subject: Subject) -> None:
        bank, scales = subject.prototypes, subject.prototypes.scale_of.cpu()[subject.kept]
        super().__init__(subject, Components(scales, bank.num_scales, subject.config.component_quantiles))

    def update(self, view: View) -> None:
        if bool(self.subject.kept.any()):
            self.metric.update(*view.maps(view.activations[self.subject.kept], self.subject.config.maps))


def draw_components(axes: Axes, figures: dict[str, Any], key: str, label: str) -> None:
    """A figure of the components against the scale, a line per quantile."""
    rows = figures["per_quantile"]
    scales = list(range(1, len(rows[0][key]) + 1))
    lines(axes, [(f"top {100 * (1 - r['quantile']):.0f} %", scales, r[key]) for r in rows], "scale", label)
    axes.set_xticks(scales)
    axes.set_ylim(bottom=0)


GROUP_OVERLAP = Metric(
    name="group_overlap",
    meaning="IoU of the places where the groups of a class are active: lower means that its groups "
    "see different things.",
    how="Active: in the top 5 % of the image. Over all pairs pooled (`micro`), and as the mean over classes (`macro`).",
    unknown="the class has fewer than two groups, or no image shows it",
    unit=SHARE,
    range=(0, 1),
    needs=(PROTOTYPES, GROUPS),
    start=GroupOverlapSuite,
)
PROTOTYPE_OVERLAP = Metric(
    name="prototype_overlap",
    meaning="IoU of the places where the prototypes of a class are active: lower means that they see different things.",
    how="As `group_overlap`, of prototypes.",
    unknown="the class has fewer than two prototypes in use, or no image shows it",
    unit=SHARE,
    range=(0, 1),
    start=lambda subject: OverlapSuite(subject, subject.class_of[subject.kept]),
)
COMPONENTS = Metric(
    name="components",
    meaning="Number and area of the connected places where a prototype is active, per scale: fewer and "
    "larger ones at coarser scales show that the scales differ.",
    how="Areas are shares of the image. At several quantiles; the value is the count at the finest scale and the "
    "highest quantile.",
    unknown="no prototype of this scale is in use, or none is active anywhere",
    unit="components per map",
    range=(0, float("inf")),
    needs=(PROTOTYPES,),
    start=ComponentsSuite,
    panels=(
        lambda axes, figures: draw_components(axes, figures, "count", "components per map"),
        lambda axes, figures: draw_components(axes, figures, "area", "their mean area (share of the image)"),
    ),
)
