"""A pickle interpreter of our own: it knows the opcodes, but imports nothing and calls nothing a file names.

Python's ``pickle`` looks names up and calls them. Here a name is a :class:`Name`, and "calling" one either rebuilds a
tensor, array or container with our own code (:mod:`segproto.foreign.builders`) or gives an inert :class:`Record`.
"""

from __future__ import annotations

import pickletools
from collections.abc import Callable
from typing import IO, Any

from segproto.foreign.budget import INTEGER_BITS, Work
from segproto.foreign.builders import build_call, build_state
from segproto.foreign.containers import extend, key, set_items
from segproto.foreign.numpy_objects import PendingArray
from segproto.foreign.records import Record, Refusal, name_of

MARK = object()
CONSTANTS = (
    "INT BININT BININT1 BININT2 LONG LONG1 LONG4 STRING BINSTRING SHORT_BINSTRING BINBYTES SHORT_BINBYTES BINBYTES8 "
    "BYTEARRAY8 UNICODE SHORT_BINUNICODE BINUNICODE BINUNICODE8 FLOAT BINFLOAT"
)
PUSHED = frozenset(CONSTANTS.split())
FRESH: dict[str, Callable[[], Any]] = {
    "NONE": lambda: None,
    "NEWTRUE": lambda: True,
    "NEWFALSE": lambda: False,
    "EMPTY_LIST": list,
    "EMPTY_DICT": dict,
    "EMPTY_TUPLE": tuple,
    "EMPTY_SET": set,
}
TUPLES = {"TUPLE1": 1, "TUPLE2": 2, "TUPLE3": 3}


class BoundedStream:
    """A binary file that refuses to be asked for more than it holds, so that no size in it is believed."""

    def __init__(self, file: IO[bytes], size: int) -> None:
        self.file, self.size = file, size
        self.tell = file.tell
        self.readline = file.readline

    def read(self, count: int) -> bytes:
        """Exactly ``count`` bytes."""
        left = self.size - self.file.tell()
        if count > left:
            raise Refusal(f"it asks for {count} bytes where {left} are left; the file is truncated or damaged")
        return self.file.read(count)


def load(stream: BoundedStream, persistent: Callable[[Any], Any] | None = None) -> Any:
    """The object of one pickle; the stream is left right behind it.

    Args:
        stream: the pickle.
        persistent: makes an object of a persistent id (torch's storages).

    Raises:
        Refusal: what the pickle asks for is not done here, or it is damaged.
    """
    machine = Machine(persistent, stream.tell)
    for opcode, argument, _ in pickletools.genops(stream):  # type: ignore[arg-type]
        if opcode.name == "STOP":
            return machine.pop()
        machine.step(opcode.name, argument)
    raise Refusal("its pickle has no end; the file is truncated")


class Machine:
    """Stack, memo and one method an opcode that does more than push a constant."""

    def __init__(self, persistent: Callable[[Any], Any] | None, tell: Callable[[], int]) -> None:
        self.work, self.tell, self.start = Work(), tell, tell()
        self.stack: list[Any] = []
        self.memo: dict[int, Any] = {}
        self.pending: dict[int, int] = {}  # where the memo keeps arrays that have no data yet
        self.persistent = persistent

    def step(self, name: str, argument: Any) -> None:
        """Executes one opcode."""
        if name in PUSHED:
            if type(argument) is int and argument.bit_length() > INTEGER_BITS:
                raise Refusal(f"its pickle has an integer of {argument.bit_length()} bits; the file is damaged")
            self.stack.append(argument)
        elif name in FRESH:
            self.stack.append(FRESH[name]())
        elif name in TUPLES:
            self.stack.append(tuple(self.pop_many(TUPLES[name])))
        else:
            method = getattr(self, f"op_{name.lower()}", None)
            if method is None:
                raise Refusal(f"its pickle uses {name}, which no checkpoint needs")
            method(argument)

    def pop(self) -> Any:
        """The top of the stack, which must be a value."""
        if not self.stack or self.stack[-1] is MARK:
            raise Refusal("its pickle takes a value where there is none; the file is damaged")
        return self.stack.pop()

    def pop_many(self, count: int) -> list[Any]:
        """The ``count`` topmost values, lowest first."""
        return [self.pop() for _ in range(count)][::-1]

    def pop_to_mark(self) -> list[Any]:
        """All values above the topmost mark, which goes too."""
        for index in range(len(self.stack) - 1, -1, -1):
            if self.stack[index] is MARK:
                values = self.stack[index + 1 :]
                del self.stack[index:]
                return values
        raise Refusal("its pickle closes a list that it never opened; the file is damaged")

    def op_proto(self, _: Any) -> None: ...

    def op_frame(self, _: Any) -> None: ...

    def op_mark(self, _: Any) -> None:
        self.stack.append(MARK)

    def op_pop(self, _: Any) -> None:
        if not self.stack:
            raise Refusal("its pickle drops a value where there is none; the file is damaged")
        self.stack.pop()

    def op_pop_mark(self, _: Any) -> None:
        self.pop_to_mark()

    def op_dup(self, _: Any) -> None:
        value = self.pop()
        self.stack += [value, value]

    def op_put(self, index: int) -> None:
        value = self.memo[index] = self.peek()
        if isinstance(value, PendingArray):
            self.pending[id(value)] = index

    op_binput = op_long_binput = op_put

    def op_memoize(self, _: Any) -> None:
        self.op_put(len(self.memo))

    def op_get(self, index: int) -> None:
        if index not in self.memo:
            raise Refusal(f"its pickle refers to object {index}, which it never made; the file is damaged")
        self.stack.append(self.memo[index])

    op_binget = op_long_binget = op_get

    def op_tuple(self, _: Any) -> None:
        self.stack.append(tuple(self.pop_to_mark()))

    def op_list(self, _: Any) -> None:
        self.stack.append(self.pop_to_mark())

    def op_dict(self, _: Any) -> None:
        values, new = self.pop_to_mark(), dict[Any, Any]()
        set_items(new, values)
        self.stack.append(new)

    def op_frozenset(self, _: Any) -> None:
        self.stack.append(frozenset(key(v) for v in self.pop_to_mark()))

    def op_append(self, _: Any) -> None:
        value = self.pop()
        extend(self.peek(), [value])

    def op_appends(self, _: Any) -> None:
        values = self.pop_to_mark()
        extend(self.peek(), values)

    def op_setitem(self, _: Any) -> None:
        values = self.pop_many(2)
        set_items(self.peek(), values)

    def op_setitems(self, _: Any) -> None:
        values = self.pop_to_mark()
        set_items(self.peek(), values)

    def op_additems(self, _: Any) -> None:
        values, target = self.pop_to_mark(), self.peek()
        if not isinstance(target, set):
            raise Refusal("its pickle adds to something that is no set; the file is damaged")
        target.update(key(v) for v in values)

    def op_global(self, argument: str) -> None:
        module, _, name = argument.partition(" ")
        self.stack.append(name_of(module, name))

    def op_stack_global(self, _: Any) -> None:
        module, name = self.pop_many(2)
        if not (isinstance(module, str) and isinstance(name, str)):
            raise Refusal("its pickle names a class by something that is no text; nothing of it was run")
        self.stack.append(name_of(module, name))

    def op_inst(self, argument: str) -> None:
        module, _, name = argument.partition(" ")
        self.call(name_of(module, name), tuple(self.pop_to_mark()))

    def op_obj(self, _: Any) -> None:
        what, *arguments = self.pop_to_mark() or [None]
        self.call(what, tuple(arguments))

    def op_reduce(self, _: Any) -> None:
        self.call(*self.pop_many(2))

    op_newobj = op_reduce

    def op_newobj_ex(self, _: Any) -> None:
        what, arguments, named = self.pop_many(3)
        self.call(what, arguments)
        created = self.peek()
        if isinstance(created, Record) and isinstance(named, dict):
            self.charge(named)
            created.attributes.update(named)

    def op_build(self, _: Any) -> None:
        target, state = self.pop_many(2)
        self.charge(state)
        self.stack.append(build_state(target, state))
        if isinstance(target, PendingArray) and id(target) in self.pending:
            self.memo[self.pending.pop(id(target))] = self.peek()

    def op_persid(self, argument: Any) -> None:
        self.stack.append(self.look_up(argument))

    def op_binpersid(self, _: Any) -> None:
        self.stack.append(self.look_up(self.pop()))

    def call(self, what: Any, arguments: Any) -> None:
        """Pushes what a call stands for."""
        self.charge(arguments)
        self.stack.append(build_call(what, arguments))

    def charge(self, values: Any) -> None:
        """Counts the work that values can make."""
        self.work.charge(values, self.tell() - self.start)

    def look_up(self, identity: Any) -> Any:
        """The object behind a persistent id."""
        if self.persistent is None:
            raise Refusal("it refers to objects outside of it, which only torch files do")
        return self.persistent(identity)

    def peek(self) -> Any:
        """The top of the stack, left there."""
        value = self.pop()
        self.stack.append(value)
        return value
