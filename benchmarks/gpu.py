"""What a GPU is to be seen doing, in one command of under 8 minutes: the numbers of the CPU, and how fast.

    python benchmarks/gpu.py [--device cuda] [--quick] [--only NAME ...] [--seconds 60] [--out gpu.json]

Each section is guarded: one that fails is a line of the table, the others go on, and the exit code is 1. With
``--quick`` sizes are tiny and few networks are built: ``--device cpu --quick`` tries the command itself in two minutes.
The EM training reads ``$SEGPROTO_DATA/isbi2012_em`` and is skipped without it.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor

sys.path.insert(0, str(Path(__file__).parents[1] / "tests" / "support"))
from gpu_setting import MEASURED, Row, Setting, verdict
from gpu_steps import steps
from steps import Step, random_batch
from two_steps import smaller

from segproto import predict
from segproto.data.build import build_dataset
from segproto.methods import METHODS
from segproto.model.segmenter import Segmenter
from segproto.refine.affinity import affinity, cell_pairs
from segproto.refine.crf import dense_crf
from segproto.refine.crf_settings import CRF_SETS
from segproto.refine.proposals import propose
from segproto.refine.random_walk import random_walk
from segproto.runs.catalogue import read_recipe
from segproto.training.recipe import Recipe, apply_overrides, validate_recipe
from segproto.training.runner import run


def on(recipe: Recipe, device: torch.device, precision: str = "32-true") -> Recipe:
    """The recipe on that device."""
    accelerator = "gpu" if device.type == "cuda" else "cpu"
    train = recipe.train.model_copy(update={"precision": precision, "accelerator": accelerator})
    return recipe.model_copy(update={"train": train})


def first_losses(out: Path) -> dict[str, float]:
    """The loss of each stage's first step."""
    found = {}
    for file in sorted((out / "stages").glob("*/result.json")):
        value = json.loads(file.read_text())
        if "loss" in value:
            found[file.parent.name] = float(value["loss"])
    return found


def equality(s: Setting) -> Iterator[Row]:
    """Losses of every stage of every method, and the masks of what they left, on both devices."""
    for name in sorted(METHODS) if not s.quick else ("blackbox", "scaleproto", "nonparametric"):
        runs = {}
        for label, device in (("cpu", torch.device("cpu")), ("device", s.device)):
            runs[label] = s.folder / f"{name}-{label}"
            run(METHODS[name], on(smaller(name), device), runs[label], quiet=True)
        cpu, there = (first_losses(runs[label]) for label in ("cpu", "device"))
        worst = max((abs(there[k] - v) / max(abs(v), 1e-6) for k, v in cpu.items()), default=0.0)
        yield f"loss, {name}", f"{worst:.1e}", verdict(worst <= 0.01, "largest relative difference of a stage's loss")
        model, dataset = Segmenter.load(runs["cpu"]), build_dataset(smaller(name).data, "val")
        own = [model.predict(dataset[i].image) for i in range(len(dataset))]
        model.to(s.device)
        same = [(model.predict(dataset[i].image) == mask).float().mean() for i, mask in enumerate(own)]
        share = float(torch.stack(same).mean())
        yield f"masks, {name}", f"{100 * share:.3f} %", verdict(share >= 0.999, "equal pixels; at least 99.9 %")
    with torch.backends.cudnn.flags(enabled=True, allow_tf32=False):  # whose gradients of convolutions are 1e-2 off
        yield from gradients(s)
    tokens = F.interpolate(torch.randn(4, 96, 6, 6), (24, 24)) + 0.3 * torch.randn(4, 96, 24, 24)
    mine, theirs = propose(tokens).regions, propose(tokens.to(s.device)).regions.cpu()
    share = float((mine == theirs).float().mean())
    yield "proposals", f"{100 * share:.3f} %", verdict(share >= 0.999, "equal cells; at least 99.9 %")


def gradients(s: Setting) -> Iterator[Row]:
    """Gradients of one batch by the same weights, as one vector."""
    for name in MEASURED:
        recipe = smaller(name)
        vectors = []
        for device in (torch.device("cpu"), s.device):
            torch.manual_seed(0)
            step = Step.of(name, recipe, 7, device)
            batch = random_batch(2, 64, 7, torch.device("cpu")).to(device)
            step.stage.loss(step.model, batch)["loss"].backward()
            grads = [p.grad.flatten() for p in step.model.parameters() if p.grad is not None]
            vectors.append(torch.cat(grads).double().cpu())
        off = float((vectors[0] - vectors[1]).norm() / vectors[0].norm())
        yield f"gradients, {name}", f"{off:.1e}", verdict(off <= 1e-3, "relative difference of all gradients")


def amp(s: Setting) -> Iterator[Row]:
    """Mixed precision as the runner trains in it; 16-mixed with its gradient scaler."""
    for precision in ("bf16-mixed", "16-mixed") if s.device.type == "cuda" else ("bf16-mixed",):
        for name in ("blackbox",) if s.quick else MEASURED:
            out = s.folder / f"{name}-{precision}"
            run(METHODS[name], on(smaller(name), s.device, precision), out, quiet=True)
            losses = first_losses(out)
            words = ", ".join(f"{stage} {loss:.3f}" for stage, loss in losses.items())
            yield f"{precision}, {name}", f"{len(losses)} stages", f"losses: {words}"


def compiled(s: Setting) -> Iterator[Row]:
    """The loss through ``torch.compile``, against the plain one: its value, and milliseconds of a step."""
    side = 64 if s.quick else 256
    for name in ("blackbox",) if s.quick else ("blackbox", "scaleproto"):
        torch.manual_seed(0)
        step, batch = Step.of(name, smaller(name), 7, s.device), random_batch(4, side, 7, s.device)
        whole = torch.compile(step.stage.loss, backend="aot_eager" if s.quick else "inductor")
        with torch.no_grad():
            values = [float(loss(step.model, batch)["loss"]) for loss in (step.stage.loss, whole)]
        plain, fast = s.median_ms(partial(step, batch)), s.median_ms(partial(step, batch, whole))
        off = abs(values[1] - values[0]) / abs(values[0])
        words = verdict(off <= 1e-3, f"plain {plain:.1f} ms; loss differs by {off:.1e}")
        yield f"compiled step, {name}", f"{fast:.1f} ms", words


def predicting(s: Setting) -> Iterator[Row]:
    """Photographs from files to masks in files, against the network alone and against one after another."""
    from PIL import Image

    count, size = (4, (64, 48)) if s.quick else (64, (480, 360))
    folder = s.folder / "photos"
    folder.mkdir()
    for number in range(count):
        noise = F.interpolate(torch.rand(1, 3, 12, 16), size[::-1], mode="bicubic")[0].clamp(0, 1)
        Image.fromarray((255 * noise).byte().permute(1, 2, 0).numpy()).save(folder / f"{number:03}.jpg")
    recipe = validate_recipe(
        apply_overrides(read_recipe("blackbox/em_small"), ["data.root=."]), METHODS["blackbox"].recipe
    )
    model = Step.of("blackbox", recipe, 19, s.device).model.eval()
    images = torch.randn(1, 3, *size[::-1], device=s.device)

    def alone() -> None:
        with torch.inference_mode():
            for _ in range(count):
                model(images).argmax(1).cpu()

    def loop() -> None:
        for file in sorted(folder.iterdir()):
            Image.fromarray(model.predict(file).numpy()).save(s.folder / "one.png")

    made = iter(range(1000))
    times = [
        s.median_ms(call, 3)
        for call in (alone, loop, lambda: predict(model, folder, out=s.folder / f"masks{next(made)}", quiet=True))
    ]
    rates = [1e3 * count / value for value in times]
    words = f"a plain loop {rates[1]:.1f}, the network alone one by one {rates[0]:.1f}"
    yield f"predict, {count} photos {size[0]}x{size[1]}", f"{rates[2]:.1f} images/s", words


def refining(s: Setting) -> Iterator[Row]:
    """The dense CRF and the random walk on the device, and how many pixels get the CPU's label."""
    labels, height, width = (5, 48, 64) if s.quick else (21, 375, 500)
    image = (127 + 45 * F.interpolate(torch.randn(1, 3, 12, 12), (height, width), mode="bicubic")).clamp(0, 255).byte()
    unary = 3 * F.interpolate(torch.rand(1, labels, 9, 9), (height, width), mode="bilinear")
    settings = CRF_SETS["A"]
    own = dense_crf(image, unary, settings, labels=True)
    there = (image.to(s.device), unary.to(s.device))
    share = float((dense_crf(*there, settings, labels=True).cpu() == own).float().mean())
    spent, base = (
        s.median_ms(lambda: dense_crf(*there, settings, labels=True), 3),
        s.median_ms(lambda: dense_crf(image, unary, settings, labels=True), 3),
    )
    words = verdict(share >= 0.999, f"{100 * share:.3f} % of the pixels as on the CPU ({base:.0f} ms)")
    yield f"CRF, {height}x{width}, {labels} labels", f"{spent:.0f} ms", words
    h, w = (12, 16) if s.quick else (47, 63)
    pairs, scores = cell_pairs(h, w, complete=False), torch.rand(1, labels, h, w)
    near = affinity(torch.rand(1, 64, h, w) * 2, pairs)

    def walk(device: torch.device) -> Tensor:
        return random_walk(scores.to(device), near.to(device), pairs, log_steps=6)

    off = float((walk(s.device).cpu() - walk(torch.device("cpu"))).abs().max())
    words = verdict(off <= 1e-4, f"largest difference to the CPU {off:.1e}")
    yield f"random walk, {h}x{w}", f"{s.median_ms(lambda: walk(s.device), 3):.1f} ms", words


def em(s: Setting) -> Iterator[Row]:
    """A short training of scaleproto on ISBI-2012 EM with the published U-Net."""
    root = Path(os.environ.get("SEGPROTO_DATA", ".")) / "isbi2012_em"
    if not root.is_dir():
        yield "EM training", "skipped", f"{root} is not there; set SEGPROTO_DATA to the folder that holds isbi2012_em"
        return
    value = apply_overrides(read_recipe("scaleproto/em_small" if s.quick else "scaleproto/em"), [f"data.root={root}"])
    counts = {} if s.quick else {"joint": 300, "group_joint": 60}
    for name, stage in value["stages"].items():
        if stage.get("steps"):
            stage["steps"] = counts.get(name, 2 if s.quick else 20) * stage.get("accumulate", 1)
    if s.quick:
        value["train"]["stages"] = ["joint"]
    recipe = validate_recipe(value, METHODS["scaleproto"].recipe)
    begin = time.perf_counter()
    result = run(METHODS["scaleproto"], on(recipe, s.device, "bf16-mixed"), s.folder / "em", quiet=True)
    taken = sum(int(stage.get("steps", 0)) for stage in result.stages.values())  # type: ignore[call-overload]
    spent = time.perf_counter() - begin
    words = f"after {taken} batches of {recipe.train.batch_size}, all stages, {spent:.0f} s in all"
    yield "EM training, scaleproto", f"mIoU {result.figures['miou']:.4f}", words


SECTIONS: dict[str, Callable[[Setting], Iterator[Row]]] = {
    "equality": equality,
    "amp": amp,
    "compile": compiled,
    "steps": steps,
    "predict": predicting,
    "refine": refining,
    "em": em,
}


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", default="cuda", help="cuda, cuda:N or cpu")
    parser.add_argument("--quick", action="store_true", help="tiny sizes, few networks")
    parser.add_argument("--only", nargs="+", choices=SECTIONS, default=list(SECTIONS), help="some sections")
    parser.add_argument("--seconds", type=float, default=120, help="after which `steps` begins no further network")
    parser.add_argument("--out", type=Path, help="JSON file")
    args = parser.parse_args()
    device = torch.device(args.device)
    if device.type == "cuda" and not torch.cuda.is_available():
        print("no CUDA GPU is visible here; --device cpu --quick tries the command", file=sys.stderr)
        return 2
    card = torch.cuda.get_device_name(device) if device.type == "cuda" else "the CPU"
    print(f"{card}, torch {torch.__version__}\n\n| section | what | measured | remark |\n|---|---|---|---|")
    rows: list[dict[str, str]] = []
    for section in args.only:
        start = time.perf_counter()
        with tempfile.TemporaryDirectory() as folder:
            found = guarded(SECTIONS[section], Setting(device, args.quick, args.seconds, Path(folder)))
            for what, measured, remark in found:
                rows.append({"section": section, "what": what, "measured": measured, "remark": remark})
                print(f"| {section} | {what} | {measured} | {remark} |", flush=True)
        print(f"{section}: {time.perf_counter() - start:.0f} s", file=sys.stderr, flush=True)
    if args.out:
        args.out.write_text(json.dumps({"device": card, "torch": str(torch.__version__), "rows": rows}, indent=1))
    return int(any("FAILED" in row["remark"] for row in rows))


def guarded(section: Callable[[Setting], Iterator[Row]], setting: Setting) -> Iterator[Row]:
    """The section's rows, and a row for the error that ended it."""
    torch.manual_seed(0)
    try:
        yield from section(setting)
    except Exception as error:  # whatever it is, the other sections are measured
        text = str(error).splitlines() or [""]
        yield section.__name__, "FAILED", f"FAILED: {type(error).__name__}: {text[0][:160]}"


if __name__ == "__main__":
    sys.exit(main())
