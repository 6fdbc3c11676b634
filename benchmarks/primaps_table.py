"""All rows of a data set, trained and printed beside the published ones.

    python benchmarks/primaps_table.py --data cityscapes27 --weights DIR --out runs/table [--rows dino_s8 ...]

DIR holds NAME.pth or NAME.safetensors a backbone (dino_s8, dino_b8, dinov2_s14, dinov2_b14), and for the boosted rows
model folders as ``segproto convert`` writes them (dino_b8-stego, dino_s8-hp ...); rows without a file are left out.
Each run is done once; KEY=VALUE at the end sets something in all rows. Published figures: README of the paper's code;
it does not say which of teacher or student, with or without CRF, they are of: ours are the teacher's with flip and CRF.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path

import segproto

# accuracy / mIoU in %
PUBLISHED = {
    "cityscapes27": {
        "dino_s8-baseline": (61.4, 15.8), "dino_s8": (81.2, 19.4), "dino_s8-boosted": (76.6, 19.2),
        "dino_b8-baseline": (49.2, 15.5), "dino_b8": (59.6, 17.6), "dino_b8-boosted": (78.6, 21.6),
        "dinov2_s14-baseline": (49.5, 15.3), "dinov2_s14": (71.5, 19.0),
        "dinov2_b14-baseline": (36.1, 14.9), "dinov2_b14": (82.9, 21.3),
    },
    "coco_stuff27": {
        "dino_s8-baseline": (34.2, 9.5), "dino_s8": (46.5, 16.4), "dino_s8-boosted": (57.8, 25.1),
        "dino_b8-baseline": (38.8, 15.7), "dino_b8": (48.5, 21.9), "dino_b8-boosted": (57.9, 29.7),
        "dinov2_s14-baseline": (44.5, 22.9), "dinov2_s14": (46.5, 23.8),
        "dinov2_b14-baseline": (35.0, 17.9), "dinov2_b14": (52.8, 23.6),
    },
    "potsdam3": {
        "dino_s8-baseline": (56.6, 33.6), "dino_s8": (62.5, 38.9), "dino_s8-boosted": (78.4, 64.2),
        "dino_b8-baseline": (66.1, 49.4), "dino_b8": (80.5, 67.0), "dino_b8-boosted": (83.3, 71.0),
        "dinov2_s14-baseline": (75.9, 61.0), "dinov2_s14": (78.5, 64.3),
        "dinov2_b14-baseline": (82.4, 69.9), "dinov2_b14": (83.2, 71.1),
    },
}  # fmt: skip
BACKBONES = ("dino_s8", "dino_b8", "dinov2_s14", "dinov2_b14")
ROWS = [f"{b}{e}" for b in BACKBONES for e in ("-baseline", "")]
ROWS += [f"{b}-{kind}" for b in ("dino_s8", "dino_b8") for kind in ("stego", "hp")]


def settings(row: str, weights: Path) -> list[str] | None:
    """What a row needs of ``weights``; None if it is not there."""
    if row.endswith(("-stego", "-hp")):
        return [f"train.start={weights / row}"] if (weights / row / "model.json").is_file() else None
    name = row.removesuffix("-baseline")
    files = [weights / f"{name}{suffix}" for suffix in (".safetensors", ".pth", ".pt")]
    return next(([f"encoder.weights={file}"] for file in files if file.is_file()), None)


def run_row(data: str, row: str, given: list[str], out: Path) -> dict:
    """The figures of a row, trained or continued if need be."""
    run = out / f"{data}-{row}"
    if (run / "recipe.yaml").is_file():
        result = segproto.train(resume=run)
    else:
        result = segproto.train(f"primaps/{data}-{row}", out=run, overrides=given)
    return result.stages["found"]


def best_variant(figures: dict) -> tuple[float, float]:
    """Accuracy and mIoU of the teacher with flip and CRF."""
    chosen = next(v for v in figures["variants"] if (v["name"], v["flip"], v["crf"]) == ("teacher", True, True))
    return 100 * chosen["accuracy"], 100 * chosen["miou"]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", required=True, choices=list(PUBLISHED))
    parser.add_argument("--weights", type=Path, required=True)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--rows", nargs="+", default=ROWS, choices=ROWS)
    parser.add_argument("values", nargs="*", metavar="KEY=VALUE", help="settings of all rows, as data.root=DIR")
    args = parser.parse_args()
    lines = []
    for row in args.rows:
        given = settings(row, args.weights)
        published = PUBLISHED[args.data].get(row.replace("-stego", "-boosted").replace("-hp", "-boosted"))
        theirs = "-" if published is None else f"{published[0]:.1f} / {published[1]:.1f}"
        if given is None:
            lines.append((row, "no weights", theirs, ""))
            continue
        figures = run_row(args.data, row, [*given, *args.values], args.out)
        accuracy, miou = best_variant(figures)
        lines.append((row, f"{accuracy:.1f} / {miou:.1f}", theirs, figures["selection"]))
    print(f"{args.data}, accuracy / mIoU in %")
    for row, ours, theirs, selection in [("row", "ours", "published", "selection"), *lines]:
        print(f"{row:24} {ours:>14} {theirs:>14}  {selection}")
    (args.out / f"{args.data}.json").write_text(json.dumps(lines, indent=1))


if __name__ == "__main__":
    main()
