"""The table of interpretability metrics: complete records, the docs' page from them, and a metric from outside."""

from __future__ import annotations

import math
from pathlib import Path

import pytest
from pydantic import ValidationError

from segproto.errors import ConfigError
from segproto.evaluation.interpretability.config import InterpretabilityConfig
from segproto.evaluation.interpretability.metric import Metric
from segproto.evaluation.interpretability.table import METRICS
from segproto.report.measures import figure, unit_of

PAGE = Path(__file__).parents[2] / "docs" / "metrics.md"


def span(metric: Metric) -> str:
    low, high = metric.range
    return f"{low:g} or more" if high == math.inf else f"{low:g} to {high:g}"


def docs_table() -> str:
    """The table of docs/metrics.md."""
    lines = ["| metric | unit | range | needs | what it says |", "|---|---|---|---|---|"]
    for metric in METRICS.values():
        needs = ", ".join(need.name for need in metric.needs) or "any model"
        lines.append(f"| `{metric.name}` | {metric.unit} | {span(metric)} | {needs} | {metric.meaning} {metric.how} |")
    return "\n".join(lines)


def test_the_page_says_what_the_records_say() -> None:
    assert docs_table() in PAGE.read_text(), f"docs/metrics.md should hold:\n{docs_table()}"


def test_records_are_complete() -> None:
    for metric in METRICS.values():
        assert all(text.strip().endswith(".") for text in (metric.meaning, metric.how)), metric.name
        assert metric.unit, metric.name
        assert metric.range[0] < metric.range[1]
        assert not metric.unknown.endswith(".")


def test_names_are_checked_and_the_nearest_is_told() -> None:
    with pytest.raises(ValidationError, match="did you mean purity"):
        InterpretabilityConfig(metrics=("puritty",))
    schema = InterpretabilityConfig.model_json_schema()["properties"]["metrics"]["anyOf"][0]["items"]
    assert schema["enum"] == list(METRICS)
    with pytest.raises(ConfigError, match="metric 'puritty' is unknown; did you mean purity"):
        METRICS.find("puritty")
    with pytest.raises(ConfigError, match="metric 'purity' is shipped"):
        METRICS.register(METRICS["purity"])


def test_units_of_older_files_come_from_the_table() -> None:
    assert figure(0.25, unit_of("purity", {})) == "25.0 %"
    assert figure(0.25, unit_of("sparsity", {})) == "0.25"
    assert figure(0.25, unit_of("elsewhere", {"unit": "share"})) == "25.0 %"
    assert figure(0.25, unit_of("elsewhere", {})) == "0.25"
