"""The ``data`` section of a recipe: which images and masks, how they are split and how they are augmented."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field, PositiveInt, model_validator

from segproto.data.kind import DataKind
from segproto.data.layouts.table import LAYOUTS
from segproto.data.paths import ClassesPath, ExpandedPath
from segproto.data.pixel_config import SETTINGS, PixelConfig
from segproto.data.scenes import ScenesConfig
from segproto.data.split import SplitConfig
from segproto.data.table import DATASETS
from segproto.table import Known

OPTIONAL = ("layout", "classes", "split", "parts", "part_maps", "variant")  # settings that only some kinds of data read

PIXELS = {key: PixelConfig.model_fields[key].default for key in SETTINGS}
Side = Annotated[int, Field(gt=0, le=65_536)]  # pixels


class AugmentConfig(BaseModel):
    """Random changes of training images, image and mask together (never used on validation images).

    Attributes:
        crop: side of the random square crop in pixels, or its [height, width]; smaller images are padded (mean colour,
            void). None: no crop.
        scale: range of the random resize factor, the same for height and width; [1, 1] = off.
        long_side: range of the longer side after a random resize, in pixels, instead of ``scale``.
        aspect: range of a random factor a: the width is resized by its root more, the height by its root less.
        brightness: a random whole number of at most this size is added to all 8-bit values.
        jitter: ColorJitter's brightness, contrast, saturation (0..1) and hue (0..0.5), of the part that is seen.
        hsv: hue, saturation and value of OpenCV's 8-bit HSV move by a random number of at most this size.
        padding: where images smaller than the crop lie in it: at its ``start``, or ``anywhere``.
        outside: colour of what lies outside the image: the ``mean`` colour (0 after the normalisation), or ``black``
            (AffinityNet as published, which pads before it).
        balance: share of the crops that are laid on a pixel of a class drawn evenly from those that the image shows, so
            that small classes are in more crops; 0: all crops lie anywhere.
        flip: mirror left-right with probability 0.5.
        vertical_flip: mirror top-bottom with probability 0.5.
        rotate90: turn by a random multiple of 90 degrees.
    """

    model_config = ConfigDict(extra="forbid")

    crop: Side | tuple[Side, Side] | None = None
    scale: tuple[float, float] = (0.5, 1.5)
    long_side: tuple[PositiveInt, PositiveInt] | None = None
    aspect: tuple[float, float] = (1, 1)
    brightness: int = Field(default=0, ge=0, le=255)
    jitter: tuple[float, float, float, float] = (0, 0, 0, 0)
    hsv: int = Field(default=0, ge=0, le=255)
    padding: Literal["start", "anywhere"] = "start"
    outside: Literal["mean", "black"] = "mean"
    balance: float = Field(default=0, ge=0, le=1)
    flip: bool = True
    vertical_flip: bool = False
    rotate90: bool = False

    @model_validator(mode="after")
    def _ordered(self) -> AugmentConfig:
        for name, (low, high) in {"scale": self.scale, "aspect": self.aspect}.items():
            if not 0 < low <= high <= 16:
                raise ValueError(f"{name} must be [smallest, largest] within (0, 16], got {[low, high]}")
        if self.long_side is not None and self.long_side[0] > self.long_side[1]:
            raise ValueError(f"long_side must be [smallest, largest], got {list(self.long_side)}")
        if not all(0 <= s <= limit for s, limit in zip(self.jitter, (1, 1, 1, 0.5), strict=True)):
            raise ValueError(f"jitter must be within 0..1, 0..1, 0..1 and 0..0.5, got {list(self.jitter)}")
        if self.balance > 0 and self.crop is None:
            raise ValueError(f"balance = {self.balance:g} chooses crops, and crop is null: set a crop")
        if isinstance(self.crop, tuple) and self.rotate90 and self.crop[0] != self.crop[1]:
            raise ValueError(f"rotate90 needs a square crop, got {list(self.crop)}")
        return self

    @property
    def crop_size(self) -> tuple[int, int] | None:
        """(height, width) of the crop."""
        return (self.crop, self.crop) if isinstance(self.crop, int) else self.crop


class DataConfig(PixelConfig):
    """Which data, how it is split, read and augmented; what files hold is said by :class:`PixelConfig`.

    Attributes:
        name: the kind of data set, one that ``segproto data list`` shows: ``folder`` (your own images and masks),
            ``images`` (your own, without masks), ``scenes`` (generated), or a published set as it is distributed.
        variant: of a published set: its classes or training split, as in ``27`` for Cityscapes; None: the usual one.
        root: the data folder; ``~`` and environment variables are filled in. Not used by ``scenes``.
        layout: how images and masks lie in ``root`` (``folder`` only): one that ``segproto data verify`` names, or
            ``folder`` for as ``images`` and ``labels`` say. None: as they say if set or there, else recognised.
        images: folder of the images, relative to ``root``; ``{split}`` in it stands for the split's folder. It may
            end in what files are called, ``*`` being what image and mask have in common: ``{split}/img_*.jpg``.
        labels: folder of the masks, the same way; None: there are none, only images and classes (``folder`` only, for
            methods that learn from tags). Without a rule for a split all images then train.
        image_suffix: end of image file stems that does not belong to the name (``_leftImg8bit``).
        label_suffix: end of mask file stems that does not belong to the name (``_mask``).
        classes: a ``classes.yaml`` or the name of a shipped one (``cityscapes``, ``voc`` ...); None:
            ``root/classes.yaml``.
        split: overrides the split of the ``classes.yaml`` (``folder`` only).
        parts: a part table (``parts.yaml``) or the name of a shipped one (``cityscapes_parts``, ``pascal_parts`` ...):
            then images have part maps, for the interpretability metrics (``folder`` only; ``scenes`` has its own).
        part_maps: folder of the part maps, relative to ``root``; None: what the part table says.
        part_suffix: end of part map file stems that does not belong to the name; None: what the part table says.
        split_seed: of the random split of ``em``; 42 is the published one.
        merge: classes made one, new name to old names (``{background: [sky, ground]}``); they come first.
        rename: other names of classes, old to new (``{road: street}``), for a model that calls them otherwise: it is
            scored on data with its own class names only.
        fraction: of the training images, drawn at random by ``subset_seed``: what few labels are worth.
        images_per_class: training images drawn until so many show each class (all there are of a rarer one).
        subset_seed: of both draws.
        scenes: settings of the generated scenes.
        coarse: allow validation against Cityscapes' coarse labels (``gtCoarse``), whose scores are not comparable: they
            leave the hard pixels out.
        on_error: what a run does with a training file it cannot read: ``skip`` (leave it out, warn) or ``fail``. An
            unreadable validation file is always an error.
        workers: processes that load training images beside each training process; 0 = that process itself. ``auto``: up
            to 8 for a GPU, up to 4 where a CPU has cores to spare, none for cached features; ``recipe.yaml`` holds what
            it became. They do not change what is trained.
        protocol: ``native`` images, or the ``published`` centre squares of the methods without labels.
        square: side of those squares in pixels.
        input_size: what a model sees of a validation image, as published protocols have it: the shorter side in pixels,
            or [height, width], stretched. None: the image's own size. Scores are at native size in any case.
        window: side in pixels of the overlapping windows in which validation images are seen, and then all images that
            the model is shown; None: whole, or where they are too large for that in windows of the training crop.
        augment: random changes of training images.
    """

    model_config = ConfigDict(extra="forbid")

    name: Annotated[str, Known(DATASETS)] = "folder"
    variant: str | None = Field(default=None, coerce_numbers_to_str=True)
    root: ExpandedPath | None = None
    layout: Annotated[str, Known(LAYOUTS)] | None = None
    images: str = "images"
    labels: str | None = "labels"
    image_suffix: str = ""
    label_suffix: str = ""
    classes: ClassesPath | None = None
    split: SplitConfig | None = None
    parts: ClassesPath | None = None
    part_maps: str | None = None
    part_suffix: str | None = None
    split_seed: int = Field(default=42, ge=0, lt=2**32)
    merge: dict[str, list[str]] = Field({})
    rename: dict[str, str] = Field({})
    fraction: float | None = Field(default=None, gt=0, le=1)
    images_per_class: int | None = Field(default=None, ge=1)
    subset_seed: int = Field(default=0, ge=0, lt=2**32)
    scenes: ScenesConfig = ScenesConfig()
    coarse: bool = False
    on_error: Literal["skip", "fail"] = "fail"
    workers: Annotated[int, Field(ge=0, le=1024)] | Literal["auto"] = "auto"
    protocol: Literal["native", "published"] = "native"
    square: int = Field(default=320, ge=16, le=65_536)
    input_size: Side | tuple[Side, Side] | None = None
    window: Annotated[int, Field(ge=32, le=8192)] | None = None
    augment: AugmentConfig = AugmentConfig()

    @property
    def kind(self) -> DataKind:
        """What ``name`` means.

        Raises:
            ConfigError: a name registered when the settings were checked is not any more.
        """
        return DATASETS.find(self.name)

    @property
    def has_masks(self) -> bool:
        """Whether any image may have a mask."""
        return self.kind.masks != "never" and self.labels is not None

    @model_validator(mode="after")
    def _only_what_is_read(self) -> DataConfig:
        for key in OPTIONAL:
            if getattr(self, key) is not None and key not in self.kind.reads:
                readers = ", ".join(kind.name for kind in DATASETS.values() if key in kind.reads)
                raise ValueError(f"{key} is for name: {readers}; {self.name} does not read it")
        if "bands" not in self.kind.reads and (given := [k for k in SETTINGS if getattr(self, k) != PIXELS[k]]):
            readers = ", ".join(kind.name for kind in DATASETS.values() if "bands" in kind.reads)
            raise ValueError(f"{given[0]} is for name: {readers}; {self.name} does not read it")
        if self.num_bands != 3 and (any(self.augment.jitter[2:]) or self.augment.hsv):
            raise ValueError(
                f"augment.hsv and the saturation and hue of augment.jitter are for red, green and blue; data.bands has "
                f"{self.num_bands} bands"
            )
        if self.window is not None and self.input_size is not None:
            raise ValueError("window and input_size both say what a model sees: set one of them to null")
        if self.labels is None and (self.kind.masks != "optional" or self.image_suffix or self.parts is not None):
            readers = ", ".join(kind.name for kind in DATASETS.values() if kind.masks == "optional")
            raise ValueError(f"labels = null: is for name: {readers}, without image_suffix and parts")
        return self
