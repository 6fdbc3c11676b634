"""The report: what it shows adds up, is complete in one file, and survives odd names."""

from __future__ import annotations

import base64
import json
import re
import shutil
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image
from tiny_segmenters import segmenter

import segproto
from segproto.api.compare import compare_runs
from segproto.data.base import Sample
from segproto.errors import DataError
from segproto.model.edit import edited
from segproto.model.explain import explain
from segproto.model.heads import NearestHead
from segproto.prototypes.cosine_bank import CosineBank
from segproto.report import curves, gallery, page, wording
from segproto.report.evidence import hundredths, largest, lattice, probe_image
from segproto.report.failures import FailureBook
from segproto.report.health import UNUSED, health_words
from segproto.report.measures import metric_rows, threshold_charts
from segproto.report.pictures import data_uri, outline, paint
from segproto.report.tables import stage_rows
from segproto.runs.folder import Run, run_of, write_json

VOID_ELEMENTS = {"meta", "img", "br", "rect", "line", "circle", "polyline"}


@pytest.fixture(scope="module")
def html(runs: Path) -> str:
    return segproto.write_report(runs / "scaleproto").read_text()


class Checker(HTMLParser):
    """Collects addresses, and fails on tags that do not close in order."""

    def __init__(self) -> None:
        super().__init__()
        self.open: list[str] = []
        self.addresses: list[str] = []
        self.ids: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        values = dict(attrs)
        self.addresses += [str(values[key]) for key in ("src", "href", "action") if values.get(key)]
        self.ids += [str(values["id"])] if values.get("id") else []
        if tag not in VOID_ELEMENTS:
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        if tag not in VOID_ELEMENTS:
            assert self.open.pop() == tag


def embedded(html: str) -> dict[str, object]:
    match = re.search(r'<script type="application/json" id="data">(.*?)</script>', html, re.S)
    assert match is not None
    value: dict[str, object] = json.loads(match[1])
    return value


def test_one_file_without_addresses_outside(html: str) -> None:
    checker = Checker()
    checker.feed(html)
    assert checker.open == []
    assert len(set(checker.ids)) == len(checker.ids)
    assert all(a.startswith(("data:image/", "#")) for a in checker.addresses)
    assert {a[1:] for a in checker.addresses if a.startswith("#")} <= set(checker.ids)
    assert "url(" not in html
    assert len(html) < 15e6


def test_black_box_beside_and_stages_in_order(html: str, runs: Path) -> None:
    ours, theirs = (Run(runs / name).figures()["miou"] for name in ("scaleproto", "blackbox"))
    assert f"{100 * theirs:.1f}<small> %" in html
    assert f"{100 * abs(ours - theirs):.1f} points" in html
    places = [html.index(f"<td>{stage} ") for stage in ("joint", "project", "group_warmup", "group_joint", "threshold")]
    assert places == sorted(places)
    assert "<dt>Precision</dt><dd>32-true</dd>" in html


def test_the_gallery_shows_every_prototype_with_its_patch(html: str, runs: Path) -> None:
    model = segproto.load(runs / "scaleproto")
    assert model.provenance is not None
    for index, source in enumerate(model.provenance.sources):
        assert f"<b>#{index}</b>" in html
        assert source is not None
        assert source.image in html
    assert html.count('alt="Patch of prototype') == len(model.provenance.sources)
    known = embedded(html)["prototypes"]
    assert all(item["patch"].startswith("data:image/") for item in known)  # type: ignore[attr-defined]


def test_pages_say_what_prototypes_are() -> None:
    near, equal, free = segmenter("prototype", sources=True), segmenter("grouped", sources=True), segmenter("grouped")
    near.head = NearestHead(CosineBank(torch.randn(3, 4, 6)), score_norm="scale")
    assert [wording.relation(model) for model in (near, equal, free)] == ["near", "equal", "unknown"]
    assert "nearest to it" in wording.SENTENCES["near"]
    assert "real patch" not in wording.SENTENCES["near"]
    assert "out of date" not in " ".join(wording.warnings(free))
    stale, edited_words = wording.warnings(equal), wording.warnings(edited(equal, drop=[3])[0])
    assert len(stale) == 1  # the fixture's hash is not the encoder's
    assert "dropped prototypes 3" in edited_words[0]


def test_health_names_copies_and_idle_prototypes() -> None:
    model = segmenter("prototype")
    with torch.no_grad():
        model.head.bank.vectors[1] = model.head.bank.vectors[0]
    decided = torch.full((16,), 0.1)
    decided[5] = 0
    used = [p != 7 for p in range(16)]
    words = health_words(model, used, decided)
    assert {p: w for p, w in enumerate(words) if w} == {1: "copy of #0", 5: "decides nothing", 7: UNUSED}


def test_examples_are_the_images_with_most_classes() -> None:
    class Masks:
        def __init__(self, classes: list[int]) -> None:
            self.classes = classes

        def __len__(self) -> int:
            return len(self.classes)

        def __getitem__(self, index: int) -> Sample:
            return Sample(torch.zeros(3, 4, 4), torch.arange(16).view(4, 4) % self.classes[index], "")

    assert gallery.telling_indices(Masks([1, 4, 2, 3, 5, 1]), 2) == [1, 4]
    assert gallery.telling_indices(Masks([2, 1]), 3) == [0, 1]
    assert gallery.telling_indices(Masks([1] * 47 + [9]), 1) == [0]  # the last is not among those looked at


def test_measures_show_values_or_reasons(tmp_path: Path) -> None:
    (tmp_path / "recipe.yaml").write_text("method: scaleproto\n")
    run = Run(tmp_path)
    assert metric_rows(run) == []
    assert threshold_charts([]) == []
    metrics = {"purity": {"value": 0.5, "meaning": "m"}, "distances": {"value": 1.23456, "meaning": "n"}}
    metrics["stability"] = {"value": None, "reason": "no parts", "meaning": "o"}
    write_json(tmp_path / "evaluation" / "val-interpretability.json", {"metrics": metrics}, None)
    rows = {row["name"]: (row["value"], row["meaning"], row["reason"]) for row in metric_rows(run)}
    expected = {"purity": ("50.0 %", "m", ""), "distances": ("1.23", "n", "")}
    assert rows == expected | {"stability": ("\N{EN DASH}", "o", "no parts")}


def test_a_copied_run_keeps_the_order_of_its_stages(tmp_path: Path) -> None:
    (tmp_path / "recipe.yaml").write_text("method: scaleproto\n")
    for name in ("threshold", "project", "joint"):  # copied in any order
        write_json(tmp_path / "stages" / name / "result.json", {"miou": 0.5}, None)
    assert [stage["stage"] for stage in Run(tmp_path).stages] == ["threshold", "project", "joint"]
    write_json(
        tmp_path / "checkpoints" / "finished.json", {"stages": {"joint": {}, "project": {}, "threshold": {}}}, None
    )
    assert [stage["stage"] for stage in Run(tmp_path).stages] == ["joint", "project", "threshold"]


def test_stages_say_what_they_do_and_those_of_older_runs_say_nothing(html: str, runs: Path, tmp_path: Path) -> None:
    assert "each prototype becomes its nearest training patch</span>" in html
    older = tmp_path / "older"
    shutil.copytree(runs / "blackbox", older)
    for file in older.glob("stages/*/result.json"):
        value = json.loads(file.read_text())
        assert value.pop("words")
        file.write_text(json.dumps(value))
    assert [row["words"] for row in stage_rows(Run(older))] == [""]
    report = segproto.write_report(older).read_text()
    assert '<td>joint <span class="soft"></span></td>' in report


def test_failures_keep_the_largest_mistakes(runs: Path) -> None:
    model, book = segproto.load(runs / "scaleproto"), FailureBook()
    for index in range(3):
        picture = torch.randint(0, 255, (3, 40, 56), dtype=torch.uint8, generator=torch.Generator().manual_seed(index))
        why = explain(model, picture)
        mask = (why.prediction + 1 + torch.arange(56).div(19, rounding_mode="floor").to(torch.uint8)) % 8
        book.visit(why, Sample(picture, mask, f"i{index}"), index)
    cases = book.cases()
    assert book.images == 3
    assert 0 < len(cases) <= 6
    assert book.count >= len(cases)
    for case in cases:
        assert case["true"] != case["wrong"]
        assert [side["name"] for side in case["sides"]] == [case["true"], case["wrong"]]
        assert case["sides"][1]["logit"] > case["sides"][0]["logit"]
        assert max(row["width"] for side in case["sides"] for row in side["rows"]) == pytest.approx(100)


def test_what_the_probe_lists_and_the_rest_make_the_logit(runs: Path) -> None:
    model = segproto.load(runs / "scaleproto")
    image = torch.from_numpy(np.random.default_rng(1).integers(0, 255, (3, 40, 56), np.uint8))
    probe = probe_image(explain(model, image))
    rows, columns = probe["grid"]
    why = explain(model, image)
    for point in np.random.default_rng(2).integers(0, rows * columns, 12).tolist():
        y, x = (point // columns + 0.5) * 40 / rows, (point % columns + 0.5) * 56 / columns
        evidence = why.pixel(int(y), int(x), top=5)
        assert probe["best"][point] == evidence.class_id
        assert evidence.runner_up is not None
        assert probe["rivals"][point] / 100 == pytest.approx(evidence.runner_up.logit, rel=1e-4, abs=0.0051)
        flat = probe["prototypes"][point]
        shares = dict(zip(flat[::2], flat[1::2], strict=True))
        for item in evidence.prototypes:
            assert shares[item.prototype] / 100 == pytest.approx(item.contribution, rel=1e-3, abs=0.0051)
        every = why.pixel(int(y), int(x), top=1000)
        own = sum(item.contribution for item in every.prototypes if item.class_id == every.class_id)
        assert probe["own"][point] / 100 == pytest.approx(own, rel=1e-3, abs=0.0051)
        total = sum(item.contribution for item in every.prototypes) + every.offset
        assert probe["logits"][point] / 100 == pytest.approx(total, rel=1e-3, abs=0.0051)


def test_activation_maps_have_a_byte_a_point(runs: Path) -> None:
    model = segproto.load(runs / "scaleproto")
    probe = probe_image(explain(model, torch.zeros(3, 40, 56, dtype=torch.uint8)))
    rows, columns = probe["grid"]
    assert probe["maps"]
    assert {len(base64.b64decode(text)) for text in probe["maps"].values()} == {rows * columns}


def test_lattice_points_are_pixel_centres_inside_the_region(runs: Path) -> None:
    model = segproto.load(runs / "blackbox")
    why = explain(model, torch.zeros(3, 60, 90, dtype=torch.uint8), region=(10, 20, 50, 80))
    ys, xs, (rows, columns) = lattice(why, probes=24)
    assert rows * columns == len(ys) == len(xs) <= 24
    assert (int(ys.min()) >= 10, int(ys.max()) < 50) == (True, True)
    assert (int(xs.min()) >= 20, int(xs.max()) < 80) == (True, True)
    assert abs(rows / columns - 40 / 60) < 0.2


def test_largest_agrees_with_sorting() -> None:
    shares = torch.randn(50, 9, generator=torch.Generator().manual_seed(3))
    for row, flat in zip(shares.tolist(), largest(shares, 4), strict=True):
        expected = sorted(range(9), key=lambda p: -abs(row[p]))[:4]
        assert flat[::2] == expected
        assert flat[1::2] == hundredths(torch.tensor([row[p] for p in expected]))


def test_names_cannot_break_the_page(runs: Path, tmp_path: Path) -> None:
    model = segproto.load(runs / "scaleproto")
    names = ("</script><b>", *model.classes.names[1:])
    model.classes = type(model.classes)(names, model.classes.colours)
    segproto.explain(model, np.zeros((40, 40, 3), np.uint8), out=tmp_path)
    html = (tmp_path / "index.html").read_text()
    checker = Checker()
    checker.feed(html)
    assert checker.open == []
    assert embedded(html)["classes"][0]["name"] == names[0]  # type: ignore[index]


def test_the_black_box_has_a_report_without_prototypes(runs: Path) -> None:
    html = segproto.write_report(runs / "blackbox", images=1).read_text()
    assert "black box" in html
    assert 'id="prototypes"' not in html


def test_gallery_shares_count_winning_pixels(runs: Path) -> None:
    model = segproto.load(runs / "scaleproto")
    from segproto.data.build import build_dataset
    from segproto.runs.settings import data_config

    dataset = build_dataset(data_config(runs / "scaleproto", {}, ()), "val")
    shares = gallery.shares_decided(model, dataset)
    assert shares is not None
    wins: dict[int, int] = {}
    pixels: dict[int, int] = {}
    for index in range(len(dataset)):
        why = explain(model, dataset[index].image)
        ys, xs, _ = lattice(why, gallery.USAGE_PROBES)
        for y, x in list(zip(ys.tolist(), xs.tolist(), strict=True))[::7]:
            spot = why.pixel(y, x, top=1000)
            winner = max(spot.prototypes, key=lambda item: item.contribution)
            if winner.class_id == spot.class_id:
                wins[winner.prototype] = wins.get(winner.prototype, 0) + 1
            pixels[spot.class_id] = pixels.get(spot.class_id, 0) + 1
    bank = model.head.bank
    assert float(shares.max()) <= 1
    for prototype, count in wins.items():
        expected = count / pixels.get(int(bank.class_of[prototype]), 1)
        if pixels.get(int(bank.class_of[prototype]), 0) > 100:
            assert float(shares[prototype]) == pytest.approx(expected, abs=0.15)


def test_unused_prototypes_are_set_apart(runs: Path) -> None:
    model = segproto.load(runs / "scaleproto")
    with torch.no_grad():
        model.head.grouping.weights[:, :, 0] = 0
    dense = model.head.grouping.dense()
    assert [card.used for card in gallery.cards(model)] == (dense > 0).any(0).tolist()


@given(st.lists(st.floats(-1e6, 1e6), min_size=1, max_size=30))
def test_ticks_enclose_the_values(values: list[float]) -> None:
    low, high = min(values), max(values)
    ticks = curves.nice_ticks(low, high)
    slack = 1e-6 * max(abs(low), abs(high), 1)
    assert ticks[0] <= low + slack
    assert ticks[-1] >= high - slack
    assert 2 <= len(ticks) <= 8
    assert ticks == sorted(set(ticks))


@given(st.integers(1, 5000))
def test_thinning_keeps_the_mean(count: int) -> None:
    points = [(float(i), float(i % 7)) for i in range(count)]
    thin = curves.thin(points)
    assert len(thin) <= curves.POINTS
    assert thin[0][0] <= thin[-1][0]


def test_curves_lay_stages_end_to_end() -> None:
    metrics = [{"stage": s, "step": i, "loss": 1.0 / i} for s in ("warmup", "joint") for i in (1, 2, 10)]
    metrics.append({"stage": "joint", "step": 10, "val_miou": float("nan")})
    chart = curves.read_chart(metrics, "loss")
    assert chart is not None
    assert [x for x, _ in chart.points] == [1, 2, 10, 11, 12, 20]
    assert chart.spans == [("warmup", 0, 10), ("joint", 10, 20)]
    assert curves.read_chart(metrics, "val_miou") is None
    assert "<polyline" in curves.svg(chart, "loss")


def test_painting_leaves_void_clear() -> None:
    mask = torch.tensor([[0, 1], [255, 1]], dtype=torch.uint8)
    painted = paint(mask, [(1, 2, 3), (4, 5, 6)])
    assert painted[:, 0, 1].tolist() == [4, 5, 6, 255]
    assert painted[3, 1, 0] == 0
    assert outline(mask)[3].bool().tolist() == [[False, True], [True, True]]


def test_pictures_shrink_to_the_longest_side() -> None:
    import io

    uri = data_uri(torch.zeros(3, 100, 400, dtype=torch.uint8), side=200)
    with Image.open(io.BytesIO(base64.b64decode(uri.split(",")[1]))) as image:
        assert image.size == (200, 50)


def test_compare_wants_figures(tmp_path: Path) -> None:
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "recipe.yaml").write_text("method: blackbox\ntrain: {seed: 1}\n")
    with pytest.raises(DataError, match="no validation figures"):
        compare_runs([tmp_path / "run"])


def test_compare_names_runs_of_equal_name_apart(runs: Path, tmp_path: Path) -> None:
    for parent in ("a", "b"):
        (tmp_path / parent).mkdir()
        (tmp_path / parent / "blackbox").symlink_to(runs / "blackbox")
    rows = compare_runs([tmp_path / "a" / "blackbox", tmp_path / "b" / "blackbox"])["rows"]
    assert [row["name"] for row in rows] == ["a/blackbox", "b/blackbox"]
    assert rows[0]["miou"]["std"] is None
    assert rows[0]["prototypes"] is None


def test_a_model_finds_its_run(runs: Path, tmp_path: Path) -> None:
    assert run_of(runs / "blackbox" / "model") == runs / "blackbox"
    assert run_of(tmp_path) is None


def test_the_share_of_waiting_is_a_fact(html: str) -> None:
    assert "<dt>Waited for images</dt>" in html
    assert page.waited([{"waiting": 0.25}, {"loss": 1.0}, {"waiting": 0.75}]) == "50 % of the time"
    assert page.waited([{"waiting": 0.001}]) == "< 1 % of the time"
    assert page.waited([{"loss": 1.0}]) == ""


def test_percentages() -> None:
    assert page.percent(0.12345) == "12.3"
    assert [page.whole(v) for v in (0.0, 0.001, 0.0149)] == ["0", "< 1", "1"]
    assert [page.signed(v) for v in (1.234, -250.7)] == ["+1.23", "\N{MINUS SIGN}251"]
    assert page.percent(None) == "\N{EN DASH}"
    assert page.duration(90) == "90 s"
    assert page.duration(3599) == "60 min"
