"""The tutorials run, and what is stored of them is small."""

from __future__ import annotations

import json
import re
import sys
from pathlib import Path

import pytest

TUTORIALS = Path(__file__).parents[1] / "docs" / "tutorials"
NOTEBOOKS = sorted(TUTORIALS.glob("*.ipynb"))


def texts(notebook: dict) -> list[str]:
    """What the code cells print, one text per cell that prints."""
    cells = [cell for cell in notebook["cells"] if cell["cell_type"] == "code"]
    found = ["".join("".join(out.get("text", "")) for out in cell["outputs"]) for cell in cells]
    return [text for text in found if text]


@pytest.mark.parametrize("file", NOTEBOOKS, ids=lambda f: f.stem)
def test_a_stored_tutorial_is_whole_and_small(file: Path) -> None:
    text = file.read_text()
    assert len(text) < 1_000_000
    assert "/tmp" not in text
    assert "Traceback" not in text
    code = [cell for cell in json.loads(text)["cells"] if cell["cell_type"] == "code"]
    assert [cell["execution_count"] for cell in code] == list(range(1, len(code) + 1)), (
        "stored after a run from the top"
    )
    imported = set(re.findall(r"(?:from|import) (segproto[\w.]*)", "\n".join("".join(cell["source"]) for cell in code)))
    assert imported == {"segproto"}  # the public names alone


def test_there_are_five() -> None:
    assert [file.name[0] for file in NOTEBOOKS] == ["1", "2", "3", "4", "5"]


@pytest.mark.slow
@pytest.mark.parametrize("file", NOTEBOOKS, ids=lambda f: f.stem)
def test_a_tutorial_runs(file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(TUTORIALS))
    sys.modules.pop("run", None)
    from run import execute

    notebook = execute(file, tmp_path)
    stored = json.loads(file.read_text())
    assert len(texts(notebook)) == len(texts(stored))
    if file.stem == "1-explain-one-image":
        assert float(re.search(r"whole image: (\S+)", "\n".join(texts(notebook)))[1]) < 1e-4
    if file.stem == "5-explain-your-network":
        equal, all_of_them, apart = re.search(r"(\d+) of (\d+) pixels .* by (\S+)", "\n".join(texts(notebook))).groups()
        assert equal == all_of_them
        assert float(apart) < 1e-4
    if file.stem == "4-debug-a-model":  # what the page tells: the edited model is better on images nobody looked at
        said = "\n".join(texts(notebook))
        before, after = re.search(r"boat ([\d.]+) -> ([\d.]+)", said).groups()
        assert float(after) > float(before) + 2
        review = next(text for text in texts(notebook) if "points without it" in text)
        assert re.search(r"^boat #\d+: .* is no boat", "\n".join(review.splitlines()[:10]), re.M)
        assert int(re.search(r"the edit recovers (\d+)%", said)[1]) >= 50
