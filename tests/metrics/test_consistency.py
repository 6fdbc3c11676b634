"""Consistency, stability and sparsity against the plain algorithm: every map upsampled, one prototype at a time."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import ndimage

from segproto.metrics.cells import cell_pixels, class_pixels, pixel_cells, row_quantiles, segment_quantiles
from segproto.metrics.consistency import Consistency, Stability, part_presence
from segproto.metrics.keypoints import part_keypoints
from segproto.metrics.sparsity import active_prototypes, sparsity

QUANTILES = (0.5, 0.8, 0.9)


def picture(seed: int, height: int = 37, width: int = 53, classes: int = 3, parts: int = 4):
    """A blobby mask with some void, and parts numbered 1..parts in every class but the first."""
    rng = np.random.default_rng(seed)

    def blobs(n: int) -> np.ndarray:
        noise = ndimage.gaussian_filter(rng.normal(size=(n, height, width)), (0, 4, 4))
        return noise.argmax(0)

    mask = blobs(classes + 1)
    mask[mask == classes] = 255
    part_ids = np.where((mask == 255) | (mask == 0), 0, blobs(parts + 1))
    return torch.from_numpy(mask), torch.from_numpy(part_ids)


def naive_keypoints(mask, parts, background):
    """Class by class, part by part (docs/specs/scaleproto.md#consistency-and-stability)."""
    points = []
    for c in sorted(set(mask.flatten().tolist()) - {255}):
        own = np.where(mask.numpy() == c, parts.numpy(), 0)
        for part in sorted(set(own.flatten().tolist()) - {0}):
            pieces, count = ndimage.label(own == part, structure=np.ones((3, 3)))
            for i in range(0 if background else 1, count + 1):
                y, x = np.nonzero(pieces == i)
                if len(y):
                    points.append((c, part, round(y.mean()), round(x.mean())))
    return points


def naive_presence(activations, mask, points, class_of, num_parts, area, quantiles, within, at=0.5):
    """Every map resized to the image by pixel centres (at=0: by floor), masked, binarised by NumPy's quantile."""
    height, width = mask.shape
    _, h, w = activations.shape
    active = np.zeros((len(quantiles), len(class_of), num_parts), bool)
    seen = np.zeros((len(class_of), num_parts), bool)
    rows = [min(int((y + at) * h / area[0]), h - 1) for y in range(height)]
    columns = [min(int((x + at) * w / area[1]), w - 1) for x in range(width)]
    for p, c in enumerate(class_of.tolist()):
        full = activations[p].double().numpy()[np.ix_(rows, columns)]
        inside = mask.numpy() == c
        sample = full[inside] if within == "mask" else np.where(inside, full, 0).flatten()
        for class_id, part, y, x in points:
            if class_id != c:
                continue
            seen[p, part] = True
            for q, quantile in enumerate(quantiles):
                active[q, p, part] |= bool(inside[y, x] and full[y, x] > np.quantile(sample, quantile))
    return active, seen


@pytest.mark.parametrize("background", [False, True])
@pytest.mark.parametrize("seed", range(4))
def test_keypoints_are_those_of_the_plain_algorithm(seed, background) -> None:
    mask, parts = picture(seed)
    keypoints = part_keypoints(mask, parts, background_centroid=background)
    ours = sorted(zip(*(v.tolist() for v in keypoints), strict=True))
    theirs = sorted(naive_keypoints(mask, parts, background))
    assert len(ours) == len(theirs)
    assert np.abs(np.array(ours) - np.array(theirs)).max() <= (1 if background else 0)  # rounding of halves
    assert (np.abs(np.array(ours) - np.array(theirs)).max(1) == 0).mean() > 0.9


def test_diagonal_neighbours_are_one_piece_and_odd_inputs_are_told() -> None:
    parts = torch.zeros(6, 6, dtype=torch.int64)
    parts[0, 0] = parts[1, 1] = 2
    points = part_keypoints(torch.zeros(6, 6, dtype=torch.int64), parts)
    assert len(points.part) == 1
    empty = part_keypoints(torch.full((6, 6), 255), parts)
    assert len(empty.part) == 0
    with pytest.raises(ValueError, match=r"\(6, 6\), the part map \(6, 5\)"):
        part_keypoints(torch.zeros(6, 6), parts[:, :5])


@pytest.mark.parametrize("cells", ["centre", "floor"])
@pytest.mark.parametrize("within", ["mask", "image"])
@pytest.mark.parametrize("grid", [(37, 53), (8, 11), (5, 7)])
def test_presence_from_cells_equals_upsampling_every_map(grid, within, cells) -> None:
    for seed in range(3):
        mask, parts = picture(seed)
        torch.manual_seed(seed)
        class_of = torch.tensor([0, 1, 1, 2, 2, 2])
        activations = torch.rand(6, *grid)
        activations[2] = (activations[2] * 4).round() / 4  # ties
        area = (40, 56)
        points = part_keypoints(mask, parts)
        presence = part_presence(
            activations,
            mask,
            points,
            class_of,
            5,
            area=area,
            num_classes=3,
            quantiles=QUANTILES,
            within=within,
            cells=cells,
        )
        listed = list(zip(*(v.tolist() for v in points), strict=True))
        at = 0.5 if cells == "centre" else 0
        active, seen = naive_presence(activations, mask, listed, class_of, 5, area, QUANTILES, within, at)
        assert (presence.seen.numpy() == seen).all()
        assert (presence.active.numpy() == active).all()
        assert active.any()
        assert not active.all()


@settings(max_examples=60, deadline=None)
@given(st.data())
def test_a_quantile_of_cells_is_the_quantile_of_their_pixels(data) -> None:
    count = data.draw(st.integers(1, 12))
    values = torch.tensor(data.draw(st.lists(st.integers(-5, 5), min_size=count, max_size=count))).double()
    weights = torch.tensor(data.draw(st.lists(st.integers(1, 4), min_size=count, max_size=count)))
    segment = torch.tensor(data.draw(st.lists(st.integers(0, 2), min_size=count, max_size=count)))
    quantiles = (0.0, 0.3, 0.8, 0.95)
    limits = segment_quantiles(values, weights, segment, 3, quantiles)
    for s in range(3):
        own = segment == s
        sample = values[own].repeat_interleave(weights[own]).numpy()
        for q, quantile in enumerate(quantiles):
            if not len(sample):
                assert math.isinf(limits[q, s])
            else:
                expected = values[own].numpy() > np.quantile(sample, quantile) + 1e-12
                assert ((values[own] > limits[q, s]).numpy() == expected).all()
    dense = row_quantiles(values[None].expand(2, -1), weights, quantiles)
    sample = values.repeat_interleave(weights).numpy()
    for q, quantile in enumerate(quantiles):
        assert ((values > dense[q, 1]).numpy() == (values.numpy() > np.quantile(sample, quantile) + 1e-12)).all()


def test_cells_of_pixels_cover_image_and_padding() -> None:
    cells = pixel_cells((10, 7), (3, 2), (12, 8))
    assert cells.tolist()[0] == [0, 0, 0, 0, 1, 1, 1]
    assert cells[:, 0].tolist() == [0] * 4 + [2] * 4 + [4] * 2
    assert cell_pixels((10, 7), (3, 2), (12, 8)).tolist() == torch.bincount(cells.flatten(), minlength=6).tolist()
    mask = torch.randint(0, 3, (10, 7))
    mask[0] = 255
    weights = class_pixels(mask, cells, 3, 6)
    assert int(weights.sum()) == 63
    assert int(weights[1, 0]) == int(((mask == 1) & (cells == 0)).sum())
    with pytest.raises(ValueError, match=r"class 2, expected 0\.\.1"):
        class_pixels(mask.clamp(max=2).where(mask != 255, 2), cells, 2, 6)


def presences(seeds, noise: float = 0.0):
    class_of = torch.tensor([0, 1, 1, 2, 2, 2])
    presence_of_images = []
    for seed in seeds:
        mask, parts = picture(seed)
        torch.manual_seed(seed)
        activations = torch.rand(6, 8, 11)
        activations = activations + noise * torch.rand(6, 8, 11)
        points = part_keypoints(mask, parts)
        presence_of_images.append(
            part_presence(activations, mask, points, class_of, 5, area=(40, 56), num_classes=3, quantiles=QUANTILES)
        )
    return class_of, presence_of_images


def test_consistency_by_hand() -> None:
    class_of, presence_of_images = presences(range(6))
    metric = Consistency(class_of, 5, QUANTILES, limit=0.5)
    for presence in presence_of_images:
        metric.update(presence)
    scores = metric.compute()
    for q, row in enumerate(scores["per_quantile"]):
        rates = np.full((6, 5), np.nan)
        for p in range(6):
            for k in range(5):
                values = [f.active[q, p, k].item() for f in presence_of_images if f.seen[p, k]]
                if values:
                    rates[p, k] = np.mean(values)
        occurred = ~np.isnan(rates).all(1)
        best = np.nanmax(np.where(np.isnan(rates), -1, rates), 1)
        assert row["value"] == pytest.approx((best[occurred] > 0.5).mean())
    assert scores["value"] == pytest.approx(np.mean([row["value"] for row in scores["per_quantile"]]))
    assert scores["counted"] == 5  # class 0 has no parts: its prototype never occurs
    assert scores["per_class"][0] is None
    kept = metric.compute(torch.tensor([True, True, False, False, False, False]))
    assert kept["counted"] == 1


def test_stability_is_one_without_noise_and_falls_with_it() -> None:
    class_of, clean = presences(range(5))
    _, noisy = presences(range(5), noise=1.0)
    same, moved = Stability(class_of, QUANTILES), Stability(class_of, QUANTILES)
    rows = agree = 0
    for a, b in zip(clean, noisy, strict=True):
        same.update(a, a)
        moved.update(a, b)
        for p in range(6):
            if a.seen[p].any():
                rows += 1
                agree += sum(bool((a.active[q, p] == b.active[q, p]).all()) for q in range(3)) / 3
    assert same.compute()["value"] == 1
    assert moved.compute()["value"] == pytest.approx(agree / rows)
    assert moved.compute()["value"] < 1


def test_nothing_seen_is_no_number_but_a_reason() -> None:
    metric = Consistency(torch.tensor([0, 1]), 3, QUANTILES)
    result = metric.compute()
    assert result["value"] is None
    assert "no image" in result["reason"]
    assert Stability(torch.tensor([0]), QUANTILES).compute()["value"] is None


@pytest.mark.parametrize("kind", [Consistency, Stability])
def test_two_processes_give_the_bits_of_one(kind) -> None:
    class_of, clean = presences(range(7))
    _, noisy = presences(range(7), noise=0.5)

    def make():
        return Consistency(class_of, 5, QUANTILES) if kind is Consistency else Stability(class_of, QUANTILES)

    def feed(metric, indices):
        for i in indices:
            if kind is Consistency:
                metric.update(clean[i])
            else:
                metric.update(clean[i], noisy[i])

    whole, first, second = make(), make(), make()
    feed(whole, range(7))
    feed(first, range(0, 7, 2))
    feed(second, range(1, 7, 2))
    first.merge(second.state_dict())
    assert first.compute() == whole.compute()


def test_sparsity_counts_prototypes_behind_the_weights() -> None:
    readout = torch.tensor([[1.0, -0.3, 0.02], [0.0, 0.04, 2.0]])
    groups = torch.tensor([[0.5, 0.5, 0, 0], [0, 0, 0.9, 0.1], [0, 1.0, 0, 0]])
    assert active_prototypes(readout, None, 0.03).tolist() == [2, 2]
    assert active_prototypes(readout, groups, 0.03).tolist() == [4, 3]
    assert active_prototypes(readout, groups, 0.1).tolist() == [4, 1]
    rows = sparsity(readout, groups, (0.0, 0.5))
    assert [row["value"] for row in rows] == [3.5, 1.5]


@pytest.mark.parametrize(("cells", "pixels"), [(65, 513), (129, 1024), (5, 7), (8, 64), (7, 3)])
def test_floor_is_opencvs_nearest_neighbour(cells, pixels) -> None:
    """Its loop over pixels, restated: ``ifx = 1. / fx``, ``sx = min(floor(x * ifx), width - 1)``."""
    inverse = 1.0 / (pixels / cells)
    loop = [min(math.floor(x * inverse), cells - 1) for x in range(pixels)]
    table = pixel_cells((1, pixels), (1, cells), (1, pixels), "floor")[0]
    assert table.tolist() == loop
    assert table[0] == 0
    if cells < pixels:
        assert table[-1] == cells - 1
