"""The command line: help is fast, errors are one line, and each verb does what it says on a tiny run."""

from __future__ import annotations

import json
import os
import resource
import subprocess
import sys
from importlib import import_module
from pathlib import Path

import numpy as np
import pytest
from command_line import Cli
from PIL import Image
from tiny_runs import GROUPS, SMALL

from segproto import api
from segproto.cli import main as cli_main
from segproto.errors import DataError
from segproto.methods import METHODS


@pytest.fixture
def photo(tmp_path: Path) -> Path:
    pixels = np.random.default_rng(0).integers(0, 255, (50, 70, 3), np.uint8)
    (tmp_path / "photos").mkdir()
    Image.fromarray(pixels).save(tmp_path / "photos" / "one.png")
    return tmp_path / "photos" / "one.png"


def test_help_takes_less_than_half_a_second_and_no_torch() -> None:
    code = "import sys; from segproto.cli.app import app\ntry: app(['--help'])\nexcept SystemExit: pass\n"
    code += "assert not {'torch', 'rich', 'pydantic', 'matplotlib', 'timm'} & set(sys.modules), 'heavy imports'"
    seconds = []
    for _ in range(3):
        before = resource.getrusage(resource.RUSAGE_CHILDREN)
        subprocess.run([sys.executable, "-c", code], check=True, stdout=subprocess.DEVNULL)
        after = resource.getrusage(resource.RUSAGE_CHILDREN)
        seconds.append(after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime)
    assert min(seconds) < 0.5


@pytest.mark.parametrize(
    ("args", "words"),
    [
        (["train", "scaleproto/scene", "--out", "x"], "did you mean scaleproto/scenes?"),
        (["train", "missing.yaml", "--out", "x"], "missing.yaml: no such recipe file"),
        (["train", "scaleproto/scenes", "train.sed=1", "--out", "x"], "did you mean train.seed?"),
        (["train", "scaleproto/scenes", "seed", "--out", "x"], "expected key=value"),
        (["train", "scaleproto/scenes", "--seeds", "1;2", "--out", "x"], "--seeds 1;2"),
        (["train", "scaleproto/scenes"], "expected a recipe and --out"),
        (["train", "--resume", "x", "--out", "y"], "--resume takes the run folder only"),
        (["evaluate", "nowhere"], "nowhere"),
        (["evaluate"], "expected a run or a model"),
        (["evaluate", "--masks", "m"], "--gt"),
        (["predict", "nowhere", "x.png", "--out", "y"], "nowhere"),
        (["explain", "nowhere", "x.png", "--out", "y", "--region", "5,5,1,9"], "--region"),
        (["report", "nowhere"], "nowhere: no run there"),
        (["compare", "nowhere"], "nowhere: no run there"),
        (["recipes", "protoseg/scnes"], "did you mean protoseg/scenes?"),
        (["recipes", "protosg"], "did you mean protoseg?"),
        (["recipes", "protoseg/scenes", "--data", "em"], "--data em: chooses what is listed"),
        (["data", "verify", "name=scenes", "scenes.num_trin=3"], "did you mean data.scenes.num_train?"),
    ],
)
def test_a_wrong_request_is_one_clear_line(
    cli: Cli, args: list[str], words: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    answer = cli(*args)
    assert answer.code == 2
    assert answer.err.startswith("segproto: ")
    assert words in answer.err
    assert len(answer.err.strip().splitlines()) == 1
    assert "Traceback" not in answer.err + answer.out
    assert not list(tmp_path.iterdir())


def test_debug_shows_the_traceback(cli: Cli, monkeypatch: pytest.MonkeyPatch) -> None:
    from segproto.errors import ConfigError

    monkeypatch.setenv("SEGPROTO_DEBUG", "1")
    with pytest.raises(ConfigError):
        cli("train", "nope", "--out", "x")


@pytest.mark.parametrize(
    ("error", "words"),
    [
        (MemoryError(), "out of memory; lower train.batch_size"),
        (RuntimeError("[enforce fail] DefaultCPUAllocator: can't allocate memory: 9 bytes"), "out of memory"),
        (PermissionError(13, "Permission denied", "a/b"), "a/b: Permission denied"),
    ],
)
def test_the_machine_s_refusals_are_said_in_one_line(error: Exception, words: str) -> None:
    line = cli_main.one_line(error)
    assert line is not None
    assert words in line


def test_a_defect_keeps_its_traceback() -> None:
    assert cli_main.one_line(KeyError("x")) is None


def test_recipes_are_listed_with_a_line_each(cli: Cli) -> None:
    listed = json.loads(cli("recipes", "--json").out)
    assert {"blackbox/scenes", "protoseg/scenes", "scaleproto/scenes", "scaleproto/em"} <= set(listed)
    assert all(listed.values()), "a recipe without a first comment line"
    lines = cli("recipes", "primaps", "--data", "cityscapes").out.splitlines()
    assert lines[0] == "primaps"
    assert len(lines) == 13
    assert all(line.startswith("  primaps/cityscapes27-") for line in lines[1:])
    assert [line for line in cli("recipes").out.splitlines() if not line.startswith(" ")] == sorted(METHODS)
    assert "method: scaleproto" in cli("recipes", "scaleproto/scenes").out


def test_every_shipped_recipe_is_valid() -> None:
    from segproto.runs.catalogue import shipped
    from segproto.runs.settings import resolve

    for name in shipped():
        method, recipe = resolve(name, {}, [])
        assert name.startswith(method.name + "/")
        assert [stage.name for stage in method.stages(recipe)]


def test_evaluate_writes_what_it_prints(cli: Cli, runs: Path) -> None:
    figures = json.loads(cli("evaluate", runs / "scaleproto", "--json").out)
    assert figures["trained_in"] == "32-true"
    assert figures == json.loads((runs / "scaleproto" / "evaluation" / "val.json").read_text())
    assert 0 <= figures["miou"] <= 1
    assert len(figures["per_class"]) == 8
    printed = cli("evaluate", runs / "scaleproto", "--stage", "project").out
    assert "mIoU" in printed
    assert "trained in: 32-true" in printed
    assert (runs / "scaleproto" / "evaluation" / "val-project.json").is_file()
    wrong = cli("evaluate", runs / "scaleproto", "--stage", "prune")
    assert wrong.code == 2
    assert "threshold" in wrong.err


def test_other_data_by_settings(cli: Cli, runs: Path) -> None:
    more = json.loads(cli("evaluate", runs / "blackbox", "data.scenes.num_val=6", "--json").out)
    assert more["images"] == 6


def test_predict_then_score_against_itself(cli: Cli, runs: Path, photo: Path, tmp_path: Path) -> None:
    assert cli("predict", runs / "blackbox", photo.parent, "--out", tmp_path / "masks").code == 0
    with Image.open(tmp_path / "masks" / "one.png") as mask:
        assert (mask.mode, mask.size) == ("L", (70, 50))
    same = cli("evaluate", "--masks", tmp_path / "masks", "--gt", tmp_path / "masks", "--json")
    assert json.loads(same.out)["accuracy"] == 1


def test_explain_leaves_a_page(cli: Cli, runs: Path, photo: Path, tmp_path: Path) -> None:
    answer = cli("explain", runs / "scaleproto", photo, "--out", tmp_path / "why")
    assert answer.code == 0, answer.err
    assert "prototype" in answer.out
    assert {"index.html", "explanation.json", "prediction.png"} <= {p.name for p in (tmp_path / "why").iterdir()}


def test_report_and_compare(cli: Cli, runs: Path, tmp_path: Path) -> None:
    for name in ("blackbox", "scaleproto"):
        assert cli("report", runs / name, "--images", "1").code == 0
        assert (runs / name / "report.html").stat().st_size < 15e6
    table = cli("compare", runs / "blackbox", runs / "scaleproto", "--out", tmp_path / "c.json")
    assert "blackbox" in table.out
    rows = json.loads((tmp_path / "c.json").read_text())["rows"]
    assert [row["method"] for row in rows] == ["blackbox", "scaleproto"]


@pytest.mark.precision
def test_quickstart_end_to_end_at_a_small_size(cli: Cli, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    train = api.train

    def small(recipe: str, *, overrides: list[str], **options: object) -> object:
        groups = GROUPS if recipe.startswith("scaleproto") else []
        return train(recipe, overrides=[*overrides, *SMALL, *groups], **options)

    monkeypatch.setattr(import_module("segproto.api.quickstart"), "train", small)
    answer = cli("quickstart", "--out", tmp_path / "quick", "--quiet")
    assert answer.code == 0, answer.err
    assert str(tmp_path / "quick" / "report.html") in answer.out.replace("\n", "")
    page = (tmp_path / "quick" / "report.html").read_text()
    assert page.count('aria-label="Image val_') == 3
    assert {p.name for p in (tmp_path / "quick").iterdir()} == {"blackbox", "scaleproto", "report.html", "compare.json"}


def test_seeds_make_a_run_each(cli: Cli, tmp_path: Path) -> None:
    answer = cli("train", "blackbox/scenes", *SMALL, "--seeds", "1,2", "--out", tmp_path / "s", "--quiet", "--json")
    assert answer.code == 0, answer.err
    assert [Path(run["out"]).name for run in json.loads(answer.out)] == ["seed1", "seed2"]
    row = json.loads(cli("compare", tmp_path / "s", "--json").out)["rows"][0]
    assert (row["name"], row["runs"], row["seeds"]) == ("s", 2, [1, 2])
    assert row["miou"]["mean"] == pytest.approx(np.mean(row["miou"]["values"]))
    assert row["miou"]["std"] == pytest.approx(np.std(row["miou"]["values"], ddof=1))


def test_of_several_processes_one_speaks(cli: Cli, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from torch import distributed

    from segproto.training.runner import RunResult

    done = RunResult(tmp_path, {"miou": 0.5}, {}, 1.0)
    monkeypatch.setattr(api, "train_seeds", lambda *_, **__: [done])
    monkeypatch.setattr(distributed, "is_initialized", lambda: True)
    for rank in (0, 1):
        monkeypatch.setattr(distributed, "get_rank", lambda rank=rank: rank)
        assert ("50.00" in cli("train", "x", "--out", tmp_path).out) == (rank == 0)


def test_resume_and_a_taken_folder(cli: Cli, runs: Path) -> None:
    assert cli("train", "--resume", runs / "blackbox", "--quiet").code == 0
    taken = cli("train", "blackbox/scenes", *SMALL, "--out", runs / "blackbox", "--quiet")
    assert taken.code == 2
    assert "holds another run" in taken.err


def test_a_new_run_begins_from_another_s_weights(cli: Cli, runs: Path, tmp_path: Path) -> None:
    stages = "train.stages=[group_warmup,group_joint,threshold]"
    start = runs / "scaleproto" / "stages" / "project" / "model"
    answer = cli("train", "scaleproto/scenes", *SMALL, *GROUPS, stages, "--start", start, "--out", tmp_path / "b", "-q")
    assert answer.code == 0, answer.err
    assert not (tmp_path / "b" / "stages" / "joint").exists()


def test_data_verify_says_what_is_wrong(cli: Cli, photo: Path) -> None:
    assert cli("data", "verify", "data.name=scenes", "scenes.num_train=20", "scenes.num_val=20").code == 0
    root = photo.parent.parent
    (root / "labels").mkdir()
    photo.parent.rename(root / "images")
    Image.fromarray(np.full((50, 70), 37, np.uint8)).save(root / "labels" / "one.png")
    (root / "classes.yaml").write_text("classes: [a, b]\nsplit: {val_list: val.txt}\n")
    (root / "val.txt").write_text("one\n")
    answer = cli("data", "verify", root)
    assert answer.code == 1
    assert "37" in answer.err
    answer = cli("data", "verify", "data.name=cityscapes", f"data.root={root}")
    assert (answer.code, answer.out.strip()) == (1, "")  # no tables without rows
    assert "no val images of cityscapes there" in answer.err


@pytest.mark.precision
def test_doctor_knows_the_versions(cli: Cli) -> None:
    import torch

    facts = json.loads(cli("doctor", "--json").out)
    assert facts["torch"] == torch.__version__ or torch.__version__.startswith(facts["torch"])
    assert facts["python"] == sys.version.split()[0]
    assert facts["train.precision=auto"].split(", for ")[0] in ("32-true", "bf16-mixed", "16-mixed")


def test_a_reader_that_leaves_is_no_error() -> None:
    code = "from segproto.cli.main import main; main()"
    listing = subprocess.Popen([sys.executable, "-c", code, "recipes"], stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    assert listing.stdout is not None
    assert listing.stderr is not None
    os.close(listing.stdout.fileno())
    assert b"Traceback" not in listing.stderr.read()
    listing.wait(60)


def test_larger_images_are_explained_when_asked(runs: Path, tmp_path: Path) -> None:
    image = np.zeros((40, 40, 3), np.uint8)
    with pytest.raises(DataError, match=r"1600 pixels are more than the limit of 1000.*--max-pixels"):
        api.explain(runs / "blackbox", image, max_pixels=1000)
    assert api.explain(runs / "blackbox", image, max_pixels=1600).size == (40, 40)
