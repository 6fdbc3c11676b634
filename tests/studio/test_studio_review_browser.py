"""Suspicious labels in headless Chromium: looked for, decided about by keys, written, there after a kill."""

from __future__ import annotations

import json
import signal
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from browser import CHROMIUM, Page
from PIL import Image
from studio_server import Address, studio
from tiny_reviews import NAMES, quarters, train_on_quarters
from writing_commands import tree

pytestmark = pytest.mark.skipif(CHROMIUM is None, reason="no Chromium on this machine")
READY = "document.body?.dataset.ready === '1'"


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("review")
    return train_on_quarters(folder / "run", quarters(folder / "data"))


@pytest.fixture(scope="module")
def address(run: Path) -> Iterator[Address]:
    with studio(run) as url:
        yield url


def tally(page: Page, count: int) -> None:
    """Waits until so many are decided."""
    page.wait(f"document.querySelector('#tally').innerText.startsWith('{count} of')")


def test_a_person_looks_decides_writes_and_comes_back(address: Address, run: Path) -> None:
    originals = tree(run.parent / "data")
    with Page(address) as page:  # from the model's page
        page.wait(READY)
        page.run("[...document.querySelectorAll('nav a')].find(a => a.innerText === 'Review labels').click()")
        page.wait(f"location.pathname.endsWith('/review') && {READY}")
        assert page.run("document.querySelector('#card').hidden")
        page.run("document.querySelector('#find').click()")
        page.wait("!document.querySelector('#card').hidden")
        rows = json.loads((run / "studio" / "review" / "labels.json").read_text())["labels"]
        tally(page, 0)
        assert page.text("#tally") == f"0 of {len(rows)}"
        assert f"{rows[0]['label']}, rather" in page.text("#question")
        assert page.run("document.querySelectorAll('#question b').length") == 0  # a class's name is no markup
        page.wait("document.querySelector('#photo').naturalWidth > 0")
        page.wait("[...document.querySelectorAll('.because img')].every(i => i.naturalWidth > 0)")
        assert page.run("document.querySelectorAll('.because li').length") == len(
            rows[0]["patches"] + rows[0]["prototypes"]
        )
        page.key("a", 65)
        tally(page, 1)
        assert page.text("#question").startswith("2.")
        page.key("ArrowRight", 39)
        assert page.text("#question").startswith("3.")
        page.key("d", 68)
        tally(page, 2)
        page.key("u", 85)  # takes the last one back, and shows it
        tally(page, 1)
        assert page.text("#question").startswith("3.")
        page.key("c", 67)
        to = next(name for name in NAMES if name not in (rows[2]["label"], rows[2]["suggested"]))
        assert page.run("document.activeElement.id") == "to"
        page.run(f"document.querySelector('#to').value = '{NAMES.index(to)}'")
        page.key("Enter", 13)
        tally(page, 2)
        page.key("w", 87)
        assert page.run("document.querySelector('#whole').getAttribute('aria-pressed')") == "true"
        page.wait("!document.querySelector('#write-form button').disabled")
        page.run("document.querySelector('#name').value = 'fixed'")
        page.run("document.querySelector('#write-form button').click()")
        page.wait("document.querySelector('#job-command').innerText.includes('data.labels=')")
        shown = page.text("#counts")
        assert shown == "Decided: 1 void, 1 corrected, 0 kept."
        assert page.errors == []
        with Page(f"{address}review") as other:  # another window sees the same, and what it decides is seen here
            other.wait(READY)
            assert other.text("#counts") == shown
            other.key("d", 68)
            tally(other, 3)
            tally(page, 3)
    assert tree(run.parent / "data") == originals
    first = np.array(Image.open(run / "studio" / "fixed" / "train" / f"{rows[0]['image']}.png"))
    assert (first == 255).sum() == rows[0]["pixels"]
    address.process.send_signal(signal.SIGKILL)
    address.process.wait(20)
    with studio(run) as again, Page(f"{again}review", 390, 844, dark=True, phone=True) as page:
        page.wait(READY)
        tally(page, 3)
        assert page.run("document.documentElement.scrollWidth") == 390
        page.run("document.querySelector('#which').value = 'decided'")
        page.run("document.querySelector('#which').dispatchEvent(new Event('change'))")
        assert page.run("document.querySelectorAll('#tiles button').length") == 3
        assert f"becomes {to}" in page.text("#tiles")
        assert page.errors == []
