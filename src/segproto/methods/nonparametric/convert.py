"""The published HRNet checkpoints: non-learnable prototypes on Cityscapes, and their parametric twin."""

from __future__ import annotations

from pathlib import Path
from typing import Any, get_args

from segproto import foreign
from segproto.encoders.base import IMAGENET, Encoder, Normalisation
from segproto.encoders.build import build_encoder
from segproto.encoders.config import EncoderConfig
from segproto.encoders.decoders import FCN, Decoder
from segproto.encoders.hrnet import HRNet
from segproto.errors import WeightsError
from segproto.interop.conversion import KeyMap, Options, Source, finished
from segproto.model.heads import Head, LinearHead, NearestHead
from segproto.model.segmenter import Segmenter
from segproto.prototypes.cosine_bank import CosineBank
from segproto.prototypes.embedding import ProjectionNorm

HRNETS = {720: "hrnet_w48", 480: "hrnet_w32", 270: "hrnet_w18"}  # by the channels of the four maps together
STEM = "backbone.conv1.weight"
NOTES = [
    "grid logits (stride 4) are those of the released code in eval mode; images come in as RGB, see preprocessing",
    "logits are enlarged with aligned corners, as the released code does (encoder.enlarge)",
]


def convert(path: Path, options: Options) -> Segmenter:
    """A released checkpoint (``{config_dict, state_dict}``, names with ``module.``) as a model of ours.

    The setting ``projection_norm`` (``width_legacy``, ``channel`` or ``none``) says which norm ends the projection: the
    released code has the first, and which one a checkpoint was trained with is not recorded.

    Args:
        path: the file.
        options: class names, ``projection_norm``.

    Raises:
        WeightsError: another kind of file, a tensor that is missing, of another shape, or that nothing uses.
    """
    value = foreign.read(path)
    state = value.get("state_dict", value) if isinstance(value, dict) else value
    if isinstance(state, dict):
        state = {str(name).removeprefix("module."): tensor for name, tensor in state.items()}
    keys = KeyMap(state, path)
    nearest = keys.has("prototypes")
    encoder = published_encoder(keys, projection=nearest)
    modes: tuple[ProjectionNorm, ...] = ("width_legacy", "channel", "none")
    assert set(modes) == set(get_args(ProjectionNorm))
    if nearest:
        chosen = options.choice("projection_norm", modes)
        head: Head = nearest_head(keys, next(mode for mode in modes if mode == chosen))
    else:
        head = linear_head(keys)
    model = Segmenter(encoder, head, options.class_table(head.num_classes))
    return finished(model, keys, SOURCE, NOTES, "nonparametric" if nearest else "blackbox")


def published_encoder(keys: KeyMap, *, projection: bool) -> Encoder:
    """HRNet and embedding head, for RGB images: the release reads BGR and normalises blue as ImageNet's red."""
    weight = keys.take("cls_head.0.weight", (None, None, 3, 3))
    width = len(weight)
    if width not in HRNETS or not keys.has(STEM):
        raise WeightsError(f"{keys.path}: a head of {width} channels without HRNet's backbone; expected {list(HRNETS)}")
    config = EncoderConfig(
        name="hrnet",
        backbone=HRNETS[width],
        neck="fcn",
        dim=width,
        projection=projection,
        squash="none",
        enlarge="align_corners",
    )
    encoder = build_encoder(config, load_weights=False)
    encoder.normalisation = Normalisation(IMAGENET.mean[::-1], IMAGENET.std[::-1])
    backbone, neck = encoder.backbone, encoder.neck
    assert isinstance(backbone, HRNet)
    assert isinstance(neck, Decoder)
    assert isinstance(neck.decode, FCN)
    net: Any = backbone.net
    stem = keys.take(STEM, tuple(net.conv1.weight.shape))
    keys.fill(net, "backbone.", skip=("conv1.weight",))
    keys.set(net.conv1.weight, STEM, stem.flip(1))
    layers: Any = neck.decode.convs[0]
    conv, norm, _ = layers
    keys.set(conv.weight, "cls_head.0.weight", weight)
    keys.set(conv.bias, "cls_head.0.bias", keys.take("cls_head.0.bias"))
    keys.fill(norm, "cls_head.1.0.")
    if projection:
        keys.fill(neck.projection, "proj_head.proj.")
        keys.drop(r"proj_head\.mlp2\..*", "the projection once more, registered twice")
    return encoder


def nearest_head(keys: KeyMap, projection_norm: ProjectionNorm) -> NearestHead:
    """Prototypes and both layer norms; the rows are unit only within rounding, and compared as directions."""
    head = NearestHead(CosineBank(keys.take("prototypes", (None, None, None))), projection_norm)
    assert head.feature_norm is not None
    assert head.score_norm is not None
    keys.fill(head.feature_norm, "feat_norm.")
    keys.fill(head.score_norm, "mask_norm.")
    return head


def linear_head(keys: KeyMap) -> LinearHead:
    """The twin's 1x1 classifier, which has no bias."""
    weight = keys.take("cls_head.3.weight", (None, None, 1, 1))
    head = LinearHead(weight.shape[1], len(weight))
    keys.set(head.weight, "cls_head.3.weight", weight.flatten(1))
    return head


SOURCE = Source(
    name="nonparametric",
    title="Non-learnable prototypes on HRNet-W48 (Cityscapes), and the parametric HRNet-W48 beside it",
    where="https://github.com/tfzhou/pretrained_weights/releases/tag/v.cvpr22",
    size="about 285 MB",
    license="code MIT (github.com/tfzhou/ProtoSeg); none is stated for the weights",
    paper="T. Zhou, W. Wang, E. Konukoglu, L. Van Gool: Rethinking Semantic Segmentation: A Prototype View, CVPR 2022",
    convert=convert,
)
SOURCES = (SOURCE,)
