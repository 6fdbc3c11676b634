"""The verb ``posthoc``: prototypes for a network that was trained somewhere else."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from segproto.errors import ConfigError
from segproto.files import place

if TYPE_CHECKING:
    from torch import nn

    from segproto.training.runner import RunResult

PathLike = str | Path
Three = tuple[float, float, float]
IMAGENET: tuple[Three, Three] = ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))


def posthoc(
    module: nn.Module,
    *,
    out: PathLike,
    images: PathLike | None = None,
    data: Mapping[str, Any] | None = None,
    layer: str | None = None,
    classes: Sequence[str] | None = None,
    mean: Three = IMAGENET[0],
    std: Three = IMAGENET[1],
    resume: bool = False,
    overrides: Sequence[str] = (),
    quiet: bool = False,
) -> RunResult:
    """Explains a trained segmentation network by parts of the features that its last layer reads.

    The network's masks and logits stay what they are; each logit is split exactly over the parts, and each part is
    shown by the training patches at which it is strongest. No label is read but to score. A run of segproto's own is
    explained by ``segproto train posthoc/folder train.start=RUN``.

    Args:
        module: the network: images (B, 3, H, W) to logits (B, C, H, W), or a mapping that has them as ``out`` or
            ``logits``; its last layer a 1x1 convolution, followed by at most a bilinear enlargement.
        out: the run folder.
        images: a folder of images that the network knows, without masks.
        data: in its place a data section, as ``{"name": "camvid", "root": DIR}``, whose masks are scored.
        layer: the name of the last layer, as in ``module.named_modules()``; None = the convolution that runs last.
        classes: their names; None = those of the data, or numbers.
        mean: what the network's images, in 0..1, are normalised with; ImageNet's is the default.
        std: likewise.
        resume: continue the run in ``out``.
        overrides: ``key=value`` settings, as ``stages.rotate.basis=pca``.
        quiet: no progress.

    Raises:
        ConfigError: a layer that is not there or no 1x1 classifier, another number of classes, an answer that is more
            than the enlarged last layer.
        DataError: images that are not there.
    """
    from segproto.data.base import ClassTable
    from segproto.data.build import build_dataset
    from segproto.data.palette import default_colours
    from segproto.encoders.base import Normalisation
    from segproto.interop.adopt import adopt
    from segproto.runs.settings import resolve
    from segproto.training.runner import run

    if (images is None) == (data is None):
        raise ConfigError("expected images=FOLDER, or data={...} for images with masks; and not both")
    section = {"name": "images", "root": str(images)} if data is None else dict(data)
    recipe = "posthoc/images" if data is None else "posthoc/folder"
    method, config = resolve(recipe, {"data": section}, overrides)
    known: ClassTable | None = build_dataset(config.data, "train").classes
    if classes is not None:
        known = ClassTable(tuple(classes), default_colours(len(classes)))
    model = adopt(
        module, layer, classes=known if known and known.names else None, normalisation=Normalisation(mean, std)
    )
    config = config.model_copy(update={"encoder": model.encoder.config})
    with given(module):
        return run(replace(method, build=lambda *_: model), config, place(out), resume=resume, quiet=quiet)


@contextmanager
def given(module: nn.Module) -> Iterator[None]:
    """Inside the block every function can load models that :func:`posthoc` made of this network of your own.

    Networks of segmentation_models_pytorch and torchvision need none of this: any program can load them.

    Args:
        module: the network again; its structure matters, not its weights.
    """
    from segproto.encoders.network import given as network_given

    with network_given(module):
        yield
