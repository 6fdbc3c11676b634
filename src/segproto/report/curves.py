"""Training curves as inline SVG: sharp at any size, and they follow the page's light or dark colours."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

from markupsafe import Markup

WIDTH, HEIGHT = 640, 220
LEFT, RIGHT, TOP, BOTTOM = 52, 12, 22, 30
POINTS = 400  # drawn a line; more are averaged


@dataclass(frozen=True)
class Chart:
    """Points of one line over the batches of all stages.

    Attributes:
        points: (batch, value).
        spans: (stage, first batch, last batch).
        reference: a value drawn as a dashed line, with its label; None = none.
        dots: mark every point (few points).
    """

    points: list[tuple[float, float]]
    spans: list[tuple[str, float, float]]
    reference: tuple[str, float] | None = None
    dots: bool = False


def read_chart(
    metrics: Sequence[dict[str, Any]], key: str, reference: tuple[str, float] | None = None, dots: bool = False
) -> Chart | None:
    """The lines of ``metrics.jsonl`` that hold ``key``, stages one after the other; None without two of them."""
    ends: dict[str, float] = {}
    for line in metrics:
        if "step" in line:
            ends[line["stage"]] = max(ends.get(line["stage"], 0), line["step"])
    spans, begin = [], 0.0
    starts = {}
    for stage, length in ends.items():
        spans.append((stage, begin, begin + length))
        starts[stage] = begin
        begin += length
    points = [
        (starts[line["stage"]] + line["step"], float(line[key]))
        for line in metrics
        if key in line and "step" in line and math.isfinite(float(line[key]))
    ]
    return Chart(thin(points), spans, reference, dots) if len(points) > 1 else None


def in_percent(chart: Chart) -> Chart:
    """A chart of shares, as percentages."""
    reference = None if chart.reference is None else (chart.reference[0], 100 * chart.reference[1])
    return replace(chart, points=[(x, 100 * y) for x, y in chart.points], reference=reference)


def thin(points: list[tuple[float, float]]) -> list[tuple[float, float]]:
    """At most ``POINTS`` points: neighbours are averaged."""
    size = -(-len(points) // POINTS)
    parts = [points[i : i + size] for i in range(0, len(points), size)]
    return [(sum(x for x, _ in part) / len(part), sum(y for _, y in part) / len(part)) for part in parts]


def svg(chart: Chart, title: str, form: str = "{:.2f}") -> Markup:
    """The chart as an SVG element; colours come from the page's CSS classes; names of stages are escaped."""
    values = [y for _, y in chart.points] + ([chart.reference[1]] if chart.reference else [])
    ticks = nice_ticks(min(values), max(values))
    end = max([x for x, _ in chart.points] + [last for _, _, last in chart.spans])
    x_of = scale(0, end, LEFT, WIDTH - RIGHT)
    y_of = scale(ticks[0], ticks[-1], HEIGHT - BOTTOM, TOP)
    parts = []
    for i, (stage, first, last) in enumerate(chart.spans):
        left, right = x_of(first), x_of(last)
        if i % 2:
            size: dict[str, Any] = {"width": f"{right - left:.1f}", "height": HEIGHT - TOP - BOTTOM}
            parts.append(element("rect", "band", x=f"{left:.1f}", y=TOP, **size))
        if right - left > 6 * len(stage):
            parts.append(element("text", "stage", stage, x=f"{(left + right) / 2:.1f}", y=TOP - 7))
    for value in ticks:
        y = y_of(value)
        parts.append(element("line", "rule", x1=LEFT, x2=WIDTH - RIGHT, y1=f"{y:.1f}", y2=f"{y:.1f}"))
        parts.append(element("text", "tick y", form.format(value), x=LEFT - 8, y=f"{y + 4:.1f}"))
    for value in nice_ticks(0, end)[:-1]:
        parts.append(element("text", "tick", f"{value:g}", x=f"{x_of(value):.1f}", y=HEIGHT - 10))
    if chart.reference:
        label, y = chart.reference[0], y_of(chart.reference[1])
        parts.append(element("line", "reference", x1=LEFT, x2=WIDTH - RIGHT, y1=f"{y:.1f}", y2=f"{y:.1f}"))
        parts.append(element("text", "label", label, x=LEFT + 6, y=f"{y - 6:.1f}"))
    line = " ".join(f"{x_of(x):.1f},{y_of(y):.1f}" for x, y in chart.points)
    parts.append(element("polyline", "line", points=line))
    if chart.dots:
        parts += [element("circle", "dot", cx=f"{x_of(x):.1f}", cy=f"{y_of(y):.1f}", r=3) for x, y in chart.points]
    box: dict[str, Any] = {"viewBox": f"0 0 {WIDTH} {HEIGHT}", "role": "img", "aria-label": title}
    return element("svg", "chart", Markup("").join(parts), **box)


def element(kind: str, group: str, content: str = "", **attributes: object) -> Markup:
    """One element of an SVG; values and text are escaped, but for text that is markup already.

    Args:
        kind: its tag.
        group: its CSS classes.
        content: what is inside.
        attributes: the others.
    """
    pairs = {"class": group, **attributes}
    inside = Markup(" ").join(Markup('{}="{}"').format(name, value) for name, value in pairs.items())
    return Markup("<{0} {1}>{2}</{0}>").format(Markup(kind), inside, content)


def scale(low: float, high: float, start: float, stop: float) -> Any:
    """The linear function that takes low to start and high to stop."""
    span = (high - low) or 1.0
    return lambda value: start + (value - low) / span * (stop - start)


def nice_ticks(low: float, high: float, count: int = 5) -> list[float]:
    """Round values from at or below ``low`` to at or above ``high``, about ``count`` of them."""
    span = high - low
    if span <= 1e-9 * max(abs(low), abs(high), 1.0):
        span = max(abs(high), 1.0)
    power = 10 ** math.floor(math.log10(span / count))
    step = next(power * m for m in (1, 2, 2.5, 5, 10) if span / (power * m) <= count)
    first, last = math.floor(low / step + 1e-9), math.ceil(high / step - 1e-9)
    return [round(i * step, 10) for i in range(first, max(last, first + 1) + 1)]
