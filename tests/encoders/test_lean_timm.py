"""timm without torch's compiler, which is there as soon as it is wanted."""

from __future__ import annotations

import subprocess
import sys

ALONE = """
import sys
from segproto.encoders.lean_timm import lean_timm
timm = lean_timm()
assert "sympy" not in sys.modules and "torch._dynamo" not in sys.modules
net = timm.create_model("vit_tiny_patch16_224", depth=1)
import torch
import torch._dynamo
assert torch._dynamo.__file__ and torch._dynamo.utils.counters is not None
assert torch.compile(torch.nn.Linear(2, 2), backend="eager")(torch.rand(1, 2)).shape == (1, 2)
from torchvision.ops import roi_align
assert roi_align(torch.rand(1, 2, 8, 8), [torch.tensor([[0.0, 0, 4, 4]])], 2).shape == (1, 2, 2, 2)
"""
WANTED = """
import sys
import torch
from segproto.encoders.lean_timm import disable, later
with later("torch._dynamo"):
    double = torch.compiler.disable(lambda x: 2 * x)
    assert "sympy" not in sys.modules
    assert (double(1), double(2)) == (2, 4)
    assert "sympy" in sys.modules  # since the first call
    from torch._dynamo.utils import counters
    assert counters is not None
    import torch._dynamo
    assert torch._dynamo.__file__
with later("torch._dynamo"):
    assert sys.modules["torch._dynamo"].__file__  # which stays
"""


def test_torchs_compiler_is_imported_when_it_is_wanted() -> None:
    for code in (ALONE, WANTED):
        done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stderr
