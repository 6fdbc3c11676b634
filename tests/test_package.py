"""Wheel and sdist hold what is needed, install, and run outside the clone."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tarfile
import tomllib
import zipfile
from pathlib import Path

import pytest
import yaml

ROOT = Path(__file__).parents[1]
PACKAGE = ROOT / "src" / "segproto"
SMALL = {
    "blackbox": {
        "data": {"scenes": {"size": 64, "num_train": 16, "num_val": 4}, "augment": {"crop": 64}},
        "encoder": {"width": 4, "dim": 8},
        "stages": {"joint": {"steps": 3}},
    },
    "scaleproto": {"stages": {"linear": {"steps": 2}, "group_warmup": {"steps": 2}, "group_joint": {"steps": 2}}},
}


def build(kind: str, source: Path, out: Path) -> Path:
    """Builds as ``python -m build`` does, by the backend that pyproject.toml names."""
    command = [sys.executable, "-m", "hatchling", "build", "-t", kind, "-d", str(out)]
    subprocess.run(command, cwd=source, check=True, capture_output=True)
    (made,) = out.glob("*.whl" if kind == "wheel" else "*.tar.gz")
    return made


def merged(base: dict, more: dict) -> dict:
    both = {key: merged(base[key], more[key]) for key in base.keys() & more.keys() if isinstance(base[key], dict)}
    return {**base, **more, **both}


@pytest.mark.slow
def test_the_wheel_holds_recipes_and_templates(tmp_path: Path) -> None:
    with zipfile.ZipFile(build("wheel", ROOT, tmp_path)) as archive:
        names = set(archive.namelist())
    expected = {f"segproto/{f.relative_to(PACKAGE)}" for f in PACKAGE.rglob("*") if f.is_file()}
    assert {name for name in expected if "__pycache__" not in name} <= names
    assert any(name.endswith("LICENSE") for name in names)


@pytest.mark.slow
def test_the_sdist_becomes_a_wheel_that_runs_the_quickstart(tmp_path: Path) -> None:
    sdist = build("sdist", ROOT, tmp_path / "sdist")
    with tarfile.open(sdist) as archive:
        archive.extractall(tmp_path / "source", filter="data")
    (source,) = (tmp_path / "source").iterdir()
    assert {"README.md", "LICENSE", "CHANGELOG.md", "docs", "tests", "src"} <= {f.name for f in source.iterdir()}
    wheel = build("wheel", source, tmp_path / "wheel")
    place = tmp_path / "installed"
    command = [sys.executable, "-m", "pip", "install", "--quiet", "--no-deps", "--no-index", "--target", str(place)]
    subprocess.run([*command, str(wheel)], check=True, capture_output=True)
    for method, settings in SMALL.items():  # the quickstart takes minutes; its recipes are made small where they lie
        recipe = place / "segproto" / "methods" / method / "recipes" / "scenes.yaml"
        recipe.write_text(yaml.safe_dump(merged(yaml.safe_load(recipe.read_text()), settings)))
    elsewhere = {**os.environ, "PYTHONPATH": str(place)}
    where = "import segproto; print(segproto.__file__)"
    run = {"cwd": tmp_path, "env": elsewhere, "capture_output": True, "text": True}
    assert subprocess.run([sys.executable, "-c", where], check=True, **run).stdout.startswith(str(place))
    done = subprocess.run([sys.executable, str(place / "bin" / "segproto"), "quickstart", "--out", "runs/q"], **run)
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "runs" / "q" / "report.html").is_file()


def test_the_version_is_one() -> None:
    import segproto

    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    citation = yaml.safe_load((ROOT / "CITATION.cff").read_text())
    assert segproto.__version__ == project["version"] == str(citation["version"])


@pytest.mark.slow
def test_benchmarks_check_the_answer_and_print_a_table(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "benchmarks", "--quick", "--only", "walk", "--out", str(tmp_path / "rows.json")]
    found = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True)
    (row,) = json.loads((tmp_path / "rows.json").read_text())["rows"]
    assert row["same"]
    assert f"**{row['ratio']:.3g}x**" in found.stdout
