"""Models, explanations and data from Python and notebooks: what goes in, what comes back, what is shown."""

from __future__ import annotations

import io
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from tiny_segmenters import image, segmenter

import segproto
from segproto.errors import DataError, SegprotoError
from segproto.model.predict import predict
from segproto.model.segmenter import Segmenter


@pytest.fixture(scope="module")
def model() -> Segmenter:
    return segmenter("grouped", classes=4, sources=True)


def png_size(png: bytes) -> tuple[int, int]:
    with Image.open(io.BytesIO(png)) as picture:
        return picture.size


def test_one_several_a_batch_a_folder(model: Segmenter, tmp_path: Path) -> None:
    pictures = [image(20, 28, seed) for seed in range(3)]
    expected = [predict(model, picture) for picture in pictures]
    for name, picture in zip("abc", pictures, strict=True):
        Image.fromarray(picture.permute(1, 2, 0).numpy()).save(tmp_path / f"{name}.png")
    assert all(map(torch.equal, model.predict(pictures), expected))
    assert all(map(torch.equal, model.predict([tmp_path / f"{name}.png" for name in "abc"]), expected))
    assert torch.equal(model.predict(torch.stack(pictures)), torch.stack(expected))
    batch = model.predict(torch.stack(pictures).permute(0, 2, 3, 1).numpy(), as_numpy=True)
    assert isinstance(batch, np.ndarray)
    assert np.array_equal(batch, torch.stack(expected).numpy())
    of_folder = model.predict(str(tmp_path))
    assert list(of_folder) == ["a.png", "b.png", "c.png"]
    assert all(map(torch.equal, of_folder.values(), expected))
    written = segproto.predict(model, [tmp_path / "a.png", tmp_path / "c.png"], out=tmp_path / "out", quiet=True)
    assert [np.array(Image.open(path)).tolist() for path in written] == [expected[0].tolist(), expected[2].tolist()]


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16, np.float32, np.float64])
def test_arrays_of_any_order(model: Segmenter, dtype: type) -> None:
    picture, expected = image(20, 28), predict(model, image(20, 28))
    scaled = {np.uint16: picture.numpy().astype(np.uint16) * 257}.get(dtype, picture.numpy() / 255).astype(dtype)
    first = picture.numpy() if dtype is np.uint8 else scaled
    last = np.moveaxis(first, 0, -1)
    for array in (first, last, np.asfortranarray(last), np.flip(np.flip(last, 1).copy(), 1)):
        assert np.array_equal(model.predict(array, as_numpy=True), expected.numpy())
    assert torch.equal(model.predict(torch.from_numpy(np.ascontiguousarray(last))), expected)


WRONG: list[tuple[Any, dict[str, Any], str]] = [
    (
        np.zeros((7, 5, 9), np.uint8),
        {},
        r"image of shape \(7, 5, 9\): expected \(H, W\), or \(H, W, C\) or \(C, H, W\)",
    ),
    (np.zeros((4, 4, 3), np.int64), {}, "pass uint8, uint16, or floats"),
    (np.zeros((4, 4, 3), object), {}, "array of object: pass uint8"),
    (None, {}, "an image of NoneType: expected a path, a PIL image, an array or a tensor"),
    ({"a": 1}, {}, "an image of dict"),
    (np.zeros((4, 4, 3), np.uint8), {"windows": 3}, r"predict\(windows=...\): is no option; did you mean window"),
    (np.zeros((4, 4, 3), np.uint8), {"window": "512"}, r"window='512'\): expected a whole number of pixels, or None"),
    (np.zeros((4, 4, 3), np.uint8), {"scales": 0.5}, r"expected factors such as \(0.75, 1, 1.25\)"),
    ("nowhere.png", {}, "nowhere.png"),
]


@pytest.mark.parametrize(("wrong", "options", "words"), WRONG)
def test_wrong_arguments_are_told(model: Segmenter, wrong: Any, options: dict[str, Any], words: str) -> None:
    with pytest.raises(SegprotoError, match=words):
        model.predict(wrong, **options)


def test_wrong_questions_to_an_explanation(model: Segmenter) -> None:
    why = model.explain(image(20, 28))
    for ask, words in (
        (lambda: model.explain(image(20, 28), region="1,2,3,4"), "region 1,2,3,4: expected"),
        (lambda: model.explain(image(20, 28), areas=1), "explain"),
        (lambda: why.pixel(3, 4, "clas1"), "did you mean"),
        (lambda: why.pixel(3, 4, 9), r"class 9: expected 0..3"),
        (lambda: why.pixel(1.5, 4), "expected a row and a column"),
        (lambda: why.pixel(20, 4), "outside the explained region"),
        (lambda: why.activation_map(99), "prototype 99: expected 0..15"),
        (lambda: why.group_map(-1), "group -1: expected"),
    ):
        with pytest.raises(SegprotoError, match=words):
            ask()
    assert why.pixel(3, 4, "class2") == why.pixel(3, 4, 2)


def test_what_is_shown_is_short_and_has_pictures(model: Segmenter, tmp_path: Path) -> None:
    why = model.explain(image(20, 28))
    spot = why.pixel(3, 4)
    for thing in (model, why, spot, why.region_evidence(torch.ones(20, 28, dtype=torch.bool))):
        assert len(repr(thing)) < 400
    assert "Segmenter: 4 classes (class0, class1, class2, class3), grouped head of 16 prototypes" in repr(model)
    assert "28 x 20 pixels" in repr(why)
    assert spot.class_name in repr(spot)
    assert png_size(why._repr_png_()) == (28 + 8 + 28, 20)
    html = spot._repr_html_()
    assert f"#{spot.prototypes[0].prototype}" in html
    assert "data:image/png;base64," in html
    assert "pictures" not in spot.to_json()
    assert "pictures" not in spot.to_json()["runner_up"]
    why.save(str(tmp_path / "why"))
    assert (tmp_path / "why" / "explanation.json").exists()
    why.plot().savefig(tmp_path / "why.png", dpi=30)
    assert (tmp_path / "why.png").stat().st_size > 1000


def test_show(model: Segmenter, tmp_path: Path) -> None:
    picture = image(20, 28)
    mask = model.predict(picture)
    over = segproto.show(picture, mask, classes=model)
    assert torch.equal(over.pixels, model.explain(picture).overlay())
    assert torch.equal(segproto.show(model.explain(picture)).pixels, over.pixels)
    flat = segproto.show(mask.numpy(), classes=model).pixels
    inner = ~(torch.nn.functional.pad(mask, (1, 0, 1, 0))[1:, :-1] != mask)
    inner &= ~(torch.nn.functional.pad(mask, (1, 0, 1, 0))[:-1, 1:] != mask)
    inner[0] = inner[:, 0] = False
    table = torch.tensor(model.classes.colours, dtype=torch.uint8)
    assert torch.equal(flat.permute(1, 2, 0)[inner], table[mask.long()][inner])
    over.save(tmp_path / "over.png")
    over.save(str(tmp_path / "over.png"))  # its own may be written again
    assert png_size((tmp_path / "over.png").read_bytes()) == png_size(over._repr_png_()) == (28, 20)
    (tmp_path / "mine.png").write_bytes(b"mine")
    for wrong in (
        lambda: over.save(tmp_path / "mine.png"),
        lambda: segproto.show(picture, mask[:5], classes=model),
        lambda: segproto.show(picture, mask, classes=3),
    ):
        with pytest.raises(SegprotoError):
            wrong()


def test_a_data_set_is_opened_and_looked_at() -> None:
    data = segproto.data.open(name="scenes", scenes={"size": 32, "num_train": 3, "num_val": 2})
    assert len(data) == 3
    assert len(repr(data)) < 300
    first = data[0]
    assert first.mask.shape == first.image.shape[1:] == (32, 32)
    assert png_size(first._repr_png_()) == (72, 32)
    assert torch.equal(data[first.name].mask, data[-3].mask)
    pixels = torch.stack([one.mask for one in data]).flatten().long().bincount(minlength=256)
    counts = data.counts()
    assert [counts[name] for name in data.classes.names] == pixels[: data.classes.num_classes].tolist()
    assert counts["void"] == int(pixels[255])
    assert segproto.show(first).pixels.shape == (3, 32, 32)
    with pytest.raises(SegprotoError, match="did you mean"):
        segproto.data.open(nam="scenes")
    with pytest.raises(DataError, match="no image is named"):
        data["nowhere"]
    assert len(segproto.data.open(name="scenes", split="val", scenes={"size": 32, "num_train": 3, "num_val": 2})) == 2
