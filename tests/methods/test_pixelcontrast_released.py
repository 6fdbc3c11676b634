"""What the released code does, and only the published recipes do: scores averaged over cells, saliency bicubically."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor

from segproto.data.augment import augment
from segproto.data.base import ClassTable, Sample, SegmentationDataset
from segproto.data.batch import Batch
from segproto.data.config import AugmentConfig
from segproto.data.loader import train_batches
from segproto.data.palette import default_colours
from segproto.errors import ConfigError, DataError
from segproto.methods.pixelcontrast import METHOD
from segproto.methods.pixelcontrast.config import AffinityConfig, PixelcontrastRecipe
from segproto.methods.pixelcontrast.contrast import ContrastLoss, PairLoss
from segproto.methods.pixelcontrast.products import save_scores
from segproto.methods.pixelcontrast.tagged import averaged_labels, with_positions
from segproto.refine.affinity import cell_pairs, pair_labels
from segproto.runs.catalogue import read_recipe
from segproto.training.recipe import apply_overrides, validate_recipe

SIZE = (44, 52)


class Pictures(SegmentationDataset):
    """Two images of noise."""

    classes = ClassTable(tuple("abcdefg"), default_colours(7))
    names = ("one", "two")
    split = "train"
    fingerprint = "pictures"

    def __getitem__(self, index: int) -> Sample:
        g = torch.Generator().manual_seed(index)
        image = torch.randint(0, 256, (3, *SIZE), generator=g, dtype=torch.uint8)
        return Sample(image, torch.zeros(SIZE, dtype=torch.uint8), self.names[index])


def plain(image: Tensor) -> Tensor:
    return image.float() / 255


def recipe(name: str, *more: str) -> PixelcontrastRecipe:
    checked = validate_recipe(apply_overrides(read_recipe(f"{METHOD.name}/{name}"), more), METHOD.recipe)
    assert isinstance(checked, PixelcontrastRecipe)
    return checked


def cell_labels(low: Tensor, high: Tensor, classes: list[int]) -> Tensor:
    """Labels of 8 x 8 cells: a loop in float64 over padded scores (K, 8h, 8w)."""
    height, width = low.shape[1] // 8, low.shape[2] // 8
    labels = torch.full((height, width), 255)
    for y in range(height):
        for x in range(width):
            a, b = (s[:, 8 * y : 8 * y + 8, 8 * x : 8 * x + 8].double().mean((1, 2)).tolist() for s in (low, high))
            if max(*a, *b) < 1e-5:
                continue
            best = max(range(len(a)), key=a.__getitem__)
            if best > 0:
                labels[y, x] = classes[best]
            if max(range(len(b)), key=b.__getitem__) == 0:
                labels[y, x] = 0
    return labels


@pytest.mark.parametrize("crop", [32, 64])
def test_affinity_labels_of_averaged_scores(crop: int, tmp_path: Path) -> None:
    """Cropped, padded and mirrored as the image is, then averaged over each cell."""
    dataset, config = Pictures(), AugmentConfig(scale=(1, 1), crop=crop, padding="anywhere")
    tables = {"one": [0, 2, 5], "two": [0, 6]}
    scores, masks, expected = {}, [], []
    for index, name in enumerate(dataset.names):
        g = torch.Generator().manual_seed(10 + index)
        scores[name] = torch.randint(1000, 2000, (2, len(tables[name]), *SIZE), generator=g)
        low, high = scores[name] / 2048  # exact with 16 bits
        save_scores(
            {"classes": torch.tensor(tables[name], dtype=torch.uint8), "low": low, "high": high},
            tmp_path / f"{name}.npz",
        )
    points = with_positions(dataset, tmp_path)
    for index, name in enumerate(dataset.names):
        seen = [
            augment(dataset[index].image, one, config, torch.Generator().manual_seed(3 + index), plain)[1]
            for one in scores[name].flatten(0, 1)
        ]
        low, high = torch.stack([s * (s != 255) for s in seen]).chunk(2)
        expected.append(cell_labels(low, high, tables[name]))
        sample = points[index]
        masks.append(augment(sample.image, sample.mask, config, torch.Generator().manual_seed(3 + index), plain)[1])
    size = (crop // 8, crop // 8)
    got = averaged_labels(torch.stack(masks), dataset.names, tmp_path, size)
    assert torch.equal(got, torch.stack(expected))
    if crop == 64:
        assert (got == 255).any()


def test_the_affinity_stage_learns_from_them(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The pixel at the centre of a cell says one class, its mean the other."""
    import segproto.methods.pixelcontrast.contrast as module

    dataset = Pictures()
    (tmp_path / "stages/crf/scores").mkdir(parents=True)
    front = torch.full(SIZE, 0.9)
    front[4::8, 4::8] = 0
    front[:, 16:] = 0
    values = torch.stack([1 - front, front])
    for name in dataset.names:
        save_scores(
            {"classes": torch.tensor([0, 3], dtype=torch.uint8), "low": values, "high": values},
            tmp_path / "stages/crf/scores" / f"{name}.npz",
        )
    seen: list[Tensor] = []
    monkeypatch.setattr(
        module, "pair_labels", lambda labels, pairs: (seen.append(labels), pair_labels(labels, pairs))[1]
    )
    monkeypatch.setattr(module, "require_head", lambda model, *_: model)
    monkeypatch.setattr(module, "pad_masks", lambda _, batch: batch.masks)

    class Model:
        def features(self, images: Tensor) -> Tensor:
            return images

        def affinity_features(self, images: Tensor) -> Tensor:
            return images[:, :, ::8, ::8]

    for choice in ("centres", "averaged"):
        loss = PairLoss(AffinityConfig(radius=2, labels=choice))  # type: ignore[arg-type]
        sample = loss.prepare(dataset, tmp_path)[0]
        batch = Batch(masks=sample.mask[None, :40, :48].long(), images=torch.rand(1, 3, 40, 48), names=("one",))
        assert loss(Model(), batch)["loss"].isfinite()  # type: ignore[arg-type]
        nameless = Batch(masks=torch.full((1, 40, 48), 255), images=torch.rand(1, 3, 40, 48))
        assert loss(Model(), nameless)["loss"] == 0  # type: ignore[arg-type]
    centres, averaged = seen[0], seen[2]
    assert (centres == 0).all()
    assert (averaged[0, :, :2] == 3).all()
    assert (averaged[0, :, 2:] == 0).all()
    assert len(cell_pairs(5, 6, 2)) > 0


def test_scores_of_another_size_are_named(tmp_path: Path) -> None:
    save_scores(
        {"classes": torch.zeros(1, dtype=torch.uint8), "low": torch.ones(1, 40, 48), "high": torch.ones(1, 40, 48)},
        tmp_path / "one.npz",
    )
    with pytest.raises(DataError, match="the image is 52x44, what was made of it is 48x40"):
        with_positions(Pictures(), tmp_path)[0]


@pytest.mark.parametrize("resize", ["nearest", "bicubic"])
def test_saliency_is_resized_as_asked(resize: str, tmp_path: Path) -> None:
    """Through the loader, against Pillow's resize of the whole map."""
    smooth = np.sin(np.add.outer(np.arange(SIZE[0]), np.arange(SIZE[1]))) * 90 + 100
    for index, name in enumerate(Pictures.names):
        Image.fromarray((smooth + index * 20).astype(np.uint8)).save(tmp_path / f"{name}.png")
    r = recipe("voc-eps", f"stages.contrast.saliency={tmp_path}", f"stages.contrast.saliency_resize={resize}")
    loss = ContrastLoss(r.stages.contrast, r.tags)
    (tmp_path / "tags.csv").write_text("one,b\ntwo,c\n")
    loss.tags_from = tmp_path / "tags.csv"
    dataset = loss.prepare(Pictures(), tmp_path)
    config = AugmentConfig(long_side=(78, 78), flip=False)
    batch = next(iter(train_batches(dataset, config, normalisation=plain, seed=0, batch_size=2)))
    assert batch.masks.shape == (2, 66, 78)
    for name, got in zip(batch.names, batch.masks, strict=True):
        how = Image.Resampling.BICUBIC if resize == "bicubic" else Image.Resampling.NEAREST
        whole = np.asarray(Image.open(tmp_path / f"{name}.png").resize((78, 66), how)).astype(float) * 254 / 255
        assert np.abs(whole - got.numpy()).max() < 2  # both round, in another order
        other = np.asarray(Image.open(tmp_path / f"{name}.png").resize((78, 66), Image.Resampling.NEAREST)).astype(
            float
        )
        assert (np.abs(other * 254 / 255 - got.numpy()).max() > 10) == (resize == "bicubic")


@pytest.mark.parametrize("name", ["voc-seam", "voc-seam-baseline", "voc-eps", "voc-eps-baseline", "voc-eps-plain"])
def test_only_published_recipes_do_so(name: str) -> None:
    for suffix, labels, resize in (("", "centres", "nearest"), ("-published", "averaged", "bicubic")):
        s = recipe(name + suffix).stages
        if "seam" in name:
            assert s.affinity.labels == labels
        else:
            assert s.contrast.saliency_resize == resize


def test_given_scores_that_nothing_would_read() -> None:
    given = ["stages.crf.given_low=la_crf", "stages.crf.given_high=ha_crf"]
    assert recipe("voc-seam", *given).stages.crf.given_low is not None
    with pytest.raises(ConfigError, match=r"affinities alone are learnt from these scores, and affinity\.steps = 0"):
        recipe("voc-seam", *given, "stages.affinity.steps=0", "stages.masks.walk=false")
