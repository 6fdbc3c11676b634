"""The work of one verb shared between processes: each does its part of the images, and all know the sums."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, TypeVar

import torch.distributed as dist
from torch import Tensor

from segproto.data.portion import Portion
from segproto.errors import ConfigError
from segproto.training.agreement import over_processes
from segproto.training.config import TrainConfig
from segproto.training.crew import together
from segproto.training.devices import launched, make_fabric, on_first

if TYPE_CHECKING:
    from lightning_fabric import Fabric

T = TypeVar("T")


@dataclass(frozen=True)
class Share(Portion):
    """One process's part of a work.

    Attributes:
        device: where it computes, as torch names it; None = as it was asked for.
        fabric: that joins the processes; None for one on its own.
    """

    device: str | None = None
    fabric: Fabric | None = None

    def do_first(self, action: Callable[[], object]) -> None:
        """Runs ``action`` in the first process while the others wait; its error is raised in all of them."""
        if self.fabric is None:
            action()
        else:
            on_first(self.fabric, action)

    def sum(self, tensor: Tensor) -> Tensor:
        """The sum over all processes, each of which must call this."""
        return tensor if self.world == 1 else over_processes(tensor)

    def gather(self, value: T) -> list[T]:
        values = [value] * self.world
        if self.world > 1:
            dist.all_gather_object(values, value)
        return values


@contextmanager
def shared(devices: int | None, device: str | None, work: object, again: str) -> Iterator[Share]:
    """Starts the processes that share the block, or joins those that ``torchrun`` or ``srun`` started.

    With ``devices > 1`` further processes repeat this command from its start, one per GPU (or on the CPU). When one
    of them dies all end within seconds, and one line is told (:func:`segproto.training.crew.together`).

    Args:
        devices: processes on this machine; None = one, or what the launcher says.
        device: ``cpu`` or ``cuda``; None = the GPUs if there are any.
        work: what is worked on, for that line.
        again: how it goes on, the end of that line.

    Raises:
        ConfigError: a single GPU for several processes, or more processes than GPUs.
    """
    if (devices or 1) == 1 and launched() is None:
        yield Share(device=device)
        return
    if device not in (None, "cpu", "cuda"):
        raise ConfigError(f"device = {device}: several processes take all GPUs (cuda), or the cpu; leave it out")
    accelerators = {None: "auto", "cpu": "cpu", "cuda": "gpu"}
    chosen = {"devices": devices or 1, "accelerator": accelerators[device]}
    fabric = make_fabric(TrainConfig.model_validate(chosen))
    with together(fabric, work, again):
        yield Share(fabric.global_rank, fabric.world_size, str(fabric.device), fabric)
