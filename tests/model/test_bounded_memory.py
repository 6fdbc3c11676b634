"""Peak memory of predict and evaluate on images of two heights: what a further pixel costs, in a process of its own."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

SCRIPT = """
import resource, sys
import torch
from tiny_segmenters import segmenter
from segproto.data.base import Sample, SegmentationDataset
from segproto.evaluation.validate import validate
from segproto.model import predict as predicting

WIDTH, CLASSES = 1024, 6
model = segmenter("linear", classes=CLASSES, stride=8)
predicting.WHOLE_PIXELS = WIDTH * WIDTH // 4  # larger images go through windows


def picture(height):  # takes no memory itself
    return torch.full((3, 1, 1), 90, dtype=torch.uint8).expand(3, height, WIDTH)


class One(SegmentationDataset):
    split, fingerprint, classes, names = "val", "one", model.classes, ["one"]

    def __init__(self, height):
        self.height = height

    def __getitem__(self, index):
        return Sample(picture(self.height), torch.ones(1, 1, dtype=torch.uint8).expand(self.height, WIDTH), "one")


def verb(height):
    return VERB


def peak():
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


verb(3072)
low = peak()
verb(3072 + 12 * 1024)
print((peak() - low) / (12 * 1024 * WIDTH))
"""


@pytest.mark.parametrize(
    ("verb", "most"),
    [
        ("predicting.predict(model, picture(height))", 4),  # the mask is one byte
        ("validate(model, One(height))", 4),  # mask, labels in a row, which of them are void: three
    ],
)
def test_a_further_pixel_costs_its_mask_and_little_else(verb, most):
    """Logits alone would be 24 bytes."""
    support = str(Path(__file__).parents[1] / "support")
    path = os.pathsep.join([support, *filter(None, [os.environ.get("PYTHONPATH")])])
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": path}
    command = [sys.executable, "-c", SCRIPT.replace("VERB", verb)]
    done = subprocess.run(command, capture_output=True, text=True, env=environment, check=False)
    assert done.returncode == 0, done.stderr
    assert float(done.stdout) < most
