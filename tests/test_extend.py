"""The pages under docs/extend: each example runs as it is written, and what it adds is used by name."""

from __future__ import annotations

import json
import re
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from tiny_runs import SMALL

import segproto
from segproto.data.table import DATASETS
from segproto.encoders.table import BACKBONES
from segproto.errors import ConfigError, WeightsError
from segproto.evaluation.interpretability.table import METRICS
from segproto.methods import METHODS
from segproto.model.heads import HEADS
from segproto.runs.settings import resolve
from segproto.table import Table

PAGES = Path(__file__).parents[1] / "docs" / "extend"
TABLES: tuple[Table[Any], ...] = (BACKBONES, DATASETS, HEADS, METHODS, METRICS)


@pytest.fixture
def example(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """An empty folder to work in; what an example registers is forgotten again."""
    monkeypatch.chdir(tmp_path)
    for table in TABLES:
        list(table)  # entry points are among the entries from now on
        monkeypatch.setattr(table, "_entries", dict(table._entries))
    return tmp_path


def run(page: str, replace: dict[str, str] | None = None) -> dict[str, Any]:
    """Runs the Python blocks of a page; the names they leave."""
    code = "\n".join(re.findall(r"```python\n(.*?)```", (PAGES / page).read_text(), re.S))
    for words, change in (replace or {}).items():
        assert words in code
        code = code.replace(words, change)
    names: dict[str, Any] = {"__name__": "example"}
    exec(compile(code, page, "exec", dont_inherit=True), names)
    return names


@pytest.mark.slow
def test_a_metric_of_your_own(example: Path, scaleproto_run: Path) -> None:
    shutil.copytree(scaleproto_run, example / "runs" / "metrics")
    quick = "interpretability=True, overrides=['interpretability.metrics=[purity,agreement]']"
    metrics = run("metric.md", {"interpretability=True": quick})["metrics"]
    assert list(metrics) == ["purity", "agreement"]
    assert 0 <= metrics["agreement"]["value"] <= 1
    assert metrics["agreement"]["unit"] == "share"


@pytest.mark.slow
def test_a_data_set_of_your_own(example: Path) -> None:
    settings = [*(s for s in SMALL if not s.startswith("data.scenes")), "data.augment.crop=32"]
    figures = run("dataset.md", {'out="runs/squares"': f'out="runs/squares", overrides={settings}'})["figures"]
    assert (figures["images"], [row["name"] for row in figures["per_class"]]) == (16, ["ground", "square"])
    DATASETS._entries.pop("squares")
    with pytest.raises(ConfigError, match="no data set has this name"):
        resolve("runs/squares/recipe.yaml", {}, [])


@pytest.mark.slow
def test_a_method_of_your_own(example: Path) -> None:
    result = run("method.md", {'out="runs/means")': f'out="runs/means", overrides={SMALL})'})["run"]
    assert list(result.stages) == ["joint", "means"]
    assert result.figures["words"] == "each class becomes the mean of its training features"
    assert result.figures["cells"] > 0
    weight, bias = (getattr(segproto.load("runs/means").head, name) for name in ("weight", "bias"))
    torch.testing.assert_close(bias, -weight.square().sum(1) / 2)
    assert segproto.train(resume="runs/means", quiet=True).was_finished
    assert "each class becomes the mean" in segproto.write_report("runs/means").read_text()
    with pytest.raises(ConfigError, match="method 'blackbox' is shipped"):
        METHODS.register(METHODS["blackbox"])
    METHODS._entries.pop("means")
    with pytest.raises(ConfigError, match=r"method = 'means' in runs/means/recipe\.yaml is unknown"):
        segproto.train(resume="runs/means", quiet=True)


@pytest.mark.slow
def test_a_head_of_your_own(example: Path) -> None:
    """It goes through all stages of a method; explanation, figures, report, edit and graph take it as it is."""
    settings = [*SMALL, "stages.finetune.steps=2", "stages.prune_finetune.steps=2"]
    settings += ["model.prototypes=3", "stages.prune.threshold=1"]
    names = run(
        "head.md",
        {
            "{}, [])": f"{{}}, {settings})",
            "overrides=own)\n\nwhy": f"overrides=own + {settings})\n\nwhy",
            "interpretability=True)": "interpretability=True, overrides=['interpretability.metrics=[sparsity]'])",
        },
    )
    stages = [json.loads(file.read_text()) for file in sorted(example.glob("runs/voting/stages/*/result.json"))]
    assert {stage["stage"] for stage in stages} >= {"joint", "project", "prune"}
    assert names["why"].segmenter.head.kind == "voting"
    assert names["why"].completeness_error() <= 1e-4
    assert (example / "runs" / "voting" / "report.html").is_file()
    assert json.loads((example / "voting.json").read_text())["outputs"][2:] == ["activations", "distances"]
    kept = json.loads((example / "models" / "without" / "edit.json").read_text())["prototypes"]
    assert kept["after"] == kept["before"] - 2


@pytest.mark.slow
def test_an_encoder_of_your_own(example: Path) -> None:
    model = run(
        "encoder.md", {'out="runs/strided"': f'out="runs/strided", overrides={[*SMALL, "stages.linear.steps=2"]}'}
    )["model"]
    assert model.encoder.backbone.num_features == 16
    assert segproto.load("runs/strided").predict(torch.zeros(3, 30, 40, dtype=torch.uint8)).shape == (30, 40)
    BACKBONES._entries.pop("strided")
    with pytest.raises(WeightsError, match=r"encoder.name = 'strided': .*no encoder has this name.*encoder.md"):
        segproto.load("runs/strided")
