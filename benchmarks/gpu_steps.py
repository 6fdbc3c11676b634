"""Section ``steps`` of ``gpu.py``: what a step of each recipe takes at its own batch and crop, and all of them."""

from __future__ import annotations

import time
from collections.abc import Iterator

import torch
from gpu_setting import MEASURED, Row, Setting
from steps import Step, black_box, random_batch, recipe_without_files

from segproto.methods import METHODS
from segproto.runs.catalogue import shipped
from segproto.training.recipe import Recipe
from segproto.training.stage import Optimise

QUICK = ("em_small", "scenes")
CLASSES = 19  # of the random masks, whatever the recipe's data
SHORT = 0.1  # stages with a smaller share of a recipe's steps are not measured


def steps(s: Setting) -> Iterator[Row]:
    """A step of each stage (random weights, bfloat16), beside a black box on the same encoder."""
    begin, seen = time.perf_counter(), set[str]()
    for full in sorted(shipped()):
        method, _, name = full.partition("/")
        if method not in MEASURED or (s.quick and (name not in QUICK or method == "protoseg")):
            continue
        try:
            recipe = recipe_without_files(full)
        except Exception as error:  # a recipe that says more about its data than the command knows
            yield full, "skipped", str(error).splitlines()[0][:90]
            continue
        stages = long_stages(method, recipe)
        same = [
            method,
            recipe.encoder.model_dump_json(),
            recipe.train.batch_size,
            recipe.data.augment.crop_size,
            stages,
        ]
        if str(same) in seen:
            continue
        seen.add(str(same))
        if time.perf_counter() - begin > s.seconds:
            yield full, "skipped", f"the section's {s.seconds:.0f} s are over (--seconds)"
            continue
        try:
            yield from of_recipe(s, full, recipe, stages)
        except torch.OutOfMemoryError:
            yield full, "skipped", "out of memory on this device"
        except Exception as error:
            yield full, "FAILED", f"FAILED: {type(error).__name__}: {str(error).splitlines()[0][:90]}"
        if s.device.type == "cuda":
            torch.cuda.empty_cache()


def long_stages(method: str, recipe: Recipe) -> dict[str, int]:
    """Steps of the optimising stages, without those that hardly count."""
    found = {x.name: x.steps for x in METHODS[method].stages(recipe) if isinstance(x, Optimise) and x.steps}
    return {name: count for name, count in found.items() if count >= SHORT * sum(found.values())}


def of_recipe(s: Setting, full: str, recipe: Recipe, stages: dict[str, int]) -> Iterator[Row]:
    """A row for each stage, and one for all their steps."""
    hours = 0.0
    for stage, count in stages.items():
        took, words = one_step(s, full.partition("/")[0], recipe, stage)
        hours += took * count / 3.6e6
        yield f"{full}, {stage}", f"{took:.1f} ms", words
    yield f"{full}, {sum(stages.values()):,} steps", f"{hours:.1f} h", "of these stages; reading images apart"


def one_step(s: Setting, method: str, recipe: Recipe, stage: str) -> tuple[float, str]:
    """Milliseconds, and what was measured."""
    size, (h, w), classes = recipe.train.batch_size, recipe.data.augment.crop_size or (256, 256), CLASSES
    if s.quick:
        size, (h, w), classes = 2, (64, 64), 7
    step, batch = Step.of(method, recipe, classes, s.device, stage), random_batch(size, (h, w), classes, s.device)
    gpu = s.device.type == "cuda"
    if gpu:
        torch.cuda.reset_peak_memory_stats()
    own = s.median_ms(lambda: step(batch, bf16=True))
    memory = f", {torch.cuda.max_memory_allocated() / 2**30:.2f} GiB" if gpu else ""
    del step.optimizer
    base = s.median_ms(black_box(step.model.encoder, classes, batch, bf16=True))
    beside = f"{own / base:.2f}x one classifier on its encoder ({base:.1f} ms)"
    return own, f"{size} crops of {h}x{w}, {classes} classes{memory}; {beside}"
