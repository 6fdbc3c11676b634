"""What a nonparametric model tells beside its mask: how unlike an image is, how many numbers it has; labels refused."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from PIL import Image
from tiny_nonparametric import CLASSES, model
from tiny_segmenters import segmenter

from segproto import api
from segproto.data.build import build_dataset
from segproto.data.config import DataConfig
from segproto.errors import DataError
from segproto.methods.nonparametric.build import make_head
from segproto.methods.nonparametric.config import NonparametricModel
from segproto.model.figures import number_figures
from segproto.model.ood import predict_scored

IMAGE = torch.randint(0, 256, (3, 40, 52), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))


@torch.no_grad()
def test_looking_at_an_image_leaves_the_model_as_it_was() -> None:
    """Unlike the release, whose forward pass rewrites its prototypes: no buffer moves, and no label is asked for."""
    built = model(score="layernorm").eval()
    built.head.bank.vectors.mul_(1.5)  # not of unit length, as a released file is
    before = {name: value.clone() for name, value in built.state_dict().items()}
    first = built.predict(IMAGE)
    predict_scored(built, IMAGE)
    assert torch.equal(built.predict(IMAGE), first)
    for name, value in built.state_dict().items():
        assert torch.equal(value, before[name]), name


def plain_score(actual, image):
    """The largest cosine of every cell, upsampled."""
    features = actual.features(actual.encoder.normalisation(image)[None])
    cells = actual.head.embed(features)
    vectors = F.normalize(actual.head.bank.vectors.flatten(0, 1), dim=1)
    best = (cells @ vectors.T).amax(1).view(1, 1, *features.shape[-2:])
    return F.interpolate(best, image.shape[-2:], mode="bilinear", align_corners=False)[0, 0]


@torch.no_grad()
@pytest.mark.parametrize("options", [{}, {"flip": True}, {"window": 32}])
def test_scores_are_the_largest_cosine_whatever_the_score_norm(options) -> None:
    built = model(score="layernorm").eval()
    mask, score = predict_scored(built, IMAGE, **options)
    assert torch.equal(mask, built.predict(IMAGE, **options))
    expected = plain_score(built, IMAGE)
    if options.get("flip"):
        expected = (expected + plain_score(built, IMAGE.flip(-1)).flip(-1)) / 2
    if "window" in options:  # tiny_segmenters' encoder sees one cell at a time: windows change borders only
        torch.testing.assert_close(score[8:24, 8:24], expected[8:24, 8:24], atol=0.05, rtol=0)
        assert float(score.abs().max()) <= 1 + 1e-5
    else:
        torch.testing.assert_close(score, expected, atol=1e-5, rtol=0)
    built.head.bank.vectors.copy_(
        built.head.embed(built.features(built.encoder.normalisation(IMAGE)[None]))[:12].view(4, 3, -1)
    )
    assert float(predict_scored(built, IMAGE)[1].max()) > 0.9  # now some of its own cells are prototypes


def test_predict_writes_scores_beside_masks(tmp_path: Path) -> None:
    built = model().eval()
    (tmp_path / "images/deep").mkdir(parents=True)
    Image.fromarray(IMAGE.permute(1, 2, 0).numpy()).save(tmp_path / "images/deep/a.png")
    (mask,) = api.predict(built, tmp_path / "images", out=tmp_path / "masks", ood=tmp_path / "ood")
    gray = np.asarray(Image.open(tmp_path / "ood" / mask.relative_to(tmp_path / "masks")))
    _, score = predict_scored(built, IMAGE)
    assert np.abs(gray / 255 - (1 - score).clamp(0, 1).numpy()).max() <= 0.5 / 255 + 1e-6
    assert Image.open(mask).mode == "L"


def test_three_counts() -> None:
    built = model()
    learned = sum(p.numel() for p in built.parameters())
    stored = built.head.bank.vectors.numel()
    assert stored == CLASSES * 3 * 6
    assert number_figures(built) == {"learnable": learned, "stored": stored, "total": learned + stored}
    assert number_figures(segmenter())["stored"] == 0  # its prototypes learn


def test_coarse_labels_are_not_validated_on(tmp_path: Path) -> None:
    for split in ("train", "val"):
        for folder, suffix in (("leftImg8bit", "_leftImg8bit"), ("gtCoarse", "_gtCoarse_labelIds")):
            path = tmp_path / folder / split / "ulm" / f"ulm_000000_000019{suffix}.png"
            path.parent.mkdir(parents=True)
            size = (2, 3, 3) if folder == "leftImg8bit" else (2, 3)
            Image.fromarray(np.full(size, 7, np.uint8)).save(path)
    settings = {
        "root": tmp_path,
        "images": "leftImg8bit",
        "labels": "gtCoarse",
        "image_suffix": "_leftImg8bit",
        "label_suffix": "_gtCoarse_labelIds",
        "classes": "cityscapes",
        "split": {"train_folder": "train", "val_folder": "val"},
    }
    assert len(build_dataset(DataConfig(**settings), "train")) == 1
    with pytest.raises(DataError, match=r"validate on gtFine, or set data\.coarse=true"):
        build_dataset(DataConfig(**settings), "val")
    assert len(build_dataset(DataConfig(coarse=True, **settings), "val")) == 1


def test_learned_numbers_do_not_grow_with_the_vocabulary() -> None:
    heads = {c: make_head(NonparametricModel(score_norm="scale"), c, 16) for c in (19, 150, 847)}
    assert {sum(p.numel() for p in head.parameters()) for head in heads.values()} == {2 * 16}
    assert [head.bank.vectors.numel() for head in heads.values()] == [c * 10 * 16 for c in heads]
    normed = {c: make_head(NonparametricModel(), c, 16) for c in (19, 150, 847)}
    assert [sum(p.numel() for p in head.parameters()) for head in normed.values()] == [2 * 16 + 2 * c for c in normed]
