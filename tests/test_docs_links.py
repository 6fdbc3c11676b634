"""What docs and docstrings refer to is there, in the repository and on the site."""

from __future__ import annotations

import importlib
import re
import subprocess
import sys
from html.parser import HTMLParser
from pathlib import Path

import browser
import pytest

ROOT = Path(__file__).parents[1]
DOCS = ROOT / "docs"
QUESTIONS = DOCS / "prototype-questions.md"
PAGES = sorted(DOCS.rglob("*.md"))
LINK = re.compile(r"\[`(segproto[\w.]+)`\]\(([^)]+\.py)\)")
INTO_SOURCE = re.compile(r"(\.\./)*source/segproto|[^:]*#segproto\.")
SPECIFICATION = re.compile(r"docs/specs/(\w+)\.md(?:#([\w-]+))?")


def source_links(page: Path) -> list[tuple[str, Path]]:
    """Names and files of a page's links to source files."""
    return [(name, (page.resolve().parent / target).resolve()) for name, target in LINK.findall(page.read_text())]


@pytest.mark.parametrize("page", [p for p in PAGES if source_links(p)], ids=lambda p: str(p.relative_to(DOCS)))
def test_links_to_source_name_something_that_exists(page: Path) -> None:
    for name, file in source_links(page):
        module, _, leaf = name.rpartition(".")
        assert Path(str(importlib.import_module(module).__file__)).resolve() == file, name
        assert re.search(rf"^(def|class) {leaf}\b", file.read_text(), re.M), name


def test_every_question_links_to_a_function() -> None:
    questions = QUESTIONS.read_text().split("\n## ")[1:]
    assert len(questions) >= 11  # users of the release asked as many
    assert all(LINK.search(question) for question in questions)


def anchors(page: Path) -> set[str]:
    """Anchors of a page's headings, as the site makes them."""
    from markdown.extensions.toc import slugify

    return {slugify(line.lstrip("# "), "-") for line in page.read_text().splitlines() if line.startswith("#")}


def test_references_to_the_specifications_can_be_opened() -> None:
    files = [f for folder in ("src", "tests", "benchmarks") for f in sorted((ROOT / folder).rglob("*.py"))]
    found = 0
    for file in files:
        text = file.read_text()
        assert file == Path(__file__) or not re.search(r"\bspecs?(ification)? \d", text, re.I), f"{file}: which one?"
        for name, anchor in SPECIFICATION.findall(text):
            page = DOCS / "specs" / f"{name}.md"
            assert not anchor or anchor in anchors(page), f"{file}: {name}.md#{anchor}"
            found += 1
    assert found >= 15


class Page(HTMLParser):
    """Links, addresses that load something, and anchors of a page."""

    def __init__(self, path: Path) -> None:
        super().__init__()
        self.links, self.loads, self.ids = [], [], set()
        self.feed(path.read_text())

    def handle_starttag(self, tag, attrs) -> None:
        found = dict(attrs)
        if tag == "a" and "href" in found:
            self.links.append(found["href"])
        elif "src" in found or (tag == "link" and found.get("rel") in ("stylesheet", "preconnect", "icon")):
            self.loads.append(found.get("src") or found["href"])
        self.ids |= {found["id"]} if "id" in found else set()


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("site")
    command = [sys.executable, "-m", "mkdocs", "build", "--strict", "--site-dir", str(folder)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)  # --strict with --quiet sees no warning
    assert done.returncode == 0, done.stderr
    return folder


def test_links_to_source_work_on_the_site(site: Path) -> None:
    for page in PAGES:
        target = site / page.relative_to(DOCS).with_suffix(".html")
        into = [link for link in Page(target).links if INTO_SOURCE.match(link)]
        assert len(into) >= len({name for name, _ in source_links(page)}), page
        for link in into:
            path, _, anchor = link.partition("#")
            assert not anchor or anchor in Page((target.parent / path).resolve() if path else target).ids, link
    assert "balanced_assignment" in (site / "reference/prototypes/sinkhorn.html").read_text()
    assert [file.name for file in site.rglob("*.py")] == ["seaside.py"]  # the tutorials' pictures


def test_the_reference_holds_every_verb_and_module(site: Path) -> None:
    import segproto

    verbs = (site / "reference/verbs.html").read_text()
    assert all(f"segproto.{name}" in verbs for name in segproto.__all__)
    for floor in ("prototypes", "refine", "metrics", "model"):
        modules = {f.stem for f in (ROOT / "src/segproto" / floor).glob("*.py") if not f.stem.startswith("_")}
        assert modules <= {f.stem for f in (site / "reference" / floor).glob("*.html")}
    assert "segproto data verify" in (site / "reference/command-line.html").read_text()


def test_the_site_loads_nothing_from_a_network(site: Path) -> None:
    for page in site.rglob("*.html"):
        assert not [address for address in Page(page).loads if re.match(r"(https?:)?//", address)], page


@pytest.mark.skipif(browser.CHROMIUM is None, reason="no Chromium")
def test_the_site_works_from_a_folder(site: Path) -> None:
    with browser.Page(site / "index.html") as page:
        page.wait("document.querySelector('.md-search__input') !== null")
        page.run("document.querySelector('.md-search__input').focus()")
        page.ask("Input.insertText", text="simplex")
        page.key("Shift", 16)
        page.wait("document.querySelectorAll('.md-search-result__item').length > 0")
        assert "simplex" in page.text(".md-search-result__list").lower()
        assert page.errors == []
        assert not [address for address in page.requests if address.startswith("http")]


def test_the_repository_link_is_where_the_clone_came_from() -> None:
    sys.path.insert(0, str(DOCS / "hooks"))
    try:
        from root_pages import web_address
    finally:
        sys.path.pop(0)
    assert web_address("git@host.example:me/it.git") == "https://host.example/me/it"
    assert web_address("ssh://git@host.example:2222/me/it") == "https://host.example/me/it"
    assert web_address("https://name:key@host.example/me/it.git") == "https://host.example/me/it"
    assert web_address("/home/me/it") is None
    assert web_address("") is None
