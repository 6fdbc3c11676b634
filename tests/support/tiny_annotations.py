"""The same six images as the exports of annotation tools."""

from __future__ import annotations

import base64
import json
import zlib
from collections.abc import Callable
from itertools import groupby
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from tiny_layouts import (
    COUNT,
    EXPORTS,
    LABELS,
    SIDE,
    Export,
    boxes,
    image_of,
    mask_of,
    png_bytes,
    save,
    split_of,
    zipped,
)


def corners(index: int, value: int) -> list[tuple[int, int]]:
    x0, y0, x1, y1 = boxes(index)[value]
    return [(x0, y0), (x1, y0), (x1, y1), (x0, y1)]


def images(root: Path, folder: str = "images", ending: str = "jpg") -> None:
    for i in range(COUNT):
        save(root / f"{folder}/o{i}.{ending}", image_of(i))


def runs(mask: NDArray[Any]) -> list[int]:
    """Run lengths, outside first."""
    found = [(bool(value), len(list(group))) for value, group in groupby(mask.ravel().tolist())]
    return ([0] if found[0][0] else []) + [length for _, length in found]


def compressed(lengths: list[int]) -> str:
    """COCO's compressed run lengths, written from the description in maskApi.c."""
    text = ""
    for place, length in enumerate(lengths):
        rest = length - lengths[place - 2] if place > 2 else length
        more = True
        while more:
            bits = rest & 0x1F
            rest >>= 5
            more = rest != -1 if bits & 0x10 else rest != 0
            text += chr((bits | 0x20 if more else bits) + 48)
    return text


def brush(mask: NDArray[Any]) -> list[int]:
    """Label Studio's run lengths of an RGBA picture: a head, then runs and literals."""
    values = np.repeat(mask.astype(np.uint8).ravel() * 255, 4).tolist()
    bits = f"{len(values):032b}{7:05b}" + "".join(f"{size - 1:04b}" for size in (3, 4, 8, 16))
    for value, group in groupby(values):
        left = len(list(group))
        while left:
            size, width = next((s, w) for s, w in enumerate((3, 4, 8, 16)) if left <= 2**w or w == 16)
            length = min(left, 2**width)
            literal = length == 2
            bits += f"{0 if literal else 1}{size:02b}{length - 1:0{width}b}" + f"{value:08b}" * (
                length if literal else 1
            )
            left -= length
    bits += "0" * (-len(bits) % 8)
    return [int(bits[k : k + 8], 2) for k in range(0, len(bits), 8)]


def coco_content(chosen: list[int], kind: str, prefix: str = "") -> dict[str, Any]:
    annotations = []
    for i in chosen:
        for value in (1, 2):
            mask = mask_of(i) == value
            lengths = runs(mask.T)
            segmentation: Any = {
                "polygon": [[float(c) for corner in corners(i, value) for c in corner]],
                "rle": {"size": [SIDE, SIDE], "counts": lengths},
                "compressed": {"size": [SIDE, SIDE], "counts": compressed(lengths)},
            }[kind]
            annotations.append({"id": len(annotations), "image_id": i, "category_id": value * 10, "iscrowd": 0})
            annotations[-1]["segmentation"] = segmentation
    listed = [{"id": i, "file_name": f"{prefix}o{i}.jpg", "height": SIDE, "width": SIDE} for i in chosen]
    categories = [{"id": 0, "name": "things"}, {"id": 10, "name": "cat"}, {"id": 20, "name": "dog"}]
    return {"images": listed, "annotations": annotations, "categories": categories}


def coco(kind: str) -> Callable[[Path], None]:
    def make(root: Path) -> None:
        images(root)
        (root / "annotations").mkdir()
        (root / "annotations/instances_default.json").write_text(json.dumps(coco_content([*range(COUNT)], kind)))

    return make


def coco_by_split(root: Path) -> None:
    """As cocodataset.org has it."""
    (root / "annotations").mkdir(parents=True)
    for split in ("train2017", "val2017"):
        chosen = [i for i in range(COUNT) if split_of(i) == split[:-4]]
        for i in chosen:
            save(root / f"{split}/o{i}.jpg", image_of(i))
        (root / f"annotations/instances_{split}.json").write_text(json.dumps(coco_content(chosen, "compressed")))
        (root / f"annotations/captions_{split}.json").write_text(json.dumps({"images": [], "annotations": []}))


def roboflow_coco(root: Path) -> None:
    for split in ("train", "valid"):
        chosen = [i for i in range(COUNT) if split_of(i, ("train", "valid")) == split]
        for i in chosen:
            save(root / f"{split}/o{i}.jpg", image_of(i))
        (root / f"{split}/_annotations.coco.json").write_text(json.dumps(coco_content(chosen, "polygon")))


def cvat_xml(root: Path) -> None:
    images(root)
    nodes = []
    for i in range(COUNT):
        x0, y0, x1, y1 = boxes(i)[2]
        points = ";".join(f"{x:.2f},{y:.2f}" for x, y in corners(i, 1))
        shape = f'<polygon label="cat" occluded="0" points="{points}" z_order="1"/>'
        other = f'<box label="dog" xtl="{x0}" ytl="{y0}" xbr="{x1}" ybr="{y1}" z_order="2"/>'
        if i % 2:
            part = (mask_of(i) == 2)[y0:y1, x0:x1]
            text = ", ".join(map(str, runs(part)))
            place = f'left="{x0}" top="{y0}" width="{x1 - x0}" height="{y1 - y0}"'
            other = f'<mask label="dog" rle="{text}" {place} z_order="2"/>'
        nodes.append(f'<image id="{i}" name="o{i}.jpg" width="{SIDE}" height="{SIDE}">{other}{shape}</image>')
    labels = "".join(f"<label><name>{name}</name><color>#ff0000</color></label>" for name in LABELS[1:])
    head = f"<version>1.1</version><meta><task><labels>{labels}</labels></task></meta>"
    (root / "annotations.xml").write_text(f'<?xml version="1.0"?><annotations>{head}{"".join(nodes)}</annotations>')


def label_studio_tasks(brushes: bool) -> list[dict[str, Any]]:
    tasks = []
    for i in range(COUNT):
        result = []
        for value in (1, 2):
            kind = "brushlabels" if brushes else "polygonlabels"
            shape: dict[str, Any] = {"format": "rle", "rle": brush(mask_of(i) == value)}
            if not brushes:
                shape = {"points": [[100 * x / SIDE, 100 * y / SIDE] for x, y in corners(i, value)]}
            size = {"original_width": SIDE, "original_height": SIDE}
            result.append({"type": kind, "value": {**shape, kind: [LABELS[value]]}, **size})
        upload = {"image": f"/data/upload/1/0a1b2c3{i}-o{i}.jpg"}
        tasks.append({"id": 50 + i, "data": upload, "annotations": [{"id": 7 + i, "result": result}]})
    return tasks


def label_studio(brushes: bool) -> Callable[[Path], None]:
    def make(root: Path) -> None:
        images(root)
        (root / "project-1.json").write_text(json.dumps(label_studio_tasks(brushes)))

    return make


def label_studio_png(root: Path) -> None:
    label_studio(True)(root)
    for i in range(COUNT):
        for value in (1, 2):
            name = f"task-{50 + i}-annotation-{7 + i}-by-ann@x.org-tag-{LABELS[value]}-0.png"
            save(root / "masks" / name, (mask_of(i) == value).astype(np.uint8) * 255)


def labelme(root: Path) -> None:
    for i in range(COUNT):
        save(root / f"o{i}.jpg", image_of(i))
        x0, y0, x1, y1 = boxes(i)[2]
        shapes = [
            {"label": "cat", "points": corners(i, 1), "shape_type": "polygon"},
            {"label": "dog", "points": [(x0, y0), (x1, y1)], "shape_type": "rectangle"},
        ]
        if i % 2:
            part = png_bytes(((mask_of(i) == 2)[y0:y1, x0:x1]).astype(np.uint8) * 255)
            shapes[1] |= {"shape_type": "mask", "mask": base64.b64encode(part).decode()}
        content = {"version": "5", "shapes": shapes, "imagePath": f"o{i}.jpg", "imageData": None}
        (root / f"o{i}.json").write_text(json.dumps({**content, "imageHeight": SIDE, "imageWidth": SIDE}))


def yolo_lines(index: int) -> str:
    lines = []
    for value in (1, 2):
        share = [f"{c / SIDE:.6f}" for corner in corners(index, value) for c in corner]
        lines.append(" ".join([str(value - 1), *share]))
    return "\n".join(lines) + "\n"


def yolo(root: Path) -> None:
    for i in range(COUNT):
        save(root / f"images/{split_of(i)}/o{i}.jpg", image_of(i))
        text = root / f"labels/{split_of(i)}/o{i}.txt"
        text.parent.mkdir(parents=True, exist_ok=True)
        text.write_text(yolo_lines(i))
    (root / "data.yaml").write_text("train: images/train\nval: images/val\nnames: {0: cat, 1: dog}\n")


def roboflow_yolo(root: Path) -> None:
    for i in range(COUNT):
        split = split_of(i, ("train", "valid"))
        save(root / f"{split}/images/o{i}.jpg", image_of(i))
        text = root / f"{split}/labels/o{i}.txt"
        text.parent.mkdir(parents=True, exist_ok=True)
        text.write_text(yolo_lines(i))
    (root / "data.yaml").write_text("train: ../train/images\nval: ../valid/images\nnc: 2\nnames: ['cat', 'dog']\n")


def supervisely(root: Path) -> None:
    classes = [{"title": name, "shape": "any", "color": "#ff0000"} for name in LABELS[1:]]
    for i in range(COUNT):
        save(root / f"ds0/img/o{i}.jpg", image_of(i))
        x0, y0, x1, y1 = boxes(i)[2]
        part = png_bytes((mask_of(i) == 2)[y0:y1, x0:x1].astype(np.uint8) * 255)
        packed = base64.b64encode(zlib.compress(part)).decode()
        points = {"exterior": corners(i, 1), "interior": []}
        objects = [
            {"classTitle": "cat", "geometryType": "polygon", "points": points},
            {"classTitle": "dog", "geometryType": "bitmap", "bitmap": {"data": packed, "origin": [x0, y0]}},
        ]
        path = root / f"ds0/ann/o{i}.jpg.json"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(json.dumps({"size": {"height": SIDE, "width": SIDE}, "objects": objects, "tags": []}))
    (root / "meta.json").write_text(json.dumps({"classes": classes, "tags": []}))


ANNOTATIONS = {
    "COCO, polygons": Export(coco("polygon"), LABELS, words="instances_default.json"),
    "COCO, RLE": Export(coco("rle"), LABELS, words="instances_default.json"),
    "COCO, compressed RLE": Export(coco("compressed"), LABELS, words="instances_default.json"),
    "COCO, a file per split": Export(coco_by_split, LABELS, split=True, words="val2017/ (2 val)"),
    "Roboflow, COCO": Export(roboflow_coco, LABELS, split=True, words="valid/ (2 val)"),
    "CVAT for images": Export(cvat_xml, LABELS, words="shapes of annotations.xml"),
    "Label Studio, brush (JSON)": Export(label_studio(True), LABELS, words="project-1.json"),
    "Label Studio, polygons": Export(label_studio(False), LABELS, words="project-1.json"),
    "Label Studio, brush (PNG)": Export(label_studio_png, LABELS, words="brush masks (PNG)"),
    "labelme": Export(labelme, LABELS, words="shapes of 6 JSON files"),
    "YOLO segmentation": Export(yolo, LABELS, split=True, words="val/ (2 val)"),
    "Roboflow, YOLO": Export(roboflow_yolo, LABELS, split=True, words="valid/ (2 val)"),
    "Supervisely": Export(supervisely, LABELS, words="shapes of 6 JSON files"),
    "zip of COCO": Export(zipped(coco("polygon")), LABELS, words="instances_default.json"),
}
EXPORTS |= ANNOTATIONS
