"""A GPU that is none: tensors that say they are on ``cuda:0``, whose numbers lie and are computed on the CPU.

Torch's fake tensors have shapes alone: they stop where a shape depends on a value, and the backward engine does not run
on them without a device. Here every number is there, so that whole runs go through, and what a GPU would refuse is
refused: tensors of two devices in one operator, operators without a CUDA kernel, NumPy's view of a tensor, random
numbers of another device's generator. Moments at which a GPU and its host would wait for each other are noted.
"""

from __future__ import annotations

import sys
from collections import Counter
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from lightning_fabric import Fabric
from torch import Tensor
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_flatten, tree_map, tree_unflatten

import segproto
from segproto.training import runner
from segproto.training.devices import make_fabric
from segproto.training.loop import Loop

CUDA = torch.device("cuda:0")
INSIDE = "meta"  # what C++ takes the tensors for: autograd runs on its own thread, and no CPU kernel touches them
SOURCE = Path(segproto.__file__).parent
aten = torch.ops.aten

# The host needs a value, or the size of a result, before it can go on.
WAITING = {
    *("_local_scalar_dense", "nonzero", "masked_select", "bincount", "equal", "is_nonzero", "_unique", "_unique2"),
    *("unique_dim", "unique_consecutive", "unique_dim_consecutive", "_linalg_check_errors", "_linalg_eigh"),
    *("_linalg_svd", "linalg_eig", "linalg_lstsq", "_linalg_solve_ex"),
}
INDEXING = {"index", "index_put", "index_put_", "_index_put_impl_", "_unsafe_index", "_unsafe_index_put"}
MAKING = (torch.tensor, torch.as_tensor, torch.asarray, torch.from_numpy, torch.Tensor.new_tensor)


@dataclass(frozen=True)
class Wait:
    """A moment at which host and device wait for each other.

    Attributes:
        operator: of ATen.
        place: file under ``segproto`` and function that asked for it.
        phase: what :class:`PretendedCuda` was told was going on.
    """

    operator: str
    place: str
    phase: str


class OnCuda(Tensor):
    """A tensor that says it is on the GPU; ``host`` has its numbers."""

    host: Tensor
    __torch_function__ = torch._C._disabled_torch_function_impl

    @staticmethod
    def __new__(cls, host: Tensor, requires_grad: bool = False) -> OnCuda:
        made: OnCuda = Tensor._make_wrapper_subclass(
            cls,
            host.size(),
            strides=host.stride(),
            storage_offset=host.storage_offset(),
            dtype=host.dtype,
            device=INSIDE,
            requires_grad=requires_grad,
        )
        made.host = host
        return made

    @property
    def device(self) -> torch.device:
        return CUDA

    is_cuda = property(lambda self: True)
    is_meta = property(lambda self: False)

    def __tensor_flatten__(self) -> tuple[list[str], None]:
        return ["host"], None

    @staticmethod
    def __tensor_unflatten__(inner: dict[str, Tensor], *_: Any) -> OnCuda:
        return OnCuda(inner["host"])

    @classmethod
    def __torch_dispatch__(cls, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        raise RuntimeError(f"{func}: a tensor of the pretended GPU outlived it")


@dataclass
class PretendedCuda:
    """The GPU, as a context: within it ``device="cuda:0"`` works.

    Attributes:
        phase: what is going on: ``STAGE step N``, what is due after it, or nothing said.
        waits: in order.
        operators: how many ran on the GPU, by phase.
    """

    phase: str = ""
    waits: list[Wait] = field(default_factory=list)
    operators: Counter[str] = field(default_factory=Counter)

    def wait(self, operator: str) -> None:
        self.waits.append(Wait(operator, asked_by(), self.phase))

    def upload(self, value: Tensor, blocking: bool = True) -> OnCuda:
        """A CPU tensor on the GPU."""
        if blocking:
            self.wait("upload")
        return OnCuda(value.detach().clone(), value.requires_grad)

    @contextmanager
    def running(self) -> Iterator[PretendedCuda]:
        """The GPU is there and training runs on it; the phase is a stage's step, or what is due after it."""
        with pytest.MonkeyPatch.context() as patch:
            forget_tables()
            patch.setattr(torch, "Generator", Drawing)
            patch.setattr(runner, "make_fabric", lambda config: on_pretended(make_fabric(config)))
            for name in ("_batch", "_log", "_validate", "_save"):
                patch.setattr(Loop, name, self._phase(name, getattr(Loop, name)))
            submit = ThreadPoolExecutor.submit
            patch.setattr(
                ThreadPoolExecutor, "submit", lambda pool, *call, **options: submit(pool, self._seen, *call, **options)
            )
            with Functions(self), Operators(self):
                yield self
            forget_tables()

    def _seen(self, function: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
        """Calls it in a thread of its own, which knows of the GPU too."""
        with Functions(self), Operators(self):
            return function(*args, **kwargs)

    def _phase(self, name: str, method: Callable[..., None]) -> Callable[..., None]:
        def named(loop: Loop, *args: Any) -> None:
            before = self.phase
            self.phase = f"{loop.stage.name} step {loop.job.state.step}" if name == "_batch" else f"due: {name}"
            try:
                method(loop, *args)
            finally:
                self.phase = before

        return named


def on_pretended(fabric: Fabric) -> Fabric:
    """A Fabric of the CPU that puts everything on the pretended GPU."""
    fabric.strategy._root_device = CUDA
    fabric._accelerator.setup_device = lambda _: None
    return fabric


def forget_tables() -> None:
    """Empties what the source keeps between calls: tensors of the pretended GPU must not outlive it."""
    for name, module in list(sys.modules.items()):
        if name.startswith("segproto."):
            for value in vars(module).values():
                if hasattr(value, "cache_clear"):
                    value.cache_clear()


def asked_by() -> str:
    """The innermost function of segproto on the stack, as ``model/predict.py:predict``."""
    frame: Any = sys._getframe(1)
    while frame is not None:
        path = Path(frame.f_code.co_filename)
        if path.is_relative_to(SOURCE):
            return f"{path.relative_to(SOURCE).as_posix()}:{frame.f_code.co_qualname}"
        frame = frame.f_back
    return "elsewhere"


class Drawing(torch.Generator):
    """A generator that remembers its device."""

    def __new__(cls, device: Any = "cpu") -> Drawing:
        made = super().__new__(cls, device="cpu")
        made.of = torch.device(device).type
        return made


class Functions(TorchFunctionMode):
    """Calls of ``torch`` as the source writes them: device names are taken for ours before C++ looks for a GPU."""

    def __init__(self, gpu: PretendedCuda) -> None:
        super().__init__()
        self.gpu = gpu

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        first = args[0] if args else None
        if func is torch.device:
            return func(*args, **kwargs)
        if func is Tensor.pin_memory:
            return first
        if func is Tensor.data.__set__ and isinstance(first, OnCuda):
            func(*args)
            first.host = args[1].host
            return None
        if isinstance(first, OnCuda) and (answer := self._about(func, first, args)) is not NotImplemented:
            return answer
        check_generator(func, args, kwargs)
        if func in MAKING:
            return self._made(func, args, kwargs)
        if func is F.embedding_bag and isinstance(first, OnCuda) and first.dim() == 2:
            args, kwargs = rows_as_bags(*args, **kwargs)
        if func in (Tensor.__getitem__, Tensor.__setitem__) and isinstance(first, OnCuda):
            args = (first, self._uploaded(args[1]), *args[2:])
        if func is Tensor.to and isinstance(first, OnCuda) and not kwargs.get("copy") and stays(args[1:], kwargs):
            return first
        return func(*map(inside, args), **{key: inside(value) for key, value in kwargs.items()})

    def _about(self, func: Any, tensor: OnCuda, args: Any) -> Any:
        """What Python asks of a tensor of ours and C++ could not answer."""
        name = getattr(func, "__name__", "")
        if name in ("numpy", "__array__"):
            raise TypeError("can't convert cuda:0 device type tensor to numpy. Use Tensor.cpu() first")
        if name == "tolist":
            self.gpu.wait("tolist")
            return tensor.host.tolist()
        if name in ("untyped_storage", "data_ptr", "__repr__", "__format__"):
            return func(tensor.host, *args[1:])
        if name == "__deepcopy__":
            copied = OnCuda(tensor.host.detach().clone(), tensor.requires_grad)
            if isinstance(tensor, torch.nn.Parameter):
                copied._is_param = True
            args[1][id(tensor)] = copied
            return copied
        return NotImplemented

    def _uploaded(self, index: Any) -> Any:
        """An index with its lists on the GPU: C++ would make them where it takes our tensors to be, without numbers."""
        parts = index if isinstance(index, tuple) else (index,)
        made = tuple(self.gpu.upload(torch.tensor(part)) if isinstance(part, list) else part for part in parts)
        return made if isinstance(index, tuple) else made[0]

    def _made(self, func: Any, args: Any, kwargs: Any) -> Any:
        """Tensors made of Python's or NumPy's numbers are made on the CPU first."""
        if func is Tensor.new_tensor:
            func, kwargs = torch.tensor, {"dtype": args[0].dtype, "device": args[0].device, **kwargs}
            args = args[1:]
        device = torch.device(kwargs.get("device") or "cpu")
        if isinstance(args[0], OnCuda):  # as_tensor of a tensor: itself, or moved
            same = {key: value for key, value in kwargs.items() if key != "device"}
            return args[0].to(**{"device": kwargs.get("device") or CUDA, **same})
        if device.type != "cuda":
            return func(*args, **kwargs)
        return self.gpu.upload(func(*args, **{**kwargs, "device": "cpu"}))


def stays(args: Any, kwargs: Any) -> bool:
    """Whether ``Tensor.to`` names our device and nothing else."""
    named = [*args, *kwargs.values()]
    return (
        bool(named)
        and isinstance(named[0], str | torch.device)
        and not any(isinstance(value, torch.dtype | torch.memory_format) for value in named)
        and torch.device(named[0]).type == "cuda"
    )


def rows_as_bags(rows: Tensor, table: Tensor, **options: Any) -> tuple[tuple[Tensor, ...], dict[str, Any]]:
    """What ``embedding_bag`` makes of bags in rows; it would itself ask for a tensor on a GPU that is not there."""
    options |= {"offsets": OnCuda(torch.arange(0, rows.numel(), rows.shape[1]))}
    if options.get("per_sample_weights") is not None:
        options["per_sample_weights"] = options["per_sample_weights"].reshape(-1)
    return (rows.reshape(-1), table), options


def inside(value: Any) -> Any:
    """A device of CUDA as C++ shall see it; anything else as it is."""
    if isinstance(value, torch.device) and value.type == "cuda":
        return torch.device(INSIDE)
    return INSIDE if isinstance(value, str) and value.startswith("cuda") else value


def check_generator(func: Any, args: Any, kwargs: Any) -> None:
    """Random numbers are drawn by a generator of their own device."""
    generator = kwargs.get("generator")
    if generator is None:
        return
    device = kwargs.get("device") or (args[0].device if args and isinstance(args[0], Tensor) else "cpu")
    expected, found = torch.device(device).type, getattr(generator, "of", "cpu")
    if expected != found:
        raise RuntimeError(f"{func}: Expected a '{expected}' device type for generator but found '{found}'")


class Operators(TorchDispatchMode):
    """Operators, forward and backward: those that touch the GPU run on its tensors' numbers."""

    def __init__(self, gpu: PretendedCuda) -> None:
        super().__init__()
        self.gpu = gpu

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        flat, spec = tree_flatten((args, kwargs))
        ours = [value for value in flat if isinstance(value, OnCuda)]
        target = None if kwargs.get("device") is None else torch.device(kwargs["device"]).type
        if not ours and target != INSIDE:
            return func(*args, **kwargs)
        name = func.overloadpacket.__name__
        here = [value for value in flat if type(value) is not OnCuda and isinstance(value, Tensor)]
        self._judge(func, name, args, kwargs, ours, here, target)
        require_kernel(func)
        self.gpu.operators[self.gpu.phase] += 1
        hosts = [value.host if isinstance(value, OnCuda) else value for value in flat]
        args, kwargs = tree_unflatten(hosts, spec)
        if target is not None:
            kwargs["device"] = torch.device("cpu")
        out = func(*args, **kwargs)
        if target == "cpu":
            return out
        known = {id(value.host): value for value in ours} | {id(value): value for value in here}

        def wrapped(value: Any) -> Any:
            if not isinstance(value, Tensor):
                return value
            if id(value) not in known:
                return OnCuda(value)
            same = known[id(value)]  # in place
            assert same.shape == value.shape, f"{func} changed the shape of a tensor in place"
            return same

        return tree_map(wrapped, out)

    def _judge(
        self, func: Any, name: str, args: Any, kwargs: Any, ours: list[OnCuda], here: list[Tensor], target: str | None
    ) -> None:
        """Refuses what CUDA refuses and notes what makes the host wait."""
        if name == "_to_copy":
            leaves = target == "cpu"
            if leaves or (not ours and not kwargs.get("non_blocking")):
                self.gpu.wait("download" if leaves else "upload")
            return
        if name == "copy_":
            from_cpu = not isinstance(args[1], OnCuda)
            if (from_cpu and not (kwargs.get("non_blocking") or args[2:3] == (True,))) or not isinstance(
                args[0], OnCuda
            ):
                self.gpu.wait("upload" if from_cpu else "download")
            return
        indices = [index for index in args[1] if index is not None] if name in INDEXING else []
        for index in indices:
            if not isinstance(index, OnCuda):
                self.gpu.wait("upload")
        if any(index.dtype == torch.bool for index in indices) and not is_masked_fill(name, args, indices):
            self.gpu.wait(name)
        if name in WAITING or (name == "repeat_interleave" and kwargs.get("output_size") is None):
            self.gpu.wait(name)
        taken = {id(index) for index in indices} if isinstance(args[0] if args else None, OnCuda) else set()
        foreign = [value for value in here if id(value) not in taken and not (value.dim() == 0 and scalars_pass(func))]
        if foreign and ours:
            shape = tuple(foreign[0].shape)
            raise RuntimeError(
                f"Expected all tensors to be on the same device, but found at least two devices, cuda:0 and cpu! "
                f"{func} was given a CPU tensor of shape {shape}, by {asked_by()}"
            )


def is_masked_fill(name: str, args: Any, indices: list[Tensor]) -> bool:
    """``x[mask] = number``, which CUDA does without looking for the mask's cells."""
    accumulate = len(args) > 3 and args[3]
    return (
        name.startswith(("index_put", "_index_put")) and len(indices) == 1 and args[2].numel() == 1 and not accumulate
    )


@cache
def scalars_pass(func: Any) -> bool:
    """Whether an operator on a GPU takes a scalar tensor of the CPU."""
    name = func.overloadpacket.__name__
    return torch.Tag.pointwise in func.tags or name in {"where", "fill_", "index_put_", "_index_put_impl_", "lerp_"}


@cache
def require_kernel(func: Any) -> None:
    """Refuses an operator that has no kernel for CUDA (known where torch was built for it)."""
    keys = ("CUDA", "CompositeExplicitAutograd", "CompositeExplicitAutogradNonFunctional", "CompositeImplicitAutograd")
    if torch.version.cuda is not None and not any(
        torch._C._dispatch_has_kernel_for_dispatch_key(func.name(), key) for key in keys
    ):
        raise NotImplementedError(f"Could not run {func} with arguments from the 'CUDA' backend ({asked_by()})")
