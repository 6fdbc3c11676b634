"""The published networks of pixelcontrast (wseg), SEAM, EPS and PSA, and ResNet-38's original weights."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor

from segproto import foreign
from segproto.encoders.build import build_encoder
from segproto.encoders.config import EncoderConfig
from segproto.encoders.resnet38 import ResNet38d, rename_mxnet
from segproto.errors import WeightsError
from segproto.interop.conversion import KeyMap, Options, Source, Weights, finished, origin
from segproto.model.heads import LinearHead
from segproto.model.segmenter import Segmenter
from segproto.model.tap_head import AffinityHead, TapHead

TAPS = EncoderConfig(name="resnet38d_taps", neck="identity", squash="none")
CONTAINERS = ("state_dict", "model")
Background = Literal["first", "last", "none"]  # its row in a published classifier
VOC_CLASSES = 21
ALIGNED: dict[str, Any] = {"enlarge": "align_corners", "pad": False}
GRID = (
    "grid maps (stride 8) are those of the released code in eval mode; they are enlarged with aligned corners and "
    "images are not padded, as there (encoder.enlarge, encoder.pad)"
)
DIRECT = (
    "grid maps (stride 8) are those of the released code in eval mode; they are enlarged from the grid to the image at "
    "once, by half-pixel centres, and images are not padded, as there (encoder.pad)"
)
VIEWS = "maps over several scales are made as there, too: images are resized by Pillow in bytes"
LAST = "the background, published as the last class, is the first here"
PRESENT = "as a segmenter it shows the classes it believes the image has, over a background of 0.26"


@dataclass(frozen=True)
class Network:
    """A kind of published network.

    Attributes:
        kind: for people.
        method: whose model it becomes.
        make: takes its tensors.
        notes: for the card.
    """

    kind: str
    method: str
    make: Callable[[KeyMap, Options], Segmenter]
    notes: tuple[str, ...]


def state_of(path: Path) -> dict[str, Any]:
    """The state dict in a file, out of its containers and without ``module.`` before its names.

    Raises:
        WeightsError: the file is damaged, hostile, or holds something else.
    """
    value = foreign.read(path)
    for name in CONTAINERS:
        if isinstance(value, Mapping) and isinstance(value.get(name), Mapping):
            value = value[name]
    if not isinstance(value, Mapping):
        raise WeightsError(f"{path}: expected tensors by name, found {type(value).__name__}")
    return {str(name).removeprefix("module."): tensor for name, tensor in value.items()}


def network_of(keys: KeyMap) -> Network:
    """Which network a state dict is of, by the names of its heads.

    Raises:
        WeightsError: none that is known.
    """
    if keys.has("cls_conv.weight"):
        return DEEPLAB
    if keys.has("conv1a.weight"):
        if keys.has("f8_5.weight"):
            return AFFINITY
        if keys.has("proj_fc.weight"):
            return EPS_CONTRAST
        if keys.has("fc_proj.weight"):
            return CONTRAST
        classes = keys.left.get("fc8.weight")
        if isinstance(classes, Tensor):
            if keys.has("f9.weight"):
                return SEAM
            return EPS if len(classes) % 20 == 1 else CLASSIFIER  # the output of EPS has the background as well
    raise WeightsError(
        f"{keys.path}: none of the networks of wseg, SEAM, EPS or PSA on ResNet-38, and no DeepLab of theirs; "
        f"{keys.about()}"
    )


def convert(path: Path, options: Options, *, source: str) -> Segmenter:
    """A published file of one of the sources: any of the networks that its release has.

    Args:
        path: the file.
        options: class names.
        source: its name.

    Raises:
        WeightsError: another kind of file, a tensor that is missing, of another shape, or that nothing uses.
    """
    keys = KeyMap(state_of(path), path)
    network = network_of(keys)
    if network not in RELEASES[source]:
        right = next(name for name, networks in RELEASES.items() if network in networks)
        raise WeightsError(
            f"{path}: {network.kind}, which {source} did not publish; use: segproto convert {right} {path.name}"
        )
    model = network.make(keys, options)
    about = next(s for s in SOURCES if s.name == source)
    return finished(model, keys, about, [network.kind, *network.notes], network.method)


def make_maps(keys: KeyMap, options: Options, *, background: Background, **settings: Any) -> Segmenter:
    """A network of class activation maps.

    Args:
        keys: the file's.
        options: class names.
        background: which row of the published classifier it has.
        settings: of the head.
    """
    rows = keys.take("fc8.weight", (None, 4096, 1, 1))
    geometry = ALIGNED if settings["released"] == "seam" else {"pad": False}
    if background == "none":
        rows = torch.cat([torch.zeros_like(rows[:1]), rows])
    elif background == "last":
        rows = rows.roll(1, 0)
    taps = TAPS.model_copy(update=geometry)
    encoder, head = build_encoder(taps, load_weights=False), TapHead(len(rows), **settings)
    keys.fill(encoder.backbone)
    names = {"fc_proj.weight": "proj_fc.weight"} if keys.has("proj_fc.weight") else {}
    keys.fill(head, rename=lambda own: names.get(own, own), skip=("fc8.weight",))
    keys.set(head.fc8.weight, "fc8.weight", rows)
    return Segmenter(encoder, head, options.class_table(len(rows)))


def make_affinity(keys: KeyMap, options: Options) -> Segmenter:
    """AffinityNet, for the random walk."""
    classes = options.class_table(VOC_CLASSES if options.classes is None else options.classes.num_classes)
    encoder, head = build_encoder(TAPS, load_weights=False), AffinityHead(classes.num_classes)
    keys.fill(encoder.backbone)
    keys.fill(head)
    return Segmenter(encoder, head, classes)


def make_deeplab(keys: KeyMap, options: Options) -> Segmenter:
    """DeepLabv1 with LargeFOV or v2 with pooling, on ResNet-38 or on ResNet-101 with either stem."""
    rows = keys.take("cls_conv.weight", (None, None, 1, 1)).flatten(1)
    pooled, wide = keys.has("aspp.conv_cat.0.weight"), keys.has("backbone.conv1a.weight")
    settings: dict[str, Any] = {"neck": "aspp_pool", "dim": rows.shape[1]} if pooled else {"neck": "largefov"}
    if wide:
        settings["name"] = "resnet38d"
    else:
        deep = keys.has("backbone.conv1.0.weight")
        settings |= {"backbone": "resnet101s" if deep else "resnet101", "output_stride": 8}
    encoder = build_encoder(EncoderConfig(**settings, squash="none", **ALIGNED), load_weights=False)
    keys.drop(r"backbone\.fc\..*", "classifier of the pre-training")
    keys.fill(encoder.backbone if wide else encoder.backbone.get_submodule("taps.net"), "backbone.")
    keys.fill(encoder.neck, "aspp." if pooled else "")
    head = LinearHead(rows.shape[1], len(rows))
    keys.set(head.weight, "cls_conv.weight", rows)
    keys.set(head.bias, "cls_conv.bias", keys.take("cls_conv.bias"))
    return Segmenter(encoder, head, options.class_table(len(rows)))


def convert_resnet38(path: Path, options: Options) -> Weights:
    """ResNet-38 trained on ImageNet: MXNet's own ``.params`` (mxnet is not needed), or a PyTorch copy of it."""
    value = foreign.read(path)
    if isinstance(value, Mapping) and any(str(name).startswith("arg:") for name in value):
        keys = KeyMap(rename_mxnet(value), path)
        keys.dropped = {n: "classifier of the pre-training" for n in value if "linear1000" in n}
    else:
        keys = KeyMap({name.removeprefix("backbone."): t for name, t in state_of(path).items()}, path)
        keys.drop(r"(fc8|fc_proj|proj_fc|f8_\d|f9|cls_conv|aspp|conv_fov2?|bn_fov2?)\..*", "head of another network")
    backbone = ResNet38d()
    keys.fill(backbone)
    card = origin(keys, RESNET38, ["ImageNet mean and standard deviation, RGB; or encoder.name=resnet38d_taps"])
    keys.finish()
    return Weights(backbone.state_dict(), {"encoder.name": "resnet38d"}, card)


def cam_network(
    kind: str, *notes: str, background: Background, released: Literal["seam", "eps"], **settings: Any
) -> Network:
    """A kind of network of class activation maps.

    ``released``: whose way from images to maps it keeps; the others as in :func:`make_maps`.
    """
    make = partial(make_maps, background=background, released=released, **settings)
    return Network(kind, "pixelcontrast", make, (GRID if released == "seam" else DIRECT, VIEWS, *notes))


CONTRAST = cam_network("CAM network with contrast, on SEAM", PRESENT, background="first", released="seam")
SEAM = cam_network("CAM network of SEAM", PRESENT, background="first", released="seam", dim=0)
EPS_CONTRAST = cam_network(
    "CAM network with contrast, on EPS",
    LAST,
    "logits are the raw maps, as its author says they are used, not those of the pixel correlation",
    background="last",
    released="eps",
    dropout=0.0,
    shows="logits",
)
EPS = cam_network(
    "CAM network of EPS",
    LAST,
    background="last",
    released="eps",
    dim=0,
    refine=False,
    dropout=0.0,
    shows="logits",
)
CLASSIFIER = cam_network(
    "CAM network of PSA, or the baseline of EPS",
    PRESENT,
    "it has no background: that row of the classifier is 0 here",
    background="none",
    released="eps",
    dim=0,
    refine=False,
)
AFFINITY = Network(
    "AffinityNet",
    "pixelcontrast",
    make_affinity,
    (
        "features whose differences are affinities are those of the released code; it knows no classes: alone it says "
        "background everywhere; for its walk: train.start=MODEL train.stages=[masks,segment]",
    ),
)
DEEPLAB = Network("DeepLab", "blackbox", make_deeplab, (GRID,))
RELEASES = {
    "wseg": (CONTRAST, EPS_CONTRAST, AFFINITY, DEEPLAB),
    "seam": (SEAM, AFFINITY, DEEPLAB),
    "eps": (EPS, CLASSIFIER),
    "psa": (CLASSIFIER, AFFINITY),
}
CODE_MIT = "code MIT; none is stated for the weights"
NOTHING_STATED = "none is stated, neither for the code nor for the weights"
WSEG = Source(
    name="wseg",
    title="Pixel-to-prototype contrast: CAM networks on SEAM and EPS, AffinityNet, DeepLabv1 and v2 (ResNet-38, -101)",
    where="https://github.com/usr922/wseg (Model Zoo)",
    size="210 to 500 MB",
    license=NOTHING_STATED,
    paper="Y. Du, Z. Fu, Q. Liu, Y. Wang: Weakly Supervised Semantic Segmentation by Pixel-to-Prototype Contrast, "
    "CVPR 2022",
    convert=partial(convert, source="wseg"),
)
SEAM_SOURCE = Source(
    name="seam",
    title="SEAM: CAM network and AffinityNet (ResNet-38)",
    where="https://github.com/YudeWang/SEAM (model weights)",
    size="about 420 MB each",
    license=CODE_MIT,
    paper="Y. Wang, J. Zhang, M. Kan, S. Shan, X. Chen: Self-supervised Equivariant Attention Mechanism for Weakly "
    "Supervised Semantic Segmentation, CVPR 2020",
    convert=partial(convert, source="seam"),
)
EPS_SOURCE = Source(
    name="eps",
    title="EPS: CAM network with background, and its baseline (ResNet-38)",
    where="https://github.com/halbielee/EPS (trained model)",
    size="about 420 MB",
    license=NOTHING_STATED,
    paper="S. Lee, M. Lee, J. Lee, H. Shim: Railroad is not a Train: Saliency as Pseudo-pixel Supervision for Weakly "
    "Supervised Semantic Segmentation, CVPR 2021",
    convert=partial(convert, source="eps"),
)
PSA = Source(
    name="psa",
    title="PSA: classifier and AffinityNet (ResNet-38; the VGG-16 ones are not read)",
    where="https://github.com/jiwoon-ahn/psa (Results and Trained Models)",
    size="about 420 MB each",
    license=CODE_MIT,
    paper="J. Ahn, S. Kwak: Learning Pixel-level Semantic Affinity with Image-level Supervision for Weakly Supervised "
    "Semantic Segmentation, CVPR 2018",
    convert=partial(convert, source="psa"),
)
RESNET38 = Source(
    name="resnet38",
    title="ResNet-38 trained on ImageNet (ilsvrc-cls_rna-a1_cls1000_ep-0001.params of MXNet), for encoder.weights",
    where="https://github.com/itijyou/ademxapp (and a copy linked in github.com/jiwoon-ahn/psa)",
    size="about 440 MB",
    license="see the repository; trained on ImageNet",
    paper="Z. Wu, C. Shen, A. van den Hengel: Wider or Deeper: Revisiting the ResNet Model for Visual Recognition, "
    "Pattern Recognition 2019",
    convert=convert_resnet38,
)
SOURCES = (EPS_SOURCE, PSA, RESNET38, SEAM_SOURCE, WSEG)
