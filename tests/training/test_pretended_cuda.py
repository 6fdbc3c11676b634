"""Every method on a GPU that is none: nothing on the wrong device, no waiting in a step, the numbers of the CPU."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from contextlib import nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from PIL import Image
from pretended_cuda import CUDA, OnCuda, PretendedCuda
from safetensors.torch import load_file
from two_steps import smaller

from segproto import analyse, edit, evaluate, explain, predict
from segproto.data.batch import Batch
from segproto.data.build import build_dataset
from segproto.methods import METHODS
from segproto.model.heads import GroupedHead, cell_activations
from segproto.model.segmenter import Segmenter
from segproto.prototypes.bank import PrototypeBank
from segproto.prototypes.group_start import group_coactivating_
from segproto.prototypes.readout import distilled_readout, fitted_readout
from segproto.refine.affinity import affinity, cell_pairs
from segproto.refine.crf import dense_crf
from segproto.refine.crf_settings import CRF_SETS
from segproto.refine.random_walk import random_walk
from segproto.training.devices import arrange
from segproto.training.runner import run
from segproto.training.stage import Optimise

# Where the first step of a stage may make a GPU wait; no later step may.
ONCE_A_STAGE = {
    "methods/primaps/em.py:EmLoss.done": "the steps taken so far are read, and counted on the host from then on",
    "prototypes/diversity.py:DiversityLoss.__init__": "the loss is built with the first batch",
    "prototypes/diversity.py:_slot_table": "so is its table of prototypes",
    "prototypes/labels.py:nearest_table": "a table for one size of image, kept",
    "prototypes/numerics.py:constant": "a few numbers, kept",
}


@dataclass(frozen=True)
class Trained:
    name: str
    cpu: Path
    cuda: Path
    gpu: PretendedCuda


@pytest.fixture(scope="module", params=sorted(METHODS))
def trained(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Trained:
    name: str = request.param
    folder, gpu, recipe = tmp_path_factory.mktemp(name), PretendedCuda(), smaller(name)
    recipe = recipe.model_copy(update={"train": recipe.train.model_copy(update={"precision": "32-true"})})
    run(METHODS[name], recipe, folder / "cpu", quiet=True)
    with gpu.running():
        run(METHODS[name], recipe, folder / "cuda", quiet=True)
    return Trained(name, folder / "cpu", folder / "cuda", gpu)


@pytest.mark.filterwarnings("ignore:'pin_memory' argument:UserWarning")
class TestEveryMethod:
    def test_no_step_makes_the_gpu_wait(self, trained: Trained) -> None:
        steps = [s for s in METHODS[trained.name].stages(smaller(trained.name)) if isinstance(s, Optimise) and s.steps]
        for stage in steps:
            assert stage.steps == 2
            assert trained.gpu.operators[f"{stage.name} step 1"] > 50, "the step did not run on the GPU"
        first, later = [], []
        for wait in trained.gpu.waits:
            if wait.phase.endswith(" step 0"):
                first += [wait] if wait.place not in ONCE_A_STAGE else []
            elif " step " in wait.phase:
                later.append(wait)
        assert not first
        assert not later

    def test_losses_and_model_are_those_of_the_cpu(self, trained: Trained) -> None:
        """Up to the order of sums; Adam makes whole steps of the smallest gradient, a CRF has kernels of its own.

        Which prototypes of a barely trained model fire together may hang by that, and what readout comes closest to its
        probabilities; the test below begins at the same.
        """
        fitted = (
            "affinity",
            "group_joint",
            "prune_finetune",
        )  # affinity: pixels a CRF calls sure, ties fall either way
        for result in sorted((trained.cpu / "stages").glob("*/result.json")):
            cpu, cuda = (json.loads(p.read_text()) for p in (result, trained.cuda / result.relative_to(trained.cpu)))
            assert cpu.keys() == cuda.keys()
            if "steps" in cpu and result.parent.name not in fitted:
                terms = {key: value for key, value in cpu.items() if key.startswith("loss") or key == "steps"}
                assert {key: cuda[key] for key in terms} == pytest.approx(terms, rel=0.01), result.parent.name
        before = {"pixelcontrast": "contrast", "scaleproto": "project", "protoseg": "finetune"}
        kept = f"stages/{before[trained.name]}/model" if trained.name in before else "model"
        weights, others = (load_file(p / kept / "model.safetensors") for p in (trained.cpu, trained.cuda))
        assert weights.keys() == others.keys()
        for key, value in weights.items():
            torch.testing.assert_close(others[key], value, rtol=1e-3, atol=0.02, msg=key)

    def test_groups_of_the_same_prototypes_begin_as_on_the_cpu(self, trained: Trained) -> None:
        if trained.name != "scaleproto":
            pytest.skip("no other method has groups")
        model, gpu, found = Segmenter.load(trained.cpu / "stages/project/model"), PretendedCuda(), []
        away: list[float] = []
        cells = model.head.cell_features(torch.rand(1, model.encoder.num_features, 20, 20))[0].flatten(1).T
        readout = model.head.unit_weights()
        assert isinstance(model.head.bank, PrototypeBank)
        for device in (torch.device("cpu"), CUDA):
            with gpu.running() if device == CUDA else nullcontext(), torch.no_grad():
                head = GroupedHead(model.head.bank, 3).to(device)
                activations = cell_activations(head.bank, cells.to(device))
                group_coactivating_(head.grouping, activations, readout.to(device))
                groups = head.grouping(activations.T[None, :, :, None])[0, :, :, 0].T
                fitted = fitted_readout(groups, activations @ readout.to(device).T)
                found.append((head.grouping.weights.cpu(), fitted.cpu()))
                logits = activations @ readout.to(device).T
                closest = (groups @ distilled_readout(groups, logits, fitted).T).log_softmax(1)
                away.append(float(F.kl_div(closest, logits.softmax(1), reduction="batchmean")))
        for cpu, cuda in zip(*found, strict=True):
            torch.testing.assert_close(cuda, cpu, rtol=1e-3, atol=1e-4)
        assert away[1] == pytest.approx(away[0], rel=0.02, abs=1e-4)

    @pytest.mark.parametrize("labels", ["centres", "averaged"])
    def test_affinities_of_the_same_scores_are_those_of_the_cpu(self, trained: Trained, labels: str) -> None:
        """The loss and its gradients, which whole runs cannot show: a CRF on each side calls other pixels sure."""
        if trained.name != "pixelcontrast":
            pytest.skip("no other method learns affinities")
        recipe = smaller("pixelcontrast", f"stages.affinity.labels={labels}")
        (stage,) = [s for s in METHODS["pixelcontrast"].stages(recipe) if s.name == "affinity"]
        assert isinstance(stage, Optimise)
        assert stage.begin is not None
        assert stage.dataset is not None
        dataset = stage.dataset(build_dataset(recipe.data, "train"), trained.cpu)
        samples = [dataset[i] for i in range(4)]
        found, gpu = [], PretendedCuda(phase="loss")
        for device in (torch.device("cpu"), CUDA):
            with gpu.running() if device == CUDA else nullcontext():
                model = Segmenter.load(trained.cpu / "stages/crf/model")
                stage.begin(model)
                arrange(model.eval(), device)
                images = model.encoder.normalisation(torch.stack([s.image for s in samples]))
                masks = torch.stack([s.mask.long() for s in samples])
                names = tuple(s.name for s in samples)
                loss = stage.loss(model, Batch(masks, images, None, names).to(device))["loss"]
                loss.backward()
                weights = [w for group in stage.parameters(model) for w in group.params]
                found.append([loss.detach().cpu(), *(w.grad.cpu() for w in weights if w.grad is not None)])
        assert gpu.operators["loss"] > 50
        assert found[0][0] > 0.01
        assert max(g.abs().max() for g in found[0][1:]) > 1e-4
        assert len(found[0]) == len(found[1]) > 5
        for cpu, cuda in zip(*found, strict=True):
            torch.testing.assert_close(cuda, cpu, rtol=1e-3, atol=1e-5)

    def test_predict_and_explain_are_those_of_the_cpu(self, trained: Trained, tmp_path: Path) -> None:
        picture = torch.randint(0, 256, (32, 40, 3), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
        Image.fromarray(picture.numpy()).save(tmp_path / "a.png")
        masks = {}
        for device in ("cpu", "cuda"):
            with PretendedCuda().running() if device == "cuda" else nullcontext():
                predict(trained.cpu, tmp_path / "a.png", out=tmp_path / device, device=device, quiet=True)
                explain(trained.cpu, tmp_path / "a.png", out=tmp_path / f"{device}-why", device=device)
            (mask,) = (tmp_path / device).glob("*.png")
            masks[device] = np.asarray(Image.open(mask))
        assert (masks["cpu"] == masks["cuda"]).mean() >= 0.999
        pages = [json.loads((tmp_path / f"{device}-why" / "explanation.json").read_text()) for device in masks]
        for page in pages:
            assert page["completeness_error"] <= 1e-4
        assert [row["area"] for row in pages[0]["summary"]] == pytest.approx([r["area"] for r in pages[1]["summary"]])

    @pytest.mark.slow
    def test_metrics_and_edits_are_those_of_the_cpu(self, trained: Trained, tmp_path: Path) -> None:
        if trained.name not in ("scaleproto", "nonparametric"):
            pytest.skip("two heads with prototypes stand for all")
        scores = {}
        for device in ("cpu", "cuda"):
            with PretendedCuda().running() if device == "cuda" else nullcontext():
                scores[device] = evaluate(trained.cpu, device=device, interpretability=True, quiet=True)
                edit(trained.cpu, out=tmp_path / device, drop=[0], device=device, quiet=True)
                analyse("patches", trained.cpu, out=tmp_path / f"{device}-patches", device=device, quiet=True)
        assert scores["cuda"]["miou"] == pytest.approx(scores["cpu"]["miou"], abs=1e-3)
        assert scores["cuda"].keys() == scores["cpu"].keys()


class TestThePretendedGpu:
    """What a real GPU refuses is refused here, and what makes the host wait is noted."""

    @pytest.fixture
    def gpu(self) -> Iterator[PretendedCuda]:
        with PretendedCuda().running() as gpu:
            yield gpu

    def test_lists_are_indices(self, gpu: PretendedCuda) -> None:
        x = torch.arange(12.0, device="cuda").view(3, 4)
        assert x[..., [3, 1]].tolist() == [[3, 1], [7, 5], [11, 9]]
        x[[0, 2]] = 0
        assert x.sum(1).tolist() == [0, 22, 0]

    @pytest.mark.parametrize(
        "mixed",
        [
            lambda x: x + torch.zeros(3),
            lambda x: torch.cat([x, torch.zeros(3)]),
            lambda x: torch.zeros(3)[x.long()],
            lambda x: torch.where(x > 0, x, torch.zeros(3)),
            lambda x: x.index_add(0, torch.arange(3), x),
        ],
    )
    def test_two_devices_are_refused(self, gpu: PretendedCuda, mixed: Callable[[torch.Tensor], object]) -> None:
        with pytest.raises(RuntimeError, match="two devices"):
            mixed(torch.ones(3, device=CUDA))

    def test_a_backward_pass_on_two_devices_is_refused(self, gpu: PretendedCuda) -> None:
        class Careless(torch.autograd.Function):
            @staticmethod
            def forward(ctx: Any, x: torch.Tensor) -> torch.Tensor:
                return x * 2

            @staticmethod
            def backward(ctx: Any, *grad: torch.Tensor) -> torch.Tensor:
                return grad[0] * torch.full((3,), 2.0)

        x = torch.ones(3, device=CUDA, requires_grad=True)
        with pytest.raises(RuntimeError, match="two devices"):
            Careless.apply(x).sum().backward()

    @pytest.mark.parametrize(
        "asking",
        [
            lambda x: x.sum().item(),
            lambda x: bool(x.any()),
            lambda x: x.tolist(),
            lambda x: x[x > 1],
            lambda x: x.nonzero(),
            lambda x: x.cpu(),
            lambda x: torch.bincount(x.long()),
            lambda x: torch.tensor([1.0], device=x.device),
            lambda x: torch.ones(3).to(x.device),
        ],
    )
    def test_waits_are_noted(self, gpu: PretendedCuda, asking: Callable[[torch.Tensor], object]) -> None:
        x = torch.ones(3, device=CUDA)
        assert not gpu.waits
        asking(x)
        assert len(gpu.waits) == 1

    @pytest.mark.parametrize(
        "free",
        [
            lambda x: x + torch.tensor(2.0),
            lambda x: x.masked_fill(x > 0, 1),
            lambda x: torch.ones(3).to(x.device, non_blocking=True),
            lambda x: torch.where(x > 0, x, 0).sum().clamp_min(1),
            lambda x: x[torch.zeros(3, dtype=torch.int64, device=x.device)],
        ],
    )
    def test_what_runs_on_its_own_is_not(self, gpu: PretendedCuda, free: Callable[[torch.Tensor], object]) -> None:
        out = free(torch.ones(3, device=CUDA))
        assert isinstance(out, OnCuda)
        assert out.device == CUDA
        assert not gpu.waits

    def test_numpy_and_other_generators_are_refused(self, gpu: PretendedCuda) -> None:
        with pytest.raises(TypeError, match="numpy"):
            torch.ones(3, device=CUDA).numpy()
        with pytest.raises(RuntimeError, match="generator"):
            torch.rand(3, device=CUDA, generator=torch.Generator())
        assert torch.rand(3, device=CUDA, generator=torch.Generator(CUDA)).device == CUDA

    def test_crf_and_walk_are_those_of_the_cpu(self, gpu: PretendedCuda) -> None:
        draw = torch.Generator().manual_seed(0)
        image = (255 * F.interpolate(torch.rand(1, 3, 6, 6, generator=draw), (24, 32), mode="bicubic")).clamp(0, 255)
        unary = 3 * F.interpolate(torch.rand(1, 4, 5, 5, generator=draw), (24, 32), mode="bilinear")
        labels = [
            dense_crf(image.byte().to(device), unary.to(device), CRF_SETS["A"], labels=True).cpu()
            for device in ("cpu", CUDA)
        ]
        assert (labels[0] == labels[1]).float().mean() >= 0.998
        pairs, features = cell_pairs(6, 8, complete=False), 2 * torch.rand(1, 16, 6, 8, generator=draw)
        walks = []
        for device in ("cpu", CUDA):
            own = features.to(device).detach().requires_grad_()
            near = affinity(own, pairs)
            near.sum().backward()
            assert own.grad is not None
            walks += [(random_walk(torch.ones(1, 4, 6, 8).to(device), near.detach(), pairs, log_steps=3), own.grad)]
        for cpu, cuda in zip(*walks, strict=True):
            torch.testing.assert_close(cuda.cpu(), cpu)
