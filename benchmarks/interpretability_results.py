"""Tables of all interpretability metrics for protoseg and scaleproto: three data sets, three seeds, frozen ViT-Tiny.

OMP_NUM_THREADS=2 SEGPROTO_DATA=DIR python benchmarks/interpretability_results.py --out DIR [--data fasseg_v2 ...]
    [--methods scaleproto ...] [--seeds 1,2,3] [--table]

Finished runs and evaluations are kept: a killed script goes on where it was. ``--table`` only prints what is there.
"""

from __future__ import annotations

import argparse
import json
import os
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from statistics import mean, stdev
from typing import Any

from segproto import api

DATA = Path(os.environ.get("SEGPROTO_DATA", "data"))
VIT = f"encoder.weights={DATA / 'weights' / 'vit_tiny_patch16_224_in1k.safetensors'}"
FOLDERS = ("fasseg_v2", "ccp500_half")
SETS: dict[str, list[str]] = {
    "scenes": [
        "data={name: scenes, augment: {scale: [1, 1]}}",
        "data.scenes={num_train: 256, num_val: 96}",
        "encoder.input_scale=2",
    ],
    # few images of many cells: small batches, and no mirrored features to compute
    **{
        name: [f"data.root={DATA / name}", f"data.classes={name}", "train.batch_size=2", "data.augment.flip=false"]
        for name in FOLDERS
    },
}
SHORT = ["train.precision=32-true", "stages.linear.steps=200", "stages.joint.steps=500"]
GROUPS = ["stages.group_warmup.steps=30", "stages.group_joint.steps=300"]
LATE = ["stages.finetune.steps=60", "stages.prune_finetune.steps=60"]
METHODS: dict[str, list[str]] = {
    "protoseg": [*SHORT, *LATE],
    "scaleproto": [*SHORT, *GROUPS],
    # the same prototypes, grouped without the entropy term
    "scaleproto, entropy off": [
        *SHORT,
        *GROUPS,
        "train.stages=[group_warmup, group_joint, threshold]",
        "stages.group_warmup.entropy=0",
        "stages.group_joint.entropy=0",
    ],
    # the same features, projected onto images of their own
    **{
        f"{method}, distinct images": [
            *SHORT,
            *late,
            f"train.stages=[project, {stages}]",
            "stages.project.distinct_images=true",
        ]
        for method, late, stages in (
            ("protoseg", LATE, "finetune, prune, prune_finetune"),
            ("scaleproto", GROUPS, "group_seed, group_warmup, group_joint, threshold"),
        )
    },
}
STARTS = {  # the stage of the plain run from which the others go on
    "scaleproto, entropy off": "project",
    "protoseg, distinct images": "joint",
    "scaleproto, distinct images": "joint",
}
MEASURE = ["interpretability.images=30", "interpretability.faithfulness_images=3"]


def folder_of(out: Path, data: str, method: str, seed: int) -> Path:
    return out / data / method.replace(", ", "_").replace(" ", "_") / f"seed{seed}"


Job = tuple[str, str, int, Path]


def jobs(out: Path, seeds: list[int]) -> Iterator[Job]:
    """Data, method, seed and folder, in order of importance."""
    for methods in (("protoseg", "scaleproto"), *((method,) for method in STARTS)):
        for seed in seeds:
            for data in SETS:
                for method in methods:
                    yield data, method, seed, folder_of(out, data, method, seed)


def train(data: str, method: str, seed: int, out: Path, start: Path | None) -> bool:
    """A run that is finished is left alone (False), one that was cut off is resumed."""
    if (out / "checkpoints" / "finished.json").is_file():
        return False
    if (out / "recipe.yaml").is_file():
        api.train(resume=out, quiet=True)
    else:
        overrides = [VIT, *SETS[data], *METHODS[method], f"train.seed={seed}"]
        api.train(f"{method.split(',')[0]}/folder", out=out, start=start, overrides=overrides, quiet=True)
    return True


def measure(data: str, out: Path) -> bool:
    """All metrics of a finished run, once."""
    if (out / "evaluation" / "val-interpretability.json").is_file():
        return False
    parts = [f"data.parts={data}"] if data in FOLDERS else []
    api.evaluate(out, overrides=[*MEASURE, *parts], interpretability=True)
    return True


def work(out: Path, chosen: list[Job], minutes: float) -> bool:
    """Does what is missing, and begins no further run after so many minutes; False if nothing was missing."""
    did, began = False, time.monotonic()
    for data, method, seed, folder in chosen:
        plain = folder_of(out, data, method.split(",")[0], seed)
        start = plain / "stages" / STARTS[method] / "model" if method in STARTS else None
        begin = time.monotonic()
        now = train(data, method, seed, folder, start)
        now |= measure(data, folder)
        if now:
            did = True
            print(f"{folder} {time.monotonic() - begin:.0f} s", flush=True)
            if time.monotonic() - began > 60 * minutes:
                break
    return did


Figures = dict[str, Any]


def at(name: str, *path: Any) -> Callable[[Figures], float | None]:
    """A figure inside a metric; None where it was not measured."""

    def find(figures: Figures) -> float | None:
        value = figures[name]
        for key in path or ("value",):
            missing = key not in value if isinstance(value, dict) else value is None or key >= len(value)
            if missing:
                return None
            value = value[key]
        return value

    return find


def gain(mode: str, region: str) -> Callable[[Figures], float | None]:
    """How much better than random a region is, in the class's probability, both fills averaged."""

    def find(figures: Figures) -> float | None:
        rows = figures["faithfulness"].get("rows", [])
        chosen = [
            r["gain"] for r in rows if (r["measure"], r["mode"], r["region"]) == ("probability", mode, f"top {region}")
        ]
        return mean(chosen) if chosen else None

    return find


def of_threshold(limit: float) -> Callable[[Figures], float | None]:
    def find(figures: Figures) -> float | None:
        return next(row["value"] for row in figures["sparsity"]["per_threshold"] if row["threshold"] == limit)

    return find


def of_scale(kind: str, scale: int) -> Callable[[Figures], float | None]:
    def find(figures: Figures) -> float | None:
        row = figures["components"]["per_quantile"][-1][kind]
        return row[scale] if scale < len(row) else None

    return find


ROWS: dict[str, Callable[[Figures], float | None]] = {
    "mIoU": at("miou"),
    "consistency": at("consistency"),
    "stability": at("stability"),
    "sparsity, any weight": of_threshold(0.0),
    "sparsity, weight > 0.05": of_threshold(0.05),
    "sparsity, weight > 0.2": of_threshold(0.2),
    "group overlap, micro": at("group_overlap"),
    "group overlap, macro": at("group_overlap", "macro"),
    "prototype overlap, micro": at("prototype_overlap"),
    "prototype overlap, macro": at("prototype_overlap", "macro"),
    **{f"components at the 95 % quantile, scale {s + 1}": of_scale("count", s) for s in range(4)},
    **{f"their mean area (share of the image), scale {s + 1}": of_scale("area", s) for s in range(4)},
    "equivariant classes (IoU > 0.5), relative": at("equivariance"),
    "equivariant classes (IoU > 0.5), both shrunk": at("equivariance", "readings", "both", "value"),
    "purity": at("purity"),
    "pointing game": at("pointing"),
    "pointing game on boundaries": at("pointing", "boundary"),
    "coverage at q = 0.8": at("coverage"),
    "dead prototypes": at("health"),
    "usage entropy": at("health", "entropy"),
    "projection gap, mean": at("health", "projection_gap", "mean"),
    "distance within class and scale": at("distances"),
    "same class among 5 nearest": at("neighbours", "per_k", 2, "value"),
    "nearest prototype of the class": at("nearest"),
    "deleting top 1 (gain over random)": gain("delete", "1"),
    "deleting top 3": gain("delete", "3"),
    "deleting top 5": gain("delete", "5"),
    "inserting top 3": gain("insert", "3"),
    "sanity: readout randomised": at("sanity", "steps", 0, "map_correlation"),
    "sanity: all randomised": at("sanity"),
    "completeness error, largest": at("completeness"),
    "fresh prototypes": at("freshness"),
    "mean readout weight": at("cost"),
    "parameters beyond the black box (as the paper counts)": at("cost", "used"),
    "numbers stored beyond the black box": at("cost", "stored"),
}


def read(folder: Path) -> Figures | None:
    """The metrics of a run and its mIoU; None before they are there."""
    files = [folder / "evaluation" / name for name in ("val-interpretability.json", "val.json")]
    if not all(file.is_file() for file in files):
        return None
    figures, accuracy = (json.loads(file.read_text()) for file in files)
    return {**figures["metrics"], "miou": {"value": accuracy["miou"]}}


def spread(values: list[float | None]) -> str:
    """Mean and sample deviation."""
    known = [v for v in values if v is not None]
    if not known:
        return "-"
    digits = 0 if abs(mean(known)) >= 100 else 1 if abs(mean(known)) >= 10 else 3
    text = f"{mean(known):.1e}" if 0 < abs(mean(known)) < 1e-3 else f"{mean(known):.{digits}f}"
    return text if len(known) < 2 or "e" in text else f"{text} ± {stdev(known):.{digits}f}"


def table(out: Path, seeds: list[int]) -> str:
    """Markdown: one row per metric, one column per data set and method."""
    columns = {(d, m): [f for s in seeds if (f := read(folder_of(out, d, m, s)))] for d in SETS for m in METHODS}
    columns = {key: found for key, found in columns.items() if found}
    lines = ["| | " + " | ".join(f"{d}: {m} ({len(f)})" for (d, m), f in columns.items()) + " |"]
    lines.append("|---" * (len(columns) + 1) + "|")
    for name, find in ROWS.items():
        cells = [spread([find(figures) for figures in found]) for found in columns.values()]
        if set(cells) != {"-"}:
            lines.append(f"| {name} | " + " | ".join(cells) + " |")
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--seeds", default="1,2,3")
    parser.add_argument("--data", nargs="+", choices=SETS, default=list(SETS))
    parser.add_argument("--methods", nargs="+", choices=METHODS, default=list(METHODS))
    parser.add_argument("--minutes", type=float, default=1e9, help="begin no further run after this")
    parser.add_argument("--table", action="store_true", help="print the table of what is there")
    given = parser.parse_args()
    seeds = [int(seed) for seed in given.seeds.split(",")]
    os.environ.setdefault("SEGPROTO_CACHE", str(given.out / "cache"))  # shared by all methods and seeds
    if not given.table:
        chosen = [job for job in jobs(given.out, seeds) if job[0] in given.data and job[1] in given.methods]
        work(given.out, chosen, given.minutes)
    print(table(given.out, seeds))


if __name__ == "__main__":
    main()
