"""``segproto propose``: the same files for any number of processes and however often it is killed; one image's page."""

from __future__ import annotations

import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import tiny_segmenters
import torch
from PIL import Image

import segproto
from segproto.api.proposal_jobs import read_settings
from segproto.data.config import ScenesConfig
from segproto.data.scenes import ScenesDataset
from segproto.data.unlabelled import ImageFolder
from segproto.encoders.base import Encoder
from segproto.encoders.build import build_encoder
from segproto.encoders.config import EncoderConfig
from segproto.errors import ConfigError, DataError
from segproto.files import writing
from segproto.refine.crf import dense_crf
from segproto.refine.proposals import Proposals
from segproto.refine.regions import SETTINGS, refine_regions
from segproto.training.procedures import propose as procedure
from segproto.training.procedures.propose import (
    ImageProposals,
    ProposeConfig,
    image_proposals,
    propose_files,
    shorter_side,
)

UNET = ["encoder.name=unet", "encoder.width=4", "encoder.output_stride=4"]


@pytest.fixture(scope="module")
def weights(tmp_path_factory: pytest.TempPathFactory) -> str:
    from safetensors.torch import save_file

    torch.manual_seed(0)
    encoder = build_encoder(EncoderConfig(name="unet", width=4, output_stride=4, neck="identity", squash="none"))
    path = tmp_path_factory.mktemp("weights") / "unet.safetensors"
    save_file(encoder.backbone.state_dict(), path)
    return f"encoder.weights={path}"


def photos(folder: Path, count: int = 5) -> Path:
    data = ScenesDataset(ScenesConfig(size=48, num_train=count, num_val=1), "train")
    for index in range(count):
        path = folder / ("a" if index % 2 else "b") / f"{index}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(data[index].image[:, :40].permute(1, 2, 0).numpy()).save(path)
    return folder


def files(folder: Path) -> dict[str, bytes]:
    return {str(p.relative_to(folder)): p.read_bytes() for p in sorted(folder.rglob("*")) if p.is_file()}


SMALL = [*UNET, "proposals.size=32"]


def test_a_folder_with_one_thread_and_with_three(tmp_path: Path, weights: str) -> None:
    source, before = photos(tmp_path / "photos"), torch.get_num_threads()
    try:
        for threads in (1, 3):
            torch.set_num_threads(threads)
            out = tmp_path / str(threads)
            result = segproto.propose(source, out=out, overrides=[*SMALL, weights], device="cpu", quiet=True)
            assert result["images"] == 5
            assert torch.get_num_threads() == threads
    finally:
        torch.set_num_threads(before)
    assert files(tmp_path / "1") == files(tmp_path / "3")
    mask = Image.open(tmp_path / "1" / "masks" / "a" / "1.png")
    assert mask.mode == "P"
    assert mask.size == (48, 40)
    assert (tmp_path / "1" / "overlays" / "a" / "1.jpg").is_file()


def test_no_two_threads_run_one_module(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    busy: list[int] = []
    seen: list[int] = []
    encoder = tiny_segmenters.encoder(stride=4, multiple=4).eval()

    def slowly(one: Encoder, image: torch.Tensor, config: ProposeConfig) -> ImageProposals:
        assert id(one) not in busy
        assert next(one.parameters()) is next(encoder.parameters())
        busy.append(id(one))
        seen.append(len(busy))
        time.sleep(0.05)
        busy.remove(id(one))
        return image_proposals(one, image, config)

    monkeypatch.setattr(procedure, "image_proposals", slowly)
    propose_files(encoder, ImageFolder(photos(tmp_path / "photos", 6)), ProposeConfig(size=32), tmp_path, threads=3)
    assert max(seen) > 1


@pytest.mark.slow
def test_killed_at_random_moments_and_started_again(tmp_path: Path, weights: str) -> None:
    source, rng = photos(tmp_path / "photos", 12), random.Random(0)
    code = "from segproto.cli.main import main; main()"
    words = ["propose", str(source), *SMALL, weights, "--processes", "1", "--device", "cpu", "--out"]
    start = time.monotonic()
    subprocess.run([sys.executable, "-c", code, *words, str(tmp_path / "whole")], check=True, capture_output=True)
    took = time.monotonic() - start
    for _ in range(3):
        process = subprocess.Popen(
            [sys.executable, "-c", code, *words, str(tmp_path / "killed")], start_new_session=True
        )
        time.sleep(took * rng.uniform(0.4, 0.95))
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()
    subprocess.run([sys.executable, "-c", code, *words, str(tmp_path / "killed")], check=True, capture_output=True)
    assert files(tmp_path / "whole") == files(tmp_path / "killed")


def test_what_is_there_is_kept_and_leftovers_go(tmp_path: Path, weights: str) -> None:
    source, out = photos(tmp_path / "photos", 2), tmp_path / "out"
    options = {"overrides": [*SMALL, weights], "device": "cpu", "quiet": True}
    segproto.propose(source, out=out, **options)
    before = files(out)
    times = {p: p.stat().st_mtime_ns for p in out.rglob("*.png")}
    (out / "masks" / "a" / "1.png").unlink()
    (out / "masks" / "a" / ".segproto-123.part").write_bytes(b"half")
    writing._swept.clear()  # as in a new process
    segproto.propose(source, out=out, **options)
    assert files(out) == before
    assert (out / "masks" / "b" / "0.png").stat().st_mtime_ns == times[out / "masks" / "b" / "0.png"]
    with pytest.raises(ConfigError, match="threshold"):
        segproto.propose(source, out=out, **{**options, "overrides": [*SMALL, weights, "proposals.threshold=0.5"]})
    with pytest.raises(ConfigError, match="not empty"):
        segproto.propose(source, out=source, **options)


def test_the_page_of_one_image(tmp_path: Path, weights: str) -> None:
    image = photos(tmp_path / "photos", 1) / "b" / "0.png"
    result = segproto.propose(image, out=tmp_path / "out", overrides=[*SMALL, weights], device="cpu", quiet=True)
    page = Path(result["page"]).read_text()
    there = set(np.unique(Image.open(result["masks"]))) - {255}
    assert result["proposals"] == len(there)
    assert f"<dt>Proposals</dt><dd>{len(there)}</dd>" in page
    rounds = page.count('class="kind"')
    assert f"<dt>Rounds</dt><dd>{rounds}</dd>" in page
    assert "After the dense CRF" in page
    assert "http" not in page.replace("http-equiv", "")
    assert Image.open(result["masks"]).size == (48, 40)


def test_a_broken_image_is_named(tmp_path: Path, weights: str) -> None:
    source = photos(tmp_path / "photos", 2)
    (source / "c.png").write_bytes(b"nothing")
    with pytest.raises(segproto.SegprotoError, match=r"c\.png"):
        segproto.propose(source, out=tmp_path / "out", overrides=[*SMALL, weights], device="cpu", quiet=True)


@pytest.mark.parametrize(
    ("values", "words"),
    [
        ([], "mean nothing"),
        (["proposals.treshold=0.5"], "did you mean proposals.threshold"),
        (["encoder.frosen=1"], "encoder.frozen"),
    ],
)
def test_settings_that_are_refused(values: list[str], words: str) -> None:
    with pytest.raises(ConfigError, match=words):
        read_settings(values)


def test_folders_of_images(tmp_path: Path) -> None:
    source = photos(tmp_path / "photos", 3)
    data = ImageFolder(source)
    assert data.names == ("a/1", "b/0", "b/2")
    assert int(data[0].mask.min()) == 255
    (source / "a" / "1.jpg").write_bytes((source / "a" / "1.png").read_bytes())
    with pytest.raises(DataError, match="differ only in their suffix"):
        ImageFolder(source)
    (tmp_path / "empty").mkdir()
    with pytest.raises(DataError, match="no image"):
        ImageFolder(tmp_path / "empty")


def test_emptied_proposals_stay_labels_of_the_crf() -> None:
    torch.manual_seed(0)
    images = torch.randint(0, 256, (1, 3, 24, 30), dtype=torch.uint8)
    regions = torch.randint(0, 4, (1, 6, 8))
    regions[regions == 2] = 0  # emptied
    one_hot = torch.nn.functional.one_hot(regions[0], 6).movedim(-1, 0)[None].float()  # 5 proposals, 2 empty
    logits = torch.nn.functional.interpolate(one_hot, size=(24, 32), mode="bilinear")[..., :30]
    unary = -torch.log_softmax(logits, 1)
    expected = dense_crf(images, unary, SETTINGS, labels=True)
    refined = refine_regions(images, regions, torch.tensor([5]), padded=(24, 32))
    assert float((refined == expected).float().mean()) > 0.999


def test_the_mask_has_the_images_own_size_and_its_edges() -> None:
    image = torch.zeros(3, 90, 61, dtype=torch.uint8)
    image[:, :, 33:] = 200
    torch.manual_seed(0)
    encoder = build_encoder(EncoderConfig(name="unet", width=4, output_stride=4, neck="identity", squash="none"))
    proposals = image_proposals(encoder.eval(), image, ProposeConfig(size=32))
    assert proposals.mask.shape == (90, 61)
    assert proposals.image.shape == (3, 47, 32)
    assert proposals.mask.dtype == torch.uint8
    assert int(proposals.grid.counts[0]) >= 1


def test_the_shorter_side_is_pillows() -> None:
    rng = np.random.default_rng(0)
    smooth = Image.fromarray(rng.integers(0, 256, (12, 17, 3), dtype=np.uint8)).resize((170, 120))
    image = torch.from_numpy(np.array(smooth)).permute(2, 0, 1)
    ours = shorter_side(image, 40)
    pillow = torch.from_numpy(np.array(smooth.resize((57, 40), Image.Resampling.BILINEAR))).permute(2, 0, 1)
    assert ours.shape == pillow.shape
    assert float((ours.float() - pillow.float()).abs().max()) <= 1


def test_borders_are_repeated_where_images_are_no_whole_patches() -> None:
    """Replicated borders give what the padded image gives; zeros give something else."""
    encoder, image = tiny_segmenters.encoder(stride=4, multiple=4).eval(), tiny_segmenters.image(45, 42)
    height, width = encoder.padded_size(45, 42)
    rows, columns = torch.arange(height).clamp(max=44), torch.arange(width).clamp(max=41)
    config = ProposeConfig(size=None, crf=False)
    whole = image_proposals(encoder, image[:, rows][:, :, columns], config)
    found = image_proposals(encoder, image, config)
    assert torch.equal(found.grid.raw, whole.grid.raw)
    zeros = image_proposals(encoder, image, ProposeConfig(size=None, crf=False, padding="zeros"))
    assert not torch.equal(zeros.grid.raw, whole.grid.raw)


def test_the_number_of_proposals_is_of_those_with_pixels() -> None:
    mask = torch.tensor([[1, 1, 3], [255, 3, 7]], dtype=torch.uint8)
    grid = Proposals(torch.ones(1, 1, 1), torch.ones(1, 1, 1), torch.tensor([7]))
    assert ImageProposals(mask, torch.zeros(3, 2, 3), mask.long(), grid).number == 3
