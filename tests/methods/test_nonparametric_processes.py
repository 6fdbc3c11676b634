"""Training with two and three processes (gloo) is training with one whose batches hold all images."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
import torch.distributed as dist
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from training_tiny import in_processes
from two_steps import two_steps

from segproto.encoders.norms import share_statistics
from segproto.methods import METHODS
from segproto.model.segmenter import Segmenter
from segproto.training.amp import undone_if_skipped
from segproto.training.recipe import apply_overrides, validate_recipe
from segproto.training.runner import run

RUN = (
    "stages.joint={steps: 4, accumulate: 2, optimizer: sgd, norms: sync, sinkhorn: global, reseed_every: 2}",
    "stages.joint.lr={backbone: 1.0e-2, neck: 1.0e-2, readout: 1.0e-2}",
    "stages.joint.class_weights=[1, 2, 1, 1, 0.5, 1, 1, 3]",
    "stages.seed.start=random",
    "stages.joint.momentum=0.5",
    "data.augment.scale=[1, 1]",
    "train.stages=[joint]",
    "train.precision=32-true",  # in bfloat16 another split of a batch is another sum
)


def norm_problem() -> tuple[nn.Module, Tensor, Tensor]:
    torch.manual_seed(0)
    net = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.ReLU(), nn.Conv2d(4, 2, 1), nn.BatchNorm2d(2))
    return net, 3 + 2 * torch.randn(6, 3, 7, 5), torch.randn(6, 2, 5, 3)


def norm_step(net: nn.Module, x: Tensor, weight: Tensor) -> dict[str, Tensor]:
    """Two training passes, the gradient of a weighted sum, and the running statistics."""
    x.requires_grad_(True)
    for _ in range(2):
        net.zero_grad()
        (net(x) * weight).sum().backward()
    assert x.grad is not None
    return {name: value.grad for name, value in net.named_parameters()} | dict(net.named_buffers()) | {"x": x.grad}


def norm_rank(out: Path) -> None:
    torch.set_num_threads(1)
    dist.init_process_group("gloo")
    net, x, weight = norm_problem()
    share_statistics(net)
    own = {2: [slice(0, 2), slice(2, 6)], 3: [slice(0, 1), slice(1, 3), slice(3, 6)]}[dist.get_world_size()]
    outputs = norm_step(net, x[own[dist.get_rank()]].clone(), weight[own[dist.get_rank()]])
    for name, _ in net.named_parameters():
        dist.all_reduce(outputs[name])
    save_file({k: v.contiguous() for k, v in outputs.items()}, out / f"{dist.get_rank()}.safetensors")
    dist.destroy_process_group()


@pytest.mark.parametrize("world", [2, 3])
def test_shared_norms_are_one_norm(world: int, tmp_path: Path) -> None:
    in_processes(world, norm_rank, tmp_path)
    expected = norm_step(*norm_problem())
    parts = [load_file(tmp_path / f"{rank}.safetensors") for rank in range(world)]
    torch.testing.assert_close(torch.cat([p["x"] for p in parts]), expected["x"], rtol=1e-4, atol=1e-4)
    for part in parts:
        for key, value in part.items():
            if key != "x":
                torch.testing.assert_close(value, expected[key], rtol=1e-4, atol=1e-4, msg=key)


def train(out: Path, batch: int) -> None:
    torch.set_num_threads(1)
    method = METHODS["nonparametric"]
    value = apply_overrides(two_steps("nonparametric").model_dump(mode="json"), [*RUN, f"train.batch_size={batch}"])
    run(method, validate_recipe(value, method.recipe), out, quiet=True)


@pytest.mark.slow
@pytest.mark.parametrize("world", [2, 3])
def test_runs_with_processes_are_runs_with_larger_batches(world: int, tmp_path: Path) -> None:
    """With shared norms, accumulation, class weights and seeding anew; gradients travel by DDP as in any run."""
    in_processes(world, train, tmp_path / "many", 1)
    train(tmp_path / "one", world)
    one, many = (Segmenter.load(tmp_path / name).state_dict() for name in ("one", "many"))
    assert int(one["head.bank.moves"]) == 2
    for key, value in one.items():
        torch.testing.assert_close(many[key], value, rtol=1e-4, atol=1e-5, msg=key)


@pytest.mark.parametrize("finite", [True, False])
def test_a_skipped_step_moves_no_buffer(finite: bool) -> None:
    model = nn.BatchNorm1d(1)
    scaler = torch.amp.GradScaler("cpu", init_scale=4.0)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    factor = 1.0 if finite else float("inf")
    scaler.scale((model.weight * factor).sum()).backward()
    before = scaler._scale.clone()
    scaler.step(optimizer)
    scaler.update()
    with undone_if_skipped(before, scaler._scale.clone(), model):
        model.running_mean.add_(5)
    assert float(model.weight.detach()) == pytest.approx(0.9 if finite else 1.0)
    assert float(model.running_mean) == (5 if finite else 0)
