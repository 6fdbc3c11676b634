"""What threshold or pruning takes away: with ``refit`` the readout answers as before, as nearly as it can."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import torch
import torch.nn.functional as F
from tiny_segmenters import segmenter

from segproto.data.scenes import ScenesConfig, ScenesDataset
from segproto.model.edit import keep_prototypes
from segproto.model.heads import GroupedHead, PrototypeHead, ReadoutHead
from segproto.model.segmenter import Segmenter
from segproto.training.figures import Figures
from segproto.training.procedures.config import ThresholdConfig
from segproto.training.procedures.pruning import threshold_stage
from segproto.training.procedures.refit import drawn_cells, refitted, unit_activations
from segproto.training.stage import StageContext

TAU = 0.3


def context(model: Segmenter) -> StageContext:
    fabric, recipe = SimpleNamespace(global_rank=0, world_size=1), SimpleNamespace(train=SimpleNamespace(seed=3))
    images = ScenesDataset(ScenesConfig(num_train=6, size=32), "train")
    return StageContext(model, cast(Any, fabric), cast(Any, recipe), Path(), images, None)


def grouped() -> tuple[StageContext, GroupedHead]:
    torch.manual_seed(5)
    model = segmenter("grouped")
    head = model.head
    assert isinstance(head, GroupedHead)
    with torch.no_grad():
        head.readout.normal_()
        head.grouping.weights.uniform_()
        head.grouping.project_()
    return context(model), head


@torch.no_grad()
def scores(surroundings: StageContext, head: ReadoutHead) -> torch.Tensor:
    return unit_activations(head, drawn_cells(surroundings, "threshold", head.bank.num_prototypes)) @ head.readout.T


def test_a_refitted_readout_makes_up_for_what_the_threshold_took() -> None:
    away = []
    for refit in (False, True):
        surroundings, head = grouped()
        before, weights = scores(surroundings, head), head.grouping.dense().detach().clone()
        figures = threshold_stage("threshold", ThresholdConfig(tau=TAU, refit=refit)).run(surroundings)
        kept = head.grouping.dense().detach()
        assert torch.equal(kept, torch.where(weights < TAU, 0, weights))
        assert int((kept == 0).sum()) - int((weights == 0).sum()) > 0
        after = scores(surroundings, head)
        away.append(float(F.kl_div(after.log_softmax(1), before.softmax(1), reduction="batchmean")))
        same = float((after.argmax(1) == before.argmax(1)).float().mean())
        assert figures.get("answers_kept") == (same if refit else None)
    assert away[1] < 0.7 * away[0]


def test_prototypes_that_stay_take_over_what_the_others_said() -> None:
    away = []
    for refit in (False, True):
        torch.manual_seed(6)
        model = segmenter("prototype")
        surroundings, head = context(model), model.head
        assert isinstance(head, PrototypeHead)
        with torch.no_grad():
            head.readout.normal_()
        before, count = scores(surroundings, head), head.bank.num_prototypes

        def drop(surroundings: StageContext) -> Figures:
            keep_prototypes(surroundings.segmenter, torch.arange(0, surroundings.segmenter.head.bank.num_prototypes, 2))  # type: ignore[union-attr]
            return {"prototypes": 1}

        figures = refitted(surroundings, "prune", drop) if refit else drop(surroundings)
        assert figures["prototypes"] == 1
        assert 2 * head.bank.num_prototypes == count
        after = scores(surroundings, head)
        away.append(float(F.kl_div(after.log_softmax(1), before.softmax(1), reduction="batchmean")))
    assert away[1] < 0.7 * away[0]
