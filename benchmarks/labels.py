"""Reading a data set's labels: the 256-entry table beside the per-pixel dictionary, and how long opening one takes.

    python benchmarks/labels.py

The published loaders look every pixel up in a dictionary (106 ms per Cityscapes label, in every ``__getitem__``).
"""

from __future__ import annotations

import tempfile
import time
from pathlib import Path

import numpy as np

from segproto.data.build import build_dataset
from segproto.data.classes import EXAMPLES, read_classes
from segproto.data.config import DataConfig


def best(function, repeats: int = 7) -> float:
    """Shortest of some runs, in seconds."""
    times = []
    for _ in range(repeats):
        begin = time.perf_counter()
        function()
        times.append(time.perf_counter() - begin)
    return min(times)


def conversion() -> None:
    """One 1024x2048 label."""
    labels = read_classes(EXAMPLES / "cityscapes.yaml").labels
    stored = np.random.default_rng(0).integers(0, 34, (1024, 2048)).astype(np.uint8)
    lookup = labels.lookup

    def dictionary() -> np.ndarray:
        return np.vectorize(lookup.__getitem__)(stored).astype(np.uint8)

    assert (dictionary() == labels.apply(stored, "label")).all()
    naive, table = best(dictionary, 3), best(lambda: labels.apply(stored, "label"))
    print(f"a 1024x2048 label: dictionary {naive * 1e3:.1f} ms, table {table * 1e3:.1f} ms, ratio {naive / table:.0f}")


def opening() -> None:
    """2,975 + 500 Cityscapes names in an empty tree of the official layout, all four label files of each.

    Opened as users do, with ``data.name=cityscapes``, wall time of ten fresh constructors.
    """
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder)
        for split, cities, count in (("train", 18, 2975), ("val", 3, 500)):
            for city in range(cities):
                for kind in ("leftImg8bit", "gtFine"):
                    (root / kind / split / f"city{city:02d}").mkdir(parents=True)
            for i in range(count):
                city = f"city{i % cities:02d}"
                name = f"{city}_{i // 100:06d}_{i % 100:06d}"
                (root / "leftImg8bit" / split / city / f"{name}_leftImg8bit.png").touch()
                for kind in ("labelIds.png", "instanceIds.png", "color.png", "polygons.json"):
                    (root / "gtFine" / split / city / f"{name}_gtFine_{kind}").touch()
        config, walls, cpu = DataConfig(name="cityscapes", root=root), [], time.process_time()
        for _ in range(10):
            begin = time.perf_counter()
            sizes = [len(build_dataset(config, split)) for split in ("train", "val")]
            walls.append(time.perf_counter() - begin)
            assert sizes == [2975, 500]
        cpu = (time.process_time() - cpu) / len(walls)
        times = f"first {walls[0]:.2f} s, median {sorted(walls)[5]:.2f} s, worst {max(walls):.2f} s"
        print(f"opening 2975 + 500 names, {len(walls)} times: {times} ({cpu:.2f} s of processor time each)")


if __name__ == "__main__":
    conversion()
    opening()
