"""What an interpretability metric is: one record with its name, meaning, unit, range, needs and factory."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any, ClassVar, Protocol

import torch
from torch import Tensor

from segproto.data.base import SegmentationDataset
from segproto.errors import ConfigError
from segproto.evaluation.interpretability.views import View
from segproto.model.segmenter import Segmenter
from segproto.prototypes.bank import Bank
from segproto.prototypes.grouping import Grouping

if TYPE_CHECKING:
    from matplotlib.axes import Axes

    from segproto.evaluation.interpretability.config import InterpretabilityConfig

SHARE = "share"  # the unit of figures that people read in per cent
Progress = Callable[[str, int, int], None]
Panel = Callable[["Axes", dict[str, Any]], None]


def quiet(title: str, done: int, total: int) -> None:
    """Shows no progress."""


@dataclass(frozen=True, eq=False)
class Subject:
    """What is measured: a model on its images, with the settings.

    Attributes:
        model: in eval mode.
        dataset: the images.
        config: the settings.
        sources: the training images that the prototypes' patches come from; None = not available.
        progress: called with (what, images done, images).

    Raises:
        ConfigError: ``config.leave_out`` names an unknown class.
    """

    model: Segmenter
    dataset: SegmentationDataset
    config: InterpretabilityConfig
    sources: SegmentationDataset | None = None
    progress: Progress = quiet

    def __post_init__(self) -> None:
        names = self.dataset.classes.names
        for name in self.config.leave_out:
            if name not in names:
                raise ConfigError(f"interpretability.leave_out: {name!r} is no class; there are {', '.join(names)}")

    @property
    def bank(self) -> Bank | None:
        """The prototypes; None for a black box."""
        return self.model.head.bank

    @property
    def prototypes(self) -> Bank:
        """The prototypes of a model that has some: a metric that needs them need not ask again."""
        bank = self.bank
        assert bank is not None
        return bank

    @property
    def grouping(self) -> Grouping | None:
        """The groups of the prototypes; None without any."""
        return self.model.head.grouping

    @cached_property
    def class_of(self) -> Tensor:
        """int64 (P,), on the CPU."""
        return self.prototypes.class_of.cpu()

    @cached_property
    def num_parts(self) -> int:
        """Part ids are 0..num_parts-1; 0 = the data have no part maps."""
        return max(self.dataset.part_names, default=-1) + 1

    @cached_property
    def kept(self) -> Tensor:
        """bool (P,): the prototypes that count."""
        if self.config.used_only and self.grouping is not None:
            return self.grouping.used_prototypes().cpu()
        return torch.ones(self.prototypes.num_prototypes, dtype=torch.bool)

    @cached_property
    def kept_for_parts(self) -> Tensor:
        """bool (P,): those that count for metrics on parts, without the classes left out."""
        left_out = torch.tensor([name in self.config.leave_out for name in self.dataset.classes.names])
        return self.kept & ~left_out[self.class_of]


class Accumulates(Protocol):
    """The accumulating classes of :mod:`segproto.metrics`, as far as suites forward them."""

    def state_dict(self) -> dict[str, Tensor]: ...
    def merge(self, state: Mapping[str, Tensor]) -> None: ...


class Suite(ABC):
    """What accumulates a metric over images and processes.

    Args:
        subject: what is looked at.
        accumulators: the classes that do it, by name.

    Attributes:
        looks: whether it wants to see images at all.
    """

    looks: ClassVar[bool] = True

    def __init__(self, subject: Subject, **accumulators: Accumulates) -> None:
        self.subject, self.accumulators = subject, accumulators

    @abstractmethod
    def update(self, view: View) -> None:
        """Takes one image in."""

    @abstractmethod
    def compute(self) -> dict[str, Any]:
        """The figures, JSON-ready: ``value`` (with a ``reason`` where it is None) and details."""

    def state_dict(self) -> dict[str, Tensor]:
        """Everything seen so far."""
        parts = self.accumulators.items()
        return {f"{name}/{key}": value for name, part in parts for key, value in part.state_dict().items()}

    def merge(self, state: Mapping[str, Tensor]) -> None:
        """Takes in the state of another process."""
        for name, part in self.accumulators.items():
            part.merge({k.removeprefix(f"{name}/"): v for k, v in state.items() if k.startswith(f"{name}/")})


class Computes(Accumulates, Protocol):
    """An accumulating class of :mod:`segproto.metrics` whose figures are the metric's."""

    def compute(self) -> dict[str, Any]: ...


class OneAccumulator(Suite):
    """A suite whose figures are those of its only accumulator.

    Args:
        subject: what is looked at.
        metric: the accumulator.
    """

    metric: Computes

    def __init__(self, subject: Subject, metric: Computes) -> None:
        super().__init__(subject, metric=metric)
        self.metric = metric

    def compute(self) -> dict[str, Any]:
        return self.metric.compute()


class OfModel(Suite):
    """Figures of the model alone, for which no image is looked at."""

    looks = False

    def __init__(self, subject: Subject, figures: Callable[[Subject], dict[str, Any]]) -> None:
        super().__init__(subject)
        self.figures = figures

    def update(self, view: View) -> None:
        """Nothing."""

    def compute(self) -> dict[str, Any]:
        return self.figures(self.subject)


def of_model(figures: Callable[[Subject], dict[str, Any]]) -> Callable[[Subject], Suite]:
    """The factory of a metric that is a function of the model alone."""
    return lambda subject: OfModel(subject, figures)


def computed(suite: Suite) -> dict[str, Any]:
    """The figures of a suite that one metric reads."""
    return suite.compute()


@dataclass(frozen=True)
class Need:
    """What a metric cannot do without.

    Attributes:
        name: for the documentation.
        missing: why a subject lacks it; None if it has it.
    """

    name: str
    missing: Callable[[Subject], str | None]


PROTOTYPES = Need("prototypes", lambda s: "the model has no prototypes (a black box)" if s.bank is None else None)
PARTS = Need(
    "part maps",
    lambda s: None if s.num_parts else "the data have no part maps: name a part table with data.parts=...",
)
GROUPS = Need("groups", lambda s: "the model has no groups" if s.grouping is None else None)


@dataclass(frozen=True, kw_only=True)
class Metric:
    """An interpretability metric.

    Attributes:
        name: as in ``interpretability.metrics`` and in the JSON.
        meaning: what the figure says, in one sentence.
        how: what else is to know: how it is measured, and what its details hold.
        unknown: why a detail of it (a class, prototype, quantile or region) may be ``null``.
        unit: of the value; :data:`SHARE` is shown in per cent.
        range: smallest and largest value possible.
        needs: without which it has no value, but a reason.
        start: from what is looked at to what accumulates; metrics that name the same function share what it makes.
        read: from that to the figures.
        few: it is slow, and looks at ``interpretability.faithfulness_images`` images only.
        sources: it reads the training images, too.
        panels: pictures of its curves: each draws the figures on axes.
    """

    name: str
    meaning: str
    start: Callable[[Subject], Suite]
    how: str = ""
    unknown: str = "it was not measured"
    unit: str = ""
    range: tuple[float, float] = (-math.inf, math.inf)
    needs: Sequence[Need] = (PROTOTYPES,)
    read: Callable[[Any], dict[str, Any]] = computed
    few: bool = False
    sources: bool = False
    panels: Sequence[Panel] = ()

    def missing(self, subject: Subject) -> str | None:
        """Why it cannot be measured; None if it can."""
        reasons = (need.missing(subject) for need in self.needs)
        return next((reason for reason in reasons if reason is not None), None)

    def explained(self, figures: dict[str, Any]) -> dict[str, Any]:
        """The figures with ``meaning`` and ``unit``; where a detail of them (``null``) is unknown, why."""
        gaps = {"null": self.unknown} if "reason" not in figures and has_gaps(figures) else {}
        return {**figures, **gaps, "meaning": self.meaning, "unit": self.unit}


def has_gaps(value: Any) -> bool:
    """Whether a ``None`` lies anywhere inside."""
    if isinstance(value, dict):
        return any(has_gaps(item) for item in value.values())
    return value is None or (isinstance(value, list) and any(has_gaps(item) for item in value))
