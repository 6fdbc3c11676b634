"""The work of a verb shared between processes: as one process does it, to the bit."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import pytest
import torch
from training_tiny import free_port, in_processes, process_context

from segproto import api
from segproto.errors import ConfigError, SegprotoError
from segproto.model.together import CHUNK, chunk_size, chunked, in_order
from segproto.training.devices import launched
from segproto.training.sharing import shared

OWN = {"seconds", "images_per_second", "file", "command"}  # of each call


def comparable(value: Any) -> Any:
    """Figures without times and the names of files."""
    if isinstance(value, dict):
        return {key: comparable(part) for key, part in value.items() if key not in OWN}
    return [comparable(part) for part in value] if isinstance(value, list) else value


def score(run: Path, out: Path) -> None:
    torch.set_num_threads(1)
    settings = ["interpretability.images=5", "interpretability.faithfulness_images=3"]
    options: dict[str, Any] = {"interpretability": True, "quiet": True, "overrides": settings}
    figures = api.evaluate(run, out=out / "figures.json", save=out / "masks", **options)
    (out / f"rank{os.environ.get('RANK', os.environ.get('SLURM_PROCID', 0))}.json").write_text(
        json.dumps(comparable(figures), sort_keys=True)
    )


def found(out: Path) -> tuple[Any, dict[str, bytes]]:
    figures = comparable(json.loads((out / "figures.json").read_text()))
    return figures, {path.name: path.read_bytes() for path in sorted((out / "masks" / "val").iterdir())}


@pytest.mark.slow
def test_evaluate_in_processes_of_torchrun_or_srun_is_evaluate_in_one(scaleproto_run: Path, tmp_path: Path) -> None:
    folders = [tmp_path / name for name in ("one", "three", "srun")]
    for folder in folders:
        folder.mkdir()
    in_processes(3, score, scaleproto_run, folders[1])
    in_slurm(2, score, scaleproto_run, folders[2])
    score(scaleproto_run, folders[0])
    one = found(folders[0])
    for folder, world in zip(folders[1:], (3, 2), strict=True):
        assert found(folder) == one
        texts = [(folder / f"rank{rank}.json").read_text() for rank in range(world)]
        assert set(texts) == {(folders[0] / "rank0.json").read_text()}  # every process knows the figures


def in_slurm(world: int, task: Any, *arguments: object) -> None:
    """Runs ``task`` as each of the processes that srun starts on one machine."""
    context, port = process_context(), free_port()
    ranks = [context.Process(target=as_task, args=(rank, world, port, task, *arguments)) for rank in range(world)]
    for process in ranks:
        process.start()
    for process in ranks:
        process.join(120)
        assert process.exitcode == 0


def as_task(rank: int, world: int, port: int, task: Any, *arguments: object) -> None:
    tasks = {"SLURM_NTASKS": world, "SLURM_STEP_NUM_TASKS": world, "SLURM_STEP_NUM_NODES": 1, "SLURM_NNODES": 1}
    place = {"SLURM_PROCID": rank, "SLURM_LOCALID": rank, "SLURM_NODEID": 0, "SLURM_JOB_ID": 1, "MASTER_PORT": port}
    os.environ |= {key: str(value) for key, value in (tasks | place).items()} | {"MASTER_ADDR": "127.0.0.1"}
    task(*arguments)


@pytest.mark.parametrize("count", [0, 1, 31, 64, 100, 1000])
@pytest.mark.parametrize("world", [1, 2, 7])
def test_each_image_is_one_process_s_and_its_chunk_is_the_same_for_all(count: int, world: int) -> None:
    parts = [chunked(count, rank, world) for rank in range(world)]
    assert sorted(index for part in parts for index in part) == list(range(count))
    size = chunk_size(count)
    assert 1 <= size <= CHUNK
    for part in parts:
        for index in part:
            chunk = range(index // size * size, min(index // size * size + size, count))
            assert set(chunk) <= set(part)


def test_jobs_end_in_order_and_an_error_stands_in_its_place() -> None:
    def job(number: int) -> int:
        if number == 3:
            raise SegprotoError("three")
        return number

    results = in_order((lambda n=n: job(n) for n in range(9)), workers=3, ahead=4)  # type: ignore[misc]
    assert [next(results) for _ in range(3)] == [0, 1, 2]
    with pytest.raises(SegprotoError, match="three"):
        next(results)


def test_launchers_are_known(monkeypatch: pytest.MonkeyPatch) -> None:
    assert launched() is None
    monkeypatch.setenv("SLURM_NTASKS", "8")  # as in a batch script, outside of srun
    assert launched() is None
    monkeypatch.setenv("SLURM_STEP_NUM_TASKS", "8")
    monkeypatch.setenv("SLURM_STEP_NUM_NODES", "2")
    assert launched() == (4, 2)
    monkeypatch.setenv("SLURM_STEP_NUM_NODES", "3")
    with pytest.raises(ConfigError, match="--ntasks-per-node"):
        launched()


def test_one_gpu_is_not_for_several_processes() -> None:
    with pytest.raises(ConfigError, match=r"device = cuda:1"), shared(2, "cuda:1", "run", "again"):
        pass
