"""Procedures and stages of the prototype methods: what they refuse, keep and forget."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest
import torch
from PIL import Image
from tiny_segmenters import segmenter
from torch import nn

from segproto.data.base import ClassTable, Sample, SegmentationDataset
from segproto.data.build import build_dataset
from segproto.data.config import DataConfig, ScenesConfig, SplitConfig
from segproto.data.scenes import ScenesDataset
from segproto.errors import ConfigError, DataError
from segproto.methods import METHODS
from segproto.model.features import BackboneFeatures, image_features
from segproto.model.heads import NearestHead, PrototypeHead
from segproto.model.segmenter import Segmenter
from segproto.prototypes.bank import PrototypeBank
from segproto.prototypes.cosine_bank import CosineBank
from segproto.runs.catalogue import read_recipe
from segproto.training.loop import Loop
from segproto.training.procedures.config import LearningRates, OptimiseConfig, ProjectConfig, PruneConfig, SeedConfig
from segproto.training.procedures.optimise import optimise_stage, trained_backbone
from segproto.training.procedures.projection import of_others, project, searched_images
from segproto.training.procedures.pruning import prune
from segproto.training.procedures.seeding import begin_linear, begin_prototypes, seed
from segproto.training.procedures.subset import Subset
from segproto.training.recipe import Recipe, apply_overrides, validate_recipe
from segproto.training.stage import Optimise, Procedure, Stage, StageContext

TINY = ["encoder.width=2", "encoder.dim=4", "encoder.rates=[1,2]"]
TABLE = ClassTable(("a", "b", "c"), ((0, 0, 0), (90, 0, 0), (0, 90, 0)))


def shipped(method: str, *overrides: str, name: str = "scenes") -> Recipe:
    entry = METHODS[method]
    value = apply_overrides(read_recipe(f"{entry.name}/{name}"), overrides)
    return validate_recipe(value, entry.recipe)


def stages_of(method: str, *overrides: str) -> dict[str, Stage]:
    return {stage.name: stage for stage in METHODS[method].stages(shipped(method, *overrides))}


def context(
    model: Segmenter, dataset: SegmentationDataset | None = None, train_cache: BackboneFeatures | None = None
) -> StageContext:
    """A procedure's surroundings on one process, with a few scenes."""
    fabric = cast(Any, SimpleNamespace(global_rank=0, world_size=1))
    images = dataset or ScenesDataset(ScenesConfig(num_train=6, size=32), "train")
    return StageContext(model, fabric, shipped("protoseg"), Path(), images, None, train_cache)


def test_an_override_of_the_projection_keeps_protosegs_membership() -> None:
    recipe = shipped("protoseg", "stages.project.deduplicate=false")
    assert recipe.stages.project.membership == "any_pixel"  # type: ignore[attr-defined]
    recipe = shipped("protoseg", "stages.project.membership=nearest_label")
    assert recipe.stages.project.membership == "nearest_label"  # type: ignore[attr-defined]


@pytest.mark.parametrize("fusion", ["sum", "concat"])
@pytest.mark.parametrize("method", ["protoseg", "scaleproto"])
def test_a_bank_is_the_same_however_the_model_came_to_it(method: str, fusion: str) -> None:
    recipe = shipped(method, *TINY, f"encoder.fusion={fusion}")
    built = METHODS[method].build(recipe, TABLE)
    model = METHODS[method].build(recipe, TABLE)
    begin_linear(model, None)
    stage = next(s for s in METHODS[method].stages(recipe) if s.name == "joint")
    assert isinstance(stage, Optimise)
    assert stage.begin is not None
    stage.begin(model)
    assert model.head.describe() == built.head.describe()
    assert built.head.bank.num_scales == (2 if (method, fusion) == ("scaleproto", "concat") else 1)  # type: ignore[union-attr]


def prototypes_begin(model: Segmenter) -> None:
    begin_prototypes(model, lambda m: PrototypeBank.regular(m.classes.num_classes, 2, 2, 3), -0.25)


def test_a_grouped_model_gives_up_its_groups_and_keeps_its_prototypes() -> None:
    model = segmenter("grouped", sources=True)
    bank = model.head.bank
    prototypes_begin(model)
    assert isinstance(model.head, PrototypeHead)
    assert model.head.bank is bank
    own = model.head.readout[bank.class_of, torch.arange(bank.num_prototypes)]
    assert (own == 1).all()
    assert float(model.head.readout.detach().min()) == -0.25
    head = model.head
    prototypes_begin(model)
    assert model.head is head


def test_prototypes_do_not_start_from_a_head_they_do_not_know() -> None:
    model = segmenter("linear")
    model.head = NearestHead(CosineBank(torch.rand(4, 2, 6)))
    with pytest.raises(ConfigError, match=r"train\.start: .* nearest head"):
        prototypes_begin(model)


@pytest.mark.parametrize(
    ("stage", "start"), [("project", "linear"), ("project", "grouped"), ("prune", "linear"), ("threshold", "prototype")]
)
def test_a_procedure_names_the_head_it_cannot_use(stage: str, start: str) -> None:
    procedure = stages_of("protoseg" if stage == "prune" else "scaleproto")[stage]
    assert isinstance(procedure, Procedure)
    with pytest.raises(ConfigError, match=rf"^stages\.{stage}: [^\n]*has a {start} head"):
        procedure.run(context(segmenter(start)))


def test_without_groups_there_is_no_threshold() -> None:
    none = ("stages.group_warmup.steps=0", "stages.group_joint.steps=0")
    assert "threshold" not in stages_of("scaleproto", *none)
    assert "threshold" in stages_of("scaleproto", none[0])
    assert "threshold" in stages_of("scaleproto", none[1], "stages.group_warmup.steps=2")
    assert "group_seed" not in stages_of("scaleproto", *none)


@pytest.mark.parametrize(
    ("trainable", "norms", "trained"),
    [
        ("weights", "frozen", {"0.weight", "3.weight"}),
        ("weights", "train", {"0.weight", "3.weight", "1.weight", "1.bias", "2.weight", "2.bias"}),
        ("all", "frozen", {"0.weight", "0.bias", "3.weight", "3.bias", "token"}),
        ("all", "train", None),
    ],
)
def test_norms_train_with_their_affine_weights_or_not_at_all(trainable: Any, norms: Any, trained: Any) -> None:
    backbone = nn.Sequential(nn.Conv2d(3, 4, 1), nn.BatchNorm2d(4), nn.GroupNorm(2, 4), nn.Linear(4, 4))
    backbone.register_parameter("token", nn.Parameter(torch.zeros(4)))
    config = OptimiseConfig(trainable=trainable, norms=norms)
    chosen = {id(p) for p in trained_backbone(backbone, config)}
    names = dict(backbone.named_parameters())
    assert {name for name, p in names.items() if id(p) in chosen} == (trained or set(names))


def begun(model: Segmenter, stage: Stage) -> Segmenter:
    """The model as the loop's first step of a stage finds it."""
    job: Any = SimpleNamespace(
        segmenter=model, recipe=shipped("scaleproto"), state=SimpleNamespace(step=0), fabric=SimpleNamespace(
            device=torch.device("cpu"), world_size=1
        )
    )  # fmt: skip
    Loop(job, cast(Optimise, stage), False, 0)._begin()
    return model


@pytest.mark.parametrize(
    ("lr", "kept"),
    [
        ({"backbone": 1.0}, False), ({"neck": 1.0}, False), ({"prototypes": 1.0}, False), ({"readout": 1.0}, True),
        ({"groups": 1.0, "readout": 1.0}, True),
    ],
)  # fmt: skip
def test_sources_are_forgotten_once_prototypes_or_encoder_train(lr: Any, kept: bool) -> None:
    stage = optimise_stage("joint", OptimiseConfig(steps=1, lr=lr), begin=prototypes_begin)
    model = begun(segmenter("grouped", sources=True), stage)
    assert (model.provenance is not None) == kept
    assert bool(model.patches) == kept


def test_sources_are_forgotten_with_their_prototypes() -> None:
    linear = optimise_stage(
        "linear", OptimiseConfig(steps=1, lr=LearningRates(readout=1)), begin=lambda model: begin_linear(model, None)
    )
    model = begun(segmenter("prototype", sources=True), linear)
    assert model.provenance is None
    assert not model.patches


class Cache:
    """Backbone features of :func:`segmenter`'s encoder; those of image ``i`` are asked for by ``i``."""

    def __init__(self, model: Segmenter, dataset: SegmentationDataset) -> None:
        self.model, self.dataset = model, dataset

    def get(self, index: int, flipped: bool) -> torch.Tensor:
        encoder = self.model.encoder
        with torch.no_grad():
            return encoder.backbone_features(encoder.normalisation(self.dataset[index].image)[None])[0]


def test_prototypes_of_a_class_come_from_images_of_their_own(tmp_path: Path) -> None:
    dataset = ScenesDataset(ScenesConfig(num_train=6, size=32), "train")
    images = []
    for distinct in (False, True):
        torch.manual_seed(3)
        model = segmenter("prototype", classes=2)
        config = ProjectConfig(distinct_images=distinct, absent="drop", deduplicate=False)
        figures = project(context(model, dataset), config)
        assert model.provenance is not None
        shown = [source.image for source in model.provenance.sources if source is not None]
        assert figures["images_with_prototypes"] == len(set(shown))
        classes = model.head.bank.class_of.tolist()  # type: ignore[union-attr]
        images.append(
            [len({i for i, c in zip(shown, classes, strict=True) if c == own}) for own in sorted(set(classes))]
        )
        counts = [classes.count(own) for own in sorted(set(classes))]
    assert images[1] == counts
    assert images[0] != counts


@pytest.mark.parametrize("cached", [False, True])
def test_a_projection_searches_the_listed_images_alone(tmp_path: Path, cached: bool) -> None:
    dataset = ScenesDataset(ScenesConfig(num_train=6, size=32), "train")
    (tmp_path / "some.txt").write_text(f"{dataset.names[4]}\n{dataset.names[1]}\n")
    model = segmenter(classes=2)
    extra = {"train_cache": Cache(model, dataset)} if cached else {}
    figures = project(context(model, dataset, **extra), ProjectConfig(images=tmp_path / "some.txt", absent="drop"))
    assert figures["images_searched"] == 2
    assert model.provenance is not None
    assert model.provenance.dataset == "ScenesDataset, split train"
    sources = [s for s in model.provenance.sources if s is not None]
    assert {s.image for s in sources} == {dataset.names[1], dataset.names[4]}
    other = segmenter(classes=2)
    project(context(other, Subset(dataset, [1, 4])), ProjectConfig(absent="drop"))
    assert other.provenance is not None
    assert model.provenance.sources == other.provenance.sources
    for p, source in enumerate(sources):
        features = image_features(model, dataset, dataset.names.index(source.image))
        assert float(model.head.bank.distances(features)[0, p][source.cell].detach()) < 1e-6


def test_a_list_of_images_that_are_no_training_images_is_refused(tmp_path: Path) -> None:
    (tmp_path / "some.txt").write_text("train_00001\nval_00000\n")
    with pytest.raises(DataError, match=r"some\.txt: 'val_00000' not among the 6 training images"):
        searched_images(context(segmenter()), tmp_path / "some.txt")


def test_a_list_is_found_in_the_data_folder_and_may_be_part_of_the_training_list(tmp_path: Path) -> None:
    for folder in ("images", "labels"):
        (tmp_path / folder).mkdir()
        for name in "abcd":
            Image.new("L" if folder == "labels" else "RGB", (8, 8)).save(tmp_path / folder / f"{name}.png")
    (tmp_path / "classes.yaml").write_text("classes: [x, y]")
    for name, text in {"aug": "b\nc\na\n", "hold": "d\n", "few": "a\nb\n"}.items():
        (tmp_path / f"{name}.txt").write_text(text)
    config = DataConfig(root=tmp_path, split=SplitConfig(train_list=Path("aug.txt"), val_list=Path("hold.txt")))
    surroundings = context(segmenter(), build_dataset(config, "train"))
    surroundings.recipe = surroundings.recipe.model_copy(update={"data": config})
    images, _ = searched_images(surroundings, Path("few.txt"))
    assert list(images.names) == ["b", "a"]
    assert [images[i].name for i in range(2)] == ["b", "a"]
    assert images.path(1) == tmp_path / "images/a.png"


def test_pruning_that_leaves_nothing_is_refused() -> None:
    model = segmenter(classes=2)
    with pytest.raises(DataError, match=r"stages\.prune\.threshold = 7: none of 8 prototypes [^\n]*$"):
        prune(context(model), PruneConfig(threshold=7))
    assert model.head.bank.num_prototypes == 8


def test_pictures_go_with_the_prototypes_that_pruning_removes() -> None:
    model = segmenter(classes=2)
    project(context(model), ProjectConfig(deduplicate=False))
    assert len(model.patches) == 8
    bank = model.head.bank
    with torch.no_grad():
        bank.vectors[-1] = bank.vectors[5]  # of class 1, where it is at home with class 0
    figures = prune(context(model), PruneConfig(k=1, threshold=1))
    assert 0 < figures["prototypes"] < 8
    assert model.provenance is not None
    assert set(model.patches) == {s.patch for s in model.provenance.sources if s is not None}
    assert len(model.patches) == figures["prototypes"]


def test_a_class_that_loses_its_prototypes_to_another_is_named() -> None:
    """Where two classes share the one patch, the first keeps the prototype."""
    model = segmenter(classes=2, stride=8)
    figures = project(context(model, Shared()), ProjectConfig(membership="any_pixel"))
    assert (figures["prototypes_start"], figures["prototypes"]) == (8, 2)
    assert figures["classes_without_prototypes"] == ["class1"]
    assert model.provenance is not None
    assert set(model.patches) == {s.patch for s in model.provenance.sources if s is not None}


class Shared(ScenesDataset):
    """One image of a single cell that shows two classes."""

    def __init__(self) -> None:
        super().__init__(ScenesConfig(num_train=1, size=32), "train")

    def __getitem__(self, index: int) -> Sample:
        mask = torch.arange(8)[:, None].expand(8, 8) // 4
        return Sample(torch.full((3, 8, 8), 90, dtype=torch.uint8), mask.to(torch.uint8), self.names[0])


def test_figures_are_those_of_a_grouped_head() -> None:
    assert segmenter("prototype").head.figures() == segmenter("linear").head.figures() == {}
    model = segmenter("grouped")
    model.head.grouping.threshold_(0.6)
    dense = model.head.grouping.dense()
    figures = model.head.figures()
    assert figures["prototypes"] == dense.shape[1] == 16
    assert figures["prototypes_used"] == sum(bool((dense[:, p] > 0).any()) for p in range(16)) < 16
    assert figures["group_average"] == pytest.approx(int((dense > 0).sum()) / len(dense))


@pytest.mark.parametrize(
    ("method", "setting"),
    [
        *(("blackbox", f"stages.joint.{key}") for key in ("diversity", "l1", "entropy", "lr.prototypes", "lr.groups")),
        ("blackbox", "stages.warmup.l1"),
        *(
            (method, f"stages.linear.{key}")
            for key in ("diversity", "lr.groups")
            for method in ("protoseg", "scaleproto")
        ),
        *((method, f"stages.joint.{key}") for key in ("entropy", "lr.groups") for method in ("protoseg", "scaleproto")),
        ("protoseg", "stages.prune_finetune.entropy"),
        ("scaleproto", "stages.finetune.lr.groups"),
    ],
)
def test_settings_that_a_stage_does_not_read_are_refused(method: str, setting: str) -> None:
    key = setting.split(".", 2)[2]
    with pytest.raises(ConfigError, match=rf"^stages\.\w+ = .*: {key} = 0\.5 means nothing"):
        shipped(method, f"{setting}=0.5")
    shipped(method, f"{setting}=0")


def test_seeded_prototypes_have_no_source_yet() -> None:
    model = segmenter(classes=2, sources=True)
    before = model.head.bank.vectors.detach().clone()
    figures = seed(context(model), SeedConfig(start="features"))
    assert figures["seeded"] == 8
    assert not torch.equal(model.head.bank.vectors, before)
    assert model.provenance is None
    assert not model.patches


def test_pruning_and_projection_take_in_what_the_other_processes_saw_and_not_their_own_again() -> None:
    """Pruning keeps k images a prototype: its own counted twice would leave place for fewer."""
    processes = torch.arange(3.0)
    fabric = SimpleNamespace(
        global_rank=1, world_size=3, all_gather=lambda own: torch.stack([own * 0 + r for r in processes])
    )
    there = replace(context(cast(Any, None)), fabric=cast(Any, fabric))
    assert [int(state["rank"]) for state in of_others(there, {"rank": torch.tensor(1.0)})] == [0, 2]
