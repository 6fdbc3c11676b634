"""Networks of other people: their own logits and masks, however enlarged; from files; and what is no last layer."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from PIL import Image
from torch import Tensor, nn

import segproto
from segproto.errors import ConfigError, SegprotoError, WeightsError
from segproto.interop.adopt import adopt
from segproto.model.segmenter import Segmenter

QUICK = ["stages.rotate.cells=500", "stages.rotate.steps=5"]


class Own(nn.Module):
    """A network of one's own, as many are: stride 4, a head, an enlargement."""

    def __init__(self, classes: int = 5, corners: bool = False, stride: int = 4) -> None:
        super().__init__()
        self.corners, self.stride = corners, stride
        layers = [nn.Conv2d(3, 8, 3, 2, 1), nn.BatchNorm2d(8), nn.ReLU(), nn.Conv2d(8, 12, 3, 2, 1), nn.ReLU()]
        self.body = nn.Sequential(*layers)
        self.head = nn.Sequential(nn.Conv2d(12, 12, 3, padding=1), nn.ReLU(), nn.Conv2d(12, classes, 1))

    def enlarged(self, logits: Tensor, images: Tensor) -> Tensor:
        return F.interpolate(logits, size=images.shape[-2:], mode="bilinear", align_corners=self.corners)

    def forward(self, images: Tensor) -> Tensor:
        return self.enlarged(self.head(self.body(images)), images)


class Mapping(Own):
    def forward(self, images: Tensor) -> dict[str, Tensor]:
        return {"out": super().forward(images), "aux": images}


class Factor(Own):
    """Enlarges by a factor: only sides that are multiples of it fit."""

    def enlarged(self, logits: Tensor, images: Tensor) -> Tensor:
        return F.interpolate(logits, scale_factor=4, mode="bilinear", align_corners=self.corners)


class Nearest(Own):
    def enlarged(self, logits: Tensor, images: Tensor) -> Tensor:
        return F.interpolate(logits, size=images.shape[-2:], mode="nearest")


class Softmax(Own):
    def enlarged(self, logits: Tensor, images: Tensor) -> Tensor:
        return super().enlarged(logits, images).softmax(1)


def made(kind: type[Own] = Own, **options: object) -> Own:
    torch.manual_seed(0)
    return kind(**options).eval()  # type: ignore[arg-type]


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    folder = tmp_path / "photos"
    folder.mkdir()
    for n in range(3):
        pixels = np.random.default_rng(n).integers(0, 256, (64, 96, 3), np.uint8)
        Image.fromarray(pixels).save(folder / f"{n}.png")
    return folder


@pytest.mark.parametrize("corners", [False, True])
@pytest.mark.parametrize(
    ("kind", "size", "multiple"), [(Own, (50, 71), 1), (Mapping, (33, 64), 1), (Factor, (52, 68), 4)]
)
def test_logits_and_masks_are_the_networks_own(
    kind: type[Own], size: tuple[int, int], multiple: int, corners: bool
) -> None:
    network = made(kind, corners=corners)
    model = adopt(network)
    image = torch.randint(0, 256, (3, *size), dtype=torch.uint8)
    with torch.no_grad():
        answer = network(model.encoder.normalisation(image)[None])
    wanted = answer["out"] if isinstance(answer, dict) else answer
    assert model.encoder.stride_multiple == multiple
    assert model.encoder.config.aligned is corners
    found = model(model.encoder.normalisation(image)[None])
    assert torch.equal(found, wanted)
    assert torch.equal(model.predict(image), wanted[0].argmax(0).to(torch.uint8))
    why = model.explain(image)  # pixels are mixed from their cells as the network enlarges
    ys, xs = (t.flatten() for t in torch.meshgrid(torch.arange(size[0]), torch.arange(size[1]), indexing="ij"))
    assert torch.allclose(why.logits(ys, xs).T.view(5, *size), wanted[0], atol=1e-5)
    shares = why.evidence(ys, xs, torch.full_like(ys, 3))
    assert torch.allclose((shares.prototypes.sum(1) + shares.offset).view(size), wanted[0, 3], atol=1e-4)


def test_the_network_is_left_as_it_is() -> None:
    network = made().train()
    before = {key: value.clone() for key, value in network.state_dict().items()}
    adopt(network)
    assert network.training
    assert isinstance(network.head[2], nn.Conv2d)
    assert all(torch.equal(before[key], value) for key, value in network.state_dict().items())


def test_a_network_of_ones_own_is_given_again(photos: Path, tmp_path: Path) -> None:
    network = made(corners=True)
    segproto.posthoc(network, images=photos, out=tmp_path / "run", overrides=QUICK, quiet=True)
    with pytest.raises(WeightsError, match=r"a network of your own \(Own\), which no file can rebuild"):
        segproto.load(tmp_path / "run")
    torch.manual_seed(7)
    model = segproto.load(tmp_path / "run", module=Own(corners=True))  # other weights: the file's are used
    image = torch.randn(1, 3, 40, 56)
    with torch.no_grad():
        assert torch.equal(model(image), network(image))
    assert model.explain(photos / "0.png").completeness_error(None) <= 1e-5
    assert all(source is not None and source.image in {"0", "1", "2"} for source in model.provenance.sources)
    with segproto.given(network):
        changed = segproto.edit(tmp_path / "run", drop=[0], out=tmp_path / "less", quiet=True)
        assert changed["accuracy"]["before"] == 1.0 >= changed["accuracy"]["after"]  # without masks: what was answered
        segproto.export(tmp_path / "run", out=tmp_path / "graph.pt2", form="torch", size=(64, 96))
        assert segproto.load(tmp_path / "less").head.bank.num_prototypes == model.head.bank.num_prototypes - 1
    other = Own()
    other.body[0] = nn.Conv2d(3, 8, 5, 2, 2)
    with pytest.raises(WeightsError, match="has shape"):
        segproto.load(tmp_path / "run", module=other)


def test_a_cut_off_run_goes_on(photos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from segproto.methods.posthoc import trace

    network, options = made(), {"images": photos, "overrides": QUICK, "quiet": True}
    segproto.posthoc(network, out=tmp_path / "whole", **options)
    monkeypatch.setattr(trace, "search", lambda *_: (_ for _ in ()).throw(KeyboardInterrupt))
    with pytest.raises(KeyboardInterrupt):
        segproto.posthoc(network, out=tmp_path / "run", **options)
    monkeypatch.undo()
    segproto.posthoc(network, out=tmp_path / "run", resume=True, **options)
    whole, resumed = (segproto.load(tmp_path / name, module=network).state_dict() for name in ("whole", "run"))
    assert all(torch.equal(value, resumed[key]) for key, value in whole.items())


def test_a_network_of_smp_is_rebuilt_from_its_arguments(photos: Path, tmp_path: Path) -> None:
    smp = pytest.importorskip("segmentation_models_pytorch")
    torch.manual_seed(0)
    network = smp.FPN("tu-test_resnet", encoder_weights=None, classes=5, decoder_pyramid_channels=16).eval()
    segproto.posthoc(network, images=photos, out=tmp_path / "run", overrides=QUICK, quiet=True)
    model = segproto.load(tmp_path / "run")
    image = torch.randn(1, 3, 64, 96)
    with torch.no_grad():
        wanted = network(image)
        assert torch.equal(model(image), wanted)
    assert model.encoder.config.aligned  # of nn.Upsample, as smp builds it
    assert (model.encoder.config.network.source, model.encoder.config.network.name) == ("smp", "FPN")
    file = tmp_path / "run" / "model" / "model.json"
    (file.parent / "SHA256SUMS").unlink()
    for key, value, words in (
        ("encoder_name", "tu-hf-hub:someone/else", "no file or address"),
        ("oops", 1, "cannot be made"),
    ):
        changed = json.loads(file.read_text())
        changed["encoder"]["network"]["arguments"][key] = value
        text, _ = file.read_text(), file.write_text(json.dumps(changed))
        with pytest.raises(WeightsError, match=words):
            segproto.load(tmp_path / "run")
        file.write_text(text)


@pytest.mark.slow
def test_a_network_of_torchvision_is_rebuilt_by_name(tmp_path: Path) -> None:
    from torchvision.models.segmentation import deeplabv3_mobilenet_v3_large

    torch.manual_seed(0)
    network = deeplabv3_mobilenet_v3_large(weights=None, weights_backbone=None, num_classes=4, aux_loss=True).eval()
    adopt(network).save(tmp_path / "model")
    model = Segmenter.load(tmp_path / "model")
    known = model.encoder.config.network
    assert (known.name, known.layer) == ("deeplabv3_mobilenet_v3_large", "classifier.4")  # not that of aux_classifier
    image = torch.randn(1, 3, 70, 81)
    with torch.no_grad():
        assert torch.equal(model(image), network(image)["out"])


@pytest.mark.parametrize(
    ("kind", "layer", "words"),
    [
        (Own, "head.7", "Own has none of that name; did you mean 'head."),
        (Own, "head.1", "is a ReLU; expected the last layer, a 1x1 convolution"),
        (Own, "head.0", "is a 3x3 convolution .reads the neighbours of a cell, too."),
        (Nearest, None, "not what this layer gives, enlarged bilinearly"),
        (Softmax, None, "not what this layer gives, enlarged bilinearly"),
    ],
)
def test_what_is_no_last_layer_is_one_clear_line(kind: type[Own], layer: str | None, words: str) -> None:
    with pytest.raises(ConfigError, match=words) as raised:
        adopt(made(kind), layer)
    assert "\n" not in str(raised.value)


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"classes": ["a", "b"]}, "the classifier has 5 channels for 2 classes"),
        ({"images": "nowhere"}, "nowhere is not a folder"),
        ({"images": None}, "expected images=FOLDER"),
    ],
)
def test_other_bad_input_is_one_clear_line(options: dict, words: str, photos: Path, tmp_path: Path) -> None:
    with pytest.raises(SegprotoError, match=words):
        segproto.posthoc(made(), **{"images": photos, "out": tmp_path / "run", "quiet": True, **options})
    assert not (tmp_path / "run" / "model").exists()
