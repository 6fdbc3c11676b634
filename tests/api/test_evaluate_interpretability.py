"""``segproto evaluate --interpretability``: what is written, printed and refused."""

from __future__ import annotations

import json

import pytest
from typer.testing import CliRunner

import segproto
from segproto.api.interpretability import changes_data, data_overrides, interpretability_config, wanted
from segproto.cli.app import app
from segproto.errors import ConfigError

FEW = ["interpretability.faithfulness_images=1", "interpretability.areas=[0.5]", "interpretability.draws=1"]


def test_settings_are_told_apart() -> None:
    mixed = ["data.parts=a.yaml", "interpretability.noise=0.1", "data.root=b"]
    assert interpretability_config(mixed).noise == 0.1
    assert data_overrides(mixed) == ["data.parts=a.yaml", "data.root=b"]
    assert wanted(mixed)
    assert wanted(["interpretability.noise=0.1"])
    assert not wanted(["data.root=b"])
    assert changes_data(mixed)
    assert not changes_data(mixed[:2])


@pytest.mark.parametrize(
    ("setting", "message"),
    [
        ("interpretability.quantile=0.8", "did you mean .*quantiles"),
        ("interpretability.quantiles=[1.5]", "1.5"),
        ("interpretability.metrics=[consistent]", "consistent"),
        ("interpretability.draws=0", "0"),
        ("interpretability.areas=[0.1,0.8]", "symmetric about 0.5"),
    ],
)
def test_wrong_settings_are_one_line(setting, message) -> None:
    with pytest.raises(ConfigError, match=message):
        interpretability_config([setting])


@pytest.mark.slow
def test_figures_of_a_run(tmp_path, scaleproto_run) -> None:
    run = scaleproto_run
    done = CliRunner().invoke(app, ["evaluate", str(run), *FEW])
    assert done.exit_code == 0, done.output
    assert "consistency" in done.output
    assert "forward passes on 1 images" in done.output
    figures = json.loads((run / "evaluation" / "val-interpretability.json").read_text())
    assert figures["metrics"]["freshness"]["value"] == 1
    assert figures["metrics"]["completeness"]["above"] == 0
    assert figures["metrics"]["consistency"]["value"] is not None
    assert (run / "evaluation" / "val-interpretability.png").stat().st_size > 10_000
    kept = json.loads((run / "evaluation" / "val.json").read_text())
    assert "interpretability" not in kept
    assert kept["miou"] is not None
    stage = segproto.evaluate(run, stage="project", overrides=FEW)["interpretability"]
    assert stage["file"].endswith("val-project-interpretability.json")
    assert stage["metrics"]["group_overlap"]["reason"] == "the model has no groups"
    elsewhere = segproto.evaluate(run, overrides=[*FEW, "data.scenes.num_val=2"], out=tmp_path / "x.json")
    assert "file" not in elsewhere["interpretability"]
    assert json.loads((tmp_path / "x.json").read_text())["interpretability"]["images"] == 2


@pytest.mark.slow
def test_a_black_box_says_why(blackbox_run) -> None:
    run = blackbox_run
    done = CliRunner().invoke(app, ["evaluate", str(run), "--interpretability", "--json"])
    assert done.exit_code == 0, done.output
    metrics = json.loads(done.output)["interpretability"]["metrics"]
    assert metrics["purity"]["reason"] == "the model has no prototypes (a black box)"
    assert metrics["completeness"]["value"] <= 1e-4
