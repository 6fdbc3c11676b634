"""Data sets in tar archives: found by one pass over the headers, read anywhere, split by the names of the shards."""

from __future__ import annotations

import gzip
import io
import tarfile
from pathlib import Path

import numpy as np
import pytest
import torch
from command_line import Cli
from PIL import Image

from segproto.data.archives import Member
from segproto.data.base import SegmentationDataset
from segproto.data.build import build_dataset
from segproto.data.config import DataConfig
from segproto.data.inflate import MemberStream
from segproto.data.loader import train_batches
from segproto.data.tars import TarFiles
from segproto.errors import DataError

PAIRS = {f"{k:04d}": k for k in range(9)}


def png(pixels: np.ndarray) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, "PNG")
    return buffer.getvalue()


def pair(number: int) -> tuple[np.ndarray, np.ndarray]:
    generator = np.random.default_rng(number)
    image = generator.integers(0, 256, (12, 10, 3), np.uint8)
    return image, (image[..., 0] > 127).astype(np.uint8)


def shard(path: Path, files: dict[str, bytes], form: int = tarfile.PAX_FORMAT) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    with tarfile.open(path, "w", format=form) as tar:
        for name, content in files.items():
            info = tarfile.TarInfo(name)
            info.size = len(content)
            tar.addfile(info, io.BytesIO(content))


def samples(numbers: range) -> dict[str, bytes]:
    """As WebDataset has them: the parts of a sample side by side, told by their suffixes."""
    files = {}
    for number in numbers:
        image, mask = pair(number)
        files |= {f"{number:04d}.png": png(image), f"{number:04d}.seg.png": png(mask), f"{number:04d}.json": b"{}"}
    return files


@pytest.fixture
def root(tmp_path: Path, cli: Cli) -> Path:
    folder = tmp_path / "shards"
    shard(folder / "train-0000.tar", samples(range(4)))
    shard(folder / "train-0001.tar", samples(range(4, 7)), tarfile.GNU_FORMAT)
    shard(folder / "val-0000.tar", samples(range(7, 9)))
    answer = cli("data", "init", folder)
    assert answer.code == 0, answer.err
    assert "by settings" not in answer.out
    return folder


def opened(root: Path, split: str) -> SegmentationDataset:
    return build_dataset(DataConfig(root=root), split)


def test_samples_of_shards_are_a_data_set(root: Path) -> None:
    for split, numbers in (("train", range(7)), ("val", range(7, 9))):
        data = opened(root, split)
        assert len(data) == len(numbers)
        for index, number in enumerate(numbers):
            image, mask = pair(number)
            assert data.names[index].endswith(f"{number:04d}")
            assert np.array_equal(data[index].image.permute(1, 2, 0).numpy(), image)
            assert np.array_equal(data[index].mask.numpy(), mask)


def test_workers_read_shards(root: Path) -> None:
    data = opened(root, "train")
    options = {"normalisation": lambda image: image.float(), "seed": 1, "batch_size": 3, "stop": 4}
    augment = DataConfig(root=root).augment.model_copy(update={"crop": 8})
    batches = [list(train_batches(data, augment, workers=n, **options)) for n in (0, 2)]  # type: ignore[arg-type]
    for alone, shared in zip(*batches, strict=True):
        assert torch.equal(alone.images, shared.images)  # type: ignore[arg-type]


def test_folders_inside_one_archive(tmp_path: Path, cli: Cli) -> None:
    files = {}
    for number in range(4):
        image, mask = pair(number)
        files |= {f"./images/{number}.png": png(image), f"./masks/{number}.png": png(mask)}
    shard(tmp_path / "all.tar", files)
    assert cli("data", "init", tmp_path / "all.tar").code == 0
    assert (tmp_path / "all.classes.yaml").is_file()
    assert len(opened(tmp_path / "all.tar", "train")) == 3


def test_a_name_in_two_shards_is_refused(root: Path) -> None:
    shard(root / "train-0002.tar", samples(range(1)))
    with pytest.raises(DataError, match=r"train-0002.tar: holds 0000.png, as .*train-0000.tar does"):
        opened(root, "train")


def test_archives_that_cannot_be_read(tmp_path: Path) -> None:
    shard(tmp_path / "a.tar", samples(range(2)))
    whole = (tmp_path / "a.tar").read_bytes()
    for content in (gzip.compress(whole), b"no archive" * 200, whole[:700]):
        (tmp_path / "bad.tar").write_bytes(content)
        with pytest.raises(DataError, match=r"bad.tar: cannot be read as a tar archive"):
            TarFiles(tmp_path / "bad.tar")
    files = TarFiles(tmp_path / "a.tar")
    last = Member(tmp_path / "a.tar", files.namelist()[-1])
    assert last.open_binary().read() == b"{}"
    with open(tmp_path / "a.tar", "r+b") as file:  # cut off while it is in use
        file.truncate(files.getinfo(last.member).start + 1)
    with pytest.raises(DataError, match=r"0001.json: cannot be read from its archive \(ends at byte 1 of 2\)"):
        last.open_binary()


def test_parts_of_a_large_file_are_read_where_they_lie(tmp_path: Path) -> None:
    content = bytes(range(256)) * 20
    shard(tmp_path / "b.tar", {"first": b"1", "large": content})
    with MemberStream(Member(tmp_path / "b.tar", "large")) as stream:
        stream.seek(1000)
        assert stream.read(700) == content[1000:1700]
