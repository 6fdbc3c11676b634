"""Running nearest and running top-k against loops over stored images."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from segproto.prototypes.bank import PrototypeBank
from segproto.prototypes.membership import any_pixel, nearest_label
from segproto.prototypes.nearest import (
    RunningNearest,
    RunningStrongest,
    RunningTopK,
    first_minimum,
    patch_labels,
    unique_rows,
)

SIZES = [((20, 28), (5, 7)), ((16, 16), (4, 4)), ((20, 28), (5, 7)), ((23, 17), (6, 5)), ((20, 28), (5, 7))]


def images(seed: int = 0) -> list[tuple[Tensor, Tensor]]:
    generator = torch.Generator().manual_seed(seed)
    out = []
    for (height, width), grid in SIZES:
        coarse = torch.randint(0, 4, (4, 4), generator=generator)
        labels = coarse.repeat_interleave(-(-height // 4), 0).repeat_interleave(-(-width // 4), 1)[:height, :width]
        labels = labels.clone()
        labels[-3:] = 255
        out.append((torch.rand(12, *grid, generator=generator), labels))
    return out


def make_bank() -> PrototypeBank:
    return PrototypeBank.regular(4, 2, 3, 4, generator=torch.Generator().manual_seed(5))


@pytest.mark.parametrize("rule", [nearest_label, any_pixel])
def test_nearest_equals_loop_over_images(rule: object) -> None:
    bank, data = make_bank(), images()
    running = RunningNearest(bank.class_of, bank.scale_of, 3, 4)
    stored = []
    for index, (features, labels) in enumerate(data):
        distances = bank.distances(features[None])[0]
        allowed = rule(labels, tuple(features.shape[1:]), 4)  # type: ignore[operator]
        running.update(distances, allowed, features, index)
        stored.append((distances.detach(), allowed))
    for p in range(bank.num_prototypes):
        best = (float("inf"), -1, -1, -1)
        for index, (distances, allowed) in enumerate(stored):
            for i in range(distances.shape[1]):
                for j in range(distances.shape[2]):
                    if allowed[bank.class_of[p], i, j] and distances[p, i, j].item() < best[0]:
                        best = (distances[p, i, j].item(), index, i, j)
        scale = int(bank.scale_of[p])
        assert (running.distance[p].item(), int(running.image[p]), *running.cell[p].tolist()) == best
        cell = data[best[1]][0][4 * scale : 4 * scale + 4, best[2], best[3]]
        assert torch.equal(running.feature[p], cell)  # bit for bit
        assert running.grid[p].tolist() == list(data[best[1]][0].shape[1:])
    assert running.missing_classes() == []


def test_projection_is_an_exact_match() -> None:
    bank, data = make_bank(), images()
    running = RunningNearest(bank.class_of, bank.scale_of, 3, 4)
    for index, (features, labels) in enumerate(data):
        running.update(
            bank.distances(features[None])[0], nearest_label(labels, tuple(features.shape[1:]), 4), features, index
        )
    bank.vectors.data.copy_(running.feature)
    for p in range(bank.num_prototypes):
        distances = bank.distances(data[int(running.image[p])][0][None])[0, p]
        assert distances[tuple(running.cell[p].tolist())] < 1e-6


def test_ties_go_to_the_first_image_and_cell() -> None:
    class_of = scale_of = torch.zeros(1, dtype=torch.int64)
    running = RunningNearest(class_of, scale_of, 1, 2)
    distances = torch.ones(1, 3, 3)
    allowed = torch.ones(1, 3, 3, dtype=torch.bool)
    allowed[0, 0, 0] = False
    for index in (4, 2, 7):
        running.update(distances, allowed, torch.full((2, 3, 3), float(index)), index)
    assert running.image.item() == 2
    assert running.cell.tolist() == [[0, 1]]
    assert running.feature.tolist() == [[2, 2]]


def test_absent_class_is_reported() -> None:
    bank = make_bank()
    running = RunningNearest(bank.class_of, bank.scale_of, 3, 4)
    labels = torch.zeros(20, 28, dtype=torch.int64)
    labels[10:] = 3
    features = torch.rand(12, 5, 7)
    running.update(bank.distances(features[None])[0], nearest_label(labels, (5, 7), 4), features, 0)
    assert running.missing_classes() == [1, 2]
    absent = torch.isin(bank.class_of, torch.tensor([1, 2]))
    assert torch.equal(running.image == -1, absent)


def test_merge_of_two_processes_equals_one() -> None:
    bank, data = make_bank(), images()
    whole = RunningNearest(bank.class_of, bank.scale_of, 3, 4)
    parts = [RunningNearest(bank.class_of, bank.scale_of, 3, 4) for _ in range(2)]
    top = RunningTopK(bank.class_of, 3)
    top_parts = [RunningTopK(bank.class_of, 3) for _ in range(2)]
    for index, (features, labels) in enumerate([*data, *data]):  # every image twice: ties between processes
        grid = tuple(features.shape[1:])
        distances = bank.distances(features[None])[0]
        allowed = nearest_label(labels, grid, 4)
        small = allowed.int().argmax(0).masked_fill(~allowed.any(0), 255)
        for running in (whole, parts[index % 2]):
            running.update(distances, allowed, features, index)
        for candidates in (top, top_parts[index % 2]):
            candidates.update(distances, small, labels, index)
    parts[1].merge(parts[0].state_dict())
    restored = RunningTopK(bank.class_of, 3).load_state_dict(top_parts[1].state_dict())
    restored.merge(top_parts[0].state_dict())
    for ours, theirs in ((whole, parts[1]), (top, restored)):
        for key, value in ours.state_dict().items():
            assert torch.equal(value, theirs.state_dict()[key]), key


def naive_patch_label(labels: Tensor, i: int, j: int, grid: tuple[int, int], own: int) -> int:
    (height, width), (h, w) = labels.shape, grid
    box = labels[int(i * height / h) : int((i + 1) * height / h), int(j * width / w) : int((j + 1) * width / w)]
    values = [int(v) for v in box.flatten() if v != 255]
    if own in values:
        return own
    return max(sorted(set(values)), key=values.count) if values else 255


def test_patch_labels_equal_loop() -> None:
    generator = torch.Generator().manual_seed(0)
    for size, grid in (((23, 17), (6, 5)), ((64, 64), (9, 9)), ((8, 8), (8, 8))):
        labels = torch.randint(0, 6, size, generator=generator)
        labels[labels == 5] = 255
        class_of = torch.randint(0, 5, (40,), generator=generator)
        cells = torch.stack([torch.randint(0, n, (40,), generator=generator) for n in grid], 1)
        expected = [
            naive_patch_label(labels, i, j, grid, c)
            for (i, j), c in zip(cells.tolist(), class_of.tolist(), strict=True)
        ]
        assert patch_labels(labels, cells, grid, class_of).tolist() == expected


def test_top_k_equals_loop_over_images() -> None:
    bank, data = make_bank(), images(3)
    running = RunningTopK(bank.class_of, 3)
    candidates: list[list[tuple[float, int, int]]] = [[] for _ in range(bank.num_prototypes)]
    for index, (features, labels) in enumerate(data):
        grid = (features.shape[1], features.shape[2])
        distances = bank.distances(features[None])[0].detach()
        small = nearest_label(labels, grid, 4)
        small = small.int().argmax(0).masked_fill(~small.any(0), 255)
        running.update(distances, small, labels, index)
        for p in range(bank.num_prototypes):
            cells = [
                (distances[p, i, j].item(), i, j) for i in range(grid[0]) for j in range(grid[1]) if small[i, j] != 255
            ]
            best, i, j = min(cells)
            candidates[p].append((best, index, naive_patch_label(labels, i, j, grid, int(bank.class_of[p]))))
    for p, pairs in enumerate(candidates):
        nearest = sorted(pairs)[:3]
        assert running.distance[p].tolist() == [d for d, _, _ in nearest]
        assert running.image[p].tolist() == [i for _, i, _ in nearest]
        assert running.label[p].tolist() == [label for _, _, label in nearest]
        for threshold in (1, 2, 3):
            right = sum(label == int(bank.class_of[p]) for _, _, label in nearest)
            assert bool(running.keep_mask(threshold)[p]) == (right >= threshold)


def test_pruning_rule_with_known_neighbours() -> None:
    """k = 6, threshold 3: a prototype with 3 of its 6 nearest patches in its class stays, with 2 it goes."""
    running = RunningTopK(torch.tensor([0, 0]), 6)
    for index in range(8):
        labels = torch.full((4, 4), 1)
        if index in (0, 1, 2, 6, 7):
            labels[0, 0] = 0  # cell (0, 0) has one pixel of class 0
        distances = torch.full((2, 2, 2), 10.0)
        distances[0, 0, 0] = index  # nearest at cell (0, 0): images 0..5, of which 0, 1, 2 hold class 0
        distances[1, 0, 0] = index if index != 2 else 9  # for prototype 1 image 2 falls behind: 0 and 1, then 6 counts
        distances[1, 1, 1] = 0.5 if index == 6 else 10  # ... but image 6 is nearest at a cell of class 1
        running.update(distances, torch.ones(2, 2, dtype=torch.int64), labels, index)
    assert running.image.tolist() == [[0, 1, 2, 3, 4, 5], [0, 6, 1, 3, 4, 5]]
    assert running.label.tolist() == [[0, 0, 0, 1, 1, 1], [0, 1, 0, 1, 1, 1]]
    assert running.keep_mask().tolist() == [True, False]
    assert running.keep_mask(2).tolist() == [True, True]


def test_top_k_ties_go_to_the_smaller_image() -> None:
    running = RunningTopK(torch.tensor([0]), 2)
    for index in (5, 3, 4):
        running.update(torch.ones(1, 2, 2), torch.zeros(2, 2).long(), torch.zeros(4, 4).long(), index)
    assert running.image.tolist() == [[3, 4]]


def test_void_images_leave_no_candidate() -> None:
    running = RunningTopK(torch.tensor([0]), 2)
    running.update(torch.rand(1, 2, 2), torch.full((2, 2), 255), torch.full((4, 4), 255), 0)
    assert running.image.tolist() == [[-1, -1]]
    assert not running.keep_mask(1).any()


def test_unique_rows_keeps_the_first() -> None:
    vectors = torch.tensor([[1.0, 2], [0, 5], [1, 2], [0, 5], [0, 4], [1, 2]])
    assert unique_rows(vectors).tolist() == [True, True, False, False, True, False]
    assert unique_rows(torch.rand(50, 3)).all()


def test_strongest_images_of_each_part_equal_sorting_them_all() -> None:
    generator = torch.Generator().manual_seed(3)
    grids = [(4, 5), (6, 3), (4, 5), (5, 5), (4, 4)]
    fired = [(torch.randint(0, 4, (7, h - 1, w), generator=generator) - 1).clamp_min(0).float() for h, w in grids]
    for strengths in fired:
        strengths[6] = 0  # a part that fires nowhere
    whole, *halves = (RunningStrongest(7, 3, torch.device("cpu")) for _ in range(3))
    for index, (grid, strengths) in enumerate(zip(grids, fired, strict=True)):
        whole.update(strengths, grid, index)
        halves[index % 2].update(strengths, grid, index)
    halves[1].merge(halves[0].state_dict())
    assert all(torch.equal(value, halves[1].state_dict()[key]) for key, value in whole.state_dict().items())
    for p in range(7):
        best = [(-float(s[p].max()), i, divmod(int(s[p].flatten().argmax()), s.shape[2])) for i, s in enumerate(fired)]
        best = sorted(row for row in best if row[0] < 0)[:3]
        n = int((whole.image[p] >= 0).sum())
        assert whole.strength[p, :n].tolist() == [-s for s, _, _ in best]
        assert whole.image[p, :n].tolist() == [i for _, i, _ in best]
        assert whole.cell[p, :n].tolist() == [list(c) for _, _, c in best]
        assert whole.grid[p, :n].tolist() == [list(grids[i]) for _, i, _ in best]
        assert n == len(best)


@pytest.mark.parametrize("columns", [1, 255, 256, 257, 1000])
def test_the_first_of_the_smallest(columns: int) -> None:
    generator = torch.Generator().manual_seed(columns)
    rows = torch.randint(0, 40, (30, columns), generator=generator).float()  # many ties
    rows[3] = torch.inf
    rows[4, -1] = -1
    best, place = first_minimum(rows)
    expected = rows.numpy()
    assert torch.equal(best, torch.from_numpy(expected.min(1)))
    assert torch.equal(place, torch.from_numpy(expected.argmin(1)))
