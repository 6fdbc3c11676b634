"""The ``data`` section of a recipe: which images and masks, how they are split and how they are augmented."""

from __future__ import annotations

import os
import re
from pathlib import Path
from typing import Annotated, Literal

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, PlainSerializer, PositiveInt, model_validator


def expand_path(path: Path) -> Path:
    """``~`` and ``$VARIABLES`` filled in, made absolute; a path with an unset variable is left as it was written."""
    text = os.path.expandvars(os.path.expanduser(path))
    return path if "$" in text else Path(os.path.abspath(text))


def _expand_file(path: Path) -> Path:
    """As ``expand_path``, except for a bare word (the name of a shipped table)."""
    return expand_path(path) if path.suffix else path


def _expand_list(path: Path) -> Path:
    """``~`` and ``$VARIABLES`` filled in; relative paths stay: they are looked for in several places."""
    return Path(os.path.expandvars(os.path.expanduser(path)))


ExpandedPath = Annotated[Path, AfterValidator(expand_path)]
# Written to a run's recipe as text, which is left alone there: a relative path is not meant from the working directory.
ClassesPath = Annotated[Path, AfterValidator(_expand_file), PlainSerializer(str)]
ListPath = Annotated[Path, AfterValidator(_expand_list), PlainSerializer(str)]


class SplitConfig(BaseModel):
    """How images are divided into ``train`` and ``val``; give one of the rules.

    Used by ``data.split`` and by the ``split:`` section of a ``classes.yaml``. Without any rule: folders ``train`` and
    ``val`` under the images if there are such, else ``train.txt`` and ``val.txt`` in the root, else
    ``val_fraction: 0.2``.

    Attributes:
        train_folder: subfolder of ``images`` (and of ``labels``) with the training images; goes with ``val_folder``.
        val_folder: the same for validation.
        train_list: text file with one image name a line (or image and mask file, as VOC's); with only one list, the
            other split is all the rest.
        val_list: the same for validation.
        val_pattern: regular expression; images whose name it finds (``re.search``) are validation, the others training.
        val_fraction: share of images drawn at random for validation, fixed by ``seed``.
        seed: of the random split.
    """

    model_config = ConfigDict(extra="forbid")

    train_folder: str | None = None
    val_folder: str | None = None
    train_list: ListPath | None = None
    val_list: ListPath | None = None
    val_pattern: str | None = None
    val_fraction: float | None = Field(default=None, gt=0, lt=1)
    seed: int = Field(default=0, ge=0)

    @property
    def has_rule(self) -> bool:
        """Whether any rule is given."""
        return bool(self.model_dump(exclude_none=True, exclude={"seed"}))

    @model_validator(mode="after")
    def _one_rule(self) -> SplitConfig:
        by_folder = self.train_folder is not None or self.val_folder is not None
        by_list = self.train_list is not None or self.val_list is not None
        rules = [by_folder, by_list, self.val_pattern is not None, self.val_fraction is not None]
        if sum(rules) > 1:
            raise ValueError("a split has one rule: folders, lists, val_pattern or val_fraction, not several")
        if by_folder and (self.train_folder is None or self.val_folder is None):
            raise ValueError("a split by folder needs both train_folder and val_folder")
        if self.val_pattern is not None:
            try:
                re.compile(self.val_pattern)
            except re.error as error:
                raise ValueError(f"val_pattern {self.val_pattern!r} is not a regular expression: {error}") from None
        return self


class ScenesConfig(BaseModel):
    """Generated scenes.

    Attributes:
        num_train: training images.
        num_val: validation images (never the same as a training image).
        size: side of the square images in pixels.
        seed: of the generator; each (seed, split, index) gives one image for ever.
        objects: fewest and most objects a scene is asked to have.
    """

    model_config = ConfigDict(extra="forbid")

    num_train: int = Field(default=512, ge=1)
    num_val: int = Field(default=96, ge=1)
    size: int = Field(default=128, ge=32, le=2048)
    seed: int = Field(default=0, ge=0)
    objects: tuple[int, int] = (2, 4)

    @model_validator(mode="after")
    def _ordered(self) -> ScenesConfig:
        low, high = self.objects
        if not 0 <= low <= high <= 32:
            raise ValueError(f"objects must be [fewest, most] within 0..32, got {list(self.objects)}")
        return self


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
        flip: mirror left-right with probability 0.5.
        vertical_flip: mirror top-bottom with probability 0.5.
        rotate90: turn by a random multiple of 90 degrees.
    """

    model_config = ConfigDict(extra="forbid")

    crop: PositiveInt | tuple[PositiveInt, PositiveInt] | None = None
    scale: tuple[float, float] = (0.5, 1.5)
    long_side: tuple[PositiveInt, PositiveInt] | None = None
    aspect: tuple[float, float] = (1, 1)
    brightness: int = Field(default=0, ge=0, le=255)
    jitter: tuple[float, float, float, float] = (0, 0, 0, 0)
    hsv: int = Field(default=0, ge=0, le=255)
    padding: Literal["start", "anywhere"] = "start"
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
        if isinstance(self.crop, tuple) and self.rotate90 and self.crop[0] != self.crop[1]:
            raise ValueError(f"rotate90 needs a square crop, got {list(self.crop)}")
        return self

    @property
    def crop_size(self) -> tuple[int, int] | None:
        """(height, width) of the crop."""
        return (self.crop, self.crop) if isinstance(self.crop, int) else self.crop


class DataConfig(BaseModel):
    """Which data, how it is split, read and augmented.

    Attributes:
        name: ``folder`` (your own images and masks), ``images`` (your own, without masks), ``scenes`` (generated),
            ``em`` (ISBI-2012), ``camvid``, or a published set as it is distributed: ``cityscapes``, ``voc``,
            ``ade20k``, ``ade20k_full``, ``coco_stuff``, ``potsdam`` (see ``segproto data list``).
        variant: of a published set: its classes or training split, as in ``27`` for Cityscapes; None: the usual one.
        root: the data folder; ``~`` and environment variables are filled in. Not used by ``scenes``.
        images: folder of the images, relative to ``root``; ``{split}`` in it stands for the split's folder.
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
        scenes: settings of the generated scenes.
        coarse: allow validation against Cityscapes' coarse labels (``gtCoarse``), whose scores are not comparable: they
            leave the hard pixels out.
        on_error: what a run does with a training file it cannot read: ``skip`` (leave it out, warn) or ``fail``. An
            unreadable validation file is always an error.
        workers: processes that load images; 0 = the training process itself.
        protocol: ``native`` images, or the ``published`` centre squares of the methods without labels.
        square: side of those squares in pixels.
        input_size: what a model sees of a validation image, as published protocols have it: the shorter side in pixels,
            or [height, width], stretched. None: the image's own size. Scores are at native size in any case.
        augment: random changes of training images.
    """

    model_config = ConfigDict(extra="forbid")

    name: Literal[
        "folder", "images", "scenes", "em", "camvid",
        "cityscapes", "voc", "ade20k", "ade20k_full", "coco_stuff", "potsdam",
    ] = "folder"  # fmt: skip
    variant: str | None = Field(default=None, coerce_numbers_to_str=True)
    root: ExpandedPath | None = None
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
    merge: dict[str, list[str]] = {}
    rename: dict[str, str] = {}
    scenes: ScenesConfig = ScenesConfig()
    coarse: bool = False
    on_error: Literal["skip", "fail"] = "fail"
    workers: int = Field(default=0, ge=0)
    protocol: Literal["native", "published"] = "native"
    square: int = Field(default=320, ge=16)
    input_size: PositiveInt | tuple[PositiveInt, PositiveInt] | None = None
    augment: AugmentConfig = AugmentConfig()

    @property
    def has_masks(self) -> bool:
        """Whether any image may have a mask."""
        return self.name != "images" and self.labels is not None

    @model_validator(mode="after")
    def _folder_options(self) -> DataConfig:
        if self.name != "folder":
            given = {"classes": self.classes, "split": self.split, "parts": self.parts, "part_maps": self.part_maps}
            for key, value in given.items():
                if value is not None:
                    raise ValueError(f"{key} is for name: folder; {self.name} brings its own")
        if self.labels is None and (self.name != "folder" or self.image_suffix or self.parts is not None):
            raise ValueError("labels = null: is for name: folder, without image_suffix and parts")
        if self.variant is not None and self.name in ("folder", "images", "scenes", "em", "camvid"):
            raise ValueError(f"variant is for published sets; {self.name} has none")
        return self
