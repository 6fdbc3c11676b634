"""`nonparametric` against its parametric twin on CamVid, what its parts do, and what a large vocabulary costs.

    SEGPROTO_DATA=DIR python benchmarks/nonparametric_camvid.py --out DIR [--only base short k norms start cnn ...]

Twins share encoder, batches and the number of batches. Runs write one JSON each and are skipped once it is there; an
interrupted one goes on from its checkpoint. The cached ViT features are shared between all runs under ``OUT/cache``.
At the end a table with mean and standard deviation over the seeds is printed (`--table`: only that).
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import statistics
import time
from dataclasses import dataclass
from pathlib import Path

import torch

from segproto import api
from segproto.data.base import ClassTable
from segproto.data.batch import Batch
from segproto.methods import METHODS
from segproto.runs.catalogue import read_recipe
from segproto.training.recipe import apply_overrides, validate_recipe
from segproto.training.stage import Optimise

WARM = 0.3  # share of the batches that go to the plain classifier before prototypes take over
VIT_STEPS, CNN_STEPS = 600, 300
CNN = [
    "train.cache_features=false",
    "encoder={name: unet, width: 12, output_stride: 4, dim: 32, rates: [1, 2, 4, 6], squash: none, reduce: null}",
    "encoder.backbone=null",
    "encoder.weights=null",
    "encoder.frozen=false",
    "encoder.layers=null",
    "data.augment={crop: 192, scale: [0.75, 1.25]}",
    "train.batch_size=4",
]
CNN_STAGE = "norms: train, trainable: all, weight_decay: 1e-4, cross_entropy: quarter"
CNN_LR = "{backbone: 2e-3, neck: 2e-3, readout: 2e-3}"


@dataclass(frozen=True)
class Trial:
    """One run: ``name-seed`` is its file."""

    suite: str
    name: str
    method: str
    seed: int
    overrides: tuple[str, ...]

    @property
    def slug(self) -> str:
        return f"{self.name} seed{self.seed}".replace(" ", "-").replace(",", "").replace("=", "")


def parts(steps: int, started: bool = True) -> list[str]:
    """Stages of nonparametric that together take as many batches as the twin."""
    warm = round(WARM * steps) if started else 0
    start = "features" if started else "random"
    return [f"stages.linear.steps={warm}", f"stages.seed.start={start}", f"stages.joint.steps={steps - warm}"]


def trials() -> list[Trial]:
    """All runs, the important ones first."""
    listed = []

    def add(suite: str, name: str, method: str, seed: int, *overrides: str) -> None:
        listed.append(Trial(suite, name, method, seed, overrides))

    cnn = [*CNN, f"stages.joint={{schedule: poly, {CNN_STAGE}, lr: {CNN_LR}}}"]
    linear = [f"stages.linear={{{CNN_STAGE}, lr: {CNN_LR}}}"]
    for seed in (1, 2, 3):
        add("base", "recipe blackbox", "blackbox", seed)
        add("base", "recipe nonparametric", "nonparametric", seed)
    for seed in (1, 2, 3):
        add("short", "vit blackbox", "blackbox", seed, f"stages.joint.steps={VIT_STEPS}")
        add("short", "vit nonparametric K=10", "nonparametric", seed, *parts(VIT_STEPS))
    for seed in (1, 2, 3):
        for k in (1, 5, 20):
            add("k", f"vit nonparametric K={k}", "nonparametric", seed, *parts(VIT_STEPS), f"model.prototypes={k}")
        for feature, score in (("none", "layernorm"), ("layernorm", "scale"), ("none", "scale")):
            norms = [f"model.feature_norm={feature}", f"model.score_norm={score}"]
            add("norms", f"vit features {feature}, scores {score}", "nonparametric", seed, *parts(VIT_STEPS), *norms)
        if seed == 1:
            add("start", "vit classifier start", "nonparametric", 1, *parts(VIT_STEPS), "stages.seed.start=classifier")
            add("start", "vit random start", "nonparametric", 1, *parts(VIT_STEPS, started=False))
            published = ("stages.joint.momentum=0.999", "stages.joint.assign=gumbel_prob_legacy")
            legacy = ("stages.joint.contrast_temperature=1", "stages.joint.few=balance")
            add("start", "vit as released", "nonparametric", 1, *parts(VIT_STEPS, started=False), *published, *legacy)
            add("start", "vit reseed", "nonparametric", 1, *parts(VIT_STEPS), "stages.joint.reseed_every=50")
            for s in (1, 2, 3):
                add("cnn", "cnn blackbox", "blackbox", s, *cnn, f"stages.joint.steps={CNN_STEPS}")
                add("cnn", "cnn nonparametric K=10", "nonparametric", s, *cnn, *linear, *parts(CNN_STEPS))
    return listed


def run(trial: Trial, out: Path) -> None:
    """Trains and writes the figures."""
    file, folder = out / f"{trial.slug}.json", out / "runs" / trial.slug
    os.environ.setdefault("SEGPROTO_CACHE", str(out / "cache"))
    common = [f"train.seed={trial.seed}", "train.threads=1", "train.checkpoint_every=1000", "train.precision=32-true"]
    short = [] if trial.suite in ("base", "cnn") else ["train.batch_size=4"]
    print(f"{time.strftime('%H:%M:%S')} {trial.slug}", flush=True)
    if (folder / "recipe.yaml").exists() and any((folder / "checkpoints").glob("*")):
        result = api.train(resume=folder, quiet=True)
    else:
        shutil.rmtree(folder, ignore_errors=True)
        settings = [*short, *trial.overrides, *common]
        result = api.train(f"{trial.method}/camvid", out=folder, overrides=settings, quiet=True)
    joint, last = result.stages["joint"], result.figures
    figures = {
        "suite": trial.suite,
        "name": trial.name,
        "seed": trial.seed,
        "miou": joint["miou"],
        "accuracy": joint["accuracy"],
        "per_class": {row["name"]: row["iou"] for row in joint["per_class"]},
        "joint_seconds": joint["seconds"],
        "seconds": round(result.seconds, 1),
        "overrides": list(trial.overrides),
    }
    for key in ("prototype_cosine", "prototype_entropy", "collapsed_classes", "parameters", "prototype_numbers"):
        if key in last:
            figures[key] = last[key]
    file.write_text(json.dumps(figures, indent=1))
    shutil.rmtree(folder)


def vocabulary(out: Path, rounds: int = 5) -> None:
    """Seconds per step and learned numbers of both methods at 19, 150 and 847 classes, on one small CNN."""
    file = out / "vocabulary.json"
    if file.exists():
        return
    torch.set_num_threads(1)
    rows = []
    for classes in (19, 150, 847):
        for name, score in (("blackbox", None), ("nonparametric", "layernorm"), ("nonparametric", "scale")):
            method = METHODS[name]
            lr = "stages.joint.lr={backbone: 1e-3, neck: 1e-3, readout: 1e-3}"
            values = ["encoder.dim=64", lr, *([] if score is None else [f"model.score_norm={score}"])]
            if name == "nonparametric":
                values.append("model.prototypes=10")
            value = apply_overrides(read_recipe(f"{method.name}/scenes"), values)
            recipe = validate_recipe(value, method.recipe)
            torch.manual_seed(0)
            model = method.build(recipe, ClassTable(tuple(map(str, range(classes))), ((0, 0, 0),) * classes))
            stage = next(s for s in method.stages(recipe) if isinstance(s, Optimise) and s.name == "joint")
            stage.mode(model)
            groups = stage.parameters(model)
            optimizer = torch.optim.Adam([{"params": g.params, "lr": g.lr} for g in groups])
            masks = torch.randint(0, classes, (2, 16, 16)).repeat_interleave(16, 1).repeat_interleave(16, 2)
            batch = Batch(masks=masks, images=torch.randn(2, 3, 256, 256))
            times = []
            for _ in range(rounds + 1):
                start = time.thread_time()
                loss = stage.loss(model, batch)["loss"]
                optimizer.zero_grad()
                loss.backward()
                optimizer.step()
                if stage.after_step is not None:
                    stage.after_step(model)
                times.append(time.thread_time() - start)
            row = {
                "classes": classes,
                "name": name if score is None else f"{name}, scores {score}",
                "learned": sum(p.numel() for p in model.parameters()),
                "learned_head": sum(p.numel() for p in model.head.parameters()),
                "stored": model.head.bank.vectors.numel() if name == "nonparametric" else 0,
                "milliseconds": round(1e3 * min(times[1:]), 1),
                "load": round(os.getloadavg()[0], 2),
            }
            print(row, flush=True)
            rows.append(row)
    file.write_text(json.dumps(rows, indent=1))


def table(out: Path) -> None:
    """Mean and sample standard deviation over the seeds that are there."""
    runs: dict[tuple[str, str], list[dict]] = {}
    for file in sorted(out.glob("*seed*.json")):
        value = json.loads(file.read_text())
        runs.setdefault((value["suite"], value["name"]), []).append(value)
    for (suite, name), values in runs.items():
        miou = [100 * v["miou"] for v in values]
        spread = f" ± {statistics.stdev(miou):.2f}" if len(miou) > 1 else ""
        cosine = [statistics.mean(v["prototype_cosine"]) for v in values if "prototype_cosine" in v]
        words = f", mean prototype cosine {statistics.mean(cosine):.3f}" if cosine else ""
        seconds = statistics.mean(v["seconds"] for v in values)
        each = ", ".join(f"{m:.2f}" for m in miou)
        print(f"{suite:8} {name:42} {statistics.mean(miou):.2f}{spread} ({each}){words}, {seconds:.0f} s")
    if (out / "vocabulary.json").exists():
        for row in json.loads((out / "vocabulary.json").read_text()):
            print(row)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--only", nargs="+", default=["base", "short", "k", "norms", "start", "cnn", "vocabulary"])
    parser.add_argument("--runs", type=int, default=1000, help="stop after this many new runs")
    parser.add_argument("--table", action="store_true", help="print what is there, train nothing")
    args = parser.parse_args()
    args.out.mkdir(parents=True, exist_ok=True)
    if not args.table:
        left = args.runs
        for trial in trials():
            if trial.suite in args.only and left > 0 and not (args.out / f"{trial.slug}.json").exists():
                run(trial, args.out)
                left -= 1
        if "vocabulary" in args.only and left > 0:
            vocabulary(args.out)
    table(args.out)


if __name__ == "__main__":
    main()
