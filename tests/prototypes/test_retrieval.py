"""Looking up labelled patches: against float64 loops over queries, patches, pixels and cells."""

from __future__ import annotations

import math

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from segproto.prototypes import retrieval
from segproto.prototypes.approximate import ApproximateIndex, search_recall
from segproto.prototypes.coreset import medoids, shared_quota, spread_subset
from segproto.prototypes.retrieval import (
    cell_frequencies,
    choose_cells,
    embed_cells,
    nearest_patches,
    position_directions,
    rarity,
    vote_shares,
)


def unit(rows: int, dim: int, seed: int) -> Tensor:
    return F.normalize(torch.randn(rows, dim, generator=torch.Generator().manual_seed(seed)), dim=1)


@pytest.mark.parametrize("block", [1 << 24, 64, 7])
def test_search_is_exact_however_it_is_cut(block: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(retrieval, "BLOCK", block)
    monkeypatch.setattr(retrieval, "WIDE", block // 4)
    queries, keys = unit(13, 5, 0), unit(37, 5, 1)
    nearest = nearest_patches(queries, keys, 6)
    for row in range(13):
        cosines = [sum(float(a) * float(b) for a, b in zip(queries[row], key, strict=True)) for key in keys]
        order = sorted(range(37), key=lambda i: -cosines[i])[:6]
        assert nearest.patch[row].tolist() == order
        assert nearest.similarity[row].tolist() == pytest.approx([cosines[i] for i in order], abs=1e-6)


def test_neighbours_are_of_other_images(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(retrieval, "BLOCK", 35)
    monkeypatch.setattr(retrieval, "WIDE", 7)
    generator = torch.Generator().manual_seed(0)
    keys = F.normalize(torch.randn(30, 4, generator=generator), dim=1)
    image = torch.arange(30) // 6
    queries = torch.tensor([0, 3, 7, 11, 12, 20, 29])
    found = nearest_patches(keys[queries], keys, 4, (image[queries], image))
    for row, query in enumerate(queries.tolist()):
        others = [i for i in range(30) if image[i] != image[query]]
        cosines = {i: float(keys[i].double() @ keys[query].double()) for i in others}
        order = sorted(others, key=lambda i: -cosines[i])[:4]
        assert found.patch[row].tolist() == order
        assert found.similarity[row].tolist() == pytest.approx([cosines[i] for i in order], abs=1e-6)


def test_votes_are_a_softmax_over_the_neighbours() -> None:
    similarity = torch.tensor([[0.9, 0.5, -0.2]])
    whole = [math.exp(s / 0.1) for s in (0.9, 0.5, -0.2)]
    assert vote_shares(similarity, 0.1)[0].tolist() == pytest.approx([w / sum(whole) for w in whole], rel=1e-5)


@given(st.integers(1, 9), st.integers(1, 9), st.integers(1, 4), st.integers(1, 4), st.integers(0, 99))
@settings(max_examples=25, deadline=None)
def test_frequencies_of_cells_are_those_of_a_pixel_loop(height: int, width: int, h: int, w: int, seed: int) -> None:
    h, w = min(h, height), min(w, width)
    labels = torch.randint(0, 4, (height, width), generator=torch.Generator().manual_seed(seed))
    labels[labels == 3] = 255
    actual, labelled = cell_frequencies(labels, (h, w), 3)
    pixels: dict[int, list[int]] = {cell: [] for cell in range(h * w)}
    for y in range(height):
        for x in range(width):
            pixels[(y * h // height) * w + x * w // width].append(int(labels[y, x]))
    for cell, values in pixels.items():
        known = [value for value in values if value != 255]
        assert float(labelled[cell]) == pytest.approx(len(known) / len(values))
        expected = [known.count(c) / len(known) if known else 0.0 for c in range(3)]
        assert actual[cell].tolist() == pytest.approx(expected)


def test_rare_classes_keep_their_cells() -> None:
    frequencies = torch.zeros(100, 2)
    frequencies[:, 0] = 1
    frequencies[7] = torch.tensor([0.0, 1.0])
    assert rarity(frequencies)[[0, 7]].tolist() == [99, 1]
    usable = torch.ones(100, dtype=torch.bool)
    usable[3] = False
    kept = [choose_cells(frequencies, usable, 10, torch.Generator().manual_seed(seed)) for seed in range(30)]
    assert all(len(cells) == 10 and 3 not in cells.tolist() for cells in kept)
    assert sum(7 in cells.tolist() for cells in kept) >= 28  # by chance alone it would be kept 3 times
    assert len({tuple(cells.tolist()) for cells in kept}) > 20  # the common ones are drawn


@given(st.lists(st.integers(0, 500), min_size=1, max_size=8), st.integers(8, 400))
@settings(max_examples=50, deadline=None)
def test_quotas_use_the_count_and_spare_every_class(sizes: list[int], count: int) -> None:
    quotas = shared_quota(torch.tensor(sizes), count)
    assert int(quotas.sum()) <= max(count, sum(size > 0 for size in sizes))
    for size, quota in zip(sizes, quotas.tolist(), strict=True):
        assert (quota == 0) == (size == 0)
        assert quota <= size
    if sum(sizes) <= count:
        assert quotas.tolist() == sizes


def test_medoids_are_one_real_row_of_each_cluster() -> None:
    centres = torch.eye(4)
    keys = F.normalize(centres.repeat_interleave(20, 0) + 0.05 * torch.randn(80, 4), dim=1)
    rows = medoids(keys, 4, 20, torch.Generator().manual_seed(3))
    assert {int(row) // 20 for row in rows} <= {0, 1, 2, 3}
    many = medoids(keys, 12, 20, torch.Generator().manual_seed(3))
    assert {int(row) // 20 for row in many} == {0, 1, 2, 3}
    kept = spread_subset(keys, torch.arange(4).repeat_interleave(20), 8)
    assert torch.bincount(kept // 20, minlength=4).tolist() == [2, 2, 2, 2]


def test_cells_are_normalised_by_layer_centred_and_of_length_one() -> None:
    cells, mean = torch.randn(6, 8) * 5, torch.randn(8)
    axis = F.normalize(torch.randn(1, 8), dim=1)
    embedded = embed_cells(cells, 2, mean, axis).double()
    for row, cell in zip(embedded, cells.double(), strict=True):
        parts = [(p - p.mean()) / (p.var(correction=0) + 1e-5).sqrt() for p in (cell[:4], cell[4:])]
        x = torch.cat(parts) - mean
        x = x - (x @ axis[0].double()) * axis[0]
        assert torch.allclose(row, x / x.norm(), atol=1e-5)
    assert float((embedded @ axis.double().T).abs().max()) < 1e-5


def test_directions_of_places_are_found_and_orthonormal() -> None:
    ramp = torch.linspace(-1, 1, 9)[:, None] * F.normalize(torch.randn(1, 6), dim=1) * 4
    means = ramp + 0.01 * torch.randn(9, 6)
    direction = position_directions(means, torch.ones(9), 2)
    assert torch.allclose(direction @ direction.T, torch.eye(2), atol=1e-5)
    assert float((direction[0] @ F.normalize(ramp[-1], dim=0)).abs()) > 0.99
    assert position_directions(means, torch.zeros(9), 2).shape == (0, 6)


def test_a_balanced_draw_prefers_what_is_rare_in_all_images() -> None:
    """Of two cells one is drawn: with odds 1 / sqrt(0.01) against 1 / sqrt(0.81), 10 : 1.11."""
    frequencies, usable = torch.eye(2), torch.ones(2, dtype=torch.bool)
    shares = torch.tensor([0.81, 0.01])
    draws = [choose_cells(frequencies, usable, 1, torch.Generator().manual_seed(s), shares) for s in range(2000)]
    assert abs(sum(int(draw[0]) for draw in draws) / 2000 - 0.9) < 0.02
    few = choose_cells(frequencies, torch.tensor([True, False]), 2, torch.Generator(), shares)
    assert few.tolist() == [0]


def test_an_inverted_file_finds_nearly_all_neighbours() -> None:
    pytest.importorskip("faiss")
    torch.manual_seed(0)
    centres = torch.randn(50, 16)
    keys = torch.nn.functional.normalize(centres.repeat(100, 1) + 0.5 * torch.randn(5000, 16), dim=1)
    index = ApproximateIndex(keys.half())
    queries = torch.nn.functional.normalize(centres + 0.5 * torch.randn(50, 16), dim=1)
    exact, found = nearest_patches(queries, keys.half(), 10), index.nearest(queries, 10)
    hits = (exact.patch[:, :, None] == found.patch[:, None, :]).any(2).float().mean()
    assert 0.9 < float(hits) <= 1
    assert torch.allclose(exact.similarity[:, 0], found.similarity[:, 0], atol=1e-3)
    assert 0.9 < search_recall(index, 10) <= 1
    index.index.nprobe = 1
    assert search_recall(index, 10) < 0.9
