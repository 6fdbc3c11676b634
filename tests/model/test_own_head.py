"""A head that the package does not know: the example of docs/extend/head.md, asked all that heads are asked."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import tiny_segmenters as tiny
import torch

from segproto.encoders.build import build_encoder
from segproto.encoders.config import EncoderConfig
from segproto.errors import ConfigError, WeightsError
from segproto.evaluation.interpretability.cost import used_parameters
from segproto.evaluation.interpretability.sanity import randomised_copies
from segproto.interop.export import Graph
from segproto.model.edit import edited
from segproto.model.head import Head
from segproto.model.heads import HEADS, KINDS
from segproto.model.ood import predict_scored
from segproto.model.segmenter import Segmenter
from segproto.prototypes.bank import PrototypeBank
from segproto.report.gallery import unit_weights
from segproto.report.wording import relation
from segproto.training.procedures.config import DiversityConfig, LearningRates, OptimiseConfig
from segproto.training.procedures.optimise import StageLoss, parameter_groups
from segproto.training.procedures.seeding import begin_prototypes

PAGE = Path(__file__).parents[2] / "docs" / "extend" / "head.md"
CLASSES = 4


@pytest.fixture
def voting(monkeypatch: pytest.MonkeyPatch) -> Iterator[type[Head]]:
    """The page's head, known while a test runs."""
    monkeypatch.setattr(HEADS, "_entries", dict(HEADS))
    names: dict[str, Any] = {"__name__": "example"}
    code = re.search(r"```python\n(.*?)```", PAGE.read_text(), re.S)
    assert code is not None
    exec(compile(code[1], PAGE.name, "exec"), names)
    return names["VotingHead"]


@pytest.fixture
def model(voting: type[Head]) -> Segmenter:
    """A tiny segmenter with that head, its votes uneven."""
    segmenter = tiny.segmenter("prototype", CLASSES, sources=True)
    segmenter.head = voting(segmenter.head.bank)
    with torch.no_grad():
        segmenter.head.votes.normal_(generator=torch.Generator().manual_seed(0))
    return segmenter.eval()


def features(seed: int = 0) -> torch.Tensor:
    return torch.rand(2, tiny.DIM * tiny.SCALES, 5, 7, generator=torch.Generator().manual_seed(seed))


def test_contributions_add_up_to_the_logits(model: Segmenter) -> None:
    x, head = features(), model.head
    cells = head.cell_features(x).permute(0, 2, 3, 1).flatten(0, 2)
    logits = head(x).permute(0, 2, 3, 1).flatten(0, 2)
    for c in range(CLASSES):
        shares = head.contributions(cells, torch.full((len(cells),), c))
        torch.testing.assert_close(shares.prototypes.sum(1) + shares.offset, logits[:, c], atol=1e-5, rtol=1e-5)
        assert bool((shares.prototypes[:, head.bank.class_of != c] == 0).all())
    why = model.explain(tiny.image(24, 30))
    assert why.unit == "prototype"
    assert why.completeness_error(sample=None) <= 1e-4


def test_what_it_is_asked_has_an_answer(model: Segmenter) -> None:
    x, head = features(), model.head
    seen = head.read(x)
    torch.testing.assert_close(seen.logits, head(x))
    torch.testing.assert_close(seen.activations, head.bank.activations(x))
    torch.testing.assert_close(seen.distances, head.bank.distances(x))
    assert head.figures() == {}
    assert [len(part) for part in head.parts()] == [1, 0, 1]
    assert head.parts().readout[0] is head.votes
    assert torch.equal(head.class_of_unit(), head.bank.class_of)
    assert relation(model) == "equal"
    softplus = (1 + head.votes.exp()).log()
    shown = unit_weights(model)
    assert [name for ((name, _),) in shown] == ["weight"] * head.bank.num_prototypes
    torch.testing.assert_close(torch.tensor([weight for ((_, weight),) in shown]), softplus.detach())
    bank = head.bank
    assert used_parameters(model) == bank.vectors.numel() + CLASSES * bank.num_prototypes - bank.dim * CLASSES
    assert [name for name, _ in randomised_copies(model, 0)] == ["readout", "prototypes", "encoder"]
    familiarity = predict_scored(model, tiny.image(20, 20))[1]
    assert 0 < float(familiarity.min()) <= float(familiarity.max()) <= 1  # by distance, without a line of its own


def test_a_step_moves_prototypes_and_votes(model: Segmenter) -> None:
    from segproto.data.batch import Batch

    config = OptimiseConfig(steps=1, diversity=0.1, l1=1e-4, lr=LearningRates(neck=1e-2, prototypes=1e-2, readout=1e-2))
    groups = parameter_groups(model, config)
    assert [len(group.params) for group in groups] == [2, 1, 1]
    masks = torch.randint(CLASSES, (2, 20, 28), generator=torch.Generator().manual_seed(1))
    terms = StageLoss(config, DiversityConfig())(model, Batch(masks=masks, images=torch.rand(2, 3, 20, 28)))
    assert set(terms) == {"loss", "cross_entropy", "diversity", "l1"}
    terms["loss"].backward()
    assert float(model.head.votes.grad.abs().sum()) > 0
    assert float(model.head.bank.vectors.grad.abs().sum()) > 0


def test_methods_with_prototypes_keep_it(model: Segmenter) -> None:
    """A stage of prototypes begins with it as it is."""
    before = model.head
    begin_prototypes(model, lambda _: PrototypeBank.regular(CLASSES, 1, 1, 2), -0.5)
    assert model.head is before


def test_prototypes_can_be_dropped_and_merged(model: Segmenter) -> None:
    x = features()
    after, kept = edited(model, drop=[0, 3])
    assert kept == [p for p in range(model.head.bank.num_prototypes) if p not in {0, 3}]
    assert after.provenance.sources == tuple(model.provenance.sources[p] for p in kept)
    own = (1 + model.head.votes.exp()).log() * (torch.arange(CLASSES)[:, None] == model.head.bank.class_of)
    expected = torch.einsum("cp,bphw->bchw", own[:, kept], model.head.bank.activations(x)[:, kept])
    torch.testing.assert_close(after.head(x), expected, atol=1e-4, rtol=1e-4)
    with torch.no_grad():
        model.head.bank.vectors[1] = model.head.bank.vectors[0]
    merged, kept = edited(model, merge_within=0.0)
    assert 1 not in kept
    torch.testing.assert_close(merged.head(x), model.head(x), atol=1e-4, rtol=1e-4)


def test_its_file_names_the_kind_and_loads_where_that_is_known(
    model: Segmenter, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = EncoderConfig(name="unet", width=2, dim=tiny.DIM, rates=[1] * tiny.SCALES)
    model = Segmenter(build_encoder(config, load_weights=False), model.head, model.classes)
    model.save(tmp_path / "model")
    again = Segmenter.load(tmp_path / "model")
    assert type(again.head) is type(model.head)
    torch.testing.assert_close(again.head(features()), model.head(features()))
    monkeypatch.delitem(HEADS._entries, "voting")
    with pytest.raises(WeightsError, match=r"head kind 'voting' is unknown here .*HEADS\.register"):
        Segmenter.load(tmp_path / "model")


def test_a_shipped_name_is_taken(voting: type[Head]) -> None:
    assert voting.kind in HEADS
    with pytest.raises(ConfigError, match="head 'linear' is shipped"):
        HEADS.register(type("Mine", (voting,), {"kind": "linear"}))
    assert {kind.kind for kind in KINDS} <= set(HEADS)


def test_its_graph_shows_activations_and_distances(model: Segmenter) -> None:
    graph = Graph(model).eval()
    assert graph.outputs == ("logits", "mask", "activations", "distances")
    image = tiny.image(32, 40)[None]
    with torch.no_grad():
        logits, mask, activations, distances = graph(image)
    assert torch.equal(mask[0].long(), logits[0].argmax(0))
    assert activations.shape == distances.shape == (1, model.head.bank.num_prototypes, 8, 10)
