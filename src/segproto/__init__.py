"""segproto: prototype-based semantic segmentation that explains itself."""

from __future__ import annotations
