"""Commands in README and docs run as they are written.

A block marked ``<!-- test: GROUP -->`` runs in GROUP's folder, blocks of a group in the order of the pages. What a
test must not do (download weights, train for minutes) is replaced by what ``CHANGES`` says, and nothing else is.
``<!-- needs: data -->`` marks commands on files that no test has.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import yaml
from PIL import Image
from tiny_runs import GROUPS, SMALL

from segproto.data.config import ScenesConfig
from segproto.data.scenes import ScenesDataset

ROOT = Path(__file__).parents[1]
ROOT_PAGES = [ROOT / name for name in ("README.md", "CONTRIBUTING.md", "SECURITY.md")]
PAGES = [*ROOT_PAGES, *sorted((ROOT / "docs").glob("*.md"))]
BLOCK = re.compile(r"<!-- test: (\w+) -->\n```(\w+)\n(.*?)```", re.S)
TINY = [s for s in SMALL if not s.startswith(("data.scenes", "data.augment"))]
UNET = "encoder.name=unet encoder.width=8 encoder.output_stride=4"
CHANGES = {
    "primaps/folder data.root=my_photos num_classes=8": f"primaps/folder data.root=my_photos num_classes=3 {UNET} "
    "encoder.backbone=null encoder.pretrained=false train.accelerator=cpu stages.kmeans.steps=3 stages.em.steps=3 "
    "stages.proposals.size=64",
    "encoder.pretrained=true --out proposals": f"{UNET} encoder.weights=unet.safetensors proposals.size=64 "
    "--device cpu --out proposals",
    "encoder.pretrained=true": "encoder.name=unet encoder.backbone=null encoder.layers=null encoder.frozen=false "
    "encoder.output_stride=4 train.cache_features=false data.augment.crop=64 " + " ".join(TINY),
    "stages.forget.steps=100": "stages.forget.steps=2 stages.forget.retune_steps=2",
    "data.scenes.num_train=256": " ".join([*SMALL, *GROUPS]),
    "blackbox/scenes --seeds": " ".join(["blackbox/scenes", *SMALL, "--seeds"]),
    "scaleproto/folder": " ".join(["scaleproto/folder", *GROUPS]),
}


def blocks(group: str, language: str = "bash") -> list[tuple[str, str]]:
    """Page name and text of every block of a group."""
    return [
        (page.name, text)
        for page in PAGES
        for name, kind, text in BLOCK.findall(page.read_text())
        if name == group and kind == language
    ]


def run_page(commands: str, folder: Path) -> None:
    """Runs a page's commands in a shell that stops at the first failure."""
    for words, change in CHANGES.items():
        commands = commands.replace(words, change)
    shim = folder / "bin" / "segproto"
    shim.parent.mkdir(exist_ok=True)
    shim.write_text(f'#!/bin/sh\nexec "{sys.executable}" -m segproto.cli "$@"\n')
    shim.chmod(0o755)
    environment = {**os.environ, "PATH": f"{shim.parent}:{os.environ['PATH']}", "PYTHONPATH": str(ROOT / "src")}
    done = subprocess.run(["bash", "-euc", commands], cwd=folder, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, f"{commands}\n{done.stdout}\n{done.stderr}"


def make_photos(root: Path) -> None:
    """A folder as the guide describes it."""
    table = None
    for split, count in (("train", 20), ("val", 6)):
        dataset = ScenesDataset(ScenesConfig(size=64, num_train=20, num_val=6), split)
        table = dataset.classes
        for kind in ("images", "labels"):
            (root / kind).mkdir(parents=True, exist_ok=True)
        for index in range(count):
            sample = dataset[index]
            name = f"{index + 1 + (split == 'val') * 20:04d}.png"
            Image.fromarray(sample.image.permute(1, 2, 0).numpy()).save(root / "images" / name)
            Image.fromarray(sample.mask.numpy()).save(root / "labels" / name)
    assert table is not None
    content = {"classes": list(table.names), "split": {"val_pattern": "^002[1-6]"}}
    (root / "classes.yaml").write_text(yaml.safe_dump(content))


def test_every_marked_block_belongs_to_a_test() -> None:
    marked = {name for page in PAGES for name, _, _ in BLOCK.findall(page.read_text())}
    assert marked == {"plain", "layout", "unlabelled", "photos", "scenes", "quickstart", "python", "whatif"}
    for page in PAGES:
        if page.name == "lab-notebook.md":  # figures with the commands that made them: hours, not tests
            continue
        text = page.read_text()
        fenced = len(re.findall(r"^```bash$", text, re.M))
        assert fenced == len(re.findall(r"<!-- (?:test|ci|needs): \w+ -->\n```bash\n", text)), (
            f"unmarked block in {page.name}"
        )


def test_plain_commands(tmp_path: Path) -> None:
    for _, commands in blocks("plain"):
        run_page(commands, tmp_path)


@pytest.mark.slow
@pytest.mark.parametrize("page", sorted({name for name, _ in blocks("photos")}))
def test_own_images(page: str, tmp_path: Path) -> None:
    make_photos(tmp_path / "photos")
    for name, commands in blocks("photos"):
        if name == page:
            run_page(commands, tmp_path)
    assert (tmp_path / "why" / "index.html").is_file()
    assert len(list((tmp_path / "masks").rglob("*.png"))) == 26


def test_a_classes_file_from_what_is_there(tmp_path: Path) -> None:
    make_photos(tmp_path / "photos")
    (tmp_path / "photos/classes.yaml").unlink()
    for _, commands in blocks("layout"):
        run_page(commands, tmp_path)
    assert "name: class 0" in (tmp_path / "photos/classes.yaml").read_text()


@pytest.mark.slow
def test_images_without_labels(tmp_path: Path) -> None:
    from safetensors.torch import save_file

    from segproto.encoders.unet import UNet

    make_photos(tmp_path / "photos")
    (tmp_path / "photos" / "images").rename(tmp_path / "my_photos")
    save_file(UNet(8, 4).state_dict(), tmp_path / "unet.safetensors")
    for _, commands in blocks("unlabelled"):
        run_page(commands, tmp_path)
    assert len(list((tmp_path / "runs" / "found" / "masks" / "labels").glob("*.png"))) == 26
    assert (tmp_path / "why" / "index.html").is_file()
    assert (tmp_path / "proposals-of-one" / "index.html").is_file()


@pytest.mark.slow
def test_recipes_page_and_python(tmp_path: Path) -> None:
    make_photos(tmp_path / "photos")
    for _, commands in blocks("scenes"):
        run_page(commands, tmp_path)
    code = "\n".join(text for _, text in blocks("python", "python"))  # one goes on from the other
    environment = {**os.environ, "PYTHONPATH": str(ROOT / "src")}
    subprocess.run([sys.executable, "-c", code], cwd=tmp_path, check=True, env=environment)


@pytest.mark.slow
def test_what_if(tmp_path: Path, scaleproto_run: Path) -> None:
    shutil.copytree(scaleproto_run, tmp_path / "runs" / "scenes")
    for _, commands in blocks("whatif"):
        run_page(commands, tmp_path)
    assert (tmp_path / "edits" / "without" / "edit.json").is_file()
    assert (tmp_path / "runs" / "forgot" / "model" / "model.json").is_file()
    assert len(list((tmp_path / "look").iterdir())) == 6


def test_the_example_classes_file_is_valid(tmp_path: Path) -> None:
    from segproto.data.classes import read_classes

    for page in PAGES:
        for text in re.findall(r"```yaml\n(classes:.*?)```", page.read_text(), re.S):
            (tmp_path / "classes.yaml").write_text(text)
            assert read_classes(tmp_path / "classes.yaml").labels.table.num_classes == 3


def test_quickstart_is_run_by_ci() -> None:
    (command,) = {commands.strip() for _, commands in blocks("quickstart")}
    assert command.split(" --out")[0] in (ROOT / ".ci" / "run").read_text()


def test_no_page_lists_some_methods_where_there_are_more() -> None:
    from segproto.methods import METHODS

    lists = 0
    for page in PAGES:
        if page.name in ("results.md", "lab-notebook.md"):  # what was measured
            continue
        for table in re.findall(r"(?:^\|.*\n)+", page.read_text(), re.M):
            rows = [row.split("|")[1:-1] for row in table.splitlines()]
            whole = [[cell] for row in rows for cell in row]
            starts = [
                [re.match(r"\W*\w*", cell)[0] for cell in cells] for cells in (rows[0], *zip(*rows, strict=False))
            ]
            for cells in [*whole, *starts]:  # names within one cell, in the head, or down a column
                named = {name for name in METHODS if any(re.search(rf"\b{name}\b", cell) for cell in cells)}
                if len(named) > 2:
                    assert named == set(METHODS), f"{page.name}: {sorted(set(METHODS) - named)} is missing"
                    lists += 1
    assert lists >= 5
