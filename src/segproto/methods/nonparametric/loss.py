"""The loss of the joint stage, and the clustering that goes with each of its steps."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from segproto.data.batch import Batch
from segproto.methods.nonparametric.config import JointConfig
from segproto.model.heads import NearestHead
from segproto.model.segmenter import Segmenter
from segproto.prototypes.clustering import Clustering, cluster_pixels, momentum_update
from segproto.prototypes.contrast import pixel_prototype_distance, pixel_prototype_infonce
from segproto.prototypes.health import dead_prototypes
from segproto.prototypes.labels import IGNORE_INDEX, resize_labels
from segproto.prototypes.losses import pixel_weights
from segproto.prototypes.seeding import reseed_dead
from segproto.prototypes.segments import one_process
from segproto.training.agreement import agreement, processes
from segproto.training.procedures.optimise import (
    class_weight,
    compared_labels,
    mean_terms,
    pad_masks,
    summed_cross_entropy,
)
from segproto.training.procedures.require import require_head


class Pixels(NamedTuple):
    """Embeddings (N, D), labels (N,) and predicted classes (N,) that dead prototypes may move to."""

    embeddings: Tensor
    labels: Tensor
    predictions: Tensor


class ClusterLoss:
    """Cross-entropy, pixel-prototype InfoNCE and distance (Zhou et al. 2022, eq. 17), by the prototypes of before.

    What the batches of an optimizer step say about the prototypes is added up; :meth:`move` takes the step. All means
    are over the labelled pixels of all processes.

    Args:
        config: weights and clustering.
    """

    def __init__(self, config: JointConfig) -> None:
        self.config = config
        self._found: tuple[NearestHead, Tensor, Tensor] | None = None  # sums and counts, of this head alone
        self._moves: tuple[NearestHead, int] | None = None  # the head's count of steps, here so that no device is asked
        self._pixels: Pixels | None = None

    def __call__(self, model: Segmenter, batch: Batch) -> dict[str, Tensor]:
        """All terms, averaged over MSC outputs; ``loss`` is their weighted sum."""
        config = self.config
        masks = pad_masks(model, batch)
        terms, inner = mean_terms(model, batch, config.lr, lambda f: self.output_terms(model, f, masks))
        loss = terms["cross_entropy"] + config.contrast * terms["contrast"] + config.distance * terms["distance"]
        if inner is not None and config.auxiliary > 0:
            terms["auxiliary"] = self.cross_entropy(inner, masks, model.encoder.config.aligned)
            loss = loss + config.auxiliary * terms["auxiliary"]
        return {"loss": loss, **terms}

    def output_terms(self, model: Segmenter, features: Tensor, masks: Tensor) -> dict[str, Tensor]:
        """The terms of one feature map (B, D, h, w) with masks (B, H, W); its clustering is added up."""
        config, head = self.config, require_head(model, "joint", NearestHead)
        labels = resize_labels(masks, (features.shape[-2], features.shape[-1]))
        embeddings = head.embed(features)
        similarities = head.bank.similarities(embeddings)
        logits = head.grid_logits(similarities, features)
        pixels = Pixels(embeddings.detach(), labels.flatten(), logits.detach().argmax(1).flatten())
        clustering = cluster_pixels(
            pixels.embeddings,
            similarities,
            pixels.labels,
            pixels.predictions,
            head.num_classes,
            assign=config.assign,
            few=config.few,
            reduce=agreement() if config.sinkhorn == "global" else one_process,
            ignore_index=IGNORE_INDEX,
        )
        self._add(head, clustering, pixels)
        targets, warmth = clustering.targets, config.contrast_temperature
        (cells,) = self.normalisers(labels != IGNORE_INDEX)
        return {
            "cross_entropy": self.cross_entropy(logits, masks, model.encoder.config.aligned),
            "contrast": pixel_prototype_infonce(similarities, targets, temperature=warmth, normaliser=cells),
            "distance": pixel_prototype_distance(similarities, targets, normaliser=cells),
        }

    def cross_entropy(self, logits: Tensor, masks: Tensor, aligned: bool) -> Tensor:
        """Of grid logits (B, C, h, w) and masks (B, H, W): mean over the labelled pixels of all processes."""
        where, weight = self.config.cross_entropy, class_weight(self.config.class_weights, logits)
        labels = compared_labels(logits, masks, where)
        (normaliser,) = self.normalisers(pixel_weights(labels, weight))
        return summed_cross_entropy(logits, labels, where, aligned, weight) / normaliser

    def normalisers(self, *weights: Tensor) -> tuple[Tensor, ...]:
        """Pixel weights summed over all processes, divided by how many these are, for DDP's mean of gradients."""
        counts = torch.stack([each.sum(dtype=torch.float32) for each in weights])
        return (agreement()(counts) / processes()).clamp_min(1e-6).unbind()

    def _add(self, head: NearestHead, clusters: Clustering, pixels: Pixels) -> None:
        sums, counts = clusters.sums, clusters.counts
        if self._found is not None and self._found[0] is head:
            sums, counts = self._found[1] + sums, self._found[2] + counts
        self._found = head, sums, counts
        self._pixels = pixels if self.config.reseed_every > 0 else None

    @torch.no_grad()
    def move(self, model: Segmenter) -> None:
        """Moves the prototypes by what was found since the last call: once per optimizer step, on every process."""
        assert self._found is not None
        (head, sums, counts), self._found = self._found, None
        pixels, self._pixels = self._pixels, None
        assert head is model.head
        config, bank, reduce = self.config, head.bank, agreement()
        if config.sync == "sum":
            packed = reduce(torch.cat([sums, counts[..., None]], -1))
            counts = packed[..., -1]
            moved = momentum_update(bank.vectors, packed[..., :-1], counts, momentum=config.momentum)
        else:
            moved = momentum_update(
                bank.vectors, sums, counts, momentum=config.momentum, sync=config.sync, reduce=reduce
            )
            counts = reduce(counts)
        bank.vectors.copy_(moved)
        bank.record(counts)
        if pixels is not None and self._count(head) % config.reseed_every == 0:
            dead = dead_prototypes(bank.vectors, bank.usage, min_share=config.reseed_share)
            bank.renew(*reseed_dead(bank.vectors, dead, *pixels, reduce=reduce))

    def _count(self, head: NearestHead) -> int:
        """Steps the head's prototypes have taken; the device is asked for it once."""
        same_head = self._moves is not None and self._moves[0] is head
        self._moves = (head, self._moves[1] + 1) if self._moves and same_head else (head, int(head.bank.moves))
        return self._moves[1]
