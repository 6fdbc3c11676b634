"""Our dense CRF against pydensecrf2: one image on all threads, and many images against processes of pydensecrf2.

    python benchmarks/crf.py [--images FOLDER] [--labels 21] [--count 16] [--threads 2]

Images are cut or grown to 375 x 500 (generated pictures without --images); no two labels are alike; the lattice is
included. Prints the best wall time of several interleaved runs, and how many pixels get the same label.
"""

from __future__ import annotations

import argparse
import os
import time
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from functools import partial
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image

from segproto.refine.crf import dense_crf
from segproto.refine.crf_settings import CRF_SETS, CrfSettings

SIZE = (375, 500)


def plain(image: np.ndarray, unary: np.ndarray, settings: CrfSettings) -> np.ndarray:
    """pydensecrf2 on one image; labels."""
    from pydensecrf.densecrf import DenseCRF2D

    (k, h, w), s = unary.shape, settings
    crf = DenseCRF2D(w, h, k)
    crf.setUnaryEnergy(np.ascontiguousarray(unary.reshape(k, -1)))
    crf.addPairwiseGaussian(sxy=s.gaussian_sigma, compat=s.gaussian_weight)
    picture = np.ascontiguousarray(image.transpose(1, 2, 0))
    crf.addPairwiseBilateral(
        sxy=s.bilateral_sigma, srgb=s.bilateral_sigma_rgb, rgbim=picture, compat=s.bilateral_weight
    )
    return np.asarray(crf.inference(s.iterations)).reshape(k, h, w).argmax(0)


def pictures(folder: Path | None, count: int) -> torch.Tensor:
    """(count, 3, H, W) uint8."""
    if folder:
        files = sorted(p for p in folder.rglob("*") if p.suffix.lower() in {".jpg", ".png", ".jpeg"})[:count]
        loaded = [np.asarray(Image.open(f).convert("RGB").resize(SIZE[::-1], Image.Resampling.BICUBIC)) for f in files]
        return torch.from_numpy(np.stack([loaded[i % len(loaded)] for i in range(count)])).permute(0, 3, 1, 2)
    noise = sum(F.interpolate(torch.randn(count, 3, n, n), SIZE, mode="bicubic") for n in (4, 12, 40))
    assert isinstance(noise, torch.Tensor)
    return (127 + 45 * noise + 6 * torch.randn(count, 3, *SIZE)).clamp(0, 255).byte()


def interleaved(runs: int, *calls: Callable[[], object]) -> list[float]:
    """Best wall time of each, taking turns."""
    times = [[] for _ in calls]
    for _ in range(runs):
        for call, own in zip(calls, times, strict=True):
            start = time.perf_counter()
            call()
            own.append(time.perf_counter() - start)
    return [min(own) for own in times]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--images", type=Path)
    parser.add_argument("--labels", type=int, default=21)
    parser.add_argument("--count", type=int, default=16)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--runs", type=int, default=3)
    parser.add_argument("--sets", nargs="+", default=["C", "E"])
    args = parser.parse_args()
    torch.manual_seed(0)
    images = pictures(args.images, args.count)
    logits = F.interpolate(2 * torch.randn(args.count, args.labels, 12, 16), SIZE, mode="bilinear")
    unary = -logits.log_softmax(1)
    i, u = images.numpy(), unary.numpy()
    for name in args.sets:
        s = CRF_SETS[name]
        ours = dense_crf(images[:1], unary[:1], s, labels=True, threads=args.threads)
        same = float((ours[0].numpy() == plain(i[0], u[0], s)).mean())
        a, b1, b = interleaved(
            args.runs,
            partial(plain, i[0], u[0], s),
            partial(dense_crf, images[:1], unary[:1], s, labels=True, threads=1),
            partial(dense_crf, images[:1], unary[:1], s, labels=True, threads=args.threads),
        )
        print(
            f"set {name}, one image, {args.labels} labels: pydensecrf2 {a:.3f} s; ours {b1:.3f} s on one thread, "
            f"{b:.3f} s on {args.threads} ({a / b:.2f}x); same label {100 * same:.3f} % of pixels"
        )
        if args.count < 2:
            continue
        with ProcessPoolExecutor(args.threads) as pool:
            list(pool.map(plain, i[:2], u[:2], [s] * 2))  # processes started
            run_plain = lambda: list(pool.map(plain, i, u, [s] * len(i)))  # noqa: B023, E731
            c, d = interleaved(2, run_plain, partial(dense_crf, images, unary, s, labels=True, threads=args.threads))
        print(
            f"set {name}, {args.count} images: {args.threads} processes of pydensecrf2 {c:.2f} s; "
            f"ours {d:.2f} s on {args.threads} threads ({c / d:.2f}x)"
        )
    print(f"load of the machine {os.getloadavg()[0]:.2f}")


if __name__ == "__main__":
    main()
