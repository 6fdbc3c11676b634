"""Table of ``posthoc``: the learned basis beside four others and a trained scaleproto, on four data sets.

OMP_NUM_THREADS=2 SEGPROTO_DATA=DIR python benchmarks/posthoc_results.py --out DIR [--data fasseg_v2,msrc21] [--table]

Black boxes and scaleproto models that are not there are trained first, one per data set (frozen ViT-Tiny, cached
features). Bases that are drawn or learned have all ``--seeds`` on the small sets, one on the others. Finished runs and
evaluations are kept: a killed script goes on where it was. ``--table`` only prints what is there.
"""

from __future__ import annotations

import argparse
import json
import os
import time
from collections.abc import Iterator
from pathlib import Path
from statistics import mean, stdev
from typing import Any

import torch

from segproto import api
from segproto.data.build import build_dataset
from segproto.evaluation.interpretability.config import InterpretabilityConfig
from segproto.evaluation.interpretability.run import interpret
from segproto.model.cache import FeatureCache
from segproto.model.segmenter import Segmenter
from segproto.runs.settings import data_config

DATA = Path(os.environ.get("SEGPROTO_DATA", "data"))
VIT = f"encoder.weights={DATA / 'weights' / 'vit_tiny_patch16_224_in1k.safetensors'}"
FEW = ["train.batch_size=2", "data.augment.flip=false"]  # few images of many cells
SHORT = {
    "blackbox": [*FEW, "stages.joint.steps=700"],
    "scaleproto": [
        *FEW,
        "stages.linear.steps=200",
        "stages.joint.steps=500",
        "stages.group_warmup.steps=30",
        "stages.group_joint.steps=300",
    ],
}
SETS = ("fasseg_v2", "msrc21", "camvid", "ccp500_half")
PARTS = ("fasseg_v2", "ccp500_half")
SEEDED = ("random", "learned")  # where chance is in it
SMALL = ("fasseg_v2", "msrc21")  # all seeds
DELETING = ("msrc21", "ccp500_half")  # hundreds of passes a run, so not where images are large
BASES = ("learned", "random", "channels", "pca", "nmf")
COUNTED = ("carriers", "purity", "consistency", "stability", "pointing", "sparsity", "completeness")
DELETED: dict[str, Any] = {"faithfulness_images": 4, "tops": (3,), "areas": (0.3, 0.7), "draws": 2}
FIGURES = "posthoc_results.json"  # in a run's folder
IMAGES = {"fasseg_v2": 20, "msrc21": 24, "camvid": 16, "ccp500_half": 24}
CARRY = "0.9"


def of_data(data: str) -> list[str]:
    return [] if data == "camvid" else [f"data.root={DATA / data}", f"data.classes={data}", VIT]


def recipe(method: str, data: str) -> str:
    return f"{method}/camvid" if data == "camvid" else f"{method}/folder"


def finished(folder: Path) -> bool:
    return (folder / "checkpoints" / "finished.json").is_file()


def train(folder: Path, name: str, overrides: list[str], start: Path | None = None) -> None:
    """A run that is finished is left alone, one that was cut off is resumed."""
    begin, used = time.monotonic(), time.process_time()
    if finished(folder):
        return
    if (folder / "recipe.yaml").is_file():
        api.train(resume=folder, quiet=True)
    else:
        api.train(name, out=folder, start=start, overrides=overrides, quiet=True)
    print(f"{folder} {time.monotonic() - begin:.0f} s, {time.process_time() - used:.0f} of a processor", flush=True)


def models(out: Path, data: str) -> None:
    """The black box that is explained, and what is trained with prototypes."""
    for method in ("blackbox", "scaleproto"):
        short = SHORT[method] if data in PARTS else []
        train(out / data / method, recipe(method, data), [*of_data(data), "train.precision=32-true", *short])


def runs(data: str, seeds: list[int]) -> Iterator[tuple[str, int]]:
    """Basis and seed."""
    for basis in BASES:
        for seed in seeds if basis in SEEDED and data in SMALL else seeds[:1]:
            yield basis, seed


def folder_of(out: Path, data: str, basis: str, seed: int, carry: str) -> Path:
    return out / data / f"{basis}-seed{seed}-{'all' if carry == '1' else 'matter'}"


def explain(out: Path, data: str, basis: str, seed: int) -> None:
    """A basis: all of its parts, and those that matter."""
    every, few = (folder_of(out, data, basis, seed, carry) for carry in ("1", CARRY))
    options = [f"stages.rotate.basis={basis}", f"train.seed={seed}"]
    if data != "camvid":
        options += [*of_data(data)[:2], "train.cache_features=true"]
    train(every, recipe("posthoc", data), options, out / data / "blackbox")
    options += [f"stages.trace.carry={CARRY}", "train.stages=[trace]"]
    train(few, recipe("posthoc", data), options, every / "stages" / "rotate")


def measure(data: str, folder: Path, *, deleting: bool = True) -> None:
    """The metrics of a finished run, once; masks are those of the black box, and are not scored again."""
    if not finished(folder) or (folder / FIGURES).is_file():
        return
    begin, used = time.monotonic(), time.process_time()
    parts = [f"data.parts={data}"] if data in PARTS else []
    model, dataset = Segmenter.load(folder), build_dataset(data_config(folder, {}, parts), "val")
    cache = FeatureCache.open(
        model.encoder, dataset, Path(os.environ["SEGPROTO_CACHE"]), device=torch.device("cpu"), flips=False
    )
    metrics = (*COUNTED, "faithfulness") if deleting else COUNTED
    config = InterpretabilityConfig(metrics=metrics, images=IMAGES[data], **DELETED)
    (folder / FIGURES).write_text(json.dumps(interpret(model, dataset, config, cache=cache)))
    print(
        f"{folder} measured, {time.monotonic() - begin:.0f} s, {time.process_time() - used:.0f} of a processor",
        flush=True,
    )


Figures = dict[str, Any]


def read(folder: Path) -> dict[str, float | None] | None:
    """The columns of one run; None before they are there."""
    file = folder / FIGURES
    if not file.is_file():
        return None
    metrics: Figures = json.loads(file.read_text())["metrics"]
    value = {name: figures.get("value") for name, figures in metrics.items()}
    gains = [
        r
        for r in metrics.get("faithfulness", {}).get("rows", [])
        if r["measure"] == "probability" and r["gain"] is not None
    ]
    counted = [v for v in metrics["pointing"]["per_prototype"] if v is not None]
    return {
        "parts": float(len(metrics["pointing"]["per_prototype"])),
        "90 %": value["carriers"],
        **{name: percent(value[name]) for name in ("purity", "consistency", "stability", "pointing")},
        "pointing, macro": percent(metrics["pointing"]["macro"]),
        "deleting": percent(mean_gain(gains, "delete")),
        "inserting": percent(mean_gain(gains, "insert")),
        "sparsity": value["sparsity"],
        "add up": value["completeness"],
    } | ({} if counted else {"pointing": None})


def row(out: Path, data: str, basis: str, seed: int, carry: str) -> dict[str, float | None] | None:
    """The columns of one basis; how many parts carry a logit is counted among all of them."""
    figures, every = (read(folder_of(out, data, basis, seed, c)) for c in (carry, "1"))
    return None if figures is None or every is None else {**figures, "90 %": every["90 %"]}


def mean_gain(rows: list[Figures], mode: str) -> float | None:
    """How much better than random regions those of the three most used prototypes are, fills averaged."""
    chosen = [row["gain"] for row in rows if (row["mode"], row["region"]) == (mode, "top 3")]
    return mean(chosen) if chosen else None


def percent(value: float | None) -> float | None:
    return None if value is None else 100 * value


def spread(values: list[float | None]) -> str:
    """Mean and sample deviation."""
    known = [value for value in values if value is not None]
    if not known:
        return ""
    if 0 < abs(mean(known)) < 1e-3:
        return f"{max(known):.0e}"
    text = f"{mean(known):.1f}".removesuffix(".0") if len(known) == 1 else f"{mean(known):.1f}"
    return text if len(known) == 1 else f"{text} ± {stdev(known):.1f}"


def table(out: Path, seeds: list[int], carry: str) -> str:
    """Markdown: a row per data set and basis."""
    lines: list[str] = []
    for data in SETS:
        rows = {
            f"`{basis}`": [row(out, data, basis, s, carry) for b, s in runs(data, seeds) if b == basis]
            for basis in BASES
        }
        for name, found in {**rows, "trained `scaleproto`": [read(out / data / "scaleproto")]}.items():
            columns = [figures for figures in found if figures is not None]
            if not columns:
                continue
            if not lines:
                lines = ["| data | basis | " + " | ".join(columns[0]) + " |", "|---" * (len(columns[0]) + 2) + "|"]
            cells = [spread([figures[key] for figures in columns]) for key in columns[0]]
            lines.append(f"| `{data}` | {name} | " + " | ".join(cells) + " |")
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--data", default=",".join(SETS))
    parser.add_argument("--seeds", default="1,2,3")
    parser.add_argument("--table", action="store_true", help="print the tables of what is there")
    given = parser.parse_args()
    seeds = [int(seed) for seed in given.seeds.split(",")]
    os.environ.setdefault("SEGPROTO_CACHE", str(given.out / "cache"))  # shared by all
    for data in [] if given.table else given.data.split(","):
        models(given.out, data)
        measure(data, given.out / data / "scaleproto", deleting=data in DELETING)
        for basis, seed in runs(data, seeds):
            explain(given.out, data, basis, seed)
            measure(
                data, folder_of(given.out, data, basis, seed, CARRY), deleting=data in DELETING and seed == seeds[0]
            )
            measure(data, folder_of(given.out, data, basis, seed, "1"), deleting=False)
    print(f"Parts that carry {CARRY} of what is said:\n\n{table(given.out, seeds, CARRY)}\n")
    print(f"All parts:\n\n{table(given.out, seeds, '1')}")


if __name__ == "__main__":
    main()
