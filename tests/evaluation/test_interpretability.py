"""The interpretability suites over a data set: every head, one and two processes, defined results for odd input."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest
import tiny_segmenters as tiny
import torch
import torch.distributed as dist
import torch.multiprocessing as mp
from torch import Tensor

from segproto.data.base import Sample, SegmentationDataset
from segproto.data.config import ScenesConfig
from segproto.data.scenes import CLASSES, ScenesDataset
from segproto.data.subset import spread
from segproto.errors import ConfigError, DataError
from segproto.evaluation.interpretability.chosen import chosen_class
from segproto.evaluation.interpretability.config import InterpretabilityConfig
from segproto.evaluation.interpretability.cost import used_parameters
from segproto.evaluation.interpretability.equivariance import scale_rates
from segproto.evaluation.interpretability.faithfulness import FaithfulnessSuite
from segproto.evaluation.interpretability.freshness import freshness
from segproto.evaluation.interpretability.metric import Subject
from segproto.evaluation.interpretability.run import interpret
from segproto.evaluation.interpretability.sanity import randomised_copies
from segproto.evaluation.interpretability.table import METRICS
from segproto.evaluation.interpretability.views import encode, look
from segproto.model.fingerprint import encoder_hash
from segproto.model.heads import NearestHead, PrototypeHead
from segproto.model.provenance import PrototypeSource, Provenance
from segproto.model.segmenter import Segmenter
from segproto.prototypes.bank import PrototypeBank
from segproto.prototypes.cosine_bank import CosineBank

FAST = {"faithfulness_images": 2, "areas": (0.3, 0.7), "draws": 2, "tops": (1, 2), "pixels": 20}
CONFIG = InterpretabilityConfig(**FAST)


def scenes(split: str = "val", count: int = 5) -> ScenesDataset:
    return ScenesDataset(ScenesConfig(num_train=3, num_val=count, size=64, objects=(3, 4)), split)


def model(kind: str = "grouped") -> Segmenter:
    segmenter_of_kind = tiny.segmenter("prototype" if kind == "nearest" else kind, CLASSES.num_classes)
    segmenter_of_kind.classes = CLASSES
    if kind == "nearest":
        torch.manual_seed(0)
        segmenter_of_kind.head = NearestHead(CosineBank(torch.randn(CLASSES.num_classes, 3, tiny.DIM * tiny.SCALES)))
    segmenter_of_kind.encoder.config = segmenter_of_kind.encoder.config.model_copy(update={"rates": [1, 2]})
    return segmenter_of_kind.eval()


def projected(segmenter: Segmenter, data: SegmentationDataset) -> Segmenter:
    """Every prototype is a feature of a training image, and says so."""
    sources = []
    bank = segmenter.head.bank
    with torch.no_grad():
        for p in range(bank.num_prototypes):
            index, row, column = p % len(data), p % 16, (3 * p) % 16
            features = encode(segmenter, segmenter.encoder.normalisation(data[index].image)[None])
            bank.vectors[p] = bank.own_features(features[0, :, row, column])[p]
            grid = (features.shape[-2], features.shape[-1])
            sources.append(PrototypeSource(data.names[index], (row, column), grid, (0, 0, 4, 4), 0.04))
    segmenter.provenance = Provenance(encoder_hash(segmenter.encoder), "scenes", tuple(sources))
    return segmenter


@pytest.mark.parametrize("kind", ["prototype", "grouped", "nearest"])
def test_every_metric_is_a_number_or_a_reason(kind) -> None:
    data = scenes()
    figures = interpret(
        projected(model(kind), scenes("train")) if kind != "nearest" else model(kind),
        data,
        CONFIG,
        sources=scenes("train"),
    )
    text = json.dumps(figures, allow_nan=False)  # no NaN anywhere
    assert list(figures["metrics"]) == list(METRICS)
    for name, metric in figures["metrics"].items():
        assert metric["meaning"]
        assert (metric["value"] is None) == ("reason" in metric), name
        assert ("null" in metric) == ("null" in json.dumps(metric).replace('"null": "', "") and "reason" not in metric)
    without = {name for name, metric in figures["metrics"].items() if metric["value"] is None}
    expected = {
        "prototype": {"group_overlap"},
        "grouped": set(),
        "nearest": {"group_overlap", "equivariance", "freshness", "cost"},
    }
    expected[kind] |= {"position"}  # of five images a spread says little
    assert without == expected[kind], {n: figures["metrics"][n]["reason"] for n in without}
    assert figures["metrics"]["completeness"]["above"] == 0
    assert figures["metrics"]["completeness"]["pixels"]["above"] == 0
    assert figures["metrics"]["faithfulness"]["forward_passes"] == figures["metrics"]["faithfulness"]["pairs"] * 26
    assert figures["images"] == 5
    assert "wheels" not in text


def test_black_box_is_complete_has_a_context_and_a_cost() -> None:
    figures = interpret(model("linear"), scenes(), CONFIG)
    numbers = {name for name, metric in figures["metrics"].items() if metric["value"] is not None}
    assert numbers == {"completeness", "context", "cost"}
    assert figures["metrics"]["consistency"]["reason"] == "the model has no prototypes (a black box)"
    assert figures["metrics"]["cost"]["learnable"] == figures["metrics"]["cost"]["stored"] == 0


def test_chosen_metrics_only_and_all_images_or_few() -> None:
    config = InterpretabilityConfig(metrics=("sparsity", "pointing"), images=2)
    figures = interpret(model(), scenes(), config)
    assert set(figures["metrics"]) == {"sparsity", "pointing"}
    assert (figures["images"], figures["images_deleted"]) == (2, 0)
    assert spread(10, 3) == [0, 3, 6]
    assert spread(2, 5) == [0, 1]


class Changed(SegmentationDataset):
    """Another data set's images with other masks or parts."""

    def __init__(self, whole: ScenesDataset, mask=None, parts=None, names=None) -> None:
        self.whole, self.mask, self.changed, self.named = whole, mask, parts, names
        self.classes, self.split, self.names = whole.classes, whole.split, whole.names

    def __getitem__(self, index: int) -> Sample:
        sample = self.whole[index]
        return sample if self.mask is None else sample._replace(mask=self.mask(sample.mask))

    def parts(self, index: int) -> Tensor | None:
        return self.whole.parts(index) if self.changed is None else self.changed(self.whole.parts(index))

    @property
    def part_names(self) -> dict[int, str]:
        return self.whole.part_names if self.named is None else self.named

    @property
    def fingerprint(self) -> str:
        return "changed"


def test_parts_of_another_size_are_named() -> None:
    with pytest.raises(DataError, match=r"val_00000: the part map is 60x64 pixels \(width x height\), the image 64x64"):
        interpret(model(), Changed(scenes(), parts=lambda p: p[:, :60]), CONFIG)


def test_parts_outside_the_table() -> None:
    with pytest.raises(ValueError, match=r"part 99: expected 0\.\.17"):
        interpret(model(), Changed(scenes(), parts=lambda p: p.where(p == 0, 99)), CONFIG)


def test_images_that_are_all_void() -> None:
    figures = interpret(model(), Changed(scenes(), mask=lambda m: torch.full_like(m, 255)), CONFIG)
    json.dumps(figures, allow_nan=False)
    for name in ("consistency", "stability", "group_overlap", "pointing", "health", "purity", "faithfulness", "sanity"):
        assert figures["metrics"][name]["value"] is None, name
        assert figures["metrics"][name]["reason"], name


def test_no_parts_and_classes_without_parts() -> None:
    figures = interpret(model(), Changed(scenes(), names={}), CONFIG)["metrics"]
    assert figures["consistency"]["reason"] == "the data have no part maps: name a part table with data.parts=..."
    assert figures["pointing"]["value"] is not None
    figures = interpret(model(), scenes(), InterpretabilityConfig(metrics=("consistency",)))["metrics"]["consistency"]
    assert figures["per_class"][:2] == [None, None]  # sky and ground
    some = InterpretabilityConfig(metrics=("consistency",), leave_out=tuple(CLASSES.names[2:]))
    assert interpret(model(), scenes(), some)["metrics"]["consistency"]["value"] is None
    with pytest.raises(ConfigError, match="leave_out: 'hous' is no class"):
        interpret(model(), scenes(), InterpretabilityConfig(leave_out=("hous",)))


def test_other_classes_are_refused() -> None:
    with pytest.raises(DataError, match="the data set has 8 classes, the model 4"):
        interpret(tiny.segmenter("prototype", 4), scenes(), CONFIG)


def test_no_noise_is_perfectly_stable() -> None:
    config = InterpretabilityConfig(metrics=("stability",), noise=0)
    assert interpret(model(), scenes(), config)["metrics"]["stability"]["value"] == 1


def test_freshness_notices_what_changed() -> None:
    train = scenes("train")
    fresh = projected(model("prototype"), train)
    result = freshness(fresh, train)
    assert (result["value"], result["same_encoder"], result["stale"]) == (1.0, True, [])
    with torch.no_grad():
        fresh.head.bank.vectors[3] += 0.1
    result = freshness(fresh, train)
    assert result["stale"] == [3]
    assert result["value"] == pytest.approx(1 - 1 / fresh.head.bank.num_prototypes)
    with torch.no_grad():
        fresh.encoder.neck.weight.mul_(1.5)
    result = freshness(fresh, train)
    assert not result["same_encoder"]
    assert result["value"] < 0.5
    assert freshness(fresh, None)["reason"].endswith("the training images are not available")
    other = freshness(fresh, scenes("val"))
    assert other["value"] is None
    assert other["missing_images"] == list(train.names)
    fresh.provenance = None
    assert "no provenance" in freshness(fresh, train)["reason"]
    assert "no prototypes" in freshness(model("linear"), train)["reason"]


def test_cascade_randomises_step_by_step() -> None:
    whole = model()
    before = {k: v.clone() for k, v in whole.state_dict().items()}
    copies = randomised_copies(whole, 0)
    assert [name for name, _ in copies] == ["readout", "groups", "prototypes", "encoder"]
    assert all(torch.equal(v, before[k]) for k, v in whole.state_dict().items())
    readout, groups, prototypes, everything = (m for _, m in copies)
    assert not torch.equal(readout.head.readout, whole.head.readout)
    assert torch.equal(readout.head.bank.vectors, whole.head.bank.vectors)
    assert torch.equal(groups.head.grouping.weights.sum(2), whole.head.grouping.weights.sum(2))
    assert torch.equal(prototypes.encoder.backbone.weight, whole.encoder.backbone.weight)
    assert not torch.equal(everything.encoder.backbone.weight, whole.encoder.backbone.weight)


def test_scales_have_their_rates() -> None:
    assert scale_rates(model()) == (1, 2)
    assert scale_rates(model("linear")) is None
    figures = interpret(model(), scenes(count=2), InterpretabilityConfig(metrics=("equivariance",)))["metrics"][
        "equivariance"
    ]
    readings = figures["readings"]  # scale 0 sees everything: both readings shrink the image for it by 2
    assert readings["relative"]["curve"] == readings["both"]["curve"]


def test_features_from_a_cache_give_the_same() -> None:
    whole, data = model("prototype"), scenes(count=2)

    class Cache:
        def get(self, index: int, flipped: bool) -> Tensor:
            return whole.encoder.backbone_features(whole.encoder.normalisation(data[index].image)[None])[0]

    with torch.no_grad():
        a, b = (look(whole, data, 1, cache, parts=True) for cache in (None, Cache()))
    assert torch.allclose(a.activations, b.activations, atol=1e-5)


def comparable(found: dict) -> str:
    """All figures but times."""
    found["metrics"]["cost"].pop("images_per_second")
    return json.dumps(found["metrics"], sort_keys=True)


def worker(rank: int, world: int, port: int, out: str) -> None:
    torch.set_num_threads(1)
    os.environ.update(MASTER_ADDR="127.0.0.1", MASTER_PORT=str(port))
    dist.init_process_group("gloo", rank=rank, world_size=world)

    def gather(state: dict[str, Tensor]) -> list[dict[str, Tensor]]:
        states: list = [None] * world
        dist.all_gather_object(states, state)
        return states

    figures = interpret(model(), scenes(), CONFIG, rank=rank, world=world, gather=gather)
    Path(out, f"{rank}.json").write_text(comparable(figures))
    dist.destroy_process_group()


@pytest.mark.slow
def test_two_processes_give_the_bits_of_one(tmp_path) -> None:
    torch.set_num_threads(1)
    alone = comparable(interpret(model(), scenes(), CONFIG))
    mp.spawn(worker, (2, 29500 + os.getpid() % 2000, str(tmp_path)), nprocs=2)
    assert (tmp_path / "0.json").read_text() == alone
    assert (tmp_path / "1.json").read_text() == alone


def test_parameters_are_counted_as_in_the_paper() -> None:
    """ProtoSeg's table 10 from its sparsity: 157.67 prototypes on VOC give 12.1K, 134 on Cityscapes 9.9K."""
    for classes, prototypes, printed in ((21, 158, 12.1), (19, 134, 9.9)):
        bank = PrototypeBank(
            torch.rand(prototypes, 64),
            torch.arange(prototypes) % classes,
            torch.zeros(prototypes, dtype=torch.int64),
            classes,
            1,
        )
        segmenter = Segmenter(tiny.encoder(), PrototypeHead(bank), CLASSES)
        assert round(used_parameters(segmenter) / 1e3, 1) == printed


def test_pictures_of_the_faithfulness_test_by_hand() -> None:
    """Every forward pass anew, one picture at a time; inserting a random region deletes the rest of the class."""
    config = InterpretabilityConfig(**{**FAST, "areas": (0.25, 0.75)})
    whole, data = model("prototype"), scenes(count=3)
    suite = FaithfulnessSuite(Subject(whole, data, config))
    with torch.no_grad():
        view = look(whole, data, 1, None, parts=False)
        suite.update(view)
        class_id = chosen_class(view, config.smallest, config.seed)
        cells = view.labels.flatten() == class_id
        regions = suite._regions(view, class_id, cells)
        image = whole.encoder.normalisation(view.sample.image)[None]
        fill = image.mean((2, 3), keepdim=True)

        def probability(region: Tensor) -> float:
            picture = torch.where(region[view.cells], fill, image)
            return float(whole.grid_logits(picture)[0].softmax(0)[class_id].flatten()[cells].mean())

        expected = {
            ("delete", "top 2"): [probability(regions[1, s]) for s in (0, 1)],
            ("insert", "top 2"): [probability(cells & ~regions[1, s]) for s in (0, 1)],
            ("delete", "random"): [sum(probability(regions[d, s]) for d in (2, 3)) / 2 for s in (0, 1)],
            ("insert", "random"): [sum(probability(regions[d, s]) for d in (2, 3)) / 2 for s in (1, 0)],
        }
    rows = {
        (r["mode"], r["region"]): r
        for r in suite.compute()["rows"]
        if (r["measure"], r["fill"]) == ("probability", "mean")
    }
    for key, values in expected.items():
        assert rows[key]["curve"] == pytest.approx(values, abs=1e-5), key
