"""Display colours for classes that bring none."""

from __future__ import annotations

import colorsys

# Okabe & Ito (2008), then Paul Tol's "muted" scheme: told apart by people with any common colour blindness.
_SAFE = (
    "0072B2 E69F00 009E73 CC79A7 56B4E9 D55E00 F0E442 332288 88CCEE 44AA99 117733 999933 DDCC77 CC6677 882255 AA4499"
)


def default_colours(count: int) -> tuple[tuple[int, int, int], ...]:
    """``count`` RGB triples, always the same; the first 16 are safe for colour-blind eyes."""
    colours = [(int(c[:2], 16), int(c[2:4], 16), int(c[4:], 16)) for c in _SAFE.split()[:count]]
    for i in range(len(colours), count):
        rgb = colorsys.hsv_to_rgb(i * 0.618034 % 1, (0.55, 0.85, 0.7)[i % 3], (0.95, 0.6, 0.8)[i // 3 % 3])
        colours.append((round(255 * rgb[0]), round(255 * rgb[1]), round(255 * rgb[2])))
    return tuple(colours)
