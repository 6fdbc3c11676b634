"""Edits as they are typed on a command line: ``car/2:42``, ``5:2``, ``7:0.5``."""

from __future__ import annotations

import math
import re
from typing import TYPE_CHECKING

from segproto.errors import ConfigError

if TYPE_CHECKING:
    from segproto.model.segmenter import Segmenter


def parse_pair(text: str, model: Segmenter) -> tuple[int, int]:
    """``7:42`` or ``car/2:42`` to a group's and a prototype's number.

    Raises:
        ConfigError: of another form, or no such class.
    """
    match = re.fullmatch(r"(.+):(\d+)", text)
    if match is None or (group := group_number(match[1], model, f"forbid {text!r}")) is None:
        raise ConfigError(f"forbid {text!r}: expected GROUP:PROTOTYPE, as in 7:42 or car/2:42")
    return group, int(match[2])


def parse_weight(text: str, model: Segmenter) -> tuple[int, float]:
    """``7:0.5`` or ``car/2:0.5`` to a group's number and a factor.

    Raises:
        ConfigError: of another form, or no such class.
    """
    name, _, number = text.rpartition(":")
    try:
        factor = float(number)
    except ValueError:
        factor = math.nan
    group = group_number(name, model, f"reweight {text!r}")
    if group is None or not math.isfinite(factor):
        raise ConfigError(f"reweight {text!r}: expected GROUP:FACTOR, as in 7:0.5 or car/2:0.5")
    return group, factor


def parse_merge(text: str) -> tuple[int, int]:
    """``5:2`` to two prototypes' numbers.

    Raises:
        ConfigError: of another form.
    """
    match = re.fullmatch(r"(\d+):(\d+)", text)
    if match is None:
        raise ConfigError(f"merge {text!r}: expected PROTOTYPE:OTHER, as in 5:2, where 5 becomes 2")
    return int(match[1]), int(match[2])


def group_number(text: str, model: Segmenter, about: str) -> int | None:
    """``7`` or ``car/2`` to a group's number; None for another form.

    Raises:
        ConfigError: no groups, no such class, or none of that number.
    """
    match = re.fullmatch(r"(\d+)|(.+)/(\d+)", text)
    if match is None:
        return None
    number, name, group = match.groups()
    if number is not None:
        return int(number)
    grouping = model.head.grouping
    if grouping is None:
        raise ConfigError(f"{about}: a {model.head.kind} head has no groups; drop the prototype instead")
    if name not in model.classes.names:
        raise ConfigError(f"{about}: no class {name!r}; there are {', '.join(model.classes.names)}")
    groups: list[int] = (grouping.class_of_group == model.classes.names.index(name)).nonzero()[:, 0].tolist()
    if not 1 <= int(group) <= len(groups):
        raise ConfigError(f"{about}: class {name} has groups 1..{len(groups)}")
    return groups[int(group) - 1]
