"""What to label next, against plain loops over the definition; and what a person would expect of it."""

from __future__ import annotations

import math
from itertools import pairwise

import pytest
import torch
from tiny_segmenters import DIM, SCALES, encoder, image, segmenter
from torch import Tensor

from segproto.data.base import ClassTable, Sample, SegmentationDataset
from segproto.errors import DataError
from segproto.evaluation.review.teaching import SIDE, entropy_of, look, rank_next
from segproto.model.memory_head import MemoryBank, MemoryHead
from segproto.model.segmenter import Segmenter


def by_loops(parts: Tensor, count: int, uncertainty: Tensor | None, known: Tensor | None) -> list[tuple[int, float]]:
    images, each = parts.shape[:2]
    every = [parts[i, k] for i in range(images) for k in range(each)]
    labelled = [] if known is None else list(known)
    centre = torch.stack(every + labelled).mean(0)

    def cosine(a: Tensor, b: Tensor) -> float:
        a, b = (a - centre).double(), (b - centre).double()
        return float(a @ b / (a.norm() * b.norm()))

    covered = [max([0.0, *(cosine(part, other) for other in labelled)]) for part in every]
    weight = [1.0] * len(every) if uncertainty is None else uncertainty.flatten().tolist()
    found: list[tuple[int, float]] = []
    for _ in range(count):
        best = (-1, -1.0, covered)
        for i in range(images):
            if i in [index for index, _ in found]:
                continue
            after = [max(c, max(cosine(part, own) for own in parts[i])) for c, part in zip(covered, every, strict=True)]
            gain = sum(w * (a - c) for w, a, c in zip(weight, after, covered, strict=True)) / len(every)
            if gain > best[1] + 1e-9:
                best = (i, gain, after)
        found.append(best[:2])
        covered = best[2]
    return found


@pytest.mark.parametrize("with_model", [True, False])
@pytest.mark.parametrize("with_known", [True, False])
def test_the_ranking_equals_loops(with_model: bool, with_known: bool) -> None:
    generator = torch.Generator().manual_seed(3)
    parts = torch.randn(9, 3, 5, generator=generator)
    uncertainty = torch.rand(9, 3, generator=generator) if with_model else None
    known = torch.randn(4, 5, generator=generator) if with_known else None
    found = rank_next(parts, 6, uncertainty=uncertainty, known=known)
    expected = by_loops(parts, 6, uncertainty, known)
    assert [one.index for one in found] == [index for index, _ in expected]
    assert [one.gain for one in found] == pytest.approx([gain for _, gain in expected], abs=1e-5)
    assert all(a.gain >= b.gain - 1e-6 for a, b in pairwise(found))  # submodular
    everything = rank_next(parts, 50, uncertainty=uncertainty, known=known)
    assert sorted(one.index for one in everything) == list(range(9))
    assert all((one.unlike == 1) == (known is None) for one in found)


def test_what_a_person_expects() -> None:
    generator = torch.Generator().manual_seed(0)
    kinds = torch.eye(4)[[0] * 10 + [1] * 6 + [2] * 4 + [3]]  # three kinds of images, and an outlier at the end
    parts = (kinds + 0.05 * torch.randn(21, 4, generator=generator))[:, None]
    kind = kinds.argmax(1)
    assert [int(kind[one.index]) for one in rank_next(parts, 4)] == [0, 1, 2, 3]  # diverse, the outlier last
    known = torch.eye(4)[:1]
    after = rank_next(parts, 3, known=known)
    assert [int(kind[one.index]) for one in after] == [1, 2, 3]  # unlike what is known
    sure = torch.where(kind == 2, 1.0, 0.01)[:, None]
    assert int(kind[rank_next(parts, 1, uncertainty=sure)[0].index]) == 2  # uncertain


def test_entropy_is_0_for_certainty_and_1_for_ignorance() -> None:
    probabilities = torch.tensor([[1.0, 0.25, 0.5], [0.0, 0.25, 0.5], [0.0, 0.25, 0.0], [0.0, 0.25, 0.0]])
    assert entropy_of(probabilities).tolist() == pytest.approx([0, 1, math.log(2) / math.log(4)])


class Photos(SegmentationDataset):
    """Blobs, of which one cannot be read."""

    split, names = "train", ("a", "b", "c")
    classes = ClassTable((), ())

    def __getitem__(self, index: int) -> Sample:
        if index == 1:
            raise DataError("b: is broken")
        return Sample(image(32, 40, index), torch.full((32, 40), 255, dtype=torch.uint8), self.names[index])

    @property
    def fingerprint(self) -> str:
        return "photos"


def test_a_look_is_the_mean_over_parts_and_a_broken_image_is_told() -> None:
    model, data = segmenter(), Photos()
    looked = look(model, data, range(3))
    assert (looked.indices, list(looked.broken)) == ([0, 2], ["b"])
    with torch.no_grad():
        normal = model.encoder.normalisation(data[2].image)[None]
        raw = model.encoder.backbone(normal)[0]  # 8 x 10 cells
        unsure = entropy_of(model.grid_logits(normal).softmax(1), 1)[0]
    assert looked.parts.shape == (2, SIDE * SIDE, 8)
    assert torch.allclose(looked.parts[1, 0], raw[:, :2, :3].mean((1, 2)), atol=1e-5)
    assert float(looked.uncertainty[1, -1]) == pytest.approx(float(unsure[-2:, -3:].mean()), abs=1e-5)
    alone = look(model.encoder, data, [2])
    assert alone.uncertainty is None
    assert torch.equal(alone.parts[0], looked.parts[1])
    with pytest.raises(DataError, match="none of 1 images can be read: b: is broken"):
        look(model, data, [1])


@pytest.mark.parametrize(("labels", "expected"), [([1.0, 0, 0, 0], 0), ([0.25] * 4, 1), ([0.5, 0.5, 0, 0], 0.5)])
def test_a_memory_is_as_unsure_as_its_neighbours_disagree(labels: list[float], expected: float) -> None:
    frequencies = torch.tensor([labels] * 9).half()  # every patch says the same: its votes are the labels
    vectors = torch.nn.functional.normalize(torch.randn(9, DIM * SCALES), dim=1).half()
    bank = MemoryBank(vectors, frequencies, torch.zeros(DIM * SCALES), torch.zeros(0, DIM * SCALES), 0)
    model = Segmenter(encoder(), MemoryHead(bank, 3), ClassTable(tuple("abcd"), ((0, 0, 0),) * 4)).eval()
    looked = look(model, Photos(), [0])
    assert looked.uncertainty is not None
    assert looked.uncertainty.flatten().tolist() == pytest.approx([expected] * SIDE * SIDE, abs=1e-3)
