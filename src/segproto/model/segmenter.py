"""The one artefact all methods produce: encoder, head, classes and the provenance of each prototype."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from torch import Tensor, nn

from segproto.data.base import ClassTable
from segproto.encoders.base import Encoder
from segproto.model.auxiliary import auxiliary_head
from segproto.model.forgotten import ForgottenPatch
from segproto.model.heads import Head
from segproto.model.provenance import Provenance

if TYPE_CHECKING:
    from segproto.model.explanation import Explanation


class Segmenter(nn.Module):
    """A model that segments and explains itself.

    Args:
        encoder: images to features.
        head: features to logits.
        classes: names and colours.
        provenance: where each prototype came from; None before the projection.
        patches: pictures of the patches, PNG bytes by file name.
        card: facts for people and reports (method, stage, data, edits), JSON-ready.
        forgotten: training patches the model was ever made to forget, oldest first.
        input_size: what the model was published to see of an image instead of its own size: the shorter side in pixels,
            or (height, width), stretched; None = the image's own size.
    """

    def __init__(
        self,
        encoder: Encoder,
        head: Head,
        classes: ClassTable,
        provenance: Provenance | None = None,
        patches: dict[str, bytes] | None = None,
        card: dict[str, Any] | None = None,
        forgotten: tuple[ForgottenPatch, ...] = (),
        input_size: int | tuple[int, int] | None = None,
    ) -> None:
        super().__init__()
        self.encoder = encoder
        self.head = head
        self.auxiliary = auxiliary_head(encoder, classes.num_classes)
        self.classes = classes
        self.provenance = provenance
        self.patches = patches or {}
        self.card = card or {}
        self.forgotten = forgotten
        self.input_size = input_size

    @property
    def found_categories(self) -> bool:
        """Whether the model's classes were found without labels: their numbers mean nothing before they are matched."""
        return bool(self.card.get("found_categories"))

    def features(self, images: Tensor) -> Tensor:
        """Normalised images (B, 3, H, W) to squashed features (B, F, h, w)."""
        out: Tensor = self.encoder(images)
        return out

    def grid_logits(self, images: Tensor) -> Tensor:
        """Normalised images (B, 3, H, W) to logits on the feature grid (B, C, h, w)."""
        out: Tensor = self.head(self.features(images))
        return out

    def upsample(self, grid: Tensor, size: tuple[int, int]) -> Tensor:
        """Maps on the grid (B, K, h, w) to the image's size (B, K, H, W): bilinear, cropped where it was padded."""
        padded = self.encoder.padded_size(*size)
        return self.encoder.enlarged(grid, padded)[..., : size[0], : size[1]]

    def forward(self, images: Tensor) -> Tensor:
        """Normalised images (B, 3, H, W) to logits (B, C, H, W)."""
        return self.upsample(self.grid_logits(images), (images.shape[-2], images.shape[-1]))

    def predict(self, image: Any, *, as_numpy: bool = False, **options: Any) -> Any:
        """The class of every pixel, at the image's own size.

        Args:
            image: a path, a PIL image, an array (H, W), (H, W, 3) or (3, H, W), or a tensor; a list of these; a batch
                (B, H, W, 3) or (B, 3, H, W); or a folder.
            as_numpy: NumPy arrays instead of tensors.
            options: ``window``, ``overlap``, ``scales``, ``flip``, ``max_pixels``: see
                :func:`segproto.model.predict.predict`.

        Returns:
            Of one image a tensor (H, W) on the CPU, class indices 0..C-1, uint8 (int16 if there are more than 255
            classes); of a list a list of them; of a batch (B, H, W); of a folder a dict from relative paths to masks.

        Raises:
            SegprotoError: in one line, an image or an option that is not as expected.
        """
        from segproto.model.many import predict_any

        return predict_any(self, image, as_numpy, options)

    def explain(self, image: Any, **options: Any) -> Explanation:
        """The evidence for each pixel of an image; see :func:`segproto.model.explain.explain`."""
        from segproto.model.explain import explain
        from segproto.model.many import check_options

        check_options("explain", options, ("region", "max_pixels"))
        return explain(self, image, **options)

    def __repr__(self) -> str:
        from segproto.model.words import model_words

        return model_words(self)

    def drop_unnamed_patches(self) -> None:
        """Keeps the pictures of patches that a prototype's source names."""
        sources = () if self.provenance is None else self.provenance.sources
        named = {patch.patch for source in sources if source is not None for patch in source.all_patches}
        self.patches = {name: picture for name, picture in self.patches.items() if name in named}

    def save(self, folder: Path | str) -> None:
        """Writes the artefact; see :func:`segproto.model.artefact.save`."""
        from segproto.model.artefact import save

        save(self, Path(folder))

    @classmethod
    def load(cls, folder: Path | str) -> Segmenter:
        """Reads an artefact; see :func:`segproto.model.artefact.load`."""
        from segproto.model.artefact import load

        return load(Path(folder))
