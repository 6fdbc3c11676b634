"""What two processes (gloo) promise, over all methods: one model in both, real patches, the same bits after a stop."""

from __future__ import annotations

import contextlib
import hashlib
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.distributed as dist
from training_tiny import in_processes
from two_steps import smaller, two_steps

from segproto.data.build import build_dataset
from segproto.evaluation.interpretability.freshness import freshness
from segproto.methods import METHODS
from segproto.model.segmenter import Segmenter
from segproto.prototypes.bank import PrototypeBank
from segproto.training import runner
from segproto.training.job import Job
from segproto.training.loop import Loop
from segproto.training.stage import Optimise

TIMES = {"seconds", "time", "images_per_s", "waiting", "stage_began"}

pytestmark = [pytest.mark.slow, pytest.mark.precision]


class Stopped(BaseException):
    """As Ctrl-C in all processes."""


def digest(model: Segmenter) -> list[str]:
    """Of each tensor of a model, its name before it."""
    tensors = model.state_dict().items()
    return [f"{name} {hashlib.sha256(value.cpu().numpy().tobytes()).hexdigest()}" for name, value in tensors]


def checked(real: Callable[..., Any], model: Callable[..., Segmenter]) -> Callable[..., Any]:
    """``real``, refusing to run on a model that differs between the processes."""

    def call(*arguments: Any, **options: Any) -> Any:
        digests: list[Any] = [None] * dist.get_world_size()
        dist.all_gather_object(digests, digest(model(*arguments)))
        differ = [a.split()[0] for a, b in zip(digests[0], digests[-1], strict=True) if a != b]
        assert not differ, f"{real.__name__}: processes differ in {', '.join(differ)}"
        return real(*arguments, **options)

    return call


def whole_and_stopped(name: str, folder: Path) -> None:
    """One run left alone and one stopped at batches spread over it, each in all processes alike."""
    torch.set_num_threads(1)
    for owner, function in ((Job, "validate"), (Job, "save_model"), (Job, "save_checkpoint")):
        setattr(owner, function, checked(getattr(owner, function), lambda job, *_: job.segmenter))
    runner.procedure = checked(runner.procedure, lambda job, _: job.segmenter)
    real, left = Loop._batch, [10**9]

    def counted(self: Loop, *arguments: Any) -> None:
        left[0] -= 1
        if left[0] < 0:
            raise Stopped
        real(self, *arguments)

    Loop._batch = counted  # type: ignore[method-assign]
    method = METHODS[name]
    recipe = smaller(name)
    runner.run(method, recipe, folder / "whole", quiet=True)
    third, stops = -(-(10**9 - left[0]) // 3), 0
    while not (folder / "stopped" / "checkpoints" / "finished.json").exists():
        left[0] = third
        with contextlib.suppress(Stopped):
            runner.run(method, recipe, folder / "stopped", resume=stops > 0, quiet=True)
        stops += 1
    assert stops > 1


def without_times(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: without_times(item) for key, item in value.items() if key not in TIMES}
    return [without_times(item) for item in value] if isinstance(value, list) else value


def products(out: Path) -> dict[str, Any]:
    """All files of a run, JSON without times."""
    contents: dict[str, Any] = {}
    for path in (p for p in out.rglob("*") if p.is_file()):
        content: Any = path.read_bytes()
        if path.suffix == ".json":
            content = without_times(json.loads(content))
        elif path.suffix == ".jsonl":
            content = [without_times(json.loads(line)) for line in content.splitlines()]
        contents[path.relative_to(out).as_posix()] = content
    return contents


def takes_steps(name: str) -> bool:
    """Whether a method has batches to be stopped at; ``memory`` only looks."""
    return any(isinstance(stage, Optimise) for stage in METHODS[name].stages(two_steps(name)))


@pytest.fixture(scope="module", params=sorted(filter(takes_steps, METHODS)))
def runs(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> tuple[str, Path]:
    folder = tmp_path_factory.mktemp(request.param)
    in_processes(2, whole_and_stopped, request.param, folder)
    return request.param, folder


def test_a_stopped_run_leaves_the_files_of_one_that_was_not(runs: tuple[str, Path]) -> None:
    whole, stopped = (products(runs[1] / name) for name in ("whole", "stopped"))
    assert whole.keys() == stopped.keys()
    assert not [name for name, content in whole.items() if stopped[name] != content]


def test_prototypes_are_features_of_the_saved_encoder(runs: tuple[str, Path]) -> None:
    model = Segmenter.load(runs[1] / "whole")
    if not isinstance(model.head.bank, PrototypeBank):
        return
    assert freshness(model, build_dataset(smaller(runs[0]).data, "train"))["value"] == 1.0
