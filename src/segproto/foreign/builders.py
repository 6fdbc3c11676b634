"""What the pickle machine makes of a "call": tensors, arrays and containers by our own code, else a record."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from torch import Tensor

from segproto.foreign.containers import key, set_items
from segproto.foreign.numpy_objects import NUMPY_CALLS, DType, PendingArray
from segproto.foreign.records import Name, Record, Refusal
from segproto.foreign.storages import rebuild_tensor, rebuild_typed


def build_call(what: Any, arguments: Any) -> Any:
    """The object that ``what(*arguments)`` stands for.

    Args:
        what: a :class:`Name`; anything computed is refused (an attack's chain of look-ups).
        arguments: a tuple.

    Raises:
        Refusal: not a call of a named class or function.
    """
    if not isinstance(what, Name) or not isinstance(arguments, tuple):
        kind = what.class_name if isinstance(what, Record) else type(what).__name__
        raise Refusal(f"it calls a computed object ({kind}) instead of a named class; nothing of it was run")
    builder = CALLS.get(what.path)
    return Record(what.path, arguments=arguments) if builder is None else builder(*arguments)


def build_state(target: Any, state: Any) -> Any:
    """``target`` with its stored state: a record's attributes, an array's data; other containers keep theirs."""
    if isinstance(target, (PendingArray, DType)):
        return target.build(state)
    if isinstance(target, Record):
        parts = state if isinstance(state, tuple) and len(state) == 2 else (state, None)
        if all(part is None or isinstance(part, dict) for part in parts):
            for part in parts:
                target.attributes.update({k: v for k, v in (part or {}).items() if isinstance(k, str)})
        else:
            target.state = state
    return target


def rebuild_parameter(data: Any, *_: Any) -> Tensor:
    """A parameter is its tensor."""
    if not isinstance(data, Tensor):
        raise Refusal(f"a parameter made of a {type(data).__name__}; the file is damaged")
    return data


def rebuild_from_type(function: Any, _: Any, arguments: Any, __: Any = None) -> Any:
    """A tensor subclass is the tensor inside it."""
    if not isinstance(function, Name) or not function.path.startswith("torch._utils._rebuild_"):
        raise Refusal("a tensor of a subclass that is not made of a tensor; the file is damaged")
    return build_call(function, arguments)


def reconstruct(kind: Any, _: Any = None, content: Any = None) -> Any:
    """``copyreg._reconstructor``: protocols 0 and 1 make every object with it."""
    rebuilt = build_call(kind, ())
    if isinstance(rebuilt, Record) and isinstance(content, dict):
        rebuilt.entries.update(content)
    if isinstance(rebuilt, Record) and isinstance(content, list):
        rebuilt.elements.extend(content)
    return rebuilt


def new_object(kind: Any, *arguments: Any) -> Any:
    """``copyreg.__newobj__``."""
    return build_call(kind, arguments)


def mapping(*arguments: Any) -> dict[Any, Any]:
    """``dict`` and its kin, whose pairs come as a dict or a list of pairs (a default factory is dropped)."""
    entries: dict[Any, Any] = {}
    for argument in arguments:
        if isinstance(argument, dict):
            entries.update(argument)
        elif isinstance(argument, (list, tuple)):
            if not all(isinstance(pair, (list, tuple)) and len(pair) == 2 for pair in argument):
                raise Refusal("a dict of something else than pairs; the file is damaged")
            set_items(entries, [part for pair in argument for part in pair])
    return entries


def sequence(content: Any = (), *_: Any) -> list[Any]:
    """``list`` and ``collections.deque``."""
    if not isinstance(content, (list, tuple, set, frozenset)):
        raise Refusal(f"a list of a {type(content).__name__}; the file is damaged")
    return list(content)


def distinct(content: Any = ()) -> set[Any]:
    """``set``."""
    return {key(v) for v in sequence(content)}


def encode(text: Any, encoding: Any = "latin1", *_: Any) -> bytes:
    """``_codecs.encode``, with which protocol 2 stores bytes."""
    if not isinstance(text, str) or encoding not in ("latin1", "latin-1"):
        raise Refusal("bytes in an encoding other than latin1; the file is damaged")
    return text.encode("latin1")


def plain_bytes(content: Any = b"", encoding: Any = None) -> bytes:
    """``bytes`` and ``bytearray`` of given content, never of a given length."""
    if isinstance(content, str):
        return encode(content, encoding or "latin1")
    if isinstance(content, (list, tuple)):
        return bytes(v for v in content if isinstance(v, int))
    if not isinstance(content, bytes):
        raise Refusal(f"bytes of a {type(content).__name__}; the file is damaged")
    return content


def device(kind: Any = "cpu", index: Any = None) -> str:
    """``torch.device``, as text."""
    if not isinstance(kind, str) or not (index is None or type(index) is int):
        raise Refusal("a device without a name; the file is damaged")
    return kind if index is None else f"{kind}:{index}"


CALLS: dict[str, Callable[..., Any]] = {
    "torch._utils._rebuild_tensor": rebuild_tensor,
    "torch._utils._rebuild_tensor_v2": rebuild_tensor,
    "torch._utils._rebuild_tensor_v3": rebuild_typed,
    "torch._utils._rebuild_parameter": rebuild_parameter,
    "torch._utils._rebuild_parameter_with_state": rebuild_parameter,
    "torch.nn.parameter.Parameter": rebuild_parameter,
    "torch._tensor._rebuild_from_type_v2": rebuild_from_type,
    "torch._tensor._rebuild_from_type": rebuild_from_type,
    "torch.Size": lambda content=(): tuple(sequence(content)),
    "torch.device": device,
    "collections.OrderedDict": mapping,
    "collections.defaultdict": mapping,
    "collections.Counter": mapping,
    "collections.deque": sequence,
    "builtins.dict": mapping,
    "builtins.list": sequence,
    "builtins.tuple": lambda content=(): tuple(sequence(content)),
    "builtins.set": distinct,
    "builtins.frozenset": lambda content=(): frozenset(distinct(content)),
    "builtins.bytes": plain_bytes,
    "builtins.bytearray": plain_bytes,
    "builtins.complex": lambda real=0.0, imag=0.0: complex(float(real), float(imag)),
    "_codecs.encode": encode,
    "copyreg._reconstructor": reconstruct,
    "copyreg.__newobj__": new_object,
    **NUMPY_CALLS,
}
