"""Heads worked out in pieces of the map, beside a naive float64 loop and the whole map."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from segproto.model.heads import GroupedHead, PrototypeHead
from segproto.prototypes import pieces
from segproto.prototypes.bank import PrototypeBank
from segproto.prototypes.pieces import by_pieces


def naive_logits(head: GroupedHead | PrototypeHead, features: Tensor) -> Tensor:
    """(B, C, h, w), cell by cell and prototype by prototype, in float64."""
    bank, dense = head.bank, None if head.grouping is None else head.grouping.dense().detach().double()
    out = torch.zeros(len(features), head.num_classes, *features.shape[2:], dtype=torch.float64)
    for b, i, j in torch.cartesian_prod(*(torch.arange(features.shape[d]) for d in (0, 2, 3))).tolist():
        cell = features[b, :, i, j].double().view(bank.num_scales, bank.dim)
        d = (cell[bank.scale_of] - bank.vectors.detach().double()).square().sum(1)
        units = ((d + 1) / (d + 1e-4)).log()
        out[b, :, i, j] = head.readout.detach().double() @ (units if dense is None else (dense @ units).exp())
    return out


@pytest.mark.parametrize("grouped", [True, False])
@pytest.mark.parametrize("channels_last", [True, False])
def test_a_head_in_pieces_equals_the_naive_loop(
    grouped: bool, channels_last: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    torch.manual_seed(0)
    bank = PrototypeBank.regular(3, 2, 2, 4).select(torch.tensor([0, 1, 2, 4, 5, 7, 8, 9, 11]))
    head = GroupedHead(bank, 2) if grouped else PrototypeHead(bank)
    features = torch.rand(2, 8, 11, 13)
    features[1, :4, 10, 12] = bank.vectors[0].detach()  # an exact match in the last piece
    if channels_last:
        features = features.to(memory_format=torch.channels_last)
    seen: list[int] = []
    activations = bank.activations
    monkeypatch.setattr(bank, "activations", lambda part: seen.append(part.shape[3]) or activations(part))
    monkeypatch.setattr(pieces, "HELD", 2 * 9 * 64)
    with torch.no_grad():
        found = head(features)
    assert seen == [64, 64, 15]
    torch.testing.assert_close(found.double(), naive_logits(head, features), rtol=2e-5, atol=2e-5)


def test_no_pieces_where_a_gradient_is_wanted_or_the_map_is_small(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pieces, "HELD", 640)
    whole: list[tuple[int, ...]] = []

    def look(features: Tensor) -> Tensor:
        whole.append(tuple(features.shape))
        return features[:, :2]

    features = torch.rand(1, 3, 8, 16)
    by_pieces(look, features, 10)
    with torch.no_grad():
        by_pieces(look, features[:, :, :4], 10)
        assert torch.equal(by_pieces(look, features, 10), features[:, :2])
    assert whole == [(1, 3, 8, 16), (1, 3, 4, 16), (1, 3, 1, 64), (1, 3, 1, 64)]
