"""Published checkpoints: where each comes from, and how its tensors become ours.

A method's ``convert.py`` exports ``SOURCES`` and gives them to its :class:`~segproto.training.method.Method`
(``sources=SOURCES``); ``segproto convert`` finds them there. A converter reads the file with :mod:`segproto.foreign`,
takes every tensor it knows from a :class:`KeyMap`, and ends with :meth:`KeyMap.finish`, which refuses what is left:

.. code-block:: python

    def convert_wonder(path: Path, options: Options) -> Segmenter:
        keys = KeyMap(foreign.read(path)["state_dict"], path)
        encoder = build_encoder(EncoderConfig(name="unet", width=4), load_weights=False)
        keys.fill(encoder.backbone, "module.backbone.")          # all its tensors, by its own names
        weight = keys.take("module.cls.weight", (None, 4, 1, 1))  # None: any number
        head = LinearHead(4, len(weight))
        keys.set(head.weight, "module.cls.weight", weight.flatten(1))
        keys.drop(r"module\\.aux_head\\..*", "auxiliary head of the training")
        model = Segmenter(encoder, head, options.class_table(len(weight)))
        return finished(model, keys, WONDER, ["logits are those of the released code in eval mode"])

    WONDER = Source("wonder", "Wonder, U-Net", "https://...", "31 MB", "MIT", "Doe et al., CVPR 2030", convert_wonder)
    SOURCES = (WONDER,)
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

import torch
from torch import Tensor, nn

from segproto.data.base import ClassTable, numbered_names
from segproto.data.classes import EXAMPLES, read_classes
from segproto.data.palette import default_colours
from segproto.errors import ConfigError, WeightsError
from segproto.model.segmenter import Segmenter

PUBLISHED_TABLES = {19: "cityscapes", 21: "voc", 150: "ade20k", 182: "coco_stuff"}
SHOWN = 4


@dataclass
class Options:
    """What the user adds to a file: class names, and ``key=value`` settings that a converter may ask for.

    Attributes:
        classes: the class table; None = known by the number of classes, else numbered.
        values: settings by name; every one must be asked for, see :meth:`finish`.
    """

    classes: ClassTable | None = None
    values: Mapping[str, str] = field(default_factory=dict)
    _asked: dict[str, tuple[str, ...]] = field(default_factory=dict)

    def choice(self, key: str, choices: tuple[str, ...]) -> str:
        """The value of ``key=...``; the first of ``choices`` by default.

        Raises:
            ConfigError: another value.
        """
        self._asked[key] = choices
        value = self.values.get(key, choices[0])
        if value not in choices:
            raise ConfigError(f"{key}={value}: expected {', '.join(choices)}")
        return value

    def class_table(self, count: int) -> ClassTable:
        """Names and colours of that many classes.

        Raises:
            ConfigError: the given table has another number of classes.
        """
        if self.classes is not None:
            if self.classes.num_classes != count:
                have = self.classes.num_classes
                raise ConfigError(f"--classes names {have} classes, the checkpoint has {count}")
            return self.classes
        if count in PUBLISHED_TABLES:
            return read_classes(EXAMPLES / f"{PUBLISHED_TABLES[count]}.yaml").labels.table
        return ClassTable(numbered_names(count), default_colours(count))

    def finish(self) -> None:
        """Refuses settings that the converter did not ask for."""
        for key in self.values.keys() - self._asked.keys():
            settings = ", ".join(f"{k}={'|'.join(v)}" for k, v in self._asked.items()) or "none"
            raise ConfigError(f"{key}={self.values[key]}: this source has no such setting (settings: {settings})")


class Weights(dict[str, Tensor]):
    """A backbone's tensors for ``encoder.weights``, by the names its encoder uses.

    Args:
        tensors: by name.
        settings: what to set beside it, as in ``encoder.backbone``: ``resnet50``.
        card: where they came from, see :func:`origin`.
    """

    def __init__(self, tensors: Mapping[str, Tensor], settings: dict[str, str], card: dict[str, object]) -> None:
        super().__init__(tensors)
        self.settings = settings
        self.card = card


@dataclass(frozen=True)
class Source:
    """A kind of published checkpoint.

    Attributes:
        name: as in ``segproto convert NAME FILE``.
        title: one line for people.
        where: address of the files, or of the page that links to them.
        size: about how large a file is.
        license: the licence its authors state, or that they state none.
        paper: citation.
        convert: file and options to a model, or to the tensors of an ``encoder.weights`` file (:class:`Weights`).
    """

    name: str
    title: str
    where: str
    size: str
    license: str
    paper: str
    convert: Callable[[Path, Options], Segmenter | dict[str, Tensor]]


class KeyMap:
    """A published state dict of which every tensor must be used, or be left out by name and with a reason.

    Args:
        state: tensors by published name.
        path: the file, for messages.

    Raises:
        WeightsError: the state is no dict of tensors by name.
    """

    def __init__(self, state: object, path: Path) -> None:
        if not isinstance(state, Mapping) or not all(isinstance(k, str) for k in state):
            raise WeightsError(f"{path}: expected tensors by name, found {type(state).__name__}")
        self.path = path
        self.left: dict[str, object] = dict(state)
        self.used: list[str] = []
        self.dropped: dict[str, str] = {}

    def has(self, name: str) -> bool:
        """Whether this tensor is (still) there."""
        return name in self.left

    def names(self, pattern: str) -> list[str]:
        """Unused names that match a regular expression in full, in the file's order."""
        return [name for name in self.left if re.fullmatch(pattern, name)]

    def take(self, name: str, shape: tuple[int | None, ...] | None = None) -> Tensor:
        """Uses one tensor.

        Args:
            name: published name.
            shape: expected sizes, None where any will do.

        Raises:
            WeightsError: it is missing or of another shape.
        """
        value = self.left.get(name)
        if not isinstance(value, Tensor):
            raise WeightsError(f"{self.path}: {name} is {'missing' if value is None else 'no tensor'}; {self.about()}")
        actual = tuple(value.shape)
        if shape is not None and (
            len(actual) != len(shape) or any(w not in (None, n) for n, w in zip(actual, shape, strict=True))
        ):
            wanted = str(shape).replace("None", "any")
            raise WeightsError(f"{self.path}: {name} has shape {actual}, expected {wanted}")
        self.use(name)
        return value

    def use(self, name: str) -> None:
        """Counts a name as used."""
        del self.left[name]
        self.used.append(name)

    def fill(
        self, module: nn.Module, prefix: str = "", rename: Callable[[str], str] = str, *, skip: tuple[str, ...] = ()
    ) -> None:
        """Fills every tensor of ``module`` from ``prefix + rename(its own name)``.

        Args:
            module: filled in place, once all shapes are checked.
            prefix: of the published names.
            rename: own name to published name after the prefix.
            skip: own names that are filled otherwise.

        Raises:
            WeightsError: a tensor is missing or of another shape (batch counters of norms may be missing).
        """
        state = {}
        for own, value in module.state_dict().items():
            name = prefix + rename(own)
            if own in skip or (own.endswith("num_batches_tracked") and name not in self.left):
                continue
            state[own] = self.take(name, tuple(value.shape))
        module.load_state_dict(state, strict=False)

    def set(self, target: Tensor, name: str, value: Tensor) -> None:
        """Copies ``value`` (what became of the tensor ``name``) into a parameter or buffer.

        Raises:
            WeightsError: the shapes differ.
        """
        if target.shape != value.shape:
            shapes = f"{tuple(value.shape)}, expected {tuple(target.shape)}"
            raise WeightsError(f"{self.path}: {name} gives a tensor of shape {shapes}")
        with torch.no_grad():
            target.copy_(value)

    def drop(self, pattern: str, reason: str) -> None:
        """Leaves out every name that matches a regular expression; the model's card lists them with the reason."""
        for name in self.names(pattern):
            del self.left[name]
            self.dropped[name] = reason

    def finish(self) -> None:
        """Refuses names that were neither used nor left out.

        Raises:
            WeightsError: naming the first few.
        """
        if self.left:
            names = ", ".join(list(self.left)[:SHOWN])
            if len(self.left) > SHOWN:
                names += " ..."
            raise WeightsError(f"{self.path}: {len(self.left)} tensors are not known here: {names}; another model?")

    def about(self) -> str:
        """A few of the unused names, for messages."""
        return f"the file has {', '.join(list(self.left)[:SHOWN]) or 'nothing more'} ({len(self.left)} unused)"


def finished(model: Segmenter, keys: KeyMap, source: Source, notes: list[str], method: str | None = None) -> Segmenter:
    """The converted model in eval mode, with its card; refuses tensors that nothing used.

    Args:
        model: all its tensors filled.
        keys: where they came from.
        source: the kind of checkpoint.
        notes: what a user of the published code must know, a sentence each.
        method: public name of the method; default: the source's name.

    Raises:
        WeightsError: tensors are left.
    """
    keys.finish()
    model.card |= {"method": method or source.name, "stage": "published", "converted": origin(keys, source, notes)}
    return model.eval()


def origin(keys: KeyMap, source: Source, notes: list[str]) -> dict[str, object]:
    """Where a converted model or weights file came from, JSON-ready."""
    reasons: dict[str, list[str]] = {}
    for name, reason in keys.dropped.items():
        reasons.setdefault(reason, []).append(name)
    return {
        "source": source.name,
        "title": source.title,
        "file": keys.path.name,
        "sha256": sha256(keys.path),
        "where": source.where,
        "paper": source.paper,
        "license": source.license,
        "tensors_used": len(keys.used),
        "left_out": reasons,
        "notes": notes,
    }


def sha256(path: Path) -> str:
    """Of a file."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
