"""Published ScaleProtoSeg and ProtoSeg checkpoints become models with the published logits."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from published_modules import Published

from segproto.errors import ConfigError, WeightsError
from segproto.interop.conversion import Options
from segproto.methods.protoseg.convert import SOURCE as PROTOSEG
from segproto.methods.scaleproto.convert import SOURCE as SCALEPROTOSEG
from segproto.model.segmenter import Segmenter

SLOW = ("DeepLab", "DeepLab, baseline")
CASES: dict[str, dict[str, Any]] = {
    "stage 1, U-Net": {"classes": 2, "scales": 4, "per_class": 3},
    "stage 1, duplicates removed": {"classes": 3, "scales": 4, "per_class": 3, "drop": (0, 10, 11, 20)},
    "grouped, a class gone": {"classes": 2, "scales": 4, "per_class": 1, "groups": True, "drop": (1, 3, 5, 7)},
    "thresholded": {"classes": 3, "scales": 4, "per_class": 3, "groups": True, "threshold": 0.08, "drop": (5,)},
    "MSC": {"classes": 2, "scales": 4, "per_class": 2, "msc": (0.5, 0.75)},
    "baseline": {"classes": 4, "scales": 1, "per_class": 10},
    "baseline, pruned": {"classes": 4, "scales": 1, "per_class": 5, "drop": (1, 2, 3, 4, 5, 6, 7, 8, 9, 15)},
    "DeepLab": {"classes": 19, "scales": 4, "per_class": 3, "network": "deeplab"},
    "DeepLab, grouped, MSC": {
        **{"classes": 21, "scales": 4, "per_class": 3, "network": "deeplab"},
        **{"groups": True, "msc": (0.5, 0.75), "drop": (7,)},
    },
    "DeepLab, baseline": {"classes": 19, "scales": 1, "per_class": 10, "network": "deeplab"},
}  # fmt: skip


@pytest.mark.parametrize("name", [pytest.param(n, marks=[pytest.mark.slow] * (n in SLOW)) for n in CASES])
def test_logits_are_the_published_ones(name: str, tmp_path: Path) -> None:
    published = Published(**CASES[name])
    file = tmp_path / "model.pth"
    published.save(file)
    source = SCALEPROTOSEG if published.scales > 1 else PROTOSEG
    model = source.convert(file, Options())
    assert isinstance(model, Segmenter)
    size = (65, 97) if published.network == "deeplab" else (64, 128)
    images = torch.randn(1, 3, *size, generator=torch.Generator().manual_seed(3))
    with torch.no_grad():
        wanted = published.logits(images)
        features = published.features(images)
        assert 0.02 < features.std() < 0.45  # neither constant nor saturated
        logits = model.double().grid_logits(images.double())
    assert logits.shape == wanted.shape
    torch.testing.assert_close(logits.double(), wanted, rtol=1e-5, atol=1e-5)
    model.float().save(tmp_path / "out")
    again = Segmenter.load(tmp_path / "out")
    assert again.predict(torch.zeros(3, 40, 56, dtype=torch.uint8), scales=[1.0]).shape == (40, 56)
    assert again.input_size == {21: (513, 513), 150: 512}.get(published.classes)
    if published.classes == 2:
        assert again.classes.names == ("membrane", "cell")
    card = again.card["converted"]
    assert (card["source"], card["file"]) == (source.name, "model.pth")
    assert card["tensors_used"] + sum(map(len, card["left_out"].values())) == len(published.state)
    assert again.card["method"] in ("scaleproto", "protoseg")
    assert again.classes.num_classes == published.classes


def test_an_old_stream_and_a_bare_state_dict(tmp_path: Path) -> None:
    published = Published(2, 4, 3)
    published.save(tmp_path / "old.pth", _use_new_zipfile_serialization=False)
    torch.save(published.state, tmp_path / "state.pth")
    images = torch.rand(1, 3, 32, 32)
    with torch.no_grad():
        for name in ("old.pth", "state.pth"):
            model = SCALEPROTOSEG.convert(tmp_path / name, Options())
            assert isinstance(model, Segmenter)
            logits = model.double().grid_logits(images.double())
            torch.testing.assert_close(logits.double(), published.logits(images), rtol=1e-5, atol=1e-5)


def test_what_cannot_be_converted_is_told(tmp_path: Path) -> None:
    file = tmp_path / "a.pth"
    Published(4, 1, 5).save(file)
    with pytest.raises(WeightsError, match=r"a segmentation.model.model.PPNet, which is not multi-scale"):
        SCALEPROTOSEG.convert(file, Options())
    pruned = Published(4, 1, 5, drop=(1,))
    pruned.save(file)
    torch.save(pruned.state, file)
    with pytest.raises(WeightsError, match="19 prototypes of 4 classes and 1 scales are no regular layout"):
        PROTOSEG.convert(file, Options())
    torch.save({**pruned.state, "extra": torch.zeros(1)}, file)
    for name, change, reason in [
        ("extra tensor", {"extra": torch.zeros(1)}, "1 tensors are not known here: extra"),
        ("shape", {"features.base.outc.conv.bias": torch.zeros(3)}, "has shape (3,), expected (4,)"),
        ("readout", {"last_layer.weight": torch.zeros(4, 7)}, "has shape (4, 7), expected (any, 20)"),
    ]:
        whole = Published(4, 1, 5)
        whole.save(file)
        torch.save({**whole.state, **change}, file)
        with pytest.raises(WeightsError) as caught:
            PROTOSEG.convert(file, Options())
        assert reason in str(caught.value), name
    torch.save({"weight": torch.zeros(1)}, file)
    with pytest.raises(WeightsError, match="prototype_vectors is missing; the file has weight"):
        PROTOSEG.convert(file, Options())
    file.write_bytes(b"\x80\x02csomebody.net\nNet\n)\x81}X\x01\x00\x00\x00aK\x01sb.")
    with pytest.raises(WeightsError, match=r"a\.pth: expected a pickled torch module, found somebody\.net\.Net"):
        PROTOSEG.convert(file, Options())
    torch.save([1], file)
    with pytest.raises(WeightsError, match="expected tensors by name, found list"):
        PROTOSEG.convert(file, Options())
    from segproto.data.base import ClassTable

    Published(4, 1, 5).save(file)
    with pytest.raises(ConfigError, match="names 1 classes"):
        PROTOSEG.convert(file, Options(ClassTable(("a",), ((0, 0, 0),))))
