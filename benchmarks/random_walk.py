"""The random walk by sparse products against squaring the dense matrix, as published.

python benchmarks/random_walk.py [--threads 2] [--log-steps 6]
"""

from __future__ import annotations

import argparse
import os

import torch
from common import best_ms

from segproto.refine.affinity import affinity, cell_pairs
from segproto.refine.random_walk import dense_affinity, random_walk


def plain(scores: torch.Tensor, dense: torch.Tensor, beta: float, log_steps: int) -> torch.Tensor:
    t = dense**beta
    t = t / t.sum(0, keepdim=True)
    for _ in range(log_steps):
        t = t @ t
    return scores @ t


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--log-steps", type=int, default=6)
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    torch.manual_seed(0)
    h, w = 47, 63
    pairs = cell_pairs(h, w, complete=False)
    a = affinity(torch.rand(1, 64, h, w) * 2, pairs)
    scores = torch.rand(1, 21, h, w)
    dense = dense_affinity(a[0], pairs)
    off = (
        (
            random_walk(scores, a, pairs, log_steps=args.log_steps)[0].flatten(1)
            - plain(scores[0].flatten(1), dense, 8, args.log_steps)
        )
        .abs()
        .max()
    )
    ours = best_ms(lambda: random_walk(scores, a, pairs, log_steps=args.log_steps), 8)
    theirs = best_ms(lambda: plain(scores[0].flatten(1), dense, 8, args.log_steps), 2)
    print(
        f"grid {h} x {w}, 21 channels, {2**args.log_steps} steps, {args.threads} threads: sparse {ours / 1e3:.3f} s, "
        f"dense squaring {theirs / 1e3:.2f} s ({theirs / ours:.0f}x); largest difference {off:.1e}; "
        f"load {os.getloadavg()[0]:.1f}"
    )


if __name__ == "__main__":
    main()
