"""The loss of the joint stage, and the clustering that goes with each of its steps."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from segproto.data.base import IGNORE_INDEX
from segproto.data.batch import Batch
from segproto.methods.nonparametric.agreement import agreement, processes
from segproto.methods.nonparametric.config import JointConfig
from segproto.model.heads import NearestHead
from segproto.model.segmenter import Segmenter
from segproto.prototypes.clustering import cluster_pixels, momentum_update
from segproto.prototypes.contrast import pixel_prototype_distance, pixel_prototype_infonce
from segproto.prototypes.health import cluster_health
from segproto.prototypes.labels import resize_labels
from segproto.prototypes.segments import one_process
from segproto.training.procedures.optimise import batch_features, pad_masks


class ClusterLoss:
    """Cross-entropy, pixel-prototype InfoNCE and distance (Zhou et al. 2022, eq. 17), by the prototypes of before.

    What the batches of an optimiser step say about the prototypes is added up; :meth:`move` takes the step. All means
    are over the labelled pixels of all processes.

    Args:
        config: weights and clustering.
    """

    def __init__(self, config: JointConfig) -> None:
        self.config = config
        self._found: tuple[NearestHead, Tensor, Tensor] | None = None  # sums and counts, of this head alone

    def __call__(self, model: Segmenter, batch: Batch) -> dict[str, Tensor]:
        """All terms, averaged over MSC outputs; ``loss`` is their weighted sum."""
        config = self.config
        encoder_trains = config.lr.neck > 0 or config.lr.backbone > 0
        with torch.set_grad_enabled(encoder_trains and torch.is_grad_enabled()):
            outputs = batch_features(model, batch)
        masks = pad_masks(model, batch)
        found = [self.output_terms(model, features, masks) for features in outputs]
        terms = {key: torch.stack([t[key] for t in found]).mean() for key in found[0]}
        loss = terms["cross_entropy"] + config.contrast * terms["contrast"] + config.distance * terms["distance"]
        return {"loss": loss, **terms}

    def output_terms(self, model: Segmenter, features: Tensor, masks: Tensor) -> dict[str, Tensor]:
        """The terms of one feature map (B, D, h, w) with masks (B, H, W); its clustering is added up."""
        config, head = self.config, model.head
        assert isinstance(head, NearestHead)
        labels = resize_labels(masks, (features.shape[-2], features.shape[-1]))
        embeddings = head.embed(features)
        similarities = head.bank.similarities(embeddings)
        logits = head.grid_logits(similarities, features)
        clustering = cluster_pixels(
            embeddings.detach(),
            similarities,
            labels.flatten(),
            logits.detach().argmax(1).flatten(),
            head.num_classes,
            assign=config.assign,
            few=config.few,
            reduce=agreement() if config.sinkhorn == "global" else one_process,
            ignore_index=IGNORE_INDEX,
        )
        self._add(head, clustering.sums, clustering.counts)
        seen = masks
        if config.cross_entropy == "grid":
            seen = labels
        elif config.cross_entropy == "quarter":
            seen = masks[:, 2::4, 2::4]
        if config.cross_entropy != "grid":
            size = (seen.shape[-2], seen.shape[-1])
            logits = F.interpolate(logits, size=size, mode="bilinear", align_corners=False)
        cells, pixels = self.normalisers(labels, seen)
        entropy = F.cross_entropy(logits, seen, ignore_index=IGNORE_INDEX, reduction="sum") / pixels
        targets, warmth = clustering.targets, config.contrast_temperature
        health = cluster_health(head.bank.vectors, clustering.counts)
        return {
            "cross_entropy": entropy,
            "contrast": pixel_prototype_infonce(similarities, targets, temperature=warmth, normaliser=cells),
            "distance": pixel_prototype_distance(similarities, targets, normaliser=cells),
            "prototype_cosine": health.mean_cosine.mean(),
            "prototype_entropy": health.entropy.nanmean().nan_to_num(1),
        }

    def normalisers(self, *labels: Tensor) -> tuple[Tensor, ...]:
        """Labelled pixels of all processes, divided by how many these are, for the mean that DDP takes of gradients."""
        counts = torch.stack([(each != IGNORE_INDEX).sum() for each in labels]).float()
        return (agreement()(counts) / processes()).clamp_min(1e-6).unbind()

    def _add(self, head: NearestHead, sums: Tensor, counts: Tensor) -> None:
        if self._found is not None and self._found[0] is head:
            sums, counts = self._found[1] + sums, self._found[2] + counts
        self._found = head, sums, counts

    @torch.no_grad()
    def move(self, model: Segmenter) -> None:
        """Moves the prototypes by what was found since the last call: once an optimiser step, on every process."""
        assert self._found is not None
        (head, sums, counts), self._found = self._found, None
        assert head is model.head
        config, bank = self.config, head.bank
        moved = momentum_update(
            bank.vectors, sums, counts, momentum=config.momentum, sync=config.sync, reduce=agreement()
        )
        bank.vectors.copy_(moved)
