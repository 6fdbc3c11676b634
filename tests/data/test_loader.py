"""Training batches: a pure function of (seed, batch), whatever the workers, ranks and interruptions."""

import warnings

import pytest
import torch

from segproto.data import decoded
from segproto.data.base import ClassTable, Sample, SegmentationDataset
from segproto.data.config import AugmentConfig
from segproto.data.decoded import Decoded
from segproto.data.loader import sample_order, train_batches
from segproto.errors import DataError


class Numbered(SegmentationDataset):
    """Image i is i everywhere; indices in ``broken`` cannot be read."""

    def __init__(self, count, broken=(), sizes=((24, 24),)):
        self.names = tuple(f"n{i}" for i in range(count))
        self.classes = ClassTable(("a", "b"), ((0, 0, 0), (1, 1, 1)))
        self.split = "train"
        self.broken = set(broken)
        self.sizes = sizes

    def __getitem__(self, index):
        if index in self.broken:
            raise DataError(f"n{index}.jpg: broken picture file")
        size = self.sizes[index % len(self.sizes)]
        return Sample(
            torch.full((3, *size), index, dtype=torch.uint8), torch.zeros(size, dtype=torch.uint8), f"n{index}"
        )

    @property
    def fingerprint(self):
        return "numbered"


def plain(image):
    return image.float()


AUGMENT = AugmentConfig(crop=16, scale=(0.5, 1.5))


def batches(dataset, augment=AUGMENT, **settings):
    settings = {"seed": 3, "batch_size": 4, "stop": 6, **settings}
    return list(train_batches(dataset, augment, normalisation=plain, **settings))


def same(a, b):
    return a.names == b.names and torch.equal(a.images, b.images) and torch.equal(a.masks, b.masks)


def test_order_visits_everything_once_an_epoch():
    order = sample_order(5, 7, 0, 21)
    epochs = [order[i : i + 7] for i in (0, 7, 14)]
    assert all(sorted(epoch) == list(range(7)) for epoch in epochs)
    assert epochs[0] != epochs[1]
    assert sample_order(5, 7, 9, 15) == order[9:15]
    assert sample_order(6, 7, 0, 21) != order


def test_batches_follow_the_order():
    names = [name for batch in batches(Numbered(10)) for name in batch.names]
    assert names == [f"n{i}" for i in sample_order(3, 10, 0, 24)]
    first = batches(Numbered(10))[0]
    assert first.images.shape == (4, 3, 16, 16)
    assert first.masks.shape == (4, 16, 16)
    assert first.masks.dtype == torch.int64


def test_a_resumed_run_sees_the_same_batches():
    whole, rest = batches(Numbered(10)), batches(Numbered(10), start=4)
    assert len(rest) == 2
    assert all(same(a, b) for a, b in zip(whole[4:], rest, strict=True))
    assert not same(whole[0], batches(Numbered(10), seed=4, stop=1)[0])


def test_augmentation_differs_between_epochs():
    batch = batches(Numbered(1), AugmentConfig(scale=(0.2, 3)), batch_size=1, stop=5)
    assert len({tuple(b.masks.shape) for b in batch}) > 1


@pytest.mark.parametrize("workers", [1, 2])
def test_workers_change_nothing(workers):
    alone, shared = batches(Numbered(10)), batches(Numbered(10), workers=workers)
    assert all(same(a, b) for a, b in zip(alone, shared, strict=True))


def test_ranks_share_the_sequence():
    ranks = [batches(Numbered(10), rank=r, world=2, batch_size=2, stop=6) for r in (0, 1)]
    alone = batches(Numbered(10), batch_size=4, stop=6)
    for k, batch in enumerate(alone):
        assert batch.names == ranks[0][k].names + ranks[1][k].names
        assert torch.equal(batch.images, torch.cat([ranks[0][k].images, ranks[1][k].images]))


def test_without_an_end():
    endless = train_batches(Numbered(3), AUGMENT, normalisation=plain, seed=0, batch_size=2)
    assert [len(next(endless).names) for _ in range(20)] == [2] * 20


def test_unlike_sizes_are_padded_to_the_largest():
    config = AugmentConfig(scale=(1, 1), flip=False)
    (batch,) = batches(Numbered(2, sizes=((5, 9), (8, 4))), config, batch_size=2, stop=1)
    assert batch.images.shape == (2, 3, 8, 9)
    for image, mask, name in zip(batch.images, batch.masks, batch.names, strict=True):
        h, w = {"n0": (5, 9), "n1": (8, 4)}[name]
        assert (mask[:h, :w] == 0).all()
        assert (mask == 255).sum() == 72 - h * w
        assert image.sum() == 3 * h * w * int(name[1:])


@pytest.mark.parametrize("workers", [0, 1])
def test_skipping_takes_the_next_and_warns_once_a_file(workers):
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        got = batches(Numbered(10, broken={2, 7}), on_error="skip", workers=workers)
    lines = sorted(str(w.message) for w in caught if "n" in str(w.message) and "skipped" in str(w.message))
    assert [line.split(": ")[1] for line in lines] == ["n2.jpg", "n7.jpg"]
    order = sample_order(3, 10, 0, 40)
    for at, name in enumerate(name for batch in got for name in batch.names):
        assert name == f"n{next(i for i in order[at:] if i not in (2, 7))}"


@pytest.mark.parametrize("workers", [0, 1])
def test_failing_names_the_file(workers):
    with pytest.raises(DataError) as caught:
        batches(Numbered(4, broken={2}), workers=workers)
    assert str(caught.value) == "n2.jpg: broken picture file"
    with pytest.raises(DataError):
        batches(Numbered(2, broken={0, 1}), on_error="skip", workers=workers)


class Read(Numbered):
    """Noise that differs at every pixel, and how often it was read."""

    def __init__(self, count, sizes=((24, 24),)):
        super().__init__(count, sizes=sizes)
        self.read = 0

    def __getitem__(self, index):
        self.read += 1
        sample = super().__getitem__(index)
        generator = torch.Generator().manual_seed(index)
        return sample._replace(image=torch.randint(0, 256, sample.image.shape, generator=generator, dtype=torch.uint8))


def test_images_of_a_small_set_are_decoded_once(monkeypatch):
    same_size = AugmentConfig(crop=None, scale=(1.0, 1.0), flip=False)
    for augment in (AUGMENT, same_size):
        data = Read(5)
        kept = Decoded(data)
        plainly = batches(Read(5), augment)
        assert all(same(a, b) for a, b in zip(plainly, batches(data, augment, decoded=kept), strict=True))
        assert data.read == 5
        for batch in batches(data, augment, decoded=kept):  # of a later stage; what it does to them is its business
            batch.images.zero_()
            batch.masks.fill_(1)
        kept[0].image.zero_()
        assert all(same(a, b) for a, b in zip(plainly, batches(data, augment, decoded=kept), strict=True))
        assert data.read == 5
    assert all(
        same(a, b) for a, b in zip(batches(Read(5)), batches(data, decoded=Decoded(data), workers=1), strict=True)
    )
    monkeypatch.setattr(decoded, "LIMIT", 5 * 24 * 24 * 4 - 1)
    large = Read(5)
    assert all(same(a, b) for a, b in zip(batches(Read(5)), batches(large, decoded=Decoded(large)), strict=True))
    assert large.read == 24


def test_images_larger_than_the_first_do_not_fill_the_memory(monkeypatch):
    monkeypatch.setattr(decoded, "LIMIT", 4 * 8 * 8 * 4)
    data = Read(4, sizes=((8, 8), (16, 16)))
    kept = Decoded(data)
    for _ in range(3):
        for index in range(4):
            assert kept[index].name == f"n{index}"
    assert data.read == 2 + 3 * 2
