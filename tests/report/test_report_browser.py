"""The report in headless Chromium: it loads without errors, answers mouse and keyboard, its numbers are the JSON's."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from browser import CHROMIUM, Page
from tiny_runs import train_blackbox, train_scaleproto

import segproto
from segproto.runs.folder import Run, write_json

pytestmark = pytest.mark.skipif(CHROMIUM is None, reason="no Chromium on this machine")

METRICS = {
    "purity": {"value": 0.625, "meaning": "How often it sees one part."},
    "sparsity": {"value": 12.5, "meaning": "Patches a class."},
    "consistency": {"value": None, "reason": "the data have no part maps", "meaning": "One part a prototype."},
}


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("browser")
    train_blackbox(folder / "blackbox")
    run = train_scaleproto(folder / "scaleproto", f"compare={folder / 'blackbox'}")
    segproto.evaluate(run)
    segproto.ablate_thresholds(run, thresholds=[0, 0.05, 0.2], quiet=True)
    write_json(run / "evaluation" / "val-interpretability.json", {"metrics": METRICS}, None)
    segproto.write_report(run)
    return run


@pytest.fixture(scope="module")
def page(run: Path) -> Iterator[Page]:
    with Page(run / "report.html") as opened:
        yield opened


@pytest.fixture(scope="module")
def data(page: Page) -> dict[str, Any]:
    value: dict[str, Any] = json.loads(page.run("document.getElementById('data').textContent"))
    return value


def place(page: Page, column: float, row: float) -> tuple[float, float]:
    """Window coordinates of a place in the image, given as shares of its width and height."""
    page.run("document.querySelector('.stage').scrollIntoView({block: 'center', behavior: 'instant'})")
    box = page.run("(({left, top, width, height}) => [left, top, width, height])"
                   "(document.querySelector('.stage').getBoundingClientRect())")  # fmt: skip
    return box[0] + column * box[2], box[1] + row * box[3]


def every(page: Page, selector: str) -> list[str]:
    """What a reader sees of all elements."""
    texts: list[str] = page.run(f"[...document.querySelectorAll('{selector}')].map(n => n.innerText)")
    return texts


def cells(page: Page, selector: str) -> list[list[str]]:
    """The cells of table rows."""
    rows: list[list[str]] = page.run(
        f"[...document.querySelectorAll('{selector}')].map(n => [...n.cells].map(c => c.innerText))"
    )
    return rows


def close(shown: list[str], hundredths: list[int]) -> bool:
    """Whether figures are those of the data, at the digits they are shown with: two below 100, else none."""
    return len(shown) == len(hundredths) and all(
        abs(number(a) - b / 100) <= (0.0051 if abs(b) < 10000 else 0.51) for a, b in zip(shown, hundredths, strict=True)
    )


def number(text: str) -> float:
    return float(text.replace("\N{MINUS SIGN}", "-").replace("%", "").strip())


def test_nothing_goes_wrong_and_nothing_is_fetched(page: Page, run: Path) -> None:
    assert page.errors == []
    assert [url for url in page.requests if not url.startswith("data:")] == [(run / "report.html").as_uri()]
    assert page.run("[...document.images].every((image) => image.complete && (image.hidden || image.naturalWidth > 0))")


def test_the_mouse_changes_the_evidence_and_the_figures_are_the_datas(page: Page, data: dict[str, Any]) -> None:
    image = data["images"][0]
    rows, columns = image["grid"]
    seen = set()
    for share in (0.1, 0.5, 0.9):
        page.mouse(*place(page, share, share))
        column, row = min(columns - 1, int(share * columns)), min(rows - 1, int(share * rows))
        point = row * columns + column
        assert page.text(".verdict b") == data["classes"][image["best"][point]]["name"]
        rival = data["classes"][image["rival"][point]]["name"]
        gap = (image["logits"][point] - image["rivals"][point]) / 100
        assert page.text(".second") == f"Runner-up: {rival}, {gap:.2f} behind."
        assert close([page.text(".total"), page.text(".rivaltotal")], [image[k][point] for k in ("logits", "rivals")])
        assert close(every(page, ".prototypes .value"), image["prototypes"][point][1::2])
        assert close(every(page, ".rivals .value"), image["rival_prototypes"][point][1::2])
        assert close(every(page, ".groups .value"), image["groups"][point][1::2])
        shares = [number(v) for v in every(page, ".prototypes .value")]
        left = number(page.text(".rest")) + number(page.text(".opposed")) + (image["offset"][point]) / 100
        assert page.run("document.querySelector('.against').hidden") == (number(page.text(".opposed")) >= 0)
        assert sum(shares) + left == pytest.approx(number(page.text(".total")), abs=4)
        seen.add(page.text(".why"))
    assert len(seen) == 3


def test_a_patch_shows_where_the_image_looks_like_it(page: Page) -> None:
    page.mouse(*place(page, 0.5, 0.5))
    button = "document.querySelector('.prototypes button[data-prototype]:not([disabled])')"
    assert page.run("document.querySelector('.stage canvas').hidden")
    page.run(f"{button}.click()")
    assert not page.run("document.querySelector('.stage canvas').hidden")
    assert page.run(f"{button}.getAttribute('aria-pressed')") == "true"
    page.run(f"{button}.click()")


def test_the_keyboard_reaches_and_moves_the_spot(page: Page, data: dict[str, Any]) -> None:
    page.run("document.querySelector('.stage').focus()")
    before = page.run("document.querySelector('.spot').style.left")
    page.key("ArrowLeft" if float(before[:-1]) > 50 else "ArrowRight", 37 if float(before[:-1]) > 50 else 39)
    after = page.run("document.querySelector('.spot').style.left")
    step = 100 / data["images"][0]["grid"][1]
    assert abs(float(after[:-1]) - float(before[:-1])) == pytest.approx(step, abs=0.01)
    reached = set()
    page.run("document.activeElement.blur()")
    for _ in range(40):
        page.key("Tab", 9)
        reached.add(page.run("document.activeElement.closest('nav, .thumbs, .views, .stage, .pick, .graph')"
                             "?.getAttribute('class') || document.activeElement.tagName"))  # fmt: skip
    assert {"thumbs", "views", "stage", "pick"} <= reached


def test_the_graph_has_an_edge_a_weight_and_follows_focus(page: Page, data: dict[str, Any]) -> None:
    for label in {group["class"] for group in data["groups"]}:
        page.run(f"(p => {{ p.value = '{label}'; p.dispatchEvent(new Event('change')); }})"
                 "(document.getElementById('graph-class'))")  # fmt: skip
        groups = [group for group in data["groups"] if group["class"] == label]
        assert page.run("document.querySelectorAll('.graph .edge').length") == sum(len(g["members"]) for g in groups)
        members = {p for group in groups for p, _ in group["members"]}
        assert page.run("document.querySelectorAll('.graph .node').length") == len(groups) + len(members)
    page.run("document.querySelector('.graph .node').focus()")
    assert page.run("document.querySelectorAll('.graph .edge.strong').length") > 0


def test_figures_are_those_of_the_json(page: Page, run: Path) -> None:
    figures = Run(run).figures()
    other = Run(run.parent / "blackbox").figures()
    tiles = every(page, ".tile b")
    assert [number(tile.split("of")[0]) for tile in tiles] == pytest.approx(
        [100 * figures["miou"], 100 * other["miou"], 100 * figures["accuracy"], figures["prototypes_used"]], abs=0.051
    )
    shown = cells(page, "[data-metric]")
    assert shown[0][:3] == ["purity", "62.5 %", "How often it sees one part."]
    assert shown[1][:2] == ["sparsity", "12.5"]
    assert shown[2][1:] == ["\N{EN DASH}", "One part a prototype. Not here: the data have no part maps."]
    rows = json.loads((run / "evaluation" / "thresholds.json").read_text())["rows"]
    table = cells(page, "#measures .scroll tbody tr")
    assert [float(c[0]) for c in table] == [row["tau"] for row in rows]
    assert [float(c[3]) for c in table] == pytest.approx([100 * row["miou"] for row in rows], abs=0.051)


def test_on_a_phone_and_in_the_dark_nothing_sticks_out(run: Path) -> None:
    with Page(run / "report.html", 390, 844, dark=True, phone=True) as phone:
        assert phone.errors == []
        assert phone.run("document.documentElement.scrollWidth") == 390
        ink, paper = phone.run("(s => [s.color, s.backgroundColor])(getComputedStyle(document.body))")
        assert contrast(ink, paper) > 7
        small = phone.run("[...document.querySelectorAll('nav a, .views button, .thumbs button, select')]"
                          ".filter(n => n.getBoundingClientRect().height < 20).length")  # fmt: skip
        assert small == 0


def contrast(first: str, second: str) -> float:
    """WCAG contrast of two ``rgb(r, g, b)``."""

    def light(colour: str) -> float:
        parts = [int(v) / 255 for v in colour.removeprefix("rgb(").removesuffix(")").split(",")]
        linear = [v / 12.92 if v <= 0.03928 else ((v + 0.055) / 1.055) ** 2.4 for v in parts]
        return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]

    low, high = sorted([light(first), light(second)])
    return (high + 0.05) / (low + 0.05)
