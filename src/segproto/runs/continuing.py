"""What decides the files that a command makes of many images, kept beside them: so it goes on when interrupted."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from segproto.errors import ConfigError
from segproto.files import write_json
from segproto.files.documents import read_object
from segproto.files.keys import shown
from segproto.model.fingerprint import model_hash
from segproto.model.segmenter import Segmenter

ANEW = "leave out --resume, and all are made anew"


def made_since(out: Path, verb: str, files: Iterable[Path]) -> bool:
    """Whether all files are there and no older than the record: older ones are of an earlier command in that folder."""
    begun = (out / f".{verb}.json").stat().st_mtime_ns
    return all(file.exists() and file.stat().st_mtime_ns >= begun for file in files)


def keep_record(out: Path, verb: str, model: Segmenter, settings: Mapping[str, Any], resume: bool) -> None:
    """Writes ``out/.VERB.json``, or with ``resume`` sees that it is the one that is there.

    Args:
        out: the folder of the files.
        verb: that makes them.
        model: it makes them with.
        settings: all options that change a file.
        resume: files that are there are to stay.

    Raises:
        ConfigError: those are of another model or of other settings, or nothing says what they are.
    """
    file = out / f".{verb}.json"
    value = json.loads(json.dumps({"model": model_hash(model), "settings": dict(settings)}))
    if not resume:
        write_json(file, value, "record")
        return
    if not file.is_file():
        raise ConfigError(f"{out}: nothing there says which model made its files ({file.name}); {ANEW}")
    earlier = read_object(file, ConfigError, ANEW)
    if earlier.get("model") != value["model"]:
        raise ConfigError(f"{out}: its files are of another model; {ANEW}")
    before = earlier.get("settings") or {}
    for key, now in value["settings"].items():
        if before.get(key) != now:
            made = f"its files were made with {key} = {shown(before.get(key))}, now it is {shown(now)}"
            raise ConfigError(f"{out}: {made}; {ANEW}")
