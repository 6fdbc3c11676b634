"""``propose``, ``data verify`` and ``report`` shared between processes: what one process makes, to the bit."""

from __future__ import annotations

import json
import os
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import save_file
from training_tiny import in_processes, in_slurm

from segproto import api
from segproto.encoders.build import build_encoder
from segproto.encoders.config import EncoderConfig

UNET = {"name": "unet", "width": 4, "output_stride": 4}
CLASSES = "classes: [{name: ground, values: 0}, {name: thing, values: 1}, {name: rest, values: 2}]\n"
RAW = re.compile(r"[0-9.]+ s\b")


def folder(root: Path) -> Path:
    """Pairs with one problem of each kind: values of no class, a broken picture, a void mask, one turned by EXIF."""
    for part in ("images", "masks"):
        (root / part).mkdir(parents=True)
    (root / "classes.yaml").write_text(CLASSES)
    rng, turned = np.random.default_rng(0), Image.Exif()
    turned[0x0112] = 6
    for i in range(9):
        picture = Image.fromarray(rng.integers(0, 256, (32, 40, 3), np.uint8))
        picture.save(root / "images" / f"{i}.jpg", **({"exif": turned} if i in (2, 7) else {}))
        mask = np.full((32, 40), 255, np.uint8) if i == 4 else rng.integers(0, 2, (32, 40), np.uint8)
        mask[0, : i % 4] = 9 if i in (1, 6) else mask[0, 0]
        Image.fromarray(mask).save(root / "masks" / f"{i}.png")
    (root / "images" / "5.jpg").write_bytes(b"no picture")
    return root


def work(run: Path, data: Path, photos: Path, weights: Path, out: Path) -> None:
    torch.set_num_threads(1)
    found: dict[str, Any] = {"verify": api.data_verify(overrides=[f"data.root={data}"], quiet=True)}
    api.write_report(run, out=out / "report.html", images=2, device="cpu", quiet=True)
    encoder = [f"encoder.{key}={value}" for key, value in UNET.items()]
    settings = [*encoder, f"encoder.weights={weights}", "proposals.size=32"]
    api.propose(photos, out=out / "proposals", overrides=settings, device="cpu", quiet=True)
    made = api.propose(photos / "0.png", out=out / "single", overrides=settings, device="cpu", quiet=True)
    found["single"] = made["proposals"]
    rank = os.environ.get("RANK", os.environ.get("SLURM_PROCID", "0"))
    (out / f"rank{rank}.json").write_text(json.dumps(found, sort_keys=True))


def contents(folder: Path) -> dict[str, bytes]:
    files = [path for path in sorted(folder.rglob("*")) if path.is_file() and path.parent != folder]
    return {str(path.relative_to(folder)): path.read_bytes() for path in files}


@pytest.mark.slow
def test_propose_verify_and_report_of_several_processes_are_those_of_one(scaleproto_run: Path, tmp_path: Path) -> None:
    data, photos, weights = folder(tmp_path / "data"), tmp_path / "photos", tmp_path / "unet.safetensors"
    photos.mkdir()
    for i in range(4):
        Image.open(data / "images" / f"{i}.jpg").save(photos / f"{i}.png")
    torch.manual_seed(0)
    encoder = build_encoder(EncoderConfig(**UNET, neck="identity", squash="none"))
    save_file(encoder.backbone.state_dict(), weights)
    one, three, srun = (tmp_path / name for name in ("one", "three", "srun"))
    for out in (one, three, srun):
        out.mkdir()
    in_processes(3, work, scaleproto_run, data, photos, weights, three)
    in_slurm(2, work, scaleproto_run, data, photos, weights, srun)
    work(scaleproto_run, data, photos, weights, one)
    verified = json.loads((one / "rank0.json").read_text())["verify"]
    words = " ".join([*verified["problems"], *verified["notes"]])
    for part in ("5.jpg", "1.png", "void everywhere", "EXIF orientation in 2 ", "'rest' has no pixel"):
        assert part in words
    for out, world in ((three, 3), (srun, 2)):
        texts = [(out / f"rank{rank}.json").read_text() for rank in range(world)]
        assert set(texts) == {(one / "rank0.json").read_text()}  # every process knows them
        assert contents(out) == contents(one)
        assert len(contents(out)) == 4 * 2 + 4 + 1
        assert (out / "report.html").read_bytes() == (one / "report.html").read_bytes()
