"""The images of the page: validation images by number, and those that a person brought."""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Callable, Hashable
from dataclasses import dataclass, replace
from functools import partial
from typing import Generic, TypeVar

from torch import Tensor

from segproto.data.archives import Held
from segproto.data.bands import TooManyPixels
from segproto.data.base import Sample
from segproto.data.picture import Picture, look_at
from segproto.data.pixels import PLAIN, PixelRule
from segproto.errors import ConfigError, DataError

UPLOAD_BYTES = 64 * 2**20
UPLOAD_PIXELS = 10_000 * 10_000
UPLOADS = 8  # kept in memory, as they were sent
DECODED = 2  # of these: up to 0.4 GB each
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
    image: Held | Sample
    mask: Tensor | None = None


class Uploads:
    """Pictures that were dropped onto the page, in memory, the latest few; of these the last two decoded."""

    def __init__(self) -> None:
        self._files: OrderedDict[str, Held] = OrderedDict()
        self._pictures: Recent[Picture] = Recent(DECODED)
        self._count = 0
        self._lock = threading.Lock()

    def add(self, content: bytes, name: str, rule: PixelRule = PLAIN) -> str:
        """Takes a picture in and returns its key.

        Args:
            content: of the file.
            name: of the file.
            rule: of the model that is to look at it: what it cannot read is refused.

        Raises:
            DataError: it is none, is broken, has too many pixels or other bands than the model's.
        """
        file = Held("".join(c for c in name if c.isprintable())[:100] or "image", content)
        picture = opened(file, rule)
        with self._lock:
            self._count += 1
            key = f"u{self._count}"
            self._files[key] = file
            while len(self._files) > UPLOADS:
                self._files.popitem(last=False)
        self._pictures.get((key, rule), lambda: picture)
        return key

    def get(self, key: str) -> Brought:
        """The picture of a key.

        Raises:
            DataError: it is gone.
        """
        file = self._file(key)
        return Brought(file.name, file)

    def _file(self, key: str) -> Held:
        with self._lock:
            if key not in self._files:
                raise DataError(f"this image is no longer here (the last {UPLOADS} are kept); drop it again")
            return self._files[key]

    def picture(self, key: str, rule: PixelRule) -> Picture:
        """Its pixels, as a model of that rule takes them.

        Raises:
            DataError: it is gone, or has other bands than the model's.
        """
        file = self._file(key)
        return self._pictures.get((key, rule), lambda: opened(file, rule))


def opened(file: Held, rule: PixelRule) -> Picture:
    """A picture that several requests read at once, by the same rules as a file on the disk.

    Raises:
        DataError: see :meth:`Uploads.add`.
    """
    try:
        picture = look_at(file, UPLOAD_PIXELS, rule)
    except TooManyPixels as error:
        raise DataError(f"{error.size}, more than the {UPLOAD_PIXELS // 10**6} megapixels that are looked at") from None
    lock = threading.Lock()

    def one_by_one(read: Callable[[int, int, int, int], Tensor], *window: int) -> Tensor:
        with lock:
            return read(window[0], window[1], window[2], window[3])

    inside = None if picture.inside is None else partial(one_by_one, picture.inside)
    return replace(picture, read=partial(one_by_one, picture.read), inside=inside)


def too_large() -> ConfigError:
    """What to say of an upload with too many bytes."""
    return ConfigError(f"the file has more than {UPLOAD_BYTES // 2**20} MiB; make the picture smaller")
