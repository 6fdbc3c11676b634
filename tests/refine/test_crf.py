"""The dense CRF: stored values of pydensecrf, pydensecrf2 itself, and what must not matter."""

from __future__ import annotations

import os
import subprocess
import sys
from dataclasses import replace

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from segproto.errors import DataError
from segproto.refine.crf import dense_crf, unary_from_labels, unary_from_probabilities
from segproto.refine.crf_settings import CRF_SETS, CrfSettings
from segproto.refine.lattice_torch import mean_field

C = CRF_SETS["C"]
BOTH = pytest.mark.parametrize("crf", [dense_crf, mean_field], ids=["compiled", "torch"])


@pytest.fixture(scope="module", autouse=True)
def compiled_code(tmp_path_factory):
    """As a user keeps it; the module is imported later, by the first CRF."""
    patch = pytest.MonkeyPatch()
    patch.setenv("SEGPROTO_CACHE", str(tmp_path_factory.mktemp("cache")))
    yield
    patch.undo()


def fixture() -> tuple[Tensor, Tensor, np.ndarray, np.ndarray]:
    """The 48 x 64 picture, its labels and two score maps."""
    y, x = np.mgrid[:48, :64]
    inside = (x - 30) ** 2 + (y - 22) ** 2 < 196
    r = np.where(inside, 190, 70) + (7 * x + 13 * y) % 17
    g = np.where(inside, 60, 120) + (5 * x + 11 * y) % 13
    b = np.where(inside, 40, 150) + (3 * x + 17 * y) % 19
    assert (r + g + b).sum() == 1_084_679
    labels = np.where((x - 34) ** 2 / 200 + (y - 20) ** 2 / 110 < 1, 1, 0)
    labels[(y > 40) & (x > 50)] = 5
    p1 = np.exp(-((x - 34) ** 2 / 400 + (y - 20) ** 2 / 220))
    p2 = np.exp(-((x - 60) ** 2 + (y - 46) ** 2) / 60)
    image = torch.from_numpy(np.stack([r, g, b]).astype(np.uint8))[None]
    return image, torch.from_numpy(labels)[None], p1, p2


def scores(*maps: np.ndarray) -> Tensor:
    return unary_from_probabilities(torch.from_numpy(np.stack(maps))[None])


def stored() -> dict[str, tuple[Tensor, CrfSettings, tuple[int, ...], float, float, float]]:
    """Unary, settings, counts of the best labels, sums of Q0 and Q1, one value of Q1."""
    _, labels, p1, p2 = fixture()
    u, best = unary_from_labels(labels, 21), np.maximum(p1, p2)
    d = scores(*(np.stack([np.full_like(p1, 0.3), p1, p2]) / (0.3 + p1 + p2)))
    a, five, plain = CRF_SETS["A"], replace(C, iterations=5), (2463, 609, 0)
    one = replace(a, iterations=1, bilateral_weight=0)
    return {
        "t=0": (u, replace(a, iterations=0), (2508, 473, 91), 1764.0600, 370.0850, 0.015000),
        "Gaussian": (u, one, (2508, 473, 91), 2363.8925, 442.5090, 0.004531),
        "A": (u, a, plain, 2463.5303, 608.3108, 0.997899),
        "B": (u, CRF_SETS["B"], plain, 2463.1629, 608.7791, 0.998820),
        "B, x first": (u, C, plain, 2463.1842, 608.7588, 0.998666),
        "C, alpha 4": (scores((1 - best) ** 4, p1, p2), C, plain, 2458.3713, 609.1534, 0.999996),
        "C, alpha 24": (scores((1 - best) ** 24, p1, p2), C, (0, 3072, 0), 0.0704, 3071.9118, 1.0),
        "C, alpha 8": (scores((1 - best) ** 8, p1, p2), five, (2377, 651, 44), 2372.7608, 656.6055, 1.0),
        "D": (d, CRF_SETS["D"], plain, 2379.5281, 687.8900, 0.990549),
        "E": (d, replace(CRF_SETS["E"], colours="rgb"), plain, 2460.9016, 610.7867, 0.996296),
    }


@BOTH
@pytest.mark.parametrize("name", list(stored()))
def test_stored_values_of_pydensecrf(name: str, crf) -> None:
    unary, given_settings, counts, sum0, sum1, value = stored()[name]
    q = crf(fixture()[0], unary, given_settings)[0].double()
    last = 5 if len(q) > 5 else 2
    assert tuple(int((q.argmax(0) == k).sum()) for k in (0, 1, last)) == counts
    assert q[1, 22, 17].item() == pytest.approx(value, abs=2e-5)
    assert q[0].sum().item() == pytest.approx(sum0, rel=2e-6, abs=2e-4)
    assert q[1].sum().item() == pytest.approx(sum1, rel=2e-6, abs=2e-4)


def scene(b: int, k: int, h: int, w: int, seed: int = 0) -> tuple[Tensor, Tensor]:
    """Smooth pictures with noise, and smooth potentials."""
    g = torch.Generator().manual_seed(seed)
    base = F.interpolate(torch.rand(b, 3, 5, 6, generator=g), (h, w), mode="bilinear")
    images = (255 * (0.8 * base + 0.2 * torch.rand(b, 3, h, w, generator=g))).byte()
    logits = F.interpolate(3 * torch.randn(b, k, 6, 7, generator=g), (h, w), mode="bilinear")
    return images, -logits.log_softmax(1)


def oracle(image: Tensor, unary: Tensor, s: CrfSettings) -> np.ndarray:
    densecrf = pytest.importorskip("pydensecrf.densecrf")
    k, h, w = unary.shape
    crf = densecrf.DenseCRF2D(w, h, k)
    crf.setUnaryEnergy(np.ascontiguousarray(unary.reshape(k, -1).numpy()))
    crf.addPairwiseGaussian(sxy=s.gaussian_sigma, compat=s.gaussian_weight)
    picture = image.permute(1, 2, 0).numpy()
    picture = np.ascontiguousarray(picture[..., ::-1] if s.colours == "bgr" else picture)
    crf.addPairwiseBilateral(
        sxy=s.bilateral_sigma, srgb=s.bilateral_sigma_rgb, rgbim=picture, compat=s.bilateral_weight
    )
    return np.asarray(crf.inference(s.iterations)).reshape(k, h, w)


@BOTH
@pytest.mark.parametrize(("k", "h", "w", "name"), [(2, 37, 54, "A"), (9, 61, 83, "C"), (21, 90, 72, "E")])
def test_as_pydensecrf2(k: int, h: int, w: int, name: str, crf) -> None:
    images, unary = scene(1, k, h, w)
    ours = crf(images, unary, CRF_SETS[name])[0].numpy()
    theirs = oracle(images[0], unary[0], CRF_SETS[name])
    assert (ours.argmax(0) == theirs.argmax(0)).mean() >= 0.999
    assert np.abs(ours - theirs).mean() < 2e-5  # its padding points make vertices of their own in a corner


@BOTH
def test_set_e_has_blue_first(crf) -> None:
    images, unary = scene(1, 4, 40, 44)
    rgb = replace(CRF_SETS["E"], colours="rgb")
    assert torch.equal(crf(images, unary, CRF_SETS["E"]), crf(images.flip(1), unary, rgb))
    assert not torch.equal(crf(images, unary, CRF_SETS["E"]), crf(images, unary, rgb))


@BOTH
def test_empty_channels_count_as_often_as_they_are(crf) -> None:
    images, unary = scene(2, 3, 40, 44)
    empty = torch.full((2, 1, 40, 44), 6.0)
    many = torch.cat([unary[:, :1], empty, unary[:, 1:], empty, empty], 1)
    many[1, 5] = unary[1, 0]  # the two images have different twins
    q = crf(images, many, CRF_SETS["E"])
    for i in range(2):
        theirs = oracle(images[i], many[i], CRF_SETS["E"])
        off = np.abs(q[i].numpy() - theirs)
        assert off.max() < 5e-4  # where twins nearly tie, rounding grows with the steps
        assert off.mean() < 2e-6
    assert torch.equal(q[0, 1], q[0, 4])
    assert torch.equal(q[1, 0], q[1, 5])
    fewer = crf(images, torch.cat([unary, empty], 1), CRF_SETS["E"])
    assert not torch.allclose(fewer[0, 0], q[0, 0], atol=1e-3)
    best = crf(images, many, CRF_SETS["E"], labels=True)
    assert torch.equal(best, q.argmax(1))


def test_same_bits_for_any_batch_and_threads() -> None:
    images, unary = scene(3, 5, 50, 47)
    one = torch.cat([dense_crf(i[None], u[None], C, threads=1) for i, u in zip(images, unary, strict=True)])
    for threads in (1, 2, 3, 5):
        assert torch.equal(dense_crf(images, unary, C, threads=threads), one)
    assert torch.equal(dense_crf(images[:2], unary[:2], C, threads=2, labels=True), one[:2].argmax(1))


def test_no_image() -> None:
    images, unary = scene(1, 5, 50, 47)
    assert dense_crf(images[:0], unary[:0], C).shape == (0, 5, 50, 47)
    assert dense_crf(images[:0], unary[:0], C, labels=True).shape == (0, 50, 47)


def test_torch_and_compiled_lattices_agree() -> None:
    images, unary = scene(3, 11, 45, 60)
    torch.testing.assert_close(mean_field(images, unary, C), dense_crf(images, unary, C), atol=2e-5, rtol=0)


@BOTH
@settings(max_examples=15, deadline=None)
@given(st.integers(1, 24), st.integers(1, 24), st.integers(2, 9), st.integers(0, 99))
def test_any_size_gives_probabilities_that_follow_the_labels(crf, h: int, w: int, k: int, seed: int) -> None:
    images, unary = scene(1, k, h, w, seed)
    q = crf(images, unary, C)
    torch.testing.assert_close(q.sum(1), torch.ones(1, h, w), atol=1e-5, rtol=0)
    assert (q >= 0).all()
    turned = torch.roll(torch.arange(k), 1)
    torch.testing.assert_close(crf(images, unary[:, turned], C), q[:, turned], atol=1e-4, rtol=0)
    shifted = unary + torch.rand(1, 1, h, w) * 4
    torch.testing.assert_close(crf(images, shifted, C), q, atol=1e-3, rtol=0)


@BOTH
def test_many_vertices(crf) -> None:
    """More than the first tables hold."""
    images, unary = scene(1, 2, 150, 160)
    fine = CrfSettings(0.5, 3, 2, 2, 4, 1)
    q = crf(images, unary, fine)[0].numpy()
    assert (q.argmax(0) == oracle(images[0], unary[0], fine).argmax(0)).mean() >= 0.999


@BOTH
def test_a_place_too_fine_to_number(crf) -> None:
    images, unary = scene(1, 2, 30, 30)
    with pytest.raises(DataError, match="use larger ones or a smaller image"):
        crf(images, unary, CrfSettings(3, 3, 1e-3, 1e-3, 4, 1))


def test_bad_input() -> None:
    images, unary = scene(1, 2, 8, 9)
    with pytest.raises(ValueError, match="expected uint8"):
        dense_crf(images.float(), unary, C)
    with pytest.raises(ValueError, match="expected \\(B, K, H, W\\)"):
        dense_crf(images, unary[..., :5], C)
    with pytest.raises(ValueError, match="bilateral_sigma is 0"):
        CrfSettings(bilateral_sigma=0)
    with pytest.raises(ValueError, match="iterations is -1"):
        CrfSettings(iterations=-1)


def test_numba_is_imported_late_and_its_code_kept_where_asked(tmp_path) -> None:
    code = """
import sys
import numpy as np
import segproto.refine.crf
from segproto.refine.lattice import Lattice, Workers
assert "numba" not in sys.modules
Lattice(np.zeros((4, 2), np.float32), Workers(1))
"""
    env = {**os.environ, "SEGPROTO_CACHE": str(tmp_path / "kept")}
    subprocess.run([sys.executable, "-c", code], check=True, env=env, cwd=tmp_path)
    assert list((tmp_path / "kept" / "numba").rglob("*embed*.nbi"))


@pytest.mark.parametrize("threads", [1, 3])
@pytest.mark.parametrize("labels", [2, 3, 5])
def test_few_labels_as_many(labels: int, threads: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """The loops for two to five labels give what those for any number do, also where some labels are alike."""
    from segproto.refine import _few

    g = torch.Generator().manual_seed(labels)
    images = torch.randint(0, 256, (1, 3, 23, 31), generator=g, dtype=torch.uint8)
    unary = 4 * torch.rand(3, labels, 23, 31, generator=g)
    unary[1, -2] = unary[1, -1]  # the last two are alike
    unary[2, 0] = unary[2, -1]  # the first and the last are
    rule = replace(CRF_SETS["C"], iterations=3)
    found = dense_crf(images, unary, rule, threads=threads)
    best = dense_crf(images, unary, rule, labels=True, threads=threads)
    monkeypatch.setattr(_few, "MOST", 0)
    wanted = dense_crf(images.expand(3, -1, -1, -1), unary, rule, threads=threads)  # a lattice each
    torch.testing.assert_close(found, wanted, atol=2e-5, rtol=0)
    assert (best != wanted.argmax(1)).float().mean() < 0.01  # of labels that are nearly equal
    assert (best[2] != labels - 1).all()  # alike: the lower one
