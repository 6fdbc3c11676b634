"""Two processes (gloo) train what one process trains with batches twice as large."""

from __future__ import annotations

import json
from pathlib import Path

import torch
from training_tiny import as_rank, free_port, process_context, train

from segproto.model.segmenter import Segmenter

OPTIONS = ("stages.noise=0", "stages.norms=false", "stages.optimiser=sgd", "train.clip=1.0", "train.ema=0.5")
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
