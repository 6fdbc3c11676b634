"""nonparametric: the nearest head, its clustering step, its seeds and traces, alone and with two processes."""

from __future__ import annotations

import copy
import json
from pathlib import Path

import pytest
import torch
import torch.distributed as dist
import torch.nn.functional as F
from safetensors.torch import load_file, save_file
from tiny_nonparametric import CLASSES, DIM, batch, head, model, train
from training_tiny import free_port, process_context
from two_steps import SMALL, two_steps

from segproto.data.batch import Batch
from segproto.data.build import build_dataset
from segproto.errors import ConfigError
from segproto.methods import METHODS
from segproto.methods.nonparametric.build import make_head
from segproto.methods.nonparametric.config import JointConfig, NonparametricModel
from segproto.methods.nonparametric.loss import ClusterLoss
from segproto.methods.nonparametric.stages import parameter_groups
from segproto.model.features import image_features
from segproto.model.heads import NearestHead, build_head
from segproto.model.segmenter import Segmenter
from segproto.prototypes.clustering import cluster_pixels, momentum_update
from segproto.prototypes.labels import resize_labels
from segproto.report.gallery import cards
from segproto.runs.catalogue import read_recipe
from segproto.training.procedures.optimise import batch_features
from segproto.training.recipe import apply_overrides, validate_recipe
from segproto.training.runner import run

pytestmark = pytest.mark.precision

VARIANTS = [("none", "layernorm", "layernorm"), ("channel", "none", "scale"), ("width_legacy", "layernorm", "scale")]


@pytest.mark.parametrize(("projection", "feature", "score"), VARIANTS)
def test_logits_are_those_of_a_plain_loop(projection: str, feature: str, score: str) -> None:
    subject = head(projection, feature, score)
    x = torch.randn(2, DIM, 3, 5)
    logits = subject(x).double()
    vectors = subject.bank.vectors.double()
    y = x.double()
    if projection != "none":
        y = y / y.norm(dim=1 if projection == "channel" else 3, keepdim=True)
    for b, i, j in [(0, 0, 0), (1, 2, 4), (1, 1, 3)]:
        cell = y[b, :, i, j]
        if subject.feature_norm is not None:
            cell = F.layer_norm(cell, (DIM,), subject.feature_norm.weight.double(), subject.feature_norm.bias.double())
        cosines = [[float((cell @ p / cell.norm() / p.norm()).detach()) for p in vectors[c]] for c in range(CLASSES)]
        scores = torch.tensor([max(row) for row in cosines], dtype=torch.float64)
        if subject.score_norm is None:
            expected = scores / 0.1
        else:
            weight, bias = subject.score_norm.weight.double(), subject.score_norm.bias.double()
            expected = F.layer_norm(scores, (CLASSES,), weight, bias)
        assert torch.allclose(logits[b, :, i, j], expected, atol=1e-5)


@pytest.mark.parametrize(("projection", "feature", "score"), VARIANTS)
def test_contributions_are_one_prototype_and_add_up(projection: str, feature: str, score: str) -> None:
    subject = head(projection, feature, score)
    x = torch.randn(1, DIM, 3, 5)
    logits = subject(x)[0].flatten(1).T
    cells = subject.cell_features(x)[0].flatten(1).T
    for c in range(CLASSES):
        shares = subject.contributions(cells, torch.full((15,), c))
        assert torch.allclose(shares.prototypes.sum(1) + shares.offset, logits[:, c], atol=1e-5)
        used = shares.prototypes != 0
        assert (used.sum(1) == 1).all()
        cosines = subject.activations(subject.cell_features(x))[0].flatten(1)[3 * c : 3 * c + 3]
        assert torch.equal(used.nonzero()[:, 1], 3 * c + cosines.argmax(0))
        if score == "scale":
            assert (shares.offset == 0).all()


@pytest.mark.parametrize("projection", ["none", "width_legacy"])
def test_explanations_are_complete(projection: str) -> None:
    why = model(projection=projection).eval().explain(torch.randint(0, 256, (3, 21, 34), dtype=torch.uint8))
    assert why.completeness_error(None) <= 1e-4
    assert why.unit == "prototype"
    first = why.pixel(3, 4).prototypes[0]
    assert (first.class_id, first.scale) == (why.pixel(3, 4).class_id, 0)
    assert float(why.activation_map(first.prototype).abs().max()) <= 1 + 1e-5  # a cosine


def test_a_description_rebuilds_the_head() -> None:
    subject = head("channel", "none", "scale")
    again = build_head(json.loads(json.dumps(subject.describe())))
    again.load_state_dict(subject.state_dict())
    x = torch.randn(1, DIM, 2, 2)
    assert torch.equal(again(x), subject(x))
    assert set(subject.state_dict()) == {"bank.vectors", "bank.usage", "bank.started", "bank.moves"}


def test_two_classes_need_a_scale() -> None:
    with pytest.raises(ConfigError, match=r"model\.score_norm=scale"):
        make_head(NonparametricModel(), 2, DIM)
    assert make_head(NonparametricModel(score_norm="scale"), 2, DIM).score_norm is None


def test_settings_that_nothing_reads_are_refused() -> None:
    with pytest.raises(ValueError, match=r"lr\.prototypes = 0\.1 means nothing"):
        JointConfig(steps=1, lr={"prototypes": 0.1})


def step(segmenter: Segmenter, config: JointConfig, batches: list[Batch]) -> dict[str, torch.Tensor]:
    """Loss and gradients of some batches, then one move of the prototypes."""
    loss = ClusterLoss(config)
    terms = [loss(segmenter, b) for b in batches]
    sum(t["loss"] for t in terms).div(len(batches)).backward()
    loss.move(segmenter)
    return terms[-1]


def test_prototypes_move_as_a_plain_loop_says_and_get_no_gradient() -> None:
    config = JointConfig(steps=1, lr={"neck": 1}, momentum=0.9)
    segmenter, data = model(), batch(2)
    before = segmenter.head.bank.vectors.clone()
    features = batch_features(segmenter, data)[0].detach()
    labels = resize_labels(data.masks, features.shape[-2:]).flatten()
    embeddings = segmenter.head.embed(features).detach()
    predicted = segmenter.head(features).argmax(1).flatten()
    step(segmenter, config, [data])
    expected = before.clone()
    for c in range(CLASSES):
        own = labels == c
        q = (embeddings[own] @ F.normalize(before[c], dim=1).T / 0.05).exp()
        for _ in range(3):
            q = q / q.sum(0, keepdim=True)
            q = q / q.sum(1, keepdim=True)
        for k in range(3):
            taken = (q.argmax(1) == k) & (predicted[own] == c)
            if taken.any():
                mean = F.normalize(embeddings[own][taken].sum(0), dim=0)
                expected[c, k] = F.normalize(0.9 * before[c, k] + 0.1 * mean, dim=0)
    assert (expected != before).any()
    assert torch.allclose(segmenter.head.bank.vectors, expected, atol=1e-5)
    assert not segmenter.head.bank.vectors.requires_grad
    trained = {id(p) for g in parameter_groups(segmenter, JointConfig(lr={"neck": 1, "readout": 1})) for p in g.params}
    assert id(segmenter.head.bank.vectors) not in trained
    assert len(trained) == 2 + 4  # the neck's, and two norms


def test_accumulated_batches_move_the_prototypes_once() -> None:
    config = JointConfig(steps=2, lr={"neck": 1}, momentum=0.5)
    one, data = model(), batch(4)
    halves = [Batch(masks=data.masks[i : i + 2], images=data.images[i : i + 2]) for i in (0, 2)]
    loss = ClusterLoss(config)
    loss(copy.deepcopy(one), batch(2, seed=5))  # the memory estimate's pass on a copy leaves nothing behind
    before, sums, counts = one.head.bank.vectors.clone(), 0, 0
    for half in halves:
        features = batch_features(one, half)[0]
        embeddings = one.head.embed(features).detach()
        labels = resize_labels(half.masks, features.shape[-2:]).flatten()
        predicted = one.head(features).argmax(1).flatten()
        clusters = cluster_pixels(embeddings, one.head.bank.similarities(embeddings), labels, predicted, CLASSES)
        sums, counts = sums + clusters.sums, counts + clusters.counts
        loss(one, half)
    loss.move(one)
    assert torch.allclose(one.head.bank.vectors, momentum_update(before, sums, counts, momentum=0.5), atol=1e-6)


@pytest.mark.parametrize("cross_entropy", ["grid", "quarter", "image"])
def test_cached_features_give_the_same_loss(cross_entropy: str) -> None:
    config = JointConfig(steps=1, lr={"neck": 1}, cross_entropy=cross_entropy)
    segmenter, data = model(), batch(2)
    cached = Batch(masks=data.masks, features=segmenter.encoder.backbone_features(data.images))
    a, b = (ClusterLoss(config)(segmenter, each) for each in (data, cached))
    assert all(torch.allclose(a[key], b[key]) for key in a)
    assert a["contrast"] > 0
    assert torch.allclose(a["loss"], a["cross_entropy"] + 0.01 * a["contrast"] + 0.001 * a["distance"])


def test_a_void_batch_gives_zero_and_moves_nothing() -> None:
    segmenter = model()
    before = segmenter.head.bank.vectors.clone()
    data = batch(2)
    terms = step(
        segmenter, JointConfig(steps=1, lr={"neck": 1}), [Batch(masks=data.masks * 0 + 255, images=data.images)]
    )
    assert float(terms["loss"].detach()) == 0
    assert torch.equal(segmenter.head.bank.vectors, before)
    assert all(p.grad is None or not p.grad.any() for p in segmenter.parameters())


def shared_batch(shares: tuple[int, ...]) -> Batch:
    """The images of all processes; of three the first has nothing but void."""
    data = batch(sum(shares))
    if len(shares) == 3:
        data.masks[: shares[0]] = 255
    return data


def rank_step(rank: int, port: int, out: Path, shares: tuple[int, ...]) -> None:
    """One process's part of a step: gradients averaged as DDP does."""
    torch.set_num_threads(1)
    world = len(shares)
    dist.init_process_group("gloo", init_method=f"tcp://127.0.0.1:{port}", rank=rank, world_size=world)
    segmenter, data = model(), shared_batch(shares)
    first = sum(shares[:rank])
    own = slice(first, first + shares[rank])
    config = JointConfig(steps=1, lr={"neck": 1}, momentum=0.5, sinkhorn="global", cross_entropy="quarter")
    step(segmenter, config, [Batch(masks=data.masks[own], images=data.images[own])])
    tensors = {"prototypes": segmenter.head.bank.vectors}
    for name, parameter in segmenter.named_parameters():
        dist.all_reduce(parameter.grad)
        tensors[name] = parameter.grad / world
    save_file(tensors, out / f"{rank}.safetensors")
    dist.destroy_process_group()


@pytest.mark.parametrize("shares", [(2, 2), (1, 1, 2)])
def test_processes_are_one_with_all_images(shares: tuple[int, ...], tmp_path: Path) -> None:
    """To rounding: prototypes and the gradient of everything, with unlike amounts of void on each process."""
    context, port = process_context(), free_port()
    ranks = [context.Process(target=rank_step, args=(r, port, tmp_path, shares)) for r in range(len(shares))]
    for process in ranks:
        process.start()
    segmenter, data = model(), shared_batch(shares)
    config = JointConfig(steps=1, lr={"neck": 1}, momentum=0.5, cross_entropy="quarter")
    step(segmenter, config, [data])
    expected = {"prototypes": segmenter.head.bank.vectors}
    expected |= {name: parameter.grad for name, parameter in segmenter.named_parameters()}
    for rank, process in enumerate(ranks):
        process.join(60)
        assert process.exitcode == 0
        for key, value in load_file(tmp_path / f"{rank}.safetensors").items():
            assert torch.allclose(value, expected[key], atol=1e-5), key


def test_seeded_prototypes_are_cells_of_their_class(tmp_path: Path) -> None:
    linear = "stages.linear={steps: 2, lr: {neck: 1.0e-3, readout: 1.0e-3}}"
    result = train(tmp_path / "run", linear, "stages.seed.start=features", "train.stages=[linear,seed]")
    dataset, bank = build_dataset(two_steps("nonparametric").data, "train"), result.head.bank
    on_pixel = torch.zeros(bank.num_prototypes, dtype=torch.bool)
    for index in range(len(dataset)):
        features = image_features(result, dataset, index)
        labels = resize_labels(dataset[index].mask.long()[None], features.shape[-2:])[0]
        same = result.head.activations(features)[0] > 1 - 1e-5
        on_pixel |= (same & (labels == bank.class_of[:, None, None])).flatten(1).any(1)
    seeded = json.loads((tmp_path / "run/stages/seed/result.json").read_text())["seeded"]
    assert seeded == bank.num_prototypes == int(on_pixel.sum())


def test_traced_patches_are_the_nearest_and_prototypes_stay(tmp_path: Path) -> None:
    result = train(tmp_path / "run")
    before = Segmenter.load(tmp_path / "run/stages/joint/model").head.bank.vectors
    assert torch.equal(result.head.bank.vectors, before)
    dataset, bank = build_dataset(two_steps("nonparametric").data, "train"), result.head.bank
    best = torch.full((bank.num_prototypes,), -1.0)
    for index in range(len(dataset)):
        features = image_features(result, dataset, index)
        labels = resize_labels(dataset[index].mask.long()[None], features.shape[-2:])[0]
        own = labels == bank.class_of[:, None, None]
        best = torch.maximum(
            best, result.head.activations(features)[0].detach().masked_fill(~own, -1).flatten(1).amax(1)
        )
    assert result.provenance is not None
    for p, source in enumerate(result.provenance.sources):
        assert source is not None
        features = image_features(result, dataset, dataset.names.index(source.image))
        here = result.head.activations(features)[0, p, source.cell[0], source.cell[1]].detach()
        assert abs(float(here) - float(best[p])) < 1e-5
        assert source.patch in result.patches
    shown = cards(result)
    assert len(shown) == bank.num_prototypes
    assert all(card.used and card.patch for card in shown)


def test_a_black_box_may_be_the_start(tmp_path: Path) -> None:
    box = METHODS["blackbox"]
    value = apply_overrides(read_recipe(f"{box.name}/scenes"), [*SMALL, "stages.joint.steps=1"])
    run(box, validate_recipe(value, box.recipe), tmp_path / "box", quiet=True)
    result = train(tmp_path / "run", f"train.start={tmp_path / 'box'}", "train.stages=[joint]")
    assert isinstance(result.head, NearestHead)


def test_collapsed_classes_are_named(tmp_path: Path) -> None:
    run_result = train(tmp_path / "run", "train.stages=[joint]")
    run_result.head.bank.vectors[2] = run_result.head.bank.vectors[2, :1]
    run_result.save(tmp_path / "start")
    train(tmp_path / "again", f"train.start={tmp_path / 'start'}", "train.stages=[trace]")
    result = json.loads((tmp_path / "again/stages/trace/result.json").read_text())
    assert result["collapsed_classes"] == [run_result.classes.names[2]]
