"""Losses of pixelcontrast against the stored vectors, and against plain loops."""

from __future__ import annotations

import math

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from segproto.prototypes.pixel_contrast import (
    View,
    contrast_losses,
    estimate_prototypes,
    intra_view,
    pixel_scores,
    view_of,
)
from segproto.refine.seam import (
    cross_regularisation,
    equivariance,
    max_norm,
    pixel_correlation,
    saliency_loss,
    salient_shares,
    smallest_maxima,
    tag_loss,
    to_size,
    view_losses,
    with_background,
)


def lcg(seed: int, *shape: int) -> Tensor:
    """The stored vectors' generator."""
    count = math.prod(shape)
    values, x = [0.0] * count, seed
    for i in range(count):
        x = (1664525 * x + 1013904223) & 0xFFFFFFFF
        values[i] = x / 2**32
    return torch.tensor(values, dtype=torch.float64).view(shape)


def present(*classes: tuple[int, ...], background: int = 0) -> Tensor:
    labels = torch.zeros(len(classes), 21)
    for row, own in zip(labels, classes, strict=True):
        row[list(own)] = 1
        row[background] = 1
    return labels


L21 = present((1, 5), (5, 15))


def close(value: Tensor, expected: float, tolerance: float = 2e-6) -> bool:
    return value.item() == pytest.approx(expected, abs=tolerance)


def test_generator() -> None:
    assert lcg(1, 3).tolist() == pytest.approx([0.23645553, 0.36927067, 0.50424203], abs=1e-8)


def test_stored_seam_losses() -> None:
    cam1, rv1 = (4 * (lcg(11, 2, 21, 32, 32) - 0.5)).float(), lcg(12, 2, 21, 32, 32).float()
    cam2, rv2 = (4 * (lcg(13, 2, 21, 128, 128) - 0.5)).float(), lcg(14, 2, 21, 128, 128).float()
    assert close(tag_loss(cam1, L21), 0.696139)
    assert close(tag_loss(cam2, L21), 0.692297)
    assert close(smallest_maxima(rv1, L21), 0.344069)
    assert close(smallest_maxima(rv2, L21), 0.333177)
    norm = max_norm(cam1)
    assert close(norm.double().sum(), 10858.2216, 2e-3)
    assert norm[0, 3, 0, :4].tolist() == pytest.approx([0.921462, 0.249985, 0.302151, 0.0], abs=2e-6)
    y = L21[:, :, None, None]
    a1, r1, a2, r2 = (to_size(max_norm(m), (128, 128)) * y for m in (cam1, rv1, cam2, rv2))
    assert close(equivariance(a1, a2), 0.030476)
    terms = [cross_regularisation(with_background(a), r) for a, r in ((a2, r1), (a1, r2))]
    assert close(terms[0], 0.282216)
    assert close(terms[1], 0.269121)
    losses = view_losses(cam1, rv1, cam2, rv2, L21)
    assert close(losses["tags"], 1.032841)
    assert close(losses["er"], 0.030476)
    assert close(losses["ecr"], 0.282216 + 0.269121, 4e-6)


def test_tags_are_pooled_from_the_strongest_cells_alone() -> None:
    """A loop in plain Python; all cells give the stored value; weak cells get no gradient."""
    maps = (4 * (lcg(11, 2, 21, 5, 6) - 0.5)).float().requires_grad_()
    total = 0.0
    for image in range(2):
        for c in range(1, 21):
            cells = sorted(maps[image, c].flatten().tolist(), reverse=True)[:9]  # 0.3 of 30
            z = sum(cells) / 9
            total += math.log1p(math.exp(-z if L21[image, c] else z))
    loss = tag_loss(maps, L21, pooled=0.3)
    assert close(loss, total / 40)
    assert close(tag_loss(maps, L21, pooled=0.001), tag_loss(maps.amax((2, 3), keepdim=True), L21).item())
    assert close(tag_loss(maps, L21, pooled=1.0), tag_loss(maps, L21).item())
    loss.backward()
    assert maps.grad is not None
    assert (maps.grad[:, 1:] != 0).sum((2, 3)).eq(9).all()


@pytest.mark.parametrize("block", [5, 42, 1000])
def test_stored_pixel_correlation(block: int) -> None:
    f9 = (lcg(21, 192, 195) - 0.5).float()
    q, f = lcg(22, 1, 21, 6, 7).float(), lcg(23, 1, 195, 6, 7).float()
    out = pixel_correlation(q, F.conv2d(f, f9[:, :, None, None]), block=block)
    assert close(out.double().sum(), 434.514482, 2e-4)
    assert out[0, 0, 0, :4].tolist() == pytest.approx([0.547127, 0.546029, 0.550253, 0.548651], abs=2e-6)
    assert close(out[0, 20, 5, 6], 0.476722)


def contrast_inputs() -> tuple[Tensor, Tensor, Tensor, Tensor]:
    p1, p2 = ((lcg(s, 2, 128, 16, 16) - 0.5).relu().float().requires_grad_() for s in (1, 2))
    return p1, p2, lcg(3, 2, 21, 16, 16).float(), lcg(4, 2, 21, 16, 16).float()


def upstream_ties(view: View, projections: Tensor) -> Tensor:
    """Prototypes with the background's from the pixels that the published code's sort happened to take."""
    rows = projections.detach().movedim(1, 3).reshape(-1, 128)[321:353]
    prototypes = view.prototypes.clone()
    prototypes[0] = F.normalize(rows.sum(0), dim=0)
    return prototypes


def test_stored_contrast() -> None:
    p1, p2, r1, r2 = contrast_inputs()
    views = [view_of(p, r, L21, masked=False) for p, r in ((p1, r1), (p2, r2))]
    counts = [torch.bincount(v.labels, minlength=21) for v in views]
    assert {c: int(counts[0][c]) for c in (0, 1, 5, 15)} == {0: 17, 1: 129, 5: 245, 15: 121}
    assert {c: int(counts[1][c]) for c in (0, 1, 5, 15)} == {0: 26, 1: 130, 5: 232, 15: 124}
    assert views[0].prototypes[5, :3].tolist() == pytest.approx([0.083390, 0.076235, 0.086516], abs=2e-6)
    assert views[0].prototypes[0, :3].tolist() == pytest.approx([0.066571, 0.093673, 0.088224], abs=2e-6)
    a, b = views
    assert close(F.cross_entropy(a.features @ b.prototypes.T / 0.1, a.labels), 3.050635)
    assert close(F.cross_entropy(b.features @ a.prototypes.T / 0.1, b.labels), 3.037241)
    terms = contrast_losses(a, b)
    assert close(terms["cross_prototype"], (3.050635 + 3.037241) / 2)
    assert close(terms["cross_cam"], (3.041170 + 3.049792) / 2)
    assert close(intra_view(a.features @ a.prototypes.T / 0.1, a.labels, 0.1), 2.454037, 5e-6)
    assert close(intra_view(b.features @ b.prototypes.T / 0.1, b.labels, 0.1), 2.456921, 5e-6)
    published = [View(v.features, v.labels, upstream_ties(v, p), v.known) for v, p in ((a, p1), (b, p2))]
    terms = contrast_losses(*published)
    assert close(terms["cross_prototype"], (3.049068 + 3.040590) / 2)
    assert close(terms["cross_cam"], (3.043704 + 3.053039) / 2)
    (0.1 * (terms["cross_prototype"] + terms["cross_cam"])).backward()
    assert p1.grad is not None
    assert p2.grad is not None
    assert p1.grad.norm().item() == pytest.approx(0.0028503, abs=2e-6)
    assert p2.grad.norm().item() == pytest.approx(0.0028423, abs=2e-6)


def test_stored_eps() -> None:
    cam = (8 * (lcg(41, 2, 21, 14, 14) - 0.5)).float()
    cam[:, 0] += 3
    cam[:, 4] += 2
    cam[:, 20, ::2] += 6
    sal = ((lcg(42, 2, 1, 112, 112) + (torch.arange(112) % 16 > 7)[:, None]) / 2).float()
    labels = present((0, 4), (4, 14), background=20)
    shares = salient_shares(cam.softmax(1), F.interpolate(sal, size=(14, 14), mode="nearest"))
    assert shares[0, [0, 4]].tolist() == pytest.approx([0.713786, 0.841238], abs=2e-6)
    assert shares[1, [4, 14]].tolist() == pytest.approx([0.998695, 0], abs=2e-6)
    assert close(saliency_loss(cam, sal, labels, overlap=0.4), 0.078359)
    assert close(saliency_loss(cam, sal, labels, overlap=0.8), 0.098957)
    x1, x2 = (4 * (lcg(51, 2, 21, 24, 24) - 0.5)).float(), (4 * (lcg(52, 2, 21, 16, 16) - 0.5)).float()
    r1, r2 = lcg(53, 2, 21, 24, 24).float(), lcg(54, 2, 21, 16, 16).float()
    terms = view_losses(x1, r1, x2, r2, labels, background=20, winners_over=0)
    assert close(terms["er"], 0.032456)
    assert close(terms["ecr"], 0.606888, 4e-6)
    p1, p2, m1, m2 = contrast_inputs()
    options = {"background_score": 0.1, "k": 16, "masked": False, "background": 20}
    views = [view_of(p, m, labels, **options) for p, m in ((p1, m1), (p2, m2))]
    assert torch.bincount(views[0].labels, minlength=21)[20] == 3  # three background cells are one of four classes
    for ties, expected, tolerance in ((slice(336, 352), 0.8568, 6e-4), (slice(0, 16), 0.861583, 2e-6)):
        taken = []  # the stored value has the ties of the published code's sort; ours take the lowest places
        for view, p in zip(views, (p1, p2), strict=True):
            rows = p.detach().movedim(1, 3).reshape(-1, 128)[ties]
            prototypes = view.prototypes.clone()
            prototypes[20] = F.normalize(rows.sum(0), dim=0)
            taken.append(view._replace(prototypes=prototypes))
        assert close(0.1 * sum(contrast_losses(*taken).values()), expected, tolerance)
    torch.testing.assert_close(taken[0].prototypes, views[0].prototypes)


def drawn(seed: int = 0, classes: int = 21) -> tuple[View, Tensor]:
    g = torch.Generator().manual_seed(seed)
    features = F.normalize(torch.randn(60, 8, generator=g, dtype=torch.float64), dim=1)
    prototypes = F.normalize(torch.randn(classes, 8, generator=g, dtype=torch.float64), dim=1)
    labels = torch.randint(0, min(classes, 5), (60,), generator=g)
    labels[0] = classes - 1  # alone in its class
    return View(features, labels, prototypes, torch.ones(classes, dtype=torch.bool)), labels


def test_intra_view_is_the_mean_of_the_published_draw() -> None:
    view, labels = drawn()
    s = view.features @ view.prototypes.T / 0.1
    total = 0.0
    for c in labels.unique().tolist():
        rows = (labels == c).nonzero().flatten()
        n = len(rows)
        if n < 2:
            continue
        each = []
        for i in rows:
            ranked = s[i].sort(descending=True).values
            each.append(-(s[i, c] - torch.cat([s[i, c][None], ranked[3:13]]).logsumexp(0)))
        each_t = torch.stack(each)
        hardest = s[rows, c].argsort()[: int(0.6 * n)][int(0.6 * n) - n // 2 :]
        total += ((each_t.mean() + each_t[hardest].mean()) / 2).item()
    expected = total / len(labels.unique())
    assert intra_view(s, labels, 0.1).item() == pytest.approx(expected, rel=1e-9)


def test_masked_prototypes_see_only_images_with_the_class() -> None:
    g = torch.Generator().manual_seed(0)
    scores = torch.rand(3, 4, 5, 5, generator=g) * 0.9 + 0.05
    projections = torch.rand(3, 6, 5, 5, generator=g)
    labels = torch.tensor([[1, 1, 0, 0], [1, 0, 1, 0], [1, 1, 1, 0]])
    got, known = estimate_prototypes(scores, projections, 4, labels=labels)
    assert known.tolist() == [True, True, True, False]
    assert not got[3].any()
    for c in (1, 2):
        rows = [
            (scores[n, c, y, x].item(), n, y, x) for n in range(3) if labels[n, c] for y in range(5) for x in range(5)
        ]
        best = sorted(rows, reverse=True)[:4]
        mean = sum(w * projections[n, :, y, x] for w, n, y, x in best)
        torch.testing.assert_close(got[c], F.normalize(mean, dim=0))
    calm = sorted(
        (max(scores[n, c, y, x].item() for c in range(1, 4) if labels[n, c]), n, y, x)
        for n in range(3)
        for y in range(5)
        for x in range(5)
    )[:4]
    mean = sum((1 - s) * projections[n, :, y, x] for s, n, y, x in calm)
    torch.testing.assert_close(got[0], F.normalize(mean, dim=0))


def test_classes_without_a_prototype_are_nobodys_negative() -> None:
    view, labels = drawn(1, classes=6)
    known = torch.tensor([True, True, True, True, True, False])
    small = View(view.features, labels.clamp_max(4), view.prototypes[:5], torch.ones(5, dtype=torch.bool))
    wide = View(view.features, labels.clamp_max(4), view.prototypes, known)
    a, b = contrast_losses(small, small), contrast_losses(wide, wide)
    for key in ("cross_prototype", "cross_cam"):
        torch.testing.assert_close(a[key], b[key])
    lost = View(view.features, labels, view.prototypes, known)  # a pixel of the class that has none
    assert all(torch.isfinite(v) for v in contrast_losses(lost, lost).values())


def test_gradients_are_finite_and_reach_only_the_projections() -> None:
    g = torch.Generator().manual_seed(0)
    p = torch.rand(2, 8, 6, 6, generator=g, requires_grad=True)
    r = torch.rand(2, 4, 6, 6, generator=g, requires_grad=True)
    labels = torch.tensor([[1.0, 1, 0, 0], [1, 0, 1, 0]])
    view = view_of(p, r, labels, k=5)
    sum(contrast_losses(view, view).values()).backward()
    assert p.grad is not None
    assert torch.isfinite(p.grad).all()
    assert p.grad.abs().sum() > 0
    assert r.grad is None
    assert (pixel_scores(r, 0.2)[:, 0] == 0.2).all()
