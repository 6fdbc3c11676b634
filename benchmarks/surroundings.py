"""Evidence outside of things, and prototypes that stand for a place, in the runs of ``accuracy.py``.

OMP_NUM_THREADS=1 SEGPROTO_DATA=DIR python benchmarks/surroundings.py --runs DIR --out OTHER [--data camvid ...]
    [--rows blackbox ...] [--seed 1] [--images 60] [--few 20] [--table]

Validation images only; the runs are read and not written to. A frozen backbone sees each picture once for all rows. A
third figure is of the same thing shown at two heights, in the upper and the lower part of an image: does the
strongest cell of a prototype stay with the thing, or with the place?
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from statistics import mean
from typing import Any

import torch
from remember import remember

from segproto.data.base import SegmentationDataset
from segproto.data.build import build_dataset
from segproto.data.subset import spread
from segproto.evaluation.interpretability.config import InterpretabilityConfig
from segproto.evaluation.interpretability.run import interpret
from segproto.evaluation.interpretability.views import encode
from segproto.model.segmenter import Segmenter
from segproto.model.windows import evaluating
from segproto.prototypes.labels import IGNORE_INDEX, resize_labels
from segproto.runs.settings import data_config

SETS = ("camvid", "msrc21", "fasseg_v2", "garments")
ROWS = ("blackbox", "protoseg", "scaleproto", "nonparametric", "memory")
LOWER = 0.25  # of the height: so much higher does a thing stand in the second picture
NEAR = 1  # cells


@torch.no_grad()
def shown_twice(model: Segmenter, dataset: SegmentationDataset, images: list[int]) -> dict[str, float]:
    """Shares of (image, prototype) whose strongest cell stays with the thing, with the place, or neither.

    Cells that both pictures show are looked at, and prototypes whose class is among them.
    """
    bank = model.head.bank
    assert bank is not None
    class_of, counts = bank.class_of.cpu(), {"thing": 0, "place": 0, "neither": 0}
    for index in images:
        sample = dataset[index]
        image, height = model.encoder.normalisation(sample.image), sample.mask.shape[0]
        stride = model.encoder.stride_multiple
        shift = round(LOWER * height / stride) * stride
        length = (height - shift) // stride * stride
        upper, lower = image[None, :, :length], image[None, :, shift : shift + length]
        maps = [model.head.activations(model.head.cell_features(encode(model, x)))[0].cpu() for x in (upper, lower)]
        rows, columns = maps[0].shape[-2], sample.mask.shape[1] * maps[0].shape[-2] // length  # without the padding
        moved = shift * rows // length
        labels = resize_labels(sample.mask[None, :length].long(), (rows, columns))[0, moved:]
        present = labels[labels != IGNORE_INDEX].unique()
        own = torch.isin(class_of, present)
        first = places(maps[0][own][:, moved:, :columns])
        second = places(maps[1][own][:, : rows - moved, :columns])
        apart = (first - second).abs()
        at_place = (first + torch.tensor([moved, 0]) - second).abs().amax(1) <= NEAR
        with_thing = apart.amax(1) <= NEAR
        counts["thing"] += int(with_thing.sum())
        counts["place"] += int((at_place & ~with_thing).sum())
        counts["neither"] += int((~at_place & ~with_thing).sum())
    return {key: count / max(1, sum(counts.values())) for key, count in counts.items()}


def places(maps: torch.Tensor) -> torch.Tensor:
    """Row and column (P, 2) of the strongest cell of each map (P, h, w)."""
    best = maps.flatten(1).argmax(1)
    return torch.stack([best // maps.shape[-1], best % maps.shape[-1]], 1)


def measure(run: Path, images: int, few: int) -> dict[str, Any]:
    """All figures of a run."""
    model, dataset = Segmenter.load(run / "model"), build_dataset(data_config(run, {}, []), "val")
    prototypes = model.head.bank is not None and not model.head.remembers
    config = InterpretabilityConfig(
        metrics=("context", "position") if prototypes else ("context",), images=images, faithfulness_images=few
    )
    figures = interpret(model, dataset, config)
    with evaluating(model):
        figures["twice"] = shown_twice(model, dataset, spread(len(dataset), images)) if prototypes else None
    return figures


def print_table(found: dict[tuple[str, str], dict[str, Any]]) -> None:
    """A line per set and row, then per class and row."""
    print("| data | row | outside | positional (chance) | down, across | with the thing, the place |\n|" + "---|" * 6)
    for (data, row), figures in found.items():
        metrics, twice, cells = figures["metrics"], figures["twice"], ["", "", ""]
        if twice is not None:
            p = metrics["position"]
            value, chance = (f"{100 * p[key]:.0f}" if p[key] is not None else "-" for key in ("value", "chance"))
            sides = f"{p['down']:.2f}, {p['across']:.2f}" if p["value"] is not None else "-"
            cells = [f"{value} ({chance})", sides, f"{100 * twice['thing']:.0f}, {100 * twice['place']:.0f}"]
        print(f"| {data} | {row} | {100 * metrics['context']['value']:.0f} | " + " | ".join(cells) + " |")
    for data in dict.fromkeys(data for data, _ in found):
        own = {row: figures for (name, row), figures in found.items() if name == data}
        print(f"\n| {data} | images | " + " | ".join(own) + " |\n|" + "---|" * (len(own) + 2))
        shares = [figures["metrics"]["context"] for figures in own.values()]
        for c, name in enumerate(next(iter(own.values()))["classes"]):
            row = [100 * one["per_class"][c] if one["per_class"][c] is not None else None for one in shares]
            if any(value is not None for value in row):
                words = " | ".join("-" if value is None else f"{value:.0f}" for value in row)
                print(f"| {name} | {mean(one['looked_at'][c] for one in shares):.0f} | {words} |")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--runs", type=Path, required=True)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--data", nargs="+", default=list(SETS))
    parser.add_argument("--rows", nargs="+", default=list(ROWS), choices=ROWS)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--images", type=int, default=60)
    parser.add_argument("--few", type=int, default=20)
    parser.add_argument("--table", action="store_true", help="print what there is")
    args = parser.parse_args()
    args.out.mkdir(parents=True, exist_ok=True)
    remember(args.out / "backbone")
    found: dict[tuple[str, str], dict[str, Any]] = {}
    for data in args.data:
        for row in args.rows:
            file, run = args.out / f"{data}-{row}-{args.seed}.json", args.runs / data / row / f"seed{args.seed}"
            if not args.table and not file.is_file() and (run / "checkpoints" / "finished.json").is_file():
                figures = measure(run, args.images, args.few)
                file.write_text(json.dumps(figures))
                print(f"{data} {row}: {figures['seconds']:.0f} s", flush=True)
            if file.is_file():
                found[data, row] = json.loads(file.read_text())
    print_table(found)


if __name__ == "__main__":
    main()
