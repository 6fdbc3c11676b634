"""Small exports as tools and people lay them out: six images of 32 pixels, background, a cat and a dog in each."""

from __future__ import annotations

import io
import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image

SIDE, COUNT = 32, 6
TRAIN, VAL = (0, 1, 2, 3), (4, 5)
LABELS = ("background", "cat", "dog")
COLOURS = np.array([[0, 0, 0], [200, 30, 40], [20, 60, 220]], np.uint8)


def boxes(index: int) -> dict[int, tuple[int, int, int, int]]:
    """Class to (x0, y0, x1, y1) in pixels, ends excluded."""
    return {1: (3 + index, 4, 14 + index, 16), 2: (5, 19 - index, 25, 28 - index // 2)}


def mask_of(index: int) -> NDArray[np.uint8]:
    """Classes (H, W)."""
    mask = np.zeros((SIDE, SIDE), np.uint8)
    for value, (x0, y0, x1, y1) in boxes(index).items():
        mask[y0:y1, x0:x1] = value
    return mask


def image_of(index: int) -> NDArray[np.uint8]:
    """Noise, in which classes have colours of their own."""
    noise = np.random.default_rng(index).integers(0, 40, (SIDE, SIDE, 3))
    return (COLOURS[mask_of(index)] + noise).clip(0, 255).astype(np.uint8)


def save(path: Path, array: NDArray[np.uint8], **how: object) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(array).save(path, **how)


def save_palette(path: Path, mask: NDArray[np.uint8]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    picture = Image.fromarray(mask, "P")
    picture.putpalette(COLOURS.ravel().tolist())
    picture.save(path)


def split_of(index: int, names: tuple[str, str] = ("train", "val")) -> str:
    return names[index in VAL]


@dataclass(frozen=True)
class Export:
    """One layout.

    Attributes:
        make: fills a folder with the export.
        classes: names that ``data init`` finds, in order.
        split: whether the layout tells the split (images 4 and 5 validate).
        objects: the mask is 0 where there is no cat and no dog, else 1.
        words: part of the line that says how it is read.
    """

    make: Callable[[Path], None]
    classes: tuple[str, ...]
    split: bool = False
    objects: bool = False
    words: str = ""

    def classes_of(self, index: int) -> NDArray[np.uint8]:
        """The expected mask."""
        return (mask_of(index) > 0).astype(np.uint8) if self.objects else mask_of(index)


def binary(root: Path) -> None:
    for i in range(COUNT):
        save(root / f"images/p{i}.jpg", image_of(i))
        save(root / f"masks/p{i}_mask.png", (mask_of(i) > 0).astype(np.uint8) * 255)


def ade20k(root: Path) -> None:
    for i in range(COUNT):
        split = split_of(i, ("training", "validation"))
        save(root / f"images/{split}/p{i}.jpg", image_of(i))
        save(root / f"annotations/{split}/p{i}.png", mask_of(i) + 1)


def roboflow_masks(root: Path) -> None:
    for i in range(COUNT):
        split = split_of(i, ("train", "valid"))
        save(root / f"{split}/p{i}_jpg.rf.00{i}.jpg", image_of(i))
        save(root / f"{split}/p{i}_jpg.rf.00{i}_mask.png", mask_of(i))
        (root / split / "_classes.csv").write_text("Pixel Value, Class\n0, background\n1, cat\n2, dog\n")


def kvasir(root: Path) -> None:
    for i in range(COUNT):
        save(root / f"images/k{i}.jpg", image_of(i))
        save(root / f"masks/k{i}.jpg", (mask_of(i) > 0).astype(np.uint8) * 255, quality=95)


def drive(root: Path) -> None:
    for i in range(COUNT):
        save(root / f"images/0{i}_training.tif", image_of(i))
        save(root / f"1st_manual/0{i}_manual1.gif", (mask_of(i) > 0).astype(np.uint8) * 255)


def prefixes(root: Path) -> None:
    for i in range(COUNT):
        save(root / f"images/img_{i}.jpg", image_of(i))
        save(root / f"masks/mask_{i}.png", mask_of(i))


def flat(root: Path) -> None:
    for i in range(COUNT):
        save(root / f"a{i}.jpg", image_of(i))
        save(root / f"a{i}.png", mask_of(i))


def flat_suffix(root: Path) -> None:
    for i in range(COUNT):
        save(root / f"a{i}.png", image_of(i))
        save(root / f"a{i}_mask.png", mask_of(i))
    (root / "classes.txt").write_text("background\ncat\ndog\n")


def voc(root: Path) -> None:
    for i in range(COUNT):
        save(root / f"JPEGImages/2007_00{i}.jpg", image_of(i))
        save_palette(root / f"SegmentationClass/2007_00{i}.png", mask_of(i))
        save_palette(root / f"SegmentationObject/2007_00{i}.png", mask_of(i))
    lists = root / "ImageSets/Segmentation"
    lists.mkdir(parents=True)
    for split, chosen in (("train", TRAIN), ("val", VAL), ("trainval", range(COUNT))):
        (lists / f"{split}.txt").write_text("".join(f"2007_00{i}\n" for i in chosen))


def cvat_masks(root: Path) -> None:
    for i in range(COUNT):
        save(root / f"JPEGImages/f{i}.png", image_of(i))
        save(root / f"SegmentationClass/f{i}.png", COLOURS[mask_of(i)])
    lines = [f"{name}:{','.join(map(str, colour))}::" for name, colour in zip(LABELS, COLOURS, strict=True)]
    (root / "labelmap.txt").write_text("# label:color_rgb:parts:actions\n" + "\n".join(lines) + "\n")
    (root / "ImageSets/Segmentation").mkdir(parents=True)
    (root / "ImageSets/Segmentation/default.txt").write_text("".join(f"f{i}\n" for i in range(COUNT)))


def cityscapes(root: Path) -> None:
    for i in range(COUNT):
        stem = f"{split_of(i)}/ulm/ulm_00000{i}_000019"
        save(root / f"leftImg8bit/{stem}_leftImg8bit.png", image_of(i))
        save(root / f"gtFine/{stem}_gtFine_labelIds.png", mask_of(i))
        save(root / f"gtFine/{stem}_gtFine_instanceIds.png", mask_of(i) * 2)
        save(root / f"gtFine/{stem}_gtFine_color.png", COLOURS[mask_of(i)])


def nnunet(root: Path) -> None:
    for i in range(COUNT):
        save(root / f"imagesTr/case_00{i}_0000.png", image_of(i))
        save(root / f"labelsTr/case_00{i}.png", mask_of(i))
    save(root / "imagesTs/case_090_0000.png", image_of(0))
    labels = {name: value for value, name in enumerate(LABELS)}
    (root / "dataset.json").write_text(json.dumps({"labels": labels, "numTraining": COUNT, "file_ending": ".png"}))


def folder_per_split(root: Path) -> None:
    for i in range(COUNT):
        split = split_of(i, ("Train", "Validation"))
        save(root / f"{split}/images/t{i}.png", image_of(i))
        save(root / f"{split}/masks/t{i}.png", mask_of(i))


def camvid_kaggle(root: Path) -> None:
    for i in range(COUNT):
        save(root / f"{split_of(i)}/s{i}.png", image_of(i))
        save(root / f"{split_of(i)}_labels/s{i}_L.png", COLOURS[mask_of(i)])
    rows = [f"{name},{','.join(map(str, colour))}" for name, colour in zip(LABELS, COLOURS, strict=True)]
    (root / "class_dict.csv").write_text("name,r,g,b\n" + "\n".join(rows) + "\n")


def one_list(root: Path) -> None:
    for i in range(COUNT):
        save(root / f"img/s{i}.png", image_of(i))
        save(root / f"seg/s{i}.png", mask_of(i))
    (root / "val.txt").write_text("s4.png\ns5.png\n")


def anti_aliased(root: Path) -> None:
    for i in range(COUNT):
        save(root / f"images/c{i}.jpg", image_of(i))
        large = Image.fromarray(COLOURS[mask_of(i)]).resize((8 * SIDE, 8 * SIDE), Image.Resampling.NEAREST)
        turned = large.resize((4 * SIDE + 3, 4 * SIDE + 3), Image.Resampling.BILINEAR)
        save(root / f"labels/c{i}.png", np.asarray(turned.resize((SIDE, SIDE), Image.Resampling.BILINEAR)))


def zipped(make: Callable[[Path], None]) -> Callable[[Path], None]:
    """The same in a zip archive beside the folder, with one folder above all."""

    def pack(root: Path) -> None:
        import zipfile

        make(root / "export")
        with zipfile.ZipFile(root.with_suffix(".zip"), "w") as archive:
            for path in sorted(root.rglob("*")):
                if path.is_file():
                    archive.write(path, path.relative_to(root))

    return pack


def png_bytes(array: NDArray[np.uint8]) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(array).save(buffer, "PNG")
    return buffer.getvalue()


NUMBERED = ("class 0", "class 1", "class 2")
OBJECT = ("background", "foreground")
PICTURES = {
    "suffix and 0/255": Export(binary, OBJECT, objects=True, words="images/*.jpg with masks/*_mask.png"),
    "ADE20K": Export(ade20k, ("class 1", "class 2", "class 3"), split=True, words="validation/ (2 val)"),
    "Roboflow, PNG masks": Export(roboflow_masks, LABELS, split=True, words="valid/ (2 val)"),
    "Kvasir (JPEG masks)": Export(kvasir, OBJECT, objects=True, words="masks/*.jpg"),
    "DRIVE (GIF masks)": Export(drive, OBJECT, objects=True, words="1st_manual/*_manual1.gif"),
    "prefixes": Export(prefixes, NUMBERED, words="images/img_*.jpg with masks/mask_*.png"),
    "one flat folder": Export(flat, NUMBERED, words="*.jpg with *.png"),
    "one flat folder, suffix": Export(flat_suffix, LABELS, words="*_mask.png"),
    "Pascal VOC": Export(voc, NUMBERED, split=True, words="SegmentationClass/*.png"),
    "CVAT, segmentation mask": Export(cvat_masks, LABELS, words="SegmentationClass/*.png"),
    "Cityscapes": Export(cityscapes, NUMBERED, split=True, words="*_gtFine_labelIds.png"),
    "nnU-Net": Export(nnunet, LABELS, words="imagesTr/*_0000.png with labelsTr/*.png"),
    "a folder per split": Export(folder_per_split, NUMBERED, split=True, words="{Train,Validation}/images"),
    "CamVid, colours": Export(camvid_kaggle, LABELS, split=True, words="{train,val}_labels/*_L.png"),
    "a list of one split": Export(one_list, NUMBERED, split=True, words="val.txt (2 val), all others train"),
    "zip": Export(zipped(cvat_masks), LABELS, words="SegmentationClass/*.png"),
}
EXPORTS = dict(PICTURES)
