"""One table of accuracy: every method with masks on seven data sets, paired with the black box of the same encoder.

OMP_NUM_THREADS=2 SEGPROTO_DATA=DIR python benchmarks/accuracy.py --out DIR [--data camvid ...] [--rows scaleproto ...]
    [--seeds 1 2 3] [--minutes M] [--table]

Each cell is a run of a few minutes, of EM of up to fifteen. Finished runs stay, a killed script goes on where it was,
and after M minutes no further run begins. ``--table`` prints what there is. Recipes and settings are those of the
project for such data; none was chosen on the images that are scored here.
"""

from __future__ import annotations

import argparse
import json
import os
import time
from collections.abc import Iterator
from pathlib import Path
from statistics import mean, stdev
from typing import Any, NamedTuple

import yaml
from tagged_sets import CLOTHES

from segproto import api

DATA = Path(os.environ.get("SEGPROTO_DATA", "data"))
VIT = f"encoder.weights={DATA / 'weights' / 'vit_tiny_patch16_224_in1k.safetensors'}"
ROWS = ("blackbox", "protoseg", "scaleproto", "nonparametric", "memory")


class Set(NamedTuple):
    """A data set: its recipe of each method and settings."""

    recipe: str
    settings: list[str]
    memory: str = "folder"
    behind_neck: bool = False  # memory: of the black box's features, where the encoder is trained


def sets(out: Path) -> dict[str, Set]:
    return {
        "scenes": Set("scenes", [], "scenes", True),
        "isbi2012_em": Set("em_small", [f"data.root={DATA / 'isbi2012_em'}"], "folder", True),
        "camvid": Set("camvid", [f"data.root={DATA / 'camvid'}", VIT], "camvid"),
        "msrc21": folder("msrc21"),
        "fasseg_v2": folder("fasseg_v2", "train.batch_size=2", "data.augment.flip=false"),
        "persons": folder("ccp500_half", "train.batch_size=2", "data.augment.flip=false"),
        "garments": folder(
            "ccp500_half", "train.batch_size=2", "data.augment.flip=false", classes=str(garments(out / "garments.yaml"))
        ),
        "dubai_aerial": folder("dubai_aerial", "encoder.input_scale=0.5", "train.batch_size=4"),
    }


def folder(name: str, *settings: str, classes: str | None = None) -> Set:
    return Set("folder", [f"data.root={DATA / name}", f"data.classes={classes or name}", VIT, *settings])


def garments(file: Path) -> Path:
    """Classes of clothes by kind; skin, hair and shoes are background. Every fifth photo is validation."""
    worn = {value for values in CLOTHES.values() for value in values}
    kinds = [{"name": "background", "values": [value for value in range(59) if value not in worn]}]
    kinds += [{"name": name, "values": values} for name, values in CLOTHES.items()]
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(yaml.safe_dump({"classes": kinds, "split": {"val_pattern": "[05]$"}}))
    return file


class Cell(NamedTuple):
    """One run."""

    data: str
    row: str
    seed: int
    folder: Path


def cells(out: Path, data: list[str], rows: list[str], seeds: list[int]) -> Iterator[Cell]:
    """All runs, those that others start from first."""
    for seed in seeds:
        for name in data:
            for row in sorted(rows, key=ROWS.index):
                yield Cell(name, row, seed, out / name / row / f"seed{seed}")


def train(cell: Cell, chosen: Set, out: Path) -> bool:
    """A run that is finished is left alone (False), one that was cut off is resumed."""
    if (cell.folder / "checkpoints" / "finished.json").is_file():
        return False
    if (cell.folder / "recipe.yaml").is_file():
        api.train(resume=cell.folder, quiet=True)
        return True
    recipe, settings, start = chosen.recipe, [*chosen.settings, f"train.seed={cell.seed}"], None
    if cell.row == "memory":
        recipe = chosen.memory
        settings = [s for s in settings if not s.startswith(("stages.", "train.batch_size"))]
        if chosen.behind_neck:
            start = out / cell.data / "blackbox" / f"seed{cell.seed}"
    begin = time.process_time()
    api.train(f"{cell.row}/{recipe}", out=cell.folder, start=start, overrides=settings, quiet=True)
    seconds = time.process_time() - begin
    (cell.folder / "seconds.json").write_text(json.dumps(seconds))
    print(f"{cell.data}, {cell.row}, seed {cell.seed}: {seconds:.0f} s of processor time", flush=True)
    return True


def figures(folder: Path) -> dict[str, Any] | None:
    """The last stage's figures of a finished run, with its seconds of processor time."""
    finished = folder / "checkpoints" / "finished.json"
    if not finished.is_file():
        return None
    stages = list(json.loads(finished.read_text())["stages"].values())
    value: dict[str, Any] = stages[-1]
    seconds = folder / "seconds.json"
    value["seconds"] = json.loads(seconds.read_text()) if seconds.is_file() else None
    return value


def spread(values: list[float]) -> str:
    return f"{mean(values):.1f}" + (f" ± {stdev(values):.1f}" if len(values) > 1 else "")


def print_table(out: Path, data: list[str], rows: list[str], seeds: list[int]) -> None:
    """Mean and spread of mIoU, of the difference from the black box of the same seed, prototypes used, seconds."""
    print("\n| data | row | mIoU | less the black box | prototypes used | s | seeds |\n|---|---|---|---|---|---|---|")
    gains: dict[str, list[float]] = {row: [] for row in rows}
    for name in data:
        for row in rows:
            found = {s: f for s in seeds if (f := figures(out / name / row / f"seed{s}")) is not None}
            if not found:
                continue
            boxes = {s: figures(out / name / "blackbox" / f"seed{s}") for s in found}
            differences = [100 * (f["miou"] - box["miou"]) for s, f in found.items() if (box := boxes[s]) is not None]
            paired = spread(differences) if differences and row != "blackbox" else ""
            if differences:
                gains[row].append(mean(differences))
            used = [f.get("prototypes_used", f.get("prototypes")) for f in found.values()]
            prototypes = f"{mean(used):.0f}" if None not in used else ""
            seconds = [f["seconds"] for f in found.values() if f["seconds"] is not None]
            took = f"{mean(seconds):.0f}" if seconds else ""
            scores = spread([100 * f["miou"] for f in found.values()])
            print(f"| {name} | {row} | {scores} | {paired} | {prototypes} | {took} | {len(found)} |")
    for row, values in gains.items():
        if row != "blackbox" and values:
            print(f"\n{row}: {mean(values):+.2f} over {len(values)} sets, the worst {min(values):+.2f}")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--data", nargs="+")
    parser.add_argument("--rows", nargs="+", default=list(ROWS), choices=ROWS)
    parser.add_argument("--seeds", nargs="+", type=int, default=[1, 2, 3])
    parser.add_argument("--minutes", type=float, default=float("inf"))
    parser.add_argument("--table", action="store_true")
    args = parser.parse_args()
    os.environ.setdefault("SEGPROTO_CACHE", str(args.out / "cache"))
    known, begin = sets(args.out), time.monotonic()
    data = args.data or list(known)
    for cell in cells(args.out, data, args.rows, args.seeds):
        if args.table or time.monotonic() - begin > 60 * args.minutes:
            break
        train(cell, known[cell.data], args.out)
    print_table(args.out, data, args.rows, args.seeds)


if __name__ == "__main__":
    main()
