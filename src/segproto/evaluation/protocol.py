"""How a model looks at images when it is scored: one record, from the command line down to the loop over images."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from segproto.errors import ConfigError
from segproto.model.predict import OVERLAP, Views, seen_size
from segproto.model.windows import Scale
from segproto.refine.crf_settings import CrfSettings


@dataclass(frozen=True, kw_only=True)
class Protocol:
    """A validation protocol.

    Attributes:
        window: side of a sliding window in pixels, see :class:`segproto.model.predict.Views`; None = images seen whole.
        overlap: share of a window that its neighbour sees too.
        scales: test-time scales, whose logits are averaged.
        flip: test-time mirroring.
        input_size: what the model sees instead of the image's own size, as published protocols have it: a shorter side,
            aspect kept, or (height, width), stretched. Predictions are scored at native size all the same.
        crf: also score the masks after a dense CRF; images are then seen whole.

    Raises:
        ConfigError: for ``input_size`` together with a window or scales, or a CRF with a window.
    """

    window: int | None = None
    overlap: float = OVERLAP
    scales: Sequence[Scale] = (1.0,)
    flip: bool = False
    input_size: int | tuple[int, int] | None = None
    crf: CrfSettings | None = None

    def __post_init__(self) -> None:
        if self.input_size is not None and not self.plain:
            raise ConfigError(
                "data.input_size fixes what the model sees: leave out window and scales, or set it to null"
            )
        if self.crf is not None and self.window is not None:
            raise ConfigError("a CRF sees the image whole: leave out window or the CRF")

    @property
    def plain(self) -> bool:
        """Whether neither a window nor scales were asked for."""
        return self.window is None and tuple(self.scales) == (1.0,)

    @property
    def whole(self) -> bool:
        """Whether each image is seen once, whole and at its own size, with nothing after the network."""
        return self.plain and not self.flip and self.input_size is None and self.crf is None

    def views(self, height: int, width: int) -> Views:
        """How to look at an image of that many pixels."""
        scales = self.scales if self.input_size is None else [seen_size((height, width), self.input_size)]
        return {"window": self.window, "overlap": self.overlap, "scales": scales, "flip": self.flip}
