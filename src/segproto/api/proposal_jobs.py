"""The work of ``segproto propose``: settings, the folder it writes, and the processes that share the images."""

from __future__ import annotations

import json
import multiprocessing
import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pydantic import BaseModel, ConfigDict

from segproto.data.unlabelled import ImageFolder
from segproto.encoders.build import build_encoder
from segproto.encoders.config import EncoderConfig
from segproto.errors import ConfigError, SegprotoError
from segproto.files import is_empty, write_json
from segproto.files.documents import read_object
from segproto.files.keys import shown
from segproto.model.fingerprint import encoder_hash
from segproto.orphans import end_with_parent
from segproto.runs.models import chosen_device
from segproto.training.procedures.propose import ProposeConfig, propose_files
from segproto.training.progress import Bar, Reporter, reporting
from segproto.training.recipe import apply_overrides, validate_recipe

if TYPE_CHECKING:
    from segproto.encoders.base import Encoder

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
    images: Path, out: Path, overrides: Sequence[str], processes: int | None, device: str | None, quiet: bool
) -> dict[str, Any]:
    """See :func:`segproto.api.propose.propose`."""
    settings = read_settings(overrides)
    dataset = ImageFolder(images)
    chosen = chosen_device(device)
    encoder = build_encoder(settings.encoder).eval()
    take(out, settings, encoder_hash(encoder))
    if images.is_file():
        from segproto.report.proposals_page import single_image

        return single_image(encoder.to(chosen), dataset, settings.proposals, out)
    world = processes or (1 if chosen.type != "cpu" else os.cpu_count() or 1)
    world = max(1, min(world, len(dataset)))
    share(settings, images, out, world, str(chosen), Reporter(active=not quiet), len(dataset))
    return {"images": len(dataset), "masks": str(out / "masks"), "overlays": str(out / "overlays")}


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


def share(
    settings: ProposeSettings, images: Path, out: Path, world: int, device: str, reporter: Reporter, total: int
) -> None:
    """Runs the processes and shows how far they are.

    Raises:
        SegprotoError: the first error of any of them.
    """
    if world == 1 and device != "cpu":
        with reporting(reporter):
            work(0, 1, settings, images, out, device, None, None)
        return
    context = multiprocessing.get_context("spawn")
    done = context.Array("q", world)
    failures = context.Queue()
    arguments = [(rank, world, settings, images, out, device, done, failures) for rank in range(world)]
    workers = [context.Process(target=work, args=some, daemon=True) for some in arguments]
    for worker in workers:
        worker.start()
    with reporter.bar("propose", total) as bar:
        try:
            while any(worker.is_alive() for worker in workers):
                for worker in workers:
                    worker.join(0.2 / world)
                bar(sum(done[:]), total)
                if any(worker.exitcode not in (None, 0) for worker in workers):
                    break
        finally:
            for worker in workers:
                if worker.is_alive():
                    worker.terminate()
                worker.join()
    if not failures.empty():
        raise SegprotoError(failures.get())
    bad = [worker.exitcode for worker in workers if worker.exitcode]
    if bad:
        raise SegprotoError(
            f"{out}: a process ended with code {bad[0]} (out of memory?); run the command again to go on"
        )


def work(
    rank: int, world: int, settings: ProposeSettings, images: Path, out: Path, device: str, done: Any, failures: Any
) -> None:
    """One process's share."""
    end_with_parent()
    import torch

    if device == "cpu":
        torch.set_num_threads(1)  # the same sums, and so the same bits, for any number of processes
    try:
        encoder: Encoder = build_encoder(settings.encoder).eval().to(torch.device(device))
        dataset, masks = ImageFolder(images), out / "masks"
        if done is None:
            propose_files(encoder, dataset, settings.proposals, masks, overlays=out / "overlays")
            return
        with reporting(Counting(done, rank)):
            propose_files(
                encoder, dataset, settings.proposals, masks, overlays=out / "overlays", rank=rank, world=world
            )
    except SegprotoError as error:
        if failures is None:
            raise
        failures.put(str(error))
        failures.close()
        failures.join_thread()
        raise SystemExit(2) from None


class Counting(Reporter):
    """Tells another process how many images are done.

    Args:
        done: shared integers, one per process.
        rank: the own one.
    """

    def __init__(self, done: Any, rank: int) -> None:
        super().__init__(active=False)
        self._done, self._rank = done, rank

    @contextmanager
    def bar(self, title: str, total: int, done: int = 0) -> Iterator[Bar]:
        """A bar that is a number in shared memory."""
        yield _SharedBar(self._done, self._rank)


class _SharedBar(Bar):
    def __init__(self, shared: Any, rank: int) -> None:
        super().__init__(None, None)
        self._shared, self._rank = shared, rank

    def __call__(self, done: int, total: int) -> None:
        self._shared[self._rank] = done
