"""Settings of the interpretability metrics (``interpretability.key=value`` on the command line)."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field, model_validator

from segproto.evaluation.interpretability.table import METRICS
from segproto.metrics.consistency import QUANTILES
from segproto.metrics.sparsity import THRESHOLDS
from segproto.table import Known

Share = Annotated[float, Field(ge=0, lt=1)]


class InterpretabilityConfig(BaseModel):
    """What is measured, and how. Defaults are what is right; the published quirks are options.

    Attributes:
        metrics: which; None = all.
        images: look at this many images, evenly spread over the split; None = all.
        seed: of noise, random pixels, random regions and randomised models.
        used_only: only prototypes that some group uses count (models without groups use all).
        quantiles: a prototype is active where it exceeds its quantile (consistency, stability, coverage).
        within: quantile over the pixels of the class (``mask``) or over all pixels with zeros outside (``image``).
        cells: consistency and stability read the cell under a pixel's ``centre``, or by ``floor`` cell ``x w / W``, as
            the published code does (OpenCV's nearest neighbour).
        background_centroid: also take the centroid of what is *not* the part, as the published code does.
        leave_out: names of classes whose prototypes do not count for consistency, stability and purity.
        consistency_limit: a prototype is consistent if active on a part in more than this share of its images.
        noise: standard deviation of the noise for stability, added to the normalised image.
        sparsity_thresholds: readout weights above these count.
        overlap_quantiles: a map is active where it exceeds its quantile over the image (overlaps).
        component_quantiles: the same for components.
        maps: overlaps and components on the ``grid``, or at the pixels of maps upsampled bicubically (``image``), as
            published and far slower.
        equivariance_quantile: a map is active where it exceeds its quantile over the class.
        equivariance_threshold: IoU above which two prototypes are equivariant.
        readings: ``relative``: the finer scale sees the image shrunk by the ratio of the scales; ``both``: each scale
            sees it shrunk by the other's rate.
        purity_images: strongest images of a prototype that are looked at.
        band: width of the boundary band in cells (pointing game).
        neighbours: numbers of strongest prototypes.
        pixels: pixels drawn per image for them, and for completeness at the pixels.
        faithfulness_images: images of the slow tests (faithfulness, sanity, context), evenly spread.
        tops: the regions of how many of a class's most used prototypes are deleted.
        areas: shares of the class's area deleted or inserted; ascending and symmetric about 0.5, so that a random
            region inserted is the picture with the rest deleted, and need not be seen again.
        draws: random regions of each area.
        smallest: classes below this share of the image are not deleted, nor painted over.
        freshness: recompute the features of all patches from the training images.
    """

    model_config = ConfigDict(extra="forbid")

    metrics: tuple[Annotated[str, Known(METRICS)], ...] | None = None
    images: int | None = Field(default=None, ge=1)
    seed: int = Field(default=0, ge=0)
    used_only: bool = True
    quantiles: tuple[Share, ...] = Field(default=QUANTILES, min_length=1)
    within: Literal["mask", "image"] = "mask"
    cells: Literal["centre", "floor"] = "centre"
    background_centroid: bool = False
    leave_out: tuple[str, ...] = ()
    consistency_limit: Share = 0.8
    noise: float = Field(default=0.2, ge=0)
    sparsity_thresholds: tuple[Annotated[float, Field(ge=0)], ...] = Field(default=THRESHOLDS, min_length=1)
    overlap_quantiles: tuple[Share, ...] = Field(default=(0.95,), min_length=1)
    component_quantiles: tuple[Share, ...] = Field(default=(0.8, 0.9, 0.95), min_length=1)
    maps: Literal["grid", "image"] = "grid"
    equivariance_quantile: Share = 0.8
    equivariance_threshold: Share = 0.5
    readings: tuple[Literal["relative", "both"], ...] = Field(default=("relative", "both"), min_length=1)
    purity_images: int = Field(default=10, ge=1)
    band: int = Field(default=1, ge=1)
    neighbours: tuple[Annotated[int, Field(ge=1)], ...] = Field(default=(1, 3, 5, 10), min_length=1)
    pixels: int = Field(default=100, ge=1)
    faithfulness_images: int = Field(default=20, ge=1)
    tops: tuple[Annotated[int, Field(ge=1)], ...] = Field(default=(1, 3, 5), min_length=1)
    areas: tuple[Annotated[float, Field(gt=0, lt=1)], ...] = Field(default=(0.1, 0.3, 0.5, 0.7, 0.9), min_length=1)
    draws: int = Field(default=5, ge=1)
    smallest: Share = 0.02
    freshness: bool = True

    @model_validator(mode="after")
    def _mirrored(self) -> InterpretabilityConfig:
        pairs = zip(self.areas, reversed(self.areas), strict=True)
        if list(self.areas) != sorted(set(self.areas)) or any(abs(a + b - 1) > 1e-6 for a, b in pairs):
            raise ValueError(
                f"areas must be ascending and symmetric about 0.5, as in [0.1, 0.5, 0.9]; got {self.areas}"
            )
        return self

    def wants(self, name: str) -> bool:
        """Whether this metric is asked for."""
        return self.metrics is None or name in self.metrics
