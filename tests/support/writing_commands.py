"""Every command that writes where the user says, what it reads, and the checksums that tell what it touched."""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import NamedTuple

import numpy as np
from PIL import Image

from segproto.data.base import ClassTable
from segproto.encoders.build import build_encoder
from segproto.encoders.config import EncoderConfig
from segproto.methods.nonparametric.build import make_head
from segproto.methods.nonparametric.config import NonparametricModel
from segproto.model.segmenter import Segmenter


def tree(folder: Path) -> dict[str, str]:
    """Every file below a folder with its checksum."""
    files = [path for path in sorted(folder.rglob("*")) if path.is_file()]
    return {path.relative_to(folder).as_posix(): hashlib.sha256(path.read_bytes()).hexdigest() for path in files}


def photos(folder: Path, count: int = 2) -> Path:
    folder.mkdir(parents=True)
    for number in range(count):
        pixels = np.random.default_rng(number).integers(0, 255, (50, 70, 3), np.uint8)
        Image.fromarray(pixels).save(folder / f"{number}.png")
    return folder


class Writes(NamedTuple):
    """A command and one of its options that say where to write.

    Attributes:
        args: with ``{out}`` and what is in :func:`world`.
        out: a file's name in the folder of the test, or a folder's.
        repeat: the command may be given again; else a second one is refused.
        foreign: a file that it would write, below ``out``; "" = any that it has written.
        run: False = the command takes long or needs the network: it must notice ``foreign`` before it begins.
    """

    args: str
    out: str = "out"
    repeat: bool = True
    foreign: str = ""
    run: bool = True


UNET = "encoder.name=unet encoder.width=4 encoder.output_stride=4"
TRAIN = "blackbox/scenes train.precision=32-true"
EVALUATE = "{run} data.scenes.num_val=2 -q"
COMMANDS: dict[tuple[str, str], Writes] = {
    ("quickstart", "--out"): Writes("--out {out} -q", foreign="report.html", run=False),
    ("train", "--out"): Writes(f"{TRAIN} --out {{out}} -q", foreign="masks/labels/a.png", run=False),
    ("evaluate", "--out"): Writes(f"{EVALUATE} --out {{out}}", "a.json"),
    ("evaluate", "--save"): Writes(f"{EVALUATE} --save {{out}}"),
    ("review", "--out"): Writes(
        "{run} data.scenes.num_train=3 data.scenes.num_val=2 -q --out {out}", foreign="mine.txt"
    ),
    ("review --next", "--out"): Writes("{photos} {run} data.scenes.num_train=3 -q --out {out}"),
    ("review", "--masks"): Writes(
        "{run} data.scenes.num_train=3 data.scenes.num_val=2 -q --out {out}-review --masks {out}"
    ),
    ("predict", "--out"): Writes("{run} {photos} -q --out {out}"),
    ("predict", "--ood"): Writes("{ood} {photos} -q --out {masks} --ood {out}"),
    ("predict", "--overlay"): Writes("{run} {photos} -q --out {masks} --overlay {out}"),
    ("predict", "--probabilities"): Writes("{run} {photos} -q --out {masks} --probabilities {out}"),
    ("explain", "--out"): Writes("{run} {photo} --out {out}"),
    ("report", "--out"): Writes("{run} --images 1 data.scenes.num_val=2 -q --out {out}", "a.html"),
    ("compare", "--out"): Writes("{run} {blackbox} --out {out}", "a.json"),
    ("propose", "--out"): Writes("{photo} {unet} -q --out {out}"),
    ("edit", "--out"): Writes("{run} --drop 1 data.scenes.num_val=2 -q --out {out}", repeat=False),
    ("convert", "--out"): Writes("resnet {resnet} --out {out}", "a.safetensors"),
    ("export", "--out"): Writes("{blackbox} --format torch --size 64,64 --out {out}", "a.pt2"),
    ("analyse patches", "--out"): Writes("{run} data.scenes.num_train=3 -q --out {out}"),
    ("analyse pixels", "--out"): Writes("{run} --count 1 --out {out}"),
    ("analyse groups", "--out"): Writes("{run} --out {out}"),
    ("analyse samples", "--out"): Writes("{run} --images 1 -q --out {out}"),
    ("analyse assignments", "--out"): Writes("{run} {run} --out {out}"),
    ("analyse failures", "--out"): Writes("{run} --count 1 --below 1 -q --out {out}"),
    ("ablate thresholds", "--out"): Writes("{run} --at 0.1,0.2 data.scenes.num_val=2 -q --out {out}", "a.json"),
    ("ablate entropy", "--out"): Writes("scaleproto/scenes -q --out {out}", foreign="ablation.json", run=False),
    ("ablate scales", "--out"): Writes("scaleproto/scenes -q --out {out}", foreign="ablation.json", run=False),
    ("ablate starts", "--out"): Writes("scaleproto/scenes -q --out {out}", foreign="ablation.json", run=False),
    ("hub pull", "--out"): Writes("me/net --out {out}", foreign="model.json", run=False),
    ("data submit", "--out"): Writes("voc {masks21} --out {out}", "a.tgz"),
}


def make_world(folder: Path, runs: Path) -> dict[str, object]:
    """What the commands read, in a folder, and ``blackbox`` and ``scaleproto`` in that of the runs."""
    import timm
    import torch
    from safetensors.torch import save_file

    photos(folder / "photos", 1)
    torch.manual_seed(0)
    encoder = build_encoder(EncoderConfig(name="unet", width=4, output_stride=4, neck="identity", squash="none"))
    save_file(encoder.backbone.state_dict(), folder / "unet.safetensors")
    head = make_head(NonparametricModel(prototypes=2, score_norm="scale"), 2, sum(encoder.scale_dims))
    Segmenter(encoder, head, ClassTable(("a", "b"), ((0, 0, 0), (9, 9, 9)))).save(folder / "ood")
    torch.save(timm.create_model("resnet18", num_classes=0).state_dict(), folder / "resnet18.pth")
    (folder / "masks21").mkdir()
    Image.fromarray(np.zeros((5, 6), np.uint8)).save(folder / "masks21" / "2008_000001.png")
    return {
        "run": runs / "scaleproto",
        "blackbox": runs / "blackbox",
        "photos": folder / "photos",
        "photo": folder / "photos" / "0.png",
        "unet": f"{UNET} encoder.weights={folder / 'unet.safetensors'}",
        "ood": folder / "ood",
        "masks": folder / "masks",
        "resnet": folder / "resnet18.pth",
        "masks21": folder / "masks21",
        "folder": folder,
    }


def given(key: tuple[str, str], world: dict[str, object], out: object) -> list[str]:
    values = {name: str(value) for name, value in world.items()} | {"out": str(out)}
    return [*key[0].split(), *COMMANDS[key].args.format(**values).split()]
