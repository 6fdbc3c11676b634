"""Published networks of wseg, SEAM, EPS and PSA: their names and shapes with random weights, their forward restated."""

from __future__ import annotations

import json
import struct
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from PIL import Image
from torch import Tensor

from segproto import api
from segproto.encoders.build import build_encoder
from segproto.encoders.config import EncoderConfig
from segproto.encoders.resnet38 import ResNet38d
from segproto.errors import WeightsError
from segproto.interop.conversion import Options
from segproto.methods.pixelcontrast.convert import SOURCES
from segproto.model.cam_head import RELEASED
from segproto.model.heads import LinearHead, build_head
from segproto.model.segmenter import Segmenter
from segproto.model.tap_head import AffinityHead, TapHead
from segproto.refine.affinity import affinity, cell_pairs
from segproto.refine.random_walk import dense_affinity

State = dict[str, Tensor]
POOL = torch.randn(24_000_000, generator=torch.Generator().manual_seed(0))
PICTURE = torch.randint(0, 256, (3, 48, 64), dtype=torch.uint8, generator=torch.Generator().manual_seed(1))
MEAN, STD = (torch.tensor(v).view(3, 1, 1) for v in ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225)))
IMAGE = ((PICTURE.float() / 255 - MEAN) / STD)[None]
CONVERT = {source.name: source.convert for source in SOURCES}


class Maker:
    """Tensors of a published state; all are windows of one storage, which keeps the files small."""

    def __init__(self) -> None:
        self.state: State = {}
        self.start = 0

    def random(self, *shape: int) -> Tensor:
        count = torch.Size(shape).numel()
        self.start = (self.start + 7919 * 64) % (len(POOL) - count)
        return POOL[self.start : self.start + count].view(shape)

    def conv(self, name: str, out: int, channels: int, kernel: int = 1) -> None:
        """The numbers are of size 1: the norm behind, or the restated forward, takes account of it."""
        self.state[f"{name}.weight"] = self.random(out, channels, kernel, kernel)

    def norm(self, name: str, channels: int, fan: float) -> None:
        """With statistics of sums over ``fan`` products."""
        self.state[f"{name}.weight"] = 0.5 + self.random(channels).abs() / 4
        self.state[f"{name}.bias"] = self.random(channels) / 8
        self.state[f"{name}.running_mean"] = self.random(channels)
        self.state[f"{name}.running_var"] = fan * (1 + self.random(channels).abs())
        self.state[f"{name}.num_batches_tracked"] = torch.tensor(7)

    def scaled(self, name: str, out: int, channels: int, kernel: int = 1) -> None:
        """A convolution whose sums are of size 1."""
        size = (channels * kernel * kernel) ** -0.5
        self.state[f"{name}.weight"] = self.random(out, channels, kernel, kernel) * size


PLAIN = [("b2", 64, 128, 128), ("b2_1", 128, 128, 128), ("b2_2", 128, 128, 128)]
PLAIN += [("b3", 128, 256, 256), ("b3_1", 256, 256, 256), ("b3_2", 256, 256, 256), ("b4", 256, 512, 512)]
PLAIN += [(f"b4_{i}", 512, 512, 512) for i in range(1, 6)]
PLAIN += [("b5", 512, 512, 1024), ("b5_1", 1024, 512, 1024), ("b5_2", 1024, 512, 1024)]
STRIDES = {"b2": 2, "b3": 2, "b4": 2}
DILATIONS = {"b5": (1, 2), "b5_1": (2, 2), "b5_2": (2, 2)}


def resnet38(prefix: str = "") -> Maker:
    """Names and shapes by the table of the network."""
    m, p, size = Maker(), prefix, 9.0 * 3
    m.conv(f"{p}conv1a", 64, 3, 3)
    for name, i, mid, out in PLAIN:
        m.norm(f"{p}{name}.bn_branch2a", i, size)
        m.conv(f"{p}{name}.conv_branch2a", mid, i, 3)
        m.norm(f"{p}{name}.bn_branch2b1", mid, 9.0 * i)
        m.conv(f"{p}{name}.conv_branch2b1", out, mid, 3)
        if i != out or name in STRIDES:
            m.conv(f"{p}{name}.conv_branch1", out, i)
        size += 9.0 * mid
    for name, i, out in (("b6", 1024, 2048), ("b7", 2048, 4096)):
        m.norm(f"{p}{name}.bn_branch2a", i, size)
        m.conv(f"{p}{name}.conv_branch2a", out // 4, i)
        m.norm(f"{p}{name}.bn_branch2b1", out // 4, i)
        m.conv(f"{p}{name}.conv_branch2b1", out // 2, out // 4, 3)
        m.norm(f"{p}{name}.bn_branch2b2", out // 2, 9.0 * out / 4)
        m.conv(f"{p}{name}.conv_branch2b2", out, out // 2)
        m.conv(f"{p}{name}.conv_branch1", out, i)
        size = float(out + i)
    m.norm(f"{p}bn7", 4096, size)
    return m


def norm_relu(x: Tensor, s: State, name: str) -> Tensor:
    mean, var = s[f"{name}.running_mean"].view(-1, 1, 1), s[f"{name}.running_var"].view(-1, 1, 1)
    scale, shift = s[f"{name}.weight"].view(-1, 1, 1), s[f"{name}.bias"].view(-1, 1, 1)
    return ((x - mean) / (var + 1e-5).sqrt() * scale + shift).clamp(min=0)


def conv(x: Tensor, s: State, name: str, dilation: int = 0, **options: Any) -> Tensor:
    """3x3 with that dilation and padding; 0: 1x1."""
    more = {"padding": dilation, "dilation": dilation} if dilation else {}
    return F.conv2d(x, s[f"{name}.weight"], **more, **options)


def resnet38_forward(x: Tensor, s: State, p: str = "") -> dict[str, Tensor]:
    """conv4, conv5, conv6."""
    taps, x = {}, conv(x, s, f"{p}conv1a", 1)
    for name, *_ in PLAIN:
        d1, d2 = DILATIONS.get(name, (1, 1))
        stride, y = STRIDES.get(name, 1), norm_relu(x, s, f"{p}{name}.bn_branch2a")
        taps[name] = y
        has = f"{p}{name}.conv_branch1.weight" in s
        side = conv(y, s, f"{p}{name}.conv_branch1", stride=stride) if has else x
        y = conv(y, s, f"{p}{name}.conv_branch2a", d1, stride=stride)
        x = side + conv(norm_relu(y, s, f"{p}{name}.bn_branch2b1"), s, f"{p}{name}.conv_branch2b1", d2)
    for name in ("b6", "b7"):
        y = norm_relu(x, s, f"{p}{name}.bn_branch2a")
        taps[name] = y
        side, y = conv(y, s, f"{p}{name}.conv_branch1"), conv(y, s, f"{p}{name}.conv_branch2a")
        y = conv(norm_relu(y, s, f"{p}{name}.bn_branch2b1"), s, f"{p}{name}.conv_branch2b1", 4)
        x = side + conv(norm_relu(y, s, f"{p}{name}.bn_branch2b2"), s, f"{p}{name}.conv_branch2b2")
    return {"conv4": taps["b5"], "conv5": taps["b6"], "conv6": norm_relu(x, s, f"{p}bn7")}


@pytest.fixture(scope="module")
def wide() -> tuple[State, dict[str, Tensor]]:
    """ResNet-38's random state, and its maps of the picture."""
    state = resnet38().state
    return state, resnet38_forward(IMAGE, state)


def heads(**shapes: tuple[int, int]) -> State:
    m = Maker()
    m.start = 3_000_000
    for name, (out, channels) in shapes.items():
        m.scaled(name, out, channels)
    return m.state


INNER = {"f8_3": (64, 512), "f8_4": (128, 1024), "f9": (192, 195)}


def refined(cam: Tensor, maps: dict[str, Tensor], s: State, background: int) -> Tensor:
    """The published normalisation and pixel correlation, with the whole matrix."""
    a = cam.clamp(min=0)
    q = (a - 1e-5).clamp(min=0) / (a.amax((2, 3), keepdim=True) + 1e-5)
    fore = [c for c in range(cam.shape[1]) if c != background % cam.shape[1]]
    best = q[:, fore].amax(1)
    q[:, fore] = torch.where(q[:, fore] == best[:, None], q[:, fore], 0)
    q[:, background] = 1 - best
    small = F.interpolate(IMAGE, cam.shape[-2:], mode="bilinear", align_corners=True)
    f = torch.cat([small, conv(maps["conv4"], s, "f8_3").relu(), conv(maps["conv5"], s, "f8_4").relu()], 1)
    g = conv(f, s, "f9").flatten(2)
    g = g / (g.norm(dim=1, keepdim=True) + 1e-5)
    matrix = (g.transpose(1, 2) @ g).relu()
    matrix = matrix / (matrix.sum(1, keepdim=True) + 1e-5)
    return (q.flatten(2) @ matrix).view_as(cam)


def write(tmp_path: Path, state: State, wrap: Callable[[State], Any] = dict) -> Path:
    torch.save(wrap(state), tmp_path / "net.pth")
    return tmp_path / "net.pth"


def close(actual: Tensor, wanted: Tensor) -> None:
    """Within 1e-5 of the published values' size."""
    assert wanted.abs().max() > 1e-3
    assert float((actual - wanted).abs().max() / wanted.abs().max()) < 1e-5


def model_of(source: str, file: Path) -> Segmenter:
    made = CONVERT[source](file, Options())
    assert isinstance(made, Segmenter)
    assert made.card["converted"]["source"] == source
    assert made.card["converted"]["left_out"] == {}
    assert made.classes.names[:2] == ("background", "aeroplane")
    return made


@pytest.mark.parametrize(
    ("source", "rows", "extra", "last"),
    [
        ("wseg", 21, {"proj_fc": (128, 4096), **INNER}, True),
        ("psa", 20, {}, False),
        pytest.param("wseg", 21, {"fc_proj": (128, 4096), **INNER}, False, marks=pytest.mark.slow),
        pytest.param("seam", 21, INNER, False, marks=pytest.mark.slow),
        pytest.param("eps", 21, {}, True, marks=pytest.mark.slow),
    ],
)
def test_cam_networks(
    tmp_path: Path, wide: tuple[State, Any], source: str, rows: int, extra: dict[str, Any], last: bool
) -> None:
    head = heads(fc8=(rows, 4096), **extra)
    state, maps = wide[0] | head, wide[1]
    file = write(tmp_path, state, lambda s: {f"module.{k}": v for k, v in s.items()} if rows == 20 else dict(s))
    model = model_of(source, file)
    assert isinstance(model.head, TapHead)
    own = len(model.encoder.backbone.state_dict()) + len(model.head.state_dict())
    assert own == 228 + len(head) == len(state) == model.card["converted"]["tensors_used"]
    with torch.no_grad():
        features = model.features(model.encoder.normalisation(PICTURE)[None])
        outputs = model.head.maps(features)
        cam = conv(maps["conv6"], head, "fc8")
        order = [20, *range(20)] if last else list(range(rows))
        close(outputs.cam[:, -rows:], cam[:, order])
        if extra:
            assert model.card["method"] == "pixelcontrast"
            close(outputs.refined, refined(cam, maps, head, -1 if last else 0)[:, order])
        for name in ("fc_proj", "proj_fc"):
            if name in extra:
                close(outputs.projection, conv(maps["conv6"], head, name).relu())
        logits = model.grid_logits(model.encoder.normalisation(PICTURE)[None])
    if last:
        close(logits, cam[:, order])
    else:
        assert (logits[:, 0] == 0.26).all()
    assert model.predict(PICTURE).shape == (48, 64)
    assert model.head.views == RELEASED["eps" if last or source == "psa" else "seam"]
    assert model.encoder.config.aligned is not (last or source == "psa")
    assert model.encoder.config.pad is False


def test_affinity_network(tmp_path: Path, wide: tuple[State, Any]) -> None:
    head = heads(f8_3=(64, 512), f8_4=(128, 1024), f8_5=(256, 4096), f9=(448, 448))
    model = model_of("psa", write(tmp_path, wide[0] | head))
    assert isinstance(model.head, AffinityHead)
    assert sum(p.numel() for p in model.parameters()) == 106_484_032
    maps = wide[1]
    parts = [F.elu(conv(maps[m], head, n)) for m, n in (("conv4", "f8_3"), ("conv5", "f8_4"), ("conv6", "f8_5"))]
    u = F.elu(conv(torch.cat(parts, 1), head, "f9"))
    image = model.encoder.normalisation(PICTURE)[None]
    with torch.no_grad():
        outputs = model.head.affinity_features(model.features(image))
        assert not model(image).argmax(1).any()
    close(outputs, u)
    pairs = cell_pairs(6, 8, 5, complete=False)
    first, second = pairs.indices()
    cells = u.flatten(2)
    wanted = torch.exp(-(cells[:, :, second] - cells[:, :, first]).abs().mean(1))
    values = affinity(outputs, pairs)
    close(values, wanted)
    dense = dense_affinity(values[0], pairs)
    assert torch.equal(dense, dense.T)


@pytest.mark.parametrize("kind", ["maps", "affinity"])
def test_heads_keep_their_structure(kind: str) -> None:
    taps = (3, 5, 6, 7)
    head = TapHead(4, 8, taps=taps, shows="logits", dropout=0.0) if kind == "maps" else AffinityHead(4, taps, (2, 3, 4))
    again = build_head(json.loads(json.dumps(head.describe())))
    again.load_state_dict(head.state_dict())
    x = torch.rand(2, 21, 6, 5, requires_grad=True)
    assert torch.equal(head.eval()(x), again.eval()(x))
    cells, classes = torch.rand(5, 21), torch.tensor([0, 1, 2, 3, 0])
    shares = head.contributions(cells, classes)
    logits = head(cells[:, :, None, None])[torch.arange(5), classes, 0, 0]
    torch.testing.assert_close(shares.prototypes.sum(1) + shares.offset, logits)
    trains = {True: head.trained_for(True), False: head.trained_for(False)}
    assert len(trains[True]) + len(trains[False]) == len(list(head.parameters()))
    if isinstance(head, TapHead):
        head.maps(x).refined.sum().backward()
        assert x.grad is not None
        assert not x.grad[:, 3:].any()  # the correlation trains its own layers alone
    else:
        head.affinity_features(x).sum().backward()
        assert x.grad is not None
        assert x.grad[:, 3:].any()


def resnet101(deep: bool) -> Maker:
    m, p = Maker(), "backbone."
    if deep:
        for place, out, i in ((0, 64, 3), (3, 64, 64), (6, 128, 64)):
            m.conv(f"{p}conv1.{place}", out, i, 3)
            if place < 6:
                m.norm(f"{p}conv1.{place + 1}", out, 9.0 * i)
        m.norm(f"{p}bn1", 128, 9.0 * 64)
    else:
        m.conv(f"{p}conv1", 64, 3, 7)
        m.norm(f"{p}bn1", 64, 49.0 * 3)
    i = 128 if deep else 64
    for layer, blocks in enumerate((3, 4, 23, 3), 1):
        mid = 32 << layer
        for b in range(blocks):
            q = f"{p}layer{layer}.{b}"
            for n, (out, inside, k) in enumerate(((mid, i, 1), (mid, mid, 3), (4 * mid, mid, 1)), 1):
                m.conv(f"{q}.conv{n}", out, inside, k)
                m.norm(f"{q}.bn{n}", out, float(inside * k * k))
            if b == 0:
                m.conv(f"{q}.downsample.0", 4 * mid, i)
                m.norm(f"{q}.downsample.1", 4 * mid, float(i))
            i = 4 * mid
    return m


def norm(x: Tensor, s: State, name: str) -> Tensor:
    """Batch norm in eval mode."""
    return F.batch_norm(x, *(s[f"{name}.{k}"] for k in ("running_mean", "running_var", "weight", "bias")), eps=1e-5)


def resnet101_forward(x: Tensor, s: State, deep: bool) -> Tensor:
    p = "backbone."
    if deep:
        x = norm(conv(x, s, f"{p}conv1.0", 1, stride=2), s, f"{p}conv1.1").relu()
        x = norm(conv(x, s, f"{p}conv1.3", 1), s, f"{p}conv1.4").relu()
        x = conv(x, s, f"{p}conv1.6", 1)
    else:
        x = F.conv2d(x, s[f"{p}conv1.weight"], stride=2, padding=3)
    x = F.max_pool2d(norm(x, s, f"{p}bn1").relu(), 3, 2, 1)
    for layer, (blocks, stride, first, rest) in enumerate(((3, 1, 1, 1), (4, 2, 1, 1), (23, 1, 1, 2), (3, 1, 2, 4)), 1):
        for b in range(blocks):
            q, step = f"{p}layer{layer}.{b}", stride if b == 0 else 1
            y = norm(conv(x, s, f"{q}.conv1"), s, f"{q}.bn1").relu()
            y = norm(conv(y, s, f"{q}.conv2", first if b == 0 else rest, stride=step), s, f"{q}.bn2").relu()
            y = norm(conv(y, s, f"{q}.conv3"), s, f"{q}.bn3")
            if b == 0:
                x = norm(conv(x, s, f"{q}.downsample.0", stride=step), s, f"{q}.downsample.1")
            x = (x + y).relu()
    return x


def largefov(m: Maker, channels: int) -> None:
    m.conv("conv_fov", 512, channels, 3)
    m.norm("bn_fov", 512, 9.0 * channels)
    m.conv("conv_fov2", 512, 512)
    m.norm("bn_fov2", 512, 512.0)


def pooled(m: Maker, channels: int) -> None:
    for branch in range(1, 5):
        m.conv(f"aspp.branch{branch}.0", 256, channels, 3)
        m.norm(f"aspp.branch{branch}.1", 256, 9.0 * channels)
    m.conv("aspp.branch5_conv", 256, channels)
    m.norm("aspp.branch5_bn", 256, float(channels))
    m.conv("aspp.conv_cat.0", 256, 1280)
    m.norm("aspp.conv_cat.1", 256, 1280.0)


def neck_forward(x: Tensor, s: State) -> Tensor:
    if "conv_fov.weight" in s:
        x = norm(conv(x, s, "conv_fov", 12), s, "bn_fov").relu()
        return norm(conv(x, s, "conv_fov2"), s, "bn_fov2").relu()
    parts = []
    for branch, rate in enumerate((6, 12, 18, 24), 1):
        parts.append(norm(conv(x, s, f"aspp.branch{branch}.0", rate), s, f"aspp.branch{branch}.1").relu())
    mean = x.mean((2, 3), keepdim=True)
    mean = norm(conv(mean, s, "aspp.branch5_conv"), s, "aspp.branch5_bn").relu()
    parts.append(F.interpolate(mean, x.shape[-2:], mode="bilinear", align_corners=True))
    return norm(conv(torch.cat(parts, 1), s, "aspp.conv_cat.0"), s, "aspp.conv_cat.1").relu()


@pytest.mark.parametrize(
    ("backbone", "neck_name", "entries", "parameters"),
    [
        ("resnet38", "largefov", 242, 124_220_245),
        ("deep", "pooled", None, None),
        pytest.param("deep", "largefov", 650, 52_336_085, marks=pytest.mark.slow),
        pytest.param("plain", "pooled", None, None, marks=pytest.mark.slow),
        pytest.param("plain", "largefov", None, None, marks=pytest.mark.slow),
    ],
)
def test_deeplab(
    tmp_path: Path, wide: tuple[State, Any], backbone: str, neck_name: str, entries: int | None, parameters: int | None
) -> None:
    maker, maps = Maker(), wide[1]["conv6"]
    if backbone == "resnet38":
        maker.state = {f"backbone.{k}": v for k, v in wide[0].items()}
    else:
        maker = resnet101(deep=backbone == "deep")
        maps = resnet101_forward(IMAGE, maker.state, backbone == "deep")
    {"largefov": largefov, "pooled": pooled}[neck_name](maker, maps.shape[1])
    width = 512 if neck_name == "largefov" else 256
    maker.scaled("cls_conv", 21, width)
    maker.state["cls_conv.bias"] = maker.random(21)
    neck = neck_forward(maps, maker.state)
    wanted = F.conv2d(neck, maker.state["cls_conv.weight"], maker.state["cls_conv.bias"])
    # So large a network in windows of one small storage is refused as a bomb: here it is written in full.
    state = {name: value.clone() for name, value in maker.state.items()} if backbone == "resnet38" else maker.state
    model = model_of("wseg", write(tmp_path, state))
    assert isinstance(model.head, LinearHead)
    assert model.card["method"] == "blackbox"
    state = model.state_dict()
    assert len(state) == len(maker.state) == (entries or len(state))
    assert parameters in (None, sum(p.numel() for p in model.parameters()))
    with torch.no_grad():
        close(model.grid_logits(model.encoder.normalisation(PICTURE)[None]), wanted)
    released = F.interpolate(wanted, (48, 64), mode="bilinear", align_corners=True)[0].argmax(0)
    assert (model.predict(PICTURE) == released).float().mean() > 0.999
    assert model.encoder.padded_size(49, 63) == (49, 63)


@pytest.mark.slow
def test_a_converted_model_is_a_model_like_any_other(tmp_path: Path, wide: tuple[State, Any]) -> None:
    """It is saved, loaded, predicts, explains and evaluates."""
    head = heads(fc8=(21, 4096))
    converted = api.convert("eps", write(tmp_path, wide[0] | head), out=tmp_path / "m")
    (tmp_path / "net.pth").unlink()
    assert converted["kind"] == "model"
    assert "segproto convert" not in json.dumps(converted["notes"])
    model = Segmenter.load(tmp_path / "m")
    image = model.encoder.normalisation(PICTURE)[None]
    with torch.no_grad():
        close(model.grid_logits(image), conv(wide[1]["conv6"], head, "fc8")[:, [20, *range(20)]])
        logits = model(image)[0]
    mask = model.predict(PICTURE)
    assert torch.equal(mask.long(), logits.argmax(0))
    ys, xs = torch.tensor([3, 20]), torch.tensor([9, 60])
    shares = model.explain(PICTURE).evidence(ys, xs, torch.tensor([0, 7]))
    torch.testing.assert_close(shares.prototypes.sum(1) + shares.offset, logits[[0, 7], ys, xs], rtol=1e-4, atol=1e-4)
    (tmp_path / "data/images").mkdir(parents=True)
    (tmp_path / "data/labels").mkdir()
    Image.fromarray(PICTURE.permute(1, 2, 0).numpy()).save(tmp_path / "data/images/a.png")
    Image.fromarray(mask.numpy().astype("uint8")).save(tmp_path / "data/labels/a.png")
    data = {"name": "folder", "root": str(tmp_path / "data"), "classes": "voc", "split": {"val_pattern": "a"}}
    assert api.evaluate(tmp_path / "m", data=data)["miou"] == 1


def mxnet_name(key: str) -> str | None:
    """The name in MXNet's file, by the published rule read backwards; None: not in it."""
    block, *rest = key.split(".")
    if rest[-1] == "num_batches_tracked":
        return None
    leaf = {"bias": "beta", "running_mean": "moving_mean", "running_var": "moving_var"}.get(rest[-1], rest[-1])
    if len(rest) == 1:
        return f"arg:{block}_{'gamma' if block == 'bn7' and leaf == 'weight' else leaf}"
    kind, branch = rest[0].split("_", 1)
    place = block[1:].replace("_", "b") if "_" in block else block[1:] + "a"
    leaf = "gamma" if kind == "bn" and leaf == "weight" else leaf
    prefix = "aux" if leaf.startswith("moving") else "arg"
    return f"{prefix}:{'res' if kind == 'conv' else 'bn'}{place}_{branch}_{leaf}"


def write_mxnet(state: State, path: Path) -> None:
    """The format of MXNet 0.9: magic, reserved, arrays without a version word, names."""
    named = {mxnet_name(k): v for k, v in state.items() if mxnet_name(k)}
    named |= {"arg:linear1000_weight": torch.ones(1000, 4), "arg:linear1000_bias": torch.ones(1000)}
    with path.open("wb") as file:
        file.write(struct.pack("<QQQ", 0x112, 0, len(named)))
        for value in named.values():
            file.write(struct.pack(f"<I{value.ndim}I", value.ndim, *value.shape) + struct.pack("<iii", 1, 0, 0))
            file.write(value.contiguous().numpy().tobytes())
        file.write(struct.pack("<Q", len(named)))
        for name in named:
            assert name is not None
            file.write(struct.pack("<Q", len(name)) + name.encode())


@pytest.mark.slow
def test_resnet38_of_mxnet_is_an_encoder_weights_file(tmp_path: Path, wide: tuple[State, Any]) -> None:
    write_mxnet(wide[0], tmp_path / "a.params")
    converted = api.convert("resnet38", tmp_path / "a.params", out=tmp_path / "w.safetensors")
    assert converted["kind"] == "weights"
    assert converted["settings"]["encoder.name"] == "resnet38d"
    assert [len(v) for v in converted["left_out"].values()] == [2]
    assert json.dumps(converted)
    settings = {key.removeprefix("encoder."): value for key, value in converted["settings"].items()}
    (tmp_path / "a.params").unlink()
    encoder = build_encoder(EncoderConfig(**settings, neck="identity", squash="none")).eval()  # type: ignore[arg-type]
    assert isinstance(encoder.backbone, ResNet38d)
    with torch.no_grad():
        close(encoder(IMAGE), wide[1]["conv6"])


def test_mistakes(tmp_path: Path, wide: tuple[State, Any]) -> None:
    with pytest.raises(WeightsError, match=r"AffinityNet, which eps did not publish; use: segproto convert wseg net"):
        CONVERT["eps"](write(tmp_path, wide[0] | heads(f8_5=(256, 4096))), Options())
    with pytest.raises(WeightsError, match=r"none of the networks of wseg, SEAM, EPS or PSA"):
        CONVERT["psa"](write(tmp_path, {"features.0.weight": torch.zeros(2)}), Options())
    short = {k: v for k, v in wide[0].items() if k != "b4_3.conv_branch2a.weight"} | heads(fc8=(21, 4096))
    with pytest.raises(WeightsError, match=r"b4_3\.conv_branch2a\.weight is missing"):
        CONVERT["eps"](write(tmp_path, short), Options())
    with pytest.raises(WeightsError, match=r"fc8\.weight has shape \(21, 4000, 1, 1\)"):
        CONVERT["eps"](write(tmp_path, wide[0] | {"fc8.weight": torch.zeros(21, 4000, 1, 1)}), Options())
    more = wide[0] | heads(fc8=(21, 4096)) | {"extra.weight": torch.zeros(1)}
    with pytest.raises(WeightsError, match=r"1 tensors are not known here: extra\.weight"):
        CONVERT["eps"](write(tmp_path, more), Options())


def test_every_source_is_listed() -> None:
    known = api.conversion_sources()
    for name in ("wseg", "seam", "eps", "psa", "resnet38"):
        assert "github.com" in known[name].where
        assert known[name].size
        assert known[name].license
