"""A network of somewhere else as a backbone: all of it before its last 1x1 convolution."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import TYPE_CHECKING, Annotated, Any, Literal

import torch
from pydantic import BaseModel, ConfigDict, Field
from torch import Tensor, nn

from segproto.encoders.base import Backbone, Normalisation
from segproto.encoders.kind import BackboneKind
from segproto.errors import ConfigError, WeightsError

if TYPE_CHECKING:
    from segproto.encoders.config import EncoderConfig

Source = Literal["given", "smp", "torchvision"]
Positive = Annotated[float, Field(gt=0)]
MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)  # ImageNet's
Plain = str | int | float | bool | None
Argument = Plain | list[Plain] | dict[str, Plain]


class NetworkConfig(BaseModel):
    """What rebuilds the network; its tensors come from the artefact.

    Attributes:
        source: ``smp`` (segmentation_models_pytorch) or ``torchvision``, whose constructor ``name`` is called with
            ``arguments``; ``given``: a network of your own, which is given again when the model is loaded.
        name: of the constructor; of a given network its class, for people.
        arguments: of the constructor.
        layer: the 1x1 convolution that is the classifier.
        features: channels that it reads.
        multiple: sides of images must be multiples of this.
        mean: of each channel of its images, of values in 0..1.
        std: likewise.
    """

    model_config = ConfigDict(extra="forbid")

    source: Source
    name: str
    arguments: dict[str, Argument] = {}
    layer: str
    features: int = Field(ge=1, le=1 << 20)
    multiple: int = Field(1, ge=1, le=1024)
    mean: tuple[float, float, float] = MEAN
    std: tuple[Positive, Positive, Positive] = STD


class Tap(nn.Module):
    """Takes the classifier's place: keeps what it would read, and answers nothing worth enlarging.

    Attributes:
        read: maps (B, F, h, w), taken out by :class:`NetworkBackbone`.
    """

    def __init__(self) -> None:
        super().__init__()
        self.read: list[Tensor] = []

    def forward(self, features: Tensor) -> Tensor:
        """(B, F, h, w) to zeros (B, 1, h, w)."""
        self.read.append(features)
        return torch.zeros_like(features[:, :1])


class NetworkBackbone(Backbone):
    """A network up to its classifier.

    Args:
        network: kept as a copy; what was its classifier is a :class:`Tap`.
        config: of it.
    """

    def __init__(self, network: nn.Module, config: NetworkConfig) -> None:
        super().__init__()
        self.network = copy.deepcopy(network)
        self.tap = [Tap()]  # in a list: it is the network's, not a second part of this module
        self.network.set_submodule(config.layer, self.tap[0])
        self.num_features, self.stride_multiple = config.features, config.multiple
        self.smallest = 2 * config.multiple
        self.normalisation = Normalisation(config.mean, config.std)

    def forward(self, images: Tensor) -> Tensor:
        """Normalised images (B, 3, H, W) to what the classifier reads (B, F, h, w)."""
        (tap,) = self.tap
        self.network(images)
        if not tap.read:
            raise ConfigError("the network's classifier was not run: it is no part of its forward pass")
        features = tap.read[-1]
        tap.read.clear()
        return features


_GIVEN: ContextVar[nn.Module | None] = ContextVar("given", default=None)


@contextmanager
def given(network: nn.Module) -> Iterator[None]:
    """Inside the block, models of a network of your own can be loaded: ``network`` has its structure.

    Its weights do not matter; those of the model are used.
    """
    token = _GIVEN.set(network)
    try:
        yield
    finally:
        _GIVEN.reset(token)


def build_network(config: EncoderConfig, load_weights: bool) -> Backbone:
    """The network of these settings, with random weights.

    Raises:
        ConfigError: no network is named.
        WeightsError: one of your own that is not given, or a package that is not there.
    """
    if config.network is None:
        raise ConfigError("encoder.name=network: name the network, or let segproto.posthoc(module, ...) do it")
    network, known = BUILDERS[config.network.source](config.network), config.network
    if not isinstance(find_layer(network, known.layer), nn.Conv2d):
        raise WeightsError(
            f"the network {known.name} has no convolution {known.layer}: another network than the model's"
        )
    return NetworkBackbone(network, known)


def find_layer(network: nn.Module, layer: str) -> nn.Module | None:
    """The submodule of that name; None without one."""
    return dict(network.named_modules()).get(layer)


def given_network(config: NetworkConfig) -> nn.Module:
    """The network given around the load."""
    network = _GIVEN.get()
    if network is None:
        raise WeightsError(
            f"this model is of a network of your own ({config.name}), which no file can rebuild: give it again, in "
            "Python: segproto.load(PATH, module=NETWORK), or any other function inside `with segproto.given(NETWORK):`"
        )
    return network


def checked(config: NetworkConfig, names: list[str], what: str) -> dict[str, Any]:
    """The arguments of a constructor that exists; none of them may name a file or an address.

    Raises:
        WeightsError: it does not, or one does.
    """
    if config.name not in names:
        raise WeightsError(f"encoder.network.name = {config.name!r}: {what} has {', '.join(names)}")
    arguments = dict(config.arguments)
    for key, value in arguments.items():
        if isinstance(value, str) and (set(value) & set(":/\\")):
            raise WeightsError(f"encoder.network.arguments.{key} = {value!r}: a name was expected, no file or address")
    return arguments


SMP = (
    *("Unet", "UnetPlusPlus", "MAnet", "Linknet", "FPN", "PSPNet", "DeepLabV3", "DeepLabV3Plus", "PAN", "UPerNet"),
    *("Segformer", "DPT"),
)


def smp_network(config: NetworkConfig) -> nn.Module:
    """A network of segmentation_models_pytorch; nothing is downloaded."""
    try:
        import segmentation_models_pytorch as smp
    except ImportError as error:
        raise WeightsError(
            "this model is of segmentation_models_pytorch, an extra: pip install 'segproto[smp]'"
        ) from error
    arguments = checked(config, [name for name in SMP if hasattr(smp, name)], "segmentation_models_pytorch")
    return made(config, lambda: getattr(smp, config.name)(**(arguments | {"encoder_weights": None})))


def torchvision_network(config: NetworkConfig) -> nn.Module:
    """A network of torchvision.models.segmentation; nothing is downloaded."""
    arguments = checked(config, torchvision_names(), "torchvision.models.segmentation")
    from torchvision.models import get_model

    return made(config, lambda: get_model(config.name, **(arguments | {"weights": None, "weights_backbone": None})))


def torchvision_names() -> list[str]:
    """Constructors of torchvision.models.segmentation."""
    from torchvision.models import list_models, segmentation

    names: list[str] = list_models(module=segmentation)
    return names


def made(config: NetworkConfig, make: Callable[[], nn.Module]) -> nn.Module:
    """What a constructor makes.

    Raises:
        WeightsError: it does not take these arguments.
    """
    try:
        with torch.random.fork_rng(devices=[]):
            return make()
    except (TypeError, ValueError, KeyError, RuntimeError, AssertionError) as error:
        reason = (str(error).splitlines() or [type(error).__name__])[0][:200]
        raise WeightsError(f"encoder.network: {config.name} cannot be made of its arguments ({reason})") from error


BUILDERS: dict[Source, Callable[[NetworkConfig], nn.Module]] = {
    "given": given_network,
    "smp": smp_network,
    "torchvision": torchvision_network,
}
NETWORK = BackboneKind(
    name="network",
    title="a network of somewhere else, up to its last 1x1 convolution (segproto.posthoc)",
    build=build_network,
    reads=("network",),
)
