"""The EM stage: what the teacher votes, what the student learns, and how the teacher follows (Hahn et al. 2024)."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from segproto.data.batch import Batch
from segproto.errors import ConfigError
from segproto.methods.primaps.config import EmConfig
from segproto.methods.primaps.proposed import unpack
from segproto.methods.primaps.student import changed
from segproto.model.direction_head import DirectionHead, TeacherHead
from segproto.model.segmenter import Segmenter
from segproto.prototypes.expectation import frequency_weighted_loss, majority_vote, teacher_decay
from segproto.prototypes.labels import IGNORE_INDEX
from segproto.training.agreement import agreement
from segproto.training.procedures.optimise import batch_features, pad_masks
from segproto.training.procedures.require import require_head


def begin_em(model: Segmenter, config: EmConfig) -> None:
    """Gives the directions a student that starts as their copy, and a probe if asked for.

    Raises:
        ConfigError: a probe, but a model that does not know how many classes the labels have.
    """
    head = require_head(model, "em", DirectionHead)
    count = len(model.card.get("labels", ())) if config.probe else 0
    if config.probe and not count:
        raise ConfigError("stages.em.probe = true: the model of train.start was made without labels; set it false")
    model.head = TeacherHead(head.bank, count).to(head.bank.directions.device)


class EmLoss:
    """Expectation (a vote on each proposal) and maximisation (a weighted cross-entropy) of a batch.

    Args:
        config: of the stage.
        seed: of what the student sees.
    """

    def __init__(self, config: EmConfig, seed: int) -> None:
        self.config, self.seed = config, seed
        self._count: tuple[TeacherHead, int] | None = None  # steps taken, on the host: asking the device would stall it

    def __call__(self, model: Segmenter, batch: Batch) -> dict[str, Tensor]:
        """``loss``, with its parts ``em`` and, if there is a probe, ``probe``."""
        config, head = self.config, require_head(model, "em", TeacherHead)
        labels, regions = unpack(pad_masks(model, batch))
        if config.at == "quarter":
            labels, regions = labels[:, 2::4, 2::4], regions[:, 2::4, 2::4]
        size = (labels.shape[-2], labels.shape[-1])
        with torch.no_grad():
            features = batch_features(model, batch)[-1]
            votes = upsampled(head.bank.logits(features), size).argmax(1)
            pseudo = majority_vote(votes, regions, head.num_classes)
            student_features = (
                features if config.student is None else model.features(self._student_images(model, batch, head))
            )
        logits = upsampled(head.student.logits(student_features), size)
        terms = {"em": frequency_weighted_loss(logits, pseudo, gamma=config.gamma, reduce=agreement())}
        if head.probe_weight is not None:
            guesses = upsampled(head.probe(features), size)
            total = F.cross_entropy(guesses, labels.long(), ignore_index=IGNORE_INDEX, reduction="sum")
            terms["probe"] = total / labels.numel()
        return {"loss": torch.stack(list(terms.values())).sum(), **terms}

    def step(self, model: Segmenter) -> None:
        """After an optimizer step: every so many, the teacher moves towards the student."""
        head = require_head(model, "em", TeacherHead)
        steps = self.done(head)
        if steps and steps % self.config.update_every == 0:
            head.update_teacher(teacher_decay(steps // self.config.update_every, self.config.decay, self.config.warmup))
        head.steps += 1
        self._count = head, steps + 1

    def done(self, head: TeacherHead) -> int:
        """Optimizer steps taken before this one."""
        if self._count is None or self._count[0] is not head:
            self._count = head, int(head.steps)
        return self._count[1]

    def _student_images(self, model: Segmenter, batch: Batch, head: TeacherHead) -> Tensor:
        assert batch.images is not None
        assert self.config.student is not None
        names = batch.names or range(len(batch.images))  # a batch that only measures memory has none
        keys = [f"{self.seed}/{self.done(head)}/{name}" for name in names]
        return changed(batch.images, keys, self.config.student, model.encoder.normalisation)


def upsampled(grid: Tensor, size: tuple[int, int]) -> Tensor:
    """Logits on the grid to logits at the pixels, which commutes with the 1x1 convolution and costs K/C of it."""
    return F.interpolate(grid, size=size, mode="bilinear", align_corners=False)
