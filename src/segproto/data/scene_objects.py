"""What generated scenes are made of: textures, and objects as parts with a shape and a texture each."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float32]
Mask = NDArray[np.bool_]
Texture = Callable[[Array, Array, float], Array]
Shape = Callable[[Array, Array], Mask]

# Textures: x (1, w) and y (h, 1) in pixels from the object's corner, period in pixels -> values in [-1, 1].


def plain(x: Array, y: Array, period: float) -> Array:
    """One tone."""
    return np.zeros((1, 1), np.float32)


def rows(x: Array, y: Array, period: float) -> Array:
    """Horizontal stripes."""
    return np.where(y % period < period / 2, np.float32(1), np.float32(-1))


def columns(x: Array, y: Array, period: float) -> Array:
    """Vertical stripes."""
    return np.where(x % period < period / 2, np.float32(1), np.float32(-1))


def diagonals(x: Array, y: Array, period: float) -> Array:
    """Slanted stripes."""
    return np.where((x + y) % period < period / 2, np.float32(1), np.float32(-1))


def checks(x: Array, y: Array, period: float) -> Array:
    """A chessboard."""
    return rows(x, y, period) * columns(x, y, period)


def dots(x: Array, y: Array, period: float) -> Array:
    """Light dots on a dark ground."""
    turn = np.float32(2 * np.pi / period)
    return np.where(np.cos(x * turn) + np.cos(y * turn) > 0.5, np.float32(1), np.float32(-0.5))


def shine(x: Array, y: Array, period: float) -> Array:
    """Bright at the top, dark at the bottom."""
    return 1 - 2 * y / max(float(y[-1, 0]), 1.0)


# Shapes: u (1, w) left to right and v (h, 1) top to bottom, both 0..1 over the object's box -> where the part is.


def box(left: float, top: float, right: float, bottom: float) -> Shape:
    """A rectangle."""
    return lambda u, v: ((u >= left) & (u <= right)) & ((v >= top) & (v <= bottom))


def ellipse(cx: float, cy: float, rx: float, ry: float) -> Shape:
    """An ellipse around (cx, cy)."""
    return lambda u, v: ((u - cx) / rx) ** 2 + ((v - cy) / ry) ** 2 <= 1


def triangle(top: float, bottom: float) -> Shape:
    """A triangle as wide as the box, tip at ``top``."""
    return lambda u, v: (np.abs(u - 0.5) <= 0.5 * (v - top) / (bottom - top)) & (v <= bottom)


def cabin(half: float, top: float, bottom: float) -> Shape:
    """A trapezoid, ``2 half`` wide at height 0 and widening downwards."""
    return lambda u, v: (np.abs(u - 0.5) <= half + 0.3 * v) & ((v >= top) & (v <= bottom))


def either(*shapes: Shape) -> Shape:
    """The union of shapes."""
    return lambda u, v: np.logical_or.reduce([shape(u, v) for shape in shapes])


@dataclass(frozen=True)
class Part:
    """A part: where it is in the object's box and how it is painted; ``coarse`` = texture period / object height."""

    name: str
    shape: Shape
    texture: Texture
    coarse: float = 0.1


@dataclass(frozen=True)
class Kind:
    """An object class: height relative to its place's full size, width / height, parts from back to front."""

    name: str
    height: float
    aspect: float
    parts: tuple[Part, ...]
    flies: bool = False


KINDS = (
    Kind(
        "house",
        0.95,
        1.1,
        (
            Part("wall", box(0.06, 0.38, 0.94, 1.0), rows, 0.13),
            Part("roof", triangle(0.0, 0.42), checks, 0.17),
            Part("door", box(0.4, 0.64, 0.6, 1.0), plain),
            Part("windows", either(box(0.14, 0.52, 0.31, 0.74), box(0.69, 0.52, 0.86, 0.74)), plain),
        ),
    ),
    Kind(
        "tree",
        1.0,
        0.72,
        (
            Part("trunk", box(0.36, 0.5, 0.64, 1.0), columns, 0.09),
            Part("crown", ellipse(0.5, 0.34, 0.5, 0.34), dots, 0.14),
        ),
    ),
    Kind(
        "car",
        0.55,
        1.9,
        (
            Part(
                "body",
                either(box(0.0, 0.38, 1.0, 0.84), cabin(0.2, 0.0, 0.4)),
                shine,
            ),
            Part("window", cabin(0.14, 0.08, 0.38), diagonals, 0.16),
            Part("wheels", either(ellipse(0.22, 0.8, 0.13, 0.21), ellipse(0.78, 0.8, 0.13, 0.21)), checks, 0.2),
        ),
    ),
    Kind(
        "person",
        0.85,
        0.5,
        (
            Part("legs", either(box(0.16, 0.6, 0.46, 1.0), box(0.54, 0.6, 0.84, 1.0)), plain),
            Part("torso", box(0.06, 0.27, 0.94, 0.66), diagonals, 0.14),
            Part("head", ellipse(0.5, 0.15, 0.32, 0.15), plain),
        ),
    ),
    Kind(
        "dog",
        0.55,
        1.45,
        (
            Part("legs", either(box(0.1, 0.6, 0.26, 1.0), box(0.58, 0.6, 0.74, 1.0)), rows, 0.2),
            Part("body", ellipse(0.43, 0.52, 0.43, 0.26), dots, 0.3),
            Part("head", ellipse(0.82, 0.27, 0.18, 0.27), plain),
        ),
    ),
    Kind(
        "balloon",
        0.8,
        0.78,
        (
            Part("basket", box(0.34, 0.76, 0.66, 1.0), checks, 0.12),
            Part("envelope", ellipse(0.5, 0.4, 0.5, 0.4), columns, 0.26),
        ),
        flies=True,
    ),
)
