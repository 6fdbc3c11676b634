"""Tiles of 8 bits, the same as 12 bits in 16, and these with a measured value range: what the depth of files costs.

python benchmarks/bit_depth.py FOLDER WEIGHTS [--seeds 1 2] [--out DIR] [KEY=VALUE ...]

FOLDER has images/ and labels/ with a classes.yaml or classes.txt; WEIGHTS is a ViT-Tiny of timm; KEY=VALUE are further
settings of the recipe. Every value is made twelve times as large (0..3060), and written as a 16-bit TIFF.
"""

from __future__ import annotations

import argparse
import json
import shutil
import tempfile
from pathlib import Path

import numpy as np
import tifffile
from PIL import Image

import segproto


def in_sixteen(folder: Path, out: Path) -> Path:
    """A copy of a data set with 12-bit values in 16-bit TIFFs."""
    shutil.copytree(folder, out, ignore=lambda _, names: ["images"] if "images" in names else [])
    for file in sorted((folder / "images").rglob("*.*")):
        target = (out / file.relative_to(folder)).with_suffix(".tif")
        target.parent.mkdir(parents=True, exist_ok=True)
        with Image.open(file) as picture:
            wide = np.asarray(picture.convert("RGB")).astype(np.uint16) * 12
        tifffile.imwrite(target, wide, photometric="rgb")
    return out


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folder", type=Path)
    parser.add_argument("weights", type=Path)
    parser.add_argument("--seeds", type=int, nargs="+", default=[1, 2])
    parser.add_argument("--out", type=Path, default=Path("bit_depth.json"))
    args, settings = parser.parse_known_args()
    with tempfile.TemporaryDirectory() as place:
        wide = in_sixteen(args.folder, Path(place) / "wide")
        cases = {
            "8 bits": (args.folder, []),
            "12 in 16, value_range=auto": (wide, []),
            "12 in 16, value_range=percentiles": (wide, ["data.value_range=percentiles"]),
        }
        rows = {}
        for name, (root, own) in cases.items():
            found = []
            for seed in args.seeds:
                given = [f"data.root={root}", f"encoder.weights={args.weights}", f"train.seed={seed}"]
                run = Path(place) / f"{len(rows)}-{seed}"
                segproto.train("blackbox/folder", out=run, overrides=[*given, *own, *settings], quiet=True)
                found.append(segproto.evaluate(run, quiet=True)["miou"])
            rows[name] = found
            print(f"{name}: {', '.join(f'{100 * miou:.2f}' for miou in found)} mIoU %", flush=True)
    args.out.write_text(json.dumps(rows, indent=1))


if __name__ == "__main__":
    main()
