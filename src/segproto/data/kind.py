"""What a kind of data set is: one record that says what ``data.name`` means."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

if TYPE_CHECKING:
    from segproto.data.base import SegmentationDataset
    from segproto.data.config import DataConfig
    from segproto.data.published import Published

Opener = Callable[["DataConfig", str], "SegmentationDataset"]
Checker = Callable[["DataConfig", str], "tuple[SegmentationDataset, list[str]]"]


@dataclass(frozen=True, kw_only=True)
class DataKind:
    """A kind of data set.

    Attributes:
        name: as in ``data.name``.
        title: one line for people.
        open: from the settings and a split (``train`` or ``val``) to its images and masks, at native size.
        where: address to get it from; empty where it needs no files or brings none.
        terms: what its owners allow, in a few words.
        reads: those of the settings ``layout``, ``classes``, ``split``, ``parts``, ``part_maps`` and ``variant``
            that it reads; the others are refused. ``bands`` stands for all of
            :class:`segproto.data.pixel_config.PixelConfig`.
        masks: whether its images have masks: ``always``, ``never``, or unless ``data.labels`` is null (``optional``).
        published: how it is distributed, for those that are read as their archives have them.
        check: like ``open``, but what is wrong with single files becomes lines beside all the rest; None: ``open``.
        own: its pictures are a user's own, and may be turned by their EXIF orientation.
        says: lines that a run on it begins with: what is taken for what; None: none.
        words: from the resolved settings to the data set in a few words, for reports; None: name and folder.
    """

    name: str
    title: str
    open: Opener
    where: str = ""
    terms: str = ""
    reads: tuple[str, ...] = ()
    masks: Literal["always", "never", "optional"] = "always"
    published: Published | None = None
    check: Checker | None = None
    own: bool = False
    says: Callable[[DataConfig], list[str]] | None = None
    words: Callable[[Mapping[str, Any]], str] | None = None
