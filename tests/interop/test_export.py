"""Exported graphs answer as the model does; models go to and come from a stub of the hub."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import tiny_segmenters
import torch
from typer.testing import CliRunner

from segproto import api
from segproto.cli.app import app
from segproto.data.base import ClassTable
from segproto.encoders.build import build_encoder
from segproto.encoders.config import EncoderConfig
from segproto.errors import ConfigError, WeightsError
from segproto.interop.export import Graph, export
from segproto.interop.export_check import check_program
from segproto.model.cam_head import CamHead
from segproto.model.direction_head import DirectionBank, DirectionHead
from segproto.model.heads import LinearHead, NearestHead, PrototypeHead
from segproto.model.segmenter import Segmenter
from segproto.prototypes.bank import PrototypeBank
from segproto.prototypes.cosine_bank import CosineBank

TABLE = ClassTable(("a", "b", "c"), ((0, 0, 0), (9, 9, 9), (99, 9, 9)))
HEADS = ("linear", "prototype", "grouped", "nearest", "directions", "maps")  # of every method


def segmenter(kind: str) -> Segmenter:
    """A strided convolution and a head of that kind."""
    if kind in ("linear", "prototype", "grouped"):
        model = tiny_segmenters.segmenter(kind, classes=3)
    else:
        torch.manual_seed(1)
        encoder = tiny_segmenters.encoder()
        width = encoder.num_features
        heads = {
            "nearest": lambda: NearestHead(CosineBank(torch.randn(3, 2, width))),
            "directions": lambda: DirectionHead(DirectionBank(torch.randn(3, width), torch.tensor([1.0, 2.0, 0.5]))),
            "maps": lambda: CamHead(width, 3),
        }
        model = Segmenter(encoder, heads[kind](), TABLE).eval()
    model.card = {"method": kind, "miou": 0.5}
    return model


@pytest.mark.parametrize("kind", HEADS)
def test_torch_graph_of_every_head(kind: str, tmp_path: Path) -> None:
    card = export(segmenter(kind), tmp_path / "a.pt2", "torch")
    program = torch.export.load(tmp_path / "a.pt2").module()
    outputs = dict(zip(card["outputs"], program(torch.zeros(1, 3, 70, 101, dtype=torch.uint8)), strict=True))
    assert outputs["logits"].shape == (1, 3, 70, 101)
    assert outputs["mask"].shape == (1, 70, 101)
    assert ("activations" in outputs) == (kind not in ("linear", "maps"))
    assert len({tuple(size) for size in card["check"]["sizes"]}) == 2


@pytest.mark.parametrize("kind", HEADS)
def test_onnx_graph_of_every_head(kind: str, tmp_path: Path) -> None:
    pytest.importorskip("onnxruntime")
    onnx = pytest.importorskip("onnx")
    card = export(segmenter(kind), tmp_path / "a.onnx", "onnx")
    assert card["check"]["equal_mask_pixels"] >= 0.9999
    assert card["check"]["largest_difference"]["logits"] <= 1e-4
    assert card["check"]["largest_difference"]["distances"] <= 1e-4
    if kind in ("nearest", "directions"):  # cosines
        assert 0 < card["check"]["largest_difference"]["activations"] <= 1e-4
    stored = onnx.load(tmp_path / "a.onnx")
    assert {o.domain: o.version for o in stored.opset_import}[""] == card["opset"]
    assert [o.name for o in stored.graph.output] == card["outputs"]
    assert [i.name for i in stored.graph.input] == ["image"]


@pytest.mark.slow
@pytest.mark.parametrize(
    "settings",
    [
        {"name": "unet", "width": 4, "dim": 8, "rates": [1, 2], "msc": [0.5]},
        {"name": "timm", "backbone": "resnet18", "output_stride": 16, "dim": 8, "rates": [1, 2]},
        {"name": "deeplabv2_resnet101", "dim": 8, "msc": [0.5, 0.75]},
    ],
    ids=["unet", "resnet18", "deeplab"],
)
def test_onnx_graph_of_encoders(settings: dict[str, Any], tmp_path: Path) -> None:
    pytest.importorskip("onnxruntime")
    torch.manual_seed(0)
    encoder = build_encoder(EncoderConfig(**settings), load_weights=False)
    bank = PrototypeBank.regular(3, 2, len(encoder.scale_dims), encoder.scale_dims[0])
    card = export(Segmenter(encoder, PrototypeHead(bank), TABLE), tmp_path / "a.onnx", "onnx")
    assert card["size"]["fixed"] is None
    assert card["check"]["largest_difference"]["logits"] <= 1e-4


def test_a_wrong_graph_is_found(tmp_path: Path) -> None:
    model = segmenter("prototype")
    export(model, tmp_path / "a.pt2", "torch")
    with torch.no_grad():
        model.head.readout.add_(0.01 * torch.randn_like(model.head.readout))
    with pytest.raises(WeightsError, match="answers otherwise than the model"):
        check_program(model, Graph(model), tmp_path / "a.pt2", "torch", [(64, 64)])


def test_wrong_activations_are_found(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    model = segmenter("directions")
    export(model, tmp_path / "a.pt2", "torch")
    cosines = model.head.activations
    monkeypatch.setattr(model.head, "activations", lambda features: cosines(features) + 1e-3)
    with pytest.raises(WeightsError, match=r"answers otherwise than the model .*activations 0\.001"):
        check_program(model, Graph(model), tmp_path / "a.pt2", "torch", [(64, 64)])


def test_resampled_positions_need_a_size(tmp_path: Path) -> None:
    vit = {"name": "timm", "backbone": "vit_tiny_patch16_224", "neck": "identity", "squash": "none"}
    encoder = build_encoder(EncoderConfig(**vit), load_weights=False)  # type: ignore[arg-type]
    model = Segmenter(encoder, LinearHead(encoder.num_features, 3), TABLE)
    with pytest.raises(ConfigError, match="give --size H,W of your pictures, as in --size 512,512"):
        export(model, tmp_path / "a.pt2", "torch")
    with pytest.raises(ConfigError, match=r"--size 40,64: .* multiples of 16; the next that fits is --size 48,64"):
        export(model, tmp_path / "a.pt2", "torch", (40, 64))
    card = export(model, tmp_path / "a.pt2", "torch", (32, 64))
    assert card["size"]["fixed"] == (32, 64)
    assert card["input"]["image"] == ["uint8", 1, 3, 32, 64]


def test_command(tmp_path: Path) -> None:
    torch.manual_seed(0)
    encoder = build_encoder(EncoderConfig(name="unet", width=2, output_stride=4, dim=4, rates=[1]), load_weights=False)
    Segmenter(encoder, PrototypeHead(PrototypeBank.regular(3, 2, 1, 4)), TABLE).save(tmp_path / "model")
    arguments = ["export", str(tmp_path / "model"), "--format", "torch", "--out"]
    run = CliRunner().invoke(app, [*arguments, str(tmp_path / "a.pt2")])
    assert run.exit_code == 0, run.output
    assert "logits, mask, activations, distances" in run.output
    card = json.loads((tmp_path / "a.json").read_text())
    assert card["classes"]["names"] == ["a", "b", "c"]
    run = CliRunner().invoke(app, [*arguments, str(tmp_path / "a.onnx")])
    assert "is a .pt2 file" in str(run.exception)
    run = CliRunner().invoke(app, ["export", str(tmp_path / "model"), "--format", "tf", "--out", "x"])
    assert "expected onnx or torch" in str(run.exception)


@pytest.mark.parametrize(("size", "hint"), [(None, "--size H,W"), ((32, 32), "--format torch")])
def test_what_torch_cannot_write_is_said_with_what_helps(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, size: tuple[int, int] | None, hint: str
) -> None:
    def fails(*args: object, **settings: object) -> None:
        raise torch.onnx.OnnxExporterError("no such operator\nand a page of traceback")

    monkeypatch.setattr(torch.onnx, "export", fails)
    encoder = build_encoder(EncoderConfig(name="unet", width=2, output_stride=4, dim=4, rates=[1]), load_weights=False)
    model = Segmenter(encoder, PrototypeHead(PrototypeBank.regular(3, 2, 1, 4)), TABLE)
    with pytest.raises(ConfigError, match=f"{hint}.*no such operator$"):
        export(model, tmp_path / "a.onnx", "onnx", size)
    assert list(tmp_path.iterdir()) == []


class HubStub:
    """What of the hub's client is used, on a folder."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.calls: list[str] = []

    def create_repo(self, repo: str, *, private: bool, exist_ok: bool) -> None:
        self.calls.append(f"create {repo} private={private} exist_ok={exist_ok}")

    def upload_folder(self, *, repo_id: str, folder_path: str, allow_patterns: list[str]) -> None:
        shutil.copytree(folder_path, self.root / repo_id)

    def snapshot_download(
        self, *, repo_id: str, revision: str | None, local_dir: str, allow_patterns: list[str]
    ) -> None:
        shutil.copytree(self.root / repo_id, local_dir, dirs_exist_ok=True)


def test_hub(tmp_path: Path) -> None:
    encoder = build_encoder(EncoderConfig(name="unet", width=2, dim=4, rates=[1, 2]), load_weights=False)
    model = Segmenter(encoder, PrototypeHead(PrototypeBank.regular(3, 2, 2, 4)), TABLE, card={"miou": 0.5})
    model.card["converted"] = {"paper": "Doe et al.", "license": "MIT", "notes": ["a note"], "title": "T", "where": "W"}
    model.save(tmp_path / "model")
    hub = HubStub(tmp_path / "hub")
    assert api.hub_push(tmp_path / "model", repo="me/net", client=hub) == "https://huggingface.co/me/net"
    assert hub.calls == ["create me/net private=True exist_ok=True"]
    page = (tmp_path / "hub" / "me" / "net" / "README.md").read_text()
    for words in ("Doe et al.", "license: MIT", "12 prototypes", "50.00 %", "note: a note", "a, b, c", "pull me/net"):
        assert words in page
    out = api.hub_pull("me/net", out=tmp_path / "again", client=hub)
    again = Segmenter.load(out)
    for name, value in model.state_dict().items():
        torch.testing.assert_close(again.state_dict()[name], value)
    assert sorted(p.name for p in tmp_path.iterdir()) == ["again", "hub", "model"]
    with pytest.raises(ConfigError, match="already there"):
        api.hub_pull("me/net", out=out, client=hub)
    with pytest.raises(ConfigError, match="expected USER/NAME"):
        api.hub_push(tmp_path / "model", repo="net", client=hub)
    with pytest.raises(ConfigError, match=r"hub, me/other: .*No such file .*to log in"):
        api.hub_pull("me/other", out=tmp_path / "third", client=hub)
    assert sorted(p.name for p in tmp_path.iterdir()) == ["again", "hub", "model"]
    (tmp_path / "hub" / "me" / "net" / "model.json").unlink()
    with pytest.raises(WeightsError, match="no model"):
        api.hub_pull("me/net", out=tmp_path / "third", client=hub)
