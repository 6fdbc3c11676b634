"""Kernels of the dense CRF (Kraehenbuehl and Koltun 2011) and the published sets of them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal


@dataclass(frozen=True)
class CrfSettings:
    """Kernels and iterations; standard deviations in pixels and grey values, weights are Potts rewards.

    Attributes:
        gaussian_sigma: pixels, of the kernel on places alone.
        gaussian_weight: its weight.
        bilateral_sigma: pixels, of the kernel on places and colours.
        bilateral_sigma_rgb: grey values 0..255 of the same kernel.
        bilateral_weight: its weight.
        iterations: mean-field steps; 0 gives ``softmax(-U)``.
        rows_first: order of the features (y, x) instead of (x, y); the lattice depends on it slightly.
        colours: order of the colours, on which the lattice depends as well: ``rgb``, or ``bgr`` as in the releases of
            STEGO, HP and PriMaPs (in the other order up to 1.4 % of the labels differ).
    """

    gaussian_sigma: float = 3.0
    gaussian_weight: float = 3.0
    bilateral_sigma: float = 80.0
    bilateral_sigma_rgb: float = 13.0
    bilateral_weight: float = 10.0
    iterations: int = 10
    rows_first: bool = False
    colours: Literal["rgb", "bgr"] = "rgb"

    def __post_init__(self) -> None:
        for name in ("gaussian_sigma", "bilateral_sigma", "bilateral_sigma_rgb"):
            if not getattr(self, name) > 0:
                raise ValueError(f"{name} is {getattr(self, name)}; expected more than 0")
        if self.colours not in ("rgb", "bgr"):
            raise ValueError(f"colours is {self.colours}; expected rgb or bgr")
        if self.iterations < 0:
            raise ValueError(f"iterations is {self.iterations}; expected 0 or more")


CRF_SETS = {
    "A": CrfSettings(3, 3, 50, 5, 10, 10),  # IRN and wseg's CAM inference
    "B": CrfSettings(3, 3, 80, 13, 10, 10, rows_first=True),  # wseg, before the affinity network
    "C": CrfSettings(3, 3, 80, 13, 10, 10),  # SEAM, PSA, EPS
    "D": CrfSettings(3, 3, 32, 13, 10, 1),  # the published DeepLab code
    "E": CrfSettings(1, 3, 67, 3, 4, 10, colours="bgr"),  # DeepLab v2, STEGO, HP, PriMaPs
}
"""The published parameter sets."""
