"""Scores from what is kept of images are those of scoring in full, to the last pixel."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from rescored import rescore_heads
from torch import Tensor

import segproto
from segproto.data.build import build_dataset
from segproto.evaluation.rescore import EncoderFeatures
from segproto.evaluation.whatif import WhatIf, contenders, strips
from segproto.model.edit import edited
from segproto.model.field import Field
from segproto.model.segmenter import Segmenter
from segproto.runs.settings import data_config


def kept_images(run: Path) -> tuple[Segmenter, EncoderFeatures, WhatIf]:
    model = segproto.load(run).eval()
    dataset = build_dataset(data_config(run, {}, []), "val")
    features = EncoderFeatures(model, dataset)
    what_if = WhatIf(model, dataset.classes)
    for index in range(len(dataset)):
        what_if.add(dataset.names[index], features.get(index), dataset[index].mask)
    return model, features, what_if


def test_edits_are_scored_as_in_full(scaleproto_run: Path) -> None:
    model, features, what_if = kept_images(scaleproto_run)
    dense = model.head.grouping.dense()
    group = int((dense != 0).sum(1).argmax())
    member = int(dense[group].argmax())
    first = int(((model.head.bank.class_of == 1) & (model.head.bank.scale_of == 0)).nonzero()[0, 0])
    every = [
        {"drop": (0, 7)},
        {"forbid": ((group, member),)},
        {"merge": ((first + 1, first),)},
        {"reweight": ((group, 3.0), (0, 0.0))},
        {"drop": (0,), "merge": ((first + 1, first),), "reweight": ((1, 0.5),)},
    ]
    models = [edited(model, **edits) for edits in every]
    full = rescore_heads(features, [model.head, *(after.head for after, _ in models)])
    assert len({str(figures["confusion"]) for figures in full}) > 3
    for figures, (head, kept) in zip(full, [(model.head, None), *((m.head, k) for m, k in models)], strict=True):
        counts = what_if.count(head, kept)
        assert counts.sum(0).tolist() == figures["confusion"]
        assert what_if.scores(counts)["miou"] == figures["miou"]


def test_a_black_box_is_counted_from_its_features(blackbox_run: Path) -> None:
    model, features, what_if = kept_images(blackbox_run)
    assert what_if.count(model.head).sum(0).tolist() == rescore_heads(features, [model.head])[0]["confusion"]


@pytest.mark.parametrize("seed", range(3))
def test_a_class_that_wins_a_pixel_is_never_left_out(seed: int) -> None:
    torch.manual_seed(seed)
    grid = torch.randn(7, 5, 6).cumsum(1) + 4 * torch.randn(7, 1, 1)
    field = Field(grid, (37, 51), (8.0, 9.0))
    labels = field.rows(0, 37).argmax(0)
    pairs = torch.stack([torch.arange(5), (torch.arange(5) + 1).clamp(max=4)])
    may_win = contenders(grid[:, pairs].permute(2, 0, 1, 3).flatten(2))
    assert not bool(may_win.all())
    for y, above in enumerate(field.cell_rows().tolist()):
        assert bool(may_win[above][labels[y]].all())


def test_strips_leave_out_what_is_decided() -> None:
    assert strips([True, False, False, True, False]) == [(1, 1), (2, 2), (4, 4)]
    assert strips([False] * 12) == [(0, 1), (2, 3), (4, 5), (6, 7), (8, 9), (10, 11)]
    assert strips([True] * 4) == []


def test_a_nearest_head_answers_from_its_similarities() -> None:
    from segproto.model.nearest_head import NearestHead
    from segproto.prototypes.cosine_bank import CosineBank

    torch.manual_seed(0)
    head = NearestHead(CosineBank(torch.randn(4, 3, 8)))
    features: Tensor = torch.randn(2, 8, 5, 6)
    activations = head.activations(head.cell_features(features))
    torch.testing.assert_close(head.from_activations(activations), head(features))
