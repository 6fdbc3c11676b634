"""Figures of a model that need no image."""

from __future__ import annotations

from typing import Any

from segproto.model.heads import GroupedHead, Head


def group_figures(head: Head) -> dict[str, Any]:
    """Prototypes, those that some group uses, and the mean number of members of a group; nothing without groups."""
    if not isinstance(head, GroupedHead):
        return {}
    return {
        "prototypes": head.bank.num_prototypes,
        "prototypes_used": int(head.grouping.used_prototypes().sum()),
        "group_average": float(head.grouping.group_average()),
    }
