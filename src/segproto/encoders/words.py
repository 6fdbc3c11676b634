"""Names of networks in the words of papers."""

from __future__ import annotations

import re

SIZES = {"tiny": "Ti", "small": "S", "base": "B", "large": "L", "giant": "g"}
TRAINED = {"dino": "DINO", "lvd142m": "DINOv2", "lvd1689m": "DINOv3"}  # by the ending of timm's names


def vit_words(name: str) -> str:
    """A plain ViT of timm: ``vit_base_patch8_224.dino`` is DINO ViT-B/8; any other name stays."""
    parts = re.fullmatch(r"vit_([a-z]+)_patch(\d+)(?:_[^.]*)?(?:\.(.*))?", name)
    if parts is None or parts[1] not in SIZES:
        return name
    trained = TRAINED.get(parts[3], parts[3] or "")
    return f"{trained} ViT-{SIZES[parts[1]]}/{parts[2]}".strip()
