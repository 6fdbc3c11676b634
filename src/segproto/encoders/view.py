"""How a model looked at images while it was trained, which is how it looks at those it is not told how to see."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

LEAST = 256  # pixels: windows of smaller crops would show a model less than most scenes need


@dataclass(frozen=True)
class View:
    """What of an image was seen at once.

    Attributes:
        window: side of sliding windows in pixels; None = nothing is known of windows.
        always: windows for all images, and not only for those too large to be seen at once.
        whole: pixels of the largest image that was seen at once; 0 = not known.
    """

    window: int | None = None
    always: bool = False
    whole: int = 0

    def to_json(self) -> dict[str, Any]:
        return asdict(self)


def trained_view(window: int | None, crop: tuple[int, int] | None, seen: tuple[int, ...]) -> View:
    """The view of a model trained on windows, on crops, or on whole images.

    Args:
        window: the setting ``data.window``, which validation follows.
        crop: (height, width) of training crops.
        seen: (height, width) of a training image.
    """
    if window is not None:
        return View(window, always=True)
    if crop is not None:
        return View(max(LEAST, *crop))
    return View(whole=seen[0] * seen[1])
