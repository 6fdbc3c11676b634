"""Images per second of the scene generator: ``python benchmarks/scenes.py [SIZE] [COUNT]`` (one core)."""

import sys
import time

from segproto.data.config import ScenesConfig
from segproto.data.scenes import render


def main() -> None:
    size, count = (int(a) for a in (sys.argv[1:] + ["128", "1000"][len(sys.argv) - 1 :]))
    config = ScenesConfig(size=size)
    render(config, "train", 0)
    start = time.perf_counter()
    for index in range(count):
        render(config, "train", index)
    print(f"{count / (time.perf_counter() - start):.0f} images/s at {size} px")


if __name__ == "__main__":
    main()
