"""A mask that is no picture file: it stands where a path of a mask is expected and is drawn when it is read."""

from __future__ import annotations

from abc import ABC, abstractmethod

import numpy as np
from numpy.typing import NDArray

from segproto.data.archives import Stat


class Drawn(ABC):
    """A mask drawn from shapes, or put together from several files.

    Attributes:
        suffix: as of a path; of no picture.
    """

    suffix = ".drawn"

    @abstractmethod
    def __str__(self) -> str:
        """Where it is drawn from, for messages."""

    @property
    def name(self) -> str:
        return str(self).rpartition("/")[2]

    @abstractmethod
    def labels(self) -> NDArray[np.uint8] | NDArray[np.int64]:
        """The numbers (H, W).

        Raises:
            DataError: naming the file, if it cannot be drawn.
        """

    @abstractmethod
    def stat(self) -> Stat:
        """What changes when the mask does."""
