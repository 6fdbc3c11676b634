"""Our dense CRF against pydensecrf2: one image on all threads, and many images against processes of pydensecrf2."""

from __future__ import annotations

import importlib.util
import os
import time
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image
from race import Row, Skipped, race

from segproto.refine.crf import dense_crf
from segproto.refine.crf_settings import CRF_SETS, CrfSettings

SIZE = (375, 500)
LABELS = 21


def plain(image: np.ndarray, unary: np.ndarray, settings: CrfSettings) -> np.ndarray:
    """pydensecrf2 on one image; labels."""
    from pydensecrf.densecrf import DenseCRF2D

    (k, h, w), s = unary.shape, settings
    crf = DenseCRF2D(w, h, k)
    crf.setUnaryEnergy(np.ascontiguousarray(unary.reshape(k, -1)))
    crf.addPairwiseGaussian(sxy=s.gaussian_sigma, compat=s.gaussian_weight)
    picture = np.ascontiguousarray((image[::-1] if s.colours == "bgr" else image).transpose(1, 2, 0))
    crf.addPairwiseBilateral(
        sxy=s.bilateral_sigma, srgb=s.bilateral_sigma_rgb, rgbim=picture, compat=s.bilateral_weight
    )
    return np.asarray(crf.inference(s.iterations)).reshape(k, h, w).argmax(0)


def pictures(count: int) -> tuple[torch.Tensor, str]:
    """(count, 3, H, W) uint8: photographs of MSRC where they are at hand, else noise at several scales; and which."""
    folder = Path(os.environ.get("SEGPROTO_DATA", ".")) / "msrc21" / "images"
    files = sorted(folder.glob("*"))[:count]
    if files:
        loaded = [np.asarray(Image.open(f).convert("RGB").resize(SIZE[::-1], Image.Resampling.BICUBIC)) for f in files]
        return torch.from_numpy(np.stack(loaded)).permute(0, 3, 1, 2), "photographs"
    noise = sum(F.interpolate(torch.randn(count, 3, n, n), SIZE, mode="bicubic") for n in (4, 12, 40))
    assert isinstance(noise, torch.Tensor)
    return (127 + 45 * noise + 6 * torch.randn(count, 3, *SIZE)).clamp(0, 255).byte(), "noise"


def energies(count: int, labels: int) -> torch.Tensor:
    """(count, labels, H, W), no two labels alike."""
    return -F.interpolate(2 * torch.randn(count, labels, 12, 16), SIZE, mode="bilinear").log_softmax(1)


def crf_rows(quick: bool) -> Iterator[Row | Skipped]:
    """Ten iterations on 375 x 500 pixels, lattices included."""
    if importlib.util.find_spec("pydensecrf") is None:
        yield Skipped("dense CRF | pydensecrf2", "pip install pydensecrf2")
        return
    count, threads = 4 if quick else 16, torch.get_num_threads()
    images, what = pictures(count)
    for name in ("C", "E"):
        rule, unary = CRF_SETS[name], energies(count, LABELS)
        yield one_image(f"set {name}, {LABELS} labels, {what}", images[:1], unary[:1], rule)
        i, u = images.numpy(), unary.numpy()
        with ProcessPoolExecutor(threads) as pool:

            def theirs() -> np.ndarray:
                return np.stack(list(pool.map(plain, i, u, [rule] * count)))  # noqa: B023

            def ours() -> torch.Tensor:
                return dense_crf(images, unary, rule, labels=True, threads=threads)  # noqa: B023

            same = float((ours().numpy() == theirs()).mean())
            words = f"dense CRF, {count} images, set {name} | {threads} processes of pydensecrf2"
            yield race(words, ours, theirs, agreement(same), 1 if quick else 2, clock=time.perf_counter)
    for labels in (2, 5):
        unary = energies(1, labels)
        yield one_image(f"set C, {labels} labels, {what}", images[:1], unary, CRF_SETS["C"])


def one_image(words: str, image: torch.Tensor, unary: torch.Tensor, rule: CrfSettings) -> Row:
    """A row of one image (1, 3, H, W) on all threads."""
    given = (image[0].numpy(), unary[0].numpy(), rule)

    def ours() -> torch.Tensor:
        return dense_crf(image, unary, rule, labels=True, threads=torch.get_num_threads())

    same = float((ours()[0].numpy() == plain(*given)).mean())
    return race(f"dense CRF, one image, {words} | pydensecrf2", ours, lambda: plain(*given), agreement(same), 3)


def agreement(share: float) -> tuple[str, bool]:
    """How many pixels have the same label, and whether that is enough."""
    return f"{share:.3%} of the labels", share > 0.999
