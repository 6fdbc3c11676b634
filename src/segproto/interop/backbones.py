"""Published backbones: DeepLab in PyTorch, torchvision's ResNets, HRNet and DINO, from their original files."""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from segproto import foreign
from segproto.encoders.base import Normalisation
from segproto.encoders.build import build_encoder
from segproto.encoders.config import EncoderConfig
from segproto.encoders.lean_timm import lean_timm
from segproto.encoders.resnet import DeepLabResNet101
from segproto.errors import WeightsError
from segproto.interop.conversion import KeyMap, Options, Source, Weights, finished, origin
from segproto.model.heads import LinearHead
from segproto.model.segmenter import Segmenter

CAFFE_MEAN = (122.675, 116.669, 104.008)  # RGB, of inputs 0..255
CONTAINERS = ("state_dict", "model", "teacher")
STEM = "layer1.conv1.conv.weight"


def tensors_by_name(path: Path) -> dict[str, Any]:
    """The state dict in a file, out of its containers and without ``module.`` and ``backbone.`` before its names."""
    value = foreign.read(path)
    for name in CONTAINERS:
        if isinstance(value, Mapping) and isinstance(value.get(name), Mapping):
            value = value[name]
    if not isinstance(value, Mapping):
        raise WeightsError(f"{path}: expected tensors by name, found {type(value).__name__}")
    return {re.sub(r"^(module\.|backbone\.)+", "", str(name)): tensor for name, tensor in value.items()}


def timm_weights(keys: KeyMap, backbone: str, source: Source, notes: list[str], unused: str) -> Weights:
    """Tensors that must be exactly those of a timm network without its classifier.

    Args:
        keys: the published tensors, named as timm names them.
        backbone: timm's name of the network.
        source: for the card.
        notes: for the card.
        unused: pattern of names a backbone does not need.
    """
    timm = lean_timm()
    keys.drop(unused, "classifier or head of the pre-training")
    net = timm.create_model(backbone, num_classes=0)
    keys.fill(net)
    settings = {"encoder.name": "timm", "encoder.backbone": backbone}
    card = origin(keys, source, notes)
    keys.finish()
    return Weights(net.state_dict(), settings, card)


def convert_resnet(path: Path, options: Options) -> Weights:
    """torchvision's (or timm's) ResNet of any depth."""
    keys = KeyMap(tensors_by_name(path), path)
    blocks = [len(keys.names(rf"layer{i}\.\d+\.conv1\.weight")) for i in (1, 2, 3, 4)]
    deep = keys.has("layer1.0.conv3.weight")
    depths = {(2, 2, 2, 2, False): 18, (3, 4, 6, 3, False): 34, (3, 4, 6, 3, True): 50}
    depths |= {(3, 4, 23, 3, True): 101, (3, 8, 36, 3, True): 152}
    depth = depths.get((*blocks, deep))  # type: ignore[arg-type]
    if depth is None:
        raise WeightsError(f"{path}: blocks {blocks} are those of no ResNet-18..152; {keys.about()}")
    notes = ["ImageNet mean and standard deviation, RGB"]
    return timm_weights(keys, f"resnet{depth}", RESNET, notes, r"fc\..*")


def convert_hrnet(path: Path, options: Options) -> Weights:
    """HRNetV2 pre-trained on ImageNet, as its authors released it."""
    keys = KeyMap(tensors_by_name(path), path)
    width = keys.left.get("stage2.0.branches.0.0.conv1.weight")
    width = len(width) if isinstance(width, Tensor) else 0
    if width not in (18, 30, 32, 40, 44, 48, 64):
        raise WeightsError(f"{path}: no HRNetV2 of a known width (stage2 has {width}); {keys.about()}")
    return timm_weights(keys, f"hrnet_w{width}", HRNET, ["ImageNet normalisation, RGB"], r"classifier\..*")


DINO_NAMES = {
    (384, 8, False): "vit_small_patch8_224.dino",
    (384, 16, False): "vit_small_patch16_224.dino",
    (768, 8, False): "vit_base_patch8_224.dino",
    (768, 16, False): "vit_base_patch16_224.dino",
    (384, 14, True): "vit_small_patch14_dinov2.lvd142m",
    (768, 14, True): "vit_base_patch14_dinov2.lvd142m",
    (1024, 14, True): "vit_large_patch14_dinov2.lvd142m",
}


def convert_dino(path: Path, options: Options) -> Weights:
    """DINO and DINOv2 (without registers), the backbone file or the full checkpoint (its teacher)."""
    keys = KeyMap(tensors_by_name(path), path)
    patch = keys.left.get("patch_embed.proj.weight")
    if not isinstance(patch, Tensor) or keys.has("register_tokens"):
        raise WeightsError(f"{path}: no DINO or DINOv2 transformer without registers; {keys.about()}")
    kind = (len(patch), patch.shape[-1], keys.has("blocks.0.ls1.gamma"))
    if kind not in DINO_NAMES:
        raise WeightsError(f"{path}: no DINO of width {kind[0]} and patch {kind[1]} is known here")
    notes = ["ImageNet mean and standard deviation, RGB; position embeddings are resampled by the reference rule"]
    return timm_weights(keys, DINO_NAMES[kind], DINO, notes, r"mask_token|head\..*|fc\..*|last_layer\..*")


def convert_deeplab(path: Path, options: Options) -> Segmenter | Weights:
    """DeepLabv2 ResNet-101 of deeplab-pytorch: a whole model, or only its backbone where the file has no ASPP.

    Its inputs are BGR in 0..255 less Caffe's mean; the first convolution is turned to RGB, and a whole model keeps the
    mean (a backbone file cannot, and is scaled for ImageNet's, which is within one grey level of it).
    """
    state = {re.sub(r"^(scale|base)\.", "", name): value for name, value in tensors_by_name(path).items()}
    keys = KeyMap(state, path)
    classifier = keys.left.get("aspp.c0.weight")
    if not isinstance(classifier, Tensor):
        return deeplab_backbone(keys)
    count = len(keys.names(r"aspp\.c\d\.weight"))
    config = EncoderConfig(
        name="deeplabv2_resnet101",
        rates=[6, 12, 18, 24][:count],
        dim=len(classifier),
        fusion="sum",
        squash="none",
        msc=[0.5, 0.75],
    )
    encoder = build_encoder(config, load_weights=False)
    keys.fill(encoder.backbone)
    keys.fill(encoder.neck, "aspp.")
    stem = encoder.backbone.get_parameter(STEM)
    keys.set(stem, STEM, stem.detach().flip(1))
    encoder.normalisation = Normalisation(tuple(m / 255 for m in CAFFE_MEAN), (1 / 255,) * 3)
    head = LinearHead(len(classifier), len(classifier))
    keys.set(head.weight, "classifier", torch.eye(len(classifier)))
    model = Segmenter(encoder, head, options.class_table(len(classifier)))
    notes = ["the sum of the ASPP is the logits; input scales 0.5 and 0.75 are fused by maximum, as published"]
    notes.append("BGR first convolution turned to RGB; inputs 0..255 less Caffe's mean")
    return finished(model, keys, DEEPLAB, notes, "blackbox")


def deeplab_backbone(keys: KeyMap) -> Weights:
    """The backbone alone, for ``encoder.name=deeplabv2_resnet101``."""
    keys.drop(r"fc\..*|classifier\..*", "classifier of the pre-training")
    backbone = DeepLabResNet101()
    keys.fill(backbone)
    stem = backbone.get_parameter(STEM)
    std = torch.tensor([0.229, 0.224, 0.225]).view(3, 1, 1)
    keys.set(stem, STEM, stem.detach().flip(1) * std * 255)
    notes = ["first convolution turned from BGR 0..255 to RGB with ImageNet's deviations; means differ by <= 1 of 255"]
    card = origin(keys, DEEPLAB, notes)
    keys.finish()
    return Weights(backbone.state_dict(), {"encoder.name": "deeplabv2_resnet101"}, card)


DEEPLAB = Source(
    "deeplab-pytorch",
    "DeepLabv2 ResNet-101 with MSC (COCO-Stuff, VOC), or its backbone pre-trained on COCO",
    "https://github.com/kazuto1011/deeplab-pytorch (releases)",
    "170 to 180 MB",
    "code MIT; weights converted from the DeepLabv2 authors' Caffe models",
    "L.-C. Chen et al.: DeepLab, TPAMI 2018",
    convert_deeplab,
)
RESNET = Source(
    "resnet",
    "ResNet-18 to -152 of torchvision or timm, for encoder.weights",
    "https://docs.pytorch.org/vision/stable/models/resnet.html",
    "45 to 230 MB",
    "BSD-3-Clause (torchvision); trained on ImageNet",
    "K. He et al.: Deep Residual Learning, CVPR 2016",
    convert_resnet,
)
HRNET = Source(
    "hrnet",
    "HRNetV2 W18 to W64 pre-trained on ImageNet, for encoder.weights",
    "https://github.com/HRNet/HRNet-Image-Classification",
    "80 to 510 MB",
    "code MIT; trained on ImageNet",
    "J. Wang et al.: Deep High-Resolution Representation Learning, TPAMI 2021",
    convert_hrnet,
)
DINO = Source(
    "dino",
    "DINO ViT-S/B 8 and 16 and DINOv2 ViT-S/B/L 14, original files, for encoder.weights",
    "https://github.com/facebookresearch/dino and https://github.com/facebookresearch/dinov2",
    "85 MB (S), 340 MB (B), 1.2 GB (L)",
    "Apache-2.0",
    "M. Caron et al., ICCV 2021; M. Oquab et al., TMLR 2024",
    convert_dino,
)
SOURCES = (DEEPLAB, DINO, HRNET, RESNET)
