"""The images of the page: validation images by number, and those that a person brought."""

from __future__ import annotations

import io
import threading
from collections import OrderedDict
from collections.abc import Callable, Hashable
from dataclasses import dataclass
from typing import Generic, TypeVar

from torch import Tensor

from segproto.data.images import open_stored
from segproto.data.picture import ImageLike
from segproto.errors import ConfigError, DataError

UPLOAD_BYTES = 64 * 2**20
UPLOAD_PIXELS = 10_000 * 10_000
UPLOADS = 8  # kept in memory
T = TypeVar("T")


class Recent(Generic[T]):
    """What was made last, by what it was made of. Of two threads that want the same one makes it.

    Args:
        size: how many are kept.
    """

    def __init__(self, size: int) -> None:
        self.size = size
        self._kept: OrderedDict[Hashable, T] = OrderedDict()
        self._busy: dict[Hashable, threading.Lock] = {}
        self._lock = threading.Lock()

    def get(self, key: Hashable, make: Callable[[], T]) -> T:
        """The value of a key, made now if it is not kept."""
        with self._lock:
            if key in self._kept:
                self._kept.move_to_end(key)
                return self._kept[key]
            busy = self._busy.setdefault(key, threading.Lock())
        with busy:
            with self._lock:
                if key in self._kept:
                    return self._kept[key]
            try:
                value = make()
            finally:
                with self._lock:
                    self._busy.pop(key, None)
            with self._lock:
                self._kept[key] = value
                while len(self._kept) > self.size:
                    self._kept.popitem(last=False)
            return value


@dataclass(frozen=True)
class Brought:
    """An image to look at.

    Attributes:
        name: of the file.
        image: as :func:`segproto.data.picture.look_at` takes it.
        mask: (H, W), its truth, 255 = void; None without one.
    """

    name: str
    image: ImageLike
    mask: Tensor | None = None


class Uploads:
    """Pictures that were dropped onto the page, in memory, the latest few."""

    def __init__(self) -> None:
        self._pictures: OrderedDict[str, Brought] = OrderedDict()
        self._count = 0
        self._lock = threading.Lock()

    def add(self, content: bytes, name: str) -> str:
        """Takes a picture in and returns its key.

        Raises:
            DataError: it is none, is broken, or has too many pixels.
        """
        name = "".join(c for c in name if c.isprintable())[:100] or "image"
        with open_stored(io.BytesIO(content), name, UPLOAD_PIXELS) as picture:
            picture.load()
        with self._lock:
            self._count += 1
            key = f"u{self._count}"
            self._pictures[key] = Brought(name, picture)
            while len(self._pictures) > UPLOADS:
                self._pictures.popitem(last=False)
        return key

    def get(self, key: str) -> Brought:
        """The picture of a key.

        Raises:
            DataError: it is gone.
        """
        with self._lock:
            if key not in self._pictures:
                raise DataError(f"this image is no longer here (the last {UPLOADS} are kept); drop it again")
            return self._pictures[key]


def too_large() -> ConfigError:
    """What to say of an upload with too many bytes."""
    return ConfigError(f"the file has more than {UPLOAD_BYTES // 2**20} MiB; make the picture smaller")
