"""Packages that only an extra of segproto installs."""

from __future__ import annotations

import importlib
from typing import Any

from segproto.errors import ConfigError


def install(extra: str) -> str:
    """The command that installs an extra."""
    return f"pip install 'segproto[{extra}]'"


def package_of(extra: str, package: str, why: str) -> Any:
    """A package of an extra.

    Args:
        extra: its name in ``pyproject.toml``.
        package: to import.
        why: what needs it, the begin of the message.

    Raises:
        ConfigError: it is not installed.
    """
    try:
        return importlib.import_module(package)
    except ImportError as error:
        raise ConfigError(f"{why} needs the extra {extra} ({error}): {install(extra)}") from error
