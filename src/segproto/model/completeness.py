"""How exactly the shares of an explanation add up to the logits that they explain."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch

if TYPE_CHECKING:
    from segproto.model.explanation import Explanation


def completeness_error(why: Explanation, sample: int | None, seed: int) -> float:
    """See :meth:`segproto.model.explanation.Explanation.completeness_error`."""
    count = why.size[0] * why.size[1]
    if sample is None or sample >= count:
        chosen = torch.arange(count)
    else:
        chosen = torch.randint(count, (sample,), generator=torch.Generator().manual_seed(seed))
    worst = 0.0
    for part in torch.chunk(chosen, why.chunks(len(chosen))):
        ys, xs = part // why.size[1] + why.region[0], part % why.size[1] + why.region[1]
        logits = why.logits(ys, xs)
        for labels in (why.strongest, why.runner_up):
            classes = labels.flatten()[part].long().to(logits.device)
            shares = why.evidence(ys, xs, classes)
            logit = logits.gather(1, classes[:, None])[:, 0].double()
            total = shares.prototypes.double().sum(1) + shares.offset
            scale = torch.maximum(logit.abs(), shares.prototypes.double().abs().sum(1)).clamp(min=1e-30)
            worst = max(worst, float(((total - logit).abs() / scale).max()))
    return worst
