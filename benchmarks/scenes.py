"""Images per second of the scene generator: ``python benchmarks/scenes.py [SIZE] [COUNT]`` (one core)."""

import sys
import time

from segproto.data.config import ScenesConfig
from segproto.data.scenes import render


def main() -> None:
    size = int(sys.argv[1]) if len(sys.argv) > 1 else 128
    count = int(sys.argv[2]) if len(sys.argv) > 2 else 1000
    config = ScenesConfig(size=size)
    render(config, "train", 0)
    start = time.perf_counter()
    for index in range(count):
        render(config, "train", index)
    print(f"{count / (time.perf_counter() - start):.0f} images/s at {size} px")


if __name__ == "__main__":
    main()
