"""Suspicious labels: planted errors are found, seams and one's own image are not evidence, originals stay."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from tiny_segmenters import segmenter
from torch import Tensor

from segproto.data.base import ClassTable, Sample, SegmentationDataset
from segproto.data.build import build_dataset
from segproto.data.config import DataConfig
from segproto.errors import ConfigError, DataError
from segproto.evaluation.review.decisions import Decision, apply_decisions, decision_of
from segproto.evaluation.review.labels import LabelReview
from segproto.evaluation.review.regions import Region, contradicted
from segproto.evaluation.review.votes import LabelFreeFeatures, gather_patches
from segproto.model.features import image_features
from segproto.model.segmenter import Segmenter
from segproto.prototypes.labels import IGNORE_INDEX, resize_labels

COLOURS = ((30, 40, 200), (200, 60, 30), (40, 200, 60), (220, 220, 210))


class Quarters(SegmentationDataset):
    """Images of four quarters in the colours of their classes, in an order that changes; void along one edge."""

    split = "train"

    def __init__(self, count: int = 6, wrong: dict[int, tuple[int, int]] | None = None) -> None:
        self.names = [f"q{i}" for i in range(count)]
        self.classes = ClassTable(tuple(f"class{i}" for i in range(4)), COLOURS)
        self.wrong = wrong or {}

    def __getitem__(self, index: int) -> Sample:
        rng = np.random.default_rng(index)
        order = rng.permutation(4)
        mask = np.kron(order.reshape(2, 2), np.ones((24, 24), np.int64))
        pixels = np.array(COLOURS)[mask] + rng.integers(-9, 10, (48, 48, 3))
        if index in self.wrong:
            true, said = self.wrong[index]
            mask = np.where(mask == true, said, mask)
        mask[:, :2] = IGNORE_INDEX
        image = torch.from_numpy(pixels.clip(0, 255).astype(np.uint8)).permute(2, 0, 1)
        return Sample(image, torch.from_numpy(mask.astype(np.uint8)), self.names[index])

    @property
    def fingerprint(self) -> str:
        return f"quarters{len(self)}"


def quarter(index: int, label: int) -> Tensor:
    return Quarters()[index].mask == label


def knowing(kind: str) -> Segmenter:
    """A model whose prototypes are the mean features of their class; a black box that says nothing."""
    model = segmenter(kind, sources=kind != "linear")
    data, bank = Quarters(), model.head.bank
    with torch.no_grad():
        if bank is None:
            for value in model.head.parameters():
                value.zero_()
            return model
        cells = image_features(model, data, 0)[0].permute(1, 2, 0).flatten(0, 1)
        labels = resize_labels(data[0].mask.long()[None], (12, 12)).flatten()
        for p in range(bank.num_prototypes):
            start = int(bank.scale_of[p]) * bank.dim
            own = cells[labels == int(bank.class_of[p])]
            bank.vectors[p] = own[:, start : start + bank.dim].mean(0)
    return model


@pytest.mark.parametrize("kind", ["linear", "prototype", "grouped"])
def test_a_planted_error_leads_the_list_with_patches_of_the_right_class(kind: str) -> None:
    model, data = knowing(kind), Quarters(wrong={2: (1, 3)})
    looking = LabelReview(model, data)
    first = looking.explained(looking.find()[0])
    assert (first.image, first.region.label, first.region.suggested) == ("q2", 3, 1)
    inside = torch.zeros(48, 48, dtype=torch.uint8)
    first.region.fill(inside, 1)
    truth = quarter(2, 1)
    assert (inside.bool() & truth).sum() > 0.75 * truth.sum()
    assert (inside.bool() & ~truth).sum() < 0.25 * truth.sum()
    assert first.patches
    assert len({reason.image for reason in first.patches}) == len(first.patches)
    for reason in first.patches:
        assert reason.image != "q2"
        assert reason.box is not None
        y0, x0, y1, x1 = reason.box
        mask = data[data.names.index(reason.image)].mask
        assert (mask[y0:y1, x0:x1] == 1).any()
    assert bool(first.prototypes) == (kind != "linear")
    for reason in first.prototypes:
        assert int(model.head.bank.class_of[reason.prototype]) == 1 or reason.share < first.prototypes[0].share
    assert all(reason.share > 0 and reason.prototype is not None for reason in first.prototypes)


def test_patches_of_the_own_image_never_vote() -> None:
    model, data = segmenter(), Quarters()
    features = LabelFreeFeatures(model, data)
    patches = gather_patches(features)
    for index in range(len(data)):
        found = patches.look_up(patches.embed(features.get(index)), index)
        assert (patches.image[found.patch] != index).all()
        votes = patches.votes(found)
        assert torch.allclose(votes.sum(1), torch.ones(len(votes)), atol=1e-5)
    everywhere = patches.look_up(patches.vectors[:3].float(), -1)
    assert (everywhere.similarity[:, 0] > 0.999).all()  # nothing is left out: each finds itself


def test_an_outvoted_patch_is_no_evidence() -> None:
    model, data = segmenter(), Quarters(wrong={2: (1, 3)})
    patches = gather_patches(LabelFreeFeatures(model, data))
    trusted = patches.trusted()
    wrong = (patches.image == 2) & (patches.frequencies.max(1).indices == 3)
    kept = (trusted.image == 2) & (trusted.frequencies.max(1).indices == 3)
    assert kept.sum() < 0.75 * wrong.sum()
    assert len(trusted.vectors) > 0.7 * len(patches.vectors)


def test_one_image_alone_is_judged_by_nobody() -> None:
    model, data = segmenter(), Quarters(count=1)
    with pytest.raises(DataError, match="fewer than two"):
        LabelReview(model, data)


def evidence_for(labels: Tensor, classes: int = 3) -> Tensor:
    return torch.nn.functional.one_hot(labels, classes).permute(2, 0, 1).float()


def test_a_seam_is_no_region_and_a_small_island_counts_as_a_whole() -> None:
    mask = torch.zeros(60, 60, dtype=torch.uint8)
    mask[:, 30:] = 1
    shifted = mask.long().roll(3, 1)  # evidence that is 3 pixels off along the border
    shifted[:, :3] = 0
    assert contradicted(evidence_for(shifted), mask, cell=(8, 8), fewest=10) == []
    mask[10:14, 10:50:1][:, :4] = 2  # 4 x 4, thinner than the seam on both sides
    found = contradicted(evidence_for(torch.where(mask == 2, 0, mask.long())), mask, cell=(8, 8), fewest=10)
    assert [(one.label, one.suggested, one.pixels, one.box) for one in found] == [(2, 0, 16, (10, 10, 14, 14))]
    assert found[0].score == pytest.approx(16 / (16 + 64), rel=1e-4)


def test_a_wrong_region_that_touches_its_new_class_is_cut_out() -> None:
    truth = torch.zeros(60, 60, dtype=torch.long)
    truth[:, 30:] = 1
    truth[5:25, 5:30] = 2  # beside class 1, and labelled as it
    mask = torch.where(truth == 2, 1, truth).to(torch.uint8)
    (found,) = contradicted(evidence_for(truth), mask, cell=(8, 8), fewest=10)
    assert (found.label, found.suggested, found.box, found.pixels) == (1, 2, (5, 5, 25, 30), 500)


@settings(max_examples=30, deadline=None)
@given(st.integers(0, 10_000))
def test_regions_are_disjoint_connected_and_of_one_label(seed: int) -> None:
    rng = np.random.default_rng(seed)
    mask = torch.from_numpy(np.kron(rng.choice([0, 1, 2, 255], (5, 6)), np.ones((6, 6))).astype(np.uint8))
    evidence = torch.from_numpy(np.kron(rng.random((3, 6, 6)), np.ones((1, 5, 6)))).float()
    seen = torch.zeros(30, 36, dtype=torch.uint8)
    for one in contradicted(evidence / evidence.sum(0), mask, cell=(2, 2), fewest=4):
        inside = torch.zeros(30, 36, dtype=torch.uint8)
        one.fill(inside, 1)
        assert int(inside.sum()) == one.pixels
        assert (mask[inside > 0] == one.label).all()
        assert not (inside & seen).any()
        seen |= inside
        assert (Region.from_runs(one.runs(), one.box) == one.inside).all()
        assert one.suggested != one.label
        assert 0 <= one.label < 3


def pairs(
    root: Path, values: str = "classes: [{name: a, values: 10}, {name: b, values: 20}]\nvoid: [7]\n"
) -> DataConfig:
    for kind in ("images", "labels"):
        (root / kind).mkdir(parents=True)
    for i in range(3):
        mask = np.full((20, 24), 10, np.uint8)
        mask[:, 12:], mask[:2] = 20, 7
        Image.fromarray(np.full((20, 24, 3), 40 * i, np.uint8)).save(root / "images" / f"{i}.png")
        Image.fromarray(mask).save(root / "labels" / f"{i}.png")
    (root / "classes.yaml").write_text(values + "split: {val_pattern: '^2'}\n")
    return DataConfig(root=root)


BOX = Region(0, 1, 0.9, 20, (5, 2, 9, 7), np.ones((4, 5), bool))


def test_decisions_change_copies_only(tmp_path: Path) -> None:
    config = pairs(tmp_path / "data")
    before = {path: path.read_bytes() for path in sorted((tmp_path / "data").rglob("*.png"))}
    data = [build_dataset(config, "train"), build_dataset(config, "val")]
    out = tmp_path / "fixed"
    made = [Decision("0", BOX, "accept"), Decision("1", BOX, "correct", "b"), Decision("2", BOX, "dismiss")]
    assert apply_decisions(data, made, out) == ["0", "1"]
    assert before == {path: path.read_bytes() for path in sorted((tmp_path / "data").rglob("*.png"))}
    masks = [np.array(Image.open(out / f"{i}.png")) for i in range(3)]
    assert (masks[0][5:9, 2:7] == 255).all()
    assert (masks[1][5:9, 2:7] == 20).all()
    again = config.model_copy(update={"labels": str(out)})
    for old, split in zip(data, ("train", "val"), strict=True):
        new = build_dataset(again, split)
        for index, name in enumerate(old.names):
            expected = old[index].mask.clone()
            if name != "2":
                BOX.fill(expected, {"0": 255, "1": 1}[name])
            assert (new[index].mask == expected).all()
    assert apply_decisions(data, [Decision("1", BOX, "correct")], out) == ["1"]  # ours is replaced


def test_an_interruption_leaves_the_masks_as_they_were(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    data = [build_dataset(pairs(tmp_path / "data"), "train")]
    out = tmp_path / "fixed"
    broken = type(data[0]).__getitem__

    def until_the_second(self: SegmentationDataset, index: int) -> Sample:
        if index == 1:
            raise KeyboardInterrupt
        return broken(self, index)

    for before in ([], ["0.png", "1.png", "mine.txt"]):
        monkeypatch.setattr(type(data[0]), "__getitem__", until_the_second)
        with pytest.raises(KeyboardInterrupt):
            apply_decisions(data, [Decision("0", BOX, "accept")], out)
        monkeypatch.undo()
        assert sorted(path.name for path in out.rglob("*")) == before
        assert not [path for path in tmp_path.iterdir() if path.name.startswith(".")]
        if not before:
            apply_decisions(data, [], out)
            (out / "mine.txt").write_text("mine")
            whole = (out / "0.png").read_bytes()
    assert (out / "0.png").read_bytes() == whole
    assert apply_decisions(data, [Decision("0", BOX, "accept")], out) == ["0"]
    assert (out / "0.png").read_bytes() != whole
    assert (out / "mine.txt").read_text() == "mine"


def test_decisions_that_cannot_be_made(tmp_path: Path) -> None:
    data = [build_dataset(pairs(tmp_path / "data"), "train")]
    cases = [
        (Decision("9", BOX, "accept"), "no image of the data"),
        (Decision("0", BOX, "correct", "zebra"), "zebra"),
        (Decision("0", BOX, "perhaps"), "accept, correct or dismiss"),  # type: ignore[arg-type]
    ]
    for decision, words in cases:
        with pytest.raises(ConfigError, match=words):
            apply_decisions(data, [decision], tmp_path / "new")
        assert not (tmp_path / "new").exists()
    with pytest.raises(ConfigError, match="original masks"):
        apply_decisions(data, [], tmp_path / "data" / "labels")
    moved = Region(0, 1, 0.5, 4, (18, 2, 22, 3), np.ones((4, 1), bool))
    with pytest.raises(DataError, match="review them again"):
        apply_decisions(data, [Decision("0", moved, "accept")], tmp_path / "new")
    with pytest.raises(ConfigError, match=r"labels\.json"):
        decision_of({"image": "0", "verdict": "accept"}, data[0].classes)


def test_images_of_one_name_in_both_splits_keep_masks_of_their_own(tmp_path: Path) -> None:
    first, second = Quarters(), Quarters()
    second.split = "val"
    region = Region(int(first[0].mask[30, 30]), 1, 1.0, 4, (30, 30, 32, 32), np.ones((2, 2), bool))
    changed = apply_decisions([first, second], [Decision("q0", region, "accept")], tmp_path)
    assert changed == ["q0"]
    masks = [np.array(Image.open(tmp_path / split / "q0.png")) for split in ("train", "val")]
    assert (masks[0][30:32, 30:32] == IGNORE_INDEX).all()
    assert (masks[1] == second[0].mask.numpy()).all()
