"""Categories found without labels, matched to classes for scoring (one Hungarian assignment over the whole set)."""

from __future__ import annotations

from typing import NamedTuple

import torch
from scipy.optimize import linear_sum_assignment
from torch import Tensor


class Matching(NamedTuple):
    """A one-to-one assignment.

    Attributes:
        class_of: int64 (K,) class of each category; -1 without one (more categories than classes).
        confusion: int64 (C, C), rows = true classes, columns = the matched categories in the order of the classes
            (0 for a class without one).
        undecided: int64 (C,) pixels of each true class in categories without a class.
    """

    class_of: Tensor
    confusion: Tensor
    undecided: Tensor


def hungarian(counts: Tensor) -> Matching:
    """Matches categories to classes so that most pixels agree (Kuhn 1955), as in the published protocols.

    Args:
        counts: int64 (C, K) pixels; rows = true classes, columns = predicted categories.

    Returns:
        The matching, on the CPU.

    Examples:
        >>> import torch
        >>> hungarian(torch.tensor([[1, 40, 5], [50, 3, 10], [2, 0, 0]])).class_of
        tensor([1, 0, 2])
    """
    table = counts.cpu()
    classes, categories = table.shape
    rows, columns = linear_sum_assignment(table.numpy(), maximize=True)
    class_of = torch.full((categories,), -1, dtype=torch.int64)
    class_of[torch.from_numpy(columns)] = torch.from_numpy(rows)
    confusion = torch.zeros(classes, classes, dtype=table.dtype)
    confusion[:, torch.from_numpy(rows)] = table[:, torch.from_numpy(columns)]
    return Matching(class_of, confusion, table[:, class_of < 0].sum(1))
