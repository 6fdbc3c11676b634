"""A run killed while it writes masks, steps or while the last stage trains ends with the bits of one that was not."""

from __future__ import annotations

import json
import multiprocessing
import os
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
import pytest
import torch
from torch import Tensor

from segproto.methods.pixelcontrast import METHOD, masks
from segproto.runs.catalogue import read_recipe
from segproto.training.loop import Loop
from segproto.training.recipe import apply_overrides, validate_recipe
from segproto.training.runner import run

pytestmark = pytest.mark.precision

SETTINGS = [
    "data.scenes={size: 32, num_train: 4, num_val: 1}",
    "data.augment.crop=32",
    "encoder={width: 4, dim: 4, rates: [1]}",
    "train={batch_size: 2, threads: 1, accelerator: cpu, checkpoint_every: 2}",
    "stages.contrast.steps=1",
    "stages.affinity.steps=1",
    "stages.segment.steps=5",
    "stages.masks.log_steps=2",
]


def train(out: Path, *, resume: bool = False) -> None:
    value = apply_overrides(read_recipe(f"{METHOD.name}/scenes"), SETTINGS)
    run(METHOD, validate_recipe(value, METHOD.recipe), out, resume=resume, quiet=True)


def die() -> None:
    os.kill(os.getpid(), signal.SIGKILL)


def killed_in_mask(out: Path) -> None:
    def half(tensors: dict[str, Tensor], file: BinaryIO) -> None:
        done[0] += 1
        if done[0] == 3:
            file.write(b"\x89PNG")
            file.flush()
            die()
        whole(tensors, file)

    done, whole, masks.save_mask = [0], masks.save_mask, half
    train(out)


def killed_in_steps(out: Path) -> None:
    def half(file: Any, **arrays: Any) -> None:
        whole(file, **arrays)
        done[0] += "truth" in arrays
        if done[0] == 2:
            file.truncate(100)
            file.flush()
            die()

    done, whole, np.savez_compressed = [0], np.savez_compressed, half
    train(out)


def killed_in_segment(out: Path) -> None:
    class Dying(Loop):
        def run(self) -> dict[str, Any]:
            if self.stage.name == "segment":
                whole, done = torch.optim.Adam.step, [0]

                def step(*args: Any, **options: Any) -> Any:
                    done[0] += 1
                    if done[0] == 4:
                        die()
                    return whole(*args, **options)

                torch.optim.Adam.step = step  # type: ignore[method-assign, assignment]
                torch.optim.AdamW.step = step  # type: ignore[method-assign, assignment]
            return super().run()

    import segproto.training.runner as runner

    runner.Loop = Dying  # type: ignore[misc]
    train(out)


def products(out: Path) -> dict[str, Any]:
    """The bytes of all files but checkpoints and journal; results without time."""
    contents: dict[str, Any] = {}
    for path in out.rglob("*"):
        name = path.relative_to(out).as_posix()
        if path.is_file() and not name.startswith("checkpoints") and name != "metrics.jsonl":
            contents[name] = path.read_bytes()
            if path.name == "result.json":
                contents[name] = {k: v for k, v in json.loads(contents[name]).items() if k != "seconds"}
    return contents


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    out = tmp_path_factory.mktemp("whole") / "run"
    train(out)
    return products(out)


@pytest.mark.slow
@pytest.mark.parametrize("killed", [killed_in_mask, killed_in_steps, killed_in_segment])
def test_killed_and_resumed(killed: Callable[[Path], None], whole: dict[str, Any], tmp_path: Path) -> None:
    process = multiprocessing.get_context("spawn").Process(target=killed, args=(tmp_path / "run",))
    process.start()
    process.join()
    assert process.exitcode == -signal.SIGKILL
    train(tmp_path / "run", resume=True)
    results = products(tmp_path / "run")
    assert results.keys() == whole.keys()
    assert not [name for name in whole if results[name] != whole[name]]
