"""Tables of ``review``: planted label errors found again, and a class left out of training seen as unknown.

OMP_NUM_THREADS=2 SEGPROTO_DATA=DIR python benchmarks/review_results.py --out DIR [--data msrc21,camvid] [--seeds 1]
    [--what labels,unknown] [--table]

Planted errors: of the connected regions of the training masks (at least ``PIXELS`` pixels, in images of two classes or
more) 5 % get another class of the same image. Models are trained on these masks (frozen ViT-Tiny, cached features).
An entry of a list is right if most of its pixels are planted errors; the first entry of a planted region counts, more
of the same region count neither way. Average precision is over all planted regions. Finished runs and figures are
kept: a killed script goes on where it was. ``--table`` only prints what is there.
"""

from __future__ import annotations

import argparse
import os
import time
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image
from scipy import ndimage

from segproto import api

DATA = Path(os.environ.get("SEGPROTO_DATA", "data"))
VIT = f"encoder.weights={DATA / 'weights' / 'vit_tiny_patch16_224_in1k.safetensors'}"
PIXELS = 100
SHARE = 0.05
VOID = {"msrc21": [0, 5, 8], "camvid": [11, 255]}
METHODS = ("memory", "blackbox", "scaleproto", "nonparametric")
FIGURES = "review_labels.json"
EIGHT = np.ones((3, 3), dtype=bool)


def training_names(data: str) -> list[str]:
    """Stems of the training images."""
    if data == "camvid":
        return (DATA / data / "train.txt").read_text().split()
    from segproto.data.build import build_dataset
    from segproto.data.config import DataConfig

    config = DataConfig(root=DATA / data, classes=data)
    return list(build_dataset(config, "train").names)


def plant(data: str, seed: int, root: Path) -> None:
    """A data folder whose training masks have errors; ``planted.npz`` holds, per image, the number of each error."""
    if (root / "planted.npz").is_file():
        return
    (root / "labels").mkdir(parents=True, exist_ok=True)
    for file in (DATA / data).iterdir():
        if file.name != "labels" and not (root / file.name).exists():
            (root / file.name).symlink_to(file)
    names, masks, regions = set(training_names(data)), {}, []
    for file in sorted((DATA / data / "labels").glob("*.png")):
        picture = Image.open(file)
        mask = np.array(picture)
        masks[file.stem] = (picture, mask.copy())
        present = [int(c) for c in np.unique(mask) if c not in VOID[data]]
        if file.stem not in names or len(present) < 2:
            continue
        for label in present:
            pieces, count = ndimage.label(mask == label, structure=EIGHT)
            sizes = np.bincount(pieces.ravel())
            regions += [
                (file.stem, pieces == i, label, [c for c in present if c != label])
                for i in range(1, count + 1)
                if sizes[i] >= PIXELS
            ]
    draw = np.random.RandomState(seed)
    chosen = draw.choice(len(regions), round(SHARE * len(regions)), replace=False)
    planted: dict[str, Any] = {}
    for number, index in enumerate(sorted(chosen), 1):
        name, region, _, others = regions[index]
        masks[name][1][region] = others[draw.randint(len(others))]
        planted.setdefault(name, np.zeros(region.shape, np.int32))[region] = number
    for stem, (picture, mask) in masks.items():
        changed = Image.fromarray(mask)
        if picture.mode == "P":
            changed.putpalette(picture.getpalette())
        changed.save(root / "labels" / f"{stem}.png")
    print(f"{root}: {len(chosen)} of {len(regions)} regions", flush=True)
    np.savez_compressed(root / "planted.npz", **planted)


def without(data: str, unknown: str, root: Path) -> None:
    """A data folder in which a class is void, and ``unknown/`` with masks of where it is in the validation images."""
    from segproto.data.build import build_dataset
    from segproto.data.config import DataConfig

    if (root / "classes.yaml").is_file():
        return
    (root / "unknown").mkdir(parents=True, exist_ok=True)
    for name in ("images", "labels"):
        if not (root / name).exists():
            (root / name).symlink_to(DATA / data / name)
    val = build_dataset(DataConfig(root=DATA / data, classes=data), "val")
    number = val.classes.names.index(unknown)
    for index, name in enumerate(val.names):
        mask = val[index].mask.numpy()
        truth = np.where(mask == 255, 255, mask == number).astype(np.uint8)
        Image.fromarray(truth).save(root / "unknown" / f"{name}.png")
    (root / "val.txt").write_text("\n".join(val.names) + "\n")
    assert val.classes.values is not None
    pairs = zip(val.classes.names, val.classes.values, strict=True)
    lines = [f"  - {{name: {name}, values: {value}}}" for name, value in pairs if name != unknown]
    void = [*VOID[data], val.classes.values[number]]
    text = "\n".join(["classes:", *lines, f"void: {void}", "split: {val_list: val.txt}"])
    (root / "classes.yaml").write_text(text + "\n")


def train(method: str, data: str, root: Path, seed: int, folder: Path) -> None:
    """A run that is finished is left alone, one that was cut off is resumed."""
    if (folder / "checkpoints" / "finished.json").is_file():
        return
    begin = time.monotonic()
    name = f"{method}/camvid" if data == "camvid" or method == "nonparametric" else f"{method}/folder"
    settings = [f"data.root={root}", f"train.seed={seed}", "train.precision=32-true", VIT]
    if data != "camvid":
        classes = root / "classes.yaml" if (root / "classes.yaml").is_file() else data
        settings += ["data.name=folder", f"data.classes={classes}"]
    if (folder / "recipe.yaml").is_file():
        api.train(resume=folder, quiet=True)
    else:
        api.train(name, out=folder, overrides=settings, quiet=True)
    print(f"{folder} {time.monotonic() - begin:.0f} s", flush=True)


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--data", default="msrc21")
    parser.add_argument("--methods", default="memory,blackbox,scaleproto")
    parser.add_argument("--seeds", default="1")
    parser.add_argument("--unknown", default="cow")
    parser.add_argument("--what", default="labels,unknown")
    args = parser.parse_args()
    if "unknown" in args.what:
        root = args.out / "msrc21" / f"without-{args.unknown}"
        without("msrc21", args.unknown, root)
        for method in args.methods.split(","):
            train(method, "msrc21", root, 1, args.out / "msrc21" / f"{method}-without-{args.unknown}")
    if "labels" not in args.what:
        return
    for seed in map(int, args.seeds.split(",")):
        for data in args.data.split(","):
            root = args.out / data / f"planted{seed}"
            plant(data, seed, root)
            for method in args.methods.split(","):
                train(method, data, root, seed, args.out / data / f"{method}{seed}")


if __name__ == "__main__":
    main()
