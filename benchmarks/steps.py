"""Seconds a training step of the prototype methods, beside a black-box step on the same encoder and batch.

    OMP_NUM_THREADS=2 python benchmarks/steps.py [--cpu-time] [em] [em_full] [resnet101]

The plain algorithm here is the black box itself; steps of the methods alternate, so that a drifting machine is fair.
On a machine that others use, ``--cpu-time`` with one thread tells the work done rather than the time that passed.
"""

from __future__ import annotations

import statistics
import sys
import time

import torch

from segproto.data.base import ClassTable
from segproto.data.batch import Batch
from segproto.methods import METHODS
from segproto.runs.catalogue import read_recipe
from segproto.training.precision import native_bf16
from segproto.training.recipe import apply_overrides, validate_recipe
from segproto.training.stage import Optimise

CASES = {
    "em": ("em_small", 2, 4, 256, True),
    "em_full": ("em", 2, 1, 256, False),
    "resnet101": ("cityscapes", 19, 1, 321, False),
}
ROUNDS = 3


CLOCK = time.process_time if "--cpu-time" in sys.argv else time.perf_counter


def step(name: str, recipe_name: str, classes: int, batch: Batch, bf16: bool):
    """One optimizer step of the method's ``joint`` stage, as a function."""
    method = METHODS[name]
    value = apply_overrides(read_recipe(f"{method.name}/{recipe_name}"), ["data.root=."])
    recipe = validate_recipe(value, method.recipe)
    table = ClassTable(tuple(map(str, range(classes))), ((0, 0, 0),) * classes)
    model = method.build(recipe, table).to(memory_format=torch.channels_last)
    stage = next(s for s in method.stages(recipe) if isinstance(s, Optimise) and s.name == "joint")
    stage.mode(model)
    groups = stage.parameters(model)
    trained = {id(p) for g in groups for p in g.params}
    for parameter in model.parameters():
        parameter.requires_grad_(id(parameter) in trained)
    optimizer = torch.optim.Adam([{"params": g.params, "lr": g.lr} for g in groups])

    def run() -> float:
        start = CLOCK()
        with torch.autocast("cpu", torch.bfloat16, enabled=bf16):
            loss = stage.loss(model, batch)["loss"]
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        return CLOCK() - start

    return run


def main() -> None:
    for case in [name for name in sys.argv[1:] if name != "--cpu-time"] or CASES:
        recipe_name, classes, size, side, bf16 = CASES[case]
        bf16 = bf16 and native_bf16()  # what precision: auto of the small recipe means
        torch.manual_seed(0)
        images = torch.randn(size, 3, side, side).contiguous(memory_format=torch.channels_last)
        masks = torch.randint(0, classes, (size, side // 16, side // 16)).repeat_interleave(16, 1)
        masks = torch.nn.functional.pad(masks.repeat_interleave(16, 2), (0, side % 16, 0, side % 16), value=255)
        batch = Batch(masks=masks, images=images)
        steps = {name: step(name, recipe_name, classes, batch, bf16) for name in ("blackbox", "protoseg", "scaleproto")}
        times: dict[str, list[float]] = {name: [] for name in steps}
        for _ in range(ROUNDS + 1):
            for name, run in steps.items():
                times[name].append(run())
        base = statistics.median(times["blackbox"][1:])
        for name, values in times.items():
            median = statistics.median(values[1:])
            print(f"{case}: {name} {median:.3f} s per step, {median / base:.2f}x the black box", flush=True)


if __name__ == "__main__":
    main()
