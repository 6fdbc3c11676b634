"""Runs small enough for a test, through the public functions."""

from __future__ import annotations

from pathlib import Path

import segproto

SMALL = [
    "data.scenes.size=64",
    "data.scenes.num_train=24",
    "data.scenes.num_val=4",
    "data.augment.crop=64",
    "encoder.width=4",
    "encoder.dim=8",
    "encoder.rates=[1,2]",
    "train.batch_size=4",
    "train.precision=32-true",
    "train.log_every=1",
    "train.validate_every=2",
    "stages.joint.steps=4",
]
FEW = ["stages.group_warmup.steps=2", "stages.group_joint.steps=2"]
GROUPS = ["stages.linear.steps=2", *FEW]


def train_blackbox(out: Path, *extra: str) -> Path:
    """A black box trained for four steps."""
    segproto.train("blackbox/scenes", out=out, overrides=[*SMALL, *extra], quiet=True)
    return out


def train_scaleproto(out: Path, *extra: str) -> Path:
    """A grouped prototype model trained for a few steps, whose masks hold several classes even so."""
    segproto.train("scaleproto/scenes-published", out=out, overrides=[*SMALL, *FEW, *extra], quiet=True)
    return out
