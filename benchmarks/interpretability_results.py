"""Tables of all interpretability metrics for protoseg and scaleproto: three data sets, three seeds, frozen ViT-Tiny.

OMP_NUM_THREADS=1 SEGPROTO_DATA=DIR python benchmarks/interpretability_results.py --out DIR [--table]

Finished runs and evaluations are kept: a killed script goes on where it was. ``--table`` only prints.
"""

from __future__ import annotations

import argparse
import os
import time
from pathlib import Path

from segproto import api

DATA = Path(os.environ.get("SEGPROTO_DATA", "data"))
SEEDS = (1, 2, 3)
VIT = f"encoder.weights={DATA / 'weights' / 'vit_tiny_patch16_224_in1k.safetensors'}"
FOLDERS = ("fasseg_v2", "ccp500_half")
SETS: dict[str, list[str]] = {
    "scenes": [
        "data={name: scenes, augment: {scale: [1, 1]}}",
        "data.scenes={num_train: 256, num_val: 96}",
        "encoder.input_scale=2",
    ],
    **{name: [f"data.root={DATA / name}", f"data.classes={name}"] for name in FOLDERS},
}
SHORT = ["train.precision=32-true", "train.batch_size=6", "stages.linear.steps=60", "stages.joint.steps=120"]
METHODS: dict[str, list[str]] = {
    "protoseg": [*SHORT, "stages.finetune.steps=40", "stages.prune_finetune.steps=40"],
    "scaleproto": [*SHORT, "stages.group_warmup.steps=20", "stages.group_joint.steps=100"],
}
# The entropy term off, from the same prototypes.
NO_ENTROPY = ["train.stages=[group_warmup, group_joint, threshold]", "stages.group_warmup.entropy=0"]
NO_ENTROPY += ["stages.group_joint.entropy=0"]


def settings(data: str, method: str) -> list[str]:
    """``key=value`` over the shipped ``METHOD/folder``."""
    return [VIT, *SETS[data], *METHODS[method]]


def train(out: Path, recipe: str, overrides: list[str], start: Path | None = None) -> bool:
    """A run that is finished is left alone (False), one that was cut off is resumed."""
    if (out / "checkpoints" / "finished.json").is_file():
        return False
    if (out / "recipe.yaml").is_file():
        api.train(resume=out, quiet=True)
    else:
        api.train(recipe, out=out, start=start, overrides=overrides, quiet=True)
    print("trained", out, flush=True)
    return True


def train_all(out: Path, minutes: float) -> bool:
    """Trains what is missing, and begins no further run after so many minutes; False if nothing was missing."""
    did, start = False, time.monotonic()
    for seed in SEEDS:
        for data in SETS:
            for method in METHODS:
                folder = out / data / method / f"seed{seed}"
                did |= train(folder, f"{method}/folder", [*settings(data, method), f"train.seed={seed}"])
                if did and time.monotonic() - start > 60 * minutes:
                    return True
            prototypes = out / data / "scaleproto" / f"seed{seed}" / "stages" / "project" / "model"
            folder = out / data / "scaleproto_no_entropy" / f"seed{seed}"
            overrides = [*settings(data, "scaleproto"), f"train.seed={seed}", *NO_ENTROPY]
            did |= train(folder, "scaleproto/folder", overrides, prototypes)
            if did and time.monotonic() - start > 60 * minutes:
                return True
    return did


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--minutes", type=float, default=1e9, help="begin no further run after this")
    given = parser.parse_args()
    if not train_all(given.out, given.minutes):
        raise SystemExit(3)


if __name__ == "__main__":
    main()
