"""The one way to write a file or a folder: whole or not at all, and never over what is not ours.

A file that a command writes where the user says bears a mark, ``Made by segproto (KIND)``: in a chunk of a PNG, a
key of a JSON object, the metadata of tensors, a comment of a page or an archive. Only a file with the mark of its kind
is replaced, so that a command can be repeated and harms nothing else. What lies in a folder that the project made for
itself (a run, a cache) needs no mark: the folder is known. While something is written it has another name,
``.segproto-<random>.part``, which is locked; one that nobody locks was left by a killed process, and goes.

What others wrote is opened by :mod:`segproto.files.reading`, and parsed by :mod:`~segproto.files.documents` (JSON, by
a schema) and :mod:`~segproto.files.yaml_text`.
"""

from segproto.files.holding import LOCK, hold, is_empty
from segproto.files.marks import (
    identities,
    in_own_folder,
    mark,
    place,
    png_chunk,
    require,
    require_all,
    require_folder,
    stamped,
)
from segproto.files.several import fresh_files
from segproto.files.writing import (
    disk_errors,
    fill,
    fill_tensors,
    fresh,
    fresh_folder,
    link,
    old_of,
    remove,
    remove_folder,
    scratch,
    sync_file,
    tag_cache,
    take_back,
    write,
    write_json,
    write_picture,
    write_tensors,
)

__all__ = [
    "LOCK",
    "disk_errors",
    "fill",
    "fill_tensors",
    "fresh",
    "fresh_files",
    "fresh_folder",
    "hold",
    "identities",
    "in_own_folder",
    "is_empty",
    "link",
    "mark",
    "old_of",
    "place",
    "png_chunk",
    "remove",
    "remove_folder",
    "require",
    "require_all",
    "require_folder",
    "scratch",
    "stamped",
    "sync_file",
    "tag_cache",
    "take_back",
    "write",
    "write_json",
    "write_picture",
    "write_tensors",
]
