"""Mask proposals on a grid to proposals at every pixel, by the dense CRF (Hahn et al., TMLR 2024)."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from segproto.refine.crf import dense_crf
from segproto.refine.crf_settings import CRF_SETS, CrfSettings

SETTINGS = CRF_SETS["E"]
"""Published: Gaussian 1 px with weight 3; bilateral 67 px and 3 grey values with weight 4; ten iterations."""


@torch.no_grad()
def refine_regions(
    images: Tensor,
    regions: Tensor,
    counts: Tensor,
    *,
    padded: tuple[int, int] | None = None,
    settings: CrfSettings | None = SETTINGS,
    threads: int | None = None,
) -> Tensor:
    """Numbers of proposals at every pixel.

    The one-hot numbers, none among them, are the logits of the CRF; proposals without a cell stay labels, because
    they share in the softmax (inside a region its probability is e / (e + M)).

    Args:
        images: uint8 (B, 3, H, W).
        regions: int64 (B, h, w), 1..M, 0 = none.
        counts: int64 (B,), M of each image.
        padded: (height, width) in pixels that the grid covers, at least (H, W); None = the image.
        settings: of the CRF; None = the largest upsampled logit, without a CRF.
        threads: of the CRF on a CPU, see :func:`segproto.refine.crf.dense_crf`.

    Returns:
        int64 (B, H, W), 1..M, 0 = none.
    """
    height, width = images.shape[-2:]
    refined = torch.zeros(len(images), height, width, dtype=torch.int64, device=regions.device)
    for index, count in enumerate(counts.tolist()):  # the softmax is over each image's own number of proposals
        one_hot = F.one_hot(regions[index], count + 1).movedim(-1, 0)[None].float()
        full = F.interpolate(one_hot, size=padded or (height, width), mode="bilinear", align_corners=False)
        logits = full[..., :height, :width]
        if settings is None:
            refined[index] = logits[0].argmax(0)
        else:
            image = images[index : index + 1]
            refined[index] = dense_crf(image, -logits.contiguous(), settings, labels=True, threads=threads)[0]
    return refined
