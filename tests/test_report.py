"""The report: what it shows adds up, is complete in one file, and survives odd names."""

from __future__ import annotations

import base64
import json
import re
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image
from tiny_runs import train_blackbox, train_scaleproto

import segproto
from segproto.errors import DataError
from segproto.model.explain import explain
from segproto.report import curves, gallery, page
from segproto.report.compare import compare_runs
from segproto.report.evidence import hundredths, largest, lattice, probe_image
from segproto.report.pictures import data_uri, outline, paint
from segproto.report.runs import Run, run_of

VOID_ELEMENTS = {"meta", "img", "br", "rect", "line", "circle", "polyline"}


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("runs")
    train_blackbox(folder / "blackbox")
    train_scaleproto(folder / "scaleproto", f"compare={folder / 'blackbox'}")
    return folder


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
    found = re.search(r'<script type="application/json" id="data">(.*?)</script>', html, re.S)
    assert found is not None
    value: dict[str, object] = json.loads(found[1])
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


def test_the_gallery_shows_every_prototype_with_its_patch(html: str, runs: Path) -> None:
    model = segproto.load(runs / "scaleproto")
    assert model.provenance is not None
    for index, source in enumerate(model.provenance.sources):
        assert f"<b>#{index}</b>" in html
        assert source is not None
        assert source.image in html
    assert html.count('alt="Patch of prototype') == len(model.provenance.sources)


def test_what_the_probe_lists_and_the_rest_make_the_logit(runs: Path) -> None:
    model = segproto.load(runs / "scaleproto")
    image = torch.from_numpy(np.random.default_rng(1).integers(0, 255, (3, 40, 56), np.uint8))
    found = probe_image(explain(model, image))
    rows, columns = found["grid"]
    why = explain(model, image)
    for point in np.random.default_rng(2).integers(0, rows * columns, 12).tolist():
        y, x = (point // columns + 0.5) * 40 / rows, (point % columns + 0.5) * 56 / columns
        evidence = why.pixel(int(y), int(x), top=5)
        assert found["best"][point] == evidence.class_id
        assert evidence.runner_up is not None
        assert found["rivals"][point] / 100 == pytest.approx(evidence.runner_up.logit, rel=1e-4, abs=0.0051)
        flat = found["prototypes"][point]
        shares = dict(zip(flat[::2], flat[1::2], strict=True))
        for item in evidence.prototypes:
            assert shares[item.prototype] / 100 == pytest.approx(item.contribution, rel=1e-3, abs=0.0051)
        every = why.pixel(int(y), int(x), top=1000)
        own = sum(item.contribution for item in every.prototypes if item.class_id == every.class_id)
        assert found["own"][point] / 100 == pytest.approx(own, rel=1e-3, abs=0.0051)
        total = sum(item.contribution for item in every.prototypes) + every.offset
        assert found["logits"][point] / 100 == pytest.approx(total, rel=1e-3, abs=0.0051)


def test_activation_maps_have_a_byte_a_point(runs: Path) -> None:
    model = segproto.load(runs / "scaleproto")
    found = probe_image(explain(model, torch.zeros(3, 40, 56, dtype=torch.uint8)))
    rows, columns = found["grid"]
    assert found["maps"]
    assert {len(base64.b64decode(text)) for text in found["maps"].values()} == {rows * columns}


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
    from segproto.report.settings import data_config

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
            wins[winner.prototype] = wins.get(winner.prototype, 0) + 1
            pixels[spot.class_id] = pixels.get(spot.class_id, 0) + 1
    bank = model.head.bank
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


def test_percentages() -> None:
    assert page.percent(0.12345) == "12.3"
    assert page.percent(None) == "\N{EN DASH}"
    assert page.duration(90) == "90 s"
    assert page.duration(3599) == "60 min"
