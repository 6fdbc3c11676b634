"""Long verbs show a bar on a terminal, nothing with --quiet and nothing where there is no terminal."""

from __future__ import annotations

import io
import sys
from pathlib import Path

import pytest

from segproto.cli import main as cli_main

VERBS = {
    "evaluate": ["evaluate", "{run}", "--device", "cpu"],
    "interpretability": ["evaluate", "{run}", "interpretability.metrics=[sparsity]", "--device", "cpu"],
    "test": ["evaluate", "{run}", "--save", "{out}/saved", "--test", "{photos}", "--device", "cpu"],
    "score": ["evaluate", "--masks", "{photos}", "--gt", "{photos}"],
    "predict": ["predict", "{run}", "{photos}", "--out", "{out}/masks"],
    "report": ["report", "{run}", "--images", "1", "--out", "{out}/report.html"],
    "nearest patches": ["analyse", "patches", "{run}", "--split", "val", "--nearest", "1", "--out", "{out}/patches"],
    "samples": ["analyse", "samples", "{run}", "--images", "1", "--out", "{out}/samples"],
    "look for failures": ["analyse", "failures", "{run}", "--count", "1", "--images", "1", "--out", "{out}/failures"],
    "verify": ["data", "verify", "scenes", "scenes.num_train=20", "scenes.num_val=20"],
}


class Terminal(io.StringIO):
    """Says that it is one."""

    def isatty(self) -> bool:
        return True


@pytest.fixture(scope="module")
def run(scaleproto_run: Path) -> Path:
    return scaleproto_run


def shown(args: list[str], monkeypatch: pytest.MonkeyPatch, stderr: io.StringIO) -> str:
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.setattr(sys, "argv", ["segproto", *args])
    monkeypatch.setattr(sys, "stderr", stderr)
    with pytest.raises(SystemExit) as stop:
        cli_main.main()
    assert not stop.value.code, stderr.getvalue()
    return stderr.getvalue()


@pytest.mark.parametrize("title", VERBS)
def test_a_bar_on_a_terminal_and_none_when_quiet(
    title: str, run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import numpy as np
    from PIL import Image

    (tmp_path / "photos").mkdir()
    Image.fromarray(np.zeros((40, 40), np.uint8)).save(tmp_path / "photos" / "a.png")
    places = {"run": run, "out": tmp_path / "out", "photos": tmp_path / "photos"}
    args = [arg.format(**places) for arg in VERBS[title]]
    assert title in shown(args, monkeypatch, Terminal())
    assert shown([*args, "--quiet"], monkeypatch, Terminal()) == ""
    assert shown(args, monkeypatch, io.StringIO()) == ""
