"""Commands killed at chosen moments and repeated: the files of one that was left alone, no litter, no harmed file.

A slice runs with the other tests; ``pytest -m kill`` runs them all.
"""

from __future__ import annotations

import io
import random
import shutil
import signal
import zipfile
from pathlib import Path
from typing import NamedTuple

import pytest
from killing import Moment, attempt, differences, products, temporary
from PIL import Image
from two_steps import smaller
from writing_commands import COMMANDS, make_world, photos, tree

from segproto.methods import METHODS
from segproto.training.recipe import dump_recipe

SIGNALS = (signal.SIGKILL, signal.SIGTERM, signal.SIGINT)
CODES = {signal.SIGKILL: -9, signal.SIGTERM: -15, signal.SIGINT: 130}
DELAY = 0.3  # seconds after a change, at most: into the work between two of them


class Work(NamedTuple):
    """What is killed.

    Attributes:
        args: of the command line, with ``{out}`` and what the commands read.
        kills: how often in the long run.
        out: the name of what it writes.
        resume: how it goes on if it is a training run that has begun; "" = by the same command.
        code: what it ends with.
        repeat: it may be given again when all is done; else it is not, and what is there must be whole.
    """

    args: str
    kills: int
    out: str = "out"
    resume: str = ""
    code: int = 0
    repeat: bool = True


RESUME = "train --resume {out} -q"
FORGET = "edit {run} --forget 1 --train stages.forget.steps=2 stages.forget.retune_steps=2 -q --out {out}"
PREPARE = "data prepare coco_stuff --from {archives} --jobs 2 -q --root {out}"


def trainings(processes: int, kills: int) -> dict[str, Work]:
    """Every method."""
    args = f"train {{recipes}}/{{method}}.yaml --devices {processes} --out {{out}} -q"
    return {
        f"train {name} --devices {processes}": Work(args.replace("{method}", name), kills, resume=RESUME)
        for name in sorted(METHODS)
    }


WORKS = {
    **trainings(1, 4),
    **trainings(2, 2),
    **{
        " ".join(key): Work(" ".join((key[0], c.args)), 1, c.out, repeat=c.repeat)
        for key, c in COMMANDS.items()
        if c.run
    },
    "propose --processes 2": Work("propose {pictures} {unet} --processes 2 -q --out {out}", 2),
    "edit --forget": Work(FORGET, 2, resume=RESUME),
    "ablate entropy": Work("ablate entropy {recipes}/scaleproto.yaml -q --out {out}", 2),
    "export onnx": Work("export {blackbox} --size 64,64 --out {out}", 1, "a.onnx"),
    "data prepare": Work(PREPARE, 2, code=1),  # of so few images as are in the tests' archives
}
SLICE = ("train blackbox --devices 1", "evaluate --save", "edit --out")


@pytest.fixture(scope="module")
def world(runs: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, object]:
    """What the commands read."""
    folder = tmp_path_factory.mktemp("world")
    (folder / "recipes").mkdir()
    for name in METHODS:
        recipe = smaller(name, "train.precision=32-true")
        (folder / "recipes" / f"{name}.yaml").write_text(dump_recipe(recipe))
    more = {
        "recipes": folder / "recipes",
        "archives": make_archives(folder),
        "pictures": photos(folder / "pictures", 6),
    }
    return make_world(folder, runs) | more


def make_archives(parent: Path) -> Path:
    """A folder with those of COCO-Stuff, which hold few pictures."""
    (folder := parent / "archives").mkdir()
    members = {f"{split}2017.zip": [f"{split}2017/{i}.jpg" for i in range(6)] for split in ("train", "val")}
    names = [name.replace("jpg", "png") for split in members.values() for name in split]
    for name, pictures in {**members, "stuffthingmaps_trainval2017.zip": names}.items():
        with zipfile.ZipFile(folder / name, "w") as archive:
            for picture in pictures:
                buffer = io.BytesIO()
                Image.new("L", (6, 4), 7).save(buffer, "PNG" if picture.endswith("png") else "JPEG")
                archive.writestr(picture, buffer.getvalue())
    return folder


def moments(name: str, changes: int, kills: int) -> list[Moment]:
    """Spread over the work; half of them at a change, half some time after it; every signal in turn.

    Of many, the last comes when the work is done and clears up.
    """
    generator, first = random.Random(name), list(WORKS).index(name)
    found = []
    for number in range(kills):
        change = 1 + int(changes * (number + generator.random()) / kills)
        delay = generator.choice((0.0, generator.uniform(0, DELAY)))
        if number == 3:
            change, delay = changes - generator.randrange(10), 0.0
        found.append(Moment(change, delay, SIGNALS[(first + number) % 3], generator.random() < 0.5))
    return found


@pytest.mark.parametrize(
    ("name", "kills"),
    [*((name, 1) for name in SLICE), *(pytest.param(n, w.kills, marks=pytest.mark.kill) for n, w in WORKS.items())],
)
def test_killed_and_repeated(name: str, kills: int, world: dict[str, object], runs: Path, tmp_path: Path) -> None:
    work, here, aside = WORKS[name], tmp_path / "here", tmp_path / "aside"
    out = here / work.out
    values = {key: str(value) for key, value in world.items()} | {"out": str(out), "masks": str(here / "masks")}
    command, resume = work.args.format(**values).split(), work.resume.format(**values).split()
    inputs = [Path(str(world["folder"])), runs]
    before = [tree(folder) for folder in inputs]
    here.mkdir()
    left_alone = attempt(command, here, aside)
    assert left_alone.code == work.code, left_alone.said
    whole, usual, problems = products(here), set(temporary(aside)), []
    for moment in moments(name, left_alone.changes, kills):
        shutil.rmtree(here)
        here.mkdir()
        killed = attempt(command, here, aside, moment)
        if killed.code == work.code:  # it was quicker
            shutil.rmtree(here)
            here.mkdir()
            killed = attempt(command, here, aside, moment._replace(delay=0.0))
        assert killed.code == CODES[moment.signal], f"{moment}: {killed.said}"
        said = killed.said
        if work.repeat or differences(whole, products(here)):  # else it was killed when all was done
            begun = resume and (out / "recipe.yaml").exists()
            repeated = attempt(resume if begun else command, here, aside)
            assert repeated.code == work.code, f"{moment}: {repeated.said}"
            said += repeated.said
        found = differences(whole, products(here))
        found += [f"{file} is litter in the system's temporary folder" for file in set(temporary(aside)) - usual]
        found += [line for line in said.splitlines() if "Traceback" in line]
        problems += [f"{moment} of {left_alone.changes}: {line}" for line in found]
    assert not problems, "\n".join(problems)
    assert [tree(folder) for folder in inputs] == before
