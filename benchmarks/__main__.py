"""``python -m benchmarks [--quick] [--only WORD] [--threads N] [--out JSON]``: ours beside plain published algorithms.

Every row first checks that both give the same answer. Run it from the repository's root; a row that fails or gives
another answer makes the exit code 1. docs/benchmarks.md is its output.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import sys
import time
from collections.abc import Iterable, Iterator
from dataclasses import asdict
from pathlib import Path

import torch

sys.path[:0] = [str(Path(__file__).parent), str(Path(__file__).parents[1] / "tests" / "support")]
import race  # noqa: E402
from race import Row, Skipped  # noqa: E402


def rows_of(made: Row | Iterator[Row | Skipped]) -> Iterable[Row | Skipped]:
    """One row, or several."""
    return [made] if isinstance(made, Row) else made


def duration(seconds: float) -> str:
    """``1.2 ms`` or ``3.4 s``."""
    return f"{1e3 * seconds:.3g} ms" if seconds < 1 else f"{seconds:.3g} s"


def main() -> int:
    from rows import ROWS

    parser = argparse.ArgumentParser(prog="python -m benchmarks", description=__doc__.splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="smaller problems, under five minutes on two cores")
    parser.add_argument("--only", nargs="+", choices=list(ROWS), default=list(ROWS))
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--cpu-time", action="store_true", help="with one thread, on a machine that others use")
    parser.add_argument("--out", type=Path, help="JSON file")
    parser.add_argument("--growth", action="store_true", help="instead: time and memory against sizes")
    parser.add_argument("--plot", type=Path, help="with --growth: the picture, SVG or PNG")
    parser.add_argument("--most", type=float, default=300, help="with --growth: seconds that a point may take")
    options = parser.parse_args()
    if options.growth:
        import growth

        return growth.main(options.out, options.plot, options.most)
    torch.set_num_threads(options.threads)
    race.CLOCK = time.process_time if options.cpu_time else time.perf_counter
    machine = (
        f"{platform.machine()}, {options.threads} threads, torch {torch.__version__}, load {os.getloadavg()[0]:.1f}"
    )
    print(f"{machine}\n\n| what, and against what | ours | plain | ratio (smallest, largest) | answer |")
    print("|---|---|---|---|---|")
    rows, skipped, failed = [], [], []
    for name in options.only:
        torch.manual_seed(0)
        try:
            for row in rows_of(ROWS[name](options.quick)):
                if isinstance(row, Skipped):
                    skipped.append(row)
                    print(f"| {row.what.replace(' | ', ', against ')} | | | | not measured: {row.why} |", flush=True)
                    continue
                rows.append(row)
                failed += [] if row.same else [f"{name}: another answer ({row.answer})"]
                low, high = row.spread
                print(
                    f"| {row.what.replace(' | ', ', against ')} | {duration(row.ours)} | {duration(row.plain)} | "
                    f"**{row.ratio:.3g}x** ({low:.3g}, {high:.3g}) | {row.answer} |",
                    flush=True,
                )
        except Exception as error:  # one row does not take the others with it
            failed.append(f"{name}: {type(error).__name__}: {error}")
    if options.out is not None:
        value = {
            "machine": machine,
            "quick": options.quick,
            "rows": [row.to_json() for row in rows],
            "skipped": [asdict(row) for row in skipped],
            "failed": failed,
        }
        options.out.write_text(json.dumps(value, indent=1))
    print("\n".join(["", *failed]) if failed else "", file=sys.stderr)
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
