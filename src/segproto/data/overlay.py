"""Labels drawn over their image, and pictures that a notebook shows by themselves."""

from __future__ import annotations

import io
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from segproto.files import write_picture
from segproto.prototypes.labels import borders

if TYPE_CHECKING:
    from PIL.Image import Image


def colour_labels(
    image: Tensor, labels: Tensor, colours: dict[int, tuple[int, int, int]], strength: float = 0.6
) -> Tensor:
    """Labels over the image in gray, edges between labels drawn dark.

    Args:
        image: uint8 (3, h, w).
        labels: integers (h, w) from -1.
        colours: RGB a label; labels without a colour, as -1, stay gray.
        strength: of the colours, 0..1.

    Returns:
        uint8 (3, h, w).
    """
    gray = image.float().mean(0, keepdim=True).expand(3, -1, -1)
    table = torch.full((max(int(labels.max()), 0) + 2, 3), -1.0)  # the last row is that of label -1
    for label, colour in colours.items():
        if 0 <= label < len(table) - 1:
            table[label] = torch.tensor(colour, dtype=torch.float32)
    painted = table[labels.long()].permute(2, 0, 1)
    out = torch.where(painted < 0, gray, (1 - strength) * gray + strength * painted)
    return torch.where(borders(labels), out * 0.35, out).round().to(torch.uint8)


class Shown:
    """A picture: notebooks show it, :meth:`save` writes it.

    Args:
        pixels: uint8 (3, h, w).
        words: what it shows, in a few words.
    """

    def __init__(self, pixels: Tensor, words: str = "picture") -> None:
        self.pixels, self.words = pixels, words

    def __repr__(self) -> str:
        height, width = self.pixels.shape[-2:]
        return f"<{self.words}, {width} x {height} pixels; .save(FILE.png) writes it>"

    def to_pil(self) -> Image:
        """As a PIL image."""
        from PIL import Image

        return Image.fromarray(self.pixels.permute(1, 2, 0).contiguous().cpu().numpy())

    def _repr_png_(self) -> bytes:
        buffer = io.BytesIO()
        self.to_pil().save(buffer, "PNG")
        return buffer.getvalue()

    def save(self, path: str | Path) -> None:
        """Writes a PNG.

        Raises:
            ConfigError: something that is not ours is there.
        """
        from segproto.files import place, require

        target = place(path, "save")
        require(target, "picture")
        write_picture(target, lambda file: self.to_pil().save(file, "PNG"), "picture")


def beside(*pictures: Tensor) -> Tensor:
    """Pictures uint8 (3, h, w) of one height side by side, with a white gap."""
    gap = torch.full((3, pictures[0].shape[1], 8), 255, dtype=torch.uint8)
    return torch.cat([part for picture in pictures for part in (picture, gap)][:-1], 2)
