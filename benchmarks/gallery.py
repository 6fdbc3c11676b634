"""The pictures of the docs' gallery, from the tutorials' painted seaside alone.

    python benchmarks/gallery.py --out runs/gallery [--pictures docs/assets/gallery]

Trains on the seaside and on its careless twin (once: what is there is not made again) and photographs the reports in
headless Chromium.
"""

from __future__ import annotations

import argparse
import base64
import io
import json
import sys
import time
from pathlib import Path

from PIL import Image

import segproto

ROOT = Path(__file__).parents[1]
sys.path += [str(ROOT / "tests" / "support"), str(ROOT / "docs" / "tutorials")]
SETTLE = 0.6  # seconds that a page may take to draw


def runs(out: Path) -> None:
    """Trains what is not there yet."""
    from seaside import paint_folder

    short = ["stages.joint.steps=250", "stages.group_warmup.steps=40", "stages.group_joint.steps=120"]
    for name, careless, more in (("seaside", False, []), ("careless", True, ["stages.joint.diversity=2"])):
        root = paint_folder(out / f"{name}_data", careless=careless)
        data = {"name": "folder", "root": str(root), "augment": {"crop": 96}}
        if not (out / name / "model").is_dir():
            segproto.train("scaleproto/scenes-published", out=out / name, data=data, overrides=[*short, *more])
        segproto.evaluate(out / name)
        segproto.write_report(out / name)


def save(picture: Image.Image, file: Path) -> None:
    """As a PNG of at most 256 colours."""
    file.parent.mkdir(parents=True, exist_ok=True)
    picture.convert("RGB").quantize(256, dither=Image.Dither.NONE).save(file, optimize=True)
    print(file, picture.size, f"{file.stat().st_size / 1e3:.0f} kB")


def beside(pictures: list[Image.Image], gap: int = 16) -> Image.Image:
    """Pictures in a row."""
    width = sum(p.width for p in pictures) + gap * (len(pictures) - 1)
    out, x = Image.new("RGB", (width, max(p.height for p in pictures)), "white"), 0
    for picture in pictures:
        out.paste(picture, (x, 0))
        x += picture.width + gap
    return out


class Camera:
    """Photographs parts of a page.

    Args:
        page: an open ``browser.Page``.
    """

    def __init__(self, page) -> None:
        self.page = page

    def take(self, first: str, last: str | None = None, height: int | None = None) -> Image.Image:
        """From the top of one element to the bottom of another, at most ``height`` pixels."""
        box = "(({left, top, right, bottom}) => [left, top + scrollY, right, bottom + scrollY])"
        ask = [f"{box}(document.querySelector('{s}').getBoundingClientRect())" for s in (first, last or first)]
        (left, top, right, _), (_, _, _, bottom) = (self.page.run(a) for a in ask)
        clip = {"x": max(left - 8, 0), "y": max(top - 8, 0), "width": right - left + 16}
        clip["height"] = min(bottom - top + 16, height or 1e9)
        shot = self.page.ask("Page.captureScreenshot", clip={**clip, "scale": 1}, captureBeyondViewport=True)
        return Image.open(io.BytesIO(base64.b64decode(shot["data"])))

    def hover(self, column: float, row: float) -> None:
        """Moves the mouse over a place of the explained image, given as shares of its width and height."""
        stage = "document.querySelector('.stage')"
        self.page.run(f"{stage}.scrollIntoView({{block: 'center', behavior: 'instant'}})")
        left, top, width, height = self.page.run(
            f"(({{left, top, width, height}}) => [left, top, width, height])({stage}.getBoundingClientRect())"
        )
        self.page.mouse(left + column * width, top + row * height)
        time.sleep(SETTLE)


def photograph(out: Path, pictures: Path) -> None:
    """The pages."""
    from browser import Page

    with Page(out / "seaside" / "report.html", width=400, height=1000) as page:
        time.sleep(SETTLE)
        camera, strip = Camera(page), []
        page.run("document.querySelector('[data-view=photo]').click()")
        for column, row in ((0.25, 0.25), (0.82, 0.68), (0.58, 0.8)):  # balloon, boat, whale
            camera.hover(column, row)
            strip.append(camera.take(".probe .stage", ".why .prototypes li:nth-child(3)"))
        save(beside(strip), pictures / "hover.png")
    with Page(out / "seaside" / "report.html", width=1000, height=900) as page:
        time.sleep(SETTLE)
        camera = Camera(page)
        camera.hover(0.82, 0.68)
        save(camera.take(".probe", height=800), pictures / "report.png")
        page.run("(s => { s.value = [...s.options].find(o => o.text == 'boat').value; "
                 "s.dispatchEvent(new Event('change')); })(document.querySelector('#groups select'))")  # fmt: skip
        time.sleep(SETTLE)
        save(camera.take("#groups"), pictures / "groups.png")
        save(camera.take("#prototypes", height=860), pictures / "prototypes.png")
    with Page(out / "careless" / "report.html", width=1000, height=900) as page:
        time.sleep(SETTLE)
        save(Camera(page).take("#failures .failure"), pictures / "failure.png")


def from_tutorials(pictures: Path) -> None:
    """Pictures that the tutorials' cells drew when their outputs were stored."""
    wanted = {
        "edit": ("4-debug-a-model", 5),
        "photos": ("3-masks-without-labels", 1),
        "found": ("3-masks-without-labels", 2),
    }
    for name, (notebook, number) in wanted.items():
        cells = json.loads((ROOT / "docs" / "tutorials" / f"{notebook}.ipynb").read_text())["cells"]
        outputs = [o.get("data", {}).get("image/png") for cell in cells for o in cell.get("outputs", [])]
        drawn = [picture for picture in outputs if picture]
        (pictures / f"{name}.png").write_bytes(base64.b64decode("".join(drawn[number - 1])))


def main() -> None:
    """Makes everything."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--pictures", type=Path, default=ROOT / "docs" / "assets" / "gallery")
    given = parser.parse_args()
    runs(given.out)
    photograph(given.out, given.pictures)
    from_tutorials(given.pictures)


if __name__ == "__main__":
    main()
