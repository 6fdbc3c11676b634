"""The feature cache: exact features, mirrored images, resume, refusals."""

from __future__ import annotations

import pytest
import torch

from segproto.data.base import ClassTable, Sample, SegmentationDataset
from segproto.encoders.build import build_encoder
from segproto.encoders.config import EncoderConfig
from segproto.errors import ConfigError, DataError, SegprotoError
from segproto.model import cache as module
from segproto.model.cache import FeatureCache, shard_path

SIZES = [(24, 32), (24, 32), (17, 20), (24, 32), (40, 16)]


class Noise(SegmentationDataset):
    split = "train"
    classes = ClassTable(("a",), ((0, 0, 0),))

    def __init__(self, mark="noise", fail_at=None):
        self.names = [str(i) for i in range(len(SIZES))]
        self.mark = mark
        self.fail_at = fail_at
        self.reads = []

    def __getitem__(self, index):
        if index == self.fail_at:
            raise DataError("unplugged")
        self.reads.append(index)
        generator = torch.Generator().manual_seed(index)
        image = torch.randint(0, 256, (3, *SIZES[index]), generator=generator, dtype=torch.uint8)
        return Sample(image, torch.zeros(SIZES[index], dtype=torch.uint8), self.names[index])

    @property
    def fingerprint(self):
        return self.mark


def make(**settings):
    torch.manual_seed(0)
    return build_encoder(EncoderConfig(name="unet", width=2, output_stride=4, **({"frozen": True} | settings)))


@pytest.fixture(autouse=True)
def small_shards(monkeypatch):
    monkeypatch.setattr(module, "SHARD", 2)
    monkeypatch.setattr(module, "BATCH_PIXELS", 3 * 24 * 32)


@torch.no_grad()
@pytest.mark.parametrize("mapped", [False, True])
def test_features_are_those_of_the_image_and_of_its_mirror(tmp_path, monkeypatch, mapped):
    monkeypatch.setattr(module, "RAM_BYTES", 0 if mapped else 1 << 30)
    encoder, data = make().train(), Noise()
    cache = FeatureCache.open(encoder, data, tmp_path, flips=True, dtype="float32")
    assert len(cache) == len(SIZES)
    assert bool(cache._memory) is not mapped
    for index in range(len(SIZES)):
        for flipped in (False, True):
            image = data[index].image.flip(-1) if flipped else data[index].image
            expected = encoder.backbone_features(encoder.normalisation(image)[None])[0]
            torch.testing.assert_close(cache.get(index, flipped), expected, atol=1e-6, rtol=1e-5)
    cache.get(0)[:] = 7  # a copy: the cache is not changed through it
    assert cache.get(0).max() != 7
    assert encoder.training


def test_float16_keeps_three_digits_and_returns_float32(tmp_path):
    full = FeatureCache.open(make(), Noise(), tmp_path, flips=False, dtype="float32").get(3)
    half = FeatureCache.open(make(), Noise(), tmp_path, flips=False).get(3)
    assert half.dtype == torch.float32
    assert 0 < (full - half).abs().max() <= full.abs().max() * 2**-11


def test_a_second_opening_reads_no_image(tmp_path):
    FeatureCache.open(make(), Noise(), tmp_path)
    again = Noise()
    seen = []
    FeatureCache.open(make(), again, tmp_path, progress=lambda done, total: seen.append((done, total)))
    assert again.reads == []
    assert seen == [(2, 5), (4, 5), (5, 5)]


def test_an_interrupted_run_continues(tmp_path):
    with pytest.raises(DataError, match="unplugged"):
        FeatureCache.open(make(), Noise(fail_at=3), tmp_path)
    data = Noise()
    cache = FeatureCache.open(make(), data, tmp_path)
    assert data.reads == [2, 3, 4]
    whole = FeatureCache.open(make(), Noise(), tmp_path / "other")
    assert all(torch.equal(cache.get(i, f), whole.get(i, f)) for i in range(5) for f in (False, True))


def test_a_damaged_file_is_made_again(tmp_path):
    cache = FeatureCache.open(make(), Noise(), tmp_path)
    path = cache.folder / "000001.safetensors"
    path.write_bytes(path.read_bytes()[:40])
    data = Noise()
    again = FeatureCache.open(make(), data, tmp_path)
    assert data.reads == [2, 3]
    assert torch.equal(again.get(2), cache.get(2))


def test_a_file_of_fewer_images_is_made_again(tmp_path):
    part = Noise()
    part.names = part.names[:3]
    FeatureCache.open(make(), part, tmp_path)
    cache = FeatureCache.open(make(), Noise(), tmp_path)
    assert cache.get(3, flipped=True).shape == (2, 6, 8)


def test_the_key_follows_backbone_data_and_settings(tmp_path):
    folders = {
        FeatureCache.open(make(), Noise(), tmp_path).folder,
        FeatureCache.open(make(), Noise("other"), tmp_path).folder,
        FeatureCache.open(make(), Noise(), tmp_path, flips=False).folder,
        FeatureCache.open(make(), Noise(), tmp_path, dtype="float32").folder,
    }
    assert len(folders) == 4
    assert FeatureCache.open(make(dim=7, squash="relu"), Noise(), tmp_path).folder in folders
    changed = make()
    with torch.no_grad():
        changed.backbone.outc.conv.bias += 1
    assert FeatureCache.open(changed, Noise(), tmp_path).folder not in folders


def test_refusals(tmp_path):
    with pytest.raises(ConfigError, match=r"encoder\.frozen=true"):
        FeatureCache.open(make(frozen=False), Noise(), tmp_path)
    with pytest.raises(ConfigError, match="MSC"):
        FeatureCache.open(make(msc=[0.5]), Noise(), tmp_path)
    cache = FeatureCache.open(make(), Noise(), tmp_path, flips=False)
    with pytest.raises(ConfigError, match="flips"):
        cache.get(0, flipped=True)
    with pytest.raises(IndexError):
        cache.get(5)
    (tmp_path / "file").touch()
    with pytest.raises(SegprotoError, match="a file is where a folder would be"):
        FeatureCache.open(make(), Noise(), tmp_path / "file")


def test_features_beyond_float16_are_refused(tmp_path):
    encoder = make()
    with torch.no_grad():
        encoder.backbone.outc.conv.bias += 1e6
    with pytest.raises(ConfigError, match="float32"):
        FeatureCache.open(encoder, Noise(), tmp_path)
    assert FeatureCache.open(encoder, Noise(), tmp_path, dtype="float32").get(0).max() > 9e5


def test_no_half_written_file_stays(tmp_path, monkeypatch):
    def full_disk(descriptor):
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr("os.fsync", full_disk)
        with pytest.raises(SegprotoError, match="the disk is full"):
            FeatureCache.open(make(), Noise(), tmp_path)
        assert [p for p in tmp_path.rglob("*") if p.is_file()] == []
    cache = FeatureCache.open(make(), Noise(), tmp_path)
    shard = shard_path(cache.folder, 0)
    shard.write_bytes(shard.read_bytes()[:-9])  # cut off by a crash of the machine: made again
    again = FeatureCache.open(make(), Noise(), tmp_path)
    assert torch.equal(again.get(0), cache.get(0))


def test_processes_share_the_files(tmp_path):
    encoder, whole = make(), Noise()
    parts = [Noise() for _ in range(2)]
    for rank, data in enumerate(parts):
        folder = module.make_cache(encoder, data, tmp_path / "two", rank=rank, world=2)
    assert [sorted(data.reads) for data in parts] == [[0, 1, 4], [2, 3]]
    reader = Noise()
    FeatureCache.open(encoder, reader, tmp_path / "two")
    assert reader.reads == []
    FeatureCache.open(encoder, whole, tmp_path / "one")
    for path in folder.glob("*.safetensors"):
        assert path.read_bytes() == (tmp_path / "one" / folder.name / path.name).read_bytes()
