"""Rows of ``python -m benchmarks``: our kernels beside the published algorithms of the other files here."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import cam_curve
import clustering
import consistency
import diversity
import heads
import numpy as np
import proposals
import random_walk
import torch
from crf import crf_rows
from pipeline import cache_row, evaluate_row, predict_rows, start_rows
from projection import projection_rows
from race import Row, Skipped, race
from steps import step_rows
from verbs import edit_row, explain_row

from segproto.metrics.cam_curve import CamCurve
from segproto.metrics.cells import pixel_cells
from segproto.metrics.consistency import part_presence
from segproto.metrics.keypoints import part_keypoints
from segproto.prototypes import similarity
from segproto.prototypes.diversity import DiversityLoss
from segproto.refine.affinity import affinity, cell_pairs
from segproto.refine.proposals import propose
from segproto.refine.random_walk import dense_affinity
from segproto.refine.random_walk import random_walk as sparse_walk


def head_rows(quick: bool) -> Iterator[Row]:
    """The grouped head, and the gradients of it that its stage wants."""
    del quick
    for classes, grid in ((19, (65, 65)), (19, (129, 257))):
        features, head = heads.problem(classes, grid)
        head.bank.requires_grad_(False)
        words = f"C = {classes}, {grid[0]}x{grid[1]} | the published layers"
        ways = [lambda way=way, given=(features, head): way(*given) for way in (heads.vectorised, heads.published)]
        with torch.inference_mode():
            apart = heads.apart(*(way() for way in ways))
            yield race(f"grouped head, {words}", *ways, (f"relative {apart:.0e}", apart < 1e-4), 9)
        learn = [
            lambda way=way, given=(features, head): heads.gradients(way, *given)
            for way in (heads.vectorised, heads.published)
        ]
        apart = max(heads.apart(*pair) for pair in zip(*(way() for way in learn), strict=True))
        yield race(f"grouped head with gradients, {words}", *learn, (f"relative {apart:.0e}", apart < 1e-4), 5)


@torch.no_grad()
def near_row(quick: bool) -> Row:
    """Distances of collapsed features, whose digits are all wanted."""
    del quick
    centre = torch.rand(64) * 0.5 + 0.25
    cells = (centre[:, None] + torch.randn(4, 64, 33 * 33) * 0.02).flatten(0, 1)[None].clamp(0, 1)
    vectors = (centre + torch.randn(76, 64) * 0.02).clamp(0, 1)
    ranges = [(0, 19), (19, 38), (38, 57), (57, 76)]

    def plain() -> torch.Tensor:
        blocks = cells.unflatten(1, (4, 64))[0].transpose(1, 2)  # a pair after the other, as sums of squares
        return torch.cat([(blocks[s, None] - vectors[a:b, None]).square().sum(2) for s, (a, b) in enumerate(ranges)])

    def ours() -> torch.Tensor:
        return similarity.squared_distances(cells[..., None], vectors, ranges)[0, ..., 0]

    apart = float((ours() - plain()).abs().max())
    return race(
        "distances of collapsed features, 76 x 33x33 | pair by pair", ours, plain, (f"{apart:.0e}", apart < 1e-6)
    )


def diversity_row(quick: bool) -> Row:
    """The diversity loss, forward and backward."""
    del quick
    class_of, scale_of = torch.arange(21).repeat_interleave(3).repeat(4), torch.arange(4).repeat_interleave(63)
    loss, labels = DiversityLoss(class_of, scale_of), diversity.labels_of(2, 21, 3)
    distances = (torch.rand(2, len(class_of), 65, 65) * 20).requires_grad_()

    def step(value: torch.Tensor) -> float:
        distances.grad = None
        value.backward()  # type: ignore[no-untyped-call]
        return float(value.detach())

    ways = [
        lambda: step(loss(distances, labels)),
        lambda: step(diversity.published(distances, labels, class_of, scale_of)),
    ]
    apart = abs(ways[0]() - ways[1]())
    return race("diversity loss and gradient, VOC | loop over pairs", *ways, (f"{apart:.0e}", apart < 1e-4), 3)


def clustering_rows(quick: bool) -> Iterator[Row]:
    """Online clustering of a batch's pixels."""
    for classes in (19,) if quick else (19, 150):
        e, s, y, pred, prototypes = clustering.problem(16384 if quick else 65536, classes, 10, 720)
        published, own = s.view(-1, classes, 10).transpose(1, 2).contiguous(), torch.where(y == clustering.VOID, -1, y)
        ways = [
            lambda given=(e, s, y, pred, prototypes, 0.999): clustering.batched(*given),
            lambda given=(e, published, own, pred, prototypes, 0.999): clustering.loop(*given),
        ]
        (t1, p1), (t2, p2) = (way() for way in ways)  # type: ignore[misc]
        apart = float((p1 - p2).abs().max())
        answer = (f"{int((t1 != t2)[y != clustering.VOID].sum())} targets, {apart:.0e}", apart < 1e-5)
        yield race(f"clustering, C = {classes}, {len(y)} pixels | loop over classes", *ways, answer, 3)


def walk_row(quick: bool) -> Row:
    """The random walk."""
    h, w = (24, 32) if quick else (47, 63)
    pairs = cell_pairs(h, w, complete=False)
    a, scores = affinity(torch.rand(1, 64, h, w) * 2, pairs), torch.rand(1, 21, h, w)
    dense = dense_affinity(a[0], pairs)
    ways = [
        lambda: sparse_walk(scores, a, pairs, log_steps=6)[0].flatten(1),
        lambda: random_walk.plain(scores[0].flatten(1), dense, 8, 6),
    ]
    apart = float((ways[0]() - ways[1]()).abs().max())
    return race(f"random walk, {h}x{w}, 64 steps | dense squaring", *ways, (f"{apart:.0e}", apart < 1e-4), 3)


def curve_row(quick: bool) -> Row:
    """The threshold curve of activation maps."""
    rng = np.random.default_rng(0)
    images = []
    for _ in range(1 if quick else 4):
        classes = sorted(rng.choice(np.arange(1, 21), 2, replace=False).tolist())
        truth = rng.choice([0, *classes, 255], (375, 500), p=[0.6, 0.2, 0.15, 0.05])
        images.append((rng.random((2, 375, 500), dtype=np.float32), classes, truth))
    thresholds = [i / 100 for i in range(60)]

    def ours() -> np.ndarray:
        curve = CamCurve(21, torch.tensor(thresholds))
        for image in images:
            curve.update(*(torch.as_tensor(part) for part in image))
        m = curve.confusions().double()
        return (m.diagonal(dim1=1, dim2=2) / (m.sum(1) + m.sum(2) - m.diagonal(dim1=1, dim2=2)).clamp_min(1)).numpy()

    apart = float(np.abs(ours() - np.stack(cam_curve.plain(images, thresholds))).max())
    plain = lambda: cam_curve.plain(images, thresholds)  # noqa: E731
    return race(
        f"threshold curve, {len(images)} maps | a pass per threshold", ours, plain, (f"{apart:.0e}", apart < 1e-6), 1
    )


def consistency_row(quick: bool) -> Row:
    """Consistency of one large image."""
    mask, parts = consistency.scene()
    class_of = torch.arange(consistency.CLASSES).repeat_interleave(1 if quick else consistency.PER_CLASS)
    activations, points = torch.rand(len(class_of), *consistency.GRID), part_keypoints(mask, parts)
    sizes = {"area": consistency.SIZE, "num_classes": consistency.CLASSES, "quantiles": consistency.QUANTILES}
    pixel_cells(consistency.SIZE, consistency.GRID, consistency.SIZE)
    ours = lambda: part_presence(activations, mask, points, class_of, consistency.PARTS, **sizes)  # type: ignore[arg-type]  # noqa: E731
    plain = lambda: consistency.published(activations, mask, points, class_of)  # noqa: E731
    a, b = ours(), plain()
    same = torch.equal(a.active, b.active) and torch.equal(a.seen, b.seen)
    return race(f"consistency, 1024x2048, P = {len(class_of)} | every map upsampled", ours, plain, ("equal", same), 1)


def proposal_row(quick: bool) -> Row:
    """Mask proposals without their CRF."""
    images = torch.stack([proposals.scene(seed) for seed in range(1 if quick else 4)])
    ways = [lambda: propose(images), lambda: proposals.published(images)]
    same = all(proposals.same_masks(image) for image in images)
    words = f"mask proposals, {len(images)} of 40x40 tokens | one image after another"
    return race(words, *ways, ("same masks with the same directions", same), 2)


Made = Row | Iterator[Row] | Iterator[Row | Skipped]
ROWS: dict[str, Callable[[bool], Made]] = {
    "head": head_rows,
    "near": near_row,
    "projection": projection_rows,
    "diversity": diversity_row,
    "clustering": clustering_rows,
    "proposals": proposal_row,
    "crf": crf_rows,
    "walk": walk_row,
    "curve": curve_row,
    "consistency": consistency_row,
    "predict": predict_rows,
    "evaluate": evaluate_row,
    "cache": cache_row,
    "steps": step_rows,
    "explain": explain_row,
    "edit": edit_row,
    "start": start_rows,
}
