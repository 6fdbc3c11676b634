"""The work of ``segproto propose``: settings, the folder it writes, and who does which images."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from pydantic import BaseModel, ConfigDict

from segproto.data.unlabelled import ImageFolder
from segproto.encoders.build import build_encoder
from segproto.encoders.config import EncoderConfig
from segproto.errors import ConfigError
from segproto.files import is_empty, write_json
from segproto.files.documents import read_object
from segproto.files.keys import shown
from segproto.model.fingerprint import encoder_hash
from segproto.runs.models import chosen_device
from segproto.training.procedures.propose import ProposeConfig, propose_files
from segproto.training.progress import Reporter, reporting
from segproto.training.recipe import apply_overrides, validate_recipe
from segproto.training.sharing import shared

NEUTRAL = {"neck": "identity", "squash": "none", "frozen": True}
BACKBONE = "vit_small_patch8_224.dino"


class ProposeSettings(BaseModel):
    """What ``segproto propose`` takes as ``key=value``.

    Attributes:
        encoder: whose features are grouped; by default without neck and squashing.
        proposals: how.
    """

    model_config = ConfigDict(extra="forbid")

    encoder: EncoderConfig = EncoderConfig(**NEUTRAL)
    proposals: ProposeConfig = ProposeConfig()


def read_settings(overrides: Sequence[str]) -> ProposeSettings:
    """The checked settings.

    Raises:
        ConfigError: an unknown key, a value out of range, or an encoder without weights.
    """
    base = {"encoder": {**NEUTRAL, "backbone": BACKBONE}, "proposals": {}}
    other_encoders = [key for key in overrides if key.startswith("encoder.name=") and key != "encoder.name=timm"]
    if other_encoders:
        del base["encoder"]["backbone"]
    settings = validate_recipe(apply_overrides(base, overrides, ProposeSettings), ProposeSettings)  # type: ignore[type-var]
    assert isinstance(settings, ProposeSettings)
    encoder = settings.encoder
    if encoder.weights is None and not encoder.pretrained:
        raise ConfigError(
            f"encoder.weights: proposals of an untrained {encoder.backbone or encoder.name} mean nothing; give a file "
            "(encoder.weights=FILE), or encoder.pretrained=true to download them"
        )
    return settings


def run(
    images: Path, out: Path, overrides: Sequence[str], devices: int | None, device: str | None, quiet: bool
) -> dict[str, Any]:
    """See :func:`segproto.api.propose.propose`."""
    settings, dataset = read_settings(overrides), ImageFolder(images)
    with shared(devices, device, out, "run the command again to go on") as share, one_thread_each() as threads:
        chosen = chosen_device(share.device)
        encoder = build_encoder(settings.encoder).eval()
        share.do_first(lambda: take(out, settings, encoder_hash(encoder)))
        encoder.to(chosen)
        if images.is_file():
            from segproto.report.proposals_page import single_image

            found = single_image(encoder, dataset, settings.proposals, out) if share.first else {}
            return share.gather(found)[0]
        with reporting(Reporter(active=share.first and not quiet)):
            propose_files(
                encoder,
                dataset,
                settings.proposals,
                out / "masks",
                overlays=out / "overlays",
                rank=share.rank,
                world=share.world,
                threads=threads if chosen.type == "cpu" else 0,
            )
        share.gather(None)  # none says that all is done before it is
    return {"images": len(dataset), "masks": str(out / "masks"), "overlays": str(out / "overlays")}


@contextmanager
def one_thread_each() -> Iterator[int]:
    """Each image takes one thread of the CPU, so that sums, and with them the bits, are those of any machine.

    Yields:
        How many threads torch would have taken: as many images are worked on at once.
    """
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield threads
    finally:
        torch.set_num_threads(threads)


def take(out: Path, settings: ProposeSettings, fingerprint: str) -> None:
    """Sees that ``out`` is new or holds proposals of the same settings.

    Raises:
        ConfigError: naming the first setting that differs.
    """
    recorded = settings.model_dump(mode="json", exclude={"encoder": {"weights", "pretrained"}})
    value = json.loads(json.dumps({**recorded, "encoder_hash": fingerprint}))
    file = out / "propose.json"
    if file.is_file():
        earlier = read_object(file, ConfigError, "name another --out")
        for section, new in value.items():
            if earlier.get(section) != new:
                raise ConfigError(
                    f"{out}: holds proposals made with {section} = {shown(earlier.get(section))}, now it is {new}; "
                    "give another --out"
                )
    elif out.exists() and not is_empty(out):
        raise ConfigError(f"{out}: is not empty and holds no proposals (no propose.json); give another --out")
    else:
        write_json(file, value, None)
