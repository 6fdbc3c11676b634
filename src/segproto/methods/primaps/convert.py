"""Checkpoints of PriMaPs-EM, and of STEGO and HP, whose codes it boosts. Nothing in a file is run."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch.nn.functional as F
from torch import Tensor

from segproto import foreign
from segproto.encoders.build import build_encoder
from segproto.encoders.config import EncoderConfig
from segproto.errors import WeightsError
from segproto.files.documents import read_object
from segproto.foreign.records import Record
from segproto.interop.conversion import KeyMap, Options, Source, finished
from segproto.methods.primaps.build import category_table
from segproto.model.direction_head import DirectionBank, DirectionHead
from segproto.model.segmenter import Segmenter

LINEAR = "projection_type: linear; the nonlinear map is there and zero"
VITS = {  # (channels, patch): timm's name
    (384, 8): "vit_small_patch8_224.dino",
    (384, 16): "vit_small_patch16_224.dino",
    (768, 8): "vit_base_patch8_224.dino",
    (768, 16): "vit_base_patch16_224.dino",
    (384, 14): "vit_small_patch14_dinov2.lvd142m",
    (768, 14): "vit_base_patch14_dinov2.lvd142m",
}


def section(value: Any, name: str, path: Path) -> Any:
    """One entry of a file's outermost dict.

    Raises:
        WeightsError: it is not there.
    """
    if not isinstance(value, dict) or name not in value:
        present = ", ".join(map(str, list(value)[:6])) if isinstance(value, dict) else type(value).__name__
        raise WeightsError(f"{path}: expected an entry {name!r}, found {present}")
    return value[name]


def model_of(keys: KeyMap, prefix: str, directions: Tensor, gains: Tensor | None, codes: str | None) -> Segmenter:
    """The model whose ViT lies under ``prefix`` and whose code head, if any, under ``codes``; sizes are read off.

    Raises:
        WeightsError: the backbone is not in the file, or none that is known.
    """
    patch = keys.left.get(f"{prefix}patch_embed.proj.weight")
    if not isinstance(patch, Tensor):
        raise WeightsError(
            f"{keys.path}: holds no backbone ({prefix}patch_embed...): it was trained on STEGO or HP; convert their "
            "file and train on that"
        )
    size = (patch.shape[0], patch.shape[-1])
    if size not in VITS:
        raise WeightsError(f"{keys.path}: a ViT of {size[0]} channels, patch {size[1]}; expected one of {list(VITS)}")
    config = EncoderConfig(backbone=VITS[size], frozen=True, squash="none", neck="identity")
    if codes is not None:
        config = config.model_copy(update={"neck": "codes", "dim": directions.shape[1]})
    encoder = build_encoder(config, load_weights=False)
    vit = encoder.backbone.get_submodule("taps.net")
    keys.drop(rf"{prefix}mask_token".replace(".", r"\."), "a token of the ViT's own training")
    keys.fill(vit, prefix)
    if codes is not None:
        keys.fill(encoder.neck, codes)
    head = DirectionHead(DirectionBank(directions, gains))
    card = {"found_categories": True, "labels": []}
    return Segmenter(encoder, head, category_table(len(directions)), card=card)


def convert_stego(path: Path, options: Options) -> Segmenter:
    """A Lightning checkpoint of STEGO: DINO, codes, and the cluster probe as directions."""
    file = foreign.read(path)
    keys = KeyMap(section(file, "state_dict", path), path)
    require_features(file, path)
    clusters = keys.take("cluster_probe.clusters", (None, None))
    keys.drop(r"train_cluster_probe\..*", "a second cluster probe, unused")
    keys.drop(r"linear_probe\..*", "a classifier trained on labels")
    keys.drop(r"decoder\..*", "decoder of an unused loss")
    linear = fill_linear(keys, "net.")
    model = model_of(keys, "net.model.", clusters, None, "net.")
    keys.drop(r"net\.(model\.head|dino_cluster_head).*", "unused head")
    notes = [f"codes are linear ({LINEAR})"] if linear else []
    notes += [
        "dropout is off (PriMaPs' release left it on: encoder.code_dropout=always)",
        "logits are products with unit directions; STEGO's are twice the cosine, with the same largest one",
    ]
    return finished(model, keys, STEGO, notes, "primaps")


def fill_linear(keys: KeyMap, prefix: str) -> bool:
    """Gives codes without the nonlinear map one that is zero; whether they are without.

    Raises:
        WeightsError: there is no map at all (``projection_type: null``), so the codes are the features themselves.
    """
    if keys.has(f"{prefix}cluster2.0.weight"):
        return False
    if not keys.has(f"{prefix}cluster1.0.weight"):
        raise WeightsError(
            f"{keys.path}: has no code head ({prefix}cluster1.0.weight; projection_type: null): its codes are the "
            "backbone's features; use primaps on the backbone itself"
        )
    weight = keys.left[f"{prefix}cluster1.0.weight"]
    if not isinstance(weight, Tensor) or weight.ndim != 4:
        raise WeightsError(f"{keys.path}: {prefix}cluster1.0.weight is no 1x1 convolution's")
    dim, channels = weight.shape[:2]
    for name, size in (("0.weight", (channels, channels, 1, 1)), ("0.bias", (channels,)),
                       ("2.weight", (dim, channels, 1, 1)), ("2.bias", (dim,))):  # fmt: skip
        keys.left[f"{prefix}cluster2.{name}"] = weight.new_zeros(size)
    return True


def require_features(file: Any, path: Path) -> None:
    """Refuses a file whose own configuration computes its codes of something else than the features.

    Raises:
        WeightsError: ``dino_feat_type`` is not ``feat``.
    """
    chosen = setting(setting(setting(file, "hyper_parameters"), "cfg"), "dino_feat_type")
    if chosen not in (None, "feat"):
        raise WeightsError(
            f"{path}: was trained with dino_feat_type: {chosen}, so its codes are of the keys of the last attention, "
            "not of the features (feat); segproto computes codes of features only, and would give wrong ones"
        )


def setting(value: Any, name: str) -> Any:
    """An entry of a mapping or of an OmegaConf configuration, read as records; None where there is none."""
    if isinstance(value, Record):
        state = value.state if isinstance(value.state, dict) else {}
        value = {**value.entries, **value.attributes, **state}
        value = value.get("_content", value)
    stored = value.get(name) if isinstance(value, dict) else None
    if isinstance(stored, Record) and "_val" in (held := {**stored.attributes, **(stored.state or {})}):
        return held["_val"]
    return stored


def convert_hp(path: Path, options: Options) -> Segmenter:
    """``ckpt.pth`` of HP: DINO, the student's codes, and the cluster probe; ``option.json`` beside it is looked at."""
    file = foreign.read(path)
    keys = KeyMap(section(file, "net_model_state_dict", path), path)
    clusters = section(section(file, "cluster_model_state_dict", path), "clusters", path)
    prefix = "module." if keys.has("module.cluster1.0.weight") else ""
    keys.drop(rf"{prefix}ema_model\d\..*".replace("module.", r"module\."), "moving average, used in training only")
    linear = fill_linear(keys, prefix)
    model = model_of(keys, f"{prefix}model.", clusters, None, prefix)
    notes = [f"codes are linear ({LINEAR})"] if linear else []
    notes += ["codes are the student's, not the moving average's, as PriMaPs uses them"]
    notes += [f"option.json: {line}" for line in option_lines(path.with_name("option.json"))]
    return finished(model, keys, HP, notes, "primaps")


def option_lines(path: Path) -> list[str]:
    """What HP's ``option.json`` says of data and network; nothing if it is not there.

    Raises:
        WeightsError: it is no JSON.
    """
    if not path.is_file():
        return []
    value = read_object(path, WeightsError)
    inner = [part for part in (value.get("dataset"), value.get("model")) if isinstance(part, dict)]
    flat = {key: item for part in (value, *inner) for key, item in part.items()}
    wanted = ("data_type", "dataset_name", "num_classes", "dim", "arch", "pretrained")
    return [f"{key} {flat[key]}" for key in wanted if isinstance(flat.get(key), str | int)]


def convert_primaps(path: Path, options: Options) -> Segmenter:
    """A Lightning checkpoint of PriMaPs: the backbone, and the directions of the teacher (or the student)."""
    keys = KeyMap(section(foreign.read(path), "state_dict", path), path)
    which = options.choice("prototypes", ("teacher", "student"))
    baseline = keys.has("cluster_probe.cluster_centers.weight_v")
    teacher = "cluster_probe.cluster_centers." if baseline else "cluster_probe.ema_model."
    prefix = teacher if which == "teacher" else "seghead."
    directions = keys.take(f"{prefix}weight_v", (None, None, 1, 1)).flatten(1)
    gains = keys.take(f"{prefix}weight_g", (len(directions), 1, 1, 1)).flatten()
    keys.drop(r"(cluster_probe|seghead)\..*", "directions that were not asked for")
    keys.drop(r"linear_probe\..*", "a classifier trained on labels")
    model = model_of(keys, "net.model.", F.normalize(directions, dim=1), gains, None)
    notes = [f"directions of the {'k-means baseline' if baseline and which == 'teacher' else which}"]
    return finished(model, keys, PRIMAPS, notes, "primaps")


STEGO = Source(
    name="stego",
    title="STEGO on DINO (codes and clusters; boost it with a primaps/...-stego recipe)",
    where="https://github.com/mhamilton723/STEGO (src/download_models.py)",
    size="about 350 MB (ViT-B), 90 MB (ViT-S)",
    license="MIT (code); see the repository for the files",
    paper="M. Hamilton, Z. Zhang, B. Hariharan, N. Snavely, W. Freeman: Unsupervised Semantic Segmentation by "
    "Distilling Feature Correspondences, ICLR 2022",
    convert=convert_stego,
)
HP = Source(
    name="hp",
    title="HP on DINO (codes and clusters; boost it with a primaps/...-hp recipe)",
    where="https://github.com/hynnsk/HP",
    size="about 100 to 350 MB",
    license="see the repository",
    paper="H. Seong, W. Moon, S. Lee, J. Heo: Leveraging Hidden Positives for Unsupervised Semantic "
    "Segmentation, CVPR 2023",
    convert=convert_hp,
)
PRIMAPS = Source(
    name="primaps",
    title="PriMaPs-EM, baseline or method, on DINO or DINOv2",
    where="https://github.com/visinf/primaps",
    size="about 90 to 350 MB",
    license="Apache-2.0 (code); see the repository for the files",
    paper="O. Hahn, N. Araslanov, S. Schaub-Meyer, S. Roth: Boosting Unsupervised Semantic Segmentation with Principal "
    "Mask Proposals, TMLR 2024",
    convert=convert_primaps,
)
SOURCES = (HP, PRIMAPS, STEGO)
