"""The command line, and runs that many tests read: trained once per process; each module gets copies to write to."""

from __future__ import annotations

import shutil
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from command_line import Answer, Cli
from tiny_runs import train_blackbox, train_scaleproto

from segproto.cli import main as cli_main
from segproto.training import precision

CHOSEN: list[str] = []  # one entry for each time train.precision=auto was decided in this process


def noted(accelerator: str, decide: Callable[[str], precision.Settled] = precision.chosen_here) -> precision.Settled:
    CHOSEN.append(accelerator)
    return decide(accelerator)


precision.chosen_here = noted


def machine_independent(item: pytest.Item) -> Iterator[None]:
    """What the machine is must not decide whether a test passes: CI runs the marked tests in both precisions."""
    before = len(CHOSEN)
    yield
    if len(CHOSEN) > before and item.get_closest_marker("precision") is None:
        pytest.fail("it trains with train.precision=auto: name a precision, or mark it pytest.mark.precision", False)


pytest_runtest_setup = pytest_runtest_call = pytest.hookimpl(wrapper=True)(machine_independent)


@pytest.fixture
def cli(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Cli:
    """Runs a command in this process."""
    monkeypatch.delenv("SEGPROTO_DEBUG", raising=False)
    monkeypatch.setenv("COLUMNS", "200")

    def run(*args: object) -> Answer:
        monkeypatch.setattr(sys, "argv", ["segproto", *map(str, args)])
        capsys.readouterr()
        code = 0
        try:
            cli_main.main()
        except SystemExit as stop:
            code = int(stop.code or 0)
        return Answer(code, *capsys.readouterr())

    return run


@pytest.fixture(scope="session")
def trained_runs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """``blackbox`` and ``scaleproto`` beside it, a few steps each; not to be written to."""
    folder = tmp_path_factory.mktemp("trained")
    train_blackbox(folder / "blackbox")
    train_scaleproto(folder / "scaleproto", f"compare={folder / 'blackbox'}")
    return folder


@pytest.fixture(scope="module")
def runs(trained_runs: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A copy of both runs."""
    folder = tmp_path_factory.mktemp("runs")
    shutil.copytree(trained_runs, folder, dirs_exist_ok=True)
    recipe = folder / "scaleproto" / "recipe.yaml"
    recipe.write_text(recipe.read_text().replace(str(trained_runs), str(folder)))
    return folder


@pytest.fixture(scope="module")
def blackbox_run(runs: Path) -> Path:
    """The black box alone."""
    return runs / "blackbox"


@pytest.fixture(scope="module")
def scaleproto_run(runs: Path) -> Path:
    """The grouped prototype model alone."""
    return runs / "scaleproto"


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Long runs (``-m fuzz``, ``-m kill``) are asked for; their slices need no asking."""
    for long in ("fuzz", "kill"):
        if long not in config.getoption("markexpr"):
            items[:] = [item for item in items if item.get_closest_marker(long) is None]
