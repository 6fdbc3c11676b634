"""Cross-entropy of enlarged logits in bands, beside the logits enlarged by torch."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from segproto.prototypes import enlarged
from segproto.prototypes.enlarged import enlarged_cross_entropy


def plain(logits: Tensor, labels: Tensor, aligned: bool, weight: Tensor | None) -> Tensor:
    large = F.interpolate(logits, size=labels.shape[1:], mode="bilinear", align_corners=aligned)
    return F.cross_entropy(large, labels, weight=weight, ignore_index=255, reduction="sum")


def problem(size: tuple[int, int], dtype: torch.dtype = torch.float64) -> tuple[Tensor, Tensor, Tensor]:
    """Logits, labels with void rows, class weights."""
    generator = torch.Generator().manual_seed(0)
    logits = torch.randn(2, 5, 6, 4, generator=generator, dtype=dtype) * 3
    labels = torch.randint(0, 5, (2, *size), generator=generator)
    labels[0, :3] = 255
    return logits.requires_grad_(), labels, torch.tensor([0.3, 1, 2, 0, 5], dtype=dtype)


@pytest.mark.parametrize("aligned", [False, True])
@pytest.mark.parametrize("weighted", [False, True])
@pytest.mark.parametrize("size", [(41, 27), (6, 4), (3, 9)])
@pytest.mark.parametrize("band", [1, 600, 2**20])
def test_sum_and_gradient_equal_those_of_enlarged_logits(
    aligned: bool, weighted: bool, size: tuple[int, int], band: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(enlarged, "BAND", band)
    logits, labels, weight = problem(size)
    given = weight if weighted else None
    found, expected = (
        enlarged_cross_entropy(logits, labels, aligned=aligned, weight=given),
        plain(logits, labels, aligned, given),
    )
    torch.testing.assert_close(found, expected, rtol=1e-6, atol=1e-6)
    slopes = [torch.autograd.grad(value * 0.7, logits)[0] for value in (found, expected)]
    torch.testing.assert_close(*slopes, rtol=1e-5, atol=1e-6)
    with torch.no_grad():
        torch.testing.assert_close(enlarged_cross_entropy(logits, labels, aligned=aligned, weight=given), found)


def test_autocast_does_not_touch_it() -> None:
    logits, labels, _ = problem((20, 15), torch.float32)
    with torch.autocast("cpu", torch.bfloat16):
        found = enlarged_cross_entropy(logits, labels)
    torch.testing.assert_close(found, plain(logits, labels, False, None), rtol=1e-5, atol=1e-5)


def test_void_alone_costs_nothing_and_pulls_nothing() -> None:
    logits, labels, _ = problem((20, 15))
    value = enlarged_cross_entropy(logits, torch.full_like(labels, 255))
    assert float(value.detach()) == 0
    assert not torch.autograd.grad(value, logits)[0].any()


def test_no_tensor_of_the_image_size_is_made() -> None:
    from torch.utils._python_dispatch import TorchDispatchMode

    largest = 0

    class Largest(TorchDispatchMode):
        def __torch_dispatch__(self, func, types, args=(), kwargs=None):  # type: ignore[no-untyped-def]
            nonlocal largest
            out = func(*args, **(kwargs or {}))
            largest = max(
                [largest, *(t.numel() for t in (out if isinstance(out, tuple) else [out]) if isinstance(t, Tensor))]
            )
            return out

    logits, labels = torch.randn(1, 300, 8, 8, requires_grad=True), torch.zeros(1, 160, 160, dtype=torch.int64)
    with Largest():
        enlarged_cross_entropy(logits, labels).backward()
    assert largest <= enlarged.BAND < 300 * 160 * 160 / 4
