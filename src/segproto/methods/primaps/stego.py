"""A small STEGO: codes that correspond where frozen features do (Hamilton et al., ICLR 2022), to be boosted by EM."""

from __future__ import annotations

from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor

from segproto.data.base import SegmentationDataset
from segproto.data.batch import Batch
from segproto.errors import WeightsError
from segproto.files import write_tensors
from segproto.methods.primaps.config import StegoConfig
from segproto.model.artefact import read_tensors
from segproto.model.segmenter import Segmenter
from segproto.prototypes.correspondence import SAMPLES, correspondence_loss, derangement, nearest_images
from segproto.training.agreement import agreement
from segproto.training.devices import on_first
from segproto.training.figures import Figures
from segproto.training.procedures.map_images import fold_images
from segproto.training.stage import Optimise, ParamGroup, Procedure, Stage, StageContext

FILE = Path("stages/neighbours/neighbours.safetensors")  # in the run's folder
NEGATIVES = 5


def stego_stages(config: StegoConfig) -> list[Stage]:
    """Each image's neighbours, and the training of the codes on pairs with them; nothing without steps."""
    if not config.steps:
        return []
    loss = StegoLoss(config)
    train = Optimise(
        name="stego",
        steps=config.steps,
        parameters=lambda model: [ParamGroup(list(model.encoder.neck.parameters()), config.lr)],
        loss=loss,
        mode=train_codes,
        dataset=loss.prepare,
        words="codes learn to correspond where frozen features do",
    )
    words = "the training images most like each other are found"
    return [Procedure("neighbours", lambda context: find_neighbours(context, config), words), train]


def train_codes(model: Segmenter) -> None:
    """The codes drop channels as they learn; everything else is as in use."""
    model.eval()
    model.encoder.neck.train()


@torch.no_grad()
def find_neighbours(context: StageContext, config: StegoConfig) -> Figures:
    """The training images whose mean features resemble each other most."""
    model, fabric, dataset = context.segmenter, context.fabric, context.train_set
    encoder = model.encoder
    means: Tensor | None = None
    for index in fold_images(dataset, rank=fabric.global_rank, world=fabric.world_size, title="neighbours"):
        image = encoder.normalisation(dataset[index].image.to(fabric.device))[None]
        # as in the published code: the mean of unit features
        mean = F.normalize(encoder.backbone_features(image).float(), dim=1).mean((0, 2, 3))
        means = torch.zeros(len(dataset), len(mean), device=fabric.device) if means is None else means
        means[index] = mean
    assert means is not None
    nearest = nearest_images(agreement()(means), config.neighbours)
    path = context.out / FILE.name
    on_first(fabric, lambda: write_tensors(path, {"nearest": nearest}, None))
    return {"training_images": len(dataset), "neighbours": nearest.shape[1]}


def read_neighbours(path: Path, images: int) -> Tensor:
    """What :func:`find_neighbours` left: int64 (N, k).

    Raises:
        WeightsError: damaged, or of other images.
    """
    nearest = read_tensors(path).get("nearest", torch.empty(0))
    fits = nearest.dtype == torch.int64 and nearest.ndim == 2 and len(nearest) == images and nearest.numel() > 0
    if not fits or int(nearest.min()) < 0 or int(nearest.max()) >= images:
        actual = f"{nearest.dtype} {tuple(nearest.shape)}"
        raise WeightsError(
            f"{path}: nearest = {actual}: expected the numbers of other images for each of {images} images; bring it "
            "back from a copy, or begin a new run in another --out"
        )
    return nearest


class StegoLoss:
    """Correspondence of an image with itself, with a neighbour, and with other images of the batch.

    Args:
        config: weights and shifts.
    """

    def __init__(self, config: StegoConfig) -> None:
        self.config = config
        self._set: tuple[SegmentationDataset, dict[str, int], Tensor] | None = None

    def prepare(self, dataset: SegmentationDataset, out: Path) -> SegmentationDataset:
        """Remembers the training images and their neighbours."""
        index_of = {name: index for index, name in enumerate(dataset.names)}
        self._set = dataset, index_of, read_neighbours(out / FILE, len(dataset))
        return dataset

    def __call__(self, model: Segmenter, batch: Batch) -> dict[str, Tensor]:
        """``loss`` and its three parts."""
        assert batch.images is not None
        images, config, encoder = batch.images, self.config, model.encoder
        with torch.no_grad():
            own = encoder.backbone_features(images).float()
            theirs = encoder.backbone_features(self._positives(model, batch)).float()
        code, other = encoder.neck(own), encoder.neck(theirs)
        count = len(images)
        size = (count, SAMPLES, SAMPLES, 2)
        here, there = (torch.rand(size).to(images.device) * 2 - 1 for _ in range(2))
        terms = {
            "self": correspondence_loss((own, own), (code, code), (here, here), config.itself.shift),
            "knn": correspondence_loss((own, theirs), (code, other), (here, there), config.knn.shift),
        }
        if count > 1:
            losses = []
            for _ in range(NEGATIVES):
                rows = derangement(count, torch.randperm(count)).to(images.device)
                pair = correspondence_loss((own, own[rows]), (code, code[rows]), (here, there), config.random.shift)
                losses.append(pair)
            terms["random"] = torch.stack(losses).mean()
        weights = {"self": config.itself.weight, "knn": config.knn.weight, "random": config.random.weight}
        return {"loss": torch.stack([weights[key] * value for key, value in terms.items()]).sum(), **terms}

    def _positives(self, model: Segmenter, batch: Batch) -> Tensor:
        """A neighbour of each image, resized to the batch's images and normalised."""
        assert batch.images is not None
        if self._set is None or not batch.names:  # a batch that only measures memory
            return batch.images
        dataset, index_of, nearest = self._set
        images = []
        for name in batch.names:
            choices = nearest[index_of[name]]
            image = dataset[int(choices[int(torch.randint(len(choices), ()))])].image.to(batch.images.device)
            normal = model.encoder.normalisation(image)[None]
            images.append(F.interpolate(normal, size=batch.images.shape[-2:], mode="bilinear", align_corners=False))
        return torch.cat(images)
