"""HRNet and MiT backbones and the published decoders, against other people's code with the same tensors."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest
import timm
import torch
import torch.nn.functional as F
from safetensors.torch import save_file
from torch import Tensor, nn

from segproto.data.base import ClassTable
from segproto.data.batch import Batch
from segproto.encoders.build import build_encoder
from segproto.encoders.config import EncoderConfig
from segproto.encoders.decoders import FCN, SegFormer, UPer
from segproto.encoders.hrnet import CLASSIFIER
from segproto.encoders.norms import share_statistics
from segproto.errors import ConfigError, WeightsError
from segproto.model.auxiliary import AuxiliaryHead
from segproto.model.heads import LinearHead
from segproto.model.segmenter import Segmenter
from segproto.training.cached import require_cacheable
from segproto.training.procedures.config import DiversityConfig, OptimiseConfig
from segproto.training.procedures.optimise import StageLoss, parameter_groups, set_mode

CHANNELS = (4, 6, 8, 10)
SMALL_CNN = {"backbone": "test_resnet", "layers": [1, 2, 3], "squash": "none", "dim": 8}


def scramble(module: nn.Module) -> nn.Module:
    """Random tensors everywhere, norms' statistics included."""
    torch.manual_seed(1)
    for name, value in module.state_dict().items():
        if value.is_floating_point():
            value.uniform_(0.5, 1.5) if "running_var" in name else value.normal_(0, 0.3)
    return module.eval()


def pyramid(size: int = 16) -> list[Tensor]:
    torch.manual_seed(0)
    return [torch.randn(2, c, size >> i, size >> i) for i, c in enumerate(CHANNELS)]


def copy_in_order(ours: nn.Module, theirs: nn.Module) -> None:
    """Their tensors into ours, in the order in which both name them; our convolutions' biases become 0."""
    own = [n for n in ours.state_dict() if not n.endswith("num_batches_tracked")]
    values = {k: v for k, v in theirs.state_dict().items() if not k.endswith("num_batches_tracked")}
    own = [n for n in own if not (n.endswith("0.bias") and n not in values)]
    state = {n: torch.zeros_like(v) for n, v in ours.state_dict().items() if n.endswith("bias")}
    for (name, value), mine in zip(values.items(), own, strict=True):
        assert value.shape == ours.state_dict()[mine].shape, (name, mine)
        state[mine] = value
    ours.load_state_dict(state, strict=False)


@torch.no_grad()
def test_upernet_is_that_of_transformers() -> None:
    upernet = pytest.importorskip("transformers.models.upernet.modeling_upernet")
    config = pytest.importorskip("transformers").UperNetConfig(hidden_size=5, pool_scales=[1, 2, 3, 6], num_labels=5)
    theirs = scramble(upernet.UperNetHead(config, list(CHANNELS)))
    theirs.classifier = nn.Identity()
    ours = UPer(CHANNELS, 5).eval()
    ours.norms = nn.ModuleList(nn.Identity() for _ in CHANNELS)
    ours.pooled, ours.top, ours.lateral = ours.pooled, ours.top, ours.lateral  # the order of registration is theirs
    copy_in_order(ours, theirs)
    torch.testing.assert_close(ours(pyramid()), theirs(pyramid()), rtol=1e-5, atol=1e-5)


@torch.no_grad()
def test_upernet_norms_are_over_channels() -> None:
    torch.manual_seed(0)
    decoder = UPer(CHANNELS, 5).eval()
    maps = pyramid()
    expected = [F.layer_norm(m.permute(0, 2, 3, 1), m.shape[1:2]).permute(0, 3, 1, 2) for m in maps]
    plain = UPer(CHANNELS, 5).eval()
    plain.load_state_dict(decoder.state_dict())
    plain.norms = nn.ModuleList(nn.Identity() for _ in CHANNELS)
    torch.testing.assert_close(decoder(maps), plain(expected))


@torch.no_grad()
@pytest.mark.parametrize("convs", [1, 2])
def test_fcn_is_that_of_transformers(convs: int) -> None:
    upernet = pytest.importorskip("transformers.models.upernet.modeling_upernet")
    config = pytest.importorskip("transformers").UperNetConfig(
        auxiliary_channels=5, auxiliary_num_convs=convs, auxiliary_concat_input=convs > 1, auxiliary_in_channels=8
    )
    theirs = scramble(upernet.UperNetFCNHead(config, list(CHANNELS), in_index=2))
    theirs.classifier = nn.Identity()
    ours = FCN(CHANNELS[:3], 5, convs).eval()
    copy_in_order(ours, theirs)
    torch.testing.assert_close(ours(pyramid()[:3]), theirs(pyramid()), rtol=1e-5, atol=1e-5)


@torch.no_grad()
def test_segformer_head_is_that_of_transformers() -> None:
    transformers = pytest.importorskip("transformers")
    module = pytest.importorskip("transformers.models.segformer.modeling_segformer")
    config = transformers.SegformerConfig(hidden_sizes=list(CHANNELS), decoder_hidden_size=5)
    theirs = scramble(module.SegformerDecodeHead(config))
    theirs.classifier = nn.Identity()
    ours = SegFormer(CHANNELS, 5).eval()
    state = {}
    for name, value in theirs.state_dict().items():
        if "proj" in name:
            stage, leaf = next(part for part in name.split(".") if part.isdigit()), name.split(".")[-1]
            state[f"linear.{stage}.{leaf}"] = value[:, :, None, None] if leaf == "weight" else value
        else:
            place = "fuse.0." if "fuse" in name else "fuse.1."
            state[place + name.split(".")[-1]] = value
    ours.load_state_dict(state)
    torch.testing.assert_close(ours(pyramid()), theirs(pyramid()), rtol=1e-5, atol=1e-5)


def hrnet(**settings: object) -> EncoderConfig:
    return EncoderConfig(name="hrnet", backbone="hrnet_w18_small", squash="none", **settings)


@torch.no_grad()
def test_hrnet_fuses_with_aligned_corners() -> None:
    torch.manual_seed(0)
    encoder = build_encoder(hrnet(neck="identity")).eval()
    torch.manual_seed(0)
    theirs = timm.create_model("hrnet_w18_small", features_only=True, feature_location="", out_indices=(1, 2, 3, 4))
    theirs.eval().load_state_dict(encoder.backbone.net.state_dict())  # the names are timm's
    x = torch.randn(1, 3, 64, 96)
    nearest = theirs(x)
    for module in theirs.modules():  # a second way to the same fusion: timm's own layers told otherwise
        if isinstance(module, nn.Upsample):
            module.mode, module.align_corners = "bilinear", True
    maps = theirs(x)
    sizes = [(16, 24)] * 4
    joined = torch.cat(
        [F.interpolate(m, s, mode="bilinear", align_corners=True) for m, s in zip(maps, sizes, strict=True)], 1
    )
    torch.testing.assert_close(encoder(x), joined)
    assert not torch.allclose(nearest[0], maps[0], atol=1e-3)
    assert encoder.num_features == sum(m.shape[1] for m in maps)
    assert build_encoder(hrnet(neck="fcn", dim=6, projection=True)).eval()(x).shape == (1, 6, 16, 24)


def test_hrnet_w48_is_the_published_one() -> None:
    with torch.device("meta"):
        net = build_encoder(EncoderConfig(name="hrnet", backbone="hrnet_w48", neck="fcn", dim=720, projection=True))
    assert len(net.backbone.state_dict()) == 1830
    assert sum(p.numel() for p in net.backbone.parameters()) == 65_325_120
    # with feature_norm and mask_norm 71,032,598 (docs/specs/nonparametric.md#embedding)
    assert sum(p.numel() for p in net.parameters()) + 2 * 720 + 2 * 19 == 71_032_598


def test_hrnet_reads_a_classifier_file(tmp_path: Path) -> None:
    torch.manual_seed(0)
    whole = timm.create_model("hrnet_w18_small")
    save_file(whole.state_dict(), tmp_path / "hrnet.safetensors")
    encoder = build_encoder(hrnet(neck="identity", weights=tmp_path / "hrnet.safetensors"))
    kept = {k: v for k, v in whole.state_dict().items() if not k.startswith(CLASSIFIER)}
    state = encoder.backbone.net.state_dict()
    assert state.keys() == kept.keys()
    assert all(torch.equal(state[key], value) for key, value in kept.items())
    with pytest.raises(ConfigError, match=r"encoder\.backbone=hrnet_x: expected one of"):
        build_encoder(EncoderConfig(name="hrnet", backbone="hrnet_x"))


@torch.no_grad()
def test_mit_is_that_of_transformers(tmp_path: Path) -> None:
    transformers = pytest.importorskip("transformers")
    torch.manual_seed(0)
    classifier = transformers.SegformerForImageClassification(transformers.SegformerConfig()).eval()
    classifier.save_pretrained(tmp_path / "mit_b0")
    encoder = build_encoder(
        EncoderConfig(
            name="mit", backbone="mit_b0", weights=tmp_path / "mit_b0", neck="segformer", squash="none", dim=8
        )
    ).eval()
    x = torch.randn(1, 3, 64, 96)
    expected = classifier.segformer(x, output_hidden_states=True).hidden_states
    for ours, theirs in zip(encoder.backbone.maps(x), expected, strict=True):
        torch.testing.assert_close(ours, theirs)
    assert encoder(x).shape == (1, 8, 16, 24)
    with pytest.raises(WeightsError, match=r"tensors of mit_b1 are not in it|cannot be read"):
        build_encoder(EncoderConfig(name="mit", backbone="mit_b1", weights=tmp_path / "mit_b0"))
    with pytest.raises(WeightsError, match="expected a folder"):
        build_encoder(EncoderConfig(name="mit", backbone="mit_b0", weights=tmp_path / "mit_b0/model.safetensors"))


def test_without_transformers_the_error_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "transformers", None)
    with pytest.raises(ConfigError, match=r'pip install "segproto\[transformers\]"'):
        build_encoder(EncoderConfig(name="mit", backbone="mit_b0"))


def test_swin_feeds_a_upernet() -> None:
    config = EncoderConfig(backbone="test_vit", neck="uper")
    with pytest.raises(ConfigError, match=r"encoder\.neck=uper reads several maps, here is 1"):
        build_encoder(config)
    with torch.device("meta"):
        config = EncoderConfig(
            backbone="swin_tiny_patch4_window7_224", layers=[0, 1, 2, 3], neck="uper", dim=64, auxiliary=2
        )
        encoder = build_encoder(config)
    assert encoder.backbone.map_channels == (96, 192, 384, 768)


def twin(**settings: object) -> Segmenter:
    torch.manual_seed(0)
    encoder = build_encoder(EncoderConfig(**(SMALL_CNN | {"neck": "uper"} | settings)))
    return Segmenter(encoder, LinearHead(8, 3), ClassTable(("a", "b", "c"), ((0, 0, 0),) * 3))


def training_batch() -> Batch:
    torch.manual_seed(0)
    return Batch(masks=torch.randint(0, 3, (2, 64, 64)), images=torch.randn(2, 3, 64, 64))


def test_an_auxiliary_classifier_trains_beside_and_is_saved(tmp_path: Path) -> None:
    model = twin(auxiliary=0)
    assert isinstance(model.auxiliary, AuxiliaryHead)
    config = OptimiseConfig(norms="train", lr={"backbone": 1e-3, "neck": 1e-3, "readout": 1e-3})
    set_mode(model, config)
    torch.manual_seed(0)
    terms = StageLoss(config, DiversityConfig())(model, training_batch())
    assert torch.allclose(terms["loss"], terms["cross_entropy"] + 0.4 * terms["auxiliary"])
    terms["loss"].backward()
    trained = {id(p) for group in parameter_groups(model, config) for p in group.params}
    assert all(id(p) in trained and p.grad is not None for p in model.auxiliary.parameters())
    model.save(tmp_path / "model")
    again = Segmenter.load(tmp_path / "model")
    assert torch.equal(again.auxiliary.classifier.weight, model.auxiliary.classifier.weight)
    with pytest.raises(ConfigError, match=r"encoder\.auxiliary=2: of 3 maps it may read 0\.\.1"):
        twin(auxiliary=2)
    with pytest.raises(ConfigError, match=r"encoder\.projection=True: only fcn, uper, segformer read it"):
        twin(neck="aspp", projection=True)
    assert twin().auxiliary is None


def test_decay_may_spare_vectors() -> None:
    model = twin(auxiliary=0)
    settings = {"norms": "train", "trainable": "all", "lr": {"backbone": 1, "neck": 2}, "weight_decay": 0.01}
    for decay, spared in (("all", False), ("weights", True)):
        groups = parameter_groups(model, OptimiseConfig(decay=decay, **settings))
        assert all(
            group.weight_decay == (0 if spared and p.ndim < 2 else 0.01) for group in groups for p in group.params
        )
        assert sum(len(group.params) for group in groups) == sum(1 for _ in model.parameters()) - 2  # the head's


def test_class_weights_are_those_of_torch() -> None:
    model, batch, weights = twin().eval(), training_batch(), [0.5, 2.0, 1.0]
    batch.masks[0, :20] = 255
    config = OptimiseConfig(cross_entropy="image", class_weights=weights)
    terms = StageLoss(config, DiversityConfig())(model, batch)
    logits = F.interpolate(model.head(model.features(batch.images)), (64, 64), mode="bilinear")
    expected = F.cross_entropy(logits, batch.masks, weight=torch.tensor(weights), ignore_index=255)
    torch.testing.assert_close(terms["cross_entropy"], expected)
    with pytest.raises(ConfigError, match="class_weights: 2 numbers for 3 classes"):
        StageLoss(OptimiseConfig(class_weights=[1, 2]), DiversityConfig())(model, batch)


def test_several_maps_are_not_cached() -> None:
    from segproto.data.config import AugmentConfig

    plain = AugmentConfig(scale=(1, 1))
    with pytest.raises(ConfigError, match=r"encoder\.neck = uper: train\.cache_features needs"):
        require_cacheable(EncoderConfig(frozen=True, neck="uper"), plain)


def test_shared_norms_alone_are_plain_ones() -> None:
    model = twin()
    names, x = set(model.state_dict()), torch.randn(2, 3, 64, 64)
    parameters = {id(p) for p in model.parameters()}
    model.train()
    torch.manual_seed(0)
    plain = model(x)
    share_statistics(model)
    share_statistics(model)
    torch.manual_seed(0)
    torch.testing.assert_close(model(x), plain)
    assert set(model.state_dict()) == names
    assert {id(p) for p in model.parameters()} == parameters
