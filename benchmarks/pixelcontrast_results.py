"""From image-level labels to masks on photos: every step, and segmenters trained on the masks beside supervised ones.

    python benchmarks/pixelcontrast_results.py --out DIR [--data clothes] [--net mobilenet] [--seeds 1 2 3]

Needs $SEGPROTO_DATA. Masks are used for the tags, for the figures and for one number: how strong the background is
(see ``backgrounds``). The backbone is frozen and was trained with labels. Of MSRC-21 only training images that are
wider than high are taken (maps of one size are remembered), and every second of either set.
Each run goes on where it was interrupted and is done once; each leaves a JSON in DIR, and the table is of these.
"""

from __future__ import annotations

import argparse
import json
import math
import os
import shutil
import statistics
import time
from collections.abc import Callable
from pathlib import Path

import torch
import yaml
from folded_mobilenet import unfold
from PIL import Image
from remember import remember
from tagged_sets import DATA, tagged_set

import segproto
from segproto.data.base import SegmentationDataset
from segproto.data.build import build_dataset
from segproto.data.subset import Subset
from segproto.methods.pixelcontrast.backgrounds import Cut
from segproto.methods.pixelcontrast.config import PixelcontrastRecipe
from segproto.methods.pixelcontrast.masks import MaskRule, best_classes, first_scores, walked
from segproto.methods.pixelcontrast.products import CAMS, read_maps
from segproto.metrics.segmentation import ConfusionMatrix
from segproto.model.segmenter import Segmenter
from segproto.runs.settings import resolve

WEIGHTS = DATA / "weights"
RUN = ["train.threads=1", "train.accelerator=cpu", "train.precision=32-true", "encoder.pretrained=false"]
ROWS = {
    "cam_baseline": "CAM, no contrast, best threshold (train)",
    "cam": "CAM, with contrast, best threshold (train)",
    "walk": "+ random walk (train)",
    "crf": "+ CRF (train)",
    "crf_alone": "CRF without the walk (train)",
    "blackbox": "DeepLab-style (ASPP) on the masks (held out)",
    "scaleproto": "scaleproto on the masks (held out)",
    "blackbox_supervised": "DeepLab-style (ASPP), supervised (held out)",
    "scaleproto_supervised": "scaleproto, supervised (held out)",
}


SHORT = {  # fewer steps than the recipes': the same for masks from tags and true ones
    "blackbox": ["stages.joint.steps=120"],
    "scaleproto": [
        "stages.linear.steps=80",
        "stages.joint.steps=200",
        "stages.group_warmup.steps=20",
        "stages.group_joint.steps=60",
    ],
}


def backbone(name: str, out: Path) -> list[str]:
    """Settings of a frozen backbone: ``vit`` or ``mobilenet``."""
    if name == "vit":
        file = WEIGHTS / "vit_tiny_patch16_224_in1k.safetensors"
        return ["encoder.backbone=vit_tiny_patch16_224", "encoder.layers=[2,5,8,11]", f"encoder.weights={file}"]
    file = unfold(WEIGHTS / "mobilenet_v2_1.0_224_dequant.safetensors", out / "mobilenetv2.safetensors")
    net = ["encoder.backbone=mobilenetv2_100", "encoder.layers=[3,4]", "encoder.output_stride=16"]
    return [*net, f"encoder.weights={file}"]


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


def backgrounds(threshold: float) -> list[str]:
    """Settings of ``(1 - max)^alpha``, from where the maps without contrast are best cut.

    The alpha that crosses the maps there, and a stronger and a weaker background for the affinities, as far from it as
    the published ones (chosen by masks of training images, too) are from each other.
    """
    alpha = math.log(threshold) / math.log(1 - threshold)
    return [f"stages.masks.alpha={alpha:.2f}", f"stages.crf.low={0.8 * alpha:.2f}", f"stages.crf.high={4 * alpha:.2f}"]


def tagged(steps: int, seed: int, root: Path, size: tuple[int, int]) -> list[str]:
    """Settings of the runs from tags.

    Whole images, mirrored or not, so that each is seen by the backbone once. The grid is a third as fine as the
    published one (20 cells across): so are the pairs and the walk.
    """
    lr = "{neck: 2e-3, head: 2e-3}"
    return [
        *RUN, f"data.root={root}", f"train.seed={seed}",
        "encoder.input_scale=1", "encoder.reduce=96", f"data.augment={{crop: {list(size)}, scale: [1, 1]}}",
        f"stages.contrast.steps={steps}", f"stages.contrast.lr={lr}",
        f"stages.affinity.steps={steps // 2}", f"stages.affinity.lr={lr}", "stages.affinity.radius=3",
        "stages.segment.steps=0", "stages.cams.scales=[1.0]", "stages.masks.log_steps=4", "stages.masks.shown=8",
    ]  # fmt: skip


def step_figure(run: Path, walk: bool) -> dict[str, float]:
    """mIoU of the training images after the random walk alone, or after the CRF alone."""
    config = resolve(run / "recipe.yaml", {}, ())[1]
    assert isinstance(config, PixelcontrastRecipe)
    rule, dataset = MaskRule.of(config.stages, Cut.of(run).otsu_threshold), build_dataset(config.data, "train")
    model = Segmenter.load(run / "stages" / "masks" / "model").eval()
    counts = ConfusionMatrix(dataset.classes.num_classes)
    with torch.no_grad():
        for index in range(len(dataset)):
            sample = dataset[index]
            cams = read_maps(run / CAMS, sample)
            mask = torch.zeros_like(sample.mask)
            if len(cams.maps):
                scores = first_scores(model, cams, rule)
                if walk:
                    assert rule.walk is not None
                    scores = walked(model, sample.image, scores, rule.walk)
                mask = best_classes(sample.image, scores, cams.classes, None if walk else rule.crf)
            counts.update(mask, sample.mask)
    return {"miou": counts.compute().miou or 0.0}


def folder_of(root: Path, train: SegmentationDataset, val: SegmentationDataset, masks: Path | None) -> Path:
    """A folder data set: the training images with ``masks`` (None: the true ones), and the others."""
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
    stages = trained(f"{method}/folder", run, [*RUN, f"data.root={root}", f"train.seed={seed}", *settings])
    last = list(stages.values())[-1]
    return {"miou": last["miou"], "accuracy": last["accuracy"]}


def one(
    out: Path, data: str, net: str, seed: int, steps: int, every: int, methods: list[str], settings: list[str]
) -> dict[str, float]:
    """All figures of a seed, in percent."""
    home = out / f"{net}-{seed}"
    home.mkdir(parents=True, exist_ok=True)
    base, full = home / "baseline", home / "contrast"
    train, val, size = tagged_set(data, every, out)
    frozen = backbone(net, out)
    # a stage ends with a validation, which no figure here comes from: two images are enough
    tags = folder_of(out / "data_tags", train, Subset(val, range(2)), None)
    own = [*frozen, *tagged(steps, seed, tags, size)]

    def cams(recipe: str, run: Path, more: list[str]) -> dict:
        figures = trained(recipe, run, [*own, *more, *settings])
        masks = figures.get("masks", {})
        return {
            "miou": figures["cams"]["cam_miou"],
            "threshold": figures["cams"]["cam_threshold"],
            "masks": masks.get("mask_miou"),
        }

    only_maps = ["train.stages=[contrast,cams]"]
    first = once(home / "cam_baseline.json", lambda: cams("pixelcontrast/folder-baseline", base, only_maps))
    second = once(home / "cam.json", lambda: cams("pixelcontrast/folder", full, backgrounds(first["threshold"])))
    third = once(home / "walk.json", lambda: step_figure(full, True))
    figures = {"cam_baseline": first["miou"], "cam": second["miou"], "walk": third["miou"], "crf": second["masks"]}
    for name, masks in (("", full / "masks" / "labels"), ("_supervised", None)):
        root = folder_of((home if masks else out) / f"data{name}", train, val, masks)
        for method in methods:
            key = f"{method}{name}"
            made = once(
                home / f"{key}.json",
                lambda m=method, k=key, r=root: held_out(m, home / k, r, seed, [*frozen, *SHORT[m]]),
            )
            figures[key] = made["miou"]
    figures["crf_alone"] = once(home / "crf_alone.json", lambda: step_figure(full, False))["miou"]
    return {key: 100 * value for key, value in figures.items()}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--data", choices=["msrc", "clothes"], default="msrc", help="one DIR each")
    parser.add_argument("--seeds", type=int, nargs="+", default=[1, 2, 3])
    parser.add_argument("--net", choices=["vit", "mobilenet"], default="vit")
    parser.add_argument("--steps", type=int, default=150, help="of the CAM network; the affinities take half as many")
    parser.add_argument("--every", type=int, default=2, help="Take every n-th training image.")
    parser.add_argument("--methods", nargs="*", default=list(SHORT), help="what is trained on the masks")
    parser.add_argument("settings", nargs="*", help="KEY=VALUE for the runs from tags")
    args = parser.parse_args()
    torch.set_num_threads(1)
    out = args.out.absolute()
    os.environ.setdefault("SEGPROTO_CACHE", str(out / "cache"))
    remember(out / "remembered" / args.net)
    per_seed = []
    for seed in args.seeds:
        per_seed.append(one(out, args.data, args.net, seed, args.steps, args.every, args.methods, args.settings))
        print(f"seed {seed}: " + ", ".join(f"{key} {value:.1f}" for key, value in per_seed[-1].items()), flush=True)
    print(f"\n| {args.data}, frozen {args.net} | mIoU, {len(per_seed)} seeds |\n|---|---|")
    for key, words in ROWS.items():
        values = [figures[key] for figures in per_seed if key in figures]
        if not values:
            continue
        spread = f" ± {statistics.stdev(values):.1f}" if len(values) > 1 else ""
        print(f"| {words} | {statistics.mean(values):.1f}{spread} |")


if __name__ == "__main__":
    main()
