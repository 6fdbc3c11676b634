"""The examples in docstrings run and print what they say, in a folder that has a run and an image."""

from __future__ import annotations

import doctest
import importlib
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

import segproto

PACKAGE = Path(*segproto.__path__)
FILES = [file for file in sorted(PACKAGE.rglob("*.py")) if ">>>" in file.read_text() and file.name != "__init__.py"]
WITH_EXAMPLES = [".".join(["segproto", *file.relative_to(PACKAGE).with_suffix("").parts]) for file in FILES]


def test_public_functions_have_examples() -> None:
    folders = {name.split(".")[1] for name in WITH_EXAMPLES}
    assert {"api", "metrics", "prototypes", "refine"} <= folders


@pytest.mark.parametrize("name", ["segproto", *WITH_EXAMPLES])
def test_examples(name: str, runs: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "runs").mkdir()
    (tmp_path / "runs" / "em").symlink_to(runs / "scaleproto")
    Image.fromarray(np.zeros((40, 60, 3), np.uint8)).save(tmp_path / "image.png")
    monkeypatch.chdir(tmp_path)
    module = importlib.import_module(name)
    result = doctest.testmod(module, optionflags=doctest.NORMALIZE_WHITESPACE)
    assert result.attempted > 0
    assert result.failed == 0
