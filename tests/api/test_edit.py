"""Edits change exactly what they say: checked against naive sums over prototypes, and end to end."""

from __future__ import annotations

import json
import shutil
from importlib import import_module
from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from rescored import rescore_heads
from tiny_runs import GROUPS, SMALL
from tiny_segmenters import segmenter

import segproto
from segproto.api.edit_words import parse_pair
from segproto.errors import ConfigError, WeightsError
from segproto.evaluation.rescore import EncoderFeatures
from segproto.model.direction_head import DirectionBank, DirectionHead
from segproto.model.edit import edited, merge_leaders
from segproto.model.heads import GroupedHead, NearestHead, PrototypeHead
from segproto.model.segmenter import Segmenter
from segproto.prototypes.cosine_bank import CosineBank
from segproto.runs.folder import Run
from segproto.training.procedures.forgotten import Forgotten, Marked, penalty

CLASSES, PROTOTYPES = 4, 16


def features(seed: int = 0) -> torch.Tensor:
    return torch.rand(1, 6, 3, 5, generator=torch.Generator().manual_seed(seed))


def naive_logits(model: Segmenter, x: torch.Tensor, without: set[int], forbidden: set[tuple[int, int]]) -> torch.Tensor:
    """Logits in float64, cell by cell, leaving prototypes out of every sum."""
    head = model.head
    bank = head.bank
    out = torch.zeros(head.num_classes, *x.shape[2:], dtype=torch.float64)
    for i in range(x.shape[2]):
        for j in range(x.shape[3]):
            activations = []
            for p in range(bank.num_prototypes):
                s = int(bank.scale_of[p])
                cell = x[0, s * bank.dim : (s + 1) * bank.dim, i, j].double()
                d = (cell - bank.vectors[p].detach().double()).square().sum()
                activations.append(torch.log((d + 1) / (d + 1e-4)))
            if isinstance(head, GroupedHead):
                units = []
                for g, row in enumerate(head.grouping.dense().detach().double()):
                    kept = [p for p in range(bank.num_prototypes) if p not in without and (g, p) not in forbidden]
                    units.append(torch.exp(sum(row[p] * activations[p] for p in kept)))
                out[:, i, j] = head.readout.detach().double() @ torch.stack(units)
            else:
                for p in set(range(bank.num_prototypes)) - without:
                    out[:, i, j] += head.readout.detach().double()[:, p] * activations[p]
    return out


@pytest.mark.parametrize("kind", ["prototype", "grouped"])
def test_dropping_leaves_prototypes_out_of_every_sum(kind: str) -> None:
    model, x = segmenter(kind, sources=True), features()
    without = {1, 9, 14}
    after, kept = edited(model, drop=sorted(without))
    assert kept == [p for p in range(PROTOTYPES) if p not in without]
    assert torch.allclose(after.head(x)[0].double(), naive_logits(model, x, without, set()), rtol=2e-4, atol=1e-3)
    assert after.provenance is not None
    assert [s.image for s in after.provenance.sources[:-1]] == [f"img{p}" for p in kept[:-1]]
    assert after.provenance.edits == ("dropped prototypes 1, 9, 14",)
    assert set(after.patches) == {f"{p}.png" for p in kept[:-1]}


def test_forbidding_in_one_group_leaves_the_others_alone() -> None:
    model, x = segmenter("grouped"), features(1)
    dense = model.head.grouping.dense()
    group, prototype = next((g, int(row.argmax())) for g, row in enumerate(dense) if (row > 0).sum() > 1)
    after, _ = edited(model, forbid=[(group, prototype)])
    expected = naive_logits(model, x, set(), {(group, prototype)})
    assert torch.allclose(after.head(x)[0].double(), expected, rtol=2e-4, atol=1e-3)
    changed = (after.head.grouping.dense() != dense).nonzero().tolist()
    assert changed == [[group, prototype]]


def test_the_original_is_untouched_and_the_encoder_shared() -> None:
    model, x = segmenter("grouped", sources=True), features(2)
    before = model.head(x).clone()
    after, _ = edited(model, drop=[0, 3])
    assert torch.equal(model.head(x), before)
    assert after.encoder is model.encoder
    assert model.card == {}
    assert model.provenance is not None
    assert model.provenance.edits == ()


@given(st.sets(st.integers(0, PROTOTYPES - 1), min_size=1, max_size=12))
@settings(max_examples=25, deadline=None)
def test_made_up_groups_keep_their_sums(drop: set[int]) -> None:
    model = segmenter("grouped")
    after, kept = edited(model, drop=sorted(drop), renormalise=True)
    before = model.head.grouping.dense().detach()
    old = {int(c): before[model.head.grouping.class_of_group == c] for c in model.head.grouping.class_of_group}
    new = after.head.grouping.dense().detach()
    for c in after.head.grouping.class_of_group.unique().tolist():
        rows, was = new[after.head.grouping.class_of_group == c], old[c]
        lost_all = was[:, kept].sum(1) == 0
        assert torch.allclose(rows.sum(1), torch.where(lost_all, 0, was.sum(1)), atol=1e-5)
        part = was[:, kept]
        assert torch.allclose(rows * part.sum(1, keepdim=True), part * was.sum(1, keepdim=True), atol=1e-5)


def test_a_class_that_loses_everything_loses_its_groups() -> None:
    model = segmenter("grouped")
    own = (model.head.bank.class_of == 2).nonzero()[:, 0].tolist()
    after, _ = edited(model, drop=own)
    assert 2 not in after.head.grouping.class_of_group.tolist()
    assert after.head.readout.shape == (CLASSES, after.head.grouping.num_groups)
    rows = model.head.grouping.class_of_group != 2
    assert torch.equal(after.head.readout, model.head.readout[:, rows])


@pytest.mark.parametrize("kind", ["prototype", "grouped"])
def test_merging_equal_prototypes_changes_no_logit(kind: str) -> None:
    model, x = segmenter(kind), features(3)
    with torch.no_grad():
        model.head.bank.vectors[1] = model.head.bank.vectors[0]  # class 0, scale 0, both
        model.head.bank.vectors[9] = model.head.bank.vectors[8]
        model.head.bank.vectors[2] = model.head.bank.vectors[4]  # other classes: no duplicates
    after, kept = edited(model, merge_within=0.0)
    assert kept == [p for p in range(PROTOTYPES) if p not in {1, 9}]
    assert torch.allclose(after.head(x), model.head(x), rtol=1e-5, atol=1e-4)
    assert after.card["edits"] == ["merged prototypes 1 into 0, 9 into 8"]


def test_chains_of_near_prototypes_end_in_the_first() -> None:
    model = segmenter("prototype", classes=1)
    model.head = PrototypeHead(type(model.head.bank).regular(1, 4, 1, 2))
    with torch.no_grad():
        model.head.bank.vectors.copy_(torch.tensor([[0.0, 0], [0.1, 0], [0.2, 0], [0.9, 0]]))
    assert merge_leaders(model, 0.0101).tolist() == [0, 0, 0, 3]
    assert merge_leaders(model, 0.0099).tolist() == [0, 1, 2, 3]


def nearest_model() -> Segmenter:
    model = segmenter("prototype", classes=3)
    torch.manual_seed(4)
    model.head = NearestHead(CosineBank(torch.randn(3, 4, 6)), score_norm="scale")
    return model


def test_a_nearest_head_scores_by_what_is_left() -> None:
    model, x = nearest_model(), features(5)
    drop = [0, 1, 6]
    after, kept = edited(model, drop=drop)
    cosines = model.head.activations(x)[0].double()
    cosines[drop] = -torch.inf
    expected = cosines.view(3, 4, *x.shape[2:]).amax(1) / model.head.temperature
    assert torch.allclose(after.head(x)[0].double(), expected, atol=1e-5)
    assert after.head.bank.per_class == 4
    assert kept == [2, 3, 2, 2, 4, 5, 7, 4, 8, 9, 10, 11]
    with pytest.raises(ConfigError, match="class class1 would have no prototype"):
        edited(model, drop=[4, 5, 6, 7])


def test_directions_of_categories_are_not_edited() -> None:
    """A category is one direction: each way to take one out ends in one line, and the model stays as it was."""
    model = segmenter("prototype", classes=3)
    model.head = DirectionHead(DirectionBank(torch.randn(3, 6, generator=torch.Generator().manual_seed(5))))
    before = model.head.bank.directions.clone()
    for options in ({"drop": [1]}, {"merge_within": 0.1}):
        with pytest.raises(
            ConfigError, match="a directions head has one prototype per class and cannot do without any"
        ):
            edited(model, **options)
    with pytest.raises(ConfigError, match="a directions head has no groups to forbid a prototype in"):
        edited(model, forbid=[(0, 1)])
    assert torch.equal(model.head.bank.directions, before)


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({}, "nothing to edit"),
        ({"drop": [99]}, "prototype 99: there is none"),
        ({"drop": list(range(PROTOTYPES))}, "leaves nothing to decide by"),
        ({"forbid": [(99, 0)]}, "group 99: there is none"),
        ({"forbid": [(0, 15)]}, "prototype 15 is not in group 0"),
        ({"merge_within": -1.0}, "expected a squared distance"),
    ],
)
def test_what_cannot_be_done_is_said_in_a_line(options: dict[str, object], words: str) -> None:
    with pytest.raises(ConfigError, match=words):
        edited(segmenter("grouped"), **options)  # type: ignore[arg-type]
    with pytest.raises(ConfigError, match="black box"):
        edited(segmenter("linear"), drop=[0])


def test_groups_are_named_by_number_or_by_class() -> None:
    model = segmenter("grouped")
    assert parse_pair("7:12", model) == (7, 12)
    assert parse_pair("class2/2:5", model) == (5, 5)
    wrong = {"7": "expected GROUP:PROTOTYPE", "cat/1:3": "no class 'cat'", "class1/3:3": "groups 1..2"}
    for text, words in wrong.items():
        with pytest.raises(ConfigError, match=words):
            parse_pair(text, model)


def test_the_penalty_is_one_at_a_match_and_moves_prototypes_away() -> None:
    model = segmenter("prototype")
    bank = model.head.bank
    patch = torch.rand(1, 6)
    with torch.no_grad():
        bank.vectors[2] = patch[0, :3]  # class 1, scale 0
    marked = Marked(patch, torch.tensor([1]), 2)
    assert penalty(marked, bank).item() == pytest.approx(1, abs=1e-4)
    assert penalty(Marked(patch, torch.tensor([3]), 2), bank).item() < 0.9
    with torch.no_grad():
        bank.vectors[2] += 0.05
    penalty(marked, bank).backward()
    assert bank.vectors.grad is not None
    assert (bank.vectors.grad[2] < 0).all()  # a step against the gradient goes on in the direction away
    assert bank.vectors.grad[[p for p in range(PROTOTYPES) if p != 2]].abs().max() == 0


@pytest.fixture(scope="module")
def run(scaleproto_run: Path) -> Path:
    return scaleproto_run


def test_an_edit_is_scored_saved_and_told(run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SEGPROTO_CACHE", str(tmp_path / "cache"))
    figures = segproto.edit(run, out=tmp_path / "less", drop=[0, 5], quiet=True)
    assert figures["miou"]["before"] == pytest.approx(segproto.evaluate(run)["miou"], abs=1e-9)
    data = {"name": "scenes", "scenes": {"size": 64, "num_train": 24, "num_val": 4}}
    again = segproto.evaluate(tmp_path / "less", data=data)
    assert figures["miou"]["after"] == pytest.approx(again["miou"], abs=1e-9)
    for row, scored in zip(figures["per_class"], again["per_class"], strict=True):
        assert row["after"] == pytest.approx(scored["iou"], abs=1e-9)
    model = segproto.load(tmp_path / "less")
    assert model.provenance is not None
    assert model.provenance.edits == ("dropped prototypes 0, 5",)
    assert json.loads((tmp_path / "less" / "edit.json").read_text())["edits"] == figures["edits"]
    assert figures["images_from_cache"] == 0
    second = segproto.edit(run, out=tmp_path / "other", drop=[1], quiet=True)
    assert second["images_from_cache"] == second["images"]
    with pytest.raises(ConfigError, match="is taken"):
        segproto.edit(run, out=tmp_path / "less", drop=[1], quiet=True)


def test_an_edit_interrupted_at_its_record_can_be_repeated(
    run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def interrupted(*_: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(import_module("segproto.api.edit"), "record", interrupted)
        with pytest.raises(KeyboardInterrupt):
            segproto.edit(run, drop=[1], score=False, out=tmp_path / "less", quiet=True)
    assert not list(tmp_path.iterdir())
    segproto.edit(run, drop=[1], score=False, out=tmp_path / "less", quiet=True)
    assert sorted(p.name for p in tmp_path.iterdir()) == ["less"]


def test_a_cut_off_cache_file_is_computed_again(run: Path, tmp_path: Path) -> None:
    from segproto.data.build import build_dataset
    from segproto.runs.settings import data_config

    model = segproto.load(run)
    dataset = build_dataset(data_config(run, {}, ()), "val")
    first = EncoderFeatures(model, dataset, tmp_path)
    whole = rescore_heads(first, [model.head])
    file = sorted(tmp_path.rglob("*.safetensors"))[0]
    file.write_bytes(file.read_bytes()[:100])
    again = EncoderFeatures(model, dataset, tmp_path)
    assert rescore_heads(again, [model.head])[0]["confusion"] == whole[0]["confusion"]
    assert again.reused == len(dataset) - 1


def test_forgetting_trains_and_nothing_comes_back(run: Path, tmp_path: Path) -> None:
    before = segproto.load(run)
    assert before.provenance is not None
    settings = ["stages.forget.steps=3", "stages.forget.retune_steps=2"]
    figures = segproto.edit(run, out=tmp_path / "forgot", forget=[3], overrides=settings, quiet=True)
    after = segproto.load(tmp_path / "forgot")
    assert after.provenance is not None
    assert after.provenance.sources[3] != before.provenance.sources[3]
    assert any("forget" in words for words in after.provenance.edits)
    marked = Forgotten.of(after, after.head.bank)
    distances, alike = marked.to_prototypes(after.head.bank)
    assert marked.radii is not None
    assert bool((distances > marked.radii[:, after.head.bank.scale_of])[alike].all())
    source, own = before.provenance.sources[3], int(after.head.bank.class_of[3])
    assert source is not None
    assert (source.image, source.cell) not in [
        (s.image, s.cell) for p, s in enumerate(after.provenance.sources) if s and after.head.bank.class_of[p] == own
    ]
    assert torch.allclose(after.head.grouping.dense().sum(1), torch.ones(1), atol=0.3)
    others, columns = after.head.bank.class_of != own, after.head.grouping.class_of_group != own
    assert torch.equal(after.head.bank.vectors[others], before.head.bank.vectors[others])
    for p in others.nonzero()[:, 0].tolist():
        old, new = before.provenance.sources[p], after.provenance.sources[p]
        assert old is not None
        assert new is not None
        assert (new.image, new.cell) == (old.image, old.cell)
        assert after.patches[new.patch] == before.patches[old.patch]
    assert torch.equal(after.head.grouping.dense()[columns], before.head.grouping.dense()[columns])
    assert torch.equal(after.head.readout[:, columns], before.head.readout[:, columns])
    assert not torch.equal(after.head.readout[:, ~columns], before.head.readout[:, ~columns])
    assert figures["miou"]["after"] == pytest.approx(segproto.evaluate(tmp_path / "forgot")["miou"], abs=1e-9)
    result = json.loads((tmp_path / "forgot" / "stages" / "reproject" / "result.json").read_text())
    assert result["nearest_to_forgotten"] > 1
    [row] = figures["forgotten"]
    rows = (distances[0] / marked.radii[0, after.head.bank.scale_of]).sqrt()
    assert row["prototype"] == 3
    assert row["nearest"] == int(rows.masked_fill(~alike[0], 1e9).argmin())
    assert row["times_radius"] == pytest.approx(result["nearest_to_forgotten"])


def test_sources_of_resting_prototypes_stay_while_others_forget(run: Path, tmp_path: Path) -> None:
    before, settings = segproto.load(run), ["stages.forget.steps=2", "stages.forget.retune_steps=2"]
    segproto.edit(run, out=tmp_path / "forgot", forget=[3], overrides=settings, quiet=True)
    assert before.provenance is not None
    own = before.head.bank.class_of == before.head.bank.class_of[3]
    expected = [None if mine else s for s, mine in zip(before.provenance.sources, own.tolist(), strict=True)]
    for stage in ("mark", "forget"):
        during = segproto.load(tmp_path / "forgot", stage=stage)
        assert during.provenance is not None
        assert list(during.provenance.sources) == expected
        assert set(during.patches) == {source.patch for source in expected if source is not None}


def test_models_that_kept_what_they_forgot_in_their_card_load(run: Path, tmp_path: Path) -> None:
    settings = ["stages.forget.steps=2", "stages.forget.retune_steps=2"]
    segproto.edit(run, out=tmp_path / "forgot", forget=[3], overrides=settings, quiet=True)
    folder = tmp_path / "forgot" / "stages" / "forget" / "model"
    now = segproto.load(folder)
    assert now.provenance is not None
    assert not {"forgotten", "resting"} & now.card.keys()
    value = json.loads((folder / "model.json").read_text())
    value["card"] |= {"forgotten": value.pop("forgotten"), "resting": now.provenance.to_json()["sources"]}
    (folder / "model.json").write_text(json.dumps(value))
    (folder / "prototypes.json").unlink()
    (folder / "SHA256SUMS").unlink()  # there were none then
    older = segproto.load(folder)
    assert older.forgotten == now.forgotten
    assert len(now.forgotten) == 1
    assert older.provenance is not None
    assert older.provenance.sources == now.provenance.sources
    assert not {"forgotten", "resting"} & older.card.keys()
    value["card"]["forgotten"][0]["class"] = 99
    (folder / "model.json").write_text(json.dumps(value))
    with pytest.raises(WeightsError, match=r"model.json: forgotten: a patch of class 99 .* has 8 classes"):
        segproto.load(folder)
    value["card"]["forgotten"][0]["radii"] = "wide"
    (folder / "model.json").write_text(json.dumps(value))
    with pytest.raises(WeightsError, match=r"model.json: forgotten.0.radii = 'wide'"):
        segproto.load(folder)


@pytest.mark.parametrize("where", ["training", "scoring"])
def test_an_interrupted_run_that_forgets_leaves_its_record_when_resumed(
    where: str, run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    module = import_module("segproto.api.edit")
    from segproto.training import runner

    settings = ["stages.forget.steps=2", "stages.forget.retune_steps=2"]
    uninterrupted = segproto.edit(run, out=tmp_path / "whole", forget=[3], overrides=settings, quiet=True)
    stop = {"training": (runner.Loop, "run"), "scoring": (module, "scored")}[where]

    def interrupted(*_: object, **__: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(*stop, interrupted)
        with pytest.raises(KeyboardInterrupt):
            segproto.edit(run, out=tmp_path / "cut", forget=[3], overrides=settings, quiet=True)
    assert not (tmp_path / "cut" / "edit.json").exists()
    segproto.train(resume=tmp_path / "cut", quiet=True)
    figures = json.loads((tmp_path / "cut" / "edit.json").read_text())
    same = [
        key
        for key in uninterrupted
        if key not in ("seconds", "seconds_of_change", "command", "images_from_cache", "file")
    ]
    assert {key: figures[key] for key in same} == {key: uninterrupted[key] for key in same}
    first = (tmp_path / "cut" / "edit.json").stat().st_mtime_ns
    segproto.train(resume=tmp_path / "cut", quiet=True)
    assert (tmp_path / "cut" / "edit.json").stat().st_mtime_ns == first
    segproto.train(resume=run, quiet=True)
    assert not (run / "edit.json").exists()


def test_a_record_without_its_model_before_is_left_out_with_a_line(
    run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    settings = ["stages.forget.steps=2", "stages.forget.retune_steps=2"]
    before = tmp_path / "before"
    shutil.copytree(run, before)
    segproto.edit(before, out=tmp_path / "forgot", forget=[3], overrides=settings, quiet=True)
    (tmp_path / "forgot" / "edit.json").unlink()
    shutil.rmtree(before)
    segproto.train(resume=tmp_path / "forgot")
    assert "no longer there" in capsys.readouterr().err
    assert not (tmp_path / "forgot" / "edit.json").exists()


def test_thresholds_equal_scoring_each_model_alone(run: Path) -> None:
    result = segproto.ablate_thresholds(run, thresholds=[0.2, 0.0, 0.05], quiet=True)
    assert [row["tau"] for row in result["rows"]] == [0.0, 0.05, 0.2]
    assert result["stage"] == "group_joint"
    assert Path(result["file"]).with_suffix(".png").is_file()
    for row in result["rows"]:
        model = segproto.load(run, stage="group_joint")
        model.head.grouping.threshold_(row["tau"])
        from segproto.data.build import build_dataset
        from segproto.evaluation.validate import validate
        from segproto.runs.settings import data_config

        scored = validate(model, build_dataset(data_config(run, {}, ()), "val"))
        assert row["miou"] == pytest.approx(scored["miou"], abs=1e-9)
        assert row["prototypes_used"] == int((model.head.grouping.dense() > 0).any(0).sum())


@pytest.mark.slow
def test_ablations_train_both_variants_and_go_on(tmp_path: Path) -> None:
    small = [*SMALL, *GROUPS]
    result = segproto.ablate_entropy("scaleproto/scenes", out=tmp_path / "e", overrides=small, quiet=True)
    assert [row["name"] for row in result["rows"]] == ["recipe", "without-entropy"]
    off = Run(tmp_path / "e" / "without-entropy" / "seed0").recipe["stages"]
    assert (off["group_warmup"]["entropy"], off["group_joint"]["entropy"]) == (0, 0)
    assert all(0 <= row["group_overlap"]["mean"] <= 1 for row in result["rows"])
    again = segproto.ablate_entropy("scaleproto/scenes", out=tmp_path / "e", overrides=small, quiet=True)
    assert [row["miou"] for row in again["rows"]] == [row["miou"] for row in result["rows"]]
    scales = segproto.ablate_scales("scaleproto/scenes", out=tmp_path / "s", overrides=small, quiet=True)
    heads = [segproto.load(tmp_path / "s" / name / "seed0").head for name in ("2-scales", "1-scale")]
    assert [head.bank.num_scales for head in heads] == [2, 1]
    starts = [Run(tmp_path / "s" / row["name"] / "seed0").recipe["model"]["prototypes"] for row in scales["rows"]]
    assert starts == [3, 6]
    readied = segproto.ablate_starts(
        "scaleproto/scenes", out=tmp_path / "r", overrides=[*small, "stages.linear.gain=4"], quiet=True
    )
    assert [row["name"] for row in readied["rows"]] == ["recipe", "random-groups", "raw-warmup"]
    begun = [Run(tmp_path / "r" / row["name"] / "seed0").recipe["stages"] for row in readied["rows"]]
    assert [(s["group_seed"]["start"], s["linear"]["gain"]) for s in begun] == [
        ("readout", 4),
        ("random", 4),
        ("readout", None),
    ]
    with pytest.raises(ConfigError, match="nothing to leave out"):
        segproto.ablate_starts("protoseg/em", out=tmp_path / "x")
    with pytest.raises(ConfigError, match="nothing to switch off"):
        segproto.ablate_entropy("protoseg/scenes", out=tmp_path / "x")
    with pytest.raises(ConfigError, match="no scales to compare"):
        segproto.ablate_scales("protoseg/scenes", out=tmp_path / "x")


def test_starts_without_a_warmup_are_nothing_to_leave_out(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A gain is read by no classifier where the warm-up takes no steps: both variants would be the same run."""
    monkeypatch.setattr("segproto.api.ablate.compare_variants", lambda recipe, variants, **options: list(variants))
    with pytest.raises(ConfigError, match="nothing to leave out"):
        segproto.ablate_starts("protoseg/scenes", out=tmp_path, overrides=["stages.linear.steps=0"], quiet=True)
    assert segproto.ablate_starts("protoseg/scenes", out=tmp_path, quiet=True) == ["recipe", "raw-warmup"]
