"""Label resizing against PIL, and the membership rules against pixel loops."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from segproto.prototypes.labels import nearest_table, resize_labels
from segproto.prototypes.membership import any_pixel, nearest_label


def pil_table(source: int, target: int) -> list[int]:
    row = Image.fromarray(np.arange(source, dtype=np.float32)[None])
    return np.asarray(row.resize((target, 1), Image.Resampling.NEAREST))[0].astype(int).tolist()


@given(st.integers(1, 3000), st.integers(1, 700))
@settings(max_examples=300, deadline=None)
def test_table_equals_pil(source: int, target: int) -> None:
    assert nearest_table(source, target).tolist() == pil_table(source, target)


@pytest.mark.parametrize(
    ("source", "target", "index", "expected"), [(2048, 257, 128, 1023), (640, 81, 40, 319), (480, 61, None, None)]
)
def test_table_golden_values(source: int, target: int, index: int | None, expected: int | None) -> None:
    table = nearest_table(source, target).tolist()
    assert table == pil_table(source, target)
    if index is not None:
        assert table[index] == expected


@pytest.mark.parametrize("size", [(17, 23), (33, 65), (97, 130), (1, 1), (200, 31)])
def test_resize_equals_pil_in_two_dimensions(size: tuple[int, int]) -> None:
    labels = torch.randint(0, 256, (3, 97, 130), generator=torch.Generator().manual_seed(0))
    out = resize_labels(labels, size)
    assert out.shape == (3, *size)
    for one, small in zip(labels, out, strict=True):
        image = Image.fromarray(one.numpy().astype(np.float32)).resize(size[::-1], Image.Resampling.NEAREST)
        assert np.array_equal(np.asarray(image), small.numpy())


def test_nearest_label_takes_the_nearest_pixel() -> None:
    labels = torch.randint(0, 4, (21, 30))
    labels[:5] = 255
    allowed = nearest_label(labels, (6, 7), 4)
    small = resize_labels(labels, (6, 7))
    assert allowed.shape == (4, 6, 7)
    for c in range(4):
        assert torch.equal(allowed[c], small == c)


@pytest.mark.parametrize(
    ("size", "grid"), [((21, 30), (6, 7)), ((8, 8), (8, 8)), ((65, 33), (9, 5)), ((5, 4), (7, 6)), ((18, 27), (14, 21))]
)
def test_any_pixel_equals_pixel_loop(size: tuple[int, int], grid: tuple[int, int]) -> None:
    labels = torch.randint(0, 5, size, generator=torch.Generator().manual_seed(1))
    labels[labels == 4] = 255
    expected = torch.zeros(4, *grid, dtype=torch.bool)
    for y in range(size[0]):
        for x in range(size[1]):
            if labels[y, x] != 255:
                expected[labels[y, x], int(y / (size[0] / grid[0])), int(x / (size[1] / grid[1]))] = True
    assert torch.equal(any_pixel(labels, grid, 4), expected)
