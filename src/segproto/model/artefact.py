"""A model on disk: ``model.safetensors``, ``model.json``, ``prototypes.json``, ``prototypes/*.png``, ``SHA256SUMS``."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import safetensors
from pydantic import ValidationError
from safetensors.torch import load_file
from torch import Tensor

from segproto.data.base import ClassTable
from segproto.data.pixels import PLAIN, PixelRule
from segproto.encoders.build import build_encoder
from segproto.encoders.config import EncoderConfig
from segproto.encoders.view import View
from segproto.errors import DataError, WeightsError
from segproto.files import fill, fill_tensors, fresh_folder, old_of, sums
from segproto.files.documents import checked, read_checked, read_json, read_object
from segproto.files.keys import shown
from segproto.files.reading import read_bytes, require_ordinary
from segproto.foreign.allocations import bounded
from segproto.model.description import Description, Sources
from segproto.model.forgotten import ForgottenPatch, out_of_the_card, require_fitting
from segproto.model.head import Head, HeadDescription
from segproto.model.heads import build_head
from segproto.model.provenance import Provenance
from segproto.model.segmenter import Segmenter
from segproto.model.soundness import require_sound

MOST_OF_A_PATCH = 2**26  # bytes
FORMAT, VERSION = "segproto-model", 1
PICTURES = ("prototypes/*.png", "prototypes/*.jpg")  # of single patches, or of images that patches are cut from
HOLDS = ("model.json", "model.safetensors", "prototypes.json", *PICTURES, "README.md", "edit.json", sums.NAME)


def describe(model: Segmenter) -> dict[str, Any]:
    """What ``model.json`` holds: everything but tensors and provenance."""
    encoder = model.encoder.config.model_dump(mode="json", exclude={"weights"}) | {"pretrained": False}
    norm = {"mean": list(model.encoder.normalisation.mean), "std": list(model.encoder.normalisation.std)}
    value = {
        "format": FORMAT,
        "version": VERSION,
        "encoder": encoder,
        "preprocessing": norm,
        **({} if model.encoder.pixels == PLAIN else {"pixels": model.encoder.pixels.to_json()}),
        **({} if model.encoder.view == View() else {"view": model.encoder.view.to_json()}),
        "head": model.head.describe(),
        "classes": model.classes.to_json(),
        "card": model.card,
    }
    if model.input_size is not None:
        value["input_size"] = model.input_size
    if model.forgotten:
        value["forgotten"] = [patch.to_json() for patch in model.forgotten]
    return value


def save(
    model: Segmenter,
    folder: Path,
    advice: str = "free some space",
    more: Callable[[Path], None] | None = None,
) -> None:
    """Writes the artefact beside ``folder`` first and then puts it in place, so that a crash leaves the old one.

    Args:
        model: what to write.
        folder: a new or empty folder, or that of an artefact, which is replaced.
        advice: what to do about a full disk.
        more: writes what else belongs into the folder before it is put in place.

    Raises:
        ConfigError: the folder holds something else than an artefact, which is left as it is.
        SegprotoError: the disk is full or refused; nothing of an artefact already at ``folder`` is lost.
    """
    with fresh_folder(Path(folder), HOLDS, is_artefact, advice) as fresh:
        write_files(model, fresh)
        sums.write_sums(fresh)
        if more is not None:
            more(fresh)


def write_files(model: Segmenter, folder: Path) -> None:
    """Writes the artefact's files into an empty folder."""
    fill_tensors(folder / "model.safetensors", model.state_dict())
    fill(folder / "model.json", json.dumps(describe(model), indent=1))
    if model.provenance is not None:
        fill(folder / "prototypes.json", json.dumps(model.provenance.to_json(), indent=1))
    if model.patches:
        (folder / "prototypes").mkdir()
    for name, png in model.patches.items():
        fill(folder / name, png)


def is_artefact(folder: Path) -> bool:
    """Whether a folder's ``model.json`` says that it is one."""
    try:
        return bool(read_object(folder / "model.json")["format"] == FORMAT)
    except (DataError, KeyError):
        return False


def load(folder: Path) -> Segmenter:
    """Reads an artefact, on the CPU and in eval mode.

    Args:
        folder: a model folder, or a run folder that holds ``model/``.

    Raises:
        WeightsError: no artefact there, a newer format, a damaged file, tensors that do not fit, or a model that
            contradicts itself (:func:`segproto.model.soundness.require_sound`).
    """
    folder = find_model(Path(folder))
    sums.check_sums(folder, f"bring it back from a copy; if you changed it on purpose, remove {folder / sums.NAME}")
    file = folder / "model.json"
    value = read_json(file, WeightsError)
    if not isinstance(value, dict):
        raise WeightsError(f"{file}: expected an object, found {shown(value)}")
    version = value.get("version", 0)
    if value.get("format") != FORMAT or not isinstance(version, int) or version > VERSION:
        stated = f"{shown(value.get('format'))} version {shown(value.get('version'))}"
        raise WeightsError(f"{file}: expected {FORMAT} version <= {VERSION}, found {stated}")
    description = checked(out_of_the_card(value), Description, file, WeightsError)
    tensors = read_tensors(folder / "model.safetensors")
    with bounded(file, sum(tensor.nbytes for tensor in tensors.values())):
        model = build(file, description)
    check_keys(folder / "model.safetensors", {k: tuple(v.shape) for k, v in model.state_dict().items()}, tensors)
    if (folder / "prototypes.json").exists():
        sources = read_checked(folder / "prototypes.json", Sources, WeightsError)
        model.provenance = Provenance.from_json(sources.model_dump())
    elif description.resting is not None:
        sources = Sources(encoder_hash="", dataset="", sources=description.resting)
        model.provenance = Provenance.from_json(sources.model_dump())
    model.forgotten = tuple(ForgottenPatch(**patch.model_dump()) for patch in description.forgotten)
    require_fitting(model, file)
    require_sound(model, tensors, folder)
    model.load_state_dict(tensors)
    model.patches = {f"prototypes/{p.name}": read_patch(p) for p in sorted(folder.glob("prototypes/*.[pj][np]g"))}
    return model.eval()


def build(file: Path, description: Description) -> Segmenter:
    """The model that ``model.json`` describes, without its weights."""
    encoder = build_encoder(encoder_config(file.parent, description.encoder), load_weights=False)
    norm = description.preprocessing.mean, description.preprocessing.std
    if encoder.normalisation != norm:
        encoder.normalisation = type(encoder.normalisation)(*norm)
    encoder.pixels = PixelRule(**description.pixels.model_dump())
    encoder.view = View(**description.view.model_dump())
    classes = ClassTable.from_json(description.classes.model_dump())
    return Segmenter(
        encoder,
        described_head(file, description.head),
        classes,
        card=description.card,
        input_size=description.input_size,
    )


def read_tensors(path: Path) -> dict[str, Tensor]:
    """The tensors of a safetensors file.

    Raises:
        WeightsError: it is missing or damaged.
    """
    require_ordinary(path, WeightsError)
    try:
        tensors: dict[str, Tensor] = load_file(path)
    except (OSError, ValueError, KeyError, safetensors.SafetensorError) as error:
        raise WeightsError(f"{path}: cannot be read ({error})") from error
    return tensors


def read_patch(path: Path) -> bytes:
    """The picture of a prototype's patch, as it is stored."""
    return read_bytes(path, MOST_OF_A_PATCH, WeightsError)


def described_head(file: Path, value: HeadDescription) -> Head:
    """The head that ``model.json`` describes.

    Raises:
        WeightsError: an unknown kind, or settings that it does not take.
    """
    try:
        return build_head(value)
    except (KeyError, TypeError, ValueError, IndexError, AttributeError, OverflowError, RuntimeError) as error:
        reason = (str(error).splitlines() or [type(error).__name__])[0][:200]
        raise WeightsError(f"{file}: its head describes no model ({reason})") from error


def encoder_config(folder: Path, value: dict[str, Any]) -> EncoderConfig:
    """The settings of an artefact's encoder.

    Raises:
        WeightsError: a key or a name that is unknown here, as of an encoder that was registered where it was trained.
    """
    try:
        return EncoderConfig(**value)
    except ValidationError as error:
        first = error.errors()[0]
        key = ".".join(str(part) for part in ("encoder", *first["loc"]))
        hint = "what is not shipped must be registered before a model is loaded (docs/extend/encoder.md)"
        raise WeightsError(f"{folder}/model.json: {key} = {shown(first['input'])}: {first['msg']}; {hint}") from None


def find_model(folder: Path) -> Path:
    """The artefact in a model or run folder; the one before it where a crash left only that."""
    for candidate in (folder, folder / "model"):
        for tried in (candidate, old_of(candidate)):
            if (tried / "model.json").exists():
                return tried
    hint = "an unfinished run: continue it with --resume" if (folder / "recipe.yaml").exists() else "not a model"
    raise WeightsError(f"{folder}: no model.json there or in model/ ({hint})")


def check_keys(file: Path, expected: dict[str, tuple[int, ...]], tensors: dict[str, Any]) -> None:
    """Names the first tensor that is missing, unknown or of another shape."""
    for name in expected.keys() ^ tensors.keys():
        where = "missing from" if name in expected else "unknown in"
        raise WeightsError(f"{file}: tensor {name} is {where} the file")
    for name, shape in expected.items():
        if tuple(tensors[name].shape) != shape:
            stored = tuple(tensors[name].shape)
            raise WeightsError(f"{file}: {name} has shape {stored}, expected {shape}")
