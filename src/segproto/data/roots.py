"""Where the data sets lie: ``data.root``, or set once by an environment variable each or in one user file."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING

from segproto.data.archives import is_archive
from segproto.errors import DataError
from segproto.files.reading import require_text_name

if TYPE_CHECKING:
    from segproto.data.config import DataConfig

CONFIG = "SEGPROTO_CONFIG"


def user_file() -> Path:
    """``$SEGPROTO_CONFIG``, or ``segproto/data.yaml`` in the user's configuration folder."""
    if CONFIG in os.environ:
        return Path(os.environ[CONFIG]).expanduser()
    return Path(os.environ.get("XDG_CONFIG_HOME", "~/.config")).expanduser() / "segproto" / "data.yaml"


def known_root(name: str, variable: str) -> Path | None:
    """The folder of a data set: ``$VARIABLE``, else its line (``cityscapes: /data/city``) in :func:`user_file`.

    Raises:
        DataError: the user file is no list of names and folders.
    """
    if os.environ.get(variable):
        return Path(os.environ[variable]).expanduser()
    file = user_file()
    if not file.is_file():
        return None
    from segproto.files.yaml_text import read_yaml

    content = read_yaml(file) or {}
    if not isinstance(content, dict) or not all(isinstance(v, str) for v in content.values()):
        raise DataError(f"{file}: expected lines like 'cityscapes: /data/cityscapes'")
    value = content.get(name)
    return None if value is None else Path(os.path.expandvars(value)).expanduser()


def data_root(config: DataConfig, archives: bool = False) -> Path:
    """The data folder, checked; with ``archives`` it may be a zip or tar archive.

    Raises:
        DataError: if it is not set, holds an unset variable or is no folder.
    """
    if config.root is None:
        raise DataError(f"data.root is not set: data.name={config.name} needs the folder of its files (data.root=DIR)")
    if "$" in str(config.root):
        raise DataError(f"data.root={config.root} holds an environment variable that is not set")
    require_text_name(config.root)
    if archives and is_archive(config.root):
        return config.root
    if not config.root.is_dir():
        raise DataError(f"data.root={config.root} is not a folder; set data.root=DIR to where the files are")
    return config.root
