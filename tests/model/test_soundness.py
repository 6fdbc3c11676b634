"""A damaged model, or one that contradicts itself, is refused by the name of what is wrong."""

from __future__ import annotations

import json
import random
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from training_tiny import recipe, stages, train

from segproto.data.base import ClassTable
from segproto.encoders.build import build_encoder
from segproto.encoders.config import EncoderConfig
from segproto.errors import SegprotoError, WeightsError
from segproto.model.fingerprint import encoder_hash
from segproto.model.heads import GroupedHead
from segproto.model.provenance import PrototypeSource, Provenance
from segproto.model.segmenter import Segmenter
from segproto.prototypes.bank import PrototypeBank
from segproto.training import checkpoint
from segproto.training.loop import Loop


def segmenter() -> Segmenter:
    """Four classes, two prototypes each on both scales, with sources and one picture."""
    torch.manual_seed(0)
    encoder = build_encoder(EncoderConfig(name="unet", width=2, output_stride=4, dim=4, rates=[1, 2]))
    head = GroupedHead(PrototypeBank.regular(4, 2, 2, 4), 1)
    table = ClassTable(("sky", "road", "car", "tree"), tuple((i, i, i) for i in range(4)))
    sources = tuple(PrototypeSource("a", (0, p % 8), (8, 8), (0, 4 * p, 4, 4 * p + 4), 0.1) for p in range(16))
    known = Provenance(encoder_hash(encoder), "Tiny", sources)
    return Segmenter(encoder, head, table, known, {"prototypes/0000.png": b"\x89PNG, more or less"}).eval()


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A model with sources, as its author might have written it: without checksums."""
    segmenter().save(tmp_path / "model")
    (tmp_path / "model" / "SHA256SUMS").unlink()
    Segmenter.load(tmp_path / "model")
    return tmp_path / "model"


def change_json(path: Path, change: Callable[[Any], Any]) -> None:
    value = json.loads(path.read_text())
    change(value)
    path.write_text(json.dumps(value))


def set_tensor(name: str, place: Any, number: float) -> Callable[[Path], None]:
    def change(folder: Path) -> None:
        tensors = load_file(folder / "model.safetensors")
        tensors[name][place] = number
        save_file(tensors, folder / "model.safetensors")

    return change


def described(change: Callable[[Any], Any]) -> Callable[[Path], None]:
    return lambda folder: change_json(folder / "model.json", change)


def source(key: str, value: list[int]) -> Callable[[Path], None]:
    return lambda folder: change_json(folder / "prototypes.json", lambda v: v["sources"][1].update({key: value}))


CONTRADICTIONS = [
    (set_tensor("head.readout", (0, 0), float("nan")), r"head\.readout has 1 of \d+ values that are no finite number"),
    (set_tensor("head.bank.vectors", (3, 0), float("inf")), r"head\.bank\.vectors has 1 of"),
    (set_tensor("head.bank.class_of", 2, 99), "prototype 2 is of class 1 in model.json and of class 99 in model.safe"),
    (set_tensor("head.bank.scale_of", 0, 1), r"prototype 0 is of scale 0 in model\.json and of scale 1"),
    (described(lambda v: v["preprocessing"].update(std=[0.2, 0.0, 0.2])), r"std \[0\.2, 0\.0, 0\.2\]; expected three"),
    (
        described(lambda v: v["preprocessing"].update(mean=[0.5, 0.5])),
        r"model\.json: preprocessing has mean .* expected three",
    ),
    (described(lambda v: v["preprocessing"].update(mean=[0.5, 0.5, float("nan")])), "preprocessing has mean"),
    (described(lambda v: v["classes"]["names"].pop()), "names 3 classes and 4 colours, but the model has 4 outputs"),
    (described(lambda v: v["classes"]["colours"].pop()), "names 4 classes and 3 colours"),
    (described(lambda v: v["head"]["class_of"].__setitem__(0, 9)), "describes no model .class_of holds"),
    (described(lambda v: v["head"].pop("dim")), "describes no model .'dim'"),
    (described(lambda v: v.pop("encoder")), r"model\.json: encoder: missing"),
    (source("cell", [0, 99]), r"prototype 1 comes from cell \[0, 99\] of a grid of"),
    (source("cell", [-1, 0]), r"prototype 1 comes from cell \[-1, 0\]"),
    (source("box", [4, 4, 4, 8]), "which is no place in an image"),
    (
        lambda f: change_json(f / "prototypes.json", lambda v: v["sources"].pop()),
        r"sources of \d+ prototypes, the model",
    ),
]


@pytest.mark.parametrize(("change", "message"), CONTRADICTIONS)
def test_models_that_contradict_themselves(change: Callable[[Path], None], message: str, folder: Path) -> None:
    change(folder)
    with pytest.raises(WeightsError, match=message) as refused:
        Segmenter.load(folder)
    assert str(folder) in str(refused.value)


def flip(path: Path, bit: int) -> None:
    content = bytearray(path.read_bytes())
    content[bit // 8] ^= 1 << bit % 8
    path.write_bytes(content)


def every_file_flipped(folder: Path, load: Callable[[], Any], error: type[SegprotoError]) -> int:
    """Flips bits of each file below a folder, one at a time; each must be noticed by name."""
    drawn, files = random.Random(0), sorted(path for path in folder.rglob("*") if path.is_file())
    for path in files:
        size = path.stat().st_size * 8
        for bit in {0, size - 1, *(drawn.randrange(size) for _ in range(4))}:
            flip(path, bit)
            with pytest.raises(error) as refused:
                load()
            assert str(folder) in str(refused.value)
            flip(path, bit)
        path.rename(path.with_suffix(".away"))
        if path.name != "SHA256SUMS":
            with pytest.raises(error):
                load()
        path.with_suffix(".away").rename(path)
    load()
    return len(files)


def test_a_flipped_bit_of_a_model_is_noticed(tmp_path: Path) -> None:
    folder = tmp_path / "model"
    segmenter().save(folder)
    assert every_file_flipped(folder, lambda: Segmenter.load(folder), WeightsError) == 5
    tool = shutil.which("sha256sum")
    assert (
        tool is None or subprocess.run([tool, "-c", "--quiet", "SHA256SUMS"], cwd=folder, check=False).returncode == 0
    )


def test_a_flipped_bit_of_a_checkpoint_is_noticed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def stop(*_: Any) -> None:
        raise KeyboardInterrupt

    options = ("stages.first_steps=4", "train.stages=[first]", "train.checkpoint_every=2", "train.ema=0.9")
    monkeypatch.setattr(Loop, "_require_finite", lambda self: None if self.job.state.step < 3 else stop())
    with pytest.raises(KeyboardInterrupt):
        train(tmp_path / "run", *options)
    monkeypatch.undo()
    folder = checkpoint.latest(tmp_path / "run" / "checkpoints")
    assert folder is not None
    assert (
        every_file_flipped(folder, lambda: checkpoint.read_state(folder, stages(recipe(*options))), SegprotoError) == 6
    )
    flip(folder / "optimizer.safetensors", 8 * 4000)
    with pytest.raises(SegprotoError, match=r"optimizer\.safetensors: damaged, .*--start .*/run/stages/STAGE"):
        train(tmp_path / "run", *options, resume=True)
    flip(folder / "optimizer.safetensors", 8 * 4000)
    assert train(tmp_path / "run", *options, resume=True).figures["steps"] == 4


def test_models_from_before_there_were_checksums_load(folder: Path) -> None:
    assert not (folder / "SHA256SUMS").exists()
    image = torch.rand(1, 3, 32, 32)
    assert torch.equal(Segmenter.load(folder)(image), segmenter()(image))


def test_what_is_put_beside_a_model_later_is_nobodys_damage(tmp_path: Path) -> None:
    segmenter().save(tmp_path / "model")
    (tmp_path / "model" / "README.md").write_text("A card.")
    Segmenter.load(tmp_path / "model")
