"""k-means baseline against primaps on frozen ViT features, several seeds; each run leaves a JSON and is done once.

    python benchmarks/primaps_results.py --out DIR [--data msrc dubai dubai-fine]
        [--methods k-means primaps primaps-slow] [--seeds 1 2 3] [--repeat]

Needs $SEGPROTO_DATA. The ViT-Tiny was trained with labels: these are "frozen ViT features", not an unsupervised system.
Features and proposals are kept in DIR/cache and shared by the runs. --repeat trains the first seed of each row again
and compares the models byte by byte.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import statistics
import time
from pathlib import Path

import torch

import segproto

VIT = "$SEGPROTO_DATA/weights/vit_tiny_patch16_224_in1k.safetensors"
COMMON = [
    "data.name=folder", "encoder.backbone=vit_tiny_patch16_224", "encoder.pretrained=false", f"encoder.weights={VIT}",
    "train.threads=1", "train.accelerator=cpu", "stages.proposals.size=null", "stages.found.masks=false",
]  # fmt: skip
DATA = {
    "msrc": ["data.root=$SEGPROTO_DATA/msrc21", "data.classes=msrc21", "encoder.input_scale=1.5"],
    "dubai": [
        "data.root=$SEGPROTO_DATA/dubai_aerial", "data.classes=dubai_aerial3", "encoder.input_scale=0.5",
        "train.batch_size=4", "stages.proposals.size=512",
    ],
    # 40 cells and more across, as published (320 px by 8): proposals of 16 cells across swallow the vegetation
    "dubai-fine": [
        "data.root=$SEGPROTO_DATA/dubai_aerial", "data.classes=dubai_aerial3", "encoder.input_scale=1",
        "train.batch_size=4", "stages.proposals.size=640",
    ],
}  # fmt: skip
KMEANS, EM = 200, 300
METHODS = {
    "k-means": [f"stages.kmeans.steps={KMEANS + EM}", "stages.em.steps=0"],
    "primaps": [f"stages.kmeans.steps={KMEANS}", f"stages.em.steps={EM}"],
    "primaps-slow": [f"stages.kmeans.steps={KMEANS}", f"stages.em.steps={EM}", "stages.em.lr=5e-4"],
}


def one(out: Path, data: str, method: str, seed: int, name: str = "") -> dict:
    """The figures of a run, trained if there are none yet."""
    run = out / f"{data}-{method}-{seed}{name}"
    file = out / f"{run.name}.json"
    if file.is_file():
        return json.loads(file.read_text())
    start = time.time()
    if (run / "recipe.yaml").is_file():
        result = segproto.train(resume=run, quiet=True)
    else:
        shutil.rmtree(run, ignore_errors=True)
        settings = [*COMMON, *DATA[data], *METHODS[method], f"train.seed={seed}"]
        result = segproto.train("primaps/folder", out=run, overrides=settings, quiet=True)
    last = result.figures
    figures = {
        "data": data, "method": method, "seed": seed, "miou": last["miou"], "accuracy": last["accuracy"],
        "after_kmeans": result.stages["kmeans"]["miou"], "seconds": round(time.time() - start, 1),
        "load": os.getloadavg()[0], "per_class": last["per_class"], "matching": last["matching"],
        "categories_used": last["categories_used"],
    }  # fmt: skip
    file.write_text(json.dumps(figures, indent=1))
    return figures


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--data", nargs="+", default=list(DATA), choices=list(DATA))
    parser.add_argument("--methods", nargs="+", default=list(METHODS), choices=list(METHODS))
    parser.add_argument("--seeds", type=int, nargs="+", default=[1, 2, 3])
    parser.add_argument("--repeat", action="store_true")
    args = parser.parse_args()
    torch.set_num_threads(1)
    args.out.mkdir(parents=True, exist_ok=True)
    os.environ.setdefault("SEGPROTO_CACHE", str(args.out.absolute() / "cache"))
    for data in args.data:
        for method in args.methods:
            runs = [one(args.out, data, method, seed) for seed in args.seeds]
            values = {key: [100 * f[key] for f in runs] for key in ("miou", "accuracy", "after_kmeans")}
            words = ", ".join(
                f"{key} {statistics.mean(v):.1f} ± {statistics.stdev(v) if len(v) > 1 else 0:.1f}"
                for key, v in values.items()
            )
            print(f"{data} {method}: {words} ({len(runs)} seeds)", flush=True)
            if args.repeat:
                seed = args.seeds[0]
                one(args.out, data, method, seed, "-again")
                files = [args.out / f"{data}-{method}-{seed}{n}/model/model.safetensors" for n in ("", "-again")]
                same = files[0].read_bytes() == files[1].read_bytes()
                print(f"{data} {method}: repeated, same bytes: {same}", flush=True)


if __name__ == "__main__":
    main()
