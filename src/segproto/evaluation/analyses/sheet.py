"""Contact sheets: rows of captioned pictures in one PNG, and the files an analysis leaves."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from PIL import Image, ImageDraw, ImageFont
from torch import Tensor

from segproto.data.picture import to_pil
from segproto.files import write_json, write_picture, write_tensors

PAGE, INK, SOFT = (255, 255, 255), (28, 30, 33), (92, 99, 107)
GAP, CAPTION, TITLE, FONT = 10, 34, 26, 12


@dataclass(frozen=True)
class Tile:
    """A picture with a caption of up to two lines.

    Attributes:
        picture: a PIL image, or uint8 (3, h, w).
        caption: under it.
        frame: RGB of a frame around it; None = none.
    """

    picture: Image.Image | Tensor
    caption: str = ""
    frame: tuple[int, int, int] | None = None


@dataclass(frozen=True)
class Row:
    """Pictures beside each other, with a line above.

    Attributes:
        title: the line.
        tiles: the pictures.
        side: of each in pixels; None = the sheet's.
    """

    title: str
    tiles: Sequence[Tile] = ()
    side: int | None = None


def to_picture(picture: Image.Image | Tensor) -> Image.Image:
    """uint8 (3, h, w) to a PIL image."""
    if isinstance(picture, Image.Image):
        return picture.convert("RGB")
    return to_pil(picture)


def draw_sheet(rows: Sequence[Row], out: Path, side: int = 128) -> None:
    """Writes rows of tiles, each fitted into ``side`` by ``side`` pixels, as one PNG."""
    font, bold = ImageFont.load_default(FONT), ImageFont.load_default(FONT + 2)
    sides = [row.side or side for row in rows]
    width = max((len(row.tiles) * (s + GAP) for row, s in zip(rows, sides, strict=True)), default=0)
    tall = [tallest(row, s) for row, s in zip(rows, sides, strict=True)]
    height = [TITLE + (t + CAPTION if row.tiles else 0) + GAP for row, t in zip(rows, tall, strict=True)]
    page = Image.new("RGB", (max(width + GAP, 420), sum(height) + GAP), PAGE)
    draw, top = ImageDraw.Draw(page), GAP
    for row, length, deep, space in zip(rows, sides, tall, height, strict=True):
        draw.text((GAP, top), row.title, INK, bold)
        for i, tile in enumerate(row.tiles):
            left, picture = GAP + i * (length + GAP), to_picture(tile.picture)
            factor = length / max(picture.size)
            size = fitted(picture.size, length)
            kind = Image.Resampling.LANCZOS if factor < 1 else Image.Resampling.BICUBIC
            corner = (left + (length - size[0]) // 2, top + TITLE + (deep - size[1]) // 2)
            page.paste(picture.resize(size, kind), corner)
            if tile.frame is not None:
                above = top + TITLE - 2
                draw.rectangle([left - 2, above, left + length + 1, above + deep + 3], None, tile.frame, 3)
            for line, words in enumerate(tile.caption.split("\n")[:2]):
                caption = fitting(words, font, length + GAP - 4)
                draw.text((left, top + TITLE + deep + 3 + line * (FONT + 3)), caption, SOFT, font)
        top += space
    write_picture(out, lambda file: page.save(file, "PNG"), "picture")


def fitted(size: tuple[int, int], side: int) -> tuple[int, int]:
    """Width and height of a picture enlarged or shrunk until its longest side is ``side``."""
    factor = side / max(size)
    return max(1, round(size[0] * factor)), max(1, round(size[1] * factor))


def tallest(row: Row, side: int) -> int:
    """Height that the pictures of a row need."""
    sizes = [to_picture(tile.picture).size for tile in row.tiles]
    return max((fitted(size, side)[1] for size in sizes), default=side)


def fitting(words: str, font: Any, width: int) -> str:
    """The words, with an ellipsis where they would be wider than ``width`` pixels."""
    if font.getlength(words) <= width:
        return words
    while words and font.getlength(words + "\N{HORIZONTAL ELLIPSIS}") > width:
        words = words[:-1]
    return words + "\N{HORIZONTAL ELLIPSIS}"


def write_result(out: Path, arrays: Mapping[str, Tensor], document: Mapping[str, Any]) -> None:
    """Writes ``arrays.safetensors`` and ``analysis.json`` into a folder."""
    write_tensors(out / "arrays.safetensors", arrays, "arrays")
    write_json(out / "analysis.json", document, "analysis")
