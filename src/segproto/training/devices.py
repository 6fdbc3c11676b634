"""Devices and processes: the Fabric, what one process does for all, and the seeding of random numbers."""

from __future__ import annotations

import hashlib
import logging
import os
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import torch
from torch import nn

from segproto.errors import ConfigError, SegprotoError
from segproto.training.config import TrainConfig
from segproto.training.precision import settle

if TYPE_CHECKING:
    from lightning_fabric import Fabric


def launched() -> tuple[int, int] | None:
    """Processes per machine and machines, where ``torchrun`` or ``srun`` started this process as one of several.

    Raises:
        ConfigError: ``srun`` put another number of processes on each machine.
    """
    if "TORCHELASTIC_RUN_ID" in os.environ:
        devices = int(os.environ["LOCAL_WORLD_SIZE"])
        return devices, int(os.environ["WORLD_SIZE"]) // devices
    tasks = int(os.environ.get("SLURM_STEP_NUM_TASKS", "1"))  # set by srun, and not in the batch script around it
    if tasks == 1:
        return None
    nodes = int(os.environ.get("SLURM_STEP_NUM_NODES", "1"))
    if tasks % nodes:
        raise ConfigError(f"srun: {tasks} tasks on {nodes} machines; give each the same number: --ntasks-per-node=N")
    return tasks // nodes, nodes


def make_fabric(config: TrainConfig) -> Fabric:
    """The Fabric of a run, launched: with ``devices > 1`` further processes repeat this command from its start.

    What ``torchrun`` or ``srun`` started are the processes themselves.

    Raises:
        ConfigError: a GPU or a precision that this machine does not have.
    """
    from lightning_fabric import Fabric
    from lightning_fabric.plugins.environments.slurm import SLURMEnvironment
    from lightning_fabric.strategies.ddp import DDPStrategy

    logging.getLogger("lightning_fabric").setLevel(logging.WARNING)  # it announces the precision on every start
    gpu = torch.cuda.is_available()
    if config.accelerator == "gpu" and not gpu:
        raise ConfigError("train.accelerator = gpu: no CUDA GPU is visible here; use train.accelerator=cpu")
    kind = "cuda" if gpu and config.accelerator != "cpu" else "cpu"
    if kind == "cpu" and config.precision == "16-mixed":
        raise ConfigError("train.precision = 16-mixed: needs a GPU; on a CPU use bf16-mixed or 32-true")
    started = launched()
    devices, nodes = started or (config.devices, config.num_nodes)
    if kind == "cuda" and devices > torch.cuda.device_count():
        raise ConfigError(f"train.devices = {devices}: this machine shows {torch.cuda.device_count()} GPUs")
    # Losses may leave out parameters (a class absent from a batch), so DDP must look for unused ones.
    strategy: Any = DDPStrategy(find_unused_parameters=True) if devices * nodes > 1 else "auto"
    precision = settle(config).precision
    slurm = started is not None and "TORCHELASTIC_RUN_ID" not in os.environ
    if slurm:
        os.environ.setdefault("SLURM_NTASKS_PER_NODE", str(devices))  # Lightning refuses srun --ntasks=N without it
    plugins: Any = [SLURMEnvironment(auto_requeue=False)] if slurm else None
    fabric = Fabric(
        accelerator=kind, strategy=strategy, devices=devices, num_nodes=nodes, precision=precision, plugins=plugins
    )
    fabric.launch()
    return fabric


def loading_processes(config: TrainConfig) -> int:
    """What ``data.workers = auto`` becomes on this machine, for each training process.

    A GPU waits for whoever reads and augments its images. On a CPU these are its own cores: a fourth of them is about
    what reading takes beside a network, and where there are few the network should have them all.
    """
    if config.cache_features:
        return 0
    started = launched()
    cores = (os.cpu_count() or 1) // (started[0] if started is not None else config.devices)
    gpu = config.accelerator != "cpu" and torch.cuda.is_available()
    return max(0, min(8, cores - 1)) if gpu else min(4, cores // 4)


def on_first(fabric: Fabric, action: Callable[[], object]) -> None:
    """Runs ``action`` in the first process while the others wait; its error is raised in all of them.

    Raises:
        SegprotoError: in the other processes, with the text of the error; the first raises the error itself.
    """
    if fabric.world_size == 1:
        action()
        return
    message: str | None = None
    failure: Exception | None = None
    if fabric.global_rank == 0:
        try:
            action()
        except Exception as error:  # of any kind: the others wait, and would wait for ever
            message, failure = str(error) or type(error).__name__, error
    message = fabric.broadcast(message)
    if failure is not None:
        raise failure
    if message is not None:
        raise SegprotoError(message)


def seed_all(*position: int | str) -> None:
    """Seeds torch (all devices) from where the run is, for instance (seed, stage, step, rank).

    Random numbers are thereby a function of the position alone, and a resumed run draws the same ones.
    """
    digest = hashlib.blake2b("/".join(map(str, position)).encode(), digest_size=8).digest()
    seed = int.from_bytes(digest, "little") >> 1
    torch.default_generator.manual_seed(seed)
    # torch.manual_seed would queue a call with a stack trace at each step while CUDA is not in use.
    if torch.cuda.is_initialized():  # type: ignore[no-untyped-call]
        torch.cuda.manual_seed_all(seed)


@torch.no_grad()
def arrange(model: nn.Module, device: torch.device) -> None:
    """Moves a model to a device and lays its tensors out in one canonical way, convolutions channels-last.

    Values do not change; but kernels, and with them the last bits of sums, depend on the layout, so that a loaded model
    must have the very layout of the one that was saved.
    """
    model.to(device)
    for tensor in [*model.parameters(), *model.buffers()]:
        order = torch.channels_last if tensor.dim() == 4 else torch.contiguous_format
        tensor.data = tensor.data.contiguous(memory_format=order)
