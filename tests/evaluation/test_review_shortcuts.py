"""Shortcuts against plain loops: where prototypes decide, what is missing in validation, what lies around a class."""

from __future__ import annotations

import pytest
import torch
from rescored import rescore_heads
from tiny_segmenters import image, segmenter
from torch import Tensor

from segproto.data.base import ClassTable, Sample, SegmentationDataset
from segproto.evaluation.rescore import EncoderFeatures
from segproto.evaluation.review.context import context_shares, most_of_each
from segproto.evaluation.review.shortcuts import Shortcut, ShortcutSearch
from segproto.model.edit import edited
from segproto.model.features import image_features
from segproto.model.segmenter import Segmenter
from segproto.prototypes.labels import IGNORE_INDEX

SIDE = 32


class Blobs(SegmentationDataset):
    """Blobs whose labels are the model's own answers in places, and others elsewhere."""

    def __init__(self, split: str, count: int = 3, seed: int = 0) -> None:
        self.split, self.seed = split, seed
        self.names = [f"{split}{i}" for i in range(count)]
        self.classes = ClassTable(tuple(f"class{i}" for i in range(4)), tuple((9 * i, 9, 9) for i in range(4)))

    def __getitem__(self, index: int) -> Sample:
        generator = torch.Generator().manual_seed(100 * self.seed + index)
        blocks = torch.randint(0, 4, (4, 4), generator=generator)
        mask = blocks.repeat_interleave(8, 0).repeat_interleave(8, 1).to(torch.uint8)
        mask[:, :3] = IGNORE_INDEX
        return Sample(image(SIDE, SIDE, 10 * self.seed + index), mask, self.names[index])

    @property
    def fingerprint(self) -> str:
        return f"{self.split}{self.seed}"


def cells(model: Segmenter, data: SegmentationDataset):
    """Of every cell most of whose pixels are labelled: label, answer, and the shares in the logits of all classes."""
    for index in range(len(data)):
        features = image_features(model, data, index)
        logits, mask = model.head(features)[0], data[index].mask
        height, width = features.shape[-2:]
        for y in range(height):
            for x in range(width):
                pixels = mask[
                    y * SIDE // height : (y + 1) * SIDE // height, x * SIDE // width : (x + 1) * SIDE // width
                ]
                known = pixels[pixels != IGNORE_INDEX].long()
                if 2 * len(known) >= pixels.numel():
                    cell = features[:, :, y, x].expand(4, -1)
                    shares = model.head.contributions(cell, torch.arange(4)).prototypes
                    yield int(torch.bincount(known, minlength=4).argmax()), int(logits[:, y, x].argmax()), shares


def searched(model: Segmenter) -> tuple[ShortcutSearch, Blobs, Blobs]:
    train, val = Blobs("train"), Blobs("val", seed=1)
    search = ShortcutSearch(model, train.classes)
    search.look_through("train", train)
    search.look_through("val", val)
    search.settle()
    return search, train, val


@pytest.mark.parametrize("kind", ["prototype", "grouped"])
@torch.no_grad()
def test_what_is_collected_equals_loops(kind: str) -> None:
    model = segmenter(kind)
    search, train, val = searched(model)
    count = model.head.bank.num_prototypes
    for data in (train, val):
        evidence, seen = torch.zeros(4, count, dtype=torch.float64), torch.zeros(4)
        confusion, decided = torch.zeros(4, 4), {True: torch.zeros(4, count), False: torch.zeros(4, count)}
        for label, answer, shares in cells(model, data):
            evidence[label] += shares[label].double()
            seen[label] += 1
            confusion[label, answer] += 1
            decided[label == answer][answer, shares[answer].argmax()] += 1
        assert torch.equal(search.confusion[data.split].float(), confusion)
        assert torch.allclose(search.evidence[data.split], evidence, atol=1e-4)
        if data is val:
            assert torch.equal(search.decided[True].float(), decided[True])
            assert torch.equal(search.decided[False].float(), decided[False])
    assert float(confusion.diagonal().sum()) < float(confusion.sum())  # there are mistakes to count


@torch.no_grad()
def test_gains_and_figures_are_those_of_edits_and_loops() -> None:
    model = segmenter("prototype")
    search, train, val = searched(model)
    gains = search.gains([0, 5], None)
    features = EncoderFeatures(model, val)
    for p, (gain, renormalise) in gains.items():
        assert not renormalise  # there are no groups
        before, after = rescore_heads(features, [model.head, edited(model, drop=[p])[0].head])
        assert gain == pytest.approx(after["miou"] - before["miou"], abs=1e-9)
    means = []
    for data in (train, val):
        rows: dict[int, list[Tensor]] = {c: [] for c in range(4)}
        for label, _, shares in cells(model, data):
            rows[label].append(shares[label].double())
        means.append(torch.stack([torch.stack(rows[c]).mean(0) for c in range(4)]))
    for c in range(4):
        positive = sum(max(float(v), 0) for v in means[0][c])
        for p in range(model.head.bank.num_prototypes):
            missing = max(float(means[0][c, p] - means[1][c, p]), 0) / positive
            assert float(search.lost()[c, p]) == pytest.approx(missing, abs=1e-5)
    found = search.find([None, 0.7, 0.2, None])
    assert [one.class_id for one in found if one.prototype is None] == [1]  # 0.2 is not worth a line
    assert [one.cost for one in found] == sorted((one.cost for one in found), reverse=True)
    for one in found:
        assert one.words(train.classes.names).startswith(f"class{one.class_id}")


class Around(SegmentationDataset):
    """Class 1 is a grey square on a bright ground (class 0), or a bright square on a grey ground."""

    split, names = "train", ("a",)
    classes = ClassTable(("ground", "thing"), ((0, 0, 0), (9, 9, 9)))

    def __getitem__(self, index: int) -> Sample:
        mask = torch.zeros(SIDE, SIDE, dtype=torch.uint8)
        mask[8:24, 8:24] = 1
        return Sample(torch.where(mask == 1, 30, 220).to(torch.uint8).expand(3, -1, -1).clone(), mask, "a")

    @property
    def fingerprint(self) -> str:
        return "around"


@pytest.mark.parametrize(("place", "sign", "expected"), [((2, 2), 1.0, 1.0), ((16, 16), -1.0, 0.0)])
def test_context_is_what_a_class_owes_to_other_places(place, sign, expected, monkeypatch) -> None:
    model, data = segmenter("linear", classes=2), Around()

    def seeing(images: Tensor) -> Tensor:
        """Class 1 everywhere, as surely as the brightness of one place of the image allows."""
        bright = sign * images[:, :1, place[0], place[1]][..., None, None]
        return torch.cat([torch.zeros_like(bright), 4 * bright], 1).expand(-1, -1, 8, 8)

    monkeypatch.setattr(model, "features", seeing)
    monkeypatch.setattr(model.head, "forward", lambda features: features)
    chosen = most_of_each(data, [0], 3)
    assert chosen == [[0], [0]]
    shares = context_shares(model, data, [[], [0]])
    assert shares[0] is None
    assert shares[1] == pytest.approx(expected, abs=1e-6)


@torch.no_grad()
def test_weights_go_to_the_rest_of_the_groups_where_that_is_better() -> None:
    model = segmenter("grouped")
    search, _, val = searched(model)
    features, ways = EncoderFeatures(model, val), set()
    for p, (gain, renormalise) in search.gains(range(model.head.bank.num_prototypes), None).items():
        heads = [model.head, *(edited(model, drop=[p], renormalise=way)[0].head for way in (False, True))]
        before, plain, made_up = (one["miou"] for one in rescore_heads(features, heads))
        assert gain == pytest.approx(max(plain, made_up) - before, abs=1e-9)
        if plain != made_up:
            assert renormalise == (made_up > plain)
            ways.add(renormalise)
    assert ways == {False, True}


def test_words_tell_what_is_known() -> None:
    names = ("sky", "car")
    whole = Shortcut(1, None, 0.01, context=0.71)
    assert whole.words(names) == "car is recognised by its surroundings: 71% of the evidence lies outside of it"
    one = Shortcut(1, 5, 0.02, gain=0.02, outside=0.8, misled=0.4, lost=0.3)
    assert one.to_json(names)["words"] == (
        "car #5: 30% of the evidence for car in training images, missing in validation images; "
        "80% of what it decides is no car (40% of all mistakes); mIoU +2.0 points without it"
    )
    assert "context" not in one.to_json(names)
