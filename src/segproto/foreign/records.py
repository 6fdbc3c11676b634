"""What stands for a foreign class or object: its name and its attributes, nothing that could run."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any


class Refusal(Exception):
    """Why a file is not read on; the caller adds the file's name."""


@dataclass(frozen=True)
class Name:
    """A class or function that a file names; only the name.

    Attributes:
        path: module and name, as in ``torch.nn.modules.conv.Conv2d``.
    """

    path: str


@dataclass(eq=False, repr=False)
class Record:
    """An object of a foreign class: inert.

    Attributes:
        class_name: module and name of its class (or of the function that would have made it).
        attributes: its ``__dict__`` and slots as stored.
        arguments: what its constructor would have been given.
        elements: contents, if it is a kind of list.
        entries: contents, if it is a kind of mapping.
        state: a stored state that is no mapping of attributes; None without one.
    """

    class_name: str
    attributes: dict[str, Any] = field(default_factory=dict)
    arguments: tuple[Any, ...] = ()
    elements: list[Any] = field(default_factory=list)
    entries: dict[Any, Any] = field(default_factory=dict)
    state: Any = None

    def __repr__(self) -> str:
        return f"Record({self.class_name}, {len(self.attributes)} attributes)"


# No published checkpoint needs these; a file that names one is refused at once.
HOSTILE_NAMES = """
os posix nt posixpath ntpath sys subprocess importlib imp runpy pkgutil shutil socket ctypes _ctypes pty code codeop
commands platform webbrowser multiprocessing asyncio threading _thread signal tempfile operator _operator pickle _pickle
cPickle marshal shelve types inspect gc urllib http ftplib smtplib telnetlib pdb bdb pip pydoc timeit trace cProfile
profile doctest linecache zipimport site distutils setuptools idlelib _posixsubprocess io _io fileinput glob ssl atexit
weakref
"""
HOSTILE = frozenset(HOSTILE_NAMES.split())
HARMLESS_NAMES = """
object type int float bool str bytes bytearray complex list tuple dict set frozenset slice range getattr print len sum
min max abs reversed Exception ValueError RuntimeError NotImplementedError Ellipsis NotImplemented
"""
HARMLESS = frozenset(HARMLESS_NAMES.split())


LONGEST_NAME = 500


def name_of(module: str, name: str) -> Name:
    """The name a file gives, with Python 2's module names brought up to date.

    Raises:
        Refusal: for what only an attack would name.
    """
    if len(module) + len(name) > LONGEST_NAME:
        raise Refusal(f"it names something of {len(module) + len(name)} characters, which is no class or function")
    module = {"__builtin__": "builtins", "copy_reg": "copyreg"}.get(module, module)
    path = f"{module}.{name}"
    shown = "".join(c if c.isprintable() else "?" for c in path[:80])
    if not all(part.isidentifier() or part == "<lambda>" for part in path.split(".")):
        raise Refusal(f"it names {shown!r}, which is no class or function; nothing of it was run")
    top, _, rest = path.partition(".")
    climbs = "." in name and not HOSTILE.isdisjoint(name.split("."))  # torch's "os.system" is os.system
    if top in HOSTILE or climbs or (top == "builtins" and rest not in HARMLESS):
        raise Refusal(f"it names {shown}, as an attack would and no checkpoint needs; nothing of it was run")
    return Name(path)
