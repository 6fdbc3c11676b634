"""What an encoder is built from."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field

from segproto.data.paths import ExpandedPath
from segproto.encoders.kind import BackboneKind, NeckKind
from segproto.encoders.network import NetworkConfig
from segproto.encoders.table import BACKBONES, NECKS
from segproto.table import Known

GRID = ("enlarge", "pad", "finer")  # a model's own unless the recipe says otherwise


class EncoderConfig(BaseModel):
    """Encoder settings; a recipe's ``encoder`` section and part of every artefact.

    Attributes:
        name: the kind of backbone: ``timm``, ``deeplabv2_resnet101``, ``unet``, ``hrnet`` (fused as published), ``mit``
            (SegFormer's; needs the extra ``transformers``), ``resnet38d`` (of PSA, SEAM and pixelcontrast;
            ``resnet38d_taps``: with the image and inner maps that their heads read), ``network`` (of somewhere else) or
            one that was registered.
        backbone: the timm model name, for ``name: timm`` and ``hrnet``; ``mit_b0`` .. ``mit_b5`` for ``mit``.
        weights: a local weights file (safetensors or a state dict; ``~`` and ``$VARIABLES`` are filled in), or None.
        pretrained: ask timm to download its weights (never happens unless set, nor where ``weights`` is given).
        frozen: the backbone takes no gradient and its norms keep their statistics.
        output_stride: cells of the feature grid per pixel; 8 or 16 for CNNs, 1/2/4 for ``unet``; ViTs: the patch.
        layers: timm features to concatenate (block indices of a ViT, stage indices of a CNN); None = the last.
        input_scale: the image is resized by this factor before the backbone (grids of small ViTs get finer).
        neck: ``aspp`` (parallel dilated 3x3 convolutions), ``identity``,
            ``largefov`` (DeepLabv1's), ``aspp_pool`` (pixelcontrast's DeepLabv2, with image pooling), or a published
            decoder without its classifier: ``fcn`` (3x3 convolutions on the last map), ``uper`` (UPerNet) or
            ``segformer``; ``codes``: STEGO's and HP's.
        convs: 3x3 convolutions of ``fcn``.
        projection: the decoders end in the two 1x1 convolutions of nonparametric's embedding head.
        auxiliary: which of the maps (``layers``, counted from 0) trains a plain classifier of its own beside the model,
            with the decoders; None = none.
        code_dropout: of ``codes``: ``off``, in ``training``, or ``always``, as PriMaPs' release left it on.
        reduce: channels of a 1x1 convolution with ReLU before ``aspp``: a neck of many channels gets several times
            cheaper; None = none, as published.
        neck_momentum: by how much the statistics of ``aspp_pool``'s batch norms follow each batch (published: 3e-4);
            None = torch's 0.1.
        layer_norm: before ``aspp`` every cell's features get mean 0 and variance 1 over the channels. For ViTs, whose
            blocks give values of any size: without it the sigmoid of a short training saturates.
        rates: ASPP dilation rates, one per scale.
        dim: channels per scale.
        fusion: ASPP branches side by side (``concat``: one scale each) or added (``sum``: one scale).
        width: first-level channels of the U-Net (64 = published).
        msc: further input scales of the MSC wrapper; empty = off.
        squash: add-on layer after the neck.
        enlarge: how maps on the grid are brought to the image: by ``half_pixel`` centres, or with the corners of grid
            and image on each other (``align_corners``, as the releases of nonparametric, SEAM and wseg do); None = that
            of the model one starts from, without one ``half_pixel``.
        pad: images are padded to multiples of the stride; false = not (as the releases of SEAM, EPS and wseg), with
            backbones that take any size; None = that of the model one starts from, without one true.
        finer: features are interpolated to a grid so many times finer, which what comes after the encoder then sees: a
            memory behind a neck tells small things better with 2; None = that of the model one starts from, without
            one 1.
        bands: of the images; a recipe takes it from ``data.bands``. Pretrained first layers of other numbers than 3 are
            adapted as timm does: their weights are repeated and scaled (of one band: added).
        network: of ``name: network``, which :func:`segproto.posthoc` writes.
    """

    model_config = ConfigDict(extra="forbid")

    name: Annotated[str, Known(BACKBONES)] = "timm"
    backbone: str | None = None
    weights: ExpandedPath | None = None
    pretrained: bool = False
    frozen: bool = False
    output_stride: int | None = Field(default=None, ge=1, le=256)
    layers: list[Annotated[int, Field(ge=-1000, le=1000)]] | None = Field(default=None, min_length=1, max_length=64)
    input_scale: float = Field(1.0, gt=0, le=8)
    neck: Annotated[str, Known(NECKS)] = "aspp"
    code_dropout: Literal["off", "training", "always"] = "off"
    convs: int = Field(1, ge=1, le=64)
    projection: bool = False
    auxiliary: int | None = Field(default=None, ge=0, le=64)
    reduce: int | None = Field(default=None, ge=1, le=65_536)
    neck_momentum: float | None = Field(default=None, gt=0, le=1)
    layer_norm: bool = False
    rates: list[Annotated[int, Field(ge=1, le=1024)]] = Field([6, 12, 18, 24], min_length=1, max_length=64)
    dim: int = Field(64, ge=1, le=65_536)
    fusion: Literal["concat", "sum"] = "concat"
    width: int = Field(64, ge=1, le=1024)
    msc: list[Annotated[float, Field(gt=0, le=8)]] = Field([], max_length=16)
    squash: Literal["sigmoid", "relu", "none"] = "sigmoid"
    enlarge: Literal["half_pixel", "align_corners"] | None = None
    pad: bool | None = None
    finer: int | None = Field(default=None, ge=1, le=8)
    bands: int = Field(3, ge=1, le=4096)
    network: NetworkConfig | None = None

    @property
    def aligned(self) -> bool:
        """Whether maps are enlarged with the corners of grid and image on each other."""
        return self.enlarge == "align_corners"

    @property
    def backbone_kind(self) -> BackboneKind:
        """What ``name`` means."""
        return BACKBONES.find(self.name)

    @property
    def weights_for(self) -> tuple[str, str | None]:
        """What weights files fit it: the network, and which of its sizes."""
        return self.backbone_kind.weights_of or self.name, self.backbone

    @property
    def neck_kind(self) -> NeckKind:
        """What ``neck`` means."""
        return NECKS.find(self.neck)

    @property
    def scale_rates(self) -> list[int] | None:
        """The dilation rate of each scale; None where scales are not branches with a rate each."""
        return self.rates if self.neck_kind.branches and self.fusion == "concat" else None
