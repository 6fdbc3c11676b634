"""Telling Cityscapes' coarse polygons from its fine labels: they leave boundaries out, so scores on them mislead."""

from __future__ import annotations

from collections.abc import Iterable

from segproto.errors import DataError

COARSE_VOID = 0.3  # share of void pixels that no set of fine labels reaches
_CLASSES = frozenset({"road", "sidewalk", "traffic sign", "terrain", "rider", "motorcycle"})


def refuse_names(names: str, what: str, ask: str) -> None:
    """Refuses labels whose files or folders are called coarse.

    Args:
        names: paths, folders or file names.
        what: how the user named them, for the message.
        ask: what to do if they are meant.

    Raises:
        DataError: ``gtCoarse`` occurs in ``names``.
    """
    if "gtcoarse" in names.lower():
        raise DataError(
            f"{what}: coarse labels score far too high (boundaries are void); validate on gtFine, or {ask} if that is"
            " meant"
        )


def coarse_line(void: float, classes: Iterable[str]) -> str | None:
    """What a large share of void pixels says where the classes are Cityscapes'; None elsewhere."""
    if void <= COARSE_VOID or not set(classes) >= _CLASSES:
        return None
    return f"{void:.0%} of the pixels are void, as in coarse labels (fine ones: about 10%)"
