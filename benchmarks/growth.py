"""How time and memory grow: each point in a process of its own, one thread, processor time.

    python -m benchmarks --growth [--out growth.json] [--plot growth.svg] [--most 300]

Points that ``--out`` holds already are kept. A series ends where its next point would take more than ``--most`` s.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from pipeline import photos, untrained
from steps import Step, random_batch
from tiny_segmenters import segmenter
from torch import Tensor, nn
from verbs import surroundings

from segproto.data.base import ClassTable, Sample, SegmentationDataset
from segproto.data.config import ScenesConfig
from segproto.data.scenes import ScenesDataset
from segproto.encoders.base import HALF, Encoder
from segproto.encoders.config import EncoderConfig
from segproto.evaluation.validate import validate
from segproto.methods import METHODS
from segproto.model.heads import PrototypeHead
from segproto.model.predict import predict
from segproto.model.segmenter import Segmenter
from segproto.prototypes.bank import PrototypeBank
from segproto.runs.catalogue import read_recipe
from segproto.training.procedures.projection import search
from segproto.training.recipe import apply_overrides, validate_recipe


@dataclass(frozen=True)
class Series:
    """A line of a picture.

    Attributes:
        panel: what grows.
        name: of the line.
        sizes: its points.
        power: time is expected to grow with this power of the size.
    """

    panel: str
    name: str
    sizes: tuple[int, ...]
    power: int = 1


METHODS_SHOWN = ("protoseg", "scaleproto", "nonparametric")
SIDES = (1000, 2000, 5000, 10000, 20000)
SERIES = (
    Series("side of the image (pixels)", "predict", SIDES, 2),
    Series("side of the image (pixels)", "evaluate", SIDES, 2),
    *(Series("classes", f"step of {method}", (19, 150, 847)) for method in METHODS_SHOWN),
    *(Series("prototypes per class", f"step of {method}", (3, 10, 30, 100)) for method in METHODS_SHOWN),
    Series("images in a projection", "search", (100, 1000, 10000, 100000)),
    Series("processes", "predict of 64 photos, first process", (1, 2, 4), 0),
)


class Flat(SegmentationDataset):
    """One image of one colour, which takes no memory itself."""

    split, fingerprint, names = "val", "flat", ("flat",)

    def __init__(self, classes: ClassTable, side: int) -> None:
        self.classes, self.side = classes, side

    def __getitem__(self, index: int) -> Sample:
        pixels = torch.full((3, 1, 1), 90, dtype=torch.uint8).expand(3, self.side, self.side)
        return Sample(pixels, torch.ones(1, 1, dtype=torch.uint8).expand(self.side, self.side), "flat")


def image_work(name: str, side: int) -> Callable[[], object]:
    """A network of one convolution, six classes: what is around it counts."""
    model = segmenter("grouped", classes=6, stride=8)
    data = Flat(model.classes, side)
    return lambda: predict(model, data[0].image, max_pixels=2**30) if name == "predict" else validate(model, data)


def step_work(name: str, classes: int, prototypes: int | None = None) -> Callable[[], object]:
    """A step on two images of 128 pixels with the quickstart's encoder."""
    method = name.removeprefix("step of ")
    settings = [] if prototypes is None else [f"model.prototypes={prototypes}"]
    recipe = validate_recipe(apply_overrides(read_recipe(f"{method}/scenes"), settings), METHODS[method].recipe)
    step = Step.of(method, recipe, classes, torch.device("cpu"), "joint")
    batch = random_batch(2, 128, classes, torch.device("cpu"))
    return lambda: step(batch)


class Simulated(SegmentationDataset):
    """Many images whose features are drawn from a few."""

    split, fingerprint = "train", "simulated"

    def __init__(self, count: int, classes: int) -> None:
        self.names = range(count)  # type: ignore[assignment]
        self.classes = ClassTable(tuple(map(str, range(classes))), ((0, 0, 0),) * classes)
        self._masks = torch.randint(0, classes, (16, 9, 9), dtype=torch.uint8).repeat_interleave(8, 1)
        self._masks = self._masks.repeat_interleave(8, 2)
        self._features = torch.rand(16, 256, 9, 9)

    def __getitem__(self, index: int) -> Sample:
        return Sample(torch.zeros(3, 1, 1, dtype=torch.uint8), self._masks[index % 16], str(index))

    def get(self, index: int, flipped: bool) -> Tensor:
        """As a cache of features."""
        return self._features[index % 16]


def search_work(count: int) -> Callable[[], object]:
    """The pass over the images for 228 prototypes on 4 scales; features of 9 x 9 cells."""
    data = Simulated(count, 19)
    encoder = Encoder(nn.Identity(), nn.Identity(), (64,) * 4, HALF, EncoderConfig(squash="none", pad=False))
    model = Segmenter(encoder, PrototypeHead(PrototypeBank.regular(19, 3, 4, 64)), data.classes).eval()
    context = surroundings(model, data)

    def work() -> object:
        with torch.no_grad():
            return search(context, data, data, "nearest_label", lambda features: model.head.distances(features)[0])

    return work


def ranks_point(ranks: int) -> dict[str, float]:
    """Processor time and memory of the command's first process, its start included; the others are not counted."""
    with tempfile.TemporaryDirectory() as temporary:
        root = Path(temporary)
        photos(root / "photos", 64, (360, 480))
        untrained("scaleproto/folder", ScenesDataset(ScenesConfig(num_train=1, num_val=1), "train")).save(
            root / "model"
        )
        words = ["predict", str(root / "model"), str(root / "photos"), "--out", str(root / "masks"), "--device", "cpu"]
        command = [sys.executable, "-m", "segproto.cli", *words, "--devices", str(ranks)]
        subprocess.run(command, check=True, capture_output=True)
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return {"seconds": used.ru_utime + used.ru_stime, "bytes": 1024 * used.ru_maxrss}


def work_of(series: Series, size: int) -> Callable[[], object]:
    """What is measured."""
    if series.panel.startswith("side"):
        return image_work(series.name, size)
    if series.panel == "classes":
        return step_work(series.name, size)
    if series.panel == "prototypes per class":
        return step_work(series.name, 19, size)
    return search_work(size)


def point(series: Series, size: int) -> dict[str, float]:
    """Seconds of processor time after a small warm-up, and by how much the process grew from its start."""
    torch.set_num_threads(1)
    if series.panel == "processes":
        return ranks_point(size)

    def peak() -> int:
        return 1024 * resource.getrusage(resource.RUSAGE_SELF).ru_maxrss

    before = peak()
    work_of(series, series.sizes[0])()
    torch.manual_seed(0)
    work, times = work_of(series, size), []
    for _ in range(4 if series.name.startswith("step") else 1):
        start = time.process_time()
        work()
        times.append(time.process_time() - start)
    return {"seconds": min(times), "bytes": peak() - before}


def measured(most: float, kept: dict[str, Any]) -> Iterator[tuple[Series, int, dict[str, Any]]]:
    """Every point that is not kept already."""
    here = Path(__file__).parent
    path = os.pathsep.join([str(here), str(here.parent / "tests" / "support"), *filter(None, sys.path)])
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": path}
    for number, series in enumerate(SERIES):
        expected, last = 0.0, 0
        for size in series.sizes:
            found = kept.get(f"{series.panel} | {series.name} | {size}")
            if found is None and last:
                expected *= (size / last) ** series.power
            if found is None and expected > most:
                found = {"skipped": f"would take about {expected:.0f} s"}
            elif found is None:
                command = [sys.executable, str(here / "growth.py"), str(number), str(size)]
                done = subprocess.run(command, capture_output=True, text=True, env=environment, check=False)
                lines = (done.stderr.strip() or "killed").splitlines()
                found = json.loads(done.stdout.splitlines()[-1]) if done.returncode == 0 else {"skipped": lines[-1]}
            yield series, size, found
            expected, last = found.get("seconds", expected), size


def draw(points: dict[str, Any], out: Path) -> None:
    """Time above, memory below, both axes logarithmic."""
    import matplotlib as mpl

    mpl.use("Agg")
    mpl.rcParams |= {"svg.hashsalt": "growth", "svg.fonttype": "none"}  # the same file for the same numbers, and small
    from matplotlib import pyplot as plt
    from matplotlib.ticker import FuncFormatter, NullFormatter

    panels = list(dict.fromkeys(series.panel for series in SERIES))
    figure, axes = plt.subplots(2, len(panels), figsize=(3.1 * len(panels), 5.2), sharex="col", layout="constrained")
    for column, panel in enumerate(panels):
        lines = [series for series in SERIES if series.panel == panel]
        for row, key in enumerate(("seconds", "bytes")):
            axis = axes[row, column]
            for series, marker in zip(lines, "os^", strict=False):
                found = [(size, points.get(f"{panel} | {series.name} | {size}", {}).get(key)) for size in series.sizes]
                xs = [size for size, value in found if value]
                ys = [value / (2**20 if key == "bytes" else 1) for _, value in found if value]
                axis.plot(xs, ys, marker=marker, markersize=4, label=series.name)
            axis.set(xscale="log", yscale="log")
            low, high = axis.get_ylim()
            middle = (low * high) ** 0.5
            axis.set_ylim(min(low, middle / 5), max(high, middle * 5))  # what hardly grows is to look so
            axis.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
            axis.yaxis.set_minor_formatter(NullFormatter())
            axis.grid(alpha=0.25)
            axis.set_xticks(lines[0].sizes, [f"{size:,}" for size in lines[0].sizes], fontsize=7)
            axis.set_xticks([], minor=True)
            if row == 0:
                axis.legend(fontsize=7, frameon=False)
            else:
                axis.set_xlabel(panel, fontsize=9)
    axes[0, 0].set_ylabel("seconds")
    axes[1, 0].set_ylabel("MiB")
    figure.savefig(out, metadata={"Date": None} if out.suffix == ".svg" else None, dpi=110)


def main(out: Path | None, plot: Path | None, most: float) -> int:
    """Measures, prints a table, writes JSON after every point, and draws."""
    points: dict[str, Any] = json.loads(out.read_text()) if out is not None and out.exists() else {}
    print("| what grows | of | size | time | memory |\n|---|---|---|---|---|")
    for series, size, found in measured(most, dict(points)):
        points[f"{series.panel} | {series.name} | {size}"] = found
        told = (
            f"not run: {found['skipped']} |"
            if "skipped" in found
            else f"{found['seconds']:.3g} s | {found['bytes'] / 2**20:.0f} MiB"
        )
        print(f"| {series.panel} | {series.name} | {size:,} | {told} |", flush=True)
        if out is not None:
            out.write_text(json.dumps(points, indent=1))
    if plot is not None:
        draw(points, plot)
    return 0


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description="one point, as JSON")
    parser.add_argument("series", type=int)
    parser.add_argument("size", type=int)
    asked = parser.parse_args()
    print(json.dumps(point(SERIES[asked.series], asked.size)))
