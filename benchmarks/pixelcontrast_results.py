"""From image-level labels to masks on MSRC-21: every step, and segmenters trained on the masks beside supervised ones.

    python benchmarks/pixelcontrast_results.py --out DIR [--seeds 1 2 3] [--steps 200]

Needs $SEGPROTO_DATA. Grass, sky, road and water are one background: tags cannot tell classes apart that are nearly
everywhere. Masks are used for the tags and for the figures alone. The ViT-Tiny is frozen and was trained with labels.
Each run goes on where it was interrupted and is done once; each leaves a JSON in DIR, and the table is of these.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import statistics
import time
from collections.abc import Callable
from pathlib import Path

import torch
import yaml
from PIL import Image

import segproto
from segproto.data.base import SegmentationDataset
from segproto.data.build import build_dataset
from segproto.methods.pixelcontrast.config import PixelcontrastRecipe
from segproto.methods.pixelcontrast.infer import best_classes, first_scores, walked
from segproto.methods.pixelcontrast.products import CAMS, read_maps
from segproto.metrics.segmentation import ConfusionMatrix
from segproto.model.segmenter import Segmenter
from segproto.report.settings import resolve

BACKGROUND = "{background: [grass, sky, road, water]}"
VIT = [
    "encoder.backbone=vit_tiny_patch16_224",
    "encoder.weights=$SEGPROTO_DATA/weights/vit_tiny_patch16_224_in1k.safetensors",
    "encoder.pretrained=false",
]
RUN = ["train.threads=1", "train.accelerator=cpu"]
DATA = ["data.root=$SEGPROTO_DATA/msrc21", "data.classes=msrc21", f"data.merge={BACKGROUND}"]
ROWS = {
    "cam_baseline": "CAM, no contrast, best threshold (train)",
    "cam": "CAM, with contrast, best threshold (train)",
    "walk": "+ random walk (train)",
    "crf": "+ CRF (train)",
    "blackbox": "1x1 classifier on the masks (held out)",
    "scaleproto": "scaleproto on the masks (held out)",
    "blackbox_supervised": "1x1 classifier, supervised (held out)",
    "scaleproto_supervised": "scaleproto, supervised (held out)",
}


def once(file: Path, make: Callable[[], dict]) -> dict:
    """A JSON, made if it is not there, with the time it took and the machine's load."""
    if not file.is_file():
        start = time.time()
        value = make()
        value |= {"seconds": round(time.time() - start, 1), "load": os.getloadavg()[0]}
        file.write_text(json.dumps(value, indent=1))
    return json.loads(file.read_text())


def trained(recipe: str, run: Path, settings: list[str]) -> dict[str, dict]:
    """The results of the stages of a run, begun, taken up or finished before."""
    if (run / "recipe.yaml").is_file():
        return segproto.train(resume=run, quiet=True).stages
    shutil.rmtree(run, ignore_errors=True)
    return segproto.train(recipe, out=run, overrides=settings, quiet=True).stages


def tagged(steps: int, seed: int) -> list[str]:
    """Settings of the runs from tags."""
    return [
        *VIT, *RUN, *DATA, f"train.seed={seed}", "encoder.input_scale=1", "data.augment.crop=224",
        f"stages.contrast.steps={steps}", f"stages.affinity.steps={steps // 2}", "stages.segment.steps=0",
        "stages.cams.scales=[1.0,1.5]",
    ]  # fmt: skip


def walk_figures(run: Path) -> dict:
    """mIoU of the training images after the random walk alone, without the CRF that follows it."""
    config = resolve(run / "recipe.yaml", {}, ())[1]
    assert isinstance(config, PixelcontrastRecipe)
    dataset = build_dataset(config.data, "train")
    model = Segmenter.load(run / "stages" / "masks" / "model").eval()
    counts = ConfusionMatrix(dataset.classes.num_classes)
    with torch.no_grad():
        for index in range(len(dataset)):
            sample = dataset[index]
            found = read_maps(run / CAMS, sample)
            mask = torch.zeros_like(sample.mask)
            if len(found["maps"]):
                scores = walked(model, sample.image, first_scores(model, found, config), config)
                mask = best_classes(sample.image, scores, found["classes"], None)
            counts.update(mask, sample.mask)
    return {"miou": counts.compute().miou}


def folder_of(root: Path, train: SegmentationDataset, val: SegmentationDataset, masks: Path | None) -> Path:
    """A folder data set: the training images with ``masks`` (None: the true ones), the others as they are."""
    if (root / "classes.yaml").is_file():
        return root
    for name in ("images", "labels"):
        (root / name).mkdir(parents=True, exist_ok=True)
    for dataset in (train, val):
        for index, name in enumerate(dataset.names):
            source = dataset.path(index)
            assert source is not None
            target = root / "images" / f"{name}{source.suffix}"
            if not target.exists():
                target.symlink_to(source.absolute())
            if dataset is train and masks is not None:
                shutil.copyfile(masks / f"{name}.png", root / "labels" / f"{name}.png")
            else:
                Image.fromarray(dataset[index].mask.numpy()).save(root / "labels" / f"{name}.png")
    (root / "val.txt").write_text("\n".join(val.names))
    classes = [{"name": name, "values": index} for index, name in enumerate(train.classes.names)]
    table = {"classes": classes, "void": [255], "split": {"val_list": "val.txt"}}
    (root / "classes.yaml").write_text(yaml.safe_dump(table))
    return root


def held_out(method: str, run: Path, root: Path, seed: int, settings: list[str]) -> dict:
    """mIoU on the held-out images of a segmenter trained on a folder."""
    stages = trained(f"{method}/folder", run, [*VIT, *RUN, f"data.root={root}", f"train.seed={seed}", *settings])
    last = list(stages.values())[-1]
    return {"miou": last["miou"], "accuracy": last["accuracy"]}


def one(out: Path, seed: int, steps: int, settings: list[str]) -> dict[str, float]:
    """All figures of a seed, in percent."""
    home = out / f"vit-{seed}"
    home.mkdir(parents=True, exist_ok=True)
    base, full = home / "baseline", home / "contrast"
    own = [*tagged(steps, seed), *settings]

    def cams(recipe: str, run: Path, more: list[str]) -> dict:
        found = trained(recipe, run, [*own, *more])
        masks = found.get("masks", {})
        return {
            "miou": found["cams"]["cam_miou"],
            "threshold": found["cams"]["cam_threshold"],
            "masks": masks.get("mask_miou"),
        }

    first = once(
        home / "cam_baseline.json",
        lambda: cams("pixelcontrast/folder-baseline", base, ["train.stages=[contrast,cams]"]),
    )
    second = once(home / "cam.json", lambda: cams("pixelcontrast/folder", full, []))
    third = once(home / "walk.json", lambda: walk_figures(full))
    figures = {"cam_baseline": first["miou"], "cam": second["miou"], "walk": third["miou"], "crf": second["masks"]}
    config = resolve(full / "recipe.yaml", {}, ())[1].data
    parts = [build_dataset(config, split) for split in ("train", "val")]
    for name, masks in (("", full / "masks" / "labels"), ("_supervised", None)):
        root = folder_of(home / f"data{name}", parts[0], parts[1], masks)
        for method in ("blackbox", "scaleproto"):
            key = f"{method}{name}"
            made = once(home / f"{key}.json", lambda m=method, k=key, r=root: held_out(m, home / k, r, seed, settings))
            figures[key] = made["miou"]
    return {key: 100 * value for key, value in figures.items()}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--seeds", type=int, nargs="+", default=[1, 2, 3])
    parser.add_argument("--steps", type=int, default=200, help="of the CAM network; the affinities take half as many")
    parser.add_argument("settings", nargs="*", help="KEY=VALUE for every run")
    args = parser.parse_args()
    torch.set_num_threads(1)
    os.environ.setdefault("SEGPROTO_CACHE", str(args.out.absolute() / "cache"))
    found = []
    for seed in args.seeds:
        found.append(one(args.out.absolute(), seed, args.steps, args.settings))
        print(f"seed {seed}: " + ", ".join(f"{key} {value:.1f}" for key, value in found[-1].items()), flush=True)
    print(f"\n| MSRC-21, frozen ViT-Tiny | mIoU, {len(found)} seeds |\n|---|---|")
    for key, words in ROWS.items():
        values = [figures[key] for figures in found]
        spread = f" ± {statistics.stdev(values):.1f}" if len(values) > 1 else ""
        print(f"| {words} | {statistics.mean(values):.1f}{spread} |")


if __name__ == "__main__":
    main()
