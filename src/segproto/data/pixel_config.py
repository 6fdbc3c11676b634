"""Settings of a recipe's ``data`` section that say how image files become pixels."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, PositiveInt, model_validator

from segproto.data.pixels import PLAIN, RGB, PixelRule
from segproto.errors import ConfigError

Bound = Annotated[float, Field(allow_inf_nan=False)]
SETTINGS = ("bands", "value_range", "nodata", "alpha", "pages", "show")


class Percentiles(BaseModel):
    """A value range to be measured: per band the values that so many percent of all training pixels are below.

    Attributes:
        percentiles: of black and of white.
    """

    model_config = ConfigDict(extra="forbid")

    percentiles: tuple[Annotated[float, Field(ge=0, le=100)], Annotated[float, Field(ge=0, le=100)]] = (0.1, 99.9)

    @model_validator(mode="after")
    def _ordered(self) -> Percentiles:
        if self.percentiles[0] >= self.percentiles[1]:
            raise ValueError(f"percentiles must be [lower, higher], got {list(self.percentiles)}")
        return self


class PixelConfig(BaseModel):
    """Which bands, and what is black and what is white; all for ``folder`` and ``images`` only.

    Attributes:
        bands: what the model sees of a file, numbers from 1 in any order, [4, 1, 2], or with names, {nir: 4, red: 1};
            None: gray or RGB.
        value_range: stored values that are black and white: ``auto`` = the range of the number format (floats have
            none), [low, high], one such pair per band, or measured once over the training images: ``percentiles`` (0.1
            and 99.9), {percentiles: [2, 98]}. Never measured per image.
        nodata: value of pixels that hold no image, which are void: a number, ``auto`` (what the file says, also by a
            mask of its own) or ``none``.
        alpha: what a band that a TIFF calls alpha means if it is none of ``bands``: ``void`` where it is 0, or
            ``ignore``. None: such a file is refused.
        pages: of TIFFs of several pages: the number of one, from 1, or ``all``, each an image of its own with a page
            of the mask; None: such files are refused.
        show: bands that pictures show as red, green and blue, by name or number (one: in gray); None: those called red,
            green and blue, else the first three.
    """

    bands: list[PositiveInt] | dict[str, PositiveInt] | None = None
    value_range: Literal["auto", "percentiles"] | Percentiles | tuple[Bound, Bound] | list[tuple[Bound, Bound]] = "auto"
    nodata: Literal["auto", "none"] | Bound = "auto"
    alpha: Literal["void", "ignore"] | None = None
    pages: Literal["all"] | PositiveInt | None = None
    show: list[str | int] | None = None

    @property
    def num_bands(self) -> int:
        """Bands that a model of these data takes."""
        return 3 if self.bands is None else len(self.bands)

    @property
    def to_measure(self) -> Percentiles | None:
        """The percentiles to measure before anything is read; None where the range is known."""
        if self.value_range == "percentiles":
            return Percentiles()
        return self.value_range if isinstance(self.value_range, Percentiles) else None

    @property
    def pixel_rule(self) -> PixelRule:
        """How files are read.

        Raises:
            ConfigError: the value range is still to be measured.
        """
        if self.to_measure is not None:
            raise ConfigError(
                "data.value_range = percentiles: is measured when a training begins, and written to its recipe.yaml; "
                "give its numbers, [LOW, HIGH], to read images otherwise"
            )
        numbers = None if self.bands is None else tuple(named(self.bands).values())
        names = tuple(self.bands) if isinstance(self.bands, dict) else ()
        return PixelRule(
            bands=numbers,
            names=names,
            value_range=self._ranges,
            nodata=self.nodata,
            alpha=self.alpha,
            page=self.pages,
            show=shown(self.show, numbers, names),
        )

    @property
    def _ranges(self) -> tuple[tuple[float, float], ...]:
        value: Any = self.value_range
        if self.to_measure is not None or value == "auto":
            return ()
        return tuple(value) if isinstance(value, list) else (value,)

    @model_validator(mode="after")
    def _fitting(self) -> PixelConfig:
        if self.bands is not None and not self.bands:
            raise ValueError("bands must name at least one band")
        for low, high in self._ranges:
            if not low < high or not math.isfinite(high - low):
                raise ValueError(f"value_range must be [low, high], got {[low, high]}")
        if len(self._ranges) not in (0, 1, self.num_bands):
            raise ValueError(f"value_range has {len(self._ranges)} pairs for {self.num_bands} bands; give one for each")
        numbers = None if self.bands is None else tuple(named(self.bands).values())
        shown(self.show, numbers, tuple(self.bands) if isinstance(self.bands, dict) else ())
        return self


def settings_of(rule: PixelRule) -> dict[str, Any]:
    """The settings that say the same as a model's rule; none for plain colours."""
    if replace(rule, stored="") == PLAIN:
        return {}
    bands = rule.bands and (dict(zip(rule.names, rule.bands, strict=True)) if rule.names else list(rule.bands))
    known = rule.names or rule.bands or (1, 2, 3)
    return {
        "bands": bands,
        "value_range": [list(pair) for pair in rule.value_range] or "auto",
        "nodata": rule.nodata,
        "alpha": rule.alpha,
        "pages": rule.page,
        "show": [known[band] for band in rule.show],
    }


def named(bands: list[int] | dict[str, int]) -> dict[str, int]:
    """Bands by name; those without one by their place."""
    return bands if isinstance(bands, dict) else {str(index): band for index, band in enumerate(bands)}


def shown(
    wanted: list[str | int] | None, numbers: tuple[int, ...] | None, names: tuple[str, ...]
) -> tuple[int, int, int]:
    """Places among the model's bands of those that pictures show.

    Raises:
        ValueError: one that is no band of the model, or neither one nor three of them.
    """
    if wanted is None:
        if {"red", "green", "blue"} <= set(names):
            return names.index("red"), names.index("green"), names.index("blue")
        count = 3 if numbers is None else len(numbers)
        return RGB if count > 2 else (0, 0, 0)
    known = numbers or (1, 2, 3)
    places = []
    for one in wanted:
        if one not in (names if isinstance(one, str) else known):
            raise ValueError(f"show: {one!r} is none of the bands {', '.join(names) or list(known)}")
        places.append(names.index(one) if isinstance(one, str) else known.index(one))
    if len(places) not in (1, 3):
        raise ValueError(f"show: expected one band or three, got {list(wanted)}")
    return (places[0], places[0], places[0]) if len(places) == 1 else (places[0], places[1], places[2])
