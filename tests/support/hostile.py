"""Strings that would run as script wherever a page forgot to escape them, put into every text of a file."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

MARK = "pwned"  # what the scripts below would set in the page's window
RUN = f"window.{MARK}=1"
HOSTILE = (
    f"""'"></title></style></script><img src=x onerror={RUN}><svg onload={RUN}><script>{RUN}</script>{{{{7*7}}}}"""
)
FILE_NAME = f"""'"><img src=x onerror={RUN}>"""  # a file's name holds no slash


def poisoned(value: Any, keep: Callable[[str], bool], at: str = "") -> Any:
    """A copy with the hostile string after every text, and in every key that a person chose.

    Args:
        value: of JSON or YAML.
        keep: whether the text at a dotted path (``*`` for a list's places) has to stay as it is.
        at: the path of ``value``.
    """
    if isinstance(value, dict):
        return {key: poisoned(item, keep, f"{at}.{key}".lstrip(".")) for key, item in value.items()}
    if isinstance(value, list):
        return [poisoned(item, keep, f"{at}.*") for item in value]
    return value if not isinstance(value, str) or keep(at) else value + HOSTILE


def poison_json(path: Path, keep: Callable[[str], bool] = lambda _: False, lines: bool = False) -> None:
    """Every text of a JSON file, or of each line of a JSONL file."""
    text = path.read_text()
    parts = text.splitlines() if lines else [text]
    path.write_text("\n".join(json.dumps(poisoned(json.loads(part), keep)) for part in parts) + "\n")
