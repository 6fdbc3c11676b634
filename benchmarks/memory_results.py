"""Tables of ``memory``: beside the black box, on its features, a coreset, few labelled images, and its cost.

OMP_NUM_THREADS=2 SEGPROTO_DATA=DIR python benchmarks/memory_results.py --out DIR [--data msrc21 camvid] [--seeds 1 2 3]
    [--only plain fine neck coreset few cost] [--table]

Times are of the processor. Finished runs stay: a killed script goes on where it was. ``--table`` prints what there is.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import time
from collections.abc import Iterator
from pathlib import Path
from statistics import mean, stdev
from typing import Any, NamedTuple

import torch

from segproto import api
from segproto.errors import ConfigError
from segproto.prototypes.approximate import ApproximateIndex
from segproto.prototypes.retrieval import nearest_patches

DATA = Path(os.environ.get("SEGPROTO_DATA", "data"))
VIT = f"encoder.weights={DATA / 'weights' / 'vit_tiny_patch16_224_in1k.safetensors'}"
SETS = {
    "msrc21": ("folder", [f"data.root={DATA / 'msrc21'}", "data.classes=msrc21", VIT]),
    "camvid": ("camvid", [f"data.root={DATA / 'camvid'}", VIT]),
}
FEW = (1, 5, 20)  # labelled images per class


class Job(NamedTuple):
    """One run: its row in the table, recipe, settings and the run it starts from."""

    row: str
    method: str
    settings: list[str]
    start: str | None = None


def jobs(only: list[str], seed: int) -> Iterator[Job]:
    """The runs of a data set, those that others start from first."""
    if "plain" in only:
        yield Job("memory", "memory", [])
        yield Job("memory, labels as they are", "memory", ["model.balance=0"])
        yield Job("memory, rare labels weighed up", "memory", ["model.balance=0.5"])
    if "fine" in only:
        yield Job("memory, grid of 8 pixels", "memory", ["encoder.input_scale=2"])
    if "coreset" in only:
        yield Job("memory, 10 % (coreset)", "memory", ["stages.remember.keep=2000"])
        yield Job("memory, 10 % (medoids)", "memory", ["stages.remember.keep=2000", "stages.remember.coreset=spread"])
        yield Job("memory, 10 % (fewer drawn)", "memory", ["stages.remember.patches=2000"])
    if "neck" in only:
        yield Job("blackbox", "blackbox", [])
        yield Job("memory on its features", "memory", [], "blackbox")
        fine = ["encoder.finer=2", "model.balance=0.5"]  # chosen on held-out training images
        yield Job("memory on its features, grid twice as fine", "memory", fine, "blackbox")
        many = [*fine, "stages.remember.patches=100000"]
        yield Job("memory on its features, grid twice as fine, 100,000 patches", "memory", many, "blackbox")
    if "few" in only:
        for count in FEW:
            few = [f"data.images_per_class={count}", f"data.subset_seed={seed}"]
            yield Job(f"memory, {count} per class", "memory", few)
            yield Job(f"blackbox, {count} per class", "blackbox", few)


def folder_of(out: Path, data: str, row: str, seed: int) -> Path:
    return out / data / row.replace(",", "").replace("%", "percent").replace(" ", "_") / f"seed{seed}"


def train(out: Path, data: str, job: Job, seed: int) -> None:
    """A run that is finished is left alone, one that was cut off is resumed."""
    folder = folder_of(out, data, job.row, seed)
    if (folder / "checkpoints" / "finished.json").is_file():
        return
    if (folder / "recipe.yaml").is_file():
        api.train(resume=folder, quiet=True)
        return
    recipe, settings = SETS[data]
    start = None if job.start is None else folder_of(out, data, job.start, seed)
    settings = [s for s in settings if start is None or not s.startswith("encoder.")]
    begin = time.process_time()
    api.train(
        f"{job.method}/{recipe}",
        out=folder,
        start=start,
        overrides=[*settings, *job.settings, f"train.seed={seed}"],
        quiet=True,
    )
    print(f"{data}, {job.row}, seed {seed}: {time.process_time() - begin:.0f} s of processor time", flush=True)


def figures(folder: Path) -> dict[str, Any] | None:
    """The last stage's figures of a finished run."""
    if not (folder / "checkpoints" / "finished.json").is_file():
        return None
    last = max((folder / "stages").iterdir(), key=lambda stage: (stage / "result.json").stat().st_mtime)
    value: dict[str, Any] = json.loads((last / "result.json").read_text())
    return value


def print_table(out: Path, data: str, only: list[str], seeds: list[int]) -> None:
    """A row per kind of run: mean and spread of mIoU over seeds, patches."""
    print(f"\n| {data} | mIoU | patches | seeds |\n|---|---|---|---|")
    for job in jobs(only, 0):
        values = [value for seed in seeds if (value := figures(folder_of(out, data, job.row, seed))) is not None]
        if not values:
            continue
        scores = [100 * value["miou"] for value in values]
        spread = f" ± {stdev(scores):.1f}" if len(scores) > 1 else ""
        print(f"| {job.row} | {mean(scores):.1f}{spread} | {values[0].get('prototypes', '-')} | {len(scores)} |")


def cost(dim: int = 768, queries: int = 690, k: int = 30) -> None:
    """Looking up an image of 480 x 360 (30 x 23 cells) in simulated patches: clusters, as features of patches are."""
    print(
        f"\n| patches of {dim} numbers | in 16 bits | exact | more memory meanwhile | faiss: build | look up | recall |"
    )
    print("|---|---|---|---|---|---|---|")
    generator = torch.Generator().manual_seed(0)
    centres = torch.randn(1000, dim, generator=generator)
    for count in (10_000, 20_000, 100_000, 1_000_000):
        keys = torch.cat([clustered(centres, part, generator).half() for part in chunks(count)])
        query = clustered(centres, queries, generator)
        before = peak_memory()
        begin = time.process_time()
        exact = nearest_patches(query, keys, k)
        seconds = time.process_time() - begin
        more = (peak_memory() - before) / 2**20
        row = f"| {count:,} | {count * dim * 2 / 2**20:.0f} MiB | {seconds:.2f} s | {more:.0f} MiB |"
        print(row, by_faiss(keys, query, exact.patch, k), flush=True)


def chunks(count: int, size: int = 50_000) -> list[int]:
    return [min(size, count - start) for start in range(0, count, size)]


def clustered(centres: torch.Tensor, count: int, generator: torch.Generator) -> torch.Tensor:
    """Unit vectors scattered around centres, in few directions of their own."""
    own = torch.randint(len(centres), (count,), generator=generator)
    return torch.nn.functional.normalize(
        centres[own] + torch.randn(count, centres.shape[1], generator=generator), dim=1
    )


def peak_memory() -> int:
    """The most bytes this process has had in memory so far."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


def by_faiss(keys: torch.Tensor, query: torch.Tensor, exact: torch.Tensor, k: int) -> str:
    """Processor time of building and of looking up, and recall; dashes without the package."""
    begin = time.process_time()
    try:
        index = ApproximateIndex(keys)
    except ConfigError:
        return "- | - | - |"
    built, begin = time.process_time() - begin, time.process_time()
    found = index.nearest(query, k).patch
    seconds = time.process_time() - begin
    hits = (found[:, :, None] == exact[:, None, :]).any(2).float().mean()
    return f"{built:.1f} s | {seconds:.3f} s | {float(hits):.3f} |"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--data", nargs="+", default=list(SETS), choices=list(SETS))
    parser.add_argument("--seeds", nargs="+", type=int, default=[1, 2, 3])
    parts = ["plain", "fine", "coreset", "neck", "few", "cost"]
    parser.add_argument("--only", nargs="+", default=parts, choices=parts)
    parser.add_argument("--table", action="store_true")
    args = parser.parse_args()
    os.environ.setdefault("SEGPROTO_CACHE", str(args.out / "cache"))
    for data in args.data:
        for seed in args.seeds:
            for job in jobs(args.only, seed):
                if not args.table:
                    train(args.out, data, job, seed)
        print_table(args.out, data, args.only, args.seeds)
    if "cost" in args.only and not args.table:
        cost()


if __name__ == "__main__":
    main()
