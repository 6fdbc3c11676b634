"""Pages made of a stranger's files: every text in every file is hostile, and in headless Chromium nothing runs."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml
from browser import CHROMIUM, Page
from hostile import FILE_NAME, HOSTILE, MARK, RUN, poison_json, poisoned
from PIL import Image
from tiny_segmenters import segmenter

import segproto
from segproto.data.base import Sample
from segproto.data.unlabelled import ImageFolder
from segproto.evaluation.interpretability.table import METRICS
from segproto.files.pages import page_environment, policy
from segproto.methods.primaps.gallery import Best, write_gallery
from segproto.report.proposals_page import single_image
from segproto.training.procedures.propose import ProposeConfig
from segproto.training.procedures.steps import Step, write_index, write_steps

ROOT = Path(__file__).parents[2]
in_browser = pytest.mark.skipif(CHROMIUM is None, reason="no Chromium on this machine")
# Texts that a model or recipe would not be read with, were they others; the rest is a stranger's choice.
STRUCTURE = ("format", "encoder.", "head.kind", "encoder_hash", "sources.*.patch")


def structural(path: str) -> bool:
    return path.startswith(STRUCTURE)


def write_data(root: Path, names: list[str]) -> None:
    """A folder whose images and classes have hostile names."""
    generator = np.random.default_rng(0)
    for folder in ("images", "labels"):
        (root / folder).mkdir(parents=True)
    for i in range(4):
        colours, mask = generator.integers(0, 256, (64, 64, 3), np.uint8), generator.integers(0, 8, (64, 64), np.uint8)
        Image.fromarray(colours).save(root / "images" / f"{FILE_NAME}{i}.png")
        Image.fromarray(mask).save(root / "labels" / f"{FILE_NAME}{i}.png")
    (root / "classes.yaml").write_text(yaml.safe_dump({"classes": names}))


def poison_run(run: Path, data: Path, other: Path) -> None:
    """Every text in every file that a report reads."""
    recipe = poisoned(yaml.safe_load((run / "recipe.yaml").read_text()), lambda at: at != "method")
    recipe["data"] |= {"name": "folder", "root": str(data), "scenes": None, "split": {"val_fraction": 0.5}}
    recipe["train"][HOSTILE] = {"precision": HOSTILE}
    recipe["compare"] = str(other)
    del recipe["data"]["scenes"]
    (run / "recipe.yaml").write_text(yaml.safe_dump(recipe))
    poison_json(run / "metrics.jsonl", lines=True)
    for stage in sorted(run.glob("stages/*")):
        poison_json(stage / "result.json")
        stage.rename(stage.with_name(f"{stage.name}{FILE_NAME}"))
    for model in [run / "model", *run.glob("stages/*/model")]:
        (model / "SHA256SUMS").unlink()  # as one who wrote it could have written fitting ones
        poison_json(model / "model.json", structural)
        if (model / "prototypes.json").exists():
            poison_json(model / "prototypes.json", structural)
    value = json.loads((run / "checkpoints/finished.json").read_text())
    stages = {f"{name}{HOSTILE}": poisoned(item, lambda _: False) for name, item in value["stages"].items()}
    (run / "checkpoints/finished.json").write_text(json.dumps(value | {"stages": stages}))
    for file in (run / "evaluation").glob("*.json"):
        poison_json(file)


@pytest.fixture(scope="module")
def hostile(trained_runs: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run of which every text is hostile, beside another one."""
    folder = tmp_path_factory.mktemp("hostile")
    run, other = folder / f"run{FILE_NAME}", folder / f"other{FILE_NAME}"
    shutil.copytree(trained_runs / "scaleproto", run)
    shutil.copytree(trained_runs / "blackbox", other)
    segproto.evaluate(run, quiet=True)
    segproto.ablate_thresholds(run, thresholds=[0, 0.05, 0.2], quiet=True)
    metrics = {name: {"value": 0.5, "meaning": "m", "unit": "share"} for name in (*METRICS, HOSTILE)}
    metrics["purity"] = {"value": None, "reason": "r", "meaning": "m"}
    (run / "evaluation/val-interpretability.json").write_text(json.dumps({"metrics": metrics}))
    figures = {"before": 0.5, "after": 0.25, "change": -0.25}
    edit = {"edits": ["dropped 1"], "prototypes": {"before": 3, "after": 2}, "images": 4, "miou": figures}
    (run / "edit.json").write_text(json.dumps(edit | {"per_class": [{"name": "sky", **figures}]}))
    poison_json(run / "edit.json")
    steps = run / "stages/joint/steps"
    sample = Sample(torch.zeros(3, 16, 16).byte(), torch.zeros(16, 16).byte(), FILE_NAME)
    write_index(steps, [Step(key, f"t{HOSTILE}", f"w{HOSTILE}", "classes") for key in "ab"], [FILE_NAME])
    write_steps(steps, sample, {"a": torch.zeros(16, 16).byte(), "b": torch.ones(16, 16).byte()})
    names = json.loads((run / "model/model.json").read_text())["classes"]["names"]
    write_data(folder / "data", [f"{name}{HOSTILE}" for name in names])
    poison_run(run, folder / "data", other)
    poison_run(other, folder / "data", run)
    return run


def check(page: Page, file: Path, least: int) -> None:
    """Nothing ran, nothing was asked of the network, no element came from a text, and the texts can be read."""
    page.run("document.querySelectorAll('details').forEach(d => d.open = true)")
    page.run("document.querySelectorAll('button').forEach(b => b.click())")
    page.run("document.querySelectorAll('.stage').forEach(s => s.dispatchEvent(new PointerEvent('pointermove', "
             "{clientX: 30, clientY: 30, bubbles: true})))")  # fmt: skip
    assert page.errors == []
    assert page.run(f"window.{MARK}") is None
    assert page.requests[0] == file.absolute().as_uri()
    assert all(address.startswith("data:") for address in page.requests[1:])
    handlers = "[...document.querySelectorAll('*')].filter(n => [...n.attributes].some(a => a.name.startsWith('on')))"
    assert page.run(f"{handlers}.length") == 0
    assert page.run("document.querySelectorAll('img[src=x], iframe, object, base, form, link').length") == 0
    assert page.run("[...document.scripts].filter(s => s.type !== 'application/json').length") <= 1
    shown = page.run("document.documentElement.textContent.split('onerror=').length - 1")
    assert shown >= least  # the texts are there, as texts


@in_browser
def test_nothing_in_a_report_runs(hostile: Path) -> None:
    page = segproto.write_report(hostile, quiet=True)
    assert "{{7*7}}" in page.read_text()
    with Page(page) as opened:
        check(opened, page, least=100)


@in_browser
def test_nothing_in_an_explanation_runs(hostile: Path, tmp_path: Path) -> None:
    image = sorted((hostile.parent / "data/images").iterdir())[0]
    segproto.explain(segproto.load(hostile), image, out=tmp_path / "why")
    with Page(tmp_path / "why/index.html") as opened:
        check(opened, tmp_path / "why/index.html", least=10)


@in_browser
def test_nothing_in_the_pages_of_proposals_and_categories_runs(hostile: Path, tmp_path: Path) -> None:
    images, model = hostile.parent / "data/images", segmenter("linear")
    first = ImageFolder(sorted(images.iterdir())[0])
    single_image(model.encoder, first, ProposeConfig(crf=False), tmp_path / "proposals")
    dataset = ImageFolder(images)
    model.classes = type(model.classes)(tuple(f"{i}{HOSTILE}" for i in range(4)), model.classes.colours)
    cells = torch.tensor([0, 0, 16, 16]).expand(4, len(dataset), 4)
    (tmp_path / "categories").mkdir()
    write_gallery(
        tmp_path / "categories/index.html", model, dataset, Best(torch.ones(4, len(dataset)), cells), torch.ones(4)
    )
    for name, least in (("proposals", 1), ("categories", 8)):
        with Page(tmp_path / name / "index.html") as opened:
            check(opened, tmp_path / name / "index.html", least)


@in_browser
def test_the_policy_holds_where_escaping_fails(trained_runs: Path, tmp_path: Path) -> None:
    """The second wall: markup that got into the page all the same runs nothing, and its own script still does."""
    segproto.write_report(trained_runs / "blackbox", out=tmp_path / "a.html", images=1, quiet=True)
    attack = (
        f"<script>{RUN}</script><img src=x onerror={RUN}><img src=https://example.com/a.png><svg onload={RUN}></svg>"
        f"<iframe srcdoc='<script>parent.{RUN}</script>'></iframe><a id=l href='javascript:{RUN}'>l</a>"
        "<link rel=stylesheet href=https://example.com/a.css><base href=https://example.com/>"
    )
    html = (tmp_path / "a.html").read_text()
    (tmp_path / "a.html").write_text(html.replace("<main>", f"<main>{attack}", 1))
    with Page(tmp_path / "a.html") as opened:
        opened.run("document.getElementById('l').click()")
        assert opened.run(f"window.{MARK}") is None
        asked = [address for address in opened.requests if address.startswith("https")]
        assert {opened.blocked.get(address) for address in asked} <= {"csp"}
        assert any("Content Security Policy" in error for error in opened.errors)
        assert opened.text(".verdict").startswith("The model says")


def test_no_template_says_safe_and_every_page_has_a_policy() -> None:
    templates = list((ROOT / "src").rglob("*.j2"))
    assert len(templates) >= 7
    for path in templates:
        text = path.read_text()
        assert "safe" not in text.replace("unsafe", ""), path
        if path.name in {"studio.html.j2", "labels.html.j2"}:  # served with the policy, scripts apart
            served = (ROOT / "src/segproto/studio/security.py").read_text()
            assert 'b"content-security-policy", b"default-src \'none\';' in served
        elif "<head>" in text:
            assert "{{ policy(" in text, path
    for path in (ROOT / "src").rglob("*.py"):
        if "Markup(" in path.read_text():
            assert path.name in {"pages.py", "curves.py"}, path


def test_escaping_is_on_and_the_policy_names_the_scripts() -> None:
    made = page_environment("segproto.report")
    assert made.from_string("{{ a }}{{ a | embed }}").render(a="<b>") == '&lt;b&gt;"\\u003cb>"'
    assert "script-src &#39;none&#39;" in policy()
    # the hash of the empty string, as in the standard's examples of SHA-256
    assert "sha256-47DEQpj8HBSa+/TImW+5JCeuQeRkm5NMpJWZG3hSuFU=" in policy("")
