"""primaps end to end on small images: what each stage leaves, matching, resume, processes, label-free folders."""

from __future__ import annotations

import json
import socket
from pathlib import Path
from typing import Any

import pytest
import tiny_segmenters
import torch
import torch.nn.functional as F
import yaml
from PIL import Image
from training_tiny import as_rank, process_context

import segproto
from segproto.data.base import ClassTable
from segproto.data.build import build_dataset
from segproto.data.config import ScenesConfig
from segproto.data.images import read_indices
from segproto.data.scenes import ScenesDataset
from segproto.encoders.base import IMAGENET
from segproto.errors import ConfigError
from segproto.methods import METHODS
from segproto.methods.primaps.config import StudentConfig
from segproto.methods.primaps.proposed import pack, unpack
from segproto.methods.primaps.student import blurred, changed, gray, recoloured, turned
from segproto.methods.primaps.variants import read_heads
from segproto.model.direction_head import DirectionBank, DirectionHead, TeacherHead
from segproto.model.segmenter import Segmenter
from segproto.runs.catalogue import read_recipe
from segproto.training.recipe import apply_overrides, validate_recipe
from segproto.training.runner import run

TINY = [
    "data.scenes.size=48",
    "data.scenes.num_train=8",
    "data.scenes.num_val=3",
    "data.augment.crop=48",
    "data.augment.scale=[1, 1]",
    "encoder.width=4",
    "num_classes=5",
    "train.batch_size=4",
    "train.threads=1",
    "train.accelerator=cpu",
    "stages.kmeans.steps=3",
    "stages.em.steps=4",
    "stages.em.update_every=1",
]


def recipe(*overrides: str) -> Any:
    method = METHODS["primaps"]
    value = apply_overrides(read_recipe(f"{method.name}/scenes"), [*TINY, *overrides])
    return validate_recipe(value, method.recipe)


def train(out: Path, *overrides: str) -> None:
    torch.set_num_threads(1)
    run(METHODS["primaps"], recipe(*overrides), out, quiet=True)


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("primaps") / "run"
    train(out, "stages.em.probe=true", "stages.found.figures=true", "stages.found.crf=true", "train.validate_every=2")
    return out


def test_every_stage_leaves_what_it_promises(trained: Path) -> None:
    results = {s: json.loads((trained / "stages" / s / "result.json").read_text()) for s in ("proposals", "init", "em")}
    assert results["proposals"]["training_images"] == 8
    assert results["proposals"]["proposals_an_image"] >= 1
    assert len(list((trained / "stages" / "proposals" / "masks").rglob("*.png"))) == 8
    assert {"em", "probe", "loss"} <= results["em"].keys()
    matching = results["em"]["matching"]
    assert [row["category"] for row in matching] == [f"category {i}" for i in range(5)]
    classes = [row["class"] for row in matching if row["class"]]
    assert len(classes) == len(set(classes)) == 5
    figures = json.loads((trained / "stages" / "found" / "result.json").read_text())
    assert figures["selection"].startswith("last (no label")
    names = {(v["name"], v["flip"], v["crf"]) for v in figures["variants"]}
    assert len(names) == 10
    plain = next(v for v in figures["variants"] if (v["name"], v["flip"], v["crf"]) == ("teacher", False, False))
    assert plain["miou"] == pytest.approx(results["em"]["miou"], abs=1e-6)
    assert sum(figures["category_shares"].values()) == pytest.approx(1, abs=1e-3)


def test_the_masks_are_a_data_set_for_other_methods(trained: Path) -> None:
    table = yaml.safe_load((trained / "masks" / "classes.yaml").read_text())
    values = set()
    for mask in (trained / "masks" / "labels").rglob("*.png"):
        values |= set(torch.from_numpy(read_indices(mask)).unique().tolist())
    assert [entry["values"] for entry in table["classes"]] == sorted(values)
    assert [entry["name"] for entry in table["classes"]] == [f"category {v}" for v in sorted(values)]
    report = segproto.data_verify(data={"root": str(trained / "masks")})
    assert all("has no pixel in the" in problem for problem in report["problems"])  # of one of the two splits
    assert sum(report["counts"].values()) == 8


def test_the_gallery_shows_every_category(trained: Path) -> None:
    page = (trained / "stages" / "found" / "categories.html").read_text()
    assert all(f"category {i} " in page for i in range(5))
    assert page.count("data:image/jpeg") >= 5
    assert "http:" not in page
    assert "https:" not in page


def test_the_model_predicts_explains_and_is_matched_by_evaluate(trained: Path) -> None:
    model = segproto.load(trained)
    assert isinstance(model.head, DirectionHead)
    assert not isinstance(model.head, TeacherHead)
    assert model.found_categories
    assert model.provenance is not None
    figures = segproto.evaluate(trained, device="cpu")
    assert len(figures["matching"]) == 5
    assert (trained / "evaluation" / "val.json").is_file()
    counts = torch.tensor(figures["categories"])
    assert int(counts.sum()) == sum(row["pixels"] for row in figures["per_class"])
    report = segproto.write_report(trained, images=1)
    assert "category 3" in report.read_text()


def test_a_repeated_run_is_the_same(trained: Path, tmp_path: Path) -> None:
    train(
        tmp_path / "again", "stages.em.probe=true", "stages.found.figures=true", "stages.found.crf=true",
        "train.validate_every=2",
    )  # fmt: skip
    for file in ("model/model.safetensors", "masks/classes.yaml", "stages/found/categories.html"):
        assert (tmp_path / "again" / file).read_bytes() == (trained / file).read_bytes()
    for mask in (trained / "masks" / "labels").rglob("*.png"):
        assert (tmp_path / "again" / mask.relative_to(trained)).read_bytes() == mask.read_bytes()


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


@pytest.mark.slow
def test_two_processes_are_one(tmp_path: Path) -> None:
    context, port = process_context(), free_port()
    two = ("train.batch_size=2", "train.devices=2")
    processes = [
        context.Process(target=as_rank, args=(rank, 2, port, train, tmp_path / "two", *two)) for rank in range(2)
    ]
    for process in processes:
        process.start()
    train(tmp_path / "one", "train.batch_size=4")
    for process in processes:
        process.join(300)
        assert process.exitcode == 0
    for stage in ("init", "kmeans", "em", "found"):
        one, pair = (Segmenter.load(tmp_path / n / "stages" / stage).state_dict() for n in ("one", "two"))
        for key, value in one.items():
            assert torch.allclose(value, pair[key], atol=1e-5), (stage, key)
    for folder in ("stages/proposals/masks", "masks/labels"):
        masks = sorted((tmp_path / "one" / folder).rglob("*.png"))
        assert len(masks) == 8
        for mask in masks:
            assert (tmp_path / "two" / mask.relative_to(tmp_path / "one")).read_bytes() == mask.read_bytes()


def test_a_folder_without_masks_needs_only_a_number(tmp_path: Path) -> None:
    """``segproto train primaps/folder data.root=my_photos num_classes=3``, with a network that needs no download."""
    data = ScenesDataset(ScenesConfig(size=48, num_train=6, num_val=1), "train")
    (tmp_path / "my_photos").mkdir()
    for index in range(6):
        Image.fromarray(data[index].image.permute(1, 2, 0).numpy()).save(tmp_path / "my_photos" / f"{index}.png")
    small = [
        "encoder.name=unet", "encoder.backbone=null", "encoder.pretrained=false", "encoder.output_stride=4",
        "encoder.width=4", "train.accelerator=cpu", "train.threads=1", "stages.kmeans.steps=2", "stages.em.steps=3",
        "stages.proposals.size=48",
    ]  # fmt: skip
    given = [f"data.root={tmp_path / 'my_photos'}", "num_classes=3"]
    result = segproto.train("primaps/folder", out=tmp_path / "run", overrides=[*given, *small], quiet=True)
    assert "miou" not in result.figures
    assert len(list((tmp_path / "run" / "masks" / "labels").glob("*.png"))) == 6
    assert (tmp_path / "run" / "masks" / "images" / "0.png").resolve() == (tmp_path / "my_photos" / "0.png").resolve()
    mask = segproto.load(tmp_path / "run").predict(tmp_path / "my_photos" / "0.png")
    assert mask.shape == (48, 48)
    assert int(mask.max()) < 3
    again = build_dataset(recipe(f"data.root={tmp_path / 'run' / 'masks'}", "data.name=folder").data, "train")
    assert again.classes.num_classes <= 3


@pytest.mark.parametrize(
    ("value", "words"),
    [
        ("encoder.frozen=false", "encoder.frozen=true"),
        ("stages.em.student.jitter=2", "less than or equal to 1"),
        ("num_classes=1", "greater than or equal to 2"),
    ],
)
def test_settings_that_make_no_sense(value: str, words: str) -> None:
    with pytest.raises(ConfigError, match=words):
        recipe(value)


def test_labels_are_asked_of_label_free_data_in_words() -> None:
    method = METHODS["primaps"]
    value = read_recipe(f"{method.name}/folder")
    for override, words in (
        ("stages.em.probe=true", "has none"),
        ("stages.found.selection=oracle", "has none"),
        ("stages.em.student={}", "student=null"),
    ):
        with pytest.raises(ConfigError, match=words):
            validate_recipe(apply_overrides(value, ["num_classes=3", override]), method.recipe)


def test_the_number_of_categories_is_asked_for() -> None:
    method = METHODS["primaps"]
    value = apply_overrides(read_recipe(f"{method.name}/folder"), ["data.root=photos"])
    with pytest.raises(ConfigError, match="num_classes=8"):
        method.build(validate_recipe(value, method.recipe), ClassTable((), ()))


def test_the_oracle_is_named_and_takes_the_best_validation(tmp_path: Path) -> None:
    train(tmp_path / "run", "stages.found.selection=oracle", "train.validate_every=1", "stages.found.masks=false")
    figures = json.loads((tmp_path / "run" / "stages" / "found" / "result.json").read_text())
    assert figures["selection"].startswith("oracle: best mIoU on labelled")
    lines = [json.loads(line) for line in (tmp_path / "run" / "metrics.jsonl").read_text().splitlines()]
    best = max(line["val_miou"] for line in lines if line["stage"] == "em" and "val_miou" in line)
    assert figures["miou"] == pytest.approx(best, abs=1e-9)
    assert not (tmp_path / "run" / "masks").exists()


def test_the_published_protocol_trains_and_scores_on_squares(tmp_path: Path) -> None:
    train(tmp_path / "run", "data.protocol=published", "data.square=32", "data.augment.crop=null")
    result = json.loads((tmp_path / "run" / "stages" / "em" / "result.json").read_text())
    assert sum(row["pixels"] for row in result["per_class"]) <= 3 * 32 * 32
    assert Image.open(next((tmp_path / "run" / "masks" / "images").glob("*.png"))).size == (32, 32)


def test_labels_and_proposals_share_a_mask() -> None:
    labels, regions = torch.tensor([0, 7, 255]), torch.tensor([254, 0, 3])
    assert [t.tolist() for t in unpack(pack(labels, regions))] == [labels.tolist(), regions.tolist()]
    assert [t.tolist() for t in unpack(torch.tensor([255]))] == [[255], [0]]  # what padding adds


def test_contributions_of_directions_are_the_logits() -> None:
    torch.manual_seed(0)
    head = DirectionHead(DirectionBank(torch.randn(3, 5), torch.tensor([1.0, 2.0, 0.5])))
    features = torch.randn(1, 5, 2, 4)
    logits = head(features)
    weight = F.normalize(head.bank.directions, dim=1) * head.bank.gains[:, None]
    expected = torch.einsum("bchw,kc->bkhw", features, weight)
    torch.testing.assert_close(logits, expected)
    cells = features[0].flatten(1).T
    for k in range(3):
        shares = head.contributions(cells, torch.full((8,), k))
        torch.testing.assert_close(shares.prototypes.sum(1) + shares.offset, logits[0, k].flatten())


class TestStudent:
    images = torch.rand(3, 3, 24, 30, generator=torch.Generator().manual_seed(0))

    def test_what_it_sees_follows_from_the_key_alone(self) -> None:
        x = IMAGENET((self.images * 255).to(torch.uint8))
        config = StudentConfig()
        both = changed(x, ["a", "b", "c"], config, IMAGENET)
        assert torch.allclose(both[1:2], changed(x[1:2], ["b"], config, IMAGENET), atol=1e-6)
        assert not torch.equal(both, changed(x, ["a", "b", "d"], config, IMAGENET))

    def test_nothing_changes_nothing(self) -> None:
        x = IMAGENET((self.images * 255).to(torch.uint8))
        same = changed(x, list("abc"), StudentConfig(blur=False, jitter=0, gray=0), IMAGENET)
        torch.testing.assert_close(same, x, atol=1e-5, rtol=0)

    def test_blur_and_colours_are_torchvisions(self) -> None:
        from torchvision.transforms.v2 import functional as tv

        sigma = torch.tensor([0.3, 1.1, 2.0])
        images = blurred(self.images, sigma)
        for i in range(3):
            expected = tv.gaussian_blur(self.images[i], [21, 21], [float(sigma[i])] * 2)
            torch.testing.assert_close(images[i], expected, atol=1e-5, rtol=0)
        factors, hue = torch.tensor([[0.93, 1.06, 1.1], [1, 1, 1], [1.1, 0.9, 0.91]]), torch.tensor([0.07, -0.1, 0])
        ours = recoloured(self.images, factors, hue)
        for i in range(3):
            x = tv.adjust_brightness(self.images[i], float(factors[i, 0]))
            x = tv.adjust_contrast(x, float(factors[i, 1]))
            x = tv.adjust_saturation(x, float(factors[i, 2]))
            torch.testing.assert_close(ours[i], tv.adjust_hue(x, float(hue[i])), atol=2e-5, rtol=0)
        torch.testing.assert_close(gray(self.images), tv.rgb_to_grayscale(self.images), atol=1e-6, rtol=0)
        torch.testing.assert_close(turned(self.images, torch.zeros(3)), self.images, atol=1e-6, rtol=0)

    def test_the_published_order_cuts_what_is_darker_than_the_mean(self) -> None:
        x = IMAGENET((self.images * 255).to(torch.uint8))
        config = StudentConfig(blur=False, jitter=1, gray=0, order="published")
        out = changed(x, list("abc"), config, IMAGENET)
        assert float(out.min()) >= 0
        assert float((out < 0.06).float().mean()) > 0.2
        assert float(changed(x, list("abc"), StudentConfig(blur=False, jitter=1, gray=0), IMAGENET).min()) < 0


def test_the_baseline_gives_the_crf_cosines() -> None:
    """As the release's k-means does; teacher and student of EM give it their logits."""
    torch.manual_seed(0)
    directions, features = torch.randn(4, 6), 5 * torch.randn(1, 6, 3, 2)
    bank = DirectionBank(directions, torch.tensor([1.0, 2.0, 0.5, 1.0]))
    model = Segmenter(tiny_segmenters.encoder(), DirectionHead(bank), ClassTable(tuple("abcd"), ((0, 0, 0),) * 4))
    cosines = torch.einsum("kc,bchw->bkhw", F.normalize(directions, dim=1), F.normalize(features, dim=1))
    read = read_heads(model)["teacher"]
    torch.testing.assert_close(read.for_crf(features), cosines)
    assert not torch.allclose(read.logits(features), cosines, atol=0.1)
    model.head = TeacherHead(bank)
    for reader in read_heads(model).values():
        assert torch.equal(reader.for_crf(features), reader.logits(features))
