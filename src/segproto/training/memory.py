"""Memory: an estimate before a stage starts, and one clear line when it runs out."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import torch
from torch import Tensor, nn

from segproto.data.batch import Batch
from segproto.errors import SegprotoError
from segproto.model.segmenter import Segmenter

PROBE_SIDE, PROBE_BATCH = 64, 2  # large enough for norms in train mode at stride 32
OVERHEAD = 2.0  # the peak over the tensors kept for backward (measured on the U-Net at 512 px: 1.7 fp32, 2.2 bf16)
REFUSED = ("not enough memory", "can't allocate memory", "cannot allocate memory", "out of memory")


@contextmanager
def memory_errors(where: str) -> Iterator[None]:
    """Turns exhausted memory inside the block into one line that says what to lower.

    Raises:
        SegprotoError: GPU memory ran out, or an allocation was refused.
    """
    try:
        yield
    except (torch.OutOfMemoryError, MemoryError, RuntimeError) as error:
        text = str(error)
        refused = isinstance(error, torch.OutOfMemoryError | MemoryError) or any(r in text.lower() for r in REFUSED)
        if not refused:
            raise
        reason = text.splitlines()[0][:160] if text else "allocation refused"
        raise SegprotoError(
            f"{where}: out of memory ({reason}); lower train.batch_size or data.augment.crop (or train.precision="
            "bf16-mixed); what the last checkpoint holds is safe"
        ) from error


def estimate_bytes(
    segmenter: Segmenter, loss: Callable[[Segmenter, Batch], dict[str, Tensor]], size: tuple[int, int], batch_size: int
) -> int:
    """Roughly the main memory one training step needs: tensors kept for backward, weights, gradients, Adam's moments.

    A small forward pass is measured and scaled with the number of pixels.

    Args:
        segmenter: the model, in the stage's mode; it is not changed.
        loss: the stage's loss.
        size: (height, width) of the training images.
        batch_size: images per batch.
    """
    model = copy.deepcopy(segmenter)
    side = model.encoder.padded_size(PROBE_SIDE, PROBE_SIDE)
    images = torch.zeros(PROBE_BATCH, model.encoder.config.bands, *side)
    batch = Batch(masks=torch.zeros(PROBE_BATCH, *side, dtype=torch.int64), images=images)
    bytes_of_storage: dict[int, int] = {}

    def pack(tensor: Tensor) -> Tensor:
        bytes_of_storage[tensor.untyped_storage().data_ptr()] = tensor.untyped_storage().nbytes()
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        terms = loss(model, batch)
    for tensor in [*model.parameters(), *model.buffers()]:
        bytes_of_storage.pop(tensor.untyped_storage().data_ptr(), None)
    del terms
    pixels = size[0] * size[1] * batch_size / (PROBE_BATCH * side[0] * side[1])
    return int(sum(bytes_of_storage.values()) * pixels * OVERHEAD) + weights_bytes(model)


def weights_bytes(model: nn.Module) -> int:
    """Weights, and for the trained ones gradients and two moments."""
    return sum(p.numel() * p.element_size() * (4 if p.requires_grad else 1) for p in model.parameters())
