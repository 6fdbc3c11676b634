"""Where the project keeps what it may want again."""

from __future__ import annotations

import os
from pathlib import Path

CACHE = "SEGPROTO_CACHE"


def cache_root() -> Path | None:
    """``$SEGPROTO_CACHE``: where features, proposals and compiled loops are kept for other runs; None: nowhere."""
    value = os.environ.get(CACHE)
    return Path(value) if value else None
