"""Other people's files, read without running anything they name: pickles, torch files, npy dicts, MXNet parameters.

Tensors, arrays, numbers, text and plain containers are built; everything else becomes a :class:`Record` of its
attributes. Nothing named in a file is imported, looked up or called.
"""

from __future__ import annotations

from segproto.foreign.arrays import read_mxnet_params, read_npy_dict
from segproto.foreign.files import read
from segproto.foreign.modules import module_state
from segproto.foreign.records import Name, Record

__all__ = ["Name", "Record", "module_state", "read", "read_mxnet_params", "read_npy_dict"]
