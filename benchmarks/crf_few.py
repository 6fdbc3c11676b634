"""Our dense CRF against pydensecrf2 where an image has two to five labels, and twice on the same image (la and ha).

    python benchmarks/crf_few.py [--images FOLDER] [--runs 3]

375 x 500 pixels, set C, ten iterations, lattices included; processor time of one thread. The lattice of the places is
kept for images of one size, which most sets have; the first of a size costs 0.02 s more.
"""

from __future__ import annotations

import argparse
from functools import partial
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from common import best_ms
from crf import SIZE, pictures, plain

from segproto.refine.crf import dense_crf
from segproto.refine.crf_settings import CRF_SETS


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--images", type=Path)
    parser.add_argument("--runs", type=int, default=3)
    args = parser.parse_args()
    torch.set_num_threads(1)
    torch.manual_seed(0)
    images, rule = pictures(args.images, 1), CRF_SETS["C"]
    picture = images[0].numpy()
    for labels in (2, 3, 4, 5):
        unary = -F.interpolate(2 * torch.randn(2, labels, 12, 16), SIZE, mode="bilinear").log_softmax(1)
        both = [u.numpy() for u in unary]
        theirs = np.stack([plain(picture, u, rule) for u in both])
        same = (dense_crf(images, unary, rule, labels=True).numpy() == theirs).mean()
        one = best_ms(partial(plain, picture, both[0], rule), args.runs)
        ours = best_ms(partial(dense_crf, images, unary[:1], rule, labels=True, threads=1), args.runs)
        two = best_ms(lambda: [plain(picture, u, rule) for u in both], args.runs)  # noqa: B023
        shared = best_ms(partial(dense_crf, images, unary, rule, labels=True, threads=1), args.runs)
        print(
            f"{labels} labels: pydensecrf2 {one:.0f} ms, ours {ours:.0f} ms ({one / ours:.2f}x); la and ha "
            f"{two:.0f} ms, {shared:.0f} ms ({two / shared:.2f}x); same label {100 * same:.3f} % of pixels",
            flush=True,
        )


if __name__ == "__main__":
    main()
