"""Similarity and bank against naive float64 loops and the golden values of docs/specs/scaleproto.md."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from segproto.prototypes import similarity
from segproto.prototypes.bank import PrototypeBank
from segproto.prototypes.similarity import log_activation, squared_distances


def naive_distances(features: Tensor, bank: PrototypeBank) -> Tensor:
    x, vectors = features.double(), bank.vectors.detach().double()
    out = torch.zeros(x.shape[0], bank.num_prototypes, *x.shape[2:], dtype=torch.float64)
    for b in range(x.shape[0]):
        for p in range(bank.num_prototypes):
            scale = int(bank.scale_of[p])
            for i in range(x.shape[2]):
                for j in range(x.shape[3]):
                    cell = x[b, scale * bank.dim : (scale + 1) * bank.dim, i, j]
                    out[b, p, i, j] = sum((float(u) - float(v)) ** 2 for u, v in zip(cell, vectors[p], strict=True))
    return out


def small_bank(ragged: bool = False) -> PrototypeBank:
    bank = PrototypeBank.regular(5, 3, 4, 8, generator=torch.Generator().manual_seed(1))
    if not ragged:
        return bank
    keep = torch.ones(bank.num_prototypes, dtype=torch.bool)
    keep[[0, 7, 16, 17, 18, 45, 46, 59]] = False
    return bank.select(keep)


@pytest.mark.parametrize("ragged", [False, True])
def test_distances_equal_naive_loop(ragged: bool) -> None:
    torch.manual_seed(0)
    bank = small_bank(ragged)
    features = torch.rand(2, 32, 3, 4)
    expected = naive_distances(features, bank)
    torch.testing.assert_close(bank.distances(features), expected.float(), rtol=1e-5, atol=1e-5)
    exact = squared_distances(features.double(), bank.vectors.double(), bank.scale_ranges)
    torch.testing.assert_close(exact, expected, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize(
    ("distance", "activation"),
    [(0, 9.210340), (1e-4, 8.517293), (0.01, 4.605170), (0.1, 2.396896), (1, 0.693047), (64, 0.015503)],
)
def test_log_activation_golden_values(distance: float, activation: float) -> None:
    value = log_activation(torch.tensor([distance], dtype=torch.float64))
    assert value.item() == pytest.approx(activation, abs=1e-6)
    assert log_activation(torch.tensor([float(distance)])).item() == pytest.approx(activation, rel=1e-5, abs=1e-6)


def test_log_activation_gradient() -> None:
    distance = torch.tensor([0.0, 1e-3, 0.4, 7.0], dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(lambda d: log_activation(d + 1e-3), (distance,), eps=1e-8, atol=1e-4)
    log_activation(distance).sum().backward()
    assert distance.grad is not None
    torch.testing.assert_close(distance.grad, 1 / (distance.detach() + 1) - 1 / (distance.detach() + 1e-4))


def test_distance_gradients_equal_naive() -> None:
    torch.manual_seed(0)
    bank = small_bank(ragged=True)
    features = torch.rand(1, 32, 3, 3, requires_grad=True)
    weight = torch.rand(1, bank.num_prototypes, 3, 3)
    (bank.distances(features) * weight).sum().backward()
    x = features.detach().double().requires_grad_()
    v = bank.vectors.detach().double().requires_grad_()
    own = x.view(1, 4, 8, 3, 3)[:, bank.scale_of]
    ((own - v[None, :, :, None, None]).square().sum(2) * weight).sum().backward()
    assert features.grad is not None
    assert bank.vectors.grad is not None
    torch.testing.assert_close(features.grad.double(), x.grad, rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(bank.vectors.grad.double(), v.grad, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("channels_last", [False, True])
def test_distance_gradcheck(channels_last: bool) -> None:
    torch.manual_seed(0)
    bank = PrototypeBank.regular(2, 2, 2, 3).select(torch.tensor([0, 1, 2, 5]))
    features = torch.rand(2, 6, 2, 3, dtype=torch.float64)
    if channels_last:
        features = features.to(memory_format=torch.channels_last)
    vectors = bank.vectors.detach().double().requires_grad_()
    assert torch.autograd.gradcheck(
        lambda x, v: squared_distances(x, v, bank.scale_ranges), (features.requires_grad_(), vectors)
    )
    assert torch.autograd.gradcheck(lambda v: squared_distances(features.detach(), v, bank.scale_ranges), (vectors,))


def test_memory_format_does_not_matter() -> None:
    bank = small_bank(ragged=True)
    features = torch.rand(2, 32, 5, 4)
    expected = bank.distances(features)
    torch.testing.assert_close(bank.distances(features.to(memory_format=torch.channels_last)), expected)


def test_exact_match_stays_exact_under_autocast() -> None:
    """A prototype equal to a feature scores close to ln(1e4) even in mixed precision; centring is what does it."""
    torch.manual_seed(0)
    features = torch.sigmoid(torch.randn(1, 64, 20, 20))
    vectors = features[0].flatten(1).T.contiguous()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        distances = squared_distances(features, vectors, [(0, 400)])
    match = distances[0].flatten(1).diagonal()
    assert distances.dtype == torch.float32
    assert distances.min() >= 0  # rounding would leave some matches slightly negative
    assert match.max() < 4e-6
    assert log_activation(match).exp().mean() > 0.97e4


def test_distances_never_negative_and_bf16_features() -> None:
    features = torch.rand(1, 32, 5, 5).bfloat16()
    bank = small_bank()
    distances = bank.distances(features)
    assert distances.min() >= 0
    torch.testing.assert_close(distances, naive_distances(features, bank).float(), rtol=1e-5, atol=1e-5)


def test_wrong_channels_are_refused() -> None:
    with pytest.raises(ValueError, match=r"31 channels, expected 4 scales x 8"):
        small_bank().distances(torch.rand(1, 31, 2, 2))


def test_layout_is_scale_major_then_class() -> None:
    bank = PrototypeBank.regular(5, 3, 4, 8)
    for p in range(bank.num_prototypes):
        s, rest = divmod(p, 15)
        assert (int(bank.scale_of[p]), int(bank.class_of[p])) == (s, rest // 3)
    assert bank.scale_ranges == ((0, 15), (15, 30), (30, 45), (45, 60))
    assert (bank.vectors >= 0).all()
    assert (bank.vectors < 1).all()
    assert bank.activations(torch.rand(1, 32, 2, 2)).max() <= -math.log(1e-4) + 1e-4


def test_select_keeps_rows_and_ranges() -> None:
    bank = PrototypeBank.regular(2, 2, 3, 4)
    kept = bank.select(torch.tensor([0, 3, 4, 11]))
    assert kept.scale_ranges == ((0, 2), (2, 3), (3, 4))
    assert kept.class_of.tolist() == [0, 1, 0, 1]
    assert torch.equal(kept.vectors, bank.vectors[[0, 3, 4, 11]])
    empty_scale = bank.select(torch.arange(8))
    assert empty_scale.distances(torch.rand(1, 12, 2, 2)).shape == (1, 8, 2, 2)


def test_own_features_takes_the_block_of_the_scale() -> None:
    bank = PrototypeBank.regular(2, 1, 3, 4)
    cells = torch.arange(24.0).view(2, 12)
    own = bank.own_features(cells)
    assert own.shape == (2, 6, 4)
    assert own[1, 5].tolist() == [20, 21, 22, 23]


@pytest.mark.parametrize(
    ("class_of", "scale_of", "message"),
    [([0, 2], [0, 0], r"class_of holds 0..2, expected 0..1"), ([0, 1], [1, 0], "ordered by scale")],
)
def test_bad_banks_are_refused(class_of: list[int], scale_of: list[int], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        PrototypeBank(torch.rand(2, 3), torch.tensor(class_of), torch.tensor(scale_of), 2, 2)


def test_state_dict_round_trip() -> None:
    bank, other = small_bank(), PrototypeBank.regular(5, 3, 4, 8)
    other.load_state_dict(bank.state_dict())
    assert torch.equal(bank.vectors, other.vectors)
    assert set(bank.state_dict()) == {"vectors", "class_of", "scale_of"}


def test_exports_with_dynamic_grid() -> None:
    bank = PrototypeBank.regular(3, 2, 2, 4)

    class Activations(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.bank = bank

        def forward(self, x: Tensor) -> Tensor:
            return self.bank.activations(x)

    dims = {2: torch.export.Dim("h", min=2), 3: torch.export.Dim("w", min=2)}
    program = torch.export.export(Activations(), (torch.rand(1, 8, 5, 6),), dynamic_shapes=(dims,))
    features = torch.rand(1, 8, 7, 9)
    torch.testing.assert_close(program.module()(features), bank.activations(features))


def test_without_gradients_near_distances_do_not_depend_on_the_company() -> None:
    torch.manual_seed(0)
    bank = PrototypeBank.regular(4, 3, 2, 32)
    features = torch.rand(2, 64, 9, 13)
    for p in range(bank.num_prototypes):
        scale = int(bank.scale_of[p])
        own = features[p % 2, scale * 32 : (scale + 1) * 32, p % 9, p % 13]
        own.copy_(bank.vectors[p].detach() + 1e-4 * torch.randn(32))
    with torch.no_grad():
        whole = bank.activations(features).permute(0, 2, 3, 1).flatten(0, 2)
        cells = features.permute(0, 2, 3, 1).flatten(0, 2)
        alone = torch.cat([bank.activations(c[None, :, None, None])[0, :, 0, 0][None] for c in cells])
        exact = bank.double().activations(features.double()).permute(0, 2, 3, 1).flatten(0, 2)
    assert whole.max() > 9  # close matches are among them
    assert (whole - alone).abs().max() < 2e-5
    assert (whole - exact).abs().max() < 2e-5


@pytest.mark.parametrize("spread", [0.02, 0.05], ids=["all near", "some near"])
def test_many_near_distances_have_all_their_digits(spread: float, monkeypatch: pytest.MonkeyPatch) -> None:
    """Of collapsed features the expanded form in float32 keeps three digits; beside a naive float64 loop."""
    generator = torch.Generator().manual_seed(4)
    centre = torch.rand(12, generator=generator) * 0.5 + 0.25
    features = (centre[:, None, None] + torch.randn(2, 12, 9, 7, generator=generator) * spread).repeat(1, 2, 1, 1)
    vectors = centre + torch.randn(10, 12, generator=generator) * spread
    vectors[3] = features[1, :12, 4, 5]
    ranges = [(0, 6), (6, 10)]
    monkeypatch.setattr(similarity, "CHUNK", 200)  # several parts
    with torch.no_grad():
        found = squared_distances(features, vectors, ranges).double()
    for scale, (a, b) in enumerate(ranges):
        x = features[:, None, 12 * scale : 12 * scale + 12].double()
        exact = (x - vectors[a:b].double()[None, :, :, None, None]).square().sum(2)
        near = exact < similarity.NEAR * 0.99
        assert float(near.float().mean()) > 2 * similarity.FEW
        error = (found[:, a:b] - exact).abs()
        assert float((error[near] / exact[near].clamp_min(1e-9)).max()) < 2e-7
    assert float(found[1, 3, 4, 5]) < 1e-14
