"""Two processes (gloo) train what one process trains with batches twice as large; all of them hold one model."""

from __future__ import annotations

import json
from pathlib import Path

import torch
import torch.distributed as dist
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from training_tiny import as_rank, free_port, in_processes, process_context, train

from segproto.model.segmenter import Segmenter
from segproto.training.agreement import average_statistics

OPTIONS = ("stages.noise=0", "stages.norms=false", "stages.optimizer=sgd", "train.clip=1.0", "train.ema=0.5")
OPTIONS += ("stages.first_steps=8", "stages.second_steps=4", "train.validate_every=4")
OPTIONS += ("data.augment.scale=[1, 1]",)  # no padding, hence no void: the mean over a batch is a mean of means


def test_two_processes_are_one_with_double_batches(tmp_path: Path) -> None:
    context, port = process_context(), free_port()
    two = ("train.batch_size=1", "train.devices=2")
    processes = [
        context.Process(target=as_rank, args=(rank, 2, port, train, tmp_path / "two", *OPTIONS, *two))
        for rank in range(2)
    ]
    for process in processes:
        process.start()
    train(tmp_path / "one", *OPTIONS, "train.batch_size=2")
    for process in processes:
        process.join(120)
        assert process.exitcode == 0
    one, pair = (Segmenter.load(tmp_path / name).state_dict() for name in ("one", "two"))
    for key, value in one.items():
        assert torch.allclose(value, pair[key], atol=1e-5), key
    for stage in ("first", "second"):
        a, b = (json.loads((tmp_path / n / "stages" / stage / "result.json").read_text()) for n in ("one", "two"))
        assert abs(a["miou"] - b["miou"]) < 2e-3
        assert [c["pixels"] for c in a["per_class"]] == [c["pixels"] for c in b["per_class"]]
    losses = [[(row["step"], row["loss"], row["doubled"]) for row in journal(tmp_path / n)] for n in ("one", "two")]
    assert [step for step, *_ in losses[0]] == [2, 4, 6, 8, 1, 2, 4]
    assert torch.allclose(*(torch.tensor(rows, dtype=torch.float64) for rows in losses), rtol=1e-5)


def journal(out: Path) -> list[dict[str, float]]:
    rows = [json.loads(line) for line in (out / "metrics.jsonl").read_text().splitlines()]
    return [row for row in rows if "loss" in row]


def norms() -> nn.Sequential:
    """A trained norm, a frozen one whose mean no power of two divides, and one that keeps no statistics."""
    net = nn.Sequential(
        nn.BatchNorm2d(2, momentum=0.3), nn.BatchNorm2d(2), nn.BatchNorm2d(2, track_running_stats=False)
    )
    net[1].eval().running_mean.fill_(0.1)  # type: ignore[union-attr, operator]
    return net


def statistics_rank(out: Path, batches: Tensor) -> None:
    """Two steps of this process's own batches."""
    dist.init_process_group("gloo")
    net = norms()
    for batch in batches[dist.get_rank()]:
        net(batch)
        average_statistics(net)
    save_file(net.state_dict(), out / f"{dist.get_rank()}.safetensors")
    dist.destroy_process_group()


def test_statistics_are_those_of_all_processes(tmp_path: Path) -> None:
    batches = torch.randn(3, 2, 4, 2, 5, 5, generator=torch.Generator().manual_seed(0)) * 3 + 1  # process, step, ...
    in_processes(3, statistics_rank, tmp_path, batches)
    parts = [load_file(tmp_path / f"{rank}.safetensors") for rank in range(3)]
    mean, variance = torch.zeros(2), torch.ones(2)
    for step in range(2):
        cells = batches[:, step].transpose(1, 2).flatten(2)  # process, channel, values
        mean = 0.7 * mean + 0.3 * cells.mean(2).mean(0)
        variance = 0.7 * variance + 0.3 * cells.var(2).mean(0)
    for part in parts:
        assert all(torch.equal(value, parts[0][key]) for key, value in part.items())
        torch.testing.assert_close(part["0.running_mean"], mean)
        torch.testing.assert_close(part["0.running_var"], variance)
        assert int(part["0.num_batches_tracked"]) == 2
        assert torch.equal(part["1.running_mean"], torch.full((2,), 0.1))
