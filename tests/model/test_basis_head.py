"""Logits split over parts of a basis: against float64 sums, with dropped and silent parts, and from files."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from segproto.errors import ConfigError
from segproto.model.basis_head import BasisBank, BasisHead, FactorBank, RotatedBank
from segproto.model.heads import build_head
from segproto.prototypes.rotation import nearest_orthogonal, random_rotation

CLASSES, DIM = 5, 6


def make(kind: str) -> BasisHead:
    torch.manual_seed(0)
    weight, bias = torch.randn(CLASSES, DIM), torch.randn(CLASSES)
    bank: BasisBank
    if kind == "factors":
        bank = FactorBank(weight, torch.rand(7, 2 * DIM), 20)
    else:
        mean = torch.randn(DIM) if kind == "centred" else torch.zeros(DIM)
        bank = RotatedBank(weight, random_rotation(DIM, torch.Generator().manual_seed(1)), mean)
    return BasisHead(bank, bias)


def cells_of(features: Tensor) -> Tensor:
    return features.permute(0, 2, 3, 1).flatten(0, 2)


@pytest.mark.parametrize("kind", ["plain", "centred", "factors"])
def test_logits_are_the_classifiers_and_shares_add_up(kind: str) -> None:
    head = make(kind)
    features = torch.randn(2, DIM, 3, 4)
    plain = torch.nn.functional.conv2d(features, head.bank.weight[:, :, None, None], head.bias)
    assert torch.equal(head(features), plain)  # bit for bit
    cells = cells_of(features)
    exact = cells.double() @ head.bank.weight.double().T + head.bias.double()
    double = make(kind).double()
    if isinstance(double.bank, RotatedBank):
        double.bank.rotation.copy_(nearest_orthogonal(double.bank.rotation))
    for c in range(CLASSES):
        classes = torch.full((len(cells),), c)
        wide = double.contributions(cells.double(), classes)
        assert torch.allclose(wide.prototypes.sum(1) + wide.offset, exact[:, c], rtol=1e-12, atol=1e-12)
        shares = head.contributions(cells, classes)
        assert torch.allclose((shares.prototypes.sum(1) + shares.offset).double(), exact[:, c], atol=1e-5)
        strengths = head.activations(features).permute(0, 2, 3, 1).flatten(0, 2)
        assert bool((strengths >= 0).all())
        assert torch.allclose(shares.prototypes, strengths * head.unit_weights()[c], atol=1e-6)


def test_a_rotated_channel_is_two_parts_one_of_which_fires() -> None:
    head = make("plain")
    cells = torch.randn(9, DIM)
    channels = cells @ head.bank.rotation.T
    positive, negative = head.bank.strengths(cells).chunk(2, 1)
    assert torch.allclose(positive, channels.clamp_min(0), atol=1e-6)
    assert torch.allclose(negative, (-channels).clamp_min(0), atol=1e-6)
    assert bool((positive * negative == 0).all())


def test_what_nmf_cannot_explain_is_told_as_an_offset() -> None:
    head = make("factors")
    cells = torch.randn(9, DIM)
    strengths = head.bank.strengths(cells)
    rest = cells - strengths @ head.bank.atoms()
    offset = head.contributions(cells, torch.zeros(9, dtype=torch.int64)).offset
    assert torch.allclose(offset, rest @ head.bank.weight[0] + head.bias[0], atol=1e-5)
    assert float(rest.norm()) > 0.1


@pytest.mark.parametrize("kind", ["centred", "factors"])
def test_dropped_parts_are_not_seen_and_silent_ones_belong_to_none(kind: str) -> None:
    whole, head = make(kind), make(kind)
    features, classes = torch.randn(1, DIM, 2, 5), torch.arange(10) % CLASSES
    cells = cells_of(features)
    shares = whole.contributions(cells, classes)
    count = whole.bank.num_prototypes
    keep = torch.tensor([p for p in range(count) if p != 1])
    head.show(keep, head.bank.class_of[keep])
    assert torch.equal(head(features), whole(features))
    hidden = head.contributions(cells, classes)
    assert torch.allclose(hidden.offset, shares.offset + shares.prototypes[:, 1], atol=1e-5)
    kept = head.select(torch.tensor([p for p in range(count - 1) if p != 3]))  # place 3 is part 4
    assert 3 not in kept
    logits = cells_of(head(features)).gather(1, classes[:, None])[:, 0]
    before = cells_of(whole(features)).gather(1, classes[:, None])[:, 0]
    assert torch.allclose(logits, before - shares.prototypes[:, 4], atol=1e-5)
    edited = head.contributions(cells, classes)
    assert torch.allclose(edited.prototypes.sum(1) + edited.offset, logits, atol=1e-5)
    again = build_head(head.describe())
    again.load_state_dict(head.state_dict())
    assert torch.equal(again(features), head(features))
    assert torch.equal(again.contributions(cells, classes).prototypes, edited.prototypes)


def test_each_part_is_of_the_class_it_speaks_for_most() -> None:
    head = make("plain")
    for p, vector in enumerate(head.bank.vectors):
        assert int((head.bank.weight @ vector).argmax()) == int(head.bank.class_of[p])


def test_parts_are_not_merged() -> None:
    head = make("plain")
    with pytest.raises(ConfigError, match="not merged"):
        head.select(torch.tensor([0]), into=torch.zeros(2 * DIM, dtype=torch.int64))


@pytest.mark.parametrize(
    "change", [{"kept": [0, 99]}, {"kept": [1, 0]}, {"basis": {"kind": "other"}}, {"dropped": [-1]}]
)
def test_a_description_that_cannot_be_is_refused(change: dict) -> None:
    with pytest.raises(ValueError, match=r"parts must ascend|unknown"):
        build_head({**make("plain").describe(), **change})


def test_classes_go_with_their_parts() -> None:
    head = make("plain")
    count = head.bank.num_prototypes
    classes = torch.arange(count) % CLASSES
    head.show(torch.arange(1, count), classes[1:])
    assert torch.equal(head.bank.class_of, classes[1:])
    head.select(torch.arange(count - 1)[::2])
    assert torch.equal(head.bank.class_of, classes[1::2])
    assert torch.equal(build_head(head.describe()).bank.class_of, classes[1::2])
    for wrong in ([0], [CLASSES] * len(head.bank.kept)):
        with pytest.raises(ValueError, match="expected a class"):
            build_head({**head.describe(), "classes": wrong})
