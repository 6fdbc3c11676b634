"""Deciding about suspicious labels: what is kept, what is written, and what is said where it cannot be."""

from __future__ import annotations

import json
import shutil
import threading
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from tiny_reviews import NAMES, VALUES, quarters, train_on_quarters
from writing_commands import tree

import segproto
from segproto.data.build import build_dataset
from segproto.errors import ConfigError, DataError, SegprotoError
from segproto.runs.settings import data_config
from segproto.studio.decisions import Content, Decisions, Entry
from segproto.studio.images import Uploads
from segproto.studio.jobs import Jobs
from segproto.studio.review import Review
from segproto.studio.state import Side


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """``data``, a ``run`` on it and its list in ``review``."""
    folder = tmp_path_factory.mktemp("world")
    train_on_quarters(folder / "run", quarters(folder / "data"))
    segproto.review(folder / "run", out=folder / "review", count=3, quiet=True)
    return folder


def opened(run: Path, given: Path | None, out: Path | None = None, *overrides: str) -> Review:
    side = Side(run, Uploads(), overrides=overrides)
    return Review(side, Jobs(side, out), given)


def written(review: Review, name: str) -> dict[str, object]:
    """Writes masks and waits for them."""
    before = set(threading.enumerate())  # a runner of tests has threads of its own, which never end
    review.write(name)
    for thread in set(threading.enumerate()) - before:
        thread.join(60)
    job = review.jobs.to_json()
    assert job is not None
    return job


def test_what_is_decided_is_kept_taken_back_and_written_as_masks(world: Path, tmp_path: Path) -> None:
    review = opened(world / "run", world / "review", tmp_path)
    before = tree(world)
    told = review.list_json()
    assert (told["problem"], told["images"], told["split"]) == (None, 8, "train")
    assert len(told["rows"][0]["patches"]) == 3
    assert told["rows"][3]["patches"] == []  # reasons of the first three were written down
    listed = json.loads((world / "review" / "labels.json").read_text())["labels"]
    first, second, third = (row["key"] for row in told["rows"][:3])
    review.decide(first, "correct", NAMES[0] if listed[0]["label"] != NAMES[0] else NAMES[1])
    review.decide(second, "accept", None)
    review.decide(second, "dismiss", None)
    review.decide(third, "accept", None)
    again = opened(world / "run", world / "review", tmp_path)  # as after the studio ended
    state = again.state_json()
    assert state["decisions"][second] == {"verdict": "dismiss", "to": None}
    assert len(state["decisions"]) == 3
    with pytest.raises(ConfigError, match="another window"):
        again.undo(state["revision"] - 1)
    back = again.undo(state["revision"])
    assert (back["undone"], third in back["decisions"]) == (third, False)
    back = again.undo(back["revision"])
    assert back["decisions"][second]["verdict"] == "accept"  # as it was before that was dismissed
    again.decide(third, "correct", None)
    job = written(again, "fixed")
    assert job["state"] == "done", job
    out = tmp_path / "fixed"
    assert sorted(tree(out)) == [*(f"train/t{i}.png" for i in range(8)), "val/v0.png", "val/v1.png"]
    assert "8 train and 2 val" in str(job["words"])
    assert f"data.labels={out}" in str(job["then"])
    assert str(job["then"]).startswith(f"segproto train {world / 'run' / 'recipe.yaml'} ")
    expected = {p.stem: np.array(Image.open(p)) for p in (world / "data" / "labels" / "train").iterdir()}
    become = [NAMES[0] if listed[0]["label"] != NAMES[0] else NAMES[1], None, listed[2]["suggested"]]
    for entry, to in zip(listed[:3], become, strict=True):
        y0, x0, y1, x1 = entry["box"]
        inside = np.repeat(np.arange(len(entry["runs"])) % 2 == 1, entry["runs"]).reshape(y1 - y0, x1 - x0)
        expected[entry["image"]][y0:y1, x0:x1][inside] = 255 if to is None else VALUES[NAMES.index(to)]
    for name, mask in expected.items():
        assert (np.array(Image.open(out / "train" / f"{name}.png")) == mask).all()
    trained = build_dataset(data_config(world / "run", {}, [f"data.labels={out}"]), "train")  # what the command reads
    assert trained.label_source == str(out / "train")
    assert tree(world) == before
    with pytest.raises(ConfigError, match="is taken; give another name"):
        again.write("fixed")


def test_a_mask_that_changed_since_is_said_and_left_alone(world: Path, tmp_path: Path) -> None:
    root = quarters(tmp_path / "data")
    review = opened(world / "run", world / "review", tmp_path / "out", f"data.root={root}")
    listed = json.loads((world / "review" / "labels.json").read_text())["labels"]
    keys = [row["key"] for row in review.list_json()["rows"]]
    other = next(i for i, entry in enumerate(listed) if entry["image"] != listed[0]["image"])
    review.decide(keys[0], "accept", None)
    review.decide(keys[other], "accept", None)
    file = root / "labels" / "train" / f"{listed[0]['image']}.png"
    mask = np.array(Image.open(file))
    mask[:] = VALUES[(NAMES.index(listed[0]["label"]) + 1) % 4]  # corrected elsewhere
    Image.fromarray(mask).save(file)
    with pytest.raises(DataError, match="not as it was when it was looked at"):
        review.region(keys[0], "part")
    assert review.region(keys[other], "whole")[0].startswith(b"\xff\xd8")
    job = written(review, "fixed")
    assert "1 of 2 decisions were left out" in str(job["words"])
    assert (np.array(Image.open(tmp_path / "out" / "fixed" / "train" / file.name)) == mask).all()
    for file in (root / "images" / "train").iterdir():
        file.rename(file.with_stem(f"moved{file.stem}"))
        (root / "labels" / "train" / file.name).rename(root / "labels" / "train" / f"moved{file.name}")
    moved = opened(world / "run", world / "review", tmp_path / "out", f"data.root={root}")
    assert "the images moved" in moved.list_json()["problem"]


def test_what_cannot_be_decided_is_said(world: Path, tmp_path: Path, scaleproto_run: Path, blackbox_run: Path) -> None:
    review = opened(world / "run", world / "review", tmp_path)
    row = review.list_json()["rows"][0]
    for key, verdict, to, words in (
        ("0123", "accept", None, "load the page again"),
        (row["key"], "burn", None, "expected accept, correct or dismiss"),
        (row["key"], "correct", "moon", "moon"),
        (row["key"], "correct", row["label"], "dismiss it to keep the label"),
    ):
        with pytest.raises(SegprotoError, match=words):
            review.decide(key, verdict, to)
    with pytest.raises(ConfigError, match="no decision changes a mask"):
        review.write(None)
    with pytest.raises(ConfigError, match="nothing to take back"):
        review.undo(0)
    assert not list(tmp_path.iterdir())
    # lists that are none, or of another run
    assert "no such file" in opened(world / "run", tmp_path, tmp_path).list_json()["problem"]
    assert "made of another run" in opened(blackbox_run, world / "review", tmp_path).list_json()["problem"]
    listed = (world / "review" / "labels.json").read_text()
    (tmp_path / "labels.json").write_text(listed.replace(json.dumps(row["label"]), '"moon"'))
    problem = opened(world / "run", tmp_path, tmp_path).list_json()["problem"]
    assert problem.startswith(f"{tmp_path / 'labels.json'}: was made of another run, or of other classes: class 'moon'")
    (tmp_path / "labels.json").write_text('{"labels": [{"image": 3}], "images": 1, "split": "train"}')
    assert "image" in opened(world / "run", tmp_path, tmp_path).list_json()["problem"]
    # runs whose labels cannot be looked at
    box = opened(blackbox_run, None)
    assert (box.list_json()["problem"], box.list_json()["rows"], box.list_json()["prototypes"]) == (None, [], False)
    moved = opened(scaleproto_run, None, None, "data.name=folder", "data.root=/nowhere")
    assert "/nowhere" in moved.list_json()["problem"]
    with pytest.raises(SegprotoError, match="/nowhere"):
        moved.find()
    unlabelled = opened(world / "run", None, None, "data.labels=null")
    assert "no masks" in unlabelled.list_json()["problem"]
    shutil.copytree(world / "run" / "model", tmp_path / "model")
    alone = opened(tmp_path / "model", world / "review", None, f"data.root={world / 'data'}", "data.name=folder")
    with pytest.raises(ConfigError, match="--out FOLDER to keep decisions"):
        alone.decide(row["key"], "accept", None)
    assert alone.state_json()["decisions"] == {}


def test_two_studios_on_one_run_lose_nothing(tmp_path: Path) -> None:
    entries = [
        Entry(image=f"i{n}", box=[0, 0, 1, 2], label="a", suggested="b", score=1, pixels=1, runs=[0, 1, 1])
        for n in range(24)
    ]
    kept = [Decisions(tmp_path), Decisions(tmp_path)]
    threads = [
        threading.Thread(target=lambda k=k: [kept[k].decide(entry, "accept", None) for entry in entries[k::2]])  # type: ignore[misc]
        for k in range(2)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    content = kept[0].read()
    assert {one.key for one in content.decisions} == {entry.key for entry in entries}
    assert content.revision == len(content.steps) == 24


def test_a_file_that_is_not_ours_or_broken_stays(tmp_path: Path) -> None:
    entry = Entry(image="i", box=[0, 0, 1, 2], label="a", suggested="b", score=1, pixels=1, runs=[0, 1, 1])
    file = tmp_path / "decisions.json"
    for content, words in (('{"decisions": 5}', "move it away"), ("{}", "is no decisions that segproto made")):
        file.write_text(content)
        with pytest.raises(SegprotoError, match=words):
            Decisions(tmp_path).decide(entry, "accept", None)
        assert file.read_text() == content
    file.unlink()
    assert Decisions(tmp_path).read() == Content()
