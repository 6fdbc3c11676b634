"""Damaged files of every kind that is read: a clear line or the same answer, never a traceback, never a harmed file.

A slice runs with the other tests; ``pytest -m fuzz`` runs them all.
"""

from __future__ import annotations

import io
import json
import pickle
import random
import resource
import shutil
import zipfile
from collections.abc import Callable
from dataclasses import fields
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import load as load_tensors
from safetensors.torch import save as save_tensors
from tiny_segmenters import segmenter

from segproto import foreign
from segproto.cli.main import one_line
from segproto.data.images import read_stored
from segproto.data.picture import read_image
from segproto.encoders.weights import read_state
from segproto.errors import SegprotoError, plain
from segproto.files import sums
from segproto.model.description import Source, Sources
from segproto.model.provenance import PrototypeSource, Provenance
from segproto.model.segmenter import Segmenter
from segproto.report.measures import edit_figures, metric_rows, threshold_charts, threshold_rows
from segproto.report.page import percent, signed
from segproto.report.tables import charts, stage_rows
from segproto.runs.catalogue import shipped
from segproto.runs.folder import Run, images_and_masks
from segproto.runs.settings import resolve
from segproto.training import checkpoint
from segproto.training.checkpoint import State
from segproto.training.ema import Ema
from segproto.training.folder import finished
from segproto.training.runner import read_result
from segproto.training.stage import Optimise

WHOLE = {"images": 1000, "recipes": 500, "artefacts": 500, "checkpoints": 500, "names": 100, "states": 500}
SLICE = {"images": 150, "recipes": 40, "artefacts": 60, "checkpoints": 120, "names": 40, "states": 80}
PEAK = 1 << 20  # KiB that the process may grow by
AMOUNTS = [SLICE, pytest.param(WHOLE, marks=pytest.mark.fuzz)]
VALUES: list[Any] = [
    None,
    True,
    0,
    -1,
    1 << 40,
    1e308,
    float("nan"),
    "",
    "x\x1b[31m\n",
    [],
    {},
    [[]],
    {"a": 1},
    "9" * 99,
]


def attempt(action: Callable[[], Any]) -> str:
    """Runs it: the one line that a person would be told, or an empty text if it went well."""
    try:
        action()
    except SegprotoError as error:
        line = one_line(error)
        assert line
        assert len(line) < 2000
        assert all(plain(part) == part for part in line.split("\n"))
        return line
    return ""


def damaged(content: bytes, generator: random.Random) -> bytes:
    """Bytes flipped, a part cut out, doubled or zeroed, or the end lost."""
    changed = bytearray(content)
    for _ in range(generator.randint(1, 4)):
        at, length = generator.randrange(len(changed) or 1), generator.randint(1, 40)
        kind = generator.randrange(6)
        if kind <= 1:
            changed[at : at + 1] = bytes([generator.randrange(256)])
        elif kind == 2:
            del changed[at : at + length]
        elif kind == 3:
            changed[at:at] = changed[at : at + length]
        elif kind == 4:
            changed[at : at + length] = bytes(length)
        else:
            changed = changed[: generator.randrange(len(changed) + 1)]
    return bytes(changed)


def memory() -> int:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss


@pytest.mark.parametrize("amount", AMOUNTS)
def test_damaged_images(tmp_path: Path, amount: dict[str, int]) -> None:
    generator, began = random.Random(0), memory()
    pixels = np.random.default_rng(0).integers(0, 256, (24, 20, 3), np.uint8)
    contents = []
    for kind in ("PNG", "JPEG", "TIFF", "BMP", "GIF", "WEBP", "PPM"):
        for picture in (Image.fromarray(pixels), Image.fromarray(pixels[..., 0]), Image.fromarray(pixels).quantize(7)):
            buffer = io.BytesIO()
            (picture.convert("RGB") if kind in ("JPEG", "WEBP", "PPM") else picture).save(buffer, kind)
            contents.append(buffer.getvalue())
    for _ in range(amount["images"]):
        (path := tmp_path / "a.png").write_bytes(content := damaged(generator.choice(contents), generator))
        attempt(lambda path=path: read_image(path, 1 << 22))
        attempt(lambda path=path: read_stored(path) if read_image(path, 1 << 22) is not None else None)
        assert path.read_bytes() == content
    assert memory() - began < PEAK


def edited(value: Any, generator: random.Random) -> Any:
    """One place of a tree of values changed: another value, a key removed, doubled or renamed."""
    value = json.loads(json.dumps(value))
    node, place = value, None
    for _ in range(generator.randint(1, 6)):
        inner = node[place] if place is not None else node
        if not isinstance(inner, dict | list) or not inner:
            break
        node, place = inner, generator.choice([*inner] if isinstance(inner, dict) else [*range(len(inner))])
    if place is None:
        return generator.choice(VALUES)
    if generator.random() < 0.2:
        del node[place]
    elif generator.random() < 0.1 and isinstance(node, dict):
        node[f"{place}x"] = node.pop(place)
    else:
        node[place] = generator.choice(VALUES)
    return value


@pytest.mark.parametrize("amount", AMOUNTS)
def test_damaged_recipes(tmp_path: Path, amount: dict[str, int]) -> None:
    generator, recipes = random.Random(1), sorted(shipped().values())
    for _ in range(amount["recipes"]):
        content = damaged(generator.choice(recipes).read_bytes(), generator)
        (path := tmp_path / "a.yaml").write_bytes(content)
        attempt(lambda path=path: resolve(path, {}, []))
        key = generator.choice(
            ["train.threads", "encoder.dim", "data.name", "stages.joint.steps", "encoder.rates", "a"]
        )
        override = f"{key}={generator.choice(['-1', '1e99', '[', '.nan', '9' * 400, 'x', 'null', '{a: 1}', '[[1]]'])}"
        attempt(lambda override=override: resolve("scaleproto/scenes", {}, [override]))
        assert path.read_bytes() == content


@pytest.mark.parametrize("amount", AMOUNTS)
def test_damaged_artefacts(trained_runs: Path, tmp_path: Path, amount: dict[str, int]) -> None:
    """Edits of the JSON files of a run: loading its model and reading it for a report."""
    generator, began = random.Random(2), memory()
    shutil.copytree(trained_runs / "scaleproto", run := tmp_path / "run")
    evaluated = {"rows": [{"tau": 0.0, "miou": 0.5, "prototypes_used": 3, "group_average": 1.0}] * 2}
    (run / "evaluation").mkdir(exist_ok=True)
    (run / "model" / sums.NAME).unlink()  # else every edit is refused as damage
    (run / "evaluation/thresholds.json").write_text(json.dumps(evaluated))
    change = {"before": 0.5, "after": 0.25, "change": -0.25}
    edit = {"edits": ["dropped prototypes 1"], "prototypes": {"before": 3, "after": 2}, "images": 4, "miou": change}
    (run / "edit.json").write_text(json.dumps(edit | {"per_class": [change | {"name": "sky"}]}))
    measured = {"metrics": {"purity": {"value": 0.5, "meaning": "m", "unit": "share"}, "x": {"reason": "r"}}}
    (run / "evaluation/val-interpretability.json").write_text(json.dumps(measured))
    files = ["model/model.json", "model/prototypes.json", "stages/joint/result.json", "checkpoints/finished.json"]
    files += ["edit.json", "evaluation/thresholds.json", "evaluation/val-interpretability.json"]

    def read() -> None:
        found = Run(run)
        stage_rows(found), charts(found, None), found.figures(), found.made(), threshold_rows(found), found.seconds
        threshold_charts(threshold_rows(found)), metric_rows(found), finished(run), read_result(run, "joint")
        [(f"{row['group_average']:.1f}", percent(row["miou"])) for row in threshold_rows(found)]
        told = edit_figures(found)
        for row in [*told["per_class"], told["miou"]]:
            percent(row["before"]), percent(row["after"]), row["change"] is None or signed(100 * row["change"])
        "; ".join(told["edits"]), told["prototypes"]["before"], told["images"]

    for turn in range(amount["artefacts"]):
        path = run / generator.choice([*files, "metrics.jsonl", "recipe.yaml"])
        before = path.read_bytes()
        if path.suffix == ".json" and turn % 4:
            content = json.dumps(edited(json.loads(before), generator)).encode()
        else:
            content = damaged(before, generator)
        path.write_bytes(content)
        if path.parent.name == "model":
            attempt(lambda: Segmenter.load(run))
        else:
            attempt(read)
        assert path.read_bytes() == content
        path.write_bytes(before)
    assert attempt(lambda: Segmenter.load(run)) == attempt(read) == ""
    assert memory() - began < PEAK


@pytest.mark.parametrize("amount", AMOUNTS)
def test_damaged_states_of_runs(tmp_path: Path, amount: dict[str, int]) -> None:
    """``state.json`` and the tensors of a checkpoint, as ``--resume`` reads them."""
    generator, model = random.Random(5), segmenter("prototype")
    stage = Optimise("first", 9, lambda _: [], lambda *_: {}, lambda _: None)
    optimizer = torch.optim.Adam(model.parameters())
    sum(parameter.sum() for parameter in model.parameters()).backward()  # type: ignore[union-attr]
    optimizer.step()
    state = State(step=4, best_miou=0.5, precision={"scale": 2.0}, terms={"loss": 1.0})
    folder = checkpoint.save(tmp_path / "run" / "checkpoints", state, model, optimizer, ema := Ema(model, 0.9))
    (folder / sums.NAME).unlink()  # else every edit is refused as damage

    def read() -> None:
        assert checkpoint.read_state(folder, [stage]).seconds >= 0
        again = torch.optim.Adam(model.parameters())
        checkpoint.restore(folder, again, ema)
        again.step()

    for turn in range(amount["states"]):
        path = folder / generator.choice(["state.json", "optimizer.safetensors", "ema.safetensors"])
        before = path.read_bytes()
        if turn % 4 == 0:
            content = damaged(before, generator)
        elif path.suffix == ".json":
            content = json.dumps(edited(json.loads(before), generator)).encode()
        else:
            content = retold(before, generator)
        path.write_bytes(content)
        attempt(read)
        assert path.read_bytes() == content
        path.write_bytes(before)
    assert attempt(read) == ""


def retold(content: bytes, generator: random.Random) -> bytes:
    """Tensors of which one is gone, has another name, shape or type."""
    tensors = load_tensors(content)
    name = generator.choice([*tensors])
    value = tensors.pop(name)
    other = generator.choice([f"{name}x", f"9{name}", "x", "1.2.3", "-1.step", ""])
    kind = generator.randrange(4)
    if kind == 1:
        tensors[other] = value
    elif kind == 2:
        tensors[name] = torch.zeros(generator.choice([(0,), (3, 1), (1, 1, 1, 1)]))
    elif kind == 3:
        tensors[name] = value.to(generator.choice([torch.int64, torch.bool, torch.complex64]))
    return save_tensors(tensors)


def checkpoints() -> list[bytes]:
    """Torch files of both kinds, pickles of every protocol, an npy file."""
    value = {"state_dict": {f"a{i}.weight": torch.arange(6.0).view(2, 3) for i in range(3)}, "args": {"x": (1, "y")}}
    found = []
    for stream in (True, False):
        buffer = io.BytesIO()
        torch.save(value, buffer, _use_new_zipfile_serialization=not stream)
        found.append(buffer.getvalue())
    found += [pickle.dumps({"a": [1, 2.0, "x"], "b": np.arange(4)}, protocol) for protocol in range(6)]
    buffer = io.BytesIO()
    np.save(buffer, {"a": np.zeros(3)}, allow_pickle=True)  # type: ignore[arg-type]
    return [*found, buffer.getvalue()]


def inside(content: bytes, generator: random.Random) -> bytes:
    """An archive whose pickle is damaged; the checksums are right again."""
    buffer = io.BytesIO()
    with zipfile.ZipFile(io.BytesIO(content)) as old, zipfile.ZipFile(buffer, "w") as new:
        for name in old.namelist():
            entry = old.read(name)
            new.writestr(name, damaged(entry, generator) if name.endswith("data.pkl") else entry)
    return buffer.getvalue()


@pytest.mark.parametrize("amount", AMOUNTS)
def test_damaged_checkpoints(tmp_path: Path, amount: dict[str, int]) -> None:
    generator, began, contents = random.Random(3), memory(), checkpoints()
    for turn in range(amount["checkpoints"]):
        content = inside(contents[1], generator) if turn % 2 else damaged(generator.choice(contents), generator)
        (path := tmp_path / "a.pth").write_bytes(content)
        attempt(lambda path=path: foreign.read(path))
        attempt(lambda path=path: read_state(path))
        assert path.read_bytes() == content
    assert memory() - began < PEAK


@pytest.mark.parametrize("amount", AMOUNTS)
def test_names(tmp_path: Path, amount: dict[str, int]) -> None:
    generator = random.Random(4)
    signs = [*"a- .\n'\"\\&~", "\x1b[31m", "é", "%s", "{x}", "<b>", "[red]", "\u202e", "$A"]
    picture = Image.new("RGB", (6, 6))
    for turn in range(amount["names"]):
        folder = tmp_path / str(turn)
        folder.mkdir()
        name = "".join(generator.choices(signs, k=generator.randint(1, 6))) + ".png"
        picture.save(folder / name, "PNG")
        before = (folder / name).read_bytes()
        line = attempt(
            lambda folder=folder: [read_image(image) for image, _ in images_and_masks(folder, folder / "o", str)]
        )
        assert not line or name.startswith(".") or "no image there" not in line
        (folder / name).write_bytes(b"broken")
        attempt(lambda folder=folder, name=name: read_image(folder / name))
        (folder / name).write_bytes(before)
        assert [p.name for p in folder.iterdir()] == [name]


def test_the_schema_of_sources_names_every_field() -> None:
    for schema, kind in ((Source, PrototypeSource), (Sources, Provenance)):
        assert set(schema.model_fields) == {field.name for field in fields(kind)}
