"""The training transform against Pillow and torch's own resize."""

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from PIL import Image

from segproto.data.augment import augment, bilinear_window
from segproto.data.config import AugmentConfig

G = torch.Generator().manual_seed(0)
IMAGE = torch.randint(0, 256, (3, 37, 53), generator=G, dtype=torch.uint8)
MASK = torch.randint(0, 5, (37, 53), generator=G, dtype=torch.uint8)
OFF = {"scale": (1, 1), "flip": False}


def shifted(image):
    """A normalisation whose zero is 100: the padding must come out as 0."""
    return image.float() - 100


def run(config, seed=0, image=IMAGE, mask=MASK, normalisation=shifted):
    return augment(image, mask, config, torch.Generator().manual_seed(seed), normalisation)


@pytest.mark.parametrize("size", [(37, 53), (18, 26), (55, 79), (1, 1), (74, 20)])
def test_bilinear_window_is_a_window_of_the_full_resize(size):
    full = F.interpolate(IMAGE[None].double(), size=size, mode="bilinear", align_corners=False)[0]
    for top, left in ((0, 0), (size[0] // 3, size[1] // 4)):
        h, w = (size[0] - top + 1) // 2 or 1, size[1] - left
        got = bilinear_window(IMAGE, size, (top, left, h, w))
        expected = full[:, top : top + h, left : left + w]
        assert got.shape == expected.shape
        assert (got - expected).abs().max() <= 0.5001  # rounded, nothing else


@pytest.mark.parametrize("seed", range(8))
def test_scaled_image_and_mask_against_torch_and_pillow(seed):
    image, mask = run(AugmentConfig(scale=(0.5, 1.5), flip=False), seed)
    h, w = mask.shape
    factor = 0.5 + torch.rand(6, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)[0].item()
    assert (h, w) == (int(37 * factor), int(53 * factor))
    expected = np.asarray(Image.fromarray(MASK.numpy()).resize((w, h), Image.Resampling.NEAREST))
    np.testing.assert_array_equal(mask.numpy(), expected)
    full = F.interpolate(IMAGE[None].double(), size=(h, w), mode="bilinear", align_corners=False)[0]
    assert (image + 100 - full).abs().max() <= 0.5001


def coordinates(h=37, w=53):
    """An image and a mask that both tell where each pixel came from."""
    rows, columns = torch.meshgrid(torch.arange(h), torch.arange(w), indexing="ij")
    image = torch.stack([rows, columns, rows * 0 + 7]).to(torch.uint8)
    return image, ((rows * 3 + columns * 5) % 251).to(torch.uint8)


@pytest.mark.parametrize("settings", [{"flip": True}, {"vertical_flip": True, "flip": False}, {"rotate90": True}])
def test_image_and_mask_move_together(settings):
    image, mask = coordinates()
    seen = set()
    for seed in range(40):
        x, y = run(AugmentConfig(crop=20, scale=(1, 1), **settings), seed, image, mask, lambda i: i.float())
        assert x.shape == (3, 20, 20)
        np.testing.assert_array_equal((x[0] * 3 + x[1] * 5) % 251, y.float())
        seen.add((x[0, 0, 0] < x[0, -1, 0]).item() * 2 + (x[1, 0, 0] < x[1, 0, -1]).item())
    assert len(seen) >= 2


def test_no_change_when_all_is_off():
    x, y = run(AugmentConfig(**OFF))
    np.testing.assert_array_equal(x, IMAGE.float() - 100)
    np.testing.assert_array_equal(y, MASK.long())
    assert y.dtype == torch.int64


def test_small_images_are_padded_with_zero_and_void():
    x, y = run(AugmentConfig(crop=60, **OFF))
    np.testing.assert_array_equal(x[:, :37, :53], IMAGE.float() - 100)
    assert x[:, 37:].abs().max() == 0
    assert x[:, :, 53:].abs().max() == 0
    assert (y[37:] == 255).all()
    assert (y[:, 53:] == 255).all()


def test_crops_reach_every_place():
    image, mask = coordinates()
    corners = set()
    for seed in range(400):
        x, _ = run(AugmentConfig(crop=35, **OFF), seed, image, mask, lambda i: i.float())
        corners.add((int(x[0, 0, 0]), int(x[1, 0, 0])))
    assert {c[0] for c in corners} == {0, 1, 2}
    assert {c[1] for c in corners} == set(range(19))
    flips = sum(bool((run(AugmentConfig(scale=(1, 1)), s)[1] != MASK).any()) for s in range(200))
    assert 70 < flips < 130
