"""YAML as others left it, parsed within bounds."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import yaml

from segproto.errors import ConfigError, DataError, SegprotoError
from segproto.files.documents import DEEPEST, look_closer
from segproto.files.reading import read_text

LIMIT = 2**22  # bytes of a file
MOST_NODES = 200_000  # of a document, what aliases repeat counted each time
# What PyYAML's constructors raise for values that only look right (a 13th month, !!float x).
CONSTRUCTED = (ValueError, TypeError, LookupError, AttributeError, OverflowError, RecursionError)


class _Loader(yaml.SafeLoader):
    """YAML that reads ``1e-4`` as a number (YAML 1.1 wants ``1.0e-4``), of bounded depth and size, each key once."""

    def __init__(self, stream: str) -> None:
        super().__init__(stream)
        self._depth = 0
        self._sizes: dict[int, int] = {}  # of complete nodes, by identity; aliases are their node

    def compose_node(self, parent: yaml.Node | None, index: int) -> yaml.Node | None:
        mark, alias = self.peek_event().start_mark, self.check_event(yaml.AliasEvent)  # type: ignore[no-untyped-call]
        self._depth += 1
        if self._depth > DEEPEST:
            raise yaml.MarkedYAMLError(problem=f"more than {DEEPEST} levels", problem_mark=mark)
        node: yaml.Node | None = super().compose_node(parent, index)
        self._depth -= 1
        if node is None or id(node) in self._sizes:
            return node
        if alias:
            raise yaml.MarkedYAMLError(problem="it holds itself by an alias", problem_mark=mark)
        if isinstance(node, yaml.MappingNode):
            self._refuse_doubles(node)
        size = 1 + sum(self._sizes[id(child)] for child in _children(node))
        if size > MOST_NODES:
            raise yaml.MarkedYAMLError(problem=f"more than {MOST_NODES:,} values", problem_mark=mark)
        self._sizes[id(node)] = size
        return node

    @staticmethod
    def _refuse_doubles(node: yaml.MappingNode) -> None:
        seen: set[tuple[str, str]] = set()
        for key, _ in node.value:
            if isinstance(key, yaml.ScalarNode) and key.value != "<<":
                tag_and_value = (key.tag, key.value)
                if tag_and_value in seen:
                    raise yaml.MarkedYAMLError(problem=f"the key {key.value!r} twice", problem_mark=key.start_mark)
                seen.add(tag_and_value)


_Loader.yaml_implicit_resolvers = {k: list(v) for k, v in yaml.SafeLoader.yaml_implicit_resolvers.items()}
_Loader.add_implicit_resolver(
    "tag:yaml.org,2002:float", re.compile(r"^[-+]?(\d+\.?\d*|\.\d+)[eE][-+]?\d+$"), list("-+.0123456789")
)


def _children(node: yaml.Node) -> list[yaml.Node]:
    if isinstance(node, yaml.MappingNode):
        return [child for pair in node.value for child in pair]
    return list(node.value) if isinstance(node, yaml.SequenceNode) else []


def parse_yaml(text: str, source: object, error: type[SegprotoError] = ConfigError) -> Any:
    """Plain values of a YAML text.

    Args:
        text: the document.
        source: where it comes from, for messages.
        error: what is raised.

    Raises:
        SegprotoError: of the given kind, naming the source and the line: no YAML, a key twice, too deep or too large.
    """
    try:
        value = yaml.load(text, Loader=_Loader)
        look_closer(value)
    except yaml.YAMLError as problem:
        mark = getattr(problem, "problem_mark", None)
        line = f", line {mark.line + 1}" if mark else ""
        reason = getattr(problem, "problem", None) or " ".join(str(problem).split())
        raise error(f"{source}{line}: not YAML ({reason})") from problem
    except CONSTRUCTED as problem:
        raise error(f"{source}: not YAML ({' '.join(str(problem).split())[:200]})") from problem
    return value


def read_yaml(path: Path, error: type[SegprotoError] = DataError) -> Any:
    """Plain values of a YAML file.

    Raises:
        SegprotoError: of the given kind, naming the file, see :func:`parse_yaml` and
            :func:`~segproto.files.reading.read_text`.
    """
    return parse_yaml(read_text(path, error, LIMIT, "YAML file"), path, error)
