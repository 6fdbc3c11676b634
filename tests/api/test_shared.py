"""The work of a verb shared between processes: as one process does it, to the bit."""

from __future__ import annotations

import json
import os
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from command_line import Cli
from PIL import Image
from training_tiny import in_processes, in_slurm

import segproto
from segproto import api
from segproto.api import predict_loop
from segproto.data.build import build_dataset
from segproto.data.picture import look_at
from segproto.errors import ConfigError, SegprotoError, UnreadableImages
from segproto.evaluation.validate import validate
from segproto.files.documents import read_object
from segproto.model import together
from segproto.model.together import CHUNK, chunk_size, chunked, in_order
from segproto.model.windows import evaluating
from segproto.runs.continuing import keep_record
from segproto.runs.settings import data_config
from segproto.training.devices import launched
from segproto.training.sharing import shared

OWN = {"seconds", "images_per_second", "file", "command"}  # of each call


def comparable(value: Any) -> Any:
    """Figures without times and the names of files."""
    if isinstance(value, dict):
        return {key: comparable(part) for key, part in value.items() if key not in OWN}
    return [comparable(part) for part in value] if isinstance(value, list) else value


def score(run: Path, out: Path) -> None:
    torch.set_num_threads(1)
    settings = ["interpretability.images=5", "interpretability.faithfulness_images=3"]
    masks = out.parent / "unknown"  # of all validation images but one
    options: dict[str, Any] = {"interpretability": True, "quiet": True, "overrides": settings, "ood_labels": masks}
    figures = api.evaluate(run, out=out / "figures.json", save=out / "masks", **options)
    (out / f"rank{os.environ.get('RANK', os.environ.get('SLURM_PROCID', 0))}.json").write_text(
        json.dumps(comparable(figures), sort_keys=True)
    )


def found(out: Path) -> tuple[Any, dict[str, bytes]]:
    figures = comparable(json.loads((out / "figures.json").read_text()))
    return figures, {path.name: path.read_bytes() for path in sorted((out / "masks" / "val").iterdir())}


@pytest.mark.slow
def test_evaluate_in_processes_of_torchrun_or_srun_is_evaluate_in_one(scaleproto_run: Path, tmp_path: Path) -> None:
    folders = [tmp_path / name for name in ("one", "three", "srun")]
    for folder in (*folders, tmp_path / "unknown"):
        folder.mkdir()
    for number in range(3):
        truth = np.random.default_rng(number).integers(0, 2, (64, 64)).astype(np.uint8) * (number != 1)
        Image.fromarray(truth).save(tmp_path / "unknown" / f"val_{number:05d}.png")
    in_processes(3, score, scaleproto_run, folders[1])
    in_slurm(2, score, scaleproto_run, folders[2])
    score(scaleproto_run, folders[0])
    one = found(folders[0])
    for folder, world in zip(folders[1:], (3, 2), strict=True):
        assert found(folder) == one
        texts = [(folder / f"rank{rank}.json").read_text() for rank in range(world)]
        assert set(texts) == {(folders[0] / "rank0.json").read_text()}  # every process knows the figures


@pytest.mark.parametrize("count", [0, 1, 31, 64, 100, 1000])
@pytest.mark.parametrize("world", [1, 2, 7])
def test_each_image_is_one_process_s_and_its_chunk_is_the_same_for_all(count: int, world: int) -> None:
    parts = [chunked(count, rank, world) for rank in range(world)]
    assert sorted(index for part in parts for index in part) == list(range(count))
    size = chunk_size(count)
    assert 1 <= size <= CHUNK
    for part in parts:
        for index in part:
            chunk = range(index // size * size, min(index // size * size + size, count))
            assert set(chunk) <= set(part)


def test_jobs_end_in_order_and_an_error_stands_in_its_place() -> None:
    def job(number: int) -> int:
        if number == 3:
            raise SegprotoError("three")
        return number

    results = in_order((lambda n=n: job(n) for n in range(9)), workers=3, ahead=4)  # type: ignore[misc]
    assert [next(results) for _ in range(3)] == [0, 1, 2]
    with pytest.raises(SegprotoError, match="three"):
        next(results)


@pytest.mark.parametrize(("weight", "most"), [(1, 4), (40, 2), (1000, 1)])
def test_few_heavy_results_wait(weight: int, most: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(together, "WAITING", 100)
    begun: list[int] = []

    def job(number: int) -> int:
        begun.append(number)
        return number

    results = in_order((partial(job, n) for n in range(20)), workers=1, ahead=4, weigh=lambda _: weight)
    for number in range(20):
        assert next(results) == number
        assert len(begun) <= number + 1 + most
    assert begun == list(range(20))


def test_launchers_are_known(monkeypatch: pytest.MonkeyPatch) -> None:
    assert launched() is None
    monkeypatch.setenv("SLURM_NTASKS", "8")  # as in a batch script, outside of srun
    assert launched() is None
    monkeypatch.setenv("SLURM_STEP_NUM_TASKS", "8")
    monkeypatch.setenv("SLURM_STEP_NUM_NODES", "2")
    assert launched() == (4, 2)
    monkeypatch.setenv("SLURM_STEP_NUM_NODES", "3")
    with pytest.raises(ConfigError, match="--ntasks-per-node"):
        launched()


def test_one_gpu_is_not_for_several_processes() -> None:
    with pytest.raises(ConfigError, match=r"device = cuda:1"), shared(2, "cuda:1", "run", "again"):
        pass


def pictures(folder: Path, count: int = 40) -> Path:
    """Noise of two sizes, in runs of some length."""
    folder.mkdir()
    generator = np.random.default_rng(0)
    for i in range(count):
        Image.fromarray(generator.integers(0, 256, (48 if i % 5 else 40, 56, 3), np.uint8)).save(
            folder / f"{i:03d}.png"
        )
    return folder


def contents(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in sorted(folder.iterdir()) if path.is_file()}


def mask_all(run: Path, images: Path, out: Path) -> None:
    torch.set_num_threads(1)
    with pytest.raises(UnreadableImages) as raised:
        api.predict(run, images, out=out, overlay=out.with_name("overlay"), quiet=True)
    assert [path.name for path in raised.value.broken] == ["bad.png"]  # known to all
    assert len(raised.value.written) == 40


@pytest.mark.slow
def test_predict_in_two_processes_is_predict_in_one(scaleproto_run: Path, tmp_path: Path) -> None:
    images = pictures(tmp_path / "images")
    (images / "bad.png").write_bytes(b"no picture")
    (tmp_path / "one").mkdir()
    (tmp_path / "two").mkdir()
    in_processes(2, mask_all, scaleproto_run, images, tmp_path / "two" / "masks")
    mask_all(scaleproto_run, images, tmp_path / "one" / "masks")
    for name in ("masks", "overlay"):
        one, two = (contents(tmp_path / folder / name) for folder in ("one", "two"))
        assert one.pop(".predict.json", None) is None or two.pop(".predict.json")
        assert len(one) == 40
        assert one == two


def test_an_interrupted_prediction_goes_on_with_the_same_masks(
    scaleproto_run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(together, "chunk_size", lambda count: 4)
    monkeypatch.setattr(predict_loop, "chunk_size", lambda count: 4)
    images, out = pictures(tmp_path / "images", 10), tmp_path / "masks"
    api.predict(scaleproto_run, images, out=out, quiet=True)
    whole = contents(out)
    with pytest.raises(ConfigError, match="made with flip = False"):
        api.predict(scaleproto_run, images, out=out, flip=True, resume=True, quiet=True)
    with pytest.raises(ConfigError, match="nothing there says"):
        api.predict(scaleproto_run, images, out=tmp_path / "other", resume=True, quiet=True)
    (out / "005.png").unlink()
    kept = (out / "004.png").stat().st_ino
    seen: list[str] = []
    read = predict_loop.look_at
    monkeypatch.setattr(predict_loop, "look_at", lambda image, *rest: seen.append(image.name) or read(image, *rest))
    api.predict(scaleproto_run, images, out=out, resume=True, quiet=True)
    assert contents(out) == whole
    assert (out / "004.png").stat().st_ino == kept
    assert sorted(seen) == ["004.png", "005.png", "006.png", "007.png"]  # those that share its batch
    model = segproto.load(scaleproto_run)
    with torch.no_grad():
        next(model.head.parameters()).mul_(2)
    with pytest.raises(ConfigError, match="are of another model"):
        api.predict(model, images, out=out, resume=True, quiet=True)


def test_masks_of_an_earlier_model_do_not_stay(scaleproto_run: Path, tmp_path: Path) -> None:
    images, out, model = pictures(tmp_path / "images", 3), tmp_path / "masks", segproto.load(scaleproto_run)
    api.predict(model, images, out=out, quiet=True)
    api.explain_folder(model, images, out=tmp_path / "why", quiet=True)
    earlier = contents(out)
    with torch.no_grad():
        model.head.readout.neg_()  # type: ignore[operator]
    for verb, folder in (("predict", out), ("explain", tmp_path / "why")):  # begun with another model, cut off at once
        settings = read_object(folder / f".{verb}.json", ConfigError, "")["settings"]
        keep_record(folder, verb, model, settings, resume=False)
    api.predict(model, images, out=out, resume=True, quiet=True)
    api.explain_folder(model, images, out=tmp_path / "why", resume=True, quiet=True)
    api.predict(model, images, out=tmp_path / "new", quiet=True)
    assert {name: out_of for name, out_of in contents(out).items() if name.endswith("png")} == {
        name: out_of for name, out_of in contents(tmp_path / "new").items() if name.endswith("png")
    }
    assert contents(out) != earlier
    record = (tmp_path / "why" / ".explain.json").stat().st_mtime_ns
    assert all(page.stat().st_mtime_ns >= record for page in (tmp_path / "why").rglob("index.html"))


def test_a_precision_is_that_of_the_network(scaleproto_run: Path, tmp_path: Path) -> None:
    images, model = pictures(tmp_path / "images", 2), segproto.load(scaleproto_run)
    found = {}
    for precision in ("32-true", "bf16-mixed", "auto"):
        (_, mask) = api.predict(model, images, out=tmp_path / precision, precision=precision, quiet=True)  # type: ignore[arg-type]
        found[precision] = np.asarray(Image.open(mask))
    full = model.predict(images / "001.png", as_numpy=True)
    with torch.autocast("cpu", torch.bfloat16):
        mixed = model.predict(images / "001.png", as_numpy=True)
    assert not np.array_equal(full, mixed)
    assert np.array_equal(found["32-true"], full)
    assert np.array_equal(found["auto"], full)
    assert np.array_equal(found["bf16-mixed"], mixed)
    with pytest.raises(ConfigError, match="16-mixed: needs a GPU"):
        api.predict(model, images, out=tmp_path / "half", precision="16-mixed", device="cpu", quiet=True)
    with pytest.raises(ConfigError, match="--precision fp16: expected one of auto, 32-true"):
        api.predict(model, images, out=tmp_path / "half", precision="fp16", quiet=True)  # type: ignore[arg-type]
    confusion = {}
    for precision in ("32-true", "bf16-mixed", "auto"):
        figures = api.evaluate(scaleproto_run, precision=precision, save=tmp_path / f"{precision}-masks", quiet=True)  # type: ignore[arg-type]
        confusion[precision] = figures["confusion"]
        assert figures["precision"] == (precision if precision != "auto" else "32-true")
        assert ("file" in figures) == (precision == "auto")
    assert confusion["auto"] == confusion["32-true"] != confusion["bf16-mixed"]


def test_convolutions_see_channels_side_by_side_while_masks_are_made(scaleproto_run: Path, tmp_path: Path) -> None:
    images, model = pictures(tmp_path / "images", 3), segproto.load(scaleproto_run)
    expected = [model.predict(image, as_numpy=True) for image in sorted(images.glob("*.png"))]
    weights = {key: (value.data_ptr(), value.stride()) for key, value in model.state_dict().items()}
    seen: list[bool] = []

    def look(module: torch.nn.Module, *_: object) -> None:
        if isinstance(module, torch.nn.Conv2d) and module.kernel_size[0] > 1 and module.in_channels > 1:
            seen.append(module.weight.is_contiguous(memory_format=torch.channels_last))

    hooks = [module.register_forward_hook(look) for module in model.modules()]
    masks = api.predict(model, images, out=tmp_path / "masks", quiet=True)
    assert len(seen) > 10
    validate(model, build_dataset(data_config(scaleproto_run, {}, ()), "val"))
    assert len(seen) > 20
    for hook in hooks:
        hook.remove()
    assert all(seen)
    assert weights == {key: (value.data_ptr(), value.stride()) for key, value in model.state_dict().items()}
    for mask, before in zip(masks, expected, strict=True):
        assert np.array_equal(np.asarray(Image.open(mask)), before)


def test_a_compiled_backbone_gives_the_same_masks(
    scaleproto_run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    images, model, compiling = pictures(tmp_path / "images", 2), segproto.load(scaleproto_run), []
    compile_it = torch.nn.Module.compile

    def eagerly(module: torch.nn.Module) -> None:
        compiling.append(module)
        compile_it(module, backend="eager")

    monkeypatch.setattr(torch.nn.Module, "compile", eagerly)
    masks = api.predict(model, images, out=tmp_path / "compiled", compiled=True, device="cpu", quiet=True)
    assert compiling == [model.encoder.backbone]
    assert model.encoder.backbone._compiled_call_impl is None
    plainly = api.predict(model, images, out=tmp_path / "plain", device="cpu", quiet=True)
    for one, other in zip(masks, plainly, strict=True):
        assert float(np.mean(np.asarray(Image.open(one)) == np.asarray(Image.open(other)))) > 0.999
    with pytest.raises(ConfigError, match="compiled"):
        api.predict(model, images, out=tmp_path / "compiled", resume=True, device="cpu", quiet=True)
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.delenv("CXX", raising=False)
    with pytest.raises(ConfigError, match=r"--compile: .* compiler"):
        api.predict(model, images, out=tmp_path / "none", compiled=True, device="cpu", quiet=True)


def test_images_of_one_size_go_through_the_network_together(scaleproto_run: Path, tmp_path: Path) -> None:
    model = segproto.load(scaleproto_run)
    images = pictures(tmp_path / "images", 12)
    batches: list[int] = []
    keep = model.encoder.register_forward_pre_hook(lambda module, inputs: batches.append(len(inputs[0])))
    files = sorted(images.iterdir())
    looks = [together.look(model, look_at(file), file, index // 8) for index, file in enumerate(files)]
    with evaluating(model):
        found = {
            one.key: torch.cat([logits.max(0)[1] for logits in bands])
            for one, bands in together.logits_of(model, looks)
        }
    keep.remove()
    assert batches == [1, 4, 1, 2, 2, 1, 1]  # every fifth has another size; chunks of 8
    for file in files:
        assert float((found[file] == model.predict(file)).float().mean()) > 0.99


def test_the_images_of_a_folder_are_explained(scaleproto_run: Path, tmp_path: Path, cli: Cli) -> None:
    images, out = pictures(tmp_path / "images", 3), tmp_path / "why"
    (images / "bad.png").write_bytes(b"no picture")
    answer = cli("explain", scaleproto_run, images, "--out", out, "-q")
    assert answer.code == 1
    assert "3 images explained" in answer.out
    assert "bad.png" in answer.err
    (images / "bad.png").unlink()
    alone = tmp_path / "alone"
    api.explain(scaleproto_run, images / "001.png", out=alone)
    assert contents(out / "001") == contents(alone)
    (out / "002" / "index.html").unlink()
    kept = (out / "001" / "index.html").stat().st_ino
    pages = api.explain_folder(scaleproto_run, images, out=out, resume=True, quiet=True)
    assert [page.parent.name for page in pages] == ["000", "001", "002"]
    assert all(page.is_file() for page in pages)
    assert (out / "001" / "index.html").stat().st_ino == kept
    assert "go with one image" in cli("explain", scaleproto_run, images, "--out", out, "--region", "0,0,9,9").err
