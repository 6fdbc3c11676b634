"""A network of somewhere else as a model of ours: cut before its last 1x1 convolution, which becomes a linear head."""

from __future__ import annotations

import copy
import difflib
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from segproto.data.base import ClassTable, numbered_names
from segproto.data.palette import default_colours
from segproto.encoders.base import IMAGENET, Encoder, Normalisation
from segproto.encoders.build import build_encoder
from segproto.encoders.config import EncoderConfig
from segproto.encoders.network import SMP, NetworkConfig, find_layer, given, torchvision_names
from segproto.errors import ConfigError, SegprotoError
from segproto.model.heads import LinearHead
from segproto.model.segmenter import Segmenter
from segproto.model.windows import evaluating

MULTIPLES = (1, 2, 4, 8, 16, 32, 64)
SIDES = (97, 131)  # of the picture that is tried first: no multiple of anything
TOLERANCE = 1e-4  # of the largest logit


class Seen(NamedTuple):
    """One pass of a network.

    Attributes:
        features: (B, F, h, w) that its classifier read.
        logits: (B, C, h, w) that it answered.
        answer: (B, C, H, W), the network's.
    """

    features: Tensor
    logits: Tensor
    answer: Tensor


def adopt(
    network: nn.Module,
    layer: str | None = None,
    *,
    classes: ClassTable | None = None,
    normalisation: Normalisation = IMAGENET,
) -> Segmenter:
    """The network as a model with a linear head, whose logits are the network's own.

    Networks of segmentation_models_pytorch and torchvision are written down by their constructor and its arguments, so
    that any program can load the model; any other must be given again (:func:`segproto.encoders.network.given`).

    Args:
        network: on any device; left as it is.
        layer: the name of its classifier, a 1x1 convolution; None = the last convolution that runs.
        classes: that the network was trained with; None = numbered.
        normalisation: what the network's images are normalised with.

    Raises:
        ConfigError: no such layer, a layer that is no 1x1 classifier, another number of classes, or an answer that is
            not the classifier's, enlarged bilinearly.
    """
    network = network.cpu() if next(network.parameters()).device.type == "cpu" else clone(network)
    with evaluating(network):
        name = last_convolution(network) if layer is None else layer
        classifier = require_classifier(network, name)
        multiple, align_corners = understand(network, name)
    channels = classifier.out_channels
    classes = classes or ClassTable(numbered_names(channels), default_colours(channels))
    if classes.num_classes != channels:
        raise ConfigError(
            f"layer {name!r}: the classifier has {channels} channels for {classes.num_classes} classes; give the "
            "classes that the network was trained with"
        )
    config = {
        "layer": name,
        "features": classifier.in_channels,
        "multiple": multiple,
        "mean": normalisation.mean,
        "std": normalisation.std,
    }
    encoder = rebuilt(network, config, align_corners)
    head = LinearHead(classifier.in_channels, classifier.out_channels)
    with torch.no_grad():
        head.weight.copy_(classifier.weight.flatten(1))
        if classifier.bias is not None:
            head.bias.copy_(classifier.bias)
    return Segmenter(encoder, head, classes).eval()


def rebuilt(network: nn.Module, config: Mapping[str, Any], align_corners: bool) -> Encoder:
    """The encoder as its settings make it anew, with the network's tensors; by its constructor where that is known."""
    picture = torch.randn(1, 3, *(m * config["multiple"] for m in (4, 5)), generator=torch.Generator().manual_seed(0))
    for known in (*constructors(network), {"source": "given", "name": type(network).__name__}):
        settings = EncoderConfig(
            name="network",
            neck="identity",
            squash="none",
            frozen=True,
            enlarge="align_corners" if align_corners else "half_pixel",
            network=NetworkConfig(**known, **config),
        )
        own = encoder_of(network, settings, known["source"] == "given")
        if own is None:
            continue
        with evaluating(network), evaluating(own):
            same = torch.equal(own.backbone(picture), look(network, config["layer"], picture).features)
        if same:
            return own
    raise ConfigError(f"{type(network).__name__}: its features change from one pass to the next; is it in eval mode?")


def encoder_of(network: nn.Module, settings: EncoderConfig, own: bool) -> Encoder | None:
    """The encoder of these settings with the network's tensors; None where the constructor makes another network."""
    try:
        with given(network) if own else nothing():
            encoder = build_encoder(settings, load_weights=False)
    except SegprotoError:
        if own:
            raise
        return None
    layer = settings.network.layer if settings.network is not None else ""
    state = {f"network.{k}": v for k, v in network.state_dict().items() if not k.startswith(f"{layer}.")}
    wanted = encoder.backbone.state_dict()
    if wanted.keys() != state.keys() or any(wanted[key].shape != value.shape for key, value in state.items()):
        return None
    encoder.backbone.load_state_dict(state)
    return encoder


@contextmanager
def nothing() -> Iterator[None]:
    """No network is given."""
    yield


def constructors(network: nn.Module) -> Iterator[dict[str, Any]]:
    """What may have made the network: constructors of packages, with arguments."""
    package, name = type(network).__module__.partition(".")[0], type(network).__name__
    settings = getattr(network, "config", None)
    if package == "segmentation_models_pytorch" and name in SMP and isinstance(settings, dict):
        kept = {k: v for k, v in settings.items() if k != "encoder_weights" and not k.startswith("_")}
        yield {"source": "smp", "name": name, "arguments": kept}
    if package == "torchvision":
        own = {key: tuple(value.shape) for key, value in network.state_dict().items()}
        auxiliary = getattr(network, "aux_classifier", None) is not None
        for known in torchvision_names():
            arguments = {"num_classes": last_channels(network)} | ({} if "lraspp" in known else {"aux_loss": auxiliary})
            if shapes_of(known, arguments) == own:
                yield {"source": "torchvision", "name": known, "arguments": arguments}


def shapes_of(name: str, arguments: dict[str, Any]) -> dict[str, tuple[int, ...]]:
    """Names and shapes of the tensors of a network of torchvision, without making them."""
    from torchvision.models import get_model

    with torch.device("meta"):
        network = get_model(name, weights=None, weights_backbone=None, **arguments)
    return {key: tuple(value.shape) for key, value in network.state_dict().items()}


def last_channels(network: nn.Module) -> int:
    """Channels of a torchvision network's classifier."""
    convolutions = [m for m in network.classifier.modules() if isinstance(m, nn.Conv2d)]  # type: ignore[union-attr]
    return convolutions[-1].out_channels


def clone(network: nn.Module) -> nn.Module:
    """A copy on the CPU."""
    return copy.deepcopy(network).cpu()


def require_classifier(network: nn.Module, name: str) -> nn.Conv2d:
    """The layer of that name, which must be a plain 1x1 convolution.

    Raises:
        ConfigError: naming what is there.
    """
    layer = find_layer(network, name) if name else None
    if layer is None:
        names = [key for key, module in network.named_modules() if isinstance(module, nn.Conv2d)]
        close = difflib.get_close_matches(name, names, n=1) or names[-1:]
        hint = f"did you mean {close[0]!r}?" if close else "it has no convolution at all"
        raise ConfigError(f"layer {name!r}: {type(network).__name__} has none of that name; {hint}")
    if not isinstance(layer, nn.Conv2d):
        raise ConfigError(f"layer {name!r}: is a {type(layer).__name__}; expected the last layer, a 1x1 convolution")
    if (layer.kernel_size, layer.stride, layer.groups) != ((1, 1), (1, 1), 1) or layer.padding not in ((0, 0), "valid"):
        size = "x".join(map(str, layer.kernel_size))
        what = "reads the neighbours of a cell, too" if layer.kernel_size != (1, 1) else "strided, padded or grouped"
        raise ConfigError(
            f"layer {name!r}: is a {size} convolution ({what}); expected a plain 1x1 classifier, whose logits are sums "
            "over the channels of one cell"
        )
    return layer


def last_convolution(network: nn.Module) -> str:
    """The name of the convolution that runs last, of those whose enlarged answer is the network's if there are any.

    Raises:
        ConfigError: none runs.
    """
    ran: list[tuple[str, Tensor]] = []
    hooks = [
        module.register_forward_hook(lambda _, read, answer, key=key: ran.append((key, answer.clone())))
        for key, module in network.named_modules()
        if isinstance(module, nn.Conv2d)
    ]
    picture = torch.randn(1, 3, 128, 192, generator=torch.Generator().manual_seed(0))
    try:
        answer = logits_of(network(picture))
    finally:
        for hook in hooks:
            hook.remove()
    if not ran:
        raise ConfigError(f"{type(network).__name__}: no convolution runs in it; name its last layer: layer=NAME")
    fits = [key for key, logits in ran if enlargement(logits, answer, (128, 192)) is not None]
    return fits[-1] if fits else ran[-1][0]


def look(network: nn.Module, layer: str, images: Tensor) -> Seen:
    """One pass, with what the layer read and answered.

    Raises:
        ConfigError: the layer did not run, or the network's answer holds no logits.
    """
    calls: list[tuple[Tensor, Tensor]] = []
    module = find_layer(network, layer)
    assert module is not None
    hook = module.register_forward_hook(lambda _, read, answer: calls.append((read[0].clone(), answer.clone())))
    try:
        answer = logits_of(network(images))
    finally:
        hook.remove()
    if not calls:
        raise ConfigError(f"layer {layer!r}: does not run when {type(network).__name__} sees an image")
    return Seen(*calls[-1], answer)


def logits_of(answer: Any) -> Tensor:
    """The logits (B, C, H, W) in what a network returns: a tensor, the first of several, or ``out`` or ``logits``."""
    if isinstance(answer, Mapping):
        answer = next((answer[key] for key in ("out", "logits") if key in answer), None)
    elif isinstance(answer, list | tuple):
        answer = answer[0] if answer else None
    elif not isinstance(answer, Tensor):
        answer = getattr(answer, "logits", None)
    if not isinstance(answer, Tensor) or answer.ndim != 4:
        raise ConfigError(
            "the network's answer holds no logits (B, C, H, W): a tensor, or one called 'out' or 'logits'"
        )
    return answer


def understand(network: nn.Module, layer: str) -> tuple[int, bool]:
    """What sides a network's images must be multiples of, and whether it enlarges its answer with aligned corners.

    Raises:
        ConfigError: its answer is never that of the layer, enlarged bilinearly.
    """
    problem, answered = "", False
    for multiple in MULTIPLES:
        size = tuple(multiple * max(3, side // multiple | 1) for side in SIDES)  # odd multiples
        images = torch.randn(1, 3, *size, generator=torch.Generator().manual_seed(multiple))
        try:
            seen = look(network, layer, images)
        except ConfigError:
            raise
        except (RuntimeError, ValueError, AssertionError, TypeError) as error:  # of sizes it does not take
            problem = (str(error).splitlines() or [type(error).__name__])[0][:200]
            continue
        answered = True
        corners = enlargement(seen.logits, seen.answer, size)
        if corners is not None:
            return multiple, corners
    if not answered:
        raise ConfigError(f"{type(network).__name__}: fails on an image ({problem})")
    raise ConfigError(
        f"layer {layer!r}: the network's answer is not what this layer gives, enlarged bilinearly to the image; "
        "expected its last layer, with nothing but an enlargement after it (no softmax, no sum with other maps)"
    )


def enlargement(logits: Tensor, answer: Tensor, size: tuple[int, ...]) -> bool | None:
    """Whether corners are aligned where logits become the answer to an image of ``size``; None: they do not."""
    wanted = tuple(answer.shape[-2:])
    if logits.ndim != 4 or wanted not in (size, tuple(logits.shape[-2:])) or answer.shape[1] != logits.shape[1]:
        return None
    scale = float(answer.abs().max())
    for corners in (False, True):
        made = F.interpolate(logits, size=wanted, mode="bilinear", align_corners=corners)
        if float((made - answer).abs().max()) <= TOLERANCE * scale:
            return corners
    return None
