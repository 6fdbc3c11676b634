"""Two and three processes give what one gives with all their pixels, also where one has no labelled pixel at all."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
import torch.distributed as dist
import torch.multiprocessing as mp
import torch.nn.functional as F
from torch import Tensor

from segproto.prototypes.clustering import cluster_pixels, momentum_update
from segproto.prototypes.contrast import pixel_prototype_distance, pixel_prototype_infonce
from segproto.prototypes.embedding import prototype_similarities
from segproto.prototypes.seeding import kmeans_plus_plus, reseed_dead
from segproto.prototypes.segments import one_process

CLASSES, PER_CLASS, DIM, PIXELS = 5, 4, 8, 240
SPLITS = {2: [(0, 70), (70, 240)], 3: [(0, 90), (90, 200), (200, 240)]}  # the last 40 pixels are void: rank 2 has none


def problem() -> dict[str, Tensor]:
    g = torch.Generator().manual_seed(0)
    labels = torch.randint(0, CLASSES, (PIXELS,), generator=g)
    labels[labels == 4] = 255
    labels[17], labels[200:] = 4, 255  # a class with one pixel
    rare = (labels == 3).nonzero().flatten()
    labels[rare[3:-2]] = 255  # a class with more than K pixels, but on no process of several
    modes = F.normalize(torch.randn(CLASSES * PER_CLASS, DIM, generator=g), dim=1)
    which = (labels.clamp_max(4) * PER_CLASS + torch.randint(PER_CLASS, (PIXELS,), generator=g)).long()
    e = F.normalize(modes[which] + 0.1 * torch.randn(PIXELS, DIM, generator=g), dim=1)
    wrong = torch.rand(PIXELS, generator=g) < 0.2
    predictions = torch.where(wrong, (labels + 1) % CLASSES, labels)
    prototypes = F.normalize(torch.randn(CLASSES, PER_CLASS, DIM, generator=g), dim=-1)
    return {"e": e, "labels": labels, "predictions": predictions, "prototypes": prototypes}


def run(pixels: slice, world: int, reduce, few: str) -> dict[str, Tensor]:
    """Two training steps on these pixels; gradients are averaged over processes, as DDP does."""
    value = problem()
    p = value["prototypes"]
    y, pred = value["labels"][pixels], value["predictions"][pixels]
    e = value["e"][pixels].requires_grad_(True)
    out = {}
    for step in range(2):
        s = prototype_similarities(e, p)
        clusters = cluster_pixels(e, s, y, pred, CLASSES, few=few, reduce=reduce)
        labelled = reduce((clusters.targets >= 0).sum().float()) / world
        loss = pixel_prototype_infonce(s, clusters.targets, normaliser=labelled)
        loss = loss + pixel_prototype_distance(s, clusters.targets, normaliser=labelled)
        (gradient,) = torch.autograd.grad(loss, e)
        p = momentum_update(p, clusters.sums, clusters.counts, momentum=0.5, reduce=reduce)
        out |= {f"q{step}": clusters.assignment, f"targets{step}": clusters.targets, f"grad{step}": gradient / world}
        out[f"loss{step}"] = reduce(loss.detach()) / world
        out[f"p{step}"] = p
    alone = cluster_pixels(e, s, y, pred, CLASSES)
    out["average"] = momentum_update(p, alone.sums, alone.counts, sync="average_legacy", reduce=reduce)
    dead = torch.arange(CLASSES * PER_CLASS).view(CLASSES, PER_CLASS) % 3 == 1
    out["reseed"] = reseed_dead(p, dead, e, y, pred, reduce=reduce).prototypes.detach()
    generator = torch.Generator().manual_seed(pixels.start or 0)
    seeds = kmeans_plus_plus(e, y, p, generator=generator, reduce=reduce)
    out["seeds"], out["placed"] = seeds.prototypes.detach(), seeds.placed
    return out


def worker(rank: int, folder: str) -> None:
    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method=f"file://{folder}/meet", rank=rank, world_size=3)
    for world in (2, 3):
        group = dist.new_group(list(range(world)))
        if rank >= world:
            continue

        def reduce(tensor: Tensor, op: str = "sum", group=group) -> Tensor:
            tensor = tensor.clone()
            dist.all_reduce(tensor, dist.ReduceOp.SUM if op == "sum" else dist.ReduceOp.MAX, group=group)
            return tensor

        for few in ("balance", "nearest"):
            result = run(slice(*SPLITS[world][rank]), world, reduce, few)
            torch.save(result, f"{folder}/{world}-{rank}-{few}.pt")
    dist.barrier()
    dist.destroy_process_group()


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    path = tmp_path_factory.mktemp("processes")
    mp.spawn(worker, (str(path),), nprocs=3)
    return path


@pytest.mark.parametrize("few", ["balance", "nearest"])
@pytest.mark.parametrize("world", [2, 3])
def test_many_processes_equal_one(folder, world, few):
    parts = [torch.load(folder / f"{world}-{rank}-{few}.pt", weights_only=True) for rank in range(world)]
    one = run(slice(0, PIXELS), 1, one_process, few)
    for step in range(2):
        for key in (f"q{step}", f"grad{step}"):
            torch.testing.assert_close(torch.cat([p[key] for p in parts]), one[key], rtol=0, atol=1e-5)
        assert torch.equal(torch.cat([p[f"targets{step}"] for p in parts]), one[f"targets{step}"])
        for part in parts:
            torch.testing.assert_close(part[f"p{step}"], one[f"p{step}"], rtol=0, atol=1e-6)
            torch.testing.assert_close(part[f"loss{step}"], one[f"loss{step}"], rtol=1e-5, atol=0)
    for part in parts:
        torch.testing.assert_close(part["reseed"], one["reseed"], rtol=0, atol=1e-5)
        for key in ("p1", "average", "reseed", "seeds", "placed"):
            assert torch.equal(part[key], parts[0][key])
    pixels = problem()["e"]
    best = parts[0]["seeds"][parts[0]["placed"]] @ pixels.T
    assert best.amax(1).min() > 1 - 1e-5  # every seed is a pixel of some process
    assert parts[0]["placed"].sum(1).tolist() == [4, 4, 4, 4, 1]
    assert parts[0]["average"].norm(dim=-1).max() <= 1 + 1e-6
    if world == 3:
        assert not parts[2]["q0"].any()
