"""Published checkpoints to models of ours: all sources of all methods behind one verb."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from segproto.errors import ConfigError, WeightsError
from segproto.files import place, require, require_folder, write_tensors
from segproto.files.reading import require_ordinary

if TYPE_CHECKING:
    from segproto.interop.conversion import Source, Weights

PathLike = str | Path


def conversion_sources() -> dict[str, Source]:
    """All published checkpoints that can be converted, by name."""
    from segproto.interop.backbones import SOURCES
    from segproto.methods import METHODS

    of_methods = [source for method in METHODS.values() for source in method.sources]
    return {source.name: source for source in sorted([*of_methods, *SOURCES], key=lambda s: s.name)}


def convert(
    source: str, file: PathLike, *, out: PathLike, classes: PathLike | None = None, overrides: Sequence[str] = ()
) -> dict[str, Any]:
    """Converts a published checkpoint; nothing in the file is run.

    Args:
        source: name of the kind of checkpoint, see :func:`conversion_sources`.
        file: the published file.
        out: model folder to write; of a backbone: the ``.safetensors`` file for ``encoder.weights``.
        classes: a ``classes.yaml`` or the name of a shipped one; default: known by the number of classes.
        overrides: ``key=value`` settings of the source.

    Returns:
        ``out``, ``kind`` (``model`` or ``weights``), ``settings`` (what a recipe sets beside weights) and the card.

    Raises:
        ConfigError: an unknown source or setting, or an ``out`` that holds something else.
        WeightsError: the file is damaged, hostile or of another kind.
    """
    from segproto.data.classes import find_classes, read_classes
    from segproto.foreign.allocations import bounded
    from segproto.interop.conversion import Options
    from segproto.model.segmenter import Segmenter
    from segproto.table import nearest

    sources = conversion_sources()
    if source not in sources:
        raise ConfigError(f"source {source!r} is unknown; {nearest(source, sources)} (segproto convert --list)")
    out = place(out)
    check_free(out)
    table = None if classes is None else read_classes(find_classes(Path(classes), Path())).labels.table
    if wrong := [value for value in overrides if "=" not in value]:
        raise ConfigError(f"{wrong[0]!r}: expected key=value")
    options = Options(table, dict(value.split("=", 1) for value in overrides))
    with bounded(file, require_ordinary(Path(file), WeightsError)), surprises(Path(file), source):
        converted = sources[source].convert(Path(file), options)
    options.finish()
    if isinstance(converted, Segmenter):
        converted.save(out)
        return {"out": str(out), "kind": "model", "settings": {}, **converted.card["converted"]}
    return write_weights(converted, out, sources[source])  # type: ignore[arg-type]


@contextmanager
def surprises(file: Path, source: str) -> Iterator[None]:
    """What a converter stumbles over, which takes its words from a stranger's file, is that file's fault.

    Raises:
        WeightsError: naming the file and the reason.
    """
    try:
        yield
    except (TypeError, ValueError, LookupError, AttributeError, ArithmeticError, RuntimeError) as error:
        reason = " ".join(str(error).split())[:200] or type(error).__name__
        raise WeightsError(
            f"{file}: holds something else than a {source} checkpoint as published ({reason}); download it again, or "
            "see segproto convert --list"
        ) from error


def check_free(out: Path) -> None:
    """Refuses to replace anything but an artefact, or weights that were converted before.

    Raises:
        ConfigError: something else is there.
    """
    from segproto.model.artefact import HOLDS, is_artefact

    if out.is_dir():
        require_folder(out, HOLDS, is_artefact)
    else:
        require(out, "weights")


def write_weights(weights: Weights, out: Path, source: Source) -> dict[str, Any]:
    """Writes tensors for ``encoder.weights``, with where they came from in the file's metadata."""
    if out.suffix != ".safetensors":
        raise ConfigError(f"--out {out}: {source.name} gives backbone weights; name a .safetensors file")
    card = getattr(weights, "card", {"source": source.name, "license": source.license, "paper": source.paper})
    settings = {**getattr(weights, "settings", {}), "encoder.weights": str(out)}
    metadata = {"converted": json.dumps(card), "settings": json.dumps(settings)}
    write_tensors(out, dict(weights), "weights", metadata)
    return {"out": str(out), "kind": "weights", "settings": settings, **card}
