"""Tables of ``review``: planted label errors found again, a class left out seen as unknown, and what to label next.

OMP_NUM_THREADS=2 SEGPROTO_DATA=DIR python benchmarks/review_results.py --out DIR [--data msrc21,camvid] [--seeds 1]
    [--what labels,unknown,next] [--folds 3]

Planted errors: of the connected regions of the training masks (at least ``PIXELS`` pixels, in images of two classes or
more) 5 % get another class of the same image. Models are trained on these masks (frozen ViT-Tiny, cached features).
``review`` is compared with lists by the model's own probabilities, and by those of black boxes that did not see the
image (``--folds``; what confident learning wants). An entry of a list is right if most of its pixels are planted
errors; the first entry of a planted region counts, more of the same region count neither way. Average precision is over
all planted regions. Finished runs and figures are kept: a killed script goes on where it was.
Needs ``$SEGPROTO_CACHE``.
"""

from __future__ import annotations

import argparse
import json
import os
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
import yaml
from PIL import Image
from review_next import measure_next
from scipy import ndimage

import segproto.data
from segproto import api
from segproto.data.base import SegmentationDataset
from segproto.data.build import build_dataset
from segproto.data.config import DataConfig
from segproto.evaluation.review.labels import FEWEST, LabelReview
from segproto.evaluation.review.regions import Region, contradicted
from segproto.model.cache import FeatureCache
from segproto.model.features import image_features
from segproto.model.field import Field
from segproto.model.segmenter import Segmenter
from segproto.runs.settings import data_config

DATA = Path(os.environ.get("SEGPROTO_DATA", "data"))
VIT = f"encoder.weights={DATA / 'weights' / 'vit_tiny_patch16_224_in1k.safetensors'}"
PIXELS = 100
SHARE = 0.05
VOID = {"msrc21": [0, 5, 8], "camvid": [11, 255]}
EXAMPLES = Path(segproto.data.__file__).parent / "examples"
FIGURES, UNKNOWN = "review_labels.json", "review_unknown.json"
EIGHT = np.ones((3, 3), dtype=bool)


def training_names(data: str) -> list[str]:
    """Stems of the training images."""
    if data == "camvid":
        return (DATA / data / "train.txt").read_text().split()
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
    if (root / "classes.yaml").is_file():
        return
    (root / "unknown").mkdir(parents=True, exist_ok=True)
    for name in ("images", "labels"):
        if not (root / name).exists():
            (root / name).symlink_to(DATA / data / name)
    config = DataConfig(root=DATA / data, **({"name": "camvid"} if data == "camvid" else {"classes": data}))
    val = build_dataset(config, "val")
    number = val.classes.names.index(unknown)
    for index, name in enumerate(val.names):
        mask = val[index].mask.numpy()
        truth = np.where(mask == 255, 255, mask == number).astype(np.uint8)
        Image.fromarray(truth).save(root / "unknown" / f"{name}.png")
    (root / "train.txt").write_text("\n".join(training_names(data)) + "\n")
    (root / "val.txt").write_text("\n".join(val.names) + "\n")
    values = val.classes.values or range(len(val.classes.names))
    kept = [{"name": n, "values": v} for n, v in zip(val.classes.names, values, strict=True) if n != unknown]
    void = [*VOID[data], values[number]]
    split = {"train_list": "train.txt", "val_list": "val.txt"}
    (root / "classes.yaml").write_text(yaml.safe_dump({"classes": kept, "void": void, "split": split}))


def train(method: str, data: str, root: Path, seed: int, folder: Path) -> None:
    """A run that is finished is left alone, one that was cut off is resumed."""
    if (folder / "checkpoints" / "finished.json").is_file():
        return
    begin = time.monotonic()
    own = (root / "classes.yaml").is_file()
    name = f"{method}/camvid" if data == "camvid" and not own else f"{method}/folder"
    settings = [f"data.root={root}", f"train.seed={seed}", "train.precision=32-true", VIT]
    if name.endswith("folder"):
        settings += [f"data.classes={root / 'classes.yaml' if own else data}"]
    if (folder / "recipe.yaml").is_file():
        api.train(resume=folder, quiet=True)
    else:
        api.train(name, out=folder, overrides=settings, quiet=True)
    print(f"{folder} {time.monotonic() - begin:.0f} s", flush=True)


Listed = list[tuple[str, Region, float]]  # image, region, score


def open_run(folder: Path, split: str) -> tuple[Segmenter, SegmentationDataset, FeatureCache]:
    """A finished run with a split of its data."""
    model = Segmenter.load(folder).eval()
    dataset = build_dataset(data_config(folder, {}, []), split)
    return model, dataset, FeatureCache.open(model.encoder, dataset, Path(os.environ["SEGPROTO_CACHE"]))


def reviewed(folder: Path) -> Listed:
    """The list of ``review``."""
    model, dataset, cache = open_run(folder, "train")
    looking = LabelReview(model, dataset, cache)
    return [
        (name, region, region.score) for index, name in enumerate(dataset.names) for region in looking.regions(index)
    ]


def by_softmax(folder: Path, split: str) -> dict[str, Listed]:
    """Lists by a model's own probabilities, cut into regions by the same rules as those of ``review``.

    ``softmax`` ranks by 1 - mean probability of the label (cleanlab's self-confidence, averaged over the region),
    ``loss`` by the mean cross-entropy.
    """
    model, dataset, cache = open_run(folder, split)
    found: dict[str, Listed] = {"softmax": [], "loss": []}
    for index, name in enumerate(dataset.names):
        mask = dataset[index].mask
        with torch.no_grad():
            grid = model.head(image_features(model, dataset, index, cache))[0].float().softmax(0)
        size = (mask.shape[-2], mask.shape[-1])
        field = Field.over(grid, model.encoder, size, size)
        shares = field.rows(0, size[0])
        for region in contradicted(shares, mask, cell=field.step, fewest=FEWEST):
            y0, x0, y1, x1 = region.box
            own = shares[region.label, y0:y1, x0:x1][torch.from_numpy(region.inside)].double()
            found["softmax"].append((name, region, float(1 - own.mean())))
            found["loss"].append((name, region, float(-own.clamp_min(1e-12).log().mean())))
    return found


def fold_root(data: str, root: Path, fold: int, folds: int) -> Path:
    """A data folder that trains on all but every n-th planted training image, and validates on that one."""
    names, where = training_names(data), root / f"fold{fold}of{folds}"
    where.mkdir(exist_ok=True)
    for name, target in (("images", DATA / data / "images"), ("labels", root / "labels")):
        if not (where / name).exists():
            (where / name).symlink_to(target.absolute())
    # stretches of names that follow one another stay together: frames of a video look alike
    own = [name for index, name in enumerate(names) if index * folds // len(names) == fold]
    (where / "val.txt").write_text("\n".join(own) + "\n")
    (where / "train.txt").write_text("\n".join(name for name in names if name not in set(own)) + "\n")
    if data == "camvid":
        (where / "classes.txt").write_text((DATA / data / "classes.txt").read_text())
    else:
        table = yaml.safe_load((EXAMPLES / f"{data}.yaml").read_text())
        table["split"] = {"train_list": "train.txt", "val_list": "val.txt"}
        (where / "classes.yaml").write_text(yaml.safe_dump(table))
    return where


def cross_validated(data: str, root: Path, seed: int, out: Path, folds: int) -> dict[str, Listed]:
    """The same lists by black boxes that did not see the image."""
    found: dict[str, Listed] = {"softmax, out of sample": [], "loss, out of sample": []}
    for fold in range(folds):
        train("blackbox", data, fold_root(data, root, fold, folds), seed, folder := out / f"fold{fold}of{folds}")
        for kind, listed in by_softmax(folder, "val").items():
            found[f"{kind}, out of sample"] += listed
    return found


def average_precision(listed: Listed, planted: dict[str, Any]) -> dict[str, float]:
    """Of a list, against the planted errors."""
    total = len({(name, int(i)) for name, numbers in planted.items() for i in np.unique(numbers) if i})
    seen: set[tuple[str, int]] = set()
    wrong, precision, among = 0, 0.0, 0
    for name, region, _ in sorted(listed, key=lambda entry: -entry[2]):
        y0, x0, y1, x1 = region.box
        inside = planted[name][y0:y1, x0:x1][region.inside] if name in planted else np.zeros(1, np.int32)
        if (inside > 0).mean() <= 0.5:
            wrong += 1
            continue
        key = (name, int(np.bincount(inside[inside > 0]).argmax()))
        if key not in seen:
            seen.add(key)
            precision += len(seen) / (len(seen) + wrong)
            among += len(seen) + wrong <= total
    return {
        "average_precision": precision / total,
        "found": len(seen),
        "planted": total,
        "listed": len(listed),
        "found_among_first": among,
    }


def measure_labels(folder: Path, root: Path, lists: Callable[[], dict[str, Listed]]) -> None:
    """The figures of lists, once; ``folder`` is where they are kept."""
    if (folder / FIGURES).is_file():
        return
    begin = time.monotonic()
    with np.load(root / "planted.npz") as file:
        planted = {name: file[name] for name in file.files}
    figures = {kind: average_precision(listed, planted) for kind, listed in lists().items()}
    (folder / FIGURES).write_text(json.dumps(figures))
    print(f"{folder} {time.monotonic() - begin:.0f} s {json.dumps(figures)}", flush=True)


def measure_unknown(folder: Path, root: Path) -> None:
    """AUROC, AP and FPR95 of every score of a run that never saw a class, once."""
    if (folder / UNKNOWN).is_file():
        return
    figures = api.evaluate(folder, ood_labels=root / "unknown", quiet=True)
    (folder / UNKNOWN).write_text(json.dumps({"miou": figures["miou"], **figures["ood"]}))
    print(folder, (folder / UNKNOWN).read_text(), flush=True)


def leave_out(data: str, unknown: str, methods: list[str], seeds: list[int], out: Path) -> None:
    """Models that never saw a class, and how well each score tells its pixels."""
    root = out / data / f"without-{unknown}"
    without(data, unknown, root)
    for seed in seeds:
        for method in methods:
            train(method, data, root, seed, folder := out / data / f"{method}-without-{unknown}{seed}")
            measure_unknown(folder, root)


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--data", default="msrc21")
    parser.add_argument("--methods", default="memory,blackbox,scaleproto")
    parser.add_argument("--seeds", default="1")
    parser.add_argument("--unknown", default="cow", help="one class or several, each left out of a training of its own")
    parser.add_argument("--what", default="labels,unknown")
    parser.add_argument("--folds", type=int, default=3, help="of the cross-validated black box; 0 leaves it out")
    args = parser.parse_args()
    seeds = [int(seed) for seed in args.seeds.split(",")]
    if "unknown" in args.what:
        for data in args.data.split(","):
            for unknown in args.unknown.split(","):
                leave_out(data, unknown, args.methods.split(","), seeds, args.out)
    if "next" in args.what:
        measure_next([f"data.root={DATA / 'msrc21'}", "data.classes=msrc21", VIT], seeds, args.out / "msrc21")
    if "labels" not in args.what:
        return
    for seed in seeds:
        for data in args.data.split(","):
            root = args.out / data / f"planted{seed}"
            plant(data, seed, root)
            for method in args.methods.split(","):
                train(method, data, root, seed, folder := args.out / data / f"{method}{seed}")
                measure_labels(folder, root, lambda run=folder: {"review": reviewed(run), **by_softmax(run, "train")})
            if args.folds:
                out = args.out / data / f"cross-validated{seed}"
                out.mkdir(exist_ok=True)
                measure_labels(out, root, lambda d=data, r=root, s=seed, o=out: cross_validated(d, r, s, o, args.folds))


if __name__ == "__main__":
    main()
