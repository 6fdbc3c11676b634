"""From the settings to what a folder holds: as they say, or as one of the layouts finds it."""

from __future__ import annotations

from dataclasses import replace
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING

from segproto.data.layouts.finding import Finding
from segproto.data.layouts.listing import list_files
from segproto.data.layouts.pictures import why_not
from segproto.data.layouts.table import AS_SET, LAYOUTS
from segproto.data.pairs import find_pairs
from segproto.errors import DataError

if TYPE_CHECKING:
    from segproto.data.config import DataConfig

PLACES = ("images", "labels", "image_suffix", "label_suffix")  # settings that say where pairs are


def recognise(config: DataConfig, root: Path) -> Finding | None:
    """What a folder or archive holds; None: images and masks are where ``data.images`` and ``data.labels`` say.

    Raises:
        DataError: it may be read in several ways (the settings that choose are named), or in none.
    """
    if as_set(config, root):
        return None
    listing = list_files(root)
    names = (config.layout,) if config.layout is not None else tuple(LAYOUTS)
    findings = _findings(root, names, listing.digest)
    if len(findings) > 1:
        choices = " or ".join(f"data.layout={finding.layout} ({finding.words})" for finding in findings)
        raise DataError(f"{root}: may be read in {len(findings)} ways; say which: {choices}")
    if findings:
        return findings[0]
    what = f"nothing of the layout {config.layout}" if config.layout else "none of the known layouts"
    if lacking := [line for name in names if (line := LAYOUTS.find(name).lacks(listing))]:
        raise DataError(f"{root}: {what}: {'; '.join(lacking)}")
    if config.layout is None and root.is_dir() and (root / config.images).is_dir():
        return None
    raise DataError(
        f"{root}: {what}: {why_not(listing)}; say where images and masks are, * for their common name: "
        "data.images='images/*.jpg' data.labels='masks/*_mask.png'"
    )


@lru_cache(maxsize=2)  # train, val and the line that says it look at the same files, which may take a minute to parse
def _findings(root: Path, names: tuple[str, ...], digest: str) -> list[Finding]:
    """What the layouts of these names find, as long as the files are the same."""
    listing = list_files(root)
    findings = [finding for name in names if (finding := LAYOUTS.find(name).looks(listing)) is not None]
    # settings say where files lie below the root, and reach into no shard
    return [replace(finding, settings={}) for finding in findings] if listing.sharded else findings


def suggestion(root: Path) -> str:
    """``; what is there can be read with SETTINGS``, for a folder that settings do not fit; empty if nothing can."""
    try:
        listing = list_files(root)
        readings = [finding for layout in LAYOUTS.values() if (finding := layout.looks(listing)) is not None]
    except DataError as error:
        return f"; without these settings: {error}"
    settings = [" ".join(f"{k}='{v}'" for k, v in f.settings.items()) or f"data.layout={f.layout}" for f in readings]
    return f"; what is there can be read with {' or with '.join(settings)}" if settings else ""


def as_set(config: DataConfig, root: Path) -> bool:
    """Whether the settings say where images and masks are, or the usual ``images/`` and ``labels/`` are there."""
    if config.layout is not None:
        return config.layout == AS_SET.name
    defaults = type(config).model_fields
    if any(getattr(config, key) != defaults[key].default for key in PLACES):
        return True
    if not root.is_dir() or config.labels is None:
        return False
    try:
        pairs = find_pairs(root / config.images, root / config.labels)
    except DataError:
        return False
    return any(name in pairs.masks for name in pairs.images)
