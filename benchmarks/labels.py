"""Reading a data set's labels: the 256-entry table beside the per-pixel dictionary, and how long opening one takes.

    python benchmarks/labels.py

The published loaders look every pixel up in a dictionary (specs: 106 ms a Cityscapes label, in every ``__getitem__``).
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
    """2,975 + 500 Cityscapes names in an empty tree of the official layout, all four label files of each."""
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
        config = DataConfig(
            name="folder",
            root=root,
            images="leftImg8bit",
            labels="gtFine",
            image_suffix="_leftImg8bit",
            label_suffix="_gtFine_labelIds",
            classes=Path("cityscapes"),
            split={"train_folder": "train", "val_folder": "val"},
        )
        begin, cpu = time.perf_counter(), time.process_time()
        sizes = [len(build_dataset(config, split)) for split in ("train", "val")]
        assert sizes == [2975, 500]
        wall, cpu = time.perf_counter() - begin, time.process_time() - cpu
        print(f"opening {sizes[0]} + {sizes[1]} names: {wall:.2f} s ({cpu:.2f} s of processor time)")


if __name__ == "__main__":
    conversion()
    opening()
