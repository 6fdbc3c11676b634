"""Packed run lengths: COCO's and Label Studio's."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray


def unpack_coco(text: str) -> NDArray[np.int64]:
    """The run lengths of COCO's compressed RLE: six bits per character, signed, as differences to the last but one.

    Raises:
        ValueError: it ends within a number.
    """
    lengths: list[int] = []
    value, shift = 0, 0
    for code in text.encode():
        bits = code - 48
        value |= (bits & 0x1F) << shift
        shift += 5
        if bits & 0x20:
            continue
        if bits & 0x10:
            value |= -1 << shift
        lengths.append(value + lengths[-2] if len(lengths) > 2 else value)
        value, shift = 0, 0
    if shift:
        raise ValueError("run lengths that end within a number")
    return np.array(lengths, np.int64)


def unpack_brush(data: bytes, expected: int) -> NDArray[np.uint8]:
    """The bytes of Label Studio's ``rle``: a stream of bits with its own word sizes at its head.

    Args:
        data: the stream.
        expected: how many bytes must come out.

    Raises:
        ValueError: another number of bytes, or the stream ends early.
    """
    bits = np.unpackbits(np.frombuffer(data, np.uint8))
    position = 0

    def number(count: int) -> int:
        nonlocal position
        if position + count > len(bits):
            raise ValueError("a brush that ends early")
        text = bits[position : position + count]
        position += count
        return int("".join(map(str, text.tolist())) or "0", 2)

    total, word = number(32), 0
    if total != expected:
        raise ValueError(f"a brush of {total} bytes, expected {expected}")
    word = number(5) + 1
    sizes = [number(4) + 1 for _ in range(4)]
    mask = np.zeros(total, np.uint8)
    done = 0
    while done < total:
        repeated = number(1)
        end = min(done + 1 + number(sizes[number(2)]), total)
        if repeated:
            mask[done:end] = number(word)
        else:
            for place_of in range(done, end):
                mask[place_of] = number(word)
        done = end
    return mask
