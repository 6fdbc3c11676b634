"""pixelcontrast as a whole: its products, bad input, and what the network gives."""

from __future__ import annotations

import json
import os
import weakref
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
import yaml
from PIL import Image
from torch.utils._python_dispatch import TorchDispatchMode

import segproto
from segproto.data.build import build_dataset
from segproto.encoders.config import EncoderConfig
from segproto.errors import ConfigError, DataError, WeightsError
from segproto.files import writing
from segproto.methods.pixelcontrast import METHOD, infer
from segproto.methods.pixelcontrast.build import build
from segproto.methods.pixelcontrast.config import CamsConfig, PixelcontrastRecipe
from segproto.methods.pixelcontrast.contrast import ContrastLoss
from segproto.methods.pixelcontrast.infer import image_cams
from segproto.methods.pixelcontrast.masks import MaskRule, image_mask
from segproto.methods.pixelcontrast.products import CAMS, ImageMaps, read_maps, read_scores, save_scores
from segproto.methods.pixelcontrast.steps import alike
from segproto.methods.pixelcontrast.tagged import with_affinity_labels, with_masks, without_masks
from segproto.model.cam_head import CamHead
from segproto.model.segmenter import Segmenter
from segproto.refine.affinity import cell_pairs
from segproto.refine.random_walk import dense_affinity
from segproto.report.steps import step_cases
from segproto.report.wording import warnings
from segproto.runs.catalogue import read_recipe
from segproto.training.procedures.steps import chosen_images, read_steps
from segproto.training.recipe import apply_overrides, validate_recipe
from segproto.training.runner import run

pytestmark = pytest.mark.precision

SMALL = [
    "data.scenes.size=48",
    "data.scenes.num_train=6",
    "data.scenes.num_val=2",
    "data.augment.crop=48",
    "encoder.width=4",
    "encoder.dim=8",
    "encoder.rates=[1,2]",
    "train.batch_size=3",
    "train.threads=1",
    "train.accelerator=cpu",
    "stages.contrast.steps=3",
    "stages.affinity.steps=2",
    "stages.segment.steps=2",
    "stages.masks.log_steps=3",
]


def recipe(*more: str, name: str = "scenes") -> PixelcontrastRecipe:
    value = apply_overrides(read_recipe(f"{METHOD.name}/{name}"), [*SMALL, *more])
    checked = validate_recipe(value, METHOD.recipe)
    assert isinstance(checked, PixelcontrastRecipe)
    return checked


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("pixelcontrast") / "run"
    run(METHOD, recipe(), out, quiet=True)
    return out


def result(out: Path, stage: str) -> dict[str, Any]:
    value: dict[str, Any] = json.loads((out / "stages" / stage / "result.json").read_text())
    return value


def test_every_product_is_there_and_scored(finished: Path) -> None:
    dataset = build_dataset(recipe().data, "train")
    assert len(result(finished, "cams")["curve"]) == 60
    for stage in ("cams", "crf"):  # 6 images have maps; "images" are those of the validation beside it
        assert (result(finished, stage)["train_images"], result(finished, stage)["images"]) == (6, 2)
    assert 0 <= result(finished, "cams")["cam_miou"] <= 1
    for index, name in enumerate(dataset.names):
        size = tuple(dataset[index].mask.shape)
        cams = read_scores(finished / "stages/cams/maps" / f"{name}.npz")
        present = [c for c in dataset[index].mask.unique().tolist() if c not in (0, 255)]
        assert cams["classes"].tolist() == present
        assert cams["maps"].shape == (len(present), *size)
        assert cams["maps"].dtype == torch.float16
        assert float(cams["maps"].float().amin()) >= 0
        assert float(cams["maps"].float().amax()) <= 1
        scores = read_scores(finished / "stages/crf/scores" / f"{name}.npz")
        assert scores["low"].shape == scores["high"].shape == (len(present) + 1, *size)
        mask = np.asarray(Image.open(finished / "masks/labels" / f"{name}.png"))
        assert mask.shape == size
        assert set(np.unique(mask)) <= {0, *present}
        assert list((finished / "masks/images").glob(f"{name}.*"))
    assert result(finished, "masks")["mask_miou"] is not None
    assert (finished / "masks/classes.yaml").is_file()
    assert isinstance(Segmenter.load(finished / "stages" / "cams").head, CamHead)


def test_damaged_maps_are_named_and_made_again(finished: Path, tmp_path: Path) -> None:
    whole = next((finished / "stages/cams/maps").glob("*.npz"))
    broken = tmp_path / "a.npz"
    broken.write_bytes(whole.read_bytes()[:-200])
    with pytest.raises(DataError, match=r"a\.npz: not a readable npz .* delete it"):
        read_scores(broken)
    save_scores({"classes": torch.ones(2, dtype=torch.uint8), "maps": torch.rand(2, 9, 9)}, broken)
    small = broken.read_bytes()
    for place in range(len(small)):  # nothing but DataError gets through, whatever byte a crash has changed
        damaged = bytearray(small)
        damaged[place] ^= 0x55
        broken.write_bytes(damaged)
        with suppress(DataError):
            read_scores(broken)
    with pytest.raises(DataError, match=r"b\.npz: no such file; run the stage"):
        read_scores(tmp_path / "b.npz")
    np.savez(tmp_path / "c.npz", other=np.zeros(3))
    with pytest.raises(DataError, match="expected classes and maps"):
        read_scores(tmp_path / "c.npz")
    np.save(tmp_path / "d.npz", np.array({"a": 1}, dtype=object), allow_pickle=True)
    with pytest.raises(DataError):
        read_scores(next(tmp_path.glob("d.npz*")))


def test_a_half_written_file_is_named_and_made_again(
    finished: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """A run that is taken up after a crash trusts no file that cannot be read, and keeps those that can."""
    short, names = recipe("train.stages=[contrast, cams]"), build_dataset(recipe().data, "train").names
    folder, out = tmp_path / "run" / CAMS, tmp_path / "run"

    def crash(*_: object) -> dict[str, Any]:
        raise RuntimeError("power cut")

    with monkeypatch.context() as patch:
        patch.setattr(infer, "cam_figures", crash)
        with pytest.raises(RuntimeError, match="power cut"):
            run(METHOD, short, out, quiet=True)
    half, kept = folder / f"{names[0]}.npz", folder / f"{names[1]}.npz"
    half.write_bytes(half.read_bytes()[:-100])
    (folder / ".segproto-77.part").write_bytes(b"PK")
    writing._swept.clear()  # as in a new process
    before = kept.stat().st_mtime_ns
    run(METHOD, short, out, resume=True, quiet=True)
    assert f"{half}: not a readable npz" in caplog.text
    assert "it is made again" in caplog.text
    assert kept.stat().st_mtime_ns == before
    assert not list(folder.glob(".*"))
    for name in names[:3]:
        again, first = read_scores(folder / f"{name}.npz"), read_scores(finished / CAMS / f"{name}.npz")
        assert torch.equal(again["maps"], first["maps"])


def test_maps_of_another_size_are_named(tmp_path: Path) -> None:
    sample = build_dataset(recipe().data, "train")[0]
    path = tmp_path / f"{sample.name}.npz"
    save_scores({"classes": torch.ones(1, dtype=torch.uint8), "maps": torch.ones(1, 40, 48)}, path)
    with pytest.raises(DataError, match=r"maps of 48x40, the image is 48x48 .* delete it and run the stage"):
        read_maps(tmp_path, sample)
    save_scores({"classes": torch.ones(2, dtype=torch.uint8), "maps": torch.ones(1, 48, 48)}, path)
    with pytest.raises(DataError, match="no map of a class"):
        read_maps(tmp_path, sample)


def test_tags_that_cannot_be_used_stop_the_run(tmp_path: Path) -> None:
    """An image without a tag, a tag that is no class: named before anything is trained."""
    names, tags = build_dataset(recipe().data, "train").names, tmp_path / "tags.csv"
    for last, message in (("", f"'{names[-1]}' has no tag"), ("hose", "'hose' is no class; did you mean 'house'")):
        tags.write_text("".join(f"{name},house\n" for name in names[:-1]) + f"{names[-1]},{last}\n")
        with pytest.raises(DataError, match=message):
            run(METHOD, recipe(f"tags={tags}"), tmp_path / (last or "none"), quiet=True)
    tags.write_text("".join(f"{name},background\n" for name in names))
    with pytest.raises(DataError, match="no training image has a tag"):
        run(METHOD, recipe(f"tags={tags}"), tmp_path / "background", quiet=True)


def test_images_with_tags_alone(tmp_path: Path) -> None:
    """No folder of masks at all: every image trains and nothing is scored; without tags, or with another method, no."""
    scenes = build_dataset(recipe().data, "train")
    root, names = tmp_path / "photos", scenes.classes.names
    (root / "images").mkdir(parents=True)
    for index, name in enumerate(scenes.names):
        Image.fromarray(scenes[index].image.permute(1, 2, 0).numpy()).save(root / "images" / f"{name}.png")
    (root / "classes.yaml").write_text(yaml.safe_dump({"classes": list(names)}))
    (root / "tags.csv").write_text("".join(f"{name}.png,{names[1 + i % 2]}\n" for i, name in enumerate(scenes.names)))
    data = f"data={{name: folder, root: {root}, labels: null, augment: {{crop: 48}}}}"
    more = [setting for setting in SMALL if not setting.startswith("data.")]
    value = apply_overrides({**read_recipe(f"{METHOD.name}/scenes"), "data": {}}, [*more, data])
    with pytest.raises(DataError, match="mask is void everywhere, so the image has no tag"):
        run(METHOD, validate_recipe(value, METHOD.recipe), tmp_path / "untagged", quiet=True)
    value["tags"] = str(root / "tags.csv")
    done = run(METHOD, validate_recipe(value, METHOD.recipe), tmp_path / "run", quiet=True)
    assert {path.stem for path in (tmp_path / "run/masks/labels").iterdir()} == set(scenes.names)
    assert not {"cam_miou", "mask_miou", "miou"} & {key for stage in done.stages.values() for key in stage}
    assert read_steps(tmp_path / "run/stages/masks/steps")[1].keys() <= set(scenes.names)
    with pytest.raises(DataError, match=r"its images have no masks: nothing to score; name images that have"):
        segproto.evaluate(tmp_path / "run", quiet=True)
    html = segproto.write_report(tmp_path / "run", out=tmp_path / "page.html").read_text()
    assert "not scored: its images have no masks" in html
    assert "not trained on" not in html
    assert "Truth</button>" not in html
    report = segproto.data_verify(overrides=["data.name=folder", f"data.root={root}", "data.labels=null"], quiet=True)
    assert (report["problems"], report["counts"]) == ([], {"train": 6})
    assert report["notes"] == ["data.labels = null: there are no masks, the images alone were checked"]
    (root / "images/broken.png").write_bytes(b"no image")
    report = segproto.data_verify(overrides=["data.name=folder", f"data.root={root}", "data.labels=null"], quiet=True)
    assert len(report["problems"]) == 1
    with pytest.raises(ConfigError, match=r"is for methods that learn from tags; scaleproto needs data\.labels"):
        segproto.train(
            "scaleproto/folder", out=tmp_path / "other", overrides=[data, "train.cache_features=false"], quiet=True
        )


def test_the_report_shows_every_step(finished: Path) -> None:
    steps, images = read_steps(finished / "stages/masks/steps")
    assert [s.key for s in steps] == ["maps", "cut", "sure", "links", "walk", "mask"]
    names = build_dataset(recipe().data, "train").names
    assert list(images) == [names[0], names[1], names[3], names[4]]
    for name, pictures in images.items():
        sample = build_dataset(recipe().data, "train")[names.index(name)]
        assert torch.equal(pictures["truth"], sample.mask)
        left = torch.from_numpy(np.array(Image.open(finished / "masks/labels" / f"{name}.png")))
        assert torch.equal(pictures["mask"], left)
        cams = read_scores(finished / CAMS / f"{name}.npz")
        torch.testing.assert_close(pictures["maps"], cams["maps"].amax(0))
        best = cams["classes"][cams["maps"].float().argmax(0)]
        threshold = result(finished, "cams")["cam_threshold"]
        assert torch.equal(pictures["cut"], torch.where(cams["maps"].float().amax(0) > threshold, best, 0))
    classes = Segmenter.load(finished).classes
    item = step_cases(finished, classes)[1]
    truth, mask = images[names[1]]["truth"].numpy(), images[names[1]]["mask"].numpy()
    seen = np.union1d(truth, mask)
    iou = [((truth == c) & (mask == c)).sum() / ((truth == c) | (mask == c)).sum() for c in seen]
    assert item["steps"][-1]["iou"] == pytest.approx(np.mean(iou))
    walk = images[names[1]]["walk"].numpy()
    moved = item["steps"][-1]["change"]
    assert moved["better"] == pytest.approx(((walk != truth) & (mask == truth)).mean())
    assert moved["worse"] == pytest.approx(((walk == truth) & (mask != truth)).mean())
    html = segproto.write_report(finished, out=finished / "page.html").read_text()
    assert 'id="steps"' in html
    assert "not trained on" in html
    assert "Truth</button>" in html
    assert html.count('class="steps"') == 4
    assert f"<b>{100 * result(finished, 'masks')['mask_miou']:.1f}<small> %</small></b><span>mIoU of the masks" in html
    assert "once a tag says" not in html
    assert "once a tag says" in warnings(Segmenter.load(finished / "stages/cams/model"))[0]


def test_a_walk_over_affinities_learnt_elsewhere(tmp_path: Path) -> None:
    """Such a run has no scores after a CRF, and shows no step of them.

    A model makes its maps anew, and training affinities moves the encoder and so the maps, unless it may not: then the
    walk is the very one of the run that learnt the affinities.
    """
    unmoved = ["stages.affinity.lr={backbone: 0, neck: 0, head: 0.1}", "stages.affinity.norms=frozen"]
    walk = ["stages.masks.beta=100", "stages.masks.log_steps=0", "stages.masks.crf=null"]
    first, again = tmp_path / "first", tmp_path / "again"
    run(METHOD, recipe(*unmoved, *walk, "stages.segment.steps=0"), first, quiet=True)
    start = f"train.start={first / 'stages/affinity/model'}"
    run(METHOD, recipe(*walk, start, "train.stages=[cams, masks]"), again, quiet=True)
    (shown, pictures), (own_steps, own) = (read_steps(out / "stages/masks/steps") for out in (again, first))
    assert [step.key for step in own_steps] == ["maps", "cut", "sure", "links", "walk"]
    assert [step.key for step in shown] == ["maps", "cut", "links", "walk"]
    for name, actual in pictures.items():
        for key, picture in actual.items():
            assert torch.equal(picture, own[name][key]), (name, key)
    masks = [
        [np.asarray(Image.open(path)) for path in sorted((out / "masks/labels").iterdir())] for out in (again, first)
    ]
    assert all(np.array_equal(*pair) for pair in zip(*masks, strict=True))
    assert max(len(np.unique(mask)) for mask in masks[0]) > 1  # masks of one class would be alike whatever was learnt


def test_a_walk_over_affinities_nobody_learnt(finished: Path, tmp_path: Path) -> None:
    """A model that was only started, or that learnt the maps alone, is refused before anything is done."""
    walk = "train.stages=[cams, masks]"
    for stage in ("contrast", "cams"):
        start = f"train.start={finished / 'stages' / stage / 'model'}"
        with pytest.raises(
            WeightsError, match=rf"no affinities were trained in that model \(its last stage: {stage}\)"
        ):
            run(METHOD, recipe(start, walk), tmp_path / "run", quiet=True)
        assert not (tmp_path / "run").exists()
    given = recipe(f"train.start={finished / 'stages/cams/model'}", "train.stages=[masks]", "stages.masks.walk=false")
    METHOD.stages(given)
    METHOD.stages(recipe(f"train.start={finished / 'stages/masks/model'}", walk))
    METHOD.stages(recipe(f"train.start={tmp_path / 'gone'}", walk))  # a resumed run needs it no more
    with pytest.raises(WeightsError, match="its last stage: segment"):
        METHOD.stages(recipe(f"train.start={finished}", walk))
    out = tmp_path / "plain"
    run(METHOD, recipe("stages.affinity.steps=0", "stages.masks.walk=false", "stages.segment.steps=0"), out, quiet=True)
    with pytest.raises(WeightsError, match="its last stage: masks"):
        METHOD.stages(recipe(f"train.start={out}", walk))


def test_chosen_images() -> None:
    names = ["a", "b", "c", "d"]
    assert chosen_images(names, 2) == [0, 2]
    assert chosen_images(names, 9) == [0, 1, 2, 3]
    assert chosen_images(names, 0) == []
    assert chosen_images(names, ["c"]) == [2]
    with pytest.raises(ConfigError, match="no training image is named 'x'"):
        chosen_images(names, ["x"])


def test_mean_affinity_of_a_cell() -> None:
    g = torch.Generator().manual_seed(0)
    pairs = cell_pairs(4, 5, 3)
    values = torch.rand(1, len(pairs), generator=g)
    dense = dense_affinity(values[0], pairs)
    there = (dense > 0).float() - torch.eye(20)
    expected = (dense * there).sum(1) / there.sum(1)
    torch.testing.assert_close(alike(values, pairs).flatten(), expected)


def test_products_of_another_size_are_named(tmp_path: Path) -> None:
    dataset = build_dataset(recipe().data, "train")
    name = dataset.names[0]
    wrong = {"classes": torch.zeros(1, dtype=torch.uint8), "low": torch.ones(1, 40, 48), "high": torch.ones(1, 40, 48)}
    save_scores(wrong, tmp_path / f"{name}.npz")
    with pytest.raises(DataError, match="the image is 48x48, what was made of it is 48x40"):
        with_affinity_labels(dataset, tmp_path)[0]
    Image.fromarray(np.zeros((48, 20), np.uint8)).save(tmp_path / f"{name}.png")
    with pytest.raises(DataError, match="is 20x48"):
        with_masks(dataset, tmp_path)[0]


def test_no_label_reaches_the_first_stages(tmp_path: Path) -> None:
    dataset = build_dataset(recipe().data, "train")
    assert (without_masks(dataset, None)[0].mask == 255).all()
    for name in dataset.names[:-1]:
        Image.fromarray(np.full((48, 48), 128, np.uint8)).save(tmp_path / f"{name}.png")
    with pytest.raises(DataError, match=rf"saliency map of '{dataset.names[-1]}' is missing, 1 of 6 are"):
        without_masks(dataset, tmp_path)  # before the first batch, not when its turn comes
    Image.fromarray(np.full((40, 48), 128, np.uint8)).save(tmp_path / f"{dataset.names[-1]}.png")
    with pytest.raises(DataError, match="the image is 48x48, what was made of it is 48x40"):
        without_masks(dataset, tmp_path)[5]
    assert set(without_masks(dataset, tmp_path)[0].mask.unique().tolist()) == {round(128 * 254 / 255)}


def model_of(r: PixelcontrastRecipe) -> Segmenter:
    torch.manual_seed(0)
    return build(r, build_dataset(r.data, "train").classes).eval()


def test_maps_of_one_scale_are_the_heads_own() -> None:
    r = recipe()
    model, sample = model_of(r), build_dataset(r.data, "train")[0]
    with torch.no_grad():
        got = image_cams(model, sample.image, [2, 5], CamsConfig(scales=[1.0]))
        x = model.encoder.normalisation(sample.image)[None]
        head = model.head
        assert isinstance(head, CamHead)
        total = model.upsample(head.maps(model.features(x)).refined, (48, 48))
        total = total + model.upsample(head.maps(model.features(x.flip(3))).refined, (48, 48)).flip(3)
        total = total[0, [2, 5]].relu()
        low, high = total.amin((1, 2), keepdim=True), total.amax((1, 2), keepdim=True)
        expected = ((total - low - 1e-5) / (high - low + 1e-5)).clamp_min(0)
    torch.testing.assert_close(got, expected, atol=1e-5, rtol=0)
    assert image_cams(model, sample.image, [], CamsConfig()).shape == (0, 48, 48)


@pytest.mark.parametrize("source", ["refined", "raw"])
def test_a_tagged_class_that_no_map_shows_keeps_its_best_pixels(source: str) -> None:
    """Class 3 is denied everywhere (negative raw maps), class 4 beaten by class 2 everywhere; published: both lost."""
    r = recipe()
    model, sample = model_of(r), build_dataset(r.data, "train")[0]
    head = model.head
    assert isinstance(head, CamHead)

    def scored(lost: str) -> torch.Tensor:
        config = CamsConfig(scales=[1.0], source=source, lost=lost)  # type: ignore[arg-type]
        return image_cams(model, sample.image, [2, 3, 4], config)

    with torch.no_grad():
        head.classifier.weight[2] = (head.classifier.weight[2].abs() + 1) / 1000  # features are >= 0
        head.classifier.weight[3] = -head.classifier.weight[3].abs()
        head.classifier.weight[4] = head.classifier.weight[2] / 2
        x = model.encoder.normalisation(sample.image)[None]
        maps, mirrored = (head.maps(model.features(v)).cam for v in (x, x.flip(3)))
        total = (model.upsample(maps, (48, 48)) + model.upsample(mirrored, (48, 48)).flip(3))[0, 2:5]
        kept, published = scored("mean"), scored("empty")
    assert float(total[1].amax()) < 0
    assert float(total[2].amin()) >= 0
    assert not published[1].any()
    assert bool(published[2].any()) == (source == "raw")
    wanted = total.clone()
    wanted[1] = (total[1] - total[1].mean()).relu()
    low, high = wanted.amin((1, 2), keepdim=True), wanted.amax((1, 2), keepdim=True)
    wanted = ((wanted - low - 1e-5) / (high - low + 1e-5)).clamp_min(0)
    torch.testing.assert_close(kept[1:], wanted[1:], atol=1e-4, rtol=0)
    torch.testing.assert_close(kept[0], published[0])


class Alive(TorchDispatchMode):
    """Bytes of the maps of ``classes`` channels that live at the same time, at most."""

    def __init__(self, classes: int) -> None:
        super().__init__()
        self.classes, self.most = classes, 0
        self.seen: list[Any] = []

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        out = func(*args, **(kwargs or {}))
        if isinstance(out, torch.Tensor):
            self.seen.append(weakref.ref(out))
        tensors = [t for t in (ref() for ref in self.seen) if t is not None]
        self.seen = [weakref.ref(t) for t in tensors]
        maps = {t.untyped_storage().data_ptr(): t for t in tensors if t.ndim >= 3 and t.shape[-3] == self.classes}
        self.most = max(self.most, sum(t.untyped_storage().nbytes() for t in maps.values()))
        return out


@pytest.mark.parametrize("source", ["refined", "softmax"])
def test_maps_of_larger_scales_are_summed_in_two_copies(source: str) -> None:
    """As upsampled to the scaled image and from there to the image, without ever holding more than two full maps."""
    r, scales, classes = recipe(), [0.5, 1.0, 1.7, 2.0], [1, 2, 3, 4, 5]
    model, image = model_of(r), torch.randint(0, 256, (3, 45, 70), dtype=torch.uint8)
    head = model.head
    assert isinstance(head, CamHead)
    config = CamsConfig(scales=scales, source=source, lost="empty")  # type: ignore[arg-type]
    with torch.no_grad():
        total = torch.zeros(5, 45, 70)
        for scale in scales:
            size = (round(45 * scale), round(70 * scale))
            x = model.encoder.normalisation(image)[None]
            if size != (45, 70):
                x = F.interpolate(x, size=size, mode="bicubic", align_corners=False, antialias=True)
            for turned in (False, True):
                maps = head.maps(model.features(x.flip(3) if turned else x))
                grid = maps.refined if source == "refined" else maps.cam.softmax(1)
                full = F.interpolate(model.upsample(grid[:, classes], size), size=(45, 70), mode="bilinear")[0]
                total += full.flip(2) if turned else full
        with Alive(5) as alive:
            got = image_cams(model, image, classes, config)
    # beside them both grids, which hold these classes alone, too: a third of a copy at scale 2 and stride 4
    assert alive.most <= 2.5 * total.nbytes
    low, high = total.amin((1, 2), keepdim=True), total.amax((1, 2), keepdim=True)
    expected = total / (high + 1e-5) if source == "softmax" else (total - low - 1e-5) / (high - low + 1e-5)
    torch.testing.assert_close(got, expected.clamp_min(0), atol=2e-5, rtol=0)


def test_an_image_without_tags_is_background() -> None:
    r = recipe()
    cams = ImageMaps(torch.zeros(0, dtype=torch.uint8), torch.zeros(0, 48, 48))
    mask = image_mask(model_of(r), torch.zeros(3, 48, 48, dtype=torch.uint8), cams, MaskRule.of(r.stages))
    assert mask.dtype == torch.uint8
    assert not mask.any()


def test_a_mask_without_walk_and_crf_is_the_threshold() -> None:
    r = recipe("stages.masks.walk=false", "stages.masks.crf=null", "stages.masks.background=0.3")
    g = torch.Generator().manual_seed(0)
    maps = torch.rand(2, 48, 48, generator=g)
    cams = ImageMaps(torch.tensor([3, 5], dtype=torch.uint8), maps)
    mask = image_mask(model_of(r), torch.zeros(3, 48, 48, dtype=torch.uint8), cams, MaskRule.of(r.stages))
    best = torch.where(maps[1] > maps[0], 5, 3)
    assert torch.equal(mask.long(), torch.where(maps.amax(0) > 0.3, best, 0))


def test_pixel_correlation_gives_the_encoder_no_gradient() -> None:
    head = CamHead(6, 4)
    features = torch.rand(2, 6, 5, 5, requires_grad=True)
    head.maps(features).refined.sum().backward()
    assert features.grad is None or not features.grad.any()
    assert head.correlate.weight.grad is not None
    assert head.reduce.weight.grad is not None


def test_head_keeps_its_structure() -> None:
    head = CamHead(6, 4, dim=16, affinity_dim=8, background=0.2)
    again = CamHead.from_description(head.describe())
    again.load_state_dict(head.state_dict())
    x = torch.rand(1, 6, 7, 9)
    assert torch.equal(head(x), again(x))
    assert head(x).shape == (1, 4, 7, 9)
    own = head.trained_for(True)
    assert {id(p) for p in own} | {id(p) for p in head.trained_for(False)} == {id(p) for p in head.parameters()}
    cells = torch.rand(5, 6)
    shares = head.contributions(cells, torch.tensor([0, 1, 2, 3, 0]))
    raw = F.conv2d(cells[..., None, None], head.classifier.weight).flatten(1)
    torch.testing.assert_close(shares.prototypes.sum(1), raw[torch.arange(5), torch.tensor([0, 1, 2, 3, 0])])


def test_a_head_believes_in_a_class_as_it_was_taught_to() -> None:
    """One cell in four speaks for class 2: enough where the strongest quarter is pooled, too little among all cells."""
    head = CamHead(4, 3, dim=2, affinity_dim=2)
    with torch.no_grad():
        head.classifier.weight.zero_()
        head.classifier.weight[1, 0], head.classifier.weight[2, 1], head.classifier.weight[2, 2] = 1, 1, -1
    features = torch.zeros(1, 4, 4, 4)
    features[:, 0] = 0.5
    features[:, 2] = 1
    features[:, 1, :2, :2] = 3
    assert not (head(features)[0, 2] > 0).any()
    pooled = CamHead.from_description(head.describe() | {"pooled": 0.25})
    pooled.load_state_dict(head.state_dict())
    assert (pooled(features)[0, 2] > 0).any()
    assert CamHead.from_description(pooled.describe()).pooled == 0.25
    r = recipe("stages.contrast.pooled=0.25")
    model, stage = model_of(r), METHOD.stages(r)[0]
    stage.begin(model)  # type: ignore[union-attr, misc]
    assert model.head.pooled == 0.25  # type: ignore[union-attr]


def test_loss_terms(tmp_path: Path) -> None:
    from segproto.data.batch import Batch

    for more, terms in (((), {"cross_prototype", "cross_cam", "intra"}), (("stages.contrast.contrast=0",), set())):
        r = recipe(*more)
        loss, model = ContrastLoss(r.stages.contrast, r.tags), model_of(r)
        dataset = loss.prepare(build_dataset(r.data, "train"), tmp_path)
        image = model.encoder.normalisation(dataset[0].image)[None]
        batch = Batch(masks=dataset[0].mask.long()[None], images=image, names=(dataset.names[0],))
        losses = loss(model, batch)
        assert losses.keys() == {"loss", "tags", "er", "ecr"} | terms
        total = losses["tags"] + losses["er"] + losses["ecr"] + 0.1 * sum(losses[t] for t in terms)
        torch.testing.assert_close(losses["loss"], total)
        losses["loss"].backward()
        assert all(torch.isfinite(p.grad).all() for p in model.parameters() if p.grad is not None)


def test_settings_that_cannot_work_are_refused() -> None:
    for bad, message in (
        ("train.cache_features=true", "two views"),
        ("stages.contrast.lr={backbone: 0, neck: 0, head: 0}", "learning rate above 0"),
        ("stages.masks.beta=0", "beta"),
        ("stages.affinity.steps=0", "no affinities are learnt to walk over"),
        ("train.stages=[contrast, cams, masks]", "no affinities are learnt to walk over"),
    ):
        with pytest.raises(ConfigError, match=message):
            recipe(bad)


@pytest.mark.parametrize(
    ("method", "kind"), [("scaleproto", "grouped"), ("protoseg", "prototype"), ("nonparametric", "nearest")]
)
def test_an_interpretable_model_follows(method: str, kind: str, tmp_path: Path) -> None:
    """``then``: the masks made from tags train another method, in the same command."""
    value = read_recipe(f"{method}/scenes")
    value = apply_overrides(value, [s for s in SMALL if s.startswith(("encoder.", "train."))])
    value["data"] = {"augment": {"crop": 48}}
    if method == "nonparametric":
        value.setdefault("model", {})["score_norm"] = "scale"  # two classes are left in these masks
    for stage in value["stages"].values():
        if "steps" in stage:
            stage["steps"] = 2
    (tmp_path / "after.yaml").write_text(yaml.safe_dump(value))
    settings = [*SMALL, "stages.segment.steps=0", "stages.masks.background=0.3", f"then={tmp_path / 'after.yaml'}"]
    segproto.train("pixelcontrast/scenes", out=tmp_path / "run", overrides=settings, quiet=True)
    model = Segmenter.load(tmp_path / "run" / "then")
    names = [c["name"] for c in yaml.safe_load((tmp_path / "run/masks/classes.yaml").read_text())["classes"]]
    assert list(model.classes.names) == names
    assert model.head.kind == kind
    image = build_dataset(recipe().data, "val")[0].image
    explanation = segproto.explain(tmp_path / "run" / "then", image.permute(1, 2, 0).numpy())
    assert explanation.prediction.shape == (48, 48)


@pytest.mark.parametrize("encoder", [{"backbone": "vit_tiny_patch16_224"}, {"backbone": "mobilenetv2_100"}])
def test_any_timm_backbone(encoder: dict[str, Any]) -> None:
    from segproto.data.base import ClassTable
    from segproto.data.palette import default_colours

    r = recipe()
    config = EncoderConfig(name="timm", neck="identity", squash="none", **encoder)
    model = build(r.model_copy(update={"encoder": config}), ClassTable(("bg", "a", "b"), default_colours(3))).eval()
    with torch.no_grad():
        cams = image_cams(model, torch.randint(0, 256, (3, 50, 70), dtype=torch.uint8), [1, 2], CamsConfig(scales=[1]))
    assert cams.shape == (2, 50, 70)
    assert torch.isfinite(cams).all()


@pytest.mark.slow
@pytest.mark.data
@pytest.mark.skipif("SEGPROTO_DATA" not in os.environ, reason="SEGPROTO_DATA is not set")
def test_from_24_tagged_scenes_to_scored_masks(tmp_path: Path) -> None:
    """The masks of 24 scenes, of which only tags are known, gain at least 5 points over the maps without contrast.

    Measured: docs/lab-notebook.md.
    """
    few = f"{METHOD.name}/scenes-few"
    weights = "encoder.weights=$SEGPROTO_DATA/weights/vit_tiny_patch16_224_in1k.safetensors"

    def stages(folder: str, *settings: str) -> dict[str, dict[str, Any]]:
        value = apply_overrides(read_recipe(few), [weights, "train.accelerator=cpu", "train.threads=1", *settings])
        return run(METHOD, validate_recipe(value, METHOD.recipe), tmp_path / folder, quiet=True).stages

    alone = stages("baseline", "stages.contrast.contrast=0", "train.stages=[contrast,cams]")
    masks = stages("masks")
    assert masks["cams"]["train_images"] == 24
    gained = masks["masks"]["mask_miou"] - alone["cams"]["cam_miou"]
    assert gained >= 0.05, (alone["cams"]["cam_miou"], masks["masks"]["mask_miou"])


@pytest.mark.slow
def test_from_tags_to_scored_masks(tmp_path: Path) -> None:
    """The masks of 24 scenes gain at least 5 points over the maps of the network without contrast, at their best.

    A first run learns the tags of 512 scenes, the 24 among them; nothing else is known of any. Measured: 34.6 and 40.5.
    """
    one = f"{METHOD.name}/scenes-one"

    def stages(folder: str, *settings: str) -> dict[str, dict[str, Any]]:
        value = apply_overrides(
            read_recipe(one), ["train.accelerator=cpu", "train.threads=1", "data.scenes.num_val=8", *settings]
        )
        return run(METHOD, validate_recipe(value, METHOD.recipe), tmp_path / folder, quiet=True).stages

    stages("tags", "train.stages=[contrast]")
    start = ("data.scenes.num_train=24", f"train.start={tmp_path / 'tags/stages/contrast/model'}")
    baseline = stages("baseline", *start, "train.stages=[cams]")["cams"]["cam_miou"]
    more = "{steps: 20, contrast: 0.1, er: 1, ecr: 1, lr: {backbone: 5e-4, neck: 5e-4, head: 1e-3}}"
    masks = stages("masks", *start, f"stages.contrast={more}")["masks"]["mask_miou"]
    assert masks >= baseline + 0.05, (baseline, masks)


def test_later_settings_from_the_products_of_an_earlier_run(finished: Path, tmp_path: Path) -> None:
    """The same masks, bit for bit, though no map is made; and the same scores to learn affinities from."""
    given = [f"stages.cams.given={finished / CAMS}", f"train.start={finished}/stages/affinity/model"]
    run(METHOD, recipe(*given, "train.stages=[cams,masks]", "stages.masks.shown=0"), tmp_path / "a", quiet=True)
    for file in sorted((finished / "masks/labels").iterdir()):
        assert (tmp_path / "a/masks/labels" / file.name).read_bytes() == file.read_bytes()
    scores = finished / "stages/crf/scores"
    given = [
        f"stages.cams.given={finished / CAMS}",
        f"stages.crf.given_low={scores}",
        f"stages.crf.given_high={scores}",
    ]
    start = [f"train.start={finished}/stages/contrast/model", "train.stages=[cams,crf]"]
    run(METHOD, recipe(*given, *start), tmp_path / "b", quiet=True)
    for file in sorted(scores.iterdir()):
        first, second = read_scores(file), read_scores(tmp_path / "b/stages/crf/scores" / file.name)
        assert all(torch.equal(first[key], second[key]) for key in first)
    with pytest.raises(DataError, match="holds classes, low, high; expected maps"):
        run(METHOD, recipe(f"stages.cams.given={scores}", *start), tmp_path / "c", quiet=True)
    assert not (tmp_path / "c" / "recipe.yaml").exists()


def test_a_refused_run_leaves_its_folder_free(tmp_path: Path) -> None:
    names, out, tags = build_dataset(recipe().data, "train").names, tmp_path / "out", tmp_path / "tags.csv"
    settings = [f"tags={tags}", "train.stages=[contrast]", "stages.contrast.steps=1"]
    tags.write_text("\n".join(f"{name},hose" for name in names))
    with pytest.raises(DataError, match="'hose' is no class"):
        run(METHOD, recipe(*settings), out, quiet=True)
    assert not out.exists()
    tags.write_text("\n".join(f"{name},sky;{'house' if i else 'ground'}" for i, name in enumerate(names)))
    run(METHOD, recipe(*settings, "train.stages=[contrast,cams]"), out, quiet=True)  # one shows the background alone
    assert len(read_scores(out / CAMS / f"{names[0]}.npz")["classes"]) == 0


def test_backgrounds_from_the_maps_alone(finished: Path, tmp_path: Path) -> None:
    """``auto``: the background crosses the maps where Otsu's rule cuts them, whatever the true masks."""
    maps = [read_scores(file)["maps"].float() for file in sorted((finished / CAMS).iterdir())]
    values = torch.cat([m.amax(0).flatten() for m in maps if len(m)]).tolist()
    cut = result(finished, "cams")["otsu_threshold"]
    low, high = ([v for v in values if (v > cut) is side] for side in (False, True))
    apart = len(low) * len(high) * (np.mean(low) - np.mean(high)) ** 2
    for other in (cut - 0.05, cut + 0.05):
        one, two = ([v for v in values if (v > other) is side] for side in (False, True))
        assert not (one and two) or len(one) * len(two) * (np.mean(one) - np.mean(two)) ** 2 < apart
    alpha = np.log(cut) / np.log(1 - cut)
    given = [f"stages.cams.given={finished / CAMS}", f"train.start={finished}/stages/contrast/model"]
    stages = [*given, "train.stages=[cams,crf,affinity,masks]", "stages.masks.shown=1"]
    for name, (low_alpha, high_alpha, own) in {
        "auto": ("auto", "auto", "auto"),
        "same": (0.8 * alpha, 4 * alpha, alpha),
    }.items():
        settings = [f"stages.crf.low={low_alpha}", f"stages.crf.high={high_alpha}", f"stages.masks.alpha={own}"]
        run(METHOD, recipe(*stages, *settings), tmp_path / name, quiet=True)
    for file in sorted((tmp_path / "same/masks/labels").iterdir()):
        assert (tmp_path / "auto/masks/labels" / file.name).read_bytes() == file.read_bytes()
    told = result(tmp_path / "auto", "masks")
    assert told["alpha"] == pytest.approx(alpha)
    assert f"where Otsu's rule cuts the maps, at {cut:.2f}: no mask was looked at" in told["words"]
    assert "Otsu" not in result(tmp_path / "same", "masks")["words"]
    with pytest.raises(ConfigError, match=r"stages\.masks\.alpha"):
        recipe("stages.masks.alpha=best")
    assert recipe(name="folder").stages.masks.alpha == "auto"
