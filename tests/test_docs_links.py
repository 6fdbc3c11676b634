"""Each question about prototypes links to the function that settles it, in the repository and on the site."""

from __future__ import annotations

import importlib
import re
import subprocess
import sys
from html.parser import HTMLParser
from pathlib import Path

ROOT = Path(__file__).parents[1]
PAGE = ROOT / "docs" / "prototype-questions.md"
LINK = re.compile(r"\[`(segproto[\w.]+)`\]\(([^)]+)\)")


def test_every_question_links_to_a_function_that_exists() -> None:
    questions = PAGE.read_text().split("\n## ")[1:]
    assert len(questions) >= 11  # the rows of the specification's list of questions
    for question in questions:
        links = LINK.findall(question)
        assert links, question.splitlines()[0]
        for name, target in links:
            module, _, leaf = name.rpartition(".")
            file = (PAGE.parent / target).resolve()
            assert Path(str(importlib.import_module(module).__file__)).resolve() == file, name
            assert re.search(rf"^(def|class) {leaf}\b", file.read_text(), re.M), name


class Page(HTMLParser):
    """The links and the anchors of a page."""

    def __init__(self, path: Path) -> None:
        super().__init__()
        self.links, self.ids = [], set()
        self.feed(path.read_text())

    def handle_starttag(self, tag, attrs) -> None:
        found = dict(attrs)
        self.links += [found["href"]] if tag == "a" and found.get("href", "").startswith("source/") else []
        self.ids |= {found["id"]} if "id" in found else set()


def test_the_links_work_on_the_site(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "mkdocs", "build", "--strict", "--quiet", "--site-dir", str(tmp_path)]
    subprocess.run(command, cwd=ROOT, check=True)
    links = Page(tmp_path / "prototype-questions.html").links
    assert len(links) == len(LINK.findall(PAGE.read_text()))
    for link in links:
        path, _, anchor = link.partition("#")
        assert anchor in Page(tmp_path / path).ids, link
    text = (tmp_path / "source/segproto/prototypes/sinkhorn.html").read_text()
    assert "def balanced_assignment(" in text
    assert not (tmp_path / "source_pages.py").exists()
