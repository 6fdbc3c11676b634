"""The studio in headless Chromium, as a person uses it: open, drop an image, hover, switch off, undo, apply, reload."""

from __future__ import annotations

import base64
import io
import json
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from browser import CHROMIUM, Page
from PIL import Image
from studio_server import studio
from tiny_runs import train_blackbox, train_scaleproto
from writing_commands import tree

import segproto

pytestmark = pytest.mark.skipif(CHROMIUM is None, reason="no Chromium on this machine")
READY = "document.body?.dataset.ready === '1'"
UNIT = "document.querySelector('.prototypes button[data-unit]')"


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return train_scaleproto(tmp_path_factory.mktemp("studio") / "run")


@pytest.fixture(scope="module")
def address(run: Path) -> Iterator[str]:
    with studio(run) as url:
        yield url


def place(page: Page, column: float, row: float) -> tuple[float, float]:
    page.run("document.querySelector('.stage').scrollIntoView({block: 'center', behavior: 'instant'})")
    box = page.run(
        "(b => [b.left, b.top, b.width, b.height])(document.querySelector('.stage').getBoundingClientRect())"
    )
    return box[0] + column * box[2], box[1] + row * box[3]


def scored(page: Page, steps: int) -> None:
    """Waits until so many edits are listed and scored."""
    page.wait(f"document.querySelectorAll('#steps li').length === {steps + 1 if steps else 0}")
    page.wait("document.body.dataset.scored === String(talk.revision())")


def test_a_person_asks_edits_undoes_applies_and_comes_back(address: str, run: Path) -> None:
    with Page(address) as page:
        page.wait(READY)
        assert page.errors == []
        assert all(url.startswith((address, "data:")) for url in page.requests)
        assert page.run("document.querySelectorAll('#tiles button').length") == 4
        before = page.text("#miou")
        # hover and the keyboard
        page.mouse(*place(page, 0.2, 0.2))
        first = page.text(".why")
        page.mouse(*place(page, 0.8, 0.8))
        assert page.text(".why") != first
        page.run("document.querySelector('.stage').focus()")
        left = page.run("document.querySelector('.spot').style.left")
        page.key("ArrowLeft", 37)
        assert page.run("document.querySelector('.spot').style.left") != left
        # what is known of a prototype
        page.run(f"{UNIT}.click()")
        page.wait("!document.querySelector('.stage canvas').hidden")
        page.wait("document.querySelector('#without').innerText.startsWith('mIoU')")
        assert page.run("document.querySelectorAll('.fires img').length") == 4
        # switch it off, undo, redo
        unit = page.run(f"{UNIT}.dataset.unit")
        page.run("document.querySelector('#switch').focus()")
        page.run("document.querySelector('#switch').click()")
        scored(page, 1)
        page.wait("document.activeElement.id === 'switch'")  # drawn anew, and the keyboard is still there
        assert f"switched prototype {unit} off" in page.text("#steps")
        assert page.text("#ask-title").endswith("switched off")
        page.run("document.querySelector('#undo').click()")
        page.wait("document.querySelector('#undo').disabled")
        scored(page, 1)
        assert page.text("#miou") == before
        page.run("document.querySelector('#redo').click()")
        page.wait("document.querySelector('#redo').disabled")
        scored(page, 1)
        # a group counts less
        page.run("document.querySelector('.groups button.name').click()")
        page.wait("document.querySelector('#factor') !== null")
        page.run("document.querySelector('#edits').scrollIntoView({behavior: 'instant'})")
        for wrong in ("", "-1", "1001"):
            page.run("talk.say('')")
            page.run(f"document.querySelector('#factor').value = '{wrong}'")
            page.run("[...document.querySelectorAll('#ask button')].find(b => b.textContent === 'Set').click()")
            page.wait("document.querySelector('#say').innerText.includes('give a number')")
            box = "(b => b.height > 0 && b.top >= 0 && b.bottom <= innerHeight)"
            assert page.run(f"{box}(document.querySelector('#say').getBoundingClientRect())")  # however far down one is
            assert page.run("document.querySelectorAll('#steps li').length") == 2  # no weight of 0
        page.run("document.querySelector('#factor').value = '0.5'")
        page.run("[...document.querySelectorAll('#ask button')].find(b => b.textContent === 'Set').click()")
        scored(page, 2)
        shown = page.text("#miou")
        # apply
        page.run("document.querySelector('#name').value = 'mine'")
        page.run("document.querySelector('#apply button').click()")
        page.wait("document.querySelector('#job').dataset.state === 'done'")
        assert page.text("#job").startswith(f"written to {run / 'studio' / 'mine'}: mIoU ")
        assert page.run("document.querySelector('#job-command').hidden")
        figures = json.loads((run / "studio" / "mine" / "edit.json").read_text())
        assert f"{100 * figures['miou']['after']:.2f}" in shown
        assert len(figures["edits"]) == 2
        # reload: nothing is lost
        page.ask("Page.reload")
        page.wait(f"{READY} && document.querySelectorAll('#steps li').length === 3")
        assert page.text("#miou") == shown
        assert page.errors == []
    after = segproto.evaluate(run / "studio" / "mine")
    assert after["miou"] == pytest.approx(figures["miou"]["after"], abs=1e-9)
    with Page(address) as other:  # another browser has edits of its own
        other.wait(READY)
        assert other.text("#miou") == before
        assert other.run("document.querySelectorAll('#steps li').length") == 0


def test_a_person_forgets_a_patch_sees_how_far_it_is_and_stops_it(run: Path, tmp_path: Path) -> None:
    before, long = tree(run), "stages.forget.steps=3000"
    with studio(run, "--out", str(tmp_path), long) as url, Page(url) as page:
        page.wait(f"{READY} && document.querySelector('#looking').hidden")
        shown = page.text("#miou")
        page.run(f"{UNIT}.click()")
        unit = page.run(f"{UNIT}.dataset.unit")
        page.wait("document.querySelector('#forget') !== null")
        page.run("document.querySelector('#forget').click()")
        seen = "(b => b.top >= 0 && b.bottom <= innerHeight)(document.querySelector('#stop').getBoundingClientRect())"
        page.wait(f"!document.querySelector('#stop').hidden && {seen}")
        assert f"to forget the patch of prototype {unit}" in page.text("#job-words")
        assert page.run("document.querySelector('#job-bar').position") == -1  # it moves before the first batch
        page.wait("document.querySelector('#job-bar').position > 0")
        assert page.run("document.querySelector('#job-bar').max") > 3000
        page.run("document.querySelector('#stop').click()")
        page.wait("document.querySelector('#job').dataset.state === 'stopped'")
        assert page.run("document.querySelector('#stop').hidden && document.querySelector('#job-bar').hidden")
        done = f"stopped: training to forget the patch of prototype {unit}; to go on: segproto train --resume"
        assert page.text("#job-words") == f"{done} {tmp_path / 'forget-1'}"
        # the model is as it was, here and on the disk, and can be worked on
        assert page.text("#miou") == shown
        assert tree(run) == before
        page.run("document.querySelector('#switch').click()")
        scored(page, 1)
        assert page.errors == []


def test_an_own_image_is_dropped_zoomed_and_explained(address: str) -> None:
    rng = np.random.default_rng(0)
    buffer = io.BytesIO()
    Image.fromarray(rng.integers(0, 255, (120, 200, 3), dtype=np.uint8)).save(buffer, "PNG")
    content = base64.b64encode(buffer.getvalue()).decode()
    drop = """(async () => {
      const bytes = Uint8Array.from(atob('%s'), c => c.charCodeAt(0));
      const transfer = new DataTransfer();
      transfer.items.add(new File([bytes], '%s', {type: 'image/png'}));
      window.dispatchEvent(new DragEvent('drop', {dataTransfer: transfer, cancelable: true, bubbles: true}));
    })()"""
    with Page(address, 390, 844, dark=True, phone=True) as page:
        page.wait(READY)
        assert page.run("document.documentElement.scrollWidth") == 390
        page.run("document.querySelector('[data-view=truth]').click()")
        page.run(drop % (content, "mine.png"))
        page.wait("document.querySelector('#look-title').innerText === 'mine.png'")
        assert page.text("#look-note") == "200 \N{MULTIPLICATION SIGN} 120 pixels"
        assert page.run("document.querySelector('[data-view=truth]').hidden")
        shown = "[...document.querySelectorAll('[data-view][aria-pressed=true]')].map(b => b.dataset.view).join()"
        assert page.run(shown) == "photo"  # what was chosen there is not here
        page.run("document.querySelector('[data-view=prediction]').click()")
        page.ask(
            "Network.emulateNetworkConditions", offline=False, latency=300, downloadThroughput=-1, uploadThroughput=-1
        )
        page.run("document.querySelector('[data-zoom=in]').click()")
        page.wait("document.querySelector('#look-note').innerText.includes('1.6 times')")
        seen = "[...document.querySelectorAll('.stage img')].filter(i => !i.hidden && i.style.visibility !== 'hidden')"
        page.wait(f"{seen}.length >= 2")
        assert page.run(f"{seen}.every(i => i.complete)")  # no outlines of the part that was shown before
        page.run("document.querySelector('[data-view=winner]').click()")
        page.wait("document.querySelector('.stage .winner').naturalWidth > 0")
        assert page.errors == []
        page.run(drop % (base64.b64encode(b"no picture at all").decode(), "text.png"))
        page.wait("document.querySelector('#say').innerText.includes('is no picture')")
        page.run("File.prototype.arrayBuffer = () => Promise.reject(new Error('as of a folder'))")
        page.run(drop % (content, "folder"))
        page.wait("document.querySelector('#say').innerText.includes('folder cannot be read: is it a folder')")
        # a studio that ended: the line about it does not go away
        page.run("window.fetch = () => Promise.reject(); window.setTimeout = (work) => { work(); return 0; }")
        page.run("document.querySelector('[data-zoom=in]').click()")
        page.wait("document.querySelector('#say').innerText.includes('it has ended')")


def test_two_runs_stand_side_by_side_and_a_black_box_says_why_it_cannot_be_edited(run: Path) -> None:
    box = train_blackbox(run.parent / "box")
    with studio(box, "--compare", str(run)) as url, Page(url) as page:
        page.wait(READY)
        assert page.run("[...document.querySelectorAll('.side-name')].map(n => n.innerText)") == ["box", "run"]
        spots = "[...document.querySelectorAll('.spot')].map(n => n.style.left + ' ' + n.style.top)"
        assert len(set(page.run(spots))) == 1  # as soon as an image is open
        page.mouse(*place(page, 0.3, 0.3))
        assert len(set(page.run(spots))) == 1
        assert "no prototypes" in page.text("#edits-none")
        assert page.run("document.querySelectorAll('.verdict b').length") == 2
        assert page.errors == []
