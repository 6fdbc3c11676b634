"""Runs that many tests read, trained once per process; each test module gets copies of its own, to write to."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
from tiny_runs import train_blackbox, train_scaleproto


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
